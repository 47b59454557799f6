//! What people are shown: paths, latencies, how full the tables are.

use std::time::Instant;

use crate::ids::{NodeHash, PeerId};
use crate::status::{LatencyStatus, PathStatus, Table};
use crate::wire::linkstate::MAX_FRAGMENTS;

use super::database::{MAX_LINKS, MAX_NODES};
use super::graph::Graph;
use super::{MAX_NEWS, Routing};

impl Routing {
    /// Times that the next hop to some destination became another one.
    pub(crate) fn route_changes(&self) -> u64 {
        self.route_changes
    }

    /// Advertisements refused because the database was full.
    pub(crate) fn refused(&self) -> u64 {
        self.db.refused
    }

    fn name(&self, node: NodeHash) -> String {
        if let Some(entry) = self.db.nodes.get(&node) {
            return entry.name.to_string();
        }
        let mut neighbours = self.neighbours.iter().flatten();
        let neighbour = neighbours.find(|n| n.hash == node);
        neighbour.map_or_else(|| format!("{node:?}"), |n| n.id.to_string())
    }

    /// The way to each node that can be reached, by names.
    pub(crate) fn paths(&self) -> Vec<PathStatus> {
        let alternate = |peer| self.neighbour(peer).map(|n| n.id.to_string());
        let path = |(node, route): (&NodeHash, &super::Route)| PathStatus {
            to: self.name(*node),
            via: route.path.iter().map(|node| self.name(*node)).collect(),
            cost_us: route.cost,
            rtt_us: route.rtt_us,
            alternate: route.alternate.and_then(alternate),
        };
        let mut paths: Vec<_> = self.routes.iter().map(path).collect();
        paths.sort_by(|a, b| a.to.cmp(&b.to));
        paths
    }

    /// Every directed link that its begin reports, by names.
    pub(crate) fn latencies(&self, now: Instant) -> Vec<LatencyStatus> {
        let is_up =
            |node| self.neighbours.iter().flatten().any(|n| n.hash == node && n.link.is_some());
        let graph = Graph::build(&self.db, self.hash, is_up);
        let is_used = |from: NodeHash, to: NodeHash| {
            let (Some(a), Some(b)) = (graph.place(from), graph.place(to)) else { return false };
            graph.arc(a, b).is_some() && (from == self.hash || graph.relays(a))
        };
        let mut latencies = Vec::with_capacity(self.db.links);
        for (&node, entry) in &self.db.nodes {
            for held in entry.fragments.values() {
                let age_ms = u64::try_from(held.age(now).as_millis()).unwrap_or(u64::MAX);
                latencies.extend(held.edges.iter().map(|edge| LatencyStatus {
                    from: entry.name.to_string(),
                    to: self.name(edge.link.to),
                    rtt_us: u64::from(edge.link.rtt_us),
                    jitter_us: u64::from(edge.link.jitter_us),
                    loss_pct: f64::from(edge.link.loss) * 100.0 / f64::from(u16::MAX),
                    burst: f64::from(edge.link.burst) / 4.0,
                    age_ms,
                    used: is_used(node, edge.link.to),
                }));
            }
        }
        latencies.sort_by(|a, b| (&a.from, &a.to).cmp(&(&b.from, &b.to)));
        latencies
    }

    /// Shows every table to `visit`; see [`Node::tables`](crate::Node::tables).
    pub(crate) fn tables(&self, visit: &mut dyn FnMut(Table)) {
        // This node is always there, with as many links as the configuration has.
        let own = self.db.nodes.get(&self.hash).map_or(0, |entry| entry.edges().count());
        let mut node = |name, len: usize, bound: usize| {
            visit(Table { name, peer: None, len: len as u64, bound: bound as u64 });
        };
        node("link_state_nodes", self.db.nodes.len(), MAX_NODES);
        node("link_state_links", self.db.links, MAX_LINKS + own);
        let fragments = self.db.nodes.values().map(|entry| entry.fragments.len()).max();
        let most = usize::from(MAX_FRAGMENTS);
        node("link_state_fragments", fragments.unwrap_or(0), most);
        node("routes", self.routes.len(), MAX_NODES);
        node("routing_news", self.news.len(), MAX_NEWS + MAX_NODES);
        for (at, neighbour) in self.neighbours.iter().enumerate() {
            let Some(neighbour) = neighbour else { continue };
            let (peer, len) = (Some(PeerId(at)), neighbour.pending.len() as u64);
            let bound = (MAX_NODES * most) as u64;
            visit(Table { name: "link_state_waiting", peer, len, bound });
        }
    }
}
