//! What clients and origins do.

use std::collections::BTreeMap;
use std::time::Duration;

use entrouter_proto::ids::ServiceName;
use toml::Table;

use super::error::Problem;
use super::links::LinkSpec;
use super::paths::{self, Path};
use super::raw::{RawKind, RawOrigin, RawWorkload, read};
use super::values::At;
use super::{Pop, PopId};

/// Clients at one PoP that talk to an origin at another, or at the same one.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    /// Unique; usable as the name of a service.
    pub name: ServiceName,
    /// Where clients connect.
    pub from: PopId,
    /// Whose origin it is.
    pub to: PopId,
    /// The way between the two of least RTT, over the links as they are at the start.
    pub path: Path,
    /// When connections are opened.
    pub opening: Opening,
    /// What goes over each of them.
    pub kind: WorkloadKind,
    /// What its clients do besides.
    pub client: Client,
    /// What its origin does besides.
    pub origin: Origin,
}

/// When connections are opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// All at one time.
    AtOnce {
        /// When.
        at: Duration,
        /// How many, 1 to 10,000.
        connections: u32,
    },
    /// One after the other, whether or not those before are done: at most 100,000.
    Every {
        /// The first one.
        first: Duration,
        /// Time between two; above zero.
        interval: Duration,
        /// None is opened after this.
        until: Duration,
    },
}

impl Opening {
    /// When each connection is opened.
    pub fn times(self) -> impl Iterator<Item = Duration> {
        let (first, interval, count) = match self {
            Self::AtOnce { at, connections } => (at, Duration::ZERO, connections),
            Self::Every { first, interval, until } => {
                let count = until.saturating_sub(first).as_nanos() / interval.as_nanos().max(1);
                (first, interval, u32::try_from(count).unwrap_or(u32::MAX).saturating_add(1))
            }
        };
        (0..count).map(move |n| first + interval * n)
    }
}

/// What goes over each connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkloadKind {
    /// The client sends a request, waits for the whole answer, pauses, and begins again.
    Request {
        /// Exchanges, 1 to 10^7.
        count: u64,
        /// Size of a request, 8 bytes to 16 MiB.
        request_bytes: u64,
        /// Size of an answer, 1 byte to 1 GiB.
        answer_bytes: u64,
        /// Between an answer and the next request.
        pause: Duration,
        /// Whether the client closes its half behind its last request, and the origin answers that
        /// one only when it has seen the close.
        half_close: bool,
    },
    /// The client asks once, and the origin sends.
    Download {
        /// How much.
        amount: Amount,
        /// Whether the client closes its half behind its request, and the origin begins only when
        /// it has seen the close.
        half_close: bool,
    },
    /// The client sends.
    Upload {
        /// How much.
        amount: Amount,
    },
}

/// How much is sent one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// A size in bytes, 1 to 2^40.
    Bytes(u64),
    /// As much as goes in that time, from when its sender begins.
    For(Duration),
}

/// Bits per second, above zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BitRate(pub u64);

/// What clients do besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Client {
    /// They read no faster than this.
    pub reads_at: Option<BitRate>,
    /// They reset when they have received (in an upload: sent) so many bytes.
    pub resets_after: Option<u64>,
}

/// What an origin does besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It refuses connections.
    Refuses,
    /// It accepts them.
    Accepts {
        /// It reads no faster than this.
        reads_at: Option<BitRate>,
        /// It resets when it has sent (in an upload: received) so many bytes.
        resets_after: Option<u64>,
    },
}

const MAX_OPENED: u128 = 100_000;
const MAX_RESET: u64 = 1_000_000_000_000;

pub(super) fn workloads(
    pops: &[Pop],
    links: &[LinkSpec],
    tables: BTreeMap<String, Table>,
) -> Result<Vec<Workload>, Problem> {
    if tables.is_empty() {
        return Err(Problem::new("workload", "there is no traffic: add a table [workload.NAME]"));
    }
    tables.into_iter().map(|(name, table)| workload(pops, links, &name, table)).collect()
}

fn workload(
    pops: &[Pop],
    links: &[LinkSpec],
    name: &str,
    table: Table,
) -> Result<Workload, Problem> {
    let key = format!("workload.{name}");
    let raw: RawWorkload = read(&key, table)?;
    let at = At(&key);
    let name = ServiceName::new(name)
        .map_err(|_| Problem::new(&key, "name it with 1 to 64 characters of A-Z a-z 0-9 . _ -"))?;
    let from = raw.from.as_deref().map_or(Ok(PopId(0)), |name| pop(pops, at, "from", name))?;
    let to = raw.to.as_deref().map_or(Ok(PopId(1)), |name| pop(pops, at, "to", name))?;
    let path = paths::shortest(links, from, to).ok_or_else(|| {
        let problem =
            format!("no links lead from {} to {}: add some", pops[from.0].name, pops[to.0].name);
        at.problem("to", problem)
    })?;
    let after = |name, after: Option<u64>| {
        after.map(|after| at.count(name, after, 1..=MAX_RESET, "bytes")).transpose()
    };
    Ok(Workload {
        name,
        from,
        to,
        path,
        opening: opening(at, &raw)?,
        kind: kind(at, &raw)?,
        client: Client {
            reads_at: bit_rate(at, "read_kbps", raw.read_kbps)?,
            resets_after: after("client_resets_after", raw.client_resets_after)?,
        },
        origin: origin(at, &raw, after("origin_resets_after", raw.origin_resets_after)?)?,
    })
}

