//! The world of these tests: one node that is its own destination, QUIC clients far from it over links that
//! misbehave on request, and origins beside it.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn_proto::TransportConfig;

use crate::edge::clock::Clock;
use crate::rng::Rng;
use crate::tests::epoch;
use crate::{Action, Config, ConnId, Node, SocketId, TcpEvent};

use super::certs;
use super::client::{Client, ClientStream};

/// What every link does, each way.
#[derive(Clone, Debug)]
pub(super) struct Path {
    pub delay: Duration,
    pub jitter: Duration,
    pub loss: f64,
    pub duplicate: f64,
    pub corrupt: f64,
    /// Mbit/s, each way; with a queue of 250 ms.
    pub rate: Option<f64>,
}

impl Path {
    pub(super) fn clean(delay_ms: u64) -> Self {
        Self {
            delay: Duration::from_millis(delay_ms),
            jitter: Duration::ZERO,
            loss: 0.0,
            duplicate: 0.0,
            corrupt: 0.0,
            rate: None,
        }
    }

    pub(super) fn lossy(delay_ms: u64, loss: f64) -> Self {
        Self { loss, ..Self::clean(delay_ms) }
    }
}

const QUEUE: Duration = Duration::from_millis(250);

/// One connection to an origin.
#[derive(Debug, Default)]
pub(super) struct Origin {
    pub incoming: Vec<u8>,
    /// When the first byte came.
    pub first: Option<Instant>,
    pub outgoing: VecDeque<u8>,
    pub close_when_sent: bool,
    granted: usize,
    pub eof_sent: bool,
    pub eof_received: bool,
    pub reset: bool,
    /// It takes so many bytes and no more.
    pub takes: Option<usize>,
    waiting: VecDeque<bytes::Bytes>,
    ending: bool,
}

impl Origin {
    pub(super) fn is_over(&self) -> bool {
        self.reset || (self.eof_sent && self.eof_received)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum To {
    /// One of the node's sockets.
    Node(usize),
    Client(usize),
}

pub(super) struct World {
    pub now: Instant,
    pub node: Node,
    pub clients: Vec<Client>,
    pub path: Path,
    pub origins: BTreeMap<ConnId, Origin>,
    /// New origins say back what they hear.
    pub echo: bool,
    /// New origins take so much.
    pub takes: Option<usize>,
    pub refuse_dials: bool,
    pub dials: usize,
    pub drained: bool,
    /// What clients sent, while it is kept.
    pub log: Vec<(SocketAddr, Vec<u8>)>,
    pub keep_log: bool,
    pub clock: Arc<Clock>,
    pub rng: Rng,
    wire: BTreeMap<(Instant, u64), (To, SocketAddr, Vec<u8>)>,
    order: u64,
    free_at: BTreeMap<bool, Instant>,
    pub sent_by_node: u64,
}

pub(super) const SERVERS: [&str; 2] = ["10.0.0.1:4434", "10.0.0.1:4435"];

pub(super) fn server(n: usize) -> SocketAddr {
    SERVERS[n].parse().expect("an address")
}

pub(super) fn config(extra: &str) -> Config {
    config_with("", extra)
}

fn config_with(listen: &str, extra: &str) -> Config {
    let text = format!(
        "node_id = \"a\"\nregion = \"x\"\n[listen]\nrelay_addr = \"127.0.0.1:1\"\n\
         quic_addr = \"{}\"\n{listen}\n[relay]\ndefault_dest = \"a\"\n[origins]\ndefault = \"127.0.0.1:80\"\n\
         [[edge]]\nlisten = \"{}\"\nproto = \"quic\"\n{extra}",
        SERVERS[0], SERVERS[1]
    );
    Config::parse("test.toml", text.as_bytes()).expect("a valid configuration")
}

impl World {
    pub(super) fn new(seed: u64, path: Path) -> Self {
        Self::with_config(seed, path, config(""))
    }

    pub(super) fn with_config(seed: u64, path: Path, config: Config) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_be_bytes());
        let mut rng = Rng::new(bytes);
        let (now, unix) = (epoch(), Duration::from_secs(1_800_000_000));
        let mut node = Node::new(config, rng.fork(), now, unix).expect("a valid node");
        node.set_identity(now, &certs::first());
        Self {
            now,
            node,
            clients: Vec::new(),
            path,
            origins: BTreeMap::new(),
            echo: true,
            takes: None,
            refuse_dials: false,
            dials: 0,
            drained: false,
            log: Vec::new(),
            keep_log: false,
            clock: Arc::new(Clock::new(now, unix)),
            rng,
            wire: BTreeMap::new(),
            order: 0,
            free_at: BTreeMap::new(),
            sent_by_node: 0,
        }
    }

