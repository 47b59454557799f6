//! One run over time: panels of one width below each other, which share the time axis.

use std::collections::{BTreeMap, BTreeSet};

use super::Run;
use super::html::arrows_plain;
use super::palette::{Ink, LINES, SOLID};
use super::plot::{Line, Plot, Span};
use super::scale::{Axis, drawable, greatest, human, thin};
use crate::outcome::Series;

const WIDTH: u32 = 640;
const HEIGHT: u32 = 145;
/// Height of the labels below the last panel.
const LABELS: u32 = 38;
/// Two points each: finer than a screen shows.
const BUCKETS: usize = 300;
/// Routes that are drawn at most.
const ROWS: usize = 8;
const ROW_HEIGHT: u32 = 30;

/// The panels that the series has data for, from above.
pub(super) fn panels(run: &Run, series: &Series) -> Vec<Plot> {
    let clock = Clock::of(series, run.outcome.seconds);
    let mut panels: Vec<Plot> =
        [goodput(&clock, series), loss(&clock, series), queue(&clock, series), fec(&clock, series)]
            .into_iter()
            .flatten()
            .chain(routes(&clock, series))
            .collect();
    if let Some(last) = panels.last_mut() {
        last.x_labels = true;
        last.height += LABELS;
    }
    panels
}

/// From samples to virtual seconds.
struct Clock {
    interval: f64,
    end: f64,
}

impl Clock {
    fn of(series: &Series, seconds: f64) -> Self {
        let links = series.links.values();
        let tunnels = series.tunnels.values();
        let samples = series
            .goodput_mbps
            .values()
            .chain(links.flat_map(|l| [&l.offered_mbps, &l.lost_pct, &l.queue_ms]))
            .chain(tunnels.flat_map(|t| [&t.rate_mbps, &t.fec_overhead_pct, &t.repair_pct]))
            .map(Vec::len)
            .max()
            .unwrap_or(0);
        let usable = |v: f64| drawable(v) && v > 1e-6;
        let interval = if usable(series.interval_s) { series.interval_s } else { 1.0 };
        let sampled = interval * samples as f64;
        let end = if usable(sampled) { sampled } else { seconds };
        Self { interval, end: if usable(end) { end } else { 1.0 } }
    }

    fn axis(&self) -> Axis {
        Axis::linear(0.0, self.end, "virtual time (s)")
    }

    fn start_of(&self, sample: usize) -> f64 {
        (sample as f64 * self.interval).min(self.end)
    }

    /// A line through the middle of each sample's interval.
    fn line(&self, name: String, ink: Ink, values: &[f64]) -> Line {
        let points: Vec<_> = values
            .iter()
            .enumerate()
            .map(|(i, v)| ((i as f64 + 0.5) * self.interval, *v))
            .collect();
        Line { name, ink, points: thin(&points, BUCKETS), dots: false }
    }

    /// A panel, unless there is nothing to draw.
    fn panel(&self, title: &str, unit: &str, kinds: Vec<Kind<'_>>, least: f64) -> Option<Plot> {
        let mut lines = Vec::new();
        let mut left_out = Vec::new();
        let room = if kinds.len() > 1 { SOLID } else { LINES };
        for (i, kind) in kinds.into_iter().enumerate() {
            let (kept, dropped) = kind.most_of(room);
            left_out.extend(dropped);
            for (j, (name, values)) in kept.into_iter().enumerate() {
                lines.push(self.line(name, Ink::Line(i * SOLID + j), values));
            }
        }
        let max = greatest(lines.iter().flat_map(|l| l.points.iter().map(|p| p.1)));
        if lines.is_empty() {
            return None;
        }
        let note = match left_out.len() {
            0 => String::new(),
            n => {
                format!("The largest are drawn; {n} are left out, such as {}. ", left_out[0])
            }
        };
        Some(Plot {
            title: title.to_owned(),
            note,
            width: WIDTH,
            height: HEIGHT,
            x: self.axis(),
            y: Axis::from_zero(max, least, unit).sparse(),
            x_labels: false,
            lines,
            spans: Vec::new(),
        })
    }
}

/// Series of one quantity; in a panel with two kinds, the second is dashed.
struct Kind<'a>(Vec<(String, &'a [f64])>);

