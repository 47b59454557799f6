//! One set of keys and everything that is counted per set of keys.

use std::time::{Duration, Instant};

use crate::ids::Incarnation;
use crate::tunnel::aead::PacketKey;
use crate::tunnel::arrivals::{Arrivals, Passed};
use crate::tunnel::ledger::{Epoch, Ledger};
use crate::tunnel::noise::RawKeys;
use crate::tunnel::replay::ReplayWindow;
use crate::wire::packet::{DataHeader, HEADER_LEN, SessionIndex, TAG_LEN};

/// A new session is made after so many packets, if the configured time is not over before (`WireGuard`
/// paper §6.2).
const REKEY_AFTER_PACKETS: u64 = 1 << 60;
/// The old one is dead so long after that time. With the default time this is when `WireGuard` rejects
/// it; it does not shrink with the time, because what takes the place of a session comes as slowly on a
/// long lossy path however short sessions are: in a minute there are a hundred attempts.
const OVERTIME: Duration = Duration::from_secs(60);
/// The responder makes one if the initiator has not a quarter of the time later, and at least so much
/// later: several attempts and round trips, lest both ends do it each time.
const PATIENCE: Duration = Duration::from_secs(10);

/// The lives of both ends between which symbols are numbered. A session belongs to one pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lives {
    pub local: Incarnation,
    pub remote: Incarnation,
}

/// What a session is made with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    /// Whether we sent its initiation.
    pub is_initiator: bool,
    /// What the other end keeps for FEC.
    pub fec_ring_log2: u8,
    /// Age at which its initiator makes the next one.
    pub rekey_after: Duration,
    /// Begin of this node's clock.
    pub started: Instant,
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Session {
    pub local: SessionIndex,
    pub remote: SessionIndex,
    pub made: Instant,
    /// When its initiation was sent or, at the responder, arrived.
    pub begun: Instant,
    /// Since when it is the one to send with.
    pub adopted: Instant,
    /// Whether we sent its initiation.
    pub is_initiator: bool,
    /// Age at which its initiator makes the next one.
    pub rekey_after: Duration,
    pub lives: Lives,
    /// The other end keeps so many symbols of a lane for FEC.
    pub fec_ring: u64,
    pub arrivals: Arrivals,
    pub ledger: Ledger,
    seal: PacketKey,
    open: PacketKey,
    counter: u64,
    replay: ReplayWindow,
}

/// Why a packet of a session was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    NotAuthentic,
    Replayed,
}

/// A packet that was opened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Opened {
    /// Of the plaintext, which begins after the header.
    pub len: usize,
    /// Its counter is the highest so far.
    pub is_newest: bool,
    pub passed: Passed,
}

impl Session {
    pub(crate) fn new(
        now: Instant,
        indices: (SessionIndex, SessionIndex),
        lives: Lives,
        terms: Terms,
        keys: &RawKeys,
    ) -> Self {
        let to_responder = PacketKey::new(&keys.initiator_to_responder);
        let to_initiator = PacketKey::new(&keys.responder_to_initiator);
        let Terms { is_initiator, fec_ring_log2, rekey_after, started } = terms;
        let (seal, open) =
            if is_initiator { (to_responder, to_initiator) } else { (to_initiator, to_responder) };
        Self {
            local: indices.0,
            remote: indices.1,
            made: now,
            begun: now,
            adopted: now,
            is_initiator,
            rekey_after,
            lives,
            fec_ring: 1u64.checked_shl(u32::from(fec_ring_log2)).unwrap_or(u64::MAX),
            arrivals: Arrivals::default(),
            ledger: Ledger::new(now, started),
            seal,
            open,
            counter: 0,
            replay: ReplayWindow::new(),
        }
    }

    pub(crate) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.made)
    }

    pub(crate) fn is_dead(&self, now: Instant) -> bool {
        now >= self.dead_at()
    }

    pub(crate) fn dead_at(&self) -> Instant {
        self.made + self.rekey_after + OVERTIME
    }

    /// When this end is to make a new session.
    pub(crate) fn rekey_at(&self) -> Instant {
        if self.counter >= REKEY_AFTER_PACKETS {
            return self.made;
        }
        let patience =
            if self.is_initiator { Duration::ZERO } else { PATIENCE.max(self.rekey_after / 4) };
        self.made + self.rekey_after + patience
    }

    /// The header of the next packet to be sealed.
    pub(crate) fn header(&self) -> [u8; HEADER_LEN] {
        DataHeader { receiver: self.remote, counter: self.counter }.encode()
    }

    /// Seals `packet` in place, of which the first bytes are [`Session::header`]; the tag to append.
    /// `elicits`: the other end will acknowledge it. `epoch` is the rate controller's.
    pub(crate) fn seal(
        &mut self,
        now: Instant,
        packet: &mut [u8],
        elicits: bool,
        epoch: Epoch,
    ) -> [u8; TAG_LEN] {
        let len = packet.len() + TAG_LEN;
        let (header, plaintext) = packet.split_at_mut(HEADER_LEN.min(packet.len()));
        let tag = self.seal.seal(self.counter, header, plaintext);
        self.counter += 1;
        self.ledger.record(now, len, elicits, epoch);
        tag
    }

    /// Opens a whole data packet in place and records its arrival.
    pub(crate) fn open(
        &mut self,
        now: Instant,
        header: DataHeader,
        packet: &mut [u8],
        ce: bool,
    ) -> Result<Opened, Refused> {
        // Before the work of opening; recorded only after it.
        if !self.replay.is_fresh(header.counter) {
            return Err(Refused::Replayed);
        }
        let whole = packet.len();
        let (aad, sealed) = packet.split_at_mut_checked(HEADER_LEN).ok_or(Refused::NotAuthentic)?;
        let len = self.open.open(header.counter, aad, sealed).ok_or(Refused::NotAuthentic)?;
        let is_newest = self.replay.accept(header.counter);
        let passed = self.arrivals.record(now, header.counter, whole, ce);
        Ok(Opened { len, is_newest, passed })
    }
}