    /// The node is told something else of how to listen.
    pub(super) fn reconfigure(&mut self, listen: &str) {
        let config = config_with(listen, "");
        self.node.reconfigure(self.now, config).expect("no reason against it");
    }

    /// Another client, not connected yet.
    pub(super) fn client(&mut self) -> usize {
        let mut transport = TransportConfig::default();
        transport.keep_alive_interval(Some(Duration::from_secs(5)));
        self.client_with(transport, "entrouter")
    }

    pub(super) fn client_with(&mut self, transport: TransportConfig, alpn: &str) -> usize {
        let n = self.clients.len();
        let addr = SocketAddr::from(([10, 1, (n >> 8) as u8, n as u8], 5000));
        let clock = Arc::clone(&self.clock);
        self.clients.push(Client::new(addr, clock, &mut self.rng, transport, alpn));
        n
    }

    /// A client that is connected.
    pub(super) fn connected(&mut self) -> usize {
        let n = self.client();
        self.connect(n);
        assert!(self.run(Duration::from_secs(30), |w| w.clients[n].connected.is_some()));
        n
    }

    pub(super) fn connect(&mut self, n: usize) {
        self.clients[n].connect(self.now, server(0));
    }

    pub(super) fn stream(&mut self, client: usize, stream: u64) -> &mut ClientStream {
        self.clients[client].stream(stream)
    }

    /// The only origin that there is.
    pub(super) fn origin(&mut self) -> &mut Origin {
        assert_eq!(self.origins.len(), 1);
        self.origins.values_mut().next().expect("an origin")
    }

    /// Lets everything go on until `done` or until so much time has passed; whether it was done.
    pub(super) fn run(&mut self, limit: Duration, done: impl Fn(&World) -> bool) -> bool {
        let end = self.now + limit;
        self.drive_all();
        let mut idle_turns = 0;
        while !done(self) {
            let timers = self.clients.iter_mut().filter_map(Client::poll_timeout).min();
            let node = self.node.poll_timeout().map(|(at, _)| at);
            let arrival = self.wire.keys().next().map(|(at, _)| *at);
            let next = [timers, node, arrival].into_iter().flatten().min();
            let Some(next) = next.filter(|at| *at <= end) else {
                self.now = end;
                self.clock.tick(self.now);
                return done(self);
            };
            idle_turns = if next > self.now { 0 } else { idle_turns + 1 };
            assert!(idle_turns < 1000, "a loop without delay: {:?}", self.node.poll_timeout());
            self.now = self.now.max(next);
            self.clock.tick(self.now);
            while let Some(entry) = self.wire.first_entry().filter(|e| e.key().0 <= self.now) {
                let (to, from, bytes) = entry.remove();
                self.arrive(to, from, bytes);
            }
            if self.node.poll_timeout().is_some_and(|(due, _)| due <= self.now) {
                self.node.handle_timeout(self.now);
            }
            self.drive_node();
            for n in 0..self.clients.len() {
                if self.clients[n].poll_timeout().is_some_and(|at| at <= self.now) {
                    self.drive_client(n);
                }
            }
        }
        true
    }

