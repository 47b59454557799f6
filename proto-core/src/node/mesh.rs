//! How the rooms of a mesh node meet: what a symbol holds goes to the flows that end here, on to the next
//! hop, or to the routing; what a tunnel may send is taken from all three; and when a tunnel dies, what it
//! still held goes another way.

use std::time::{Duration, Instant};

use crate::flow::{Flows, Route};
use crate::ids::{Incarnation, Lane, NodeHash, PeerId};
use crate::io::Action;
use crate::node::Node;
use crate::probe::LinkQuality;
use crate::routing::{Routing, RoutingEvent};
use crate::transit::{MAX_AGE, Passing, Transit};
use crate::tunnel::{Lives, Sink, Source, TunnelEvent};
use crate::wire::Reader;
use crate::wire::flow::{self, Age, Body, Head};
use crate::wire::symbol::{self, Content};

/// This node begins another life for a word from afar no more often than so.
const BETWEEN_RUMOURS: Duration = Duration::from_secs(30);

/// A tunnel as a link of the mesh.
#[derive(Debug, Default)]
pub(super) struct Link {
    /// What routing was told of it last; `None`: it cannot be used.
    told: Option<LinkQuality>,
    /// By lane.
    turns: [Turns; 3],
}

/// What flows that end here and what is relayed for others were served of a lane, each by the number of its
/// flows: the one that had less is next (start-time fair queueing of two classes).
#[derive(Debug, Default)]
struct Turns {
    flows: f64,
    transit: f64,
}

impl Turns {
    fn is_for_flows(&mut self, flows: bool, transit: bool) -> bool {
        if !(flows && transit) {
            // One that had nothing to send saves nothing up.
            *self = Self::default();
            return flows;
        }
        self.flows <= self.transit
    }
}

/// Where the symbols of one neighbour go.
pub(super) struct MeshSink<'a> {
    pub now: Instant,
    pub flows: &'a mut Flows,
    pub routing: &'a mut Routing,
    pub transit: &'a mut Transit,
    pub local: NodeHash,
    pub peer: PeerId,
    pub node: NodeHash,
    /// How long packets are on their way here.
    pub flight: Duration,
}

impl Sink for MeshSink<'_> {
    fn lives(&mut self, lives: Lives) {
        self.flows.set_remote_life(self.now, self.node, lives.remote);
    }

    fn symbol(&mut self, now: Instant, lane: Lane, held: Duration, content: &[u8]) {
        let mut reader = Reader::new(content);
        loop {
            match symbol::read(&mut reader) {
                Ok(Some(frame)) => match frame.content {
                    Content::LinkState(fragment) => self.routing.handle(now, self.peer, &fragment),
                    Content::Flow(head, body) => self.frame(lane, held, head, body, frame.raw),
                },
                Ok(None) => return,
                Err(_) => return tracing::trace!(peer = self.peer.0, "malformed frames"),
            }
        }
    }
}

impl MeshSink<'_> {
    fn frame(&mut self, lane: Lane, held: Duration, mut head: Head, body: Body<'_>, raw: &[u8]) {
        let age = held + self.flight;
        let (to, from) = head.ends();
        if from == self.local && to == self.local {
            // What this node says to itself does not come from outside.
            return;
        }
        if to != self.local {
            let passing = Passing { head, data: extent(&body), raw };
            match self.routing.next_hop(to, Some(self.peer)) {
                Some(hop) => self.transit.pass(self.now, hop, lane, &passing, age),
                None => self.transit.no_way(&passing),
            }
            return;
        }
        let age = head.age.time() + age;
        if age >= MAX_AGE && matches!(body, Body::Data { .. }) {
            return self.transit.too_old();
        }
        head.age = Age::of(age);
        self.flows.handle_frame(self.now, self.peer, head, body);
    }
}

/// Offset and length of data.
fn extent(body: &Body<'_>) -> Option<(u64, u64)> {
    match body {
        Body::Data { offset, data, .. } => Some((*offset, data.len() as u64)),
        _ => None,
    }
}

/// What goes to one neighbour.
pub(super) struct MeshSource<'a> {
    pub flows: &'a mut Flows,
    pub routing: &'a mut Routing,
    pub transit: &'a mut Transit,
    pub link: &'a mut Link,
    pub peer: PeerId,
}

