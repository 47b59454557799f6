//! UDP sockets: batches in (recvmmsg, GRO), batches out (GSO), ECN both ways. Waiting is the loop's.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use entrouter_proto::{Ecn, SocketId, Transmit};
use quinn_udp::{BATCH_SIZE, EcnCodepoint, RecvMeta, UdpSocketState};
use tracing::{debug, warn};

use crate::core::Core;
use crate::ratelimit::{RateLimit, Suppressed};
use crate::sockets::canonical;

/// The largest thing that `recvmsg` can return with GRO.
const RECV_BUFFER: usize = 64 << 10;

/// Datagrams asked of the core at a time. More would save little and make a burst on the wire.
const SEGMENTS: usize = 32;

/// Calls to [`Core::poll_transmit`] in a turn of the loop.
const BATCHES: usize = 64;

/// The longest UDP payload over IPv4; a GSO batch is one payload until the kernel cuts it.
const MAX_PAYLOAD: usize = 65_507;

/// Remembered local addresses at most; see [`Datagrams::sources`].
const MAX_SOURCES: usize = 1024;

/// One UDP socket.
pub struct Datagrams {
    id: SocketId,
    /// The configuration's key, for complaints.
    key: String,
    socket: Arc<UdpSocket>,
    state: UdpSocketState,
    /// IPv4 peers appear as `::ffff:a.b.c.d` on a dual-stack socket, but not in the core.
    is_v6: bool,
    /// [`BATCH_SIZE`] times [`RECV_BUFFER`].
    recv: Vec<u8>,
    /// On a wildcard socket: which of our addresses each remote sends to. Answers must leave from
    /// there, or NATs and firewalls on the way drop them.
    sources: Option<HashMap<SocketAddr, IpAddr>>,
    complaints: RateLimit<(&'static str, Option<i32>)>,
}

impl fmt::Debug for Datagrams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Datagrams").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl Datagrams {
    /// Prepares a nonblocking socket, which the core knows by `id`, and people by `key`.
    ///
    /// # Errors
    /// If the kernel refuses socket options.
    pub fn new(id: SocketId, key: &str, socket: UdpSocket) -> io::Result<Self> {
        let state = UdpSocketState::new((&socket).into())?;
        let local = socket.local_addr()?;
        Ok(Self {
            id,
            key: key.to_owned(),
            socket: Arc::new(socket),
            state,
            is_v6: local.is_ipv6(),
            recv: vec![0; BATCH_SIZE * RECV_BUFFER],
            sources: local.ip().is_unspecified().then(HashMap::new),
            complaints: RateLimit::new(Duration::from_secs(10)),
        })
    }

    /// What to wait for.
    #[must_use]
    pub fn socket(&self) -> &Arc<UdpSocket> {
        &self.socket
    }

    /// Reads one batch into the core. `false` if there was none: the next datagram to arrive makes
    /// the socket readable anew.
    #[must_use]
    pub fn receive(&mut self, core: &mut Core, now: Instant) -> bool {
        let mut meta = [RecvMeta::default(); BATCH_SIZE];
        let count = {
            let mut chunks = self.recv.chunks_exact_mut(RECV_BUFFER);
            let mut bufs: [IoSliceMut<'_>; BATCH_SIZE] = std::array::from_fn(|_| {
                IoSliceMut::new(chunks.next().map_or(&mut [], |chunk| chunk))
            });
            self.state.recv((&*self.socket).into(), &mut bufs, &mut meta)
        };
        let count = match count {
            Ok(count) => count,
            Err(e) => {
                if e.kind() != io::ErrorKind::WouldBlock {
                    self.complain(now, "receive", &e, None);
                }
                return false;
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
            core.handle_datagram(now, self.id, remote, ecn, meta.stride, bytes);
        }
        true
    }

