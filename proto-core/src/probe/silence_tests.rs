use super::*;
use crate::rng::Rng;
use crate::tests::epoch;

const MS: Duration = Duration::from_millis(1);
const RTT: Duration = Duration::from_millis(80);
const RTO: Duration = Duration::from_millis(96);
const INTERVAL: Duration = Duration::from_millis(500);

/// One direction: it loses by chance, and in runs of `burst` packets if that is above 1.
struct Way {
    loss: f64,
    burst: f64,
    is_bad: bool,
    is_dead: bool,
    /// Passed, missing and runs since they were last told.
    untold: (u64, i64, u64),
    estimate: LossEstimator,
}

impl Way {
    fn new(loss: f64, burst: f64) -> Self {
        let estimate = LossEstimator::new();
        Self { loss, burst, is_bad: false, is_dead: false, untold: (0, 0, 0), estimate }
    }

    fn passes(&mut self, rng: &mut Rng) -> bool {
        let was_bad = self.is_bad;
        let turns_bad = if self.burst <= 1.0 {
            self.loss
        } else if was_bad {
            1.0 - 1.0 / self.burst
        } else {
            self.loss / (self.burst * (1.0 - self.loss))
        };
        self.is_bad = rng.unit() < turns_bad;
        self.untold.0 += 1;
        self.untold.1 += i64::from(self.is_bad);
        self.untold.2 += u64::from(self.is_bad && !was_bad);
        !self.is_bad && !self.is_dead
    }

    fn tell(&mut self) {
        let (passed, missing, runs) = std::mem::take(&mut self.untold);
        self.estimate.update(passed, missing, runs);
    }
}

/// A link that is asked by PINGs, and by data every `data`.
struct Link {
    silence: Silence,
    ways: [Way; 2],
    data: Option<Duration>,
    now: Instant,
    rng: Rng,
    ping: Instant,
    data_at: Instant,
    /// Answers under way: when they come, and to what.
    answers: VecDeque<(Instant, Instant)>,
    sent: u64,
    verdicts: Vec<(Instant, Verdict)>,
}

impl Link {
    fn new(seed: u8, ways: [Way; 2], data: Option<Duration>) -> Self {
        let now = epoch();
        Self {
            silence: Silence::new(),
            ways,
            data,
            now,
            rng: Rng::new([seed; 32]),
            ping: now,
            data_at: now,
            answers: VecDeque::new(),
            sent: 0,
            verdicts: Vec::new(),
        }
    }

    fn send(&mut self) {
        self.sent += 1;
        self.silence.sent(self.now, RTO);
        if self.ways[0].passes(&mut self.rng) && self.ways[1].passes(&mut self.rng) {
            self.answers.push_back((self.now + RTT, self.now));
        }
    }

    fn next(&self) -> Instant {
        let data = self.data.map(|_| self.data_at);
        let probe = self.silence.probe_at(RTO, INTERVAL);
        let answer = self.answers.front().map(|(at, _)| *at);
        let all = [Some(self.ping), data, probe, answer, self.silence.verdict_at(RTO)];
        all.into_iter().flatten().min().expect("a PING")
    }

    /// Everything that is due at `self.now`.
    fn turn(&mut self) {
        while let Some((_, sent)) = self.answers.pop_front_if(|(at, _)| *at <= self.now) {
            self.ways.iter_mut().for_each(Way::tell);
            let [there, back] = &self.ways;
            self.silence.set_path([(&there.estimate, 1.0), (&back.estimate, 1.0)]);
            let verdict = self.silence.proof(self.now, sent);
            self.verdicts.extend(verdict.map(|v| (self.now, v)));
        }
        let verdict = self.silence.handle_timeout(self.now, RTO);
        self.verdicts.extend(verdict.map(|v| (self.now, v)));
        if let Some(spacing) = self.data.filter(|_| self.data_at <= self.now) {
            self.data_at = self.now + spacing;
            self.send();
        }
        let fast = self.silence.probe_at(RTO, INTERVAL).is_some_and(|at| at <= self.now);
        if fast || self.ping <= self.now {
            self.ping = self.now + INTERVAL.mul_f64(0.9 + 0.2 * self.rng.unit());
            self.send();
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let next = self.next();
            if next > end {
                self.now = end;
                return;
            }
            self.now = self.now.max(next);
            self.turn();
        }
    }

