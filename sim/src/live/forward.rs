//! A link in real time, whatever its ends are: what arrives at one leaves from the other after it went
//! through a [`Link`].

use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use entrouter_host::timer::{PreciseTimer, TimerError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;
use thread_priority::{
    RealtimeThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};

use super::histogram::Histogram;
use super::meter::{DirectionFigures, Meter};
use crate::link::{Datagram, Link, LinkCounters, wire_size};
use crate::time::{Time, nanos};

/// Packets taken from one end before the other and the deliveries get their turn.
const BATCH: usize = 64;
/// No IP packet or datagram is longer.
const MAX_PACKET: usize = 65_536;
/// A thread that sleeps runs again so late; a lone message is awaited by spinning instead.
const WAKE_UP: Duration = Duration::from_micros(100);
/// With fewer packets than that in flight.
const LIGHT: usize = 100;
/// Wait at most that long where there is no precise timer.
const COARSE_WAIT: Duration = Duration::from_millis(1);

/// Where packets come from and go to; everything in it returns at once.
pub(super) trait Ends: Send + 'static {
    type Packet: Datagram + Send;

    /// Readable when a packet waits at that end.
    fn fds(&self) -> [BorrowedFd<'_>; 2];

    /// Takes what waits at end 0 or 1, by way of `buf`. An error ends the link.
    fn receive(&self, end: usize, buf: &mut [u8]) -> io::Result<Received<Self::Packet>>;

    /// Hands out at end 0 or 1 what has crossed the link.
    fn send(&self, end: usize, packet: &Self::Packet) -> io::Result<()>;
}

pub(super) enum Received<P> {
    Packet(P),
    /// Something that is not to cross.
    Ignored,
    /// Nothing waits any more.
    Nothing,
}

/// What went over the link, and how well this machine kept its time.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct LiveStats {
    /// From the first end to the second.
    pub a_to_b: LinkCounters,
    /// From the second end to the first.
    pub b_to_a: LinkCounters,
    /// How late deliveries left, beyond what the link asked for.
    pub lateness: Lateness,
    /// Packets that the operating system refused to send.
    pub send_errors: u64,
}

/// Lateness of deliveries in microseconds, rounded up to 10.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Lateness {
    /// Median.
    pub p50_us: u64,
    /// 99th percentile.
    pub p99_us: u64,
    /// Greatest.
    pub max_us: u64,
}

