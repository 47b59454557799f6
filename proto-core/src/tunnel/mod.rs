//! One neighbour: handshake, sessions, symbols sent and acknowledged, retransmission, rate, pacing,
//! lanes. Knows frames, but neither flows nor routes: those come in by [`Source`] and [`Sink`].

mod aead;
mod arrivals;
mod bits;
mod choose;
pub(crate) mod cookie;
mod handshake;
pub(crate) mod keys;
mod lane;
mod ledger;
mod mtud;
mod noise;
mod pacer;
mod rate;
mod receive;
mod replay;
mod resize;
mod send;
mod session;
mod suspect;
mod symbols;
mod tables;
mod timers;

#[cfg(test)]
pub(crate) use aead::audit;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::config;
use crate::fec::{BlockReceiver, BlockSender, Codec, Estimate, Guard};
use crate::ids::{Incarnation, Lane, NodeHash, NodeId, PeerId};
use crate::probe::{Latency, LossEstimator, Pace, Pinger, Reordering, RttEstimator, Silence};
use crate::rng::Rng;
use crate::status::{PeerStatus, TunnelCounters};
use crate::wire::frame;
use crate::wire::packet::{DATA_OVERHEAD, SessionIndex};

use choose::Turns;
use handshake::{Attempt, Handshakes};
use keys::PeerKeys;
use lane::SendLane;
use ledger::Report;
use mtud::PathMtu;
use pacer::Pacer;
use rate::{Controller, PathModel};
pub(crate) use session::Lives;
use session::Session;
use symbols::SymbolWindow;
pub(crate) use tables::MAX_INDICES;

/// Content of a symbol at most in a datagram of `udp_payload` bytes, so that its parity fits too.
const fn max_symbol(udp_payload: usize) -> usize {
    frame::max_symbol(udp_payload.saturating_sub(DATA_OVERHEAD))
}
/// Content of a symbol at most, whatever the path. (A peer's configuration may allow it more than ours
/// allows us.)
const MAX_SYMBOL: usize = max_symbol(config::MAX_UDP_PAYLOAD);
/// What the codec is made for: all paths but those for jumbo frames, on which it grows once.
pub(crate) const USUAL_SHARD: usize = max_symbol(mtud::ETHERNET) + frame::SHARD_OVERHEAD;
/// Symbols per lane that are kept for FEC; announced in the handshake.
const FEC_RING_LOG2: u8 = 10;

/// Acknowledgements wait for so long, or for so many symbols, for company.
const MAX_ACK_DELAY: Duration = Duration::from_millis(2);
const ACK_EVERY: u32 = 16;
/// Silence after which a neighbour counts as down, at least; and in probe intervals.
const DOWN_AFTER: Duration = Duration::from_secs(3);
/// Probe timeouts back off to no more than this: a probe costs as little as a PING, and a path that
/// comes back is used again that soon.
const MAX_PTO: Duration = Duration::from_millis(500);
const DOWN_AFTER_PROBES: u32 = 6;
/// Parity that had no turn for a round trip and so long is given up.
const PARITY_PATIENCE: Duration = Duration::from_millis(50);
/// Probe timeouts in a row after which datagrams are no longer marked as ECN-capable, until a session is
/// made anew.
const ECN_PATIENCE: u32 = 4;
/// Late packets are waited for at least this long before they count as lost.
const MIN_REORDERING: Duration = Duration::from_millis(1);

/// Where new symbols come from.
pub(crate) trait Source {
    /// Whether [`Source::fill`] would write something. Must not say so in vain.
    fn has(&self, lane: Lane) -> bool;
    /// Appends whole flow frames of at most `room` bytes in all.
    fn fill(&mut self, now: Instant, lane: Lane, room: usize, out: &mut Vec<u8>);
}

/// Where symbols go: each once, in the order of arrival.
pub(crate) trait Sink {
    /// From here on symbols are those of these lives.
    fn lives(&mut self, lives: Lives);
    /// The frames of one symbol; not checked yet. `held`: the other end had kept it for so long when it sent
    /// the copy that arrived.
    fn symbol(&mut self, now: Instant, lane: Lane, held: Duration, content: &[u8]);
}

