//! One system on a live link: an origin in namespace B, clients in namespace A, and between them two
//! PoPs or nothing.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::AbError;
use super::options::{AbOptions, System};
use super::sockets::PopSockets;
use crate::live::bulk::Timelines;
use crate::live::link::{ADDRS, LiveLink};
use crate::live::origin::{BulkPlan, Origin};
use crate::live::pops::{BoundPops, Places, Pops};
use crate::live::shell::Shells;
use crate::live::stage::Stage;
use crate::live::workload::Edges;
use crate::seed::Seed;

/// UDP port of the PoPs' tunnels, in namespaces that nobody else is in.
const RELAY_PORT: u16 = 4433;
const LOOK_EVERY: Duration = Duration::from_millis(20);
const LOOK_AT_SOCKETS_EVERY: Duration = Duration::from_millis(50);
/// Nothing moved for so long: nothing will. A kernel's retransmissions are up to two minutes apart.
const STALLED_AFTER: Duration = Duration::from_secs(150);

/// A system at work; taken down when dropped.
pub(super) struct Scene<'l> {
    pub(super) stage: Arc<Stage>,
    pub(super) timelines: Arc<Timelines>,
    /// Where clients connect.
    pub(super) edges: Edges,
    /// Of the data.
    pub(super) seed: Seed,
    link: &'l LiveLink,
    relay: Option<(Pops, PopSockets)>,
    looked: Instant,
    origin: Option<Origin>,
}

/// How a scene ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// All clients have finished.
    Finished,
    /// Their time was over; what was under way is cut off.
    Cut,
    /// A signal came.
    Interrupted,
}

/// How many connections had which congestion control.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Controls {
    /// The clients' and the origin's.
    pub ends: BTreeMap<String, u64>,
    /// The PoPs', those that were seen; none where there are no PoPs.
    pub pops: BTreeMap<String, u64>,
}

impl<'l> Scene<'l> {
    /// Starts all but the clients. The origin sends bulk data for `duration`, unless the stage ends
    /// before. What drives the PoPs, and the congestion control of their TCP, are the options'.
    pub(super) fn start(
        link: &'l LiveLink,
        system: &System,
        options: &AbOptions,
        duration: Duration,
        seed: Seed,
        stop: &AtomicBool,
    ) -> Result<Self, AbError> {
        let (at, congestion) = match system {
            System::Relay => (
                Ipv4Addr::LOCALHOST,
                link.default_congestion(options.loopback.as_deref()).map_err(AbError::place)?,
            ),
            System::Kernel(congestion) => (ADDRS[1], congestion.clone()),
        };
        let stage = Arc::new(Stage::with_congestion(&congestion));
        let timelines = Arc::<Timelines>::default();
        let plan =
            BulkPlan { seed: seed.child("bulk"), duration, timelines: Arc::clone(&timelines) };
        let origin = link
            .enter(1, || Origin::start(&stage, at, &plan))
            .map_err(AbError::place)?
            .map_err(AbError::Origin)?;
        let edges = Edges { ping: origin.ping_addr, bulk: origin.bulk_addr };
        let mut scene = Self {
            stage,
            timelines,
            edges,
            seed,
            link,
            relay: None,
            looked: Instant::now(),
            origin: Some(origin),
        };
        if *system == System::Relay {
            scene.put_pops_between(options.shells, stop)?;
        }
        Ok(scene)
    }

    fn put_pops_between(&mut self, shells: Shells, stop: &AtomicBool) -> Result<(), AbError> {
        let [a, b] = ADDRS.map(|addr| (addr, RELAY_PORT).into());
        let places = Places {
            relay: [a, b],
            peer: [b, a],
            enter: &|which, what| self.link.enter(which, what).map_err(io::Error::other),
        };
        let origin = self.edges;
        let pops =
            BoundPops::bind(&places, shells, origin, self.seed.child("pops"))?.start(&places)?;
        pops.wait_until_up(stop)?;
        self.edges = pops.edges;
        let sockets = PopSockets::new(self.edges, origin).map_err(AbError::Sockets)?;
        self.relay = Some((pops, sockets));
        Ok(())
    }

    /// Starts a client on a thread in namespace A. What it fails with is a failure of the stage.
    pub(super) fn spawn<E: std::fmt::Display>(
        &self,
        name: String,
        run: impl FnOnce(&Arc<Stage>) -> Result<(), E> + Send + 'static,
    ) -> Result<JoinHandle<()>, AbError> {
        let stage = Arc::clone(&self.stage);
        let client = name.clone();
        let run = move || {
            if let Err(error) = run(&stage) {
                stage.fail(format!("client \"{client}\": {error}"));
            }
        };
        self.link
            .enter(0, || std::thread::Builder::new().name(name).spawn(run))
            .map_err(AbError::place)?
            .map_err(AbError::Clients)
    }

    /// Waits for the clients, at most until `until`; `look` sees each moment.
    pub(super) fn watch(
        &mut self,
        clients: Vec<JoinHandle<()>>,
        until: Instant,
        stop: &AtomicBool,
        look: &mut dyn FnMut(Instant),
    ) -> End {
        let (mut moved, mut moved_at) = (0, Instant::now());
        let mut end = End::Finished;
        while !clients.iter().all(JoinHandle::is_finished) && end == End::Finished {
            std::thread::sleep(LOOK_EVERY);
            let now = Instant::now();
            look(now);
            self.look(now);
            if self.stage.moved() != moved {
                (moved, moved_at) = (self.stage.moved(), now);
            }
            if let Some(broken) = self.broken() {
                self.stage.fail(broken);
                end = End::Cut;
            } else if stop.load(Relaxed) {
                end = End::Interrupted;
            } else if now - moved_at > STALLED_AFTER {
                self.stage.fail(format!("stalled: not a byte moved in {STALLED_AFTER:?}"));
                end = End::Cut;
            } else if now >= until {
                end = End::Cut;
            }
        }
        if end != End::Finished {
            self.stage.close();
        }
        for client in clients {
            // A panic was printed where it happened.
            let _ = client.join();
        }
        end
    }

    /// Looks at what the scene is made of.
    pub(super) fn look(&mut self, now: Instant) {
        if let Some((_, sockets)) = &mut self.relay
            && now - self.looked >= LOOK_AT_SOCKETS_EVERY
        {
            self.looked = now;
            if let Err(error) = sockets.look() {
                self.stage.fail(format!("cannot look at the PoPs' connections: {error}"));
            }
        }
    }

    /// What is gone of that which must run to the end.
    pub(super) fn broken(&self) -> Option<String> {
        if self.link.has_failed() {
            return Some("the link's thread ended by itself".into());
        }
        let (pops, _) = self.relay.as_ref()?;
        pops.check().err().map(|error| error.to_string())
    }

    /// Takes it down and tells what went wrong, and which congestion control its connections had.
    pub(super) fn finish(mut self) -> (Vec<String>, Controls) {
        let failures = self.stage.failures();
        // The origin's ends of connections enter the ledger only now.
        self.close();
        let ends = self.stage.controls();
        let pops = self.relay.take().map(|(_, sockets)| sockets.controls()).unwrap_or_default();
        (failures, Controls { ends, pops })
    }

    /// Ends all its threads but the PoPs'.
    pub(super) fn close(&mut self) {
        self.stage.close();
        if let Some(origin) = self.origin.take() {
            origin.join();
        }
    }
}

impl Drop for Scene<'_> {
    fn drop(&mut self) {
        self.close();
    }
}
