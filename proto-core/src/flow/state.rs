//! One flow: both halves, the connection it ends in, and how it ends.

use std::time::{Duration, Instant};

use crate::flow::receive::ReceiveHalf;
use crate::flow::send::SendHalf;
use crate::ids::{ConnId, Lane, NodeHash, PeerId, ServiceName};
use crate::wire::endpoints::Endpoints;
use crate::wire::flow::{self, Direction, FlowAck, FlowKey, Head, ResetCode};

/// Acknowledgements wait so long for data to travel with.
pub(super) const ACK_DELAY: Duration = Duration::from_millis(20);
/// A flow whose both ends are done still answers late duplicates for as long as data may stay in the mesh.
pub(super) const LINGER: Duration = Duration::from_secs(10);
/// A client waits so long for a way to its destination.
pub(super) const ROUTE_WAIT: Duration = Duration::from_secs(10);
/// A flow whose destination is out of reach for so long is reset.
pub(super) const UNREACHABLE_WAIT: Duration = Duration::from_secs(30);
/// A reset is repeated after this time, twice this, …
const RESET_REPEAT: Duration = Duration::from_secs(1);
/// … and given up after this.
const RESET_GIVE_UP: Duration = Duration::from_secs(30);
/// A connection that takes no more bytes is broken off so long after the other end reset the flow.
const RESET_DRAIN: Duration = Duration::from_secs(10);
/// No progress for so long, or four round trips: look for what is missing.
const STALL: Duration = Duration::from_secs(1);
/// It is doubled no more often than so.
const MAX_BACKOFF: u32 = 3;
/// A relay had no way: until it has one, or this node another.
const LOOK_SOON: Duration = Duration::from_millis(250);

/// Which end of the flow this node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    Ingress,
    Egress,
}

/// The TCP connection of this end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Conn {
    /// Being dialled.
    Opening,
    Open,
    /// Over for us.
    Gone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AckState {
    Quiet,
    /// Owed, to travel with data or alone at that time.
    At(Instant),
    /// Owed at once.
    Now,
}

/// A reset that we declared.
#[derive(Debug)]
pub(super) struct ResetOut {
    pub code: ResetCode,
    /// Bytes of our direction that the other end is still to get.
    pub final_size: u64,
    pub due: bool,
    /// The other end has heard of it.
    pub told: bool,
    pub repeat_at: Instant,
    pub interval: Duration,
    pub give_up_at: Instant,
}

/// A reset that the other end declared.
#[derive(Debug)]
pub(super) struct ResetIn {
    pub final_size: u64,
    pub give_up_at: Instant,
}

/// What a new flow is given, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    /// Each half may hold so much at most.
    pub cap: u64,
    /// So much of a burst travels in the express lane.
    pub express: u64,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Flow {
    /// `None` until the first frame leaves: only then the egress's life is certain.
    pub key: Option<FlowKey>,
    pub role: Role,
    /// The node at the other end, and the neighbour on the way there, if there is a way.
    pub remote: NodeHash,
    pub hop: Option<PeerId>,
    pub service: ServiceName,
    /// Whom it serves.
    pub endpoints: Endpoints,
    pub conn_id: ConnId,
    pub conn: Conn,
    pub tx: SendHalf,
    pub rx: ReceiveHalf,
    pub created: Instant,
    /// Ingress: the open must still be sent; it is known to have arrived.
    pub open_due: bool,
    pub opened: bool,
    pub ack: AckState,
    /// The last ask, and whether it is still to be sent.
    pub ask: u64,
    pub ask_due: bool,
    /// The highest ask of the other end.
    pub asked: u64,
    /// Bytes that arrived with the mark of congestion.
    pub marked: u64,
    /// The connection's other side has closed its sending half; we have closed ours.
    pub eof: bool,
    pub shutdown: bool,
    pub reset_out: Option<ResetOut>,
    pub reset_in: Option<ResetIn>,
    pub linger_until: Option<Instant>,
    pub stall_at: Option<Instant>,
    /// A relay reported a loss: what is missing is asked for then.
    pub look_at: Option<Instant>,
    /// Times in a row that something was looked for and nothing had moved.
    pub stalls: u32,
    /// The timer that is set for this flow.
    pub armed: Option<Instant>,
    pub queued: [bool; 3],
    pub deficit: i64,
    pub writing: bool,
    /// Bytes that each half may hold at most.
    pub cap: u64,
    pub reserved: u64,
}

impl Flow {
    pub(super) fn new(
        now: Instant,
        role: Role,
        remote: NodeHash,
        hop: Option<PeerId>,
        (service, endpoints): (ServiceName, Endpoints),
        conn_id: ConnId,
        sizes: Sizes,
    ) -> Self {
        Self {
            key: None,
            role,
            remote,
            hop,
            service,
            endpoints,
            conn_id,
            conn: if role == Role::Ingress { Conn::Open } else { Conn::Opening },
            tx: SendHalf::new(sizes.express),
            rx: ReceiveHalf::new(),
            created: now,
            open_due: role == Role::Ingress,
            opened: role == Role::Egress,
            ack: AckState::Quiet,
            ask: 0,
            ask_due: false,
            asked: 0,
            marked: 0,
            eof: false,
            shutdown: false,
            reset_out: None,
            reset_in: None,
            linger_until: None,
            stall_at: None,
            look_at: None,
            stalls: 0,
            armed: None,
            queued: [false; 3],
            deficit: 0,
            writing: false,
            cap: sizes.cap,
            reserved: 0,
        }
    }

