//! Two PoPs of this process, each a shell on a thread of its own.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use entrouter_host::pop::{Handle, RunError, StartError};
use entrouter_proto::Config;
use entrouter_proto::config::ConfigErrors;
use entrouter_proto::status::{PeerStatus, Status};

use super::shell::{BoundShell, ShellKind, Shells};
use super::workload::Edges;
use crate::seed::Seed;

/// A handshake takes one round trip and is repeated when lost.
const UP_WITHIN: Duration = Duration::from_secs(10);
const POLL_EVERY: Duration = Duration::from_millis(20);

/// The PoPs could not be started, or do not find each other.
#[derive(Debug, thiserror::Error)]
pub enum PopError {
    /// The demo wrote a configuration that the core does not accept.
    #[error("the demo's own configuration of {pop} was refused: {source}")]
    Config {
        /// Which PoP.
        pop: &'static str,
        /// What is wrong with it.
        source: ConfigErrors,
    },
    /// A shell did not start.
    #[error("cannot start {pop}: {source}")]
    Start {
        /// Which PoP.
        pop: &'static str,
        /// Why.
        source: Box<StartError>,
    },
    /// A shell did not open the listeners that it was asked for.
    #[error("{pop} opened {found} TCP listeners instead of {wanted}")]
    Listeners {
        /// Which PoP.
        pop: &'static str,
        /// How many there are.
        found: usize,
        /// How many were configured.
        wanted: usize,
    },
    /// No thread.
    #[error("cannot start a thread for {pop}: {source}")]
    Thread {
        /// Which PoP.
        pop: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// A PoP's place cannot be entered.
    #[error("cannot start {pop} in its place: {source}")]
    Place {
        /// Which PoP.
        pop: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// A shell ended by itself.
    #[error("{pop} ended by itself")]
    Ended {
        /// Which PoP.
        pop: &'static str,
    },
    /// No tunnel.
    #[error(
        "the PoPs found no way to each other within {within:?} ({packets} packets arrived over the \
         link): try less --loss-pct or --rtt-ms, or a larger --rate-mbps"
    )]
    NotUp {
        /// How long was waited.
        within: Duration,
        /// How many datagrams both PoPs accepted.
        packets: u64,
    },
    /// Interrupted while waiting.
    #[error("interrupted before the tunnel was up")]
    Interrupted,
}

const NAMES: [&str; 2] = ["pop-a", "pop-b"];

/// Where PoP A, which serves clients, and PoP B, which dials the origin, are put.
pub(super) struct Places<'a> {
    /// What each binds its tunnel to.
    pub(super) relay: [SocketAddr; 2],
    /// Where each believes the other.
    pub(super) peer: [SocketAddr; 2],
    /// Runs something where PoP 0 or 1 is to be; threads that it starts are there, too.
    pub(super) enter: Enter<'a>,
}

pub(super) type Enter<'a> =
    &'a dyn Fn(usize, &mut (dyn FnMut() + Send)) -> Result<(), std::io::Error>;

impl Places<'_> {
    fn at<T: Send>(
        &self,
        which: usize,
        what: impl FnOnce() -> Result<T, PopError> + Send,
    ) -> Result<T, PopError> {
        let pop = NAMES[which];
        let (mut what, mut result) = (Some(what), None);
        (self.enter)(which, &mut || result = what.take().map(|what| what()))
            .map_err(|source| PopError::Place { pop, source })?;
        result.unwrap_or(Err(PopError::Ended { pop }))
    }
}

/// Both PoPs, bound.
#[derive(Debug)]
pub(super) struct BoundPops {
    a: BoundShell,
    b: BoundShell,
}

impl BoundPops {
    /// Binds both: A serves clients on loopback, B dials the origin.
    pub(super) fn bind(
        places: &Places<'_>,
        Shells([a, b]): Shells,
        origin: Edges,
        seed: Seed,
    ) -> Result<Self, PopError> {
        let key = BASE64.encode(seed.bytes("shared key"));
        let mut client_side = config(places, 0, &key);
        for service in ["ping", "bulk"] {
            let _ = write!(
                client_side,
                "[[edge]]\nlisten = \"127.0.0.1:0\"\nproto = \"tcp\"\ndest = \"pop-b\"\n\
                 service = \"{service}\"\n"
            );
        }
        let mut origin_side = config(places, 1, &key);
        let _ = write!(
            origin_side,
            "[origins]\nping = \"{}\"\nbulk = \"{}\"\n",
            origin.ping, origin.bulk
        );
        let bound = Self {
            a: places.at(0, || bind(a, NAMES[0], &client_side))?,
            b: places.at(1, || bind(b, NAMES[1], &origin_side))?,
        };
        let found = bound.a.tcp_addrs.len();
        if found != 2 {
            return Err(PopError::Listeners { pop: NAMES[0], found, wanted: 2 });
        }
        Ok(bound)
    }

