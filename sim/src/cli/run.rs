//! `entrouter-sim run`.

use std::fmt::Write;
use std::fs::File;
use std::io::BufWriter;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use argh::FromArgs;

use super::table::{Table, grouped};
use super::{failed, load, misused, say, unrunnable, verdict};
use crate::engine::Trace;
use crate::outcome::{Outcome, WorkloadOutcome};
use crate::scenario::Scenario;
use crate::stage::{self, RunOptions};

/// Run a scenario, and say what came of it.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "run")]
pub(super) struct Args {
    /// name of a built-in scenario or case (see `list`), or path of a .toml file
    #[argh(positional)]
    scenario: String,
    /// makes the run what it is: the same seed gives the same trace hash (default 1)
    #[argh(option, default = "1")]
    seed: u64,
    /// another value for a key, such as link.loss_pct=20; may be given again
    #[argh(option)]
    set: Vec<String>,
    /// write every datagram, drop, timer and action, with its virtual time, to this file
    #[argh(option)]
    trace: Option<String>,
    /// print JSON
    #[argh(switch)]
    json: bool,
    /// with --json: a sample of rates, losses, queues and routes each so many ms of virtual time
    #[argh(option)]
    sample_ms: Option<u64>,
}

pub(super) fn run(args: &Args) -> ExitCode {
    if args.sample_ms.is_some() && !args.json {
        return misused(&"--sample-ms is for --json; for plots there is `report`");
    }
    if args.sample_ms == Some(0) {
        return misused(&"--sample-ms: give 1 or more");
    }
    let scenario = match load(&args.scenario, &args.set) {
        Ok(scenario) => scenario,
        Err(error) => return misused(&error),
    };
    let trace = match open(args.trace.as_deref()) {
        Ok(trace) => trace,
        Err(error) => return failed(&error),
    };
    let sample = args.sample_ms.map(Duration::from_millis);
    let began = Instant::now();
    let options = RunOptions { trace, sample, ..RunOptions::new(args.seed) };
    let outcome = match stage::run(&scenario, options) {
        Ok(outcome) => outcome,
        Err(error) => return unrunnable(&args.scenario, &error),
    };
    if args.json {
        match serde_json::to_string_pretty(&outcome) {
            Ok(text) => say(&text),
            Err(error) => return failed(&error),
        }
    } else {
        say(&told(&scenario, &outcome, began.elapsed()));
    }
    verdict(outcome.is_well())
}

/// A trace into that file, if one is wanted.
pub(super) fn open(path: Option<&str>) -> Result<Trace, String> {
    let Some(path) = path else { return Ok(Trace::new()) };
    let file = File::create(path).map_err(|error| format!("cannot write {path}: {error}"))?;
    Ok(Trace::to(Box::new(BufWriter::with_capacity(1 << 20, file))))
}

fn told(scenario: &Scenario, outcome: &Outcome, took: Duration) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{scenario}\nseed {}, {:.1} s of virtual time in {:.2} s, {} datagrams\n",
        outcome.seed,
        outcome.seconds,
        took.as_secs_f64(),
        grouped(outcome.packets)
    );
    for table in [workloads(outcome), links(outcome), tunnels(outcome)] {
        let _ = writeln!(text, "{}\n", table.text());
    }
    for expected in &outcome.expectations {
        let verdict = if expected.held { "ok    " } else { "FAILED" };
        let _ = writeln!(text, "{verdict}  {}  (found {})", expected.text, expected.found);
    }
    for open in outcome.unfinished.iter().take(10) {
        let _ = writeln!(text, "STILL OPEN  {open}");
    }
    for violation in &outcome.violations {
        let _ = writeln!(text, "VIOLATION  {violation}");
    }
    let _ = write!(text, "trace hash {}", outcome.trace_hash);
    text
}

/// What the applications saw.
pub(super) fn workloads(outcome: &Outcome) -> Table {
    let mut table = Table::new(&HEAD);
    for (name, workload) in &outcome.workloads {
        table.row(workload_row(name, workload));
    }
    table
}

/// Columns of [`workload_row`].
const HEAD: [&str; 12] = [
    "workload",
    "opened",
    "done",
    "reset",
    "B to origin",
    "B to client",
    "Mbit/s",
    "2nd half",
    "exchanges",
    "p50 ms",
    "p99 ms",
    "max ms",
];

fn workload_row(name: &str, workload: &WorkloadOutcome) -> Vec<String> {
    let counts = [
        workload.connections,
        workload.completed,
        workload.reset,
        workload.bytes_up,
        workload.bytes_down,
    ];
    let rates = [workload.goodput_mbps, workload.second_half_mbps];
    let mut row = vec![name.to_owned()];
    row.extend(counts.map(grouped));
    row.extend(rates.map(|mbps| format!("{mbps:.2}")));
    if let Some(latency) = &workload.latency {
        row.push(grouped(workload.exchanges));
        let columns = [latency.p50_ms, latency.p99_ms, latency.max_ms];
        row.extend(columns.map(|ms| format!("{ms:.1}")));
    }
    row
}

fn links(outcome: &Outcome) -> Table {
    let head =
        ["link", "datagrams", "bytes with IP", "lost", "queue full", "other drops", "delivered"];
    let mut table = Table::new(&head);
    for (name, c) in &outcome.links {
        let other = c.too_big + c.cut + c.clog_dropped;
        let columns = [c.offered, c.offered_bytes, c.lost, c.queue_dropped, other, c.delivered];
        let mut row = vec![name.clone()];
        row.extend(columns.map(grouped));
        table.row(row);
    }
    table
}

fn tunnels(outcome: &Outcome) -> Table {
    let head =
        ["tunnel", "symbols", "parity", "recovered", "sent again", "by timeout", "handshakes"];
    let mut table = Table::new(&head);
    for (name, t) in &outcome.tunnels {
        let columns = [
            t.symbols_out,
            t.parity_out,
            t.fec_recovered,
            t.retransmitted,
            t.pto_sent,
            t.handshakes,
        ];
        let mut row = vec![name.clone()];
        row.extend(columns.map(grouped));
        table.row(row);
    }
    table
}