/// What the tunnels of a node share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub rng: Rng,
    pub codec: Codec,
    pub indices: BTreeMap<SessionIndex, PeerId>,
    pub cookies: cookie::CookieJar,
    /// This life of this node.
    pub incarnation: Incarnation,
    pub started: Instant,
    /// Unix time at `started`.
    pub unix_start: Duration,
}

impl Shared {
    /// Microseconds of Unix time.
    fn unix_micros(&self, now: Instant) -> u64 {
        let unix = self.unix_start + now.saturating_duration_since(self.started);
        u64::try_from(unix.as_micros()).unwrap_or(u64::MAX)
    }

    fn new_index(&mut self, peer: PeerId) -> SessionIndex {
        loop {
            let index = SessionIndex(self.rng.next_u32());
            if let std::collections::btree_map::Entry::Vacant(slot) = self.indices.entry(index) {
                slot.insert(peer);
                return index;
            }
        }
    }
}

/// Something that the rest of the node has to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TunnelEvent {
    /// Symbols can be exchanged between these lives. `fresh`: these are not the lives of before.
    Up { lives: Lives, fresh: bool },
    /// The peer said goodbye.
    Closed,
    /// The peer has seen a later life of this node: this one must be raised above it.
    Outlived { seen: Incarnation },
    /// The peer's name is to be resolved.
    Resolve,
    /// What is sent is not acknowledged any more, whatever arrives.
    Suspect,
    /// It is again. Follows each [`TunnelEvent::Suspect`], at last.
    Trusted,
}

/// Where the peer is, as far as its packets tell.
#[derive(Debug, Clone, Copy)]
struct Remote {
    addr: SocketAddr,
    /// `None`: it is known to receive there. Otherwise bytes that may still be sent (RFC 9000 §8.1:
    /// three times what was received).
    allowance: Option<u64>,
}

