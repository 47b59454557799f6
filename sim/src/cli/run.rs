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
    // Between two PoPs there is nothing to relay, and one way.
    if scenario.pops.len() > 2 {
        for table in [nodes(outcome), routes(scenario, outcome)] {
            let _ = writeln!(text, "{}\n", table.text());
        }
        if let Some(converged) = outcome.converged_s {
            let _ = writeln!(text, "converged {converged:.1} s after the last start\n");
        }
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

/// What was relayed for others, and what became of routes.
fn nodes(outcome: &Outcome) -> Table {
    let head = [
        "node",
        "relayed",
        "marked",
        "full",
        "no way",
        "hops",
        "old",
        "moved",
        "wait p99 ms",
        "sent again",
        "routes changed",
        "suspected",
    ];
    let mut table = Table::new(&head);
    for (name, n) in &outcome.nodes {
        let relayed = [
            n.transit_frames,
            n.marked,
            n.dropped_full,
            n.dropped_no_way,
            n.dropped_hops,
            n.dropped_old,
            n.moved,
        ];
        let mut row = vec![name.clone()];
        row.extend(relayed.map(grouped));
        row.push(format!("{:.1}", n.wait_p99_us as f64 / 1e3));
        row.extend([n.resent_bytes, n.route_changes, n.suspected].map(grouped));
        table.row(row);
    }
    table
}

/// Routes between the ends of a workload, and those that changed, up to so many.
const ROUTES: usize = 16;
/// Of one route the first changes.
const CHANGES: usize = 8;

fn routes(scenario: &Scenario, outcome: &Outcome) -> Table {
    let ends: Vec<_> =
        scenario.workloads.iter().map(|w| scenario.direction_name(w.from, w.to)).collect();
    let mut shown: Vec<_> = outcome
        .routes
        .iter()
        .filter(|(pair, ways)| ends.contains(pair) || ways.len() > 1)
        .collect();
    let all = shown.len();
    shown.sort_by_key(|(pair, _)| !ends.contains(pair));
    let mut table = Table::new(&["route", "changes", "way, and since when"]);
    for (pair, ways) in shown.into_iter().take(ROUTES) {
        let told = ways.iter().take(CHANGES).map(|(at, way)| format!("{way} {at:.1} s"));
        let more = if ways.len() > CHANGES { ", …" } else { "" };
        let told = format!("{}{more}", told.collect::<Vec<_>>().join(", "));
        table.row(vec![pair.clone(), grouped(ways.len().saturating_sub(1) as u64), told]);
    }
    if all > ROUTES {
        table.row(vec![format!("and {} more", all - ROUTES)]);
    }
    table
}
