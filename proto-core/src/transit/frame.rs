//! A frame that waits.

use std::time::{Duration, Instant};

use crate::transit::Passing;
use crate::transit::buffers::Buffers;
use crate::wire::flow::{self, Age, Direction, FlowKey, Head};

/// One direction of a flow.
pub(super) type FlowId = (FlowKey, bool);

pub(super) fn flow_id(head: &Head) -> FlowId {
    (head.key, head.direction == Direction::ToIngress)
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Frame {
    /// As it came.
    pub head: Head,
    /// What it had spent since its head was stamped, when it came.
    pub age: Duration,
    pub since: Instant,
    pub raw: Vec<u8>,
}

impl Frame {
    pub(super) fn new(
        now: Instant,
        frame: &Passing<'_>,
        age: Duration,
        buffers: &mut Buffers,
    ) -> Self {
        Self { head: frame.head, age, since: now, raw: buffers.copy(frame.raw) }
    }

    pub(super) fn flow(&self) -> FlowId {
        flow_id(&self.head)
    }

    pub(super) fn waited(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    /// Time since the head was stamped.
    pub(super) fn unstamped(&self, now: Instant) -> Duration {
        self.age.saturating_add(self.waited(now))
    }

    /// Time in the mesh.
    pub(super) fn in_mesh(&self, now: Instant) -> Duration {
        self.head.age.time().saturating_add(self.unstamped(now))
    }

    /// The head that it leaves with.
    pub(super) fn stamp(&self, now: Instant, mark: bool) -> Head {
        Head {
            marked: self.head.marked || mark,
            hops: self.head.hops.saturating_add(1),
            age: Age::of(self.in_mesh(now)),
            ..self.head
        }
    }

    /// Writes the whole frame.
    pub(super) fn put(&self, now: Instant, mark: bool, out: &mut Vec<u8>) {
        let at = out.len();
        out.extend_from_slice(&self.raw);
        flow::restamp(out.get_mut(at..).unwrap_or_default(), &self.stamp(now, mark));
    }
}
