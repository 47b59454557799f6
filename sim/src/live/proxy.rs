//! A long link between two UDP sockets on this machine.
//!
//! Two sockets, one facing each PoP; what arrives at one leaves from the other after it went through
//! a [`Link`]. Each PoP takes the socket that faces it for its peer's address.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use socket2::SockRef;

use super::forward::{Ends, ForwardError, Forwarding, LiveStats, Received};
use crate::link::{Link, LinkConfig, LinkConfigError};
use crate::seed::Seed;

/// What a socket may hold while the thread is not running: 0.3 s at 100 Mbit/s.
const SOCKET_BUFFER: usize = 4 << 20;

/// The link between the PoPs could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// A socket on loopback could not be bound or set up.
    #[error("cannot open a UDP socket on 127.0.0.1 for the link: {0}")]
    Socket(#[source] io::Error),
    /// No thread.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// There is no such link.
    #[error(transparent)]
    Link(#[from] LinkConfigError),
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
        let ends = UdpEnds { sockets: self.sockets, pops: [pop_a, pop_b] };
        Ok(Proxy(Forwarding::start(ends, self.links)?))
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
pub struct Proxy(Forwarding<Vec<u8>>);

impl Proxy {
    /// What happened so far.
    #[must_use]
    pub fn stats(&self) -> LiveStats {
        self.0.stats()
    }

    /// Whether the thread has ended by itself, which it does only on an error of the system.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.0.has_failed()
    }

    /// Stops forwarding. What is in flight is dropped.
    ///
    /// # Errors
    /// What ended the thread, if it was not this call.
    pub fn stop(self) -> io::Result<()> {
        self.0.stop()
    }
}

struct UdpEnds {
    sockets: [UdpSocket; 2],
    pops: [SocketAddr; 2],
}

impl Ends for UdpEnds {
    type Packet = Vec<u8>;

    fn fds(&self) -> [BorrowedFd<'_>; 2] {
        [self.sockets[0].as_fd(), self.sockets[1].as_fd()]
    }

    fn receive(&self, end: usize, buf: &mut [u8]) -> io::Result<Received<Vec<u8>>> {
        Ok(match self.sockets[end].recv_from(buf) {
            Ok((length, sender)) if sender == self.pops[end] => {
                Received::Packet(buf[..length].to_vec())
            }
            Ok(_) => Received::Ignored,
            // Errors of earlier sends surface here, too (a PoP that has stopped); they end nothing.
            Err(_) => Received::Nothing,
        })
    }

    fn send(&self, end: usize, packet: &Vec<u8>) -> io::Result<()> {
        self.sockets[end].send_to(packet, self.pops[end]).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

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
