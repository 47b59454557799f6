//! One connection between a client and an origin: what each wants to write, and the reference model of
//! both streams.

use std::time::Duration;

use entrouter_proto::ConnId;

use super::Pattern;
use super::pattern::NAME_LEN;
use super::plan::{Amount, Kind, Plan, SHORT};
use crate::engine::HostId;
use crate::time::Time;

/// An end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Origin,
}

/// Where an end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The origin has not heard of it.
    Unknown,
    Open(HostId, ConnId),
    Over,
}

/// One stream of bytes, as its sender wrote it and as it arrived.
#[derive(Debug)]
pub(crate) struct Direction {
    pub pattern: Pattern,
    /// Bytes that the sending application has put into its socket.
    pub written: u64,
    /// It has closed its half: `written` is final.
    pub closed: bool,
    /// Bytes that arrived, each of them compared.
    pub delivered: u64,
    /// The receiver saw the clean end.
    pub ended: bool,
    /// Since when something that was written has not arrived.
    waiting: Option<Time>,
}

impl Direction {
    fn new(pattern: Pattern) -> Self {
        Self { pattern, written: 0, closed: false, delivered: 0, ended: false, waiting: None }
    }

    /// Bytes arrived; how long nothing had.
    pub(crate) fn deliver(&mut self, now: Time, bytes: u64) -> Duration {
        self.delivered += bytes;
        let waited = self.waiting.map_or(Duration::ZERO, |since| now.since(since));
        self.waiting = (self.delivered < self.written).then_some(now);
        waited
    }
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Deal {
    pub workload: usize,
    pub plan: Plan,
    /// Client to origin, and back.
    pub up: Direction,
    pub down: Direction,
    pub client: End,
    pub origin: End,
    /// Why this connection may end by a reset. Without it, it must complete.
    pub excuse: Option<&'static str>,
    /// It was counted as completed or reset.
    pub counted: bool,
    /// Requests issued, and answers that arrived whole.
    asked: u32,
    answered: u32,
    asked_at: Time,
    /// The time of a sender that sends for a time is over.
    stopped: bool,
    stop_set: bool,
}

impl Deal {
    /// `key` is the deal's own.
    pub(crate) fn new(now: Time, name: u64, key: u64, workload: usize, plan: Plan) -> Self {
        Self {
            workload,
            plan,
            up: Direction::new(Pattern::named(key, name)),
            down: Direction::new(Pattern::new(!key)),
            client: End::Unknown,
            origin: End::Unknown,
            excuse: None,
            counted: false,
            asked: 1,
            answered: 0,
            asked_at: now,
            stopped: false,
            stop_set: false,
        }
    }

    pub(crate) fn end(&mut self, side: Side) -> &mut End {
        match side {
            Side::Client => &mut self.client,
            Side::Origin => &mut self.origin,
        }
    }

    /// What that side sends.
    pub(crate) fn sent_by(&mut self, side: Side) -> &mut Direction {
        match side {
            Side::Client => &mut self.up,
            Side::Origin => &mut self.down,
        }
    }

    /// What that side receives.
    pub(crate) fn received_by(&mut self, side: Side) -> &mut Direction {
        match side {
            Side::Client => &mut self.down,
            Side::Origin => &mut self.up,
        }
    }

    /// Everything arrived, and both ends closed in order.
    pub(crate) fn is_complete(&self) -> bool {
        self.up.ended && self.down.ended
    }

    /// Nothing of it is open any more.
    pub(crate) fn is_over(&self) -> bool {
        self.client == End::Over && !matches!(self.origin, End::Open(..))
    }

