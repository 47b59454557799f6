//! A PoP around any event loop: binding its sockets in one order and with one set of words, and what
//! a loop is given to drive.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use entrouter_proto::config::{Edge, EdgeProto};
use entrouter_proto::connect::{ConnectError, Connector, Wish};
use entrouter_proto::{Config, Listener, Node, NodeError, SocketId};
use tracing::{info, warn};

use crate::Wake;
use crate::admin::{AdminError, AdminServer};
use crate::certs::{self, CertError};
use crate::cli::{self, Request};
use crate::core::Core;
use crate::datagrams::Datagrams;
use crate::entropy::{self, EntropyError};
use crate::glue;
use crate::life::{Control, Life};
use crate::names::Names;
use crate::signals::{SignalError, Signals};
use crate::sockets::{self, BindError};
use crate::status_cell::StatusCell;
use crate::tickets::TicketFile;
use crate::timer::{PreciseTimer, TimerError};

pub use crate::life::Handle;

/// What the configuration does not say.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Where the configuration came from; without it SIGHUP reloads only the certificate.
    pub config_file: Option<PathBuf>,
    /// Whether to watch this process' signals: SIGTERM and SIGINT drain, and stop when they come
    /// again; SIGHUP reloads the configuration and the certificate. For a binary, not for a library.
    pub signals: bool,
}

/// What a connector is to do.
#[derive(Debug)]
pub struct Connect {
    /// To which edge, whom to trust. Its tickets are read from `tickets`.
    pub wish: Wish,
    /// Where programs connect.
    pub listen: SocketAddr,
    /// Where tickets are kept; without it they end with the process.
    pub tickets: Option<TicketFile>,
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
    /// The core refused what a connector is to do.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// There is no certificate to show.
    #[error(transparent)]
    Cert(#[from] CertError),
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
        let shell = match request {
            Request::Run { config, path } => {
                let options = Options { config_file: Some(path), signals: true };
                Shell::<L>::bind(*config, options)?
            }
            Request::Connect(connect) => Shell::<L>::connect(connect, true)?,
        };
        shell.run()?;
        Ok::<(), Box<dyn std::error::Error>>(())
    })
}

/// What a loop drives.
#[derive(Debug)]
pub struct Parts {
    /// The core.
    pub core: Core,
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

/// A PoP, or a connector, whose sockets are bound and that does not run yet.
#[derive(Debug)]
pub struct Shell<L> {
    event_loop: L,
    handle: Handle,
    relay_addr: SocketAddr,
    tcp_addrs: Vec<SocketAddr>,
    quic_addrs: Vec<SocketAddr>,
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
        let unix = entropy::unix_now();
        let mut node = Node::new(config.clone(), entropy::seed()?, now, unix)?;
        let (setup, wake) = L::prepare()?;
        let control = Control::new(Arc::clone(&wake));
        let (identity, certs) = certs::of(&config, &wake)?;

        let mut udp = Vec::new();
        let mut open_udp = |key: &str, addr| {
            let (socket, small) = sockets::udp(key, addr)?;
            for buffer in small.into_iter().filter(|_| udp.is_empty()) {
                warn!("{buffer}");
            }
            let addr = socket.local_addr()?;
            udp.push(Datagrams::new(SocketId(udp.len()), key, socket)?);
            Ok::<_, StartError>(addr)
        };
        let relay_addr = open_udp("listen.relay_addr", config.listen.relay_addr)?;
        let quic_addrs = node
            .quic_listeners()
            .iter()
            .map(|listener| open_udp(&key_of(&config, listener), listener.addr))
            .collect::<Result<Vec<_>, _>>()?;
        let mut listeners = Vec::new();
        for listener in node.listeners() {
            listeners.push(sockets::tcp_listener(&key_of(&config, listener), listener.addr)?);
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

        if let Some(identity) = &identity {
            node.set_identity(now, identity);
            info!("certificate {}", certs::print(identity));
            if let Some(remark) = certs::remark(identity, unix) {
                warn!("{remark}");
            }
        }
        info!("listening on udp {relay_addr} (relay)");
        for (n, addr) in tcp_addrs.iter().enumerate() {
            info!("listening on tcp {addr} (listener {n})");
        }
        for (n, addr) in quic_addrs.iter().enumerate() {
            info!("listening on udp {addr} (quic listener {n})");
        }
        if let Some(admin) = &admin {
            info!("listening on http {} (admin)", admin.addr());
        }
        let life = Life::new(signals, Arc::clone(&control)).with_config(
            config,
            options.config_file,
            certs,
        );
        let (core, timer) = (Core::Pop(Box::new(node)), PreciseTimer::new()?);
        let event_loop = L::new(setup, Parts { core, life, udp, listeners, names, timer })?;
        let handle = Handle { control };
        Ok(Self { event_loop, handle, relay_addr, tcp_addrs, quic_addrs, admin })
    }

    /// Binds the sockets of a connector: one for programs, one for the edge.
    ///
    /// # Errors
    /// [`StartError`], naming the option and the remedy where there is one.
    pub fn connect(connect: Connect, signals: bool) -> Result<Self, StartError> {
        let (now, unix) = (Instant::now(), entropy::unix_now());
        let Connect { mut wish, listen, tickets } = connect;
        wish.tickets = tickets.as_ref().and_then(TicketFile::read);
        let edge = wish.edge.to_string();
        let connector = Connector::new(wish, entropy::seed()?, now, unix)?;
        let (setup, wake) = L::prepare()?;
        let control = Control::new(Arc::clone(&wake));
        // Both kinds of addresses, if this machine has both.
        let any = [SocketAddr::from(([0u16; 8], 0)), SocketAddr::from(([0u8; 4], 0))];
        let (socket, _) = sockets::udp("(to the edge)", any[0])
            .or_else(|_| sockets::udp("(to the edge)", any[1]))?;
        let relay_addr = socket.local_addr()?;
        let udp = vec![Datagrams::new(SocketId(0), "(to the edge)", socket)?];
        let listener = sockets::tcp_listener("--listen", listen)?;
        let tcp_addrs = vec![listener.local_addr()?];
        let names = Names::new(wake, relay_addr.is_ipv4())?;
        let signals = if signals { Some(Signals::install()?) } else { None };
        for addr in &tcp_addrs {
            info!("listening on tcp {addr} (to {edge})");
        }
        let life = Life::new(signals, Arc::clone(&control)).with_tickets(tickets);
        let (core, timer) = (Core::Connector(Box::new(connector)), PreciseTimer::new()?);
        let listeners = vec![listener];
        let event_loop = L::new(setup, Parts { core, life, udp, listeners, names, timer })?;
        let handle = Handle { control };
        let quic_addrs = Vec::new();
        Ok(Self { event_loop, handle, relay_addr, tcp_addrs, quic_addrs, admin: None })
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

    /// Where QUIC clients are awaited, in the order of [`Node::quic_listeners`].
    #[must_use]
    pub fn quic_addrs(&self) -> Vec<SocketAddr> {
        self.quic_addrs.clone()
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

/// Which key of the configuration asked for a listener.
fn key_of(config: &Config, listener: &Listener) -> String {
    let quic = listener.proto == EdgeProto::Quic;
    let (name, first) = match quic {
        true => ("listen.quic_addr", config.listen.quic_addr),
        false => ("listen.tcp_addr", config.listen.tcp_addr),
    };
    let is_it = |edge: &Edge| edge.listen == listener.addr && edge.proto == listener.proto;
    match config.edges.iter().position(is_it) {
        Some(n) if first != Some(listener.addr) => format!("edge[{n}].listen"),
        _ => name.to_owned(),
    }
}
