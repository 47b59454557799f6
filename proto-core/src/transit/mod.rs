//! What a PoP relays between two neighbours: frames of flows that neither begin nor end here. It knows
//! no flow but by its name, and none that has nothing waiting here.
//!
//! There is no credit from hop to hop, which could deadlock. Data for a neighbour that is slower than
//! their sender wait in a queue per flow and are marked by the time that they wait there; the ingress
//! answers with its window. What the queues hold is bounded in bytes and by the neighbour's rate; at the
//! bound the longest queue loses its end, which is told to the data's sender, who sends it again end to
//! end. A flow beside a greedy one loses nothing and waits for no more than one turn of each other flow.
//! What is not data waits apart, goes first, and is not dropped but at a bound that only a flood reaches.

mod buffers;
mod control;
mod data;
mod frame;
mod longest;
mod reports;
mod standing;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_loop;
#[cfg(test)]
mod tests_random;
mod waits;

use std::time::{Duration, Instant};

use crate::ids::{Lane, PeerId};
use crate::status::{Table, TransitStatus};
use crate::transit::buffers::Buffers;
use crate::transit::control::Control;
use crate::transit::data::Data;
use crate::transit::frame::Frame;
use crate::transit::reports::Reports;
use crate::transit::waits::Waits;
use crate::wire::flow::{DropReason, Head};

/// Relays that a frame may pass.
pub(crate) const MAX_HOPS: u8 = 16;
/// Data longer in the mesh than this are dropped: their sender has sent them again long since.
pub(crate) const MAX_AGE: Duration = Duration::from_secs(10);
/// Where data of a flow wait for so long behind others of their own, and none of a tenth of a second did for
/// less, they begin to be marked. Some must stand there: acknowledgements come each 20 ms and make bursts as
/// long, and a tunnel takes back for a while what it sent too fast. A queue that is empty in between leaves
/// it idle, and its controller without the means to find out how fast it may be.
const MARK_FROM: Duration = Duration::from_millis(12);
/// Data that waited for so long begin to be marked whatever others did: where the queue grows fast, a tenth
/// of a second is too long.
const MARK_ANY_FROM: Duration = Duration::from_millis(25);
/// Data that waited for so long are all marked; in between a share of them that grows with the wait. The
/// answer comes a round trip later: were all marked from the first threshold on, every sender would be told
/// for a whole round trip to halve its window, and the link would stand idle after it. Below the 60 ms that
/// a queue may last.
const MARK_ALL: Duration = Duration::from_millis(50);
/// Data for a neighbour may take what its tunnel carries in this time.
const MAX_WAIT: f64 = 0.25;
/// Where that is less, this: the first window of two flows.
const MIN_BYTES: u64 = 128 << 10;
/// Where that is more, this.
const MAX_BYTES: u64 = 8 << 20;
/// Data for all neighbours together.
const MAX_TOTAL: u64 = 64 << 20;

/// Nothing is relayed any more when nothing came for so long.
const QUIET: Duration = Duration::from_millis(300);

/// A frame to be passed on, as it was read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Passing<'a> {
    pub head: Head,
    /// Offset and length, if it is data.
    pub data: Option<(u64, u64)>,
    pub raw: &'a [u8],
}

/// What waits for one neighbour.
#[derive(Debug, Default)]
struct Hop {
    control: Control,
    data: Data,
    /// Bytes per second, once known.
    rate: Option<f64>,
}

impl Hop {
    fn limit(&self) -> u64 {
        let bytes = self.rate.unwrap_or(0.0) * MAX_WAIT;
        // A cast of a float saturates.
        (bytes as u64).clamp(MIN_BYTES, MAX_BYTES)
    }
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Transit {
    /// By [`PeerId`].
    hops: Vec<Hop>,
    /// Memory of waiting data, for all neighbours.
    total: u64,
    buffers: Buffers,
    reports: Reports,
    waits: Waits,
    /// Without what is known elsewhere.
    counters: TransitStatus,
    /// When a frame came last.
    passed_at: Option<Instant>,
}

impl Transit {
    pub(crate) fn new() -> Self {
        Self {
            hops: Vec::new(),
            total: 0,
            buffers: Buffers::default(),
            reports: Reports::default(),
            waits: Waits::new(),
            counters: TransitStatus::default(),
            passed_at: None,
        }
    }

    /// Sees to it that there is a place for that neighbour.
    fn reach(&mut self, to: PeerId) {
        if self.hops.len() <= to.0 {
            self.hops.resize_with(to.0 + 1, Hop::default);
        }
    }

    /// What the tunnel to it carries at present.
    pub(crate) fn set_rate(&mut self, to: PeerId, bytes_per_second: f64) {
        self.reach(to);
        if let Some(hop) = self.hops.get_mut(to.0) {
            hop.rate = Some(bytes_per_second);
        }
    }

