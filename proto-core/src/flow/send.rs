//! The sending half of a flow: bytes are kept until the other end acknowledges them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::flow::ranges::RangeSet;
use crate::flow::receive::INITIAL_WINDOW;
use crate::flow::window::{Told, Window};
use crate::ids::Lane;
use crate::wire::flow::{FlowAck, MAX_RANGES as MAX_TOLD};

/// Allocation unit of what waits to be acknowledged.
const CHUNK: u64 = 16 * 1024;
/// Unsent bytes that are read ahead from the socket: in the beginning of a burst, and later. The
/// first is also what an idle flow keeps reserved.
pub(crate) const AHEAD_IDLE: u64 = AHEAD_EXPRESS;
const AHEAD_EXPRESS: u64 = 16 * 1024;
pub(crate) const AHEAD_BULK: u64 = 256 * 1024;
/// Reading is granted in steps no smaller than this, unless nothing is granted at all.
pub(crate) const MIN_GRANT: u64 = 8 * 1024;

/// Ranges acknowledged out of order that are remembered at most; what is acknowledged beyond that is
/// at worst sent once more.
const MAX_ISLANDS: usize = 4096;
/// With the holes on both sides of each.
pub(crate) const MAX_RANGES: usize = MAX_ISLANDS + 1;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct SendHalf {
    /// The chunk at `n` holds offsets of `(first_chunk + n) * CHUNK..`.
    chunks: VecDeque<Vec<u8>>,
    first_chunk: u64,
    /// All below is acknowledged.
    acked: u64,
    /// What is acknowledged above.
    islands: RangeSet,
    /// All below was sent at least once.
    next: u64,
    /// Sent, and to be sent again.
    again: RangeSet,
    /// All below was read from the socket.
    end: u64,
    /// All below may be read from the socket.
    granted: u64,
    credit: u64,
    /// `end` is the end.
    finished: bool,
    /// Nothing more is read, and that is not the end: the connection broke.
    broken: bool,
    fin_sent: bool,
    fin_acked: bool,
    burst_began: u64,
    /// So much of a burst, from its beginning, travels in the express lane.
    express: u64,
    /// What may be under way, where relays are on the way; and the bytes that one of them marked.
    window: Option<Window>,
    marked: u64,
    asked: Option<Asked>,
    /// Bytes sent again end to end, because they were lost for good; and those that a dead tunnel gave back,
    /// which are to be sent again and are no such.
    pub resent: u64,
    given_back: u64,
    /// When something was acknowledged last, or sent after a time without anything outstanding.
    pub progress: Option<Instant>,
    /// When something was sent last.
    pub sent_at: Option<Instant>,
}

/// What the other end was asked for. What was under way then and is not known to have arrived when the answer
/// comes is lost: all that was sent before the question had its time to come.
#[derive(Debug)]
struct Asked {
    number: u64,
    /// Nothing of it was to be sent again then.
    suspects: RangeSet,
    fin: bool,
    /// It was answered before, but these lay above what that answer had room for: they have arrived or are lost,
    /// and are under way no more.
    is_rest: bool,
}

/// A piece to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub offset: u64,
    pub len: usize,
    pub fin: bool,
}

impl SendHalf {
    /// `express`: so much of a burst travels in the express lane.
    pub(crate) fn new(express: u64) -> Self {
        Self {
            express,
            chunks: VecDeque::new(),
            first_chunk: 0,
            acked: 0,
            islands: RangeSet::default(),
            next: 0,
            again: RangeSet::default(),
            end: 0,
            granted: 0,
            credit: INITIAL_WINDOW,
            finished: false,
            broken: false,
            sent_at: None,
            fin_sent: false,
            fin_acked: false,
            burst_began: 0,
            window: None,
            marked: 0,
            asked: None,
            resent: 0,
            given_back: 0,
            progress: None,
        }
    }

    /// Takes what was read from the socket.
    pub(crate) fn append(&mut self, mut data: &[u8]) {
        if self.acked == self.end {
            self.burst_began = self.end;
        }
        if self.chunks.is_empty() {
            self.first_chunk = self.end / CHUNK;
        }
        while !data.is_empty() {
            let index = (self.end / CHUNK - self.first_chunk) as usize;
            if index >= self.chunks.len() {
                // The first chunk of a burst may begin in the middle. Most bursts end in it; a later one is
                // likely to be filled.
                let lead = (self.end % CHUNK) as usize;
                let is_first = self.chunks.is_empty();
                let room = if is_first { lead + data.len() } else { CHUNK as usize };
                let mut chunk = Vec::with_capacity(room.min(CHUNK as usize));
                chunk.resize(lead, 0);
                self.chunks.push_back(chunk);
            }
            let Some(chunk) = self.chunks.get_mut(index) else { return };
            let n = (CHUNK as usize - chunk.len()).min(data.len());
            let (head, rest) = data.split_at(n);
            chunk.extend_from_slice(head);
            self.end += n as u64;
            data = rest;
        }
        self.granted = self.granted.max(self.end);
    }

