//! What a comparison found: a table for people, JSON for programs.

use std::fmt;

use serde::{Serialize, Serializer};

use super::clients::Sample;
use super::options::{Direction, System};
use super::scene::Controls;
use crate::link::LinkCounters;
use crate::live::forward::Lateness;
use crate::live::link::Shape;
use crate::live::meter::{DirectionFigures, QueueDelay};
use crate::live::shell::Shells;

/// The result of `entrouter-sim ab`.
#[derive(Debug, Clone, Serialize)]
pub struct AbReport {
    /// Every byte arrived as it was sent, and nothing failed.
    pub exact: bool,
    /// A signal ended it early; what was being measured then is not in it.
    pub interrupted: bool,
    /// What went wrong, one line each.
    pub failures: Vec<String>,
    /// What is less than was asked for, one line each; no failure.
    pub notes: Vec<String>,
    /// What drove the relay's PoPs: PoP A's shell and PoP B's.
    pub shells: Shells,
    /// Which way bulk data went.
    pub direction: Direction,
    /// How long it was sent.
    pub seconds: f64,
    /// What was set with `sysctl` in both namespaces, and what was read back.
    pub settings: Vec<(String, String)>,
    /// One for each link.
    pub cases: Vec<CaseReport>,
}

/// What was found on one link.
#[derive(Debug, Clone, Serialize)]
pub struct CaseReport {
    /// The link.
    pub link: Shape,
    /// Of each system.
    pub systems: Vec<SystemReport>,
    /// All at the same time, if that was asked for.
    pub fair: Option<FairReport>,
}

/// What was found of one system.
#[derive(Debug, Clone, Serialize)]
pub struct SystemReport {
    /// Its name.
    #[serde(serialize_with = "as_text")]
    pub system: System,
    /// Congestion control of its TCP connections, as read from them.
    pub congestion: Controls,
    /// A long flow.
    pub bulk: Option<BulkReport>,
    /// From `connect()` to the first byte of the answer.
    pub connect: Option<Spread>,
    /// Round trips.
    pub ping: Option<Spread>,
    /// Round trips beside a long flow.
    pub beside: Option<BesideReport>,
    /// How late the link delivered, beyond what it was asked for; the worst of all measurements.
    pub lateness: Lateness,
}

fn as_text<S: Serializer>(system: &System, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(system)
}

/// A long flow, as its receiver and the link saw it.
#[derive(Debug, Clone, Serialize)]
pub struct BulkReport {
    /// Goodput in Mbit/s while data was sent, from `connect()` on.
    pub mbps: f64,
    /// The same in the second half of that time.
    pub second_half_mbps: f64,
    /// The same in its first `first_s` seconds.
    pub first_mbps: f64,
    /// 15, or what there was.
    pub first_s: f64,
    /// Bytes put on the link in this direction, IP headers included, per byte delivered.
    pub wire_bytes_per_byte: Option<f64>,
    /// In this direction, until the last byte was there.
    pub link: LinkCounters,
    /// Queue and rate at its entrance, while data was sent.
    pub figures: DirectionFigures,
    /// The data.
    pub data: DataReport,
}

/// What was sent and what arrived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DataReport {
    /// Bytes handed to the sending socket.
    pub sent: u64,
    /// Bytes read from the receiving socket.
    pub received: u64,
    /// All of them arrived. If not, their time was over first, and the hash of what was sent is over
    /// as many bytes as arrived.
    pub complete: bool,
    /// In hex.
    pub sha256_sent: String,
    /// In hex.
    pub sha256_received: String,
}

impl DataReport {
    pub(super) fn failure(&self) -> Option<String> {
        (self.sha256_sent != self.sha256_received)
            .then(|| format!("of {} bytes sent, {} arrived, but others", self.sent, self.received))
    }
}

/// Round trips beside a long flow.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct BesideReport {
    /// During its start.
    pub start_up: Spread,
    /// Later.
    pub settled: Spread,
    /// Its goodput in Mbit/s after its start.
    pub bulk_mbps: f64,
}

/// Times in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Spread {
    /// How many there were.
    pub count: u64,
    /// Median.
    pub p50_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// Greatest.
    pub max_ms: f64,
}

impl Spread {
    pub(super) fn of(samples: Vec<Sample>) -> Self {
        let mut micros: Vec<u64> = samples.into_iter().map(|sample| sample.micros).collect();
        micros.sort_unstable();
        let rank = |percent: usize| (micros.len() * percent).div_ceil(100).saturating_sub(1);
        let millis = |rank: usize| micros.get(rank).map_or(0.0, |&micros| micros as f64 / 1e3);
        Self {
            count: micros.len() as u64,
            p50_ms: millis(rank(50)),
            p99_ms: millis(rank(99)),
            max_ms: millis(micros.len().saturating_sub(1)),
        }
    }