/// What is owed to the other end.
#[derive(Debug, Default)]
struct AckDebt {
    due: Option<Instant>,
    symbols: u32,
    /// The session of the newest packet.
    session: Option<SessionIndex>,
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Tunnel {
    id: PeerId,
    local: NodeId,
    remote_id: NodeId,
    /// Of `remote_id`: every datagram asks for it.
    remote_hash: NodeHash,
    region: String,
    keys: Vec<PeerKeys>,
    handshakes: Handshakes,
    remote: Option<Remote>,
    current: Option<Session>,
    previous: Option<Session>,
    /// Answered by us and not yet confirmed, with the address that the answer went to.
    unconfirmed: Vec<(Session, SocketAddr)>,
    /// The lives between which the lanes number their symbols.
    lives: Option<Lives>,
    lanes: [SendLane; 3],
    windows: [SymbolWindow; 3],
    fec_out: [BlockSender; 3],
    fec_in: [BlockReceiver; 3],
    /// When parity for bulk arrived last: its symbols are kept only while there is any.
    bulk_parity_in: Option<Instant>,
    rtt: RttEstimator,
    latency: Latency,
    loss: LossEstimator,
    /// Of what the peer sends.
    loss_in: LossEstimator,
    silence: Silence,
    pace: Pace,
    /// The next report tells of a time when nothing got through.
    outage: bool,
    rate: Box<dyn Controller>,
    /// Bytes per second, as configured.
    rate_cap: Option<f64>,
    pacer: Pacer,
    mtud: PathMtu,
    pinger: Pinger,
    /// When the PING was sent that was answered last.
    answered: Option<Instant>,
    /// Losses of which the rate controller was not told yet.
    withheld: Report,
    down_after: Duration,
    /// Age at which sessions that are made from now on are renewed.
    rekey_after: Duration,
    debt: AckDebt,
    pongs: VecDeque<(u64, Instant)>,
    /// Token and size of probes to be answered, and since when.
    mtu_answers: VecDeque<(u64, usize, Instant)>,
    /// When the other end is told again of retired symbols, and when it was last.
    forget_at: Option<Instant>,
    forgot: Option<Instant>,
    evidence: Option<lane::Evidence>,
    reordering: Reordering,
    loss_timer: Option<Instant>,
    last_eliciting: Option<Instant>,
    pto_backoff: u32,
    probes_owed: u8,
    last_heard: Option<Instant>,
    /// When an acknowledgement last told of newer packets.
    reported: Option<Instant>,
    turns: Turns,
    /// Datagrams are marked as ECN-capable: not where all that are vanish.
    ecn: bool,
    closing: bool,
    outbox: VecDeque<(SocketAddr, Vec<u8>)>,
    events: VecDeque<TunnelEvent>,
    counters: TunnelCounters,
    handshakes_made: u64,
    scratch: Vec<u8>,
    /// What was unacknowledged when the peer's or this node's former life ended.
    orphans: Option<Box<[SendLane; 3]>>,
}

impl Tunnel {
    pub(crate) fn new(
        now: Instant,
        id: PeerId,
        config: &config::Config,
        peer: &config::Peer,
    ) -> Self {
        let interval = config.mesh.probe_interval;
        let fec = |lane| {
            let guard = match lane {
                Lane::Control => Guard::LIGHT,
                Lane::Express => Guard::FIRM,
                Lane::Bulk => Guard::NONE,
            };
            BlockSender::new(config.relay.fec, guard, MAX_SYMBOL)
        };
        let mut tunnel = Self {
            id,
            local: config.node_id.clone(),
            remote_id: peer.node_id.clone(),
            remote_hash: peer.node_id.hash32(),
            region: peer.region.clone(),
            keys: Vec::new(),
            handshakes: Handshakes::new(now, peer.addr.as_ref()),
            remote: None,
            current: None,
            previous: None,
            unconfirmed: Vec::new(),
            lives: None,
            lanes: Lane::ALL.map(SendLane::new),
            windows: Lane::ALL.map(|_| SymbolWindow::new()),
            fec_out: Lane::ALL.map(fec),
            fec_in: Lane::ALL.map(|_| BlockReceiver::new(1 << FEC_RING_LOG2, MAX_SYMBOL)),
            bulk_parity_in: None,
            rtt: RttEstimator::new(),
            latency: Latency::new(),
            loss: LossEstimator::new(),
            loss_in: LossEstimator::new(),
            silence: Silence::new(),
            pace: Pace::default(),
            outage: false,
            rate: Box::new(PathModel::new()),
            rate_cap: None,
            pacer: Pacer::new(now),
            mtud: PathMtu::new(config.mesh.max_udp_payload),
            pinger: Pinger::new(now, interval),
            answered: None,
            withheld: Report::default(),
            down_after: DOWN_AFTER.max(interval * DOWN_AFTER_PROBES),
            rekey_after: config.limits.rekey_after,
            debt: AckDebt::default(),
            pongs: VecDeque::new(),
            mtu_answers: VecDeque::new(),
            forget_at: None,
            forgot: None,
            evidence: None,
            reordering: Reordering::default(),
            loss_timer: None,
            last_eliciting: None,
            pto_backoff: 0,
            probes_owed: 0,
            last_heard: None,
            reported: None,
            turns: Turns::new(),
            ecn: true,
            closing: false,
            outbox: VecDeque::new(),
            events: VecDeque::new(),
            counters: TunnelCounters::default(),
            handshakes_made: 0,
            scratch: Vec::with_capacity(mtud::ETHERNET),
            orphans: None,
        };
        tunnel.reconfigure(now, config, peer);
        tunnel
    }

