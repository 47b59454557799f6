//! Puts a scenario on the stage: its PoPs, links, traffic and events into an engine, and its outcome
//! held against what it expects.

use std::time::Duration;

use entrouter_proto::config::ConfigErrors;
#[cfg(feature = "compare")]
use entrouter_proto::config::HostPort;

#[cfg(feature = "compare")]
use crate::engine::MakeCore;
use crate::engine::{Engine, Fault, HostId, LinkId, NatConfig, Rebind, SetupError, Trace};
use crate::link::LinkConfig;
use crate::mesh;
use crate::outcome::Outcome;
use crate::scenario::{
    self, ClockOffset, EventKind, Opening, Origin, OriginState, RebindKind, Scenario, Way,
    WorkloadKind,
};
use crate::seed::Seed;
#[cfg(feature = "compare")]
use crate::traffic::TARGET_PORT;
use crate::traffic::{Amount, Arrivals, Habits, Kind, Plan, Workload};

/// What carries the connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Carrier {
    /// Entrouter Line.
    #[default]
    Relay,
    /// One QUIC connection in place of the tunnel.
    #[cfg(feature = "compare")]
    Quic(crate::quic::Congestion),
}

/// How a scenario is run.
#[derive(Debug)]
pub struct RunOptions {
    /// Makes the run what it is.
    pub seed: Seed,
    /// Where to trace to.
    pub trace: Trace,
    /// Interval of [`Outcome::series`], if that is wanted.
    pub sample: Option<Duration>,
    /// What carries the connections.
    pub carrier: Carrier,
}

impl RunOptions {
    /// Without samples and text.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let carrier = Carrier::default();
        Self { seed: Seed::new(seed), trace: Trace::new(), sample: None, carrier }
    }
}

/// Why a scenario cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A PoP does not take what `[config]` says.
    #[error("[config]: {0}")]
    Config(#[from] ConfigErrors),
    /// One connection leads from one place to one other.
    #[error(
        "{0} cannot go over one QUIC connection: it needs two PoPs, and all clients at one of them"
    )]
    NotOneWay(String),
    /// The engine cannot be set up.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The trace could not be written.
    #[error("the trace: {0}")]
    Trace(#[from] std::io::Error),
}

/// Whether a scenario can be run at all.
///
/// # Errors
/// If it cannot be set up.
pub fn check(scenario: &Scenario, carrier: Carrier) -> Result<(), RunError> {
    set_up(scenario, RunOptions { carrier, ..RunOptions::new(0) }).map(|_| ())
}

/// Runs a scenario to its end.
///
/// # Errors
/// If it cannot be set up, or its trace cannot be written.
pub fn run(scenario: &Scenario, options: RunOptions) -> Result<Outcome, RunError> {
    let sample = options.sample;
    let mut engine = set_up(scenario, options)?;
    if let Some(interval) = sample {
        engine.sample(interval);
    }
    for at in scenario::snapshots(scenario) {
        engine.snapshot(at);
    }
    engine.watch_routes(scenario::watched(scenario).into_iter().map(host).collect());
    engine.run(scenario.ends_at);
    let quiet_kbps = if engine.is_done() { keep_quiet(&mut engine, scenario) } else { None };
    engine.check();
    engine.trace().finish()?;
    let mut outcome = engine.outcome(&scenario.full_name());
    outcome.wire_per_byte = wire_per_byte(scenario, &outcome);
    outcome.quiet_kbps = quiet_kbps;
    outcome.expectations = scenario::evaluate(scenario, &outcome);
    Ok(outcome)
}

/// Is anything said or kept that should not be? See [`Outcome::quiet_kbps`].
fn keep_quiet(engine: &mut Engine, scenario: &Scenario) -> Option<f64> {
    let done = Duration::from_nanos(engine.now().as_nanos());
    let rest = scenario.quiet / 2;
    // It may be an hour, and nothing depends on when exactly a route changes meanwhile.
    engine.watch_routes(Vec::new());
    let offered = |engine: &Engine| {
        let both = |nth| {
            let ways = ways(scenario::LinkId(nth), Way::Both);
            ways.map(|way| engine.counters(way).offered_bytes).sum::<u64>()
        };
        (0..scenario.links.len()).map(both).collect::<Vec<_>>()
    };
    engine.run_until(done + scenario.quiet - rest);
    let before = offered(engine);
    engine.run_until(done + scenario.quiet);
    let grown = offered(engine).into_iter().zip(before).map(|(now, before)| now - before);
    let most = grown.max().filter(|_| !rest.is_zero())?;
    Some(most as f64 * 8.0 / 1e3 / rest.as_secs_f64())
}