    /// Everything was read.
    pub(crate) fn finish(&mut self) {
        self.finished = !self.broken;
    }

    /// Nothing will be read any more, but what was is not all: the other end must not take it for
    /// that.
    pub(crate) fn break_off(&mut self) {
        self.broken = true;
        if !self.fin_sent {
            self.finished = false;
        }
    }

    /// Whether nothing will be read any more.
    pub(crate) fn is_finished(&self) -> bool {
        self.finished || self.broken
    }

    /// Whether everything, the end included, is acknowledged.
    pub(crate) fn is_done(&self) -> bool {
        self.fin_acked && self.acked == self.end
    }

    /// Whether every byte is acknowledged.
    pub(crate) fn is_drained(&self) -> bool {
        self.acked == self.end
    }

    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Bytes that are or, while the connection is read, may be held here.
    pub(crate) fn reserved(&self) -> u64 {
        if self.is_finished() { self.end - self.acked } else { self.granted - self.acked }
    }

    /// How many more bytes the socket may be read, so that there is always something to send; at
    /// most `cap` bytes are held.
    pub(crate) fn wanted_grant(&self, cap: u64) -> u64 {
        if self.is_finished() {
            return 0;
        }
        let is_express = self.next - self.burst_began.min(self.next) < self.express;
        let ahead = if is_express { AHEAD_EXPRESS } else { AHEAD_BULK };
        let goal = (self.next + ahead).min(self.acked + cap);
        let grant = goal.saturating_sub(self.granted);
        let nothing_left = self.granted == self.end;
        if grant >= MIN_GRANT || (nothing_left && grant > 0) { grant } else { 0 }
    }

    pub(crate) fn grant(&mut self, bytes: u64) {
        self.granted += bytes;
    }

    /// The lane that has work, if any has.
    pub(crate) fn lane(&self) -> Option<Lane> {
        if !self.is_allowed() {
            return None;
        }
        if !self.again.is_empty() {
            return Some(Lane::Express);
        }
        let new = self.next < self.end.min(self.credit);
        let fin = self.finished && !self.fin_sent && self.next == self.end;
        if !new && !fin {
            return None;
        }
        let since = self.next - self.burst_began.min(self.next);
        Some(if since < self.express { Lane::Express } else { Lane::Bulk })
    }

    /// Bytes that were sent, and neither arrived as far as is known nor are known to be lost.
    fn in_flight(&self) -> u64 {
        // Were they counted, they could close the window to the repair of what lies below them, without which
        // no answer gets to them.
        let rest = self.asked.as_ref().filter(|asked| asked.is_rest);
        let rest = rest.map_or(0, |asked| asked.suspects.total());
        (self.next - self.acked).saturating_sub(self.islands.total() + self.again.total() + rest)
    }

    /// Bytes known to have arrived.
    fn delivered(&self) -> u64 {
        self.acked + self.islands.total()
    }

    /// Whether the window allows more.
    fn is_allowed(&self) -> bool {
        self.window.as_ref().is_none_or(|window| window.allows(self.in_flight()))
    }

    /// Whether relays are on the way from now on.
    pub(crate) fn set_relayed(&mut self, relayed: bool) {
        if !relayed {
            self.window = None;
        } else if self.window.is_none() {
            self.window = Some(Window::new(self.delivered(), self.marked, self.in_flight()));
        }
    }

    /// Whether there is something to send but no credit for it.
    pub(crate) fn is_blocked(&self) -> bool {
        self.next < self.end && self.next >= self.credit
    }

    /// Whether something sent is not acknowledged.
    pub(crate) fn is_outstanding(&self) -> bool {
        self.acked < self.next || (self.fin_sent && !self.fin_acked)
    }

    /// Where the next piece will begin.
    pub(crate) fn next_offset(&self) -> u64 {
        self.again.first().map_or(self.next, |(start, _)| start)
    }