    /// Lets so much time pass.
    pub(super) fn pass(&mut self, time: Duration) {
        self.run(time, |_| false);
    }

    fn arrive(&mut self, to: To, from: SocketAddr, mut bytes: Vec<u8>) {
        match to {
            To::Node(socket) => {
                let (now, len) = (self.now, bytes.len());
                self.node.handle_datagram(now, SocketId(socket), from, None, len, &mut bytes);
                self.drive_node();
            }
            To::Client(n) => {
                if let Some(client) = self.clients.get_mut(n) {
                    client.handle(self.now, from, &bytes);
                    self.drive_client(n);
                }
            }
        }
    }

    pub(super) fn drive_all(&mut self) {
        for n in 0..self.clients.len() {
            self.drive_client(n);
        }
        self.drive_node();
    }

    fn drive_client(&mut self, n: usize) {
        let sent = self.clients[n].drive(self.now);
        let from = self.clients[n].addr;
        for (to, datagram) in sent {
            if self.keep_log {
                self.log.push((to, datagram.clone()));
            }
            let socket = usize::from(to == server(1)) + 1;
            self.send(To::Node(socket), from, datagram);
        }
    }

    /// Anybody sends something to the node's first socket; it arrives at once.
    pub(super) fn inject(&mut self, from: SocketAddr, datagram: &[u8]) {
        self.arrive(To::Node(1), from, datagram.to_vec());
    }

    pub(super) fn inject_to(&mut self, socket: usize, from: SocketAddr, datagram: &[u8]) {
        self.arrive(To::Node(socket), from, datagram.to_vec());
    }

    pub(super) fn drive_node(&mut self) {
        loop {
            if let Some(action) = self.node.poll_action() {
                self.act(action);
            } else if !self.feed() {
                break;
            }
        }
        let mut buf = Vec::new();
        while let Some(t) = self.node.poll_transmit(self.now, 16, &mut buf) {
            assert_eq!(t.len, buf.len());
            let from = server(t.socket.0 - 1);
            self.sent_by_node += t.len as u64;
            let to = self.clients.iter().position(|client| client.addr == t.remote);
            for datagram in buf.chunks(t.segment_size) {
                if let Some(to) = to {
                    self.send(To::Client(to), from, datagram.to_vec());
                }
            }
            buf.clear();
        }
    }

