//! How long frames waited: counts in buckets of at most a sixteenth of their value.

use std::time::Duration;

/// Buckets to a doubling; as many values from 0 on have a bucket of their own.
const STEPS: u64 = 16;
const STEPS_LOG2: u32 = STEPS.ilog2();
/// Longer waits, in microseconds, are counted as this: 100 s.
const LONGEST: u64 = 100_000_000;
const BUCKETS: usize = bucket(LONGEST) + 1;

const fn bucket(us: u64) -> usize {
    if us < STEPS {
        return us as usize;
    }
    let doublings = us.ilog2() - STEPS_LOG2;
    (doublings as u64 * STEPS + (us >> doublings)) as usize
}

/// The greatest value of a bucket.
fn upper(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < STEPS {
        return bucket;
    }
    let doublings = bucket / STEPS - 1;
    let step = bucket - doublings * STEPS;
    ((step + 1) << doublings) - 1
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Waits {
    counts: Box<[u64; BUCKETS]>,
    total: u64,
    max_us: u64,
}

impl Waits {
    pub(super) fn new() -> Self {
        Self { counts: Box::new([0; BUCKETS]), total: 0, max_us: 0 }
    }

    pub(super) fn add(&mut self, wait: Duration) {
        let us = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX).min(LONGEST);
        if let Some(count) = self.counts.get_mut(bucket(us)) {
            *count += 1;
        }
        self.total += 1;
        self.max_us = self.max_us.max(us);
    }

    /// What `share` of all waits did not exceed, in microseconds; 0 if there were none.
    pub(super) fn quantile(&self, share: f64) -> u64 {
        let rank = (self.total as f64 * share).ceil() as u64;
        let mut below = 0;
        for (at, count) in self.counts.iter().enumerate() {
            below += count;
            if below >= rank {
                return upper(at).min(self.max_us);
            }
        }
        self.max_us
    }

    pub(super) fn max_us(&self) -> u64 {
        self.max_us
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::{BUCKETS, LONGEST, Waits, bucket, upper};

    #[test]
    fn buckets_follow_each_other_and_are_narrow() {
        for at in 1..BUCKETS {
            let (least, most) = (upper(at - 1) + 1, upper(at));
            assert!(bucket(least) == at && bucket(most) == at, "bucket {at}: {least} to {most}");
            assert!((most - least) as f64 <= 0.07 * least as f64);
        }
    }

    #[test]
    fn who_never_waited_has_no_quantiles_and_the_longest_wait_is_bounded() {
        let mut waits = Waits::new();
        assert_eq!((waits.quantile(0.5), waits.max_us()), (0, 0));
        waits.add(Duration::MAX);
        assert_eq!((waits.quantile(0.5), waits.max_us()), (LONGEST, LONGEST));
    }

    proptest! {
        #[test]
        fn quantiles_are_true_to_seven_percent(mut all in vec(0u64..LONGEST, 1..400)) {
            let mut waits = Waits::new();
            for us in &all {
                waits.add(Duration::from_micros(*us));
            }
            all.sort_unstable();
            for share in [0.5, 0.99] {
                let rank = (all.len() as f64 * share).ceil() as usize;
                let (exact, told) = (all[rank - 1], waits.quantile(share));
                prop_assert!(told >= exact && told as f64 <= 1.07 * exact as f64);
            }
            prop_assert_eq!(waits.max_us(), *all.last().unwrap());
        }
    }
}
