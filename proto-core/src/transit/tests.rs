//! What a relay does with a frame, whom it serves first, what it drops, marks and tells.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::{MARK_ALL, MAX_HOPS, MIN_BYTES, Passing, Transit, control, reports};
use crate::ids::{Lane, NodeHash, PeerId};
use crate::tests::endpoints;
use crate::wire::Reader;
use crate::wire::flow::{
    self, AckRanges, Age, Body, Direction, DropReason, FlowAck, FlowKey, Head, Opening, ResetCode,
};
use crate::wire::symbol::{self, Content};

pub(super) const PEER: PeerId = PeerId(1);
pub(super) const ROOM: usize = 1200;
pub(super) const MS: Duration = Duration::from_millis(1);

pub(super) use crate::tests::epoch as start;

pub(super) fn head(id: u64) -> Head {
    let key =
        FlowKey { ingress: NodeHash(1), ingress_life: 2, egress: NodeHash(3), egress_life: 4, id };
    Head::new(key, Direction::ToEgress)
}

/// What stands at an offset of a flow.
fn byte(id: u64, offset: u64) -> u8 {
    (id.wrapping_mul(31) ^ offset.wrapping_mul(7) ^ (offset >> 8)) as u8
}

pub(super) fn data_frame(
    head: &Head,
    offset: u64,
    len: usize,
    fin: bool,
    open: Option<&str>,
) -> Vec<u8> {
    let mut raw = Vec::new();
    let opening = |service| Opening { service, endpoints: endpoints() };
    flow::put_data_header(&mut raw, head, offset, fin, open.map(opening), len);
    raw.extend((offset..offset + len as u64).map(|at| byte(head.key.id, at)));
    raw
}

pub(super) fn ack_frame(head: &Head, cumulative: u64) -> Vec<u8> {
    let credit = cumulative + 1000;
    let ranges = AckRanges::new();
    let ack = FlowAck { cumulative, credit, fin: false, marked: 0, asked: 0, ranges };
    let mut raw = Vec::new();
    flow::put_ack(&mut raw, head, &ack);
    raw
}

pub(super) fn pass_data(
    t: &mut Transit,
    now: Instant,
    lane: Lane,
    id: u64,
    offset: u64,
    len: usize,
) {
    let raw = data_frame(&head(id), offset, len, false, None);
    let frame = Passing { head: head(id), data: Some((offset, len as u64)), raw: &raw };
    t.pass(now, PEER, lane, &frame, Duration::ZERO);
}

fn pass_other(t: &mut Transit, now: Instant, id: u64, raw: &[u8]) {
    let frame = Passing { head: head(id), data: None, raw };
    t.pass(now, PEER, Lane::Control, &frame, Duration::ZERO);
}

/// A frame that left: its head, and offset, length and fin of data.
pub(super) type Seen = (Head, Option<(u64, u64, bool)>);

/// The frames of one symbol.
pub(super) fn read_all(bytes: &[u8]) -> Vec<Seen> {
    let mut reader = Reader::new(bytes);
    let mut frames = Vec::new();
    while let Some(frame) = symbol::read(&mut reader).expect("frames can be read") {
        let Content::Flow(head, body) = frame.content else { panic!("a flow frame") };
        let data = match body {
            Body::Data { offset, fin, data, .. } => {
                let id = head.key.id;
                assert!((offset..).zip(data).all(|(at, had)| *had == byte(id, at)), "changed");
                Some((offset, data.len() as u64, fin))
            }
            _ => None,
        };
        frames.push((head, data));
    }
    frames
}

pub(super) fn fetch(t: &mut Transit, now: Instant, lane: Lane, room: usize) -> Vec<Seen> {
    let mut out = vec![0xee; 3];
    t.fill(now, PEER, lane, room, &mut out);
    assert!(out.len() <= room + 3);
    read_all(&out[3..])
}

/// All that waits on a lane, in packets.
fn fetch_all(t: &mut Transit, now: Instant, lane: Lane) -> Vec<Seen> {
    let mut all = Vec::new();
    while t.has(PEER, lane) {
        let some = fetch(t, now, lane, ROOM);
        assert!(!some.is_empty(), "said that it had something");
        all.extend(some);
    }
    all
}

