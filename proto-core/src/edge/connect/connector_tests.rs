//! A connector and a PoP with a QUIC edge in virtual time, one link between them.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::config::{Config, HostPort};
use crate::edge::identity::Identity;
use crate::ids::{ConnId, ListenerId, PeerId, SocketId};
use crate::io::{Action, TcpEvent, Transmit};
use crate::node::Node;
use crate::rng::Rng;
use crate::tests::epoch;

const CERT: &[u8] = include_bytes!("../testdata/ed25519.pem");
const KEY: &[u8] = include_bytes!("../testdata/ed25519.key");
const DELAY: Duration = Duration::from_millis(20);
const HERE: [u8; 4] = [10, 0, 0, 1];
const EDGE: [u8; 4] = [10, 0, 0, 2];

/// The far end of a TCP connection of the connector, or of the PoP.
#[derive(Debug, Default)]
struct Tcp {
    to_send: VecDeque<u8>,
    /// To end after that.
    ends: bool,
    has_ended: bool,
    granted: usize,
    received: Vec<u8>,
    is_shut: bool,
    is_reset: bool,
    /// Sends back what it receives, and ends when its client does.
    echoes: bool,
    /// Written, and not reported: it takes nothing.
    lazy: bool,
    unreported: usize,
    /// When the first byte came.
    first: Option<Instant>,
}

struct World {
    now: Instant,
    node: Node,
    connector: Connector,
    /// Datagrams under way: to the PoP or not.
    link: BTreeMap<(Instant, u64), (bool, Vec<u8>)>,
    number: u64,
    loss: f64,
    rng: Rng,
    here: SocketAddr,
    programs: BTreeMap<ConnId, Tcp>,
    origins: BTreeMap<ConnId, Tcp>,
    /// How an origin behaves.
    echoes: bool,
    lazy: bool,
    refuses: bool,
    /// Nothing comes through.
    cut: bool,
    resolvable: bool,
    is_drained: bool,
    lives: u8,
}

fn node(now: Instant, seed: u8) -> Node {
    let text = "node_id = \"a\"\nregion = \"r\"\n[listen]\nquic_addr = \"10.0.0.2:4434\"\n\
                [relay]\ndefault_dest = \"a\"\n[origins]\ndefault = \"10.0.0.3:80\"\n\
                [[peers]]\nnode_id = \"z\"\n\
                shared_key = \"AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\"\n";
    let config = Config::parse("test", text.as_bytes()).unwrap();
    let mut node = Node::new(config, [seed; 32], now, Duration::from_secs(1_800_000_000)).unwrap();
    node.set_identity(now, &Identity::from_pem(CERT, KEY).unwrap());
    node
}

fn wish(tickets: Option<Vec<u8>>) -> Wish {
    let identity = Identity::from_pem(CERT, KEY).unwrap();
    Wish {
        edge: HostPort { host: "edge.example".to_owned(), port: 4434 },
        server_name: "localhost".to_owned(),
        trust: Trust::fingerprint(&fingerprint(identity.certificate())).unwrap(),
        alpn: "entrouter".to_owned(),
        early_data: true,
        tickets,
    }
}

fn connector(now: Instant, seed: u8, wish: Wish) -> Connector {
    Connector::new(wish, [seed; 32], now, Duration::from_secs(1_800_000_000)).unwrap()
}

impl World {
    fn new(tickets: Option<Vec<u8>>) -> Self {
        let now = epoch();
        Self {
            now,
            node: node(now, 1),
            connector: connector(now, 2, wish(tickets)),
            link: BTreeMap::new(),
            number: 0,
            loss: 0.0,
            rng: Rng::new([3; 32]),
            here: SocketAddr::from((HERE, 1000)),
            programs: BTreeMap::new(),
            origins: BTreeMap::new(),
            echoes: true,
            lazy: false,
            refuses: false,
            cut: false,
            resolvable: true,
            is_drained: false,
            lives: 3,
        }
    }

    /// Another process of the connector, with what the one before kept.
    fn restart_connector(&mut self) {
        let tickets = self.connector.tickets_to_keep();
        self.lives += 1;
        self.connector = connector(self.now, self.lives, wish(tickets));
        self.programs.clear();
        self.here.set_port(self.here.port() + 1);
    }

