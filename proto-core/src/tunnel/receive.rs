//! From a datagram of a session to symbols handed up.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::fec::{Generator, ParityHeader};
use crate::ids::{Lane, Ssn};
use crate::tunnel::arrivals::Passed;
use crate::tunnel::session::{Refused, Session};
use crate::tunnel::symbols::Arrival;
use crate::tunnel::{
    ACK_EVERY, MAX_ACK_DELAY, Remote, Shared, Sink, Tunnel, TunnelEvent, lane, max_symbol,
};
use crate::wire::ack::LinkAck;
use crate::wire::frame::{self, Frame, ParityFields};
use crate::wire::packet::{DATA_OVERHEAD, DataHeader, HEADER_LEN, SessionIndex};
use crate::wire::{Malformed, Reader};

/// After parity for bulk has arrived, its symbols are kept for so long for more of it: on a link that bulk
/// fills there is none, and keeping them would be in vain.
const BULK_PARITY: Duration = Duration::from_secs(2);
/// PINGs to be answered at most.
pub(super) const MAX_PONGS: usize = 8;
/// A symbol is a full packet's if it is shorter than can be by no more than this.
const FULL_SLACK: usize = 16;

/// Where a session index was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Current,
    Previous,
    Unconfirmed(usize),
}

impl Tunnel {
    fn slot_of(&self, index: SessionIndex) -> Option<Slot> {
        let is = |s: &Option<Session>| s.as_ref().is_some_and(|s| s.local == index);
        if is(&self.current) {
            return Some(Slot::Current);
        }
        if is(&self.previous) {
            return Some(Slot::Previous);
        }
        self.unconfirmed.iter().position(|(s, _)| s.local == index).map(Slot::Unconfirmed)
    }

    fn session(&mut self, slot: Slot) -> Option<&mut Session> {
        match slot {
            Slot::Current => self.current.as_mut(),
            Slot::Previous => self.previous.as_mut(),
            Slot::Unconfirmed(at) => self.unconfirmed.get_mut(at).map(|(s, _)| s),
        }
    }

    /// A data packet for one of this tunnel's sessions; opened in place. False if it was refused.
    pub(crate) fn handle_data(
        &mut self,
        now: Instant,
        shared: &mut Shared,
        header: DataHeader,
        packet: &mut [u8],
        from: (SocketAddr, bool),
        sink: &mut dyn Sink,
    ) -> bool {
        let (addr, ce) = from;
        let Some(slot) = self.slot_of(header.receiver) else { return false };
        let Some(session) = self.session(slot) else { return false };
        if session.is_dead(now) {
            return false;
        }
        let opened = match session.open(now, header, packet, ce) {
            Ok(opened) => opened,
            Err(Refused::NotAuthentic) => {
                self.counters.bad_packets += 1;
                return false;
            }
            Err(Refused::Replayed) => {
                self.counters.replayed += 1;
                return false;
            }
        };
        self.counters.packets_in += 1;
        self.counters.bytes_in += packet.len() as u64;
        self.last_heard = Some(now);
        let is_silent = self.silence.is_silent();
        self.outage |= is_silent;
        if slot == Slot::Current && !is_silent {
            let Passed { packets, missing, runs } = opened.passed;
            self.loss_in.update(packets, missing, runs);
        }
        match slot {
            Slot::Unconfirmed(at) => {
                self.confirm(now, shared, at, addr);
                if let Some(lives) = self.lives {
                    sink.lives(lives);
                }
            }
            Slot::Current => self.follow(now, addr, opened.is_newest, packet.len()),
            Slot::Previous => {}
        }
        if opened.is_newest {
            self.debt.session = Some(header.receiver);
        }
        let end = HEADER_LEN + opened.len;
        let plaintext = packet.get(HEADER_LEN..end).unwrap_or_default();
        if self.handle_frames(now, shared, plaintext, addr, sink).is_err() {
            // Authenticated and still malformed: a peer of another make. What was read stands.
            tracing::trace!(peer = %self.remote_id, "malformed frames");
        }
        true
    }

    /// The initiator uses the session: now, and not before, it replaces the old one.
    fn confirm(&mut self, now: Instant, shared: &mut Shared, at: usize, addr: SocketAddr) {
        let (session, answered) = self.unconfirmed.remove(at);
        self.unconfirmed.retain(|(older, _)| {
            let keep = older.made > session.made && older.lives == session.lives;
            if !keep {
                shared.indices.remove(&older.local);
            }
            keep
        });
        // Whoever uses the answer's key received the answer at that address.
        let allowance = (answered != addr).then_some(3 * 64);
        // From our answer to the first word under its keys.
        self.latency.guess(now.saturating_duration_since(session.made));
        self.adopt(now, shared, session, Remote { addr, allowance });
    }

