//! Ordered byte streams across the mesh. Knows no neighbours beyond their number, no sockets and no
//! tunnels: what the edge is to do comes out as [`Output`], what the mesh is to carry is asked for
//! lane by lane. A flow may lead to this node itself: its frames then come straight back.

mod closed;
mod frames;
mod ranges;
mod receive;
mod remote;
mod send;
mod state;
mod tables;
#[cfg(test)]
mod tests;
mod upkeep;
mod window;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use bytes::Bytes;
use slab::Slab;

use crate::config::{Lanes, Limits};
use crate::ids::{ConnId, Incarnation, Lane, NodeHash, PeerId, ServiceName};
use crate::status::{MemoryStatus, NodeCounters};
use crate::wire::endpoints::Endpoints;
use crate::wire::flow::{FlowKey, Head, ResetCode};

use receive::INITIAL_WINDOW;
pub(crate) use remote::Route;
use remote::{Remote, SELF_HOP};
use send::AHEAD_IDLE;
use state::{Conn, Flow, Role, Sizes};

/// What memory is reserved for. Each use stops at a part of the cap and leaves the rest to the next, so
/// that large flows cannot shut out new ones, nor many idle ones keep the others from moving: the quarter
/// that both leave has room for the first bytes that are read from each connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// A window, or bytes read, beyond what every flow has: a half.
    Growth,
    /// The first window of a new flow: three quarters.
    Flow,
}

impl Use {
    fn limit(self, cap: u64) -> u64 {
        match self {
            Use::Growth => cap / 2,
            Use::Flow => cap / 4 * 3,
        }
    }
}

const _: () = assert!(AHEAD_IDLE * 4 <= INITIAL_WINDOW, "the last quarter is enough for all");

/// Flows that linger at most.
const MAX_LINGERING: usize = 16_384;
/// Flows whose connection is over and whose reset the other end has not heard of yet; from then on new
/// flows are refused.
const MAX_RESETTING: usize = 16_384;
/// What waits for the shell; from then on new flows are refused.
const MAX_OUTPUTS: usize = 16_384;
/// Answers about unknown flows that wait for a neighbour at most.
const MAX_REPLIES: usize = 1024;

/// What the edge is to do. Connections are named as in [`crate::Action`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Output {
    /// Dial the origin of that service, for that client.
    Dial {
        conn: ConnId,
        service: ServiceName,
        endpoints: Endpoints,
    },
    Write {
        conn: ConnId,
        data: Bytes,
    },
    GrantRead {
        conn: ConnId,
        bytes: usize,
    },
    Shutdown {
        conn: ConnId,
    },
    Abort {
        conn: ConnId,
    },
}

impl Output {
    /// The connection that it is about.
    pub(crate) fn conn(&self) -> ConnId {
        match *self {
            Self::Dial { conn, .. }
            | Self::Write { conn, .. }
            | Self::GrantRead { conn, .. }
            | Self::Shutdown { conn }
            | Self::Abort { conn } => conn,
        }
    }
}

/// A flow was not accepted: the node's memory for flows is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the memory for flows is taken")]
pub(crate) struct NoMemory;

/// An answer about a flow that is not known here.
#[derive(Debug, Clone, Copy)]
enum Reply {
    Reset(ResetCode),
    ResetAck,
}

/// What goes to one neighbour, or to this node itself.
#[derive(Debug, Default)]
struct Hop {
    queues: [VecDeque<usize>; 3],
    replies: VecDeque<(Head, Reply)>,
    /// When the oldest symbol was sent that the tunnel still holds.
    held_since: Option<Instant>,
}

/// All flows that begin or end at this node.
#[derive(Debug)]
pub(crate) struct Flows {
    local: NodeHash,
    life: Incarnation,
    flows: Slab<Flow>,
    /// A flow that leads to this node itself has both its ends here.
    by_key: BTreeMap<(FlowKey, Role), usize>,
    by_conn: BTreeMap<ConnId, usize>,
    remotes: BTreeMap<NodeHash, Remote>,
    hops: Vec<Hop>,
    /// What this node says to itself.
    own_hop: Hop,
    /// When a remote has been out of reach for too long, at the earliest.
    give_up_at: Option<Instant>,
    scratch: Vec<u8>,
    timers: BTreeSet<(Instant, usize)>,
    lingering: VecDeque<(FlowKey, usize)>,
    writers: VecDeque<usize>,
    starved: BTreeSet<usize>,
    outputs: VecDeque<Output>,
    dialled: u64,
    live: usize,
    /// The node goes away: nothing new is served.
    closing: bool,
    reserved: u64,
    cap: u64,
    /// What could be reserved when the cap was lowered, or what is left of it.
    inherited: u64,
    /// As many flows as there were then, or are left of them.
    inherited_flows: usize,
    sizes: Sizes,
    pub counters: NodeCounters,
}

