//! The client's address, from the PoP that it connected to, through the mesh, to an origin that asked for
//! it.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::epoch;
use super::world::pattern;
use crate::edge::proxy_tests::parse;
use crate::rng::Rng;
use crate::{Action, Config, ConnId, ListenerId, Node, SocketId, TcpEvent};

const DELAY: Duration = Duration::from_millis(15);

/// A client, or an origin with a connection.
#[derive(Default)]
struct Socket {
    to_send: VecDeque<u8>,
    granted: usize,
    heard: Vec<u8>,
    untold: usize,
    eof_told: bool,
    /// The node wants its half closed, and has.
    ending: bool,
    shut: bool,
    aborted: bool,
}

/// PoPs in a row: clients at the first, origins at the last.
struct Row {
    now: Instant,
    rng: Rng,
    loss: f64,
    nodes: Vec<Node>,
    sockets: Vec<BTreeMap<ConnId, Socket>>,
    wire: BTreeMap<(Instant, u64), (usize, SocketAddr, Vec<u8>)>,
    order: u64,
}

fn addr(at: usize) -> SocketAddr {
    ([10, 0, 0, at as u8], 4433).into()
}

fn config(at: usize, count: usize, origin: &str) -> Config {
    let mut text = format!(
        "node_id = \"n{at}\"\nregion = \"r\"\nlisten.tcp_addr = \"127.0.0.1:2\"\n\
         relay.default_dest = \"n{}\"\norigins.default = {origin}\n",
        count - 1
    );
    for peer in [at.checked_sub(1), Some(at + 1).filter(|peer| *peer < count)] {
        let Some(peer) = peer else { continue };
        let key = STANDARD.encode([peer.min(at) as u8 + 1; 32]);
        text += &format!(
            "[[peers]]\nnode_id = \"n{peer}\"\naddr = \"{}\"\nshared_key = \"{key}\"\n",
            addr(peer)
        );
    }
    Config::parse("test.toml", text.as_bytes()).expect("a valid configuration")
}

impl Row {
    fn new(seed: u8, count: usize, loss: f64, origin: &str) -> Self {
        let (now, unix) = (epoch(), Duration::from_secs(1_800_000_000));
        let node = |at: usize| {
            // Each node of each test has a seed of its own.
            let mut bytes = [at as u8; 32];
            bytes[..2].copy_from_slice(&[seed, count as u8]);
            Node::new(config(at, count, origin), bytes, now, unix).expect("a valid node")
        };
        Self {
            now,
            rng: Rng::new([seed; 32]),
            loss,
            nodes: (0..count).map(node).collect(),
            sockets: (0..count).map(|_| BTreeMap::new()).collect(),
            wire: BTreeMap::new(),
            order: 0,
        }
    }

    fn connect(&mut self, n: u64, remote: SocketAddr, local: SocketAddr, request: &[u8]) -> ConnId {
        let conn = ConnId::accepted(n);
        let to_send = request.iter().copied().collect();
        self.sockets[0].insert(conn, Socket { to_send, ..Socket::default() });
        let listener = ListenerId(0);
        self.nodes[0].handle_tcp(self.now, TcpEvent::Accepted { conn, listener, remote, local });
        conn
    }

    fn socket(&mut self, at: usize, conn: ConnId) -> &mut Socket {
        self.sockets[at].get_mut(&conn).expect("a connection")
    }

    fn act(&mut self, at: usize) {
        while let Some(action) = self.nodes[at].poll_action() {
            match action {
                Action::Connect { conn, .. } => {
                    let answer = pattern(77, 5000).into();
                    let origin = Socket { to_send: answer, ..Socket::default() };
                    self.sockets[at].insert(conn, origin);
                    self.nodes[at].handle_tcp(self.now, TcpEvent::Connected { conn });
                }
                Action::Write { conn, data } => {
                    let socket = self.socket(at, conn);
                    assert!(!socket.ending, "bytes after the end");
                    socket.untold += data.len();
                    socket.heard.extend_from_slice(&data);
                }
                Action::GrantRead { conn, bytes } => self.socket(at, conn).granted += bytes,
                Action::Shutdown { conn } => self.socket(at, conn).ending = true,
                Action::Abort { conn } => self.socket(at, conn).aborted = true,
                Action::Resolve { .. } | Action::StopAccepting | Action::Drained => {}
            }
        }
    }

    /// Sockets are read, and take what was written in pieces of any size.
    fn feed(&mut self, at: usize) {
        for (conn, socket) in &mut self.sockets[at] {
            let (node, conn) = (&mut self.nodes[at], *conn);
            if socket.aborted || socket.eof_told && socket.shut {
                continue;
            }
            let bytes = socket.untold.min(self.rng.next_u32() as usize % 40);
            if bytes > 0 {
                socket.untold -= bytes;
                node.handle_tcp(self.now, TcpEvent::Written { conn, bytes });
            }
            socket.shut |= socket.ending && socket.untold == 0;
            let n = socket.granted.min(socket.to_send.len());
            if n > 0 {
                socket.granted -= n;
                let data: Vec<u8> = socket.to_send.drain(..n).collect();
                node.handle_tcp(self.now, TcpEvent::Received { conn, data: &data });
            }
            if socket.to_send.is_empty() && !socket.eof_told {
                socket.eof_told = true;
                node.handle_tcp(self.now, TcpEvent::Eof { conn });
            }
        }
    }

