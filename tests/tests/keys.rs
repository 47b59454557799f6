//! Keys that differ, and keys that change.

use std::time::Duration;

use entrouter_tests::line::{Line, Plan};
use entrouter_tests::on_every;
use entrouter_tests::origin::Origin;
use entrouter_tests::pop::key;
use entrouter_tests::shells::Shell;

/// Neither has crashed, and neither has written a key.
#[track_caller]
fn assert_sound(line: &mut Line) {
    line.assert_running();
    for pop in [&line.entry, &line.exit] {
        for secret in [1, 2].map(key) {
            assert!(!pop.log().contains(&secret), "the log holds a key");
        }
    }
}

fn a_wrong_key_never_brings_the_tunnel_up_and_costs_next_to_nothing(pair: [Shell; 2]) {
    /// Processor time that a PoP may use while it watches a peer that it cannot understand.
    const LITTLE: Duration = Duration::from_millis(200);
    let origin = Origin::echo();
    let plan = Plan::direct(origin.addr()).keys(key(1), key(2), None);
    let mut line = plan.start_unconnected(pair);
    let spent = std::thread::scope(|scope| {
        [&line.entry, &line.exit]
            .map(|pop| scope.spawn(|| pop.cpu_over(Duration::from_secs(2))))
            .map(|watch| watch.join().unwrap())
    });
    for (pop, spent) in [&line.entry, &line.exit].into_iter().zip(spent) {
        let name = &pop.config.node_id;
        let status = pop.status();
        assert_eq!(status["peers"][0]["up"], false, "{name}: {status}");
        assert_eq!(status["peers_up"], 0, "{name}");
        if let Some(spent) = spent {
            println!("{pair:?}, {name}: {spent:?} of processor time in 2 s");
            assert!(spent < LITTLE, "{name} used {spent:?} within 2 s");
        }
        let lines = pop.log().lines().count();
        assert!(lines < 12, "{name} wrote {lines} lines");
    }
    assert_sound(&mut line);
}

fn a_second_key_lets_in_a_peer_that_has_changed_already(pair: [Shell; 2]) {
    let origin = Origin::echo();
    let plan = Plan::lossy(origin.addr()).keys(key(2), key(1), Some(key(2)));
    let mut line = plan.start(pair);
    line.assert_echoes();
    assert_sound(&mut line);
}

fn a_key_is_changed_on_both_sides_without_a_restart(pair: [Shell; 2]) {
    let origin = Origin::echo();
    let mut line = Plan::lossy(origin.addr()).keys(key(1), key(1), None).start(pair);
    line.assert_echoes();
    // First one side accepts both, then the other changes, then the old one goes.
    line.exit.config.next_key = Some(key(2));
    line.exit.reload();
    line.assert_echoes();
    line.entry.config.key = key(2);
    line.entry.reload();
    line.wait_up();
    line.assert_echoes();
    line.exit.config.key = key(2);
    line.exit.config.next_key = None;
    line.exit.reload();
    line.wait_up();
    line.assert_echoes();
    assert_sound(&mut line);
}

on_every!(
    pair:
    a_wrong_key_never_brings_the_tunnel_up_and_costs_next_to_nothing,
    a_second_key_lets_in_a_peer_that_has_changed_already,
    a_key_is_changed_on_both_sides_without_a_restart,
);
