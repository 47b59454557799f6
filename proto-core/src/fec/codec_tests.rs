use proptest::prelude::*;

use super::super::shard_len;
use super::*;

/// Length ‖ content of symbols of these lengths; the bytes follow from `seed`.
fn shards(lengths: &[usize], seed: u64) -> Vec<Vec<u8>> {
    let mut x = seed | 1;
    let mut byte = move || {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (x >> 56) as u8
    };
    let shard = |&length: &usize| {
        let mut shard = (length as u16).to_be_bytes().to_vec();
        shard.extend((0..length).map(|_| byte()));
        shard
    };
    lengths.iter().map(shard).collect()
}

fn shape_of(sources: &[Vec<u8>], generator: Generator) -> BlockShape {
    let longest = sources.iter().map(Vec::len).max().unwrap_or(SHARD_PREFIX) - SHARD_PREFIX;
    BlockShape::new(sources.len(), generator, shard_len(longest)).expect("a block")
}

fn encode_all(codec: &mut Codec, shape: BlockShape, sources: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    let source = |i: usize| sources.get(i).map(Vec::as_slice);
    codec.encode(shape, source, shape.generator.recovery_count(), &mut out).expect("encodes");
    out.chunks(shape.shard_len).map(<[u8]>::to_vec).collect()
}

fn padded(shard: &[u8], len: usize) -> Vec<u8> {
    let mut shard = shard.to_vec();
    shard.resize(len, 0);
    shard
}

thread_local! {
    static CODEC: std::cell::RefCell<Codec> = std::cell::RefCell::new(Codec::new(1500));
}

