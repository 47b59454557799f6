//! The two ends of a client's connection, as the opening of a flow carries them.
//!
//! ```text
//! family u8 (4 or 6) ‖ client's address ‖ its port u16 ‖ address it came to ‖ its port u16
//! ```
//! Addresses are 4 or 16 bytes long.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Malformed, Reader};

const V4: u8 = 4;
const V6: u8 = 6;

/// Where a client is, and where it connected to; both of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoints {
    V4 { client: (Ipv4Addr, u16), local: (Ipv4Addr, u16) },
    V6 { client: (Ipv6Addr, u16), local: (Ipv6Addr, u16) },
}

fn mapped(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

impl Endpoints {
    /// IPv4 if both addresses are, in whatever form; of two families both become IPv6, IPv4 mapped.
    pub(crate) fn new(client: SocketAddr, local: SocketAddr) -> Self {
        let (from, to) = (client.port(), local.port());
        match (client.ip().to_canonical(), local.ip().to_canonical()) {
            (IpAddr::V4(client), IpAddr::V4(local)) => {
                Self::V4 { client: (client, from), local: (local, to) }
            }
            (client, local) => {
                Self::V6 { client: (mapped(client), from), local: (mapped(local), to) }
            }
        }
    }

    /// The client.
    pub(crate) fn client(&self) -> SocketAddr {
        match *self {
            Self::V4 { client, .. } => client.into(),
            Self::V6 { client: (ip, port), .. } => SocketAddr::new(ip.to_canonical(), port),
        }
    }

    /// Bytes on the wire.
    pub(crate) fn wire_len(&self) -> usize {
        1 + match self {
            Self::V4 { .. } => 2 * (4 + 2),
            Self::V6 { .. } => 2 * (16 + 2),
        }
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::V4 { client, local } => {
                out.push(V4);
                for (ip, port) in [client, local] {
                    out.extend_from_slice(&ip.octets());
                    out.extend_from_slice(&port.to_be_bytes());
                }
            }
            Self::V6 { client, local } => {
                out.push(V6);
                for (ip, port) in [client, local] {
                    out.extend_from_slice(&ip.octets());
                    out.extend_from_slice(&port.to_be_bytes());
                }
            }
        }
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        fn end<const N: usize, Ip: From<[u8; N]>>(
            r: &mut Reader<'_>,
        ) -> Result<(Ip, u16), Malformed> {
            Ok((Ip::from(r.array::<N>()?), u16::from_be_bytes(r.array()?)))
        }
        match r.u8()? {
            V4 => Ok(Self::V4 { client: end(r)?, local: end(r)? }),
            V6 => Ok(Self::V6 { client: end(r)?, local: end(r)? }),
            _ => Err(Malformed),
        }
    }
}
