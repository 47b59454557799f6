//! The UDP side of the loop: which sockets may have datagrams, and which one is full.

use std::io;
use std::os::fd::AsRawFd;
use std::time::Instant;

use entrouter_host::core::Core;
use entrouter_host::datagrams::{Datagrams, Outbox, Sent};
use entrouter_proto::SocketId;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use tracing::warn;

use crate::event_loop::FIRST_UDP;

#[derive(Debug)]
pub(crate) struct Udp {
    registry: Registry,
    sockets: Vec<Datagrams>,
    /// Whether each may have datagrams: cleared only when there was none, as events are
    /// edge-triggered.
    readable: Vec<bool>,
    outbox: Outbox,
    /// A socket whose send buffer is full.
    blocked: Option<SocketId>,
    /// Whether the core had nothing more to send.
    flushed: bool,
}

impl Udp {
    pub(crate) fn new(sockets: Vec<Datagrams>, registry: Registry) -> io::Result<Self> {
        for (n, socket) in sockets.iter().enumerate() {
            let fd = socket.socket().as_raw_fd();
            registry.register(&mut SourceFd(&fd), Token(FIRST_UDP + n), Interest::READABLE)?;
        }
        Ok(Self {
            registry,
            readable: vec![true; sockets.len()],
            sockets,
            outbox: Outbox::default(),
            blocked: None,
            flushed: true,
        })
    }

    /// The poll reported something about a token from [`FIRST_UDP`] on.
    pub(crate) fn ready(&mut self, event: &mio::event::Event) {
        let n = event.token().0 - FIRST_UDP;
        if let Some(readable) = self.readable.get_mut(n) {
            *readable |= event.is_readable() || event.is_error();
        }
        if event.is_writable() && self.blocked == Some(SocketId(n)) {
            self.blocked = None;
            self.watch(SocketId(n), Interest::READABLE);
        }
    }

    /// Whether [`Self::receive`] may find something.
    pub(crate) fn readable(&self) -> bool {
        self.readable.contains(&true)
    }

    /// Whether a socket takes nothing at present.
    pub(crate) fn blocked(&self) -> bool {
        self.blocked.is_some()
    }

    /// Whether all that the core had to send has left.
    pub(crate) fn is_flushed(&self) -> bool {
        self.flushed
    }

    /// Whether datagrams left since the last call.
    pub(crate) fn take_progress(&mut self) -> bool {
        self.outbox.take_progress()
    }

    /// Reads one batch of each socket into the core.
    pub(crate) fn receive(&mut self, core: &mut Core, now: Instant) {
        for (socket, readable) in self.sockets.iter_mut().zip(&mut self.readable) {
            *readable = *readable && socket.receive(core, now);
        }
    }

    /// Sends what the core has to send. `true` if it may have more, and the sockets take more.
    pub(crate) fn transmit(&mut self, core: &mut Core, now: Instant) -> bool {
        if self.blocked() {
            return false;
        }
        let sent = self.outbox.transmit(&mut self.sockets, core, now);
        self.flushed = sent == Sent::All;
        if let Sent::Blocked(id) = sent {
            self.blocked = Some(id);
            // Asked for only now: an edge-triggered writable event for every datagram that leaves
            // the socket would wake the loop for nothing.
            self.watch(id, Interest::READABLE | Interest::WRITABLE);
        }
        sent == Sent::Share
    }

    fn watch(&self, id: SocketId, interest: Interest) {
        let Some(socket) = self.sockets.get(id.0) else { return };
        let (fd, token) = (socket.socket().as_raw_fd(), Token(FIRST_UDP + id.0));
        if let Err(e) = self.registry.reregister(&mut SourceFd(&fd), token, interest) {
            warn!("cannot watch a UDP socket: {e}");
        }
    }
}