/// See [`Outcome::wire_per_byte`]. Where there are more PoPs, payload may cross several links.
fn wire_per_byte(scenario: &Scenario, outcome: &Outcome) -> Option<f64> {
    let [link] = scenario.links.as_slice() else { return None };
    if scenario.pops.len() != 2 {
        return None;
    }
    let offered = |&(from, to): &(scenario::PopId, scenario::PopId)| {
        let counters = outcome.links.get(&scenario.direction_name(from, to));
        counters.map_or(0, |counters| counters.offered_bytes)
    };
    let ways = [link.ends, (link.ends.1, link.ends.0)];
    let way = ways.into_iter().max_by_key(offered)?;
    let payload: u64 = scenario
        .workloads
        .iter()
        .filter(|w| w.from != w.to)
        .filter_map(|w| Some((w, outcome.workloads.get(w.name.as_str())?)))
        .map(|(w, found)| if w.from == way.0 { found.bytes_up } else { found.bytes_down })
        .sum();
    (payload > 0).then(|| offered(&way) as f64 / payload as f64)
}

fn set_up(scenario: &Scenario, options: RunOptions) -> Result<Engine, RunError> {
    let workloads: Vec<_> = scenario.workloads.iter().map(workload).collect();
    let mut engine = Engine::new(options.seed, options.trace);
    match options.carrier {
        Carrier::Relay => relays(scenario, options.seed, &workloads, &mut engine)?,
        #[cfg(feature = "compare")]
        Carrier::Quic(congestion) => quic(scenario, congestion, &workloads, &mut engine)?,
    }
    for link in &scenario.links {
        let ends = (host(link.ends.0), host(link.ends.1));
        engine.add_link(ends, &link.forth, &link.back)?;
    }
    for workload in workloads {
        engine.add_workload(workload)?;
    }
    for event in &scenario.events {
        for fault in faults(&event.what) {
            engine.schedule(event.at, fault);
        }
    }
    Ok(engine)
}

fn relays(
    scenario: &Scenario,
    seed: Seed,
    workloads: &[Workload],
    engine: &mut Engine,
) -> Result<(), RunError> {
    let pops = scenario.pops.iter().enumerate();
    let pops: Vec<_> = pops
        .filter(|(_, pop)| pop.connector.is_none())
        .map(|(nth, pop)| mesh::Pop {
            name: pop.name.to_string(),
            hidden: pop.nat,
            config: scenario.config_of(scenario::PopId(nth)),
        })
        .collect();
    let links = scenario.links.iter().map(|link| (host(link.ends.0), host(link.ends.1)));
    let links: Vec<_> = links.collect();
    let connector = |pop: &scenario::Pop| {
        let connector = pop.connector?;
        Some(mesh::Connector {
            name: pop.name.to_string(),
            edge: host(connector.edge),
            connections: connector.connections,
            early_data: connector.early_data,
        })
    };
    // They come behind the PoPs.
    let connectors: Vec<_> = scenario.pops.iter().filter_map(connector).collect();
    let clocks: Vec<_> =
        scenario.pops[pops.len()..].iter().map(|pop| nanos(pop.clock_offset)).collect();
    let configs = mesh::configs(seed, &pops, &connectors, &links, workloads)?;
    for (nth, (config, pop)) in configs.into_iter().zip(&scenario.pops).enumerate() {
        let nat = pop.nat.then(NatConfig::default);
        let ahead = nanos(pop.clock_offset);
        let addr = mesh::addr(HostId(nth));
        engine.add_host(pop.name.as_str(), addr, nat, ahead, mesh::node(config))?;
    }
    mesh::add_connectors(engine, pops.len(), &connectors, workloads, &clocks)?;
    Ok(())
}

/// Where the clients of a scenario are and where its origins, if one QUIC connection can carry it.
#[cfg(feature = "compare")]
pub(crate) fn quic_ends(
    scenario: &Scenario,
) -> Result<(scenario::PopId, scenario::PopId), RunError> {
    let mut ends = scenario.workloads.iter().map(|workload| (workload.from, workload.to));
    match ends.next() {
        Some(first)
            if scenario.pops.len() == 2
                && scenario.pops.iter().all(|pop| pop.connector.is_none())
                && first.0 != first.1
                && ends.all(|other| other == first) =>
        {
            Ok(first)
        }
        _ => Err(RunError::NotOneWay(scenario.full_name())),
    }
}

#[cfg(feature = "compare")]
fn quic(
    scenario: &Scenario,
    congestion: crate::quic::Congestion,
    workloads: &[Workload],
    engine: &mut Engine,
) -> Result<(), RunError> {
    use crate::quic::{ClientOptions, QuicCore, ServerOptions};

    let ends = quic_ends(scenario)?;
    let ends = (host(ends.0), host(ends.1));
    let server_name = scenario.pops[ends.1.0].name.to_string();
    let listeners = workloads.iter().map(|w| (server_name.clone(), w.name.clone())).collect();
    let client = ClientOptions { congestion, remote: mesh::addr(ends.1), listeners };
    let target = |w: &Workload| HostPort { host: w.name.clone(), port: TARGET_PORT };
    let origins = workloads.iter().map(|w| (w.name.clone(), target(w))).collect();
    let server = ServerOptions { congestion, origins };
    for (nth, pop) in scenario.pops.iter().enumerate() {
        let (client, server) = (client.clone(), server.clone());
        let make: MakeCore = if HostId(nth) == ends.0 {
            Box::new(move |boot| Ok(Box::new(QuicCore::client(client.clone(), boot)?)))
        } else {
            Box::new(move |boot| Ok(Box::new(QuicCore::server(server.clone(), boot)?)))
        };
        let nat = pop.nat.then(NatConfig::default);
        let ahead = nanos(pop.clock_offset);
        engine.add_host(pop.name.as_str(), mesh::addr(HostId(nth)), nat, ahead, make)?;
    }
    Ok(())
}

