//! The receiving half of a flow: bytes in any order become bytes in order.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use crate::flow::ranges::RangeSet;
use crate::wire::flow::{AckRanges, MAX_RANGES};

/// Credit that a flow begins with, without a round trip.
pub(crate) const INITIAL_WINDOW: u64 = 64 * 1024;
/// Allocation unit of what waits to be written.
const CHUNK: u64 = 16 * 1024;
/// Bytes handed to the shell and not yet taken by the socket.
const WRITE_AHEAD: u64 = 256 * 1024;
/// While the socket is busy, less than this waits for more.
const WORTH_A_WRITE: u64 = 16 * 1024;
/// Ranges out of order are kept up to one for so many bytes of the window, so that what the other end
/// scatters takes less memory than what it may send, …
const BYTES_PER_RANGE: u64 = 64;
/// … and up to so many: as many holes as a tunnel's symbols can leave.
const MAX_RANGES_KEPT: u64 = 32_768;
/// A window is so many times what arrives in a round trip: with loss, and holes that wait for their
/// repair, twice is not enough.
const WINDOW_ROUNDS: f64 = 8.0;
/// Time over which arrivals are measured, at least.
const MIN_ROUND: Duration = Duration::from_millis(10);

/// The other end broke the rules: sent beyond its credit, or changed the final size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Violation;

#[derive(Debug)]
struct Chunk {
    /// Offset of the first byte that is left.
    start: u64,
    /// Up to the last byte that is here; there is room up to the chunk's end.
    data: BytesMut,
}

impl Chunk {
    /// `at` counts from `start`. Bytes that come in order are written once; a gap holds zeros until its
    /// bytes come.
    fn put(&mut self, at: usize, bytes: &[u8]) {
        if self.data.len() < at {
            self.data.resize(at, 0);
        }
        let (within, beyond) = bytes.split_at((self.data.len() - at).min(bytes.len()));
        if let Some(room) = self.data.get_mut(at..at + within.len()) {
            room.copy_from_slice(within);
        }
        self.data.extend_from_slice(beyond);
    }
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct ReceiveHalf {
    /// The chunk at `n` holds offsets of `(first_chunk + n) * CHUNK..`; `None`: nothing there yet.
    chunks: VecDeque<Option<Chunk>>,
    first_chunk: u64,
    /// All below has arrived.
    contiguous: u64,
    /// What has arrived above.
    islands: RangeSet,
    /// All below was handed to the shell.
    handed: u64,
    /// All below was taken by the socket.
    written: u64,
    final_size: Option<u64>,
    window: u64,
    announced: u64,
    round_began: Option<Instant>,
    round_bytes: u64,
}

impl ReceiveHalf {
    pub(crate) fn new() -> Self {
        Self {
            chunks: VecDeque::new(),
            first_chunk: 0,
            contiguous: 0,
            islands: RangeSet::default(),
            handed: 0,
            written: 0,
            final_size: None,
            window: INITIAL_WINDOW,
            announced: INITIAL_WINDOW,
            round_began: None,
            round_bytes: 0,
        }
    }

    /// Takes `data` at `offset`; whether any of it (or the fin) was new.
    ///
    /// # Errors
    /// [`Violation`]; nothing is taken then.
    pub(crate) fn receive(
        &mut self,
        now: Instant,
        offset: u64,
        data: &[u8],
        fin: bool,
    ) -> Result<bool, Violation> {
        let end = offset + data.len() as u64;
        let known_end = self.islands.last().map_or(self.contiguous, |(_, e)| e);
        let contradicts = self.final_size.is_some_and(|size| end > size || (fin && end != size))
            || (fin && end < known_end);
        if end > self.announced || contradicts {
            return Err(Violation);
        }
        let is_crumb = offset > self.contiguous && offset < end;
        if is_crumb && self.ranges() >= self.most_ranges() && self.islands.is_apart(offset, end) {
            // Counts as lost: the other end sends it again once there are fewer holes.
            return Ok(false);
        }
        let mut is_new = false;
        if fin && self.final_size.is_none() {
            self.final_size = Some(end);
            is_new = true;
        }
        let skip = self.contiguous.saturating_sub(offset).min(data.len() as u64);
        let fresh = data.get(skip as usize..).unwrap_or_default();
        let start = offset + skip;
        let added = self.note(start, end);
        if added > 0 {
            is_new = true;
            self.round_began.get_or_insert(now);
            self.round_bytes += added;
            self.store(start, fresh);
        }
        Ok(is_new)
    }

    /// `start..end` is here, nothing of it below `contiguous`; how many bytes of it were not before.
    fn note(&mut self, start: u64, end: u64) -> u64 {
        if start == self.contiguous && self.islands.first().is_none_or(|(low, _)| end < low) {
            self.contiguous = end;
            return end - start;
        }
        let added = self.islands.insert(start, end);
        if let Some((low, high)) = self.islands.first().filter(|(s, _)| *s <= self.contiguous) {
            self.islands.remove(low, high);
            self.contiguous = high;
        }
        added
    }

