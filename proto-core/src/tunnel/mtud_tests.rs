use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::rng::Rng;
use crate::tests::epoch;

const PATIENCE: Duration = Duration::from_millis(50);

/// A path that carries `mtu` bytes and loses by chance, both ways.
struct Link {
    mtu: usize,
    loss: f64,
    rng: Rng,
    now: Instant,
    sent: u32,
}

impl Link {
    fn new(seed: u8, mtu: usize, loss: f64) -> Self {
        Self { mtu, loss, rng: Rng::new([seed; 32]), now: epoch(), sent: 0 }
    }

    fn path(&self) -> Path {
        Path { patience: PATIENCE, loss: self.loss }
    }

    /// Until nothing is due any more, or for so long; whether the size fell.
    fn run(&mut self, mtud: &mut PathMtu, limit: Duration) -> bool {
        let end = self.now + limit;
        let mut answers: Vec<(Instant, Probe)> = Vec::new();
        loop {
            let answer = answers.first().map(|(at, _)| *at);
            let due = mtud.due(self.path());
            let Some(next) = [answer, due].into_iter().flatten().min() else { return false };
            if next > end {
                self.now = end;
                return false;
            }
            self.now = self.now.max(next);
            if answer.is_some_and(|at| at <= self.now) {
                let (_, probe) = answers.remove(0);
                mtud.on_answer(self.now, probe.token, probe.size as u64);
                continue;
            }
            match mtud.step(self.now, self.path()) {
                Step::Send(probe) => {
                    self.sent += 1;
                    let arrives = probe.size <= self.mtu
                        && self.rng.unit() >= self.loss
                        && self.rng.unit() >= self.loss;
                    if arrives {
                        answers.push((self.now + PATIENCE / 2, probe));
                    }
                }
                Step::Fell => return true,
                Step::Nothing => {}
            }
        }
    }

    fn search(&mut self, mtud: &mut PathMtu) {
        mtud.used(self.now);
        assert!(!self.run(mtud, Duration::from_secs(120)));
    }
}

proptest! {
    #[test]
    fn a_search_ends_just_below_what_the_path_carries(
        mtu in 1252usize..10_000, max in 1252usize..=8972,
    ) {
        let (mut mtud, mut link) = (PathMtu::new(max), Link::new(1, mtu, 0.0));
        link.search(&mut mtud);
        let reachable = mtu.min(max);
        let close = CLOSE_ENOUGH.max(reachable / CLOSE_SHARE);
        prop_assert!(mtud.size() <= reachable && mtud.size() + close >= reachable);
        // At most three for each size, and few sizes.
        prop_assert!(link.sent <= 45, "{}", link.sent);
        // It rests.
        mtud.used(link.now + RAISE_AFTER - Duration::from_secs(60));
        prop_assert!(mtud.due(link.path()).is_none());
    }

    #[test]
    fn answers_that_nobody_asked_for_change_nothing(
        answers in prop::collection::vec((any::<u64>(), any::<u64>()), 0..50),
    ) {
        let (mut mtud, now) = (PathMtu::new(8972), epoch());
        for (token, size) in answers {
            prop_assert!(!mtud.on_answer(now, token, size));
            prop_assert!(!mtud.on_answer(now, token & 0xffff, size));
        }
        prop_assert_eq!(mtud.size(), BASE_UDP_PAYLOAD);
    }
}

#[test]
fn a_liar_raises_the_size_no_further_than_what_was_tried() {
    let (mut mtud, now) = (PathMtu::new(8972), epoch());
    mtud.used(now);
    let path = Path { patience: PATIENCE, loss: 0.0 };
    let Step::Send(probe) = mtud.step(now, path) else { panic!("a search begins") };
    assert_eq!(probe.size, ETHERNET);
    assert!(mtud.on_answer(now, probe.token, u64::MAX));
    assert_eq!(mtud.size(), ETHERNET);
}

#[test]
fn the_usual_path_takes_seven_probes() {
    let (mut mtud, mut link) = (PathMtu::new(8972), Link::new(2, ETHERNET, 0.0));
    link.search(&mut mtud);
    assert_eq!((mtud.size(), link.sent), (ETHERNET, 7));
}

#[test]
fn random_loss_seldom_hides_a_size() {
    for (loss, least) in [(0.05, 99), (0.2, 98), (0.4, 95)] {
        let found = (0..100).filter(|seed| {
            let (mut mtud, mut link) = (PathMtu::new(ETHERNET), Link::new(*seed, ETHERNET, loss));
            link.search(&mut mtud);
            mtud.size() == ETHERNET
        });
        let found = found.count();
        assert!(found >= least, "{loss}: {found}");
    }
}

