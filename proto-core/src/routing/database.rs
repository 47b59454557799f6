//! The link-state database: the newest that every node said of its links.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::ids::{Incarnation, NodeHash, NodeId};
use crate::wire::linkstate::{self, Fragment, FragmentHead, Link};

use super::cost;

/// What is so old is not told.
const MAX_AGE: Duration = Duration::from_secs(300);
/// What is older is forgotten: rounded up, its age would be told as the greatest.
const KEPT: Duration = Duration::from_secs(MAX_AGE.as_secs() - 1);
/// Nodes at most.
pub(super) const MAX_NODES: usize = 2048;
/// Links at most, each direction counted.
pub(super) const MAX_LINKS: usize = 65_536;

/// A link as it was advertised, with what it costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Edge {
    pub link: Link,
    pub cost: u64,
}

impl Edge {
    pub(super) fn new(link: Link) -> Self {
        let shaky = if link.shaky { cost::SHAKY } else { 0 };
        Self { link, cost: cost::link_cost(&link) + shaky }
    }
}

/// A fragment that is kept.
#[derive(Debug)]
pub(super) struct Held {
    pub sequence: u64,
    pub fragments: u8,
    pub relays: bool,
    pub edges: Vec<Edge>,
    /// When it came, and how old it was then.
    pub heard: Instant,
    pub age: Duration,
}

impl Held {
    pub(super) fn age(&self, now: Instant) -> Duration {
        self.age + now.saturating_duration_since(self.heard)
    }

    fn expires(&self) -> Instant {
        self.heard + KEPT.saturating_sub(self.age)
    }
}

/// A node that advertised itself.
#[derive(Debug)]
pub(super) struct Entry {
    pub name: NodeId,
    pub life: Incarnation,
    pub fragments: BTreeMap<u8, Held>,
    /// The collision of its hash was told.
    warned: bool,
}

impl Entry {
    /// What was said last of all, which says how many fragments there are and whether the node relays.
    fn newest(&self) -> Option<&Held> {
        self.fragments.values().max_by_key(|held| held.sequence)
    }

    pub(super) fn relays(&self) -> bool {
        self.newest().is_some_and(|held| held.relays)
    }

    pub(super) fn edges(&self) -> impl Iterator<Item = &Edge> {
        self.fragments.values().flat_map(|held| &held.edges)
    }
}

/// What became of an advertisement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// There is no room for it, or it is none.
    Refused,
    /// What is here is newer.
    Older,
    Same,
    /// It is in the database now.
    Installed {
        /// Routes may be others now.
        matters: bool,
        /// Nothing was known of the node, or of this life of it.
        new_life: bool,
    },
}

/// What vanished since routes were last computed, even if it came back meanwhile.
#[derive(Debug, Default)]
pub(super) struct Lost {
    /// Both directions of each.
    links: BTreeSet<(NodeHash, NodeHash)>,
    pub nodes: BTreeSet<NodeHash>,
}

impl Lost {
    pub(super) fn link(&mut self, a: NodeHash, b: NodeHash) {
        self.links.insert((a, b));
        self.links.insert((b, a));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.links.is_empty() && self.nodes.is_empty()
    }

    /// Whether anything of that path vanished.
    pub(super) fn hits(&self, path: &[NodeHash]) -> bool {
        path.iter().any(|node| self.nodes.contains(node))
            || path.windows(2).any(|pair| match pair {
                [a, b] => self.links.contains(&(*a, *b)),
                _ => false,
            })
    }
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Database {
    pub nodes: BTreeMap<NodeHash, Entry>,
    /// Links in all.
    pub links: usize,
    /// Advertisements refused for want of room.
    pub refused: u64,
    pub lost: Lost,
    /// Nothing expires before.
    pub next_expiry: Option<Instant>,
}

impl Database {
    pub(super) fn fragment(&self, node: NodeHash, fragment: u8) -> Option<(&Entry, &Held)> {
        let entry = self.nodes.get(&node)?;
        Some((entry, entry.fragments.get(&fragment)?))
    }

