//! One direction of a long link, pure: packets go in with a time, and come out with a later one.
//!
//! A packet passes the elements in the order in which a real path has them:
//!
//! 1. a cut, if there is one ([`Link::set_cut`]),
//! 2. MTU limit,
//! 3. rate with a drop-tail queue that may mark (the bottleneck, usually near the sender),
//! 4. random loss (behind it: a lost packet has used its share of the rate),
//! 5. corruption and duplication (a copy arrives right behind its original and uses no rate),
//! 6. delay, jitter, late packets,
//! 7. a clog, if there is one ([`Link::clog`]).
//!
//! Beside that path, an older packet may be sent again behind the one offered, as somebody on the
//! path would: it obeys cut, MTU and clog, takes the delay without its jitter, and meets nothing else.
//!
//! Each element draws from a random stream of its own (two decide in which way, too: which bit,
//! which old packet; those have a second one), once per packet offered, whatever the other elements
//! do with that packet. So the n-th packet meets the same luck in one element whether or not another
//! is there, and whether or not the link is cut or clogged. Elements that are absent draw nothing.

mod account;
mod config;
mod datagram;
mod draw;
mod loss;
mod rate;
mod replay;

#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::RngCore;

pub use account::{DropReason, Fate, LinkCounters, Outcome};
pub use config::{Burst, Jitter, LinkConfig, LinkConfigError, Loss, QueueLimit, Rate, Reorder};
pub use datagram::Datagram;
pub use replay::REPLAY_MEMORY;

use crate::seed::Seed;
use crate::time::{Time, nanos};
use draw::{Chance, scaled};
use loss::LossElement;
use rate::{Accepted, Bottleneck};
use replay::ReplayElement;

/// What a datagram weighs on the wire beyond its UDP payload: 20 bytes of IPv4 and 8 of UDP header.
/// Sizes, rates and queues of a link count it.
pub const IP_UDP_OVERHEAD: usize = 28;

/// A clogged link takes so many packets, with copies and replays, beyond those in flight when the
/// clog began. It drops further ones; a copy or replay for which there is no room is not made.
pub const CLOG_LIMIT: usize = 4096;

/// One direction of a link, carrying datagrams of type `P`.
///
/// What is in flight is bounded by rate × (delay + queue) and, beyond that, [`CLOG_LIMIT`]; a link
/// without a rate holds whatever it is offered until it is due.
#[derive(Debug)]
pub struct Link<P> {
    cut: bool,
    mtu: Option<usize>,
    bottleneck: Bottleneck,
    loss: LossElement,
    corrupt: Chance,
    corrupt_bit: ChaCha8Rng,
    duplicate: Chance,
    delay: Duration,
    jitter: JitterElement,
    reorder: Chance,
    reorder_by: Duration,
    replay: ReplayElement<P>,
    /// Packets taken since the clog began, while there is one.
    clogged: Option<usize>,
    /// When the last clog ended: what was due before comes out then.
    released: Time,
    /// No packet is due before this one, unless jitter may reorder.
    last_due: Time,
    in_flight: BinaryHeap<InFlight<P>>,
    entered: u64,
    in_loss_run: bool,
    counters: LinkCounters,
}

/// What the elements behind the bottleneck would do with a packet that reaches them.
struct Luck {
    lost: bool,
    /// Which bit is flipped, as a draw.
    corrupted: Option<u64>,
    copied: bool,
    delay: Duration,
    held_back: bool,
}

impl<P: Datagram> Link<P> {
    /// An empty link. `seed` should be a child of its own per link and direction.
    ///
    /// # Errors
    /// [`LinkConfigError`] if there is no such link.
    pub fn new(config: &LinkConfig, seed: Seed) -> Result<Self, LinkConfigError> {
        config.validate()?;
        let chance = |probability, name| Chance::new(probability, seed.stream(name));
        let (reorder, reorder_by) = reorder_parts(config);
        Ok(Self {
            cut: false,
            mtu: config.mtu,
            bottleneck: Bottleneck::new(config.rate),
            loss: LossElement::new(config.loss, seed.stream("loss")),
            corrupt: chance(config.corrupt, "corrupt"),
            corrupt_bit: seed.stream("corrupt bit"),
            duplicate: chance(config.duplicate, "duplicate"),
            delay: config.delay,
            jitter: JitterElement { config: config.jitter, rng: seed.stream("jitter") },
            reorder: chance(reorder, "reorder"),
            reorder_by,
            replay: ReplayElement::new(
                chance(config.replay, "replay"),
                seed.stream("replay which"),
            ),
            clogged: None,
            released: Time::ZERO,
            last_due: Time::ZERO,
            in_flight: BinaryHeap::new(),
            entered: 0,
            in_loss_run: false,
            counters: LinkCounters::default(),
        })
    }

