//! Which way each node takes to each other, as far as looks at them tell.

use std::collections::BTreeMap;
use std::time::Duration;

use entrouter_proto::status::PathStatus;

use super::queue::Event;
use super::{Engine, HostId};
use crate::outcome::{NO_WAY, Route};
use crate::time::Time;

/// Between two looks at routes, if they are watched; else they are seen when everything is looked at.
const INTERVAL: Duration = Duration::from_millis(100);

/// Every way that was seen, each time it changed.
#[derive(Debug, Default)]
pub(super) struct Routes {
    /// By (from, to).
    found: BTreeMap<(HostId, String), Vec<Route>>,
    /// The ways of each node as they were last seen; one that is gone has no nodes.
    last: BTreeMap<HostId, BTreeMap<String, Vec<String>>>,
}

impl Routes {
    /// The paths of a node, now; none while it is down.
    fn see(&mut self, now: Time, from: HostId, paths: &[PathStatus]) {
        let last = self.last.entry(from).or_default();
        for (to, via) in last.iter_mut().filter(|(_, via)| !via.is_empty()) {
            if !paths.iter().any(|path| path.to == *to) {
                via.clear();
                let ways = self.found.entry((from, to.clone())).or_default();
                ways.push((seconds(now), NO_WAY.to_owned()));
            }
        }
        for path in paths {
            let known = last.get(&path.to);
            if known == Some(&path.via) {
                continue;
            }
            last.insert(path.to.clone(), path.via.clone());
            let ways = self.found.entry((from, path.to.clone())).or_default();
            ways.push((seconds(now), path.via.join(">")));
        }
    }
}

fn seconds(at: Time) -> f64 {
    at.as_nanos() as f64 / 1e9
}

impl Engine {
    /// From now on looks at the routes of these hosts ten times a second, where once is usual.
    pub fn watch_routes(&mut self, hosts: Vec<HostId>) {
        if !hosts.is_empty() && self.watched.is_empty() {
            self.queue.put(self.now + INTERVAL, Event::Routes);
        }
        self.watched = hosts;
    }

    pub(super) fn look_at_watched(&mut self) {
        for nth in 0..self.watched.len() {
            self.look_at_routes(self.watched[nth]);
        }
        if !self.watched.is_empty() {
            self.queue.put(self.now + INTERVAL, Event::Routes);
        }
    }

    fn look_at_routes(&mut self, host: HostId) {
        let status = self.status(host);
        self.see_routes(host, status.as_ref().map_or(&[], |status| &status.paths));
    }

    pub(super) fn see_routes(&mut self, from: HostId, paths: &[PathStatus]) {
        self.routes.see(self.now, from, paths);
    }

    /// See [`Outcome::routes`](crate::outcome::Outcome::routes).
    pub(super) fn routes(&self) -> BTreeMap<String, Vec<Route>> {
        let named = |((from, to), ways): (&(HostId, String), &Vec<Route>)| {
            (format!("{}>{to}", self.hosts[from.0].name), ways.clone())
        };
        self.routes.found.iter().map(named).collect()
    }

    /// See [`Outcome::converged_s`](crate::outcome::Outcome::converged_s).
    pub(super) fn converged(&self) -> Option<f64> {
        let pops = || self.hosts.iter().enumerate().filter(|(_, host)| host.edge.is_none());
        let mut last =
            pops().map(|(_, host)| host).map(|host| seconds(host.born)).fold(0.0, f64::max);
        let started = last;
        for (from, host) in pops() {
            host.core.as_ref()?;
            for (_, to) in pops().filter(|(_, to)| to.name != host.name) {
                let ways = self.routes.found.get(&(HostId(from), to.name.clone()))?;
                let is_way = |way: &Route| way.1 != NO_WAY;
                // Since when there was always one.
                let lost = ways.iter().rposition(|way| !is_way(way)).map_or(0, |nth| nth + 1);
                last = ways.get(lost)?.0.max(last);
            }
        }
        Some(last - started)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(to: &str, via: &[&str]) -> PathStatus {
        let via = via.iter().map(|&name| name.to_owned()).collect();
        PathStatus { to: to.to_owned(), via, ..PathStatus::default() }
    }

    #[test]
    fn a_way_is_told_when_it_changes_goes_and_comes_back() {
        let mut routes = Routes::default();
        let at = |s| Time::ZERO + Duration::from_secs(s);
        let (near, far) = (path("b", &["a", "b"]), path("b", &["a", "c", "b"]));
        let seen = [vec![], vec![near.clone()], vec![near], vec![far.clone()], vec![], vec![far]];
        for (nth, paths) in (0..).zip(&seen) {
            routes.see(at(nth), HostId(0), paths);
        }
        routes.see(at(9), HostId(0), &seen[5]);
        let found = &routes.found[&(HostId(0), "b".to_owned())];
        let expected = [(1.0, "a>b"), (3.0, "a>c>b"), (4.0, NO_WAY), (5.0, "a>c>b")];
        assert_eq!(found[..], expected.map(|(at, way)| (at, way.to_owned())));
    }
}
