//! A mesh of [`Routing`]s in memory and in virtual time. Tunnels are as the rest of the node makes them:
//! reliable while they live, with nothing left of them when they die.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::{Routing, RoutingEvent};
use crate::ids::{Incarnation, NodeHash, NodeId, PeerId};
use crate::probe::LinkQuality;
use crate::rng::Rng;
use crate::tests::epoch;
use crate::wire::Reader;
use crate::wire::symbol::{self, Content};

pub(super) const PROBES: Duration = Duration::from_millis(500);

pub(super) fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub(super) fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub(super) fn quality(rtt: Duration) -> LinkQuality {
    LinkQuality { rtt, jitter: Duration::ZERO, loss: 0.0, burst: 1.0 }
}

pub(super) struct Link {
    pub up: bool,
    /// What is under way belongs to one life of the tunnel.
    life: u64,
    pub rtt: Duration,
    /// Greatest deviation of a probe.
    pub jitter: Duration,
    /// What each end measured.
    smoothed: [Option<f64>; 2],
    /// Bytes of both directions.
    pub bytes: u64,
}

pub(super) struct Node {
    pub name: NodeId,
    /// None: it is not running.
    pub routing: Option<Routing>,
    pub peers: Vec<usize>,
    pub life: Incarnation,
    pub events: Vec<RoutingEvent>,
}

/// A symbol under way: from, to, in which life of the link, and what it holds.
type Flight = (usize, usize, u64, Vec<u8>);

pub(super) struct Mesh {
    pub now: Instant,
    pub rng: Rng,
    pub nodes: Vec<Node>,
    pub links: BTreeMap<(usize, usize), Link>,
    flights: BTreeMap<(Instant, u64), Flight>,
    serial: u64,
    probe_at: Instant,
    touched: BTreeSet<usize>,
}

