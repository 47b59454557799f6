//! One TCP connection that stands: reading within grants, writing what is queued, ending well.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Buf, Bytes};
use entrouter_proto::{ConnId, TcpEvent};
use tracing::debug;

use crate::core::Core;
use crate::sockets;

/// Read at once from one connection: the size of a loop's buffer for [`Conn::read`].
pub const READ_BUFFER: usize = 64 << 10;

/// Written to one connection in a turn of the loop.
const WRITE_BUDGET: usize = 1 << 20;

/// Pieces given to one `writev`.
const IOVECS: usize = 64;

/// What became of a connection.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// There is nothing to do until something happens to it.
    Idle,
    /// There is more to do at once.
    More,
    /// It is over; the core knows.
    Over,
}

/// What a loop heard of a connection's socket. All but `end` may be said without need.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Readiness {
    /// There may be bytes, or an end.
    pub readable: bool,
    /// It may take bytes.
    pub writable: bool,
    /// The other side has ended, or both have: what is read ends, and nothing more will be heard of
    /// that.
    pub end: bool,
    /// It may be broken.
    pub broken: bool,
}

/// A nonblocking connection between the kernel and the core.
#[derive(Debug)]
pub struct Conn {
    id: ConnId,
    stream: Arc<TcpStream>,
    /// Bytes that may still be read.
    grant: usize,
    /// May have bytes, or an end. Events may be edge-triggered: cleared only by `WouldBlock`, or by
    /// what is as good as that.
    readable: bool,
    /// The loop heard of the other side's end, so there will be no further event for it.
    end_seen: bool,
    /// The end has been reported.
    eof: bool,
    writes: VecDeque<Bytes>,
    writable: bool,
    shutdown: Shutdown,
}

#[derive(Debug, PartialEq, Eq)]
enum Shutdown {
    No,
    Wanted,
    Done,
}

impl Conn {
    /// A connection that was just made. Closing it resets it, until it has ended well.
    #[must_use]
    pub fn new(id: ConnId, stream: Arc<TcpStream>) -> Self {
        if let Err(e) = sockets::prepare_stream(&*stream) {
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
        }
    }

    /// Its name in the core.
    #[must_use]
    pub fn id(&self) -> ConnId {
        self.id
    }

    /// Its socket.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Something happened to the socket.
    pub fn ready(&mut self, what: Readiness, core: &mut Core, now: Instant) -> Step {
        if what.broken {
            // A reset must be noticed even if nothing may be read and nothing is to be written.
            if let Ok(Some(e)) = self.stream.take_error() {
                return self.reset(&e, core, now);
            }
        }
        self.readable |= what.readable || what.end;
        self.end_seen |= what.end;
        self.writable |= what.writable;
        if self.grant == 0 { self.look(core, now) } else { Step::Idle }
    }

    /// [`Action::GrantRead`](entrouter_proto::Action::GrantRead).
    pub fn grant(&mut self, bytes: usize) {
        self.grant = self.grant.saturating_add(bytes);
    }

    /// Whether [`Self::read`] has something to do.
    #[must_use]
    pub fn wants_read(&self) -> bool {
        self.readable && !self.eof && self.grant > 0
    }

    /// Whether it reads as soon as the socket is readable.
    #[must_use]
    pub fn awaits_bytes(&self) -> bool {
        !self.readable && !self.eof && self.grant > 0
    }

    /// Whether [`Self::flush`] has something to do.
    #[must_use]
    pub fn wants_write(&self) -> bool {
        self.writable && self.has_output()
    }

    /// Whether it writes as soon as the socket is writable.
    #[must_use]
    pub fn awaits_room(&self) -> bool {
        !self.writable && self.has_output()
    }

    /// Whether there is something to write, or an end to be told.
    #[must_use]
    pub fn has_output(&self) -> bool {
        !self.writes.is_empty() || self.shutdown == Shutdown::Wanted
    }

    /// Reads once, into `buf`, what is granted.
    pub fn read(&mut self, buf: &mut [u8], core: &mut Core, now: Instant) -> Step {
        if !self.wants_read() {
            return Step::Idle;
        }
        let most = buf.len().min(self.grant);
        match (&*self.stream).read(&mut buf[..most]) {
            Ok(0) => self.end(core, now),
            Ok(n) => {
                self.grant -= n;
                // A short read has emptied the socket. What comes after it makes a new event,
                // unless it is an end that we have already heard of.
                if n < most && !self.end_seen {
                    self.readable = false;
                }
                core.handle_tcp(now, TcpEvent::Received { conn: self.id, data: &buf[..n] });
                if self.grant == 0 {
                    return self.look(core, now);
                }
                if self.wants_read() { Step::More } else { Step::Idle }
            }
            Err(e) => self.read_error(&e, core, now),
        }
    }

    /// With no grant: whether the end, or a reset, is next.
    fn look(&mut self, core: &mut Core, now: Instant) -> Step {
        if !self.readable || self.eof || !self.end_seen {
            return Step::Idle;
        }
        match self.stream.peek(&mut [0]) {
            Ok(0) => self.end(core, now),
            Ok(_) => Step::Idle,
            Err(e) => self.read_error(&e, core, now),
        }
    }

    fn read_error(&mut self, e: &io::Error, core: &mut Core, now: Instant) -> Step {
        match e.kind() {
            io::ErrorKind::WouldBlock => {
                self.readable = false;
                Step::Idle
            }
            io::ErrorKind::Interrupted => Step::More,
            _ => self.reset(e, core, now),
        }
    }

    fn end(&mut self, core: &mut Core, now: Instant) -> Step {
        self.eof = true;
        self.readable = false;
        core.handle_tcp(now, TcpEvent::Eof { conn: self.id });
        self.finish()
    }

    fn reset(&mut self, e: &io::Error, core: &mut Core, now: Instant) -> Step {
        debug!("{:?}: {e}", self.id);
        core.handle_tcp(now, TcpEvent::Reset { conn: self.id });
        Step::Over
    }

    /// [`Action::Write`](entrouter_proto::Action::Write).
    pub fn write(&mut self, data: Bytes) {
        if self.shutdown == Shutdown::No && !data.is_empty() {
            self.writes.push_back(data);
        }
    }

    /// [`Action::Shutdown`](entrouter_proto::Action::Shutdown).
    pub fn shutdown(&mut self) {
        if self.shutdown == Shutdown::No {
            self.shutdown = Shutdown::Wanted;
        }
    }

    /// Writes what is queued, as far as the socket takes it and the turn allows.
    pub fn flush(&mut self, core: &mut Core, now: Instant) -> Step {
        let mut written = 0;
        let mut error = None;
        while self.writable && !self.writes.is_empty() && written < WRITE_BUDGET {
            let mut slices = [IoSlice::new(&[]); IOVECS];
            let mut count = 0;
            for (slice, data) in slices.iter_mut().zip(&self.writes) {
                *slice = IoSlice::new(data);
                count += 1;
            }
            match (&*self.stream).write_vectored(&slices[..count]) {
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
            core.handle_tcp(now, TcpEvent::Written { conn: self.id, bytes: written });
        }
        if error.is_none() && self.writes.is_empty() && self.shutdown == Shutdown::Wanted {
            match self.stream.shutdown(std::net::Shutdown::Write) {
                Ok(()) => self.shutdown = Shutdown::Done,
                Err(e) => error = Some(e),
            }
        }
        match error {
            Some(e) => self.reset(&e, core, now),
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
        if let Err(e) = sockets::let_finish(&*self.stream) {
            debug!("{:?}: socket options: {e}", self.id);
        }
        Step::Over
    }
}
