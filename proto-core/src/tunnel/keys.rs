//! What is derived from a pre-shared key without a handshake: the name of the key on the wire and a
//! MAC key for each direction, so that a handshake packet cannot be reflected to its sender. The
//! pre-shared key itself enters Noise and nothing else.

use blake2::Blake2sMac;
use blake2::digest::consts::U16;
use blake2::digest::{FixedOutput, KeyInit, Update};
use subtle::ConstantTimeEq;

use crate::config::PresharedKey;
use crate::ids::NodeId;
use crate::wire::packet::{KeyId, MAC_LEN};

/// A keyed BLAKE2s hash of 16 bytes (RFC 7693 §2.9).
pub(crate) fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; MAC_LEN] {
    // Fails for keys of more than 32 bytes only; all callers' are shorter.
    let Ok(mut mac) = <Blake2sMac<U16> as KeyInit>::new_from_slice(key) else {
        return [0; MAC_LEN];
    };
    for part in parts {
        mac.update(part);
    }
    mac.finalize_fixed().into()
}

/// Compares in constant time.
pub(crate) fn equal(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

/// One pre-shared key as seen from one of its two ends.
pub(crate) struct PeerKeys {
    pub psk: PresharedKey,
    /// Names this key in initiations that we send.
    pub key_id_out: KeyId,
    /// Names this key in initiations that the peer sends.
    pub key_id_in: KeyId,
    mac_out: [u8; MAC_LEN],
    mac_in: [u8; MAC_LEN],
}

impl PeerKeys {
    pub(crate) fn new(psk: PresharedKey, local: &NodeId, remote: &NodeId) -> Self {
        let derive = |label: &[u8], from: &NodeId, to: &NodeId| {
            let (from, to) = (from.as_str().as_bytes(), to.as_str().as_bytes());
            mac(psk.expose(), &[label, &[from.len() as u8], from, &[to.len() as u8], to])
        };
        let id = |from, to| {
            let [a, b, c, d, e, f, g, h, ..] = derive(b"entrouter key id", from, to);
            KeyId([a, b, c, d, e, f, g, h])
        };
        Self {
            key_id_out: id(local, remote),
            key_id_in: id(remote, local),
            mac_out: derive(b"entrouter mac", local, remote),
            mac_in: derive(b"entrouter mac", remote, local),
            psk,
        }
    }

    /// The MAC of something that we send.
    pub(crate) fn sign(&self, parts: &[&[u8]]) -> [u8; MAC_LEN] {
        mac(&self.mac_out, parts)
    }

    /// Whether the peer made this MAC.
    pub(crate) fn verify(&self, parts: &[&[u8]], claimed: &[u8; MAC_LEN]) -> bool {
        equal(&mac(&self.mac_in, parts), claimed)
    }
}

impl std::fmt::Debug for PeerKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PeerKeys(..)")
    }
}
