//! What waits for a neighbour and is not data: acknowledgements, resets, asks, reports. First come, first
//! served. It is little and must not be lost, so its bound is far away; at the bound acknowledgements go
//! first, of which each says all that an earlier one said, and resets last.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use crate::transit::buffers::{Buffers, cost};
use crate::transit::frame::{FlowId, Frame};
use crate::wire::Reader;
use crate::wire::flow::{self, Body, FlowAck};

/// The most memory for one neighbour.
pub(super) const MAX_BYTES: u64 = 4 << 20;
/// No such frame is longer.
const MAX_LEN: usize = 1000;
/// From so many waiting frames on an acknowledgement takes the place of an earlier one. Below that each
/// goes as it came: what a sender sees of its acknowledgements is its clock.
const MANY: usize = 64;
/// An empty queue keeps memory for so many frames.
const KEPT: usize = 512;

/// In the order in which they give way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Ack = 0,
    Other = 1,
    Reset = 2,
}

#[derive(Debug)]
struct Entry {
    /// Counts all that came, to keep their order across the classes.
    number: u64,
    frame: Frame,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Control {
    queues: [VecDeque<Entry>; 3],
    next_number: u64,
    /// Acknowledgements taken out of their queue so far: the place of the front one.
    acks_gone: u64,
    /// The latest acknowledgements that came while many waited: their places, counted from the first ever.
    acks: BTreeMap<FlowId, u64>,
    cost: u64,
    bytes: u64,
}

/// What became of others when one came.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Losses {
    /// Frames for which there was no room.
    pub lost: u64,
    /// Acknowledgements whose place a later one took.
    pub superseded: u64,
}

impl Control {
    pub(super) fn is_empty(&self) -> bool {
        self.queues.iter().all(VecDeque::is_empty)
    }

    pub(super) fn len(&self) -> usize {
        self.queues.iter().map(VecDeque::len).sum()
    }

    /// Bytes of waiting frames.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Memory that they take.
    pub(super) fn cost(&self) -> u64 {
        self.cost
    }

    pub(super) fn push(&mut self, frame: Frame, buffers: &mut Buffers) -> Losses {
        let mut losses = Losses::default();
        let len = frame.raw.len();
        let (class, ack) = match flow::read(&mut Reader::new(&frame.raw)) {
            Ok(Some((_, Body::Ack(ack)))) => (Class::Ack, Some(ack)),
            Ok(Some((_, Body::Reset { .. }))) => (Class::Reset, None),
            _ => (Class::Other, None),
        };
        let many = self.len() >= MANY;
        let earlier = ack.filter(|_| many).and_then(|ack| self.earlier(&frame, &ack));
        if let Some(at) = earlier {
            losses.superseded = 1;
            self.replace(at, frame, buffers);
            return losses;
        }
        while len <= MAX_LEN && self.cost + cost(len) > MAX_BYTES {
            let Some(gone) = self.give_way(class) else { break };
            buffers.put_back(gone.raw);
            losses.lost += 1;
        }
        if len > MAX_LEN || self.cost + cost(len) > MAX_BYTES {
            buffers.put_back(frame.raw);
            losses.lost += 1;
            return losses;
        }
        self.cost += cost(len);
        self.bytes += len as u64;
        let number = self.next_number;
        self.next_number += 1;
        let Some(queue) = self.queues.get_mut(class as usize) else { return losses };
        if class == Class::Ack && many {
            self.acks.insert(frame.flow(), self.acks_gone + queue.len() as u64);
        }
        queue.push_back(Entry { number, frame });
        losses
    }

    /// The place of a waiting acknowledgement that says nothing that `ack` does not say.
    fn earlier(&self, frame: &Frame, ack: &FlowAck) -> Option<usize> {
        let at = self.acks.get(&frame.flow())?.checked_sub(self.acks_gone)?;
        let at = usize::try_from(at).ok()?;
        let waiting = self.queues.first()?.get(at)?;
        let Ok(Some((_, Body::Ack(old)))) = flow::read(&mut Reader::new(&waiting.frame.raw)) else {
            return None;
        };
        let (less, more) = (cost(waiting.frame.raw.len()), cost(frame.raw.len()));
        let fits = self.cost - less + more <= MAX_BYTES;
        let later = ack.cumulative >= old.cumulative
            && ack.credit >= old.credit
            && ack.fin >= old.fin
            && ack.marked >= old.marked
            && ack.asked >= old.asked;
        (later && fits).then_some(at)
    }

    fn replace(&mut self, at: usize, frame: Frame, buffers: &mut Buffers) {
        let Some(entry) = self.queues.first_mut().and_then(|acks| acks.get_mut(at)) else { return };
        let (old, new) = (entry.frame.raw.len(), frame.raw.len());
        let gone = std::mem::replace(&mut entry.frame, frame);
        buffers.put_back(gone.raw);
        self.cost = self.cost - cost(old) + cost(new);
        self.bytes = self.bytes - old as u64 + new as u64;
    }

    /// The oldest frame of what gives way first, if that is before resets, or not after `class`.
    fn give_way(&mut self, class: Class) -> Option<Frame> {
        let last = if class == Class::Ack { Class::Ack } else { Class::Other };
        let at = self.queues.iter().take(last as usize + 1).position(|q| !q.is_empty())?;
        self.take(at)
    }

    fn take(&mut self, at: usize) -> Option<Frame> {
        let queue = self.queues.get_mut(at)?;
        let frame = queue.pop_front()?.frame;
        if queue.is_empty() && queue.capacity() > KEPT {
            queue.shrink_to(KEPT);
        }
        self.cost -= cost(frame.raw.len());
        self.bytes -= frame.raw.len() as u64;
        if at == Class::Ack as usize {
            if !self.acks.is_empty() && self.acks.get(&frame.flow()) == Some(&self.acks_gone) {
                self.acks.remove(&frame.flow());
            }
            self.acks_gone += 1;
        }
        Some(frame)
    }

    /// The class of the frame that came first.
    fn first(&self) -> Option<usize> {
        let fronts = self.queues.iter().enumerate();
        let fronts = fronts.filter_map(|(at, queue)| Some((queue.front()?.number, at)));
        fronts.min().map(|(_, at)| at)
    }

    /// Takes out the frame that came first.
    pub(super) fn pop(&mut self) -> Option<Frame> {
        self.first().and_then(|at| self.take(at))
    }

    /// Writes the frame that came first, if it fits; its length.
    pub(super) fn put_next(
        &mut self,
        now: Instant,
        room: usize,
        buffers: &mut Buffers,
        out: &mut Vec<u8>,
    ) -> Option<usize> {
        let at = self.first()?;
        let front = self.queues.get(at)?.front()?;
        let len = front.frame.raw.len();
        if len > room {
            return None;
        }
        front.frame.put(now, false, out);
        let frame = self.take(at)?;
        buffers.put_back(frame.raw);
        Some(len)
    }
}
