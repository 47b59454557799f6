//! One TCP connection that stands: reading within grants, writing what is queued, ending well.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::time::Instant;

use bytes::{Buf, Bytes};
use entrouter_host::sockets;
use entrouter_proto::{ConnId, Node, TcpEvent};
use mio::net::TcpStream;
use tracing::debug;

/// Written to one connection in a turn of the loop.
const WRITE_BUDGET: usize = 1 << 20;

/// Pieces given to one `writev`.
const IOVECS: usize = 64;

/// What became of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// There is nothing to do until something happens to it.
    Idle,
    /// There is more to do at once.
    More,
    /// It is over; the core knows.
    Over,
}

#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) id: ConnId,
    pub(crate) stream: TcpStream,
    /// Bytes that may still be read.
    grant: usize,
    /// May have bytes, or an end. Events are edge-triggered: cleared only by `WouldBlock`, or by
    /// what is as good as that.
    readable: bool,
    /// The poll saw the other side's end, so there will be no further event for it.
    end_seen: bool,
    /// The end has been reported.
    eof: bool,
    writes: VecDeque<Bytes>,
    writable: bool,
    shutdown: Shutdown,
    /// Whether it stands in the queue of readers, and of writers.
    pub(crate) queued: Queued,
}

#[derive(Debug, Default)]
pub(crate) struct Queued {
    pub(crate) read: bool,
    pub(crate) write: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Shutdown {
    No,
    Wanted,
    Done,
}

impl Conn {
    pub(crate) fn new(id: ConnId, stream: TcpStream) -> Self {
        if let Err(e) = sockets::prepare_stream(&stream) {
            debug!("{id:?}: socket options: {e}");
        }
        Self {
            id,
            stream,
            grant: 0,
            readable: false,
            end_seen: false,
            eof: false,
            writes: VecDeque::new(),
            writable: true,
            shutdown: Shutdown::No,
            queued: Queued::default(),
        }
    }

    /// The poll reported something.
    pub(crate) fn ready(
        &mut self,
        event: &mio::event::Event,
        node: &mut Node,
        now: Instant,
    ) -> Step {
        if event.is_error() || event.is_write_closed() {
            // A reset must be noticed even if nothing may be read and nothing is to be written.
            if let Ok(Some(e)) = self.stream.take_error() {
                return self.reset(&e, node, now);
            }
        }
        self.readable |= event.is_readable() || event.is_read_closed();
        self.end_seen |= event.is_read_closed();
        self.writable |= event.is_writable();
        if self.grant == 0 { self.look(node, now) } else { Step::Idle }
    }

    pub(crate) fn grant(&mut self, bytes: usize) {
        self.grant = self.grant.saturating_add(bytes);
    }

    pub(crate) fn wants_read(&self) -> bool {
        self.readable && !self.eof && self.grant > 0
    }

    pub(crate) fn wants_write(&self) -> bool {
        self.writable && (!self.writes.is_empty() || self.shutdown == Shutdown::Wanted)
    }

    /// Reads once, into `buf`, what is granted.
    pub(crate) fn read(&mut self, buf: &mut [u8], node: &mut Node, now: Instant) -> Step {
        if !self.wants_read() {
            return Step::Idle;
        }
        let most = buf.len().min(self.grant);
        match self.stream.read(&mut buf[..most]) {
            Ok(0) => self.end(node, now),
            Ok(n) => {
                self.grant -= n;
                // A short read has emptied the socket. What comes after it makes a new event,
                // unless it is an end that the poll has already told us of.
                if n < most && !self.end_seen {
                    self.readable = false;
                }
                node.handle_tcp(now, TcpEvent::Received { conn: self.id, data: &buf[..n] });
                if self.grant == 0 {
                    return self.look(node, now);
                }
                if self.wants_read() { Step::More } else { Step::Idle }
            }
            Err(e) => self.read_error(&e, node, now),
        }
    }

    /// With no grant: whether the end, or a reset, is next.
    fn look(&mut self, node: &mut Node, now: Instant) -> Step {
        if !self.readable || self.eof || !self.end_seen {
            return Step::Idle;
        }
        match self.stream.peek(&mut [0]) {
            Ok(0) => self.end(node, now),
            Ok(_) => Step::Idle,
            Err(e) => self.read_error(&e, node, now),
        }
    }

    fn read_error(&mut self, e: &io::Error, node: &mut Node, now: Instant) -> Step {
        match e.kind() {
            io::ErrorKind::WouldBlock => {
                self.readable = false;
                Step::Idle
            }
            io::ErrorKind::Interrupted => Step::More,
            _ => self.reset(e, node, now),
        }
    }

    fn end(&mut self, node: &mut Node, now: Instant) -> Step {
        self.eof = true;
        self.readable = false;
        node.handle_tcp(now, TcpEvent::Eof { conn: self.id });
        self.finish()
    }

    fn reset(&mut self, e: &io::Error, node: &mut Node, now: Instant) -> Step {
        debug!("{:?}: {e}", self.id);
        node.handle_tcp(now, TcpEvent::Reset { conn: self.id });
        Step::Over
    }

    pub(crate) fn write(&mut self, data: Bytes) {
        if self.shutdown == Shutdown::No && !data.is_empty() {
            self.writes.push_back(data);
        }
    }

    pub(crate) fn shutdown(&mut self) {
        if self.shutdown == Shutdown::No {
            self.shutdown = Shutdown::Wanted;
        }
    }

    /// Writes what is queued, as far as the socket takes it and the turn allows.
    pub(crate) fn flush(&mut self, node: &mut Node, now: Instant) -> Step {
        let mut written = 0;
        let mut error = None;
        while self.writable && !self.writes.is_empty() && written < WRITE_BUDGET {
            let mut slices = [IoSlice::new(&[]); IOVECS];
            let mut count = 0;
            for (slice, data) in slices.iter_mut().zip(&self.writes) {
                *slice = IoSlice::new(data);
                count += 1;
            }
            match self.stream.write_vectored(&slices[..count]) {
                Ok(n) => {
                    written += n;
                    self.forget(n);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    error = Some(e);
                    break;
                }
            }
        }
        if written > 0 {
            node.handle_tcp(now, TcpEvent::Written { conn: self.id, bytes: written });
        }
        if error.is_none() && self.writes.is_empty() && self.shutdown == Shutdown::Wanted {
            match self.stream.shutdown(std::net::Shutdown::Write) {
                Ok(()) => self.shutdown = Shutdown::Done,
                Err(e) => error = Some(e),
            }
        }
        match error {
            Some(e) => self.reset(&e, node, now),
            None if self.wants_write() => Step::More,
            None => self.finish(),
        }
    }

    /// Takes `n` written bytes off the queue.
    fn forget(&mut self, mut n: usize) {
        while let Some(first) = self.writes.front_mut() {
            if n < first.len() {
                first.advance(n);
                return;
            }
            n -= first.len();
            self.writes.pop_front();
        }
    }

    /// Over once both halves are closed.
    fn finish(&mut self) -> Step {
        if !self.eof || self.shutdown != Shutdown::Done {
            return Step::Idle;
        }
        if let Err(e) = sockets::let_finish(&self.stream) {
            debug!("{:?}: socket options: {e}", self.id);
        }
        Step::Over
    }
}