    /// The next piece of at most `room` bytes; counts as sent.
    pub(crate) fn take_piece(&mut self, now: Instant, room: usize) -> Option<Piece> {
        if !self.is_outstanding() {
            self.progress = Some(now);
        }
        self.sent_at = Some(now);
        if let Some((start, end)) = self.again.first() {
            let len = (end - start).min(room as u64);
            let fin = self.finished && start + len == self.end;
            self.again.remove(start, start + len);
            let back = len.min(self.given_back);
            self.given_back -= back;
            self.resent += len - back;
            if let Some(asked) = &mut self.asked {
                asked.suspects.remove(start, start + len);
            }
            if len == 0 && !fin {
                return None;
            }
            self.fin_sent |= fin;
            return Some(Piece { offset: start, len: len as usize, fin });
        }
        let limit = self.end.min(self.credit);
        let len = limit.saturating_sub(self.next).min(room as u64);
        let offset = self.next;
        self.next += len;
        let fin = self.finished && self.next == self.end;
        if len == 0 && (!fin || self.fin_sent) {
            return None;
        }
        self.fin_sent |= fin;
        Some(Piece { offset, len: len as usize, fin })
    }

    /// Appends the bytes of a piece.
    pub(crate) fn copy(&self, piece: Piece, out: &mut Vec<u8>) {
        let mut offset = piece.offset;
        let end = piece.offset + piece.len as u64;
        while offset < end {
            let index = (offset / CHUNK).wrapping_sub(self.first_chunk) as usize;
            let at = (offset % CHUNK) as usize;
            let n = (end - offset).min(CHUNK - offset % CHUNK) as usize;
            let bytes = self.chunks.get(index).and_then(|c| c.get(at..at + n));
            let Some(bytes) = bytes else {
                debug_assert!(false, "a piece lies between the acknowledged and the end");
                return;
            };
            out.extend_from_slice(bytes);
            offset += n as u64;
        }
    }

    /// Takes an acknowledgement; whether it told anything new. `rtt` is that of the path.
    pub(crate) fn on_ack(&mut self, now: Instant, rtt: Duration, ack: &FlowAck) -> bool {
        let FlowAck { cumulative, credit, fin, .. } = *ack;
        let before = self.in_flight();
        let mut news = credit > self.credit;
        self.credit = self.credit.max(credit);
        // What was never sent cannot be acknowledged.
        let cumulative = cumulative.min(self.next);
        if cumulative > self.acked {
            self.acked = cumulative;
            news = true;
        }
        for (start, end) in ack.ranges.as_slice() {
            let (start, end) = ((*start).max(self.acked), (*end).min(self.next));
            let fits = self.islands.len() < MAX_ISLANDS || !self.islands.is_apart(start, end);
            news |= fits && self.islands.insert(start, end) > 0;
        }
        self.islands.remove(0, self.acked);
        if let Some(asked) = self.asked.as_mut().filter(|asked| asked.is_rest) {
            asked.suspects.remove(0, self.acked);
            for (start, end) in ack.ranges.as_slice() {
                asked.suspects.remove(*start, *end);
            }
        }
        self.again.remove(0, self.acked);
        if !self.again.is_empty() {
            for (start, end) in self.islands.iter() {
                self.again.remove(start, end);
            }
        }
        if fin && self.fin_sent && !self.fin_acked && self.acked == self.end {
            self.fin_acked = true;
            news = true;
        }
        news |= self.take_answer(ack);
        self.marked = self.marked.max(ack.marked);
        let told = Told {
            delivered: self.delivered(),
            marked: self.marked,
            before,
            after: self.in_flight(),
        };
        if let Some(window) = &mut self.window {
            window.on_ack(now, rtt, &told);
        }
        while (self.first_chunk + 1) * CHUNK <= self.acked && self.chunks.pop_front().is_some() {
            self.first_chunk += 1;
        }
        if self.acked == self.end {
            self.chunks.clear();
        }
        if news {
            self.progress = Some(now);
        }
        news
    }

    /// Ranges that are acknowledged out of order, or the holes between them that are to be sent again;
    /// at most [`MAX_RANGES`].
    pub(crate) fn ranges(&self) -> usize {
        self.islands.len().max(self.again.len())
    }

    /// The other end is asked what has arrived.
    pub(crate) fn note_ask(&mut self, number: u64) {
        let mut suspects = RangeSet::default();
        suspects.insert(self.acked, self.next);
        for (start, end) in self.islands.iter().chain(self.again.iter()) {
            suspects.remove(start, end);
        }
        let fin = self.fin_sent && !self.fin_acked;
        self.asked = Some(Asked { number, suspects, fin, is_rest: false });
    }

    /// Whether the answer did not say all, and another is to be asked for, by that number.
    pub(crate) fn is_left_to_ask(&self, number: u64) -> bool {
        self.asked.as_ref().is_some_and(|asked| asked.number > number)
    }