    /// Takes a frame for that neighbour. `age`: what it spent since its head was stamped.
    pub(crate) fn pass(
        &mut self,
        now: Instant,
        to: PeerId,
        lane: Lane,
        frame: &Passing<'_>,
        age: Duration,
    ) {
        if frame.head.hops >= MAX_HOPS {
            self.counters.dropped_hops += 1;
            return self.report(frame, DropReason::NoWay);
        }
        match frame.data {
            Some(range) => self.pass_data(now, to, lane, frame, range, age),
            None => self.pass_control(now, to, frame, age),
        }
    }

    fn pass_data(
        &mut self,
        now: Instant,
        to: PeerId,
        lane: Lane,
        frame: &Passing<'_>,
        range: (u64, u64),
        age: Duration,
    ) {
        if frame.head.age.time().saturating_add(age) > MAX_AGE {
            self.counters.dropped_old += 1;
            return;
        }
        let cost = buffers::cost(frame.raw.len());
        let id = frame::flow_id(&frame.head);
        self.passed_at = Some(now);
        self.reach(to);
        let own = self.hops.get(to.0).and_then(|hop| hop.data.of_flow(id, lane));
        if !own.is_some_and(|own| self.make_room(to, own, cost)) {
            self.counters.dropped_full += 1;
            return self.report(frame, DropReason::Congestion);
        }
        let frame = Frame::new(now, frame, age, &mut self.buffers);
        self.total += cost;
        if let Some(hop) = self.hops.get_mut(to.0) {
            hop.data.push(frame, lane, range);
        }
    }

    /// Makes room for a frame of that cost, of whose flow `own` waits already, by taking from queues that
    /// are longer than its own would become; whether that was enough.
    fn make_room(&mut self, to: PeerId, own: u64, cost: u64) -> bool {
        let Some(hop) = self.hops.get(to.0) else { return false };
        // If the rate has fallen, what waits already is not thrown away: it only must not become more.
        let limit = hop.limit().max(hop.data.cost());
        loop {
            let Some(hop) = self.hops.get(to.0) else { return false };
            let from = if hop.data.cost() + cost > limit {
                to.0
            } else if self.total + cost > MAX_TOTAL {
                // Neighbours are few, and the bounds of eight of them must be met for this.
                let all = self.hops.iter().enumerate();
                all.max_by_key(|(_, hop)| hop.data.longest()).map_or(0, |(at, _)| at)
            } else {
                return true;
            };
            let Some(hop) = self.hops.get_mut(from) else { return false };
            if hop.data.longest() <= own + cost {
                return false;
            }
            let Some((gone, offset, len)) = hop.data.drop_longest() else { return false };
            self.total -= buffers::cost(gone.raw.len());
            self.counters.dropped_full += 1;
            self.reports.push(gone.head, offset, len, DropReason::Congestion);
            self.buffers.put_back(gone.raw);
        }
    }

    fn pass_control(&mut self, now: Instant, to: PeerId, frame: &Passing<'_>, age: Duration) {
        let frame = Frame::new(now, frame, age, &mut self.buffers);
        self.reach(to);
        let Some(hop) = self.hops.get_mut(to.0) else { return };
        let losses = hop.control.push(frame, &mut self.buffers);
        self.counters.dropped_control += losses.lost;
        self.counters.acks_merged += losses.superseded;
    }

    /// There is no way on for a frame.
    pub(crate) fn no_way(&mut self, frame: &Passing<'_>) {
        self.counters.dropped_no_way += 1;
        self.report(frame, DropReason::NoWay);
    }

    fn report(&mut self, frame: &Passing<'_>, reason: DropReason) {
        if let Some((offset, len)) = frame.data {
            self.reports.push(frame.head, offset, len, reason);
        }
    }

    /// Data for this node itself were too long in the mesh.
    pub(crate) fn too_old(&mut self) {
        self.counters.dropped_old += 1;
    }

    /// Whether nothing waits and nothing came lately.
    pub(crate) fn is_quiet(&self, now: Instant) -> bool {
        let lately = |at| now.saturating_duration_since(at) < QUIET;
        !self.passed_at.is_some_and(lately)
            && self.hops.iter().all(|hop| hop.control.is_empty() && hop.data.bytes() == 0)
    }

    /// What the sender of dropped data is to be told: the head of a frame towards it, offset, length.
    pub(crate) fn poll_report(&mut self) -> Option<(Head, u64, u64, DropReason)> {
        self.reports.pop()
    }

    /// Whether something waits for that neighbour on the lane.
    pub(crate) fn has(&self, to: PeerId, lane: Lane) -> bool {
        self.weight(to, lane) > 0
    }