    fn cell(&self) -> String {
        if self.count == 0 {
            return "-".to_owned();
        }
        format!("{:.0} {:.0} {:.0}", self.p50_ms, self.p99_ms, self.max_ms)
    }

    fn beyond(&self, rtt_ms: f64) -> String {
        if self.count == 0 {
            return "-".to_owned();
        }
        format!("{:+.1} {:+.1}", self.p50_ms - rtt_ms, self.p99_ms - rtt_ms)
    }
}

/// Bulk flows of several systems at the same time.
#[derive(Debug, Clone, Serialize)]
pub struct FairReport {
    /// One of each.
    pub flows: Vec<FairFlow>,
    /// Dropped by the queue.
    pub queue_dropped: u64,
    /// Queue and rate at the entrance.
    pub figures: DirectionFigures,
}

/// One of several bulk flows.
#[derive(Debug, Clone, Serialize)]
pub struct FairFlow {
    /// Its system.
    #[serde(serialize_with = "as_text")]
    pub system: System,
    /// Congestion control of its TCP connections, as read from them.
    pub congestion: Controls,
    /// Goodput in Mbit/s.
    pub mbps: f64,
    /// Percent of what each had if all had the same.
    pub share_pct: f64,
    /// Goodput in Mbit/s in the second half.
    pub second_half_mbps: f64,
    /// Percent of what each had then if all had the same.
    pub second_half_share_pct: f64,
    /// The data.
    pub data: DataReport,
}

const WHAT: usize = 36;
const LOSS: usize = 8;
const CELL: usize = 20;

impl fmt::Display for AbReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(case) = self.cases.first() {
            writeln!(f, "link: {}", case.link.but_loss())?;
            let way = match self.direction {
                Direction::Down => "origin to client",
                Direction::Up => "client to origin",
            };
            writeln!(f, "bulk: {way}, {} s", self.seconds)?;
            writeln!(f, "shell of the relay: {}", self.shells)?;
            let settings: Vec<String> =
                self.settings.iter().map(|(key, value)| format!("{key}={value}")).collect();
            writeln!(f, "set in both namespaces: {}", settings.join(", "))?;
        }
        self.fmt_controls(f)?;
        self.fmt_systems(f)?;
        for case in &self.cases {
            if let Some(fair) = &case.fair {
                writeln!(f, "\n{} loss, all at once:", loss(&case.link))?;
                write!(f, "{fair}")?;
            }
        }
        writeln!(f)?;
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        for failure in &self.failures {
            writeln!(f, "FAILED: {failure}")?;
        }
        match (self.interrupted, self.exact) {
            (true, _) => write!(f, "interrupted: what was being measured is left out"),
            (false, true) => write!(f, "every byte that arrived was the one that was sent"),
            (false, false) => write!(f, "it failed"),
        }
    }
}

impl AbReport {
    /// Which congestion control was found on how many connections.
    fn fmt_controls(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut told: Vec<(&System, Controls)> = Vec::new();
        let systems = self.cases.iter().flat_map(|case| &case.systems);
        let flows = self.cases.iter().filter_map(|case| case.fair.as_ref());
        let flows = flows.flat_map(|fair| &fair.flows).map(|flow| (&flow.system, &flow.congestion));
        for (system, controls) in systems.map(|it| (&it.system, &it.congestion)).chain(flows) {
            match told.iter_mut().find(|(known, _)| *known == system) {
                Some((_, sum)) => sum.add(controls),
                None => told.push((system, controls.clone())),
            }
        }
        writeln!(f, "congestion control of the TCP connections, as read from them:")?;
        for (system, controls) in told {
            writeln!(f, "  {system}: {controls}")?;
        }
        Ok(())
    }