fn sizes(limits: &Limits, lanes: &Lanes) -> Sizes {
    Sizes { cap: limits.flow_window, express: lanes.express_bytes }
}

impl Flows {
    pub(crate) fn new(local: NodeHash, life: Incarnation, limits: &Limits, lanes: &Lanes) -> Self {
        Self {
            local,
            life,
            flows: Slab::new(),
            by_key: BTreeMap::new(),
            by_conn: BTreeMap::new(),
            remotes: BTreeMap::from([(local, Remote::own(life))]),
            hops: Vec::new(),
            own_hop: Hop::default(),
            give_up_at: None,
            scratch: Vec::new(),
            timers: BTreeSet::new(),
            lingering: VecDeque::new(),
            writers: VecDeque::new(),
            starved: BTreeSet::new(),
            outputs: VecDeque::new(),
            dialled: 0,
            live: 0,
            closing: false,
            reserved: 0,
            cap: limits.node_memory,
            inherited: 0,
            inherited_flows: 0,
            sizes: sizes(limits, lanes),
            counters: NodeCounters::default(),
        }
    }

    /// Takes other limits. What is reserved stays so.
    pub(crate) fn set_limits(&mut self, limits: &Limits, lanes: &Lanes) {
        self.cap = limits.node_memory;
        self.inherited = self.within_reach();
        self.inherited_flows = self.flows.len();
        self.sizes = sizes(limits, lanes);
    }

    /// What will be reserved at most if there is neither growth nor a new flow.
    fn within_reach(&self) -> u64 {
        self.reserved + self.live as u64 * AHEAD_IDLE
    }

    /// Whether another flow may begin.
    fn has_room(&self) -> bool {
        self.reserved + INITIAL_WINDOW <= Use::Flow.limit(self.cap)
            && self.flows.len() < self.most_flows()
            && self.outputs.len() < MAX_OUTPUTS
    }

    fn break_off(&mut self, which: impl Fn(&Flow) -> bool) {
        let doomed: Vec<usize> =
            self.flows.iter().filter(|(_, flow)| which(flow)).map(|(idx, _)| idx).collect();
        for idx in doomed {
            self.abort_conn(idx);
            self.remove(idx);
        }
    }

    /// A client connected, from and to where `endpoints` say; its flow leads to `service` at `remote`.
    ///
    /// # Errors
    /// [`NoMemory`].
    pub(crate) fn accept(
        &mut self,
        now: Instant,
        conn: ConnId,
        remote: NodeHash,
        service: ServiceName,
        endpoints: Endpoints,
    ) -> Result<(), NoMemory> {
        let (hop, hops) = self.remotes.get(&remote).map(|r| (r.hop, r.hops)).ok_or(NoMemory)?;
        if !self.has_room() || self.by_conn.contains_key(&conn) {
            return Err(NoMemory);
        }
        let sizes = self.sizes;
        let opening = (service, endpoints);
        let mut flow = Flow::new(now, Role::Ingress, remote, hop, opening, conn, sizes);
        flow.tx.set_relayed(hops > 1);
        let idx = self.insert(flow);
        self.counters.flows_opened += 1;
        self.touch(now, idx);
        Ok(())
    }

    fn insert(&mut self, flow: Flow) -> usize {
        let conn = flow.conn_id;
        let idx = self.flows.insert(flow);
        self.by_conn.insert(conn, idx);
        self.live += 1;
        idx
    }

    /// The origin of a flow answered.
    pub(crate) fn connected(&mut self, now: Instant, conn: ConnId) {
        self.with_conn(now, conn, |flow| {
            if flow.conn == Conn::Opening {
                flow.conn = Conn::Open;
            }
        });
    }