pub(super) fn check_tables(t: &Transit) {
    t.tables(&mut |table| assert!(table.len <= table.bound, "{table:?}"));
}

#[test]
fn a_frame_leaves_as_it_came_but_for_hops_age_and_mark() {
    let (mut t, now) = (Transit::new(), start());
    let came = Head { marked: true, hops: 3, age: Age(8), ..head(7) };
    let mut raw = data_frame(&came, 1000, 500, true, Some("a-service"));
    let frame = Passing { head: came, data: Some((1000, 500)), raw: &raw };
    t.pass(now, PEER, Lane::Express, &frame, 250 * MS);
    let mut out = Vec::new();
    t.fill(now + 125 * MS, PEER, Lane::Express, ROOM, &mut out);
    // Half a second before, three eighths since.
    flow::restamp(&mut raw, &Head { hops: 4, age: Age(14), ..came });
    assert_eq!(out, raw);
    assert_eq!(t.status().marked, 0, "the mark is not from here");
}

#[test]
fn what_passed_sixteen_relays_goes_no_further() {
    let (mut t, now) = (Transit::new(), start());
    for hops in [MAX_HOPS - 1, MAX_HOPS, 31] {
        let head = Head { hops, ..head(1) };
        let raw = data_frame(&head, 0, 10, false, None);
        let frame = Passing { head, data: Some((0, 10)), raw: &raw };
        t.pass(now, PEER, Lane::Bulk, &frame, Duration::ZERO);
    }
    let sent = fetch_all(&mut t, now, Lane::Bulk);
    assert!(sent.len() == 1 && sent[0].0.hops == MAX_HOPS);
    assert_eq!(t.status().dropped_hops, 2);
    let back = Head::new(head(1).key, Direction::ToIngress);
    assert_eq!(t.poll_report(), Some((back, 0, 10, DropReason::NoWay)));
}

#[test]
fn data_of_ten_seconds_are_dropped_and_not_reported() {
    let (mut t, now) = (Transit::new(), start());
    let old = Head { age: Age(159), ..head(1) };
    let raw = data_frame(&old, 0, 10, false, None);
    let frame = Passing { head: old, data: Some((0, 10)), raw: &raw };
    t.pass(now, PEER, Lane::Bulk, &frame, 100 * MS);
    assert!(!t.has(PEER, Lane::Bulk), "old when it came");
    t.pass(now, PEER, Lane::Bulk, &frame, Duration::ZERO);
    pass_data(&mut t, now, Lane::Bulk, 1, 10, 10);
    let sent = fetch_all(&mut t, now + 100 * MS, Lane::Bulk);
    assert_eq!(sent.iter().filter_map(|(_, data)| *data).collect::<Vec<_>>(), [(10, 10, false)]);
    assert_eq!((t.status().dropped_old, t.poll_report()), (2, None));
}

#[test]
fn flows_share_alike_however_much_each_has_waiting() {
    let (mut t, now) = (Transit::new(), start());
    t.set_rate(PEER, 1e7);
    for n in 0..400 {
        pass_data(&mut t, now, Lane::Bulk, 1, n * 1100, 1100);
        if n < 100 {
            (0..3).for_each(|k| pass_data(&mut t, now, Lane::Bulk, 2, n * 900 + k * 300, 300));
        }
    }
    assert_eq!(t.weight(PEER, Lane::Bulk), 2);
    let mut had = [0i64; 3];
    while t.weight(PEER, Lane::Bulk) == 2 {
        for (head, data) in fetch(&mut t, now, Lane::Bulk, ROOM) {
            had[head.key.id as usize] += data.map_or(0, |(_, len, _)| len as i64);
        }
        // Two turns, and the heads of small frames.
        assert!((had[1] - had[2]).abs() <= 2 * 1200 + had[2] / 8, "{had:?}");
    }
    assert!(had[2] >= 85_000);
}

