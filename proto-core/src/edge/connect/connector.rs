//! One QUIC connection to an edge, kept up, and the programs that use it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use quinn_proto::{
    Connection, ConnectionHandle, DatagramEvent, Dir, EcnCodepoint, Endpoint, EndpointConfig,
    StreamId, VarInt,
};

use crate::config::HostPort;
use crate::edge::clock::Clock;
use crate::ids::{ConnId, PeerId, SocketId};
use crate::io::{Action, Ecn, TcpEvent, TimerReason, Transmit};
use crate::rng::Rng;

use super::client::{Client, Step};
use super::link::State;
use super::setup::Setup;
use super::trust::{Trust, TrustError};

/// Programs at a time; more are refused.
const MAX_CLIENTS: usize = 4096;
/// A program waits so long for a stream.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// How long draining waits for programs to finish by themselves.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// Answers to strangers that wait to be sent.
const MAX_ANSWERS: usize = 8;
/// The code of a connection's end when all is well, and of a stream whose program broke off.
const DONE: VarInt = VarInt::from_u32(0);
const FAILED: VarInt = VarInt::from_u32(1);

/// What a connector is to do.
#[derive(Debug, Clone)]
pub struct Wish {
    /// The edge.
    pub edge: HostPort,
    /// The name that its certificate is for.
    pub server_name: String,
    /// Whom to take for it.
    pub trust: Trust,
    /// The protocol that the edge speaks over QUIC (ALPN, RFC 7301).
    pub alpn: String,
    /// Whether to send data with the first packet when coming back.
    pub early_data: bool,
    /// What [`Connector::tickets_to_keep`] gave, if something was kept.
    pub tickets: Option<Vec<u8>>,
}

/// A connector cannot be what is wished.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// No certificate can be for such a name.
    #[error("\"{0}\" is no name of a server (wanted a DNS name or an IP address)")]
    ServerName(String),
    /// Nobody can be trusted.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// TLS refuses.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}

/// A snapshot of a connector.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConnectorStatus {
    /// The edge has confirmed the connection.
    pub is_up: bool,
    /// Where the edge is.
    pub remote: Option<SocketAddr>,
    /// Programs that are served, or wait to be.
    pub clients: usize,
    /// Connections that were confirmed, all in all.
    pub connections: u64,
    /// Those whose early data was accepted.
    pub early: u64,
    /// Attempts that led to nothing.
    pub failed: u64,
}

/// Connections of local programs as streams of one QUIC connection. See [`Node`](crate::Node) for the
/// contract of its calls, which is the same. There is one listener, 0, and one UDP socket, 0; names are
/// resolved for peer 0, the edge.
pub struct Connector {
    pub(super) wish: Wish,
    pub(super) setup: Setup,
    pub(super) clock: Arc<Clock>,
    pub(super) endpoint: Endpoint,
    pub(super) state: State,
    /// Where the edge may be, the present place first.
    pub(super) addrs: VecDeque<SocketAddr>,
    /// Connections that are over.
    pub(super) leaving: Vec<(ConnectionHandle, Connection)>,
    pub(super) clients: BTreeMap<ConnId, Client>,
    pub(super) by_stream: BTreeMap<StreamId, ConnId>,
    /// Streams whose program is done and whose last bytes the edge has not acknowledged: a connection that is
    /// closed takes them with it.
    pub(super) ending: BTreeSet<StreamId>,
    /// Programs without a stream, in order.
    pub(super) queue: VecDeque<ConnId>,
    pub(super) actions: VecDeque<Action>,
    pub(super) answers: VecDeque<(SocketAddr, Vec<u8>)>,
    pub(super) now: Instant,
    /// Attempts since the last connection that came up.
    pub(super) attempts: u32,
    pub(super) draining: Option<Instant>,
    pub(super) is_drained: bool,
    /// Something may have to be sent.
    pub(super) is_sending: bool,
    pub(super) status: ConnectorStatus,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").field("wish", &self.wish).finish_non_exhaustive()
    }
}

