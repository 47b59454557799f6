//! The life of a connection: who may begin one, what it is told and tells, and how it ends.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use quinn_proto::{
    ConnectionError, ConnectionHandle, Dir, EndpointEvent, Event, Incoming, StreamEvent, StreamId,
    VarInt,
};

use crate::edge::admission::Permit;
use crate::flow::Flows;
use crate::ids::ConnId;
use crate::wire::endpoints::Endpoints;

use super::setup::{FIRST_STREAMS, MOST_STREAMS};
use super::windows::Windows;
use super::{Code, MAX_HANDSHAKES, QuicEdge, RETRY_FROM};

/// A handshake may take so long.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// So long after a client said goodbye, what it had sent before is still given to its flows.
const LEGACY: Duration = Duration::from_secs(60);

/// One client's connection.
pub(super) struct Conn {
    pub socket: usize,
    handle: ConnectionHandle,
    pub quic: quinn_proto::Connection,
    /// It counts as a client as long as it is here.
    _permit: Permit,
    pub streams: BTreeMap<StreamId, ConnId>,
    /// How many of them may be open at a time.
    most_streams: u32,
    /// It is in the queue of those that may send.
    pub is_sending: bool,
    /// The timer that is set for it.
    pub armed: Option<Instant>,
    /// The handshake is under way, until then.
    handshake_until: Option<Instant>,
    /// quinn-proto has forgotten it, and what it had sent is kept until then.
    legacy_until: Option<Instant>,
    /// The client said goodbye, without an error.
    pub is_left: bool,
    pub windows: Windows,
    /// Pieces of streams that came and were not read, as far as can be known; see [`Conn::has_too_many`].
    pub pieces: u64,
    /// Since then, one is forgiven each second: some that came twice were counted twice.
    forgiven: Instant,
    /// Streams that are not read are looked for then; so many there were when they were last.
    pub look_at: Option<Instant>,
    pub stalled: usize,
    /// Its early data was accepted, and that was counted.
    is_early: bool,
}

impl std::fmt::Debug for Conn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conn")
            .field("socket", &self.socket)
            .field("handle", &self.handle)
            .field("remote", &self.quic.remote_address())
            .field("streams", &self.streams.len())
            .finish_non_exhaustive()
    }
}

impl Conn {
    /// Appends datagrams to `buf`.
    pub(super) fn transmit(
        &mut self,
        now: Instant,
        max_segments: usize,
        scratch: &mut Vec<u8>,
        buf: &mut Vec<u8>,
    ) -> Option<quinn_proto::Transmit> {
        let max_segments = max_segments.max(1);
        if buf.is_empty() {
            return self.quic.poll_transmit(now, max_segments, buf);
        }
        // quinn-proto counts from the buffer's beginning.
        scratch.clear();
        let made = self.quic.poll_transmit(now, max_segments, scratch)?;
        buf.extend_from_slice(scratch);
        Some(made)
    }

    fn deadline(&mut self) -> Option<Instant> {
        if self.legacy_until.is_some() {
            return self.legacy_until;
        }
        let quic = self.quic.poll_timeout();
        let all = [quic, self.handshake_until, self.windows.review_at(), self.look_at];
        all.into_iter().flatten().min()
    }

    /// Whether the client sends its data in such small pieces that keeping them takes far more memory than
    /// its window says. (quinn-proto keeps each piece that has a hole before it.)
    fn has_too_many(&mut self, now: Instant) -> bool {
        let seconds = now.saturating_duration_since(self.forgiven).as_secs();
        self.forgiven += Duration::from_secs(seconds);
        self.pieces = self.pieces.saturating_sub(seconds);
        self.pieces > 4096 + self.windows.receive() / 1024
    }

    /// The last of its streams is over.
    pub(super) fn hurry(&mut self, now: Option<Instant>) {
        if self.legacy_until.is_some() {
            self.legacy_until = now;
        }
    }

    pub(super) fn client(&self) -> SocketAddr {
        self.quic.remote_address()
    }
}

