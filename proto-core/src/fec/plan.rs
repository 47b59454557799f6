//! How much parity a block gets that closed before it was full.

use super::{Estimate, MAX_K, MAX_PARITY};

/// How well partial blocks are guarded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Guard {
    /// What may stay unrepaired: the probability that a partial block loses more than its parity.
    residual: f64,
    /// The most parity symbols of a short partial block.
    cap: usize,
}

impl Guard {
    /// For what somebody waits for: one round trip in 4,000 is not repaired at once.
    ///
    /// Twelve copies of a keystroke cost little; more would not help much, because a burst that
    /// outlives 30 ms of them is an outage.
    pub(crate) const FIRM: Self = Self { residual: 1.3e-4, cap: 12 };

    /// For what is repeated or superseded anyway, such as a flow's acknowledgements: they are a third of
    /// all symbols where traffic is sparse, and losing one now and then delays nothing.
    pub(crate) const LIGHT: Self = Self { residual: 3e-3, cap: 3 };

    /// For what is sent again if it is lost, and nobody waits for: the ladder's parity and no more.
    pub(crate) const NONE: Self = Self { residual: 1.0, cap: 0 };

    /// The most parity of a partial block of `k`: never more than data where it is long.
    fn cap(&self, k: usize) -> usize {
        self.cap.max(k).min(MAX_PARITY)
    }
}

/// The most packets that [`model_parity`] looks at.
const MAX_PACKETS: usize = MAX_K + MAX_PARITY;

/// The parity that `k` source symbols need so that the block is lost with probability at most
/// `target`, up to `cap`.
///
/// The path is a two-state Markov chain that advances with every packet (Gilbert): the bad state
/// loses everything and lasts `mean_burst` packets on average, the stationary loss is `loss`. It is
/// never taken to be less bursty than independent losses: P(bad → bad) = max(loss, 1 − 1/burst).
///
/// A block is lost when more of its packets are lost than it has parity; that already implies a lost
/// source symbol.
fn model_parity(k: usize, loss: f64, mean_burst: f64, target: f64, cap: usize) -> usize {
    if loss <= 0.0 {
        return 0;
    }
    let stay_bad = loss.max(1.0 - 1.0 / mean_burst);
    let turn_bad = loss * (1.0 - stay_bad) / (1.0 - loss);
    // lost[n] = [P(n lost so far and the chain is good), … bad], and its update in place from above.
    let mut lost = [[0.0_f64; 2]; MAX_PACKETS + 1];
    // Before the first packet: stationary. One step keeps that.
    lost[0] = [1.0 - loss, loss];
    let cap = cap.min(MAX_PARITY);
    let k = k.min(MAX_K);
    for sent in 1..=k + cap {
        for n in (0..=sent).rev() {
            let [good, bad] = lost[n];
            let [good_below, bad_below] = if n > 0 { lost[n - 1] } else { [0.0, 0.0] };
            lost[n] = [
                good * (1.0 - turn_bad) + bad * (1.0 - stay_bad),
                good_below * turn_bad + bad_below * stay_bad,
            ];
        }
        let Some(parity) = sent.checked_sub(k) else { continue };
        let residual: f64 = lost[parity + 1..=sent].iter().map(|[good, bad]| good + bad).sum();
        if residual <= target {
            return parity;
        }
    }
    cap
}

/// The parity of a partial block of `k` source symbols by the ratio of full blocks alone, rounded up;
/// none on a [near and clean](Estimate::is_near_and_clean) path.
pub(super) fn ladder_parity(k: usize, full: (usize, usize), estimate: &Estimate) -> usize {
    if estimate.is_near_and_clean() {
        return 0;
    }
    (k * full.1).div_ceil(full.0.max(1)).min(MAX_PARITY)
}

/// [`model_parity`] with a memory, and the rules around it.
#[derive(Debug, Clone)]
pub(crate) struct Planner {
    guard: Guard,
    /// Loss and mean burst that `by_k` was computed for.
    key: (f64, f64),
    /// What the model says per number of source symbols.
    by_k: [Option<u8>; MAX_K + 1],
}

impl Planner {
    /// Remembers nothing yet.
    pub(crate) fn new(guard: Guard) -> Self {
        Self { guard, key: (0.0, 1.0), by_k: [None; MAX_K + 1] }
    }