    fn send(&mut self, to: To, from: SocketAddr, datagram: Vec<u8>) {
        let copies = if self.rng.unit() < self.path.duplicate { 2 } else { 1 };
        for _ in 0..copies {
            let mut at = self.now;
            if let Some(rate) = self.path.rate {
                let way = matches!(to, To::Node(_));
                let free = self.free_at.get(&way).copied().unwrap_or(at).max(at);
                if free - at > QUEUE {
                    continue;
                }
                let took = Duration::from_secs_f64(datagram.len() as f64 * 8.0 / rate / 1e6);
                at = free + took;
                self.free_at.insert(way, at);
            }
            if self.rng.unit() < self.path.loss {
                continue;
            }
            let mut bytes = datagram.clone();
            if self.rng.unit() < self.path.corrupt {
                let bit = self.rng.next_u32() as usize % (bytes.len() * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            let delay = self.path.delay + self.path.jitter.mul_f64(self.rng.unit());
            self.order += 1;
            self.wire.insert((at + delay, self.order), (to, from, bytes));
        }
    }

    fn act(&mut self, action: Action) {
        let now = self.now;
        match action {
            Action::Connect { conn, .. } => {
                self.dials += 1;
                let event = if self.refuse_dials {
                    TcpEvent::ConnectFailed { conn }
                } else {
                    let takes = self.takes;
                    self.origins.insert(conn, Origin { takes, ..Origin::default() });
                    TcpEvent::Connected { conn }
                };
                self.node.handle_tcp(now, event);
            }
            Action::Write { conn, data } => {
                self.origins.get_mut(&conn).expect("an origin").waiting.push_back(data);
                self.take(conn);
            }
            Action::GrantRead { conn, bytes } => {
                self.origins.get_mut(&conn).expect("an origin").granted += bytes;
            }
            Action::Shutdown { conn } => {
                let origin = self.origins.get_mut(&conn).expect("an origin");
                origin.ending = true;
                origin.eof_received = origin.waiting.is_empty();
                origin.close_when_sent |= self.echo;
            }
            Action::Abort { conn } => {
                let origin = self.origins.get_mut(&conn).expect("no stream is told of");
                origin.reset = true;
            }
            Action::Drained => self.drained = true,
            Action::StopAccepting => {}
            Action::Resolve { .. } => panic!("there are no peers"),
        }
    }

    /// The origin takes what it wants.
    pub(super) fn take(&mut self, conn: ConnId) {
        let Some(origin) = self.origins.get_mut(&conn) else { return };
        let mut taken = 0;
        while let Some(data) = origin.waiting.pop_front() {
            let room = origin.takes.map_or(usize::MAX, |t| t.saturating_sub(origin.incoming.len()));
            let n = room.min(data.len());
            origin.first.get_or_insert(self.now);
            origin.incoming.extend_from_slice(&data[..n]);
            if self.echo {
                origin.outgoing.extend(&data[..n]);
            }
            taken += n;
            if n < data.len() {
                origin.waiting.push_front(data.slice(n..));
                break;
            }
        }
        origin.eof_received |= origin.ending && origin.waiting.is_empty();
        if taken > 0 && !origin.reset {
            self.node.handle_tcp(self.now, TcpEvent::Written { conn, bytes: taken });
        }
    }

    /// Origins take more than before, from now on.
    pub(super) fn take_all(&mut self) {
        self.takes = None;
        let all: Vec<ConnId> = self.origins.keys().copied().collect();
        for conn in all {
            self.origins.get_mut(&conn).expect("an origin").takes = None;
            self.take(conn);
        }
        self.drive_node();
    }

    /// An origin breaks its connection.
    pub(super) fn reset_origin(&mut self, conn: ConnId) {
        self.origins.get_mut(&conn).expect("an origin").reset = true;
        self.node.handle_tcp(self.now, TcpEvent::Reset { conn });
        self.drive_node();
    }

    /// Origins send what they may; whether any did.
    fn feed(&mut self) -> bool {
        let mut any = false;
        for (conn, origin) in &mut self.origins {
            if origin.is_over() {
                continue;
            }
            let n = origin.granted.min(origin.outgoing.len());
            if n > 0 {
                let data: Vec<u8> = origin.outgoing.drain(..n).collect();
                origin.granted -= n;
                self.node.handle_tcp(self.now, TcpEvent::Received { conn: *conn, data: &data });
                any = true;
            }
            if origin.outgoing.is_empty() && origin.close_when_sent && !origin.eof_sent {
                origin.eof_sent = true;
                self.node.handle_tcp(self.now, TcpEvent::Eof { conn: *conn });
                any = true;
            }
        }
        any
    }

    /// Every queue and table of the node is within its bound.
    pub(super) fn check_tables(&self) {
        self.node.tables(&mut |table| {
            assert!(table.len <= table.bound && table.bound > 0, "{table:?}");
        });
    }

    pub(super) fn table(&self, name: &str) -> u64 {
        let mut len = None;
        self.node.tables(&mut |table| len = len.or((table.name == name).then_some(table.len)));
        len.expect("a table of that name")
    }

    pub(super) fn quic(&self) -> crate::status::QuicStatus {
        self.node.status(self.now).quic
    }
}

/// Bytes that look like nothing else.
pub(super) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    let mut out = vec![0; len];
    Rng::new(bytes).fill(&mut out);
    out
}
