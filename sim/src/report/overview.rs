//! The table of all runs.

use super::details::verdict;
use super::html::{Table, escape};
use super::scale::{human, millis, plain};
use super::{Run, System, seeds};
use crate::outcome::{Outcome, WorkloadOutcome};

/// What the table has columns for, beyond what every table has.
#[derive(Debug, Clone, Copy)]
struct Shape {
    seeds: bool,
    systems: bool,
    latency: bool,
}

impl Shape {
    fn of(runs: &[Run]) -> Self {
        let outcomes = || runs.iter().flat_map(|run| run.direct.values().chain([&run.outcome]));
        Self {
            seeds: seeds(runs).len() > 1,
            systems: runs.iter().any(|run| !run.direct.is_empty()),
            latency: outcomes().flat_map(|o| o.workloads.values()).any(|w| w.latency.is_some()),
        }
    }

    fn columns(self) -> Vec<&'static str> {
        let mut columns = vec!["Case", "Verdict", "Workload"];
        columns.extend(self.systems.then_some("Over"));
        columns.push("Loss,<br>%");
        columns.extend(self.seeds.then_some("Seed"));
        columns.extend(["Goodput,<br>Mbit/s", "first<br>15 s", "second<br>half"]);
        if self.latency {
            columns.extend(["Latency<br>p50, ms", "<br>p99", "<br>p99.9"]);
        }
        columns.extend(["On the wire<br>per byte", "Trace"]);
        columns
    }
}

/// One row for each workload of each run over each system.
pub(super) fn table(runs: &[Run]) -> String {
    let shape = Shape::of(runs);
    let mut table = Table::new(shape.columns());
    for (i, run) in runs.iter().enumerate() {
        let name = format!("<a href=\"#run-{i}\">{}</a>", escape(&run.label()));
        let workloads = run.outcome.workloads.keys().map(String::as_str);
        let mut workloads: Vec<Option<&str>> = workloads.map(Some).collect();
        if workloads.is_empty() {
            workloads.push(None);
        }
        for (nth, workload) in workloads.into_iter().enumerate() {
            for system in System::ALL {
                let Some(outcome) = run.of(system) else { continue };
                let place = Place { system, is_first_workload: nth == 0 };
                let named = if place.opens_run() { name.as_str() } else { "" };
                table.row(named, cells(run, outcome, workload, place, shape));
            }
        }
    }
    table.html(if shape.systems { "wide systems" } else { "wide" })
}

#[derive(Debug, Clone, Copy)]
struct Place {
    system: System,
    is_first_workload: bool,
}

impl Place {
    fn opens_run(self) -> bool {
        self.is_first_workload && self.system == System::Relay
    }
}

fn cells(
    run: &Run,
    outcome: &Outcome,
    workload: Option<&str>,
    place: Place,
    shape: Shape,
) -> Vec<String> {
    let found = workload.and_then(|name| outcome.workloads.get(name));
    let once = |text: String| if place.opens_run() { text } else { String::new() };
    // What concerns all workloads of a run stands with the first.
    let by_run = |text: String| if place.is_first_workload { text } else { String::new() };
    let is_relay = place.system == System::Relay;
    let mut cells = vec![if is_relay { once(verdict(outcome)) } else { fate(outcome, found) }];
    cells.push(if is_relay { escape(workload.unwrap_or("–")) } else { String::new() });
    cells.extend(shape.systems.then(|| place.system.name().to_owned()));
    cells.push(once(run.loss_pct.map_or("–".to_owned(), plain)));
    cells.extend(shape.seeds.then(|| once(outcome.seed.to_string())));
    cells.extend(measured(found, shape.latency));
    cells.push(by_run(outcome.wire_per_byte.map_or("–".to_owned(), human)));
    let digits = if shape.systems { 8 } else { 12 };
    let short: String = outcome.trace_hash.chars().take(digits).collect();
    let (hash, short) = (escape(&outcome.trace_hash), escape(&short));
    cells.push(by_run(format!("<code title=\"{hash}\">{short}</code>")));
    cells
}

/// What became of a workload over QUIC, of which nothing is expected.
fn fate(outcome: &Outcome, found: Option<&WorkloadOutcome>) -> String {
    let Some(found) = found else { return "absent".to_owned() };
    let (done, all) = (found.completed, found.connections);
    match outcome.violations.len() {
        _ if done < all => format!("<span class=\"bad\">{done} of {all} done</span>"),
        0 => "done".to_owned(),
        _ => "<span class=\"bad\">violations</span>".to_owned(),
    }
}

/// Goodput and latency.
fn measured(found: Option<&WorkloadOutcome>, with_latency: bool) -> Vec<String> {
    let Some(found) = found else {
        return vec![String::new(); if with_latency { 6 } else { 3 }];
    };
    let rates = [found.goodput_mbps, found.first_15s_mbps, found.second_half_mbps];
    let mut cells: Vec<String> = rates.into_iter().map(human).collect();
    if with_latency {
        let latency = found.latency.as_ref();
        let ms = |v: Option<f64>| v.map_or("–".to_owned(), millis);
        cells.push(ms(latency.map(|l| l.p50_ms)));
        cells.push(ms(latency.map(|l| l.p99_ms)));
        cells.push(ms(latency.map(|l| l.p999_ms)));
    }
    cells
}
