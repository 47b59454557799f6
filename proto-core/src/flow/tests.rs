//! Two ends of flows over a way that loses symbols for good. A tunnel does not, so only here can be seen
//! that flows need no hop to be reliable: what was lost is sent again end to end.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::{Flows, Output, Route};
use crate::config::{Lanes, Limits};
use crate::ids::{ConnId, Incarnation, Lane, NodeHash, PeerId, ServiceName};
use crate::rng::Rng;
use crate::tests::{endpoints, epoch};

const DELAY: Duration = Duration::from_millis(30);
const TURN: Duration = Duration::from_millis(5);

/// A TCP connection beside one of the ends.
#[derive(Debug, Default)]
struct Socket {
    to_send: VecDeque<u8>,
    heard: Vec<u8>,
    eof_told: bool,
    granted: usize,
    /// Written and not taken yet.
    waiting: usize,
    shut: bool,
    aborted: bool,
}

struct Way {
    now: Instant,
    rng: Rng,
    loss: f64,
    ends: [Flows; 2],
    sockets: [BTreeMap<ConnId, Socket>; 2],
    /// Symbols, by the time of arrival, with the end that they go to.
    symbols: VecDeque<(Instant, usize, Vec<u8>)>,
    /// What an origin says.
    answer: usize,
    /// Connections take what was written only so often.
    takes_every: Duration,
    took: Instant,
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 31 % 251) as u8).collect()
}

impl Way {
    fn new(seed: u8, loss: f64) -> Self {
        let now = epoch();
        let limits = Limits { flow_window: 64 * 1024, ..Limits::default() };
        let names = [NodeHash(1), NodeHash(2)];
        let lives = [Incarnation(11), Incarnation(22)];
        let ends = [0, 1].map(|at: usize| {
            let mut flows = Flows::new(names[at], lives[at], &limits, &Lanes::default());
            flows.add_hop(PeerId(0));
            flows.set_remote_life(now, names[1 - at], lives[1 - at]);
            let route = Route { via: PeerId(0), rtt: 2 * DELAY, hops: 1 };
            flows.set_route(now, names[1 - at], Some(route), false);
            flows
        });
        Self {
            now,
            rng: Rng::new([seed; 32]),
            loss,
            ends,
            sockets: [BTreeMap::new(), BTreeMap::new()],
            symbols: VecDeque::new(),
            answer: 0,
            takes_every: Duration::ZERO,
            took: now,
        }
    }

    fn connect(&mut self, n: u64, request: usize) -> ConnId {
        let conn = ConnId::accepted(n);
        let service = ServiceName::new("default").expect("a name");
        self.ends[0].accept(self.now, conn, NodeHash(2), service, endpoints()).expect("memory");
        let socket = Socket { to_send: bytes(request).into(), ..Socket::default() };
        self.sockets[0].insert(conn, socket);
        conn
    }

    fn act(&mut self, at: usize) {
        while let Some(output) = self.ends[at].poll_output(self.now) {
            let (Output::Dial { conn, .. }
            | Output::Write { conn, .. }
            | Output::GrantRead { conn, .. }
            | Output::Shutdown { conn }
            | Output::Abort { conn }) = output;
            if matches!(output, Output::Dial { .. }) {
                let socket = Socket { to_send: bytes(self.answer).into(), ..Socket::default() };
                assert!(self.sockets[at].insert(conn, socket).is_none(), "dialled once");
                self.ends[at].connected(self.now, conn);
                continue;
            }
            let socket = self.sockets[at].get_mut(&conn).expect("a connection");
            match output {
                Output::Write { data, .. } => {
                    assert!(!socket.shut, "bytes after the end");
                    socket.waiting += data.len();
                    socket.heard.extend_from_slice(&data);
                }
                Output::GrantRead { bytes, .. } => socket.granted += bytes,
                Output::Shutdown { .. } => socket.shut = true,
                Output::Abort { .. } | Output::Dial { .. } => socket.aborted = true,
            }
        }
    }