    /// Makes it such a link for the packets offered from `now` on, which must not run backwards.
    ///
    /// Every element goes on with its random stream where that stood, changed or not, also after a
    /// time of absence, in which it drew nothing. A loss that differs from the present one begins
    /// anew (with two states, it draws the first); one that is the same keeps its state. Packets
    /// that the bottleneck has taken leave at the rate at which they were taken, and before later
    /// ones. Packets in flight arrive when they would have, and unless jitter may reorder none
    /// overtakes them even if the delay falls. A replay that becomes absent forgets what it
    /// remembered. Cut and clog stay.
    ///
    /// # Errors
    /// [`LinkConfigError`] if there is no such link; then nothing has changed.
    pub fn reconfigure(&mut self, now: Time, config: &LinkConfig) -> Result<(), LinkConfigError> {
        config.validate()?;
        let reorder;
        (reorder, self.reorder_by) = reorder_parts(config);
        self.mtu = config.mtu;
        self.bottleneck.set(config.rate, now);
        self.loss.set(config.loss, now);
        self.corrupt.set(config.corrupt);
        self.duplicate.set(config.duplicate);
        self.delay = config.delay;
        self.jitter.config = config.jitter;
        self.reorder.set(reorder);
        self.replay.set(config.replay);
        Ok(())
    }

    /// While cut, packets offered are dropped. Those in flight arrive.
    pub fn set_cut(&mut self, cut: bool) {
        self.cut = cut;
    }

    /// From now on nothing comes out, not even what is due already, until [`release`](Self::release).
    /// Packets go on entering, up to [`CLOG_LIMIT`]. A clogged link stays as it is.
    pub fn clog(&mut self) {
        self.clogged.get_or_insert(0);
    }

    /// Ends a clog: what fell due meanwhile is due at `now`, in the order in which it fell due.
    /// Without a clog this does nothing.
    pub fn release(&mut self, now: Time) {
        if self.clogged.take().is_some() {
            self.released = now;
        }
    }

    /// Offers a datagram at `now`, which must not run backwards. Zero to three deliveries become
    /// due: the datagram, a copy, and an older one.
    pub fn send(&mut self, now: Time, datagram: P) -> Fate {
        let size = wire_size(&datagram);
        self.counters.offered += 1;
        self.counters.offered_bytes += size as u64;

        let accepted = self.accept(now, size);
        let departs =
            accepted.map_or_else(|_| self.bottleneck.busy_until(now), |accepted| accepted.departs);
        // All draws are made before the fate is known: see the module's text.
        let luck = self.draw(departs);
        let old = self.replay.next(&datagram);

        let outcome = match accepted.and_then(|accepted| self.survive(accepted, &luck)) {
            Ok(accepted) => self.pass(datagram, accepted, &luck),
            Err(reason) => {
                self.counters.count_drop(reason);
                Outcome::Dropped(reason)
            }
        };
        Fate { outcome, replayed: old.and_then(|old| self.send_again(now, old)) }
    }

    /// When the next datagram arrives, if any is in flight and the link is not clogged.
    #[must_use]
    pub fn next_delivery(&self) -> Option<Time> {
        if self.clogged.is_some() {
            return None;
        }
        self.in_flight.peek().map(|next| next.due.max(self.released))
    }