impl Source for MeshSource<'_> {
    fn has(&self, lane: Lane) -> bool {
        self.flows.has(self.peer, lane)
            || self.transit.has(self.peer, lane)
            || (lane == Lane::Control && self.routing.has(self.peer))
    }

    fn fill(&mut self, now: Instant, lane: Lane, room: usize, out: &mut Vec<u8>) {
        let limit = out.len() + room;
        if lane == Lane::Control {
            // Before what follows the routes that it makes.
            self.routing.fill(now, self.peer, room, out);
        }
        let (mut flows, mut transit) =
            (self.flows.has(self.peer, lane), self.transit.has(self.peer, lane));
        while flows || transit {
            let before = out.len();
            let room = limit.saturating_sub(before);
            let Some(turns) = self.link.turns.get_mut(lane as usize) else { return };
            if turns.is_for_flows(flows, transit) {
                let weight = self.flows.weight(self.peer, lane).max(1);
                self.flows.fill(now, self.peer, lane, room, out);
                turns.flows += (out.len() - before) as f64 / weight as f64;
                // Once in a packet each: what finds no room now does not find it a moment later.
                flows = false;
            } else {
                let weight = self.transit.weight(self.peer, lane).max(1);
                self.transit.fill(now, self.peer, lane, room, out);
                turns.transit += (out.len() - before) as f64 / weight as f64;
                transit = false;
            }
        }
    }
}

impl Node {
    /// Whether something new waits for that neighbour and lane.
    pub(super) fn has(&self, peer: PeerId, lane: Lane) -> bool {
        self.flows.has(peer, lane)
            || self.transit.has(peer, lane)
            || (lane == Lane::Control && self.routing.has(peer))
    }

    /// Carries what a tunnel has to tell to the other rooms.
    pub(super) fn after(&mut self, now: Instant, peer: PeerId) {
        while let Some(event) = self.tunnels.get_mut(peer.0).and_then(|t| t.poll_event()) {
            self.on_tunnel_event(now, peer, event);
        }
        self.look_at_link(now, peer);
    }

    fn on_tunnel_event(&mut self, now: Instant, peer: PeerId, event: TunnelEvent) {
        let Some(tunnel) = self.tunnels.get_mut(peer.0) else { return };
        let (id, node) = (tunnel.remote_id(), tunnel.remote_hash());
        match event {
            TunnelEvent::Up { lives, fresh } => {
                if fresh {
                    tracing::info!(peer = %id, "tunnel up");
                    self.routing.set_neighbour_life(now, peer, lives.remote);
                    self.routing.exchange(peer);
                }
                self.flows.set_remote_life(now, node, lives.remote);
            }
            TunnelEvent::Suspect => {
                tracing::info!(peer = %id, "nothing is acknowledged any more: going another way");
            }
            TunnelEvent::Trusted => tracing::info!(peer = %id, "answers again"),
            TunnelEvent::Closed => tracing::info!(peer = %id, "peer went away"),
            TunnelEvent::Outlived { seen } => self.outlive(now, seen),
            TunnelEvent::Resolve => {
                let peer_config = self.config.peers.iter().find(|p| p.node_id == *id);
                if let Some(target) = peer_config.and_then(|p| p.addr.clone()) {
                    let action = Action::Resolve { peer, target };
                    // Time alone must not fill the queue of a shell that drains late.
                    if !self.actions.contains(&action) {
                        self.actions.push_back(action);
                    }
                }
            }
        }
    }

    /// Tells routing what the tunnel is like as a link, and if it just became unusable, sends what it holds
    /// another way.
    pub(super) fn look_at_link(&mut self, now: Instant, peer: PeerId) {
        let (Some(tunnel), Some(link)) = (self.tunnels.get_mut(peer.0), self.links.get_mut(peer.0))
        else {
            return;
        };
        self.flows.set_held(peer, tunnel.held_since());
        let quality = if tunnel.is_usable(now) { tunnel.quality() } else { None };
        if quality != link.told {
            let was = std::mem::replace(&mut link.told, quality);
            self.routing.set_link(now, peer, quality);
            if was.is_some() && quality.is_none() {
                self.follow_routes(now);
                self.move_away(now, peer);
            }
        }
        self.take_orphans(now, peer);
    }

    /// What waits for a neighbour that is out of reach goes another way, if there is one.
    fn move_away(&mut self, now: Instant, dead: PeerId) {
        self.flows.redirect_replies(dead);
        let mut stranded = self.transit.strand(now, dead);
        while let Some((lane, age, passing)) = stranded.next(now) {
            self.pass(now, lane, &passing, age);
        }
        self.move_unacked(now, dead);
    }