/// At `ETHERNET`, with large packets under way of which nothing is heard.
fn suspicious(link: &mut Link) -> PathMtu {
    let mut mtud = PathMtu::new(ETHERNET);
    mtud.used(link.now);
    let loss = std::mem::replace(&mut link.loss, 0.0);
    let mtu = std::mem::replace(&mut link.mtu, ETHERNET);
    link.run(&mut mtud, Duration::from_secs(10));
    assert_eq!(mtud.size(), ETHERNET);
    (link.loss, link.mtu) = (loss, mtu);
    mtud.sent_large(link.now);
    mtud
}

#[test]
fn a_black_hole_is_found_within_a_few_round_trips() {
    for (loss, limit_ms) in [(0.0, 400), (0.2, 1500), (0.4, 7000)] {
        for seed in 0..50 {
            let mut link = Link::new(seed, BASE_UDP_PAYLOAD, loss);
            let mut mtud = suspicious(&mut link);
            let began = link.now;
            // Where it cannot be told from chance, it is looked again at what is sent next.
            while !link.run(&mut mtud, Duration::from_secs(3)) {
                mtud.sent_large(link.now);
                assert!(link.now < began + Duration::from_secs(10), "{loss}, {seed}");
            }
            assert_eq!(mtud.size(), BASE_UDP_PAYLOAD);
            let took = (link.now - began).as_millis();
            assert!(took <= limit_ms, "{loss}, {seed}: {took}");
        }
    }
}

#[test]
fn what_is_lost_by_chance_or_altogether_is_no_black_hole() {
    for loss in [0.0, 0.2, 0.4] {
        let fell = (0..200).filter(|seed| {
            let mut link = Link::new(*seed, ETHERNET, loss);
            let mut mtud = suspicious(&mut link);
            link.run(&mut mtud, Duration::from_secs(10))
        });
        let fell = fell.count();
        assert!(fell <= 4, "{loss}: {fell} of 200");
    }
    let mut link = Link::new(7, 0, 0.0);
    let mut mtud = suspicious(&mut link);
    assert!(!link.run(&mut mtud, Duration::from_secs(60)));
    assert!(link.sent <= 2 * MAX_PAIRS as u32 + 8, "{}", link.sent);
}

#[test]
fn a_full_packet_that_arrived_ends_the_suspicion() {
    let mut link = Link::new(8, BASE_UDP_PAYLOAD, 0.0);
    let mut mtud = suspicious(&mut link);
    let before = link.now;
    link.now += PATIENCE * 2;
    assert!(matches!(mtud.step(link.now, link.path()), Step::Send(_)));
    // One that was sent before says nothing of now, nor does a shorter one.
    mtud.heard_large(link.now, Some(before), false);
    mtud.heard_large(link.now, None, false);
    assert!(matches!(mtud.phase, Phase::Confirming(_)));
    mtud.heard_large(link.now, Some(link.now), false);
    assert!(!matches!(mtud.phase, Phase::Confirming(_)));
}

#[test]
fn each_black_hole_makes_the_next_search_wait_longer() {
    let mut link = Link::new(9, BASE_UDP_PAYLOAD, 0.0);
    let mut mtud = suspicious(&mut link);
    let mut wait = HOLD_OFF;
    for _ in 0..4 {
        assert!(link.run(&mut mtud, Duration::from_secs(10)));
        mtud.used(link.now + wait - Duration::from_millis(1));
        assert!(mtud.due(link.path()).is_none());
        link.now += wait;
        link.mtu = ETHERNET;
        mtud.used(link.now);
        link.run(&mut mtud, Duration::from_secs(1));
        assert_eq!(mtud.size(), ETHERNET);
        link.mtu = BASE_UDP_PAYLOAD;
        mtud.sent_large(link.now);
        wait *= 2;
    }
}

#[test]
fn lost_probes_are_taken_out_of_the_loss() {
    let (mut mtud, mut link) = (PathMtu::new(ETHERNET), Link::new(3, 1300, 0.0));
    link.search(&mut mtud);
    let answered = 2;
    let mut report =
        Report { passed: 100, missing: i64::from(link.sent), loss_runs: 1, ..Report::default() };
    mtud.excuse(&mut report);
    assert!(report.missing <= answered && report.loss_runs == 0, "{report:?}");
    let left = report.missing;
    mtud.excuse(&mut report);
    assert_eq!(report.missing, left, "each is taken out once");
}