fn key(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

pub(super) fn name(n: usize) -> NodeId {
    NodeId::new(&format!("node-{n}")).expect("a name")
}

impl Mesh {
    /// Nodes that run, with links that are down: `(a, b, rtt)`.
    pub(super) fn new(seed: u8, nodes: usize, links: &[(usize, usize, Duration)]) -> Self {
        let now = epoch();
        let mut mesh = Self {
            now,
            rng: Rng::new([seed; 32]),
            nodes: Vec::new(),
            links: BTreeMap::new(),
            flights: BTreeMap::new(),
            serial: 0,
            probe_at: now,
            touched: BTreeSet::new(),
        };
        for (a, b, rtt) in links {
            let (rtt, jitter) = (*rtt, Duration::ZERO);
            let link = Link { up: false, life: 0, rtt, jitter, smoothed: [None; 2], bytes: 0 };
            mesh.links.insert(key(*a, *b), link);
        }
        for n in 0..nodes {
            let ends = mesh.links.keys();
            let peers = ends.filter_map(|&(a, b)| match (a == n, b == n) {
                (true, false) => Some(b),
                (false, true) => Some(a),
                _ => None,
            });
            let (peers, life) = (peers.collect(), Incarnation(0));
            mesh.nodes.push(Node { name: name(n), routing: None, peers, life, events: Vec::new() });
            mesh.start(n, Incarnation(1_000 + n as u64));
        }
        mesh
    }

    /// Connected, at random; every node with about `degree` links of 2 to 200 ms.
    pub(super) fn random(seed: u8, nodes: usize, degree: usize) -> Self {
        let mut rng = Rng::new([seed; 32]);
        let mut ends = BTreeMap::new();
        for n in 1..nodes {
            ends.insert(
                key(n, rng.next_u32() as usize % n),
                ms(2 + u64::from(rng.next_u32() % 198)),
            );
        }
        while ends.len() < (nodes * degree / 2).min(nodes * (nodes - 1) / 2) {
            let (a, b) = (rng.next_u32() as usize % nodes, rng.next_u32() as usize % nodes);
            if a != b {
                ends.insert(key(a, b), ms(2 + u64::from(rng.next_u32() % 198)));
            }
        }
        let links: Vec<_> = ends.into_iter().map(|((a, b), rtt)| (a, b, rtt)).collect();
        Self::new(seed, nodes, &links)
    }

    pub(super) fn start(&mut self, n: usize, life: Incarnation) {
        let rng = Rng::new(self.rng.fork());
        let mut routing = Routing::new(self.now, name(n), life, PROBES, rng);
        for (at, peer) in self.nodes[n].peers.iter().enumerate() {
            routing.add_neighbour(PeerId(at), &name(*peer));
        }
        self.nodes[n].life = life;
        self.nodes[n].routing = Some(routing);
    }

    /// It vanishes without a word; its neighbours find out at once.
    pub(super) fn crash(&mut self, n: usize) {
        self.nodes[n].routing = None;
        for peer in self.nodes[n].peers.clone() {
            self.set(n, peer, false);
        }
    }

    pub(super) fn peer(&self, n: usize, other: usize) -> PeerId {
        PeerId(self.nodes[n].peers.iter().position(|p| *p == other).expect("a neighbour"))
    }

    pub(super) fn routing(&self, n: usize) -> &Routing {
        self.nodes[n].routing.as_ref().expect("it runs")
    }

    pub(super) fn hash(&self, n: usize) -> NodeHash {
        self.nodes[n].name.hash32()
    }

    /// A tunnel comes up or dies, for both ends.
    pub(super) fn set(&mut self, a: usize, b: usize, up: bool) {
        let runs = self.nodes[a].routing.is_some() && self.nodes[b].routing.is_some();
        let link = self.links.get_mut(&key(a, b)).expect("a link");
        if link.up == up || up && !runs {
            return;
        }
        (link.up, link.life, link.smoothed) = (up, link.life + 1, [None; 2]);
        for (n, other) in [(a, b), (b, a)] {
            let life = self.nodes[other].life;
            let peer = self.peer(n, other);
            let quality = self.measure(n, other);
            if let Some(routing) = &mut self.nodes[n].routing {
                if up {
                    routing.set_neighbour_life(self.now, peer, life);
                    routing.exchange(peer);
                }
                routing.set_link(self.now, peer, quality);
                self.touched.insert(n);
            }
        }
    }

    pub(super) fn set_all(&mut self, up: bool) {
        for (a, b) in self.links.keys().copied().collect::<Vec<_>>() {
            self.set(a, b, up);
        }
    }

    /// One more probe.
    fn measure(&mut self, n: usize, other: usize) -> Option<LinkQuality> {
        let unit = self.rng.unit();
        let link = self.links.get_mut(&key(n, other)).filter(|link| link.up)?;
        let sample = link.rtt.as_secs_f64() + (2.0 * unit - 1.0) * link.jitter.as_secs_f64();
        let mean = &mut link.smoothed[usize::from(n > other)];
        let smoothed = mean.map_or(sample, |mean| mean + (sample - mean) / 8.0);
        *mean = Some(smoothed);
        Some(quality(Duration::from_secs_f64(smoothed)))
    }

    fn probe(&mut self) {
        self.probe_at = self.now + PROBES;
        for (a, b) in self.links.keys().copied().collect::<Vec<_>>() {
            for (n, other) in [(a, b), (b, a)] {
                let (peer, quality) = (self.peer(n, other), self.measure(n, other));
                if let Some(routing) = &mut self.nodes[n].routing {
                    routing.set_link(self.now, peer, quality);
                    self.touched.insert(n);
                }
            }
        }
    }

    /// Hands frames to a node as a neighbour would.
    pub(super) fn hear(&mut self, n: usize, from: usize, symbol: &[u8]) {
        let peer = self.peer(n, from);
        let Some(routing) = &mut self.nodes[n].routing else { return };
        let mut reader = Reader::new(symbol);
        while let Some(frame) = symbol::read(&mut reader).expect("valid") {
            let Content::LinkState(fragment) = frame.content else { panic!("a flow frame") };
            routing.handle(self.now, peer, &fragment);
        }
        self.touched.insert(n);
    }

    /// Everything that the node wants to say and do now.
    fn drain(&mut self, n: usize) {
        let now = self.now;
        let node = &mut self.nodes[n];
        let Some(routing) = &mut node.routing else { return };
        routing.handle_timeout(now);
        while let Some(event) = routing.poll_event(now) {
            if let RoutingEvent::Outlived { seen } = event {
                node.life = Incarnation(seen.0 + 1);
                routing.set_incarnation(now, node.life);
            }
            node.events.push(event);
        }
        for (at, &peer) in node.peers.iter().enumerate() {
            let link = self.links.get_mut(&key(n, peer)).expect("a link");
            while routing.has(PeerId(at)) {
                assert!(link.up, "nothing is said to a dead neighbour");
                let mut symbol = Vec::new();
                routing.fill(now, PeerId(at), 1_200, &mut symbol);
                assert!(!symbol.is_empty(), "there was something to say");
                assert!(symbol.len() <= 1_200);
                link.bytes += symbol.len() as u64;
                self.serial += 1;
                let flight = (n, peer, link.life, symbol);
                self.flights.insert((now + link.rtt / 2, self.serial), flight);
            }
        }
        assert!(routing.poll_timeout().is_none_or(|at| at > now), "nothing stays due");
        routing.tables(&mut |table| assert!(table.len <= table.bound, "{table:?}"));
    }

    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            for n in std::mem::take(&mut self.touched) {
                self.drain(n);
            }
            let timers = self
                .nodes
                .iter()
                .enumerate()
                .filter_map(|(n, node)| Some((node.routing.as_ref()?.poll_timeout()?, n)));
            let timer = timers.min();
            let flight = self.flights.keys().next().map(|(at, _)| *at);
            let next = flight.unwrap_or(end).min(self.probe_at).min(timer.map_or(end, |t| t.0));
            if next >= end {
                self.now = end;
                return;
            }
            self.now = self.now.max(next);
            if let Some((at, n)) = timer
                && at <= self.now
            {
                self.touched.insert(n);
            }
            if self.probe_at <= self.now {
                self.probe();
            }
            while let Some(first) = self.flights.first_entry().filter(|f| f.key().0 <= self.now) {
                let (from, to, life, symbol) = first.remove();
                if self.links[&key(from, to)].life == life {
                    self.hear(to, from, &symbol);
                }
            }
        }
    }

    /// What a node has in its database, but for times.
    pub(super) fn database(&self, n: usize) -> Vec<String> {
        let nodes = &self.routing(n).db.nodes;
        let fragments = nodes.values().flat_map(|entry| {
            entry.fragments.iter().map(move |(n, held)| {
                let (sequence, edges) = (held.sequence, &held.edges);
                format!("{} {:?} {n}: {sequence} {} {edges:?}", entry.name, entry.life, held.relays)
            })
        });
        fragments.collect()
    }

    /// What the shortest path from each node to each other one costs, by the relaxation of every link as
    /// long as that helps; of what the databases say of links that are up.
    pub(super) fn distances(&self) -> BTreeMap<(usize, usize), u64> {
        self.distances_by(&self.costs())
    }

    /// What each directed link that is up costs.
    fn costs(&self) -> BTreeMap<(usize, usize), u64> {
        let mut costs = BTreeMap::new();
        for (&(a, b), _) in self.links.iter().filter(|(_, link)| link.up) {
            for (from, to) in [(a, b), (b, a)] {
                let db = &self.routing(from).db;
                let mut edges = db.nodes[&self.hash(from)].edges();
                let edge = edges.find(|edge| edge.link.to == self.hash(to)).expect("advertised");
                costs.insert((from, to), edge.cost);
            }
        }
        costs
    }

    fn distances_by(&self, costs: &BTreeMap<(usize, usize), u64>) -> BTreeMap<(usize, usize), u64> {
        let mut all = BTreeMap::new();
        for n in (0..self.nodes.len()).filter(|n| self.nodes[*n].routing.is_some()) {
            let mut best = BTreeMap::from([(n, 0)]);
            loop {
                let before = best.clone();
                for ((from, to), cost) in costs {
                    let passes = *from == n || self.routing(*from).relays;
                    let Some(so_far) = best.get(from).copied().filter(|_| passes) else { continue };
                    let known = best.entry(*to).or_insert(u64::MAX);
                    *known = (*known).min(so_far + cost);
                }
                if best == before {
                    break;
                }
            }
            all.extend(best.into_iter().map(|(to, cost)| ((n, to), cost)));
        }
        all
    }

    /// The nodes that a frame passes; ends where there is no way on.
    pub(super) fn follow(&self, from: usize, to: usize) -> Vec<usize> {
        let (mut way, mut last) = (vec![from], None);
        let mut at = from;
        while at != to && way.len() <= self.nodes.len() {
            let Some(next) = self.routing(at).next_hop(self.hash(to), last) else { break };
            let next = self.nodes[at].peers[next.0];
            last = Some(self.peer(next, at));
            at = next;
            way.push(at);
        }
        way
    }

    /// Asserts what must hold of a mesh that has come to rest, but for a refresh.
    pub(super) fn check(&mut self) {
        while !self.flights.is_empty() {
            self.run(ms(5));
        }
        let distances = self.distances();
        let running: Vec<_> =
            (0..self.nodes.len()).filter(|n| self.nodes[*n].routing.is_some()).collect();
        for &a in &running {
            let paths = self.routing(a).paths();
            for &b in running.iter().filter(|b| **b != a) {
                let path = paths.iter().find(|p| p.to == self.nodes[b].name.as_str());
                let Some(&least) = distances.get(&(a, b)) else {
                    assert!(path.is_none(), "there is no way from {a} to {b}");
                    continue;
                };
                assert!(self.database(a) == self.database(b), "{a} and {b} disagree");
                let path = path.expect("a way");
                assert!(path.cost_us >= least, "from {a} to {b}");
                assert!(!super::cost::clearly_less(least, path.cost_us), "from {a} to {b}");
                let way = self.follow(a, b);
                assert_eq!(way.last(), Some(&b), "from {a} to {b}: {way:?}");
                let distinct: BTreeSet<_> = way.iter().collect();
                assert_eq!(distinct.len(), way.len(), "a loop from {a} to {b}: {way:?}");
            }
        }
    }

    /// Asserts that the alternate is the next hop of the shortest path that does without the first link.
    pub(super) fn check_alternates(&self) {
        let costs = self.costs();
        for (a, node) in self.nodes.iter().enumerate() {
            let Some(routing) = &node.routing else { continue };
            for &first in &node.peers {
                let mut costs = costs.clone();
                costs.retain(|&(from, to), _| key(from, to) != key(a, first));
                let distances = self.distances_by(&costs);
                let over = |peer: PeerId| node.peers[peer.0] == first;
                for (dest, route) in routing.routes.iter().filter(|(_, route)| over(route.via)) {
                    let b = (0..self.nodes.len()).find(|n| self.hash(*n) == *dest).expect("known");
                    let second = route.alternate.map(|peer| node.peers[peer.0]);
                    let cost = second.map(|second| costs[&(a, second)] + distances[&(second, b)]);
                    assert_eq!(cost, distances.get(&(a, b)).copied(), "from {a} to {b}");
                }
            }
        }
    }

    pub(super) fn is_converged(&self) -> bool {
        let n = self.nodes.len();
        (0..n).all(|a| self.routing(a).routes.len() == n - 1)
    }
}
