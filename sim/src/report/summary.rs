//! Plots across the runs of a page: goodput, latency and redundancy against loss, and the
//! distribution of latencies.

use std::collections::BTreeSet;

use super::palette::{Ink, LINES, RAMP};
use super::plot::{Line, Plot};
use super::scale::{self, Axis, drawable, greatest, plain};
use super::{Run, System, versus};
use crate::outcome::{Latency, TunnelOutcome, WorkloadOutcome};

const WIDTH: u32 = 560;
const HEIGHT: u32 = 340;
/// A workload that moves this many bytes per exchange is there for its goodput, not its latency.
const BULK_BYTES: u64 = 256 * 1024;
/// A line that would leave the others less than this share of the plot is named, not drawn.
const CROWDED: f64 = 0.2;

/// All plots that the runs have data for.
pub(super) fn plots(runs: &[Run]) -> Vec<Plot> {
    let names: BTreeSet<&str> =
        runs.iter().flat_map(|r| r.outcome.workloads.keys().map(String::as_str)).collect();
    let (bulk, latent): (Vec<&str>, Vec<&str>) =
        names.into_iter().partition(|name| is_bulk(runs, name));
    let groups = Group::of(runs);
    let mut plots = Vec::new();
    if groups.iter().any(|g| g.losses().len() > 1) {
        if runs.iter().any(|run| !run.direct.is_empty()) {
            plots.extend(versus::plots(&groups, &bulk, &latent));
        } else {
            plots.extend(Stretch::ALL.iter().filter_map(|s| goodput(&groups, &bulk, *s)));
            for name in &latent {
                plots.extend(groups.iter().filter_map(|g| percentiles(g, name)));
            }
        }
        plots.extend(redundancy(&groups));
    }
    for name in &latent {
        plots.extend(groups.iter().filter_map(|g| distribution(g, name)));
    }
    plots
}

fn is_bulk(runs: &[Run], name: &str) -> bool {
    let seen: Vec<_> = runs.iter().filter_map(|r| r.outcome.workloads.get(name)).collect();
    let exchanges: u64 = seen.iter().map(|w| w.exchanges).fold(0, u64::saturating_add);
    let moved = |w: &&WorkloadOutcome| w.bytes_up.saturating_add(w.bytes_down);
    let bytes = seen.iter().map(moved).fold(0, u64::saturating_add);
    seen.iter().all(|w| w.latency.is_none() && w.samples_us.is_empty())
        || bytes / exchanges.max(1) >= BULK_BYTES
}

/// A part of a run over which goodput is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stretch {
    SecondHalf,
    First15s,
}

impl Stretch {
    pub(super) const ALL: [Self; 2] = [Self::SecondHalf, Self::First15s];

    pub(super) fn of(self, workload: &WorkloadOutcome) -> f64 {
        match self {
            Self::SecondHalf => workload.second_half_mbps,
            Self::First15s => workload.first_15s_mbps,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::SecondHalf => "second half",
            Self::First15s => "first 15 s",
        }
    }

    pub(super) fn note(self) -> &'static str {
        match self {
            Self::SecondHalf => "Payload of both directions over the second half of the run.",
            Self::First15s => "Payload of both directions over the first 15 s, start included.",
        }
    }
}

/// Runs whose links differ in nothing but loss, as far as a page knows.
pub(super) struct Group<'a> {
    /// What distinguishes it, with a comma in front; empty if there is one group only.
    pub(super) label: String,
    pub(super) rtt_ms: Option<f64>,
    pub(super) rate_mbps: Option<f64>,
    bursts: &'a str,
    runs: Vec<&'a Run>,
}

/// The loss of a run's link, if it is known and can be one.
fn loss_of(run: &Run) -> Option<f64> {
    run.loss_pct.filter(|loss| (0.0..=100.0).contains(loss))
}

fn usable(parameter: Option<f64>) -> Option<f64> {
    parameter.filter(|v| drawable(*v) && *v > 0.0)
}

