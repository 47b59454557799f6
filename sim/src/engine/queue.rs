//! The one event heap.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use entrouter_proto::ConnId;

use super::{HostId, LinkId};
use crate::time::Time;

/// Something that happens at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// A host's core may have something due.
    Timer(HostId),
    /// A datagram arrives over one direction of a link.
    Arrival(LinkId),
    /// A client of that workload connects.
    Open(usize),
    /// A client asks again.
    Ask(usize),
    /// A sender that sends for a time stops.
    Stop(usize),
    /// An application that reads slowly reads.
    Read(HostId, ConnId),
    /// A dial of a host has its result.
    Dialled(HostId, ConnId),
    /// The fault of that number.
    Fault(usize),
    /// Time to look at tables, and to take a sample.
    Look,
    /// Time to look at the routes that are watched.
    Routes,
    /// Time to keep what the nodes counted so far.
    Snapshot,
}

/// Events in order of time, and of two at the same time in the order in which they were put in.
#[derive(Debug, Default)]
pub(super) struct EventQueue {
    heap: BinaryHeap<Entry>,
    put: u64,
}

#[derive(Debug)]
struct Entry {
    at: Time,
    nth: u64,
    event: Event,
}

impl EventQueue {
    pub(super) fn put(&mut self, at: Time, event: Event) {
        self.heap.push(Entry { at, nth: self.put, event });
        self.put += 1;
    }

    pub(super) fn next_at(&self) -> Option<Time> {
        self.heap.peek().map(|entry| entry.at)
    }

    pub(super) fn take(&mut self) -> Option<(Time, Event)> {
        self.heap.pop().map(|entry| (entry.at, entry.event))
    }
}

/// Ordered so that a max-heap yields the earliest first.
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.nth).cmp(&(self.at, self.nth))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Entry {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_events_at_one_time_the_older_comes_first() {
        let mut queue = EventQueue::default();
        for (at, nth) in [(2, 0), (1, 1), (1, 2), (0, 3), (1, 4)] {
            queue.put(Time::from_nanos(at), Event::Open(nth));
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.take()).map(|(_, e)| e).collect();
        assert_eq!(order, [3, 1, 2, 4, 0].map(Event::Open));
    }
}
