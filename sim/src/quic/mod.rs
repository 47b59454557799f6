//! What a user would do without a relay: carry the TCP connections over one QUIC connection.
//!
//! Two [`QuicCore`]s are to the engine what two PoPs are: a client at the ingress, a server at the
//! egress. Every accepted TCP connection becomes a bidirectional stream of the one connection between
//! them; its first bytes name the service (one byte of length, then the name), so that opening costs no
//! round trip. The server dials what its own options say for that service. Half-close is the end of a
//! stream; a reset of TCP is RESET_STREAM and STOP_SENDING together (RFC 9000 §3.5).
//!
//! QUIC is `quinn-proto` 0.11.14 as it comes, with CUBIC or BBR: its defaults for everything (initial
//! window, pacing, loss detection, ACK frequency, path MTU discovery, idle timeout of 30 s), but for a
//! window of 64 MiB for each stream and a send buffer of eight of them, so that only the congestion
//! controller limits a transfer, 16,384 streams, and a keep-alive of the client every 5 s. The client
//! connects when it is made, and again for the next TCP connection after it lost the connection; with
//! that break all that it carried.
//!
//! **Reproducible** are times and lengths, not the bytes on the wire: `rustls` and `ring` draw keys from
//! the operating system. So no length may depend on them: see `tls.rs` and `config.rs`. The arithmetic
//! of CUBIC uses the standard library's cube root, whose last bit may differ between platforms.

mod bbr;
mod bridge;
mod carrier;
mod config;
mod tls;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use entrouter_proto::config::HostPort;
use entrouter_proto::{Action, ConnId, Ecn, ListenerId, PeerId, SocketId, TcpEvent};
use entrouter_proto::{TimerReason, Transmit};
use quinn_proto::crypto::rustls::NoInitialCipherSuite;
use quinn_proto::{
    ClientConfig, ConnectError, ConnectionError, ConnectionHandle, DatagramEvent, EcnCodepoint,
    Endpoint, Incoming, ServerConfig, TransportConfig,
};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

use crate::engine::{Boot, Core};
use carrier::{Carrier, Dialler};

/// How long [`Core::drain`] waits for connections to end.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// How long it waits then for the peer to hear that the others are reset. With data on the way,
/// quinn-proto may never send that it closes: the congestion controller lets it not, and what is
/// acknowledged meanwhile does not count.
const CUT_OFF_LIMIT: Duration = Duration::from_secs(2);

/// The congestion controller of QUIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Congestion {
    /// quinn-proto's default (RFC 9438).
    Cubic,
    /// quinn-proto's BBR, version 1.
    Bbr,
}

/// What a client is to do.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Governs what the client sends.
    pub congestion: Congestion,
    /// The server.
    pub remote: SocketAddr,
    /// Destination and service of each listener, in the order of their [`ListenerId`]s. The names of
    /// services have 1 to 255 bytes.
    pub listeners: Vec<(String, String)>,
}

/// What a server is to do.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Governs what the server sends.
    pub congestion: Congestion,
    /// What to dial for each service.
    pub origins: BTreeMap<String, HostPort>,
}

