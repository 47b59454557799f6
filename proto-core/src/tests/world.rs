//! The world of these tests: two nodes, a link between them that misbehaves on request, TCP endpoints.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::epoch;
use crate::config::Limits;
use crate::rng::Rng;
use crate::status::Table;
use crate::{Action, Config, ConnId, ListenerId, Node, SocketId, TcpEvent};

/// What the link does, each way.
#[derive(Clone, Debug)]
pub(super) struct Path {
    pub delay: Duration,
    pub jitter: Duration,
    pub loss: f64,
    pub duplicate: f64,
    pub corrupt: f64,
    /// Longer UDP payloads vanish.
    pub mtu: usize,
    /// Datagrams that are marked as ECN-capable vanish.
    pub drops_ect: bool,
    pub cut: bool,
}

impl Path {
    pub(super) fn clean(delay_ms: u64) -> Self {
        Self {
            delay: Duration::from_millis(delay_ms),
            jitter: Duration::ZERO,
            loss: 0.0,
            duplicate: 0.0,
            corrupt: 0.0,
            mtu: 1472,
            drops_ect: false,
            cut: false,
        }
    }

    pub(super) fn lossy(delay_ms: u64, loss: f64) -> Self {
        Self { loss, ..Self::clean(delay_ms) }
    }
}

/// One TCP connection outside of a node: a client of node 0, an origin of node 1.
#[derive(Debug, Default)]
pub(super) struct Endpoint {
    pub outgoing: VecDeque<u8>,
    pub close_when_sent: bool,
    pub incoming: Vec<u8>,
    pub granted: usize,
    pub eof_sent: bool,
    pub eof_received: bool,
    pub reset: bool,
    /// Takes at most so many bytes, then stalls.
    pub takes: Option<usize>,
    waiting: VecDeque<bytes::Bytes>,
    /// The node closed its half; takes effect when nothing waits any more.
    ending: bool,
}

impl Endpoint {
    fn is_over(&self) -> bool {
        self.reset || (self.eof_sent && self.eof_received)
    }
}

pub(super) struct World {
    pub now: Instant,
    start: Instant,
    pub nodes: [Option<Node>; 2],
    pub configs: [Config; 2],
    pub path: Path,
    pub unix: Duration,
    rng: Rng,
    wire: BTreeMap<(Instant, u64), (usize, SocketAddr, Vec<u8>)>,
    order: u64,
    pub conns: [BTreeMap<ConnId, Endpoint>; 2],
    accepted: u64,
    pub addrs: [SocketAddr; 2],
    /// Every datagram, with its sender.
    pub log: Vec<(usize, Vec<u8>)>,
    pub keep_log: bool,
    /// Everything but the packets of sessions is lost.
    pub no_handshakes: bool,
    /// Origins answer with this many bytes for each one received, and close after the client did.
    pub echo: bool,
    pub refuse_dials: bool,
    pub dials: usize,
    pub drained: [bool; 2],
}

pub(super) const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

fn config(text: &str) -> Config {
    Config::parse("test.toml", text.as_bytes()).expect("a valid configuration")
}

impl World {
    pub(super) fn new(seed: u64, path: Path) -> Self {
        Self::with_limits(seed, path, [Limits::default(), Limits::default()])
    }

    pub(super) fn with_limits(seed: u64, path: Path, limits: [Limits; 2]) -> Self {
        let a = format!(
            "node_id = \"a\"\nregion = \"x\"\n[listen]\nrelay_addr = \"127.0.0.1:1\"\n\
             tcp_addr = \"127.0.0.1:2\"\n[[peers]]\nnode_id = \"b\"\n\
             addr = \"10.0.0.2:4433\"\nshared_key = \"{KEY}\"\n"
        );
        let b = format!(
            "node_id = \"b\"\nregion = \"y\"\n[listen]\nrelay_addr = \"127.0.0.1:1\"\n\
             [origins]\ndefault = \"127.0.0.1:80\"\n[[peers]]\nnode_id = \"a\"\n\
             addr = \"10.0.0.1:4433\"\nshared_key = \"{KEY}\"\n"
        );
        let [mut a, mut b] = [config(&a), config(&b)];
        [a.limits, b.limits] = limits;
        Self::with_configs(seed, path, [a, b])
    }

