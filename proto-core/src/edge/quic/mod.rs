//! QUIC (RFC 9000): each bidirectional stream of a client is a flow.
//!
//! quinn-proto speaks the protocol; here its connections are served: datagrams and time go in, datagrams
//! come out, and between a stream and its flow bytes go as far as both take them. A client reads its flow's
//! windows as those of its stream and its connection ([`windows`]): what no flow takes is not read, and what
//! is not read is soon not sent any more. A first flight that carries data is served at once; it cannot be
//! played again ([`sessions`]).

mod congestion;
mod connection;
mod secrets;
mod sessions;
mod setup;
mod streams;
#[cfg(test)]
mod tests;
mod windows;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use quinn_proto::{DatagramEvent, EcnCodepoint, Endpoint, VarInt};
use slab::Slab;

use crate::config::Config;
use crate::flow::{Flows, Output};
use crate::ids::{ConnId, SocketId};
use crate::io::{Ecn, Transmit};
use crate::rng::Rng;
use crate::status::{QuicStatus, Table};

use super::Listener;
use super::admission::Admission;
use super::clock::Clock;
use super::identity::Identity;

pub(crate) use congestion::Follow;
pub(crate) use secrets::{Cids, ResetKey};
pub(crate) use setup::{FIRST_RTT, PACKET_THRESHOLD};

use connection::Conn;
use secrets::Lasting;
use setup::{MOST_STREAMS, Setup, Wishes, is_sound};
use streams::Stream;
use windows::Budget;

/// Handshakes under way from which on a client must show that it receives at its address (Retry, RFC 9000
/// §8.1.2), which costs nothing here, and from which on it is not answered until there are fewer.
const RETRY_FROM: usize = 64;
const MAX_HANDSHAKES: usize = 1024;
/// Answers to those who have no connection that wait to be sent; more are dropped.
const MAX_ANSWERS: usize = 1024;

/// Why a stream or connection ends before its time, as clients are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Code {
    /// The connection is done with.
    Done = 0,
    /// The origin broke off or cannot be had, or there is no way to it.
    Failed = 1,
    /// There is no memory for another stream or connection, or for this one any more.
    Full = 2,
    /// The node goes away.
    ShuttingDown = 3,
    /// The client takes more than is fair: its data in far too small pieces.
    Excessive = 4,
}

impl From<Code> for VarInt {
    fn from(code: Code) -> Self {
        VarInt::from_u32(code as u32)
    }
}

/// An answer to one who has no connection.
#[derive(Debug)]
struct Answer {
    socket: usize,
    remote: SocketAddr,
    bytes: Vec<u8>,
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct QuicEdge {
    listeners: Vec<Listener>,
    /// By the place of their listener.
    sockets: Vec<Endpoint>,
    setup: Setup,
    /// Boxed, so that the memory of each is given back.
    conns: Slab<Box<Conn>>,
    /// By socket and quinn-proto's number.
    by_handle: BTreeMap<(usize, usize), usize>,
    streams: BTreeMap<ConnId, Stream>,
    next_stream: u64,
    /// Connections that may have something to send, each once, in turn.
    sending: VecDeque<usize>,
    timers: BTreeSet<(Instant, usize)>,
    answers: VecDeque<Answer>,
    /// Handshakes under way.
    handshakes: usize,
    admission: Admission,
    budget: Budget,
    accepting: bool,
    /// The latest time that was told.
    now: Option<Instant>,
    scratch: Vec<u8>,
    counters: QuicStatus,
}

impl QuicEdge {
    pub(crate) fn new(
        config: &Config,
        listeners: Vec<Listener>,
        clock: Arc<Clock>,
        admission: Admission,
        rng: &mut Rng,
    ) -> Self {
        let setup = Setup::new(Wishes::of(config), clock, rng);
        let socket = |n| Setup::endpoint(Lasting::new(config, n, rng), rng);
        let sockets = (0..listeners.len()).map(socket).collect();
        Self {
            listeners,
            sockets,
            setup,
            conns: Slab::new(),
            by_handle: BTreeMap::new(),
            streams: BTreeMap::new(),
            next_stream: 0,
            sending: VecDeque::new(),
            timers: BTreeSet::new(),
            answers: VecDeque::new(),
            handshakes: 0,
            admission,
            budget: Budget::new(config.limits.node_memory),
            accepting: true,
            now: None,
            scratch: Vec::new(),
            counters: QuicStatus::default(),
        }
    }