    /// Another process of the PoP, which has forgotten everything.
    fn restart_node(&mut self) {
        self.lives += 1;
        self.node = node(self.now, self.lives);
        self.origins.clear();
    }

    fn program(&mut self, n: u64, data: &[u8], ends: bool) -> ConnId {
        let conn = ConnId::accepted(n);
        let tcp = Tcp { to_send: data.iter().copied().collect(), ends, ..Tcp::default() };
        self.programs.insert(conn, tcp);
        let remote = SocketAddr::from(([127, 0, 0, 1], 5000));
        let listener = ListenerId(0);
        let event = TcpEvent::Accepted { conn, listener, remote, local: remote };
        self.connector.handle_tcp(self.now, event);
        conn
    }

    /// Lets everything that is due now happen, and then time pass until the next deadline; false when
    /// nothing more happens before `until`.
    fn step(&mut self, until: Instant) -> bool {
        self.settle();
        let happens = self.advance(until);
        self.settle();
        happens
    }

    fn settle(&mut self) {
        for _ in 0..1000 {
            let mut acted = false;
            while let Some(action) = self.connector.poll_action() {
                acted = true;
                self.on_connector(action);
            }
            while let Some(action) = self.node.poll_action() {
                acted = true;
                self.on_node(action);
            }
            acted |= self.feed(true) | self.feed(false);
            let mut buf = Vec::new();
            while let Some(t) = self.connector.poll_transmit(self.now, 10, &mut buf) {
                acted = true;
                assert_eq!(t.remote, SocketAddr::from((EDGE, 4434)));
                self.send(true, &t, &buf);
                buf.clear();
            }
            while let Some(t) = self.node.poll_transmit(self.now, 10, &mut buf) {
                acted = true;
                assert_eq!(t.socket, SocketId(1));
                if t.remote == self.here {
                    self.send(false, &t, &buf);
                }
                buf.clear();
            }
            if !acted {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    fn advance(&mut self, until: Instant) -> bool {
        let timers = [self.connector.poll_timeout(), self.node.poll_timeout()];
        let timer = timers.into_iter().flatten().map(|(at, _)| at).min();
        let arrival = self.link.keys().next().map(|(at, _)| *at);
        let Some(next) = timer.into_iter().chain(arrival).min().filter(|at| *at <= until) else {
            self.now = until;
            return false;
        };
        self.now = self.now.max(next);
        while let Some(entry) = self.link.first_entry()
            && entry.key().0 <= self.now
        {
            let (to_node, mut bytes) = entry.remove();
            let len = bytes.len();
            if to_node {
                let (socket, here) = (SocketId(1), self.here);
                self.node.handle_datagram(self.now, socket, here, None, len, &mut bytes);
            } else {
                let edge = SocketAddr::from((EDGE, 4434));
                self.connector.handle_datagram(self.now, SocketId(0), edge, None, len, &mut bytes);
            }
        }
        self.connector.handle_timeout(self.now);
        self.node.handle_timeout(self.now);
        true
    }

    fn run_for(&mut self, time: Duration) {
        let until = self.now + time;
        while self.step(until) {}
    }

    fn run_until(&mut self, most: Duration, done: impl Fn(&Self) -> bool) {
        let until = self.now + most;
        while !done(self) {
            assert!(self.step(until), "not within {most:?}: {:?}", self.connector.status());
        }
    }

    fn send(&mut self, to_node: bool, t: &Transmit, buf: &[u8]) {
        for datagram in buf[..t.len].chunks(t.segment_size) {
            if self.cut || self.rng.unit() < self.loss {
                continue;
            }
            self.number += 1;
            self.link.insert((self.now + DELAY, self.number), (to_node, datagram.to_vec()));
        }
    }

    /// The programs, or the origins, send what they may.
    fn feed(&mut self, programs: bool) -> bool {
        let mut events: Vec<(ConnId, Option<Vec<u8>>)> = Vec::new();
        let all = if programs { &mut self.programs } else { &mut self.origins };
        for (conn, tcp) in all.iter_mut().filter(|(_, tcp)| !tcp.is_reset) {
            let n = tcp.granted.min(tcp.to_send.len());
            if n > 0 {
                tcp.granted -= n;
                events.push((*conn, Some(tcp.to_send.drain(..n).collect())));
            }
            if tcp.ends && tcp.to_send.is_empty() && !tcp.has_ended {
                tcp.has_ended = true;
                events.push((*conn, None));
            }
        }
        for (conn, data) in &events {
            let event = match data {
                Some(data) => TcpEvent::Received { conn: *conn, data },
                None => TcpEvent::Eof { conn: *conn },
            };
            match programs {
                true => self.connector.handle_tcp(self.now, event),
                false => self.node.handle_tcp(self.now, event),
            }
        }
        !events.is_empty()
    }

    fn on_connector(&mut self, action: Action) {
        match action {
            Action::Resolve { .. } => {
                let addrs = [SocketAddr::from((EDGE, 4434))];
                let addrs = if self.resolvable { &addrs[..] } else { &[] };
                self.connector.handle_resolved(self.now, PeerId(0), addrs);
            }
            Action::Drained => self.is_drained = true,
            Action::StopAccepting => {}
            other => {
                if let Some(event) = take(self.now, &mut self.programs, &other) {
                    self.connector.handle_tcp(self.now, event);
                }
            }
        }
    }

    fn on_node(&mut self, action: Action) {
        if let Action::Connect { conn, .. } = action {
            if self.refuses {
                return self.node.handle_tcp(self.now, TcpEvent::ConnectFailed { conn });
            }
            let (echoes, lazy) = (self.echoes, self.lazy);
            self.origins.insert(conn, Tcp { echoes, lazy, ..Tcp::default() });
            self.node.handle_tcp(self.now, TcpEvent::Connected { conn });
        } else if let Some(event) = take(self.now, &mut self.origins, &action) {
            self.node.handle_tcp(self.now, event);
        }
    }

    fn origin(&self) -> &Tcp {
        assert_eq!(self.origins.len(), 1);
        self.origins.values().next().unwrap()
    }
}

/// What a far end does when the core asks something of its connection.
fn take(
    now: Instant,
    all: &mut BTreeMap<ConnId, Tcp>,
    action: &Action,
) -> Option<TcpEvent<'static>> {
    match action {
        Action::Write { conn, data } => {
            let tcp = all.get_mut(conn).filter(|tcp| !tcp.is_reset)?;
            tcp.first.get_or_insert(now);
            tcp.received.extend_from_slice(data);
            if tcp.echoes {
                tcp.to_send.extend(data);
            }
            if tcp.lazy {
                tcp.unreported += data.len();
                return None;
            }
            Some(TcpEvent::Written { conn: *conn, bytes: data.len() })
        }
        Action::GrantRead { conn, bytes } => {
            all.get_mut(conn)?.granted += bytes;
            None
        }
        Action::Shutdown { conn } => {
            let tcp = all.get_mut(conn)?;
            tcp.is_shut = true;
            tcp.ends |= tcp.echoes;
            None
        }
        Action::Abort { conn } => {
            all.get_mut(conn)?.is_reset = true;
            None
        }
        other => panic!("{other:?}"),
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 7 + n / 251) as u8).collect()
}

fn is_done(world: &World, conn: ConnId) -> bool {
    world.programs[&conn].is_shut && world.programs[&conn].has_ended
}

const LONG: Duration = Duration::from_secs(300);

#[test]
fn bytes_come_back_as_they_went_and_both_ends_end() {
    let mut world = World::new(None);
    let data = pattern(3_000_000);
    let conn = world.program(0, &data, true);
    world.run_until(LONG, |w| is_done(w, conn));
    assert!(world.programs[&conn].received == data && !world.programs[&conn].is_reset);
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.connector.status().clients, 0);
    assert_eq!(world.node.status(world.now).tcp_flows, 0);
}