impl<'a> Group<'a> {
    fn of(runs: &'a [Run]) -> Vec<Self> {
        let mut groups: Vec<Self> = Vec::new();
        for run in runs {
            let (rtt_ms, rate_mbps) = (usable(run.rtt_ms), usable(run.rate_mbps));
            let key = (rtt_ms, rate_mbps, run.bursts.as_str());
            match groups.iter_mut().find(|g| (g.rtt_ms, g.rate_mbps, g.bursts) == key) {
                Some(group) => group.runs.push(run),
                None => groups.push(Self {
                    label: String::new(),
                    rtt_ms,
                    rate_mbps,
                    bursts: &run.bursts,
                    runs: vec![run],
                }),
            }
        }
        if groups.len() > 1 {
            let rtts: BTreeSet<_> = groups.iter().map(|g| g.rtt_ms.map(f64::to_bits)).collect();
            let rates: BTreeSet<_> = groups.iter().map(|g| g.rate_mbps.map(f64::to_bits)).collect();
            let bursts: BTreeSet<_> = groups.iter().map(|g| g.bursts).collect();
            let varied = [rtts.len() > 1, rates.len() > 1, bursts.len() > 1];
            for group in &mut groups {
                group.label = group.describe(varied);
            }
        }
        groups
    }

    fn describe(&self, [rtt, rate, bursts]: [bool; 3]) -> String {
        let known = |v: Option<f64>, unit| match v {
            Some(v) => format!("{} {unit}", plain(v)),
            None => "unknown".to_owned(),
        };
        let mut label = String::new();
        if rtt {
            label += &format!(", RTT {}", known(self.rtt_ms, "ms"));
        }
        if rate {
            label += &format!(", link {}", known(self.rate_mbps, "Mbit/s"));
        }
        if bursts {
            let kind = if self.bursts.is_empty() { "independent loss" } else { self.bursts };
            label += &format!(", {kind}");
        }
        label
    }

    /// The bits of each loss that the group has; in the order of the numbers, none of which is negative.
    pub(super) fn losses(&self) -> BTreeSet<u64> {
        self.runs.iter().filter_map(|run| loss_of(run)).map(|loss| loss.abs().to_bits()).collect()
    }

    /// The median of a value over the runs at each loss, in order of loss.
    pub(super) fn curve(&self, value: impl Fn(&Run) -> Option<f64>) -> Vec<(f64, f64)> {
        let at = |bits: u64| {
            let loss = f64::from_bits(bits);
            let same = self.runs.iter().filter(|run| loss_of(run) == Some(loss));
            let mut seen: Vec<f64> =
                same.filter_map(|run| value(run)).filter(|v| drawable(*v)).collect();
            seen.sort_by(f64::total_cmp);
            seen.get(seen.len().saturating_sub(1) / 2).map(|median| (loss, *median))
        };
        self.losses().into_iter().filter_map(at).collect()
    }
}

