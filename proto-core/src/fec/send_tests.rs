use proptest::prelude::*;

use super::*;
use crate::fec::tests::base;

const MS: Duration = Duration::from_millis(1);

fn estimate(loss: f64, mean_burst: f64) -> Estimate {
    Estimate { loss, mean_burst, samples: 10_000, rtt: Duration::from_millis(150) }
}

struct Bench {
    sender: BlockSender,
    codec: Codec,
    start: Instant,
    estimate: Estimate,
}

impl Bench {
    fn new(fixed: Option<(u8, u8)>, estimate: Estimate) -> Self {
        let fixed = fixed.map(|(data, parity)| FixedFec { data, parity });
        let sender = BlockSender::new(fixed, Guard::FIRM, 1200);
        Self { sender, codec: Codec::new(shard_len(1200)), start: base(), estimate }
    }

    fn push(&mut self, at: Duration, ssn: u64, content: &[u8]) {
        self.sender.push(self.start + at, Ssn(ssn), content, &mut self.codec, &self.estimate);
    }

    /// A symbol behind which nothing waits.
    fn push_lone(&mut self, at: Duration, ssn: u64, content: &[u8]) {
        self.push(at, ssn, content);
        self.sender.lull(self.start + at);
    }

    fn timeout(&mut self, at: Duration) {
        self.sender.handle_timeout(self.start + at, &mut self.codec, &self.estimate);
    }

    fn poll(&mut self, at: Duration) -> Option<(Parity, Vec<u8>)> {
        let mut out = Vec::new();
        let peeked = self.sender.peek_parity_len(self.start + at);
        let parity = self.sender.poll_parity(self.start + at, &mut out)?;
        assert_eq!(peeked, Some(out.len()));
        Some((parity, out))
    }

    fn finished(&mut self) -> Vec<(u64, u16)> {
        std::iter::from_fn(|| self.sender.pop_finished()).map(|f| (f.first.0, f.k)).collect()
    }

    fn due(&self) -> Option<Duration> {
        let due = [self.sender.close_at(), self.sender.parity_at()];
        due.into_iter().flatten().min().map(|at| at - self.start)
    }
}

#[test]
fn a_full_block_sends_all_parity_at_once() {
    let mut b = Bench::new(Some((4, 3)), estimate(0.0, 1.0));
    for ssn in 10..13 {
        b.push(Duration::ZERO, ssn, &[ssn as u8; 33]);
        assert!(b.poll(Duration::ZERO).is_none());
    }
    assert_eq!(b.due(), Some(b.estimate.rtt / FILL_PER_RTT));
    b.push(3 * MS, 13, b"short");
    assert_eq!(b.due(), Some(3 * MS), "parity waits, the close timer is gone");
    for index in 0..3 {
        assert!(b.finished().is_empty());
        let (parity, shard) = b.poll(3 * MS).expect("due");
        assert_eq!(shard.len(), 36, "2 + 33, made even");
        let header =
            ParityHeader { first: Ssn(10), k: 4, generator: Generator::for_parity(3), index };
        assert_eq!(parity, Parity { header, last: index == 2 });
    }
    assert_eq!(b.finished(), [(10, 4)]);
}

#[test]
fn a_lone_message_closes_on_the_timer_and_spreads_its_parity() {
    // 3 % in bursts of 5: twelve copies over 30 ms, the first ones soon.
    let mut b = Bench::new(None, estimate(0.03, 5.0));
    b.push_lone(Duration::ZERO, 0, b"key");
    assert_eq!(b.due(), Some(CLOSE_AFTER_LULL));
    b.timeout(CLOSE_AFTER_LULL - Duration::from_nanos(1));
    assert!(b.poll(CLOSE_AFTER_LULL - Duration::from_nanos(1)).is_none());
    assert_eq!(b.due(), Some(CLOSE_AFTER_LULL), "too early: nothing happened");
    b.timeout(CLOSE_AFTER_LULL);
    let mut times = Vec::new();
    while let Some(at) = b.due() {
        assert!(b.poll(at - Duration::from_nanos(1)).is_none());
        let (parity, shard) = b.poll(at).expect("due");
        assert_eq!(usize::from(parity.header.index), times.len());
        assert_eq!(shard, [0, 3, b'k', b'e', b'y', 0]);
        times.push(at);
    }
    assert_eq!(times.len(), 12);
    assert_eq!(times[0], CLOSE_AFTER_LULL);
    assert!(times.windows(3).all(|t| t[2] - t[1] > t[1] - t[0]));
    assert!(times[3] - times[0] < 3 * MS);
    assert_eq!(times[11] - times[0], MAX_SPREAD);
    assert_eq!(b.finished(), [(0, 1)]);
}