impl QuicEdge {
    /// A client begins.
    pub(super) fn incoming(
        &mut self,
        now: Instant,
        socket: usize,
        incoming: Incoming,
        answer: &mut Vec<u8>,
        flows: &mut Flows,
    ) {
        let Some(endpoint) = self.sockets.get_mut(socket) else { return };
        answer.clear();
        let client = incoming.remote_address();
        let may_begin = self.accepting && self.budget.has_room();
        let is_busy = self.handshakes >= RETRY_FROM || self.admission.is_crowded(client);
        if self.accepting && is_busy && !incoming.remote_address_validated() {
            match endpoint.retry(incoming, answer) {
                Ok(transmit) => {
                    self.counters.retries += 1;
                    self.answer(socket, &transmit, answer);
                }
                // It has retried, which makes it validated: this does not happen.
                Err(error) => endpoint.ignore(error.into_incoming()),
            }
            return;
        }
        if self.accepting && self.handshakes >= MAX_HANDSHAKES {
            // It asks again in a second, and there is room then.
            self.counters.postponed += 1;
            return endpoint.ignore(incoming);
        }
        let permit = may_begin.then(|| self.admission.admit(client)).flatten();
        let Some(permit) = permit else {
            self.counters.refused += 1;
            tracing::debug!(%client, "QUIC client refused");
            let transmit = endpoint.refuse(incoming, answer);
            self.answer(socket, &transmit, answer);
            return;
        };
        match endpoint.accept(incoming, now, answer, None) {
            Ok((handle, quic)) => {
                self.handshakes += 1;
                let key = self.conns.insert(Box::new(Conn {
                    socket,
                    handle,
                    quic,
                    _permit: permit,
                    streams: BTreeMap::new(),
                    most_streams: FIRST_STREAMS,
                    is_sending: false,
                    armed: None,
                    handshake_until: Some(now + HANDSHAKE),
                    legacy_until: None,
                    is_left: false,
                    windows: Windows::new(&mut self.budget),
                    pieces: 0,
                    forgiven: now,
                    look_at: None,
                    stalled: 0,
                    is_early: false,
                }));
                self.by_handle.insert((socket, handle.0), key);
                self.drive(now, key, flows);
            }
            Err(error) => {
                self.counters.failed += 1;
                if let Some(transmit) = error.response {
                    self.answer(socket, &transmit, answer);
                }
            }
        }
    }

    /// Brings everything that depends on a connection's state up to date.
    pub(super) fn drive(&mut self, now: Instant, key: usize, flows: &mut Flows) {
        loop {
            if self.settle(key) {
                return self.forget(now, key, flows);
            }
            let Some(conn) = self.conns.get_mut(key) else { return };
            let Some(event) = conn.quic.poll() else { break };
            self.on_event(now, key, event, flows);
        }
        let Some(conn) = self.conns.get_mut(key) else { return };
        if !conn.is_early && conn.quic.has_0rtt() {
            conn.is_early = true;
            self.counters.early += 1;
        }
        if conn.has_too_many(now) && !conn.quic.is_closed() {
            tracing::debug!(client = %conn.client(), "QUIC client sends too many small pieces");
            self.shut(now, key, Code::Excessive, flows);
        }
        self.schedule(key);
    }

    /// Lets quinn-proto's endpoint know what the connection has for it. Whether the connection is over.
    fn settle(&mut self, key: usize) -> bool {
        let Some(conn) = self.conns.get_mut(key) else { return false };
        let Some(endpoint) = self.sockets.get_mut(conn.socket) else { return false };
        let mut is_over = false;
        while let Some(event) = conn.quic.poll_endpoint_events() {
            is_over |= event.is_drained();
            if let Some(answer) = endpoint.handle_event(conn.handle, event) {
                conn.quic.handle_event(answer);
            }
        }
        if is_over {
            self.by_handle.remove(&(conn.socket, conn.handle.0));
        }
        is_over
    }

