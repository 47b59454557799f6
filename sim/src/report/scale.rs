//! Axes, ticks and thinning of long series.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

/// Values at or above this are not drawn: no quantity of a run is near it, and coordinates stay exact.
const ABSURD: f64 = 1e15;

/// Whether a plot can show the value.
pub(super) fn drawable(value: f64) -> bool {
    value.is_finite() && value.abs() < ABSURD
}

/// The greatest value that a plot can show, or 0.
pub(super) fn greatest(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().filter(|v| drawable(*v)).fold(0.0, f64::max)
}

/// One axis: its range, where its ticks are and what stands at them.
#[derive(Debug, Clone)]
pub(super) struct Axis {
    /// Ends, in coordinates: of a logarithmic axis, log10 of the values.
    pub(super) lo: f64,
    pub(super) hi: f64,
    log: bool,
    /// In coordinates.
    pub(super) ticks: Vec<(f64, String)>,
    /// Quantity and unit.
    pub(super) title: String,
}

impl Axis {
    /// Linear, from 0 to a little above `max`, at least to `least`.
    pub(super) fn from_zero(max: f64, least: f64, title: &str) -> Self {
        let max = if drawable(max) { max.max(least) } else { least };
        Self::linear(0.0, max * 1.05, title)
    }

    /// Linear; `lo` and `hi` are finite and `lo < hi`.
    pub(super) fn linear(lo: f64, hi: f64, title: &str) -> Self {
        Self { lo, hi, log: false, ticks: linear_ticks(lo, hi, 5.0), title: title.to_owned() }
    }

    /// The same linear axis with fewer ticks, for a low plot.
    pub(super) fn sparse(mut self) -> Self {
        self.ticks = linear_ticks(self.lo, self.hi, 3.0);
        self
    }

    /// Logarithmic; the ends are widened to where a tick stands.
    pub(super) fn logarithmic(min: f64, max: f64, title: &str) -> Self {
        let min = min.clamp(1e-6, ABSURD);
        let max = max.clamp(min * 2.0, ABSURD * 2.0);
        let decades = libm::log10(max / min);
        let digits: &[f64] = if decades > 2.5 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let first = libm::floor(libm::log10(min)) as i32;
        let last = libm::ceil(libm::log10(max)) as i32;
        let marks: Vec<f64> = (first..=last)
            .flat_map(|e| digits.iter().map(move |d| d * libm::pow(10.0, f64::from(e))))
            .collect();
        let below = marks.iter().rposition(|m| *m <= min * 1.001).unwrap_or(0);
        let above = marks.iter().position(|m| *m >= max * 0.999).unwrap_or(marks.len() - 1);
        let ticks: Vec<_> =
            marks[below..=above].iter().map(|m| (libm::log10(*m), tick_text(*m, *m))).collect();
        let (lo, hi) = (ticks[0].0, ticks[ticks.len() - 1].0);
        Self { lo, hi, log: true, ticks, title: title.to_owned() }
    }

    /// Logarithmic shares from 1 down to `10^-decades`, as percentages.
    pub(super) fn shares(decades: u32, title: &str) -> Self {
        let ticks = (0..=decades)
            .map(|d| {
                let percent = libm::pow(10.0, 2.0 - f64::from(d));
                (-f64::from(d), tick_text(percent, percent))
            })
            .collect();
        Self { lo: -f64::from(decades), hi: 0.0, log: true, ticks, title: title.to_owned() }
    }

    /// One row for each name, the first on top.
    pub(super) fn rows(names: &[String]) -> Self {
        let count = names.len();
        let ticks =
            names.iter().enumerate().map(|(i, n)| ((count - i) as f64 - 0.5, n.clone())).collect();
        Self { lo: 0.0, hi: count.max(1) as f64, log: false, ticks, title: String::new() }
    }

    /// Where the value lies on the axis, at its end if beyond.
    pub(super) fn at(&self, value: f64) -> f64 {
        let coordinate = if self.log { libm::log10(value.max(1e-30)) } else { value };
        coordinate.clamp(self.lo, self.hi)
    }
}

/// In coordinates; values go through [`Axis::at`] first.
impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, coordinate: &f64, (from, to): (i32, i32)) -> i32 {
        let share = (coordinate - self.lo) / (self.hi - self.lo);
        from + libm::round(f64::from(to - from) * share) as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        // Light points would be ticks between the ticks.
        if hint.weight().allow_light_points() {
            return Vec::new();
        }
        self.ticks.iter().map(|t| t.0).collect()
    }

    fn range(&self) -> Range<f64> {
        self.lo..self.hi
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, coordinate: &f64) -> String {
        let tick = self.ticks.iter().find(|t| t.0 == *coordinate);
        tick.map(|t| t.1.clone()).unwrap_or_default()
    }
}

/// Round numbers within the range, about as many as asked for.
fn linear_ticks(lo: f64, hi: f64, about: f64) -> Vec<(f64, String)> {
    let raw = ((hi - lo) / about).max(1e-9);
    let power = libm::pow(10.0, libm::floor(libm::log10(raw)));
    let step = [1.0, 2.0, 5.0].into_iter().find(|s| s * power >= raw * 0.8).unwrap_or(10.0) * power;
    let first = libm::ceil(lo / step - 1e-9) as i64;
    (first..first.saturating_add(12))
        .map(|i| i as f64 * step)
        .take_while(|v| *v <= hi + step * 1e-9)
        .map(|v| (v.min(hi), tick_text(v, step)))
        .collect()
}