    /// The origin of a flow cannot be had.
    pub(crate) fn refuse(&mut self, now: Instant, conn: ConnId, code: ResetCode) {
        let Some(&idx) = self.by_conn.get(&conn) else { return };
        self.conn_gone(idx);
        self.reset(now, idx, code, 0);
    }

    /// Bytes were read from a connection.
    pub(crate) fn received(&mut self, now: Instant, conn: ConnId, data: &[u8]) {
        self.with_conn(now, conn, |flow| {
            if !flow.tx.is_finished() {
                flow.tx.append(data);
            }
        });
    }

    /// A connection took bytes.
    pub(crate) fn written(&mut self, now: Instant, conn: ConnId, bytes: usize) {
        self.with_conn(now, conn, |flow| {
            flow.rx.wrote(bytes);
            if flow.rx.owes_credit() {
                flow.owe_ack(now, true);
            }
        });
    }

    /// The sending half of a connection ended.
    pub(crate) fn eof(&mut self, now: Instant, conn: ConnId) {
        self.with_conn(now, conn, |flow| {
            flow.eof = true;
            flow.tx.finish();
        });
    }

    /// Whether all that a connection said, its end included, has arrived at the other end.
    pub(crate) fn is_delivered(&self, conn: ConnId) -> bool {
        let flow = self.by_conn.get(&conn).and_then(|idx| self.flows.get(*idx));
        flow.is_some_and(|flow| flow.tx.is_done())
    }

    /// A connection broke. What an origin had said before is still told to the client, as TCP would;
    /// an origin whose client is gone is told at once.
    pub(crate) fn conn_reset(&mut self, now: Instant, conn: ConnId) {
        let Some(&idx) = self.by_conn.get(&conn) else { return };
        self.conn_gone(idx);
        let said = match self.flows.get(idx) {
            Some(flow) if flow.role == Role::Egress => flow.tx.end(),
            _ => 0,
        };
        self.reset(now, idx, ResetCode::ConnectionReset, said);
    }

    fn with_conn(&mut self, now: Instant, conn: ConnId, act: impl FnOnce(&mut Flow)) {
        let Some(&idx) = self.by_conn.get(&conn) else { return };
        if let Some(flow) = self.flows.get_mut(idx) {
            act(flow);
        }
        self.touch(now, idx);
    }

    /// The node goes away: flows that others open here are refused from now on.
    pub(crate) fn refuse_new(&mut self) {
        self.closing = true;
    }

    /// Resets everything that is left.
    pub(crate) fn reset_all(&mut self, now: Instant) {
        let live: Vec<usize> = self
            .flows
            .iter()
            .filter(|(_, flow)| flow.is_live() && flow.reset_out.is_none())
            .map(|(idx, _)| idx)
            .collect();
        for idx in live {
            self.abort_conn(idx);
            self.reset(now, idx, ResetCode::ShuttingDown, 0);
        }
    }

    /// Declares a reset to the other end, which still gets our first `final_size` bytes.
    fn reset(&mut self, now: Instant, idx: usize, code: ResetCode, final_size: u64) {
        let Some(flow) = self.flows.get_mut(idx) else { return };
        self.counters.flows_reset += 1;
        if flow.key.is_none() {
            // Nobody has heard of it.
            self.remove(idx);
            return;
        }
        flow.rx.discard();
        if final_size == 0 {
            flow.tx.discard();
        } else {
            flow.tx.break_off();
        }
        flow.declare_reset(now, code, final_size);
        self.touch(now, idx);
    }

    fn abort_conn(&mut self, idx: usize) {
        if let Some(flow) = self.flows.get(idx).filter(|f| !f.is_conn_over()) {
            self.outputs.push_back(Output::Abort { conn: flow.conn_id });
        }
        self.conn_gone(idx);
    }

    fn conn_gone(&mut self, idx: usize) {
        let Some(flow) = self.flows.get_mut(idx).filter(|f| f.conn != Conn::Gone) else { return };
        self.live -= usize::from(flow.is_live());
        flow.conn = Conn::Gone;
        self.by_conn.remove(&flow.conn_id);
    }

