//! TOML text → validated [`Config`]. Every error names file, line, key, what was found and what is
//! wanted.

mod error;
mod keys;
mod notices;
mod parse;
mod peers;
mod reader;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_edges;
#[cfg(test)]
mod tests_random;
#[cfg(test)]
mod tests_values;
mod text;
mod values;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use zeroize::Zeroizing;

pub use error::{ConfigError, ConfigErrors, MAX_ERRORS};
pub use notices::{Notice, ServedListener};
pub use parse::{MAX_EDGES, MAX_ORIGINS, MAX_TEXT};
pub use peers::MAX_PEERS;
pub use text::{MAX_DEPTH, too_deep};
pub use values::InvalidHostPort;

use crate::ids::{NodeId, ServiceName};

/// Everything that a node is told by its operator, validated.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of this PoP, unique in the mesh.
    pub node_id: NodeId,
    /// Free text of 1 to 64 printable characters that groups PoPs; shown in status.
    pub region: String,
    /// Sockets.
    pub listen: Listen,
    /// Probing, and whether this PoP relays for others.
    pub mesh: Mesh,
    /// Where bytes go and how they are protected.
    pub relay: Relay,
    /// What goes before what in a tunnel.
    pub lanes: Lanes,
    /// Memory of flows, age of keys, number of clients.
    pub limits: Limits,
    /// Neighbours, in the order of the file; at most [`MAX_PEERS`]. Names and keys are distinct, and so
    /// are the hashes of all names: of this PoP, its peers and its destinations.
    pub peers: Vec<Peer>,
    /// Services that this PoP may dial, at most [`MAX_ORIGINS`].
    pub origins: BTreeMap<ServiceName, Origin>,
    /// Further listeners, at most [`MAX_EDGES`].
    pub edges: Vec<Edge>,
}

impl Config {
    /// Reads and checks a file. `file_name` only appears in errors.
    ///
    /// # Errors
    /// Everything that is wrong with it: not UTF-8, not TOML, longer than [`MAX_TEXT`], unknown or
    /// missing keys, values out of range, and what contradicts itself. No error holds a secret.
    pub fn parse(file_name: &str, text: &[u8]) -> Result<Self, ConfigErrors> {
        parse::parse(file_name, text)
    }

    /// The PoPs that listeners lead to, as often as they are named.
    pub(crate) fn destinations(&self) -> impl Iterator<Item = &NodeId> {
        let default = self.relay.default_dest.iter();
        default.chain(self.edges.iter().filter_map(|edge| edge.dest.as_ref()))
    }
}

/// `[listen]`.
#[derive(Debug, Clone)]
pub struct Listen {
    /// UDP address of the tunnels; `0.0.0.0:4433` if none is configured.
    pub relay_addr: SocketAddr,
    /// TCP clients.
    pub tcp_addr: Option<SocketAddr>,
    /// QUIC clients.
    pub quic_addr: Option<SocketAddr>,
    /// Whether what returning QUIC clients send with their first packet is taken at once (the default).
    /// A changed one holds for connections that begin after the change.
    pub quic_0rtt: bool,
    /// The application protocol (RFC 7301) that QUIC clients must ask for, 1 to 255 visible ASCII
    /// characters; `entrouter` if none is configured. A changed one holds for connections that begin
    /// after the change.
    pub quic_alpn: String,
    /// Admin HTTP API.
    pub admin_addr: Option<SocketAddr>,
    /// Bearer token of the admin API, 1 to 256 visible ASCII characters.
    pub admin_token: Option<Secret>,
    /// Certificate of the TCP and QUIC edge.
    pub tls: Option<TlsPaths>,
}

/// `tls_cert_path` and `tls_key_path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsPaths {
    /// PEM chain.
    pub cert: String,
    /// PEM key.
    pub key: String,
}

/// `[mesh]`. [`Node::reconfigure`](crate::Node::reconfigure) changes each at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mesh {
    /// Between two PINGs to a neighbour: 20 ms to 60 s, 500 ms if none is configured.
    pub probe_interval: Duration,
    /// The largest UDP payload that is looked for on the path to a neighbour, in bytes: 1252 to
    /// [`MAX_UDP_PAYLOAD`], which is the default. At 1252 nothing is looked for.
    pub max_udp_payload: usize,
    /// Whether this PoP relays for others (the default). If not, other PoPs route no traffic through it:
    /// it is only the begin and the end of connections.
    pub transit: bool,
}

/// UDP payload that every path is taken to carry, in bytes: IPv6's least MTU of 1280, less the headers
/// of IPv4 and UDP.
pub const BASE_UDP_PAYLOAD: usize = 1252;

/// The largest UDP payload that is ever sent, in bytes: a jumbo frame's 9000, less the headers of IPv4
/// and UDP.
pub const MAX_UDP_PAYLOAD: usize = 8972;

/// `[relay]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relay {
    /// Destination of `tcp_addr` and `quic_addr`: as configured, or the sole peer. Any PoP of the mesh,
    /// neighbour or not; with this PoP itself its own origins serve.
    pub default_dest: Option<NodeId>,
    /// Fixed ratio of full FEC blocks; adaptive without it.
    pub fec: Option<FixedFec>,
}

