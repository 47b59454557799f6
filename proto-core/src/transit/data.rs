//! Data that wait for one neighbour: a queue for each flow and lane, served by deficit round robin.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use slab::Slab;

use crate::ids::Lane;
use crate::transit::buffers::{Buffers, cost};
use crate::transit::frame::{FlowId, Frame};
use crate::transit::longest::Longest;
use crate::transit::standing::Standing;
use crate::transit::waits::Waits;
use crate::transit::{MARK_ALL, MARK_ANY_FROM, MARK_FROM, MAX_AGE};
use crate::wire::Reader;
use crate::wire::flow::{self, Body, Opening};

/// What a flow gets in its turn, at least; as for the flows that begin here.
const QUANTUM: i64 = 1200;
/// A frame is not split for fewer bytes of data: its second part needs a head, too.
const MIN_PIECE: usize = 64;
/// The longest piece: its length takes two bytes, as `data_overhead` counts them.
const MAX_PIECE: usize = 0x3fff;
/// The most flows of which something waits.
pub(super) const MAX_FLOWS: usize = 4096;
/// Flows are remembered for a while when nothing waits of them, so that one whose frames leave as fast as
/// they come is not made anew for each. Beyond so many all of them are forgotten.
pub(super) const MAX_IDLE: usize = 256;
/// A queue keeps memory for four times the frames that it has, or that are so many.
const KEPT: usize = 8;

/// The queue of a flow on a lane.
pub(super) type QueueId = (FlowId, bool);

/// A data frame.
#[derive(Debug)]
struct Waiting {
    frame: Frame,
    offset: u64,
    len: u64,
    /// Bytes of data that were sent already.
    taken: usize,
    /// Bytes of its own flow that waited when it came.
    ahead: u64,
    marked: bool,
}

#[derive(Debug)]
struct Queue {
    id: QueueId,
    waiting: VecDeque<Waiting>,
    cost: u64,
    bytes: u64,
    deficit: i64,
    /// Shares of frames that were to be marked and are not yet.
    marks: f64,
    standing: Standing,
}

/// A frame taken out, and the range of its data that had not been sent: offset and length.
pub(super) type Popped = (Frame, u64, u64);

/// What left a queue; to be counted.
#[derive(Debug, Default)]
pub(super) struct Left {
    pub frames: u64,
    pub bytes: u64,
    pub marked: u64,
    pub old: u64,
    /// Memory that is free again.
    pub cost: u64,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Data {
    queues: Slab<Queue>,
    by_id: BTreeMap<QueueId, usize>,
    /// Queues that are not empty, per lane, in the order of their turns.
    turns: [VecDeque<usize>; 2],
    longest: Longest,
    idle: usize,
    cost: u64,
    bytes: u64,
}

/// How far a wait is on the way to where all are marked.
fn ramp(wait: Duration, from: Duration) -> f64 {
    let over = wait.saturating_sub(from);
    (over.as_secs_f64() / (MARK_ALL - from).as_secs_f64()).min(1.0)
}

fn is_bulk(lane: Lane) -> bool {
    lane != Lane::Express
}

impl Waiting {
    /// What of it has not been sent.
    fn rest(&self) -> (u64, u64) {
        let taken = (self.taken as u64).min(self.len);
        (self.offset + taken, self.len - taken)
    }

    /// The share of frames to be marked that waited as this one did. `behind`: bytes of its own flow that
    /// wait for it to be gone. A frame that found and leaves next to none waited for others, and what leaves
    /// none spared the next one its wait.
    fn mark_share(&self, now: Instant, behind: u64, standing: &mut Standing) -> f64 {
        let wait = self.frame.waited(now);
        let is_last = behind <= QUANTUM as u64;
        let least = standing.least(now, if is_last { Duration::ZERO } else { wait });
        if is_last && self.ahead <= QUANTUM as u64 {
            return 0.0;
        }
        ramp(least, MARK_FROM).max(ramp(wait, MARK_ANY_FROM))
    }

