//! A PoP around any event loop: binding its sockets in one order and with one set of words, and what
//! a loop is given to drive.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use entrouter_proto::{Config, Node, NodeError, SocketId};
use tracing::{info, warn};

use crate::Wake;
use crate::admin::{AdminError, AdminServer};
use crate::cli;
use crate::datagrams::Datagrams;
use crate::entropy::{self, EntropyError};
use crate::glue;
use crate::life::{Control, Life};
use crate::names::Names;
use crate::signals::{SignalError, Signals};
use crate::sockets::{self, BindError};
use crate::status_cell::StatusCell;
use crate::timer::{PreciseTimer, TimerError};

pub use crate::life::Handle;

/// What the configuration does not say.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Where the configuration came from; without it SIGHUP reloads nothing.
    pub config_file: Option<PathBuf>,
    /// Whether to watch this process' signals: SIGTERM and SIGINT drain, and stop when they come
    /// again; SIGHUP reloads the configuration. For a binary, not for a library.
    pub signals: bool,
}

/// Why a PoP could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A socket could not be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The admin API could not start.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The core refused the configuration.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// No random bytes.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    /// No signal handlers.
    #[error(transparent)]
    Signals(#[from] SignalError),
    /// No timer.
    #[error(transparent)]
    Timer(#[from] TimerError),
    /// The operating system refused something else.
    #[error(
        "cannot set up the event loop: {0} (is the limit of open files reached? see `ulimit -n`)"
    )]
    Io(#[from] io::Error),
}

/// Why a PoP could not go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Waiting for events failed.
    #[error("the event loop cannot wait for events: {0}")]
    Poll(#[source] io::Error),
}

/// What a shell is: it waits, lets the core think, and does what the core asks.
pub trait EventLoop: Sized {
    /// What has to exist before anything is bound.
    type Setup;

    /// Makes it, and what wakes the loop from other threads.
    ///
    /// # Errors
    /// If the operating system refuses, which as a rule is a lack of file descriptors.
    fn prepare() -> io::Result<(Self::Setup, Wake)>;

    /// The loop, with everything to watch.
    ///
    /// # Errors
    /// If something cannot be watched.
    fn new(setup: Self::Setup, parts: Parts) -> io::Result<Self>;

    /// Runs on this thread until the node is drained, or told to stop.
    ///
    /// # Errors
    /// [`RunError`] if the operating system no longer reports events.
    fn run(self) -> Result<(), RunError>;
}

/// The whole of a shell's `main`: carries out the command line of the process, by the loop `L`.
pub fn main<L: EventLoop>(name: &str, version: &str) -> ExitCode {
    cli::main(name, version, |request| {
        let options = Options { config_file: Some(request.path), signals: true };
        Shell::<L>::bind(request.config, options)?.run()?;
        Ok::<(), Box<dyn std::error::Error>>(())
    })
}

/// What a loop drives.
#[derive(Debug)]
pub struct Parts {
    /// The core.
    pub node: Node,
    /// Draining, stopping, reloading, status; with the signals to watch.
    pub life: Life,
    /// The UDP sockets, each at the place of its [`SocketId`].
    pub udp: Vec<Datagrams>,
    /// The TCP listeners, nonblocking, each at the place of its
    /// [`ListenerId`](entrouter_proto::ListenerId).
    pub listeners: Vec<TcpListener>,
    /// Names to be resolved.
    pub names: Names,
    /// For the core's deadlines.
    pub timer: PreciseTimer,
}

/// A PoP whose sockets are bound and that does not run yet.
#[derive(Debug)]
pub struct Shell<L> {
    event_loop: L,
    handle: Handle,
    relay_addr: SocketAddr,
    tcp_addrs: Vec<SocketAddr>,
    /// Dropped, and with it the port, when the loop has ended.
    admin: Option<AdminServer>,
}

impl<L: EventLoop> Shell<L> {
    /// Binds every socket that the configuration names; port 0 means any.
    ///
    /// # Errors
    /// [`StartError`], naming the configuration's key and the remedy where there is one.
    pub fn bind(config: Config, options: Options) -> Result<Self, StartError> {
        let now = Instant::now();
        let node = Node::new(config.clone(), entropy::seed()?, now, entropy::unix_now())?;
        let (setup, wake) = L::prepare()?;
        let control = Control::new(Arc::clone(&wake));

        let (relay, small) = sockets::udp("listen.relay_addr", config.listen.relay_addr)?;
        for buffer in small {
            warn!("{buffer}");
        }
        let relay_addr = relay.local_addr()?;
        let udp = vec![Datagrams::new(SocketId(0), "listen.relay_addr", relay)?];

        let mut listeners = Vec::new();
        let keys = listener_keys(&config, node.listeners());
        for (listener, key) in node.listeners().iter().zip(keys) {
            listeners.push(sockets::tcp_listener(&key, listener.addr)?);
        }
        let tcp_addrs =
            listeners.iter().map(TcpListener::local_addr).collect::<io::Result<Vec<_>>>()?;
        let names = Names::new(wake, relay_addr.is_ipv4())?;

        let signals = if options.signals { Some(Signals::install()?) } else { None };
        let admin = match config.listen.admin_addr {
            Some(addr) => {
                let handler = glue::admin_handler(&config, Arc::clone(&control.status));
                Some(AdminServer::start(addr, handler)?)
            }
            None => None,
        };

        info!("listening on udp {relay_addr} (relay)");
        for (n, addr) in tcp_addrs.iter().enumerate() {
            info!("listening on tcp {addr} (listener {n})");
        }
        if let Some(admin) = &admin {
            info!("listening on http {} (admin)", admin.addr());
        }
        let life = Life::new(config, options.config_file, signals, Arc::clone(&control));
        let timer = PreciseTimer::new()?;
        let event_loop = L::new(setup, Parts { node, life, udp, listeners, names, timer })?;
        Ok(Self { event_loop, handle: Handle { control }, relay_addr, tcp_addrs, admin })
    }

    /// Steers the PoP from any thread.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Where the tunnels' UDP socket is bound.
    #[must_use]
    pub fn relay_addr(&self) -> SocketAddr {
        self.relay_addr
    }

    /// Where the TCP listeners are bound, in the order of [`Node::listeners`].
    #[must_use]
    pub fn tcp_addrs(&self) -> Vec<SocketAddr> {
        self.tcp_addrs.clone()
    }

    /// Where the admin API is bound.
    #[must_use]
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(AdminServer::addr)
    }

    /// Runs the event loop on this thread until the node is drained, or told to stop.
    ///
    /// # Errors
    /// [`RunError`] if the operating system no longer reports events.
    pub fn run(self) -> Result<(), RunError> {
        let _closed = CloseOnDrop(&self.handle.control.status);
        self.event_loop.run()
    }
}

/// Whoever waits for a status learns that the loop is gone, also when it panicked.
struct CloseOnDrop<'a>(&'a StatusCell);

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Which key of the configuration asked for each listener.
fn listener_keys(config: &Config, listeners: &[entrouter_proto::Listener]) -> Vec<String> {
    // `tcp_addr` comes first if it is served; the others are `[[edge]]`s, in their order.
    let mut edges = config.edges.iter().enumerate();
    let mut tcp_addr = config.listen.tcp_addr;
    listeners
        .iter()
        .map(|listener| {
            if tcp_addr.take() == Some(listener.addr) {
                return "listen.tcp_addr".to_owned();
            }
            match edges.find(|(_, edge)| edge.listen == listener.addr) {
                Some((n, _)) => format!("edge[{n}].listen"),
                None => "listener".to_owned(),
            }
        })
        .collect()
}