#[test]
fn who_comes_back_waits_one_round_trip_for_the_first_byte_and_nobody_less() {
    let mut world = World::new(None);
    let begun = world.now;
    // A new client: a round trip for the handshake, and one for the bytes.
    let conn = world.program(0, b"hello", false);
    world.run_until(LONG, |w| !w.programs[&conn].received.is_empty());
    let took = world.now - begun;
    assert!(took >= 4 * DELAY && took < 4 * DELAY + Duration::from_millis(2), "{took:?}");
    // Another program on the same connection.
    world.run_for(Duration::from_secs(1));
    let begun = world.now;
    let conn = world.program(1, b"hello", false);
    world.run_until(LONG, |w| !w.programs[&conn].received.is_empty());
    assert!(world.now - begun < 2 * DELAY + Duration::from_millis(2), "{:?}", world.now - begun);
    // The next life of the connector.
    for _ in 0..3 {
        world.restart_connector();
        let begun = world.now;
        let conn = world.program(0, b"hello", false);
        world.run_until(LONG, |w| !w.programs[&conn].received.is_empty());
        let took = world.now - begun;
        assert!(took < 2 * DELAY + Duration::from_millis(2), "{took:?}");
        world.run_for(Duration::from_secs(1));
        assert_eq!(world.connector.status().early, 1);
    }
}

