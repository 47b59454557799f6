//! The engine: cores on simulated hosts, links between them, clients and origins at their sides, all
//! under one virtual clock.
//!
//! One thread, one event heap ordered by (time, sequence), one seed. Nothing here reads a clock or the
//! operating system's randomness, so a run is a function of its seed: the same seed gives the same
//! [trace hash](Trace), on every machine and in every build profile.
//!
//! A host runs anything that implements [`Core`]: a [`Node`](entrouter_proto::Node), or a wrapper of
//! your own around one. See `examples/own_wrapper.rs`:
//!
//! 1. [`Engine::new`] with a [`Seed`],
//! 2. [`Engine::add_host`], [`Engine::add_link`], [`Engine::add_workload`], [`Engine::schedule`],
//! 3. [`Engine::run`], [`Engine::check`], and [`Engine::outcome`].
//!
//! While it runs, it checks what must always hold: every byte that arrives is the one that was sent
//! at that place of that stream; a clean end comes after the last byte; a connection ends by a reset
//! only for a cause; no request reaches two origins, and no origin is dialled more often than there
//! are clients; no packet counter is used twice, no key in two sessions; no data packet is accepted
//! twice, and a damaged one never; parity fits its symbols; no table exceeds its bound; no packet
//! vanishes uncounted; no core wants to be called back for ever at one moment. What does not hold is a
//! violation in the [`Outcome`](crate::outcome::Outcome).

mod core;
mod fault;
mod host;
mod keystream;
mod look;
mod network;
mod packet;
mod queue;
mod routes;
mod tcp;
mod trace;
mod watch;
mod wire;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use entrouter_proto::TimerReason;

pub use self::core::{Boot, Core, MakeCore, data_header};
pub use fault::{Fault, Rebind};
pub use host::HostId;
pub use network::{LinkId, NatConfig};
pub use trace::{Difference, Trace, diff};

use crate::link::{LinkConfig, LinkConfigError};
use crate::outcome::NodeOutcome;
use crate::seed::Seed;
use crate::time::Time;
use crate::traffic::{Arrivals, Deal, Meter, Workload};
use host::{Host, Origin};
use keystream::Keystreams;
use look::Sampler;
use network::Network;
use queue::{Event, EventQueue};
use routes::Routes;

/// What a right wall clock shows when a run begins: 2027-01-15, 08:00 UTC.
pub const UNIX_START: Duration = Duration::from_secs(1_800_000_000);

/// Timers of one host at one moment, beyond which it is taken to spin.
const MAX_WAKES: u32 = 1_000;
/// Rounds of giving to and taking from a core at one moment, beyond which it is taken to spin.
const MAX_ROUNDS: u32 = 10_000;
/// Things done for a core, or batches taken from it, in one go, likewise.
const MAX_TURNS: u32 = 100_000;
/// Datagrams asked of a core at a time, as GSO would take them.
const MAX_SEGMENTS: usize = 16;
/// Violations that are kept; a run that has so many ends.
const MAX_VIOLATIONS: usize = 20;

/// Why something cannot be added to an engine.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The core of a host could not be made.
    #[error("host {host}: {error}")]
    Core {
        /// Its name.
        host: String,
        /// What its maker said.
        error: Box<dyn std::error::Error + Send + Sync>,
    },
    /// There is no such link.
    #[error("link {link}: {error}")]
    Link {
        /// Its name.
        link: String,
        /// What is wrong with it.
        error: LinkConfigError,
    },
    /// Two hosts of one name, two links between the same hosts, or one of a host with itself.
    #[error("there is a {0} already: give each its own")]
    Twice(String),
    /// A host that was not added.
    #[error("there is no host number {0}: add it first")]
    NoSuchHost(usize),
    /// Traffic that cannot be.
    #[error("workload {workload}: {problem}")]
    Workload {
        /// Its name.
        workload: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Clients have nowhere to connect.
    #[error("workload {workload}: {host} has no listener that leads to it at {dest}")]
    Listener {
        /// The workload's name.
        workload: String,
        /// Where the clients are.
        host: String,
        /// Where they want to be taken.
        dest: String,
    },
}

