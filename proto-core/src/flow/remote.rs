//! The nodes that flows lead to or come from, and the ways there.

use std::time::{Duration, Instant};

use crate::flow::closed::HadIds;
use crate::flow::state::{Role, UNREACHABLE_WAIT};
use crate::flow::{Flows, Hop};
use crate::ids::{Incarnation, Lane, NodeHash, PeerId};
use crate::wire::flow::ResetCode;

/// Nodes that are remembered at most. One with which there were flows in its present life is not forgotten
/// while this node runs: which ids were had must outlive them.
pub(crate) const MAX_REMOTES: usize = 4096;
/// The way of this node to itself.
pub(super) const SELF_HOP: PeerId = PeerId(usize::MAX);
/// Until more is known.
const USUAL_RTT: Duration = Duration::from_millis(300);
/// What this node says to itself comes in pieces of this size.
const LOOP_ROOM: usize = 8 * 1024;

/// The way to another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Route {
    /// The neighbour on the way.
    pub via: PeerId,
    /// Round trip time along the whole way.
    pub rtt: Duration,
    /// Tunnels on the way.
    pub hops: usize,
}

/// What flows know of another node.
#[derive(Debug)]
pub(super) struct Remote {
    pub hop: Option<PeerId>,
    pub hops: usize,
    pub life: Option<Incarnation>,
    pub rtt: Duration,
    pub down_since: Option<Instant>,
    /// The flows were reset because it was out of reach for so long.
    pub given_up: bool,
    pub next_id: u64,
    pub had: HadIds,
    /// It is a destination of this node's clients: they wait for it, whatever becomes of it.
    pub configured: bool,
    /// It is no part of the mesh any more: what is said of its life when it comes back is believed.
    pub gone: bool,
    /// Something that was under way may be gone, and there has been no way since to ask.
    pub lost: bool,
}

impl Remote {
    /// Nothing is known of it.
    fn new(down_since: Option<Instant>) -> Self {
        Self {
            hop: None,
            hops: 1,
            life: None,
            rtt: USUAL_RTT,
            down_since,
            given_up: false,
            next_id: 0,
            had: HadIds::default(),
            configured: false,
            gone: false,
            lost: false,
        }
    }

    /// This node as a destination of its own.
    pub(super) fn own(life: Incarnation) -> Self {
        let (hop, life) = (Some(SELF_HOP), Some(life));
        Self { hop, hops: 0, life, rtt: Duration::ZERO, ..Self::new(None) }
    }
}

impl Flows {
    /// Makes room for what goes to a neighbour.
    pub(crate) fn add_hop(&mut self, hop: PeerId) {
        while self.hops.len() <= hop.0 {
            self.hops.push(Hop::default());
        }
    }

    /// Makes a node known to which flows may lead; for now there is no way to it.
    pub(crate) fn add_remote(&mut self, now: Instant, node: NodeHash) {
        if !self.remotes.contains_key(&node) && self.remotes.len() < MAX_REMOTES {
            self.remotes.insert(node, Remote::new(Some(now)));
            self.give_up_later(now);
        }
    }

    /// Makes a node known to which clients are to be taken.
    pub(crate) fn add_destination(&mut self, now: Instant, node: NodeHash) {
        self.add_remote(now, node);
        if let Some(remote) = self.remotes.get_mut(&node) {
            remote.configured = true;
        }
    }

    fn give_up_later(&mut self, down_since: Instant) {
        let at = down_since + UNREACHABLE_WAIT;
        self.give_up_at = Some(self.give_up_at.map_or(at, |other| other.min(at)));
    }

    /// Nodes that are known, this one included.
    pub(super) fn remotes(&self) -> usize {
        self.remotes.len()
    }

    /// A node is no part of the mesh any more. It is forgotten if there was never a flow with it.
    pub(crate) fn forget_remote(&mut self, node: NodeHash) {
        let Some(remote) = self.remotes.get_mut(&node).filter(|_| node != self.local) else {
            return;
        };
        remote.gone = true;
        let is_blank = remote.next_id == 0 && remote.had.is_blank() && !remote.configured;
        if is_blank && self.flows.iter().all(|(_, flow)| flow.remote != node) {
            self.remotes.remove(&node);
        }
    }

    /// Flows with that node are broken off. What must outlive them is kept: which ids were had.
    pub(crate) fn abandon(&mut self, node: NodeHash) {
        self.break_off(|flow| flow.remote == node);
    }

    /// Since when a neighbour's tunnel holds symbols that are not acknowledged.
    pub(crate) fn set_held(&mut self, hop: PeerId, held_since: Option<Instant>) {
        if let Some(hop) = self.hops.get_mut(hop.0) {
            hop.held_since = held_since;
        }
    }