    fn send(&mut self, at: usize) {
        let mut buf = Vec::new();
        while let Some(sent) = self.nodes[at].poll_transmit(self.now, 16, &mut buf) {
            let to = (0..self.nodes.len()).find(|to| addr(*to) == sent.remote).expect("a node");
            for datagram in buf.chunks(sent.segment_size) {
                self.order += 1;
                if datagram.len() <= 1472 && self.rng.unit() >= self.loss {
                    let due = (self.now + DELAY, self.order);
                    self.wire.insert(due, (to, addr(at), datagram.to_vec()));
                }
            }
            buf.clear();
        }
    }

    /// A millisecond at a time, until both ends of all connections are done.
    fn run(&mut self, connections: usize) {
        for _ in 0..30_000 {
            self.now += Duration::from_millis(1);
            while let Some(entry) = self.wire.first_entry().filter(|e| e.key().0 <= self.now) {
                let (to, from, mut bytes) = entry.remove();
                let (len, socket) = (bytes.len(), SocketId::default());
                self.nodes[to].handle_datagram(self.now, socket, from, None, len, &mut bytes);
            }
            for at in 0..self.nodes.len() {
                if self.nodes[at].poll_timeout().is_some_and(|(due, _)| due <= self.now) {
                    self.nodes[at].handle_timeout(self.now);
                }
                self.act(at);
                self.feed(at);
                self.act(at);
                self.send(at);
            }
            let mut all = self.sockets.iter().flat_map(BTreeMap::values);
            let count = all.clone().count();
            if count == 2 * connections && all.all(|socket| socket.shut || socket.aborted) {
                return;
            }
        }
        panic!("not done after 30 s");
    }

    /// What each origin heard.
    fn heard(&self) -> Vec<&[u8]> {
        let last = self.sockets.last().into_iter().flatten();
        last.filter(|(conn, _)| !conn.is_accepted()).map(|(_, s)| s.heard.as_slice()).collect()
    }
}

const PLAIN: &str = "\"127.0.0.1:80\"";
const TOLD: &str = "{ addr = \"127.0.0.1:80\", proxy_protocol = \"v2\" }";

/// Where clients come from and to, and what an origin is told of it.
fn clients() -> Vec<[SocketAddr; 4]> {
    [
        ["192.0.2.1:1001", "198.51.100.1:443", "192.0.2.1:1001", "198.51.100.1:443"],
        ["[2001:db8::1]:1002", "[2001:db8::9]:443", "[2001:db8::1]:1002", "[2001:db8::9]:443"],
        [
            "[::ffff:192.0.2.3]:1003",
            "[2001:db8::9]:443",
            "[::ffff:192.0.2.3]:1003",
            "[2001:db8::9]:443",
        ],
        ["[::ffff:192.0.2.4]:4", "198.51.100.1:443", "192.0.2.4:4", "198.51.100.1:443"],
    ]
    .map(|texts| texts.map(|text| text.parse().expect("an address")))
    .to_vec()
}

#[test]
fn an_origin_learns_each_clients_address_and_the_stream_stays_whole() {
    for (seed, (count, loss)) in (0..).zip([(1, 0.0), (2, 0.0), (2, 0.2), (3, 0.0), (3, 0.2)]) {
        let mut row = Row::new(seed, count, loss, TOLD);
        let mut wanted = BTreeMap::new();
        for (n, [remote, local, from, to]) in clients().into_iter().enumerate() {
            // Some say nothing at all: the header alone opens the conversation.
            let request = pattern(n as u64, [0, 1, 3000, 40_000][n]);
            row.connect(n as u64, remote, local, &request);
            assert!(wanted.insert((from, to), request).is_none());
        }
        row.run(wanted.len());
        for heard in row.heard() {
            let header = parse(heard).expect("a header");
            let ends = header.addresses.expect("addresses");
            let request = wanted.remove(&ends).expect("a client of that address, once");
            let rest = &heard[header.len..];
            assert!(rest == request, "{count} PoPs, {loss}: {ends:?} {}", rest.len());
        }
        assert!(wanted.is_empty());
        for (conn, client) in row.sockets[0].iter().filter(|(conn, _)| conn.is_accepted()) {
            assert!(client.heard == pattern(77, 5000), "{count} PoPs, {loss}: {conn:?}");
        }
        for node in &row.nodes {
            node.tables(&mut |table| assert!(table.len <= table.bound, "{table:?}"));
            node.tables(&mut |table| assert!(table.name != "proxy_headers" || table.len == 0));
        }
    }
}

#[test]
fn an_origin_is_told_nothing_until_it_asks() {
    for count in [1, 2, 3] {
        let mut row = Row::new(9, count, 0.1, PLAIN);
        let [remote, local, ..] = clients()[0];
        let request = pattern(1, 3000);
        row.connect(0, remote, local, &request);
        row.run(1);
        assert!(row.heard() == [request.as_slice()], "{count} PoPs");

        let asks = config(count - 1, count, TOLD);
        let last = row.nodes.last_mut().expect("a node");
        last.reconfigure(row.now, asks).expect("a valid configuration");
        row.connect(1, remote, local, &request);
        row.run(2);
        let heard = row.heard().last().copied().expect("a connection");
        let header = parse(heard).expect("a header");
        assert_eq!(header.addresses, Some((remote, local)));
        assert!(heard[header.len..] == request, "{count} PoPs");
    }
}
