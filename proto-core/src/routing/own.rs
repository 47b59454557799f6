//! What this node says of itself, and how often.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::ids::PeerId;
use crate::wire::linkstate::{MAX_FRAGMENTS, MAX_LINKS};

use super::Routing;
use super::database::{Edge, Held};

/// How often everything is said again, give or take a tenth.
const REFRESH: Duration = Duration::from_secs(60);
/// Fragments that may be said at once; one a second beyond that.
const BURST: f64 = 8.0;
/// What withdrawals may take in advance.
const DEBT: f64 = 4.0;

/// The state of this node's own advertisement.
#[derive(Debug)]
pub(super) struct Own {
    sequence: u64,
    pub(super) fragments: u8,
    /// Fragments to be said anew, and whether that is urgent.
    due: BTreeMap<u8, bool>,
    tokens: f64,
    tokens_at: Instant,
    /// When each fragment is repeated.
    refresh: BTreeMap<u8, Instant>,
    /// When the next link ceases to be shaky.
    steady_at: Option<Instant>,
    warned: bool,
}

impl Own {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            sequence: 0,
            fragments: 1,
            due: BTreeMap::new(),
            tokens: BURST,
            tokens_at: now,
            refresh: BTreeMap::new(),
            steady_at: None,
            warned: false,
        }
    }

    /// A fragment has changed.
    pub(super) fn due(&mut self, fragment: u8, urgent: bool) {
        *self.due.entry(fragment).or_insert(false) |= urgent;
    }

    /// Says what comes next above a sequence number that others have heard.
    pub(super) fn jump(&mut self, above: u64) {
        self.sequence = self.sequence.max(above);
    }

    pub(super) fn begin_life(&mut self) {
        self.sequence = 0;
    }

    /// True once.
    pub(super) fn warn_of_collision(&mut self) -> bool {
        !std::mem::replace(&mut self.warned, true)
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.tokens_at);
        self.tokens = (self.tokens + elapsed.as_secs_f64()).min(BURST);
        self.tokens_at = self.tokens_at.max(now);
    }

    fn least(urgent: bool) -> f64 {
        if urgent { 1.0 - DEBT } else { 1.0 }
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        let token = |urgent: &bool| {
            let wait = (Self::least(*urgent) - self.tokens).max(0.0);
            // A little later rather than a nanosecond too early.
            self.tokens_at + Duration::from_secs_f64(wait) + Duration::from_micros(1)
        };
        let due = self.due.values().map(token);
        due.chain(self.refresh.values().copied()).chain(self.steady_at).min()
    }
}

impl Routing {
    /// A fragment in which one more neighbour finds room. The number of fragments never falls.
    pub(super) fn own_fragment_with_room(&mut self) -> Option<u8> {
        let members = |n: u8| self.neighbours.iter().flatten().filter(|x| x.fragment == n).count();
        let free = (0..self.own.fragments).find(|n| members(*n) < MAX_LINKS);
        if free.is_none() && self.own.fragments < MAX_FRAGMENTS {
            self.own.fragments += 1;
            return Some(self.own.fragments - 1);
        }
        free
    }

    /// Says everything now.
    pub(super) fn say_all(&mut self, now: Instant) {
        for fragment in 0..self.own.fragments {
            self.say_fragment(now, fragment);
        }
        self.own.due.clear();
    }

    /// Says what has changed, as far as that is allowed now.
    pub(super) fn say(&mut self, now: Instant) {
        if self.own.due.is_empty() {
            return;
        }
        self.own.refill(now);
        for (fragment, urgent) in std::mem::take(&mut self.own.due) {
            if self.own.tokens < Own::least(urgent) {
                self.own.due.insert(fragment, urgent);
                continue;
            }
            self.own.tokens -= 1.0;
            self.say_fragment(now, fragment);
        }
    }

    fn say_fragment(&mut self, now: Instant, fragment: u8) {
        let own = &mut self.own;
        own.sequence += 1;
        let members = self.neighbours.iter_mut().flatten().filter(|n| n.fragment == fragment);
        let mut edges: Vec<_> =
            members.filter_map(|n| n.advertise(self.leaving)).map(Edge::new).collect();
        edges.sort_unstable_by_key(|edge| edge.link.to);
        let held = Held {
            sequence: own.sequence,
            fragments: own.fragments,
            relays: self.relays,
            edges,
            heard: now,
            age: Duration::ZERO,
        };
        let spread = 0.9 + 0.2 * self.rng.unit();
        own.refresh.insert(fragment, now + REFRESH.mul_f64(spread));
        if self.db.replace(self.hash, fragment, held) {
            self.dirty.get_or_insert(now);
        }
        self.flood((self.hash, fragment));
    }

    /// Repeats what was said long ago.
    pub(super) fn refresh(&mut self, now: Instant) {
        let old = self.own.refresh.iter().filter(|(_, at)| **at <= now).map(|(n, _)| *n);
        for fragment in old.collect::<Vec<_>>() {
            self.own.due.remove(&fragment);
            self.say_fragment(now, fragment);
        }
    }

    /// Links that have stood for long enough are shaky no more.
    pub(super) fn steady_links(&mut self, now: Instant) {
        if self.own.steady_at.is_none_or(|at| now < at) {
            return;
        }
        for peer in 0..self.neighbours.len() {
            let Some(neighbour) = self.neighbour_mut(PeerId(peer)) else { continue };
            if neighbour.damping.until.is_some_and(|at| at <= now) {
                neighbour.damping.until = None;
                let fragment = neighbour.fragment;
                self.own.due(fragment, false);
            }
        }
        self.watch_shaky_links();
    }

    /// Shaky links have come or gone.
    pub(super) fn watch_shaky_links(&mut self) {
        self.own.steady_at = self.neighbours.iter().flatten().filter_map(|n| n.damping.until).min();
    }
}
