//! `entrouter-sim chaos`.

use std::process::ExitCode;

use argh::FromArgs;

use super::run::{open, workloads};
use super::sweep::{NO_SUCH_SEEDS, failures, seeds, summarize, tell};
use super::{failed, misused, say, stop_on_signal, verdict};
use crate::chaos::{Sample, run};
use crate::engine::Trace;
use crate::sweep::sweep;

/// Sample whole worlds from seeds (mesh, links, traffic, faults, configuration) and check everything
/// that must hold, on all cores. One seed alone is shown before it is run.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "chaos")]
pub(super) struct Args {
    /// how many seeds (default 100)
    #[argh(option, default = "100")]
    seeds: u64,
    /// the first of them (default 1)
    #[argh(option, default = "1")]
    first_seed: u64,
    /// of one seed: write every datagram, drop, timer and action to this file
    #[argh(option)]
    trace: Option<String>,
}

pub(super) fn chaos(args: &Args) -> ExitCode {
    let Some(seeds) = seeds(args.first_seed, args.seeds) else {
        return misused(&NO_SUCH_SEEDS);
    };
    if args.seeds == 1 {
        return one(args.first_seed, args.trace.as_deref());
    }
    if args.trace.is_some() {
        return misused(&"--trace: one seed at a time can be traced, with --seeds 1");
    }
    let stop = match stop_on_signal() {
        Ok(stop) => stop,
        Err(error) => return failed(&error),
    };
    let one = |seed| match run(&Sample::new(seed), Trace::new()) {
        Ok(outcome) => failures(&outcome),
        Err(error) => vec![error.to_string()],
    };
    let swept = sweep(seeds, &stop, one, |failure| {
        say(&Sample::new(failure.seed).to_string());
        tell(failure, &format!("chaos --seeds 1 --first-seed {}", failure.seed));
    });
    summarize(swept.run, args.seeds, swept.failures.len());
    verdict(swept.failures.is_empty() && swept.run == args.seeds)
}

fn one(seed: u64, trace: Option<&str>) -> ExitCode {
    let trace = match open(trace) {
        Ok(trace) => trace,
        Err(error) => return failed(&error),
    };
    let sample = Sample::new(seed);
    say(&format!("{sample}\n"));
    let outcome = match run(&sample, trace) {
        Ok(outcome) => outcome,
        Err(error) => return failed(&error),
    };
    say(&format!("{}\n", workloads(&outcome).text()));
    outcome.violations.iter().for_each(|violation| say(&format!("VIOLATION  {violation}")));
    say(&format!("{} datagrams, {:.1} s of virtual time", outcome.packets, outcome.seconds));
    say(&format!("trace hash {}", outcome.trace_hash));
    verdict(outcome.is_well())
}
