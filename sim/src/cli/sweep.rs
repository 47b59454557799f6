//! `entrouter-sim sweep`.

use std::ops::Range;
use std::process::ExitCode;

use argh::FromArgs;

use super::{again, failed, load, misused, say, stop_on_signal, unrunnable, verdict};
use crate::outcome::Outcome;
use crate::stage::{self, Carrier, RunOptions};
use crate::sweep::{Failure, sweep as sweep_seeds};

/// Run a scenario with many seeds, on all cores.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "sweep")]
pub(super) struct Args {
    /// name of a built-in scenario or case (see `list`), or path of a .toml file
    #[argh(positional)]
    scenario: String,
    /// how many seeds (default 100)
    #[argh(option, default = "100")]
    seeds: u64,
    /// the first of them (default 1)
    #[argh(option, default = "1")]
    first_seed: u64,
    /// another value for a key, such as link.loss_pct=20; may be given again
    #[argh(option)]
    set: Vec<String>,
}

pub(super) fn sweep(args: &Args) -> ExitCode {
    let scenario = match load(&args.scenario, &args.set) {
        Ok(scenario) => scenario,
        Err(error) => return misused(&error),
    };
    let Some(seeds) = seeds(args.first_seed, args.seeds) else {
        return misused(&NO_SUCH_SEEDS);
    };
    if let Err(error) = stage::check(&scenario, Carrier::Relay) {
        return unrunnable(&args.scenario, &error);
    }
    let stop = match stop_on_signal() {
        Ok(stop) => stop,
        Err(error) => return failed(&error),
    };
    let one = |seed| match stage::run(&scenario, RunOptions::new(seed)) {
        Ok(outcome) => failures(&outcome),
        Err(error) => vec![error.to_string()],
    };
    let (name, set) = (&args.scenario, again(&args.set));
    let swept = sweep_seeds(seeds, &stop, one, |failure| {
        tell(failure, &format!("run {name} --seed {}{set}", failure.seed));
    });
    summarize(swept.run, args.seeds, swept.failures.len());
    verdict(swept.failures.is_empty() && swept.run == args.seeds)
}

/// What to say if [`seeds`] finds none.
pub(super) const NO_SUCH_SEEDS: &str =
    "--seeds: give 1 or more; the last of them is at most 18446744073709551614";

/// `count` seeds from `first` on, if there are so many.
pub(super) fn seeds(first: u64, count: u64) -> Option<Range<u64>> {
    let end = first.checked_add(count)?;
    (count > 0).then_some(first..end)
}

/// A line for each thing that went wrong.
pub(super) fn failures(outcome: &Outcome) -> Vec<String> {
    let failed = outcome.expectations.iter().filter(|expectation| !expectation.held);
    let failed = failed.map(|failed| format!("{}, found {}", failed.text, failed.found));
    outcome.violations.iter().cloned().chain(failed).collect()
}

/// The failure, and the command that replays it.
pub(super) fn tell(failure: &Failure, replay: &str) {
    let what: String = failure.what.iter().map(|what| format!("\n  {what}")).collect();
    say(&format!("seed {} failed:{what}\n  replay: entrouter-sim {replay}", failure.seed));
}

pub(super) fn summarize(run: u64, of: u64, failed: usize) {
    let early = if run < of { format!(" of {of}, then stopped") } else { String::new() };
    say(&format!("{run} seeds run{early}; {failed} failed"));
}
