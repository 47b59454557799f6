//! Two ends of flows over a way that loses symbols for good. A tunnel does not, so only here can be seen
//! that flows need no hop to be reliable: what was lost is sent again end to end.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::{Flows, Output};
use crate::config::{Lanes, Limits};
use crate::ids::{ConnId, Incarnation, Lane, NodeHash, PeerId, ServiceName};
use crate::rng::Rng;
use crate::tests::epoch;

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
            flows.add_remote(now, names[1 - at], PeerId(0));
            flows.set_remote_life(names[1 - at], lives[1 - at]);
            flows.set_path(now, names[1 - at], true, 2 * DELAY, None);
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
        self.ends[0].accept(self.now, conn, NodeHash(2), service).expect("memory");
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
