//! Every built-in scenario does what it says, and the same seed does the same again.

use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use entrouter_sim::scenario::{self, Override};
use entrouter_sim::stage::{RunOptions, run};
use entrouter_sim::sweep::sweep;

#[test]
fn every_scenario_meets_its_expectations() {
    let listings = scenario::names();
    let last = listings.len() as u64;
    let told = Mutex::new(Vec::new());
    let never = AtomicBool::new(false);
    let one = |nth: u64| {
        let name = &listings[nth as usize].name;
        let scenario = scenario::load(name, &[]).expect("built in");
        let outcome = run(&scenario, RunOptions::new(1)).expect("it runs");
        let failed = outcome.expectations.iter().filter(|e| !e.held);
        let failed = failed.map(|e| format!("{name}: {}, found {}", e.text, e.found));
        let violations = outcome.violations.iter().map(|what| format!("{name}: {what}"));
        violations.chain(failed).collect()
    };
    let swept = sweep(0..last, &never, one, |failure| {
        told.lock().expect("no panic").extend(failure.what.clone());
    });
    assert_eq!(swept.run, last);
    assert!(swept.failures.is_empty(), "{:#?}", told.into_inner());
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_one_another() {
    let over = [
        Override::parse("workload.bulk.for_s=2").expect("a key"),
        Override::parse("workload.ping.count=5").expect("a key"),
    ];
    let scenario = scenario::load("ocean", &over).expect("built in");
    let hash = |seed| run(&scenario, RunOptions::new(seed)).expect("it runs").trace_hash;
    let first = hash(7);
    assert_eq!(first, hash(7));
    assert_ne!(first, hash(8));
}

#[test]
fn what_is_lost_and_headers_are_part_of_what_a_byte_costs() {
    let over = ["workload.bulk.for_s=5", "link.loss_pct=20"];
    let over = over.map(|key| Override::parse(key).expect("a key"));
    let scenario = scenario::load("bulk", &over).expect("built in");
    let cost = run(&scenario, RunOptions::new(1)).expect("it runs").wire_per_byte;
    let cost = cost.expect("bytes arrived");
    assert!((1.0 / 0.8..2.0).contains(&cost), "{cost}");
    // Payload may cross several links there.
    let several = scenario::load("star", &[]).expect("built in");
    assert_eq!(run(&several, RunOptions::new(1)).expect("it runs").wire_per_byte, None);
}

#[cfg(feature = "compare")]
#[test]
fn what_the_relay_is_measured_by_can_go_over_quic() {
    use entrouter_sim::quic::Congestion;
    use entrouter_sim::stage::{Carrier, check};

    for congestion in [Congestion::Cubic, Congestion::Bbr] {
        for name in ["bulk", "ping", "connect", "beside"] {
            let scenario = scenario::load(name, &[]).expect("built in");
            check(&scenario, Carrier::Quic(congestion)).expect(name);
        }
        let star = scenario::load("star", &[]).expect("built in");
        check(&star, Carrier::Quic(congestion)).expect_err("more than two PoPs");
    }
}
