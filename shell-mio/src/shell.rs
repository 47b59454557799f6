//! Binding a PoP's sockets, and the handle by which other threads steer it.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use entrouter_host::Wake;
use entrouter_host::admin::{AdminError, AdminServer};
use entrouter_host::entropy::{self, EntropyError};
use entrouter_host::glue;
use entrouter_host::signals::{SignalError, Signals};
use entrouter_host::sockets::{self, BindError};
use entrouter_host::status_cell::StatusCell;
use entrouter_host::timer::{PreciseTimer, TimerError};
use entrouter_proto::status::Status;
use entrouter_proto::{Config, Node, NodeError};
use mio::{Poll, Waker};
use tracing::{info, warn};

use crate::event_loop::{self, EventLoop, Parts};
use crate::tcp::Tcp;
use crate::udp::Udp;

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

/// A PoP whose sockets are bound and that does not run yet.
#[derive(Debug)]
pub struct Shell {
    event_loop: EventLoop,
    handle: Handle,
    relay_addr: SocketAddr,
    tcp_addrs: Vec<SocketAddr>,
    /// Dropped, and with it the port, when the loop has ended.
    admin: Option<AdminServer>,
}

impl Shell {
    /// Binds every socket that the configuration names; port 0 means any.
    ///
    /// # Errors
    /// [`StartError`], naming the configuration's key and the remedy where there is one.
    pub fn bind(config: Config, options: Options) -> Result<Self, StartError> {
        let now = Instant::now();
        let node = Node::new(config.clone(), entropy::seed()?, now, entropy::unix_now())?;
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), event_loop::WAKER)?);
        let wake: Wake = Arc::new(move || {
            // Fails only if the loop's descriptor is gone, and then nobody waits.
            let _ = waker.wake();
        });
        let control = Arc::new(Control {
            drain: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            status: StatusCell::new(Arc::clone(&wake)),
            wake: Arc::clone(&wake),
        });

        let (socket, small) = sockets::udp("listen.relay_addr", config.listen.relay_addr)?;
        for buffer in small {
            warn!("{buffer}");
        }
        let relay_addr = socket.local_addr()?;
        let udp = Udp::new(socket, poll.registry())?;

        let mut listeners = Vec::new();
        let keys = listener_keys(&config, node.listeners());
        for (listener, key) in node.listeners().iter().zip(keys) {
            listeners.push(sockets::tcp_listener(&key, listener.addr)?);
        }
        let tcp_addrs = listeners
            .iter()
            .map(std::net::TcpListener::local_addr)
            .collect::<io::Result<Vec<_>>>()?;
        let tcp = Tcp::new(listeners, wake, poll.registry().try_clone()?, relay_addr.is_ipv4())?;

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
        let event_loop = EventLoop::new(Parts {
            node,
            config,
            config_file: options.config_file,
            poll,
            udp,
            tcp,
            timer: PreciseTimer::new()?,
            signals,
            control: Arc::clone(&control),
        })?;
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

/// What other threads ask of the event loop.
pub(crate) struct Control {
    pub(crate) drain: AtomicBool,
    pub(crate) stop: AtomicBool,
    pub(crate) status: Arc<StatusCell>,
    wake: Wake,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").finish_non_exhaustive()
    }
}

/// Steers a running PoP. All clones steer the same one.
#[derive(Debug, Clone)]
pub struct Handle {
    control: Arc<Control>,
}

impl Handle {
    /// Accept no more connections, finish those that exist, then end.
    pub fn drain(&self) {
        self.control.drain.store(true, Ordering::Release);
        (self.control.wake)();
    }

    /// End at once: connections are reset.
    pub fn stop(&self) {
        self.control.stop.store(true, Ordering::Release);
        (self.control.wake)();
    }

    /// A snapshot; `None` if the event loop does not run or gives no answer within a second. Not to
    /// be called on the event loop's own thread.
    #[must_use]
    pub fn status(&self) -> Option<Status> {
        self.control.status.get(Duration::from_secs(1))
    }
}
