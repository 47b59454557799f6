//! How much parity a full block gets.

use super::{Estimate, MAX_K, MAX_PARITY};
use crate::config::FixedFec;

/// A full block at each step: source symbols, parity symbols.
///
/// From 10 % on the ratio stays and the block doubles: at the same overhead a longer block leaves
/// less unrepaired.
const STEPS: [(usize, usize); 6] = [(20, 1), (10, 2), (10, 4), (8, 4), (6, 4), (12, 8)];

/// Loss from which on the next step applies.
const THRESHOLDS: [f64; 5] = [0.005, 0.01, 0.03, 0.05, 0.10];

/// A step is left downwards only below this part of the threshold that led to it, so that an estimate
/// that hovers about a threshold does not change the block with every packet.
const DOWN: f64 = 0.7;

/// A block grows to so many times its size where packets come fast.
const MAX_STRETCH: usize = 8;

/// Chooses the size of full blocks from the measured loss.
#[derive(Debug, Clone)]
pub(crate) struct Ladder {
    fixed: Option<(usize, usize)>,
    step: usize,
}

impl Ladder {
    /// Adaptive, or with `fixed` always that ratio (cut to [`MAX_K`] and [`MAX_PARITY`]; 0 data
    /// counts as 1).
    pub(crate) fn new(fixed: Option<FixedFec>) -> Self {
        let fixed = fixed
            .map(|f| (usize::from(f.data).clamp(1, MAX_K), usize::from(f.parity).min(MAX_PARITY)));
        Self { fixed, step: 0 }
    }

    /// Whether parity is switched off altogether, for partial blocks too.
    pub(crate) fn is_off(&self) -> bool {
        matches!(self.fixed, Some((_, 0)))
    }

    /// The block of twice the size and the same ratio, if the code has room for it and it is no more
    /// than [`MAX_STRETCH`] times `base`.
    ///
    /// A longer block leaves less unrepaired at the same overhead: at 5 % loss in runs of 3, 10+4 leaves
    /// 2.2 % of the symbols lost, 50+20 0.08 %, 80+32 0.01 %. What it costs is time, so it is for lanes that
    /// fill it soon. A fixed ratio is stretched, too.
    pub(crate) fn stretched(base: (usize, usize), block: (usize, usize)) -> Option<(usize, usize)> {
        let (k, parity) = (2 * block.0, 2 * block.1);
        let fits = k <= MAX_K && parity <= MAX_PARITY && k <= MAX_STRETCH * base.0;
        fits.then_some((k, parity))
    }

    /// Source and parity symbols of a full block that begins now: `1..=MAX_K` and `0..=MAX_PARITY`.
    pub(crate) fn full_block(&mut self, estimate: &Estimate) -> (usize, usize) {
        if let Some(fixed) = self.fixed {
            return fixed;
        }
        let loss = estimate.planning_loss();
        let mut step = self.step;
        while THRESHOLDS.get(step).is_some_and(|&t| loss >= t) {
            step += 1;
        }
        while step > 0 && THRESHOLDS.get(step - 1).is_some_and(|&t| loss < t * DOWN) {
            step -= 1;
        }
        // What is only assumed leaves no trace: the first real estimate finds the ladder where the
        // last one left it.
        if estimate.is_known() {
            self.step = step;
        }
        STEPS.get(step).copied().unwrap_or((20, 1))
    }

    /// Back to the first step.
    pub(crate) fn reset(&mut self) {
        self.step = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(loss: f64) -> Estimate {
        Estimate { loss, mean_burst: 1.0, samples: 1000, rtt: Duration::from_millis(100) }
    }

    #[test]
    fn the_table_of_the_design() {
        for (loss, block) in [
            (0.0, (20, 1)),
            (0.0049, (20, 1)),
            (0.005, (10, 2)),
            (0.01, (10, 4)),
            (0.029, (10, 4)),
            (0.03, (8, 4)),
            (0.05, (6, 4)),
            (0.099, (6, 4)),
            (0.10, (12, 8)),
            (0.9, (12, 8)),
            (f64::NAN, (20, 1)),
            (f64::INFINITY, (12, 8)),
            (-1.0, (20, 1)),
        ] {
            assert_eq!(Ladder::new(None).full_block(&at(loss)), block, "{loss}");
        }
    }

    #[test]
    fn up_at_once_down_only_when_clearly_below() {
        let mut ladder = Ladder::new(None);
        assert_eq!(ladder.full_block(&at(0.031)), (8, 4));
        assert_eq!(ladder.full_block(&at(0.029)), (8, 4));
        assert_eq!(ladder.full_block(&at(0.0211)), (8, 4));
        assert_eq!(ladder.full_block(&at(0.0209)), (10, 4));
        // 0.7 × 3 % left that step; 0.7 × 1 % leaves the next.
        assert_eq!(ladder.full_block(&at(0.0071)), (10, 4));
        assert_eq!(ladder.full_block(&at(0.2)), (12, 8));
        // From the top to the bottom in one go.
        assert_eq!(ladder.full_block(&at(0.0)), (20, 1));
    }

    #[test]
    fn hovering_about_a_threshold_does_not_flap() {
        let mut ladder = Ladder::new(None);
        let mut changes = 0;
        let mut last = ladder.full_block(&at(0.0102));
        for i in 0..100 {
            let block = ladder.full_block(&at(if i % 2 == 0 { 0.0098 } else { 0.0102 }));
            changes += u32::from(block != last);
            last = block;
        }
        assert_eq!(changes, 0);
    }

    #[test]
    fn an_unknown_path_counts_as_three_per_cent_and_that_is_forgotten() {
        let mut ladder = Ladder::new(None);
        assert_eq!(ladder.full_block(&Estimate::UNKNOWN), (8, 4));
        // 2.5 % would not leave the 3 % step had it been reached by measurement.
        assert_eq!(ladder.full_block(&at(0.025)), (10, 4));
    }

    #[test]
    fn stretching_keeps_the_ratio_and_the_bounds() {
        let all = |base| {
            let mut blocks = vec![base];
            while let Some(next) = Ladder::stretched(base, blocks[blocks.len() - 1]) {
                blocks.push(next);
            }
            blocks
        };
        assert_eq!(all((10, 4)), [(10, 4), (20, 8), (40, 16), (80, 32)]);
        assert_eq!(all((12, 8)), [(12, 8), (24, 16), (48, 32), (96, 64)]);
        assert_eq!(all((20, 1)), [(20, 1), (40, 2), (80, 4)]);
        assert_eq!(all((70, 3)), [(70, 3)]);
        assert_eq!(all((10, 40)), [(10, 40)]);
    }

    #[test]
    fn a_fixed_ratio_stays() {
        let fixed = |data, parity| Ladder::new(Some(FixedFec { data, parity }));
        assert_eq!(fixed(10, 3).full_block(&at(0.3)), (10, 3));
        assert_eq!(fixed(255, 255).full_block(&at(0.0)), (MAX_K, MAX_PARITY));
        assert_eq!(fixed(0, 0).full_block(&at(0.0)), (1, 0));
        assert!(fixed(10, 0).is_off() && !fixed(10, 1).is_off() && !Ladder::new(None).is_off());
    }
}