pub(super) fn loss_axis(groups: &[&Group<'_>]) -> Axis {
    let max = greatest(groups.iter().flat_map(|g| g.runs.iter().filter_map(|run| loss_of(run))));
    let hi = max.max(0.1) * 1.03;
    let mut axis = Axis::linear(0.0, hi, "packet loss of the link (%)");
    // Room for the dots at no loss.
    axis.lo = -hi * 0.02;
    axis
}

pub(super) fn top(lines: &[Line]) -> f64 {
    greatest(lines.iter().flat_map(|l| l.points.iter().map(|p| p.1)))
}

pub(super) fn plot(title: String, note: String, x: Axis, y: Axis, lines: Vec<Line>) -> Plot {
    Plot {
        title,
        note,
        width: WIDTH,
        height: HEIGHT,
        x,
        y,
        x_labels: true,
        lines,
        spans: Vec::new(),
    }
}

fn goodput(groups: &[Group<'_>], names: &[&str], stretch: Stretch) -> Option<Plot> {
    let mut lines = Vec::new();
    for name in names {
        for group in groups {
            let points = group.curve(|r| r.outcome.workloads.get(*name).map(|w| stretch.of(w)));
            let ink = Ink::Line(lines.len());
            let name = format!("{name}{}", group.label);
            lines.push(Line { name, ink, points, dots: true });
        }
    }
    lines.retain(|l| !l.points.is_empty());
    let omitted = lines.split_off(lines.len().min(LINES)).len();
    if lines.is_empty() {
        return None;
    }
    let x = loss_axis(&groups.iter().collect::<Vec<_>>());
    let mut note = stretch.note().to_owned();
    if omitted > 0 {
        note += &format!(" {omitted} more lines are not drawn.");
    }
    let best = top(&lines);
    let rates: BTreeSet<u64> =
        groups.iter().filter_map(|g| g.rate_mbps).map(f64::to_bits).collect();
    for rate in rates.into_iter().map(f64::from_bits) {
        lines.extend(rate_line(Some(rate), best, &x, &mut note));
    }
    let y = Axis::from_zero(top(&lines), 0.1, "goodput (Mbit/s)");
    Some(plot(format!("Goodput against loss, {}", stretch.name()), note, x, y, lines))
}

/// The rate of a link across a plot whose lines reach up to `best`; only a note, where it is far above.
pub(super) fn rate_line(rate: Option<f64>, best: f64, x: &Axis, note: &mut String) -> Option<Line> {
    let rate = rate?;
    if best < rate * CROWDED {
        *note += &format!(" The link's rate, {} Mbit/s, is above the plot.", plain(rate));
        return None;
    }
    let name = format!("rate of the link, {} Mbit/s", plain(rate));
    Some(Line { name, ink: Ink::Reference, points: vec![(x.lo, rate), (x.hi, rate)], dots: false })
}

fn percentiles(group: &Group<'_>, name: &str) -> Option<Plot> {
    let of = |pick: fn(&Latency) -> f64| {
        group.curve(|r| r.outcome.workloads.get(name)?.latency.as_ref().map(pick))
    };
    let ranks: [(&str, Vec<_>); 4] = [
        ("p99.9", of(|l| l.p999_ms)),
        ("p99", of(|l| l.p99_ms)),
        ("p95", of(|l| l.p95_ms)),
        ("p50", of(|l| l.p50_ms)),
    ];
    let mut lines: Vec<Line> = ranks
        .into_iter()
        .enumerate()
        .map(|(i, (name, points))| {
            // From below: the median in the first colour.
            Line { name: name.to_owned(), ink: Ink::Line(3 - i), points, dots: true }
        })
        .filter(|l| !l.points.is_empty())
        .collect();
    if lines.is_empty() || group.losses().len() < 2 {
        return None;
    }
    let x = loss_axis(&[group]);
    let least = lines.iter().flat_map(|l| &l.points).map(|p| p.1).fold(f64::INFINITY, f64::min);
    let floor = group.rtt_ms.unwrap_or(least);
    if let Some(rtt) = group.rtt_ms {
        let name = format!("RTT of the link, {} ms", plain(rtt));
        let points = vec![(x.lo, rtt), (x.hi, rtt)];
        lines.push(Line { name, ink: Ink::Reference, points, dots: false });
    }
    let title = "latency (ms)";
    let max = top(&lines);
    let y = if max > 12.0 * floor.max(0.01) {
        Axis::logarithmic(least.min(floor).max(0.01), max, title)
    } else {
        Axis::from_zero(max, 0.1, title)
    };
    let note = "From the first byte of a request to the last of its answer.".to_owned();
    Some(plot(format!("Latency against loss: {name}{}", group.label), note, x, y, lines))
}

/// Symbols sent beyond the first copy, by cause.
fn redundancy(groups: &[Group<'_>]) -> Option<Plot> {
    let share = |run: &Run, pick: fn(&TunnelOutcome) -> u64| {
        let tunnels = run.outcome.tunnels.values();
        let source: f64 = tunnels.clone().map(|t| t.symbols_out as f64).sum();
        let extra: f64 = tunnels.map(|t| pick(t) as f64).sum();
        (source > 0.0).then(|| extra / source * 100.0)
    };
    let mut lines = Vec::new();
    let groups: Vec<_> = groups.iter().filter(|group| group.losses().len() > 1).collect();
    for (i, group) in groups.iter().enumerate().take(LINES / 2) {
        let parity = group.curve(|r| share(r, |t| t.parity_out));
        let again = group.curve(|r| share(r, |t| t.retransmitted.saturating_add(t.pto_sent)));
        for (name, ink, points) in [("parity", 2 * i, parity), ("sent again", 2 * i + 1, again)] {
            let name = format!("{name}{}", group.label);
            lines.push(Line { name, ink: Ink::Line(ink), points, dots: true });
        }
    }
    lines.retain(|l| !l.points.is_empty());
    if lines.is_empty() {
        return None;
    }
    let x = loss_axis(&groups);
    let worst = x.hi.min(95.0);
    let least = |i: u32| {
        let loss = worst * f64::from(i) / 50.0;
        (loss, 100.0 * loss / (100.0 - loss))
    };
    lines.push(Line {
        name: "least that the loss demands".to_owned(),
        ink: Ink::Reference,
        points: (0..=50).map(least).collect(),
        dots: false,
    });
    let y = Axis::from_zero(top(&lines), 1.0, "of source symbols (%)");
    let note =
        "Symbols sent beyond their first copy, all tunnels together. A sender that knew what \
                gets lost would send p / (1 − p)."
            .to_owned();
    Some(plot("Redundancy against loss".to_owned(), note, x, y, lines))
}

/// For each run, the share of exchanges that took at least so long; of a single run, for each system.
fn distribution(group: &Group<'_>, name: &str) -> Option<Plot> {
    let versus = group.runs.iter().any(|run| !run.direct.is_empty());
    let one = group.runs.len() == 1;
    let systems = if one { System::ALL.as_slice() } else { &[System::Relay] };
    // The relay last: on top, where lines coincide.
    let mut sampled: Vec<(&Run, System, &WorkloadOutcome)> = group
        .runs
        .iter()
        .flat_map(|run| systems.iter().rev().map(move |system| (*run, *system)))
        .filter_map(|(run, system)| Some((run, system, run.of(system)?.workloads.get(name)?)))
        .filter(|(.., workload)| !workload.samples_us.is_empty())
        .collect();
    let all = sampled.len();
    if all > RAMP {
        sampled = (0..RAMP).map(|i| sampled[i * (all - 1) / (RAMP - 1)]).collect();
    }
    let count = sampled.len();
    let mut lines: Vec<Line> = sampled
        .iter()
        .enumerate()
        .map(|(i, (run, system, workload))| {
            let (name, ink) = match one && versus {
                true => (system.name().to_owned(), system.ink()),
                false => (run.label(), Ink::of_ordered(i, count)),
            };
            Line { name, ink, points: tail(&workload.samples_us), dots: false }
        })
        .collect();
    let most = sampled.iter().map(|(.., w)| w.samples_us.len()).max()?;
    let decades = (libm::ceil(libm::log10(most as f64)) as u32).clamp(1, 5);
    let x = time_axis(&lines);
    if let Some(rtt) = group.rtt_ms.filter(|rtt| (x.lo..x.hi).contains(&x.at(*rtt))) {
        let name = format!("RTT of the link, {} ms", plain(rtt));
        let points = vec![(rtt, 1.0), (rtt, 1e-5)];
        lines.push(Line { name, ink: Ink::Reference, points, dots: false });
    }
    let mut note = format!(
        "How many of up to {} exchanges took at least so long: at 1 %, a line stands at its p99.",
        scale::count(most as u64)
    );
    if versus && !one {
        note += " The relay's runs.";
    }
    if all > count {
        note += &format!(" {count} of {all} runs are drawn.");
    }
    let y = Axis::shares(decades, "exchanges at least this slow (%)");
    Some(plot(format!("Latency distribution: {name}{}", group.label), note, x, y, lines))
}

/// Latencies of all lines: logarithmic if they differ much, else without the empty part before them
/// if that were large.
fn time_axis(lines: &[Line]) -> Axis {
    let times = || lines.iter().flat_map(|l| l.points.iter().map(|p| p.0));
    let (min, max) = (times().fold(f64::INFINITY, f64::min), greatest(times()));
    let title = "latency (ms)";
    if max > 10.0 * min.max(0.01) {
        return Axis::logarithmic(min.max(0.01), max, title);
    }
    let from = if min > 0.4 * max { (min - 0.1 * (max - min)).max(0.0) } else { 0.0 };
    Axis::linear(from, (max + 0.02 * (max - from)).max(from + 0.01), title)
}

/// Times in ms and the share of samples that are not below them, more finely where fewer are left.
fn tail(samples_us: &[u64]) -> Vec<(f64, f64)> {
    let mut sorted = samples_us.to_vec();
    sorted.sort_unstable();
    let mut points = Vec::new();
    let mut left = sorted.len();
    while left > 0 {
        let time = sorted[sorted.len() - left] as f64 / 1000.0;
        points.push((time, left as f64 / sorted.len() as f64));
        left = (left * 29 / 30).min(left - 1);
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_reaches_from_all_samples_to_the_slowest() {
        let samples: Vec<u64> = (1..=20_000).rev().map(|i| i * 1000).collect();
        let points = tail(&samples);
        assert_eq!(points.first(), Some(&(1.0, 1.0)));
        assert_eq!(points.last(), Some(&(20_000.0, 1.0 / 20_000.0)));
        assert!(points.len() < 400, "{}", points.len());
        assert!(points.is_sorted_by(|a, b| a.0 < b.0 && a.1 > b.1));
    }
}
