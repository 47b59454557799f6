//! Sender and receiver together, through arbitrary losses and arbitrary order.

use std::time::Duration;

use proptest::prelude::*;

pub(super) use crate::tests::epoch as base;

use super::*;
use crate::config::FixedFec;

/// Some moment; all others are sums with it.
/// What crosses the path.
#[derive(Debug, Clone)]
enum Symbol {
    Source(u64),
    Parity(ParityHeader, Vec<u8>),
}

/// Sends the contents as one burst per block, and returns everything sent, per block.
fn send(contents: &[Vec<u8>], fixed: (u8, u8), codec: &mut Codec) -> Vec<Vec<Symbol>> {
    let fixed = FixedFec { data: fixed.0, parity: fixed.1 };
    let mut sender = BlockSender::new(Some(fixed), Guard::FIRM, 1300);
    let estimate = Estimate { samples: 1000, rtt: Duration::from_secs(1), ..Estimate::UNKNOWN };
    let start = base();
    let mut blocks = vec![Vec::new()];
    for (ssn, content) in contents.iter().enumerate() {
        let now = start + ssn as u32 * Duration::from_nanos(1);
        sender.push(now, Ssn(ssn as u64), content, codec, &estimate);
        blocks.last_mut().expect("one").push(Symbol::Source(ssn as u64));
        if ssn + 1 == contents.len() {
            sender.close(now, codec, &estimate);
        }
        let later = now + Duration::from_secs(1);
        loop {
            let mut shard = Vec::new();
            let Some(parity) = sender.poll_parity(later, &mut shard) else { break };
            blocks.last_mut().expect("one").push(Symbol::Parity(parity.header, shard));
        }
        if sender.pop_finished().is_some() {
            blocks.push(Vec::new());
        }
    }
    assert_eq!((sender.close_at(), sender.parity_at()), (None, None));
    blocks.retain(|block| !block.is_empty());
    blocks
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_can_be_recovered_comes_out_once_and_exact(
        contents in proptest::collection::vec(
            prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..80),
                proptest::collection::vec(any::<u8>(), 1200..1300),
            ],
            1..64,
        ),
        k in 1_u8..=64,
        m in 0_u8..=64,
        loss in 0.0_f64..0.7,
        seed in any::<u64>(),
    ) {
        let mut x = seed | 1;
        let mut random = move || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x >> 11
        };
        let mut codec = Codec::new(shard_len(1300));
        let blocks = send(&contents, (k, m), &mut codec);
        let mut got = vec![None; contents.len()];
        let mut arriving = Vec::new();
        let mut expected = Vec::new();
        for block in &blocks {
            let kept: Vec<_> = block
                .iter()
                .filter(|_| random() as f64 / (1_u64 << 53) as f64 >= loss)
                .cloned()
                .collect();
            let sources = block.iter().filter(|s| matches!(s, Symbol::Source(_))).count();
            for symbol in block {
                if let Symbol::Source(ssn) = symbol {
                    let arrives = kept.iter().any(|s| matches!(s, Symbol::Source(n) if n == ssn));
                    // A lone symbol needs any one of its copies.
                    expected.push(arrives || kept.len() >= sources);
                }
            }
            arriving.extend(kept);
        }
        for i in (1..arriving.len()).rev() {
            arriving.swap(i, (random() % (i as u64 + 1)) as usize);
        }

        let mut receiver = BlockReceiver::new(256, 1300);
        for symbol in arriving {
            let mut recovered = Vec::new();
            let mut take = |Ssn(ssn), content: &[u8]| recovered.push((ssn, content.to_vec()));
            match symbol {
                Symbol::Source(ssn) => {
                    let content = &contents[ssn as usize];
                    if got[ssn as usize].is_none() {
                        got[ssn as usize] = Some(content.clone());
                        receiver.on_source(Ssn(ssn), content, &mut codec, &mut take);
                    }
                }
                Symbol::Parity(header, shard) => {
                    receiver.on_parity(&header, &shard, &mut codec, &mut take);
                }
            }
            for (ssn, content) in recovered {
                let slot = &mut got[ssn as usize];
                prop_assert!(slot.is_none(), "{} came twice", ssn);
                prop_assert_eq!(&content, &contents[ssn as usize]);
                *slot = Some(content);
            }
        }
        // More blocks at once than may wait can cost some of them their parity; these fit.
        if blocks.len() <= 32 {
            let got: Vec<bool> = got.iter().map(Option::is_some).collect();
            prop_assert_eq!(got, expected);
        }
        let counters = receiver.counters();
        prop_assert_eq!((counters.parity_bad, counters.corrupt), (0, 0));
    }
}
