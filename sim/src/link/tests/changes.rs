//! Clog, cut, and a link that becomes another one.

use super::*;

/// Milliseconds since the start.
fn at(ms: u32) -> Time {
    Time::ZERO + MS * ms
}

fn due(fate: Fate) -> Time {
    match fate.outcome {
        Outcome::Passed { due, .. } => due,
        Outcome::Dropped(reason) => panic!("dropped: {reason:?}"),
    }
}

/// 1,250 bytes on the wire: 1 ms at 10 Mbit/s.
fn full(nth: u32) -> Vec<u8> {
    packet(nth, 1250 - IP_UDP_OVERHEAD)
}

fn with_rate(mbps: f64, queue: QueueLimit) -> LinkConfig {
    LinkConfig { rate: Some(Rate { mbps, queue, mark_above: None }), ..LinkConfig::default() }
}

#[test]
fn after_a_clog_what_fell_due_meanwhile_arrives_at_once_and_in_order() {
    let mut link = link(&LinkConfig { delay: 10 * MS, ..LinkConfig::default() });
    for nth in 0..3 {
        link.send(at(nth), full(nth));
    }
    // The first is due, but was not taken out.
    link.clog();
    link.clog();
    assert_eq!((link.next_delivery(), link.deliver(END)), (None, None));
    link.send(at(20), full(3));
    assert_eq!(link.in_flight(), 4);
    link.release(at(25));
    link.send(at(25), full(4));
    assert_eq!(link.next_delivery(), Some(at(25)));
    let expected = [(at(25), 0), (at(25), 1), (at(25), 2), (at(30), 3), (at(35), 4)];
    assert_eq!(drain(&mut link), expected);
    // Nothing to release: nothing is delayed.
    link.send(at(40), full(5));
    link.release(at(60));
    assert_eq!(drain(&mut link), [(at(50), 5)]);
}

#[test]
fn a_clog_takes_its_limit_beyond_what_was_in_flight_and_drops_the_rest() {
    let config = LinkConfig { duplicate: 1.0, replay: 1.0, ..LinkConfig::default() };
    let mut link = link(&config);
    link.send(at(0), full(0));
    for round in 1..=2 {
        let before = link.in_flight();
        link.clog();
        // Original, copy and replay each time; the last has room for the original alone.
        let passed = (0..)
            .take_while(|_| matches!(link.send(at(0), full(1)).outcome, Outcome::Passed { .. }))
            .count();
        assert_eq!(passed, CLOG_LIMIT.div_ceil(3));
        assert_eq!(link.in_flight(), before + CLOG_LIMIT);
        let dropped = Outcome::Dropped(DropReason::Clogged);
        assert_eq!(link.send(at(0), full(1)), Fate { outcome: dropped, replayed: None });
        assert_eq!(link.counters().clog_dropped, 2 * round);
        assert!(link.counters().is_conserved(link.in_flight()));
        link.release(at(0));
        drain(&mut link);
    }
}

#[test]
fn a_cut_drops_what_is_offered_and_lets_arrive_what_is_in_flight() {
    let mut link = link(&LinkConfig { delay: 10 * MS, ..with_rate(10.0, QueueLimit::Bytes(0)) });
    link.send(at(0), full(0));
    link.set_cut(true);
    // Such a packet uses nothing of the rate.
    for nth in 1..4 {
        let fate = link.send(at(5), full(nth));
        assert_eq!(fate.outcome, Outcome::Dropped(DropReason::Cut));
    }
    link.set_cut(false);
    assert_eq!(due(link.send(at(5), full(4))), at(16));
    assert_eq!(drain(&mut link), [(at(11), 0), (at(16), 4)]);
    let counters = link.counters();
    assert_eq!((counters.offered, counters.cut, counters.delivered), (5, 3, 2));
    assert_eq!(counters.loss(), 0.0);
}