    /// Flows with something waiting, to be served beside as many others; all that is not data is one.
    pub(crate) fn weight(&self, to: PeerId, lane: Lane) -> usize {
        let Some(hop) = self.hops.get(to.0) else { return 0 };
        match lane {
            Lane::Control => usize::from(!hop.control.is_empty()),
            Lane::Express | Lane::Bulk => hop.data.weight(lane),
        }
    }

    /// Appends frames of at most `room` bytes in all. With room for a packet that is something if
    /// [`Transit::has`] said so, unless all that waited has become too old meanwhile.
    pub(crate) fn fill(
        &mut self,
        now: Instant,
        to: PeerId,
        lane: Lane,
        room: usize,
        out: &mut Vec<u8>,
    ) {
        let Some(hop) = self.hops.get_mut(to.0) else { return };
        if lane == Lane::Control {
            let limit = out.len() + room;
            while let Some(len) =
                hop.control.put_next(now, limit - out.len(), &mut self.buffers, out)
            {
                self.counters.frames += 1;
                self.counters.bytes += len as u64;
            }
            return;
        }
        let left = hop.data.fill(now, lane, room, out, (&mut self.buffers, &mut self.waits));
        self.total -= left.cost;
        self.counters.frames += left.frames;
        self.counters.bytes += left.bytes;
        self.counters.marked += left.marked;
        self.counters.dropped_old += left.old;
    }

    /// Takes out all that waits for a neighbour, to be passed to others.
    pub(crate) fn strand(&mut self, now: Instant, to: PeerId) -> Stranded {
        let Some(hop) = self.hops.get_mut(to.0) else { return Stranded::default() };
        self.total -= hop.data.cost();
        self.counters.dropped_old += hop.data.drop_old(now);
        let (control, data) = (std::mem::take(&mut hop.control), std::mem::take(&mut hop.data));
        self.counters.moved += (control.len() + data.len()) as u64;
        Stranded { control, data, scratch: Vec::new() }
    }

    /// As [`Transit::strand`], for who needs nothing of this room meanwhile.
    #[cfg(test)]
    pub(crate) fn drain(
        &mut self,
        now: Instant,
        to: PeerId,
        out: &mut dyn FnMut(Lane, Duration, Passing<'_>),
    ) {
        let mut stranded = self.strand(now, to);
        while let Some((lane, age, frame)) = stranded.next(now) {
            out(lane, age, frame);
        }
    }

    pub(crate) fn status(&self) -> TransitStatus {
        let waiting = self.hops.iter().map(|hop| hop.data.bytes() + hop.control.bytes());
        TransitStatus {
            waiting_bytes: waiting.sum(),
            wait_p50_us: self.waits.quantile(0.5),
            wait_p99_us: self.waits.quantile(0.99),
            wait_max_us: self.waits.max_us(),
            ..self.counters
        }
    }

    /// Shows every table to `visit`; see [`Node::tables`](crate::Node::tables). Data and control in
    /// bytes of memory, buffers in bytes that wait for use.
    pub(crate) fn tables(&self, visit: &mut dyn FnMut(Table)) {
        let mut show = |name, peer, len, bound| visit(Table { name, peer, len, bound });
        let (reports, idle) = (self.reports.len(), self.buffers.idle_bytes());
        show("transit_memory", None, self.total, MAX_TOTAL);
        show("transit_reports", None, reports as u64, reports::MAX_REPORTS as u64);
        show("transit_buffers", None, idle as u64, buffers::MAX_IDLE_BYTES as u64);
        for (at, hop) in self.hops.iter().enumerate() {
            let (peer, flows) = (Some(PeerId(at)), hop.data.known());
            show("transit_data", peer, hop.data.cost(), MAX_BYTES);
            show("transit_control", peer, hop.control.cost(), control::MAX_BYTES);
            let most_flows = data::MAX_FLOWS + data::MAX_IDLE;
            show("transit_flows", peer, flows as u64, most_flows as u64);
        }
    }
}

/// What waited for a neighbour that died.
#[derive(Debug, Default)]
pub(crate) struct Stranded {
    control: Control,
    data: Data,
    /// The frame given out last.
    scratch: Vec<u8>,
}

impl Stranded {
    /// The next frame, in order for each flow and lane, and what it spent since its head was stamped.
    pub(crate) fn next(&mut self, now: Instant) -> Option<(Lane, Duration, Passing<'_>)> {
        if let Some(frame) = self.control.pop() {
            let age = frame.unstamped(now);
            self.scratch = frame.raw;
            let passing = Passing { head: frame.head, data: None, raw: &self.scratch };
            return Some((Lane::Control, age, passing));
        }
        let (lane, (frame, offset, len)) = self.data.pop(&mut self.scratch)?;
        let age = frame.unstamped(now);
        let passing = Passing { head: frame.head, data: Some((offset, len)), raw: &self.scratch };
        Some((lane, age, passing))
    }
}
