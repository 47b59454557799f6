//! What goes into the next packets, and when.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::config::BASE_UDP_PAYLOAD;
use crate::ids::Lane;
use crate::tunnel::choose::Cargo;
use crate::tunnel::{Shared, Source, Tunnel, max_symbol};
use crate::wire::ack::LinkAck;
use crate::wire::frame::{self, ParityFields};
use crate::wire::packet::TAG_LEN;

/// A batch is continued only behind a packet at least so long: cutting new symbols down to the size
/// of a small packet would cost more than the batch saves.
const MIN_BATCHED: usize = 1100;
/// How long after it is due an acknowledgement waits for a packet that it can travel with.
const ACK_PATIENCE: Duration = Duration::from_millis(8);
/// Room that a symbol must find beside what already stands in a packet.
const MIN_SYMBOL_ROOM: usize = 128;
/// Room for any acknowledgement that is worth sending.
const MAX_ACK_LEN: usize = 700;
/// What an unvalidated address must still be allowed for small packets.
pub(super) const SMALL: usize = 128;

/// Datagrams appended to the buffer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Batch {
    pub remote: SocketAddr,
    pub len: usize,
    pub segment_size: usize,
    /// To be marked as ECN-capable.
    pub ecn: bool,
}

impl Tunnel {
    /// Appends the next packets to `buf`: one, or several of the same size of which the last may be
    /// shorter.
    pub(crate) fn poll_transmit(
        &mut self,
        now: Instant,
        shared: &mut Shared,
        max_segments: usize,
        source: &mut dyn Source,
        buf: &mut Vec<u8>,
    ) -> Option<Batch> {
        let start = buf.len();
        if let Some((remote, packet)) = self.outbox.pop_front() {
            buf.extend_from_slice(&packet);
            return Some(Batch {
                remote,
                len: packet.len(),
                segment_size: packet.len(),
                ecn: false,
            });
        }
        let remote = self.remote?.addr;
        self.current.as_ref()?;
        self.pacer.refill(now, self.rate.pacing_rate());
        if let Some(len) = self.put_mtu_probe(now, buf) {
            return Some(Batch { remote, len, segment_size: len, ecn: self.ecn });
        }
        let mut segment_size = 0;
        for n in 0..max_segments.max(1) {
            let limit = if n == 0 { self.mtud.size() } else { segment_size };
            let Some(len) = self.build(now, shared, source, limit, buf) else { break };
            self.counters.packets_out += 1;
            self.counters.bytes_out += len as u64;
            if n == 0 {
                segment_size = len;
            }
            if len < segment_size || segment_size < MIN_BATCHED {
                break;
            }
        }
        let len = buf.len() - start;
        let ecn = self.ecn;
        (len > 0).then_some(Batch { remote, len, segment_size, ecn })
    }

    /// Builds one packet of at most `limit` bytes at the end of `buf`; its length.
    fn build(
        &mut self,
        now: Instant,
        shared: &mut Shared,
        source: &mut dyn Source,
        limit: usize,
        buf: &mut Vec<u8>,
    ) -> Option<usize> {
        if !self.allows(SMALL) {
            return None;
        }
        let at = buf.len();
        let header = self.current.as_ref()?.header();
        let is_answer = !self.pongs.is_empty();
        buf.extend_from_slice(&header);
        let body = buf.len();
        let end = at + limit - TAG_LEN;
        self.put_small(now, shared, end, buf);
        // An address that has not answered gets small packets only, until it is owed a large one.
        let is_trusted = self.allows(self.mtud.size());
        if is_trusted {
            self.put_forget(now, end, buf);
        }
        let is_due = self.debt.due.is_some_and(|due| due <= now);
        let cargo = if is_trusted { self.choose(now, source) } else { None };
        // A repair and a parity symbol leave no room for an acknowledgement. One that has waited for
        // long goes alone: behind a long queue of repairs the other end would take its own packets for
        // lost.
        let is_late = self.debt.due.is_some_and(|due| due + ACK_PATIENCE <= now);
        let cargo = cargo.filter(|cargo| !is_late || matches!(cargo, Cargo::New(_)));
        if is_trusted && (cargo.is_some() || is_due || is_answer) {
            self.put_ack(now, shared.started, end, cargo, is_answer, buf);
        }
        let small = buf.len();
        let contested = cargo.is_some() && self.is_contested(source);
        if let Some(cargo) = cargo {
            self.put_cargo(now, shared, source, cargo, body..end, buf);
        }
        let elicits = buf.len() > small;
        if buf.len() == body {
            buf.truncate(at);
            if cargo.is_none() {
                self.note_idle(now, source);
            }
            return None;
        }
        let epoch = self.rate.epoch();
        let session = self.current.as_mut()?;
        let tag = session.seal(now, buf.get_mut(at..)?, elicits, epoch);
        buf.extend_from_slice(&tag);
        let len = buf.len() - at;
        // Acknowledgements are not congestion controlled (RFC 9002 §7); where they are most of what is
        // sent, data would wait for them.
        if elicits {
            self.pacer.spend(len);
        }
        if let Some(cargo) = cargo {
            self.turns.sent(cargo, len, contested);
        }
        if let Some(allowance) = self.remote.as_mut().and_then(|r| r.allowance.as_mut()) {
            *allowance = allowance.saturating_sub(len as u64);
        }
        Some(len)
    }

