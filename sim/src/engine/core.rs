//! What runs on a simulated host: the core's face as a trait.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use entrouter_proto::status::{Status, Table};
use entrouter_proto::{Action, Ecn, ListenerId, Node, PeerId, SocketId, TcpEvent};
use entrouter_proto::{TimerReason, Transmit};

/// A state machine that the engine can run on a host: a [`Node`], or whatever an embedder built
/// around one.
///
/// The contract is that of [`Node`]: any order of calls is legal, nothing is lost by draining late,
/// and the same seed and inputs give the same outputs (times, lengths, plaintext).
pub trait Core {
    /// A datagram arrived from `remote` at one of the host's sockets (0 unless
    /// [`Engine::add_socket`](super::Engine::add_socket) gave it more); opened in place.
    fn handle_datagram(
        &mut self,
        now: Instant,
        socket: SocketId,
        remote: SocketAddr,
        ecn: Option<Ecn>,
        datagram: &mut [u8],
    );

    /// Something happened to a TCP connection.
    fn handle_tcp(&mut self, now: Instant, event: TcpEvent<'_>);

    /// The answer to [`Action::Resolve`].
    fn handle_resolved(&mut self, now: Instant, peer: PeerId, addrs: &[SocketAddr]);

    /// Time passed.
    fn handle_timeout(&mut self, now: Instant);

    /// Begins to end; [`Action::Drained`] says when it is over.
    fn drain(&mut self, now: Instant);

    /// As [`Node::poll_transmit`].
    #[must_use]
    fn poll_transmit(
        &mut self,
        now: Instant,
        max_segments: usize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit>;

    /// As [`Node::poll_action`].
    #[must_use]
    fn poll_action(&mut self) -> Option<Action>;

    /// As [`Node::poll_timeout`].
    #[must_use]
    fn poll_timeout(&self) -> Option<(Instant, TimerReason)>;

    /// The listener whose clients are taken to `service` at the host called `dest`.
    #[must_use]
    fn listener(&self, dest: &str, service: &str) -> Option<ListenerId>;

    /// What the host is to keep for this core's next life, if it changed: the number of a file, and what is
    /// in it from now on. Asked for until there is none, after whatever else was done.
    fn keep(&mut self) -> Option<(usize, Vec<u8>)> {
        None
    }

    /// A snapshot for people; `None` if this core has none.
    #[must_use]
    fn status(&self, _now: Instant) -> Option<Status> {
        None
    }

    /// How many data packets were accepted so far; `None` if this core does not tell. The engine
    /// fails a run in which a datagram is accepted twice, or a damaged one at all.
    #[must_use]
    fn packets_accepted(&self) -> Option<u64> {
        None
    }

    /// The key and the nonce under which a datagram is sealed, as far as they can be told from outside:
    /// a number that stands for the key at this sender, and one that grows with each datagram. `None`
    /// if the datagram has none, or this core does not tell. The engine fails a run in which a nonce
    /// does not grow.
    #[must_use]
    fn nonce(&self, _datagram: &[u8]) -> Option<(u64, u64)> {
        None
    }

    /// The first byte that is encrypted in a datagram that has a nonce; `None` if this core does not
    /// tell. Under one key and nonce alike plaintexts look alike, and datagrams begin with one of a few
    /// bytes: the engine fails a run in which those of two hosts that have a nonce in common look alike
    /// too often.
    #[must_use]
    fn sealed_byte(&self, _datagram: &[u8]) -> Option<u8> {
        None
    }

    /// Every bounded queue and table; the engine fails a run in which one exceeds its bound.
    fn tables(&self, _visit: &mut dyn FnMut(Table)) {}
}

/// With what a core is made.
#[derive(Debug, Clone)]
pub struct Boot {
    /// Randomness; another one for each life of a host.
    pub seed: [u8; 32],
    /// The virtual clock.
    pub now: Instant,
    /// What the host takes for the time since the Unix epoch: a host's clock may be wrong.
    pub unix_now: Duration,
    /// How often this host was started before.
    pub life: u32,
    /// What earlier lives [kept](Core::keep), by the number of the file.
    pub kept: BTreeMap<usize, Vec<u8>>,
}

/// Makes the core of a host, at its start and at each restart.
pub type MakeCore = Box<dyn FnMut(Boot) -> Result<Box<dyn Core>, Box<dyn Error + Send + Sync>>>;

impl Core for Node {
    fn handle_datagram(
        &mut self,
        now: Instant,
        socket: SocketId,
        remote: SocketAddr,
        ecn: Option<Ecn>,
        datagram: &mut [u8],
    ) {
        let len = datagram.len();
        Self::handle_datagram(self, now, socket, remote, ecn, len, datagram);
    }

    fn handle_tcp(&mut self, now: Instant, event: TcpEvent<'_>) {
        Self::handle_tcp(self, now, event);
    }

    fn handle_resolved(&mut self, now: Instant, peer: PeerId, addrs: &[SocketAddr]) {
        Self::handle_resolved(self, now, peer, addrs);
    }

    fn handle_timeout(&mut self, now: Instant) {
        Self::handle_timeout(self, now);
    }

    fn drain(&mut self, now: Instant) {
        Self::drain(self, now);
    }

    fn poll_transmit(
        &mut self,
        now: Instant,
        max_segments: usize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        Self::poll_transmit(self, now, max_segments, buf)
    }

    fn poll_action(&mut self) -> Option<Action> {
        Self::poll_action(self)
    }

    fn poll_timeout(&self) -> Option<(Instant, TimerReason)> {
        Self::poll_timeout(self)
    }

    fn listener(&self, dest: &str, service: &str) -> Option<ListenerId> {
        let found = |l: &entrouter_proto::Listener| {
            l.dest.as_str() == dest && l.service.as_str() == service
        };
        self.listeners().iter().position(found).map(ListenerId)
    }

    fn status(&self, now: Instant) -> Option<Status> {
        Some(Self::status(self, now))
    }

    fn packets_accepted(&self) -> Option<u64> {
        Some(Self::packets_accepted(self))
    }

    fn nonce(&self, datagram: &[u8]) -> Option<(u64, u64)> {
        data_header(datagram)
    }

    fn sealed_byte(&self, datagram: &[u8]) -> Option<u8> {
        data_header(datagram)?;
        datagram.get(COUNTER.end).copied()
    }

    fn tables(&self, visit: &mut dyn FnMut(Table)) {
        Self::tables(self, visit);
    }
}

/// First byte of a data packet, and where its header has the receiver's session index and the counter
/// (see the core's `wire::packet`; read here anew, so that the check does not rest on what it checks).
const DATA: u8 = 5;
const INDEX: Range<usize> = 4..8;
const COUNTER: Range<usize> = 8..16;

/// The receiver's session index, which stands for the key, and the counter of a data packet of a
/// [`Node`]: what [`Core::nonce`] of a wrapper around one returns.
#[must_use]
pub fn data_header(datagram: &[u8]) -> Option<(u64, u64)> {
    if *datagram.first()? != DATA {
        return None;
    }
    let index = u32::from_be_bytes(datagram.get(INDEX)?.try_into().ok()?);
    let counter = u64::from_be_bytes(datagram.get(COUNTER)?.try_into().ok()?);
    Some((index.into(), counter))
}
