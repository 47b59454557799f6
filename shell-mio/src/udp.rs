//! The UDP socket of the tunnels: batches in (recvmmsg, GRO), batches out (GSO), ECN both ways.

use std::collections::HashMap;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use entrouter_host::ratelimit::{RateLimit, Suppressed};
use entrouter_host::sockets::canonical;
use entrouter_proto::{Ecn, Node, SocketId, Transmit};
use mio::net::UdpSocket;
use mio::{Interest, Registry};
use quinn_udp::{BATCH_SIZE, EcnCodepoint, RecvMeta, UdpSocketState};
use tracing::{debug, warn};

use crate::event_loop::UDP;

/// The largest thing that `recvmsg` can return with GRO.
const RECV_BUFFER: usize = 64 << 10;

/// Datagrams asked of the core at a time. More would save little and make a burst on the wire.
const SEGMENTS: usize = 32;

/// Calls to [`Node::poll_transmit`] in a turn of the loop.
const BATCHES: usize = 64;

/// The longest UDP payload over IPv4; a GSO batch is one payload until the kernel cuts it.
const MAX_PAYLOAD: usize = 65_507;

/// Remembered local addresses at most; see [`Udp::sources`].
const MAX_SOURCES: usize = 1024;

pub(crate) struct Udp {
    socket: UdpSocket,
    state: UdpSocketState,
    /// IPv4 peers appear as `::ffff:a.b.c.d` on a dual-stack socket, but not in the core.
    is_v6: bool,
    /// [`BATCH_SIZE`] times [`RECV_BUFFER`].
    recv: Vec<u8>,
    /// Cleared only by `WouldBlock`: events are edge-triggered.
    readable: bool,
    /// The send buffer is full; `unsent` waits.
    blocked: bool,
    /// The bytes of `unsent`; reused for ever.
    send: Vec<u8>,
    unsent: Option<Unsent>,
    /// On a wildcard socket: which of our addresses each remote sends to. Answers must leave from
    /// there, or NATs and firewalls on the way drop them.
    sources: Option<HashMap<SocketAddr, IpAddr>>,
    /// Whether anything left, or was dropped, since [`Self::take_progress`].
    progress: bool,
    complaints: RateLimit<(&'static str, Option<i32>)>,
}

/// A batch that the core has handed over; bytes before `sent` have left.
struct Unsent {
    transmit: Transmit,
    sent: usize,
}

impl std::fmt::Debug for Udp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Udp").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl Udp {
    pub(crate) fn new(socket: std::net::UdpSocket, registry: &Registry) -> io::Result<Self> {
        let state = UdpSocketState::new((&socket).into())?;
        let local = socket.local_addr()?;
        let mut socket = UdpSocket::from_std(socket);
        registry.register(&mut socket, UDP, Interest::READABLE)?;
        Ok(Self {
            socket,
            state,
            is_v6: local.is_ipv6(),
            recv: vec![0; BATCH_SIZE * RECV_BUFFER],
            readable: true,
            blocked: false,
            send: Vec::with_capacity(MAX_PAYLOAD),
            unsent: None,
            sources: local.ip().is_unspecified().then(HashMap::new),
            progress: false,
            complaints: RateLimit::new(Duration::from_secs(10)),
        })
    }

    /// The poll reported readiness.
    pub(crate) fn ready(&mut self, readable: bool, writable: bool, registry: &Registry) {
        self.readable |= readable;
        if writable && self.blocked {
            self.blocked = false;
            self.watch(registry, Interest::READABLE);
        }
    }

    /// Whether [`Self::receive`] may find something.
    pub(crate) fn readable(&self) -> bool {
        self.readable
    }

    /// Whether the socket takes nothing at present.
    pub(crate) fn blocked(&self) -> bool {
        self.blocked
    }

    /// Whether everything that the core handed over has left.
    pub(crate) fn is_flushed(&self) -> bool {
        self.unsent.is_none()
    }

    /// Whether datagrams left since the last call.
    pub(crate) fn take_progress(&mut self) -> bool {
        std::mem::take(&mut self.progress)
    }