#[test]
fn a_small_flow_beside_a_greedy_one_loses_nothing_and_waits_for_one_turn() {
    let (mut t, mut now) = (Transit::new(), start());
    t.set_rate(PEER, 2.5e6);
    let (mut greedy, mut small) = (0, 0);
    for round in 0..2000u64 {
        for _ in 0..5 {
            pass_data(&mut t, now, Lane::Bulk, 1, greedy, 1150);
            greedy += 1150;
        }
        if round % 10 == 0 {
            pass_data(&mut t, now, Lane::Bulk, 2, small, 100);
            small += 100;
        }
        let mut sent = Vec::new();
        (0..3).for_each(|_| sent.extend(fetch(&mut t, now, Lane::Bulk, ROOM)));
        let of_small = sent.iter().any(|(head, _)| head.key.id == 2);
        // Whoever has something left of his turn fills another packet.
        assert!(round % 10 != 0 || of_small, "in three packets");
        now += MS;
        check_tables(&t);
    }
    let mut reports = std::iter::from_fn(|| t.poll_report());
    assert!(reports.all(|(head, ..)| head.key.id == 1));
    assert!(t.status().dropped_full > 1000);
}

/// Of one flow that comes faster than it leaves, for `ms`: frames sent, marked, and the longest wait.
fn overload(
    t: &mut Transit,
    now: &mut Instant,
    in_per_ms: u64,
    out_per_ms: u64,
    ms: u64,
) -> (u64, u64) {
    let before = t.status();
    let mut offset = 0;
    for _ in 0..ms {
        for _ in 0..in_per_ms {
            pass_data(t, *now, Lane::Bulk, 1, offset, 1100);
            offset += 1100;
        }
        for _ in 0..out_per_ms {
            fetch(t, *now, Lane::Bulk, ROOM);
        }
        *now += MS;
    }
    let after = t.status();
    (after.frames - before.frames, after.marked - before.marked)
}

#[test]
fn a_flow_is_marked_once_its_queue_lasts_too_long_and_not_before() {
    let (mut t, mut now) = (Transit::new(), start());
    t.set_rate(PEER, 2.5e6);
    let (sent, marked) = overload(&mut t, &mut now, 2, 2, 1000);
    assert!(sent == 2000 && marked == 0);
    // Half of what comes leaves: after 50 ms they are 25 ms late, after 100 ms 50.
    let (sent, marked) = overload(&mut t, &mut now, 4, 2, 50);
    assert!(sent >= 98 && marked == 0, "{marked} of {sent}");
    let (sent, marked) = overload(&mut t, &mut now, 4, 2, 50);
    assert!(sent >= 98 && marked.abs_diff(sent / 2) < 10, "{marked} of {sent}");
    let (sent, marked) = overload(&mut t, &mut now, 4, 2, 100);
    assert!(sent >= 195 && marked > sent - 20, "{marked} of {sent}");
    assert!(Duration::from_micros(t.status().wait_max_us) <= 300 * MS);
}

#[test]
fn a_queue_that_stands_is_marked_and_one_that_comes_and_goes_is_not() {
    let (mut t, mut now) = (Transit::new(), start());
    t.set_rate(PEER, 2.5e6);
    overload(&mut t, &mut now, 4, 2, 20);
    let (sent, marked) = overload(&mut t, &mut now, 2, 2, 60);
    assert!(sent == 120 && marked == 0, "20 ms, but not for long: {marked} of {sent}");
    overload(&mut t, &mut now, 2, 2, 40);
    let (sent, marked) = overload(&mut t, &mut now, 2, 2, 200);
    assert!(sent == 400 && (60..110).contains(&marked), "{marked} of {sent}");
    // It is gone for a moment in each tenth of a second.
    let marked: u64 = (0..10)
        .map(|_| {
            fetch_all(&mut t, now, Lane::Bulk);
            overload(&mut t, &mut now, 4, 2, 20).1 + overload(&mut t, &mut now, 2, 2, 60).1
        })
        .sum();
    assert_eq!(marked, 0);
}

