//! A taste of `entrouter-sim chaos`, of which CI runs more in a release build.

use std::sync::atomic::AtomicBool;

use entrouter_sim::chaos::{MIN_BYTES, MIN_FAULTS, Sample, run};
use entrouter_sim::engine::Trace;
use entrouter_sim::sweep::{Failure, sweep};

fn failures(seeds: std::ops::Range<u64>) -> Vec<Failure> {
    let one = |seed| run(&Sample::new(seed), Trace::new()).expect("it can be set up").violations;
    let never = AtomicBool::new(false);
    sweep(seeds, &never, one, |_| {}).failures
}

#[test]
fn whatever_goes_wrong_nothing_happens_that_must_not() {
    let failures = failures(1..21);
    assert!(failures.is_empty(), "entrouter-sim chaos --seeds 1 --first-seed …: {failures:#?}");
}

#[test]
fn a_sample_is_as_large_as_it_is_said_to_be() {
    let (mut sizes, mut own, mut with_connectors) = ([0; 13], 0, 0);
    for seed in 0..500 {
        let sample = Sample::new(seed);
        assert!(sample.bytes() >= MIN_BYTES && sample.misfortunes >= MIN_FAULTS, "{sample}");
        assert!(sample.heals_at.as_secs() >= 30, "{sample}");
        let (pops, beside) = (sample.pops.len(), sample.connectors.len());
        let links = sample.links.len() - beside;
        with_connectors += usize::from(beside > 0);
        assert!((2..=12).contains(&pops) && (pops - 1..=pops * 3 / 2).contains(&links), "{sample}");
        sizes[pops] += 1;
        own += sample.workloads.iter().filter(|w| w.from == w.to).count();
    }
    assert!(sizes[2..].iter().all(|seeds| *seeds > 0) && sizes[2] > 100, "{sizes:?}");
    assert!(own > 100, "{own}");
    assert!(with_connectors > 100, "{with_connectors}");
    let sample = Sample::new(1);
    let outcome = run(&sample, Trace::new()).expect("it can be set up");
    assert!(outcome.packets <= sample.max_packets());
}

#[test]
fn a_seed_is_the_same_world_each_time() {
    assert_eq!(Sample::new(3).to_string(), Sample::new(3).to_string());
    let hash = || run(&Sample::new(3), Trace::new()).expect("it can be set up").trace_hash;
    assert_eq!(hash(), hash());
}
