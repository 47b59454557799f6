//! `entrouter-sim report`.

use std::collections::BTreeMap;
use std::fs;
use std::process::ExitCode;
use std::time::Duration;

use argh::FromArgs;

use super::jobs::{Job, run_all};
use super::{again, failed, load, misused, say, stop_on_signal, unrunnable, verdict};
use crate::link::{Burst, LinkConfig, Loss};
use crate::outcome::Outcome;
#[cfg(feature = "compare")]
use crate::quic::Congestion;
use crate::report::{Page, Run, System, render};
use crate::scenario::{self, LinkSpec, Scenario};
use crate::stage::{self, Carrier};

/// Interval of samples.
const SAMPLE: Duration = Duration::from_millis(250);

/// Run a scenario and all its cases, over the relay and, to compare, over one QUIC connection, and
/// write one HTML page with plots.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "report")]
pub(super) struct Args {
    /// name of a built-in scenario (see `list`), or path of a .toml file
    #[argh(positional)]
    scenario: String,
    /// the page (default SCENARIO.html, in the current directory)
    #[argh(option)]
    out: Option<String>,
    /// makes the runs what they are (default 1)
    #[argh(option, default = "1")]
    seed: u64,
    /// another value for a key, such as link.rtt_ms=80; may be given again
    #[argh(option)]
    set: Vec<String>,
    /// leave QUIC out: that is faster
    #[argh(switch)]
    alone: bool,
}

/// What QUIC is run with.
#[cfg(feature = "compare")]
const DIRECT: &[(System, Carrier)] = &[
    (System::QuicBbr, Carrier::Quic(Congestion::Bbr)),
    (System::QuicCubic, Carrier::Quic(Congestion::Cubic)),
];
#[cfg(not(feature = "compare"))]
const DIRECT: &[(System, Carrier)] = &[];

pub(super) fn report(args: &Args) -> ExitCode {
    let names = match scenario::cases(&args.scenario) {
        Ok(names) => names,
        Err(error) => return misused(&error),
    };
    let scenarios: Result<Vec<_>, _> = names.iter().map(|name| load(name, &args.set)).collect();
    let scenarios = match scenarios {
        Ok(scenarios) => scenarios,
        Err(error) => return misused(&error),
    };
    for scenario in &scenarios {
        if let Err(error) = stage::check(scenario, Carrier::Relay) {
            return unrunnable(&scenario.full_name(), &error);
        }
    }
    let (jobs, alone) = jobs(&scenarios, args.alone);
    let stop = match stop_on_signal() {
        Ok(stop) => stop,
        Err(error) => return failed(&error),
    };
    let all: Vec<Job<'_>> = jobs.iter().map(|(_, job)| *job).collect();
    let outcomes = match run_all(&all, args.seed, &stop) {
        Ok(outcomes) => outcomes,
        Err(error) => return failed(&error),
    };
    let mut runs: Vec<Run> = Vec::new();
    for ((system, job), outcome) in jobs.iter().zip(outcomes) {
        match (system, runs.last_mut()) {
            (System::Relay, _) | (_, None) => runs.push(described(job.scenario, outcome)),
            (_, Some(run)) => {
                run.direct.insert(*system, outcome);
            }
        }
    }
    let Some(base) = scenarios.first() else { return misused(&"there is nothing to run") };
    let out = args.out.clone().unwrap_or_else(|| format!("{}.html", base.name));
    let set = again(&args.set);
    let page = Page {
        title: format!("{}: {}", base.name, base.title),
        about: base.about.clone(),
        command: format!(
            "entrouter-sim report {} --seed {}{set}{}",
            args.scenario,
            args.seed,
            if args.alone { " --alone" } else { "" }
        ),
        runs,
        alone,
    };
    let written = render(&page)
        .map_err(|error| error.to_string())
        .and_then(|html| fs::write(&out, html).map_err(|e| format!("cannot write {out}: {e}")));
    if let Err(error) = written {
        return failed(&error);
    }
    let unwell: Vec<_> = page.runs.iter().filter(|run| !run.outcome.is_well()).collect();
    unwell.iter().for_each(|run| say(&format!("{} failed", run.outcome.scenario)));
    say(&format!("{} runs, written to {out}", page.runs.len()));
    verdict(unwell.is_empty())
}

/// The runs of each scenario, the relay's first, and why some are the relay's alone.
fn jobs(scenarios: &[Scenario], alone: bool) -> (Vec<(System, Job<'_>)>, Option<String>) {
    let mut jobs = Vec::new();
    let mut why = None;
    for scenario in scenarios {
        let carrier = Carrier::Relay;
        jobs.push((System::Relay, Job { scenario, carrier, sample: Some(SAMPLE) }));
        for &(system, carrier) in if alone { &[] } else { DIRECT } {
            match stage::check(scenario, carrier) {
                Ok(()) => jobs.push((system, Job { scenario, carrier, sample: None })),
                Err(error) => {
                    why.get_or_insert_with(|| format!("Not compared with QUIC: {error}"));
                }
            }
        }
    }
    (jobs, why)
}

/// A run with the parameters of the way that its first workload goes: of the two directions of each
/// link, the greater.
fn described(scenario: &Scenario, outcome: Outcome) -> Run {
    let path = scenario.workloads.first().map(|workload| &workload.path);
    let links: Vec<_> = path
        .iter()
        .flat_map(|path| &path.links)
        .filter_map(|link| scenario.links.get(link.0))
        .collect();
    // Of each link the greater, of all links together what `join` makes of two.
    let along = |of: fn(&LinkConfig) -> Option<f64>, join: fn(f64, f64) -> f64| {
        let greater = links.iter().filter_map(|link| {
            [of(&link.forth), of(&link.back)].into_iter().flatten().reduce(f64::max)
        });
        greater.reduce(join)
    };
    let either = |a: f64, b: f64| a + b - a * b / 100.0;
    let worst = links.iter().copied().max_by(|a, b| {
        let loss = |link: &LinkSpec| loss_pct(link.forth.loss).max(loss_pct(link.back.loss));
        loss(a).total_cmp(&loss(b))
    });
    Run {
        case: scenario.case.clone().unwrap_or_else(|| scenario.name.clone()),
        loss_pct: along(|config| Some(loss_pct(config.loss)), either),
        rtt_ms: path.map(|path| path.rtt.as_secs_f64() * 1e3),
        rate_mbps: along(|config| config.rate.map(|rate| rate.mbps), f64::min),
        bursts: worst.map_or_else(String::new, |link| bursts(&link.forth, &link.back)),
        outcome,
        direct: BTreeMap::new(),
    }
}

fn loss_pct(loss: Loss) -> f64 {
    match loss {
        Loss::None => 0.0,
        Loss::Bernoulli { average } | Loss::GilbertElliott { average, .. } => average * 100.0,
    }
}

/// How losses bunch in the direction where most is lost.
fn bursts(forth: &LinkConfig, back: &LinkConfig) -> String {
    let worse = if loss_pct(back.loss) > loss_pct(forth.loss) { back } else { forth };
    match worse.loss {
        Loss::GilbertElliott { mean_burst: Burst::Packets(mean), .. } => {
            format!("bursts of {mean} packets")
        }
        Loss::GilbertElliott { mean_burst: Burst::Time(mean), .. } => {
            format!("bursts of {} ms", mean.as_secs_f64() * 1e3)
        }
        Loss::None | Loss::Bernoulli { .. } => String::new(),
    }
}