    /// Whether it counts as a flow for people.
    pub(super) fn is_live(&self) -> bool {
        self.linger_until.is_none() && self.conn != Conn::Gone
    }

    /// Whether the shell has done with the connection, or will have without being told.
    pub(super) fn is_conn_over(&self) -> bool {
        self.conn == Conn::Gone || (self.shutdown && self.eof)
    }

    /// The head of frames that this end sends.
    pub(super) fn head(&self, key: FlowKey) -> Head {
        let direction = match self.role {
            Role::Ingress => Direction::ToEgress,
            Role::Egress => Direction::ToIngress,
        };
        Head::new(key, direction)
    }

    /// Whether this end has frames for `lane`.
    pub(super) fn wants(&self, lane: Lane) -> bool {
        if lane == Lane::Control {
            return self.key.is_some()
                && (self.ack == AckState::Now
                    || self.ask_due
                    || self.reset_out.as_ref().is_some_and(|r| r.due));
        }
        self.data_lane() == Some(lane)
    }

    pub(super) fn data_lane(&self) -> Option<Lane> {
        if self.linger_until.is_some() {
            return None;
        }
        if self.open_due {
            return Some(Lane::Express);
        }
        self.tx.lane()
    }

    /// An acknowledgement is owed, at the latest after [`ACK_DELAY`].
    pub(super) fn owe_ack(&mut self, now: Instant, at_once: bool) {
        if at_once {
            self.ack = AckState::Now;
        } else if self.ack == AckState::Quiet {
            self.ack = AckState::At(now + ACK_DELAY);
        }
    }

    pub(super) fn declare_reset(&mut self, now: Instant, code: ResetCode, final_size: u64) {
        self.reset_out = Some(ResetOut {
            code,
            final_size,
            due: true,
            told: false,
            repeat_at: now + RESET_REPEAT,
            interval: RESET_REPEAT,
            give_up_at: now + RESET_GIVE_UP,
        });
    }

    pub(super) fn accept_reset(&mut self, now: Instant, final_size: u64) {
        if self.reset_in.is_none() {
            self.reset_in = Some(ResetIn { final_size, give_up_at: now + RESET_DRAIN });
        }
    }

    /// Something that was under way may be gone: the other end is asked what has arrived. One that may not
    /// have heard of the flow is told again.
    pub(super) fn look_for_holes(&mut self, now: Instant) {
        if self.key.is_none() || !self.awaits_other_end() {
            return;
        }
        if let Some(reset) = self.reset_out.as_mut().filter(|reset| !reset.told) {
            reset.due = true;
        }
        if self.opened {
            self.ask += 1;
            self.ask_due = true;
            self.tx.note_ask(self.ask);
        } else if self.tx.is_outstanding() {
            self.tx.resend_holes();
        } else {
            self.open_due = true;
        }
        self.tx.progress = Some(now);
    }

    /// After how long without progress something is to be done: each time in vain, after twice as long.
    pub(super) fn patience(&self, rtt: Duration) -> Duration {
        STALL.max(rtt * 4) * 2u32.pow(self.stalls.min(MAX_BACKOFF))
    }

    /// The next look for what is missing is taken soon.
    pub(super) fn look_soon(&mut self, now: Instant) {
        let soon = now + LOOK_SOON;
        self.stalls = 0;
        self.look_at = Some(self.look_at.map_or(soon, |at| at.min(soon)));
    }

    /// Whether something is expected from the other end.
    pub(super) fn awaits_other_end(&self) -> bool {
        self.linger_until.is_none()
            && (self.tx.is_outstanding()
                || self.reset_out.as_ref().is_some_and(|reset| !reset.told)
                || self.tx.is_blocked()
                || self.key.is_none()
                || (self.role == Role::Ingress && !self.opened))
    }

    /// When this flow wants to be looked at.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let ack = match self.ack {
            AckState::At(at) => Some(at),
            AckState::Quiet | AckState::Now => None,
        };
        let reset_out =
            self.reset_out.as_ref().map(|r| if r.told { r.give_up_at } else { r.repeat_at });
        let reset_in = self.reset_in.as_ref().map(|r| r.give_up_at);
        let all = [ack, reset_out, reset_in, self.linger_until, self.stall_at, self.look_at];
        all.into_iter().flatten().min()
    }

    /// Appends the acknowledgement that is owed.
    pub(super) fn put_ack(&mut self, key: FlowKey, out: &mut Vec<u8>) {
        let head = self.head(key);
        let (cumulative, credit, fin, ranges) = self.rx.announce();
        let (marked, asked) = (self.marked, self.asked);
        flow::put_ack(out, &head, &FlowAck { cumulative, credit, fin, marked, asked, ranges });
        self.ack = AckState::Quiet;
    }
}
