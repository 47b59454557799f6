//! Identifiers that travel between rooms. Each is a newtype, so that none can be taken for another.

use std::fmt;
use std::sync::Arc;

use blake2::{Blake2s256, Digest};

/// The longest [`NodeId`] or [`ServiceName`], in bytes.
pub const MAX_NAME_LEN: usize = 64;

/// A name that is not usable as a [`NodeId`] or [`ServiceName`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("1 to 64 characters of A-Z a-z 0-9 . _ - are allowed")]
pub struct InvalidName;

fn checked(name: &str) -> Result<Arc<str>, InvalidName> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if name.is_empty() || name.len() > MAX_NAME_LEN || !name.bytes().all(allowed) {
        return Err(InvalidName);
    }
    Ok(Arc::from(name))
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks the characters and the length.
            ///
            /// # Errors
            /// [`InvalidName`] unless it is 1 to 64 bytes of `A-Z a-z 0-9 . _ -`.
            pub fn new(name: &str) -> Result<Self, InvalidName> {
                checked(name).map(Self)
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
    };
}

name_type! {
    /// The configured name of a PoP, unique in the mesh.
    NodeId
}

name_type! {
    /// The name of a service that a PoP offers; only that PoP's own configuration says what it dials.
    ServiceName
}

impl NodeId {
    /// The form in which this node is named on the wire.
    #[must_use]
    pub fn hash32(&self) -> NodeHash {
        let digest = Blake2s256::digest(self.0.as_bytes());
        NodeHash(u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]))
    }
}

impl ServiceName {
    /// The service that `tcp_addr` and a bare `[[edge]]` lead to.
    pub const DEFAULT: &'static str = "default";
}

impl Default for ServiceName {
    fn default() -> Self {
        Self(Arc::from(Self::DEFAULT))
    }
}

/// The first 32 bits of the BLAKE2s hash of a [`NodeId`]; flow frames name nodes by it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeHash(pub u32);

impl fmt::Debug for NodeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// One life of a node: Unix milliseconds at its start, times 2^20, plus as many random bits, so that
/// two lives differ even where the clock stands still; raised above every earlier life that a peer
/// remembers. Ordered; a greater one supersedes a smaller one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Incarnation(pub u64);

impl Incarnation {
    /// The low 32 bits, as flow frames carry them. Two lives of one node that meet within the seconds
    /// for which anything stays in the mesh are alike in them with a chance of 2^-32 at most.
    #[must_use]
    pub fn low32(self) -> u32 {
        (self.0 & 0xffff_ffff) as u32
    }
}

/// A TCP connection between the shell and a client or an origin.
///
/// Like QUIC stream ids (RFC 9000 §2.1) the lowest bit tells who opened it: the shell numbers the
/// connections that it accepts, the core those that it asks the shell to dial. Never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(u64);

impl ConnId {
    /// The `n`-th connection that the shell accepted.
    #[must_use]
    pub fn accepted(n: u64) -> Self {
        Self(n << 1)
    }

    /// The `n`-th connection that the core asked for. A shell is told these ids and makes none itself;
    /// this is for who writes another core behind the same face.
    #[must_use]
    pub fn dialled(n: u64) -> Self {
        Self(n << 1 | 1)
    }

    /// The `n`-th QUIC stream that a client opened. No shell is told of these.
    pub(crate) fn stream(n: u64) -> Self {
        Self(STREAM | n << 1)
    }

    /// Whether a client opened it.
    #[must_use]
    pub fn is_accepted(self) -> bool {
        self.0 & 1 == 0
    }

    /// Whether it is a QUIC stream, which is no connection of the shell.
    pub(crate) fn is_stream(self) -> bool {
        self.0 & STREAM != 0
    }
}

/// Marks the ids of QUIC streams. The others count from 0 and never come so far.
const STREAM: u64 = 1 << 63;

impl fmt::Debug for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = match self {
            id if id.is_stream() => "stream",
            id if id.is_accepted() => "accepted",
            _ => "dialled",
        };
        write!(f, "{side}#{}", (self.0 & !STREAM) >> 1)
    }
}

/// A listening socket: its place in [`Node::listeners`](crate::Node::listeners).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerId(pub usize);

/// A UDP socket of the shell: 0 is that of the tunnels, then come those of
/// [`Node::quic_listeners`](crate::Node::quic_listeners) in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SocketId(pub usize);

/// A neighbour: its place among the configured `[[peers]]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub usize);

/// Symbol sequence number: contiguous per tunnel, lane and direction, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Ssn(pub u64);

/// The class of a symbol within a tunnel, in order of precedence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Lane {
    /// Acknowledgements, credit, resets, link state.
    Control = 0,
    /// The beginning of a burst of a flow; protected by FEC.
    Express = 1,
    /// Everything else; repaired by retransmission.
    Bulk = 2,
}

impl Lane {
    /// All lanes in order of precedence.
    pub const ALL: [Lane; 3] = [Lane::Control, Lane::Express, Lane::Bulk];

    /// The lane of that number on the wire.
    #[must_use]
    pub fn from_wire(n: u8) -> Option<Self> {
        Self::ALL.get(usize::from(n)).copied()
    }
}
