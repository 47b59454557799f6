//! A sender that answers marks with its window, through a relay whose next link is slower.

use std::collections::VecDeque;
use std::time::Instant;

use super::Transit;
use super::tests::{MS, PEER, ROOM, check_tables, fetch, pass_data, start};
use crate::ids::Lane;

const RTT_MS: u64 = 100;
const LEN: usize = 1100;
/// 100 Mbit/s before the relay, 20 behind it, in bytes per millisecond.
const FAST: u64 = 12_500;
const SLOW: u64 = 2_500;

/// What the window gains in a round trip, as a part of it: a few packets would take seconds to make good
/// one answer to marks.
const GROWTH: f64 = 1.0 / 50.0;

/// In the manner of DCTCP: the share of marked bytes of a round trip, smoothed, takes half its part of the
/// window. It starts by doubling until a tenth of a round trip's bytes came marked.
struct Sender {
    window: f64,
    in_flight: u64,
    offset: u64,
    is_starting: bool,
    alpha: f64,
    acked: u64,
    marked: u64,
    acks: VecDeque<(u64, u64, bool)>,
}

impl Sender {
    fn on_acks(&mut self, ms: u64) {
        while let Some((_, bytes, marked)) = self.acks.front().copied().filter(|ack| ack.0 <= ms) {
            self.acks.pop_front();
            self.in_flight -= bytes;
            self.acked += bytes;
            self.marked += if marked { bytes } else { 0 };
            if self.is_starting {
                self.window += bytes as f64;
            }
        }
        if ms.is_multiple_of(RTT_MS) && self.acked > 0 {
            let share = self.marked as f64 / self.acked as f64;
            self.is_starting &= share < 0.1;
            self.alpha += (share - self.alpha) / 4.0;
            self.window *= 1.0 - if self.marked > 0 { self.alpha / 2.0 } else { 0.0 };
            self.window *= if self.is_starting { 1.0 } else { 1.0 + GROWTH };
            (self.acked, self.marked) = (0, 0);
        }
    }

    fn send(&mut self, t: &mut Transit, now: Instant, entered: &mut VecDeque<Instant>) {
        let mut budget = FAST;
        while budget > LEN as u64 && self.in_flight + LEN as u64 <= self.window as u64 {
            pass_data(t, now, Lane::Bulk, 1, self.offset, LEN);
            entered.push_back(now);
            self.offset += LEN as u64;
            self.in_flight += LEN as u64;
            budget -= LEN as u64;
        }
    }
}

fn percentile(mut all: Vec<u128>, share: usize) -> u128 {
    all.sort_unstable();
    all[all.len() * share / 100]
}

#[test]
fn marks_keep_a_slow_hop_busy_and_its_queue_short() {
    let (mut t, mut now) = (Transit::new(), start());
    t.set_rate(PEER, SLOW as f64 * 1000.0);
    let mut sender = Sender {
        window: 64_000.0,
        in_flight: 0,
        offset: 0,
        is_starting: true,
        alpha: 0.0,
        acked: 0,
        marked: 0,
        acks: VecDeque::new(),
    };
    let (mut entered, mut small_entered) = (VecDeque::new(), VecDeque::new());
    let (mut waits, mut small_waits, mut sent, mut tokens) = (Vec::new(), Vec::new(), 0, 0);
    let mut dropped = 0;
    for ms in 0..20_000 {
        sender.on_acks(ms);
        sender.send(&mut t, now, &mut entered);
        if ms % 50 == 0 {
            pass_data(&mut t, now, Lane::Bulk, 2, ms * 2, 100);
            small_entered.push_back(now);
        }
        tokens = (tokens + SLOW as i64).min(2 * SLOW as i64);
        while tokens > 0 && t.has(PEER, Lane::Bulk) {
            for (head, data) in fetch(&mut t, now, Lane::Bulk, ROOM) {
                let (offset, len, _) = data.unwrap();
                tokens -= len as i64 + 40;
                let is_whole = (offset + len) % LEN as u64 == 0;
                if head.key.id == 2 {
                    let wait = now - small_entered.pop_front().unwrap();
                    small_waits.push(wait.as_millis());
                    continue;
                }
                sender.acks.push_back((ms + RTT_MS, len, head.marked));
                if ms >= 3000 {
                    sent += len;
                    waits.push((now - *entered.front().unwrap()).as_millis());
                }
                if is_whole {
                    entered.pop_front();
                }
            }
        }
        if ms == 3000 {
            dropped = t.status().dropped_full;
        }
        now += MS;
        check_tables(&t);
    }
    let mbits = sent as f64 * 8.0 / 17_000.0 / 1000.0;
    let (p99, small) = (percentile(waits, 99), percentile(small_waits, 99));
    assert_eq!((dropped, t.status().dropped_full), (0, 0));
    assert!(mbits >= 18.0 && p99 <= 60 && small <= 3, "{mbits:.1} Mbit/s, {p99} ms, {small} ms");
}
