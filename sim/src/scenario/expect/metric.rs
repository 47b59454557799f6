//! What an expectation may be about: a number that a run yields, by its name.

use serde::Serialize;
use serde_json::Value;

use super::mesh::{Counter, ROUTES, RouteChanges};
use super::{DELIVERED, Scenario};
use crate::link::LinkCounters;
use crate::outcome::{Latency, Outcome, QueueOutcome, TunnelOutcome, WorkloadOutcome};
use crate::scenario::WorkloadKind;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Metric {
    /// Of the connections of all workloads, those that completed, in percent.
    CompletedPct,
    Violations,
    Packets,
    Seconds,
    WirePerByte,
    Converged,
    QuietKbps,
    Node(Counter),
    Route(RouteChanges),
    Workload {
        name: String,
        field: Field,
    },
    Link {
        name: String,
        field: String,
    },
    Tunnel {
        name: String,
        field: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Field {
    Connections,
    Completed,
    CompletedPct,
    Reset,
    Exchanges,
    BytesUp,
    BytesDown,
    Goodput,
    SecondHalf,
    First15s,
    LongestGap,
    /// A percentile, and what is taken from it: nothing, or the RTT of the path in milliseconds.
    Latency(Percentile, f64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Percentile {
    Min,
    P50,
    P95,
    P99,
    P999,
    Max,
}

const FIELDS: [(&str, Field); 11] = [
    ("connections", Field::Connections),
    ("completed", Field::Completed),
    ("completed_pct", Field::CompletedPct),
    ("reset", Field::Reset),
    ("exchanges", Field::Exchanges),
    ("bytes_up", Field::BytesUp),
    ("bytes_down", Field::BytesDown),
    ("goodput_mbps", Field::Goodput),
    ("second_half_mbps", Field::SecondHalf),
    ("first_15s_mbps", Field::First15s),
    ("longest_gap_ms", Field::LongestGap),
];

const PERCENTILES: [(&str, Percentile); 6] = [
    ("min", Percentile::Min),
    ("p50", Percentile::P50),
    ("p95", Percentile::P95),
    ("p99", Percentile::P99),
    ("p999", Percentile::P999),
    ("max", Percentile::Max),
];

const RUN_WIDE: [(&str, Metric); 7] = [
    ("completed_pct", Metric::CompletedPct),
    ("violations", Metric::Violations),
    ("packets", Metric::Packets),
    ("seconds", Metric::Seconds),
    ("wire_per_byte", Metric::WirePerByte),
    ("converged_s", Metric::Converged),
    ("quiet_kbps", Metric::QuietKbps),
];

/// The one called `text`, of something that the scenario has.
pub(super) fn metric(text: &str, scenario: &Scenario) -> Result<Metric, String> {
    if let Some(rest) = text.strip_prefix("links.") {
        let known = [fields(&LinkCounters::default()), fields(&QueueOutcome::default())].concat();
        let (name, field) = direction(rest, "links", scenario, &known)?;
        return Ok(Metric::Link { name, field });
    }
    if let Some(rest) = text.strip_prefix("tunnels.") {
        let known = fields(&TunnelOutcome::default());
        let (name, field) = direction(rest, "tunnels", scenario, &known)?;
        return Ok(Metric::Tunnel { name, field });
    }
    if let Some(rest) = text.strip_prefix("nodes.") {
        return Counter::parse(rest, scenario).map(Metric::Node);
    }
    if let Some(rest) = text.strip_prefix(ROUTES) {
        return RouteChanges::parse(rest, scenario).map(Metric::Route);
    }
    let Some((name, field)) = text.rsplit_once('.') else { return bare(text, scenario) };
    let workload = scenario.workloads.iter().position(|w| w.name.as_str() == name);
    let workload = workload.ok_or_else(|| {
        let names: Vec<&str> = scenario.workloads.iter().map(|w| w.name.as_str()).collect();
        format!("{text}: there is no workload \"{name}\": name one of {}", names.join(", "))
    })?;
    let field = self::field(field, scenario, workload)?;
    Ok(Metric::Workload { name: name.to_owned(), field })
}

/// A metric without a name before it: of the run, or of the one workload that has it.
fn bare(text: &str, scenario: &Scenario) -> Result<Metric, String> {
    if let Some((_, metric)) = RUN_WIDE.iter().find(|(name, _)| *name == text) {
        return Ok(metric.clone());
    }
    let mut having = (0..scenario.workloads.len()).filter_map(|w| {
        Some((scenario.workloads[w].name.to_string(), field(text, scenario, w).ok()?))
    });
    match (having.next(), having.next()) {
        (Some((name, field)), None) => Ok(Metric::Workload { name, field }),
        (Some((a, _)), Some((b, _))) => {
            Err(format!("{text}: several workloads have it: write {a}.{text} or {b}.{text}"))
        }
        (None, _) => {
            let mut known: Vec<String> =
                RUN_WIDE.iter().map(|(name, _)| (*name).to_owned()).collect();
            known.push(DELIVERED.to_owned());
            let message =
                format!("{text}: the run has no such metric: it has {}", known.join(", "));
            match field(text, scenario, 0) {
                Ok(_) => Err(message),
                Err(of_workload) => Err(format!("{message}; {of_workload}")),
            }
        }
    }
}

fn field(text: &str, scenario: &Scenario, workload: usize) -> Result<Field, String> {
    let workload = &scenario.workloads[workload];
    if let Some((_, field)) = FIELDS.iter().find(|(name, _)| *name == text) {
        return Ok(*field);
    }
    let rtt_ms = workload.path.rtt.as_secs_f64() * 1e3;
    let (percentile, less) = match text.strip_suffix("_over_rtt_ms") {
        Some(percentile) => (percentile, rtt_ms),
        None => (text.strip_suffix("_ms").unwrap_or_default(), 0.0),
    };
    let found = PERCENTILES.iter().find(|(name, _)| *name == percentile);
    match (found, workload.kind) {
        (Some((_, percentile)), WorkloadKind::Request { .. }) => {
            Ok(Field::Latency(*percentile, less))
        }
        (Some(_), _) => {
            Err(format!("{text}: {} makes no requests, so that it has no latency", workload.name))
        }
        (None, _) => {
            let mut known: Vec<&str> = FIELDS.iter().map(|(name, _)| *name).collect();
            known.extend(["p50_ms", "p50_over_rtt_ms (min, p50, p95, p99, p999, max)"]);
            Err(format!("{text}: a workload has {}", known.join(", ")))
        }
    }
}

/// `a>b.FIELD`, where `FIELD` is one of `known`.
fn direction(
    text: &str,
    prefix: &str,
    scenario: &Scenario,
    known: &[String],
) -> Result<(String, String), String> {
    let (name, field) = text.rsplit_once('.').unwrap_or((text, ""));
    let names: Vec<String> = scenario
        .links
        .iter()
        .flat_map(|link| {
            let (a, b) = link.ends;
            [scenario.direction_name(a, b), scenario.direction_name(b, a)]
        })
        .collect();
    if !names.iter().any(|known| known == name) {
        let known = names.join(", ");
        return Err(format!("{prefix}.{text}: there is no \"{name}\": name one of {known}"));
    }
    if !known.iter().any(|known| known == field) {
        return Err(format!("{prefix}.{text}: nothing counts \"{field}\": {}", known.join(", ")));
    }
    Ok((name.to_owned(), field.to_owned()))
}

/// The names that the numbers of `example` have in JSON.
pub(super) fn fields(example: &impl Serialize) -> Vec<String> {
    let value = serde_json::to_value(example).unwrap_or_default();
    value.as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect()
}

/// A number by the name that it has in JSON.
pub(super) fn counter(counters: &impl Serialize, field: &str) -> Option<f64> {
    serde_json::to_value(counters).ok().as_ref().and_then(|v| v.get(field)).and_then(Value::as_f64)
}

impl Metric {
    pub(super) fn of(&self, outcome: &Outcome) -> Option<f64> {
        match self {
            Self::CompletedPct => {
                let sum = |count: fn(&WorkloadOutcome) -> u64| {
                    outcome.workloads.values().map(count).sum::<u64>()
                };
                percent(sum(|w| w.completed), sum(|w| w.connections))
            }
            Self::Violations => Some(outcome.violations.len() as f64),
            Self::Packets => Some(outcome.packets as f64),
            Self::Seconds => Some(outcome.seconds),
            Self::WirePerByte => outcome.wire_per_byte,
            Self::Converged => outcome.converged_s,
            Self::QuietKbps => outcome.quiet_kbps,
            Self::Node(counter) => counter.of(outcome),
            Self::Route(changes) => changes.of(outcome),
            Self::Workload { name, field } => field.of(outcome.workloads.get(name)?),
            Self::Link { name, field } => counter(outcome.links.get(name)?, field)
                .or_else(|| counter(outcome.queues.get(name)?, field)),
            Self::Tunnel { name, field } => counter(outcome.tunnels.get(name)?, field),
        }
    }
}

impl Field {
    fn of(self, outcome: &WorkloadOutcome) -> Option<f64> {
        Some(match self {
            Self::Connections => outcome.connections as f64,
            Self::Completed => outcome.completed as f64,
            Self::CompletedPct => return percent(outcome.completed, outcome.connections),
            Self::Reset => outcome.reset as f64,
            Self::Exchanges => outcome.exchanges as f64,
            Self::BytesUp => outcome.bytes_up as f64,
            Self::BytesDown => outcome.bytes_down as f64,
            Self::Goodput => outcome.goodput_mbps,
            Self::SecondHalf => outcome.second_half_mbps,
            Self::First15s => outcome.first_15s_mbps,
            Self::LongestGap => outcome.longest_gap_ms,
            Self::Latency(percentile, less) => percentile.of(outcome.latency.as_ref()?) - less,
        })
    }
}

impl Percentile {
    fn of(self, latency: &Latency) -> f64 {
        match self {
            Self::Min => latency.min_ms,
            Self::P50 => latency.p50_ms,
            Self::P95 => latency.p95_ms,
            Self::P99 => latency.p99_ms,
            Self::P999 => latency.p999_ms,
            Self::Max => latency.max_ms,
        }
    }
}

fn percent(part: u64, of: u64) -> Option<f64> {
    (of > 0).then(|| 100.0 * part as f64 / of as f64)
}
