//! How much a connection may hold, each way: what has come and no flow has taken yet, and what was sent and
//! is not acknowledged. It begins small and grows with use, within what all connections may hold together.

use std::time::{Duration, Instant};

/// What a client may send on one stream before it is read; fixed by the transport parameters. Twice and a
/// half times 100 Mbit/s × 271 ms, so that a hole can be repaired meanwhile.
pub(super) const STREAM: u32 = 8 << 20;
/// What a new connection has.
pub(super) const FIRST_RECEIVE: u32 = 32 << 10;
pub(super) const FIRST_SEND: u32 = 16 << 10;
/// The most that one connection gets, each way.
const MOST: u64 = 32 << 20;
/// All connections together have this part of the node's memory beside it, and so much at least: one half is
/// for what each has from its beginning, the other for growth.
const PART: u64 = 4;
const LEAST: u64 = 4 << 20;
/// The window is so many times what arrives in a round trip: with loss, and holes that wait for their repair,
/// twice is not enough.
const ROUNDS: u64 = 4;
/// Time over which arrivals are measured, at least.
const MIN_ROUND: Duration = Duration::from_millis(10);
/// So many streams that are not read may hold all that a stream may.
const MOST_STALLED: usize = 3;
/// What was not used for so long is halved.
const REVIEW: Duration = Duration::from_secs(5);

/// What all connections hold together.
#[derive(Debug)]
pub(super) struct Budget {
    first: u64,
    grown: u64,
    cap: u64,
}

impl Budget {
    pub(super) fn new(node_memory: u64) -> Self {
        let mut budget = Self { first: 0, grown: 0, cap: 0 };
        budget.set_cap(node_memory);
        budget
    }

    /// What is reserved stays so.
    pub(super) fn set_cap(&mut self, node_memory: u64) {
        self.cap = (node_memory / PART).max(LEAST);
    }

    pub(super) fn reserved(&self) -> u64 {
        self.first + self.grown
    }

    /// What can be reserved, or is from the time of a higher cap.
    pub(super) fn bound(&self) -> u64 {
        self.cap.max(self.reserved())
    }

    /// Whether a connection may begin.
    pub(super) fn has_room(&self) -> bool {
        self.first + Windows::FIRST <= self.cap / 2
    }

    /// Whether a connection that needs more may soon not have it.
    pub(super) fn is_scarce(&self) -> bool {
        self.grown >= self.cap / 4
    }

    /// At most what a window may grow by.
    fn take(&mut self, wanted: u64) -> u64 {
        let given = wanted.min((self.cap / 2).saturating_sub(self.grown));
        self.grown += given;
        given
    }

    fn give(&mut self, bytes: u64) {
        self.grown = self.grown.saturating_sub(bytes);
    }
}

/// The windows of one connection.
#[derive(Debug)]
pub(super) struct Windows {
    receive: u64,
    /// Announced before the window shrank: the client may still send it. It is worked off as it does.
    owed: u64,
    send: u64,
    round_began: Option<Instant>,
    round_bytes: u64,
    /// Since the last review: the most that was wanted, and whether what may be sent was in the way.
    wanted: u64,
    filled: bool,
    review_at: Option<Instant>,
}

impl Windows {
    /// What a connection has at least.
    pub(super) const FIRST: u64 = FIRST_RECEIVE as u64 + FIRST_SEND as u64;

    pub(super) fn new(budget: &mut Budget) -> Self {
        budget.first += Self::FIRST;
        Self {
            receive: FIRST_RECEIVE.into(),
            owed: 0,
            send: FIRST_SEND.into(),
            round_began: None,
            round_bytes: 0,
            wanted: 0,
            filled: false,
            review_at: None,
        }
    }

    /// The connection is over.
    pub(super) fn release(&self, budget: &mut Budget) {
        budget.first = budget.first.saturating_sub(Self::FIRST);
        budget.give((self.receive + self.owed + self.send).saturating_sub(Self::FIRST));
    }

    pub(super) fn receive(&self) -> u64 {
        self.receive
    }

    /// So many bytes were read; `stalled` streams are not read, and what they hold must not be in the way of
    /// the others, nor of the first byte of a new one. The new window, if it is another.
    pub(super) fn on_read(
        &mut self,
        now: Instant,
        rtt: Duration,
        bytes: u64,
        stalled: usize,
        budget: &mut Budget,
    ) -> Option<u64> {
        let paid = self.owed.min(bytes);
        self.owed -= paid;
        budget.give(paid);
        let began = *self.round_began.get_or_insert(now);
        self.round_bytes += bytes;
        let round = rtt.max(MIN_ROUND);
        let elapsed = now.saturating_duration_since(began);
        // So much arrives in a round trip at least, also if it has only begun.
        let mut in_round = self.round_bytes as f64;
        if elapsed >= round {
            in_round *= round.as_secs_f64() / elapsed.as_secs_f64();
            self.round_began = Some(now);
            self.round_bytes = 0;
        }
        let held = match stalled.min(MOST_STALLED) as u64 {
            0 => 0,
            stalled => u64::from(STREAM) * stalled + u64::from(FIRST_RECEIVE),
        };
        let wanted = (ROUNDS * in_round as u64 + held).min(MOST);
        self.wanted = self.wanted.max(wanted);
        // Each step is a frame.
        if wanted < self.receive + self.receive / 4 {
            return None;
        }
        let given = budget.take(wanted - self.receive);
        if given == 0 {
            return None;
        }
        self.receive += given;
        self.review_at.get_or_insert(now + REVIEW);
        Some(self.receive)
    }

