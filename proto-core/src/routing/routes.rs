//! The choice of next hops.
//!
//! From every usable neighbour one Dijkstra over the mesh without this node gives what the way over that
//! neighbour costs, to all destinations at once: the best of them is the shortest path, the best but for
//! the chosen one is the alternate. A next hop that is not the best any more is kept while it is not
//! clearly worse, and only while it is nearer to the destination than this node: so the distance falls at
//! every hop, whatever mixture of kept and fresh choices the nodes have, and there is no loop.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::ids::{NodeHash, PeerId};

use super::Routing;
use super::cost::clearly_less;
use super::graph::{Graph, Tree};

/// The way to one destination.
#[derive(Debug)]
pub(super) struct Route {
    pub via: PeerId,
    /// Takes over when the link to `via` dies.
    pub alternate: Option<PeerId>,
    /// The nodes on the way, this one first.
    pub path: Vec<NodeHash>,
    pub cost: u64,
    pub rtt_us: u64,
    /// The round trip time that was told last.
    told_rtt_us: u64,
    /// The choice is free until then: what comes first need not be the best.
    free_until: Instant,
    /// Since when another next hop is clearly better.
    better_since: Option<Instant>,
}

/// A neighbour to which a link leads that both ends report.
struct Way {
    peer: PeerId,
    place: u32,
    cost: u64,
    rtt_us: u64,
    tree: Tree,
}

/// A way to one destination.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    way: &'a Way,
    /// From this node, and from the neighbour.
    cost: u64,
    rest: u64,
    rtt_us: u64,
}

impl Routing {
    /// Brings all routes up to date.
    pub(super) fn recompute(&mut self, now: Instant) {
        self.dirty = None;
        self.computed = Some(now);
        self.decide_at = None;
        let up: BTreeMap<NodeHash, PeerId> = self
            .neighbours
            .iter()
            .enumerate()
            .filter_map(|(at, n)| Some((n.as_ref()?, PeerId(at))))
            .filter_map(|(n, peer)| n.link.map(|_| (n.hash, peer)))
            .collect();
        let graph = Graph::build(&self.db, self.hash, |node| up.contains_key(&node));
        let ways = self.ways(&graph, &up);
        let lost = std::mem::take(&mut self.db.lost);
        if !lost.is_empty() {
            for (node, _) in self.routes.iter().filter(|(_, route)| lost.hits(&route.path)) {
                let news = self.news.entry(*node).or_default();
                (news.route, news.lost) = (true, true);
            }
        }
        let mut path = Vec::new();
        for (place, &node) in (0..).zip(&graph.nodes) {
            if node != self.hash {
                self.decide(now, &graph, &ways, (place, node), &mut path);
            }
        }
        // What has left the database is no place any more.
        let news = &mut self.news;
        self.routes.retain(|node, _| {
            let is_known = graph.place(*node).is_some();
            if !is_known {
                let news = news.entry(*node).or_default();
                (news.route, news.lost) = (true, true);
            }
            is_known
        });
    }

    fn ways(&self, graph: &Graph, up: &BTreeMap<NodeHash, PeerId>) -> Vec<Way> {
        let Some(own) = graph.place(self.hash) else { return Vec::new() };
        let arcs = graph.arcs(own).iter();
        let way = |arc: &super::graph::Arc| {
            let tree = graph.tree(arc.to, Some(own));
            let peer = *up.get(&graph.node(arc.to)?)?;
            let (cost, rtt_us) = (arc.cost, u64::from(arc.rtt_us));
            Some(Way { peer, place: arc.to, cost, rtt_us, tree })
        };
        arcs.filter_map(way).collect()
    }

    fn decide(
        &mut self,
        now: Instant,
        graph: &Graph,
        ways: &[Way],
        (place, node): (u32, NodeHash),
        path: &mut Vec<NodeHash>,
    ) {
        let candidates = || {
            ways.iter().filter_map(|way| {
                let rest = way.tree.get(place)?;
                let (cost, rtt_us) = (way.cost + rest.cost, way.rtt_us + rest.rtt_us);
                Some(Candidate { way, cost, rest: rest.cost, rtt_us })
            })
        };
        // Of equals the first, in the order of the neighbours' hashes.
        let Some(best) = candidates().min_by_key(|c| c.cost) else {
            if self.routes.remove(&node).is_some() {
                let news = self.news.entry(node).or_default();
                (news.route, news.lost) = (true, true);
            }
            return;
        };
        let current = self.routes.get(&node).map(|route| route.via);
        let kept = candidates().find(|c| Some(c.way.peer) == current && c.rest < best.cost);
        let chosen = match (self.routes.get_mut(&node), kept) {
            (Some(route), Some(kept)) if now >= route.free_until => {
                if !clearly_less(best.cost, kept.cost) {
                    route.better_since = None;
                    kept
                } else {
                    let due = *route.better_since.get_or_insert(now) + self.hold;
                    if now < due {
                        self.decide_at = Some(self.decide_at.map_or(due, |at| at.min(due)));
                        kept
                    } else {
                        best
                    }
                }
            }
            _ => best,
        };
        let others = candidates().filter(|c| c.way.peer != chosen.way.peer);
        let alternate = others.min_by_key(|c| c.cost).map(|c| c.way.peer);
        path.clear();
        walk(graph, chosen.way, place, path);
        path.push(self.hash);
        path.reverse();
        self.take(now, node, &chosen, alternate, path);
    }

    /// The route to `node` is this one now.
    fn take(
        &mut self,
        now: Instant,
        node: NodeHash,
        chosen: &Candidate<'_>,
        alternate: Option<PeerId>,
        path: &[NodeHash],
    ) {
        let via = chosen.way.peer;
        let is_new = !self.routes.contains_key(&node);
        let route = self.routes.entry(node).or_insert_with(|| Route {
            via,
            alternate,
            path: Vec::new(),
            cost: 0,
            rtt_us: 0,
            told_rtt_us: 0,
            free_until: now + self.hold,
            better_since: None,
        });
        let mut tell = is_new;
        if route.via != via {
            self.route_changes += 1;
            route.via = via;
            route.better_since = None;
            tell = true;
        }
        tell |= route.path.len() != path.len();
        tell |= chosen.rtt_us.abs_diff(route.told_rtt_us) > route.told_rtt_us / 10;
        (route.alternate, route.cost, route.rtt_us) = (alternate, chosen.cost, chosen.rtt_us);
        if route.path != path {
            route.path.clear();
            route.path.extend_from_slice(path);
        }
        if tell {
            route.told_rtt_us = chosen.rtt_us;
            self.news.entry(node).or_default().route = true;
        }
    }
}

/// Appends the nodes from a place back to the neighbour.
fn walk(graph: &Graph, way: &Way, place: u32, path: &mut Vec<NodeHash>) {
    let mut at = Some(place);
    while let Some(place) = at {
        path.extend(graph.node(place));
        at = way.tree.get(place).and_then(|reached| reached.before);
    }
    debug_assert!(path.last() == graph.node(way.place).as_ref());
}
