use proptest::prelude::*;

use super::*;
use crate::fec::Generator;

struct Bench {
    receiver: BlockReceiver,
    codec: Codec,
    out: Vec<(u64, Vec<u8>)>,
}

impl Bench {
    fn new() -> Self {
        let receiver = BlockReceiver::new(256, 100);
        Self { receiver, codec: Codec::new(102), out: Vec::new() }
    }

    fn source(&mut self, ssn: u64, content: &[u8]) {
        let mut take = |Ssn(ssn), content: &[u8]| self.out.push((ssn, content.to_vec()));
        self.receiver.on_source(Ssn(ssn), content, &mut self.codec, &mut take);
    }

    fn parity(&mut self, header: ParityHeader, shard: &[u8]) {
        let mut take = |Ssn(ssn), content: &[u8]| self.out.push((ssn, content.to_vec()));
        self.receiver.on_parity(&header, shard, &mut self.codec, &mut take);
    }

    fn counters(&self) -> ReceiveCounters {
        self.receiver.counters()
    }
}

/// The content of a symbol, by its number.
fn content(ssn: u64) -> Vec<u8> {
    vec![ssn as u8 ^ 0x35; (ssn * 7 % 90) as usize + 1]
}

fn encode(first: u64, k: u16, log2: u8) -> Vec<(ParityHeader, Vec<u8>)> {
    let generator = Generator::from_log2(log2).expect("in range");
    let coded: Vec<Vec<u8>> = (first..first + u64::from(k))
        .map(|ssn| {
            let content = content(ssn);
            [&(content.len() as u16).to_be_bytes()[..], &content].concat()
        })
        .collect();
    let longest = coded.iter().map(Vec::len).max().expect("k > 0") - SHARD_PREFIX;
    let shape = BlockShape::new(usize::from(k), generator, shard_len(longest)).expect("a block");
    let mut out = Vec::new();
    let source = |i: usize| coded.get(i).map(Vec::as_slice);
    Codec::new(102).encode(shape, source, generator.recovery_count(), &mut out).expect("encodes");
    let header = |index| ParityHeader { first: Ssn(first), k, generator, index };
    out.chunks(shape.shard_len())
        .zip(0..)
        .map(|(shard, index)| (header(index), shard.to_vec()))
        .collect()
}

#[test]
fn recovery_happens_as_soon_as_it_can_and_once() {
    let mut b = Bench::new();
    let parity = encode(0, 4, 1);
    b.source(0, &content(0));
    b.source(2, &content(2));
    b.parity(parity[1].0, &parity[1].1);
    assert!(b.out.is_empty());
    b.parity(parity[1].0, &parity[1].1);
    assert_eq!(b.counters().parity_useless, 1, "a repetition");
    b.source(3, &content(3));
    assert_eq!(b.out, [(1, content(1))], "a source completed it");
    assert!(b.receiver.has(Ssn(1)));
    b.parity(parity[0].0, &parity[0].1);
    b.source(1, &content(1));
    assert_eq!(b.out.len(), 1, "late parity reopens nothing");
    assert_eq!(b.counters().parity_useless, 2);
    assert!(b.receiver.pending.is_empty());
}

#[test]
fn sources_that_arrive_free_the_parity() {
    let mut b = Bench::new();
    let parity = encode(0, 3, 1);
    b.parity(parity[0].0, &parity[0].1);
    (0..3).for_each(|ssn| b.source(ssn, &content(ssn)));
    assert_eq!(b.out, [(2, content(2))]);
    let mut b = Bench::new();
    let parity = encode(0, 1, 2);
    b.parity(parity[3].0, &parity[3].1);
    assert_eq!(b.out, [(0, content(0))], "of a lone symbol any parity is enough");
}

#[test]
fn parity_out_of_the_window_is_counted() {
    let mut b = Bench::new();
    let parity = encode(10, 4, 1);
    b.source(10, &content(10));
    b.source(265, b"x");
    b.parity(parity[0].0, &parity[0].1);
    assert_eq!((b.counters().parity_old, b.receiver.pending.len()), (0, 1), "10 is just kept");
    b.source(266, b"x");
    assert_eq!((b.counters().parity_old, b.receiver.pending.len()), (1, 0));
    b.parity(parity[0].0, &parity[0].1);
    assert_eq!(b.counters().parity_old, 2);
    b.source(9, b"old");
    assert!(!b.receiver.has(Ssn(9)));

    let far = encode(267 + 128 - 3, 4, 0);
    b.parity(far[0].0, &far[0].1);
    assert_eq!(b.counters().parity_bad, 1);
    let near = encode(267 + 128 - 4, 4, 0);
    b.parity(near[0].0, &near[0].1);
    assert_eq!((b.counters().parity_bad, b.receiver.pending.len()), (1, 1));
}