    /// The next datagram that has arrived by `now`, and when it did. Call until there is none.
    #[must_use]
    pub fn deliver(&mut self, now: Time) -> Option<(Time, P)> {
        let due = self.next_delivery().filter(|&due| due <= now)?;
        let InFlight { datagram, .. } = self.in_flight.pop()?;
        self.counters.delivered += 1;
        self.counters.delivered_bytes += wire_size(&datagram) as u64;
        Some((due, datagram))
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> LinkCounters {
        self.counters
    }

    /// Datagrams that have entered and not come out, those in the bottleneck's queue included.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// How long a packet offered now would wait at the bottleneck before its own first bit leaves.
    #[must_use]
    pub fn queueing_delay(&self, now: Time) -> Duration {
        self.bottleneck.busy_until(now).since(now)
    }

    /// Bytes that wait at the bottleneck, with what is being sent.
    #[must_use]
    pub fn backlog(&self, now: Time) -> u64 {
        self.bottleneck.backlog(now)
    }

    fn accept(&mut self, now: Time, size: usize) -> Result<Accepted, DropReason> {
        if self.cut {
            return Err(DropReason::Cut);
        }
        if !self.fits(size) {
            return Err(DropReason::TooBig);
        }
        self.bottleneck.accept(now, size as u64).ok_or(DropReason::QueueFull)
    }

    fn draw(&mut self, departs: Time) -> Luck {
        Luck {
            lost: self.loss.next(departs),
            corrupted: if self.corrupt.is_present() {
                let bit = self.corrupt_bit.next_u64();
                self.corrupt.roll().then_some(bit)
            } else {
                None
            },
            copied: self.duplicate.roll(),
            delay: self.jitter.around(self.delay),
            held_back: self.reorder.roll(),
        }
    }

    /// What can still happen to a packet that the bottleneck took.
    fn survive(&mut self, accepted: Accepted, luck: &Luck) -> Result<Accepted, DropReason> {
        if luck.lost {
            self.counters.loss_runs += u64::from(!self.in_loss_run);
        }
        self.in_loss_run = luck.lost;
        if luck.lost {
            Err(DropReason::Lost)
        } else if self.room() >= 1 {
            Ok(accepted)
        } else {
            Err(DropReason::Clogged)
        }
    }

    fn pass(&mut self, mut datagram: P, accepted: Accepted, luck: &Luck) -> Outcome {
        let marked = accepted.marks && datagram.mark_ce();
        self.counters.marked += u64::from(marked);
        let corrupted = luck.corrupted.is_some_and(|draw| flip_a_bit(&mut datagram, draw));
        self.counters.corrupted += u64::from(corrupted);
        let mut due = accepted.departs + luck.delay;
        if !self.jitter.reorders() {
            due = due.max(self.last_due);
        }
        if luck.held_back {
            // Not remembered in `last_due`: the others are to overtake it.
            due = due + self.reorder_by;
            self.counters.held_back += 1;
        } else {
            // Remembered even if jitter reorders: it may give way to one that does not.
            self.last_due = due.max(self.last_due);
        }
        let copied = luck.copied && self.room() >= 2;
        if copied {
            self.counters.duplicated += 1;
            self.launch(due, datagram.clone());
        }
        self.launch(due, datagram);
        Outcome::Passed { due, corrupted, copied, marked }
    }

    fn send_again(&mut self, now: Time, old: P) -> Option<Time> {
        if self.cut || !self.fits(wire_size(&old)) || self.room() == 0 {
            return None;
        }
        let due = now + self.delay;
        self.counters.replayed += 1;
        self.launch(due, old);
        Some(due)
    }

    fn fits(&self, size: usize) -> bool {
        self.mtu.is_none_or(|mtu| size <= mtu)
    }

    /// How many more packets a clog lets in.
    fn room(&self) -> usize {
        self.clogged.map_or(usize::MAX, |taken| CLOG_LIMIT - taken)
    }

    fn launch(&mut self, due: Time, datagram: P) {
        if let Some(taken) = &mut self.clogged {
            *taken += 1;
        }
        self.in_flight.push(InFlight { due, nth: self.entered, datagram });
        self.entered += 1;
    }
}

/// Of an IP packet, in bytes, as links count it.
pub(crate) fn wire_size(datagram: &impl Datagram) -> usize {
    datagram.payload().len() + IP_UDP_OVERHEAD
}

/// Probability (zero if absent) and detour.
fn reorder_parts(config: &LinkConfig) -> (f64, Duration) {
    config.reorder.map_or((0.0, Duration::ZERO), |reorder| (reorder.probability, reorder.by))
}

/// Whether there was a bit to flip.
fn flip_a_bit(datagram: &mut impl Datagram, draw: u64) -> bool {
    let Some(last_bit) = (datagram.payload().len() as u64 * 8).checked_sub(1) else {
        return false;
    };
    let bit = scaled(draw, last_bit);
    datagram.payload_mut()[(bit / 8) as usize] ^= 1 << (bit % 8);
    true
}

#[derive(Debug)]
struct JitterElement {
    config: Option<Jitter>,
    rng: ChaCha8Rng,
}

impl JitterElement {
    fn reorders(&self) -> bool {
        self.config.is_some_and(|jitter| jitter.reorders)
    }

    fn around(&mut self, delay: Duration) -> Duration {
        let Some(Jitter { range, .. }) = self.config else { return delay };
        let width = nanos(range).saturating_mul(2);
        (delay - range) + Duration::from_nanos(scaled(self.rng.next_u64(), width))
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
