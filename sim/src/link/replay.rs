//! Old datagrams sent again.

use rand_chacha::ChaCha8Rng;
use rand_core::RngCore;

use super::datagram::Datagram;
use super::draw::{Chance, scaled};

/// How many of the datagrams last offered may be sent again.
pub const REPLAY_MEMORY: usize = 256;

/// Remembers what was offered. Two draws per packet, of a stream each: whether, and which.
#[derive(Debug)]
pub(super) struct ReplayElement<P> {
    chance: Chance,
    which: ChaCha8Rng,
    /// A ring once it is full. Empty while the element is absent.
    memory: Vec<P>,
    /// Where the next one goes in a full ring.
    oldest: usize,
}

impl<P: Datagram> ReplayElement<P> {
    pub(super) fn new(chance: Chance, which: ChaCha8Rng) -> Self {
        Self { chance, which, memory: Vec::new(), oldest: 0 }
    }

    pub(super) fn set(&mut self, probability: f64) {
        self.chance.set(probability);
        if !self.chance.is_present() {
            self.memory = Vec::new();
            self.oldest = 0;
        }
    }

    /// Remembers what is `offered` now; the older one to send again behind it, if any.
    ///
    /// Dropped packets are remembered, too: else another element would shift which one is picked.
    pub(super) fn next(&mut self, offered: &P) -> Option<P> {
        if !self.chance.is_present() {
            return None;
        }
        let (replays, which) = (self.chance.roll(), self.which.next_u64());
        let last = (self.memory.len() as u64).checked_sub(1);
        let old = match last {
            Some(last) if replays => Some(self.memory[scaled(which, last) as usize].clone()),
            _ => None,
        };
        if self.memory.len() < REPLAY_MEMORY {
            self.memory.push(offered.clone());
        } else {
            // Keeps the slot's allocation, if it has one.
            self.memory[self.oldest].clone_from(offered);
            self.oldest = (self.oldest + 1) % REPLAY_MEMORY;
        }
        old
    }
}