    /// Appends the frame or as much of it as fits; whether nothing is left of it.
    fn put(&mut self, now: Instant, mark: bool, room: usize, out: &mut Vec<u8>) -> bool {
        let before = out.len();
        let is_last = if self.taken == 0 && self.frame.raw.len() <= room {
            self.frame.put(now, mark, out);
            true
        } else {
            self.put_piece(now, mark, room, out)
        };
        self.marked |= mark && out.len() > before;
        is_last
    }

    /// Appends the next part; whether it was the last.
    fn put_piece(&mut self, now: Instant, mark: bool, room: usize, out: &mut Vec<u8>) -> bool {
        let head = self.frame.stamp(now, mark);
        let Some((offset, fin, open, data)) = read_data(&self.frame.raw) else {
            // Only what was read as data comes here.
            debug_assert!(false, "no data frame");
            return true;
        };
        let rest = data.get(self.taken..).unwrap_or_default();
        let offset = offset + self.taken as u64;
        let Some(room) = room.checked_sub(flow::data_overhead(&head.key, offset, open)) else {
            return false;
        };
        let (piece, later) = rest.split_at(rest.len().min(room).min(MAX_PIECE));
        if !later.is_empty() && piece.len() < MIN_PIECE {
            return false;
        }
        let is_last = later.is_empty();
        flow::put_data_header(out, &head, offset, fin && is_last, open, piece.len());
        out.extend_from_slice(piece);
        self.taken += piece.len();
        is_last
    }
}

fn read_data(raw: &[u8]) -> Option<(u64, bool, Option<Opening<'_>>, &[u8])> {
    match flow::read(&mut Reader::new(raw)) {
        Ok(Some((_, Body::Data { offset, fin, open, data }))) => Some((offset, fin, open, data)),
        _ => None,
    }
}

impl Queue {
    /// What leaves from either end.
    fn shrunk(&mut self, gone: &Waiting) {
        self.cost -= cost(gone.frame.raw.len());
        self.bytes -= gone.frame.raw.len() as u64;
        let has = self.waiting.len().max(KEPT);
        if self.waiting.capacity() > 4 * has {
            self.waiting.shrink_to(2 * has);
        }
    }

    fn pop_front(&mut self) -> Option<Waiting> {
        let gone = self.waiting.pop_front()?;
        self.shrunk(&gone);
        Some(gone)
    }

    fn pop_back(&mut self) -> Option<Waiting> {
        let gone = self.waiting.pop_back()?;
        self.shrunk(&gone);
        Some(gone)
    }
}

impl Data {
    /// Memory that all frames take.
    pub(super) fn cost(&self) -> u64 {
        self.cost
    }

    /// Frames that wait.
    pub(super) fn len(&self) -> usize {
        self.queues.iter().map(|(_, queue)| queue.waiting.len()).sum()
    }

    /// Bytes of all frames.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of data that wait, without their heads.
    #[cfg(test)]
    pub(super) fn data_bytes(&self) -> u64 {
        self.queues.iter().flat_map(|(_, queue)| &queue.waiting).map(|w| w.rest().1).sum()
    }

    /// Flows with something waiting on the lane.
    pub(super) fn weight(&self, lane: Lane) -> usize {
        self.turns.get(usize::from(is_bulk(lane))).map_or(0, VecDeque::len)
    }

    /// Queues that are remembered.
    pub(super) fn known(&self) -> usize {
        self.queues.len()
    }

    /// The most memory that one flow's queue takes.
    pub(super) fn longest(&self) -> u64 {
        self.longest.top().map_or(0, |(cost, _)| cost)
    }

    /// Memory that waits of the flow on the lane; `None` if there cannot be one more flow.
    pub(super) fn of_flow(&self, id: FlowId, lane: Lane) -> Option<u64> {
        let slot = self.by_id.get(&(id, is_bulk(lane)));
        let waiting = slot.and_then(|slot| self.queues.get(*slot)).map_or(0, |q| q.cost);
        let busy = self.queues.len() - self.idle;
        (waiting > 0 || busy < MAX_FLOWS).then_some(waiting)
    }

