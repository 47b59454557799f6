//! `entrouter-sim compare`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use argh::FromArgs;

use super::jobs::{Job, run_all};
use super::table::{Table, grouped};
use super::{failed, load, misused, say, stop_on_signal, unrunnable, verdict};
use crate::outcome::{Outcome, WorkloadOutcome};
use crate::quic::Congestion;
use crate::stage::{self, Carrier};

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
    if let Err(error) = stage::check(&scenario, Carrier::Relay) {
        return unrunnable(&args.scenario, &error);
    }
    let stop = match stop_on_signal() {
        Ok(stop) => stop,
        Err(error) => return failed(&error),
    };
    let jobs = CARRIERS.map(|(_, carrier)| Job { scenario: &scenario, carrier, sample: None });
    let outcomes = match run_all(&jobs, args.seed, &stop) {
        Ok(outcomes) => outcomes,
        Err(error) => return failed(&error),
    };
    let outcomes: Vec<_> = CARRIERS.iter().map(|(name, _)| *name).zip(outcomes).collect();
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
    let latent =
        outcomes.iter().flat_map(|(_, o)| o.workloads.values()).any(|w| w.latency.is_some());
    let mut head = HEAD.to_vec();
    if latent {
        head.extend(LATENCY_HEAD);
    }
    let mut table = Table::new(&head);
    for workload in outcomes.iter().take(1).flat_map(|(_, outcome)| outcome.workloads.keys()) {
        for (name, outcome) in outcomes {
            if let Some(found) = outcome.workloads.get(workload) {
                table.row(row(&format!("{workload} {name}"), found, outcome.wire_per_byte));
            }
        }
    }
    table
}

/// Columns of [`row`]; those of workloads that make requests follow. What is on the wire is all
/// workloads' together.
const HEAD: [&str; 9] = [
    "workload",
    "opened",
    "done",
    "B to origin",
    "B to client",
    "Mbit/s",
    "first 15 s",
    "2nd half",
    "on the wire per byte",
];
const LATENCY_HEAD: [&str; 5] = ["exchanges", "p50 ms", "p99 ms", "p99.9 ms", "max ms"];

fn row(name: &str, found: &WorkloadOutcome, wire_per_byte: Option<f64>) -> Vec<String> {
    let counts = [found.connections, found.completed, found.bytes_up, found.bytes_down];
    let rates = [found.goodput_mbps, found.first_15s_mbps, found.second_half_mbps];
    let mut row = vec![name.to_owned()];
    row.extend(counts.map(grouped));
    row.extend(rates.map(|mbps| format!("{mbps:.2}")));
    row.push(wire_per_byte.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")));
    if let Some(latency) = &found.latency {
        row.push(grouped(found.exchanges));
        let columns = [latency.p50_ms, latency.p99_ms, latency.p999_ms, latency.max_ms];
        row.extend(columns.map(|ms| format!("{ms:.1}")));
    }
    row
}
