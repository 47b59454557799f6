//! Runs a sample through both phases.

use std::time::Duration;

use super::sample::Sample;
use crate::engine::{Engine, Fault, HostId, LinkId, NatConfig, Trace};
use crate::link::{LinkConfig, Loss};
use crate::mesh;
use crate::outcome::Outcome;
use crate::stage::RunError;

/// Datagrams of a seed, at most.
pub const MAX_PACKETS: u64 = 50_000;

/// After the network healed, connections have so long to complete.
const TO_COMPLETE: Duration = Duration::from_secs(120);
/// Then, what is kept of closed connections for late packets has so long to go.
const TO_FORGET: Duration = Duration::from_secs(60);
/// Then it is counted what an idle mesh sends in that time.
const TO_LISTEN: Duration = Duration::from_secs(20);

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
    if outcome.packets > MAX_PACKETS {
        failures.push(format!("{} packets, wanted at most {MAX_PACKETS}", outcome.packets));
    }
    outcome.violations.append(&mut failures);
    Ok(outcome)
}

fn set_up(sample: &Sample, trace: Trace) -> Result<Engine, RunError> {
    let ends: Vec<_> = sample.links.iter().map(|link| link.ends).collect();
    let configs = mesh::configs(sample.seed, &sample.pops, &ends, &sample.workloads)?;
    let mut engine = Engine::new(sample.seed, trace);
    for (nth, config) in configs.into_iter().enumerate() {
        let host = HostId(nth);
        let nat = (sample.nat && sample.mobile == Some(host)).then(NatConfig::default);
        let (name, addr) = (config.node_id.to_string(), mesh::addr(host));
        engine.add_host(&name, addr, nat, sample.clocks[nth], mesh::node(config))?;
    }
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

/// Nothing is left of connections, and probes and new keys are all that is sent.
fn go_quiet(engine: &mut Engine, sample: &Sample) -> Vec<String> {
    let mut failures = Vec::new();
    let done = Duration::from_nanos(engine.now().as_nanos());
    engine.run_until(done + TO_FORGET);
    let before = engine.packets();
    engine.run_until(done + TO_FORGET + TO_LISTEN);
    let sent = engine.packets() - before;
    // Each way: a PING and a PONG per interval, which varies by a tenth; a handshake and what it
    // makes the ends tell each other; a margin for losses.
    let listen = TO_LISTEN.as_secs_f64();
    let probes = listen / sample.probe_interval.as_secs_f64() * 1.2 * 2.0;
    let keys = listen / sample.rekey_after.as_secs_f64() * 8.0;
    let most = (sample.links.len() * 2) as f64 * (probes + keys + 20.0);
    if sent as f64 > most {
        failures.push(format!("an idle mesh sent {sent} packets in {TO_LISTEN:?}"));
    }
    for host in (0..sample.pops.len()).map(HostId) {
        let name = &sample.pops[host.0].name;
        let Some(status) = engine.status(host) else {
            failures.push(format!("{name} is down"));
            continue;
        };
        let peers = sample.links.iter().filter(|l| l.ends.0 == host || l.ends.1 == host).count();
        if status.peers_up != peers {
            failures.push(format!("{name} has {} of {peers} peers up", status.peers_up));
        }
        let (flows, bytes) = (status.tcp_flows, status.flow_memory.reserved);
        if (flows, bytes) != (0, 0) {
            failures.push(format!("{name} holds {flows} flows and {bytes} bytes for them"));
        }
    }
    failures
}