    /// Parity symbols of a partial block of `k` source symbols, `0..=MAX_PARITY`, where `full` is
    /// what the ladder gives to full blocks.
    ///
    /// At least the ladder's ratio, rounded up, so that a lone message on a long path has one parity
    /// symbol even if no loss was ever seen; none at all where the ladder has none, or on a
    /// [near and clean](Estimate::is_near_and_clean) path.
    pub(crate) fn partial_parity(
        &mut self,
        k: usize,
        full: (usize, usize),
        estimate: &Estimate,
    ) -> usize {
        let ladder = ladder_parity(k, full, estimate);
        if ladder == 0 { 0 } else { ladder.max(self.model(k, estimate)) }
    }

    fn model(&mut self, k: usize, estimate: &Estimate) -> usize {
        let (loss, burst) = (estimate.planning_loss(), estimate.planning_burst());
        // The estimate moves with every acknowledgement; the answer hardly does.
        let near = |a: f64, b: f64, least: f64| (a - b).abs() <= 0.05 * b + least;
        if !(near(loss, self.key.0, 1e-5) && near(burst - 1.0, self.key.1 - 1.0, 0.005)) {
            self.key = (loss, burst);
            self.by_k = [None; MAX_K + 1];
        }
        let (loss, burst) = self.key;
        let Guard { residual, .. } = self.guard;
        let compute = || model_parity(k, loss, burst, residual, self.guard.cap(k)) as u8;
        match self.by_k.get_mut(k) {
            Some(slot) => usize::from(*slot.get_or_insert_with(compute)),
            None => MAX_PARITY,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn estimate(loss: f64, mean_burst: f64) -> Estimate {
        Estimate { loss, mean_burst, samples: 10_000, rtt: Duration::from_millis(150) }
    }

    fn planned(k: usize, loss: f64, burst: f64) -> usize {
        Planner::new(Guard::FIRM).partial_parity(k, (20, 1), &estimate(loss, burst))
    }

    /// `f64::powi` may differ from one build to the next.
    fn power(base: f64, exponent: i32) -> f64 {
        (0..exponent).map(|_| base).product()
    }

    /// P(more than `m` of `n` lost) for independent losses.
    fn binomial_tail(n: i32, m: i32, p: f64) -> f64 {
        let choose = |j: i32| (0..j).map(|i| f64::from(n - i) / f64::from(i + 1)).product::<f64>();
        (m + 1..=n).map(|j| choose(j) * power(p, j) * power(1.0 - p, n - j)).sum()
    }

    #[test]
    fn independent_losses_match_the_binomial() {
        for p in [0.001, 0.01, 0.03, 0.05, 0.1] {
            for k in 1..=20_i32 {
                let m = model_parity(k as usize, p, 1.0, Guard::FIRM.residual, MAX_PARITY) as i32;
                assert!(binomial_tail(k + m, m, p) <= Guard::FIRM.residual, "k {k} p {p} m {m}");
                if m > 0 {
                    let less = binomial_tail(k + m - 1, m - 1, p);
                    assert!(less > Guard::FIRM.residual, "k {k} p {p} m {m}: {less}");
                }
            }
        }
        assert_eq!(planned(1, 0.05, 1.0), 2); // 0.05³ = 1.25e-4
    }

    #[test]
    fn a_lone_message_in_bursts() {
        // Lost with p · 0.8^m: 25 parity symbols would be needed, the cap is 12.
        assert_eq!(model_parity(1, 0.03, 5.0, Guard::FIRM.residual, 60), 25);
        assert_eq!(planned(1, 0.03, 5.0), 12);
        assert_eq!(planned(2, 0.03, 5.0), 12);
        for (b, p) in [(1.5_f64, 0.02_f64), (2.0, 0.03), (3.0, 0.01)] {
            let m = model_parity(1, p, b, Guard::FIRM.residual, 64);
            let left = |m: usize| p * power(1.0 - 1.0 / b, m as i32);
            assert!(left(m) <= Guard::FIRM.residual && left(m - 1) > Guard::FIRM.residual);
        }
    }

    #[test]
    fn bursts_match_a_simulated_chain() {
        // A small xorshift: the test must not depend on a random seed.
        let mut x = 0x9e37_79b9_7f4a_7c15_u64;
        let mut uniform = move || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 11) as f64 / (1_u64 << 53) as f64
        };
        let (loss, burst, k) = (0.03, 3.0, 6);
        let m = model_parity(k, loss, burst, Guard::FIRM.residual, MAX_PARITY);
        let (leave, enter) = (1.0 / burst, loss / burst / (1.0 - loss));
        let (rounds, mut failed) = (400_000, 0);
        for _ in 0..rounds {
            let mut bad = uniform() < loss;
            let mut lost = 0;
            for _ in 0..k + m {
                bad = if bad { uniform() >= leave } else { uniform() < enter };
                lost += usize::from(bad);
            }
            failed += u32::from(lost > m);
        }
        let measured = f64::from(failed) / f64::from(rounds);
        // 52 expected at the target; three sigma is 22.
        assert!(measured < 1.9e-4, "m {m}: {measured}");
        assert!(measured > 0.4e-4, "m {m}: {measured}");
    }