    /// PING, PONGs, close.
    fn put_small(&mut self, now: Instant, shared: &mut Shared, end: usize, buf: &mut Vec<u8>) {
        let fits = |buf: &Vec<u8>| buf.len() + frame::PING_MAX_LEN <= end;
        while fits(buf) {
            let Some((token, since)) = self.pongs.pop_front() else { break };
            let held = now.saturating_duration_since(since).as_micros();
            frame::put_pong(buf, token, u64::try_from(held).unwrap_or(u64::MAX));
        }
        while fits(buf) {
            let Some((token, size, _)) = self.mtu_answers.pop_front() else { break };
            frame::put_mtu_answer(buf, token, size as u64);
        }
        if self.ping_at() <= now && fits(buf) {
            let token = self.pinger.ask(now, &mut shared.rng);
            self.silence.sent(now, self.rto());
            let heard = self
                .last_heard
                .map_or(u128::MAX, |at| now.saturating_duration_since(at).as_millis());
            frame::put_ping(buf, token, u64::try_from(heard).unwrap_or(u64::MAX));
        }
        if self.closing && fits(buf) {
            frame::put_close(buf);
            self.closing = false;
        }
    }

    /// An acknowledgement, if one is owed and it leaves `cargo` its room. One travels with each PONG
    /// (`is_answer`): on an idle link nothing else would tell the other end what is lost.
    fn put_ack(
        &mut self,
        now: Instant,
        started: Instant,
        end: usize,
        cargo: Option<Cargo>,
        is_answer: bool,
        buf: &mut Vec<u8>,
    ) {
        if self.debt.due.is_none() && !is_answer {
            return;
        }
        // A repair and a parity symbol have their size; a new symbol is cut to what is left.
        let reserved = match cargo {
            None => 0,
            Some(Cargo::New(_)) => MIN_SYMBOL_ROOM,
            Some(Cargo::Repair(_) | Cargo::Parity(_)) => return,
        };
        if end.saturating_sub(buf.len()) < reserved + MAX_ACK_LEN {
            return;
        }
        let session = [&self.current, &self.previous]
            .into_iter()
            .flatten()
            .find(|s| Some(s.local) == self.debt.session)
            .or(self.current.as_ref());
        let clock = now.saturating_duration_since(started);
        let counters = session.and_then(|s| s.arrivals.report(now, clock, s.local));
        if let Some(counters) = counters {
            let mut lanes = [None; 3];
            for (part, window) in lanes.iter_mut().zip(&mut self.windows) {
                *part = window.report(false);
            }
            frame::put_ack(buf, &LinkAck { counters, lanes });
        }
        self.debt.due = None;
        self.debt.symbols = 0;
    }

    fn put_cargo(
        &mut self,
        now: Instant,
        shared: &mut Shared,
        source: &mut dyn Source,
        cargo: Cargo,
        body: Range<usize>,
        buf: &mut Vec<u8>,
    ) {
        match cargo {
            Cargo::Repair(lane) if self.has_piece(now, lane) => {
                let before = buf.len();
                self.put_new(now, shared, source, lane, body, buf);
                if buf.len() > before {
                    self.count_repair();
                }
            }
            Cargo::Repair(lane) => self.put_repair(now, lane, body.end, buf),
            Cargo::New(lane) => self.put_new(now, shared, source, lane, body, buf),
            Cargo::Parity(lane) => self.put_parity(now, lane, body.end, buf),
        }
    }

    fn put_repair(&mut self, now: Instant, lane: Lane, end: usize, buf: &mut Vec<u8>) {
        let Some(sender) = self.lanes.get_mut(lane as usize) else { return };
        let Some((ssn, born, content)) = sender.next_repair() else { return };
        let held = held_ms(now, born);
        if buf.len() + frame::repair_header_len(ssn, held) + content.len() > end {
            return;
        }
        frame::put_repair_header(buf, lane, ssn, held);
        buf.extend_from_slice(content);
        let large = content.len() > max_symbol(BASE_UDP_PAYLOAD);
        sender.repaired(now);
        if large {
            self.mtud.sent_large(now);
        }
        self.count_repair();
        self.sent_symbol(now);
    }