#[test]
fn early_data_that_the_edge_refuses_is_said_again_exactly_once() {
    let mut world = World::new(None);
    world.run_for(Duration::from_secs(1));
    world.restart_node();
    world.restart_connector();
    let data = pattern(200_000);
    let conns = [0, 1, 2].map(|n| world.program(n, &data, true));
    world.run_until(LONG, |w| conns.iter().all(|conn| is_done(w, *conn)));
    assert_eq!(world.connector.status().early, 0);
    assert_eq!(world.origins.len(), 3);
    for conn in conns {
        assert!(world.programs[&conn].received == data, "{}", world.programs[&conn].received.len());
    }
}

#[test]
fn an_edge_that_is_gone_breaks_what_it_had_and_is_found_again() {
    let mut world = World::new(None);
    let conn = world.program(0, b"hello", false);
    world.run_until(LONG, |w| !w.programs[&conn].received.is_empty());
    world.restart_node();
    world.run_until(Duration::from_secs(20), |w| w.programs[&conn].is_reset);
    let conn = world.program(1, b"hello again", true);
    world.run_until(Duration::from_secs(20), |w| is_done(w, conn));
    assert_eq!(world.programs[&conn].received, b"hello again");
}

#[test]
fn an_edge_that_was_restarted_says_so_to_whoever_speaks_to_it() {
    let mut world = World::new(None);
    let old = world.program(0, b"hello", false);
    world.run_until(LONG, |w| !w.programs[&old].received.is_empty());
    world.restart_node();
    let start = world.now;
    let first = world.program(1, b"anybody there?", true);
    world.run_until(LONG, |w| w.programs[&first].is_reset && w.programs[&old].is_reset);
    let next = world.program(2, b"hello again", true);
    world.run_until(LONG, |w| is_done(w, next));
    assert!(world.now - start < Duration::from_secs(1), "{:?}", world.now - start);
}

#[test]
fn a_program_waits_ten_seconds_for_an_edge_and_no_longer() {
    for resolvable in [true, false] {
        let mut world = World::new(None);
        world.cut = true;
        world.resolvable = resolvable;
        world.run_for(Duration::from_secs(60));
        let conn = world.program(0, b"hello", false);
        let begun = world.now;
        world.run_until(LONG, |w| w.programs[&conn].is_reset);
        let took = world.now - begun;
        assert!(took >= Duration::from_secs(10) && took < Duration::from_secs(11), "{took:?}");
        // Back within the longest wait between attempts, and one attempt.
        world.cut = false;
        world.resolvable = true;
        world.run_until(Duration::from_secs(27), |w| w.connector.status().is_up);
        assert!(world.connector.status().failed > 3);
    }
}

#[test]
fn resets_pass_both_ways() {
    let mut world = World::new(None);
    let conn = world.program(0, b"hello", false);
    world.run_until(LONG, |w| !w.programs[&conn].received.is_empty());
    world.connector.handle_tcp(world.now, TcpEvent::Reset { conn });
    world.run_until(LONG, |w| w.origin().is_reset);
    world.origins.clear();

    let conn = world.program(1, b"hello", false);
    world.run_until(LONG, |w| !w.programs[&conn].received.is_empty());
    let origin = *world.origins.keys().next().unwrap();
    world.node.handle_tcp(world.now, TcpEvent::Reset { conn: origin });
    world.run_until(LONG, |w| w.programs[&conn].is_reset);

    world.refuses = true;
    let conn = world.program(2, b"hello", false);
    world.run_until(LONG, |w| w.programs[&conn].is_reset);
    assert_eq!(world.connector.status().clients, 0);
}

