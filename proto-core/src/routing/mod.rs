//! Destination → next hop.
//!
//! Every node floods what it measured of its links ([`own`]); all of it together ([`database`]) is a graph
//! ([`graph`]) from which each node computes its routes ([`routes`]), on a change and never per packet.
//! Knows neighbours by number and no tunnels: frames for them are asked for one neighbour at a time, and
//! the tunnel delivers them.

#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod bench;
mod cost;
mod database;
mod graph;
mod names;
mod neighbour;
mod own;
mod report;
mod routes;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_mesh;
#[cfg(test)]
mod tests_node;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::ids::{Incarnation, NodeHash, NodeId, PeerId};
use crate::probe::LinkQuality;
use crate::rng::Rng;
use crate::wire::linkstate::{Fragment, MAX_INCARNATION};

pub(crate) use names::tell_apart;

use database::{Database, MAX_NODES, Outcome};
use neighbour::{Change, Neighbour};
use own::Own;
use routes::Route;

/// Nodes of which there may be news that nobody polled; then no new ones are learnt.
const MAX_NEWS: usize = 2 * MAX_NODES;
/// Probe intervals for which a change must last to be one.
const HOLD_PROBES: u32 = 3;

/// A life says no more than this in order; above, there must be room for the next.
const MAX_SEQUENCE: u64 = 1 << 60;
/// Routes are computed anew no more often than so, unless something of them is gone.
const BETWEEN: Duration = Duration::from_millis(20);

/// What the rest of the node is to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RoutingEvent {
    /// The way to a node is another one.
    Route {
        node: NodeHash,
        /// The next hop, if there is one.
        via: Option<PeerId>,
        /// Round trip time along the way.
        rtt: Duration,
        /// Something of the old way is gone: what was under way may be, too.
        lost: bool,
        /// Tunnels on the way.
        hops: usize,
    },
    /// The present life of a node, learnt from itself.
    Life { node: NodeHash, life: Incarnation },
    /// Nothing was heard of the node for so long that it is forgotten.
    Gone { node: NodeHash },
    /// The mesh remembers a later life of this node than its present one.
    Outlived { seen: Incarnation },
}

/// What is still to be told of a node.
#[derive(Debug, Default)]
struct News {
    gone: bool,
    life: Option<Incarnation>,
    route: bool,
    lost: bool,
}

/// The room's state; see the module's text.
#[derive(Debug)]
pub(crate) struct Routing {
    local: NodeId,
    hash: NodeHash,
    life: Incarnation,
    relays: bool,
    /// It goes away: its links are shaky.
    leaving: bool,
    /// How long a change must last to be one.
    hold: Duration,
    rng: Rng,
    db: Database,
    own: Own,
    /// By [`PeerId`].
    neighbours: Vec<Option<Neighbour>>,
    routes: BTreeMap<NodeHash, Route>,
    /// Since when routes may have to be others.
    dirty: Option<Instant>,
    computed: Option<Instant>,
    /// When a route has to be looked at again although nothing happened.
    decide_at: Option<Instant>,
    news: BTreeMap<NodeHash, News>,
    outlived: Option<Incarnation>,
    route_changes: u64,
}

impl Routing {
    /// A node without neighbours. `rng` spreads refreshes.
    pub(crate) fn new(
        now: Instant,
        local: NodeId,
        incarnation: Incarnation,
        probe_interval: Duration,
        rng: Rng,
    ) -> Self {
        let mut routing = Self {
            hash: local.hash32(),
            local,
            life: incarnation,
            relays: true,
            leaving: false,
            hold: probe_interval * HOLD_PROBES,
            rng,
            db: Database::default(),
            own: Own::new(now),
            neighbours: Vec::new(),
            routes: BTreeMap::new(),
            dirty: None,
            computed: None,
            decide_at: None,
            news: BTreeMap::new(),
            outlived: None,
            route_changes: 0,
        };
        routing.db.learn(routing.hash, routing.local.clone(), incarnation);
        routing.say_all(now);
        routing
    }