/// A core that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum QuicError {
    /// A listener leads to a service that cannot be named on a stream.
    #[error("service {0:?}: give a name of 1 to 255 bytes")]
    Service(String),
    /// There can be no connection to that server.
    #[error("no QUIC connection can be made to {remote}: {source}")]
    Connect {
        /// The server.
        remote: SocketAddr,
        /// What is wrong with it.
        source: ConnectError,
    },
    /// The certificate and key in this program do not work.
    #[error("the built-in TLS configuration is refused: {0}")]
    Tls(#[from] rustls::Error),
    /// As [`QuicError::Tls`].
    #[error("the built-in TLS configuration is refused: {0}")]
    Suite(#[from] NoInitialCipherSuite),
}

/// One end of the connection, as the engine runs it. See the module's text.
#[derive(Debug)]
pub struct QuicCore {
    now: Instant,
    endpoint: Endpoint,
    role: Role,
    /// By handle: a client has one, and those that it lost until they have closed.
    carriers: BTreeMap<usize, Carrier>,
    actions: VecDeque<Action>,
    /// Answers to datagrams that belong to no connection.
    answers: VecDeque<(quinn_proto::Transmit, Vec<u8>)>,
    scratch: Vec<u8>,
    drain: Drain,
    last_loss: Option<ConnectionError>,
}

#[derive(Debug)]
enum Role {
    Client(Client),
    Server(Dialler),
}

#[derive(Debug)]
struct Client {
    config: ClientConfig,
    remote: SocketAddr,
    listeners: Vec<(String, String)>,
    current: Option<ConnectionHandle>,
}

#[derive(Debug, Clone, Copy)]
enum Drain {
    No,
    /// Until nothing is carried any more.
    Until {
        limit: Instant,
        is_cut_off: bool,
    },
    /// Until the peers have had time to hear of it: who says it once and is gone may not be heard.
    Closing,
    Done,
}

impl QuicCore {
    /// The ingress; it connects at once.
    ///
    /// # Errors
    /// [`QuicError`] if a service or the address is not usable.
    pub fn client(options: ClientOptions, boot: Boot) -> Result<Self, QuicError> {
        let mut rng = ChaCha8Rng::from_seed(boot.seed);
        let controller = config::controller(options.congestion, &mut rng);
        Self::client_with(options, boot, rng, config::transport(controller, true))
    }

    fn client_with(
        options: ClientOptions,
        boot: Boot,
        mut rng: ChaCha8Rng,
        transport: TransportConfig,
    ) -> Result<Self, QuicError> {
        let unusable = |name: &&String| !(1..=255).contains(&name.len());
        if let Some(name) = options.listeners.iter().map(|(_, name)| name).find(unusable) {
            return Err(QuicError::Service(name.clone()));
        }
        let mut config = ClientConfig::new(tls::client(tls::BootClock(boot.unix_now))?);
        config.transport_config(Arc::new(transport));
        let remote = options.remote;
        let client = Client { config, remote, listeners: options.listeners, current: None };
        let endpoint = Endpoint::new(config::endpoint(&mut rng), None, true, None);
        let mut core = Self::new(boot.now, endpoint, Role::Client(client));
        core.connect().map_err(|source| QuicError::Connect { remote, source })?;
        Ok(core)
    }

    /// The egress.
    ///
    /// # Errors
    /// [`QuicError`]; there is no input for which it should.
    pub fn server(options: ServerOptions, boot: Boot) -> Result<Self, QuicError> {
        let mut rng = ChaCha8Rng::from_seed(boot.seed);
        let controller = config::controller(options.congestion, &mut rng);
        Self::server_with(options, boot, rng, config::transport(controller, false))
    }

    fn server_with(
        options: ServerOptions,
        boot: Boot,
        mut rng: ChaCha8Rng,
        transport: TransportConfig,
    ) -> Result<Self, QuicError> {
        let clock = tls::BootClock(boot.unix_now);
        let mut config = ServerConfig::with_crypto(tls::server(clock)?);
        config.transport_config(Arc::new(transport));
        config.time_source(Arc::new(clock));
        let endpoint =
            Endpoint::new(config::endpoint(&mut rng), Some(Arc::new(config)), true, None);
        let dialler = Dialler { origins: options.origins, numbered: 0, accepting: true };
        Ok(Self::new(boot.now, endpoint, Role::Server(dialler)))
    }

    fn new(now: Instant, endpoint: Endpoint, role: Role) -> Self {
        Self {
            now,
            endpoint,
            role,
            carriers: BTreeMap::new(),
            actions: VecDeque::new(),
            answers: VecDeque::new(),
            scratch: Vec::new(),
            drain: Drain::No,
            last_loss: None,
        }
    }

    /// Why the last QUIC connection was lost, if one was.
    #[must_use]
    pub fn last_loss(&self) -> Option<&ConnectionError> {
        self.last_loss.as_ref()
    }

    fn tick(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    /// The client's connection, made anew if there is none.
    fn connect(&mut self) -> Result<ConnectionHandle, ConnectError> {
        let Role::Client(client) = &mut self.role else {
            return Err(ConnectError::EndpointStopping);
        };
        if let Some(handle) = client.current {
            return Ok(handle);
        }
        let config = client.config.clone();
        let (handle, connection) =
            self.endpoint.connect(self.now, config, client.remote, tls::SERVER_NAME)?;
        client.current = Some(handle);
        self.carriers.insert(handle.0, Carrier::new(handle, connection));
        self.advance(handle.0);
        Ok(handle)
    }

    fn accept(&mut self, conn: ConnId, listener: ListenerId) {
        let route = match &self.role {
            Role::Client(client) if matches!(self.drain, Drain::No) => {
                client.listeners.get(listener.0).map(|(_, service)| service.clone())
            }
            _ => None,
        };
        let taken = route.zip(self.connect().ok());
        match taken.and_then(|(service, handle)| Some((service, self.carriers.get_mut(&handle.0)?)))
        {
            Some((service, carrier)) => carrier.accept(conn, &service, &mut self.actions),
            None => self.actions.push_back(Action::Abort { conn }),
        }
    }

    /// The server's side of a connection that comes.
    fn take(&mut self, incoming: Incoming) {
        let mut answer = Vec::new();
        if !matches!(self.drain, Drain::No) {
            let refusal = self.endpoint.refuse(incoming, &mut answer);
            self.answers.push_back((refusal, answer));
            return;
        }
        match self.endpoint.accept(incoming, self.now, &mut answer, None) {
            Ok((handle, connection)) => {
                self.carriers.insert(handle.0, Carrier::new(handle, connection));
                self.advance(handle.0);
            }
            Err(error) => self.answers.extend(error.response.map(|transmit| (transmit, answer))),
        }
    }

    /// Lets a connection say what it has to, and forgets it when it is gone.
    fn advance(&mut self, handle: usize) {
        let Some(carrier) = self.carriers.get_mut(&handle) else { return };
        let dialler = match &mut self.role {
            Role::Server(dialler) => Some(dialler),
            Role::Client(_) => None,
        };
        carrier.advance(&mut self.endpoint, dialler, &mut self.actions);
        if let Some(loss) = carrier.loss() {
            self.last_loss = Some(loss.clone());
            if let Role::Client(client) = &mut self.role {
                client.current = client.current.filter(|current| current.0 != handle);
            }
        }
        if carrier.is_gone() {
            self.carriers.remove(&handle);
        }
        self.check_drain();
    }

    fn check_drain(&mut self) {
        if let Drain::Until { limit, is_cut_off } = self.drain {
            let is_late = self.now >= limit;
            if self.carriers.values_mut().all(Carrier::is_idle) || (is_late && is_cut_off) {
                self.carriers.values_mut().for_each(|c| c.close(self.now, &mut self.actions));
                self.drain = Drain::Closing;
            } else if is_late {
                self.carriers.values_mut().for_each(|c| c.cut_off(&mut self.actions));
                self.drain = Drain::Until { limit: self.now + CUT_OFF_LIMIT, is_cut_off: true };
            }
        }
        if matches!(self.drain, Drain::Closing) && self.carriers.is_empty() {
            self.actions.push_back(Action::Drained);
            self.drain = Drain::Done;
        }
    }

    fn carrier_of(&mut self, conn: ConnId) -> Option<(usize, &mut Carrier)> {
        let found = self.carriers.iter_mut().find(|(_, carrier)| carrier.carries(conn));
        found.map(|(&handle, carrier)| (handle, carrier))
    }
}

impl Core for QuicCore {
    fn handle_datagram(
        &mut self,
        now: Instant,
        _socket: SocketId,
        remote: SocketAddr,
        ecn: Option<Ecn>,
        datagram: &mut [u8],
    ) {
        self.tick(now);
        let bytes = BytesMut::from(&*datagram);
        let ecn = ecn.and_then(|ecn| EcnCodepoint::from_bits(ecn as u8));
        let mut answer = Vec::new();
        match self.endpoint.handle(self.now, remote, None, ecn, bytes, &mut answer) {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                if let Some(carrier) = self.carriers.get_mut(&handle.0) {
                    carrier.handle_event(event);
                    self.advance(handle.0);
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => self.take(incoming),
            Some(DatagramEvent::Response(transmit)) => self.answers.push_back((transmit, answer)),
            None => {}
        }
    }

    fn handle_tcp(&mut self, now: Instant, event: TcpEvent<'_>) {
        self.tick(now);
        let conn = match event {
            TcpEvent::Accepted { conn, listener, .. } => return self.accept(conn, listener),
            TcpEvent::Connected { conn }
            | TcpEvent::ConnectFailed { conn }
            | TcpEvent::Received { conn, .. }
            | TcpEvent::Written { conn, .. }
            | TcpEvent::Eof { conn }
            | TcpEvent::Reset { conn } => conn,
        };
        let mut actions = std::mem::take(&mut self.actions);
        if matches!(event, TcpEvent::Reset { .. }) {
            // The shell has no such connection any more.
            actions.retain(|action| conn_of(action) != Some(conn));
        }
        let carrier = self.carrier_of(conn);
        let handle = carrier.as_ref().map(|(handle, _)| *handle);
        if let Some((_, carrier)) = carrier {
            match event {
                TcpEvent::Accepted { .. } => {}
                TcpEvent::Connected { .. } => carrier.connected(conn, &mut actions),
                TcpEvent::Received { data, .. } => carrier.received(conn, data, &mut actions),
                TcpEvent::Written { bytes, .. } => carrier.written(conn, bytes, &mut actions),
                TcpEvent::Eof { .. } => carrier.eof(conn, &mut actions),
                TcpEvent::ConnectFailed { .. } | TcpEvent::Reset { .. } => carrier.reset(conn),
            }
        }
        self.actions = actions;
        if let Some(handle) = handle {
            self.advance(handle);
        }
    }

    fn handle_resolved(&mut self, now: Instant, _peer: PeerId, _addrs: &[SocketAddr]) {
        self.tick(now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.tick(now);
        let due = |carrier: &Carrier| carrier.deadline().is_some_and(|at| at <= self.now);
        let due: Vec<_> =
            self.carriers.iter().filter(|(_, carrier)| due(carrier)).map(|(&h, _)| h).collect();
        for handle in due {
            if let Some(carrier) = self.carriers.get_mut(&handle) {
                carrier.handle_timeout(self.now);
                self.advance(handle);
            }
        }
        self.check_drain();
    }

    fn drain(&mut self, now: Instant) {
        self.tick(now);
        if !matches!(self.drain, Drain::No) {
            return;
        }
        self.drain = Drain::Until { limit: self.now + DRAIN_LIMIT, is_cut_off: false };
        if let Role::Server(dialler) = &mut self.role {
            dialler.accepting = false;
        }
        self.actions.push_back(Action::StopAccepting);
        self.check_drain();
    }

    fn poll_transmit(
        &mut self,
        now: Instant,
        max_segments: usize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        self.tick(now);
        if let Some((transmit, bytes)) = self.answers.pop_front() {
            buf.extend_from_slice(&bytes[..transmit.size]);
            return Some(translate(&transmit));
        }
        for carrier in self.carriers.values_mut().filter(|carrier| carrier.has_output()) {
            // quinn-proto measures from the beginning of its buffer.
            self.scratch.clear();
            let most = max_segments.max(1);
            if let Some(transmit) = carrier.poll_transmit(self.now, most, &mut self.scratch) {
                buf.extend_from_slice(&self.scratch[..transmit.size]);
                return Some(translate(&transmit));
            }
        }
        None
    }

    fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn poll_timeout(&self) -> Option<(Instant, TimerReason)> {
        let waits = !self.actions.is_empty() || !self.answers.is_empty();
        if waits || self.carriers.values().any(Carrier::has_output) {
            return Some((self.now, TimerReason::Output));
        }
        let recovery = self.carriers.values().filter_map(Carrier::deadline).min();
        let drain = match self.drain {
            Drain::Until { limit, .. } => Some((limit, TimerReason::Drain)),
            Drain::No | Drain::Closing | Drain::Done => None,
        };
        let recovery = recovery.map(|at| (at, TimerReason::Recovery));
        [recovery, drain].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    fn listener(&self, dest: &str, service: &str) -> Option<ListenerId> {
        let Role::Client(client) = &self.role else { return None };
        client.listeners.iter().position(|(d, s)| d == dest && s == service).map(ListenerId)
    }
}

fn conn_of(action: &Action) -> Option<ConnId> {
    match action {
        Action::Connect { conn, .. }
        | Action::Write { conn, .. }
        | Action::GrantRead { conn, .. }
        | Action::Shutdown { conn }
        | Action::Abort { conn } => Some(*conn),
        Action::Resolve { .. } | Action::StopAccepting | Action::Drained => None,
    }
}

fn translate(transmit: &quinn_proto::Transmit) -> Transmit {
    Transmit {
        socket: SocketId::default(),
        remote: transmit.destination,
        ecn: transmit.ecn.map(|ecn| match ecn {
            EcnCodepoint::Ect0 => Ecn::Ect0,
            EcnCodepoint::Ect1 => Ecn::Ect1,
            EcnCodepoint::Ce => Ecn::Ce,
        }),
        len: transmit.size,
        segment_size: transmit.segment_size.unwrap_or(transmit.size),
    }
}