fn host(pop: scenario::PopId) -> HostId {
    HostId(pop.0)
}

fn nanos(offset: ClockOffset) -> i64 {
    let whole = |by: Duration| i64::try_from(by.as_nanos()).unwrap_or(i64::MAX);
    match offset {
        ClockOffset::None => 0,
        ClockOffset::Ahead(by) => whole(by),
        ClockOffset::Behind(by) => -whole(by),
    }
}

fn workload(from: &scenario::Workload) -> Workload {
    let (start, arrivals) = match from.opening {
        Opening::AtOnce { at, connections } => (at, Arrivals::Together(connections)),
        Opening::Every { first, interval, until } => {
            // "None after this" there, "none from then on" here.
            let until = until + Duration::from_nanos(1);
            (first, Arrivals::Every { gap: interval, until })
        }
    };
    let amount = |amount| match amount {
        scenario::Amount::Bytes(bytes) => Amount::Bytes(bytes.max(8)),
        scenario::Amount::For(time) => Amount::For(time),
    };
    let (kind, half_close) = match from.kind {
        WorkloadKind::Request { count, request_bytes, answer_bytes, pause, half_close } => {
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            let (request, answer) = (request_bytes, answer_bytes);
            (Kind::Exchanges { count, request, answer, pause }, half_close)
        }
        WorkloadKind::Download { amount: bytes, half_close } => {
            (Kind::Download(amount(bytes)), half_close)
        }
        WorkloadKind::Upload { amount: bytes } => (Kind::Upload(amount(bytes)), false),
    };
    let habits = |reads_at: Option<scenario::BitRate>, resets_after| Habits {
        reads_per_second: reads_at.map(|rate| (rate.0 / 8).max(1)),
        reads_every: None,
        resets_after,
    };
    let (origin, refused) = match from.origin {
        Origin::Refuses => (Habits::default(), true),
        Origin::Accepts { reads_at, resets_after } => (habits(reads_at, resets_after), false),
    };
    let client = habits(from.client.reads_at, from.client.resets_after);
    Workload {
        name: from.name.to_string(),
        from: host(from.from),
        to: host(from.to),
        start,
        arrivals,
        plan: Plan { kind, half_close, client, origin },
        refused,
    }
}

/// One direction or both of a link, as the engine numbers them.
fn ways(link: scenario::LinkId, way: Way) -> impl Iterator<Item = LinkId> {
    let forth = way.is_forth().then(|| LinkId::nth(link.0 * 2));
    forth.into_iter().chain(way.is_back().then(|| LinkId::nth(link.0 * 2 + 1)))
}

fn faults(event: &EventKind) -> Vec<Fault> {
    match event {
        EventKind::SetLink { link, forth, back } => {
            let change = |way, config: &Option<Box<LinkConfig>>| {
                let link = ways(*link, way).next()?;
                Some(Fault::Change(link, config.as_deref()?.clone()))
            };
            let forth = change(Way::Forth, forth);
            forth.into_iter().chain(change(Way::Back, back)).collect()
        }
        EventKind::Clog { link, way, on: true } => ways(*link, *way).map(Fault::Clog).collect(),
        EventKind::Clog { link, way, .. } => ways(*link, *way).map(Fault::Release).collect(),
        EventKind::Cut { link, way, on: true } => ways(*link, *way).map(Fault::Cut).collect(),
        EventKind::Cut { link, way, .. } => ways(*link, *way).map(Fault::Mend).collect(),
        EventKind::Partition { groups } => {
            let sets = groups.iter().map(|group| group.iter().copied().map(host).collect());
            vec![Fault::Partition(sets.collect())]
        }
        EventKind::Heal => vec![Fault::Heal],
        EventKind::Rebind { pop, what } => {
            let what = match what {
                RebindKind::Port => Rebind::Port,
                RebindKind::Addr => Rebind::Addr,
            };
            vec![Fault::Rebind(host(*pop), what)]
        }
        EventKind::Crash { pop } => vec![Fault::Crash(host(*pop))],
        EventKind::Restart { pop, clock_step, forgets } => {
            let forget = forgets.then(|| Fault::Forget(host(*pop)));
            let restart = Fault::Restart(host(*pop), nanos(*clock_step));
            // The one that dies first could keep something.
            let crash = forgets.then(|| Fault::Crash(host(*pop)));
            crash.into_iter().chain(forget).chain([restart]).collect()
        }
        EventKind::Drain { pop } => vec![Fault::Drain(host(*pop))],
        EventKind::Origin { pop, state } => {
            let refuse = *state == OriginState::Refuses;
            vec![Fault::Origins { host: host(*pop), refuse }]
        }
        EventKind::OriginDies { pop } => vec![Fault::OriginsDie(host(*pop))],
    }
}