    /// Begins another life of this node.
    pub(crate) fn set_incarnation(&mut self, now: Instant, incarnation: Incarnation) {
        self.life = incarnation;
        self.outlived = self.outlived.filter(|seen| *seen >= incarnation);
        self.db.learn(self.hash, self.local.clone(), incarnation);
        self.own.begin_life();
        self.say_all(now);
        self.dirty.get_or_insert(now);
    }

    /// How often neighbours are probed.
    pub(crate) fn set_interval(&mut self, probe_interval: Duration) {
        self.hold = probe_interval * HOLD_PROBES;
    }

    /// Whether others may route through this node.
    pub(crate) fn set_relaying(&mut self, now: Instant, relays: bool) {
        if std::mem::replace(&mut self.relays, relays) != relays {
            self.own.due(0, true);
            self.say(now);
        }
    }

    /// This node goes away: others route around it while there still is a way through it, where there is
    /// another.
    pub(crate) fn leave(&mut self, now: Instant) {
        if !std::mem::replace(&mut self.leaving, true) {
            for fragment in 0..self.own.fragments {
                self.own.due(fragment, true);
            }
            self.say(now);
        }
    }

    /// Adds a configured neighbour, whose link is down.
    pub(crate) fn add_neighbour(&mut self, peer: PeerId, id: &NodeId) {
        if self.neighbour(peer).is_some_and(|known| known.id == *id) {
            return;
        }
        if self.neighbours.len() <= peer.0 {
            self.neighbours.resize_with(peer.0 + 1, || None);
        }
        let Some(fragment) = self.own_fragment_with_room() else {
            tracing::warn!(peer = %id, "too many neighbours: no route leads over this one");
            return;
        };
        if let Some(slot) = self.neighbours.get_mut(peer.0) {
            *slot = Some(Neighbour::new(id, fragment));
        }
    }

    /// The neighbour was taken out of the configuration.
    pub(crate) fn remove_neighbour(&mut self, now: Instant, peer: PeerId) {
        self.set_link(now, peer, None);
        if let Some(slot) = self.neighbours.get_mut(peer.0) {
            *slot = None;
        }
    }

    /// What the link to a neighbour is like; `None` when it does not carry anything.
    pub(crate) fn set_link(&mut self, now: Instant, peer: PeerId, quality: Option<LinkQuality>) {
        let hold = self.hold;
        let Some(neighbour) = self.neighbour_mut(peer) else { return };
        let (fragment, hash) = (neighbour.fragment, neighbour.hash);
        match neighbour.measured(now, quality, hold) {
            Change::Nothing => return,
            Change::Quality => self.own.due(fragment, false),
            Change::Came => {
                self.own.due(fragment, false);
                self.exchange(peer);
                self.dirty.get_or_insert(now);
            }
            Change::Died => {
                self.own.due(fragment, true);
                self.db.lost.link(self.hash, hash);
                self.dirty.get_or_insert(now);
            }
        }
        self.watch_shaky_links();
        self.say(now);
    }

    /// The present life of a neighbour, from its handshake: what was under way through an earlier one is
    /// gone.
    pub(crate) fn set_neighbour_life(&mut self, now: Instant, peer: PeerId, life: Incarnation) {
        let Some(neighbour) = self.neighbour_mut(peer) else { return };
        let (hash, told, name) = (neighbour.hash, neighbour.life, neighbour.id.clone());
        if told.is_some_and(|told| told >= life) {
            return;
        }
        neighbour.life = Some(life);
        let known = self.db.nodes.get(&hash).map(|entry| entry.life);
        if known.max(told).is_some_and(|known| known < life) {
            self.db.lost.nodes.insert(hash);
        }
        self.db.meet(hash, name, life);
        self.dirty.get_or_insert(now);
    }

    /// Tells a neighbour all that is known: its tunnel came up, or what it was told may be lost.
    pub(crate) fn exchange(&mut self, peer: PeerId) {
        let nodes = &self.db.nodes;
        let Some(Some(neighbour)) = self.neighbours.get_mut(peer.0) else { return };
        for (node, entry) in nodes {
            neighbour.pending.extend(entry.fragments.keys().map(|n| (*node, *n)));
        }
    }

