//! The event loop: wait, take in, let the core think, put out.

use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use std::{fmt, io};

use entrouter_host::glue;
use entrouter_host::signals::Signals;
use entrouter_host::timer::PreciseTimer;
use entrouter_proto::{Action, Config, Node, TimerReason};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use tracing::{error, info, warn};

use crate::shell::{Control, RunError};
use crate::tcp::Tcp;
use crate::udp::Udp;

pub(crate) const WAKER: Token = Token(0);
const TIMER: Token = Token(1);
const END: Token = Token(2);
const RELOAD: Token = Token(3);
pub(crate) const UDP: Token = Token(4);
/// Tokens of listeners count from here.
pub(crate) const FIRST_LISTENER: usize = 16;
/// Tokens of connections count from here.
pub(crate) const FIRST_CONN: usize = 1 << 20;

/// Rounds of actions and writes in a turn: what is written may make the core ask for more.
const ROUNDS: usize = 4;

/// Turns without waiting and without any work after which the loop waits nevertheless.
const IDLE_TURNS: u32 = 64;

/// While the UDP socket is full, the core's output is always due and hides its other deadlines:
/// they are looked at this often.
const BLOCKED_TICK: Duration = Duration::from_millis(1);

/// A second SIGTERM or Ctrl-C within this time is the first one: `timeout(1)` and some supervisors
/// signal a process and then its group.
const SAME_SIGNAL: Duration = Duration::from_millis(250);

/// After draining, how long the last datagrams may wait for the socket.
const LAST_WORDS: Duration = Duration::from_secs(1);

pub(crate) struct EventLoop {
    node: Node,
    config: Config,
    config_file: Option<PathBuf>,
    poll: Poll,
    udp: Udp,
    tcp: Tcp,
    timer: PreciseTimer,
    signals: Option<Signals>,
    control: Arc<Control>,
    /// When draining began.
    draining: Option<Instant>,
    /// When draining was complete.
    drained: Option<Instant>,
}

/// Whether a turn left work that no event will announce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Wait,
    Again,
    End,
}

impl fmt::Debug for EventLoop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventLoop").field("udp", &self.udp).finish_non_exhaustive()
    }
}

/// What a loop is made of.
pub(crate) struct Parts {
    pub(crate) node: Node,
    pub(crate) config: Config,
    pub(crate) config_file: Option<PathBuf>,
    pub(crate) poll: Poll,
    pub(crate) udp: Udp,
    pub(crate) tcp: Tcp,
    pub(crate) timer: PreciseTimer,
    pub(crate) signals: Option<Signals>,
    pub(crate) control: Arc<Control>,
}

impl EventLoop {
    pub(crate) fn new(parts: Parts) -> io::Result<Self> {
        let Parts { node, config, config_file, poll, udp, tcp, timer, signals, control } = parts;
        let signal_fds = signals.iter().flat_map(|s| [(END, s.end_fd()), (RELOAD, s.reload_fd())]);
        for (token, fd) in timer.fd().map(|fd| (TIMER, fd)).into_iter().chain(signal_fds) {
            poll.registry().register(&mut SourceFd(&fd.as_raw_fd()), token, Interest::READABLE)?;
        }
        Ok(Self {
            node,
            config,
            config_file,
            poll,
            udp,
            tcp,
            timer,
            signals,
            control,
            draining: None,
            drained: None,
        })
    }