    /// How many bytes that side wants to have written, and whether it closes its half after them.
    fn wants(&self, side: Side) -> (u64, bool) {
        let amount = |amount, written: u64| match amount {
            Amount::Bytes(bytes) => (bytes, true),
            Amount::For(_) if self.stopped => (written.max(NAME_LEN), true),
            Amount::For(_) => (u64::MAX, false),
        };
        match (side, self.plan.kind) {
            (Side::Client, Kind::Exchanges { count, request, .. }) => {
                let done = if self.plan.half_close { self.asked } else { self.answered };
                (u64::from(self.asked) * request, done >= count)
            }
            (Side::Client, Kind::Download(_)) => (SHORT, self.plan.half_close || self.down.ended),
            (Side::Client, Kind::Upload(bytes)) => amount(bytes, self.up.written),
            (Side::Origin, Kind::Exchanges { count, request, answer, .. }) => {
                let heard = u32::try_from(self.up.delivered / request).unwrap_or(u32::MAX);
                let waits = self.plan.half_close && !self.up.ended;
                let due = if waits { heard.min(count - 1) } else { heard };
                (u64::from(due) * answer, self.up.ended)
            }
            (Side::Origin, Kind::Download(bytes)) if self.is_begun() => {
                amount(bytes, self.down.written)
            }
            (Side::Origin, Kind::Upload(_)) if self.up.ended => (SHORT, true),
            (Side::Origin, _) => (0, false),
        }
    }

    /// The origin has heard what it waits for before it sends.
    fn is_begun(&self) -> bool {
        if self.plan.half_close { self.up.ended } else { self.up.delivered >= SHORT }
    }

    /// That side writes what it wants to and the socket takes, which holds `room` bytes beyond what
    /// `taken` was taken out of it. True if anything changed.
    pub(crate) fn write(&mut self, now: Time, side: Side, taken: u64, room: u64) -> bool {
        let (target, closes) = self.wants(side);
        let stream = self.sent_by(side);
        if stream.closed {
            return false;
        }
        let before = stream.written;
        stream.written = before.max(target.min(taken + room));
        stream.closed = closes && stream.written >= target;
        if stream.written > stream.delivered {
            stream.waiting.get_or_insert(now);
        }
        stream.written > before || stream.closed
    }

    /// Whether that side breaks the connection off now; `taken` of what it sent is on its way.
    pub(crate) fn breaks_off(&mut self, side: Side, taken: u64) -> bool {
        let upload = matches!(self.plan.kind, Kind::Upload(_));
        let after = match side {
            Side::Client => self.plan.client.resets_after,
            Side::Origin => self.plan.origin.resets_after,
        };
        let sends = upload == (side == Side::Client);
        let progress = if sends { taken } else { self.received_by(side).delivered };
        after.is_some_and(|after| progress >= after)
    }

    /// When the sender is to stop that sends for a time; told once, when it begins.
    pub(crate) fn stop_after(&mut self) -> Option<Duration> {
        let (amount, begun) = match self.plan.kind {
            Kind::Download(amount) => (amount, self.is_begun()),
            Kind::Upload(amount) => (amount, true),
            Kind::Exchanges { .. } => return None,
        };
        match amount {
            Amount::For(time) if begun && !self.stop_set => {
                self.stop_set = true;
                Some(time)
            }
            _ => None,
        }
    }

    pub(crate) fn stop(&mut self) {
        self.stopped = true;
    }

    /// The time of an exchange that the bytes delivered so far have completed; ask until `None`.
    pub(crate) fn next_answered(&mut self, now: Time) -> Option<Duration> {
        let Kind::Exchanges { answer, .. } = self.plan.kind else { return None };
        let whole = u64::from(self.answered + 1) * answer;
        if self.answered == self.asked || self.down.delivered < whole {
            return None;
        }
        self.answered += 1;
        Some(now.since(self.asked_at))
    }

    /// The pause before the client asks again, if it is to.
    pub(crate) fn pause(&self) -> Option<Duration> {
        match self.plan.kind {
            Kind::Exchanges { count, pause, .. }
                if self.answered == self.asked && self.asked < count =>
            {
                Some(pause)
            }
            _ => None,
        }
    }

    pub(crate) fn ask(&mut self, now: Time) {
        self.asked += 1;
        self.asked_at = now;
    }
}