    /// Appends the frame of a fragment; false if it is not here or too old to be told.
    pub(super) fn put(&self, now: Instant, node: NodeHash, n: u8, out: &mut Vec<u8>) -> bool {
        let Some((entry, held)) = self.fragment(node, n) else { return false };
        // Rounded up, so that no copy grows younger on its way.
        let age = held.age(now);
        let age_s = age.as_secs() + u64::from(age.subsec_nanos() > 0);
        if age_s >= MAX_AGE.as_secs() {
            return false;
        }
        let head = FragmentHead {
            name: entry.name.as_str(),
            incarnation: entry.life,
            sequence: held.sequence,
            fragment: n,
            fragments: held.fragments,
            relays: held.relays,
            age_s,
        };
        linkstate::put(out, &head, held.edges.iter().map(|edge| &edge.link));
        true
    }

    /// Takes in what another node said, if it is news. `may_learn`: also of nodes that are not known.
    pub(super) fn install(
        &mut self,
        now: Instant,
        node: NodeHash,
        frame: &Fragment<'_>,
        may_learn: bool,
    ) -> Outcome {
        let head = &frame.head;
        if head.age_s >= KEPT.as_secs() || !self.may_have(node, head.name) {
            return Outcome::Refused;
        }
        // Of one that was only met, its own word is the first that counts.
        if let Some(met) = self.nodes.get_mut(&node).filter(|entry| entry.fragments.is_empty()) {
            met.life = met.life.min(head.incarnation);
        }
        let mut released = 0;
        let known = self.nodes.get(&node).filter(|entry| entry.name.as_str() == head.name);
        let name = if let Some(entry) = known {
            let held = entry.fragments.get(&head.fragment);
            if head.incarnation < entry.life {
                return Outcome::Older;
            }
            if head.incarnation > entry.life {
                released = entry.edges().count();
            } else if let Some(held) = held {
                match head.sequence.cmp(&held.sequence) {
                    std::cmp::Ordering::Less => return Outcome::Older,
                    std::cmp::Ordering::Equal => return Outcome::Same,
                    std::cmp::Ordering::Greater => released = held.edges.len(),
                }
            } else if entry.newest().is_some_and(|newest| {
                head.sequence < newest.sequence && head.fragment >= newest.fragments
            }) {
                return Outcome::Older; // there is no such fragment any more
            }
            None
        } else {
            let is_full = self.nodes.len() >= MAX_NODES && !self.nodes.contains_key(&node);
            let name = NodeId::new(head.name).ok().filter(|_| may_learn && !is_full);
            let Some(name) = name else {
                self.refused += 1;
                return Outcome::Refused;
            };
            if let Some(other) = self.nodes.get(&node) {
                released = other.edges().count();
            }
            Some(name)
        };
        if self.links - released + frame.links.len() > MAX_LINKS {
            self.refused += 1;
            return Outcome::Refused;
        }
        if let Some(name) = name {
            self.learn(node, name, head.incarnation);
        }
        let new_life = self.begin_life(node, head.incarnation);
        let held = Held {
            sequence: head.sequence,
            fragments: head.fragments,
            relays: head.relays,
            edges: frame.links.map(Edge::new).collect(),
            heard: now,
            age: Duration::from_secs(head.age_s),
        };
        let expires = held.expires();
        self.next_expiry = Some(self.next_expiry.map_or(expires, |at| at.min(expires)));
        let matters = self.replace(node, head.fragment, held) || new_life;
        Outcome::Installed { matters, new_life }
    }

    /// Of two names with one hash the lexically greater is not installed.
    fn may_have(&mut self, node: NodeHash, name: &str) -> bool {
        let Some(entry) = self.nodes.get_mut(&node) else { return true };
        if entry.name.as_str() == name {
            return true;
        }
        if !entry.warned {
            entry.warned = true;
            tracing::warn!(
                known = %entry.name, other = name,
                "two nodes have the same hash on the wire: rename one of them"
            );
        }
        name < entry.name.as_str()
    }

    /// Makes room for a node, in the place of another one of its hash if there is one.
    pub(super) fn learn(&mut self, node: NodeHash, name: NodeId, life: Incarnation) {
        let warned = self.nodes.contains_key(&node);
        self.forget(node);
        let entry = Entry { name, life, fragments: BTreeMap::new(), warned };
        self.nodes.insert(node, entry);
    }