    /// The way to `node` is this one now. `lost`: something that was under way may be gone.
    pub(crate) fn set_route(
        &mut self,
        now: Instant,
        node: NodeHash,
        route: Option<Route>,
        lost: bool,
    ) {
        if node == self.local {
            return;
        }
        self.add_remote(now, node);
        let Some(remote) = self.remotes.get_mut(&node) else { return };
        let via = route.map(|route| route.via);
        let moved = remote.hop != via;
        let relayed = route.is_some_and(|route| route.hops > 1);
        let changed = moved || relayed != (remote.hops > 1);
        let (was, came_back) = (remote.hop, remote.hop.is_none() && via.is_some());
        remote.hop = via;
        // Nobody can be asked before there is a way.
        remote.lost |= lost;
        let lost = via.is_some() && std::mem::take(&mut remote.lost);
        match route {
            Some(route) => {
                (remote.rtt, remote.hops) = (route.rtt, route.hops);
                remote.down_since = None;
                remote.given_up = false;
            }
            None => {
                let since = *remote.down_since.get_or_insert(now);
                self.give_up_later(since);
            }
        }
        if !changed && !lost {
            return;
        }
        let flows = self.flows.iter().filter(|(_, flow)| flow.remote == node);
        let flows: Vec<usize> = flows.map(|(idx, _)| idx).collect();
        if moved {
            self.unqueue_all(was, node);
        }
        for idx in flows {
            if let Some(flow) = self.flows.get_mut(idx).filter(|_| moved) {
                (flow.hop, flow.queued) = (via, [false; 3]);
            }
            if let Some(flow) = self.flows.get_mut(idx).filter(|_| route.is_some()) {
                flow.tx.set_relayed(relayed);
                if came_back {
                    (flow.stalls, flow.stall_at) = (0, None);
                }
                if lost {
                    flow.look_for_holes(now);
                }
            }
            self.touch(now, idx);
        }
    }

    /// Takes all flows with that node out of the queues for a neighbour.
    fn unqueue_all(&mut self, hop: Option<PeerId>, node: NodeHash) {
        let Some(hop) = hop.and_then(|hop| self.hops.get_mut(hop.0)) else { return };
        let flows = &self.flows;
        let is_other = |idx: &usize| flows.get(*idx).is_some_and(|flow| flow.remote != node);
        hop.queues.iter_mut().for_each(|queue| queue.retain(is_other));
    }

    /// When a node has been out of reach for too long.
    pub(super) fn give_up_at(&self) -> Option<Instant> {
        self.give_up_at
    }

    /// Gives up what leads to nodes that have been out of reach for too long.
    pub(super) fn give_up_unreachable(&mut self, now: Instant) {
        if self.give_up_at.is_none_or(|at| at > now) {
            return;
        }
        let mut next = None::<Instant>;
        let mut lost = Vec::new();
        for (node, remote) in &mut self.remotes {
            let Some(since) = remote.down_since.filter(|_| !remote.given_up) else { continue };
            let at = since + UNREACHABLE_WAIT;
            if at <= now {
                remote.given_up = true;
                lost.push(*node);
            } else {
                next = Some(next.map_or(at, |other| other.min(at)));
            }
        }
        self.give_up_at = next;
        for node in lost {
            self.give_up(now, node);
        }
    }

    /// Resets the flows with a node that was out of reach for too long, idle ones too: its end does
    /// the same, and whichever came first is believed.
    fn give_up(&mut self, now: Instant, node: NodeHash) {
        let lost: Vec<usize> = self
            .flows
            .iter()
            .filter(|(_, f)| f.remote == node && f.key.is_some() && f.is_live())
            .map(|(idx, _)| idx)
            .collect();
        for idx in lost {
            self.abort_conn(idx);
            self.reset(now, idx, ResetCode::Unreachable, 0);
        }
    }

    /// `node` lives this life. Flows with an earlier one are broken off: never silently, and never
    /// resumed. What tells of an earlier one than is known has been long on its way.
    pub(crate) fn set_remote_life(&mut self, now: Instant, node: NodeHash, life: Incarnation) {
        if node == self.local {
            return;
        }
        self.add_remote(now, node);
        let Some(remote) = self.remotes.get_mut(&node) else { return };
        let gone = std::mem::take(&mut remote.gone);
        if remote.life == Some(life) || (!gone && remote.life.is_some_and(|known| known > life)) {
            return;
        }
        remote.life = Some(life);
        remote.had = HadIds::default();
        self.break_off(|flow| {
            flow.remote == node
                && flow.key.is_some_and(|key| match flow.role {
                    Role::Ingress => key.egress_life != life.low32(),
                    Role::Egress => key.ingress_life != life.low32(),
                })
        });
    }

    /// This node begins another life. What nobody has heard of yet survives.
    pub(crate) fn set_life(&mut self, life: Incarnation) {
        self.life = life;
        self.break_off(|flow| flow.key.is_some());
        for remote in self.remotes.values_mut() {
            remote.had = HadIds::default();
        }
        if let Some(own) = self.remotes.get_mut(&self.local) {
            own.life = Some(life);
        }
    }

    /// What this node says to itself is heard at once.
    pub(super) fn loop_back(&mut self, now: Instant) {
        let mut symbol = std::mem::take(&mut self.scratch);
        for lane in Lane::ALL {
            while self.has(SELF_HOP, lane) {
                symbol.clear();
                self.fill(now, SELF_HOP, lane, LOOP_ROOM, &mut symbol);
                let heard = self.handle_symbol(now, SELF_HOP, &symbol);
                debug_assert!(heard.is_ok(), "frames of our own");
                if symbol.is_empty() {
                    break;
                }
            }
        }
        self.scratch = symbol;
    }
}