#[test]
fn an_origin_that_takes_nothing_holds_its_program_back() {
    let mut world = World::new(None);
    world.lazy = true;
    world.echoes = false;
    let conn = world.program(0, &vec![7; 200 << 20], false);
    world.run_for(Duration::from_secs(60));
    let left = world.programs[&conn].to_send.len();
    let taken = (200 << 20) - left;
    assert!(taken < 100 << 20, "{taken} bytes are somewhere");
    let before = taken;
    world.run_for(Duration::from_secs(60));
    assert_eq!((200 << 20) - world.programs[&conn].to_send.len(), before);
}

#[test]
fn draining_lets_programs_finish_and_takes_no_more() {
    let mut world = World::new(None);
    let data = pattern(1_000_000);
    let conn = world.program(0, &data, true);
    world.run_for(Duration::from_millis(100));
    world.connector.drain(world.now);
    let late = world.program(1, b"too late", true);
    world.run_until(LONG, |w| w.is_drained);
    assert!(world.programs[&conn].received == data && world.programs[&late].is_reset);
    world.run_for(Duration::from_secs(1));
    // The edge was told: it need not find out by itself.
    assert_eq!(world.node.status(world.now).quic.connections, 0);
}

#[test]
fn a_connector_that_changes_its_address_goes_on() {
    let mut world = World::new(None);
    let data = pattern(5_000_000);
    let conn = world.program(0, &data, true);
    world.run_for(Duration::from_millis(150));
    assert!(!is_done(&world, conn));
    world.here = SocketAddr::from(([10, 9, 9, 9], 77));
    world.run_until(LONG, |w| is_done(w, conn));
    assert!(world.programs[&conn].received == data);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Sizes, loss and restarts of the connector as they come: what comes back is what went, or a reset.
    #[test]
    fn nothing_is_cut_short_or_said_twice(
        sizes in prop::collection::vec(0usize..400_000, 1..6),
        loss in 0.0f64..0.2,
        seed in any::<u8>(),
        comes_back in any::<bool>(),
        forgets in any::<bool>(),
    ) {
        let mut world = World::new(None);
        world.rng = Rng::new([seed; 32]);
        world.loss = loss;
        if comes_back {
            world.run_for(Duration::from_secs(5));
            world.restart_connector();
        }
        if forgets {
            world.restart_node();
        }
        let data: Vec<Vec<u8>> = sizes.iter().map(|len| pattern(*len)).collect();
        let conns: Vec<ConnId> =
            data.iter().enumerate().map(|(n, data)| world.program(n as u64, data, true)).collect();
        let over = |w: &World, conn: ConnId| is_done(w, conn) || w.programs[&conn].is_reset;
        world.run_until(LONG, |w| conns.iter().all(|conn| over(w, *conn)));
        for (conn, data) in conns.iter().zip(&data) {
            let tcp = &world.programs[conn];
            if !tcp.is_reset {
                prop_assert!(tcp.received == *data);
            }
        }
        prop_assert!(world.origins.len() <= conns.len(), "a request was run twice");
    }

    /// Whatever comes at its socket.
    #[test]
    fn nothing_from_the_network_makes_it_panic(
        datagrams in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..1500), any::<bool>()), 1..50),
    ) {
        let mut world = World::new(None);
        world.run_for(Duration::from_millis(30));
        for (mut bytes, from_edge) in datagrams {
            let from = if from_edge { SocketAddr::from((EDGE, 4434)) } else { world.here };
            let len = bytes.len();
            world.connector.handle_datagram(world.now, SocketId(0), from, None, len, &mut bytes);
        }
        let conn = world.program(0, b"hello", false);
        world.run_until(LONG, |w| !w.programs[&conn].received.is_empty());
    }
}

#[test]
fn a_wish_that_cannot_be_is_refused_with_the_reason() {
    let bad = Wish { server_name: "not a name".to_owned(), ..wish(None) };
    let unix = Duration::from_secs(1);
    let refused = Connector::new(bad, [0; 32], epoch(), unix).unwrap_err();
    assert!(matches!(refused, ConnectError::ServerName(_)), "{refused}");
}
