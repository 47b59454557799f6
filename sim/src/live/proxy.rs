//! A long link between two UDP sockets on this machine.
//!
//! Two sockets, one facing each PoP; what arrives at one leaves from the other after it went through
//! a [`Link`]. Each PoP takes the socket that faces it for its peer's address.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use entrouter_host::timer::{PreciseTimer, TimerError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;
use socket2::SockRef;

use super::histogram::Histogram;
use crate::link::{Link, LinkConfig, LinkConfigError, LinkCounters};
use crate::seed::Seed;
use crate::time::{Time, nanos};

/// What a socket may hold while the thread is not running: 0.3 s at 100 Mbit/s.
const SOCKET_BUFFER: usize = 4 << 20;
/// Datagrams taken from one socket before the other and the deliveries get their turn.
const BATCH: usize = 64;
/// No UDP datagram is longer.
const MAX_DATAGRAM: usize = 65_536;
/// A thread that sleeps runs again so late; a lone message is awaited by spinning instead.
const WAKE_UP: Duration = Duration::from_micros(100);
/// With fewer datagrams than that in flight.
const LIGHT: usize = 100;
/// Wait at most that long where there is no precise timer.
const COARSE_WAIT: Duration = Duration::from_millis(1);

/// The link between the PoPs could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// A socket on loopback could not be bound or set up.
    #[error("cannot open a UDP socket on 127.0.0.1 for the link: {0}")]
    Socket(#[source] io::Error),
    /// No timer.
    #[error(transparent)]
    Timer(#[from] TimerError),
    /// No thread, or no way to wake it.
    #[error("cannot start the link's thread: {0}")]
    Thread(#[source] io::Error),
    /// There is no such link.
    #[error(transparent)]
    Link(#[from] LinkConfigError),
}

/// What went over the link, and how well this machine kept its time.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct ProxyStats {
    /// From the first PoP to the second.
    pub a_to_b: LinkCounters,
    /// From the second PoP to the first.
    pub b_to_a: LinkCounters,
    /// How late deliveries left, beyond what the link asked for.
    pub lateness: Lateness,
    /// Datagrams that the operating system refused to send.
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

/// Bound but not yet forwarding: its addresses are needed before the PoPs' are known.
#[derive(Debug)]
pub struct BoundProxy {
    sockets: [UdpSocket; 2],
    addrs: [SocketAddr; 2],
    /// Towards the second PoP, towards the first.
    links: [Link<Vec<u8>>; 2],
}

impl BoundProxy {
    /// Binds both sockets to free ports of 127.0.0.1.
    ///
    /// # Errors
    /// [`ProxyError`] if a socket cannot be had or a link cannot be.
    pub fn bind(a_to_b: &LinkConfig, b_to_a: &LinkConfig, seed: Seed) -> Result<Self, ProxyError> {
        let links =
            [Link::new(a_to_b, seed.child("a to b"))?, Link::new(b_to_a, seed.child("b to a"))?];
        let sockets =
            [socket().map_err(ProxyError::Socket)?, socket().map_err(ProxyError::Socket)?];
        let addrs = [
            sockets[0].local_addr().map_err(ProxyError::Socket)?,
            sockets[1].local_addr().map_err(ProxyError::Socket)?,
        ];
        Ok(Self { sockets, addrs, links })
    }

    /// What the first PoP is to take for the second's address.
    #[must_use]
    pub fn addr_facing_a(&self) -> SocketAddr {
        self.addrs[0]
    }

    /// What the second PoP is to take for the first's address.
    #[must_use]
    pub fn addr_facing_b(&self) -> SocketAddr {
        self.addrs[1]
    }

    /// Begins to forward between the PoPs at these addresses. Whatever others send is ignored.
    ///
    /// # Errors
    /// [`ProxyError`] if no timer or thread can be had.
    pub fn start(self, pop_a: SocketAddr, pop_b: SocketAddr) -> Result<Proxy, ProxyError> {
        let (wake, woken) = UnixStream::pair().map_err(ProxyError::Thread)?;
        let shared = Arc::new(Mutex::new(Shared {
            links: self.links,
            lateness: Histogram::default(),
            send_errors: 0,
        }));
        let forwarder = Forwarder {
            sockets: self.sockets,
            pops: [pop_a, pop_b],
            woken,
            timer: PreciseTimer::new()?,
            epoch: Instant::now(),
            shared: Arc::clone(&shared),
        };
        let thread = std::thread::Builder::new()
            .name("link".into())
            .spawn(move || forwarder.run())
            .map_err(ProxyError::Thread)?;
        Ok(Proxy { wake, shared, thread: Some(thread) })
    }
}

fn socket() -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_nonblocking(true)?;
    let options = SockRef::from(&socket);
    // The kernel grants what its limits allow and says nothing; the report shows the consequence.
    options.set_recv_buffer_size(SOCKET_BUFFER)?;
    options.set_send_buffer_size(SOCKET_BUFFER)?;
    Ok(socket)
}

/// A link at work, on a thread of its own until it is dropped.
#[derive(Debug)]
pub struct Proxy {
    wake: UnixStream,
    shared: Arc<Mutex<Shared>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Proxy {
    /// What happened so far.
    #[must_use]
    pub fn stats(&self) -> ProxyStats {
        let shared = lock(&self.shared);
        ProxyStats {
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

    /// Whether the thread has ended by itself, which it does only on an error of the system.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Stops forwarding. What is in flight is dropped.
    ///
    /// # Errors
    /// What ended the thread, if it was not this call.
    pub fn stop(mut self) -> io::Result<()> {
        self.end()
    }

    fn end(&mut self) -> io::Result<()> {
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        // If the thread has ended by itself, nobody reads this.
        let _ = self.wake.write_all(&[0]);
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the link's thread panicked")))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

#[derive(Debug)]
struct Shared {
    links: [Link<Vec<u8>>; 2],
    /// Of deliveries, in microseconds.
    lateness: Histogram,
    send_errors: u64,
}

fn lock(shared: &Mutex<Shared>) -> std::sync::MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether so little is in flight that spinning for each delivery leaves the processor to others.
fn is_light(shared: &Shared) -> bool {
    shared.links.iter().map(Link::in_flight).sum::<usize>() < LIGHT
}

struct Forwarder {
    sockets: [UdpSocket; 2],
    pops: [SocketAddr; 2],
    woken: UnixStream,
    timer: PreciseTimer,
    epoch: Instant,
    shared: Arc<Mutex<Shared>>,
}

impl Forwarder {
    fn run(mut self) -> io::Result<()> {
        let mut buf = vec![0; MAX_DATAGRAM];
        loop {
            if self.wait()? {
                return Ok(());
            }
            let shared = Arc::clone(&self.shared);
            let mut shared = lock(&shared);
            for from in 0..2 {
                self.receive(from, &mut shared.links[from], &mut buf);
            }
            let early = if is_light(&shared) { WAKE_UP } else { Duration::ZERO };
            self.await_due(&shared, early);
            self.deliver(&mut shared);
            let next = shared.links.iter().filter_map(Link::next_delivery).min();
            drop(shared);
            let next = next.map(|time| self.epoch + Duration::from_nanos(time.as_nanos()));
            self.timer.arm(Instant::now(), next.and_then(|at| at.checked_sub(early)))?;
        }
    }

    /// Spins for up to `early` if something is due within that time.
    fn await_due(&self, shared: &Shared, early: Duration) {
        let Some(due) = shared.links.iter().filter_map(Link::next_delivery).min() else { return };
        while due > self.now() && due.since(self.now()) <= early {
            std::hint::spin_loop();
        }
    }

    /// Sleeps until there is something to do; whether it is to end.
    fn wait(&mut self) -> io::Result<bool> {
        let [a, b] = &self.sockets;
        let mut fds = vec![
            PollFd::new(&self.woken, PollFlags::IN),
            PollFd::new(a, PollFlags::IN),
            PollFd::new(b, PollFlags::IN),
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

    fn receive(&self, from: usize, link: &mut Link<Vec<u8>>, buf: &mut [u8]) {
        for _ in 0..BATCH {
            // Errors of earlier sends surface here, too (a PoP that has stopped); they end nothing.
            let Ok((length, sender)) = self.sockets[from].recv_from(buf) else {
                return;
            };
            if sender == self.pops[from] {
                link.send(self.now(), buf[..length].to_vec());
            }
        }
    }

    fn deliver(&self, shared: &mut Shared) {
        let Shared { links, lateness, send_errors } = shared;
        let until = self.now();
        for (from, link) in links.iter_mut().enumerate() {
            let to = 1 - from;
            while let Some((due, datagram)) = link.deliver(until) {
                let late = self.now().since(due);
                lateness.record(u64::try_from(late.as_micros()).unwrap_or(u64::MAX));
                if self.sockets[to].send_to(&datagram, self.pops[to]).is_err() {
                    *send_errors += 1;
                }
            }
        }
    }

    fn now(&self) -> Time {
        Time::from_nanos(nanos(self.epoch.elapsed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pop() -> (UdpSocket, SocketAddr) {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_secs(2))).expect("a timeout");
        SockRef::from(&socket).set_recv_buffer_size(SOCKET_BUFFER).expect("a buffer");
        let addr = socket.local_addr().expect("an address");
        (socket, addr)
    }

    #[test]
    fn forwards_both_ways_with_the_delay_and_only_between_the_two() {
        let delay = Duration::from_millis(20);
        let config = LinkConfig { delay, ..LinkConfig::default() };
        let proxy = BoundProxy::bind(&config, &config, Seed::new(1)).expect("a proxy");
        let (facing_a, facing_b) = (proxy.addr_facing_a(), proxy.addr_facing_b());
        let ((a, addr_a), (b, addr_b), (stranger, _)) = (pop(), pop(), pop());
        let proxy = proxy.start(addr_a, addr_b).expect("a thread");
        stranger.send_to(b"forged", facing_a).expect("sent");
        let start = Instant::now();
        a.send_to(b"there", facing_a).expect("sent");
        let mut buf = [0; 64];
        let (length, from) = b.recv_from(&mut buf).expect("received");
        assert_eq!((&buf[..length], from), (&b"there"[..], facing_b));
        assert!(start.elapsed() >= delay);
        b.send_to(b"back", facing_b).expect("sent");
        let (length, from) = a.recv_from(&mut buf).expect("received");
        assert_eq!((&buf[..length], from), (&b"back"[..], facing_a));
        assert!(start.elapsed() >= 2 * delay);
        let stats = proxy.stats();
        assert_eq!((stats.a_to_b.delivered, stats.b_to_a.delivered), (1, 1));
        proxy.stop().expect("a clean end");
    }
}