    fn store(&mut self, mut offset: u64, mut data: &[u8]) {
        if self.chunks.is_empty() {
            self.first_chunk = self.handed / CHUNK;
        }
        while !data.is_empty() {
            let index = (offset / CHUNK - self.first_chunk) as usize;
            while self.chunks.len() <= index {
                self.chunks.push_back(None);
            }
            let Some(slot) = self.chunks.get_mut(index) else { return };
            let handed = self.handed;
            let chunk = slot.get_or_insert_with(|| {
                let start = (offset / CHUNK * CHUNK).max(handed);
                let room = CHUNK - start % CHUNK;
                Chunk { start, data: BytesMut::with_capacity(room as usize) }
            });
            let n = data.len().min((CHUNK - offset % CHUNK) as usize);
            let (head, rest) = data.split_at(n);
            chunk.put((offset - chunk.start) as usize, head);
            data = rest;
            offset += n as u64;
        }
    }

    /// The next bytes for the socket, if it is worth its while.
    pub(crate) fn take_write(&mut self) -> Option<Bytes> {
        let ready = self.contiguous - self.handed;
        let outstanding = self.handed - self.written;
        let is_last = self.final_size == Some(self.contiguous);
        if ready == 0
            || outstanding >= WRITE_AHEAD
            || (outstanding > 0 && ready < WORTH_A_WRITE && !is_last)
        {
            return None;
        }
        let front = self.chunks.front_mut()?;
        let chunk = front.as_mut()?;
        let n = (chunk.data.len() as u64).min(ready);
        let bytes = chunk.data.split_to(n as usize).freeze();
        chunk.start += n;
        self.handed += n;
        if chunk.start.is_multiple_of(CHUNK) {
            self.chunks.pop_front();
            self.first_chunk += 1;
        }
        // An idle flow holds no buffer.
        if self.handed == self.contiguous && self.islands.is_empty() {
            self.chunks.clear();
        }
        Some(bytes)
    }

    /// The socket took so many bytes more.
    pub(crate) fn wrote(&mut self, bytes: usize) {
        self.written = (self.written + bytes as u64).min(self.handed);
    }

    /// Offset up to which the socket has taken everything.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Whether all bytes and the end have arrived.
    pub(crate) fn is_complete(&self) -> bool {
        self.final_size == Some(self.contiguous)
    }

    /// Whether all bytes have been handed to the shell and the end is known.
    pub(crate) fn is_handed(&self) -> bool {
        self.final_size == Some(self.handed)
    }

    /// Whether all bytes have been taken by the socket and the end is known.
    pub(crate) fn is_written(&self) -> bool {
        self.final_size == Some(self.written)
    }

    /// Bytes that may still arrive or wait; reserved.
    pub(crate) fn window(&self) -> u64 {
        self.window
    }

    /// Ranges that arrived out of order.
    pub(crate) fn ranges(&self) -> usize {
        self.islands.len()
    }

    /// So many of them are kept at most.
    pub(crate) fn most_ranges(&self) -> usize {
        (self.window / BYTES_PER_RANGE).min(MAX_RANGES_KEPT) as usize
    }

    /// How much the window should grow, by what arrived in the last round trip; at most to `cap`.
    /// Where memory is `scarce`, not before that is over.
    pub(crate) fn wanted_growth(
        &mut self,
        now: Instant,
        rtt: Duration,
        cap: u64,
        scarce: bool,
    ) -> u64 {
        let Some(began) = self.round_began else { return 0 };
        let round = rtt.max(MIN_ROUND);
        let elapsed = now.saturating_duration_since(began);
        // So much arrives in a round trip at least; a sender that doubles its rate in each does not have to
        // wait for the end of it.
        let mut in_round = self.round_bytes as f64;
        if elapsed >= round {
            in_round *= round.as_secs_f64() / elapsed.as_secs_f64();
            self.round_began = Some(now);
            self.round_bytes = 0;
        } else if scarce {
            return 0;
        }
        let wanted = (WINDOW_ROUNDS * in_round) as u64;
        wanted.min(cap).saturating_sub(self.window)
    }

    pub(crate) fn grow(&mut self, bytes: u64) {
        self.window += bytes;
    }

    /// Offset up to which the sender may send.
    pub(crate) fn credit(&self) -> u64 {
        self.written + self.window
    }

    /// Whether the sender should soon hear of its credit.
    pub(crate) fn owes_credit(&self) -> bool {
        self.final_size.is_none() && self.credit() - self.announced >= self.window / 4
    }

