//! What a scenario expects of its outcome: `METRIC OP VALUE`.

use serde::Serialize;
use serde_json::Value;

use super::{Scenario, WorkloadKind};
use crate::link::LinkCounters;
use crate::outcome::{
    ExpectationOutcome, Latency, Outcome, QueueOutcome, TunnelOutcome, WorkloadOutcome,
};

/// One expectation, of something that the scenario has.
#[derive(Debug, Clone, PartialEq)]
pub struct Expectation {
    text: String,
    check: Check,
}

#[derive(Debug, Clone, PartialEq)]
enum Check {
    /// `delivered = "exact"`, or that it is not.
    Delivered {
        exact: bool,
    },
    Number {
        metric: Metric,
        op: Op,
        value: f64,
    },
}

#[derive(Debug, Clone, PartialEq)]
enum Metric {
    /// Of the connections of all workloads, those that completed, in percent.
    CompletedPct,
    Violations,
    Packets,
    Seconds,
    WirePerByte,
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
enum Field {
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
    /// A percentile, and what is taken from it: nothing, or the RTT of the link in milliseconds.
    Latency(Percentile, f64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Percentile {
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

const RUN_WIDE: [(&str, Metric); 5] = [
    ("completed_pct", Metric::CompletedPct),
    ("violations", Metric::Violations),
    ("packets", Metric::Packets),
    ("seconds", Metric::Seconds),
    ("wire_per_byte", Metric::WirePerByte),
];

const DELIVERED: &str = "delivered";
const EXACT: &str = "exact";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Equal,
    NotEqual,
    AtMost,
    Less,
    AtLeast,
    Greater,
}

impl Op {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "=" => Self::Equal,
            "!=" => Self::NotEqual,
            "<=" => Self::AtMost,
            "<" => Self::Less,
            ">=" => Self::AtLeast,
            ">" => Self::Greater,
            _ => return None,
        })
    }

    fn holds(self, found: f64, value: f64) -> bool {
        match self {
            Self::Equal => found == value,
            // Of what is not a number nothing holds.
            Self::NotEqual => !found.is_nan() && found != value,
            Self::AtMost => found <= value,
            Self::Less => found < value,
            Self::AtLeast => found >= value,
            Self::Greater => found > value,
        }
    }
}

impl Expectation {
    /// As the scenario has it.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn parse(text: &str, scenario: &Scenario) -> Result<Self, String> {
        let parts: Vec<&str> = text.split_whitespace().collect();
        let form = || {
            format!(
                "\"{text}\" is no expectation: write METRIC OP VALUE with spaces between, \
                 OP one of = != <= < >= >"
            )
        };
        let [metric, op, value] = parts.as_slice() else { return Err(form()) };
        let op = Op::parse(op).ok_or_else(form)?;
        let check = if *metric == DELIVERED {
            match (op, value.trim_matches('"')) {
                (Op::Equal, EXACT) => Check::Delivered { exact: true },
                (Op::NotEqual, EXACT) => Check::Delivered { exact: false },
                _ => {
                    return Err(format!(
                        "\"{text}\": write delivered = \"exact\", or != \"exact\""
                    ));
                }
            }
        } else {
            let value: Option<f64> = value.parse().ok().filter(|value: &f64| value.is_finite());
            let value = value.ok_or_else(|| {
                format!("\"{text}\": the value of {metric} is a number, write one")
            })?;
            Check::Number { metric: self::metric(metric, scenario)?, op, value }
        };
        Ok(Self { text: text.to_owned(), check })
    }
}

fn metric(text: &str, scenario: &Scenario) -> Result<Metric, String> {
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
    let rtt_ms = scenario.links[workload.link.0].rtt.as_secs_f64() * 1e3;
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
fn fields(example: &impl Serialize) -> Vec<String> {
    let value = serde_json::to_value(example).unwrap_or_default();
    value.as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect()
}

/// A number by the name that it has in JSON.
fn counter(counters: &impl Serialize, field: &str) -> Option<f64> {
    serde_json::to_value(counters).ok().as_ref().and_then(|v| v.get(field)).and_then(Value::as_f64)
}

/// Holds the expectations of a scenario against what a run of it found; a metric that the outcome
/// does not have fails them.
#[must_use]
pub fn evaluate(scenario: &Scenario, outcome: &Outcome) -> Vec<ExpectationOutcome> {
    let evaluated = scenario.expect.iter().map(|expectation| {
        let (found, held) = match &expectation.check {
            Check::Delivered { exact } => {
                let faults = faults(scenario, outcome);
                let held = faults.is_empty() == *exact;
                (if faults.is_empty() { EXACT.to_owned() } else { faults.join("; ") }, held)
            }
            Check::Number { metric, op, value } => match metric.of(outcome) {
                Some(found) => (shown(found), op.holds(found, *value)),
                None => ("absent".to_owned(), false),
            },
        };
        ExpectationOutcome { text: expectation.text.clone(), found, held }
    });
    evaluated.collect()
}

/// Why the delivery was not exact.
fn faults(scenario: &Scenario, outcome: &Outcome) -> Vec<String> {
    let mut faults = Vec::new();
    if !outcome.violations.is_empty() {
        faults.push(format!("{} violations", outcome.violations.len()));
    }
    for workload in &scenario.workloads {
        let name = workload.name.as_str();
        match outcome.workloads.get(name) {
            None => faults.push(format!("{name} is absent")),
            Some(found) => {
                let planned = workload.opening.times().count() as u64;
                if found.connections < planned {
                    let opened = found.connections;
                    faults.push(format!("{name}: {opened} of {planned} were opened"));
                }
                let open = found.connections.saturating_sub(found.completed + found.reset);
                if open > 0 {
                    faults.push(format!("{name}: {open} of {} did not end", found.connections));
                }
            }
        }
    }
    faults
}

/// At most three decimals, none of them an idle zero.
fn shown(found: f64) -> String {
    let text = format!("{found:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

impl Metric {
    fn of(&self, outcome: &Outcome) -> Option<f64> {
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