    pub(crate) fn run(mut self) -> Result<(), RunError> {
        let mut events = Events::with_capacity(1024);
        let mut wait = Some(Duration::ZERO);
        let mut idle_turns = 0;
        loop {
            match self.poll.poll(&mut events, wait) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => events.clear(),
                Err(e) => return Err(RunError::Poll(e)),
            }
            self.dispatch(&events);
            let (turn, worked) = self.turn();
            match turn {
                Turn::End => return Ok(()),
                Turn::Again if worked || !events.is_empty() => {
                    idle_turns = 0;
                    wait = Some(Duration::ZERO);
                }
                // A deadline that is over and does not go away when it is handled would be a
                // fault of the core. It shall not cost a processor.
                Turn::Again if idle_turns >= IDLE_TURNS => wait = Some(BLOCKED_TICK),
                Turn::Again => {
                    idle_turns += 1;
                    wait = Some(Duration::ZERO);
                }
                Turn::Wait => {
                    idle_turns = 0;
                    wait = self.arm();
                }
            }
        }
    }

    /// Takes note of what the poll reported.
    fn dispatch(&mut self, events: &Events) {
        let now = Instant::now();
        for event in events {
            match event.token() {
                WAKER => {} // what it is for is looked at in every turn
                TIMER => self.timer.drain(),
                END => {
                    if self.signals.as_mut().is_some_and(Signals::take_end) {
                        self.end_signal(now);
                    }
                }
                RELOAD => {
                    if self.signals.as_mut().is_some_and(Signals::take_reload) {
                        self.reload(now);
                    }
                }
                UDP => {
                    let (readable, writable) = (event.is_readable(), event.is_writable());
                    self.udp.ready(readable || event.is_error(), writable, self.poll.registry());
                }
                _ => self.tcp.ready(event, &mut self.node, now),
            }
        }
    }

    /// One bounded portion of each kind of work. Also tells whether there was any.
    fn turn(&mut self) -> (Turn, bool) {
        let now = Instant::now();
        // Looked at first, so that a status asked for after `Handle::drain` shows its effect.
        let status_wanted = self.control.status.wanted();
        if self.control.stop.load(Ordering::Acquire) {
            return (Turn::End, true);
        }
        if self.control.drain.load(Ordering::Acquire) {
            self.drain(now);
        }
        let mut worked = self.udp.readable() || self.tcp.has_work();

        self.tcp.resolved(&mut self.node, now);
        self.udp.receive(&mut self.node, now);
        self.tcp.receive(&mut self.node, now);

        let now = Instant::now();
        self.tcp.expire(&mut self.node, now);
        if self.node.poll_timeout().is_some_and(|(at, _)| at <= now) {
            self.node.handle_timeout(now);
        }
        let (acted, settled) = self.settle(now);
        worked |= acted;

        let more = self.udp.transmit(&mut self.node, Instant::now(), self.poll.registry());
        worked |= self.udp.take_progress();
        if let Some(wanted) = status_wanted {
            self.control.status.publish(wanted, self.node.status(Instant::now()));
        }
        if let Some(since) = self.drained
            && ((!more && self.udp.is_flushed()) || since + LAST_WORDS <= now)
        {
            info!("drained");
            return (Turn::End, worked);
        }
        let again = more || !settled || self.udp.readable() || self.tcp.has_work();
        (if again || self.is_due() { Turn::Again } else { Turn::Wait }, worked)
    }

    /// Does what the core asks, until it asks for nothing more or the turn's share is used up.
    /// Tells whether there was anything, and whether all is done.
    fn settle(&mut self, now: Instant) -> (bool, bool) {
        let mut acted = false;
        for _ in 0..ROUNDS {
            let mut asked = false;
            while let Some(action) = self.node.poll_action() {
                asked = true;
                self.act(action, now);
            }
            acted |= asked;
            self.tcp.flush(&mut self.node, now);
            if !asked {
                return (acted, true);
            }
        }
        (acted, false)
    }

    fn act(&mut self, action: Action, now: Instant) {
        match action {
            Action::Connect { conn, target } => {
                self.tcp.connect(conn, target, &mut self.node, now);
            }
            Action::Write { conn, data } => self.tcp.write(conn, data),
            Action::GrantRead { conn, bytes } => self.tcp.grant(conn, bytes),
            Action::Shutdown { conn } => self.tcp.shutdown(conn),
            Action::Abort { conn } => self.tcp.abort(conn),
            Action::Resolve { peer, target } => {
                self.tcp.resolve(peer, target, &mut self.node, now);
            }
            Action::StopAccepting => self.tcp.stop_accepting(),
            Action::Drained => self.drained = Some(now),
        }
    }

    /// When something is to be done without an event.
    fn deadline(&mut self) -> Option<Instant> {
        let node = match self.node.poll_timeout() {
            Some((_, TimerReason::Output)) if self.udp.blocked() => {
                Some(Instant::now() + BLOCKED_TICK)
            }
            due => due.map(|(at, _)| at),
        };
        node.into_iter().chain(self.tcp.deadline()).min()
    }

    fn is_due(&mut self) -> bool {
        self.deadline().is_some_and(|at| at <= Instant::now())
    }

    /// Prepares to wait for the next deadline: by the timer's descriptor where there is one, else
    /// by the timeout of the poll, which is returned.
    fn arm(&mut self) -> Option<Duration> {
        let deadline = self.deadline();
        let now = Instant::now();
        let armed = self.timer.arm(now, deadline);
        if self.timer.fd().is_some() && armed.is_ok() {
            return None;
        }
        // Rounded up by mio to whole milliseconds.
        deadline.map(|at| at.saturating_duration_since(now))
    }

    fn end_signal(&mut self, now: Instant) {
        match self.draining {
            None => {
                info!("draining: no more connections are accepted; signal again to stop at once");
                self.drain(now);
            }
            Some(since) if now.saturating_duration_since(since) < SAME_SIGNAL => {}
            Some(_) => {
                info!("stopping at once");
                self.control.stop.store(true, Ordering::Release);
            }
        }
    }

    fn drain(&mut self, now: Instant) {
        if self.draining.is_none() {
            self.draining = Some(now);
            self.node.drain(now);
        }
    }

    fn reload(&mut self, now: Instant) {
        let Some(path) = &self.config_file else { return };
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
        if glue::needs_restart(&self.config, &config) {
            warn!("changes of [listen] and [[edge]] take effect only after a restart");
        }
        match self.node.reconfigure(now, config.clone()) {
            Ok(()) => {
                self.config = config;
                info!("configuration reloaded");
            }
            Err(e) => error!("{e}; the old configuration stays"),
        }
    }
}