    /// Takes a frame in. The caller has seen to it that there is room.
    pub(super) fn push(&mut self, frame: Frame, lane: Lane, (offset, len): (u64, u64)) {
        let id = (frame.flow(), is_bulk(lane));
        let slot = self.slot(id);
        let Some(queue) = self.queues.get_mut(slot) else { return };
        let (cost, bytes) = (cost(frame.raw.len()), frame.raw.len() as u64);
        if queue.waiting.is_empty() {
            self.idle -= 1;
            if let Some(turns) = self.turns.get_mut(usize::from(id.1)) {
                turns.push_back(slot);
            }
        }
        let ahead = queue.bytes;
        queue.waiting.push_back(Waiting { frame, offset, len, taken: 0, ahead, marked: false });
        queue.cost += cost;
        queue.bytes += bytes;
        self.longest.set(slot, queue.cost);
        self.cost += cost;
        self.bytes += bytes;
    }

    fn slot(&mut self, id: QueueId) -> usize {
        if let Some(slot) = self.by_id.get(&id) {
            return *slot;
        }
        let waiting = VecDeque::new();
        let (marks, standing) = (0.0, Standing::default());
        let slot = self.queues.insert(Queue {
            id,
            waiting,
            cost: 0,
            bytes: 0,
            deficit: 0,
            marks,
            standing,
        });
        self.by_id.insert(id, slot);
        self.idle += 1;
        slot
    }

    /// Notes that one more queue, which has no turn any more, is empty.
    fn fell_idle(&mut self) {
        self.idle += 1;
        if self.idle > MAX_IDLE {
            self.queues.retain(|_, queue| !queue.waiting.is_empty());
            self.by_id.retain(|_, slot| self.queues.contains(*slot));
            self.idle = 0;
        }
    }

    /// Notes that something left a queue. If nothing is left of it, it has no turn any more.
    fn left(&mut self, slot: usize, gone: &Waiting) {
        self.cost -= cost(gone.frame.raw.len());
        self.bytes -= gone.frame.raw.len() as u64;
        let Some(queue) = self.queues.get_mut(slot) else { return };
        self.longest.set(slot, queue.cost);
        if queue.waiting.is_empty() {
            queue.deficit = 0;
            self.fell_idle();
        }
    }

    /// Drops the last frame of the longest queue.
    pub(super) fn drop_longest(&mut self) -> Option<Popped> {
        let (_, slot) = self.longest.top()?;
        let queue = self.queues.get_mut(slot)?;
        let gone = queue.pop_back()?;
        let (is_empty, bulk) = (queue.waiting.is_empty(), queue.id.1);
        // That the longest queue had but one frame is rare.
        if let Some(turns) = self.turns.get_mut(usize::from(bulk)).filter(|_| is_empty) {
            turns.retain(|other| *other != slot);
        }
        self.left(slot, &gone);
        let (offset, len) = gone.rest();
        Some((gone.frame, offset, len))
    }

    /// Takes out the first frame of the queue whose turn it is.
    fn pop_turn(&mut self, lane: usize) -> Option<Waiting> {
        let turns = self.turns.get_mut(lane)?;
        let slot = *turns.front()?;
        let queue = self.queues.get_mut(slot)?;
        let gone = queue.pop_front()?;
        if queue.waiting.is_empty() {
            turns.pop_front();
        }
        self.left(slot, &gone);
        Some(gone)
    }

    /// Whose turn it is.
    fn next_turn(&mut self, lane: usize, room: usize) -> Option<usize> {
        let turns = self.turns.get_mut(lane)?;
        loop {
            let slot = *turns.front()?;
            let queue = self.queues.get_mut(slot)?;
            if queue.deficit <= 0 {
                queue.deficit += QUANTUM.max(room as i64);
            }
            if queue.deficit > 0 {
                return Some(slot);
            }
            turns.rotate_left(1);
        }
    }

