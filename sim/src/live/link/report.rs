//! What went over a live link: a table for people, JSON for programs.

use std::fmt;

use serde::Serialize;

use super::options::Shape;
use crate::link::LinkCounters;
use crate::live::forward::{Lateness, LiveStats};
use crate::live::meter::DirectionFigures;
use crate::live::report::grouped;

/// The result of `entrouter-sim link`.
#[derive(Debug, Clone, Serialize)]
pub struct LiveLinkReport {
    /// What was asked for.
    pub link: Shape,
    /// How long it was there.
    pub seconds: f64,
    /// From A to B.
    pub a_to_b: Direction,
    /// From B to A.
    pub b_to_a: Direction,
    /// How late deliveries left, beyond what the link asked for.
    pub lateness: Lateness,
    /// Packets that a device refused.
    pub send_errors: u64,
    /// What `--check` found.
    pub check: Option<CheckReport>,
}

/// What went over one direction.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Direction {
    /// Counted by the link.
    #[serde(flatten)]
    pub counters: LinkCounters,
    /// Queue and rate as the packets found them.
    #[serde(flatten)]
    pub figures: DirectionFigures,
}

/// How late small packets came, from the call that sent them to the call that received them, beyond
/// what the link means them to take; this machine's ways through its kernel included.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CheckReport {
    /// Packets that came.
    pub packets: u64,
    /// Of them in a second.
    pub packets_per_second: f64,
    /// Median, 99th percentile and maximum.
    pub late: Lateness,
}

impl LiveLinkReport {
    pub(super) fn new(
        link: Shape,
        seconds: f64,
        stats: &LiveStats,
        [out, back]: [DirectionFigures; 2],
        check: Option<CheckReport>,
    ) -> Self {
        Self {
            link,
            seconds,
            a_to_b: Direction { counters: stats.a_to_b, figures: out },
            b_to_a: Direction { counters: stats.b_to_a, figures: back },
            lateness: stats.lateness,
            send_errors: stats.send_errors,
            check,
        }
    }
}

impl fmt::Display for LiveLinkReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "link: {}; {:.1} s", self.link, self.seconds)?;
        writeln!(f, "\n{:<34}{:>18}{:>18}", "", "A to B", "B to A")?;
        let directions = [&self.a_to_b, &self.b_to_a];
        let mut row = |what: &str, cell: &dyn Fn(&Direction) -> String| {
            writeln!(f, "{what:<34}{:>18}{:>18}", cell(directions[0]), cell(directions[1]))
        };
        row("packets offered", &|way| grouped(way.counters.offered))?;
        row("bytes offered (with IP)", &|way| grouped(way.counters.offered_bytes))?;
        row("most within a second, Mbit/s", &|way| format!("{:.1}", way.figures.most_mbps))?;
        row("packets lost", &|way| {
            format!("{} ({:.2} %)", grouped(way.counters.lost), way.counters.loss() * 100.0)
        })?;
        row("packets dropped by the queue", &|way| grouped(way.counters.queue_dropped))?;
        row("packets above the MTU", &|way| grouped(way.counters.too_big))?;
        row("packets marked (ECN)", &|way| grouped(way.counters.marked))?;
        row("packets delivered", &|way| grouped(way.counters.delivered))?;
        row("queue found: p50, p99, max (ms)", &|way| {
            let queue = way.figures.queue;
            format!("{:.1} {:.1} {:.1}", queue.p50_ms, queue.p99_ms, queue.max_ms)
        })?;
        let Lateness { p50_us, p99_us, max_us } = self.lateness;
        write!(f, "\nthe link delivered late by p50 {p50_us}, p99 {p99_us}, max {max_us} us")?;
        if self.send_errors > 0 {
            write!(f, "\npackets that a device refused: {}", grouped(self.send_errors))?;
        }
        if let Some(CheckReport { packets_per_second, late, .. }) = self.check {
            let Lateness { p50_us, p99_us, max_us } = late;
            write!(
                f,
                "\nfrom socket to socket, {packets_per_second:.0} packets/s: late by p50 {p50_us}, \
                 p99 {p99_us}, max {max_us} us"
            )?;
        }
        Ok(())
    }
}
