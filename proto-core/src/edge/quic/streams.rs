//! Between a stream and its flow.
//!
//! | The client | The origin sees | |
//! |---|---|---|
//! | ends its half | the end | and its answer still comes |
//! | resets its half | a reset | and so does the client: a TCP connection has no such half |
//! | wants no answer (STOP_SENDING) | nothing yet | the answer is thrown away; once all that the client sent has arrived, its end included, what else is answered makes a reset, as TCP does when its client has closed |
//! | closes the connection with error code 0 | as if it wanted no answers | |
//! | closes it otherwise, or vanishes | a reset | |
//!
//! A reset of the origin, or an origin that cannot be had, is a reset of both halves with [`Code::Failed`].

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn_proto::{Connection, ReadError, StreamId, VarInt, WriteError};

use crate::flow::Flows;
use crate::ids::ConnId;

use super::connection::refuse;
use super::{Code, QuicEdge};

/// What a flow hands over at most before it is told that something was taken; it then hands over no more
/// than was taken.
pub(super) const MAX_WAITING: usize = 512 << 10;
/// A stream of which nothing was taken for so long is in the way of the connection's others, or of those
/// that its client would open, …
const STALL: Duration = Duration::from_millis(250);
/// … and as long as there is one, it is looked at so often.
const LOOK: Duration = Duration::from_secs(1);

/// One stream.
#[derive(Debug)]
pub(super) struct Stream {
    /// Its connection, and its number there.
    key: usize,
    id: StreamId,
    /// The flow takes so many bytes.
    pub credit: usize,
    /// The client has ended its half, and the flow was told.
    has_ended: bool,
    /// For the client, and not taken yet.
    pub waiting: VecDeque<Bytes>,
    /// The flow has handed over everything; the client's half was ended then.
    pub is_ending: bool,
    is_ended: bool,
    /// The client wants no answer.
    is_unwanted: bool,
    /// It said so by the code of one that broke off: with its own half ended it has no other way to.
    is_broken: bool,
    /// Since then the flow takes nothing.
    stalled_since: Option<Instant>,
    /// Pieces that came and were not read, as far as can be known.
    pieces: u64,
}

impl Stream {
    /// Bytes for the client that its connection has not taken.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.waiting.iter().map(Bytes::len).sum()
    }
}

/// What came of a look at a stream.
enum Read {
    /// Nothing more now.
    Blocked,
    Ended,
    Reset,
}

impl QuicEdge {
    pub(super) fn begin(&mut self, key: usize, id: StreamId, stream: ConnId) {
        let new = Stream {
            key,
            id,
            credit: 0,
            has_ended: false,
            waiting: VecDeque::new(),
            is_ending: false,
            is_ended: false,
            is_unwanted: false,
            is_broken: false,
            stalled_since: None,
            pieces: 0,
        };
        self.streams.insert(stream, new);
        if let Some(conn) = self.conns.get_mut(key) {
            conn.streams.insert(id, stream);
        }
    }

    /// The flow takes more.
    pub(super) fn read(&mut self, now: Instant, stream: ConnId, flows: &mut Flows) {
        let Some(key) = self.streams.get(&stream).map(|stream| stream.key) else { return };
        self.read_some(now, stream, flows);
        self.drive(now, key, flows);
    }