    #[test]
    fn the_rules_around_the_model() {
        // Nothing lost on a long path: the ladder's 5 %, rounded up.
        assert_eq!(planned(1, 0.0, 1.0), 1);
        assert_eq!(planned(7, 0.0, 1.0), 1);
        // Near and clean: nothing. Near with loss: as everywhere.
        let near = Estimate { rtt: Duration::from_millis(19), ..estimate(0.0, 1.0) };
        assert_eq!(Planner::new(Guard::FIRM).partial_parity(3, (20, 1), &near), 0);
        let lossy = Estimate { loss: 0.03, ..near };
        assert_eq!(Planner::new(Guard::FIRM).partial_parity(1, (8, 4), &lossy), 2);
        // Unknown: 3 %.
        assert_eq!(Planner::new(Guard::FIRM).partial_parity(1, (8, 4), &Estimate::UNKNOWN), 2);
        let bursty = Estimate { mean_burst: 8.0, ..Estimate::UNKNOWN };
        assert_eq!(Planner::new(Guard::FIRM).partial_parity(1, (8, 4), &bursty), 12);
        // Parity switched off.
        assert_eq!(Planner::new(Guard::FIRM).partial_parity(1, (8, 0), &bursty), 0);
    }

    #[test]
    fn never_above_the_caps_whatever_the_estimate() {
        let mut planner = Planner::new(Guard::FIRM);
        for loss in [0.0, 0.001, 0.5, 1.0, 7.0, -1.0, f64::NAN, f64::INFINITY] {
            for burst in [0.0, 1.0, 1e9, f64::NAN, f64::INFINITY] {
                for k in [0, 1, 2, 12, 13, 64, MAX_K, MAX_K + 1, 10_000] {
                    let m = planner.partial_parity(k, (6, 4), &estimate(loss, burst));
                    assert!(m <= MAX_PARITY);
                    assert!(k > 12 || m <= Guard::FIRM.cap);
                }
            }
        }
    }

    #[test]
    fn a_light_guard_gives_less() {
        let light = |k, loss, burst| {
            Planner::new(Guard::LIGHT).partial_parity(k, (20, 1), &estimate(loss, burst))
        };
        for (loss, parity) in [(0.0, 1), (0.01, 1), (0.05, 1), (0.1, 2), (0.2, 3), (0.4, 3)] {
            assert_eq!(light(1, loss, 1.0), parity, "{loss}");
        }
        assert_eq!(light(1, 0.03, 5.0), 3);
        assert!(light(10, 0.05, 1.0) < planned(10, 0.05, 1.0));
    }

    #[test]
    fn the_memory_follows_the_estimate() {
        let mut planner = Planner::new(Guard::FIRM);
        assert_eq!(planner.partial_parity(1, (20, 1), &estimate(0.0, 1.0)), 1);
        assert_eq!(planner.partial_parity(1, (20, 1), &estimate(0.05, 1.0)), 2);
        assert_eq!(planner.partial_parity(1, (20, 1), &estimate(0.051, 1.0)), 2);
        assert_eq!(planner.partial_parity(1, (20, 1), &estimate(0.2, 1.0)), 5);
    }
}