    /// Something was sent that the other end will acknowledge.
    fn sent_symbol(&mut self, now: Instant) {
        self.last_eliciting = Some(now);
        self.silence.sent(now, self.rto());
    }

    fn count_repair(&mut self) {
        if self.probes_owed > 0 {
            self.probes_owed -= 1;
            self.counters.pto_sent += 1;
        } else {
            self.counters.retransmitted += 1;
        }
    }

    fn put_new(
        &mut self,
        now: Instant,
        shared: &mut Shared,
        source: &mut dyn Source,
        lane: Lane,
        body: Range<usize>,
        buf: &mut Vec<u8>,
    ) {
        let Some(sender) = self.lanes.get(lane as usize) else { return };
        // What is left of a symbol that was cut goes first.
        let piece = sender.piece();
        let next = if piece.is_some() { sender.piece_ssn() } else { sender.next_ssn() };
        let Some(ssn) = next else { return };
        let held = piece.map(|(born, _)| held_ms(now, born));
        let header = held.map_or_else(
            || frame::symbol_header_len(ssn),
            |held| frame::repair_header_len(ssn, held),
        );
        // All full packets are alike in size, with an acknowledgement in them or without, so that
        // they can go in one batch.
        let full_end = body.end.min(body.start + header + max_symbol(self.full_size()));
        let room = full_end.saturating_sub(buf.len() + header);
        let at = buf.len();
        let cut = piece.map_or(0, |(_, piece)| piece.len());
        if cut > room {
            return;
        }
        match (piece, held) {
            // Nothing new beside it, for that was not held so long.
            (Some((_, piece)), Some(held)) => {
                frame::put_repair_header(buf, lane, ssn, held);
                buf.extend_from_slice(piece);
            }
            _ => {
                frame::put_symbol_header(buf, lane, ssn);
                source.fill(now, lane, room, buf);
            }
        }
        let content = buf.get(at + header..).unwrap_or_default();
        debug_assert!(content.len() <= room, "a source keeps to its room");
        if content.is_empty() {
            return buf.truncate(at);
        }
        self.counters.symbols_out += 1;
        self.sent_symbol(now);
        // Link state goes on where nobody sends anything.
        if lane != Lane::Control {
            self.mtud.used(now);
        }
        if content.len() > max_symbol(BASE_UDP_PAYLOAD) {
            self.mtud.sent_large(now);
        }
        let estimate = self.estimate();
        let is_covered = self.is_covered(now, lane);
        if let Some(sender) = self.lanes.get_mut(lane as usize) {
            // Bulk is repaired by retransmission: it does not wait for its parity.
            sender.push(now, content, is_covered && lane != Lane::Bulk);
            if cut > 0 {
                sender.piece_sent();
            }
        }
        let fec = self.fec_out.get_mut(lane as usize);
        if let Some(fec) = fec.filter(|_| is_covered) {
            fec.push(now, ssn, content, &mut shared.codec, &estimate);
            if !source.has(lane) {
                fec.lull(now);
            }
            self.collect_finished(now);
        }
    }

    fn put_parity(&mut self, now: Instant, lane: Lane, end: usize, buf: &mut Vec<u8>) {
        let Some(fec) = self.fec_out.get_mut(lane as usize) else { return };
        if lane == Lane::Bulk {
            // What waited for so long has been sent again meanwhile.
            fec.give_up_older(now, self.rtt.smoothed());
        }
        let Some(shard) = fec.peek_parity_len(now) else { return };
        if buf.len() + frame::PARITY_HEADER_MAX + shard > end {
            return;
        }
        let mut bytes = std::mem::take(&mut self.scratch);
        bytes.clear();
        let ring = self.current.as_ref().map_or(0, |s| s.fec_ring);
        let end = self.lanes.get(lane as usize).map_or(0, |lane| lane.end());
        if let Some(parity) = fec.poll_parity(now, &mut bytes)
            && end.saturating_sub(parity.header.first.0) <= ring
        {
            let fields = ParityFields {
                first: parity.header.first,
                k: parity.header.k as u8,
                generator: parity.header.generator.log2(),
                index: parity.header.index as u8,
            };
            frame::put_parity_header(buf, lane, fields);
            buf.extend_from_slice(&bytes);
            self.counters.parity_out += 1;
        }
        self.collect_finished(now);
        self.scratch = bytes;
    }
}

/// How long something has been held that was first sent at `born`, in milliseconds.
fn held_ms(now: Instant, born: Instant) -> u64 {
    u64::try_from(now.saturating_duration_since(born).as_millis()).unwrap_or(u64::MAX)
}
