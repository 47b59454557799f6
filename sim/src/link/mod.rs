//! One direction of a long link, pure: packets go in with a time, and come out with a later one.
//!
//! A packet passes the elements in the order in which a real path has them:
//!
//! 1. MTU limit,
//! 2. rate with a drop-tail queue (the bottleneck, usually near the sender),
//! 3. random loss (behind it: a lost packet has used its share of the rate),
//! 4. corruption and duplication (a copy arrives right behind its original and uses no rate),
//! 5. delay, jitter, late packets.
//!
//! Each element draws from a random stream of its own, once per packet offered, whatever the other
//! elements do with that packet. So the n-th packet meets the same luck in one element whether or
//! not another is there. Elements that are absent draw nothing.

mod config;
mod draw;
mod loss;
mod rate;

#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::RngCore;
use serde::Serialize;

pub use config::{Burst, Jitter, LinkConfig, LinkConfigError, Loss, QueueLimit, Rate, Reorder};

use crate::seed::Seed;
use crate::time::{Time, nanos};
use draw::{Chance, scaled};
use loss::LossElement;
use rate::Bottleneck;

/// What a datagram weighs on the wire beyond its UDP payload: 20 bytes of IPv4 and 8 of UDP header.
/// Sizes, rates and queues of a link count it.
pub const IP_UDP_OVERHEAD: usize = 28;

/// What happened to packets so far; monotonic.
///
/// `offered + duplicated = too_big + queue_dropped + lost + delivered + in flight`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct LinkCounters {
    /// Packets handed to the link.
    pub offered: u64,
    /// Their bytes, with IP and UDP headers.
    pub offered_bytes: u64,
    /// Dropped: above the MTU.
    pub too_big: u64,
    /// Dropped: the queue before the bottleneck was full.
    pub queue_dropped: u64,
    /// Dropped by random loss.
    pub lost: u64,
    /// Runs of random losses among the packets that passed the bottleneck: `lost / loss_runs` is
    /// the mean burst.
    pub loss_runs: u64,
    /// Extra copies made.
    pub duplicated: u64,
    /// Packets with a flipped bit.
    pub corrupted: u64,
    /// Packets that were made late.
    pub held_back: u64,
    /// Packets handed out, copies included.
    pub delivered: u64,
    /// Their bytes, with IP and UDP headers.
    pub delivered_bytes: u64,
}

impl LinkCounters {
    /// Share of the packets that passed the bottleneck and were lost at random behind it.
    #[must_use]
    pub fn loss(&self) -> f64 {
        let passed = self.offered - self.too_big - self.queue_dropped;
        if passed == 0 { 0.0 } else { self.lost as f64 / passed as f64 }
    }
}

/// One direction of a link, carrying UDP payloads of type `P`.
///
/// What is in flight is bounded by rate × (delay + queue); a link without a rate holds whatever it
/// is offered until it is due.
#[derive(Debug)]
pub struct Link<P> {
    mtu: Option<usize>,
    bottleneck: Option<Bottleneck>,
    loss: Option<LossElement>,
    /// Whether, and which bit.
    corrupt: Option<(Chance, ChaCha8Rng)>,
    duplicate: Option<Chance>,
    delay: Duration,
    jitter: Option<JitterElement>,
    reorder: Option<(Chance, Duration)>,
    /// No packet is due before this one, unless jitter may reorder.
    last_due: Time,
    in_flight: BinaryHeap<InFlight<P>>,
    entered: u64,
    in_loss_run: bool,
    counters: LinkCounters,
}

impl<P: Clone + AsRef<[u8]> + AsMut<[u8]>> Link<P> {
    /// An empty link. `seed` should be a child of its own per link and direction.
    ///
    /// # Errors
    /// [`LinkConfigError`] if there is no such link.
    pub fn new(config: &LinkConfig, seed: Seed) -> Result<Self, LinkConfigError> {
        config.validate()?;
        Ok(Self {
            mtu: config.mtu,
            bottleneck: config.rate.map(Bottleneck::new),
            loss: LossElement::new(config.loss, seed.stream("loss")),
            corrupt: Chance::new(config.corrupt, seed.stream("corrupt"))
                .map(|chance| (chance, seed.stream("corrupt bit"))),
            duplicate: Chance::new(config.duplicate, seed.stream("duplicate")),
            delay: config.delay,
            jitter: config.jitter.map(|jitter| JitterElement {
                range: jitter.range,
                reorders: jitter.reorders,
                rng: seed.stream("jitter"),
            }),
            reorder: config.reorder.and_then(|reorder| {
                Some((Chance::new(reorder.probability, seed.stream("reorder"))?, reorder.by))
            }),
            last_due: Time::ZERO,
            in_flight: BinaryHeap::new(),
            entered: 0,
            in_loss_run: false,
            counters: LinkCounters::default(),
        })
    }

