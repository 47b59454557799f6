//! `entrouter-sim compare`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use argh::FromArgs;

use super::run::{HEAD, workload_row};
use super::table::Table;
use super::{failed, load, misused, say, verdict};
use crate::outcome::Outcome;
use crate::quic::Congestion;
use crate::stage::{self, Carrier, RunOptions};

/// Run the same workload over the relay and, as what a user would do without it, over one QUIC
/// connection (quinn-proto, with CUBIC and with BBR) on the same simulated link.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "compare")]
pub(super) struct Args {
    /// name of a built-in scenario or case (see `list`), or path of a .toml file
    #[argh(positional)]
    scenario: String,
    /// makes the runs what they are (default 1)
    #[argh(option, default = "1")]
    seed: u64,
    /// another value for a key, such as link.loss_pct=20; may be given again
    #[argh(option)]
    set: Vec<String>,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

const CARRIERS: [(&str, Carrier); 3] = [
    ("relay", Carrier::Relay),
    ("quic-cubic", Carrier::Quic(Congestion::Cubic)),
    ("quic-bbr", Carrier::Quic(Congestion::Bbr)),
];

pub(super) fn compare(args: &Args) -> ExitCode {
    let scenario = match load(&args.scenario, &args.set) {
        Ok(scenario) => scenario,
        Err(error) => return misused(&error),
    };
    if let Err(error) = stage::quic_ends(&scenario) {
        return misused(&error);
    }
    let mut outcomes: Vec<(&str, Outcome)> = Vec::new();
    for (name, carrier) in CARRIERS {
        let options = RunOptions { carrier, ..RunOptions::new(args.seed) };
        match stage::run(&scenario, options) {
            Ok(outcome) => outcomes.push((name, outcome)),
            Err(error) => return failed(&error),
        }
    }
    if args.json {
        let by_name: BTreeMap<_, _> = outcomes.iter().cloned().collect();
        match serde_json::to_string_pretty(&by_name) {
            Ok(text) => say(&text),
            Err(error) => return failed(&error),
        }
    } else {
        say(&format!("{scenario}\nseed {}\n\n{}\n", args.seed, table(&outcomes).text()));
        for (name, outcome) in &outcomes {
            outcome.violations.iter().for_each(|what| say(&format!("VIOLATION  {name}: {what}")));
            let (seconds, hash) = (outcome.seconds, &outcome.trace_hash);
            say(&format!("{name}: {seconds:.1} s of virtual time, trace hash {hash}"));
        }
    }
    // What the others do is what there is to see.
    verdict(outcomes.iter().take(1).all(|(_, outcome)| outcome.violations.is_empty()))
}

/// Workload by workload, one carrier below the other.
fn table(outcomes: &[(&str, Outcome)]) -> Table {
    let mut table = Table::new(&HEAD);
    for workload in outcomes.iter().take(1).flat_map(|(_, outcome)| outcome.workloads.keys()) {
        for (name, outcome) in outcomes {
            if let Some(found) = outcome.workloads.get(workload) {
                table.row(workload_row(&format!("{workload} {name}"), found));
            }
        }
    }
    table
}