    /// Symbols that a neighbour out of reach has not acknowledged go another way, if there is one; otherwise
    /// its tunnel keeps them.
    fn move_unacked(&mut self, now: Instant, dead: PeerId) {
        let mut unacked = Vec::new();
        let routing = &self.routing;
        let has_way = |to: NodeHash| routing.next_hop(to, Some(dead)).is_some();
        let mut wanted = |content: &[u8]| {
            let mut reader = Reader::new(content);
            std::iter::from_fn(|| symbol::read(&mut reader).ok().flatten()).any(
                |frame| matches!(frame.content, Content::Flow(head, _) if has_way(head.ends().0)),
            )
        };
        if let Some(tunnel) = self.tunnels.get_mut(dead.0) {
            tunnel.take_unacked(now, &mut wanted, &mut |lane, held, content| {
                unacked.push((lane, held, content.to_vec()));
            });
        }
        for (lane, held, content) in unacked {
            self.send_elsewhere(now, lane, held, &content);
        }
    }

    /// There is a new way to somewhere: for what tunnels still hold that died before it was there.
    fn move_late(&mut self, now: Instant) {
        for at in 0..self.tunnels.len() {
            let is_dead = self.links.get(at).is_some_and(|link| link.told.is_none());
            let holds = self.tunnels.get(at).is_some_and(|tunnel| tunnel.has_unacked());
            if is_dead && holds {
                self.move_unacked(now, PeerId(at));
            }
        }
    }

    /// A neighbour began another life: what the former one had not acknowledged is routed anew.
    fn take_orphans(&mut self, now: Instant, peer: PeerId) {
        let mut orphans = Vec::new();
        if let Some(tunnel) = self.tunnels.get_mut(peer.0) {
            tunnel.take_orphans(now, &mut |lane, held, content| {
                orphans.push((lane, held, content.to_vec()));
            });
        }
        for (lane, held, content) in orphans {
            self.send_elsewhere(now, lane, held, &content);
        }
    }

    /// Frames that a tunnel gave back: ours go back to their flows, those of others on their way.
    fn send_elsewhere(&mut self, now: Instant, lane: Lane, held: Duration, content: &[u8]) {
        let mut reader = Reader::new(content);
        while let Ok(Some(frame)) = symbol::read(&mut reader) {
            let Content::Flow(head, body) = frame.content else { continue };
            let (_, from) = head.ends();
            if from == self.local && !matches!(body, Body::Dropped { .. }) {
                self.flows.take_back(now, head, &body);
                continue;
            }
            let passing = Passing { head, data: extent(&body), raw: frame.raw };
            self.pass(now, lane, &passing, held);
        }
    }

    fn pass(&mut self, now: Instant, lane: Lane, passing: &Passing<'_>, age: Duration) {
        match self.routing.next_hop(passing.head.ends().0, None) {
            Some(hop) => self.transit.pass(now, hop, lane, passing, age),
            None => self.transit.no_way(passing),
        }
    }

    /// What any node of the mesh may say of a later life of this one breaks its flows: not again and again.
    fn outlive_rumour(&mut self, now: Instant, seen: Incarnation) {
        let is_recent = |at| now.saturating_duration_since(at) < BETWEEN_RUMOURS;
        if !self.outlived.is_some_and(is_recent) {
            self.outlived = Some(now);
            self.outlive(now, seen);
        }
    }

    /// Carries what changed in the mesh to the flows, and what a relay has to report to whom it concerns.
    pub(super) fn follow_routes(&mut self, now: Instant) {
        let mut found = false;
        while let Some(event) = self.routing.poll_event(now) {
            match event {
                RoutingEvent::Route { node, via, rtt, lost, hops } => {
                    found |= via.is_some();
                    let route = via.map(|via| Route { via, rtt, hops });
                    self.flows.set_route(now, node, route, lost);
                }
                RoutingEvent::Life { node, life } => self.flows.set_remote_life(now, node, life),
                RoutingEvent::Gone { node } => self.flows.forget_remote(node),
                RoutingEvent::Outlived { seen } => self.outlive_rumour(now, seen),
            }
        }
        if found {
            self.move_late(now);
        }
        while let Some((head, offset, len, reason)) = self.transit.poll_report() {
            let (to, _) = head.ends();
            if to == self.local {
                let body = Body::Dropped { offset, len, reason };
                self.flows.handle_frame(now, PeerId(usize::MAX), head, body);
                continue;
            }
            let mut raw = Vec::new();
            flow::put_dropped(&mut raw, &head, offset, len, reason);
            let passing = Passing { head, data: None, raw: &raw };
            if let Some(hop) = self.routing.next_hop(to, None) {
                self.transit.pass(now, hop, Lane::Control, &passing, Duration::ZERO);
            }
        }
    }
}
