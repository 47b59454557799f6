//! Several runs at once, for commands that show them beside each other.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::outcome::Outcome;
use crate::scenario::Scenario;
use crate::stage::{self, Carrier, RunOptions};
use crate::sweep::sweep;

/// One run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Job<'a> {
    pub(super) scenario: &'a Scenario,
    pub(super) carrier: Carrier,
    /// Interval of [`Outcome::series`], if that is wanted.
    pub(super) sample: Option<Duration>,
}

/// What came of each job, in their order; on all cores, with a bar on a terminal.
///
/// # Errors
/// What to say if one of them did not come to its end, or `stop` was set before all had begun.
pub(super) fn run_all(
    jobs: &[Job<'_>],
    seed: u64,
    stop: &AtomicBool,
) -> Result<Vec<Outcome>, String> {
    let found = Mutex::new(BTreeMap::new());
    let one = |nth: u64| {
        let Some(job) = usize::try_from(nth).ok().and_then(|nth| jobs.get(nth)) else {
            return Vec::new();
        };
        let options =
            RunOptions { sample: job.sample, carrier: job.carrier, ..RunOptions::new(seed) };
        match stage::run(job.scenario, options) {
            Ok(outcome) => {
                found.lock().unwrap_or_else(|broken| broken.into_inner()).insert(nth, outcome);
                Vec::new()
            }
            Err(error) => vec![format!("{}: {error}", job.scenario.full_name())],
        }
    };
    let swept = sweep(0..jobs.len() as u64, stop, one, |_| {});
    if let Some(what) = swept.failures.into_iter().flat_map(|failure| failure.what).next() {
        return Err(what);
    }
    let found = found.into_inner().unwrap_or_else(|broken| broken.into_inner());
    if found.len() < jobs.len() {
        return Err(format!("stopped after {} of {} runs", found.len(), jobs.len()));
    }
    Ok(found.into_values().collect())
}