    /// Reads one batch into the core.
    pub(crate) fn receive(&mut self, node: &mut Node, now: Instant) {
        if !self.readable {
            return;
        }
        let mut meta = [RecvMeta::default(); BATCH_SIZE];
        let count = {
            let mut chunks = self.recv.chunks_exact_mut(RECV_BUFFER);
            let mut bufs: [IoSliceMut<'_>; BATCH_SIZE] = std::array::from_fn(|_| {
                IoSliceMut::new(chunks.next().map_or(&mut [], |chunk| chunk))
            });
            let (socket, state) = (&self.socket, &self.state);
            socket.try_io(|| state.recv(socket.into(), &mut bufs, &mut meta))
        };
        let count = match count {
            Ok(count) => count,
            Err(e) => {
                // Whatever else it was, the next datagram to arrive makes a new event.
                self.readable = false;
                if e.kind() != io::ErrorKind::WouldBlock {
                    self.complain(now, "receive", &e, None);
                }
                return;
            }
        };
        for (meta, buf) in meta.iter().zip(self.recv.chunks_exact_mut(RECV_BUFFER)).take(count) {
            if meta.len == 0 || meta.stride == 0 || meta.len > buf.len() {
                continue;
            }
            let remote = canonical(meta.addr);
            if remote.port() == 0 {
                continue; // forged: it cannot be answered
            }
            if let (Some(sources), Some(ip)) = (&mut self.sources, meta.dst_ip)
                && sources.get(&remote) != Some(&ip)
            {
                // Strangers can fill the table, but not grow it; a peer is back in it with its
                // next datagram.
                if sources.len() >= MAX_SOURCES {
                    sources.clear();
                }
                sources.insert(remote, ip);
            }
            let ecn = meta.ecn.map(|ecn| match ecn {
                EcnCodepoint::Ect0 => Ecn::Ect0,
                EcnCodepoint::Ect1 => Ecn::Ect1,
                EcnCodepoint::Ce => Ecn::Ce,
            });
            let bytes = &mut buf[..meta.len];
            node.handle_datagram(now, SocketId(0), remote, ecn, meta.stride, bytes);
        }
    }

    /// Sends what the core has to send. `true` if it may have more, and the socket takes more.
    pub(crate) fn transmit(&mut self, node: &mut Node, now: Instant, registry: &Registry) -> bool {
        for _ in 0..BATCHES {
            if self.blocked {
                return false;
            }
            if self.unsent.is_none() {
                let segments = self.state.max_gso_segments().min(SEGMENTS);
                self.send.clear();
                let Some(transmit) = node.poll_transmit(now, segments, &mut self.send) else {
                    return false;
                };
                self.unsent = Some(Unsent { transmit, sent: 0 });
            }
            self.push(now, registry);
        }
        !self.blocked
    }

    /// Sends `unsent` until it is gone or the socket would block.
    fn push(&mut self, now: Instant, registry: &Registry) {
        let Some(Unsent { transmit, mut sent }) = self.unsent.take() else { return };
        let len = transmit.len.min(self.send.len());
        let segment = transmit.segment_size.max(1);
        let destination = match (self.is_v6, transmit.remote) {
            (true, SocketAddr::V4(v4)) => {
                SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port())
            }
            (false, SocketAddr::V6(v6)) => {
                let e = io::Error::other("listen.relay_addr is an IPv4 address");
                self.progress = true;
                return self.complain(now, "send", &e, Some(v6.into()));
            }
            (_, remote) => remote,
        };
        let mut src_ip = self.sources.as_ref().and_then(|s| s.get(&transmit.remote)).copied();
        let ecn = transmit.ecn.map(|ecn| match ecn {
            Ecn::Ect0 => EcnCodepoint::Ect0,
            Ecn::Ect1 => EcnCodepoint::Ect1,
            Ecn::Ce => EcnCodepoint::Ce,
        });
        // `quinn-udp` lowers its maximum when a network card refuses GSO: what was one batch
        // leaves as single datagrams then.
        let mut single = false;
        while sent < len {
            let segments = match single {
                true => 1,
                false => self.state.max_gso_segments().min(MAX_PAYLOAD / segment).max(1),
            };
            let end = len.min(sent + segments * segment);
            let part = quinn_udp::Transmit {
                destination,
                ecn,
                contents: &self.send[sent..end],
                segment_size: (end - sent > segment).then_some(segment),
                src_ip,
            };
            let (socket, state) = (&self.socket, &self.state);
            match socket.try_io(|| state.try_send(socket.into(), &part)) {
                Ok(()) => {
                    sent = end;
                    self.progress = true;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.unsent = Some(Unsent { transmit, sent });
                    self.blocked = true;
                    // Asked for only now: an edge-triggered writable event for every datagram that
                    // leaves the socket would wake the loop for nothing.
                    self.watch(registry, Interest::READABLE | Interest::WRITABLE);
                    return;
                }
                // Expected: the core probes for the largest datagram that passes. What is too large for
                // our own network card is lost here, and nothing else of the batch.
                Err(e) if quinn_udp::is_msg_size_err(&e) => {
                    if part.segment_size.is_some() {
                        single = true;
                        continue;
                    }
                    debug!("udp send to {}: {e}; dropped", transmit.remote);
                    sent = end;
                    self.progress = true;
                }
                Err(_) if src_ip.is_some() => {
                    // Perhaps this machine has lost that address. `quinn-udp` may have taken it
                    // for the network card's refusal of GSO, so it starts afresh, too.
                    src_ip = None;
                    if let Some(sources) = &mut self.sources {
                        sources.remove(&transmit.remote);
                    }
                    if let Ok(state) = UdpSocketState::new(socket.into()) {
                        self.state = state;
                    }
                }
                Err(_) if part.segment_size.is_some() && !single => single = true,
                Err(e) => {
                    // The network loses datagrams, too. The core repairs it.
                    sent = end;
                    self.progress = true;
                    self.complain(now, "send", &e, Some(transmit.remote));
                }
            }
        }
    }

    fn watch(&mut self, registry: &Registry, interest: Interest) {
        if let Err(e) = registry.reregister(&mut self.socket, UDP, interest) {
            warn!("cannot watch the relay socket: {e}");
        }
    }

    fn complain(
        &mut self,
        now: Instant,
        what: &'static str,
        e: &io::Error,
        to: Option<SocketAddr>,
    ) {
        if let Some(n) = self.complaints.hit(now, (what, e.raw_os_error())) {
            match to {
                Some(to) => warn!("udp {what} to {to}: {e}; dropped{}", Suppressed(n)),
                None => warn!("udp {what}: {e}{}", Suppressed(n)),
            }
        }
    }
}