    /// The ranges to acknowledge, with the credit; both count as announced now.
    pub(crate) fn announce(&mut self) -> (u64, u64, bool, AckRanges) {
        self.announced = self.announced.max(self.credit());
        let mut ranges = AckRanges::new();
        for (start, end) in self.islands.iter().take(MAX_RANGES) {
            ranges.push(start, end);
        }
        (self.contiguous, self.announced, self.is_complete(), ranges)
    }

    /// Drops everything that waits.
    pub(crate) fn discard(&mut self) {
        self.chunks.clear();
        self.islands.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::{INITIAL_WINDOW, ReceiveHalf, Violation};
    use crate::tests::epoch;

    fn byte(offset: u64) -> u8 {
        (offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
    }

    fn span(start: u64, end: u64) -> Vec<u8> {
        (start..end).map(byte).collect()
    }

    proptest! {
        #[test]
        fn any_cut_any_order_and_any_repetition_gives_the_bytes_once_in_order(
            len in 1u64..150_000,
            pieces in prop::collection::vec((0.0f64..1.0, 1u64..20_000, any::<bool>()), 0..60),
        ) {
            let now = epoch();
            let mut half = ReceiveHalf::new();
            half.grow(200_000);
            half.announce();
            let mut out = Vec::new();
            let mut outstanding = 0;
            // Some pieces anywhere, then all of it in pieces of odd sizes.
            let somewhere = pieces.iter().map(|(at, n, write)| {
                let start = (*at * len as f64) as u64;
                (start, (start + n).min(len), *write)
            });
            let all = (0..len).step_by(1201).map(|s| (s, (s + 1201).min(len), s % 3 == 0));
            for (start, end, write) in somewhere.chain(all) {
                half.receive(now, start, &span(start, end), end == len).expect("within the rules");
                while let Some(bytes) = half.take_write() {
                    out.extend_from_slice(&bytes);
                    outstanding += bytes.len();
                }
                if write {
                    half.wrote(std::mem::take(&mut outstanding));
                }
            }
            half.wrote(outstanding);
            while let Some(bytes) = half.take_write() {
                out.extend_from_slice(&bytes);
                half.wrote(bytes.len());
            }
            prop_assert!(half.is_complete() && half.is_handed() && half.is_written());
            prop_assert!(out == span(0, len));
            prop_assert!(half.chunks.is_empty(), "an idle flow holds no buffer");
        }
    }

    #[test]
    fn beyond_the_credit_or_the_end_nothing_is_taken() {
        let now = epoch();
        let mut half = ReceiveHalf::new();
        assert_eq!(half.receive(now, INITIAL_WINDOW, &[1], false), Err(Violation));
        assert_eq!(half.receive(now, 10, &[1; 5], true), Ok(true));
        assert_eq!(half.receive(now, 10, &[1; 6], false), Err(Violation));
        assert_eq!(half.receive(now, 0, &[1; 5], true), Err(Violation), "another end");
        let mut half = ReceiveHalf::new();
        assert_eq!(half.receive(now, 10, &[1; 5], false), Ok(true));
        assert_eq!(half.receive(now, 0, &[1; 5], true), Err(Violation), "an end below what came");
    }

    #[test]
    fn crumbs_are_kept_up_to_a_bound_and_nothing_is_lost_beyond_it() {
        let now = epoch();
        let mut half = ReceiveHalf::new();
        let mut refused = 0;
        for offset in (1..INITIAL_WINDOW).step_by(2) {
            let taken = half.receive(now, offset, &span(offset, offset + 1), false);
            refused += u64::from(taken == Ok(false));
            assert!(half.ranges() <= half.most_ranges());
        }
        assert_eq!(refused, INITIAL_WINDOW / 2 - 1024);
        // What joins a range is taken, and what comes in order.
        assert_eq!(half.receive(now, 2, &span(2, 3), false), Ok(true));
        assert_eq!(half.receive(now, 0, &span(0, INITIAL_WINDOW), true), Ok(true));
        let mut out = Vec::new();
        while let Some(bytes) = half.take_write() {
            half.wrote(bytes.len());
            out.extend_from_slice(&bytes);
        }
        assert!(out == span(0, INITIAL_WINDOW));
    }

    #[test]
    fn the_window_follows_eight_times_what_comes_in_a_round_trip() {
        let mut now = epoch();
        let rtt = Duration::from_millis(100);
        let mut half = ReceiveHalf::new();
        half.receive(now, 0, &vec![0; 20_000], false).expect("within the credit");
        assert_eq!(half.wanted_growth(now, rtt, u64::MAX, true), 0);
        let growth = half.wanted_growth(now, rtt, u64::MAX, false);
        assert_eq!(half.window() + growth, 160_000, "at once");
        half.receive(now, 20_000, &vec![0; 40_000], false).expect("within the credit");
        now += rtt * 2;
        let growth = half.wanted_growth(now, rtt, u64::MAX, false);
        assert_eq!(half.window() + growth, 240_000, "and by the rate, not by the sum");
    }
}