#[test]
fn a_loss_holds_from_its_moment_until_it_is_taken_back() {
    let clean = LinkConfig::default();
    let dead = LinkConfig { loss: Loss::Bernoulli { average: 1.0 }, ..clean.clone() };
    let mut link = link(&clean);
    for nth in 0..10 {
        match nth {
            5 => link.reconfigure(at(nth), &dead).expect("valid"),
            7 => link.reconfigure(at(nth), &clean).expect("valid"),
            _ => {}
        }
        link.send(at(nth), full(nth));
    }
    let arrived: Vec<_> = drain(&mut link).into_iter().map(|(_, nth)| nth).collect();
    assert_eq!(arrived, [0, 1, 2, 3, 4, 7, 8, 9]);
    assert_eq!((link.counters().lost, link.counters().loss_runs), (2, 1));
}

#[test]
fn what_was_accepted_leaves_at_the_rate_that_held_then() {
    // 1 ms each, then 0.1 ms each, then 10 ms each, then no time at all.
    let queue = QueueLimit::Bytes(10_000);
    let mut link = link(&with_rate(10.0, queue));
    for nth in 0..4 {
        assert_eq!(due(link.send(at(0), full(nth))), at(nth + 1));
    }
    link.reconfigure(at(1), &with_rate(100.0, queue)).expect("valid");
    assert_eq!(link.backlog(at(1)), 3 * 1250);
    let fast: Vec<_> = (4..9).map(|nth| due(link.send(at(1), full(nth)))).collect();
    assert_eq!(fast, [1, 2, 3, 4, 5].map(|n| at(4) + MS / 10 * n));
    // 3 of the slow and 5 of the fast ones: full.
    assert_eq!(link.backlog(at(1)), 8 * 1250);
    let full_queue = link.send(at(1), full(9)).outcome;
    assert_eq!(full_queue, Outcome::Dropped(DropReason::QueueFull));

    link.reconfigure(at(2), &with_rate(1.0, queue)).expect("valid");
    assert_eq!(link.backlog(at(2)), 7 * 1250);
    assert_eq!(due(link.send(at(2), full(10))), at(14) + MS / 2);
    link.reconfigure(at(3), &LinkConfig::default()).expect("valid");
    assert_eq!(due(link.send(at(3), full(11))), at(14) + MS / 2, "not before the others");
    assert_eq!(link.backlog(at(9) + MS / 2), 625);
    assert_eq!(due(link.send(at(20), full(12))), at(20));
}

#[test]
fn a_delay_that_falls_lets_nothing_overtake_and_one_that_rises_holds() {
    let delay = |ms| LinkConfig { delay: MS * ms, ..LinkConfig::default() };
    let jitter =
        |reorders| LinkConfig { jitter: Some(Jitter { range: 90 * MS, reorders }), ..delay(100) };
    let mut link = link(&delay(100));
    assert_eq!(due(link.send(at(0), full(0))), at(100));
    link.reconfigure(at(1), &delay(10)).expect("valid");
    assert_eq!(due(link.send(at(1), full(1))), at(100));
    assert_eq!(due(link.send(at(95), full(2))), at(105));
    link.reconfigure(at(96), &delay(50)).expect("valid");
    assert_eq!(due(link.send(at(96), full(3))), at(146));

    // Nor what left when jitter still reordered.
    link.reconfigure(at(200), &jitter(true)).expect("valid");
    let latest = (0..20).map(|nth| due(link.send(at(200), full(nth)))).max();
    link.reconfigure(at(200), &jitter(false)).expect("valid");
    assert!(Some(due(link.send(at(200), full(20)))) >= latest);
    link.reconfigure(at(200), &delay(0)).expect("valid");
    assert!(Some(due(link.send(at(200), full(21)))) >= latest);
}

#[test]
fn a_refused_change_changes_nothing() {
    let mut link = link(&LinkConfig { delay: 10 * MS, ..LinkConfig::default() });
    let refused = LinkConfig { duplicate: 1.0, replay: 2.0, ..LinkConfig::default() };
    assert!(link.reconfigure(at(0), &refused).is_err());
    let passed = Outcome::Passed { due: at(10), corrupted: false, copied: false, marked: false };
    assert_eq!(link.send(at(0), full(0)), Fate { outcome: passed, replayed: None });
}
