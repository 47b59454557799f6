//! Runs a sample through both phases.

use std::time::Duration;

use entrouter_proto::status::Status;

use super::sample::Sample;
use crate::engine::{Engine, Fault, HostId, LinkId, NatConfig, Trace};
use crate::link::{LinkConfig, Loss};
use crate::mesh;
use crate::outcome::Outcome;
use crate::stage::RunError;

/// After the network healed, connections have so long to complete.
const TO_COMPLETE: Duration = Duration::from_secs(120);
/// Then, what is kept of closed connections for late packets has so long to go.
const TO_FORGET: Duration = Duration::from_secs(60);
/// Then it is counted what an idle mesh sends in that time.
const TO_LISTEN: Duration = Duration::from_secs(20);
/// Each node says anew what its links are like, that often if nothing changes, give or take a tenth.
const REFRESH: Duration = Duration::from_secs(60);

/// Runs a sample. What went wrong is among the violations of the outcome.
///
/// # Errors
/// A sample that cannot be set up, which would be a fault of the sampler.
pub fn run(sample: &Sample, trace: Trace) -> Result<Outcome, RunError> {
    let mut engine = set_up(sample, trace)?;
    let mut failures = Vec::new();
    engine.run_until(sample.heals_at);
    heal(&mut engine, sample);
    // The faults of healing happen at that very moment.
    engine.run_until(sample.heals_at + Duration::from_millis(1));
    engine.run(sample.heals_at + TO_COMPLETE);
    for left in engine.unfinished() {
        failures.push(format!("{TO_COMPLETE:?} after the network healed: {left}"));
    }
    if engine.violations().is_empty() && failures.is_empty() {
        failures.extend(go_quiet(&mut engine, sample));
    }
    engine.check();
    engine.trace().finish()?;
    let mut outcome = engine.outcome("chaos");
    let most = sample.max_packets();
    if outcome.packets > most {
        failures.push(format!("{} packets, wanted at most {most}", outcome.packets));
    }
    outcome.violations.append(&mut failures);
    Ok(outcome)
}

fn set_up(sample: &Sample, trace: Trace) -> Result<Engine, RunError> {
    let ends: Vec<_> = sample.links.iter().map(|link| link.ends).collect();
    let configs =
        mesh::configs(sample.seed, &sample.pops, &sample.connectors, &ends, &sample.workloads)?;
    let mut engine = Engine::new(sample.seed, trace);
    for (nth, config) in configs.into_iter().enumerate() {
        let host = HostId(nth);
        let nat = (sample.nat && sample.mobile == Some(host)).then(NatConfig::default);
        let (name, addr) = (config.node_id.to_string(), mesh::addr(host));
        engine.add_host(&name, addr, nat, sample.clocks[nth], mesh::node(config))?;
    }
    let (pops, connectors) = (sample.pops.len(), &sample.connectors);
    mesh::add_connectors(&mut engine, pops, connectors, &sample.workloads, &[])?;
    for link in &sample.links {
        engine.add_link(link.ends, &link.forth, &link.back)?;
    }
    for workload in &sample.workloads {
        engine.add_workload(workload.clone())?;
    }
    for (at, fault) in &sample.faults {
        engine.schedule(*at, fault.clone());
    }
    Ok(engine)
}

/// Every link is as most links are, every host is up, every origin takes connections.
fn heal(engine: &mut Engine, sample: &Sample) {
    let at = sample.heals_at;
    engine.schedule(at, Fault::Heal);
    for (nth, link) in sample.links.iter().enumerate() {
        for (way, config) in [&link.forth, &link.back].into_iter().enumerate() {
            let healthy = LinkConfig {
                rate: config.rate,
                loss: Loss::Bernoulli { average: 0.01 },
                delay: config.delay,
                ..LinkConfig::default()
            };
            let link = LinkId::nth(nth * 2 + way);
            for fault in [Fault::Mend(link), Fault::Release(link), Fault::Change(link, healthy)] {
                engine.schedule(at, fault);
            }
        }
    }
    for host in (0..sample.pops.len()).map(HostId) {
        if engine.core(host).is_none() {
            engine.schedule(at, Fault::Restart(host, 0));
        }
        engine.schedule(at, Fault::Origins { host, refuse: false });
    }
}