impl Connector {
    /// Makes one at the time `now`, which is `unix_now` after the Unix epoch. `seed` must be fresh
    /// randomness: a seed is never used twice.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub fn new(
        wish: Wish,
        seed: [u8; 32],
        now: Instant,
        unix_now: Duration,
    ) -> Result<Self, ConnectError> {
        let mut rng = Rng::new(seed);
        let clock = Arc::new(Clock::new(now, unix_now));
        let setup = Setup::new(&wish, &clock, &mut rng)?;
        let mut config = EndpointConfig::new(Arc::new(crate::edge::quic::ResetKey::new(&mut rng)));
        let (endpoint_seed, cids) = (rng.fork(), rng.fork());
        config.rng_seed(Some(endpoint_seed));
        config.cid_generator(move || Box::new(crate::edge::quic::Cids::new(cids)));
        Ok(Self {
            wish,
            setup,
            clock,
            endpoint: Endpoint::new(Arc::new(config), None, true, None),
            state: State::Waiting(now),
            addrs: VecDeque::new(),
            leaving: Vec::new(),
            clients: BTreeMap::new(),
            by_stream: BTreeMap::new(),
            ending: BTreeSet::new(),
            queue: VecDeque::new(),
            actions: VecDeque::new(),
            answers: VecDeque::new(),
            now,
            attempts: 0,
            draining: None,
            is_drained: false,
            is_sending: false,
            status: ConnectorStatus::default(),
        })
    }

    /// A snapshot.
    #[must_use]
    pub fn status(&self) -> ConnectorStatus {
        let remote = match &self.state {
            State::Linked(link) => Some(link.quic.remote_address()),
            _ => None,
        };
        ConnectorStatus {
            is_up: self.is_up(),
            remote,
            clients: self.clients.len(),
            ..self.status.clone()
        }
    }

    /// What is to be kept, for [`Wish::tickets`], if it changed since the last call: as secret as a
    /// private key. To be asked after whatever else was done.
    #[must_use]
    pub fn tickets_to_keep(&mut self) -> Option<Vec<u8>> {
        self.setup.tickets.take_changed()
    }

    /// As [`Node::handle_datagram`](crate::Node::handle_datagram).
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        _socket: SocketId,
        remote: SocketAddr,
        ecn: Option<Ecn>,
        segment_size: usize,
        bytes: &mut [u8],
    ) {
        self.tick(now);
        let ecn = ecn.map(|ecn| match ecn {
            Ecn::Ect0 => EcnCodepoint::Ect0,
            Ecn::Ect1 => EcnCodepoint::Ect1,
            Ecn::Ce => EcnCodepoint::Ce,
        });
        for datagram in bytes.chunks(segment_size.max(1)) {
            let mut answer = Vec::new();
            let data = BytesMut::from(datagram);
            match self.endpoint.handle(now, remote, None, ecn, data, &mut answer) {
                Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                    if let State::Linked(link) = &mut self.state {
                        link.heard = now;
                    }
                    if let Some(quic) = self.connection(handle) {
                        quic.handle_event(event);
                    }
                }
                Some(DatagramEvent::Response(transmit)) if self.answers.len() < MAX_ANSWERS => {
                    answer.truncate(transmit.size);
                    self.answers.push_back((transmit.destination, answer));
                }
                // Nobody connects to a connector: its endpoint has no server.
                Some(DatagramEvent::NewConnection(_) | DatagramEvent::Response(_)) | None => {}
            }
        }
        self.drive();
    }

    fn connection(&mut self, handle: ConnectionHandle) -> Option<&mut Connection> {
        if let State::Linked(link) = &mut self.state
            && link.handle == handle
        {
            return Some(&mut link.quic);
        }
        self.leaving.iter_mut().find(|(other, _)| *other == handle).map(|(_, quic)| quic)
    }

    /// As [`Node::handle_tcp`](crate::Node::handle_tcp).
    pub fn handle_tcp(&mut self, now: Instant, event: TcpEvent<'_>) {
        self.tick(now);
        let conn = event.conn();
        match event {
            TcpEvent::Accepted { .. } => self.accept(conn),
            TcpEvent::Received { data, .. } => {
                let Some(client) = self.clients.get_mut(&conn) else { return };
                client.received(data);
                self.write(conn);
            }
            TcpEvent::Eof { .. } => {
                let Some(client) = self.clients.get_mut(&conn) else { return };
                client.eof();
                self.write(conn);
            }
            TcpEvent::Written { bytes, .. } => {
                let Some(client) = self.clients.get_mut(&conn) else { return };
                client.written(bytes);
                self.read(conn);
            }
            TcpEvent::Reset { .. } => self.remove(conn, false),
            // Nothing is dialled.
            TcpEvent::Connected { .. } | TcpEvent::ConnectFailed { .. } => {}
        }
        self.drive();
    }

    fn accept(&mut self, conn: ConnId) {
        let is_known = self.clients.contains_key(&conn);
        if is_known || self.draining.is_some() || self.clients.len() >= MAX_CLIENTS {
            self.actions.push_back(Action::Abort { conn });
            return;
        }
        self.clients.insert(conn, Client::new(conn, self.now + PATIENCE));
        self.queue.push_back(conn);
        self.grant(conn);
        // Somebody needs the edge now.
        if let State::Waiting(until) = &mut self.state
            && self.attempts == 0
        {
            *until = self.now;
        }
    }

    /// As [`Node::handle_resolved`](crate::Node::handle_resolved): the edge's addresses.
    pub fn handle_resolved(&mut self, now: Instant, _peer: PeerId, addrs: &[SocketAddr]) {
        self.tick(now);
        if !matches!(self.state, State::Resolving) {
            return;
        }
        // The one that answered last time first.
        let known = self.addrs.front().copied().filter(|addr| addrs.contains(addr));
        let others = addrs.iter().copied().filter(|addr| Some(*addr) != known);
        self.addrs = known.into_iter().chain(others).collect();
        match self.addrs.front().copied() {
            Some(addr) => self.connect(addr),
            None => self.failed("its name cannot be resolved"),
        }
        self.drive();
    }

    /// As [`Node::handle_timeout`](crate::Node::handle_timeout).
    pub fn handle_timeout(&mut self, now: Instant) {
        self.tick(now);
        for (_, quic) in &mut self.leaving {
            quic.handle_timeout(now);
        }
        let wants_edge = self.wants_edge();
        match &mut self.state {
            State::Waiting(until) if *until <= now && wants_edge => self.resolve(),
            State::Linked(link) => {
                link.quic.handle_timeout(now);
                let has_streams = !self.by_stream.is_empty();
                if link.silent_at(has_streams).is_some_and(|at| at <= now) {
                    link.heard = now;
                    link.quic.ping();
                }
                if !link.is_up && link.gives_up <= now {
                    link.quic.close(now, DONE, Bytes::new());
                    self.lost("it does not answer");
                }
            }
            State::Waiting(_) | State::Resolving => {}
        }
        while let Some(conn) = self.queue.front().copied()
            && self.clients.get(&conn).is_none_or(|client| client.patience <= now)
        {
            self.queue.pop_front();
            self.remove(conn, true);
        }
        self.drive();
        self.advance_drain();
    }

    /// While draining only for programs that still wait.
    fn wants_edge(&self) -> bool {
        self.draining.is_none() || !self.clients.is_empty()
    }

    /// As [`Node::drain`](crate::Node::drain).
    pub fn drain(&mut self, now: Instant) {
        self.tick(now);
        if self.draining.is_none() {
            self.draining = Some(now + DRAIN_LIMIT);
            self.actions.push_back(Action::StopAccepting);
        }
        self.advance_drain();
    }

    pub(super) fn advance_drain(&mut self) {
        let Some(until) = self.draining.filter(|_| !self.is_drained) else { return };
        if self.now >= until {
            for conn in self.clients.keys().copied().collect::<Vec<_>>() {
                self.remove(conn, true);
            }
        }
        if !self.clients.is_empty() || (!self.ending.is_empty() && self.now < until) {
            return;
        }
        self.is_drained = true;
        if let State::Linked(link) = &mut self.state {
            link.quic.close(self.now, DONE, Bytes::new());
        }
        self.leave();
        self.state = State::Waiting(self.now);
        self.actions.push_back(Action::Drained);
    }

    /// As [`Node::poll_transmit`](crate::Node::poll_transmit).
    #[must_use]
    pub fn poll_transmit(
        &mut self,
        now: Instant,
        max_segments: usize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        self.tick(now);
        if let Some((remote, bytes)) = self.answers.pop_front() {
            buf.extend_from_slice(&bytes);
            let len = bytes.len();
            let socket = SocketId::default();
            return Some(Transmit { socket, remote, ecn: None, len, segment_size: len });
        }
        let link = match &mut self.state {
            State::Linked(link) => Some(&mut link.quic),
            _ => None,
        };
        // quinn-proto counts from the buffer's beginning.
        let mut bytes = Vec::new();
        let all = link.into_iter().chain(self.leaving.iter_mut().map(|(_, quic)| quic));
        for quic in all {
            let into = if buf.is_empty() { &mut *buf } else { &mut bytes };
            let Some(made) = quic.poll_transmit(now, max_segments.max(1), into) else { continue };
            buf.append(&mut bytes);
            let ecn = made.ecn.map(|ecn| match ecn {
                EcnCodepoint::Ect0 => Ecn::Ect0,
                EcnCodepoint::Ect1 => Ecn::Ect1,
                EcnCodepoint::Ce => Ecn::Ce,
            });
            return Some(Transmit {
                socket: SocketId::default(),
                remote: made.destination,
                ecn,
                len: made.size,
                segment_size: made.segment_size.unwrap_or(made.size),
            });
        }
        self.is_sending = false;
        self.drive_quietly();
        None
    }

    /// As [`Node::poll_action`](crate::Node::poll_action).
    #[must_use]
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// As [`Node::poll_timeout`](crate::Node::poll_timeout).
    #[must_use]
    pub fn poll_timeout(&mut self) -> Option<(Instant, TimerReason)> {
        if self.is_sending || !self.actions.is_empty() || !self.answers.is_empty() {
            return Some((self.now, TimerReason::Output));
        }
        let wants_edge = self.wants_edge();
        let link = match &mut self.state {
            State::Waiting(until) => Some(*until).filter(|_| wants_edge),
            State::Resolving => None,
            State::Linked(link) => {
                let gives_up = Some(link.gives_up).filter(|_| !link.is_up);
                let silent = link.silent_at(!self.by_stream.is_empty());
                link.quic.poll_timeout().into_iter().chain(gives_up).chain(silent).min()
            }
        };
        let leaving = self.leaving.iter_mut().filter_map(|(_, quic)| quic.poll_timeout());
        let first = self.queue.front().and_then(|conn| self.clients.get(conn));
        let patience = first.map(|client| client.patience);
        let edge = link.into_iter().chain(leaving).chain(patience).min();
        let drain = self.draining.filter(|_| !self.is_drained);
        let edge = edge.map(|at| (at, TimerReason::Edge));
        edge.into_iter().chain(drain.map(|at| (at, TimerReason::Drain))).min_by_key(|(at, _)| *at)
    }

    fn tick(&mut self, now: Instant) {
        self.now = self.now.max(now);
        self.clock.tick(now);
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(&self.state, State::Linked(link) if link.is_up)
    }

    /// Brings everything that depends on the connection's state up to date.
    fn drive(&mut self) {
        self.is_sending = true;
        self.drive_quietly();
    }

    fn drive_quietly(&mut self) {
        loop {
            self.settle();
            let State::Linked(link) = &mut self.state else { break };
            let Some(event) = link.quic.poll() else { break };
            self.on_event(event);
        }
        self.open();
    }

    /// Gives streams to those who wait for one.
    fn open(&mut self) {
        while let Some(conn) = self.queue.front().copied() {
            let State::Linked(link) = &mut self.state else { return };
            if !link.is_up && !link.quic.has_0rtt() {
                return;
            }
            let Some(client) = self.clients.get_mut(&conn) else {
                self.queue.pop_front();
                continue;
            };
            let Some(id) = link.quic.streams().open(Dir::Bi) else { return };
            self.queue.pop_front();
            client.stream = Some(id);
            self.by_stream.insert(id, conn);
            if link.is_up {
                // Its data may have to wait for other streams'. An edge that was restarted is to say so now.
                link.quic.ping();
            }
            self.is_sending = true;
            self.write(conn);
        }
    }

    pub(super) fn write(&mut self, conn: ConnId) {
        let State::Linked(link) = &mut self.state else { return };
        let Some(client) = self.clients.get_mut(&conn) else { return };
        let step = client.write(&mut link.quic, link.is_up);
        self.after(conn, step);
    }

    pub(super) fn read(&mut self, conn: ConnId) {
        let State::Linked(link) = &mut self.state else { return };
        let Some(client) = self.clients.get_mut(&conn) else { return };
        let step = client.read(&mut link.quic, &mut self.actions);
        self.after(conn, step);
    }

    fn after(&mut self, conn: ConnId, step: Step) {
        match step {
            Step::Going => self.grant(conn),
            // The shell knows: it has reported the end and is to shut the other half.
            Step::Over => {
                let client = self.clients.get(&conn).filter(|client| !client.is_acknowledged);
                self.ending.extend(client.and_then(|client| client.stream));
                self.forget(conn);
            }
            Step::Broken => self.remove(conn, true),
        }
    }

    pub(super) fn grant(&mut self, conn: ConnId) {
        let is_up = self.is_up();
        if let Some(client) = self.clients.get_mut(&conn) {
            self.actions.extend(client.grant(is_up));
        }
    }

    /// Breaks a program's stream off, and its connection if that still stands.
    pub(super) fn remove(&mut self, conn: ConnId, stands: bool) {
        let Some(client) = self.clients.get(&conn) else { return };
        if let State::Linked(link) = &mut self.state {
            client.break_off(&mut link.quic, FAILED);
            self.is_sending = true;
        }
        if stands {
            self.actions.push_back(Action::Abort { conn });
        }
        self.forget(conn);
    }

    fn forget(&mut self, conn: ConnId) {
        if let Some(client) = self.clients.remove(&conn) {
            match client.stream {
                Some(id) => {
                    self.by_stream.remove(&id);
                }
                None => self.queue.retain(|other| *other != conn),
            }
        }
        self.advance_drain();
    }
}
