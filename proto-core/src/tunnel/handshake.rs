//! How a tunnel comes to its sessions: initiations, responses, rejects, cookies, and when to try.
//!
//! Timestamps and incarnations of initiations must grow; an initiator that is behind is told by how
//! much, bound to its ephemeral key, and jumps. The sessions that result are used by rules in
//! `Tunnel::adopt`.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::config::HostPort;
use crate::ids::Incarnation;
use crate::tunnel::keys::mac;
use crate::tunnel::noise::{Initiator, Responder};
use crate::tunnel::session::{Lives, Session, Terms};
use crate::tunnel::{FEC_RING_LOG2, Remote, Shared, Tunnel, TunnelEvent};
use crate::wire::PROTOCOL_VERSION;
use crate::wire::packet::{
    Cookie, EPHEMERAL_LEN, Hello, Initiation, InitiationPayload, MAC_LEN, Reject, RejectReason,
    Response, ResponsePayload, SessionIndex, put_cookie, put_initiation, put_reject, put_response,
};

/// Between two attempts, varied by a tenth. A peer that comes back is found within this time.
const RETRY: Duration = Duration::from_millis(500);
/// After being told that an initiation was stale.
const RETRY_STALE: Duration = Duration::from_millis(20);
/// Attempts, and answers to the peer's, that may still complete: on a path longer than [`RETRY`]
/// several are under way.
pub(super) const MAX_OPEN: usize = 16;
const OPEN_FOR: Duration = Duration::from_secs(8);
/// Nothing heard for so long and a round trip (or one and a half probe intervals, if that is more): make
/// a new session. Probes of both sides alone are heard more often than that.
const SILENCE: Duration = Duration::from_millis(750);
/// Names are resolved again no sooner than this.
const RESOLVE_EVERY: Duration = Duration::from_secs(5);
/// So many attempts in vain are worth a line in the log, once until there is a session.
const SILENCE_LOGGED_AFTER: usize = 20;
/// A cookie is good for as long as its secret (WireGuard paper §5.4.7).
const COOKIE_LIFE: Duration = Duration::from_secs(120);
/// Handshake packets waiting to be sent.
pub(super) const MAX_OUTBOX: usize = 16;

/// An initiation that was sent and may be answered.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) index: SessionIndex,
    noise: Initiator,
    ephemeral: [u8; EPHEMERAL_LEN],
    mac1: [u8; MAC_LEN],
    key: usize,
    sent: Instant,
    to: SocketAddr,
    /// The life and the time that the initiation spoke of.
    incarnation: Incarnation,
    timestamp: u64,
}

/// The state of trying.
#[derive(Debug)]
pub(super) struct Handshakes {
    pub(super) attempts: Vec<Attempt>,
    target: Option<HostPort>,
    resolved: Vec<SocketAddr>,
    resolve_at: Instant,
    next_at: Instant,
    pub(super) last_event: Instant,
    tried: usize,
    /// Greatest (incarnation, timestamp) of the peer's initiations.
    highest: (u64, u64),
    /// Greatest timestamp of ours, or what we were told to exceed.
    timestamp: u64,
    cookie: Option<([u8; MAC_LEN], Instant)>,
    version_logged: Option<u8>,
    silence_logged: bool,
}

impl Handshakes {
    pub(super) fn new(now: Instant, target: Option<&HostPort>) -> Self {
        let mut new = Self {
            attempts: Vec::new(),
            target: None,
            resolved: Vec::new(),
            resolve_at: now,
            next_at: now,
            last_event: now,
            tried: 0,
            highest: (0, 0),
            timestamp: 0,
            cookie: None,
            version_logged: None,
            silence_logged: false,
        };
        new.set_target(target);
        new
    }

    pub(super) fn set_target(&mut self, target: Option<&HostPort>) {
        if self.target.as_ref() != target {
            self.resolved = target.and_then(HostPort::literal).into_iter().collect();
            self.target = target.cloned();
        }
    }

    /// Tries again at once.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.next_at = self.next_at.min(now);
    }

    pub(super) fn succeeded(&mut self, now: Instant) {
        self.tried = 0;
        self.silence_logged = false;
        self.next_at = now + RETRY;
    }

    fn needs_resolver(&self) -> bool {
        self.target.as_ref().is_some_and(|t| t.literal().is_none())
    }

    fn log_version(&mut self, peer: &str, version: u8) {
        if self.version_logged != Some(version) {
            self.version_logged = Some(version);
            tracing::warn!(
                peer,
                "peer {peer} speaks protocol version {version}, this node {PROTOCOL_VERSION}: \
                 run the same release on both"
            );
        }
    }
}

