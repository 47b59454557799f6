//! What passes between the core and the shell that drives it.

use std::net::SocketAddr;

use bytes::Bytes;

use crate::config::HostPort;
use crate::ids::{ConnId, ListenerId, PeerId, SocketId};

/// Explicit congestion notification, as in the IP header (RFC 3168 §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Ecn {
    /// ECN-capable, codepoint 0b10.
    Ect0 = 0b10,
    /// ECN-capable, codepoint 0b01.
    Ect1 = 0b01,
    /// Congestion experienced, codepoint 0b11.
    Ce = 0b11,
}

/// Datagrams to be sent; their bytes were appended to the buffer given to
/// [`Node::poll_transmit`](crate::Node::poll_transmit).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// The socket to send from.
    pub socket: SocketId,
    /// Where to.
    pub remote: SocketAddr,
    /// The mark to set in the IP header.
    pub ecn: Option<Ecn>,
    /// Bytes in the buffer, in all.
    pub len: usize,
    /// Size of each datagram; the last one may be shorter. Equal to `len` if there is one only.
    pub segment_size: usize,
}

/// What happened to a TCP connection or a listener of the shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TcpEvent<'a> {
    /// A listener accepted a connection. The shell chooses `conn` by [`ConnId::accepted`].
    Accepted {
        /// Number of the new connection.
        conn: ConnId,
        /// The listener that took it.
        listener: ListenerId,
        /// The client's address.
        remote: SocketAddr,
        /// The address that it came to: that of the connection, not of a listener on all addresses.
        local: SocketAddr,
    },
    /// The connection that [`Action::Connect`] asked for stands.
    Connected {
        /// Which one.
        conn: ConnId,
    },
    /// The connection that [`Action::Connect`] asked for could not be made. The id is dead.
    ConnectFailed {
        /// Which one.
        conn: ConnId,
    },
    /// Bytes read; never more than was granted by [`Action::GrantRead`].
    Received {
        /// From which connection.
        conn: ConnId,
        /// The bytes; copied by the core.
        data: &'a [u8],
    },
    /// So many bytes of earlier [`Action::Write`]s have been taken by the socket.
    Written {
        /// Which connection.
        conn: ConnId,
        /// Bytes since the last report.
        bytes: usize,
    },
    /// The other side has closed its sending half.
    Eof {
        /// Which connection.
        conn: ConnId,
    },
    /// The connection broke. The id is dead.
    Reset {
        /// Which connection.
        conn: ConnId,
    },
}

impl TcpEvent<'_> {
    /// The connection that it is about.
    #[must_use]
    pub fn conn(&self) -> ConnId {
        match *self {
            Self::Accepted { conn, .. }
            | Self::Connected { conn }
            | Self::ConnectFailed { conn }
            | Self::Received { conn, .. }
            | Self::Written { conn, .. }
            | Self::Eof { conn }
            | Self::Reset { conn } => conn,
        }
    }
}

/// What the core asks of its shell.
///
/// A connection is over for the shell after [`Action::Abort`], after it reported
/// [`TcpEvent::Reset`] or [`TcpEvent::ConnectFailed`], or as soon as it has both reported
/// [`TcpEvent::Eof`] and carried out [`Action::Shutdown`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Dial an origin; answer with `Connected` or `ConnectFailed`. Resolve the name anew for each
    /// dial, off the event loop, and try every address.
    Connect {
        /// The id under which to report.
        conn: ConnId,
        /// What to dial.
        target: HostPort,
    },
    /// Write to the connection, after all earlier writes; report progress by `Written`.
    Write {
        /// Which connection.
        conn: ConnId,
        /// The bytes.
        data: Bytes,
    },
    /// The shell may read so many bytes more from the connection. Grants add up.
    GrantRead {
        /// Which connection.
        conn: ConnId,
        /// Additional bytes.
        bytes: usize,
    },
    /// Close the sending half once all writes are through.
    Shutdown {
        /// Which connection.
        conn: ConnId,
    },
    /// Reset the connection (RST), discarding unwritten bytes; report nothing more about it.
    Abort {
        /// Which connection.
        conn: ConnId,
    },
    /// Resolve the name of a peer, off the event loop, and answer with
    /// [`Node::handle_resolved`](crate::Node::handle_resolved).
    Resolve {
        /// Which peer.
        peer: PeerId,
        /// Its configured address.
        target: HostPort,
    },
    /// Draining began: close the listeners.
    StopAccepting,
    /// Draining is complete: every connection is over and the peers are told. The process may end
    /// once [`Node::poll_transmit`](crate::Node::poll_transmit) has nothing more.
    Drained,
}

/// Why [`Node::poll_timeout`](crate::Node::poll_timeout) wants to be called back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimerReason {
    /// Output is waiting.
    Output,
    /// Handshake attempt, rekey, or expiry of a session.
    Handshake,
    /// A node of the mesh, or a link: what is known of them is refreshed, decided on or forgotten.
    Mesh,
    /// PING to a neighbour.
    Probe,
    /// Acknowledgement, probe timeout or loss timer of a tunnel.
    Recovery,
    /// A FEC block closes or its next parity symbol is due.
    Fec,
    /// The pacer has tokens again.
    Pacing,
    /// A TLS or QUIC client: handshake, loss, pacing, idle time.
    Edge,
    /// A flow's acknowledgement, retransmission or expiry.
    Flow,
    /// End of draining.
    Drain,
}