#[test]
fn parity_against_bursts_does_not_outlast_a_probe_timeout() {
    let near = Estimate { rtt: 10 * MS, ..estimate(0.03, 5.0) };
    let mut b = Bench::new(None, near);
    b.push_lone(Duration::ZERO, 0, b"key");
    b.timeout(MS);
    let mut last = Duration::ZERO;
    while let Some(at) = b.due() {
        b.poll(at).expect("due");
        last = at;
    }
    assert_eq!(last - MS, 15 * MS);
}

#[test]
fn single_losses_are_repaired_within_two_milliseconds_and_lateness_does_not_add_up() {
    let mut b = Bench::new(None, estimate(0.05, 1.2));
    b.push_lone(Duration::ZERO, 0, b"a");
    b.timeout(5 * MS);
    assert!(b.poll(5 * MS).is_some(), "the first is due when the block closes");
    assert_eq!(b.due(), Some(5 * MS + MS / 2));
    // Late by more than one turn; the third still comes at its time, which is past.
    assert!(b.poll(8 * MS).is_some());
    assert_eq!(b.due(), Some(6 * MS));

    // However much there is, and also where independent losses meet now and then: 1 / (1 − 0.4).
    let mut b = Bench::new(None, estimate(0.4, 1.67));
    b.push_lone(Duration::ZERO, 0, b"a");
    b.timeout(CLOSE_AFTER_LULL);
    let copies = std::iter::from_fn(|| b.poll(2 * MS)).count();
    assert_eq!((copies, b.due()), (9, None));
}

#[test]
fn blocks_without_parity_are_reported_too() {
    let mut off = Bench::new(Some((10, 0)), estimate(0.5, 5.0));
    off.push(Duration::ZERO, 0, b"a");
    assert_eq!((off.finished(), off.due()), (vec![(0, 1)], None));

    let near = Estimate { rtt: 5 * MS, ..estimate(0.0, 1.0) };
    let mut near = Bench::new(None, near);
    near.push(Duration::ZERO, 0, b"a");
    near.push_lone(MS / 2, 1, b"b");
    near.timeout(MS);
    assert_eq!((near.finished(), near.due()), (vec![(0, 2)], None));
    (2..22).for_each(|ssn| near.push(ssn as u32 * MS / 5, ssn, b"x"));
    let (parity, _) = near.poll(5 * MS).expect("a full block of 20 has one");
    assert_eq!((parity.header.k, parity.last), (20, true));

    let mut long = Bench::new(None, estimate(0.0, 1.0));
    long.push(Duration::ZERO, 0, b"a");
    long.push(Duration::ZERO, 1, &[0; 1201]);
    assert_eq!(long.finished(), [(1, 1)], "too long to be coded; 0 was closed and has parity");
    assert_eq!(long.poll(Duration::ZERO).expect("due").0.header.k, 1);
}

#[test]
fn a_gap_and_a_late_push_close_the_open_block() {
    let mut b = Bench::new(None, estimate(0.0, 1.0));
    b.push(Duration::ZERO, 0, b"a");
    b.push(Duration::ZERO, 5, b"b");
    assert_eq!(b.poll(Duration::ZERO).expect("closed").0.header.first, Ssn(0));
    b.push(20 * MS, 6, b"c");
    assert_eq!(b.poll(20 * MS).expect("timed out").0.header.first, Ssn(5));
}

#[test]
fn pending_parity_is_bounded() {
    let mut b = Bench::new(Some((64, 64)), estimate(0.0, 1.0));
    for ssn in 0..6400 {
        b.push(Duration::ZERO, ssn, b"a");
    }
    assert_eq!(b.finished(), (0..36).map(|nth| (nth * 64, 64)).collect::<Vec<_>>());
    while b.poll(MS).is_some() {}
    assert_eq!(b.finished().len(), 64);
    assert!(b.sender.spare.len() <= MAX_PENDING);
    for ssn in 6400..32000 {
        b.push(2 * MS, ssn, b"a");
    }
    assert!(b.finished().len() <= MAX_FINISHED && b.sender.spare.len() <= MAX_PENDING);
}

