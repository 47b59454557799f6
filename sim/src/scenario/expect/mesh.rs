//! Metrics of a mesh: what nodes counted, and which way routes led.

use std::time::Duration;

use super::metric::{counter, fields};
use crate::outcome::{NO_WAY, NodeOutcome, Outcome, Route};
use crate::scenario::{PopId, Scenario};

/// What metrics of routes begin with.
pub(super) const ROUTES: &str = "routes.";

/// `NAME.FIELD` or `FIELD`, of one node or of all; with `_after.T`, without what was counted until then.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Counter {
    node: Option<String>,
    field: String,
    /// Milliseconds.
    after: Option<u64>,
}

/// What tells a state and not how often something happened: it grows with nothing.
const STATES: [&str; 4] = ["waiting_bytes", "wait_p50_us", "wait_p99_us", "wait_max_us"];

impl Counter {
    pub(super) fn parse(text: &str, scenario: &Scenario) -> Result<Self, String> {
        let (counter, after) = match text.rsplit_once("_after.") {
            Some((counter, at)) => (counter, Some(time(at, scenario)?)),
            None => (text, None),
        };
        let (node, field) = match counter.rsplit_once('.') {
            Some((node, field)) => (Some(node), field),
            None => (None, counter),
        };
        if let Some(node) = node.filter(|node| scenario.pop(node).is_none()) {
            return Err(format!("nodes.{text}: there is no PoP \"{node}\""));
        }
        let known = fields(&NodeOutcome::default());
        if !known.iter().any(|known| known == field) {
            let known = known.join(", ");
            return Err(format!("nodes.{text}: nothing counts \"{field}\": {known}"));
        }
        if after.is_some() && STATES.contains(&field) {
            return Err(format!("nodes.{text}: {field} is no count: leave _after out"));
        }
        let after = after.map(|at| (at * 1e3).round() as u64);
        Ok(Self { node: node.map(str::to_owned), field: field.to_owned(), after })
    }

    pub(super) fn after(&self) -> Option<Duration> {
        self.after.map(Duration::from_millis)
    }

    pub(super) fn of(&self, outcome: &Outcome) -> Option<f64> {
        let among = |nodes: &std::collections::BTreeMap<String, NodeOutcome>| {
            let found = match &self.node {
                Some(node) => *nodes.get(node)?,
                None => nodes.values().fold(NodeOutcome::default(), |all, node| all.and(node)),
            };
            counter(&found, &self.field)
        };
        let before = match &self.after {
            Some(at) => among(outcome.nodes_at.get(at)?)?,
            None => 0.0,
        };
        Some(among(&outcome.nodes)? - before)
    }
}

/// Seconds within the run.
fn time(text: &str, scenario: &Scenario) -> Result<f64, String> {
    let end = scenario.ends_at.as_secs_f64();
    let at = text.parse().ok().filter(|at| (0.0..=end).contains(at));
    at.ok_or_else(|| format!("\"{text}\" is no time: give seconds, at most {end}"))
}

/// One PoP and another.
#[derive(Debug, Clone, PartialEq)]
struct Pair {
    from: PopId,
    /// As in [`Outcome::routes`].
    name: String,
}

impl Pair {
    /// The pair in `A>B.REST`, and `REST`. Names may have dots, too: of several the longest is meant.
    fn parse<'a>(text: &'a str, scenario: &Scenario) -> Result<(Self, &'a str), String> {
        let problem = || format!("{ROUTES}{text}: write {ROUTES}A>B. with names of two PoPs");
        let (from, rest) = text.split_once('>').ok_or_else(problem)?;
        let from = scenario.pop(from).ok_or_else(problem)?;
        let led_to = scenario.pops.iter().enumerate().filter_map(|(nth, pop)| {
            let rest = rest.strip_prefix(pop.name.as_str())?.strip_prefix('.')?;
            Some((PopId(nth), rest))
        });
        let (to, rest) = led_to
            .min_by_key(|(_, rest)| rest.len())
            .filter(|(to, _)| *to != from)
            .ok_or_else(problem)?;
        Ok((Self { from, name: scenario.direction_name(from, to) }, rest))
    }

    fn ways<'a>(&self, outcome: &'a Outcome) -> Option<&'a [Route]> {
        outcome.routes.get(&self.name).map(Vec::as_slice)
    }
}

/// `A>B.changes`, `A>B.changes_after.T`: how often the way was another, after the first one.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RouteChanges {
    pair: Pair,
    after: f64,
}

impl RouteChanges {
    pub(super) fn parse(text: &str, scenario: &Scenario) -> Result<Self, String> {
        let (pair, field) = Pair::parse(text, scenario)?;
        let after = match field.strip_prefix("changes_after.") {
            Some(at) => time(at, scenario)?,
            None if field == "changes" => 0.0,
            None => {
                let known = "at.SECONDS, changes, changes_after.SECONDS";
                return Err(format!("{ROUTES}{text}: a route has {known}"));
            }
        };
        Ok(Self { pair, after })
    }

    pub(super) fn from(&self) -> PopId {
        self.pair.from
    }

    pub(super) fn of(&self, outcome: &Outcome) -> Option<f64> {
        let changes = self.pair.ways(outcome)?.iter().skip(1);
        Some(changes.filter(|(at, _)| *at > self.after).count() as f64)
    }
}

/// `routes.A>B.at.T`, and the way that it is held against.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RouteAt {
    pair: Pair,
    at: f64,
    way: String,
}

impl RouteAt {
    /// `None` if that is another metric.
    pub(super) fn parse(
        metric: &str,
        way: &str,
        scenario: &Scenario,
    ) -> Option<Result<Self, String>> {
        let (pair, rest) = Pair::parse(metric.strip_prefix(ROUTES)?, scenario).ok()?;
        let at = rest.strip_prefix("at.")?;
        let way = way.trim_matches('"').to_owned();
        let parsed = time(at, scenario).and_then(|at| {
            if way == NO_WAY || leads(&way, &pair, scenario) {
                Ok(Self { pair, at, way })
            } else {
                let name = &pair.name;
                let problem = "is no way between the two: join PoPs that are linked by >";
                Err(format!(
                    "{metric}: \"{way}\" {problem}, as in \"{name}\", or give \"{NO_WAY}\""
                ))
            }
        });
        Some(parsed)
    }

    pub(super) fn from(&self) -> PopId {
        self.pair.from
    }

    pub(super) fn way(&self) -> &str {
        &self.way
    }

    /// The way at that time.
    pub(super) fn of<'a>(&self, outcome: &'a Outcome) -> &'a str {
        let ways = self.pair.ways(outcome).unwrap_or_default();
        ways.iter().rfind(|(at, _)| *at <= self.at).map_or(NO_WAY, |(_, way)| way)
    }
}

/// Whether links lead along `way` from the first of the pair to the second.
fn leads(way: &str, pair: &Pair, scenario: &Scenario) -> bool {
    let Some(pops) = way.split('>').map(|name| scenario.pop(name)).collect::<Option<Vec<_>>>()
    else {
        return false;
    };
    let (Some(first), Some(last)) = (pops.first(), pops.last()) else { return false };
    let linked = |ends: &[PopId]| {
        let [a, b] = *ends else { return false };
        scenario.links.iter().any(|link| link.ends == (a, b) || link.ends == (b, a))
    };
    scenario.direction_name(*first, *last) == pair.name && pops.windows(2).all(linked)
}
