//! What follows from a path's MTU: probes and their answers, and when the size of datagrams falls, the
//! symbols that no longer fit. Such a symbol is cut when it would have to be sent again, and its frames
//! travel under new SSNs; the other end is told to forget the old one, for what it waits for would never
//! come.

use std::time::{Duration, Instant};

use crate::config::BASE_UDP_PAYLOAD;
use crate::ids::Lane;
use crate::tunnel::mtud::{ETHERNET, Path, Step};
use crate::tunnel::{MAX_ACK_DELAY, Tunnel, max_symbol};
use crate::wire::frame::{self, ForgetRanges};
use crate::wire::packet::TAG_LEN;

/// Answers to probes that wait at most.
pub(super) const MAX_ANSWERS: usize = 32;
/// New packets are no larger than Ethernet's where one would take longer than this: a large packet is
/// for a fast path, and on a slow one a window of a few of them.
const LARGE_TIME: Duration = Duration::from_millis(2);
/// An answer is not overdue before: on the shortest paths the other end's scheduler takes longer.
const MIN_PATIENCE: Duration = Duration::from_millis(20);
/// Between two forget frames at least.
const FORGET_SPACING: Duration = Duration::from_millis(5);

impl Tunnel {
    pub(super) fn path(&self) -> Path {
        Path { patience: self.rtt.pto(MAX_ACK_DELAY).max(MIN_PATIENCE), loss: self.loss.loss() }
    }

    /// UDP payload of a new packet that is full.
    pub(super) fn full_size(&self) -> usize {
        let size = self.mtud.size();
        let is_slow = self.rate.pacing_rate() * LARGE_TIME.as_secs_f64() < size as f64;
        if is_slow { size.min(ETHERNET) } else { size }
    }

    /// When a probe of the path's MTU is due. An address that has not answered gets none (RFC 9000 §8.1),
    /// nor a path of which nothing is known.
    pub(super) fn mtu_probe_at(&self) -> Option<Instant> {
        let is_trusted = self.remote.is_some_and(|remote| remote.allowance.is_none());
        if self.current.is_none() || !is_trusted || self.rtt.sampled().is_none() {
            return None;
        }
        self.mtud.due(self.path())
    }

    /// Appends a probe, if one is due; its length.
    pub(super) fn put_mtu_probe(&mut self, now: Instant, buf: &mut Vec<u8>) -> Option<usize> {
        if self.mtu_probe_at().is_none_or(|at| at > now) {
            return None;
        }
        let probe = match self.mtud.step(now, self.path()) {
            Step::Send(probe) => probe,
            Step::Nothing => return None,
            Step::Fell => {
                self.fell(now);
                return None;
            }
        };
        let epoch = self.rate.epoch();
        let session = self.current.as_mut()?;
        let at = buf.len();
        buf.extend_from_slice(&session.header());
        frame::put_mtu_probe(buf, probe.token);
        buf.resize((at + probe.size - TAG_LEN).max(buf.len()), 0);
        // It elicits an answer, but none that acknowledges it: it does not count as in flight. Nor is it
        // paced: probes are few and spaced by their own timer, and what a large one would take from a
        // tunnel that was idle so far would delay what it is for.
        let tag = session.seal(now, buf.get_mut(at..)?, false, epoch);
        buf.extend_from_slice(&tag);
        let len = buf.len() - at;
        self.counters.mtu_probes_out += 1;
        self.counters.packets_out += 1;
        self.counters.bytes_out += len as u64;
        Some(len)
    }

    pub(super) fn owe_mtu_answer(&mut self, now: Instant, token: u64, size: usize) {
        if self.mtu_answers.len() < MAX_ANSWERS {
            self.mtu_answers.push_back((token, size, now));
        }
    }

    /// Datagrams go another way from now on, which may carry less.
    pub(super) fn path_changed(&mut self, now: Instant) {
        self.mtud.reset();
        self.latency.path_changed();
        self.give_up_long_parity(now);
    }

    /// Large datagrams vanish.
    fn fell(&mut self, now: Instant) {
        self.counters.black_holes += 1;
        tracing::debug!(peer = %self.remote_id, "large datagrams vanish: back to the least size");
        // All of them: what was sent before the suspicion is overdue, and what was sent since has met what
        // the probes met.
        for lane in &mut self.lanes {
            lane.requeue_longer(max_symbol(self.mtud.size()));
        }
        if let Some(session) = &mut self.current {
            session.ledger.write_off(now);
        }
        self.give_up_long_parity(now);
    }

    /// Parity for symbols that are too long now fits no packet.
    pub(super) fn give_up_long_parity(&mut self, now: Instant) {
        for sender in &mut self.fec_out {
            sender.give_up_longer(max_symbol(self.mtud.size()));
        }
        self.collect_finished(now);
    }

    /// Whether a piece of a symbol that was cut is to be sent next, and not a repair. Cuts the next repair
    /// if it is too long.
    pub(super) fn has_piece(&mut self, now: Instant, lane: Lane) -> bool {
        let max = max_symbol(self.mtud.size());
        let Some(sender) = self.lanes.get_mut(lane as usize) else { return false };
        if sender.retire_longer(max) {
            self.counters.symbols_cut += 1;
            self.owe_forget(now);
        }
        let sender = self.lanes.get(lane as usize);
        sender.is_some_and(|s| s.piece().is_some() && s.piece_ssn().is_some())
    }

    /// The other end is to be told of retired symbols.
    pub(super) fn owe_forget(&mut self, now: Instant) {
        let spaced = self.forgot.map_or(now, |at| now.max(at + FORGET_SPACING));
        self.forget_at = Some(self.forget_at.map_or(spaced, |at| at.min(spaced)));
    }

    /// When it is; not while nothing gets through.
    pub(super) fn forget_due(&self) -> Option<Instant> {
        self.forget_at.filter(|_| !self.silence.is_silent())
    }

    /// Tells the other end which symbols to forget, again and again until it has confirmed.
    pub(super) fn put_forget(&mut self, now: Instant, end: usize, buf: &mut Vec<u8>) {
        if self.forget_due().is_none_or(|at| at > now) {
            return;
        }
        self.forget_at = None;
        let mut untold = false;
        for lane in Lane::ALL {
            let Some(sender) = self.lanes.get_mut(lane as usize) else { continue };
            if sender.retired() == 0 {
                continue;
            }
            let at = buf.len();
            match sender.forget_ranges() {
                Some(ranges) => {
                    untold = true;
                    frame::put_forget(buf, lane, &ranges);
                    // The next round will name them.
                    buf.truncate(if buf.len() > end { at } else { buf.len() });
                }
                None => self.forget_at = Some(now + self.rtt.pto(MAX_ACK_DELAY)),
            }
        }
        self.forgot = Some(now);
        if untold {
            self.forget_at = Some(now + FORGET_SPACING);
        }
    }

    pub(super) fn handle_forget(&mut self, now: Instant, lane: Lane, ranges: &ForgetRanges) {
        let Some(window) = self.windows.get_mut(lane as usize) else { return };
        for (start, end) in ranges.as_slice() {
            window.forget(*start, *end);
        }
        self.owe_ack(now, false);
    }
}

const _: () = assert!(max_symbol(BASE_UDP_PAYLOAD) > 1000, "frames are cut to 1,000 bytes");