#[test]
fn a_new_incarnation_begins_with_nothing() {
    let mut b = Bench::new(Some((2, 1)), estimate(0.0, 1.0));
    for ssn in 0..25 {
        b.push(Duration::ZERO, ssn, b"x");
    }
    assert!(b.sender.parity_at().is_some());
    b.sender.clear();
    assert_eq!(b.due(), None);
    assert!(b.finished().is_empty());
    b.push_lone(Duration::ZERO, 0, b"x");
    assert_eq!(b.due(), Some(CLOSE_AFTER_LULL));
}

#[test]
fn in_a_lull_the_block_closes_soon_unless_more_comes() {
    let mut b = Bench::new(None, estimate(0.05, 1.0));
    b.push_lone(Duration::ZERO, 0, b"a");
    assert_eq!(b.due(), Some(CLOSE_AFTER_LULL));
    b.push(MS / 4, 1, b"b");
    assert_eq!(b.due(), Some(b.estimate.rtt / FILL_PER_RTT));
    b.sender.lull(b.start + MS / 4);
    assert_eq!(b.due(), Some(MS / 4 + CLOSE_AFTER_LULL));
    // One by one they do not keep it open, nor does it wait for twice as many once it is full.
    for ssn in 2..5 {
        b.push_lone(ssn as u32 * MS / 3, ssn, b"c");
    }
    assert_eq!(b.due(), Some(4 * MS / 3 + CLOSE_AFTER_LULL));
    b.push_lone(5 * MS / 3, 5, b"c");
    assert_eq!(b.poll(5 * MS / 3).expect("full").0.header.k, 6);
    for ssn in 6..11 {
        b.push_lone(5 * MS + (ssn - 6) as u32 * MS * 9 / 20, ssn, b"c");
    }
    assert_eq!(b.sender.close_at(), Some(b.start + 5 * MS + CLOSE_AFTER));
}

/// Source and parity symbols of all blocks of a busy lane with a symbol every `interval`.
fn busy(bench: &mut Bench, interval: Duration, symbols: u64) -> Vec<(u16, usize)> {
    let mut blocks = Vec::new();
    let mut parity = 0;
    for ssn in 0..symbols {
        let now = interval * ssn as u32;
        bench.push(now, ssn, b"content");
        while bench.poll(now).is_some() {
            parity += 1;
        }
        blocks.extend(bench.finished().into_iter().map(|(_, k)| (k, std::mem::take(&mut parity))));
    }
    blocks
}

#[test]
fn a_fast_lane_stretches_its_blocks_at_the_same_ratio() {
    let us = Duration::from_micros;
    for (loss, burst, interval, block) in [
        (0.02, 1.0, us(10), (80, 32)),
        (0.02, 1.0, us(50), (80, 32)),
        (0.02, 1.0, us(100), (40, 16)),
        (0.02, 1.0, us(200), (20, 8)),
        (0.02, 1.0, us(400), (10, 4)),
        // Where losses come in bursts, up to an eighth of a round trip of 150 ms.
        (0.02, 3.0, us(400), (40, 16)),
        (0.0, 1.0, us(10), (80, 4)),
        (0.06, 1.0, us(10), (48, 32)),
        (0.2, 1.25, us(10), (96, 64)),
        (0.2, 1.25, us(1000), (12, 8)),
    ] {
        let mut b = Bench::new(None, estimate(loss, burst));
        let blocks = busy(&mut b, interval, 1000);
        assert!(blocks.len() >= 10, "{loss} {interval:?}");
        assert!(blocks.iter().all(|&b| b == block), "{loss} {interval:?}: {blocks:?}");
    }
    // A fixed ratio, too.
    let mut b = Bench::new(Some((5, 1)), estimate(0.2, 1.0));
    assert!(busy(&mut b, us(10), 1000).iter().all(|&b| b == (40, 8)));
}

#[test]
fn a_busy_lane_that_is_paced_slowly_has_no_more_parity_than_the_ladder_says() {
    // 8 ms for each symbol: three of them in an eighth of the round trip.
    for burst in [1.0, 5.0] {
        let mut b = Bench::new(None, estimate(0.06, burst));
        let blocks = busy(&mut b, 8 * MS, 300);
        assert!(blocks.len() > 90 && blocks.iter().all(|&b| b == (3, 2)), "{blocks:?}");
    }
}