    /// Takes what may change while the tunnel lives.
    pub(crate) fn reconfigure(
        &mut self,
        now: Instant,
        config: &config::Config,
        peer: &config::Peer,
    ) {
        let psks = [Some(&peer.shared_key), peer.next_shared_key.as_ref()];
        let make =
            |psk: &config::PresharedKey| PeerKeys::new(psk.clone(), &self.local, &self.remote_id);
        self.keys = psks.into_iter().flatten().map(make).collect();
        self.region.clone_from(&peer.region);
        self.handshakes.set_target(peer.addr.as_ref());
        self.rate_cap = peer.max_rate_mbps.map(|mbps| mbps * 1e6 / 8.0);
        self.rate.set_cap(self.rate_cap);
        let interval = config.mesh.probe_interval;
        self.pinger.set_interval(interval);
        self.turns.set_share(config.lanes.express_share);
        self.down_after = DOWN_AFTER.max(interval * DOWN_AFTER_PROBES);
        self.rekey_after = config.limits.rekey_after;
        if self.mtud.set_max(config.mesh.max_udp_payload) {
            self.give_up_long_parity(now);
        }
    }

    pub(crate) fn remote_id(&self) -> &NodeId {
        &self.remote_id
    }

    pub(crate) fn remote_hash(&self) -> NodeHash {
        self.remote_hash
    }

    pub(crate) fn keys(&self) -> &[PeerKeys] {
        &self.keys
    }

    pub(crate) fn packets_accepted(&self) -> u64 {
        self.counters.packets_in
    }

    /// Whether authenticated traffic arrived lately.
    pub(crate) fn is_up(&self, now: Instant) -> bool {
        self.current.is_some()
            && self.last_heard.is_some_and(|at| now.saturating_duration_since(at) < self.down_after)
    }

    /// Smoothed round trip time to the neighbour.
    pub(crate) fn rtt(&self) -> Duration {
        self.rtt.smoothed()
    }

    /// Bytes per second that the controller allows.
    pub(crate) fn rate(&self) -> f64 {
        self.rate.pacing_rate()
    }

    /// Whether symbols wait for acknowledgement.
    pub(crate) fn has_unacked(&self) -> bool {
        self.lanes.iter().any(|lane| lane.unacked() > 0)
    }

    /// When the oldest symbol was sent that waits for acknowledgement.
    pub(crate) fn held_since(&self) -> Option<Instant> {
        self.lanes.iter().filter_map(SendLane::held_since).min()
    }

    /// The peer is no longer configured: nothing is said to it or taken from it. What both ends number
    /// is kept, for the peer may be configured again in the same lives.
    pub(crate) fn park(&mut self, now: Instant, shared: &mut Shared) {
        self.reset_sessions(now, shared);
        self.keys.clear();
        self.handshakes.set_target(None);
        self.remote = None;
        self.path_changed(now);
        self.outbox.clear();
        self.closing = false;
    }

    pub(crate) fn is_parked(&self) -> bool {
        self.keys.is_empty()
    }

    pub(crate) fn poll_event(&mut self) -> Option<TunnelEvent> {
        self.events.pop_front()
    }

    fn estimate(&self) -> Estimate {
        Estimate {
            loss: self.loss.loss(),
            mean_burst: self.loss.mean_burst(),
            samples: self.loss.samples(),
            rtt: self.rtt.smoothed(),
        }
    }

    /// How late a packet may come that is not lost.
    fn reordering(&self) -> Duration {
        let least = (self.rtt.min() / 8).max(MIN_REORDERING);
        self.reordering.window().clamp(least, self.rtt.smoothed().max(least))
    }

