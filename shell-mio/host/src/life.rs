//! The life of a PoP under way: asked to drain, to stop, to reload, to tell its status; and its end.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use entrouter_proto::Config;
use entrouter_proto::status::Status;
use tracing::{error, info, warn};

use crate::Wake;
use crate::certs::{self, Watch};
use crate::core::Core;
use crate::signals::Signals;
use crate::status_cell::{StatusCell, Wanted};
use crate::tickets::TicketFile;
use crate::{entropy, glue};

/// A second SIGTERM or Ctrl-C within this time is the first one: `timeout(1)` and some supervisors
/// signal a process and then its group.
const SAME_SIGNAL: Duration = Duration::from_millis(250);

/// After draining, how long the last datagrams may wait for the socket.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What other threads ask of the event loop.
pub(crate) struct Control {
    drain: AtomicBool,
    stop: AtomicBool,
    pub(crate) status: Arc<StatusCell>,
    wake: Wake,
}

impl Control {
    pub(crate) fn new(wake: Wake) -> Arc<Self> {
        Arc::new(Self {
            drain: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            status: StatusCell::new(Arc::clone(&wake)),
            wake,
        })
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").finish_non_exhaustive()
    }
}

/// Steers a running PoP. All clones steer the same one.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(crate) control: Arc<Control>,
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

/// What a turn of the loop begins with; see [`Life::look`].
#[derive(Debug)]
pub struct Asked {
    /// The loop is to end at once.
    pub stop: bool,
    /// To be handed to [`Life::publish`] at the end of the turn.
    pub status: Option<Wanted>,
}

/// A loop's part in what happens to the PoP as a whole.
#[derive(Debug)]
pub struct Life {
    /// A PoP's; a connector has none.
    config: Option<Config>,
    /// What its sockets were bound by.
    started: Option<Config>,
    /// A PoP's whose certificate has files.
    certs: Option<Watch>,
    /// Where `config` came from.
    file: Option<PathBuf>,
    /// A connector's.
    tickets: Option<TicketFile>,
    signals: Option<Signals>,
    control: Arc<Control>,
    /// When draining began.
    draining: Option<Instant>,
    /// When draining was complete.
    drained: Option<Instant>,
}

impl Life {
    pub(crate) fn new(signals: Option<Signals>, control: Arc<Control>) -> Self {
        Self {
            config: None,
            started: None,
            certs: None,
            file: None,
            tickets: None,
            signals,
            control,
            draining: None,
            drained: None,
        }
    }

    /// Of a PoP with this configuration, and with files that its certificate comes from.
    pub(crate) fn with_config(
        self,
        config: Config,
        file: Option<PathBuf>,
        certs: Option<Watch>,
    ) -> Self {
        Self { started: Some(config.clone()), config: Some(config), certs, file, ..self }
    }

    /// Of a connector that keeps its tickets here.
    pub(crate) fn with_tickets(self, tickets: Option<TicketFile>) -> Self {
        Self { tickets, ..self }
    }

    /// The descriptors to wait for, if signals are watched.
    #[must_use]
    pub fn signals(&self) -> Option<&Signals> {
        self.signals.as_ref()
    }

    /// [`Signals::end_fd`] is readable: drain, and when it comes again, stop.
    pub fn end_signal(&mut self, core: &mut Core, now: Instant) {
        if !self.signals.as_mut().is_some_and(Signals::take_end) {
            return;
        }
        match self.draining {
            None => {
                info!("draining: no more connections are accepted; signal again to stop at once");
                self.drain(core, now);
            }
            Some(since) if now.saturating_duration_since(since) < SAME_SIGNAL => {}
            Some(_) => {
                info!("stopping at once");
                self.control.stop.store(true, Ordering::Release);
            }
        }
    }

    /// [`Signals::reload_fd`] is readable: take up the configuration as it is now in its file, and the
    /// certificate. Of a configuration that cannot be used no certificate is taken, but the old one's
    /// may be new.
    pub fn reload_signal(&mut self, core: &mut Core, now: Instant) {
        if self.signals.as_mut().is_some_and(Signals::take_reload) {
            self.reload(core, now);
            if let Some(certs) = &self.certs {
                certs.reload(self.config.as_ref().and_then(|config| config.listen.tls.clone()));
            }
        }
    }

    /// To be called at the beginning of each turn, so that a status asked for after
    /// [`Handle::drain`] shows its effect.
    pub fn look(&mut self, core: &mut Core, now: Instant) -> Asked {
        let asked = Asked {
            status: self.control.status.wanted(),
            stop: self.control.stop.load(Ordering::Acquire),
        };
        if !asked.stop && self.control.drain.load(Ordering::Acquire) {
            self.drain(core, now);
        }
        if let Some(identity) = self.certs.as_ref().and_then(Watch::take)
            && let Core::Pop(node) = core
        {
            node.set_identity(now, &identity);
            info!("certificate reloaded, {}", certs::print(&identity));
            if let Some(remark) = certs::remark(&identity, entropy::unix_now()) {
                warn!("{remark}");
            }
        }
        asked
    }

    /// To be called at the end of each turn.
    pub fn publish(&mut self, asked: Asked, core: &mut Core, now: Instant) {
        if let Some(wanted) = asked.status
            && let Some(status) = core.status(now)
        {
            self.control.status.publish(wanted, status);
        }
        if let Some(new) = core.tickets_to_keep()
            && let Some(file) = &mut self.tickets
        {
            file.write(&new);
        }
    }

    /// [`Action::Drained`](entrouter_proto::Action::Drained).
    pub fn drained(&mut self, now: Instant) {
        self.drained = Some(now);
    }

    /// Whether the PoP has ended well; `flushed` is whether its last datagrams have left.
    #[must_use]
    pub fn is_over(&self, flushed: bool, now: Instant) -> bool {
        let over = self.drained.is_some_and(|since| flushed || since + LAST_WORDS <= now);
        if over {
            info!("drained");
        }
        over
    }

    fn drain(&mut self, core: &mut Core, now: Instant) {
        if self.draining.is_none() {
            self.draining = Some(now);
            core.drain(now);
        }
    }

    fn reload(&mut self, core: &mut Core, now: Instant) {
        let (Core::Pop(node), Some(started), Some(path)) = (core, &self.started, &self.file) else {
            return info!("there is no configuration to reload");
        };
        let config = match glue::load_config(path) {
            Ok(config) => config,
            Err(e) => {
                for line in e.to_string().lines() {
                    error!("{line}");
                }
                error!("the configuration was not reloaded, the old one stays");
                return;
            }
        };
        for notice in config.notices() {
            warn!("{notice}");
        }
        if glue::needs_restart(started, &config) {
            warn!("changes of [listen] and [[edge]] take effect only after a restart");
        }
        match node.reconfigure(now, config.clone()) {
            Ok(()) => {
                self.config = Some(config);
                info!("configuration reloaded");
            }
            Err(e) => error!("{e}; the old configuration stays"),
        }
    }
}