    fn on_event(&mut self, now: Instant, key: usize, event: Event, flows: &mut Flows) {
        match event {
            Event::Connected => {
                self.counters.accepted += 1;
                self.end_handshake(key);
            }
            Event::ConnectionLost { reason } => self.lost(now, key, &reason, flows),
            Event::Stream(StreamEvent::Opened { dir: Dir::Bi }) => self.open(now, key, flows),
            Event::Stream(StreamEvent::Readable { id }) => {
                self.on_piece(now, key, id, flows);
            }
            Event::Stream(StreamEvent::Writable { id }) => {
                if let Some(id) = self.stream_of(key, id) {
                    self.write_some(now, id, flows);
                }
            }
            Event::Stream(StreamEvent::Stopped { id, error_code }) => {
                if let Some(id) = self.stream_of(key, id) {
                    self.unwanted(now, id, error_code, flows);
                }
            }
            Event::HandshakeDataReady
            | Event::Stream(_)
            | Event::DatagramReceived
            | Event::DatagramsUnblocked => {}
        }
    }

    fn stream_of(&self, key: usize, id: StreamId) -> Option<ConnId> {
        self.conns.get(key)?.streams.get(&id).copied()
    }

    /// The client opened streams.
    fn open(&mut self, now: Instant, key: usize, flows: &mut Flows) {
        while let Some(conn) = self.conns.get_mut(key) {
            let Some(id) = conn.quic.streams().accept(Dir::Bi) else { break };
            let at = conn.socket;
            let client = conn.client();
            let code = if self.accepting { Code::Full } else { Code::ShuttingDown };
            let stream = ConnId::stream(self.next_stream);
            let listener = self.listeners.get(at).filter(|_| self.accepting);
            let taken = listener.is_some_and(|to| {
                let endpoints = Endpoints::new(client, to.addr);
                let (dest, service) = (to.dest.hash32(), to.service.clone());
                let taken = flows.accept(now, stream, dest, service, endpoints);
                if let Err(error) = taken {
                    tracing::debug!(%client, %error, "stream refused");
                }
                taken.is_ok()
            });
            if taken {
                self.next_stream += 1;
                self.begin(key, id, stream);
            } else {
                self.counters.streams_refused += 1;
                refuse(&mut conn.quic, id, code);
            }
        }
        let Some(conn) = self.conns.get_mut(key) else { return };
        if conn.most_streams < MOST_STREAMS && conn.streams.len() * 2 >= conn.most_streams as usize
        {
            conn.most_streams = (conn.most_streams * 2).min(MOST_STREAMS);
            conn.quic.set_max_concurrent_streams(Dir::Bi, VarInt::from_u32(conn.most_streams));
        }
    }

    fn end_handshake(&mut self, key: usize) -> bool {
        let Some(conn) = self.conns.get_mut(key) else { return false };
        let was_under_way = conn.handshake_until.take().is_some();
        self.handshakes -= usize::from(was_under_way);
        was_under_way
    }

    /// The connection is over, whoever ended it.
    fn lost(&mut self, now: Instant, key: usize, reason: &ConnectionError, flows: &mut Flows) {
        let has_left = match reason {
            ConnectionError::ApplicationClosed(close) => close.error_code == VarInt::from_u32(0),
            _ => false,
        };
        if self.end_handshake(key) {
            self.counters.failed += 1;
        }
        let Some(conn) = self.conns.get_mut(key) else { return };
        tracing::debug!(client = %conn.client(), %reason, "QUIC connection over");
        conn.is_left = has_left;
        self.end_streams(now, key, flows);
    }

    /// Ends a connection and its streams.
    fn shut(&mut self, now: Instant, key: usize, code: Code, flows: &mut Flows) {
        self.end_handshake(key);
        if let Some(conn) = self.conns.get_mut(key) {
            conn.quic.close(now, code.into(), bytes::Bytes::new());
            self.end_streams(now, key, flows);
        }
    }