impl Tunnel {
    /// When this end is to try for a session.
    pub(super) fn handshake_at(&self) -> Option<Instant> {
        let h = &self.handshakes;
        let reachable = self.remote.is_some() || !h.resolved.is_empty() || h.needs_resolver();
        let Some(session) = &self.current else {
            return reachable.then_some(h.next_at);
        };
        let dead_at = session.dead_at();
        if !reachable {
            return Some(dead_at);
        }
        let silent_at = self.last_heard.unwrap_or(session.made) + self.silence();
        Some(session.rekey_at().min(silent_at).max(h.next_at).min(dead_at))
    }

    fn silence(&self) -> Duration {
        let probes = self.pinger.interval() * 3 / 2;
        SILENCE.max(probes) + self.rtt.smoothed().min(SILENCE)
    }

    /// Expires what is old, and tries for a session if it is time.
    pub(super) fn drive_handshakes(&mut self, now: Instant, shared: &mut Shared) {
        let old = |at: Instant| now.saturating_duration_since(at) > OPEN_FOR;
        self.handshakes.attempts.retain(|a| {
            let keep = !old(a.sent);
            if !keep {
                shared.indices.remove(&a.index);
            }
            keep
        });
        self.unconfirmed.retain(|(session, _)| {
            let keep = !old(session.made);
            if !keep {
                shared.indices.remove(&session.local);
            }
            keep
        });
        if self.current.as_ref().is_some_and(|s| s.is_dead(now))
            || self.previous.as_ref().is_some_and(|s| s.is_dead(now))
        {
            self.retire(shared, |s| s.is_dead(now));
        }
        if self.handshake_at().is_some_and(|at| at <= now) {
            self.initiate(now, shared);
        }
    }

    fn initiate(&mut self, now: Instant, shared: &mut Shared) {
        let jitter = 0.9 + 0.2 * shared.rng.unit();
        let h = &mut self.handshakes;
        h.next_at = now + RETRY.mul_f64(jitter);
        h.last_event = now;
        if h.needs_resolver() && h.resolve_at <= now {
            h.resolve_at = now + RESOLVE_EVERY;
            self.events.push_back(TunnelEvent::Resolve);
        }
        let known = self.remote.map(|r| r.addr);
        let candidates = known.iter().chain(h.resolved.iter().filter(|a| Some(**a) != known));
        let count = candidates.clone().count();
        let Some(to) = candidates.copied().nth(h.tried % count.max(1)) else { return };
        // Each address is tried with each key before the next round.
        let key = (h.tried / count.max(1)) % self.keys.len().max(1);
        h.tried = h.tried.wrapping_add(1);
        if h.tried >= SILENCE_LOGGED_AFTER && !h.silence_logged {
            h.silence_logged = true;
            tracing::warn!(
                peer = %self.remote_id,
                "no answer from {} at {to}: is it up, is its addr right, does UDP get through, and do \
                 both sides have the same shared_key and each other's node_id?",
                self.remote_id
            );
        }
        h.timestamp = h.timestamp.saturating_add(1).max(shared.unix_micros(now));
        let payload = InitiationPayload {
            timestamp: h.timestamp,
            seen_incarnation: self.seen_incarnation(),
            hello: hello(shared),
        };
        self.send_initiation(now, shared, to, key, &payload);
    }

    fn send_initiation(
        &mut self,
        now: Instant,
        shared: &mut Shared,
        to: SocketAddr,
        key: usize,
        payload: &InitiationPayload,
    ) {
        let Some(keys) = self.keys.get(key) else { return };
        let seed = shared.rng.fork();
        let made = Initiator::start(&keys.psk, &self.local, &self.remote_id, seed, payload);
        let Ok((noise, message)) = made else { return };
        let Some(ephemeral) = message.first_chunk::<EPHEMERAL_LEN>().copied() else { return };
        if self.handshakes.attempts.len() >= MAX_OPEN {
            let oldest = self.handshakes.attempts.remove(0);
            shared.indices.remove(&oldest.index);
        }
        let index = shared.new_index(self.id);
        let mut packet = Vec::with_capacity(crate::wire::packet::INITIATION_LEN);
        put_initiation(&mut packet, index, keys.key_id_out, &message);
        let mac1 = keys.sign(&[&packet]);
        packet.extend_from_slice(&mac1);
        let cookie = self.handshakes.cookie;
        let mac2 = match cookie {
            Some((cookie, at)) if now.saturating_duration_since(at) < COOKIE_LIFE => {
                mac(&cookie, &[&packet])
            }
            _ => [0; MAC_LEN],
        };
        packet.extend_from_slice(&mac2);
        self.handshakes.attempts.push(Attempt {
            index,
            noise,
            ephemeral,
            mac1,
            key,
            sent: now,
            to,
            incarnation: shared.incarnation,
            timestamp: payload.timestamp,
        });
        self.post(now, to, packet);
    }