#[test]
fn contradictions_are_counted_and_do_no_harm() {
    let mut b = Bench::new();
    let good = encode(0, 4, 1);
    b.source(3, &content(3));
    b.parity(good[0].0, &good[0].1);
    let other_k = ParityHeader { k: 5, ..good[1].0 };
    b.parity(other_k, &good[1].1);
    let other_generator = ParityHeader { generator: Generator::for_parity(4), ..good[1].0 };
    b.parity(other_generator, &good[1].1);
    b.parity(good[1].0, &good[1].1[2..]);
    for k in [0, MAX_K as u16 + 1, u16::MAX] {
        b.parity(ParityHeader { k, ..good[1].0 }, &good[1].1);
    }
    b.parity(ParityHeader { index: 2, ..good[1].0 }, &good[1].1);
    b.parity(ParityHeader { first: Ssn(u64::MAX), ..good[1].0 }, &good[1].1);
    b.parity(good[1].0, &[]);
    b.parity(good[1].0, &[0; 3]);
    b.parity(good[1].0, &[0; 104]);
    assert_eq!(b.counters(), ReceiveCounters { parity_bad: 11, ..b.counters() });
    b.source(1, &content(1));
    b.parity(good[1].0, &good[1].1);
    assert_eq!(b.out, [(0, content(0)), (2, content(2))]);
}

#[test]
fn what_is_not_a_coded_shard_is_not_handed_up() {
    let mut b = Bench::new();
    let header =
        |first| ParityHeader { first: Ssn(first), k: 1, generator: Generator::XOR, index: 0 };
    b.parity(header(0), &[0, 3, 1, 2]);
    b.parity(header(0), &[0, 1, 1, 2]);
    b.parity(header(0), &[0xff, 0xff]);
    assert_eq!((b.counters().corrupt, b.out.len()), (3, 0), "too long, and padded with 2");
    b.parity(header(0), &[0, 1, 1, 0]);
    assert_eq!(b.out, [(0, vec![1])]);
    // A source longer than the block's shards, before and after its parity.
    b.source(1, &[7; 50]);
    let two = ParityHeader { k: 2, ..header(1) };
    b.parity(two, &[0; 10]);
    b.parity(ParityHeader { first: Ssn(3), ..two }, &[0; 10]);
    b.source(3, &[7; 50]);
    // One that is too long to be coded at all.
    b.source(5, &[7; 101]);
    b.parity(ParityHeader { first: Ssn(5), ..two }, &[0; 100]);
    assert_eq!((b.counters().parity_bad, b.counters().recovered, b.out.len()), (3, 1, 1));
    assert!(b.receiver.pending.is_empty());
}

#[test]
fn waiting_blocks_are_bounded() {
    let mut b = Bench::new();
    for block in 0..40_u64 {
        let parity = encode(block * 3, 3, 0);
        b.parity(parity[0].0, &parity[0].1);
    }
    assert_eq!((b.receiver.pending.len(), b.counters().parity_old), (MAX_PENDING, 8));
    b.receiver.clear();
    assert_eq!((b.receiver.pending.len(), b.receiver.spare.len()), (0, MAX_PENDING));
}

proptest! {
    #[test]
    fn garbage_never_panics_and_stays_within_bounds(
        steps in proptest::collection::vec(
            (
                prop_oneof![0_u64..600, any::<u64>(), (u64::MAX - 300)..=u64::MAX],
                proptest::option::weighted(0.7, (
                    prop_oneof![0_u16..12, any::<u16>()],
                    0_u8..=6,
                    prop_oneof![0_u16..70, any::<u16>()],
                )),
                proptest::collection::vec(any::<u8>(), 0..120),
            ),
            0..200,
        ),
        zeros in any::<bool>(),
    ) {
        let mut b = Bench::new();
        for (first, parity, mut bytes) in steps {
            if zeros {
                // The empty symbol: what it recovers is well-formed.
                bytes.fill(0);
            }
            match parity {
                None => b.source(first, &bytes),
                Some((k, log2, index)) => {
                    let generator = Generator::from_log2(log2).expect("in range");
                    b.parity(ParityHeader { first: Ssn(first), k, generator, index }, &bytes);
                }
            }
            prop_assert!(b.receiver.pending.len() <= MAX_PENDING);
            prop_assert!(b.receiver.pending.len() + b.receiver.spare.len() <= MAX_PENDING);
            for block in &b.receiver.pending {
                prop_assert!(block.indices.len() < block.missing.min(MAX_PARITY + 1));
            }
            prop_assert!(b.receiver.slots.iter().all(|slot| slot.shard.capacity() <= 256));
        }
        let mut seen: Vec<u64> = b.out.iter().map(|(ssn, _)| *ssn).collect();
        let all = seen.len();
        seen.sort_unstable();
        seen.dedup();
        prop_assert_eq!(seen.len(), all);
    }
}