    /// The address follows the newest packet (WireGuard paper §2.1), but is trusted with no more than
    /// three times what came from it until it answers (RFC 9000 §8.2).
    fn follow(&mut self, now: Instant, addr: SocketAddr, is_newest: bool, len: usize) {
        let Some(remote) = &mut self.remote else { return };
        if remote.addr == addr {
            if let Some(allowance) = &mut remote.allowance {
                *allowance += 3 * len as u64;
            }
        } else if is_newest {
            tracing::debug!(peer = %self.remote_id, %addr, "peer roamed");
            *remote = Remote { addr, allowance: Some(3 * len as u64) };
            self.pinger.forget();
            self.pinger.hurry(now);
            self.path_changed(now);
        }
    }

    fn handle_frames(
        &mut self,
        now: Instant,
        shared: &mut Shared,
        plaintext: &[u8],
        from: SocketAddr,
        sink: &mut dyn Sink,
    ) -> Result<(), Malformed> {
        let mut reader = Reader::new(plaintext);
        while let Some(frame) = frame::read(&mut reader)? {
            match frame {
                Frame::Ack(ack) => self.handle_ack(now, &ack),
                Frame::Ping { token, .. } => {
                    // The newest proves most.
                    if self.pongs.len() >= MAX_PONGS {
                        self.pongs.pop_front();
                    }
                    self.pongs.push_back((token, now));
                }
                Frame::Pong { token, held_us } => {
                    self.handle_pong(now, token, Duration::from_micros(held_us), from);
                }
                Frame::MtuProbe { token } => {
                    self.owe_mtu_answer(now, token, plaintext.len() + DATA_OVERHEAD);
                }
                Frame::MtuAnswer { token, size } => {
                    self.mtud.on_answer(now, token, size);
                }
                Frame::Forget { lane, ranges } => self.handle_forget(now, lane, &ranges),
                Frame::Close => {
                    self.retire(shared, |_| true);
                    self.closing = false;
                    self.events.push_back(TunnelEvent::Closed);
                    return Ok(());
                }
                Frame::Symbol { lane, ssn, content } => {
                    let copy = (ssn, Duration::ZERO, content);
                    self.handle_symbol(now, shared, lane, copy, sink);
                }
                Frame::Repair { lane, ssn, held_ms, content } => {
                    let held = Duration::from_millis(held_ms.min(frame::MAX_HELD_MS));
                    self.handle_symbol(now, shared, lane, (ssn, held, content), sink);
                }
                Frame::Parity { lane, header, shard } => {
                    self.handle_parity(now, shared, lane, header, shard, sink);
                }
            }
        }
        Ok(())
    }

    fn handle_pong(&mut self, now: Instant, token: u64, held: Duration, from: SocketAddr) {
        let Some((asked, rtt)) = self.pinger.answered(now, token, held) else { return };
        self.answered = Some(asked);
        self.on_rtt(now, rtt);
        self.on_proof(now, asked);
        if let Some(remote) = self.remote.as_mut().filter(|r| r.addr == from) {
            remote.allowance = None;
        }
    }

    fn handle_symbol(
        &mut self,
        now: Instant,
        shared: &mut Shared,
        lane: Lane,
        (ssn, held, content): (Ssn, Duration, &[u8]),
        sink: &mut dyn Sink,
    ) {
        let at = lane as usize;
        let Some(window) = self.windows.get_mut(at) else { return };
        let arrival = window.insert(ssn);
        match arrival {
            Arrival::TooFar => return,
            Arrival::Duplicate => self.counters.duplicates_in += 1,
            Arrival::New { .. } => {
                self.counters.symbols_in += 1;
                sink.symbol(now, lane, held, content);
            }
        }
        // A hole in a lane with FEC is probably filled before an acknowledgement could tell of it.
        let urgent = matches!(arrival, Arrival::New { gap: true }) && lane == Lane::Bulk;
        let since = |at: Instant| now.saturating_duration_since(at);
        let is_kept =
            lane != Lane::Bulk || self.bulk_parity_in.is_some_and(|at| since(at) < BULK_PARITY);
        let fec = self.fec_in.get_mut(at).filter(|_| is_kept);
        if let (Arrival::New { .. }, Some(fec)) = (arrival, fec) {
            let counters = &mut self.counters;
            fec.on_source(ssn, content, &mut shared.codec, &mut |ssn, content| {
                if matches!(window.insert(ssn), Arrival::New { .. }) {
                    counters.symbols_in += 1;
                    sink.symbol(now, lane, Duration::ZERO, content);
                }
            });
        }
        self.owe_ack(now, urgent);
    }

