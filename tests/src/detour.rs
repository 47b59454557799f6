//! What lies before an edge: datagrams of one client pass through, and seem to come from an address that
//! can change, as that of a client behind a NAT does.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use entrouter_sim::link::LinkConfig;
use entrouter_sim::live::{BoundProxy, Proxy};
use entrouter_sim::seed::Seed;
use socket2::SockRef;

use crate::pop::any_port;

/// How long a thread waits for a datagram before it looks whether something has changed.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// What a socket may hold while its thread is not running.
const SOCKET_BUFFER: usize = 4 << 20;

/// One at work, until it is dropped.
#[derive(Debug)]
pub struct Detour {
    addr: SocketAddr,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    link: Option<Proxy>,
}

#[derive(Debug)]
struct Shared {
    front: UdpSocket,
    back: Mutex<Arc<UdpSocket>>,
    to: SocketAddr,
    client: Mutex<Option<SocketAddr>>,
    passed: AtomicU64,
    over: AtomicBool,
}

impl Detour {
    /// To the edge at `to` over nothing but loopback.
    pub fn start(to: SocketAddr) -> Self {
        let front = socket();
        let addr = front.local_addr().expect("its address");
        let shared = Arc::new(Shared {
            front,
            back: Mutex::new(Arc::new(socket())),
            to,
            client: Mutex::new(None),
            passed: AtomicU64::new(0),
            over: AtomicBool::new(false),
        });
        let threads = [Shared::to_edge, Shared::to_client].map(|run| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || run(&shared))
        });
        Self { addr, shared, threads: threads.into(), link: None }
    }

    /// To the edge at `to` over such a link. The address towards the edge then is the link's.
    pub fn over(link: &LinkConfig, to: SocketAddr) -> Self {
        let proxy = BoundProxy::bind(link, link, Seed::new(2)).expect("a link on loopback");
        let mut detour = Self::start(proxy.addr_facing_a());
        let back = detour.shared.back().local_addr().expect("its address");
        detour.link = Some(proxy.start(back, to).expect("a thread for the link"));
        detour
    }

    /// What the client is to take for the edge's address.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// From now on the client seems to be elsewhere, and what is sent to where it was is lost.
    pub fn rebind(&self) {
        *self.shared.back.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(socket());
    }

    /// How many datagrams of the client have passed.
    pub fn passed(&self) -> u64 {
        self.shared.passed.load(Ordering::Acquire)
    }
}

impl Shared {
    fn back(&self) -> Arc<UdpSocket> {
        Arc::clone(&self.back.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn to_edge(&self) {
        let mut buf = vec![0; 64 << 10];
        while !self.over.load(Ordering::Acquire) {
            if let Ok((length, from)) = self.front.recv_from(&mut buf) {
                *self.client.lock().unwrap_or_else(PoisonError::into_inner) = Some(from);
                self.passed.fetch_add(1, Ordering::AcqRel);
                // An error is a datagram lost.
                let _ = self.back().send_to(&buf[..length], self.to);
            }
        }
    }

    fn to_client(&self) {
        let mut buf = vec![0; 64 << 10];
        while !self.over.load(Ordering::Acquire) {
            let received: io::Result<_> = self.back().recv_from(&mut buf);
            let client = *self.client.lock().unwrap_or_else(PoisonError::into_inner);
            if let (Ok((length, from)), Some(client)) = (received, client)
                && from == self.to
            {
                let _ = self.front.send_to(&buf[..length], client);
            }
        }
    }
}

impl Drop for Detour {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind(any_port()).expect("a free port");
    socket.set_read_timeout(Some(LOOK_EVERY)).expect("a timeout");
    let options = SockRef::from(&socket);
    // The kernel grants what its limits allow.
    options.set_recv_buffer_size(SOCKET_BUFFER).expect("a buffer");
    options.set_send_buffer_size(SOCKET_BUFFER).expect("a buffer");
    socket
}