    /// Sends what is left of `batch`, whose bytes are in `buf`. `false` if the socket would block
    /// before it is gone.
    fn send(&mut self, batch: &mut Batch, buf: &[u8], now: Instant) -> bool {
        let transmit = &batch.transmit;
        let len = transmit.len.min(buf.len());
        let segment = transmit.segment_size.max(1);
        let destination = match (self.is_v6, transmit.remote) {
            (true, SocketAddr::V4(v4)) => {
                SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port())
            }
            (false, SocketAddr::V6(v6)) => {
                let e = io::Error::other(format!("{} is an IPv4 address", self.key));
                self.complain(now, "send", &e, Some(v6.into()));
                return true;
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
        while batch.sent < len {
            let segments = match single {
                true => 1,
                false => self.state.max_gso_segments().min(MAX_PAYLOAD / segment).max(1),
            };
            let end = len.min(batch.sent + segments * segment);
            let part = quinn_udp::Transmit {
                destination,
                ecn,
                contents: &buf[batch.sent..end],
                segment_size: (end - batch.sent > segment).then_some(segment),
                src_ip,
            };
            match self.state.try_send((&*self.socket).into(), &part) {
                Ok(()) => batch.sent = end,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return false,
                // Expected: the core probes for the largest datagram that passes. What is too large for
                // our own network card is lost here, and nothing else of the batch.
                Err(e) if quinn_udp::is_msg_size_err(&e) => {
                    if part.segment_size.is_some() {
                        single = true;
                        continue;
                    }
                    debug!("udp send to {}: {e}; dropped", transmit.remote);
                    batch.sent = end;
                }
                Err(_) if src_ip.is_some() => {
                    // Perhaps this machine has lost that address. `quinn-udp` may have taken it
                    // for the network card's refusal of GSO, so it starts afresh, too.
                    src_ip = None;
                    if let Some(sources) = &mut self.sources {
                        sources.remove(&transmit.remote);
                    }
                    if let Ok(state) = UdpSocketState::new((&*self.socket).into()) {
                        self.state = state;
                    }
                }
                Err(_) if part.segment_size.is_some() && !single => single = true,
                Err(e) => {
                    // The network loses datagrams, too. The core repairs it.
                    batch.sent = end;
                    self.complain(now, "send", &e, Some(transmit.remote));
                }
            }
        }
        true
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

/// A batch that the core has handed over; bytes before `sent` have left.
#[derive(Debug)]
struct Batch {
    transmit: Transmit,
    sent: usize,
}

/// How far [`Outbox::transmit`] came.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// The core has nothing to send.
    All,
    /// The turn's share is used up; the core may have more.
    Share,
    /// This socket is full. Until it is writable, nothing is asked of the core.
    Blocked(SocketId),
}

/// What leaves by the PoP's UDP sockets: one batch at a time, kept while its socket is full.
#[derive(Debug)]
pub struct Outbox {
    /// The bytes of `unsent`; reused for ever.
    buf: Vec<u8>,
    unsent: Option<Batch>,
    progress: bool,
}

impl Default for Outbox {
    fn default() -> Self {
        Self { buf: Vec::with_capacity(MAX_PAYLOAD), unsent: None, progress: false }
    }
}

impl Outbox {
    /// Sends what the core has to send by `sockets`, each at the place of its [`SocketId`].
    pub fn transmit(&mut self, sockets: &mut [Datagrams], core: &mut Core, now: Instant) -> Sent {
        // How many datagrams make a batch is asked before it is known from where it leaves.
        let gso = sockets.iter().map(|s| s.state.max_gso_segments()).min().unwrap_or(1);
        for _ in 0..BATCHES {
            let mut batch = match self.unsent.take() {
                Some(batch) => batch,
                None => {
                    self.buf.clear();
                    match core.poll_transmit(now, gso.min(SEGMENTS), &mut self.buf) {
                        Some(transmit) => Batch { transmit, sent: 0 },
                        None => return Sent::All,
                    }
                }
            };
            let id = batch.transmit.socket;
            let before = batch.sent;
            // The core names no sockets but those that it was told of.
            let gone = sockets.get_mut(id.0).is_none_or(|s| s.send(&mut batch, &self.buf, now));
            self.progress |= gone || batch.sent > before;
            if !gone {
                self.unsent = Some(batch);
                return Sent::Blocked(id);
            }
        }
        Sent::Share
    }

    /// Whether anything left, or was dropped, since the last call.
    pub fn take_progress(&mut self) -> bool {
        std::mem::take(&mut self.progress)
    }
}