    pub(super) fn with_configs(seed: u64, path: Path, configs: [Config; 2]) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_be_bytes());
        let now = epoch();
        let mut world = Self {
            now,
            start: now,
            nodes: [None, None],
            configs,
            path,
            unix: Duration::from_secs(1_800_000_000),
            rng: Rng::new(bytes),
            wire: BTreeMap::new(),
            order: 0,
            conns: [BTreeMap::new(), BTreeMap::new()],
            accepted: 0,
            addrs: [([10, 0, 0, 1], 4433).into(), ([10, 0, 0, 2], 4433).into()],
            log: Vec::new(),
            keep_log: false,
            no_handshakes: false,
            echo: true,
            refuse_dials: false,
            dials: 0,
            drained: [false; 2],
        };
        world.boot(0);
        world.boot(1);
        world
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// Starts a node, or kills it and starts it anew.
    pub(super) fn boot(&mut self, at: usize) {
        self.kill(at);
        let unix = self.unix + self.elapsed();
        let seed = self.rng.fork();
        let node = Node::new(self.configs[at].clone(), seed, self.now, unix);
        self.nodes[at] = Some(node.expect("a valid node"));
    }

    pub(super) fn kill(&mut self, at: usize) {
        self.nodes[at] = None;
        for endpoint in self.conns[at].values_mut() {
            endpoint.reset |= !endpoint.is_over();
        }
    }

    /// A client connects to node 0.
    pub(super) fn connect(&mut self, outgoing: &[u8], close: bool) -> ConnId {
        let conn = ConnId::accepted(self.accepted);
        self.accepted += 1;
        let endpoint = Endpoint {
            outgoing: outgoing.iter().copied().collect(),
            close_when_sent: close,
            ..Endpoint::default()
        };
        self.conns[0].insert(conn, endpoint);
        let (listener, remote) = (ListenerId(0), self.addrs[0]);
        let local = ([127, 0, 0, 1], 2).into();
        let event = TcpEvent::Accepted { conn, listener, remote, local };
        if let Some(node) = &mut self.nodes[0] {
            node.handle_tcp(self.now, event);
        }
        self.drive(0);
        conn
    }

    pub(super) fn client(&mut self, conn: ConnId) -> &mut Endpoint {
        self.conns[0].get_mut(&conn).expect("a client")
    }

    pub(super) fn reset_conn(&mut self, at: usize, conn: ConnId) {
        if let Some(endpoint) = self.conns[at].get_mut(&conn) {
            endpoint.reset = true;
        }
        if let Some(node) = &mut self.nodes[at] {
            node.handle_tcp(self.now, TcpEvent::Reset { conn });
        }
        self.drive(at);
    }

    /// Lets everything go on until `done` or until so much time has passed; whether it was done.
    pub(super) fn run(&mut self, limit: Duration, done: impl Fn(&World) -> bool) -> bool {
        let end = self.now + limit;
        for at in 0..2 {
            self.drive(at);
        }
        let mut idle_turns = 0;
        while !done(self) {
            let timer = |node: &Option<Node>| Some(node.as_ref()?.poll_timeout()?.0);
            let timers = self.nodes.iter().filter_map(timer).min();
            let arrival = self.wire.keys().next().map(|(at, _)| *at);
            let next = [timers, arrival].into_iter().flatten().min();
            let Some(next) = next.filter(|at| *at <= end) else {
                self.now = end;
                return done(self);
            };
            idle_turns = if next > self.now { 0 } else { idle_turns + 1 };
            assert!(idle_turns < 20_000, "a loop without delay: {:?}", self.why());
            self.now = self.now.max(next);
            while let Some(entry) = self.wire.first_entry().filter(|e| e.key().0 <= self.now) {
                let (to, from, mut bytes) = entry.remove();
                if let Some(node) = &mut self.nodes[to] {
                    let len = bytes.len();
                    node.handle_datagram(
                        self.now,
                        SocketId::default(),
                        from,
                        None,
                        len,
                        &mut bytes,
                    );
                }
                self.drive(to);
            }
            for at in 0..2 {
                let now = self.now;
                if let Some(node) = &mut self.nodes[at]
                    && node.poll_timeout().is_some_and(|(due, _)| due <= now)
                {
                    node.handle_timeout(now);
                }
                self.drive(at);
            }
        }
        true
    }

    fn why(&self) -> Vec<Option<crate::TimerReason>> {
        self.nodes.iter().map(|n| Some(n.as_ref()?.poll_timeout()?.1)).collect()
    }

    /// Drains a node.
    pub(super) fn drive(&mut self, at: usize) {
        loop {
            let Some(node) = &mut self.nodes[at] else { return };
            let Some(action) = node.poll_action() else {
                if self.feed(at) {
                    continue;
                }
                break;
            };
            self.act(at, action);
        }
        let mut buf = Vec::new();
        while let Some(node) = &mut self.nodes[at] {
            buf.clear();
            let Some(t) = node.poll_transmit(self.now, 16, &mut buf) else { break };
            assert_eq!(t.len, buf.len());
            if self.path.drops_ect && t.ecn.is_some() {
                continue;
            }
            for datagram in buf.chunks(t.segment_size) {
                assert!(datagram.len() <= crate::config::MAX_UDP_PAYLOAD);
                if self.keep_log {
                    self.log.push((at, datagram.to_vec()));
                }
                let to = usize::from(self.addrs[1] == t.remote);
                self.send(at, to, datagram.to_vec());
            }
        }
    }

    /// Puts a datagram on the wire.
    pub(super) fn send(&mut self, from: usize, to: usize, datagram: Vec<u8>) {
        let copies = if self.rng.unit() < self.path.duplicate { 2 } else { 1 };
        for _ in 0..copies {
            if self.no_handshakes && datagram.first() != Some(&5) {
                continue;
            }
            if self.path.cut || datagram.len() > self.path.mtu || self.rng.unit() < self.path.loss {
                continue;
            }
            let mut bytes = datagram.clone();
            if self.rng.unit() < self.path.corrupt {
                let bit = self.rng.next_u32() as usize % (bytes.len() * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            let delay = self.path.delay + self.path.jitter.mul_f64(self.rng.unit());
            self.order += 1;
            self.wire.insert((self.now + delay, self.order), (to, self.addrs[from], bytes));
        }
    }

    fn act(&mut self, at: usize, action: Action) {
        let now = self.now;
        match action {
            Action::Connect { conn, .. } => {
                self.dials += 1;
                let event = if self.refuse_dials {
                    TcpEvent::ConnectFailed { conn }
                } else {
                    self.conns[at].insert(conn, Endpoint::default());
                    TcpEvent::Connected { conn }
                };
                if let Some(node) = &mut self.nodes[at] {
                    node.handle_tcp(now, event);
                }
            }
            Action::Write { conn, data } => {
                self.endpoint(at, conn, "a write").waiting.push_back(data);
                self.take(at, conn);
            }
            Action::GrantRead { conn, bytes } => {
                self.endpoint(at, conn, "a grant").granted += bytes;
            }
            Action::Shutdown { conn } => {
                let echo = self.echo && at == 1;
                let endpoint = self.endpoint(at, conn, "an end");
                assert!(endpoint.waiting.is_empty() || endpoint.takes.is_some());
                endpoint.ending = true;
                endpoint.eof_received = endpoint.waiting.is_empty();
                endpoint.close_when_sent |= echo;
            }
            Action::Abort { conn } => {
                if let Some(endpoint) = self.conns[at].get_mut(&conn) {
                    assert!(!endpoint.is_over(), "abort of a connection that is over");
                    endpoint.reset = true;
                }
            }
            Action::Drained => self.drained[at] = true,
            Action::StopAccepting => {}
            Action::Resolve { .. } => panic!("addresses are literal"),
        }
    }

    fn endpoint(&mut self, at: usize, conn: ConnId, what: &str) -> &mut Endpoint {
        let endpoint = self.conns[at].get_mut(&conn).expect("a connection that was opened");
        assert!(!endpoint.is_over(), "{what} for {conn:?}, which is over");
        endpoint
    }

    /// The socket takes what it wants.
    pub(super) fn take(&mut self, at: usize, conn: ConnId) {
        let echo = self.echo && at == 1;
        let Some(endpoint) = self.conns[at].get_mut(&conn) else { return };
        let mut taken = 0;
        while let Some(data) = endpoint.waiting.pop_front() {
            let room =
                endpoint.takes.map_or(usize::MAX, |t| t.saturating_sub(endpoint.incoming.len()));
            let n = room.min(data.len());
            endpoint.incoming.extend_from_slice(&data[..n]);
            if echo {
                endpoint.outgoing.extend(&data[..n]);
            }
            taken += n;
            if n < data.len() {
                endpoint.waiting.push_front(data.slice(n..));
                break;
            }
        }
        if endpoint.is_over() {
            return;
        }
        endpoint.eof_received |= endpoint.ending && endpoint.waiting.is_empty();
        if taken > 0
            && let Some(node) = &mut self.nodes[at]
        {
            node.handle_tcp(self.now, TcpEvent::Written { conn, bytes: taken });
        }
    }

    /// The endpoints send what they may; whether any did.
    fn feed(&mut self, at: usize) -> bool {
        let mut any = false;
        let now = self.now;
        for (conn, endpoint) in &mut self.conns[at] {
            let Some(node) = &mut self.nodes[at] else { return false };
            if endpoint.is_over() {
                continue;
            }
            let n = endpoint.granted.min(endpoint.outgoing.len());
            if n > 0 {
                let data: Vec<u8> = endpoint.outgoing.drain(..n).collect();
                endpoint.granted -= n;
                node.handle_tcp(now, TcpEvent::Received { conn: *conn, data: &data });
                any = true;
            }
            if endpoint.outgoing.is_empty() && endpoint.close_when_sent && !endpoint.eof_sent {
                endpoint.eof_sent = true;
                node.handle_tcp(now, TcpEvent::Eof { conn: *conn });
                any = true;
            }
        }
        any
    }

    /// Every queue and table of every node is within its bound.
    pub(super) fn check_tables(&self, see: &mut dyn FnMut(&Table)) {
        for (at, node) in self.nodes.iter().enumerate() {
            let check = &mut |table: Table| {
                assert!(table.len <= table.bound && table.bound > 0, "node {at}: {table:?}");
                see(&table);
            };
            node.iter().for_each(|node| node.tables(check));
        }
    }

    pub(super) fn are_over(&self) -> bool {
        self.conns.iter().flat_map(|c| c.values()).all(Endpoint::is_over)
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