    /// More could be sent than the window takes; `cwnd` is what may be under way. The new window, if it is
    /// another.
    pub(super) fn on_full(&mut self, now: Instant, cwnd: u64, budget: &mut Budget) -> Option<u64> {
        self.filled = true;
        // What is lost waits for its repair while as much again is under way.
        let goal = (2 * cwnd).min(MOST);
        if self.send >= goal {
            return None;
        }
        let given = budget.take(goal.min(self.send * 2) - self.send);
        if given == 0 {
            return None;
        }
        self.send += given;
        self.review_at.get_or_insert(now + REVIEW);
        Some(self.send)
    }

    /// When [`Self::review`] is due.
    pub(super) fn review_at(&self) -> Option<Instant> {
        self.review_at
    }

    /// Gives back what is not used. The windows for receiving and sending, those that are other ones.
    pub(super) fn review(
        &mut self,
        now: Instant,
        budget: &mut Budget,
    ) -> (Option<u64>, Option<u64>) {
        if self.review_at.is_none_or(|at| at > now) {
            return (None, None);
        }
        let (mut receive, mut send) = (None, None);
        let least = u64::from(FIRST_RECEIVE);
        if self.receive > least && self.wanted < self.receive / 2 {
            let less = (self.receive / 2).max(least);
            self.owed += self.receive - less;
            self.receive = less;
            receive = Some(less);
        }
        let least = u64::from(FIRST_SEND);
        if self.send > least && !self.filled {
            let less = (self.send / 2).max(least);
            budget.give(self.send - less);
            self.send = less;
            send = Some(less);
        }
        self.wanted = 0;
        self.filled = false;
        self.review_at = (self.is_large()).then_some(now + REVIEW);
        (receive, send)
    }

    /// Whether it holds more than a new connection does.
    pub(super) fn is_large(&self) -> bool {
        self.receive + self.owed + self.send > Self::FIRST
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::epoch;

    const RTT: Duration = Duration::from_millis(100);

    #[test]
    fn the_window_follows_what_is_read_in_a_round_trip() {
        let mut budget = Budget::new(1 << 30);
        let mut windows = Windows::new(&mut budget);
        let now = epoch();
        assert_eq!(windows.on_read(now, RTT, 10_000, 0, &mut budget), None);
        assert_eq!(windows.on_read(now, RTT, 30_000, 0, &mut budget), Some(160_000));
        let later = now + RTT * 2;
        assert_eq!(windows.on_read(later, RTT, 60_000, 0, &mut budget), Some(200_000));
        windows.release(&mut budget);
        assert_eq!(budget.reserved(), 0);
    }

    #[test]
    fn what_is_not_used_is_given_back_once_the_client_cannot_send_it_any_more() {
        let mut budget = Budget::new(1 << 30);
        let mut windows = Windows::new(&mut budget);
        let mut now = epoch();
        windows.on_read(now, RTT, 1 << 20, 0, &mut budget);
        for _ in 0..20 {
            windows.on_full(now, 1 << 20, &mut budget);
        }
        let held = budget.reserved();
        assert_eq!(held, (4 << 20) + (2 << 20));
        for _ in 0..20 {
            now += REVIEW;
            windows.review(now, &mut budget);
        }
        assert_eq!(budget.reserved(), (4 << 20) + u64::from(FIRST_SEND), "sending alone");
        assert_eq!(windows.receive(), u64::from(FIRST_RECEIVE));
        for _ in 0..100 {
            now += RTT * 10;
            windows.on_read(now, RTT, 50_000, 0, &mut budget);
        }
        assert!(!windows.is_large(), "{windows:?}");
        assert_eq!(budget.reserved(), Windows::FIRST);
    }

    #[test]
    fn growth_leaves_room_to_those_that_come_and_they_to_growth() {
        let mut budget = Budget::new(16 << 20);
        let (mut a, now) = (Windows::new(&mut budget), epoch());
        a.on_read(now, RTT, 100 << 20, 0, &mut budget);
        assert!(budget.is_scarce() && budget.has_room());
        assert_eq!(budget.reserved(), (2 << 20) + Windows::FIRST);
        let mut all = vec![a];
        while budget.has_room() {
            all.push(Windows::new(&mut budget));
        }
        assert!(budget.reserved() <= 4 << 20 && budget.bound() == 4 << 20 && all.len() == 42);
        all.iter().for_each(|windows| windows.release(&mut budget));
        assert_eq!(budget.reserved(), 0);
    }
}
