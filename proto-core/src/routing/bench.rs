//! A random mesh for the benchmarks; no part of the crate's face.

use std::time::{Duration, Instant};

use crate::ids::{Incarnation, NodeId, PeerId};
use crate::probe::LinkQuality;
use crate::rng::Rng;
use crate::wire::Reader;
use crate::wire::linkstate::{self, FragmentHead, Link};

use super::Routing;
use super::graph::Graph;

/// One node of a mesh that knows all of it.
#[derive(Debug)]
pub struct Mesh {
    routing: Routing,
    graph: Graph,
    now: Instant,
}

impl Mesh {
    /// A connected mesh of so many nodes and links (of two directions each), 1 to 200 ms long.
    ///
    /// # Panics
    /// If there are fewer links than a ring has, or more than a fragment holds for one node.
    #[must_use]
    pub fn random(nodes: usize, links: usize, seed: u8, now: Instant) -> Self {
        assert!(nodes >= 3 && links >= nodes, "at least a ring");
        let mut rng = Rng::new([seed; 32]);
        let name = |n: usize| NodeId::new(&format!("n{n}")).expect("a name");
        let mut ends: Vec<Vec<(usize, u32)>> = vec![Vec::new(); nodes];
        let mut made = 0;
        while made < links {
            let mut any = || rng.next_u32() as usize % nodes;
            let (a, b) = if made < nodes { (made, (made + 1) % nodes) } else { (any(), any()) };
            if a != b && ends[a].iter().all(|(to, _)| *to != b) {
                let rtt_us = 1_000 + rng.next_u32() % 199_000;
                ends[a].push((b, rtt_us));
                ends[b].push((a, rtt_us));
                made += 1;
            }
        }
        let interval = Duration::from_millis(500);
        let mut routing = Routing::new(now, name(0), Incarnation(1), interval, Rng::new([0; 32]));
        for (peer, (to, rtt_us)) in ends[0].iter().enumerate() {
            routing.add_neighbour(PeerId(peer), &name(*to));
            let rtt = Duration::from_micros(u64::from(*rtt_us));
            let quality = LinkQuality { rtt, jitter: Duration::ZERO, loss: 0.0, burst: 1.0 };
            routing.set_link(now, PeerId(peer), Some(quality));
        }
        for (n, ends) in ends.iter().enumerate().skip(1) {
            assert!(ends.len() <= linkstate::MAX_LINKS, "one fragment each");
            let link = |(to, rtt_us): &(usize, u32)| Link {
                to: name(*to).hash32(),
                rtt_us: *rtt_us,
                jitter_us: 0,
                loss: 0,
                burst: 4,
                shaky: false,
            };
            let links: Vec<Link> = ends.iter().map(link).collect();
            let head = FragmentHead {
                name: &format!("n{n}"),
                incarnation: Incarnation(1),
                sequence: 1,
                fragment: 0,
                fragments: 1,
                relays: true,
                age_s: 0,
            };
            let mut frame = Vec::new();
            linkstate::put(&mut frame, &head, links.iter());
            let frame = linkstate::read(&mut Reader::new(&frame)).expect("valid");
            routing.handle(now, PeerId(0), &frame);
        }
        // The first links may have been said before the last ones were there.
        let now = now + Duration::from_secs(10);
        routing.handle_timeout(now);
        let graph = Graph::build(&routing.db, routing.hash, |_| true);
        Self { routing, graph, now }
    }

    /// Shortest paths from this node to all others; how many there are.
    #[must_use]
    pub fn dijkstra(&self) -> usize {
        let own = self.graph.place(self.routing.hash).unwrap_or(0);
        let tree = self.graph.tree(own, None);
        (0..self.graph.nodes.len() as u32).filter(|place| tree.get(*place).is_some()).count()
    }

    /// All that a change asks for: the graph, a Dijkstra for every neighbour, next hops, alternates and
    /// paths; how many routes there are then.
    pub fn recompute(&mut self) -> usize {
        self.routing.recompute(self.now);
        self.routing.routes.len()
    }

    /// Neighbours of this node.
    #[must_use]
    pub fn neighbours(&self) -> usize {
        self.routing.neighbours.len()
    }
}
