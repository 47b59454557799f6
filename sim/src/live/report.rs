//! What a demo found out: a table for people, JSON for programs.

use std::fmt;
use std::time::Duration;

use entrouter_proto::status::TunnelCounters;
use serde::Serialize;

use super::bulk::BulkReport;
use super::forward::{Lateness, LiveStats};
use super::ledger::BytesReport;
use super::options::DemoOptions;
use super::shell::Shells;
use crate::link::LinkCounters;

/// Later than that at the 99th percentile, and the measured latencies are this machine's, too.
const LATE_US: u64 = 2_000;

/// The result of a demo.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Every byte arrived, once, in order, and nothing failed.
    pub exact: bool,
    /// A signal ended it early.
    pub interrupted: bool,
    /// What went wrong, one line each.
    pub failures: Vec<String>,
    /// From the first connection to the last byte.
    pub seconds: f64,
    /// What was asked for.
    pub setup: Setup,
    /// Application bytes from clients to the origin.
    pub to_origin: BytesReport,
    /// Application bytes from the origin to clients.
    pub to_client: BytesReport,
    /// Request and response, 64 bytes each; absent if there were none.
    pub round_trips: Option<RoundTrips>,
    /// Bulk transfers.
    pub bulk: BulkReports,
    /// What happened between the PoPs.
    pub link: LinkReport,
    /// Bytes put on the wire in both directions (IP and UDP headers, parity, repair, probes
    /// included) per application byte delivered in both directions; absent if none was.
    pub wire_bytes_per_byte: Option<f64>,
}

/// The link, in the units of the flags.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Setup {
    /// Round trip time in milliseconds.
    pub rtt_ms: f64,
    /// Loss per direction in percent.
    pub loss_pct: f64,
    /// Mean run of losses in packets; 1 for independent ones.
    pub burst: f64,
    /// Rate per direction in Mbit/s of IP packets.
    pub rate_mbps: f64,
    /// Queue before the link in milliseconds.
    pub queue_ms: f64,
    /// How long data was to be sent.
    pub seconds: f64,
    /// The seed.
    pub seed: u64,
    /// What drove the PoPs: PoP A's shell and PoP B's.
    pub shells: Shells,
}

/// Latencies in milliseconds, measured by the client around write and read.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RoundTrips {
    /// How many.
    pub count: usize,
    /// Of the link alone.
    pub link_rtt_ms: f64,
    /// Median.
    pub p50_ms: f64,
    /// 95th percentile.
    pub p95_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// The slowest.
    pub max_ms: f64,
}

impl RoundTrips {
    /// `sorted` in microseconds; `None` if there are none.
    pub(super) fn of(sorted: &[u64], rtt: Duration) -> Option<Self> {
        let last = *sorted.last()?;
        let ms = |micros: u64| micros as f64 / 1e3;
        // Nearest rank: the smallest value that so many percent do not exceed.
        let percentile = |percent: usize| {
            let rank = (sorted.len() * percent).div_ceil(100);
            ms(sorted[rank.saturating_sub(1)])
        };
        Some(Self {
            count: sorted.len(),
            link_rtt_ms: rtt.as_secs_f64() * 1e3,
            p50_ms: percentile(50),
            p95_ms: percentile(95),
            p99_ms: percentile(99),
            max_ms: ms(last),
        })
    }
}

/// Bulk transfers; absent in a direction that had none.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct BulkReports {
    /// Upload.
    pub to_origin: Option<BulkReport>,
    /// Download.
    pub to_client: Option<BulkReport>,
}

/// What happened between the PoPs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LinkReport {
    /// From the clients' PoP to the origin's.
    pub to_origin: DirectionReport,
    /// From the origin's PoP to the clients'.
    pub to_client: DirectionReport,
    /// How late this machine was in delivering what the link let through.
    pub lateness: Lateness,
}

/// One direction between the PoPs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct DirectionReport {
    /// As the link saw it.
    pub link: LinkCounters,
    /// Datagrams that the sending PoP counted and the link never saw, at least: this machine lost
    /// them, in a full socket buffer.
    pub lost_in_sockets: u64,
    /// As the PoPs saw it; absent if one of them gave no answer.
    pub repair: Option<RepairReport>,
}

/// How the PoPs repaired one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RepairReport {
    /// Datagrams that the sending PoP counted.
    pub packets_sent: u64,
    /// Parity symbols sent.
    pub parity_sent: u64,
    /// Symbols that the receiving PoP recovered from parity.
    pub fec_recovered: u64,
    /// Copies sent because a symbol was found lost.
    pub retransmitted: u64,
    /// Copies sent by a probe timeout.
    pub pto_sent: u64,
    /// Symbols that arrived more than once.
    pub duplicates: u64,
}

