//! The tasks that always are, and the thread that runs all tasks.

use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use async_io::{Async, Timer, block_on};
use entrouter_host::Wake;
use entrouter_host::core::Core;
use entrouter_host::hangups::{Hangups, PEEK_EVERY, PERHAPS};
use entrouter_host::life::Life;
use entrouter_host::pop::{EventLoop, Parts, RunError};
use entrouter_proto::ConnId;
use smol::channel::{Receiver, bounded};
use smol::future::{or, yield_now};
use smol::{LocalExecutor, Task};

use crate::alarm::Alarm;
use crate::driver::drive;
use crate::state::{Pop, State};
use crate::tcp;

/// Tasks that run before the reactor looks at the sockets again, if so many are ready.
const TICKS: usize = 32;

/// The loop of this shell: a `LocalExecutor` on one thread.
#[derive(Debug)]
pub struct SmolLoop {
    parts: Parts,
    wakes: Receiver<()>,
    watched: Watched,
}

/// What the reactor watches from the beginning.
#[derive(Debug)]
struct Watched {
    udp: Vec<Async<Arc<UdpSocket>>>,
    listeners: Vec<Async<TcpListener>>,
    hangups: Option<Hangups<ConnId>>,
    hangups_fd: Option<Async<OwnedFd>>,
    timer_fd: Option<Async<OwnedFd>>,
    /// What signals make readable, and what they do.
    signals: Vec<(Async<OwnedFd>, OnSignal)>,
}

type OnSignal = fn(&mut Life, &mut Core, Instant);

impl EventLoop for SmolLoop {
    type Setup = Receiver<()>;

    fn prepare() -> io::Result<(Receiver<()>, Wake)> {
        let (wake, wakes) = bounded(1);
        // Fails only if a wake-up is on its way already, or nobody waits any more.
        Ok((wakes, Arc::new(move || wake.try_send(()).unwrap_or_default())))
    }

    fn new(wakes: Receiver<()>, mut parts: Parts) -> io::Result<Self> {
        let sockets = parts.udp.iter().map(|udp| Async::new_nonblocking(Arc::clone(udp.socket())));
        let listeners = std::mem::take(&mut parts.listeners).into_iter();
        let hangups = Hangups::new()?;
        let mut signals: Vec<(_, OnSignal)> = Vec::new();
        if let Some(watched) = parts.life.signals() {
            signals.push((watch(watched.end_fd())?, Life::end_signal));
            signals.push((watch(watched.reload_fd())?, Life::reload_signal));
        }
        let watched = Watched {
            udp: sockets.collect::<io::Result<_>>()?,
            listeners: listeners.map(Async::new_nonblocking).collect::<io::Result<_>>()?,
            hangups_fd: hangups.as_ref().map(|h| watch(h.fd())).transpose()?,
            hangups,
            timer_fd: parts.timer.fd().map(watch).transpose()?,
            signals,
        };
        Ok(Self { parts, wakes, watched })
    }

    fn run(self) -> Result<(), RunError> {
        let Self { parts, wakes, watched } = self;
        let Parts { core, life, names, timer, udp: datagrams, .. } = parts;
        let Watched { udp, listeners, hangups, hangups_fd, timer_fd, signals } = watched;
        let executor = Rc::new(LocalExecutor::new());
        let state = State::new(core, life, names, datagrams, listeners, hangups);
        let pop = Rc::new(Pop::new(state, udp, Rc::downgrade(&executor)));
        let driver = executor.spawn(drive(Rc::clone(&pop)));
        executor.spawn(hear_wakes(Rc::clone(&pop), wakes)).detach();
        executor.spawn(hear_hangups(Rc::clone(&pop), hangups_fd)).detach();
        for (fd, then) in signals {
            executor.spawn(hear_signals(Rc::clone(&pop), fd, then)).detach();
        }
        for n in 0..pop.udp.len() {
            executor.spawn(receive(Rc::clone(&pop), n)).detach();
        }
        for n in 0..pop.listeners() {
            executor.spawn(tcp::accept(Rc::clone(&pop), n)).detach();
        }
        // Dropped with the executor, the tasks close what they and the core had open.
        block_on(run_until(&executor, driver, &pop, Alarm::new(timer, timer_fd)))
    }
}

/// Lets the reactor watch a descriptor that somebody else owns.
fn watch(fd: BorrowedFd<'_>) -> io::Result<Async<OwnedFd>> {
    Async::new_nonblocking(fd.try_clone_to_owned()?)
}

/// Runs tasks in the order in which they became ready until `end` is done. As `LocalExecutor::run`,
/// but looks at the sockets more often than every 200 tasks, as some of ours are not short; and sets
/// the timer only when no task is ready, not whenever the driver has a new deadline.
async fn run_until<T>(
    executor: &LocalExecutor<'_>,
    end: Task<T>,
    pop: &Pop,
    mut alarm: Alarm,
) -> T {
    loop {
        let busy = (0..TICKS).all(|_| executor.try_tick());
        if end.is_finished() {
            return end.await;
        }
        let due_at = pop.due_at.get();
        let now = Instant::now();
        if busy {
            if due_at.is_some_and(|at| at <= now) {
                pop.driver.ring();
            }
            yield_now().await;
        } else {
            alarm.arm(now, due_at);
            or(executor.tick(), async {
                alarm.rings().await;
                pop.driver.ring();
            })
            .await;
        }
    }
}

async fn hear_wakes(pop: Rc<Pop>, wakes: Receiver<()>) {
    while wakes.recv().await.is_ok() {
        pop.driver.ring();
    }
}

async fn hear_signals(pop: Rc<Pop>, fd: Async<OwnedFd>, then: OnSignal) {
    while fd.readable().await.is_ok() {
        let state = &mut *pop.state();
        then(&mut state.life, &mut state.core, Instant::now());
        pop.driver.ring();
    }
}

/// Ends and resets of connections that are not read at present.
async fn hear_hangups(pop: Rc<Pop>, fd: Option<Async<OwnedFd>>) {
    let Some(fd) = fd else {
        loop {
            Timer::after(PEEK_EVERY).await;
            pop.state().hear_all(PERHAPS, Instant::now());
            pop.driver.ring();
        }
    };
    while fd.readable().await.is_ok() {
        pop.state().hear_hangups(Instant::now());
        pop.driver.ring();
    }
}

/// The task of a UDP socket.
async fn receive(pop: Rc<Pop>, n: usize) {
    loop {
        if pop.state().receive(n, Instant::now()) {
            pop.driver.ring();
            yield_now().await;
        } else if let Err(e) = std::future::poll_fn(|cx| pop.udp[n].poll_readable(cx)).await {
            return pop.fail(e);
        }
    }
}
