//! `entrouter-sim report`.

use std::fs;
use std::process::ExitCode;
use std::time::Duration;

use argh::FromArgs;

use super::{again, failed, load, misused, say, unrunnable, verdict};
use crate::link::{LinkConfig, Loss};
use crate::outcome::Outcome;
use crate::report::{Page, Run, render};
use crate::scenario::{self, Scenario};
use crate::stage::{self, RunOptions};

/// Interval of samples.
const SAMPLE: Duration = Duration::from_millis(250);

/// Run a scenario and all its cases, and write one HTML page with plots.
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
}

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
    let mut runs = Vec::new();
    for scenario in &scenarios {
        let options = RunOptions { sample: Some(SAMPLE), ..RunOptions::new(args.seed) };
        match stage::run(scenario, options) {
            Ok(outcome) => runs.push(described(scenario, outcome)),
            Err(error) => return unrunnable(&scenario.full_name(), &error),
        }
    }
    let Some(base) = scenarios.first() else { return misused(&"there is nothing to run") };
    let out = args.out.clone().unwrap_or_else(|| format!("{}.html", base.name));
    let set = again(&args.set);
    let page = Page {
        title: format!("{}: {}", base.name, base.title),
        about: base.about.clone(),
        command: format!("entrouter-sim report {} --seed {}{set}", args.scenario, args.seed),
        runs,
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

/// A run with the parameters of the link that its first workload goes over: of its two directions,
/// the greater.
fn described(scenario: &Scenario, outcome: Outcome) -> Run {
    let link = scenario.workloads.first().and_then(|workload| scenario.links.get(workload.link.0));
    let greater = |of: fn(&LinkConfig) -> Option<f64>| {
        let link = link?;
        [of(&link.forth), of(&link.back)].into_iter().flatten().reduce(f64::max)
    };
    Run {
        case: scenario.case.clone().unwrap_or_else(|| scenario.name.clone()),
        loss_pct: greater(|config| Some(loss_pct(config.loss))),
        rtt_ms: link.map(|link| link.rtt.as_secs_f64() * 1e3),
        rate_mbps: greater(|config| config.rate.map(|rate| rate.mbps)),
        outcome,
    }
}

fn loss_pct(loss: Loss) -> f64 {
    match loss {
        Loss::None => 0.0,
        Loss::Bernoulli { average } | Loss::GilbertElliott { average, .. } => average * 100.0,
    }
}