    /// Of a client that left, what it had sent still reaches the origins; other streams break.
    fn end_streams(&mut self, now: Instant, key: usize, flows: &mut Flows) {
        let Some(conn) = self.conns.get(key) else { return };
        let is_left = conn.is_left;
        let ids: Vec<ConnId> = conn.streams.values().copied().collect();
        for id in ids {
            if is_left {
                self.unwanted(now, id, Code::Done.into(), flows);
                self.read_some(now, id, flows);
            } else {
                self.break_off(now, id, flows);
            }
        }
    }

    /// quinn-proto has done with the connection. What its client had sent may still be read.
    fn forget(&mut self, now: Instant, key: usize, flows: &mut Flows) {
        // A loss that was not told yet.
        while let Some(event) = self.conns.get_mut(key).and_then(|conn| conn.quic.poll()) {
            self.on_event(now, key, event, flows);
        }
        let Some(conn) = self.conns.get_mut(key) else { return };
        if conn.is_left && !conn.streams.is_empty() {
            conn.legacy_until = Some(now + LEGACY);
            return self.arm(key);
        }
        self.remove(now, key, flows);
    }

    /// Nothing of it is left.
    fn remove(&mut self, now: Instant, key: usize, flows: &mut Flows) {
        self.end_handshake(key);
        if let Some(conn) = self.conns.get_mut(key) {
            conn.is_left = false;
            self.end_streams(now, key, flows);
        }
        let Some(conn) = self.conns.try_remove(key) else { return };
        if self.by_handle.remove(&(conn.socket, conn.handle.0)).is_some()
            && let Some(endpoint) = self.sockets.get_mut(conn.socket)
        {
            endpoint.handle_event(conn.handle, EndpointEvent::drained());
        }
        if let Some(at) = conn.armed {
            self.timers.remove(&(at, key));
        }
        if conn.is_sending {
            self.sending.retain(|other| *other != key);
        }
        conn.windows.release(&mut self.budget);
    }

    pub(super) fn on_timer(&mut self, now: Instant, key: usize, flows: &mut Flows) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if is_due(conn.handshake_until) {
            // Not a word to an address that may be somebody else's.
            self.counters.failed += 1;
            return self.remove(now, key, flows);
        }
        if is_due(conn.legacy_until) {
            return self.remove(now, key, flows);
        }
        conn.quic.handle_timeout(now);
        let (receive, send) = conn.windows.review(now, &mut self.budget);
        if let Some(window) = receive.and_then(|window| VarInt::from_u64(window).ok()) {
            conn.quic.set_receive_window(window);
        }
        if let Some(window) = send {
            conn.quic.set_send_window(window);
        }
        let is_looked_at = conn.look_at.take_if(|at| *at <= now).is_some();
        // Others need what an idle client could still send; it can come back without losing a round trip.
        if conn.streams.is_empty() && conn.windows.is_large() && self.budget.is_scarce() {
            let is_idle = conn.windows.receive() == u64::from(super::windows::FIRST_RECEIVE);
            if is_idle && !conn.quic.is_closed() {
                self.shut(now, key, Code::Done, flows);
            }
        }
        if is_looked_at {
            self.look_for_stalled(now, key);
        }
        self.drive(now, key, flows);
    }

    /// The connection may have something to send.
    pub(super) fn schedule(&mut self, key: usize) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        if !conn.is_sending && conn.legacy_until.is_none() {
            conn.is_sending = true;
            self.sending.push_back(key);
        }
        self.arm(key);
    }

    /// Sets the connection's timer.
    pub(super) fn arm(&mut self, key: usize) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let deadline = conn.deadline();
        if deadline == conn.armed {
            return;
        }
        if let Some(at) = conn.armed {
            self.timers.remove(&(at, key));
        }
        if let Some(at) = deadline {
            self.timers.insert((at, key));
        }
        conn.armed = deadline;
    }
}

/// Ends both halves of a stream.
pub(super) fn refuse(quic: &mut quinn_proto::Connection, id: StreamId, code: Code) {
    // A half that has ended already says so; it needs no ending.
    let _ = quic.recv_stream(id).stop(code.into());
    let _ = quic.send_stream(id).reset(code.into());
}