    /// If that is the answer, queues what is lost to be sent again; whether anything is.
    fn take_answer(&mut self, ack: &FlowAck) -> bool {
        let Some(mut asked) = self.asked.take_if(|asked| asked.number <= ack.asked) else {
            return false;
        };
        asked.suspects.remove(0, self.acked);
        // One acknowledgement has room for so many ranges: what lies above them will be asked for again.
        let ranges = ack.ranges.as_slice();
        if let Some((_, told)) = ranges.last().filter(|_| ranges.len() == MAX_TOLD) {
            let mut rest = asked.suspects.clone();
            rest.remove(0, *told);
            for (start, end) in self.islands.iter() {
                rest.remove(start, end);
            }
            if !rest.is_empty() {
                asked.suspects.remove(*told, u64::MAX);
                let number = asked.number + 1;
                self.asked = Some(Asked { number, suspects: rest, fin: asked.fin, is_rest: true });
                asked.fin = false;
            }
        }
        for (start, end) in self.islands.iter() {
            asked.suspects.remove(start, end);
        }
        let mut lost = !asked.suspects.is_empty();
        for (start, end) in asked.suspects.iter() {
            self.lose(start, end);
        }
        if asked.fin && self.fin_sent && !self.fin_acked {
            self.fin_sent = false;
            lost = true;
        }
        lost
    }

    /// A relay dropped these bytes for want of room.
    pub(crate) fn on_drop(&mut self, start: u64, end: u64) {
        self.unsend(start, end, end >= self.end);
        if let Some(window) = &mut self.window {
            window.on_drop();
        }
    }

    /// A tunnel died and gave these bytes back: they are to be sent another way.
    pub(crate) fn give_back(&mut self, start: u64, end: u64, fin: bool) {
        let before = self.again.total();
        self.unsend(start, end, fin);
        self.given_back += self.again.total().saturating_sub(before);
    }

    /// These bytes are lost, and are to be sent again.
    fn unsend(&mut self, start: u64, end: u64, fin: bool) {
        let (start, end) = (start.max(self.acked), end.min(self.next));
        if start < end {
            self.lose(start, end);
            for (start, end) in self.islands.iter() {
                self.again.remove(start, end);
            }
        }
        if fin && self.fin_sent && !self.fin_acked {
            self.fin_sent = false;
        }
    }

    /// What finds no room here is asked for later.
    fn lose(&mut self, start: u64, end: u64) {
        if self.again.len() < MAX_ISLANDS || !self.again.is_apart(start, end) {
            self.again.insert(start, end);
        }
    }

    /// Queues what was sent and is not known to have arrived to be sent again.
    pub(crate) fn resend_holes(&mut self) {
        let mut at = self.acked;
        for (start, end) in self.islands.iter() {
            self.again.insert(at, start);
            at = end;
        }
        self.again.insert(at, self.next);
        if self.fin_sent && !self.fin_acked {
            self.fin_sent = false;
        }
    }

