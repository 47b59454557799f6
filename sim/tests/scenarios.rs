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