    fn fmt_systems(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(first) = self.cases.first().filter(|case| !case.systems.is_empty()) else {
            return Ok(());
        };
        write!(f, "\n{:<WHAT$}{:>LOSS$}", "", "loss")?;
        for system in &first.systems {
            write!(f, "{:>CELL$}", system.system.to_string())?;
        }
        writeln!(f)?;
        let rtt_ms = first.link.rtt_ms;
        let bulk = |cell: fn(&BulkReport) -> String| {
            move |system: &SystemReport| system.bulk.as_ref().map(cell)
        };
        self.rows(
            f,
            "bulk, second half (Mbit/s)",
            &bulk(|it| format!("{:.1}", it.second_half_mbps)),
        )?;
        let first_s = (self.seconds).min(15.0);
        let name = format!("bulk, first {first_s} s (Mbit/s)");
        self.rows(f, &name, &bulk(|it| format!("{:.1}", it.first_mbps)))?;
        self.rows(f, "bulk, whole (Mbit/s)", &bulk(|it| format!("{:.1}", it.mbps)))?;
        self.rows(
            f,
            "bulk, wire bytes per byte",
            &bulk(|it| {
                it.wire_bytes_per_byte.map_or("-".to_owned(), |ratio| format!("{ratio:.3}"))
            }),
        )?;
        self.rows(
            f,
            "bulk, packets: lost, queue dropped",
            &bulk(|it| format!("{} {}", it.link.lost, it.link.queue_dropped)),
        )?;
        self.rows(f, "bulk, queue p50 p99 max (ms)", &bulk(|it| it.figures.queue.cell()))?;
        self.rows(f, "  in the second half", &bulk(|it| it.figures.late_queue.cell()))?;
        self.rows(
            f,
            "bulk, most offered in 1 s (Mbit/s)",
            &bulk(|it| format!("{:.1}", it.figures.most_mbps)),
        )?;
        self.rows(f, "connect to first byte p50 p99 max", &|it| it.connect.map(|it| it.cell()))?;
        self.rows(f, "ping p50 p99 max (ms)", &|it| it.ping.map(|it| it.cell()))?;
        self.rows(f, "  beyond the RTT p50 p99", &|it| it.ping.map(|it| it.beyond(rtt_ms)))?;
        self.rows(f, "ping beside bulk, start (ms)", &|it| it.beside.map(|it| it.start_up.cell()))?;
        self.rows(f, "ping beside bulk, after it (ms)", &|it| {
            it.beside.map(|it| it.settled.cell())
        })?;
        self.rows(f, "  beyond the RTT p50 p99", &|it| {
            it.beside.map(|it| it.settled.beyond(rtt_ms))
        })?;
        self.rows(f, "  bulk meanwhile (Mbit/s)", &|it| {
            it.beside.map(|it| format!("{:.1}", it.bulk_mbps))
        })?;
        self.rows(f, "the link was late, p50 p99 max (us)", &|it| {
            let Lateness { p50_us, p99_us, max_us } = it.lateness;
            Some(format!("{p50_us} {p99_us} {max_us}"))
        })
    }

    /// A row for each link, if there is anything to be said.
    fn rows(
        &self,
        f: &mut fmt::Formatter<'_>,
        what: &str,
        cell: &dyn Fn(&SystemReport) -> Option<String>,
    ) -> fmt::Result {
        let mut name = what;
        for case in &self.cases {
            let cells: Vec<_> = case.systems.iter().map(cell).collect();
            if cells.iter().all(Option::is_none) {
                continue;
            }
            write!(f, "{name:<WHAT$}{:>LOSS$}", loss(&case.link))?;
            for cell in cells {
                write!(f, "{:>CELL$}", cell.unwrap_or_default())?;
            }
            writeln!(f)?;
            name = "";
        }
        Ok(())
    }
}

/// In both directions, or towards the origin and back.
fn loss(link: &Shape) -> String {
    let (out, back) = (link.loss_pct, link.loss_back_pct);
    if out == back { format!("{out} %") } else { format!("{out}/{back} %") }
}

impl QueueDelay {
    fn cell(&self) -> String {
        format!("{:.0} {:.0} {:.0}", self.p50_ms, self.p99_ms, self.max_ms)
    }
}

impl Controls {
    pub(super) fn add(&mut self, other: &Self) {
        for (sum, more) in [(&mut self.ends, &other.ends), (&mut self.pops, &other.pops)] {
            for (name, count) in more {
                *sum.entry(name.clone()).or_default() += count;
            }
        }
    }
}

impl fmt::Display for Controls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = |of: &std::collections::BTreeMap<String, u64>| {
            let counts: Vec<_> = of.iter().map(|(name, count)| format!("{count} {name}")).collect();
            counts.join(", ")
        };
        write!(f, "client and origin {}", counts(&self.ends))?;
        if !self.pops.is_empty() {
            write!(f, "; PoPs {} (those looked at)", counts(&self.pops))?;
        }
        Ok(())
    }
}

impl fmt::Display for FairReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<12}{:>10}{:>12}{:>16}{:>12}",
            "", "Mbit/s", "share", "second half", "share"
        )?;
        for flow in &self.flows {
            writeln!(
                f,
                "{:<12}{:>10.1}{:>10.0} %{:>16.1}{:>10.0} %",
                flow.system.to_string(),
                flow.mbps,
                flow.share_pct,
                flow.second_half_mbps,
                flow.second_half_share_pct
            )?;
        }
        writeln!(
            f,
            "queue p50 p99 max {} ms, in the second half {} ms; {} packets dropped by it",
            self.figures.queue.cell(),
            self.figures.late_queue.cell(),
            self.queue_dropped
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let asked = Instant::now();
        let samples = (1..=200).map(|ms| Sample { asked, micros: ms * 1_000 }).collect();
        let spread = Spread::of(samples);
        assert_eq!(
            (spread.count, spread.p50_ms, spread.p99_ms, spread.max_ms),
            (200, 100.0, 198.0, 200.0)
        );
        assert_eq!(Spread::of(Vec::new()), Spread::default());
    }
}
