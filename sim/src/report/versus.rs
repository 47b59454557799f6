//! Plots of the relay against QUIC on the same link: one line for each system.

use super::palette::Ink;
use super::plot::{Line, Plot};
use super::scale::{Axis, greatest, plain};
use super::summary::{Group, Stretch, loss_axis, plot, rate_line, top};
use super::{Run, System};
use crate::outcome::Latency;

/// A goodput below this share of the best one lies on the ground of a linear plot.
const GROUND: f64 = 0.05;
/// No goodput is looked for below this share of the best one.
const DEPTH: f64 = 1e-4;
/// Exchanges without which nothing can be said about the slowest in a thousand.
const MANY: u64 = 1000;

type Rank = (&'static str, fn(&Latency) -> f64);

const RANKS: [Rank; 3] = [("p50", |l| l.p50_ms), ("p99", |l| l.p99_ms), ("p99.9", |l| l.p999_ms)];

/// Plots over loss; `bulk` names workloads that are there for their goodput, `latent` the others.
pub(super) fn plots(groups: &[Group<'_>], bulk: &[&str], latent: &[&str]) -> Vec<Plot> {
    let groups = || groups.iter().filter(|group| group.losses().len() > 1);
    let mut plots = Vec::new();
    for name in bulk {
        for group in groups() {
            // One name needs no mention.
            let of = if bulk.len() > 1 { format!(": {name}") } else { String::new() };
            let of = format!("{of}{}", group.label);
            plots.extend(Stretch::ALL.iter().filter_map(|s| goodput(group, name, &of, *s)));
            plots.extend(goodput_by_decades(group, name, &of));
        }
    }
    if !bulk.is_empty() {
        plots.extend(groups().filter_map(wire));
    }
    for name in latent {
        for group in groups() {
            plots.extend(RANKS.iter().filter_map(|rank| latency(group, name, *rank)));
        }
    }
    plots
}

/// A line for each system that has data.
fn lines(group: &Group<'_>, value: impl Fn(&Run, System) -> Option<f64>) -> Vec<Line> {
    let line = |system: System| Line {
        name: system.name().to_owned(),
        ink: system.ink(),
        points: group.curve(|run| value(run, system)),
        dots: true,
    };
    // What is drawn last lies on top.
    System::ALL.into_iter().rev().map(line).filter(|l| !l.points.is_empty()).collect()
}

/// The lines over the reference.
fn over(reference: Option<Line>, lines: Vec<Line>) -> Vec<Line> {
    reference.into_iter().chain(lines).collect()
}

fn goodputs(group: &Group<'_>, name: &str, stretch: Stretch) -> Vec<Line> {
    lines(group, |run, system| Some(stretch.of(run.of(system)?.workloads.get(name)?)))
}

fn goodput(group: &Group<'_>, name: &str, of: &str, stretch: Stretch) -> Option<Plot> {
    let lines = goodputs(group, name, stretch);
    if lines.is_empty() {
        return None;
    }
    let x = loss_axis(&[group]);
    let mut note = stretch.note().to_owned();
    let reference = rate_line(group.rate_mbps, top(&lines), &x, &mut note);
    let lines = over(reference, lines);
    let y = Axis::from_zero(top(&lines), 0.1, "goodput (Mbit/s)");
    Some(plot(format!("Goodput against loss, {}{of}", stretch.name()), note, x, y, lines))
}

/// The second half once more, where one system is so far below another that a linear plot shows
/// nothing of it.
fn goodput_by_decades(group: &Group<'_>, name: &str, of: &str) -> Option<Plot> {
    let lines = goodputs(group, name, Stretch::SecondHalf);
    let best = top(&lines);
    let least = lines.iter().flat_map(|l| &l.points).map(|p| p.1).fold(f64::INFINITY, f64::min);
    if least >= best * GROUND || best <= 0.0 {
        return None;
    }
    let y = Axis::logarithmic(least.max(best * DEPTH), best, "goodput (Mbit/s)");
    let x = loss_axis(&[group]);
    let mut note = "The second half on a logarithmic scale.".to_owned();
    if least < best * DEPTH {
        note += " What is less than the scale has stands at its foot.";
    }
    let title = format!("Goodput against loss, by decades{of}");
    Some(plot(title, note, x, y, lines))
}

fn wire(group: &Group<'_>) -> Option<Plot> {
    let lines = lines(group, |run, system| run.of(system)?.wire_per_byte);
    if lines.is_empty() {
        return None;
    }
    let x = loss_axis(&[group]);
    let worst = x.hi.min(95.0);
    let least = |i: u32| {
        let loss = worst * f64::from(i) / 50.0;
        (loss, 100.0 / (100.0 - loss))
    };
    let reference = Line {
        name: "least that the loss demands".to_owned(),
        ink: Ink::Reference,
        points: (0..=50).map(least).collect(),
        dots: false,
    };
    let lines = over(Some(reference), lines);
    let values = || lines.iter().flat_map(|l| l.points.iter().map(|p| p.1));
    let (lo, hi) = (values().fold(1.0, f64::min), greatest(values()).max(1.1));
    let y = Axis::linear(lo, hi + (hi - lo) * 0.05, "bytes on the wire per byte");
    let note = "Bytes put on the link, headers and everything that is lost included, per byte of \
                payload that arrived; in the direction that carries most."
        .to_owned();
    Some(plot(format!("Cost against loss{}", group.label), note, x, y, lines))
}

fn latency(group: &Group<'_>, name: &str, (rank, pick): Rank) -> Option<Plot> {
    let enough = if rank == "p99.9" { MANY } else { 1 };
    let lines = lines(group, |run, system| {
        let found = run.of(system)?.workloads.get(name)?;
        found.latency.as_ref().filter(|_| found.exchanges >= enough).map(pick)
    });
    if lines.iter().all(|l| l.points.len() < 2) {
        return None;
    }
    let x = loss_axis(&[group]);
    let values = || lines.iter().flat_map(|l| l.points.iter().map(|p| p.1));
    let (least, max) = (values().fold(f64::INFINITY, f64::min), greatest(values()));
    let floor = group.rtt_ms.map_or(least, |rtt| rtt.min(least));
    let reference = group.rtt_ms.map(|rtt| Line {
        name: format!("RTT of the link, {} ms", plain(rtt)),
        ink: Ink::Reference,
        points: vec![(x.lo, rtt), (x.hi, rtt)],
        dots: false,
    });
    let max = max.max(group.rtt_ms.unwrap_or(0.0));
    let y = latency_axis(floor, max);
    let note =
        format!("{rank} of the time from the first byte of a request to the last of its answer.");
    let title = format!("Latency against loss, {rank}: {name}{}", group.label);
    Some(plot(title, note, x, y, over(reference, lines)))
}

/// From the least that there can be, because what comes on top of it is what differs.
fn latency_axis(floor: f64, max: f64) -> Axis {
    let title = "latency (ms)";
    if max > 6.0 * floor.max(0.01) {
        return Axis::logarithmic(floor.max(0.01), max, title);
    }
    let above = (max - floor).max(1.0);
    Axis::linear(floor - above * 0.08, floor + above * 1.08, title)
}