    /// Connections are read and written.
    fn feed(&mut self, at: usize) {
        let takes = self.now >= self.took + self.takes_every;
        let conns: Vec<ConnId> = self.sockets[at].keys().copied().collect();
        for conn in conns {
            let socket = self.sockets[at].get_mut(&conn).expect("a connection");
            let taken = if takes { std::mem::take(&mut socket.waiting) } else { 0 };
            let n = socket.granted.min(socket.to_send.len());
            socket.granted -= n;
            let read: Vec<u8> = socket.to_send.drain(..n).collect();
            let ends = socket.to_send.is_empty() && !socket.eof_told;
            socket.eof_told |= ends;
            if taken > 0 {
                self.ends[at].written(self.now, conn, taken);
            }
            if !read.is_empty() {
                self.ends[at].received(self.now, conn, &read);
            }
            if ends {
                self.ends[at].eof(self.now, conn);
            }
            self.act(at);
        }
    }

    fn turn(&mut self) {
        self.now += TURN;
        while self.symbols.front().is_some_and(|(due, ..)| *due <= self.now) {
            let Some((_, to, symbol)) = self.symbols.pop_front() else { break };
            self.ends[to].handle_symbol(self.now, PeerId(0), &symbol).expect("whole frames");
        }
        for at in [0, 1] {
            self.ends[at].handle_timeout(self.now);
            self.act(at);
            self.feed(at);
            for lane in Lane::ALL {
                while self.ends[at].has(PeerId(0), lane) {
                    let mut symbol = Vec::new();
                    self.ends[at].fill(self.now, PeerId(0), lane, 1200, &mut symbol);
                    if !symbol.is_empty() && self.rng.unit() >= self.loss {
                        self.symbols.push_back((self.now + DELAY, 1 - at, symbol));
                    }
                }
            }
        }
        if self.now >= self.took + self.takes_every {
            self.took = self.now;
        }
    }

    fn run(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + limit;
        while !done(self) && self.now < end {
            self.turn();
        }
        done(self)
    }

    /// The ends hear that the way between them has changed.
    fn reroute(&mut self, lost: bool) {
        for at in [0, 1] {
            let route = Route { via: PeerId(0), rtt: 2 * DELAY, hops: 2 };
            self.ends[at].set_route(self.now, NodeHash(2 - at as u32), Some(route), lost);
        }
    }

    fn are_forgotten(&self) -> bool {
        self.ends.iter().all(|end| end.flows.is_empty() && end.memory().reserved == 0)
    }

    fn are_shut(&self) -> bool {
        let mut all = self.sockets.iter().flat_map(BTreeMap::values);
        !self.sockets[1].is_empty() && all.all(|socket| socket.shut && !socket.aborted)
    }
}

#[test]
fn bytes_and_the_end_that_the_way_loses_are_sent_again_end_to_end() {
    for seed in 0..20 {
        let mut way = Way::new(seed, 0.3);
        way.answer = 30_000;
        let conn = way.connect(0, 50_000);
        assert!(way.run(Duration::from_secs(300), Way::are_shut), "seed {seed}");
        assert!(way.sockets[0][&conn].heard == bytes(30_000), "seed {seed}");
        let origins: Vec<_> = way.sockets[1].values().collect();
        assert!(origins.len() == 1 && origins[0].heard == bytes(50_000), "seed {seed}");
        assert!(way.run(Duration::from_secs(60), Way::are_forgotten), "seed {seed}");
    }
}

#[test]
fn a_reset_that_the_way_loses_is_repeated() {
    for seed in 0..20 {
        let mut way = Way::new(seed, 0.0);
        let conn = way.connect(0, 1_000_000);
        assert!(way.run(Duration::from_secs(1), |way| !way.sockets[1].is_empty()), "seed {seed}");
        way.loss = 0.3;
        way.ends[0].conn_reset(way.now, conn);
        way.sockets[0].clear();
        let told = |way: &Way| way.sockets[1].values().all(|socket| socket.aborted);
        assert!(way.run(Duration::from_secs(25), told), "seed {seed}");
    }
}