/// `fec_data_shards` and `fec_parity_shards`: the ratio of full blocks. Where packets come fast a block is
/// up to eight times that size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FixedFec {
    /// Source symbols of a full block, 1 to 128.
    pub data: u8,
    /// Parity symbols of a full block, 0 to 64 and at most 4 for each source symbol; 0 switches
    /// parity off.
    pub parity: u8,
}

/// `[lanes]`: small exchanges go before long transfers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lanes {
    /// Bytes of a connection, counted from when it was idle and all was acknowledged, that travel in the
    /// express lane: before bulk, and protected by FEC. 0 to 64 MiB; 256 KiB if none is configured. A
    /// changed one holds for connections that begin after the change.
    pub express_bytes: u64,
    /// What express may have of a tunnel's rate while bulk waits, its parity and repairs included: 1 to
    /// 100 percent, 50 if none is configured.
    pub express_share: u8,
}

impl Default for Lanes {
    fn default() -> Self {
        Self { express_bytes: 256 << 10, express_share: 50 }
    }
}

/// `[limits]`. After [`Node::reconfigure`](crate::Node::reconfigure) each holds for what is made from
/// then on; nothing that exists is cut short.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that one flow may hold in each direction, 64 KiB to 1 GiB and at most `node_memory`;
    /// 32 MiB, or `node_memory` if that is less, if none is configured. A changed one holds for flows
    /// that begin after the change.
    pub flow_window: u64,
    /// Bytes that all flows of the node may hold, 1 MiB to 1 TiB; 1 GiB if none is configured. A flow
    /// begins only while its first window of 64 KiB fits into three quarters of this, and windows grow
    /// only within a half of it: so a node of 1 MiB serves up to 12 connections at a time and refuses
    /// the others. If it is lowered below what is held, nothing is taken away, and nothing is given until
    /// enough has come back.
    pub node_memory: u64,
    /// Age at which the initiator of a session makes the next one, 1 s to 120 s (the default). The
    /// responder makes one if that does not happen, after a quarter more (10 s more at least), and a
    /// session is dead 60 s after this age. A changed one holds for sessions that are made after the
    /// change.
    pub rekey_after: Duration,
    /// Clients at a time, whether they speak TCP, TLS or QUIC: 1 to 1,000,000; 65,536 if none is
    /// configured. A QUIC client counts as one, however many streams it has; connections to origins do
    /// not count. Whoever comes beyond it is refused; a changed one holds for clients that come after
    /// the change.
    pub max_connections: usize,
    /// Of these, so many from one IPv4 address or one IPv6 network of 64 bits: 1 to `max_connections`;
    /// 4,096, or `max_connections` if that is less, if none is configured.
    pub max_connections_per_address: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            flow_window: 32 << 20,
            node_memory: 1 << 30,
            rekey_after: Duration::from_secs(120),
            max_connections: 1 << 16,
            max_connections_per_address: 1 << 12,
        }
    }
}

/// `[[peers]]`.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its name.
    pub node_id: NodeId,
    /// Its region; may be empty.
    pub region: String,
    /// Where to send to; without it the peer must come to us.
    pub addr: Option<HostPort>,
    /// The key shared with it.
    pub shared_key: PresharedKey,
    /// A second valid key, while keys are rotated.
    pub next_shared_key: Option<PresharedKey>,
    /// Cap on what is sent to it, in Mbit/s: above 0, at most 100,000.
    pub max_rate_mbps: Option<f64>,
}

/// An entry of `[origins]`: what is dialled for a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Where it is.
    pub addr: HostPort,
    /// Whether each connection begins with the header of the PROXY protocol, version 2, which tells the
    /// client's address. An origin that does not expect it takes it for the client's first bytes.
    pub proxy_protocol: bool,
}

impl From<HostPort> for Origin {
    /// One that is told nothing of the client.
    fn from(addr: HostPort) -> Self {
        Self { addr, proxy_protocol: false }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let more = if self.proxy_protocol { ", PROXY protocol v2" } else { "" };
        write!(f, "{}{more}", self.addr)
    }
}

/// `[[edge]]`: a further listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge {
    /// Where it listens.
    pub listen: SocketAddr,
    /// What it speaks.
    pub proto: EdgeProto,
    /// Destination PoP, any as in [`Relay::default_dest`], which is meant, and present, if this is
    /// absent.
    pub dest: Option<NodeId>,
    /// Service at the destination.
    pub service: ServiceName,
}

/// `proto` of an `[[edge]]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EdgeProto {
    /// Plain TCP.
    Tcp,
    /// TLS over TCP.
    Tls,
    /// QUIC.
    Quic,
}

impl EdgeProto {
    /// As the file has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Quic => "quic",
        }
    }
}

/// A host name or IP address and a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// DNS name, IPv4 address, or IPv6 address without brackets.
    pub host: String,
    /// Never 0.
    pub port: u16,
}

impl HostPort {
    /// The address, if the host is a literal IP address and needs no resolver.
    #[must_use]
    pub fn literal(&self) -> Option<SocketAddr> {
        self.host.parse().ok().map(|ip| SocketAddr::new(ip, self.port))
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// 32 bytes shared by two peers. Never shown, erased on drop.
#[derive(Clone, PartialEq, Eq)]
pub struct PresharedKey(Zeroizing<[u8; 32]>);

impl PresharedKey {
    /// Takes the bytes as they are.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresharedKey(..)")
    }
}

/// Text that is never shown, erased on drop.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes the text.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}
