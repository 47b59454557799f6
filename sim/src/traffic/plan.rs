//! What clients and origins do.

use std::time::Duration;

use super::pattern::NAME_LEN;
use crate::engine::HostId;

/// Connections of one kind between two hosts.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    /// Its name in results; also the name of its service.
    pub name: String,
    /// Where the clients connect.
    pub from: HostId,
    /// Where the origin is dialled.
    pub to: HostId,
    /// When it begins.
    pub start: Duration,
    /// When connections are opened.
    pub arrivals: Arrivals,
    /// What each does.
    pub plan: Plan,
    /// The origin refuses connections from the start; see also
    /// [`Fault::Origins`](crate::engine::Fault::Origins).
    pub refused: bool,
}

/// When the connections of a workload are opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrivals {
    /// So many at the start.
    Together(u32),
    /// One at the start and then one each time so much has passed, while `until` has not come.
    Every {
        /// Between two.
        gap: Duration,
        /// Since the start of the run.
        until: Duration,
    },
}

/// What the two ends of a connection do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plan {
    /// Who sends how much.
    pub kind: Kind,
    /// The client closes its half after its last byte, and the origin answers that one, or begins to
    /// send, only when it has seen the end.
    pub half_close: bool,
    /// The client.
    pub client: Habits,
    /// The origin.
    pub origin: Habits,
}

impl Plan {
    /// Both ends read as fast as they can and close in order.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        let habits = Habits::default();
        Self { kind, half_close: false, client: habits, origin: habits }
    }
}

/// Who sends how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The client asks, the origin answers, the client asks again. The client closes first.
    Exchanges {
        /// How often.
        count: u32,
        /// Bytes of a request, at least 8.
        request: u64,
        /// Bytes of an answer.
        answer: u64,
        /// From an answer to the next request.
        pause: Duration,
    },
    /// A short request; the origin sends and closes first.
    Download(Amount),
    /// The client sends and closes its half; the origin answers shortly.
    Upload(Amount),
}

/// Bytes of a short request or answer.
pub(crate) const SHORT: u64 = 16;

/// How much a sender sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// So many bytes, at least 8.
    Bytes(u64),
    /// Whatever is taken in that time from when it began.
    For(Duration),
}

/// How one end treats its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Habits {
    /// Reads no faster than so many bytes per second, in steps of 10 ms.
    pub reads_per_second: Option<u64>,
    /// If it reads so slowly, in steps of this length instead: between two of them nothing moves, and
    /// whoever is to tell the other side that there is room again has one chance.
    pub reads_every: Option<Duration>,
    /// Breaks the connection off (RST) once so many bytes went the way that most go: to the client,
    /// or in an [upload](Kind::Upload) to the origin.
    pub resets_after: Option<u64>,
}

/// Port of every origin.
pub(crate) const TARGET_PORT: u16 = 80;

impl Workload {
    /// Whether its connections can be told apart and come to an end.
    pub(crate) fn validate(&self) -> Result<(), &'static str> {
        let amount = |amount| !matches!(amount, Amount::Bytes(bytes) if bytes < NAME_LEN);
        if matches!(self.arrivals, Arrivals::Every { gap, .. } if gap.is_zero()) {
            return Err("connections open at no distance: give a gap above zero");
        }
        match self.plan.kind {
            Kind::Exchanges { count: 0, .. } => Err("no exchange: give 1 or more"),
            Kind::Exchanges { answer: 0, .. } => Err("an answer of no bytes: give 1 or more"),
            Kind::Exchanges { request, .. } if request < NAME_LEN => {
                Err("a request of less than 8 bytes cannot hold the connection's number")
            }
            Kind::Upload(bytes) if !amount(bytes) => {
                Err("an upload of less than 8 bytes cannot hold the connection's number")
            }
            _ => Ok(()),
        }
    }

    /// What the host at the origin's side is to dial for it: `host:port`, where the host is no
    /// address but names the workload.
    #[must_use]
    pub fn target(&self) -> String {
        format!("{}:{TARGET_PORT}", self.name)
    }
}