#[test]
fn credit_that_the_way_loses_is_announced_again() {
    for seed in 0..20 {
        let mut way = Way::new(seed, 0.3);
        way.takes_every = Duration::from_millis(700);
        way.connect(0, 500_000);
        assert!(way.run(Duration::from_secs(600), Way::are_shut), "seed {seed}");
    }
}

#[test]
fn what_a_dead_relay_took_with_it_is_asked_for_and_nothing_else_is_sent_again() {
    for seed in 0..20 {
        let mut way = Way::new(seed, 0.0);
        way.answer = 400_000;
        let conn = way.connect(0, 300_000);
        let first = Duration::from_millis(150 + 10 * u64::from(seed));
        way.run(first, |_| false);
        // Half of what is under way, at random.
        let mut taken = 0;
        let rng = &mut way.rng;
        way.symbols.retain(|(_, _, symbol)| {
            let lost = rng.unit() < 0.5;
            taken += if lost { symbol.len() as u64 } else { 0 };
            !lost
        });
        let since = way.now;
        way.reroute(true);
        assert!(way.run(Duration::from_secs(20), Way::are_shut), "seed {seed}");
        assert!(way.sockets[0][&conn].heard == bytes(400_000), "seed {seed}");
        assert!(way.sockets[1].values().all(|s| s.heard == bytes(300_000)), "seed {seed}");
        let resent: u64 = way.ends.iter().map(|end| end.counters.resent_bytes).sum();
        assert!(resent <= taken, "seed {seed}: {resent} of {taken}");
        assert!(way.now - since < Duration::from_secs(3), "seed {seed}");
    }
}

#[test]
fn another_way_on_which_nothing_was_lost_makes_nobody_send_anything_again() {
    for seed in 0..10 {
        let mut way = Way::new(seed, 0.0);
        way.answer = 400_000;
        way.connect(0, 300_000);
        // Until then the other end may not have heard of the flow.
        way.run(Duration::from_millis(100), |_| false);
        for _ in 0..10 {
            way.run(Duration::from_millis(57), |_| false);
            way.reroute(true);
        }
        assert!(way.run(Duration::from_secs(20), Way::are_shut), "seed {seed}");
        assert!(way.ends.iter().all(|end| end.counters.resent_bytes == 0), "seed {seed}");
    }
}

#[test]
fn what_a_tunnel_gives_back_goes_another_way() {
    for seed in 0..20 {
        let mut way = Way::new(seed, 0.0);
        way.answer = 300_000;
        let conn = way.connect(0, 300_000);
        for _ in 0..8 {
            way.run(Duration::from_millis(40), |_| false);
            for (_, to, symbol) in std::mem::take(&mut way.symbols) {
                let mut reader = crate::wire::Reader::new(&symbol);
                while let Ok(Some((head, body))) = crate::wire::flow::read(&mut reader) {
                    way.ends[1 - to].take_back(way.now, head, &body);
                }
            }
        }
        assert!(way.run(Duration::from_secs(20), Way::are_shut), "seed {seed}");
        assert!(way.sockets[0][&conn].heard == bytes(300_000), "seed {seed}");
        assert!(way.ends.iter().all(|end| end.counters.resent_bytes == 0), "seed {seed}");
        assert!(way.run(Duration::from_secs(60), Way::are_forgotten), "seed {seed}");
    }
}

