//! What a scenario expects of its outcome: `METRIC OP VALUE`.

mod mesh;
mod metric;

use std::collections::BTreeSet;
use std::time::Duration;

use super::{PopId, Scenario};
use crate::outcome::{ExpectationOutcome, Outcome};
use mesh::RouteAt;
use metric::Metric;

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
    /// The way between two PoPs at a time, or that it is another.
    Route {
        route: RouteAt,
        equal: bool,
    },
    Number {
        metric: Metric,
        op: Op,
        value: f64,
    },
}

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
        } else if let Some(route) = RouteAt::parse(metric, value, scenario) {
            match op {
                Op::Equal => Check::Route { route: route?, equal: true },
                Op::NotEqual => Check::Route { route: route?, equal: false },
                _ => return Err(format!("\"{text}\": write {metric} = \"A>B\", or !=")),
            }
        } else {
            let value: Option<f64> = value.parse().ok().filter(|value: &f64| value.is_finite());
            let value = value.ok_or_else(|| {
                format!("\"{text}\": the value of {metric} is a number, write one")
            })?;
            Check::Number { metric: metric::metric(metric, scenario)?, op, value }
        };
        Ok(Self { text: text.to_owned(), check })
    }
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
            Check::Route { route, equal } => {
                let found = route.of(outcome);
                (found.to_owned(), (found == route.way()) == *equal)
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

/// When a run has to keep what nodes counted.
#[must_use]
pub fn snapshots(scenario: &Scenario) -> BTreeSet<Duration> {
    let after = |expectation: &Expectation| match &expectation.check {
        Check::Number { metric: Metric::Node(counter), .. } => counter.after(),
        _ => None,
    };
    scenario.expect.iter().filter_map(after).collect()
}

/// PoPs whose routes have to be looked at often.
#[must_use]
pub fn watched(scenario: &Scenario) -> BTreeSet<PopId> {
    let mut watched = BTreeSet::new();
    for expectation in &scenario.expect {
        match &expectation.check {
            Check::Route { route, .. } => watched.extend([route.from()]),
            Check::Number { metric: Metric::Route(changes), .. } => {
                watched.extend([changes.from()]);
            }
            Check::Number { metric: Metric::Converged, .. } => {
                watched.extend((0..scenario.pops.len()).map(PopId));
            }
            _ => {}
        }
    }
    watched
}