/// See the module's text.
#[derive(Debug)]
pub struct Engine {
    seed: Seed,
    /// The virtual zero. An `Instant` has no other beginning than a look at a clock; only
    /// differences to it matter.
    epoch: Instant,
    now: Time,
    queue: EventQueue,
    hosts: Vec<Host>,
    network: Network,
    workloads: Vec<Measured>,
    deals: Vec<Deal>,
    /// Deals that are not over, and workloads that will open more.
    open: usize,
    faults: Vec<Fault>,
    /// Connections may be reset meanwhile, because of this.
    excuse: Option<&'static str>,
    trace: Trace,
    violations: Vec<String>,
    /// By pair of hosts.
    keystreams: BTreeMap<(HostId, HostId), Keystreams>,
    packets: u64,
    sampler: Option<Sampler>,
    routes: Routes,
    /// Those whose routes are looked at more often.
    watched: Vec<HostId>,
    /// What the nodes had counted at some times, by milliseconds.
    snapshots: BTreeMap<u64, BTreeMap<String, NodeOutcome>>,
    buffers: Buffers,
    /// There is an event for the next look.
    looking: bool,
}

/// A workload with what it is measured by.
#[derive(Debug)]
struct Measured {
    workload: Workload,
    meter: Meter,
    /// Connections opened by its clients, and dialled to its origin.
    opened: u32,
    dialled: u32,
}

/// Memory that is used again.
#[derive(Debug, Default)]
struct Buffers {
    transmit: Vec<u8>,
    payload: Vec<u8>,
    expected: Vec<u8>,
    packets: Vec<Vec<u8>>,
}

impl Engine {
    /// An empty world.
    #[must_use]
    pub fn new(seed: Seed, trace: Trace) -> Self {
        Self {
            seed,
            epoch: Instant::now(),
            now: Time::ZERO,
            queue: EventQueue::default(),
            hosts: Vec::new(),
            network: Network::default(),
            workloads: Vec::new(),
            deals: Vec::new(),
            open: 0,
            faults: Vec::new(),
            excuse: None,
            trace,
            violations: Vec::new(),
            keystreams: BTreeMap::new(),
            packets: 0,
            sampler: None,
            routes: Routes::default(),
            watched: Vec::new(),
            snapshots: BTreeMap::new(),
            buffers: Buffers::default(),
            looking: false,
        }
    }

    /// Adds a host; it starts with the run. Others reach it at `addr`, or see it there if a NAT is before it.
    /// Its wall clock is ahead of the right one by `clock_ahead` nanoseconds.
    ///
    /// # Errors
    /// [`SetupError::Core`] if `make` fails, [`SetupError::Twice`] if there is a host of that name.
    pub fn add_host(
        &mut self,
        name: &str,
        addr: SocketAddr,
        nat: Option<NatConfig>,
        clock_ahead: i64,
        make: MakeCore,
    ) -> Result<HostId, SetupError> {
        if self.hosts.iter().any(|host| host.name == name) {
            return Err(SetupError::Twice(format!("host {name}")));
        }
        let id = HostId(self.hosts.len());
        self.hosts.push(Host::new(name.to_owned(), make, clock_ahead));
        self.network.add_host(addr, nat);
        self.boot(id).map_err(|error| SetupError::Core { host: name.to_owned(), error })?;
        Ok(id)
    }

    /// Gives a host another UDP socket: the next [`SocketId`](entrouter_proto::SocketId). A public one is
    /// known to strangers: it keeps its address whatever befalls the host's others, and no NAT is before it.
    ///
    /// # Errors
    /// [`SetupError::Twice`] if the address is taken.
    pub fn add_socket(
        &mut self,
        host: HostId,
        addr: SocketAddr,
        is_public: bool,
    ) -> Result<(), SetupError> {
        self.known(host)?;
        if self.network.is_taken(addr) {
            return Err(SetupError::Twice(format!("socket at {addr}")));
        }
        self.network.add_socket(host, addr, is_public);
        Ok(())
    }

    /// The host is no PoP: connections of its clients enter the mesh at the edge of that one, and what
    /// befalls that befalls them.
    ///
    /// # Errors
    /// [`SetupError::NoSuchHost`].
    pub fn enters_at(&mut self, host: HostId, edge: HostId) -> Result<(), SetupError> {
        self.known(host)?;
        self.known(edge)?;
        self.hosts[host.0].edge = Some(edge);
        Ok(())
    }