/// Part of the source symbols that stay lost on a path that loses 5 % in runs of three.
fn left_lost(blocks: &[(u16, usize)]) -> f64 {
    let mut x = 0x9e37_79b9_7f4a_7c15_u64;
    let mut uniform = move || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 11) as f64 / (1_u64 << 53) as f64
    };
    let (mut bad, mut sources, mut left) = (false, 0, 0);
    for &(k, parity) in blocks {
        let (mut lost, mut source) = (0, 0);
        for i in 0..usize::from(k) + parity {
            bad = if bad { uniform() >= 1.0 / 3.0 } else { uniform() < 0.05 / 3.0 / 0.95 };
            lost += usize::from(bad);
            source += u32::from(bad && i < usize::from(k));
        }
        sources += u32::from(k);
        left += if lost > parity { source } else { 0 };
    }
    f64::from(left) / f64::from(sources)
}

#[test]
fn stretched_blocks_leave_less_unrepaired_at_the_same_overhead() {
    let share = |interval, symbols| {
        let mut b = Bench::new(Some((10, 4)), estimate(0.05, 1.0));
        left_lost(&busy(&mut b, interval, symbols))
    };
    let short = share(MS, 100_000);
    assert!((0.018..0.026).contains(&short), "10+4: {short}");
    let long = share(MS / 100, 400_000);
    assert!(long < 0.0003, "80+32: {long}");
}

#[test]
fn many_messages_at_a_time_are_not_mostly_parity() {
    // 1200 bytes every two milliseconds, each for itself, 3 % in bursts of 5.
    let mut b = Bench::new(None, estimate(0.03, 5.0));
    let (mut sent, mut most) = (0, 0);
    for ssn in 0..1000 {
        let at = ssn as u32 * 2 * MS;
        b.push_lone(at, ssn, &[0; 1200]);
        for step in 0..4 {
            let now = at + step * MS / 2;
            b.timeout(now);
            sent += std::iter::from_fn(|| b.poll(now)).count();
        }
        let waiting: usize =
            b.sender.pending.iter().map(|p| (p.count - p.sent) * p.shard_len).sum();
        most = most.max(waiting);
        b.finished();
    }
    assert!(most <= MAX_SPREAD_BYTES + 12 * 1202, "{most}");
    assert!(sent < 4000, "{sent}: alone they would have twelve each");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn every_symbol_ends_up_in_one_block_and_no_block_exceeds_its_bounds(
        steps in proptest::collection::vec((0_u64..3000, 0_u8..8, 0_usize..1300), 1..400),
        fixed in proptest::option::of((1_u8..=128, 0_u8..=64)),
        loss in 0.0_f64..0.5,
        burst in 1.0_f64..9.0,
        rtt_ms in 1_u64..400,
    ) {
        let rtt = Duration::from_millis(rtt_ms);
        let mut b = Bench::new(fixed, Estimate { rtt, ..estimate(loss, burst) });
        let (mut now, mut ssn, mut seen) = (Duration::ZERO, 0, 0);
        let mut covered = Vec::new();
        for (micros, what, size) in steps {
            now += Duration::from_micros(micros);
            b.timeout(now);
            ssn += u64::from(what == 0);
            b.push(now, ssn, &vec![0; size]);
            ssn += 1;
            seen += 1;
            if what < 4 {
                b.sender.lull(b.start + now);
            }
            if let Some(at) = b.sender.close_at() {
                prop_assert!(at >= b.start + now && at <= b.start + now + MAX_SPREAD);
            }
            while let Some((parity, _)) = b.poll(now) {
                prop_assert!(usize::from(parity.header.k) <= MAX_K);
                prop_assert!(usize::from(parity.header.index) < MAX_PARITY);
            }
            covered.extend(b.finished());
        }
        b.timeout(now + MS * 1000);
        while b.poll(now + MS * 2000).is_some() {}
        covered.extend(b.finished());
        let mut ssns: Vec<u64> =
            covered.iter().flat_map(|&(first, k)| first..first + u64::from(k)).collect();
        ssns.sort_unstable();
        prop_assert_eq!(ssns.len(), seen);
        ssns.dedup();
        prop_assert_eq!(ssns.len(), seen);
    }
}