    /// Where the tunnels' sockets are bound: PoP A's and PoP B's.
    pub(super) fn relay_addrs(&self) -> (SocketAddr, SocketAddr) {
        (self.a.relay_addr, self.b.relay_addr)
    }

    /// Lets both run.
    pub(super) fn start(self, places: &Places<'_>) -> Result<Pops, PopError> {
        let Self { a, b } = self;
        let edges = Edges { ping: a.tcp_addrs[0], bulk: a.tcp_addrs[1] };
        Ok(Pops {
            edges,
            a: places.at(0, || Pop::start(NAMES[0], a))?,
            b: places.at(1, || Pop::start(NAMES[1], b))?,
        })
    }
}

fn config(places: &Places<'_>, which: usize, key: &str) -> String {
    let (name, peer) = (NAMES[which], NAMES[1 - which]);
    let (relay_addr, peer_addr) = (places.relay[which], places.peer[which]);
    format!(
        "node_id = \"{name}\"\nregion = \"demo\"\n\
         [listen]\nrelay_addr = \"{relay_addr}\"\n\
         [[peers]]\nnode_id = \"{peer}\"\nregion = \"demo\"\naddr = \"{peer_addr}\"\n\
         shared_key = \"{key}\"\n"
    )
}

fn bind(shell: ShellKind, pop: &'static str, text: &str) -> Result<BoundShell, PopError> {
    let config =
        Config::parse(pop, text.as_bytes()).map_err(|source| PopError::Config { pop, source })?;
    shell.bind(config).map_err(|source| PopError::Start { pop, source: Box::new(source) })
}

/// Both PoPs at work.
#[derive(Debug)]
pub(super) struct Pops {
    /// Where clients connect.
    pub(super) edges: Edges,
    a: Pop,
    b: Pop,
}

impl Pops {
    /// Waits until each PoP hears the other.
    pub(super) fn wait_until_up(&self, stop: &AtomicBool) -> Result<(), PopError> {
        let deadline = Instant::now() + UP_WITHIN;
        loop {
            let [a, b] = [&self.a, &self.b].map(Pop::tunnel);
            if a.as_ref().is_some_and(|peer| peer.up) && b.as_ref().is_some_and(|peer| peer.up) {
                return Ok(());
            }
            self.check()?;
            if stop.load(Relaxed) {
                return Err(PopError::Interrupted);
            }
            if Instant::now() >= deadline {
                let packets = [a, b].iter().flatten().map(|peer| peer.counters.packets_in).sum();
                return Err(PopError::NotUp { within: UP_WITHIN, packets });
            }
            std::thread::sleep(POLL_EVERY);
        }
    }

    /// What each PoP says of its tunnel to the other; `None` if it gives no answer.
    pub(super) fn tunnels(&self) -> (Option<PeerStatus>, Option<PeerStatus>) {
        (self.a.tunnel(), self.b.tunnel())
    }

    /// Whether both still run.
    pub(super) fn check(&self) -> Result<(), PopError> {
        match [&self.a, &self.b].into_iter().find(|pop| pop.has_ended()) {
            Some(pop) => Err(PopError::Ended { pop: pop.name }),
            None => Ok(()),
        }
    }
}

/// A running PoP; stopped and waited for when dropped.
#[derive(Debug)]
struct Pop {
    name: &'static str,
    handle: Handle,
    thread: Option<JoinHandle<Result<(), RunError>>>,
}

impl Pop {
    fn start(name: &'static str, shell: BoundShell) -> Result<Self, PopError> {
        let BoundShell { handle, run, .. } = shell;
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(run)
            .map_err(|source| PopError::Thread { pop: name, source })?;
        Ok(Self { name, handle, thread: Some(thread) })
    }

    fn tunnel(&self) -> Option<PeerStatus> {
        let status: Status = self.handle.status()?;
        status.peers.into_iter().next()
    }

    fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Pop {
    fn drop(&mut self) {
        self.handle.stop();
        if let Some(thread) = self.thread.take() {
            // Whatever it says, the demo is over.
            let _ = thread.join();
        }
    }
}