    /// Links two hosts; `forth` is the direction from the first to the second.
    ///
    /// # Errors
    /// [`SetupError::Link`] if there cannot be such a link, [`SetupError::Twice`] if there is one.
    pub fn add_link(
        &mut self,
        ends: (HostId, HostId),
        forth: &LinkConfig,
        back: &LinkConfig,
    ) -> Result<(LinkId, LinkId), SetupError> {
        self.known(ends.0)?;
        self.known(ends.1)?;
        if ends.0 == ends.1 || self.network.between(ends.0, ends.1).is_some() {
            let (a, b) = (&self.hosts[ends.0.0].name, &self.hosts[ends.1.0].name);
            return Err(SetupError::Twice(format!("link between {a} and {b}")));
        }
        let mut add = |(from, to): (HostId, HostId), config| {
            let name = format!("{}>{}", self.hosts[from.0].name, self.hosts[to.0].name);
            let seed = self.seed.child(&format!("link {name}"));
            self.network
                .add_link(name.clone(), (from, to), config, seed)
                .map_err(|error| SetupError::Link { link: name, error })
        };
        Ok((add(ends, forth)?, add((ends.1, ends.0), back)?))
    }

    /// Adds clients and their origin. The origin is what the host at `workload.to` dials as
    /// [`Workload::target`]; the clients connect to the listener of the host at `workload.from` that
    /// leads to the service called as the workload.
    ///
    /// # Errors
    /// [`SetupError::Listener`] if there is none, [`SetupError::Workload`] if it cannot be.
    pub fn add_workload(&mut self, workload: Workload) -> Result<(), SetupError> {
        self.known(workload.from)?;
        self.known(workload.to)?;
        if let Err(problem) = workload.validate() {
            return Err(SetupError::Workload { workload: workload.name, problem });
        }
        let (from, to) = (&self.hosts[workload.from.0], &self.hosts[workload.to.0]);
        let listener = from.core.as_ref().and_then(|c| c.listener(&to.name, &workload.name));
        if listener.is_none() {
            return Err(SetupError::Listener {
                workload: workload.name,
                host: from.name.clone(),
                dest: to.name.clone(),
            });
        }
        let nth = self.workloads.len();
        let origin = Origin { workload: nth, refuses: workload.refused };
        self.hosts[workload.to.0].origins.insert(workload.target(), origin);
        let times = match workload.arrivals {
            Arrivals::Together(count) => count,
            Arrivals::Every { .. } => 1,
        };
        for _ in 0..times {
            self.queue.put(Time::ZERO + workload.start, Event::Open(nth));
            self.open += 1;
        }
        let meter = Meter::default();
        self.workloads.push(Measured { workload, meter, opened: 0, dialled: 0 });
        Ok(())
    }

    fn known(&self, host: HostId) -> Result<(), SetupError> {
        match self.hosts.get(host.0) {
            Some(_) => Ok(()),
            None => Err(SetupError::NoSuchHost(host.0)),
        }
    }

    /// Lets something go wrong at `at` after the start.
    pub fn schedule(&mut self, at: Duration, fault: Fault) {
        self.queue.put(Time::ZERO + at, Event::Fault(self.faults.len()));
        self.faults.push(fault);
    }

    /// The virtual time.
    #[must_use]
    pub fn now(&self) -> Time {
        self.now
    }

