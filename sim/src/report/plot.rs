//! One plot: drawn with `plotters` into SVG that stands in the page itself, its legend above it in
//! HTML, where it can cover no data and wraps on a narrow screen.

use plotters::prelude::{
    Cartesian2d, ChartBuilder, ChartContext, Circle, Color, DrawingAreaErrorKind, IntoDrawingArea,
    PathElement, Rectangle, SVGBackend, ShapeStyle, Text,
};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{IntoFont, TextStyle};

use super::ReportError;
use super::html::escape;
use super::palette::{Ink, SYSTEMS};
use super::scale::{Axis, drawable};

/// SVG units per unit of a plot: the library rounds coordinates to whole SVG units, which would show.
pub(super) const UNIT: u32 = 4;
/// Height of text in a plot, in units of a plot.
const TEXT: u32 = 14;
/// Room for the labels of the y axis, in units of a plot: a narrow page has larger text.
const BESIDE: u32 = 80;
/// Room on the right for half a label of the x axis.
const RIGHT: u32 = 24;
/// The library divides font sizes by this on the way into the SVG.
const FONT_DIVISOR: f64 = 1.24;
/// Width that one character takes, in units of a plot, where a narrow page has larger text.
const CHARACTER: f64 = 10.0;

/// A curve. Where a point cannot be drawn, the curve has a gap.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) name: String,
    pub(super) ink: Ink,
    pub(super) points: Vec<(f64, f64)>,
    /// Whether each point gets a dot.
    pub(super) dots: bool,
}

/// A named stretch of a row.
#[derive(Debug, Clone)]
pub(super) struct Span {
    pub(super) name: String,
    pub(super) ink: Ink,
    pub(super) from: f64,
    pub(super) to: f64,
    /// Counted from the bottom.
    pub(super) row: usize,
}

/// What is drawn, and how large.
#[derive(Debug)]
pub(super) struct Plot {
    /// What it shows, for the heading and for those who cannot see it.
    pub(super) title: String,
    /// One sentence below the heading on how to read it, or nothing.
    pub(super) note: String,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) x: Axis,
    pub(super) y: Axis,
    /// Whether the x axis has labels; without them the next plot below shares it.
    pub(super) x_labels: bool,
    pub(super) lines: Vec<Line>,
    pub(super) spans: Vec<Span>,
}

type Backend<'a> = SVGBackend<'a>;
type Chart<'a, 'b> = ChartContext<'a, Backend<'b>, Cartesian2d<Axis, Axis>>;
type DrawError = DrawingAreaErrorKind<std::io::Error>;

impl Plot {
    /// The plot as a `figure` element.
    ///
    /// # Errors
    /// [`ReportError::Plot`] if the library cannot draw it.
    pub(super) fn figure(&self) -> Result<String, ReportError> {
        let svg = self.svg().map_err(|error| ReportError::Plot {
            title: self.title.clone(),
            reason: error.to_string(),
        })?;
        let title = escape(&self.title);
        let note = match self.note.as_str() {
            "" => String::new(),
            note => format!("<p class=\"note\">{}</p>\n", escape(note.trim())),
        };
        let legend = self.legend();
        Ok(format!(
            "<figure>\n<figcaption><h3>{title}</h3>\n{note}{legend}</figcaption>\n{svg}</figure>\n"
        ))
    }

    fn legend(&self) -> String {
        let mut seen: Vec<(&str, Ink)> = Vec::new();
        let lines = self.lines.iter().map(|l| (l.name.as_str(), l.ink, true));
        let spans = self.spans.iter().map(|s| (s.name.as_str(), s.ink, false));
        let mut items = String::new();
        let mut named: Vec<_> = lines.chain(spans).collect();
        // Systems come first, and not in the order in which they cover each other.
        named.sort_by_key(|(_, ink, _)| match ink {
            Ink::System(index) => *index,
            _ => SYSTEMS,
        });
        for (name, ink, line) in named {
            if seen.contains(&(name, ink)) {
                continue;
            }
            seen.push((name, ink));
            let (hex, name) = (ink.hex(), escape(name));
            let shape = if line {
                format!("<path d=\"M0 20H112\" stroke=\"{hex}\" stroke-width=\"11\"/>")
            } else {
                format!("<rect width=\"112\" height=\"40\" fill=\"{hex}\" opacity=\"0.35\"/>")
            };
            items += &format!(
                "<li><svg viewBox=\"0 0 112 40\" aria-hidden=\"true\">{shape}</svg>{name}</li>"
            );
        }
        format!("<ul class=\"legend\">{items}</ul>\n")
    }

