//! Nothing is doubled, nothing lost that is not counted, whatever comes and however it is fetched.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;

use super::tests::{ROOM, Seen, ack_frame, check_tables, data_frame, head, read_all, start};
use super::{MAX_HOPS, Passing, Transit};
use crate::ids::{Lane, PeerId};
use crate::wire::flow::{self, Age, Direction, Head, ResetCode};

#[derive(Debug, Clone)]
enum Step {
    Data { to: usize, id: u64, lane: Lane, len: usize, head: (u8, u8, bool), held: u64, open: bool },
    Ack { to: usize, id: u64 },
    Reset { to: usize, id: u64 },
    Fill { to: usize, lane: Lane, room: usize, times: usize },
    Rate { to: usize, rate: f64 },
    Wait { ms: u64 },
    Move { to: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let peer = 0usize..3;
    let lane = prop_oneof![Just(Lane::Express), Just(Lane::Bulk)];
    let id = prop_oneof![3 => 0u64..2, 1 => 0u64..300];
    let len = prop_oneof![4 => 1usize..1400, 1 => 0usize..40, 1 => Just(20_000)];
    let hops = prop_oneof![9 => 0u8..16, 1 => 16u8..32];
    let age = prop_oneof![9 => 0u8..8, 1 => 0u8..=255];
    let held = prop_oneof![9 => 0u64..50, 1 => 0u64..12_000];
    let wait = prop_oneof![20 => 0u64..30, 1 => 0u64..9_000];
    let data =
        (peer.clone(), id.clone(), lane, len, (hops, age, any::<bool>()), held, any::<bool>());
    let any_lane = proptest::sample::select(Lane::ALL.to_vec());
    prop_oneof![
        30 => data.prop_map(|(to, id, lane, len, head, held, open)| {
            Step::Data { to, id, lane, len, head, held, open }
        }),
        4 => (peer.clone(), id.clone()).prop_map(|(to, id)| Step::Ack { to, id }),
        1 => (peer.clone(), id).prop_map(|(to, id)| Step::Reset { to, id }),
        8 => (peer.clone(), any_lane, 0usize..1500, 1usize..8)
            .prop_map(|(to, lane, room, times)| Step::Fill { to, lane, room, times }),
        1 => (peer.clone(), 0f64..1e8).prop_map(|(to, rate)| Step::Rate { to, rate }),
        2 => wait.prop_map(|ms| Step::Wait { ms }),
        1 => peer.prop_map(|to| Step::Move { to }),
    ]
}

/// What a sequence of steps came to.
#[derive(Default)]
struct Model {
    now: Option<Instant>,
    /// Bytes and frames that came, by flow; offsets count up per flow.
    next_offset: BTreeMap<u64, u64>,
    /// Below that anything may have moved from one neighbour to another.
    moved: BTreeMap<u64, u64>,
    came_bytes: u64,
    came_frames: u64,
    old_bytes: u64,
    sent_bytes: u64,
    reported_bytes: u64,
    /// Up to where each flow and lane was sent to each neighbour.
    order: BTreeMap<(u64, Lane, usize), u64>,
}

impl Model {
    fn sent(&mut self, to: usize, lane: Lane, frames: &[Seen]) {
        for (head, data) in frames {
            assert!(head.hops <= MAX_HOPS && (data.is_none() == (lane == Lane::Control)));
            let Some((offset, len, _)) = data else { continue };
            let order = self.order.entry((head.key.id, lane, to)).or_default();
            let moved = self.moved.get(&head.key.id).is_some_and(|moved| offset < moved);
            assert!(moved || *offset >= *order, "in order and once");
            *order = offset + len;
            self.sent_bytes += len;
        }
    }

    fn reports(&mut self, t: &mut Transit) {
        while let Some((head, _, len, _)) = t.poll_report() {
            assert_eq!((head.direction, head.hops, head.marked), (Direction::ToIngress, 0, false));
            self.reported_bytes += len;
        }
    }

