use super::LossEstimator;

/// A path that loses as a two-state chain does, and acknowledges a few packets at a time.
struct Path {
    random: u64,
    loss: f64,
    burst: f64,
    bad: bool,
}

impl Path {
    /// `burst` 0: each packet for itself.
    fn new(seed: u64, loss: f64, burst: f64) -> Self {
        Self { random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, loss, burst, bad: false }
    }

    fn uniform(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn loses(&mut self) -> bool {
        let u = self.uniform();
        self.bad = if self.burst <= 1.0 {
            u < self.loss
        } else if self.bad {
            u >= 1.0 / self.burst
        } else {
            u < self.loss / self.burst / (1.0 - self.loss)
        };
        self.bad
    }

    /// Up to 12 packets and one that arrives; how many.
    fn step(&mut self, estimator: &mut LossEstimator) -> u64 {
        let wanted = 1 + (self.uniform() * 12.0) as u64;
        let (mut passed, mut missing, mut runs, mut before) = (0, 0, 0, false);
        loop {
            let lost = self.loses();
            passed += 1;
            missing += i64::from(lost);
            runs += u64::from(lost && !before);
            before = lost;
            if passed >= wanted && !lost {
                estimator.update(passed, missing, runs);
                return passed;
            }
        }
    }
}

/// Mean, 5th and 95th percentile of the estimate, and mean of the mean burst, once it has settled.
fn steady(loss: f64, burst: f64) -> (f64, f64, f64, f64) {
    let (mut estimates, mut bursts) = (Vec::new(), 0.0);
    for seed in 1..=20 {
        let (mut path, mut e) = (Path::new(seed, loss, burst), LossEstimator::new());
        let mut packets = 0;
        while packets < 60_000 {
            packets += path.step(&mut e);
            if packets > 5_000 {
                estimates.push(e.loss());
                bursts += e.mean_burst();
            }
        }
    }
    let n = estimates.len();
    estimates.sort_by(f64::total_cmp);
    let mean = estimates.iter().sum::<f64>() / n as f64;
    (mean, estimates[n / 20], estimates[n - n / 20], bursts / n as f64)
}

#[test]
fn on_a_steady_path_the_estimate_is_right_on_average_and_close_at_any_time() {
    for loss in [0.001, 0.005, 0.01, 0.03, 0.05, 0.1, 0.2, 0.4] {
        let (mean, low, high, burst) = steady(loss, 0.0);
        println!("{loss}: mean {mean:.5}, 5 % {low:.5}, 95 % {high:.5}, burst {burst:.3}");
        // Of a mean over the last 2048 packets or so; that of all is over a million.
        let sd = (loss * (1.0 - loss) / 2048.0_f64).sqrt();
        assert!((mean / loss - 1.0).abs() < 0.1, "{loss}: {mean}");
        assert!(low > loss - 2.0 * sd && high < loss + 2.3 * sd, "{loss}: {low} to {high}");
        assert!((burst * (1.0 - loss) - 1.0).abs() < 0.05, "{loss}: bursts of {burst}");
    }
}

#[test]
fn losses_in_runs_are_measured_as_rightly() {
    for (loss, length) in [(0.03, 2.0), (0.03, 5.0), (0.05, 3.0), (0.05, 8.0), (0.1, 5.0)] {
        let (mean, low, high, burst) = steady(loss, length);
        println!("{loss} in {length}: mean {mean:.5}, {low:.5} to {high:.5}, burst {burst:.2}");
        let sd = (loss * (1.0 - loss) * (2.0 * length - 1.0) / 2048.0_f64).sqrt();
        assert!((mean / loss - 1.0).abs() < 0.1, "{loss} in {length}: {mean}");
        assert!(low > loss - 2.0 * sd && high < loss + 2.5 * sd, "{loss}: {low} to {high}");
        assert!((burst / length - 1.0).abs() < 0.12, "{loss} in {length}: {burst}");
    }
}

/// Packets until the estimate exceeds `seen` after the path's loss jumped to `loss`: median and 95th
/// percentile of many paths.
fn until_seen(loss: f64, burst: f64, seen: f64) -> (u64, u64) {
    let mut times = Vec::new();
    for seed in 1..=400 {
        let (mut path, mut e) = (Path::new(seed, 0.0, 0.0), LossEstimator::new());
        for _ in 0..400 {
            path.step(&mut e);
        }
        (path.loss, path.burst) = (loss, burst);
        let mut packets = 0;
        while e.loss() <= seen && packets < 10_000 {
            packets += path.step(&mut e);
        }
        times.push(packets);
    }
    times.sort_unstable();
    (times[200], times[380])
}

#[test]
fn a_rise_is_seen_within_some_hundred_packets() {
    let (median, late) = until_seen(0.1, 0.0, 0.05);
    println!("10 %: {median}, {late}");
    assert!(median <= 120 && late <= 250, "{median}, {late}");
    // The first run of losses comes after 160 packets on average, for one path in twenty after 480, and
    // two runs in five have one or two losses.
    let (median, late) = until_seen(0.03, 5.0, 0.015);
    println!("3 % in fives: {median}, {late}");
    assert!(median <= 250 && late <= 1200, "{median}, {late}");
}

#[test]
fn a_rise_is_followed_faster_than_a_fall() {
    let mut e = LossEstimator::new();
    for _ in 0..50 {
        e.update(64, 0, 0);
    }
    for _ in 0..5 {
        e.update(64, 6, 6);
    }
    let risen = e.loss();
    assert!(risen > 0.07, "{risen}");
    for _ in 0..3 {
        e.update(64, 0, 0);
    }
    assert!(e.loss() > risen / 2.0, "{}", e.loss());
}

#[test]
fn reordering_is_neither_loss_nor_bursts() {
    let mut e = LossEstimator::new();
    for _ in 0..1000 {
        e.update(20, 4, 2);
        e.update(12, -4, 1);
        assert!(e.loss() < 0.02 && e.mean_burst() < 1.1, "{e:?}");
    }
    // Samples that end amid it.
    let mut e = LossEstimator::new();
    for round in 0..1000 {
        e.update(20, 4, 2);
        e.update(33, 2, 1);
        e.update(17, -6, 1);
        assert!(round < 50 || e.loss() < 0.02, "{e:?}");
        assert!(round < 5 || e.mean_burst() < 1.5, "{e:?}");
    }
}

#[test]
fn any_numbers_leave_it_in_its_bounds() {
    let mut e = LossEstimator::new();
    for (passed, missing, runs) in
        [(0, -5, 0), (0, 0, 9), (1 << 40, 1 << 40, 1), (40, 99, 99), (u64::from(u32::MAX), -1, 0)]
    {
        for _ in 0..40 {
            e.update(passed, missing, runs);
            assert!((0.0..=1.0).contains(&e.loss()), "{e:?}");
            assert!((1.0..=64.0).contains(&e.mean_burst()), "{e:?}");
        }
    }
}