    pub(crate) fn listeners(&self) -> &[Listener] {
        &self.listeners
    }

    pub(crate) fn listeners_mut(&mut self) -> &mut [Listener] {
        &mut self.listeners
    }

    /// How many streams are open.
    pub(crate) fn streams(&self) -> usize {
        self.streams.len()
    }

    pub(crate) fn status(&self) -> QuicStatus {
        QuicStatus {
            connections: self.conns.len(),
            tickets_refused: self.setup.sessions.refused(),
            ..self.counters
        }
    }

    /// Takes the certificate that new connections are shown.
    pub(crate) fn set_identity(&mut self, identity: &Identity) {
        match self.setup.set_identity(identity) {
            Ok(()) => self.set_server(),
            Err(error) => tracing::warn!(%error, "QUIC clients cannot be shown this certificate"),
        }
    }

    pub(crate) fn reconfigure(&mut self, config: &Config) {
        self.budget.set_cap(config.limits.node_memory);
        if self.setup.set_wishes(Wishes::of(config)) {
            self.set_server();
        }
    }

    fn set_server(&mut self) {
        let server = self.setup.server();
        for socket in &mut self.sockets {
            socket.set_server_config(server.clone());
        }
    }

    /// Takes no more connections, and no more streams on those that are here.
    pub(crate) fn stop(&mut self) {
        self.accepting = false;
    }

    /// Tells the clients that are left goodbye.
    pub(crate) fn close(&mut self, now: Instant) {
        self.now = Some(now);
        let keys: Vec<usize> = self.conns.iter().map(|(key, _)| key).collect();
        for key in keys {
            if let Some(conn) = self.conns.get_mut(key) {
                conn.quic.close(now, Code::ShuttingDown.into(), bytes::Bytes::new());
            }
            self.schedule(key);
        }
    }