/// Lengths, seed, generator, which sources are lost (as many as there are indices), parity indices.
fn block() -> impl Strategy<Value = (Vec<usize>, u64, Generator, Vec<usize>, Vec<usize>)> {
    let k = prop_oneof![4 => 1_usize..=20, 1 => 1_usize..=MAX_K];
    let lengths = k.prop_flat_map(|k| {
        let length = prop_oneof![0_usize..300, Just(0), Just(62), Just(1232)];
        proptest::collection::vec(length, k)
    });
    (lengths, any::<u64>(), 0_u8..=6).prop_flat_map(|(lengths, seed, log2)| {
        let generator = Generator::from_log2(log2).expect("in range");
        let most = lengths.len().min(generator.recovery_count());
        let (k, count) = (lengths.len(), generator.recovery_count());
        (0..=most).prop_flat_map(move |lost| {
            let which = proptest::sample::subsequence((0..k).collect::<Vec<_>>(), lost);
            let parity = proptest::sample::subsequence((0..count).collect::<Vec<_>>(), lost);
            let lengths = lengths.clone();
            (Just(lengths), Just(seed), Just(generator), which, parity.prop_shuffle())
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_losses_are_recovered_and_the_library_agrees(
        (lengths, seed, generator, lost, indices) in block()
    ) {
        CODEC.with_borrow_mut(|codec| {
            let sources = shards(&lengths, seed);
            let shape = shape_of(&sources, generator);
            let recovery = encode_all(codec, shape, &sources);
            let source = |i: usize| {
                sources.get(i).filter(|_| !lost.contains(&i)).map(Vec::as_slice)
            };
            let parity = indices.iter().map(|&i| (i, recovery[i].as_slice()));
            let found: Vec<_> = codec
                .recover(shape, source, parity.clone())
                .expect("recovers")
                .iter()
                .map(|(i, shard)| (i, shard.to_vec()))
                .collect();
            let wanted: Vec<_> =
                lost.iter().map(|&i| (i, padded(&sources[i], shape.shard_len))).collect();
            prop_assert_eq!(&found, &wanted);

            // The oracle. XOR is a code of ours, not the library's; of one shard both make copies.
            if generator != Generator::XOR && !lost.is_empty() {
                codec.recovered.clear();
                codec.lost.clone_from(&lost);
                codec.decode(shape, source, parity).expect("decodes");
                prop_assert_eq!(&codec.recovered, &wanted.concat_shards());
            }
            Ok(())
        })?;
    }

    #[test]
    fn garbage_is_refused_or_gives_garbage_but_never_panics(
        k in 0_usize..140,
        log2 in 0_u8..9,
        len in 0_usize..200,
        present in proptest::collection::vec(proptest::option::of(0_usize..210), 140),
        parity in proptest::collection::vec((0_usize..80, 0_usize..210), 0..40),
    ) {
        let Some(generator) = Generator::from_log2(log2) else { return Ok(()) };
        let Some(shape) = BlockShape::new(k, generator, len) else { return Ok(()) };
        let bytes = [0x5a; 256];
        let source = |i: usize| bytes.get(..*present.get(i)?.as_ref()?);
        let parity = parity.iter().map(|&(i, len)| (i, bytes.get(..len).unwrap_or_default()));
        CODEC.with_borrow_mut(|codec| {
            if let Ok(found) = codec.recover(shape, source, parity) {
                assert!(found.iter().all(|(i, shard)| i < k && shard.len() == len));
            }
            let mut out = vec![7];
            if codec.encode(shape, source, 3, &mut out).is_err() {
                assert_eq!(out, [7]);
            }
        });
    }
}

trait ConcatShards {
    fn concat_shards(&self) -> Vec<u8>;
}

impl ConcatShards for Vec<(usize, Vec<u8>)> {
    fn concat_shards(&self) -> Vec<u8> {
        self.iter().flat_map(|(_, shard)| shard.iter().copied()).collect()
    }
}

/// A prefix of the recovery shards is what a shorter encoding of the same generator makes.
#[test]
fn any_prefix_may_be_sent() {
    let mut codec = Codec::new(256);
    let sources = shards(&[100, 3, 77, 200, 0, 12, 13], 5);
    let source = |i: usize| sources.get(i).map(Vec::as_slice);
    for log2 in 0..=Generator::MAX_LOG2 {
        let generator = Generator::from_log2(log2).expect("in range");
        let shape = shape_of(&sources, generator);
        let all = encode_all(&mut codec, shape, &sources).concat();
        for parity in 0..=generator.recovery_count() {
            let mut out = Vec::new();
            codec.encode(shape, source, parity, &mut out).expect("encodes");
            assert_eq!(out, all[..parity * shape.shard_len]);
        }
        let more = generator.recovery_count() + 1;
        assert_eq!(codec.encode(shape, source, more, &mut Vec::new()), Err(Uncodable));
    }
}

#[test]
fn the_smallest_generator_that_suffices() {
    let log2 = |parity| Generator::for_parity(parity).log2();
    assert_eq!(
        [0, 1, 2, 3, 4, 5, 8, 9, 12, 33, 64, 65].map(log2),
        [0, 0, 1, 2, 2, 3, 3, 4, 4, 6, 6, 6]
    );
    assert_eq!(Generator::from_log2(7), None);
}

#[test]
fn a_lone_symbol_is_copied() {
    let mut codec = Codec::new(256);
    let sources = shards(&[41], 9);
    let shape = shape_of(&sources, Generator::for_parity(12));
    for parity in encode_all(&mut codec, shape, &sources) {
        assert_eq!(parity, padded(&sources[0], 44));
    }
}

#[test]
fn contradictions_are_refused() {
    let mut codec = Codec::new(256);
    let sources = shards(&[30, 30, 30], 1);
    let shape = shape_of(&sources, Generator::for_parity(4));
    let recovery = encode_all(&mut codec, shape, &sources);
    let mut refused = |parity: &[(usize, &[u8])], lost: &[usize]| {
        let source = |i: usize| sources.get(i).filter(|_| !lost.contains(&i)).map(Vec::as_slice);
        codec.recover(shape, source, parity.iter().copied()).is_err()
    };
    assert!(!refused(&[(0, &recovery[0]), (3, &recovery[3])], &[0, 2]));
    assert!(refused(&[(0, &recovery[0])], &[0, 2]), "too few");
    assert!(refused(&[(0, &recovery[0]), (0, &recovery[0])], &[0, 2]), "repeated");
    assert!(refused(&[(4, &recovery[0])], &[0]), "no such index");
    assert!(refused(&[(0, &recovery[0][2..])], &[0]), "too short");
    assert!(!refused(&[], &[]), "nothing to do");
    let long = vec![0; shape.shard_len + 1];
    let source = |i: usize| (i != 0).then_some(long.as_slice());
    let one = [(0, recovery[0].as_slice())];
    assert!(codec.recover(shape, source, one.into_iter()).is_err(), "source longer than shard");
}

/// Once warm, the codec's own buffers stay where they are.
#[test]
fn nothing_grows_once_warm() {
    let mut codec = Codec::new(1232);
    let before = capacities(&codec);
    for (k, log2, lost) in [(128, 6, 64), (128, 6, 32), (10, 2, 4), (1, 0, 1), (64, 5, 20)] {
        let sources = shards(&vec![1230; k], 3);
        let shape = shape_of(&sources, Generator::from_log2(log2).expect("in range"));
        let recovery = encode_all(&mut codec, shape, &sources);
        let source = |i: usize| sources.get(i).filter(|_| i >= lost).map(Vec::as_slice);
        let parity = recovery.iter().map(Vec::as_slice).enumerate();
        assert!(codec.recover(shape, source, parity).is_ok());
    }
    assert_eq!(capacities(&codec), before);
}

fn capacities(codec: &Codec) -> [usize; 7] {
    [
        codec.padded.capacity(),
        codec.lost.capacity(),
        codec.used.capacity(),
        codec.matrix.capacity(),
        codec.rows.capacity(),
        codec.product.capacity(),
        codec.recovered.capacity(),
    ]
}
