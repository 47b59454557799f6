//! Who sent and who received which bytes: the proof that both are the same.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use sha2::{Digest, Sha256};

/// A direction of application data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    ToOrigin,
    ToClient,
}

/// An end of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    Sender,
    Receiver,
}

/// The bytes that one end of one connection saw in one direction, in order.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    bytes: u64,
    hash: Sha256,
}

impl Tally {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.hash.update(bytes);
    }

    pub(super) fn digest(&self) -> [u8; 32] {
        self.hash.clone().finalize().into()
    }
}

type Entry = (Way, Side, u64);

/// All tallies of a demo.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// By direction, end and number of the connection: bytes and their SHA-256.
    entries: Mutex<BTreeMap<Entry, (u64, [u8; 32])>>,
}

impl Ledger {
    /// Enters what one end of connection `connection` saw.
    pub(super) fn enter(&self, way: Way, side: Side, connection: u64, tally: &Tally) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.insert((way, side, connection), (tally.bytes, tally.digest()));
    }

    /// Bytes and their SHA-256 that one end of a connection saw; `None` while it lasts.
    pub(super) fn entry(&self, way: Way, side: Side, connection: u64) -> Option<(u64, [u8; 32])> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.get(&(way, side, connection)).copied()
    }

    /// Both ends of a direction, over all connections.
    pub(super) fn sum(&self, way: Way) -> BytesReport {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let side = |side| {
            let (mut total, mut hash) = (0, Sha256::new());
            for (&(_, _, connection), (bytes, digest)) in
                entries.range((way, side, 0)..=(way, side, u64::MAX))
            {
                total += bytes;
                hash.update(connection.to_be_bytes());
                hash.update(bytes.to_be_bytes());
                hash.update(digest);
            }
            let hex = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
            (total, hex)
        };
        let ((sent, sha256_sent), (received, sha256_received)) =
            (side(Side::Sender), side(Side::Receiver));
        BytesReport { sent, received, sha256_sent, sha256_received }
    }
}

/// Application bytes in one direction.
///
/// The SHA-256 is taken over number, length and SHA-256 of every connection, in the order of their
/// numbers: equal ones mean that every connection carried the same bytes in the same order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BytesReport {
    /// As handed to the sending sockets.
    pub sent: u64,
    /// As read from the receiving sockets.
    pub received: u64,
    /// Over what was sent, in hex.
    pub sha256_sent: String,
    /// Over what was received, in hex.
    pub sha256_received: String,
}

impl BytesReport {
    /// Whether everything arrived, once and in order.
    #[must_use]
    pub fn exact(&self) -> bool {
        self.sent == self.received && self.sha256_sent == self.sha256_received
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entered(ledger: &Ledger, side: Side, connection: u64, chunks: &[&[u8]]) {
        let mut tally = Tally::default();
        for chunk in chunks {
            tally.add(chunk);
        }
        ledger.enter(Way::ToOrigin, side, connection, &tally);
    }

    #[test]
    fn equal_however_the_bytes_were_cut_and_unequal_if_they_changed_connections() {
        let ledger = Ledger::default();
        entered(&ledger, Side::Sender, 1, &[b"ab", b"c"]);
        entered(&ledger, Side::Sender, 0, &[b"x"]);
        entered(&ledger, Side::Receiver, 0, &[b"x"]);
        entered(&ledger, Side::Receiver, 1, &[b"a", b"bc"]);
        assert!(ledger.sum(Way::ToOrigin).exact());
        assert_eq!(ledger.sum(Way::ToOrigin).received, 4);
        entered(&ledger, Side::Receiver, 0, &[b"a"]);
        entered(&ledger, Side::Receiver, 1, &[b"xbc"]);
        assert!(!ledger.sum(Way::ToOrigin).exact());
        assert!(ledger.sum(Way::ToClient).exact());
    }
}