#[test]
fn bursts_of_a_tunnel_are_no_congestion() {
    let (mut t, mut now) = (Transit::new(), start());
    for n in 0..1000u64 {
        pass_data(&mut t, now, Lane::Bulk, 1, n * 1100, 1100);
        if n % 80 == 79 {
            // 20 ms of frames at once.
            fetch_all(&mut t, now, Lane::Bulk);
        }
        now += MS / 4;
    }
    assert_eq!(t.status().marked, 0);
    let s = t.status();
    assert!((9000..=11_000).contains(&s.wait_p50_us) && (18_000..=21_000).contains(&s.wait_p99_us));
}

#[test]
fn who_waits_for_the_turns_of_others_is_not_marked() {
    let (mut t, now) = (Transit::new(), start());
    pass_data(&mut t, now, Lane::Bulk, 9, 0, 200);
    (0..8).for_each(|n| pass_data(&mut t, now, Lane::Bulk, 1, n * 1100, 1100));
    let sent = fetch_all(&mut t, now + 2 * MARK_ALL, Lane::Bulk);
    assert!(sent.iter().all(|(head, _)| head.marked == (head.key.id == 1)));
}

#[test]
fn a_long_frame_is_split_to_fill_the_room_and_ends_once() {
    let (mut t, now) = (Transit::new(), start());
    let whole = head(5);
    let raw = data_frame(&whole, 60, 5000, true, Some("a-service"));
    let frame = Passing { head: whole, data: Some((60, 5000)), raw: &raw };
    t.pass(now, PEER, Lane::Express, &frame, Duration::ZERO);
    let mut at = 60;
    for room in [150, 1200, 40, 1100, 1300, 0, 1200, 1200] {
        for (head, data) in fetch(&mut t, now, Lane::Express, room) {
            let (offset, len, fin) = data.expect("data");
            assert!(offset == at && head.hops == 1 && fin == (offset + len == 5060));
            at += len;
        }
    }
    assert!(at == 5060 && !t.has(PEER, Lane::Express));
    assert_eq!(t.status().frames, 1);
}

#[test]
fn what_was_split_and_cannot_leave_moves_on_without_what_left() {
    let (mut t, now) = (Transit::new(), start());
    let whole = Head { marked: true, hops: 2, ..head(5) };
    let raw = data_frame(&whole, 0, 3000, true, Some("a-service"));
    let frame = Passing { head: whole, data: Some((0, 3000)), raw: &raw };
    t.pass(now, PEER, Lane::Bulk, &frame, 20 * MS);
    pass_data(&mut t, now, Lane::Bulk, 5, 3000, 10);
    pass_other(&mut t, now, 5, &ack_frame(&head(5), 1));
    let sent = fetch(&mut t, now, Lane::Bulk, ROOM)[0].1.expect("data").1;
    let mut moved = VecDeque::new();
    t.drain(now + 30 * MS, PEER, &mut |lane, age, frame| {
        assert_eq!(read_all(frame.raw).len(), 1);
        moved.push_back((lane, age, frame.head, frame.data, frame.raw.to_vec()));
    });
    let (lane, age, ..) = moved.pop_front().unwrap();
    assert_eq!((lane, age), (Lane::Control, 30 * MS));
    let (lane, age, head, data, raw) = moved.pop_front().unwrap();
    assert_eq!((lane, age, head, data), (Lane::Bulk, 50 * MS, whole, Some((sent, 3000 - sent))));
    assert_eq!(read_all(&raw), [(whole, Some((sent, 3000 - sent, true)))]);
    assert_eq!(moved.pop_front().map(|(_, _, _, data, _)| data), Some(Some((3000, 10))));
    assert_eq!((t.status().moved, t.status().waiting_bytes, t.total), (3, 0, 0));
    check_tables(&t);
}