    fn handle_parity(
        &mut self,
        now: Instant,
        shared: &mut Shared,
        lane: Lane,
        fields: ParityFields,
        shard: &[u8],
        sink: &mut dyn Sink,
    ) {
        self.counters.parity_in += 1;
        let at = lane as usize;
        let Some(window) = self.windows.get_mut(at) else { return };
        let Some(fec) = self.fec_in.get_mut(at) else { return };
        if lane == Lane::Bulk {
            self.bulk_parity_in = Some(now);
        }
        let Some(generator) = Generator::from_log2(fields.generator) else { return };
        let header = ParityHeader {
            first: fields.first,
            k: u16::from(fields.k),
            generator,
            index: u16::from(fields.index),
        };
        let mut recovered = false;
        let counters = &mut self.counters;
        fec.on_parity(&header, shard, &mut shared.codec, &mut |ssn, content| {
            if matches!(window.insert(ssn), Arrival::New { .. }) {
                counters.symbols_in += 1;
                recovered = true;
                sink.symbol(now, lane, Duration::ZERO, content);
            }
        });
        if recovered {
            self.owe_ack(now, false);
        }
    }

    pub(super) fn owe_ack(&mut self, now: Instant, urgent: bool) {
        self.debt.symbols += 1;
        let due = if urgent || self.debt.symbols >= ACK_EVERY { now } else { now + MAX_ACK_DELAY };
        self.debt.due = Some(self.debt.due.map_or(due, |d| d.min(due)));
    }

    /// The two parts are kept apart: rate and loss come from the counters alone, repair looks at the
    /// symbols alone; of the counters it takes only the time as of which the symbols are told.
    fn handle_ack(&mut self, now: Instant, ack: &LinkAck) {
        self.handle_counter_part(now, ack);
        let mut progress = lane::LaneProgress::default();
        let min_rtt = self.rtt.min();
        for lane in Lane::ALL {
            let sender = self.lanes.get_mut(lane as usize);
            if let (Some(part), Some(sender)) = (ack.lane(lane), sender) {
                let p = sender.on_ack(now, part, min_rtt, self.evidence.as_ref());
                progress.acked += p.acked;
                progress.spurious |= p.spurious;
                progress.lateness = progress.lateness.max(p.lateness);
                progress.large = progress.large.max(p.large);
            }
        }
        self.counters.spurious += u64::from(progress.spurious);
        self.reordering.update(now, progress.lateness, self.rtt.smoothed());
        if progress.acked > 0 {
            self.pto_backoff = 0;
            self.last_eliciting = Some(now);
        }
        if let Some((len, sent)) = progress.large {
            let more = self.lanes.iter().any(|lane| lane.large() > 0);
            let full = len + FULL_SLACK >= max_symbol(self.mtud.size());
            self.mtud.heard_large(now, full.then_some(sent), more);
        }
        self.detect_losses(now);
        if self.lanes.iter_mut().fold(false, |any, lane| lane.take_stubborn() | any) {
            self.mtud.suspect_unheard(now, self.path());
        }
    }

    fn handle_counter_part(&mut self, now: Instant, ack: &LinkAck) {
        let named = |s: &&mut Session| s.remote == ack.counters.session;
        let session = self.current.as_mut().filter(named);
        let is_current = session.is_some();
        let Some(session) = session.or(self.previous.as_mut().filter(named)) else { return };
        let Some(mut report) = session.ledger.on_ack(now, &ack.counters) else { return };
        self.mtud.excuse(&mut report);
        let in_flight = session.ledger.in_flight();
        // A PONG in the same packet has told it.
        if let Some(rtt) = report.rtt.filter(|_| self.answered != report.newest_sent) {
            self.on_rtt(now, rtt);
        }
        // What is lost in an outage says nothing of what the path loses when it works.
        let told = report.newest_sent.is_some();
        if !(told && std::mem::take(&mut self.outage)) {
            self.loss.update(report.passed, report.missing, report.loss_runs);
            let [out, back] =
                self.pace.per_probe(now, [self.counters.packets_out, self.counters.packets_in]);
            self.silence.set_path([(&self.loss, out), (&self.loss_in, back)]);
        }
        if let Some(sent) = report.newest_sent {
            self.on_proof(now, sent);
        }
        if let Some(newest_sent) = report.newest_sent
            && self.evidence.is_none_or(|e| e.newest_sent < newest_sent)
        {
            self.evidence = Some(lane::Evidence {
                newest_sent,
                rtt: now.saturating_duration_since(newest_sent),
                reordering: Duration::ZERO,
            });
        }
        if is_current {
            if report.newest_sent.is_some() {
                self.reported = Some(now);
            }
            // The rate comes of what is paced: what a PING's answer tells of losses waits until something
            // was acknowledged that is.
            if report.elicited {
                report.absorb(&std::mem::take(&mut self.withheld));
                self.rate.on_report(now, &report, in_flight, self.rtt.min());
            } else {
                self.withheld.absorb(&report);
            }
        }
    }
}
