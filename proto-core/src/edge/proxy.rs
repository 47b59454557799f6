//! The PROXY protocol, version 2: what an origin is told of the client before the client's first byte.
//! <https://www.haproxy.org/download/1.8/doc/proxy-protocol.txt>, section 2.2.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::ids::ConnId;
use crate::wire::endpoints::Endpoints;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2; the connection is made on behalf of another one.
const V2_PROXY: u8 = 0x21;
const UNSPECIFIED: u8 = 0x00;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// The header of a connection that is made for that client.
fn header(endpoints: Endpoints) -> Vec<u8> {
    let mut addresses = Vec::with_capacity(36);
    let family = match endpoints {
        // Nobody is there: where he is, the ingress does not know.
        _ if endpoints.client().ip().is_unspecified() => UNSPECIFIED,
        Endpoints::V4 { client: (from, from_port), local: (to, to_port) } => {
            addresses.extend_from_slice(&from.octets());
            addresses.extend_from_slice(&to.octets());
            addresses.extend_from_slice(&from_port.to_be_bytes());
            addresses.extend_from_slice(&to_port.to_be_bytes());
            TCP4
        }
        Endpoints::V6 { client: (from, from_port), local: (to, to_port) } => {
            addresses.extend_from_slice(&from.octets());
            addresses.extend_from_slice(&to.octets());
            addresses.extend_from_slice(&from_port.to_be_bytes());
            addresses.extend_from_slice(&to_port.to_be_bytes());
            TCP6
        }
    };
    let mut header = Vec::with_capacity(16 + addresses.len());
    header.extend_from_slice(SIGNATURE);
    header.extend_from_slice(&[V2_PROXY, family]);
    // 0, 12 or 36.
    header.extend_from_slice(&(addresses.len() as u16).to_be_bytes());
    header.extend_from_slice(&addresses);
    header
}

/// The headers that are due or under way. Each is the first thing that is written to its connection, so
/// that the first bytes which that reports as written are the header's.
#[derive(Debug, Default)]
pub(crate) struct Headers(BTreeMap<ConnId, Header>);

#[derive(Debug)]
enum Header {
    /// The origin has not answered yet.
    Due(Endpoints),
    /// So many bytes of it are not reported as written. Never 0.
    Unwritten(usize),
}

impl Headers {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// An origin that wants a header is being dialled for that client.
    pub(crate) fn dialled(&mut self, conn: ConnId, endpoints: Endpoints) {
        self.0.insert(conn, Header::Due(endpoints));
    }

    /// The origin answered: what it is to be told, once.
    pub(crate) fn connected(&mut self, conn: ConnId) -> Option<Bytes> {
        let state = self.0.get_mut(&conn)?;
        let Header::Due(endpoints) = *state else { return None };
        let header = header(endpoints);
        *state = Header::Unwritten(header.len());
        Some(Bytes::from(header))
    }

    /// The connection took so many bytes; how many of them are the flow's.
    pub(crate) fn written(&mut self, conn: ConnId, bytes: usize) -> usize {
        let Some(Header::Unwritten(left)) = self.0.get_mut(&conn) else { return bytes };
        let own = bytes.min(*left);
        *left -= own;
        if *left == 0 {
            self.0.remove(&conn);
        }
        bytes - own
    }

    /// The connection is over.
    pub(crate) fn forget(&mut self, conn: ConnId) {
        self.0.remove(&conn);
    }
}