    fn post(&mut self, now: Instant, to: SocketAddr, packet: Vec<u8>) {
        self.handshakes.last_event = now;
        if self.outbox.len() < MAX_OUTBOX {
            self.outbox.push_back((to, packet));
        }
    }

    /// The peer's name was resolved.
    pub(crate) fn handle_resolved(&mut self, now: Instant, addrs: &[SocketAddr]) {
        if self.handshakes.needs_resolver() && !addrs.is_empty() {
            let first = self.handshakes.resolved.is_empty();
            self.handshakes.resolved = addrs.iter().copied().take(16).collect();
            if first && self.current.is_none() {
                self.handshakes.hurry(now);
            }
        }
    }

    /// An initiation that names the key `key` of this peer. False if it is not authentic.
    pub(crate) fn handle_initiation(
        &mut self,
        now: Instant,
        shared: &mut Shared,
        key: usize,
        initiation: &Initiation<'_>,
        from: SocketAddr,
    ) -> bool {
        let Some(keys) = self.keys.get(key) else { return false };
        if !keys.verify(&[initiation.mac1_input], &initiation.mac1) {
            return false;
        }
        if initiation.version != PROTOCOL_VERSION {
            self.handshakes.log_version(self.remote_id.as_str(), initiation.version);
            self.reject(now, key, RejectReason::Version, initiation, from);
            return true;
        }
        let admitted = shared.cookies.admit(now)
            || shared.cookies.check(now, from, initiation.mac2_input, &initiation.mac2);
        if !admitted {
            self.send_cookie(now, shared, key, initiation, from);
            return true;
        }
        let seed = shared.rng.fork();
        let read =
            Responder::start(&keys.psk, &self.remote_id, &self.local, seed, initiation.noise);
        let Ok((responder, payload)) = read else { return false };
        if payload.seen_incarnation > shared.incarnation.0 {
            // The peer has met a later life of this node: raise this one; the peer will try again.
            let seen = Incarnation(payload.seen_incarnation);
            self.events.push_back(TunnelEvent::Outlived { seen });
            return true;
        }
        let order = (payload.hello.incarnation, payload.timestamp);
        // A life that began before one that this node met as its initiator has a clock that was set
        // back, too: it is told now, before it carries anything under a number that it must give up.
        if order <= self.handshakes.highest || order.0 < self.seen_incarnation() {
            self.reject(now, key, RejectReason::Stale, initiation, from);
            return true;
        }
        self.handshakes.highest = order;
        self.respond(now, shared, key, responder, &payload.hello, initiation, from);
        true
    }

    #[expect(clippy::too_many_arguments, reason = "one step of a handshake and all it rests on")]
    fn respond(
        &mut self,
        now: Instant,
        shared: &mut Shared,
        key: usize,
        responder: Responder,
        theirs: &Hello,
        initiation: &Initiation<'_>,
        from: SocketAddr,
    ) {
        let Some(keys) = self.keys.get(key) else { return };
        let answer = responder.finish(&ResponsePayload { hello: hello(shared) });
        let Ok((message, raw)) = answer else { return };
        let index = shared.new_index(self.id);
        let mut packet = Vec::with_capacity(crate::wire::packet::RESPONSE_LEN);
        put_response(&mut packet, initiation.sender, index, &message);
        let mac = keys.sign(&[&packet, initiation.ephemeral()]);
        packet.extend_from_slice(&mac);
        let lives = Lives { local: shared.incarnation, remote: Incarnation(theirs.incarnation) };
        let indices = (index, initiation.sender);
        let terms = self.terms(shared, false, theirs);
        let session = Session::new(now, indices, lives, terms, &raw);
        if self.unconfirmed.len() >= MAX_OPEN {
            let (oldest, _) = self.unconfirmed.remove(0);
            shared.indices.remove(&oldest.local);
        }
        self.unconfirmed.push((session, from));
        self.post(now, from, packet);
    }

    fn terms(&self, shared: &Shared, is_initiator: bool, theirs: &Hello) -> Terms {
        Terms {
            is_initiator,
            fec_ring_log2: theirs.fec_ring_log2,
            rekey_after: self.rekey_after,
            started: shared.started,
        }
    }

    /// The greatest life of the peer that was met, whoever began.
    fn seen_incarnation(&self) -> u64 {
        self.handshakes.highest.0.max(self.lives.map_or(0, |lives| lives.remote.0))
    }

    fn reject(
        &mut self,
        now: Instant,
        key: usize,
        reason: RejectReason,
        initiation: &Initiation<'_>,
        from: SocketAddr,
    ) {
        let Some(keys) = self.keys.get(key) else { return };
        let (incarnation, timestamp) = (self.seen_incarnation(), self.handshakes.highest.1);
        let mut packet = Vec::with_capacity(crate::wire::packet::REJECT_LEN);
        put_reject(&mut packet, reason, initiation.sender, timestamp, incarnation);
        let mac = keys.sign(&[&packet, initiation.ephemeral()]);
        packet.extend_from_slice(&mac);
        self.post(now, from, packet);
    }