    /// Takes a link-state frame of a neighbour.
    pub(crate) fn handle(&mut self, now: Instant, from: PeerId, frame: &Fragment<'_>) {
        let Ok(id) = NodeId::new(frame.head.name) else { return };
        if self.neighbour(from).is_none() {
            return;
        }
        let node = id.hash32();
        if node == self.hash {
            self.heard_of_oneself(now, from, frame);
            return;
        }
        let may_learn = self.news.len() < MAX_NEWS;
        let key = (node, frame.head.fragment);
        match self.db.install(now, node, frame, may_learn) {
            Outcome::Refused => {}
            Outcome::Older => self.remind(from, node),
            Outcome::Same => self.knows(from, key),
            Outcome::Installed { matters, new_life } => {
                if new_life {
                    let life = Some(frame.head.incarnation);
                    self.news.entry(node).or_default().life = life;
                }
                if matters {
                    self.dirty.get_or_insert(now);
                    self.prune(node); // of fragments that this one voided
                }
                self.flood(key);
                self.knows(from, key);
            }
        }
    }

    /// Nobody but this node speaks of this node: what is newer than what it said is outdone, and never
    /// installed.
    fn heard_of_oneself(&mut self, now: Instant, from: PeerId, frame: &Fragment<'_>) {
        let head = &frame.head;
        if head.name != self.local.as_str() {
            if self.own.warn_of_collision() {
                tracing::warn!(
                    other = head.name,
                    "another node has this node's hash on the wire: rename one of them"
                );
            }
            return;
        }
        if head.incarnation < self.life {
            return self.remind(from, self.hash);
        }
        // Above the greatest there is no room: what claims to be that is left to grow old.
        let outlives = head.incarnation > self.life || head.sequence >= MAX_SEQUENCE;
        if outlives {
            if head.incarnation.0 < MAX_INCARNATION - 1 {
                self.outlived = self.outlived.max(Some(head.incarnation));
            }
            return;
        }
        let said = self.db.fragment(self.hash, head.fragment).map(|(_, held)| held);
        let is_ours = said.is_some_and(|held| {
            head.sequence < held.sequence
                || head.sequence == held.sequence
                    && held.fragments == head.fragments
                    && held.relays == head.relays
                    && frame.links.eq(held.edges.iter().map(|edge| edge.link))
        });
        match said {
            Some(held) if is_ours && head.sequence < held.sequence => self.remind(from, self.hash),
            Some(_) if is_ours => self.knows(from, (self.hash, head.fragment)),
            _ => {
                // Where there is no such fragment, the first says how many there are.
                let fragment = if said.is_some() { head.fragment } else { 0 };
                self.own.jump(head.sequence);
                self.own.due(fragment, false);
                self.say(now);
            }
        }
    }

    /// Whether there is something to tell a neighbour.
    pub(crate) fn has(&self, peer: PeerId) -> bool {
        self.neighbour(peer).is_some_and(|n| n.link.is_some() && !n.pending.is_empty())
    }

    /// Appends frames for a neighbour, of `room` bytes at most.
    pub(crate) fn fill(&mut self, now: Instant, peer: PeerId, room: usize, out: &mut Vec<u8>) {
        let Some(Some(neighbour)) = self.neighbours.get_mut(peer.0) else { return };
        if neighbour.link.is_none() {
            return;
        }
        let most = out.len() + room;
        while let Some(&(node, fragment)) = neighbour.pending.first() {
            let at = out.len();
            self.db.put(now, node, fragment, out);
            if out.len() > most {
                out.truncate(at);
                return;
            }
            neighbour.pending.pop_first();
        }
    }

    /// When routes are to be computed anew.
    fn due(&self) -> Option<Instant> {
        let since = self.dirty?;
        let earliest = self.computed.filter(|_| self.db.lost.is_empty()).map(|at| at + BETWEEN);
        Some(earliest.map_or(since, |earliest| earliest.max(since)))
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let first = |a: Option<Instant>, b: Option<Instant>| match (a, b) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let own = first(self.own.next_due(), self.db.next_expiry);
        first(own, first(self.due(), self.decide_at))
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.steady_links(now);
        self.refresh(now);
        self.say(now);
        self.expire(now);
        if self.due().is_some_and(|at| at <= now) || self.decide_at.is_some_and(|at| at <= now) {
            self.recompute(now);
        }
    }