    fn kill(&mut self, way: usize, is_dead: bool) {
        self.ways[way].is_dead = is_dead;
    }
}

fn clean() -> [Way; 2] {
    [Way::new(0.0, 1.0), Way::new(0.0, 1.0)]
}

#[test]
fn a_lossy_link_is_never_suspected_by_mistake() {
    let lossy: [[(f64, f64); 2]; 4] = [
        [(0.4, 1.0), (0.4, 1.0)],
        [(0.4, 1.0), (0.0, 1.0)],
        [(0.0, 1.0), (0.4, 1.0)],
        [(0.1, 1.0), (0.1, 1.0)],
    ];
    for (at, ways) in lossy.into_iter().enumerate() {
        for seed in 0..6 {
            let data = (seed % 3 == 2).then_some(MS * 200);
            let ways = ways.map(|(loss, burst)| Way::new(loss, burst));
            let mut link = Link::new(seed + 10 * at as u8, ways, data);
            link.run(Duration::from_secs(3600));
            assert_eq!(link.verdicts, [], "{at}, {seed}");
        }
    }
}

#[test]
fn runs_of_losses_are_mistaken_for_an_outage_only_until_they_are_known() {
    let mut late = 0;
    for (at, ways) in
        [[(0.03, 5.0), (0.03, 5.0)], [(0.0, 1.0), (0.05, 4.0)]].into_iter().enumerate()
    {
        for seed in 0..6 {
            let data = (seed % 3 == 2).then_some(MS * 200);
            let ways = ways.map(|(loss, burst)| Way::new(loss, burst));
            let mut link = Link::new(seed + 10 * at as u8, ways, data);
            link.run(Duration::from_secs(600));
            let early = link.verdicts.len();
            link.run(Duration::from_secs(3600));
            // Each with its end.
            assert!(early <= 8, "{at}, {seed}: {early}");
            late += link.verdicts.len() - early;
        }
    }
    assert!(late <= 2, "{late} in twelve hours");
}

#[test]
fn more_slots_are_needed_where_more_is_lost_or_losses_come_in_runs() {
    let needed = |loss: f64, burst: f64| {
        let way = || Way::new(loss, burst);
        let mut link = Link::new(1, [way(), way()], Some(MS * 5));
        link.run(Duration::from_secs(60));
        link.silence.needed()
    };
    assert_eq!(Silence::new().needed(), 31, "nothing is known");
    assert_eq!(needed(0.0, 1.0), 6);
    assert!((7..=9).contains(&needed(0.05, 1.0)));
    assert!((30..=42).contains(&needed(0.4, 1.0)));
    assert!((30..=64).contains(&needed(0.03, 5.0)));
    assert_eq!(needed(0.3, 20.0), 64);
}

#[test]
fn a_dead_link_is_found_in_time_whichever_way_died() {
    for seed in 0..40 {
        for data in [None, Some(MS * 5), Some(MS * 100)] {
            for loss in [0.0, 0.1, 0.4] {
                let ways = [Way::new(loss, 1.0), Way::new(loss, 1.0)];
                let mut link = Link::new(seed, ways, data);
                link.run(Duration::from_secs(120) + MS * 13 * u32::from(seed));
                assert_eq!(link.verdicts, []);
                link.kill(usize::from(seed) % 2, true);
                let (died, needed) = (link.now, link.silence.needed() as u32);
                link.run(Duration::from_secs(10));
                let probing = PROBE_SPACING * needed;
                let bound = match data {
                    // What had arrived before the answers died is the first that is missed.
                    Some(spacing) if spacing < SPACING => RTO + probing,
                    Some(spacing) => RTO * 2 + probing + spacing,
                    None => INTERVAL.mul_f64(1.1) + RTO * 2 + probing,
                };
                let found: Vec<_> = link.verdicts.iter().map(|(at, v)| (*at - died, *v)).collect();
                assert!(
                    matches!(found[..], [(after, Verdict::Suspect)] if after <= bound + MS),
                    "{data:?}, {loss}: {found:?}, {bound:?}"
                );
            }
        }
    }
}

