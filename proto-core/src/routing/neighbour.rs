//! A configured neighbour: the link to it, and what it has still to be told.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::ids::{Incarnation, NodeHash, NodeId};
use crate::probe::LinkQuality;
use crate::wire::linkstate::Link;

use super::cost::{self, clearly_less};

/// Deaths are forgotten one by one, so often.
const FORGIVEN_EVERY: Duration = Duration::from_secs(60);
/// How long a link is shaky after its first death; twice as long after each further one.
const SHAKY: Duration = Duration::from_secs(1);
const SHAKY_MAX: Duration = Duration::from_secs(30);

/// Recent deaths of a link. One that comes and goes would drag all routes to and fro.
#[derive(Debug, Default)]
pub(super) struct Damping {
    deaths: u32,
    /// The last death, or the last one forgotten.
    at: Option<Instant>,
    pub until: Option<Instant>,
}

impl Damping {
    fn died(&mut self, now: Instant) {
        self.forgive(now);
        self.deaths = self.deaths.saturating_add(1);
        self.at.get_or_insert(now);
        self.until = None;
    }

    fn came(&mut self, now: Instant) {
        self.forgive(now);
        if let Some(doublings) = self.deaths.checked_sub(1) {
            self.until = Some(now + (SHAKY * (1 << doublings.min(5))).min(SHAKY_MAX));
        }
    }

    fn forgive(&mut self, now: Instant) {
        while let Some(at) = self.at.map(|at| at + FORGIVEN_EVERY).filter(|at| *at <= now) {
            self.deaths = self.deaths.saturating_sub(1);
            self.at = (self.deaths > 0).then_some(at);
        }
    }
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Neighbour {
    pub id: NodeId,
    pub hash: NodeHash,
    /// The fragment of our advertisement that it stands in.
    pub fragment: u8,
    /// None while the link is down.
    pub link: Option<LinkQuality>,
    /// From its handshake.
    pub life: Option<Incarnation>,
    /// What our advertisement says.
    pub advertised: Option<Link>,
    /// Since when the link is clearly unlike that.
    differs: Option<Instant>,
    pub damping: Damping,
    /// Fragments that it has to be told.
    pub pending: BTreeSet<(NodeHash, u8)>,
}

/// What a measurement changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Nothing,
    Came,
    Died,
    Quality,
}

impl Neighbour {
    pub(super) fn new(id: &NodeId, fragment: u8) -> Self {
        Self {
            id: id.clone(),
            hash: id.hash32(),
            fragment,
            link: None,
            life: None,
            advertised: None,
            differs: None,
            damping: Damping::default(),
            pending: BTreeSet::new(),
        }
    }

    /// A quality is another one when its cost differs clearly from what is advertised, for `hold` on end.
    pub(super) fn measured(
        &mut self,
        now: Instant,
        quality: Option<LinkQuality>,
        hold: Duration,
    ) -> Change {
        let was = std::mem::replace(&mut self.link, quality);
        match (was, quality) {
            (None, None) => Change::Nothing,
            (None, Some(_)) => {
                self.damping.came(now);
                Change::Came
            }
            (Some(_), None) => {
                self.damping.died(now);
                self.differs = None;
                self.pending.clear();
                Change::Died
            }
            (Some(_), Some(quality)) => {
                let Some(told) = self.advertised else { return Change::Nothing };
                let cost = cost::link_cost(&cost::to_wire(self.hash, &quality, false));
                let told = cost::link_cost(&told);
                if !clearly_less(cost, told) && !clearly_less(told, cost) {
                    self.differs = None;
                    return Change::Nothing;
                }
                let since = *self.differs.get_or_insert(now);
                if now < since + hold { Change::Nothing } else { Change::Quality }
            }
        }
    }

    /// The link as it is to be advertised now, which it is with that.
    pub(super) fn advertise(&mut self, leaving: bool) -> Option<Link> {
        let shaky = leaving || self.damping.until.is_some();
        self.differs = None;
        self.advertised = self.link.map(|quality| cost::to_wire(self.hash, &quality, shaky));
        self.advertised
    }
}
