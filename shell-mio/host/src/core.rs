//! What a loop drives: a PoP's node, or a connector. Both have the same face.

use std::net::SocketAddr;
use std::time::Instant;

use entrouter_proto::connect::Connector;
use entrouter_proto::status::Status;
use entrouter_proto::{Action, Ecn, Node, PeerId, SocketId, TcpEvent, TimerReason, Transmit};

/// A state machine that a shell drives; see [`Node`] for what each call means.
#[derive(Debug)]
pub enum Core {
    /// A PoP.
    Pop(Box<Node>),
    /// The client of a QUIC edge.
    Connector(Box<Connector>),
}

macro_rules! forward {
    ($core:expr, $it:ident => $call:expr) => {
        match $core {
            Core::Pop($it) => $call,
            Core::Connector($it) => $call,
        }
    };
}

impl Core {
    /// [`Node::handle_datagram`].
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        socket: SocketId,
        remote: SocketAddr,
        ecn: Option<Ecn>,
        segment_size: usize,
        bytes: &mut [u8],
    ) {
        forward!(self, it => it.handle_datagram(now, socket, remote, ecn, segment_size, bytes));
    }

    /// [`Node::handle_tcp`].
    pub fn handle_tcp(&mut self, now: Instant, event: TcpEvent<'_>) {
        forward!(self, it => it.handle_tcp(now, event));
    }

    /// [`Node::handle_resolved`].
    pub fn handle_resolved(&mut self, now: Instant, peer: PeerId, addrs: &[SocketAddr]) {
        forward!(self, it => it.handle_resolved(now, peer, addrs));
    }

    /// [`Node::handle_timeout`].
    pub fn handle_timeout(&mut self, now: Instant) {
        forward!(self, it => it.handle_timeout(now));
    }

    /// [`Node::drain`].
    pub fn drain(&mut self, now: Instant) {
        forward!(self, it => it.drain(now));
    }

    /// [`Node::poll_transmit`].
    #[must_use]
    pub fn poll_transmit(
        &mut self,
        now: Instant,
        max_segments: usize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        forward!(self, it => it.poll_transmit(now, max_segments, buf))
    }

    /// [`Node::poll_action`].
    #[must_use]
    pub fn poll_action(&mut self) -> Option<Action> {
        forward!(self, it => it.poll_action())
    }

    /// [`Node::poll_timeout`].
    #[must_use]
    pub fn poll_timeout(&mut self) -> Option<(Instant, TimerReason)> {
        forward!(self, it => it.poll_timeout())
    }

    /// [`Node::status`]; a connector has none.
    #[must_use]
    pub fn status(&self, now: Instant) -> Option<Status> {
        match self {
            Self::Pop(node) => Some(node.status(now)),
            Self::Connector(_) => None,
        }
    }

    /// [`Connector::tickets_to_keep`]; a PoP has none.
    #[must_use]
    pub fn tickets_to_keep(&mut self) -> Option<Vec<u8>> {
        match self {
            Self::Pop(_) => None,
            Self::Connector(connector) => connector.tickets_to_keep(),
        }
    }
}