#[test]
fn drops_that_follow_each_other_are_one_report_and_reports_are_bounded() {
    let mut t = Transit::new();
    let drop = |t: &mut Transit, id, offset, len: usize| {
        let raw = data_frame(&head(id), offset, len, false, None);
        t.no_way(&Passing { head: head(id), data: Some((offset, len as u64)), raw: &raw });
    };
    for (offset, len) in [(100, 50), (150, 50), (60, 40), (300, 10)] {
        drop(&mut t, 1, offset, len);
        drop(&mut t, 2, offset, len);
    }
    let told = std::iter::from_fn(|| t.poll_report()).collect::<Vec<_>>();
    let told = told.iter().map(|(head, offset, len, _)| (head.key.id, *offset, *len));
    assert!(told.eq([(1, 60, 140), (2, 60, 140), (1, 300, 10), (2, 300, 10)]));
    for n in 0..3000 {
        drop(&mut t, n, 0, 1);
        check_tables(&t);
    }
    let told = std::iter::from_fn(|| t.poll_report()).map(|(head, ..)| head.key.id);
    assert!(told.eq(3000 - reports::MAX_REPORTS as u64..3000), "the oldest went");
    t.no_way(&Passing { head: head(1), data: None, raw: &ack_frame(&head(1), 0) });
    assert_eq!((t.poll_report(), t.status().dropped_no_way), (None, 3009));
}

#[test]
fn the_bound_follows_the_rate_and_the_greatest_loses() {
    let (mut t, now) = (Transit::new(), start());
    let waiting = |t: &Transit| t.hops[PEER.0].data.cost();
    let flood = |t: &mut Transit, id| {
        (0..8000).for_each(|n| pass_data(t, now, Lane::Bulk, id, n * 1200, 1200))
    };
    flood(&mut t, 1);
    assert!(waiting(&t) > MIN_BYTES - 2000 && waiting(&t) <= MIN_BYTES);
    t.set_rate(PEER, 4e6);
    flood(&mut t, 1);
    assert!(waiting(&t) > 998_000 && waiting(&t) <= 1_000_000);
    t.set_rate(PEER, 1.0);
    let dropped = t.status().dropped_full;
    pass_data(&mut t, now, Lane::Bulk, 2, 0, 1200);
    assert!(waiting(&t) > 990_000, "a fallen rate throws nothing away");
    assert_eq!(t.status().dropped_full, dropped + 1);
    // Half each: who came later takes from who has more.
    flood(&mut t, 2);
    let sent = fetch_all(&mut t, now, Lane::Bulk);
    let of_first = sent.iter().filter(|(head, _)| head.key.id == 1).count();
    assert!(of_first.abs_diff(sent.len() - of_first) <= 2, "{of_first} of {}", sent.len());
}

#[test]
fn all_neighbours_together_are_bounded() {
    let (mut t, now) = (Transit::new(), start());
    for to in 0..12 {
        t.set_rate(PeerId(to), 1e12);
        for n in 0..7000u64 {
            let raw = data_frame(&head(to as u64), n * 1200, 1200, false, None);
            let data = Some((n * 1200, 1200));
            let frame = Passing { head: head(to as u64), data, raw: &raw };
            t.pass(now, PeerId(to), Lane::Bulk, &frame, Duration::ZERO);
        }
        check_tables(&t);
    }
    let waiting = t.hops.iter().map(|hop| hop.data.cost());
    assert_eq!(waiting.clone().sum::<u64>(), t.total);
    assert!(waiting.clone().min() > Some(5 << 20), "all have their share");
}

#[test]
fn many_flows_are_bounded_and_forgotten() {
    let (mut t, now) = (Transit::new(), start());
    t.set_rate(PEER, 1e12);
    for id in 0..20_000 {
        pass_data(&mut t, now, Lane::Bulk, id, 0, 1);
    }
    check_tables(&t);
    assert_eq!(fetch_all(&mut t, now, Lane::Bulk).len(), super::data::MAX_FLOWS);
    for id in 0..20_000 {
        pass_data(&mut t, now, Lane::Bulk, id, 0, 1);
        assert_eq!(fetch_all(&mut t, now, Lane::Bulk).len(), 1);
        assert!(id < 300 || t.hops[PEER.0].data.known() <= super::data::MAX_IDLE + 1);
    }
}