#[test]
fn a_flow_that_leads_to_its_own_node_is_served_there() {
    let now = epoch();
    let limits = Limits::default();
    let mut node = Flows::new(NodeHash(1), Incarnation(7), &limits, &Lanes::default());
    let client = ConnId::accepted(0);
    node.accept(now, client, NodeHash(1), ServiceName::default(), endpoints()).expect("memory");
    let (mut origin, mut heard, mut shut) = (None, BTreeMap::new(), Vec::new());
    node.received(now, client, &bytes(10_000));
    node.eof(now, client);
    while node.has_output() {
        let Some(output) = node.poll_output(now) else { continue };
        match output {
            Output::Dial { conn, .. } => {
                assert!(origin.replace(conn).is_none(), "dialled once");
                node.connected(now, conn);
                node.received(now, conn, &bytes(5_000));
                node.eof(now, conn);
            }
            Output::Write { conn, data } => {
                let heard: &mut Vec<u8> = heard.entry(conn).or_default();
                heard.extend_from_slice(&data);
                node.written(now, conn, data.len());
            }
            Output::Shutdown { conn } => shut.push(conn),
            Output::GrantRead { .. } => {}
            Output::Abort { .. } => panic!("broken off"),
        }
    }
    let origin = origin.expect("a dial");
    assert_eq!((&heard[&origin], &heard[&client]), (&bytes(10_000), &bytes(5_000)));
    assert_eq!(shut.len(), 2);
    assert_eq!(node.live(), 0);
}

#[test]
fn a_transfer_goes_on_at_once_when_there_is_a_way_again() {
    for away in [3, 6, 12] {
        let mut way = Way::new(7, 0.0);
        way.answer = 2_000_000;
        let conn = way.connect(0, 100);
        way.run(Duration::from_millis(400), |_| false);
        // What was under way is lost, and half of the time nobody knows that there is no way.
        let half = Duration::from_secs(away) / 2;
        way.loss = 1.0;
        way.symbols.clear();
        way.run(half, |_| false);
        for at in [0, 1] {
            way.ends[at].set_route(way.now, NodeHash(2 - at as u32), None, true);
        }
        way.run(half, |_| false);
        way.loss = 0.0;
        way.reroute(false);
        let (heard, back) = (way.sockets[0][&conn].heard.len(), way.now);
        let goes_on = |way: &Way| way.sockets[0][&conn].heard.len() > heard;
        assert!(way.run(Duration::from_secs(9), goes_on), "away for {away} s");
        assert!(way.now - back < Duration::from_millis(300), "{:?}", way.now - back);
        assert!(way.run(Duration::from_secs(20), Way::are_shut));
        assert!(way.sockets[0][&conn].heard == bytes(2_000_000));
    }
}

#[test]
fn a_flow_that_the_other_end_never_takes_is_given_up() {
    let mut way = Way::new(8, 0.0);
    // It believes in a later life of this node: what this one says is of an earlier.
    let now = way.now;
    way.ends[1].set_remote_life(now, NodeHash(1), Incarnation(99));
    let conn = way.connect(0, 100);
    let over = |way: &Way| way.sockets[0][&conn].aborted;
    assert!(way.run(Duration::from_secs(60), over));
    assert!(way.sockets[1].is_empty(), "never dialled");
}

#[test]
fn a_node_that_comes_back_after_all_have_forgotten_it_is_believed_whatever_its_clock_says() {
    let mut way = Way::new(9, 0.0);
    way.connect(0, 100);
    assert!(way.run(Duration::from_secs(20), Way::are_shut));
    // Seen for a while with its clock ahead; then gone for longer than anything is remembered.
    let now = way.now;
    way.ends[1].set_remote_life(now, NodeHash(1), Incarnation(1 << 40));
    way.ends[1].forget_remote(NodeHash(1));
    way.ends[1].set_remote_life(now, NodeHash(1), Incarnation(11));
    let before = way.sockets[1].len();
    way.connect(1, 100);
    assert!(way.run(Duration::from_secs(20), |way| way.sockets[1].len() > before));
}

#[test]
fn made_up_resets_shut_no_id_out() {
    let mut had = super::closed::HadIds::default();
    for id in 0..20_000u64 {
        had.forbid((1 << 60) + id);
    }
    assert!((0..100_000).all(|id| !had.contains(id)));
    had.forbid(500);
    assert!(had.contains(500) && !had.contains(499));
}