    fn remove(&mut self, idx: usize) {
        self.conn_gone(idx);
        let Some(flow) = self.flows.try_remove(idx) else { return };
        if let Some(key) = flow.key {
            self.by_key.remove(&(key, flow.role));
        }
        if let Some(at) = flow.armed {
            self.timers.remove(&(at, idx));
        }
        self.reserved -= flow.reserved;
        self.inherited = self.inherited.min(self.within_reach());
        self.inherited_flows = self.inherited_flows.min(self.flows.len());
        self.starved.remove(&idx);
        if flow.writing {
            self.writers.retain(|other| *other != idx);
        }
        // The slot is used again; a stale place in a queue would be somebody else's.
        self.unqueue(flow.hop, idx, flow.queued);
    }

    /// Takes the flow out of the queues that it is in.
    fn unqueue(&mut self, hop: Option<PeerId>, idx: usize, queued: [bool; 3]) {
        let Some(hop) = hop.and_then(|hop| self.hop_mut(hop)) else { return };
        for (queue, queued) in hop.queues.iter_mut().zip(queued) {
            if queued {
                queue.retain(|other| *other != idx);
            }
        }
    }

    fn hop(&self, id: PeerId) -> Option<&Hop> {
        if id == SELF_HOP { Some(&self.own_hop) } else { self.hops.get(id.0) }
    }

    fn hop_mut(&mut self, id: PeerId) -> Option<&mut Hop> {
        if id == SELF_HOP { Some(&mut self.own_hop) } else { self.hops.get_mut(id.0) }
    }

    /// Whether [`Flows::poll_output`] may have something.
    pub(crate) fn has_output(&self) -> bool {
        !self.outputs.is_empty()
            || !self.writers.is_empty()
            || Lane::ALL.into_iter().any(|lane| self.has(SELF_HOP, lane))
    }

    /// The next thing for the edge to do.
    pub(crate) fn poll_output(&mut self, now: Instant) -> Option<Output> {
        self.loop_back(now);
        while let Some(output) = self.outputs.pop_front() {
            // The connection may have ended since it was granted.
            let is_void = match &output {
                Output::GrantRead { conn, .. } => self
                    .by_conn
                    .get(conn)
                    .and_then(|idx| self.flows.get(*idx))
                    .is_none_or(|flow| flow.eof),
                _ => false,
            };
            if !is_void {
                return Some(output);
            }
        }
        while let Some(&idx) = self.writers.front() {
            let Some(flow) = self.flows.get_mut(idx) else {
                self.writers.pop_front();
                continue;
            };
            let conn = flow.conn_id;
            if let Some(data) = flow.rx.take_write().filter(|_| flow.conn == Conn::Open) {
                return Some(Output::Write { conn, data });
            }
            self.writers.pop_front();
            flow.writing = false;
            if flow.rx.is_handed() && !flow.shutdown && flow.conn == Conn::Open {
                flow.shutdown = true;
                self.settle(now, idx);
                self.schedule_ended(now, idx);
                return Some(Output::Shutdown { conn });
            }
        }
        self.feed_starved();
        self.outputs.pop_front()
    }

    /// [`Flows::schedule`] without another turn as a writer.
    fn schedule_ended(&mut self, now: Instant, idx: usize) {
        if let Some(flow) = self.flows.get_mut(idx) {
            let writing = std::mem::replace(&mut flow.writing, true);
            self.schedule(now, idx);
            if let Some(flow) = self.flows.get_mut(idx) {
                flow.writing = writing;
            }
        }
    }

    fn feed_starved(&mut self) {
        let mut next = 0;
        while self.reserved < Use::Growth.limit(self.cap) {
            // One that stays hungry does not stand in the way of the others.
            let Some(&idx) = self.starved.range(next..).next() else { return };
            self.starved.remove(&idx);
            self.grant(idx);
            next = idx + 1;
        }
    }

    /// Flows that count for people.
    pub(crate) fn live(&self) -> usize {
        self.live
    }

    /// Whether nothing is left but what lingers.
    pub(crate) fn is_quiet(&self) -> bool {
        self.flows.iter().all(|(_, flow)| flow.linger_until.is_some())
    }

    pub(crate) fn memory(&self) -> MemoryStatus {
        MemoryStatus { reserved: self.reserved, cap: self.cap }
    }
}