/// Nothing is left of connections, everyone has a way to everyone else, and probes, new keys and what
/// keeps the ways known are all that is sent.
fn go_quiet(engine: &mut Engine, sample: &Sample) -> Vec<String> {
    let done = Duration::from_nanos(engine.now().as_nanos());
    engine.run_until(done + TO_FORGET);
    let ways = || (0..sample.links.len() * 2).map(LinkId::nth);
    let before: Vec<u64> = ways().map(|way| engine.counters(way).offered).collect();
    engine.run_until(done + TO_FORGET + TO_LISTEN);
    let most = most_when_idle(sample);
    let mut failures = Vec::new();
    for (way, before) in ways().zip(before) {
        let sent = engine.counters(way).offered - before;
        if sent > most {
            let name = engine.link_name(way);
            let told = format!("{sent} packets in {TO_LISTEN:?}, wanted at most {most}");
            failures.push(format!("an idle mesh sent over {name} {told}"));
        }
    }
    for host in (0..sample.pops.len()).map(HostId) {
        match engine.status(host) {
            Some(status) => leftovers(sample, host, &status, &mut failures),
            None => failures.push(format!("{} is down", sample.pops[host.0].name)),
        }
    }
    failures
}

/// Datagrams that may go one way of a link while we listen.
fn most_when_idle(sample: &Sample) -> u64 {
    let listen = TO_LISTEN.as_secs_f64();
    // A PING and a PONG per interval, which varies by a tenth.
    let probes = listen / sample.probe_interval.as_secs_f64() * 1.2 * 2.0;
    // A handshake and what it makes the ends tell each other.
    let keys = listen / sample.rekey_after.as_secs_f64() * 8.0;
    // What each node says of its links, once if all is as it was, and goes over every link: the frame, a
    // repair, the acknowledgement, and parity by what the link's loss was taken for when all went wrong.
    let refreshes = (TO_LISTEN.as_secs_f64() / REFRESH.mul_f64(0.9).as_secs_f64()).ceil();
    let states = refreshes * sample.pops.len() as f64 * 10.0;
    // And a margin for losses, and for a measurement that is told anew.
    (probes + keys + states + 20.0) as u64
}

/// What a node has that it should not have any more, or lacks.
fn leftovers(sample: &Sample, host: HostId, status: &Status, failures: &mut Vec<String>) {
    let name = &sample.pops[host.0].name;
    let links = &sample.links[..sample.links.len() - sample.connectors.len()];
    let peers = links.iter().filter(|l| l.ends.0 == host || l.ends.1 == host).count();
    if status.peers_up != peers {
        failures.push(format!("{name} has {} of {peers} peers up", status.peers_up));
    }
    for peer in status.peers.iter().filter(|peer| peer.suspect) {
        failures.push(format!("{name} suspects {}", peer.node_id));
    }
    let (flows, bytes) = (status.tcp_flows, status.flow_memory.reserved);
    if (flows, bytes) != (0, 0) {
        failures.push(format!("{name} holds {flows} flows and {bytes} bytes for them"));
    }
    let waiting = status.transit.waiting_bytes;
    if waiting != 0 {
        failures.push(format!("{name} holds {waiting} bytes of others"));
    }
    for to in sample.pops.iter().filter(|to| to.name != *name) {
        // Links join all hosts, so that there is a way.
        match status.paths.iter().find(|path| path.to == to.name) {
            None => failures.push(format!("{name} has no path to {}", to.name)),
            Some(path) if !leads(sample, &path.via, name, &to.name) => {
                failures.push(format!("{name} goes to {} by {:?}", to.name, path.via));
            }
            Some(_) => {}
        }
    }
}

/// Whether links lead along `via` from one host to the other.
fn leads(sample: &Sample, via: &[String], from: &str, to: &str) -> bool {
    let host = |name: &String| sample.pops.iter().position(|pop| pop.name == *name).map(HostId);
    let linked = |pair: &[String]| {
        let (Some(a), Some(b)) = (host(&pair[0]), host(&pair[1])) else { return false };
        sample.links.iter().any(|link| link.ends == (a, b) || link.ends == (b, a))
    };
    via.first().is_some_and(|first| first == from)
        && via.last().is_some_and(|last| last == to)
        && via.windows(2).all(linked)
}