impl<'a> Kind<'a> {
    fn of<T>(
        of: &'a BTreeMap<String, T>,
        name: impl Fn(&str) -> String,
        pick: impl Fn(&'a T) -> &'a Vec<f64>,
    ) -> Self {
        let named = of.iter().map(|(key, value)| (name(key), pick(value).as_slice()));
        Self(named.filter(|(_, values)| values.iter().any(|v| drawable(*v))).collect())
    }

    /// The `room` series with the greatest sums, in their own order, and the names of the others.
    fn most_of(self, room: usize) -> (Vec<(String, &'a [f64])>, Vec<String>) {
        let sum = |values: &[f64]| values.iter().filter(|v| drawable(**v)).sum::<f64>();
        let mut ranked: Vec<usize> = (0..self.0.len()).collect();
        ranked.sort_by(|a, b| sum(self.0[*b].1).total_cmp(&sum(self.0[*a].1)));
        let kept: BTreeSet<usize> = ranked.into_iter().take(room).collect();
        let (most, least): (Vec<_>, Vec<_>) =
            self.0.into_iter().enumerate().partition(|(i, _)| kept.contains(i));
        let most = most.into_iter().map(|(_, series)| series).collect();
        (most, least.into_iter().map(|(_, (name, _))| name).collect())
    }
}

fn goodput(clock: &Clock, series: &Series) -> Option<Plot> {
    let goodput = Kind::of(&series.goodput_mbps, |n| format!("{n}: goodput"), |v| v);
    let rate = Kind::of(
        &series.tunnels,
        |n| format!("{}: allowed rate", arrows_plain(n)),
        |t| &t.rate_mbps,
    );
    let mut plot =
        clock.panel("Goodput and the controller's rate", "Mbit/s", vec![goodput, rate], 0.1)?;
    // While it starts or finds no limit, the controller allows far more than there is; that must not
    // press the goodput to the ground.
    let (rates, payload): (Vec<_>, Vec<_>) =
        plot.lines.iter().partition(|l| matches!(l.ink, Ink::Line(i) if i >= SOLID));
    let payload = greatest(payload.iter().flat_map(|l| l.points.iter().map(|p| p.1)));
    let usual = rates.iter().map(|l| median(&l.points)).fold(0.0, f64::max);
    let highest = greatest(rates.iter().flat_map(|l| l.points.iter().map(|p| p.1)));
    let enough = payload.max(usual.min(payload * 3.0)) * 1.2;
    if payload > 0.0 && highest > enough * 1.5 {
        plot.y = Axis::from_zero(enough, 0.1, "Mbit/s").sparse();
        plot.note +=
            &format!("The allowed rate leaves the plot: it reaches {} Mbit/s.", human(highest));
    }
    Some(plot)
}

fn median(points: &[(f64, f64)]) -> f64 {
    let mut values: Vec<f64> = points.iter().map(|p| p.1).filter(|v| drawable(*v)).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

fn loss(clock: &Clock, series: &Series) -> Option<Plot> {
    let lost = Kind::of(&series.links, arrows_plain, |l| &l.lost_pct);
    clock.panel("Packets lost on the link", "%", vec![lost], 1.0)
}

fn queue(clock: &Clock, series: &Series) -> Option<Plot> {
    let queue = Kind::of(&series.links, arrows_plain, |l| &l.queue_ms);
    clock.panel("Queue at the bottleneck", "ms", vec![queue], 1.0)
}

fn fec(clock: &Clock, series: &Series) -> Option<Plot> {
    let name = |what: &'static str| move |n: &str| format!("{}: {what}", arrows_plain(n));
    let parity = Kind::of(&series.tunnels, name("parity"), |t| &t.fec_overhead_pct);
    let repair = Kind::of(&series.tunnels, name("sent again"), |t| &t.repair_pct);
    clock.panel("FEC overhead and repair, of all symbols sent", "%", vec![parity, repair], 1.0)
}

/// Which way was taken when, if any pair of nodes has more than one way or there are several pairs.
fn routes(clock: &Clock, series: &Series) -> Option<Plot> {
    let mut pairs: Vec<_> = series.routes.iter().filter(|(_, ways)| !ways.is_empty()).collect();
    if pairs.len() < 2 && pairs.iter().all(|(_, ways)| ways.len() < 2) {
        return None;
    }
    let all = pairs.len();
    pairs.sort_by_key(|(_, ways)| std::cmp::Reverse(ways.len()));
    pairs.truncate(ROWS);
    pairs.sort_by_key(|(name, _)| *name);
    let ways: BTreeSet<&str> =
        pairs.iter().flat_map(|(_, ways)| ways.iter().map(|(_, way)| way.as_str())).collect();
    let ways: Vec<&str> = ways.into_iter().collect();
    let mut spans = Vec::new();
    for (i, (_, changes)) in pairs.iter().enumerate() {
        let starts = changes.iter().map(|(sample, _)| clock.start_of(*sample));
        let ends = starts.clone().skip(1).chain([clock.end]);
        for ((from, to), (_, way)) in starts.zip(ends).zip(changes.iter()) {
            let colour = ways.iter().position(|w| w == way).unwrap_or(0) % LINES;
            let row = pairs.len() - 1 - i;
            spans.push(Span { name: arrows_plain(way), ink: Ink::Line(colour), from, to, row });
        }
    }
    spans.retain(|s| s.from < s.to);
    let names: Vec<String> = pairs.iter().map(|(pair, _)| short(pair)).collect();
    let note = if all > ROWS {
        format!("{ROWS} of {all} pairs, those with most changes.")
    } else {
        String::new()
    };
    Some(Plot {
        title: "Route".to_owned(),
        note,
        width: WIDTH,
        height: 16 + ROW_HEIGHT * pairs.len() as u32,
        x: clock.axis(),
        y: Axis::rows(&names),
        x_labels: false,
        lines: Vec::new(),
        spans,
    })
}

/// A pair of nodes in what fits beside the axis.
fn short(pair: &str) -> String {
    let tight = arrows_plain(pair).replace(' ', "");
    if tight.chars().count() <= 8 {
        return tight;
    }
    tight.chars().take(7).chain(['…']).collect()
}