#[test]
fn a_link_that_comes_back_is_trusted_after_three_proofs() {
    let mut link = Link::new(1, clean(), None);
    link.run(Duration::from_secs(60));
    link.kill(0, true);
    link.run(Duration::from_secs(3));
    assert!(link.silence.is_silent());
    link.kill(0, false);
    let back = link.now;
    link.run(Duration::from_secs(2));
    let (at, verdict) = *link.verdicts.last().expect("one");
    assert_eq!((link.verdicts.len(), verdict), (2, Verdict::Trusted));
    // One probe of a suspect, then fast ones.
    assert!(at - back <= MS * 200 + RTT * 2 + MS * 75, "{:?}", at - back);
    assert!(!link.silence.is_suspect() && link.silence.suspected() == 1);
}

#[test]
fn one_lucky_packet_changes_nothing() {
    let mut link = Link::new(1, clean(), None);
    link.run(Duration::from_secs(60));
    link.kill(0, true);
    link.run(Duration::from_secs(3));
    for _ in 0..20 {
        link.silence.proof(link.now, link.now - MS);
        assert!(!link.silence.is_silent());
        link.run(Duration::from_secs(3));
        assert!(link.silence.is_silent() && link.verdicts.len() == 1);
    }
    // Many that were sent at once are one.
    for n in 0..10 {
        assert_eq!(link.silence.proof(link.now, link.now + MS * n), None);
    }
}

#[test]
fn a_suspect_costs_little() {
    let mut link = Link::new(1, clean(), None);
    link.run(Duration::from_secs(60));
    link.kill(0, true);
    let before = link.sent;
    link.run(Duration::from_secs(600));
    let sent = link.sent - before;
    assert!(sent <= 1200 + 120, "{sent}");
}

#[test]
fn time_alone_makes_no_probes() {
    let mut link = Link::new(1, clean(), None);
    link.run(Duration::from_secs(3600));
    assert!((7000..7500).contains(&link.sent), "{}", link.sent);
}

#[test]
fn a_process_that_slept_first_hears_what_it_was_sent_meanwhile() {
    for slept in [MS * 120, MS * 200, MS * 300, MS * 2000, Duration::from_secs(3600)] {
        for data in [None, Some(MS * 5), Some(MS * 50)] {
            for offset in 0..20 {
                for heard_at_once in [true, false] {
                    let mut link = Link::new(1, clean(), data);
                    link.run(Duration::from_secs(60) + MS * 31 * offset);
                    link.now += slept;
                    // Timers first; the socket is read a little later.
                    if !heard_at_once {
                        assert_eq!(link.silence.handle_timeout(link.now, RTO), None);
                        link.silence.sent(link.now, RTO);
                        link.now += MS * 20;
                        assert_eq!(link.silence.handle_timeout(link.now, RTO), None);
                    }
                    link.turn();
                    link.run(Duration::from_secs(5));
                    assert_eq!(link.verdicts, [], "{slept:?}, {data:?}");
                    // It is still able to suspect.
                    link.kill(1, true);
                    link.run(Duration::from_secs(2));
                    assert!(link.silence.is_suspect());
                }
            }
        }
    }
}

#[test]
fn a_path_longer_than_the_ring_is_suspected_too() {
    let long = Duration::from_secs(3);
    let (mut silence, mut now) = (Silence::new(), epoch());
    let died = now;
    while silence.handle_timeout(now, long).is_none() {
        silence.sent(now, long);
        assert!(silence.slots() <= MAX_SLOTS);
        now += MS;
        assert!(now < died + long * 2);
    }
}