    /// Offers a datagram (its UDP payload) at `now`, which must not run backwards. Zero, one or two
    /// deliveries become due.
    pub fn send(&mut self, now: Time, mut datagram: P) {
        let size = datagram.as_ref().len() + IP_UDP_OVERHEAD;
        self.counters.offered += 1;
        self.counters.offered_bytes += size as u64;

        let fits = self.mtu.is_none_or(|mtu| size <= mtu);
        let (departs, queued) = match &mut self.bottleneck {
            Some(bottleneck) if fits => match bottleneck.accept(now, size as u64) {
                Some(departs) => (departs, true),
                None => (bottleneck.busy_until(now), false),
            },
            Some(bottleneck) => (bottleneck.busy_until(now), true),
            None => (now, true),
        };
        // All draws are made before the fate is known: see the module's text.
        let lost = self.loss.as_mut().is_some_and(|loss| loss.next(departs));
        let corrupted = match &mut self.corrupt {
            Some((chance, bit)) => {
                let bit = bit.next_u64();
                chance.roll().then_some(bit)
            }
            None => None,
        };
        let copied = self.duplicate.as_mut().is_some_and(Chance::roll);
        let (delay, ordered) = match &mut self.jitter {
            Some(jitter) => (jitter.around(self.delay), !jitter.reorders),
            None => (self.delay, true),
        };
        let held_back = match &mut self.reorder {
            Some((chance, by)) => chance.roll().then_some(*by),
            None => None,
        };

        if !fits {
            self.counters.too_big += 1;
            return;
        }
        if !queued {
            self.counters.queue_dropped += 1;
            return;
        }
        if lost {
            self.counters.lost += 1;
            self.counters.loss_runs += u64::from(!self.in_loss_run);
            self.in_loss_run = true;
            return;
        }
        self.in_loss_run = false;
        if let Some(draw) = corrupted {
            self.flip_a_bit(datagram.as_mut(), draw);
        }
        let mut due = departs + delay;
        if let Some(by) = held_back {
            // Not remembered in `last_due`: the others are to overtake it.
            due = due + by;
            self.counters.held_back += 1;
        } else if ordered {
            due = due.max(self.last_due);
            self.last_due = due;
        }
        if copied {
            self.counters.duplicated += 1;
            self.launch(due, datagram.clone());
        }
        self.launch(due, datagram);
    }

    /// When the next datagram arrives, if any is in flight.
    #[must_use]
    pub fn next_delivery(&self) -> Option<Time> {
        self.in_flight.peek().map(|next| next.due)
    }

    /// The next datagram that has arrived by `now`, and when it did. Call until there is none.
    #[must_use]
    pub fn deliver(&mut self, now: Time) -> Option<(Time, P)> {
        if self.next_delivery()? > now {
            return None;
        }
        let InFlight { due, datagram, .. } = self.in_flight.pop()?;
        self.counters.delivered += 1;
        self.counters.delivered_bytes += (datagram.as_ref().len() + IP_UDP_OVERHEAD) as u64;
        Some((due, datagram))
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> LinkCounters {
        self.counters
    }

    /// Datagrams between the bottleneck's queue and the far end.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Bytes that wait at the bottleneck, with what is being sent.
    #[must_use]
    pub fn backlog(&self, now: Time) -> u64 {
        self.bottleneck.as_ref().map_or(0, |bottleneck| bottleneck.backlog(now))
    }

    fn launch(&mut self, due: Time, datagram: P) {
        self.in_flight.push(InFlight { due, nth: self.entered, datagram });
        self.entered += 1;
    }

    fn flip_a_bit(&mut self, bytes: &mut [u8], draw: u64) {
        let Some(last_bit) = (bytes.len() as u64 * 8).checked_sub(1) else {
            return;
        };
        let bit = scaled(draw, last_bit);
        bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
        self.counters.corrupted += 1;
    }
}

#[derive(Debug)]
struct JitterElement {
    range: Duration,
    reorders: bool,
    rng: ChaCha8Rng,
}

impl JitterElement {
    fn around(&mut self, delay: Duration) -> Duration {
        let width = nanos(self.range).saturating_mul(2);
        (delay - self.range) + Duration::from_nanos(scaled(self.rng.next_u64(), width))
    }
}

/// Ordered so that a max-heap yields the earliest first, and of two at the same time the older.
#[derive(Debug)]
struct InFlight<P> {
    due: Time,
    nth: u64,
    datagram: P,
}

impl<P> Ord for InFlight<P> {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.due, other.nth).cmp(&(self.due, self.nth))
    }
}

impl<P> PartialOrd for InFlight<P> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<P> PartialEq for InFlight<P> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<P> Eq for InFlight<P> {}
