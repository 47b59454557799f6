//! The mesh as Dijkstra sees it: places instead of names, and only links that both ends report.

use pathfinding::directed::dijkstra::dijkstra_reach;

use crate::ids::NodeHash;

use super::database::Database;

/// A directed link to the node at that place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Arc {
    pub to: u32,
    pub cost: u64,
    pub rtt_us: u32,
}

/// See the module's text. Places are in the order of the nodes' hashes.
#[derive(Debug)]
pub(super) struct Graph {
    pub nodes: Vec<NodeHash>,
    relays: Vec<bool>,
    /// Where the arcs of each node begin, and at last where all end.
    starts: Vec<usize>,
    arcs: Vec<Arc>,
}

/// The shortest paths from one node.
#[derive(Debug)]
pub(super) struct Tree(Vec<Option<Reached>>);

/// How a node is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reached {
    pub cost: u64,
    pub rtt_us: u64,
    /// The place before it; none for where the tree begins.
    pub before: Option<u32>,
}

impl Tree {
    pub(super) fn get(&self, to: u32) -> Option<Reached> {
        self.0.get(to as usize).copied().flatten()
    }
}

impl Graph {
    /// Of the links that `own` reports only those count whose neighbour `is_up`.
    pub(super) fn build(db: &Database, own: NodeHash, is_up: impl Fn(NodeHash) -> bool) -> Self {
        let nodes: Vec<NodeHash> = db.nodes.keys().copied().collect();
        let mut all = Vec::with_capacity(db.links);
        for (from, (node, entry)) in db.nodes.iter().enumerate() {
            for edge in entry.edges().filter(|edge| *node != own || is_up(edge.link.to)) {
                // There are at most `MAX_NODES` places.
                if let Ok(to) = nodes.binary_search(&edge.link.to)
                    && to != from
                {
                    let (to, rtt_us) = (to as u32, edge.link.rtt_us);
                    all.push((from as u32, Arc { to, cost: edge.cost, rtt_us }));
                }
            }
        }
        all.sort_unstable();
        all.dedup_by_key(|(from, arc)| (*from, arc.to));
        let mut graph = Self {
            relays: db.nodes.values().map(|entry| entry.relays()).collect(),
            starts: Vec::new(),
            arcs: Vec::new(),
            nodes,
        };
        let reported = |from: u32, to: u32| {
            all.binary_search_by_key(&(from, to), |(from, arc)| (*from, arc.to)).is_ok()
        };
        // A neighbour that has said nothing yet in its present life answers us, and is the end of a way.
        let own_place = graph.nodes.binary_search(&own).map_or(u32::MAX, |place| place as u32);
        let is_silent = |to: u32| {
            let entry = graph.nodes.get(to as usize).and_then(|node| db.nodes.get(node));
            entry.is_some_and(|entry| entry.fragments.is_empty())
        };
        let mut arcs = Vec::with_capacity(all.len());
        let mut starts = Vec::with_capacity(graph.nodes.len() + 1);
        let mut at = 0;
        for from in 0..graph.nodes.len() as u32 {
            starts.push(arcs.len());
            while let Some((_, arc)) = all.get(at).filter(|(begin, _)| *begin == from) {
                if reported(arc.to, from) || (from == own_place && is_silent(arc.to)) {
                    arcs.push(*arc);
                }
                at += 1;
            }
        }
        starts.push(arcs.len());
        (graph.starts, graph.arcs) = (starts, arcs);
        graph
    }

    pub(super) fn place(&self, node: NodeHash) -> Option<u32> {
        self.nodes.binary_search(&node).ok().map(|place| place as u32)
    }

    pub(super) fn node(&self, place: u32) -> Option<NodeHash> {
        self.nodes.get(place as usize).copied()
    }

    /// Links of a node, by their ends.
    pub(super) fn arcs(&self, from: u32) -> &[Arc] {
        let from = from as usize;
        let (Some(&start), Some(&end)) = (self.starts.get(from), self.starts.get(from + 1)) else {
            return &[];
        };
        self.arcs.get(start..end).unwrap_or_default()
    }

    pub(super) fn arc(&self, from: u32, to: u32) -> Option<&Arc> {
        let arcs = self.arcs(from);
        arcs.binary_search_by_key(&to, |arc| arc.to).ok().and_then(|at| arcs.get(at))
    }

    pub(super) fn relays(&self, place: u32) -> bool {
        self.relays.get(place as usize).copied().unwrap_or(false)
    }

    /// The shortest paths from a node to all others by nodes that relay, but for those through `without`.
    /// Of paths of equal cost always the same one.
    pub(super) fn tree(&self, from: u32, without: Option<u32>) -> Tree {
        let mut tree = Tree(vec![None; self.nodes.len()]);
        let successors = |&at: &u32| {
            let arcs = if self.relays(at) { self.arcs(at) } else { &[] };
            arcs.iter().filter(|arc| Some(arc.to) != without).map(|arc| (arc.to, arc.cost))
        };
        for item in dijkstra_reach(&from, successors) {
            // Parents come before their children.
            let rtt_us = item.parent.map_or(0, |parent| {
                let link = self.arc(parent, item.node).map_or(0, |arc| u64::from(arc.rtt_us));
                tree.get(parent).map_or(0, |reached| reached.rtt_us) + link
            });
            let reached = Reached { cost: item.total_cost, rtt_us, before: item.parent };
            if let Some(slot) = tree.0.get_mut(item.node as usize) {
                *slot = Some(reached);
            }
        }
        tree
    }
}