    /// Drops everything: the other end will not take it.
    pub(crate) fn discard(&mut self) {
        self.chunks.clear();
        self.islands.clear();
        self.again.clear();
        self.end = self.next;
        self.acked = self.next;
        self.granted = self.next;
        self.finished = true;
        self.fin_sent = true;
        self.fin_acked = true;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{MAX_ISLANDS, MAX_RANGES, Piece, SendHalf};
    use crate::flow::receive::ReceiveHalf;
    use crate::tests::epoch;
    use crate::wire::flow::{AckRanges, FlowAck};

    const RTT: std::time::Duration = std::time::Duration::from_millis(100);

    fn ack(cumulative: u64) -> FlowAck {
        let ranges = AckRanges::new();
        FlowAck { cumulative, credit: 0, fin: false, marked: 0, asked: 0, ranges }
    }

    /// What happens next between a sender and a receiver that lose each other's words.
    #[derive(Debug, Clone)]
    enum Step {
        Append(usize),
        Send { room: usize, arrives: bool },
        Ack { arrives: bool },
        Stall,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1usize..40_000).prop_map(Step::Append),
            (1usize..5_000, any::<bool>()).prop_map(|(room, arrives)| Step::Send { room, arrives }),
            any::<bool>().prop_map(|arrives| Step::Ack { arrives }),
            Just(Step::Stall),
        ]
    }

    fn arrive(rx: &mut ReceiveHalf, tx: &SendHalf, piece: Piece, out: &mut Vec<u8>) {
        let mut bytes = Vec::new();
        tx.copy(piece, &mut bytes);
        rx.receive(epoch(), piece.offset, &bytes, piece.fin).expect("within the credit");
        while let Some(bytes) = rx.take_write() {
            rx.wrote(bytes.len());
            out.extend_from_slice(&bytes);
        }
    }

    fn tell(rx: &mut ReceiveHalf, tx: &mut SendHalf) {
        let (cumulative, credit, fin, ranges) = rx.announce();
        let ack = FlowAck { cumulative, credit, fin, marked: 0, asked: 0, ranges };
        tx.on_ack(epoch(), RTT, &ack);
    }

    /// More holes than an acknowledgement has room for, and a window that what is missing above them fills.
    #[test]
    fn what_an_answer_had_no_room_for_does_not_keep_the_rest_from_being_sent_again() {
        let (len, pieces) = (600, 100);
        let (mut tx, mut rx, mut out) = (SendHalf::new(0), ReceiveHalf::new(), Vec::new());
        let data: Vec<u8> = (0..len * pieces).map(|n| n as u8).collect();
        tx.set_relayed(true);
        tx.append(&data);
        for n in 0..pieces {
            let piece = tx.take_piece(epoch(), len).expect("within the first window");
            if n % 2 == 1 {
                arrive(&mut rx, &tx, piece, &mut out);
            }
        }
        // A relay says that it drops, round after round: the window is the least.
        let window = tx.window.as_mut().expect("there is a relay");
        (0..20).for_each(|_| window.on_drop());
        assert_eq!(tx.lane(), None);
        let mut asked = 0;
        for _ in 0..pieces {
            asked += 1;
            tx.note_ask(asked);
            loop {
                let (cumulative, credit, fin, ranges) = rx.announce();
                let ack = FlowAck { cumulative, credit, fin, marked: 0, asked, ranges };
                tx.on_ack(epoch(), RTT, &ack);
                let mut sent = false;
                while tx.lane().is_some()
                    && let Some(piece) = tx.take_piece(epoch(), len)
                {
                    sent = true;
                    arrive(&mut rx, &tx, piece, &mut out);
                }
                if !sent {
                    break;
                }
                asked += u64::from(tx.is_left_to_ask(asked));
            }
        }
        assert!(out == data, "{} of {} bytes", out.len(), data.len());
    }

    #[test]
    fn acknowledged_crumbs_are_remembered_up_to_a_bound() {
        let mut tx = SendHalf::new(256 << 10);
        tx.append(&[1; 10_000]);
        while tx.take_piece(epoch(), 1200).is_some() {}
        for offset in (1..10_000).step_by(2) {
            let mut ranges = AckRanges::new();
            assert!(ranges.push(offset, offset + 1));
            tx.on_ack(epoch(), RTT, &FlowAck { ranges, ..ack(0) });
            tx.resend_holes();
            assert!(tx.ranges() <= MAX_RANGES);
        }
        let again =
            std::iter::from_fn(|| tx.take_piece(epoch(), 1200)).map(|p| p.len).sum::<usize>();
        assert_eq!(again, 10_000 - MAX_ISLANDS);
        tx.on_ack(epoch(), RTT, &ack(10_000));
        assert!(tx.is_drained() && tx.ranges() == 0);
    }

    proptest! {
        #[test]
        fn whatever_is_lost_on_the_way_the_bytes_come_out_once_in_order(
            steps in prop::collection::vec(step(), 1..120),
        ) {
            let (mut tx, mut rx) = (SendHalf::new(256 << 10), ReceiveHalf::new());
            let (mut sent, mut out) = (Vec::new(), Vec::new());
            for step in steps {
                match step {
                    Step::Append(len) => {
                        let data: Vec<u8> =
                            (0..len).map(|n| ((sent.len() + n) * 31 % 251) as u8).collect();
                        tx.append(&data);
                        sent.extend(data);
                    }
                    Step::Send { room, arrives } => {
                        if let Some(piece) = tx.take_piece(epoch(), room)
                            && arrives
                        {
                            arrive(&mut rx, &tx, piece, &mut out);
                        }
                    }
                    Step::Ack { arrives } => {
                        if arrives {
                            tell(&mut rx, &mut tx);
                        } else {
                            rx.announce();
                        }
                    }
                    Step::Stall => tx.resend_holes(),
                }
            }
            tx.finish();
            // Then nothing is lost any more.
            for _ in 0..10_000 {
                if tx.is_done() {
                    break;
                }
                while let Some(piece) = tx.take_piece(epoch(), 1200) {
                    arrive(&mut rx, &tx, piece, &mut out);
                }
                tell(&mut rx, &mut tx);
                tx.resend_holes();
            }
            prop_assert!(tx.is_done() && rx.is_complete());
            prop_assert!(out == sent);
        }
    }
}