    fn expire(&mut self, now: Instant) {
        let expired = self.db.expire(now, self.hash);
        for node in &expired {
            self.dirty.get_or_insert(now);
            self.prune(*node);
            if !self.db.nodes.contains_key(node) {
                self.news.entry(*node).or_default().gone = true;
            }
        }
    }

    /// What the rest of the node is to know, if there is anything.
    pub(crate) fn poll_event(&mut self, now: Instant) -> Option<RoutingEvent> {
        if self.due().is_some_and(|at| at <= now) {
            self.recompute(now);
        }
        if let Some(seen) = self.outlived.take() {
            return Some(RoutingEvent::Outlived { seen });
        }
        let mut first = self.news.first_entry()?;
        let node = *first.key();
        let news = first.get_mut();
        let way = self.routes.get(&node);
        let event = if news.route && (way.is_none() || !news.gone && news.life.is_none()) {
            news.route = false;
            let lost = std::mem::take(&mut news.lost);
            let via = way.map(|route| route.via);
            let rtt = Duration::from_micros(way.map_or(0, |route| route.rtt_us));
            let hops = way.map_or(0, |route| route.path.len().saturating_sub(1));
            RoutingEvent::Route { node, via, rtt, lost, hops }
        } else if std::mem::take(&mut news.gone) {
            RoutingEvent::Gone { node }
        } else if let Some(life) = news.life.take() {
            RoutingEvent::Life { node, life }
        } else {
            first.remove();
            return self.poll_event(now);
        };
        if !news.route && !news.gone && news.life.is_none() {
            first.remove();
        }
        Some(event)
    }

    /// Where a frame for `dest` goes that came `from` a neighbour, or from here.
    pub(crate) fn next_hop(&self, dest: NodeHash, from: Option<PeerId>) -> Option<PeerId> {
        let route = self.routes.get(&dest)?;
        let is_usable = |peer: &PeerId| {
            Some(*peer) != from && self.neighbour(*peer).is_some_and(|n| n.link.is_some())
        };
        Some(route.via).filter(is_usable).or_else(|| route.alternate.filter(is_usable))
    }

    fn neighbour(&self, peer: PeerId) -> Option<&Neighbour> {
        self.neighbours.get(peer.0)?.as_ref()
    }

    fn neighbour_mut(&mut self, peer: PeerId) -> Option<&mut Neighbour> {
        self.neighbours.get_mut(peer.0)?.as_mut()
    }

    /// All neighbours that can hear are to be told a fragment.
    fn flood(&mut self, key: (NodeHash, u8)) {
        for neighbour in self.neighbours.iter_mut().flatten().filter(|n| n.link.is_some()) {
            neighbour.pending.insert(key);
        }
    }

    /// What of a node is not here any more is told to nobody.
    fn prune(&mut self, node: NodeHash) {
        let db = &self.db;
        for neighbour in self.neighbours.iter_mut().flatten() {
            let all = (node, 0)..=(node, u8::MAX);
            let is_stale = |(node, n): &&(NodeHash, u8)| db.fragment(*node, *n).is_none();
            while let Some(&key) = neighbour.pending.range(all.clone()).find(is_stale) {
                neighbour.pending.remove(&key);
            }
        }
    }

    /// A neighbour has a fragment as new as it is here.
    fn knows(&mut self, peer: PeerId, key: (NodeHash, u8)) {
        if let Some(neighbour) = self.neighbour_mut(peer) {
            neighbour.pending.remove(&key);
        }
    }

    /// A neighbour told something old of a node.
    fn remind(&mut self, peer: PeerId, node: NodeHash) {
        let Some(entry) = self.db.nodes.get(&node) else { return };
        let Some(Some(neighbour)) = self.neighbours.get_mut(peer.0) else { return };
        if neighbour.link.is_some() {
            neighbour.pending.extend(entry.fragments.keys().map(|n| (node, *n)));
        }
    }
}