    /// Appends frames of at most `room` bytes in all.
    pub(super) fn fill(
        &mut self,
        now: Instant,
        lane: Lane,
        room: usize,
        out: &mut Vec<u8>,
        (buffers, waits): (&mut Buffers, &mut Waits),
    ) -> Left {
        let limit = out.len() + room;
        let lane = usize::from(is_bulk(lane));
        let mut left = Left::default();
        while let Some(slot) = self.next_turn(lane, room) {
            let Some(queue) = self.queues.get_mut(slot) else { break };
            let Some(front) = queue.waiting.front_mut() else { break };
            let is_old = front.frame.in_mesh(now) > MAX_AGE;
            let mut is_gone = is_old;
            left.old += u64::from(is_old);
            if !is_old {
                let behind = queue.bytes - front.frame.raw.len() as u64;
                let before = out.len();
                let marks = queue.marks + front.mark_share(now, behind, &mut queue.standing);
                let mark = marks >= 1.0;
                is_gone = front.put(now, mark, limit - before, out);
                let wrote = out.len() - before;
                if wrote == 0 {
                    break;
                }
                queue.marks = if mark { marks - 1.0 } else { marks };
                queue.deficit -= wrote as i64;
                left.bytes += wrote as u64;
                if is_gone {
                    left.frames += 1;
                    left.marked += u64::from(front.marked && !front.frame.head.marked);
                    waits.add(front.frame.waited(now));
                }
            }
            let owes = queue.deficit <= 0;
            if is_gone && let Some(gone) = self.pop_turn(lane) {
                left.cost += cost(gone.frame.raw.len());
                buffers.put_back(gone.frame.raw);
            }
            let turns = self.turns.get_mut(lane).filter(|turns| turns.front() == Some(&slot));
            if let Some(turns) = turns.filter(|_| owes) {
                turns.rotate_left(1);
            }
        }
        left
    }

    /// Drops what is too old; how many frames.
    pub(super) fn drop_old(&mut self, now: Instant) -> u64 {
        let mut old = 0;
        for lane in 0..self.turns.len() {
            let waiting = self.turns.get(lane).map_or(0, VecDeque::len);
            for _ in 0..waiting {
                old += self.drop_old_of_turn(now, lane);
            }
        }
        old
    }

    /// Drops what is too old of the queue whose turn it is, which then waits for its next one.
    fn drop_old_of_turn(&mut self, now: Instant, lane: usize) -> u64 {
        let Some(turns) = self.turns.get_mut(lane) else { return 0 };
        let Some(slot) = turns.pop_front() else { return 0 };
        let Some(queue) = self.queues.get_mut(slot) else { return 0 };
        let before = (queue.waiting.len(), queue.cost, queue.bytes);
        let (mut cost_left, mut bytes_left) = (0, 0);
        queue.waiting.retain(|waiting| {
            let keep = waiting.frame.in_mesh(now) <= MAX_AGE;
            if keep {
                cost_left += cost(waiting.frame.raw.len());
                bytes_left += waiting.frame.raw.len() as u64;
            }
            keep
        });
        (queue.cost, queue.bytes) = (cost_left, bytes_left);
        self.cost -= before.1 - cost_left;
        self.bytes -= before.2 - bytes_left;
        self.longest.set(slot, cost_left);
        let left = queue.waiting.len();
        if left > 0 {
            turns.push_back(slot);
        } else {
            queue.deficit = 0;
            self.fell_idle();
        }
        (before.0 - left) as u64
    }

    /// Takes out the next frame for another neighbour: flow by flow, each in its order.
    pub(super) fn pop(&mut self, scratch: &mut Vec<u8>) -> Option<(Lane, Popped)> {
        let lane = self.turns.iter().position(|turns| !turns.is_empty())?;
        let gone = self.pop_turn(lane)?;
        let (offset, len) = gone.rest();
        scratch.clear();
        if gone.taken > 0
            && let Some((_, fin, open, data)) = read_data(&gone.frame.raw)
        {
            let rest = data.get(gone.taken..).unwrap_or_default();
            flow::put_data_header(scratch, &gone.frame.head, offset, fin, open, rest.len());
            scratch.extend_from_slice(rest);
        } else {
            scratch.extend_from_slice(&gone.frame.raw);
        }
        let lane = if lane == 0 { Lane::Express } else { Lane::Bulk };
        Some((lane, (gone.frame, offset, len)))
    }
}
