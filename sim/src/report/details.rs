//! One run in full: its timeline and everything it counted.

use std::collections::BTreeMap;

use super::html::{Table, arrows, escape};
use super::scale::{bytes, count, human, millis, plain};
use super::{ReportError, Run, timeline};
use crate::outcome::{Outcome, WorkloadOutcome};

/// Violations that are listed; a run that breaks an invariant may break it many times.
const LISTED: usize = 20;
/// Links and tunnels that get a column.
const COLUMNS: usize = 16;

/// The run as a `details` element.
pub(super) fn section(run: &Run, number: usize, open: bool) -> Result<String, ReportError> {
    let outcome = &run.outcome;
    let open = if open { " open" } else { "" };
    let label = escape(&run.label());
    let verdict = verdict(outcome);
    let mut html = format!(
        "<details{open}>\n<summary>{label} · {verdict}</summary>\n\
         <div class=\"run\" id=\"run-{number}\">\n<div>\n"
    );
    match &outcome.series {
        Some(series) => {
            for plot in timeline::panels(run, series) {
                html += &plot.figure()?;
            }
        }
        None => html += "<p class=\"note\">No timeline was recorded for this run.</p>\n",
    }
    html += "</div>\n<div>\n";
    html += &identity(run);
    html += &expectations(outcome);
    html += &workloads(&outcome.workloads);
    html += &tunnels(outcome);
    html += &nodes(outcome);
    html += &links(outcome);
    html += &queues(outcome);
    html += "</div>\n</div>\n</details>\n";
    Ok(html)
}

/// In a few words, how the run ended.
pub(super) fn verdict(outcome: &Outcome) -> String {
    let all = outcome.expectations.len();
    let failed = outcome.expectations.iter().filter(|e| !e.held).count();
    let violations = match outcome.violations.len() {
        0 => String::new(),
        1 => "1 violation".to_owned(),
        n => format!("{n} violations"),
    };
    match (failed, violations.as_str()) {
        (0, "") if all == 0 => "<span class=\"good\">no violation</span>".to_owned(),
        (0, "") => format!("<span class=\"good\">{all} of {all} held</span>"),
        (0, violations) => format!("<span class=\"bad\">{violations}</span>"),
        (_, "") => format!("<span class=\"bad\">{failed} of {all} failed</span>"),
        (_, violations) => {
            format!("<span class=\"bad\">{failed} of {all} failed, {violations}</span>")
        }
    }
}

/// The first `most` items, which are HTML, as list items, and how many more there are.
pub(super) fn listed(items: &[String], most: usize) -> String {
    let mut html: String = items.iter().take(most).map(|i| format!("<li>{i}</li>\n")).collect();
    if items.len() > most {
        html += &format!("<li>and {} more</li>\n", items.len() - most);
    }
    html
}

fn identity(run: &Run) -> String {
    let outcome = &run.outcome;
    let known = |v: Option<f64>, unit: &str| v.map(|v| format!("{} {unit}", plain(v)));
    let link: Vec<String> = [
        known(run.loss_pct, "% loss"),
        known(run.rtt_ms, "ms RTT"),
        known(run.rate_mbps, "Mbit/s"),
    ]
    .into_iter()
    .flatten()
    .chain((!run.bursts.is_empty()).then(|| escape(&run.bursts)))
    .collect();
    let mut html = String::from("<dl class=\"facts\">\n");
    if !link.is_empty() {
        html += &format!("<dt>Link</dt><dd>{}</dd>\n", link.join(", "));
    }
    html += &format!(
        "<dt>Seed</dt><dd>{}</dd>\n<dt>Virtual time</dt><dd>{} s</dd>\n<dt>Datagrams</dt><dd>{}</dd>\n\
         <dt>Trace</dt><dd><code>{}</code></dd>\n</dl>\n",
        outcome.seed,
        human(outcome.seconds),
        count(outcome.packets),
        escape(&outcome.trace_hash)
    );
    html
}

fn expectations(outcome: &Outcome) -> String {
    let mut html = String::new();
    if !outcome.expectations.is_empty() {
        let mut table = Table::new(["Expected", "Found", ""]);
        for e in &outcome.expectations {
            let (class, word) = if e.held { ("good", "held") } else { ("bad", "failed") };
            table.row(
                &format!("<code>{}</code>", escape(&e.text)),
                [escape(&e.found), format!("<span class=\"{class}\">{word}</span>")],
            );
        }
        html += "<h3>Expectations</h3>\n";
        html += &table.html("text");
    }
    if !outcome.violations.is_empty() {
        let violations: Vec<String> = outcome.violations.iter().map(|v| escape(v)).collect();
        let items = listed(&violations, LISTED);
        html += &format!("<h3 class=\"bad\">Violations</h3>\n<ul>\n{items}</ul>\n");
    }
    html
}

/// What a row of a table is called, and how it is read from a column's item.
type Quantity<'a, T> = (&'a str, fn(&T) -> String);