    fn svg(&self) -> Result<String, DrawError> {
        let mut drawn = String::new();
        let (width, height) = (self.width * UNIT, self.height * UNIT);
        {
            let root = SVGBackend::with_string(&mut drawn, (width, height)).into_drawing_area();
            let bottom = if self.x_labels { 46 * UNIT } else { 0 };
            let mut chart = ChartBuilder::on(&root)
                .margin_top(8 * UNIT)
                .margin_right(RIGHT * UNIT)
                .margin_bottom(if self.x_labels { 0 } else { 8 * UNIT })
                .x_label_area_size(bottom)
                .y_label_area_size(BESIDE * UNIT)
                .build_cartesian_2d(self.x.clone(), self.y.clone())?;
            self.draw_mesh(&mut chart)?;
            self.draw_spans(&mut chart)?;
            for line in &self.lines {
                self.draw_line(&mut chart, line)?;
            }
            root.present()?;
        }
        let label = escape(&self.title);
        Ok(format!(
            "<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{label}\">{}</svg>\n",
            compact(&drawn)
        ))
    }

    fn draw_mesh(&self, chart: &mut Chart<'_, '_>) -> Result<(), DrawError> {
        chart
            .configure_mesh()
            .axis_style(stroke(Ink::Axis, 1))
            .bold_line_style(stroke(Ink::Grid, 1))
            .label_style(text(Ink::Axis))
            .axis_desc_style(text(Ink::Axis))
            .set_all_tick_mark_size(4 * UNIT)
            .x_desc(self.x.title.as_str())
            .y_desc(self.y.title.as_str())
            .draw()
    }

    fn draw_spans(&self, chart: &mut Chart<'_, '_>) -> Result<(), DrawError> {
        let room = f64::from(self.width - BESIDE - RIGHT);
        for span in &self.spans {
            let (from, to) = (self.x.at(span.from), self.x.at(span.to));
            let row = span.row as f64;
            let area = [(from, row + 0.12), (to, row + 0.88)];
            chart.draw_series([Rectangle::new(area, span.ink.rgb().mix(0.35).filled())])?;
            let wide = (to - from) / (self.x.hi - self.x.lo) * room;
            if wide < CHARACTER * (span.name.chars().count() + 1) as f64 {
                continue;
            }
            let style = text(Ink::Text).pos(Pos::new(HPos::Center, VPos::Center));
            let middle = ((from + to) / 2.0, row + 0.5);
            chart.draw_series([Text::new(span.name.clone(), middle, style)])?;
        }
        Ok(())
    }

    fn draw_line(&self, chart: &mut Chart<'_, '_>, line: &Line) -> Result<(), DrawError> {
        let width = if line.ink == Ink::Reference { 1 } else { 2 };
        let whole = |p: &(f64, f64)| drawable(p.0) && drawable(p.1);
        for stretch in line.points.split(|p| !whole(p)) {
            let at: Vec<_> = stretch.iter().map(|p| (self.x.at(p.0), self.y.at(p.1))).collect();
            if line.dots || at.len() == 1 {
                let dot = ShapeStyle::from(&line.ink.rgb()).filled();
                chart
                    .draw_series(at.iter().map(|p| Circle::new(*p, line.ink.dot() * UNIT, dot)))?;
            }
            if at.len() > 1 {
                chart.draw_series([PathElement::new(at, stroke(line.ink, width))])?;
            }
        }
        Ok(())
    }
}

fn stroke(ink: Ink, width: u32) -> ShapeStyle {
    ink.rgb().stroke_width(width * UNIT)
}

fn text(ink: Ink) -> TextStyle<'static> {
    ("sans-serif", f64::from(TEXT * UNIT) * FONT_DIVISOR).into_font().color(&ink.rgb())
}

/// What the library drew without the `svg` element around it, line ends, and attributes that say the
/// default.
fn compact(drawn: &str) -> String {
    drawn
        .lines()
        .filter(|line| !line.starts_with("<svg ") && !line.starts_with("</svg"))
        .collect::<String>()
        .replace(" opacity=\"1\"", "")
        .replace(" font-family=\"sans-serif\"", "")
        .replace(" stroke=\"none\"", "")
        .replace(" \"/>", "\"/>")
}