    fn send_cookie(
        &mut self,
        now: Instant,
        shared: &mut Shared,
        key: usize,
        initiation: &Initiation<'_>,
        from: SocketAddr,
    ) {
        let Some(keys) = self.keys.get(key) else { return };
        let cookie = shared.cookies.issue(now, &mut shared.rng, from);
        let mut packet = Vec::with_capacity(crate::wire::packet::COOKIE_LEN);
        put_cookie(&mut packet, initiation.sender, &cookie);
        let mac = keys.sign(&[&packet, &initiation.mac1]);
        packet.extend_from_slice(&mac);
        self.post(now, from, packet);
    }

    fn attempt(&self, index: SessionIndex) -> Option<(usize, &Attempt)> {
        self.handshakes.attempts.iter().enumerate().find(|(_, a)| a.index == index)
    }

    /// The answer to one of our initiations. False if it is not authentic.
    pub(crate) fn handle_response(
        &mut self,
        now: Instant,
        shared: &mut Shared,
        response: &Response<'_>,
        from: SocketAddr,
    ) -> bool {
        let Some((at, attempt)) = self.attempt(response.receiver) else { return false };
        let Some(keys) = self.keys.get(attempt.key) else { return false };
        if !keys.verify(&[response.mac_input, &attempt.ephemeral], &response.mac) {
            return false;
        }
        let mut attempt = self.handshakes.attempts.remove(at);
        let finished = attempt.noise.finish(response.noise);
        let seen = self.seen_incarnation();
        let (payload, raw) = match finished {
            // A late answer from an earlier life of the peer, or to an earlier one of ours, is void.
            Ok((payload, raw))
                if payload.hello.incarnation >= seen
                    && attempt.incarnation == shared.incarnation =>
            {
                (payload, raw)
            }
            _ => {
                shared.indices.remove(&attempt.index);
                return false;
            }
        };
        let lives =
            Lives { local: shared.incarnation, remote: Incarnation(payload.hello.incarnation) };
        let indices = (attempt.index, response.sender);
        let terms = self.terms(shared, true, &payload.hello);
        let mut session = Session::new(now, indices, lives, terms, &raw);
        session.begun = attempt.sent;
        let allowance =
            (attempt.to != from).then_some(3 * crate::wire::packet::RESPONSE_LEN as u64);
        self.drop_attempts(shared);
        self.on_rtt(now, now.saturating_duration_since(attempt.sent));
        self.adopt(now, shared, session, Remote { addr: from, allowance });
        true
    }

    /// One of our initiations was refused. False if that is not authentic.
    pub(crate) fn handle_reject(
        &mut self,
        now: Instant,
        shared: &mut Shared,
        reject: &Reject<'_>,
    ) -> bool {
        let Some((at, attempt)) = self.attempt(reject.receiver) else { return false };
        let Some(keys) = self.keys.get(attempt.key) else { return false };
        if !keys.verify(&[reject.mac_input, &attempt.ephemeral], &reject.mac) {
            return false;
        }
        if (reject.incarnation, reject.timestamp) == (attempt.incarnation.0, attempt.timestamp) {
            // What made this one stale is itself, duplicated on the way: its response will come.
            return true;
        }
        let h = &mut self.handshakes;
        let refused = h.attempts.remove(at);
        shared.indices.remove(&refused.index);
        match reject.reason {
            RejectReason::Version => h.log_version(self.remote_id.as_str(), reject.version),
            RejectReason::Stale => {
                h.timestamp = h.timestamp.max(reject.timestamp);
                h.next_at = h.next_at.min(now + RETRY_STALE);
                h.last_event = now;
                let seen = Incarnation(reject.incarnation);
                if seen > shared.incarnation {
                    self.events.push_back(TunnelEvent::Outlived { seen });
                }
            }
        }
        true
    }

    /// The peer is under load. False if that is not authentic.
    pub(crate) fn handle_cookie(&mut self, now: Instant, cookie: &Cookie<'_>) -> bool {
        let Some((_, attempt)) = self.attempt(cookie.receiver) else { return false };
        let Some(keys) = self.keys.get(attempt.key) else { return false };
        if !keys.verify(&[cookie.mac_input, &attempt.mac1], &cookie.mac) {
            return false;
        }
        self.handshakes.cookie = Some((cookie.cookie, now));
        self.handshakes.next_at = self.handshakes.next_at.min(now + RETRY_STALE);
        true
    }
}

fn hello(shared: &Shared) -> Hello {
    Hello { incarnation: shared.incarnation.0, fec_ring_log2: FEC_RING_LOG2 }
}