    /// Something came on a stream.
    pub(super) fn on_piece(&mut self, now: Instant, key: usize, id: StreamId, flows: &mut Flows) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let Some(id) = conn.streams.get(&id).copied() else { return };
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.pieces += 1;
            conn.pieces += 1;
        }
        self.read_some(now, id, flows);
    }

    /// Reads as far as the flow takes it.
    pub(super) fn read_some(&mut self, now: Instant, id: ConnId, flows: &mut Flows) {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.has_ended) else {
            return;
        };
        let key = stream.key;
        let Some(conn) = self.conns.get_mut(key) else { return };
        let (mut bytes, mut pieces) = (0, 0);
        let read = look(&mut conn.quic, stream, |piece| {
            bytes += piece.len() as u64;
            // One piece in each KiB may have come twice.
            pieces += 1 + piece.len() as u64 / 1024;
            flows.received(now, id, piece);
        });
        let pieces = pieces.min(stream.pieces);
        stream.pieces -= pieces;
        conn.pieces = conn.pieces.saturating_sub(pieces);
        let is_lost = conn.is_left && stream.credit > 0;
        if stream.credit > 0 {
            stream.stalled_since = None;
        } else if stream.stalled_since.is_none() {
            stream.stalled_since = Some(now);
            conn.look_at.get_or_insert(now + STALL);
        }
        match read {
            Read::Ended if stream.is_broken => return self.break_off(now, id, flows),
            Read::Ended => {
                stream.has_ended = true;
                stream.stalled_since = None;
                flows.eof(now, id);
                self.end_if_over(id);
            }
            // Of a client that left, what has not come does not come any more.
            Read::Blocked if is_lost => return self.break_off(now, id, flows),
            Read::Blocked => {}
            Read::Reset => return self.break_off(now, id, flows),
        }
        if bytes > 0 {
            self.widen(now, key, bytes);
        }
    }

    /// The client may send more if it made use of what it may, and if streams that are not read hold what
    /// the others need.
    pub(super) fn widen(&mut self, now: Instant, key: usize, bytes: u64) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let stalled = conn.stalled;
        let rtt = conn.quic.rtt();
        let window = conn.windows.on_read(now, rtt, bytes, stalled, &mut self.budget);
        if let Some(window) = window.and_then(|window| VarInt::from_u64(window).ok()) {
            conn.quic.set_receive_window(window);
        }
    }

    /// Looks for streams that are not read.
    pub(super) fn look_for_stalled(&mut self, now: Instant, key: usize) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        conn.stalled = 0;
        conn.look_at = None;
        for id in conn.streams.values() {
            let since = self.streams.get(id).and_then(|stream| stream.stalled_since);
            let Some(at) = since.map(|since| since + STALL) else { continue };
            conn.stalled += usize::from(at <= now);
            let next = if at <= now { now + LOOK } else { at };
            conn.look_at = Some(conn.look_at.map_or(next, |at| at.min(next)));
        }
        self.widen(now, key, 0);
    }

    /// The flow has something for the client, or no more.
    pub(super) fn write(&mut self, now: Instant, stream: ConnId, flows: &mut Flows) {
        let Some(key) = self.streams.get(&stream).map(|stream| stream.key) else { return };
        self.write_some(now, stream, flows);
        self.drive(now, key, flows);
    }

    /// Hands to quinn-proto what it takes.
    pub(super) fn write_some(&mut self, now: Instant, id: ConnId, flows: &mut Flows) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.is_unwanted {
            return self.throw_away(now, id, flows);
        }
        let Some(conn) = self.conns.get_mut(stream.key) else { return };
        let mut bytes = 0;
        let mut stopped = None;
        while !stream.waiting.is_empty() {
            let waiting = stream.waiting.make_contiguous();
            match conn.quic.send_stream(stream.id).write_chunks(waiting) {
                Ok(written) => {
                    stream.waiting.drain(..written.chunks);
                    bytes += written.bytes;
                }
                Err(WriteError::Blocked) => {
                    let cwnd = conn.quic.congestion_state().window();
                    let Some(window) = conn.windows.on_full(now, cwnd, &mut self.budget) else {
                        break;
                    };
                    conn.quic.set_send_window(window);
                }
                Err(WriteError::Stopped(code)) => {
                    stopped = Some(code);
                    break;
                }
                Err(WriteError::ClosedStream) => {
                    stopped = Some(Code::Failed.into());
                    break;
                }
            }
        }
        if stopped.is_none() && stream.is_ending && !stream.is_ended && stream.waiting.is_empty() {
            // It fails if the client does not want it, which is told by an event.
            stream.is_ended = conn.quic.send_stream(stream.id).finish().is_ok();
        }
        if bytes > 0 {
            flows.written(now, id, bytes);
        }
        match stopped {
            Some(code) => self.unwanted(now, id, code, flows),
            None => self.end_if_over(id),
        }
    }

    /// The client does not want what else it would be answered.
    pub(super) fn unwanted(&mut self, now: Instant, id: ConnId, code: VarInt, flows: &mut Flows) {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.is_unwanted) else {
            return;
        };
        stream.is_unwanted = true;
        stream.is_broken = code == Code::Failed.into();
        if stream.is_broken && stream.has_ended {
            return self.break_off(now, id, flows);
        }
        if let Some(conn) = self.conns.get_mut(stream.key) {
            // A half that is through needs no ending.
            let _ = conn.quic.send_stream(stream.id).reset(code);
        }
        self.throw_away(now, id, flows);
    }

    fn throw_away(&mut self, now: Instant, id: ConnId, flows: &mut Flows) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let bytes = stream.waiting_bytes();
        stream.waiting.clear();
        stream.is_ended = stream.is_ending;
        if bytes > 0 && stream.has_ended && flows.is_delivered(id) {
            return self.break_off(now, id, flows);
        }
        if bytes > 0 {
            flows.written(now, id, bytes);
        }
        self.end_if_over(id);
    }

    /// The client broke its stream off: the origin is told.
    pub(super) fn break_off(&mut self, now: Instant, id: ConnId, flows: &mut Flows) {
        flows.conn_reset(now, id);
        self.abort(id, Code::Failed);
    }

    /// Ends a stream whose flow is over.
    pub(super) fn abort(&mut self, id: ConnId, code: Code) {
        let Some(stream) = self.streams.get(&id) else { return };
        if let Some(conn) = self.conns.get_mut(stream.key) {
            refuse(&mut conn.quic, stream.id, code);
        }
        self.leave(id);
    }

    /// Forgets a stream that has ended both ways.
    fn end_if_over(&mut self, id: ConnId) {
        if self.streams.get(&id).is_some_and(|stream| stream.has_ended && stream.is_ended) {
            self.leave(id);
        }
    }

    fn leave(&mut self, id: ConnId) {
        let Some(stream) = self.streams.remove(&id) else { return };
        let Some(conn) = self.conns.get_mut(stream.key) else { return };
        conn.streams.remove(&stream.id);
        conn.pieces = conn.pieces.saturating_sub(stream.pieces);
        if conn.streams.is_empty() {
            conn.hurry(self.now);
        }
        self.schedule(stream.key);
    }
}

/// Reads from a stream as far as its flow takes it.
fn look(quic: &mut Connection, stream: &mut Stream, mut take: impl FnMut(&[u8])) -> Read {
    // It overtakes what came before it.
    if let Ok(Some(_)) = quic.recv_stream(stream.id).received_reset() {
        return Read::Reset;
    }
    let mut recv = quic.recv_stream(stream.id);
    let Ok(mut chunks) = recv.read(true) else { return Read::Blocked };
    let mut read = Read::Blocked;
    while stream.credit > 0 {
        match chunks.next(stream.credit) {
            Ok(Some(chunk)) => {
                stream.credit -= chunk.bytes.len().min(stream.credit);
                take(&chunk.bytes);
            }
            Ok(None) => {
                read = Read::Ended;
                break;
            }
            Err(ReadError::Blocked) => break,
            Err(ReadError::Reset(_)) => {
                read = Read::Reset;
                break;
            }
        }
    }
    // Its connection is looked at anyway.
    let _ = chunks.finalize();
    read
}