/// The PoP that the key `name` names.
pub(super) fn pop(pops: &[Pop], at: At<'_>, name: &str, found: &str) -> Result<PopId, Problem> {
    let known = pops.iter().position(|pop| pop.name.as_str() == found).map(PopId);
    known.ok_or_else(|| {
        let names: Vec<&str> = pops.iter().map(|pop| pop.name.as_str()).collect();
        at.problem(name, format!("there is no PoP \"{found}\": name one of {}", names.join(", ")))
    })
}

fn opening(at: At<'_>, raw: &RawWorkload) -> Result<Opening, Problem> {
    let first = at.seconds("start_s", raw.start_s, 0.0..=86_400.0)?;
    let interval = at.millis("every_ms", raw.every_ms, 0.001..=86_400_000.0)?;
    match (interval, raw.until_s, raw.connections) {
        (None, None, connections) => {
            let connections =
                at.count("connections", connections.unwrap_or(1), 1..=10_000, "connections")?;
            let connections = u32::try_from(connections).unwrap_or(u32::MAX);
            Ok(Opening::AtOnce { at: first, connections })
        }
        (Some(interval), Some(until), None) => {
            let until = at.seconds("until_s", until, 0.0..=86_400.0)?;
            if until < first {
                return Err(at.problem("until_s", "it lies before start_s: give a later time"));
            }
            if (until - first).as_nanos() / interval.as_nanos() >= MAX_OPENED {
                let problem = format!("that makes over {MAX_OPENED} connections: open fewer");
                return Err(at.problem("every_ms", problem));
            }
            Ok(Opening::Every { first, interval, until })
        }
        (Some(_), None, _) => Err(at.problem("until_s", "say when the last is opened (every_ms)")),
        (Some(_), _, Some(_)) => {
            Err(at.problem("connections", "every_ms opens them by time: leave one of them out"))
        }
        (None, Some(_), _) => Err(at.problem("until_s", "it ends every_ms: give both or neither")),
    }
}

fn kind(at: At<'_>, raw: &RawWorkload) -> Result<WorkloadKind, Problem> {
    let foreign = if raw.kind == RawKind::Request {
        vec![("bytes", raw.bytes.is_some()), ("for_s", raw.for_s.is_some())]
    } else {
        vec![
            ("count", raw.count.is_some()),
            ("request_bytes", raw.request_bytes.is_some()),
            ("answer_bytes", raw.answer_bytes.is_some()),
            ("pause_ms", raw.pause_ms.is_some()),
            ("half_close", raw.half_close && raw.kind == RawKind::Upload),
        ]
    };
    if let Some((name, _)) = foreign.into_iter().find(|(_, given)| *given) {
        let kind = match raw.kind {
            RawKind::Request => "a request",
            RawKind::Download => "a download",
            RawKind::Upload => "an upload",
        };
        return Err(at.problem(name, format!("{kind} has no such key: leave it out")));
    }
    let half_close = raw.half_close;
    Ok(match raw.kind {
        RawKind::Request => WorkloadKind::Request {
            count: at.count("count", raw.count.unwrap_or(1), 1..=10_000_000, "exchanges")?,
            request_bytes: at.count(
                "request_bytes",
                raw.request_bytes.unwrap_or(64),
                8..=1 << 24,
                "bytes",
            )?,
            answer_bytes: at.count(
                "answer_bytes",
                raw.answer_bytes.unwrap_or(64),
                1..=1 << 30,
                "bytes",
            )?,
            pause: at.millis("pause_ms", raw.pause_ms, 0.0..=86_400_000.0)?.unwrap_or_default(),
            half_close,
        },
        RawKind::Download => WorkloadKind::Download { amount: amount(at, raw)?, half_close },
        RawKind::Upload => WorkloadKind::Upload { amount: amount(at, raw)? },
    })
}

fn amount(at: At<'_>, raw: &RawWorkload) -> Result<Amount, Problem> {
    match (raw.bytes, raw.for_s) {
        (Some(bytes), None) => Ok(Amount::Bytes(at.count("bytes", bytes, 1..=1 << 40, "bytes")?)),
        (None, Some(time)) => Ok(Amount::For(at.seconds("for_s", time, 0.001..=86_400.0)?)),
        _ => Err(Problem::new(at.0, "say how much is sent: one of bytes and for_s")),
    }
}

fn bit_rate(at: At<'_>, name: &str, kbps: Option<f64>) -> Result<Option<BitRate>, Problem> {
    kbps.map(|kbps| {
        let kbps = at.number(name, kbps, 0.1..=1e9, "kbit/s")?;
        Ok(BitRate((kbps * 1000.0).round() as u64))
    })
    .transpose()
}

fn origin(at: At<'_>, raw: &RawWorkload, resets_after: Option<u64>) -> Result<Origin, Problem> {
    let reads_at = bit_rate(at, "origin_read_kbps", raw.origin_read_kbps)?;
    if raw.origin == RawOrigin::Accept {
        return Ok(Origin::Accepts { reads_at, resets_after });
    }
    let needless =
        [("origin_read_kbps", reads_at.is_some()), ("origin_resets_after", resets_after.is_some())];
    match needless.into_iter().find(|(_, given)| *given) {
        Some((name, _)) => Err(at.problem(name, "the origin refuses: leave it out")),
        None => Ok(Origin::Refuses),
    }
}
