//! Clients that get in over QUIC, in scenarios: each for several seeds.

use entrouter_sim::outcome::Outcome;
use entrouter_sim::scenario::{self, Override};
use entrouter_sim::stage::{RunOptions, run};

fn outcome(name: &str, set: &[&str], seed: u64) -> Outcome {
    let set: Vec<_> = set.iter().map(|set| Override::parse(set).expect("a key")).collect();
    let scenario = scenario::load(name, &set).expect("built in");
    run(&scenario, RunOptions::new(seed)).expect("it runs")
}

fn assert_well(name: &str, set: &[&str], seed: u64) {
    let outcome = outcome(name, set, seed);
    let failed: Vec<_> = outcome.expectations.iter().filter(|e| !e.held).collect();
    assert!(outcome.is_well(), "{name}, seed {seed}: {failed:?} {:?}", outcome.violations);
}

#[test]
fn the_first_byte_is_exact_whatever_the_seed() {
    for seed in 1..=20 {
        assert_well("first-byte", &[], seed);
        assert_well("first-byte/no-early-data", &[], seed);
    }
}

#[test]
fn bytes_are_exact_through_loss_moves_and_restarts_whatever_the_seed() {
    let exact =
        [r#"expect=['delivered = "exact"', "completed_pct = 100"]"#, "workload.bulk.bytes=3000000"];
    for seed in 2..=5 {
        for case in ["far", "far-up", "lossy", "lossy-up", "moves", "moves-up"] {
            assert_well(&format!("edge/{case}"), &exact, seed);
        }
        assert_well("edge/restart", &[], seed);
        assert_well("edge/edge-restarts", &[], seed);
    }
}

#[test]
fn the_same_seed_gives_the_same_trace_though_no_ciphertext_is_the_same() {
    for case in ["edge/lossy", "edge/moves-up", "edge/restart", "first-byte"] {
        let set = if case == "edge/lossy" { &["workload.bulk.bytes=2000000"][..] } else { &[] };
        let hash = |seed| outcome(case, set, seed).trace_hash;
        let first = hash(7);
        assert_eq!(first, hash(7), "{case}");
        assert_ne!(first, hash(8), "{case}");
    }
}

#[test]
fn a_damaged_or_replayed_datagram_does_no_harm() {
    let bad = [
        "links.home-edge.corrupt_pct=3",
        "links.home-edge.replay_pct=3",
        "links.home-edge.duplicate_pct=3",
        "workload.bulk.bytes=3000000",
        r#"expect=['delivered = "exact"', "completed_pct = 100"]"#,
    ];
    for seed in 1..=4 {
        assert_well("edge", &bad, seed);
        assert_well("edge/up", &bad, seed);
    }
}