/// A table with one column per item of a map, and one row per quantity.
fn columns<T>(
    title: &str,
    of: &BTreeMap<String, T>,
    name: impl Fn(&str) -> String,
    rows: &[Quantity<'_, T>],
) -> String {
    if of.is_empty() {
        return String::new();
    }
    let shown = || of.iter().take(COLUMNS);
    let names: Vec<String> = shown().map(|(key, _)| name(key)).collect();
    let mut table = Table::new([""].into_iter().chain(names.iter().map(String::as_str)));
    for (quantity, text) in rows {
        table.row(quantity, shown().map(|(_, item)| text(item)));
    }
    let more = match of.len().saturating_sub(COLUMNS) {
        0 => String::new(),
        n => format!("<p class=\"note\">{n} more are not shown.</p>\n"),
    };
    format!("<h3>{title}</h3>\n{}{more}", table.html("columns"))
}

fn latency(workload: &WorkloadOutcome, pick: fn(&crate::outcome::Latency) -> f64) -> String {
    workload.latency.as_ref().map_or_else(|| "–".to_owned(), |l| millis(pick(l)))
}

fn workloads(workloads: &BTreeMap<String, WorkloadOutcome>) -> String {
    columns(
        "Workloads",
        workloads,
        escape,
        &[
            ("Connections", |w| count(w.connections)),
            ("completed", |w| count(w.completed)),
            ("reset", |w| count(w.reset)),
            ("Bytes to origins", |w| bytes(w.bytes_up)),
            ("Bytes to clients", |w| bytes(w.bytes_down)),
            ("Exchanges", |w| count(w.exchanges)),
            ("Goodput, Mbit/s", |w| human(w.goodput_mbps)),
            ("first 15 s, Mbit/s", |w| human(w.first_15s_mbps)),
            ("second half, Mbit/s", |w| human(w.second_half_mbps)),
            ("Longest gap, ms", |w| millis(w.longest_gap_ms)),
            ("Latency min, ms", |w| latency(w, |l| l.min_ms)),
            ("p50, ms", |w| latency(w, |l| l.p50_ms)),
            ("p95, ms", |w| latency(w, |l| l.p95_ms)),
            ("p99, ms", |w| latency(w, |l| l.p99_ms)),
            ("p99.9, ms", |w| latency(w, |l| l.p999_ms)),
            ("max, ms", |w| latency(w, |l| l.max_ms)),
        ],
    )
}

/// `part` per `whole`, in percent.
fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { "–".to_owned() } else { human(part as f64 / whole as f64 * 100.0) }
}

fn tunnels(outcome: &Outcome) -> String {
    columns(
        "Tunnels",
        &outcome.tunnels,
        arrows,
        &[
            ("Sent", |t| bytes(t.bytes_out)),
            ("Datagrams", |t| count(t.packets_out)),
            ("Source symbols", |t| count(t.symbols_out)),
            ("Parity, %", |t| percent(t.parity_out, t.symbols_out)),
            ("Sent again, %", |t| percent(t.retransmitted, t.symbols_out)),
            ("by probe timeout, %", |t| percent(t.pto_sent, t.symbols_out)),
            ("Recovered by FEC", |t| count(t.fec_recovered)),
            ("Arrived twice", |t| count(t.duplicates_in)),
            ("Handshakes", |t| count(t.handshakes)),
        ],
    )
}

/// What nodes relayed, if any relayed anything, and what became of routes.
fn nodes(outcome: &Outcome) -> String {
    if outcome.nodes.len() < 3 {
        return String::new();
    }
    columns(
        "Nodes",
        &outcome.nodes,
        escape,
        &[
            ("Frames relayed", |n| count(n.transit_frames)),
            ("bytes of them", |n| bytes(n.transit_bytes)),
            ("marked", |n| count(n.marked)),
            ("Waiting time, median, ms", |n| human(n.wait_p50_us as f64 / 1e3)),
            ("99th percentile, ms", |n| human(n.wait_p99_us as f64 / 1e3)),
            ("greatest, ms", |n| human(n.wait_max_us as f64 / 1e3)),
            ("Dropped, queue full", |n| count(n.dropped_full)),
            ("no way on", |n| count(n.dropped_no_way)),
            ("too many relays", |n| count(n.dropped_hops)),
            ("too old", |n| count(n.dropped_old)),
            ("Sent another way", |n| count(n.moved)),
            ("Sent again end to end", |n| bytes(n.resent_bytes)),
            ("Route changes", |n| count(n.route_changes)),
            ("Neighbours suspected", |n| count(n.suspected)),
        ],
    )
}

fn links(outcome: &Outcome) -> String {
    columns(
        "Links",
        &outcome.links,
        arrows,
        &[
            ("Packets offered", |l| count(l.offered)),
            ("delivered", |l| count(l.delivered)),
            ("lost at random, %", |l| percent(l.lost, l.offered)),
            ("dropped by the queue, %", |l| percent(l.queue_dropped, l.offered)),
            ("above the MTU", |l| count(l.too_big)),
            ("duplicated", |l| count(l.duplicated)),
            ("corrupted", |l| count(l.corrupted)),
            ("held back", |l| count(l.held_back)),
            ("Bytes offered", |l| bytes(l.offered_bytes)),
        ],
    )
}

fn queues(outcome: &Outcome) -> String {
    columns(
        "Before the bottleneck",
        &outcome.queues,
        arrows,
        &[
            ("Waiting time, median, ms", |q| human(q.queue_p50_ms)),
            ("99th percentile, ms", |q| human(q.queue_p99_ms)),
            ("after 10 s, median, ms", |q| human(q.settled_queue_p50_ms)),
            ("after 10 s, 99th percentile, ms", |q| human(q.settled_queue_p99_ms)),
            ("Busiest second, Mbit/s", |q| human(q.busiest_second_mbps)),
        ],
    )
}