/// A round number with as many decimals as its step needs.
fn tick_text(value: f64, step: f64) -> String {
    let decimals = (-libm::floor(libm::log10(step) + 1e-9)).clamp(0.0, 9.0) as usize;
    group_thousands(&format!("{value:.decimals$}"))
}

/// A number to three figures, for people; a dash if it is none.
pub(super) fn human(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let size = value.abs();
    if size == 0.0 {
        return "0".to_owned();
    }
    if !(0.001..ABSURD).contains(&size) {
        return format!("{value:.1e}");
    }
    let decimals = match size {
        s if s >= 99.95 => 0,
        s if s >= 9.995 => 1,
        s if s >= 0.995 => 2,
        _ => 3,
    };
    group_thousands(&format!("{value:.decimals$}"))
}

/// Milliseconds, to a tenth and where that is little to three figures: an RTT may well be in them, and
/// what comes on top of it counts.
pub(super) fn millis(value: f64) -> String {
    if value.is_finite() && (10.0..ABSURD).contains(&value.abs()) {
        return group_thousands(&format!("{value:.1}"));
    }
    human(value)
}

/// A parameter as it was given, without needless zeros.
pub(super) fn plain(value: f64) -> String {
    let text = human(value);
    if text.contains('.') && !text.contains('e') {
        return text.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    text
}

/// A count, for people.
pub(super) fn count(value: u64) -> String {
    group_thousands(&value.to_string())
}

/// Bytes in the decimal unit that leaves the fewest digits.
pub(super) fn bytes(value: u64) -> String {
    let value = value as f64;
    match value {
        v if v >= 1e9 => format!("{} GB", human(v / 1e9)),
        v if v >= 1e6 => format!("{} MB", human(v / 1e6)),
        v if v >= 1e3 => format!("{} kB", human(v / 1e3)),
        v => format!("{v} B"),
    }
}

/// Sets narrow spaces between groups of three digits in front of the decimal point, from 10 000 on.
fn group_thousands(number: &str) -> String {
    let digits = number.trim_start_matches('-');
    let whole = digits.find('.').unwrap_or(digits.len());
    if whole < 5 {
        return number.to_owned();
    }
    let sign = &number[..number.len() - digits.len()];
    let mut out = sign.to_owned();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && i < whole && (whole - i).is_multiple_of(3) {
            out.push('\u{202F}');
        }
        out.push(c);
    }
    out
}

/// Thins a series to at most `2 * buckets` points, keeping every bucket's least and greatest value, so
/// that no spike gets lost. Where a whole bucket cannot be drawn, NaN stands.
pub(super) fn thin(points: &[(f64, f64)], buckets: usize) -> Vec<(f64, f64)> {
    if points.len() <= 2 * buckets {
        return points.to_vec();
    }
    let size = points.len().div_ceil(buckets);
    points
        .chunks(size)
        .flat_map(|chunk| {
            let seen = || chunk.iter().copied().filter(|p| drawable(p.1));
            let least = seen().min_by(|a, b| a.1.total_cmp(&b.1));
            let greatest = seen().max_by(|a, b| a.1.total_cmp(&b.1));
            match (least, greatest) {
                (Some(a), Some(b)) if a.0 == b.0 => vec![a],
                (Some(a), Some(b)) if a.0 < b.0 => vec![a, b],
                (Some(a), Some(b)) => vec![b, a],
                _ => vec![(chunk[0].0, f64::NAN)],
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_within_the_range_and_few() {
        for hi in [1e-5, 0.3, 1.0, 42.0, 105.0, 7_000.0, 3.3e14] {
            let axis = Axis::linear(0.0, hi, "");
            assert!((4..=9).contains(&axis.ticks.len()), "{hi}: {:?}", axis.ticks);
            assert!((2..=5).contains(&axis.clone().sparse().ticks.len()), "{hi}");
            assert!(axis.ticks.iter().all(|t| (0.0..=hi).contains(&t.0)), "{hi}: {:?}", axis.ticks);
        }
        let texts: Vec<_> = Axis::linear(0.0, 1.05, "").ticks.into_iter().map(|t| t.1).collect();
        assert_eq!(texts, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
    }

    #[test]
    fn a_logarithmic_axis_spans_its_values() {
        for (min, max) in [(119.0, 2_400.0), (0.0, 0.0), (5.0, 5.0), (1e-3, 1e9)] {
            let axis = Axis::logarithmic(min, max, "");
            assert!(libm::pow(10.0, axis.lo) <= min.max(1e-6) * 1.01, "{axis:?}");
            assert!(libm::pow(10.0, axis.hi) >= max * 0.99, "{axis:?}");
        }
    }

    #[test]
    fn thinning_keeps_the_spike() {
        let mut points: Vec<_> = (0..10_000).map(|i| (f64::from(i), 1.0)).collect();
        points[4_321].1 = 99.0;
        let thinned = thin(&points, 300);
        assert!(thinned.len() <= 600);
        assert!(thinned.contains(&(4_321.0, 99.0)));
        assert!(thinned.is_sorted_by(|a, b| a.0 < b.0));
    }

    #[test]
    fn numbers_are_for_people() {
        let texts = [0.0, 0.04567, 1.0, 99.96, 1234.5, 1_234_567.0, f64::NAN].map(human);
        assert_eq!(texts, ["0", "0.046", "1.00", "100", "1234", "1\u{202F}234\u{202F}567", "–"]);
        assert_eq!(millis(120.44), "120.4");
        assert_eq!(plain(2.50), "2.5");
        assert_eq!(bytes(12_500_000), "12.5 MB");
    }
}