    fn step(&mut self, t: &mut Transit, step: Step) {
        let now = *self.now.get_or_insert_with(start);
        match step {
            Step::Data { to, id, lane, len, head: (hops, age, marked), held, open } => {
                let head = Head { hops, age: Age(age), marked, ..head(id) };
                let offset = self.next_offset.entry(id).or_default();
                let open = open.then_some("a-service");
                let raw = data_frame(&head, *offset, len, false, open);
                let frame = Passing { head, data: Some((*offset, len as u64)), raw: &raw };
                *offset += len as u64;
                self.came_bytes += len as u64;
                self.came_frames += 1;
                let before = t.status();
                t.pass(now, PeerId(to), lane, &frame, Duration::from_millis(held));
                let after = t.status();
                self.old_bytes += (after.dropped_old - before.dropped_old) * len as u64;
            }
            Step::Ack { to, id } => {
                self.came_frames += 1;
                let raw = ack_frame(&head(id), self.came_frames);
                let frame = Passing { head: head(id), data: None, raw: &raw };
                t.pass(now, PeerId(to), Lane::Bulk, &frame, Duration::ZERO);
            }
            Step::Reset { to, id } => {
                self.came_frames += 1;
                let mut raw = Vec::new();
                flow::put_reset(&mut raw, &head(id), ResetCode::NoMemory, 7);
                let frame = Passing { head: head(id), data: None, raw: &raw };
                t.pass(now, PeerId(to), Lane::Express, &frame, Duration::ZERO);
            }
            Step::Fill { to, lane, room, times } => {
                for _ in 0..times {
                    self.fill(t, to, lane, room);
                }
            }
            Step::Rate { to, rate } => t.set_rate(PeerId(to), rate),
            Step::Wait { ms } => self.now = Some(now + Duration::from_millis(ms)),
            Step::Move { to } => self.move_all(t, to),
        }
        self.reports(t);
        check_tables(t);
    }

    /// What is dropped as too old meanwhile shows in what is missing from the waiting bytes.
    fn fill(&mut self, t: &mut Transit, to: usize, lane: Lane, room: usize) {
        let now = self.now.unwrap();
        let had = t.has(PeerId(to), lane);
        let before = (t.status().dropped_old, self.waiting_data(t));
        let mut out = Vec::new();
        t.fill(now, PeerId(to), lane, room, &mut out);
        assert!(out.len() <= room);
        let sent_before = self.sent_bytes;
        self.sent(to, lane, &read_all(&out));
        if t.status().dropped_old > before.0 {
            let sent = self.sent_bytes - sent_before;
            self.old_bytes += before.1 - self.waiting_data(t) - sent;
        } else {
            assert!(!had || !out.is_empty() || room < 1100, "said that it had something");
        }
    }

    fn waiting_data(&self, t: &Transit) -> u64 {
        let queues = t.hops.iter().map(|hop| hop.data.data_bytes());
        queues.sum()
    }

    /// To the neighbour after it.
    fn move_all(&mut self, t: &mut Transit, to: usize) {
        let now = self.now.unwrap();
        let (old, waiting) = (t.status().dropped_old, self.waiting_data(t));
        let mut moved = 0;
        let mut frames = Vec::new();
        t.drain(now, PeerId(to), &mut |lane, age, frame| {
            frames.push((lane, age, frame.head, frame.data, frame.raw.to_vec()));
            moved += frame.data.map_or(0, |(_, len)| len);
        });
        if t.status().dropped_old > old {
            self.old_bytes += waiting - moved - self.waiting_data(t);
        }
        assert!(Lane::ALL.iter().all(|lane| !t.has(PeerId(to), *lane)));
        // What comes the other way now may be behind later data.
        let before = std::mem::replace(&mut self.moved, self.next_offset.clone());
        let mut order = BTreeMap::new();
        for (lane, age, head, data, raw) in frames {
            if let Some((offset, len)) = data {
                let last = order.insert((head.key.id, lane), offset + len);
                let moved = before.get(&head.key.id).is_some_and(|moved| offset < *moved);
                assert!(moved || last.is_none_or(|last| last <= offset), "in order");
            }
            let frame = Passing { head, data, raw: &raw };
            t.pass(now, PeerId((to + 1) % 3), lane, &frame, age);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn every_byte_is_sent_once_or_accounted_for(steps in vec(step(), 1..600)) {
        let mut t = Transit::new();
        let mut model = Model::default();
        for step in steps {
            model.step(&mut t, step);
            let accounted = model.sent_bytes + model.reported_bytes + model.old_bytes;
            prop_assert_eq!(model.came_bytes, accounted + model.waiting_data(&t));
        }
        for to in 0..3 {
            for lane in Lane::ALL {
                while t.has(PeerId(to), lane) {
                    model.fill(&mut t, to, lane, ROOM);
                }
            }
        }
        let s = t.status();
        prop_assert_eq!(s.waiting_bytes, 0);
        prop_assert_eq!(t.total, 0);
        let dropped = s.dropped_full + s.dropped_hops + s.dropped_old + s.dropped_no_way;
        let control = t.counters.dropped_control + t.counters.acks_merged;
        prop_assert_eq!(model.came_frames, s.frames + dropped + control);
    }
}