    /// Whether no connection is open and none will be opened.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.open == 0
    }

    /// What must never happen and did.
    #[must_use]
    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    /// Datagrams sent so far.
    #[must_use]
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// The trace.
    pub fn trace(&mut self) -> &mut Trace {
        &mut self.trace
    }

    /// The core of a host; `None` while it is down.
    #[must_use]
    pub fn core(&self, host: HostId) -> Option<&dyn Core> {
        self.hosts[host.0].core.as_deref()
    }

    /// Lets time pass until every connection of every workload is over, but no longer than until
    /// `end` after the start of the run.
    pub fn run(&mut self, end: Duration) {
        self.advance(Time::ZERO + end, true);
    }

    /// Lets time pass until `end` after the start of the run, whatever happens.
    pub fn run_until(&mut self, end: Duration) {
        self.advance(Time::ZERO + end, false);
    }

    fn advance(&mut self, end: Time, while_open: bool) {
        if !std::mem::replace(&mut self.looking, true) {
            self.queue.put(self.now + self.look_interval(), Event::Look);
        }
        while self.violations.len() < MAX_VIOLATIONS && !(while_open && self.is_done()) {
            if self.queue.next_at().is_none_or(|at| at > end) {
                self.now = self.now.max(end);
                return;
            }
            let Some((at, event)) = self.queue.take() else { return };
            self.now = self.now.max(at);
            self.happen(at, event);
        }
    }

    fn happen(&mut self, at: Time, event: Event) {
        match event {
            Event::Timer(host) => {
                // Another may have been set since, for an earlier time.
                if self.hosts[host.0].armed == Some(at) {
                    self.hosts[host.0].armed = None;
                    self.wake(host);
                }
            }
            Event::Arrival(link) => {
                if self.network.links[link.0].armed == Some(at) {
                    self.network.links[link.0].armed = None;
                    self.arrive(link);
                }
            }
            Event::Open(workload) => self.open(workload),
            Event::Ask(deal) => self.ask(deal),
            Event::Stop(deal) => self.stop(deal),
            Event::Read(host, conn) => self.read_slowly(host, conn),
            Event::Dialled(host, conn) => self.dialled(host, conn),
            Event::Fault(nth) => self.fail(nth),
            Event::Look => self.look(),
            Event::Routes => self.look_at_watched(),
            Event::Snapshot => self.take_snapshot(),
        }
    }

    fn instant(&self) -> Instant {
        self.epoch + Duration::from_nanos(self.now.as_nanos())
    }

    fn violate(&mut self, what: &str) {
        if self.violations.len() < MAX_VIOLATIONS {
            self.violations.push(format!("at {:?}: {what}", self.now));
        }
    }

    /// A timer of the host's core is due.
    fn wake(&mut self, id: HostId) {
        let now = self.instant();
        let host = &mut self.hosts[id.0];
        let Some(core) = &mut host.core else { return };
        if let Some((_, why)) = core.poll_timeout().filter(|(at, _)| *at <= now) {
            host.woken = match host.woken {
                (at, count) if at == self.now => (at, count + 1),
                _ => (self.now, 1),
            };
            self.trace.record(self.now, &host.name, "timer", &[], reason(why));
            core.handle_timeout(now);
            if host.woken.1 > MAX_WAKES {
                self.condemn(id, &format!("is woken again and again: {why:?}"));
                return;
            }
        }
        self.settle(id);
    }

    /// Gives to and takes from the host's core until it has nothing more to say, and sets its timer.
    fn settle(&mut self, id: HostId) {
        let now = self.instant();
        for round in 0.. {
            if round > MAX_ROUNDS {
                self.condemn(id, "does not come to rest");
                return;
            }
            let acted = self.act_all(id);
            self.transmit_all(id);
            let Some(core) = &self.hosts[id.0].core else { return };
            let due = core.poll_timeout();
            let output = matches!(due, Some((at, TimerReason::Output)) if at <= now);
            if acted || output {
                continue;
            }
            self.keep_all(id);
            if let Some((at, _)) = due {
                let at = Time::ZERO + at.saturating_duration_since(self.epoch);
                self.arm(id, at.max(self.now));
            }
            return;
        }
    }

    /// Keeps what the host's core wants to be kept.
    fn keep_all(&mut self, id: HostId) {
        let Host { core: Some(core), kept, .. } = &mut self.hosts[id.0] else { return };
        while let Some((file, bytes)) = core.keep() {
            kept.insert(file, bytes);
        }
    }

    /// Takes a host down that would go on at one moment for ever.
    fn condemn(&mut self, id: HostId, why: &str) {
        let what = format!("{} spins: it {why}", self.hosts[id.0].name);
        self.violate(&what);
        self.crash(id);
    }

    fn arm(&mut self, id: HostId, at: Time) {
        let armed = &mut self.hosts[id.0].armed;
        if armed.is_none_or(|set| at < set) {
            *armed = Some(at);
            self.queue.put(at, Event::Timer(id));
        }
    }
}

fn reason(why: TimerReason) -> &'static str {
    match why {
        TimerReason::Output => "output",
        TimerReason::Handshake => "handshake",
        TimerReason::Mesh => "mesh",
        TimerReason::Probe => "probe",
        TimerReason::Recovery => "recovery",
        TimerReason::Fec => "fec",
        TimerReason::Pacing => "pacing",
        TimerReason::Edge => "edge",
        TimerReason::Flow => "flow",
        TimerReason::Drain => "drain",
    }
}