/// The link's thread could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// No timer.
    #[error(transparent)]
    Timer(#[from] TimerError),
    /// No thread, or no way to wake it.
    #[error("cannot start the link's thread: {0}")]
    Thread(#[source] io::Error),
}

/// A link at work, on a thread of its own until it is dropped.
#[derive(Debug)]
pub(super) struct Forwarding<P> {
    wake: UnixStream,
    shared: Arc<Mutex<Shared<P>>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl<P: Datagram + Send + 'static> Forwarding<P> {
    /// Begins to forward: from end 0 to end 1 over the first link, back over the second.
    pub(super) fn start(
        ends: impl Ends<Packet = P>,
        links: [Link<P>; 2],
    ) -> Result<Self, ForwardError> {
        let (wake, woken) = UnixStream::pair().map_err(ForwardError::Thread)?;
        let shared = Arc::new(Mutex::new(Shared {
            links,
            meters: Default::default(),
            lateness: Histogram::default(),
            send_errors: 0,
        }));
        let forwarder = Forwarder {
            ends,
            woken,
            timer: PreciseTimer::new()?,
            epoch: Instant::now(),
            shared: Arc::clone(&shared),
        };
        let thread = std::thread::Builder::new()
            .name("link".into())
            .spawn(move || forwarder.run())
            .map_err(ForwardError::Thread)?;
        Ok(Self { wake, shared, thread: Some(thread) })
    }

    /// What happened so far.
    pub(super) fn stats(&self) -> LiveStats {
        let shared = lock(&self.shared);
        LiveStats {
            a_to_b: shared.links[0].counters(),
            b_to_a: shared.links[1].counters(),
            lateness: Lateness {
                p50_us: shared.lateness.percentile(50.0),
                p99_us: shared.lateness.percentile(99.0),
                max_us: shared.lateness.max(),
            },
            send_errors: shared.send_errors,
        }
    }

    /// What was measured at the links' entrances, in the links' order.
    pub(super) fn figures(&self) -> [DirectionFigures; 2] {
        let shared = lock(&self.shared);
        [0, 1].map(|from| shared.meters[from].figures())
    }

    /// From now on the late figures count.
    pub(super) fn mark(&self) {
        lock(&self.shared).meters.iter_mut().for_each(Meter::mark);
    }

    /// Whether the thread has ended by itself, which it does only on an error of the system.
    pub(super) fn has_failed(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Stops forwarding. What is in flight is dropped. The error is what ended the thread, if it was
    /// not this call.
    pub(super) fn stop(mut self) -> io::Result<()> {
        self.end()
    }
}

impl<P> Forwarding<P> {
    fn end(&mut self) -> io::Result<()> {
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        // If the thread has ended by itself, nobody reads this.
        let _ = self.wake.write_all(&[0]);
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the link's thread panicked")))
    }
}

impl<P> Drop for Forwarding<P> {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

#[derive(Debug)]
struct Shared<P> {
    links: [Link<P>; 2],
    /// Of what is offered to each.
    meters: [Meter; 2],
    /// Of deliveries, in microseconds.
    lateness: Histogram,
    send_errors: u64,
}

impl<P: Datagram> Shared<P> {
    fn next_delivery(&self) -> Option<Time> {
        self.links.iter().filter_map(Link::next_delivery).min()
    }

    /// Whether so little is in flight that spinning for each delivery leaves the processor to others.
    fn is_light(&self) -> bool {
        self.links.iter().map(Link::in_flight).sum::<usize>() < LIGHT
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets this thread run before others where that is allowed (root): a wire waits for nobody. It works
/// little and sleeps between.
fn keep_time() {
    let _ = set_thread_priority_and_policy(
        thread_native_id(),
        ThreadPriority::Min,
        ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::RoundRobin),
    );
}

struct Forwarder<E: Ends> {
    ends: E,
    woken: UnixStream,
    timer: PreciseTimer,
    epoch: Instant,
    shared: Arc<Mutex<Shared<E::Packet>>>,
}

impl<E: Ends> Forwarder<E> {
    fn run(mut self) -> io::Result<()> {
        keep_time();
        let mut buf = vec![0; MAX_PACKET];
        loop {
            if self.wait()? {
                return Ok(());
            }
            let shared = Arc::clone(&self.shared);
            let mut shared = lock(&shared);
            for from in 0..2 {
                self.receive(from, &mut shared, &mut buf)?;
            }
            let early = if shared.is_light() { WAKE_UP } else { Duration::ZERO };
            self.await_due(&mut shared, early, &mut buf)?;
            self.deliver(&mut shared);
            let next = shared.next_delivery();
            drop(shared);
            let next = next.map(|time| self.epoch + Duration::from_nanos(time.as_nanos()));
            self.timer.arm(Instant::now(), next.and_then(|at| at.checked_sub(early)))?;
        }
    }

    /// Spins for up to `early` if something is due within that time. Who comes meanwhile does not wait.
    fn await_due(
        &self,
        shared: &mut Shared<E::Packet>,
        early: Duration,
        buf: &mut [u8],
    ) -> io::Result<()> {
        let until = self.now() + early;
        loop {
            let (now, due) = (self.now(), shared.next_delivery());
            if now >= until || due.is_none_or(|due| due <= now || due > until) {
                return Ok(());
            }
            for from in 0..2 {
                self.receive(from, shared, buf)?;
            }
        }
    }

    /// Sleeps until there is something to do; whether it is to end.
    fn wait(&mut self) -> io::Result<bool> {
        let [a, b] = self.ends.fds();
        let mut fds = vec![
            PollFd::new(&self.woken, PollFlags::IN),
            PollFd::from_borrowed_fd(a, PollFlags::IN),
            PollFd::from_borrowed_fd(b, PollFlags::IN),
        ];
        let timeout = match self.timer.fd() {
            Some(fd) => {
                fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
                None
            }
            None => Some(Timespec { tv_sec: 0, tv_nsec: COARSE_WAIT.subsec_nanos().into() }),
        };
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ending = !fds[0].revents().is_empty();
        let fired = fds.get(3).is_some_and(|timer| !timer.revents().is_empty());
        drop(fds);
        if fired {
            self.timer.drain();
        }
        Ok(ending)
    }

    fn receive(
        &self,
        from: usize,
        shared: &mut Shared<E::Packet>,
        buf: &mut [u8],
    ) -> io::Result<()> {
        let Shared { links, meters, .. } = shared;
        let (link, meter) = (&mut links[from], &mut meters[from]);
        for _ in 0..BATCH {
            match self.ends.receive(from, buf)? {
                Received::Packet(packet) => {
                    let now = self.now();
                    meter.offer(now, link.queueing_delay(now), wire_size(&packet));
                    link.send(now, packet);
                }
                Received::Ignored => {}
                Received::Nothing => break,
            }
        }
        Ok(())
    }

    fn deliver(&self, shared: &mut Shared<E::Packet>) {
        let Shared { links, lateness, send_errors, .. } = shared;
        let until = self.now();
        for (from, link) in links.iter_mut().enumerate() {
            while let Some((due, packet)) = link.deliver(until) {
                let late = self.now().since(due);
                lateness.record(u64::try_from(late.as_micros()).unwrap_or(u64::MAX));
                if self.ends.send(1 - from, &packet).is_err() {
                    *send_errors += 1;
                }
            }
        }
    }

    fn now(&self) -> Time {
        Time::from_nanos(nanos(self.epoch.elapsed()))
    }
}
