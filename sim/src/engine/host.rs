//! A simulated machine: a core, its clock, and the sockets of its TCP connections.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use entrouter_proto::ConnId;

use super::core::{Core, MakeCore};
use crate::outcome::{NodeOutcome, TunnelOutcome};
use crate::time::Time;
use crate::traffic::Side;

/// A host of a run; its place in the order in which hosts were added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostId(pub(crate) usize);

impl HostId {
    /// The `nth` host that is added.
    #[must_use]
    pub fn nth(nth: usize) -> Self {
        Self(nth)
    }
}

/// One end of a TCP connection at a host.
#[derive(Debug)]
pub(super) struct Socket {
    pub side: Side,
    /// `None` at an origin that has not heard the connection's name yet: what it heard of it is in
    /// `name`.
    pub deal: Option<usize>,
    pub name: Vec<u8>,
    /// The origin that was dialled.
    pub target: String,
    /// Bytes that the core may still read.
    pub granted: usize,
    /// Bytes that it has read.
    pub taken: u64,
    pub eof_told: bool,
    /// Writes of the core that the socket's buffer has no room for.
    pub queue: VecDeque<Bytes>,
    pub queued: usize,
    /// In the buffer, not read by the application.
    pub unread: u64,
    /// An application that reads slowly has its next turn set.
    pub turn_set: bool,
    /// The core closed its half; that took effect.
    pub shutdown: bool,
    pub shut: bool,
}

impl Socket {
    pub(super) fn new(side: Side, deal: Option<usize>, target: String) -> Self {
        Self {
            side,
            deal,
            name: Vec::new(),
            target,
            granted: 0,
            taken: 0,
            eof_told: false,
            queue: VecDeque::new(),
            queued: 0,
            unread: 0,
            turn_set: false,
            shutdown: false,
            shut: false,
        }
    }
}

/// A service that can be dialled at a host.
#[derive(Debug)]
pub(super) struct Origin {
    pub workload: usize,
    pub refuses: bool,
}

/// See the module's text.
pub(super) struct Host {
    pub name: String,
    /// `None` while it is down.
    pub core: Option<Box<dyn Core>>,
    pub make: MakeCore,
    /// The PoP at whose edge its connections enter the mesh, if it is no PoP itself.
    pub edge: Option<HostId>,
    /// What its cores wanted to be kept.
    pub kept: BTreeMap<usize, Vec<u8>>,
    pub life: u32,
    /// When this life began.
    pub born: Time,
    /// What its wall clock is ahead, in nanoseconds.
    pub clock_ahead: i64,
    /// Since when it is ending in order.
    pub draining: Option<Time>,
    /// The timer for which there is an event.
    pub armed: Option<Time>,
    /// When it last had a timer, and how many at that moment.
    pub woken: (Time, u32),
    pub sockets: BTreeMap<ConnId, Socket>,
    /// Being dialled, with the target.
    pub dialling: BTreeMap<ConnId, String>,
    /// Sockets that may have something for the core.
    pub ready: VecDeque<ConnId>,
    pub accepted: u64,
    pub origins: BTreeMap<String, Origin>,
    /// The least nonce that may follow under each key, by where it was sent to, over all lives.
    pub nonces: BTreeMap<(IpAddr, u64), u64>,
    /// Numbers of the datagrams that this life has accepted, as bits.
    pub accepted_packets: Vec<u64>,
    /// What earlier lives counted, by peer.
    pub past: BTreeMap<String, TunnelOutcome>,
    /// And beyond tunnels.
    pub past_node: NodeOutcome,
}

impl Host {
    pub(super) fn new(name: String, make: MakeCore, clock_ahead: i64) -> Self {
        Self {
            name,
            core: None,
            make,
            edge: None,
            kept: BTreeMap::new(),
            life: 0,
            born: Time::ZERO,
            clock_ahead,
            draining: None,
            armed: None,
            woken: (Time::ZERO, 0),
            sockets: BTreeMap::new(),
            dialling: BTreeMap::new(),
            ready: VecDeque::new(),
            accepted: 0,
            origins: BTreeMap::new(),
            nonces: BTreeMap::new(),
            accepted_packets: Vec::new(),
            past: BTreeMap::new(),
            past_node: NodeOutcome::default(),
        }
    }

    /// Remembers that its core accepted the datagram of that number; whether it had before.
    pub(super) fn accept(&mut self, number: u64) -> bool {
        let (word, bit) = ((number / 64) as usize, 1 << (number % 64));
        if self.accepted_packets.len() <= word {
            self.accepted_packets.resize(word + 1, 0);
        }
        let before = self.accepted_packets[word] & bit != 0;
        self.accepted_packets[word] |= bit;
        before
    }

    /// Its wall clock, when a right one shows `unix`.
    pub(super) fn wall_clock(&self, unix: Duration) -> Duration {
        let off = Duration::from_nanos(self.clock_ahead.unsigned_abs());
        if self.clock_ahead < 0 { unix.saturating_sub(off) } else { unix + off }
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host")
            .field("name", &self.name)
            .field("up", &self.core.is_some())
            .field("life", &self.life)
            .finish_non_exhaustive()
    }
}