impl LinkReport {
    pub(super) fn new(
        stats: &LiveStats,
        a: Option<TunnelCounters>,
        b: Option<TunnelCounters>,
    ) -> Self {
        let repair = |sender: Option<TunnelCounters>, receiver: Option<TunnelCounters>| {
            let (sender, receiver) = (sender?, receiver?);
            Some(RepairReport {
                packets_sent: sender.packets_out,
                parity_sent: sender.parity_out,
                fec_recovered: receiver.fec_recovered,
                retransmitted: sender.retransmitted,
                pto_sent: sender.pto_sent,
                duplicates: receiver.duplicates_in,
            })
        };
        let direction = |link: LinkCounters, repair: Option<RepairReport>| {
            let sent = repair.map_or(0, |repair| repair.packets_sent);
            DirectionReport { link, lost_in_sockets: sent.saturating_sub(link.offered), repair }
        };
        Self {
            to_origin: direction(stats.a_to_b, repair(a, b)),
            to_client: direction(stats.b_to_a, repair(b, a)),
            lateness: stats.lateness,
        }
    }
}

impl Report {
    #[expect(clippy::too_many_arguments, reason = "a report is made of many parts, in one place")]
    pub(super) fn new(
        options: &DemoOptions,
        seconds: f64,
        interrupted: bool,
        failures: Vec<String>,
        [to_origin, to_client]: [BytesReport; 2],
        round_trips: Option<RoundTrips>,
        bulk: BulkReports,
        link: LinkReport,
    ) -> Self {
        let delivered = to_origin.received + to_client.received;
        let on_wire = link.to_origin.link.offered_bytes + link.to_client.link.offered_bytes;
        Self {
            exact: to_origin.exact() && to_client.exact() && failures.is_empty(),
            interrupted,
            failures,
            seconds,
            setup: Setup {
                rtt_ms: options.rtt.as_secs_f64() * 1e3,
                loss_pct: options.loss * 100.0,
                burst: options.burst,
                rate_mbps: options.rate_mbps,
                queue_ms: options.queue.as_secs_f64() * 1e3,
                seconds: options.duration.as_secs_f64(),
                seed: options.seed.get(),
                shells: options.shells,
            },
            to_origin,
            to_client,
            round_trips,
            bulk,
            link,
            wire_bytes_per_byte: (delivered > 0).then(|| on_wire as f64 / delivered as f64),
        }
    }

    /// Why the demo failed, in one line; `None` if it did not.
    #[must_use]
    pub fn verdict(&self) -> Option<String> {
        let inexact = |what, bytes: &BytesReport| {
            let (sent, received) = (grouped(bytes.sent), grouped(bytes.received));
            if bytes.exact() {
                None
            } else if sent == received {
                Some(format!("{what}: {received} bytes arrived, but not those that were sent"))
            } else {
                Some(format!("{what}: {sent} bytes were sent and {received} arrived"))
            }
        };
        let further = match self.failures.len() {
            0 | 1 => String::new(),
            n => format!(" (and {} more)", n - 1),
        };
        (self.failures.first().map(|first| format!("{first}{further}")))
            .or_else(|| inexact("client to origin", &self.to_origin))
            .or_else(|| inexact("origin to client", &self.to_client))
    }
}

/// Digits in groups of three.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (nth, digit) in digits.chars().enumerate() {
        if nth > 0 && (digits.len() - nth).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Setup { rtt_ms, loss_pct, burst, rate_mbps, queue_ms, seed, shells, .. } = self.setup;
        writeln!(
            f,
            "link: {rtt_ms} ms RTT, {loss_pct} % loss each way (mean burst {burst}), {rate_mbps} \
             Mbit/s, queue {queue_ms} ms, seed {seed}; {:.1} s{}",
            self.seconds,
            if self.interrupted { ", interrupted" } else { "" }
        )?;
        writeln!(f, "shell: {shells}")?;
        self.fmt_bytes(f)?;
        self.fmt_speed(f)?;
        self.fmt_link(f)?;
        match self.wire_bytes_per_byte {
            Some(ratio) => writeln!(f, "\nbytes on the wire per byte delivered  {ratio:.3}")?,
            None => writeln!(f, "\nno byte was delivered")?,
        }
        let Lateness { p99_us, max_us, .. } = self.link.lateness;
        if p99_us > LATE_US {
            writeln!(
                f,
                "this machine was busy: the link delivered up to {:.1} ms late (p99 {:.1} ms), \
                 which the round trips contain",
                max_us as f64 / 1e3,
                p99_us as f64 / 1e3
            )?;
        }
        match self.verdict() {
            None => write!(f, "every byte arrived, once and in order"),
            Some(verdict) => write!(f, "FAILED: {verdict}"),
        }
    }
}