    /// Makes `session` the one to send with.
    fn adopt(&mut self, now: Instant, shared: &mut Shared, mut session: Session, from: Remote) {
        let lives = session.lives;
        let fresh = self.lives != Some(lives);
        if fresh {
            self.forget_symbols();
            // Transit times were by the clock of the peer's former life.
            self.rate = Box::new(PathModel::new());
            self.rate.set_cap(self.rate_cap);
            self.retire(shared, |_| true);
            self.unconfirmed.retain(|(other, _)| {
                let keep = other.lives == lives;
                if !keep {
                    shared.indices.remove(&other.local);
                }
                keep
            });
        }
        session.adopted = now;
        let begun = session.begun;
        self.handshakes_made += 1;
        self.handshakes.succeeded(now);
        self.last_heard = Some(now);
        if self.remote.is_some_and(|old| old.addr != from.addr) {
            self.path_changed(now);
        }
        self.remote = Some(from);
        // Of two initiations that crossed, each sent before its sender knew of the other, both ends use
        // the one of the smaller node id; either end can open both.
        let loses = self.current.as_ref().is_some_and(|old| {
            old.lives == lives
                && old.is_initiator != session.is_initiator
                && old.is_initiator == (self.local < self.remote_id)
                && session.begun
                    <= old.adopted
                        + if session.is_initiator {
                            Duration::ZERO
                        } else {
                            self.rtt.smoothed() * 2
                        }
        });
        let outgoing = if loses {
            self.previous.replace(session)
        } else {
            let old = self.current.replace(session);
            if old.is_some() { std::mem::replace(&mut self.previous, old) } else { None }
        };
        if let Some(old) = outgoing {
            shared.indices.remove(&old.local);
        }
        self.lives = Some(lives);
        self.closing = false;
        self.ecn = true;
        self.events.push_back(TunnelEvent::Up { lives, fresh });
        self.pinger.hurry(now);
        self.on_renewed(now, begun);
        tracing::debug!(peer = %self.remote_id, fresh, crossed = loses, "session made");
    }

    fn forget_symbols(&mut self) {
        let lanes = std::mem::replace(&mut self.lanes, Lane::ALL.map(SendLane::new));
        let is_orphaned = lanes.iter().any(|lane| lane.unacked() > 0 || lane.piece().is_some());
        self.orphans = is_orphaned.then(|| Box::new(lanes));
        self.windows.iter_mut().for_each(|w| *w = SymbolWindow::new());
        self.fec_out.iter_mut().for_each(BlockSender::clear);
        self.fec_in.iter_mut().for_each(BlockReceiver::clear);
        self.debt = AckDebt::default();
        self.evidence = None;
        self.loss_timer = None;
        self.last_eliciting = None;
        self.pto_backoff = 0;
        self.probes_owed = 0;
        self.forget_at = None;
    }

    /// Drops established sessions that `which` names.
    fn retire(&mut self, shared: &mut Shared, which: impl Fn(&Session) -> bool) {
        for slot in [&mut self.current, &mut self.previous] {
            if let Some(session) = slot.take_if(|s| which(s)) {
                shared.indices.remove(&session.local);
            }
        }
    }

    /// Drops every session and attempt: this node begins another life.
    pub(crate) fn reset_sessions(&mut self, now: Instant, shared: &mut Shared) {
        self.retire(shared, |_| true);
        for (session, _) in self.unconfirmed.drain(..) {
            shared.indices.remove(&session.local);
        }
        self.drop_attempts(shared);
        self.handshakes.hurry(now);
    }

    fn drop_attempts(&mut self, shared: &mut Shared) {
        for Attempt { index, .. } in self.handshakes.attempts.drain(..) {
            shared.indices.remove(&index);
        }
    }

    /// Tells the peer that this node goes away.
    pub(crate) fn close(&mut self) {
        self.closing = self.current.is_some();
    }

    /// Whether nothing is left to be said before the end.
    pub(crate) fn is_closed(&self) -> bool {
        !self.closing
    }

    pub(crate) fn status(&self, now: Instant) -> PeerStatus {
        let mut counters = self.counters;
        for fec in &self.fec_in {
            counters.fec_recovered += fec.counters().recovered;
            counters.fec_corrupt += fec.counters().corrupt;
        }
        PeerStatus {
            node_id: self.remote_id.to_string(),
            region: self.region.clone(),
            up: self.is_up(now),
            addr: self.remote.map(|r| r.addr.to_string()),
            session_age_s: self.current.as_ref().map(|s| s.age(now).as_secs()),
            handshakes: self.handshakes_made,
            suspect: self.silence.is_suspect(),
            suspected: self.silence.suspected(),
            rtt_us: self.rtt.sampled().map(|d| d.as_micros() as u64),
            loss_out_pct: self.loss.loss() * 100.0,
            burst_out: self.loss.mean_burst(),
            rate_mbps: self.rate.pacing_rate() * 8.0 / 1e6,
            udp_payload: self.mtud.size(),
            counters,
        }
    }
}