#[test]
fn control_keeps_its_order_and_goes_by_itself() {
    let (mut t, now) = (Transit::new(), start());
    for n in 0..40 {
        let mut raw = Vec::new();
        match n % 4 {
            0 => flow::put_reset(&mut raw, &head(n), ResetCode::NoMemory, 1),
            1 => flow::put_ask(&mut raw, &head(n), 1),
            2 => flow::put_reset_ack(&mut raw, &head(n)),
            _ => raw = ack_frame(&head(n), n),
        }
        pass_other(&mut t, now, n, &raw);
    }
    assert!(t.has(PEER, Lane::Control) && !t.has(PEER, Lane::Bulk));
    let sent = fetch_all(&mut t, now, Lane::Control);
    assert!(sent.iter().map(|(head, _)| head.key.id).eq(0..40));
}

#[test]
fn a_later_acknowledgement_takes_the_place_of_an_earlier_one_where_many_wait() {
    let (mut t, now) = (Transit::new(), start());
    for n in 0..50 {
        pass_other(&mut t, now, 1, &ack_frame(&head(1), n));
    }
    assert_eq!(t.counters.acks_merged, 0, "few wait");
    for n in 50..5000 {
        pass_other(&mut t, now, n % 7, &ack_frame(&head(n % 7), n));
        // One that was overtaken replaces nothing.
        pass_other(&mut t, now, 1, &ack_frame(&head(1), n / 2));
        if n > 100 {
            break;
        }
    }
    let before = t.counters.acks_merged;
    assert!(before > 0);
    let newest = ack_frame(&head(1), 1 << 40);
    pass_other(&mut t, now, 1, &newest);
    let mut out = Vec::new();
    while t.has(PEER, Lane::Control) {
        t.fill(now, PEER, Lane::Control, ROOM, &mut out);
    }
    let mut reader = Reader::new(&out);
    let mut best = BTreeMap::new();
    while let Some((head, Body::Ack(ack))) = flow::read(&mut reader).unwrap() {
        let most: &mut u64 = best.entry(head.key.id).or_default();
        *most = ack.cumulative.max(*most);
    }
    assert_eq!(best.get(&1), Some(&(1 << 40)));
    assert_eq!(t.counters.dropped_control, 0);
}

#[test]
fn control_is_bounded_and_resets_are_the_last_to_go() {
    let (mut t, now) = (Transit::new(), start());
    let mut reset = Vec::new();
    flow::put_reset(&mut reset, &head(1), ResetCode::NoMemory, 1);
    for id in 0..30_000 {
        pass_other(&mut t, now, id, &ack_frame(&head(id), 1));
    }
    check_tables(&t);
    let lost = t.counters.dropped_control;
    let fit = control::MAX_BYTES / super::buffers::cost(reset.len());
    assert_eq!(lost, 30_000 - fit);
    for _ in 0..fit {
        pass_other(&mut t, now, 1, &reset);
    }
    assert_eq!(t.counters.dropped_control, 30_000, "the acknowledgements went");
    pass_other(&mut t, now, 2, &ack_frame(&head(2), 1));
    pass_other(&mut t, now, 1, &reset);
    assert_eq!(t.counters.dropped_control, 30_002);
    check_tables(&t);
    assert_eq!(fetch_all(&mut t, now, Lane::Control).len() as u64, fit);
    assert_eq!(t.hops[PEER.0].control.cost(), 0);
}

#[test]
fn a_stream_of_frames_uses_the_same_buffers_again() {
    let (mut t, now) = (Transit::new(), start());
    pass_data(&mut t, now, Lane::Bulk, 1, 0, 1100);
    fetch_all(&mut t, now, Lane::Bulk);
    let idle = t.buffers.idle_bytes();
    assert!(idle > 0);
    for n in 1..1000 {
        pass_data(&mut t, now, Lane::Bulk, 1, n * 1100, 1100);
        assert_eq!(t.buffers.idle_bytes(), 0);
        fetch_all(&mut t, now, Lane::Bulk);
        assert_eq!(t.buffers.idle_bytes(), idle);
    }
}
