//! One connection of a local program, and its stream.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;
use quinn_proto::{Connection, ReadError, StreamId, VarInt, WriteError};

use crate::ids::ConnId;
use crate::io::Action;

/// Bytes that were read from a program, or may be, and that the stream has not taken.
const AHEAD: usize = 256 << 10;
/// The same before the edge has confirmed the connection: so much goes out with the first flight.
const AHEAD_EARLY: usize = 64 << 10;
/// Bytes given to a program that it has not taken, but for one write; as much as to an origin.
const BEHIND: usize = 256 << 10;
/// One write to a program.
const PIECE: usize = 64 << 10;

/// What became of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Going,
    /// Both halves have ended.
    Over,
    /// It broke, and its program is to be told.
    Broken,
}

#[derive(Debug)]
pub(super) struct Client {
    pub(super) conn: ConnId,
    pub(super) stream: Option<StreamId>,
    /// Without a stream it is given up then.
    pub(super) patience: Instant,
    /// Bytes that the program may still send.
    granted: usize,
    inbox: VecDeque<Bytes>,
    /// What the stream took while the edge may still refuse early data.
    early: VecDeque<Bytes>,
    /// The program ended its half, and the stream was told.
    has_ended: bool,
    is_finished: bool,
    /// The edge has acknowledged that, and all before it.
    pub(super) is_acknowledged: bool,
    /// Bytes written to the program that it has not taken.
    unwritten: usize,
    /// The edge ended its half, and the program was told.
    is_shut: bool,
}

impl Client {
    pub(super) fn new(conn: ConnId, patience: Instant) -> Self {
        Self {
            conn,
            stream: None,
            patience,
            granted: 0,
            inbox: VecDeque::new(),
            early: VecDeque::new(),
            has_ended: false,
            is_finished: false,
            is_acknowledged: false,
            unwritten: 0,
            is_shut: false,
        }
    }

    /// Lets the program send what there is room for.
    pub(super) fn grant(&mut self, is_confirmed: bool) -> Option<Action> {
        let kept = |queue: &VecDeque<Bytes>| queue.iter().map(Bytes::len).sum::<usize>();
        let (most, held) = match is_confirmed {
            true => (AHEAD, kept(&self.inbox)),
            false => (AHEAD_EARLY, kept(&self.inbox) + kept(&self.early)),
        };
        let bytes = most.saturating_sub(held + self.granted);
        // Not for every few bytes.
        if self.has_ended || bytes < most / 4 {
            return None;
        }
        self.granted += bytes;
        Some(Action::GrantRead { conn: self.conn, bytes })
    }

    pub(super) fn received(&mut self, data: &[u8]) {
        self.granted = self.granted.saturating_sub(data.len());
        if !data.is_empty() {
            self.inbox.push_back(Bytes::copy_from_slice(data));
        }
    }

    pub(super) fn eof(&mut self) {
        self.has_ended = true;
    }

    pub(super) fn written(&mut self, bytes: usize) {
        self.unwritten = self.unwritten.saturating_sub(bytes);
    }

    /// The edge has taken early data, or the handshake is through without any: nothing is to be said again.
    pub(super) fn confirm(&mut self) {
        self.early.clear();
    }

    /// The edge has refused early data, and with it every stream: all is to be said again.
    pub(super) fn rewind(&mut self, patience: Instant) {
        self.patience = patience;
        self.stream = None;
        self.is_finished = false;
        let later = std::mem::take(&mut self.inbox);
        self.inbox = std::mem::take(&mut self.early);
        self.inbox.extend(later);
    }

    /// Hands to the stream what it takes.
    pub(super) fn write(&mut self, quic: &mut Connection, is_confirmed: bool) -> Step {
        let Some(id) = self.stream else { return Step::Going };
        while !self.inbox.is_empty() {
            let before: Vec<Bytes> =
                if is_confirmed { Vec::new() } else { self.inbox.iter().cloned().collect() };
            let waiting = self.inbox.make_contiguous();
            match quic.send_stream(id).write_chunks(waiting) {
                Ok(written) => {
                    self.inbox.drain(..written.chunks);
                    self.remember(before, written.bytes);
                }
                Err(WriteError::Blocked) => return Step::Going,
                Err(WriteError::Stopped(_) | WriteError::ClosedStream) => return Step::Broken,
            }
        }
        if self.has_ended && !self.is_finished {
            if quic.send_stream(id).finish().is_err() {
                return Step::Broken;
            }
            self.is_finished = true;
        }
        self.step()
    }

    /// Keeps what was taken: the first `bytes` of `pieces`.
    fn remember(&mut self, pieces: Vec<Bytes>, mut bytes: usize) {
        for mut piece in pieces {
            piece.truncate(bytes);
            if piece.is_empty() {
                return;
            }
            bytes -= piece.len();
            self.early.push_back(piece);
        }
    }

    /// Hands to the program what came, as far as it takes it.
    pub(super) fn read(&mut self, quic: &mut Connection, actions: &mut VecDeque<Action>) -> Step {
        let Some(id) = self.stream.filter(|_| !self.is_shut) else { return Step::Going };
        let mut stream = quic.recv_stream(id);
        // A reset overtakes what came before it.
        if let Ok(Some(_)) = stream.received_reset() {
            return Step::Broken;
        }
        let mut stream = quic.recv_stream(id);
        let Ok(mut chunks) = stream.read(true) else { return Step::Broken };
        let mut broken = false;
        while self.unwritten < BEHIND {
            match chunks.next(PIECE) {
                Ok(Some(chunk)) => {
                    self.unwritten += chunk.bytes.len();
                    actions.push_back(Action::Write { conn: self.conn, data: chunk.bytes });
                }
                Ok(None) => {
                    self.is_shut = true;
                    actions.push_back(Action::Shutdown { conn: self.conn });
                    break;
                }
                Err(ReadError::Blocked) => break,
                Err(ReadError::Reset(_)) => {
                    broken = true;
                    break;
                }
            }
        }
        // Whether that makes something to send: the connection is looked at anyway.
        let _ = chunks.finalize();
        if broken { Step::Broken } else { self.step() }
    }

    fn step(&self) -> Step {
        if self.is_finished && self.is_shut { Step::Over } else { Step::Going }
    }

    /// Ends both halves of the stream.
    pub(super) fn break_off(&self, quic: &mut Connection, code: VarInt) {
        if let Some(id) = self.stream {
            // A half that has ended needs no ending.
            let _ = quic.recv_stream(id).stop(code);
            let _ = quic.send_stream(id).reset(code);
        }
    }
}