    /// A neighbour's handshake told of its life. It may be met before it has said anything of its links. (What
    /// it said in an earlier life stands until it says something in this one, here as everywhere.)
    pub(super) fn meet(&mut self, node: NodeHash, name: NodeId, life: Incarnation) {
        if !self.nodes.contains_key(&node) && self.nodes.len() < MAX_NODES {
            self.learn(node, name, life);
        }
    }

    /// A newer life voids what was said in older ones. True if there is nothing yet of this one.
    pub(super) fn begin_life(&mut self, node: NodeHash, life: Incarnation) -> bool {
        let Some(entry) = self.nodes.get_mut(&node) else { return false };
        if life <= entry.life {
            return entry.fragments.is_empty();
        }
        entry.life = life;
        let old = std::mem::take(&mut entry.fragments);
        self.lost.nodes.insert(node);
        old.values().for_each(|held| self.retire(node, held, &[]));
        true
    }

    /// Puts a fragment in the place of its older version; whether that can make other routes.
    pub(super) fn replace(&mut self, node: NodeHash, n: u8, held: Held) -> bool {
        let Some(entry) = self.nodes.get_mut(&node) else { return false };
        let relayed = entry.relays();
        let count = held.fragments;
        self.links += held.edges.len();
        let mut matters = !held.edges.is_empty();
        let mut retired = Vec::new();
        if let Some(old) = entry.fragments.remove(&n) {
            let costs = |held: &Held| -> Vec<_> {
                held.edges.iter().map(|edge| (edge.link.to, edge.cost)).collect()
            };
            matters = costs(&old) != costs(&held);
            retired.push((old, held.edges.clone()));
        }
        entry.fragments.insert(n, held);
        // Only the newest of all fragments knows how many there are.
        if entry.newest().map(|newest| newest.fragments) == Some(count) {
            for (_, old) in entry.fragments.split_off(&count) {
                matters |= !old.edges.is_empty();
                retired.push((old, Vec::new()));
            }
        }
        matters |= relayed != entry.relays();
        for (old, by) in retired {
            self.retire(node, &old, &by);
        }
        matters
    }

    /// A fragment is no more, but for those of its links that `by` has, too. (A link that has become shaky
    /// there died and came back before its withdrawal was told.)
    fn retire(&mut self, node: NodeHash, old: &Held, by: &[Edge]) {
        self.links -= old.edges.len();
        for edge in &old.edges {
            let Link { to, shaky, .. } = edge.link;
            let is_same = |by: &Edge| by.link.to == to && (shaky || !by.link.shaky);
            if !by.iter().any(is_same) {
                self.lost.link(node, to);
            }
        }
    }

    fn forget(&mut self, node: NodeHash) {
        let Some(entry) = self.nodes.remove(&node) else { return };
        self.lost.nodes.insert(node);
        entry.fragments.values().for_each(|held| self.retire(node, held, &[]));
    }

    /// Forgets what nobody repeated, but not what `own` says; the nodes of which something was. Those
    /// of which all was are not here any more.
    pub(super) fn expire(&mut self, now: Instant, own: NodeHash) -> BTreeSet<NodeHash> {
        let mut nodes = BTreeSet::new();
        if self.next_expiry.is_none_or(|at| now < at) {
            return nodes;
        }
        let mut expired = Vec::new();
        self.next_expiry = None;
        for (&node, entry) in self.nodes.iter().filter(|(node, _)| **node != own) {
            for (&n, held) in &entry.fragments {
                let at = held.expires();
                if at <= now {
                    expired.push((node, n));
                } else {
                    self.next_expiry = Some(self.next_expiry.map_or(at, |first| first.min(at)));
                }
            }
        }
        for (node, n) in expired {
            let Some(entry) = self.nodes.get_mut(&node) else { continue };
            let old = entry.fragments.remove(&n);
            if entry.fragments.is_empty() {
                self.nodes.remove(&node);
            }
            if let Some(old) = old {
                self.retire(node, &old, &[]);
            }
            nodes.insert(node);
        }
        nodes
    }
}