    /// A datagram came to one of the sockets.
    pub(crate) fn handle_datagram(
        &mut self,
        now: Instant,
        socket: SocketId,
        remote: SocketAddr,
        ecn: Option<Ecn>,
        datagram: &[u8],
        flows: &mut Flows,
    ) {
        self.now = Some(now);
        let is_served = self.setup.has_identity() && is_sound(datagram);
        let Some(at) = socket.0.checked_sub(1).filter(|_| is_served) else { return };
        let Some(endpoint) = self.sockets.get_mut(at) else { return };
        let mut answer = std::mem::take(&mut self.scratch);
        answer.clear();
        let ecn = ecn.and_then(|ecn| EcnCodepoint::from_bits(ecn as u8));
        // What a stream's frames carry is kept in this allocation until it is read.
        let data = BytesMut::from(datagram);
        match endpoint.handle(now, remote, None, ecn, data, &mut answer) {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                let key = self.by_handle.get(&(at, handle.0)).copied();
                if let Some((key, conn)) = key.and_then(|key| Some((key, self.conns.get_mut(key)?)))
                {
                    conn.quic.handle_event(event);
                    self.drive(now, key, flows);
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => {
                self.incoming(now, at, incoming, &mut answer, flows);
            }
            Some(DatagramEvent::Response(transmit)) => self.answer(at, &transmit, &answer),
            None => {}
        }
        self.scratch = answer;
    }

    /// Keeps what is to be sent to one who has no connection.
    fn answer(&mut self, socket: usize, transmit: &quinn_proto::Transmit, bytes: &[u8]) {
        if self.answers.len() < MAX_ANSWERS
            && let Some(bytes) = bytes.get(..transmit.size)
        {
            let (remote, bytes) = (transmit.destination, bytes.to_vec());
            self.answers.push_back(Answer { socket, remote, bytes });
        }
    }

    /// As [`Node::poll_transmit`](crate::Node::poll_transmit).
    pub(crate) fn poll_transmit(
        &mut self,
        now: Instant,
        max_segments: usize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        self.now = Some(now);
        if let Some(Answer { socket, remote, bytes }) = self.answers.pop_front() {
            buf.extend_from_slice(&bytes);
            let (socket, len) = (SocketId(socket + 1), bytes.len());
            return Some(Transmit { socket, remote, ecn: None, len, segment_size: len });
        }
        while let Some(key) = self.sending.pop_front() {
            let Some(conn) = self.conns.get_mut(key) else { continue };
            conn.is_sending = false;
            let socket = SocketId(conn.socket + 1);
            let made = conn.transmit(now, max_segments, &mut self.scratch, buf);
            if made.is_some() {
                // The others have their turn first.
                self.schedule(key);
            } else {
                self.arm(key);
            }
            if let Some(made) = made {
                let ecn = made.ecn.map(|ecn| match ecn {
                    EcnCodepoint::Ect0 => Ecn::Ect0,
                    EcnCodepoint::Ect1 => Ecn::Ect1,
                    EcnCodepoint::Ce => Ecn::Ce,
                });
                return Some(Transmit {
                    socket,
                    remote: made.destination,
                    ecn,
                    len: made.size,
                    segment_size: made.segment_size.unwrap_or(made.size),
                });
            }
        }
        None
    }

    /// Time passed.
    pub(crate) fn handle_timeout(&mut self, now: Instant, flows: &mut Flows) {
        self.now = Some(now);
        let mut due = Vec::new();
        while let Some((_, key)) = self.timers.first().filter(|(at, _)| *at <= now).copied() {
            self.timers.pop_first();
            if let Some(conn) = self.conns.get_mut(key) {
                conn.armed = None;
                due.push(key);
            }
        }
        for key in due {
            self.on_timer(now, key, flows);
        }
    }

    /// When [`Self::handle_timeout`] or [`Self::poll_transmit`] is to be called.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        if !self.sending.is_empty() || !self.answers.is_empty() {
            return self.now;
        }
        self.timers.first().map(|(at, _)| *at)
    }

    /// Does what a flow wants of its stream.
    pub(crate) fn carry_out(&mut self, now: Instant, output: Output, flows: &mut Flows) {
        self.now = Some(now);
        let id = output.conn();
        let Some(stream) = self.streams.get_mut(&id) else { return };
        match output {
            Output::Dial { .. } => {}
            Output::GrantRead { bytes, .. } => {
                stream.credit += bytes;
                self.read(now, id, flows);
            }
            Output::Write { data, .. } => {
                stream.waiting.push_back(data);
                self.write(now, id, flows);
            }
            Output::Shutdown { .. } => {
                stream.is_ending = true;
                self.write(now, id, flows);
            }
            Output::Abort { .. } => {
                let code = if self.accepting { Code::Failed } else { Code::ShuttingDown };
                self.abort(id, code);
            }
        }
    }

    /// Shows every table to `visit`; see [`Node::tables`](crate::Node::tables).
    pub(crate) fn tables(&self, visit: &mut dyn FnMut(Table)) {
        let mut show = |name, len: usize, bound: usize| {
            visit(Table { name, peer: None, len: len as u64, bound: bound.max(1) as u64 });
        };
        let (_, most) = self.admission.clients();
        show("quic_connections", self.conns.len(), most);
        show("quic_handles", self.by_handle.len(), most);
        show("quic_timers", self.timers.len(), most);
        show("quic_sending", self.sending.len(), most);
        show("quic_handshakes", self.handshakes, MAX_HANDSHAKES);
        show("quic_answers", self.answers.len(), MAX_ANSWERS);
        show("quic_sessions", self.setup.sessions.len(), sessions::MAX_SESSIONS);
        show("quic_streams", self.streams.len(), most * MOST_STREAMS as usize);
        let waiting = self.streams.values().map(Stream::waiting_bytes).max().unwrap_or(0);
        show("quic_stream_waiting", waiting, streams::MAX_WAITING);
        let (len, bound) = (self.budget.reserved(), self.budget.bound());
        visit(Table { name: "quic_memory", peer: None, len, bound });
    }
}