impl Report {
    fn fmt_bytes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{:<18}{:<10}{:>16}  SHA-256", "application data", "", "bytes")?;
        for (way, bytes) in
            [("client to origin", &self.to_origin), ("origin to client", &self.to_client)]
        {
            let sent = grouped(bytes.sent);
            writeln!(f, "{way:<18}{:<10}{sent:>16}  {}", "sent", bytes.sha256_sent)?;
            let (received, verdict) =
                (grouped(bytes.received), if bytes.exact() { "equal" } else { "DIFFERENT" });
            let sha256 = &bytes.sha256_received;
            writeln!(f, "{:<18}{:<10}{received:>16}  {sha256}  {verdict}", "", "received")?;
        }
        Ok(())
    }

    fn fmt_speed(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(trips) = &self.round_trips {
            let RoundTrips { count, link_rtt_ms, p50_ms, p95_ms, p99_ms, max_ms } = trips;
            writeln!(
                f,
                "\nround trips       {}: p50 {p50_ms:.1}  p95 {p95_ms:.1}  p99 {p99_ms:.1}  max \
                 {max_ms:.1} ms; the link's RTT is {link_rtt_ms} ms",
                grouped(*count as u64)
            )?;
        }
        for (way, bulk) in
            [("bulk upload", self.bulk.to_origin), ("bulk download", self.bulk.to_client)]
        {
            if let Some(bulk) = bulk {
                writeln!(
                    f,
                    "{way:<18}{:.1} Mbit/s of payload over {:.1} s; {:.1} Mbit/s in the second half",
                    bulk.mbps, bulk.seconds, bulk.second_half_mbps
                )?;
            }
        }
        Ok(())
    }

    fn fmt_link(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LinkReport { to_origin: up, to_client: down, .. } = &self.link;
        writeln!(f, "\n{:<34}{:>18}{:>18}", "between the PoPs", "to the origin", "to the client")?;
        let mut row = |what: &str, value: &dyn Fn(&DirectionReport) -> Option<String>| {
            let text = |direction| value(direction).unwrap_or_else(|| "?".into());
            writeln!(f, "{what:<34}{:>18}{:>18}", text(up), text(down))
        };
        row("packets put on the link", &|way| Some(grouped(way.link.offered)))?;
        row("bytes put on the link (with IP)", &|way| Some(grouped(way.link.offered_bytes)))?;
        row("packets lost on the link", &|way| {
            Some(format!("{} ({:.2} %)", grouped(way.link.lost), way.link.loss() * 100.0))
        })?;
        row("packets dropped by its queue", &|way| Some(grouped(way.link.queue_dropped)))?;
        row("packets above its MTU", &|way| Some(grouped(way.link.too_big)))?;
        if up.lost_in_sockets + down.lost_in_sockets > 0 {
            row("packets lost in socket buffers", &|way| Some(grouped(way.lost_in_sockets)))?;
        }
        let mut repair = |what, value: &dyn Fn(&RepairReport) -> u64| {
            row(what, &|way| way.repair.as_ref().map(|repair| grouped(value(repair))))
        };
        repair("symbols recovered by FEC", &|repair| repair.fec_recovered)?;
        repair("symbols retransmitted", &|repair| repair.retransmitted)?;
        repair("symbols sent by probe timeout", &|repair| repair.pto_sent)?;
        repair("parity symbols sent", &|repair| repair.parity_sent)
    }
}

#[cfg(test)]
mod tests {
    use argh::FromArgs;

    use super::super::options::DemoArgs;
    use super::*;

    fn report(failures: Vec<String>, received: &str) -> Report {
        let args = DemoArgs::from_args(&["demo"], &[]).expect("flags");
        let options = DemoOptions::try_from(&args).expect("valid");
        let bytes = |received: &str| BytesReport {
            sent: 1_234_567,
            received: 1_234_567,
            sha256_sent: "ab".repeat(32),
            sha256_received: received.repeat(32),
        };
        let samples: Vec<u64> = (1..=1_000).map(|n| n * 1_000).collect();
        let mut stats = LiveStats::default();
        stats.a_to_b.offered_bytes = 2_469_134;
        let counters = TunnelCounters { fec_recovered: 17, ..TunnelCounters::default() };
        Report::new(
            &options,
            10.0,
            false,
            failures,
            [bytes("ab"), bytes(received)],
            RoundTrips::of(&samples, options.rtt),
            BulkReports { to_origin: None, to_client: None },
            LinkReport::new(&stats, Some(counters), Some(TunnelCounters::default())),
        )
    }

    #[test]
    fn a_table_says_what_was_asked_for() {
        let good = report(Vec::new(), "ab");
        assert!(good.exact);
        let text = good.to_string();
        assert!(text.contains("p50 500.0  p95 950.0  p99 990.0  max 1000.0 ms"), "{text}");
        assert!(text.contains("1,234,567"), "{text}");
        assert!(text.contains("bytes on the wire per byte delivered  1.000"), "{text}");
        assert!(text.ends_with("every byte arrived, once and in order"), "{text}");
        // What PoP A recovered came towards it, from the origin's side.
        assert_eq!(good.link.to_client.repair.map(|repair| repair.fec_recovered), Some(17));
        assert!(serde_json::to_value(&good).is_ok());
    }

    #[test]
    fn other_bytes_or_a_failure_fail_it() {
        let altered = report(Vec::new(), "cd");
        assert!(!altered.exact && altered.to_string().contains("FAILED: origin to client"));
        let broken = report(vec!["first".into(), "second".into()], "ab");
        assert!(!broken.exact && broken.to_string().ends_with("FAILED: first (and 1 more)"));
    }

    #[test]
    fn digits_in_groups() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }
}
