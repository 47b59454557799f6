//! The event loop: wait, take in, let the core think, put out.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fmt, io};

use entrouter_host::Wake;
use entrouter_host::core::Core;
use entrouter_host::life::Life;
use entrouter_host::names::Names;
use entrouter_host::pace::{self, BLOCKED_TICK, Pace, ROUNDS};
use entrouter_host::pop::{EventLoop, Parts, RunError};
use entrouter_host::timer::PreciseTimer;
use entrouter_proto::Action;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};

use crate::tcp::Tcp;
use crate::udp::Udp;

const WAKER: Token = Token(0);
const TIMER: Token = Token(1);
const END: Token = Token(2);
const RELOAD: Token = Token(3);
/// Tokens of UDP sockets count from here.
pub(crate) const FIRST_UDP: usize = 16;
/// Tokens of listeners count from here.
pub(crate) const FIRST_LISTENER: usize = 1 << 10;
/// Tokens of connections count from here.
pub(crate) const FIRST_CONN: usize = 1 << 20;

/// The loop of this shell: one thread around one `mio::Poll`.
pub struct MioLoop {
    core: Core,
    life: Life,
    poll: Poll,
    udp: Udp,
    tcp: Tcp,
    names: Names,
    timer: PreciseTimer,
}

/// Whether a turn left work that no event will announce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Wait,
    Again,
    End,
}

impl fmt::Debug for MioLoop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MioLoop").field("udp", &self.udp).finish_non_exhaustive()
    }
}

impl EventLoop for MioLoop {
    type Setup = Poll;

    fn prepare() -> io::Result<(Poll, Wake)> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        // Fails only if the loop's descriptor is gone, and then nobody waits.
        Ok((poll, Arc::new(move || waker.wake().unwrap_or_default())))
    }

    fn new(poll: Poll, parts: Parts) -> io::Result<Self> {
        let Parts { core, life, udp, listeners, names, timer } = parts;
        let signals = life.signals().into_iter();
        let signals = signals.flat_map(|s| [(END, s.end_fd()), (RELOAD, s.reload_fd())]);
        for (token, fd) in timer.fd().map(|fd| (TIMER, fd)).into_iter().chain(signals) {
            poll.registry().register(&mut SourceFd(&fd.as_raw_fd()), token, Interest::READABLE)?;
        }
        let udp = Udp::new(udp, poll.registry().try_clone()?)?;
        let tcp = Tcp::new(listeners, poll.registry().try_clone()?)?;
        Ok(Self { core, life, poll, udp, tcp, names, timer })
    }

    fn run(mut self) -> Result<(), RunError> {
        let mut events = Events::with_capacity(1024);
        let mut wait = Some(Duration::ZERO);
        let mut pace = Pace::default();
        loop {
            match self.poll.poll(&mut events, wait) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => events.clear(),
                Err(e) => return Err(RunError::Poll(e)),
            }
            self.dispatch(&events);
            let (turn, worked) = self.turn();
            wait = match turn {
                Turn::End => return Ok(()),
                Turn::Again if pace.goes_on(worked || !events.is_empty()) => Some(Duration::ZERO),
                Turn::Again => Some(BLOCKED_TICK),
                Turn::Wait => {
                    pace.waits();
                    self.arm()
                }
            };
        }
    }
}

impl MioLoop {
    /// Takes note of what the poll reported.
    fn dispatch(&mut self, events: &Events) {
        let now = Instant::now();
        for event in events {
            match event.token() {
                WAKER => {} // what it is for is looked at in every turn
                TIMER => self.timer.drain(),
                END => self.life.end_signal(&mut self.core, now),
                RELOAD => self.life.reload_signal(&mut self.core, now),
                Token(FIRST_UDP..FIRST_LISTENER) => self.udp.ready(event),
                _ => self.tcp.ready(event, &mut self.core, &mut self.names, now),
            }
        }
    }

    /// One bounded portion of each kind of work. Also tells whether there was any.
    fn turn(&mut self) -> (Turn, bool) {
        let now = Instant::now();
        let asked = self.life.look(&mut self.core, now);
        if asked.stop {
            return (Turn::End, true);
        }
        let mut worked = self.udp.readable() || self.tcp.has_work();

        while let Some((conn, answer)) = self.names.answer(&mut self.core, now) {
            self.tcp.resolved(conn, answer, &mut self.core, &mut self.names, now);
        }
        self.udp.receive(&mut self.core, now);
        self.tcp.receive(&mut self.core, now);

        let now = Instant::now();
        self.tcp.expire(&mut self.core, &mut self.names, now);
        if self.core.poll_timeout().is_some_and(|(at, _)| at <= now) {
            self.core.handle_timeout(now);
        }
        let (acted, settled) = self.settle(now);
        worked |= acted;

        let more = self.udp.transmit(&mut self.core, Instant::now());
        worked |= self.udp.take_progress();
        self.life.publish(asked, &mut self.core, Instant::now());
        if self.life.is_over(self.udp.is_flushed(), now) {
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
            while let Some(action) = self.core.poll_action() {
                asked = true;
                self.act(action, now);
            }
            acted |= asked;
            self.tcp.flush(&mut self.core, now);
            if !asked {
                return (acted, true);
            }
        }
        (acted, false)
    }

    fn act(&mut self, action: Action, now: Instant) {
        match action {
            Action::Connect { conn, target } => {
                self.tcp.connect(conn, target, &mut self.core, &mut self.names, now);
            }
            Action::Write { conn, data } => self.tcp.write(conn, data),
            Action::GrantRead { conn, bytes } => self.tcp.grant(conn, bytes),
            Action::Shutdown { conn } => self.tcp.shutdown(conn),
            Action::Abort { conn } => self.tcp.abort(conn),
            Action::Resolve { peer, target } => {
                self.names.resolve_peer(peer, target, &mut self.core, now);
            }
            Action::StopAccepting => self.tcp.stop_accepting(),
            Action::Drained => self.life.drained(now),
        }
    }

    /// When something is to be done without an event.
    fn deadline(&mut self, now: Instant) -> Option<Instant> {
        let core = pace::deadline(&mut self.core, self.udp.blocked(), now);
        core.into_iter().chain(self.tcp.deadline()).min()
    }

    fn is_due(&mut self) -> bool {
        let now = Instant::now();
        self.deadline(now).is_some_and(|at| at <= now)
    }

    /// Prepares to wait for the next deadline: by the timer's descriptor where there is one, else
    /// by the timeout of the poll, which is returned.
    fn arm(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let deadline = self.deadline(now);
        let armed = self.timer.arm(now, deadline);
        if self.timer.fd().is_some() && armed.is_ok() {
            return None;
        }
        // Rounded up by mio to whole milliseconds.
        deadline.map(|at| at.saturating_duration_since(now))
    }
}
