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
        let sender = BlockSender::new(fixed, 1200);
        Self { sender, codec: Codec::new(shard_len(1200)), start: base(), estimate }
    }

    fn push(&mut self, at: Duration, ssn: u64, content: &[u8]) {
        self.sender.push(self.start + at, Ssn(ssn), content, &mut self.codec, &self.estimate);
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
    assert_eq!(b.due(), Some(CLOSE_AFTER));
    b.push(MS / 2, 13, b"short");
    assert_eq!(b.due(), Some(MS / 2), "parity waits, the close timer is gone");
    for index in 0..3 {
        assert!(b.finished().is_empty());
        let (parity, shard) = b.poll(MS / 2).expect("due");
        assert_eq!(shard.len(), 36, "2 + 33, made even");
        let header =
            ParityHeader { first: Ssn(10), k: 4, generator: Generator::for_parity(3), index };
        assert_eq!(parity, Parity { header, last: index == 2 });
    }
    assert_eq!(b.finished(), [(10, 4)]);
}

#[test]
fn a_lone_message_closes_on_the_timer_and_spreads_its_parity() {
    // 3 % in bursts of 5: twelve copies over 30 ms.
    let mut b = Bench::new(None, estimate(0.03, 5.0));
    b.push(Duration::ZERO, 0, b"key");
    assert_eq!(b.due(), Some(CLOSE_AFTER));
    b.timeout(CLOSE_AFTER - Duration::from_nanos(1));
    assert!(b.poll(CLOSE_AFTER - Duration::from_nanos(1)).is_none());
    assert_eq!(b.due(), Some(CLOSE_AFTER), "too early: nothing happened");
    b.timeout(CLOSE_AFTER);
    let mut times = Vec::new();
    while let Some(at) = b.due() {
        assert!(at == Duration::ZERO || b.poll(at - Duration::from_nanos(1)).is_none());
        let (parity, shard) = b.poll(at).expect("due");
        assert_eq!(usize::from(parity.header.index), times.len());
        assert_eq!(shard, [0, 3, b'k', b'e', b'y', 0]);
        times.push(at);
    }
    assert_eq!(times.len(), 12);
    assert_eq!(times[0], CLOSE_AFTER);
    assert!(times.windows(2).all(|t| t[1] - t[0] == Duration::from_millis(30) / 11));
    assert!(times[11] - times[0] <= Duration::from_millis(30));
    assert_eq!(b.finished(), [(0, 1)]);
}

#[test]
fn single_losses_are_spaced_by_half_a_millisecond_and_lateness_does_not_add_up() {
    let mut b = Bench::new(None, estimate(0.05, 1.2));
    b.push(Duration::ZERO, 0, b"a");
    b.timeout(5 * MS);
    assert!(b.poll(5 * MS).is_some(), "the first is due when the block closes");
    assert_eq!(b.due(), Some(5 * MS + MS / 2));
    // Late by more than one turn; the third still comes at its time, which is past.
    assert!(b.poll(8 * MS).is_some());
    assert_eq!(b.due(), Some(6 * MS));
}

#[test]
fn blocks_without_parity_are_reported_too() {
    let mut off = Bench::new(Some((10, 0)), estimate(0.5, 5.0));
    off.push(Duration::ZERO, 0, b"a");
    assert_eq!((off.finished(), off.due()), (vec![(0, 1)], None));

    let near = Estimate { rtt: 5 * MS, ..estimate(0.0, 1.0) };
    let mut near = Bench::new(None, near);
    near.push(Duration::ZERO, 0, b"a");
    near.push(MS / 2, 1, b"b");
    near.timeout(CLOSE_AFTER);
    assert_eq!((near.finished(), near.due()), (vec![(0, 2)], None));
    (2..22).for_each(|ssn| near.push(2 * MS, ssn, b"x"));
    let (parity, _) = near.poll(2 * MS).expect("a full block of 20 has one");
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
    b.push(2 * MS, 6, b"c");
    assert_eq!(b.poll(2 * MS).expect("timed out").0.header.first, Ssn(5));
}

#[test]
fn pending_parity_is_bounded() {
    let mut b = Bench::new(Some((1, 2)), estimate(0.0, 1.0));
    for ssn in 0..100 {
        b.push(Duration::ZERO, ssn, b"a");
    }
    assert_eq!(b.finished(), (0..36).map(|ssn| (ssn, 1)).collect::<Vec<_>>());
    while b.poll(MS).is_some() {}
    assert_eq!(b.finished().len(), 64);
    assert!(b.sender.spare.len() <= MAX_PENDING);
    for ssn in 100..1000 {
        b.push(Duration::ZERO, ssn, b"a");
    }
    assert!(b.finished().len() <= MAX_FINISHED && b.sender.spare.len() <= MAX_PENDING);
}

#[test]
fn a_new_incarnation_begins_with_nothing() {
    let mut b = Bench::new(Some((2, 1)), estimate(0.0, 1.0));
    for ssn in 0..5 {
        b.push(Duration::ZERO, ssn, b"x");
    }
    b.sender.clear();
    assert_eq!(b.due(), None);
    assert!(b.finished().is_empty());
    b.push(Duration::ZERO, 0, b"x");
    assert_eq!(b.due(), Some(CLOSE_AFTER));
}

#[test]
fn in_a_lull_the_block_closes_sooner_unless_more_comes() {
    let mut b = Bench::new(None, estimate(0.05, 1.0));
    b.push(Duration::ZERO, 0, b"a");
    b.sender.lull(b.start);
    assert_eq!(b.due(), Some(CLOSE_AFTER_LULL));
    b.push(MS / 4, 1, b"b");
    assert_eq!(b.due(), Some(CLOSE_AFTER));
    b.sender.lull(b.start + MS / 4);
    assert_eq!(b.due(), Some(MS / 4 + CLOSE_AFTER_LULL));
}
