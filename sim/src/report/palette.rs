//! The colours of the plots, each with a counterpart for a dark page.
//!
//! Plots are drawn once, in the colours of the light page; the style sheet recolours elements by the
//! value of their `stroke` or `fill` where the reader prefers dark. So no two inks may share a light
//! colour.

use plotters::style::RGBColor;

use super::plot::UNIT;

/// Lines of one kind in one plot; those of a second kind follow dashed.
pub(super) const SOLID: usize = 4;
/// All lines that a plot can tell apart.
pub(super) const LINES: usize = 8;
/// Systems that are compared.
pub(super) const SYSTEMS: usize = 3;
/// Steps of the ramp.
pub(super) const RAMP: usize = 12;

/// What something is drawn in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Ink {
    /// Names inside a plot.
    Text,
    /// Axes and their labels.
    Axis,
    Grid,
    /// A value to compare with; dashed.
    Reference,
    /// One of [`LINES`] lines without an order; from [`SOLID`] on dashed.
    Line(usize),
    /// One of [`SYSTEMS`] that are compared. Where they coincide each can still be seen: the first is
    /// drawn last, over the second, which is dashed, over the third.
    System(usize),
    /// One of [`RAMP`] steps from little to much.
    Ramp(usize),
}

type Rgb = u32;

const TEXT: (Rgb, Rgb) = (0x1F2328, 0xE6EAF0);
const AXIS: (Rgb, Rgb) = (0x59636E, 0xA3ADBA);
const GRID: (Rgb, Rgb) = (0xE4E7EB, 0x2C333D);
const REFERENCE: (Rgb, Rgb) = (0x7A838D, 0x8E98A5);

/// Okabe and Ito's colours, the pale ones darkened for white paper and the deep ones lightened for
/// black.
const LINE: [(Rgb, Rgb); LINES] = [
    (0x0072B2, 0x4FA8E8),
    (0xD55E00, 0xFF8A3D),
    (0x009E73, 0x2FC79B),
    (0xB5508C, 0xE59AC6),
    (0xB07C00, 0xF0C24B),
    (0x3A97D4, 0x9FDCFF),
    (0x3D3D3D, 0xD0D0D0),
    (0x7A4E1D, 0xC79A6B),
];

/// The first three of the same, told apart from them by a hair. They differ in lightness, too.
const SYSTEM: [(Rgb, Rgb); SYSTEMS] =
    [(0x0071B2, 0x4FA8E8), (0xD45E00, 0xFF8A3D), (0x2FA584, 0x35C49B)];

/// After viridis, without its pale end on light paper and without its deep end on dark, and on to
/// orange: neighbours differ in hue and, for those who see less of it, in lightness.
const STEP: [(Rgb, Rgb); RAMP] = [
    (0x440154, 0x8B7BEA),
    (0x472D7B, 0x6A8AEB),
    (0x3B528B, 0x4A9BDE),
    (0x2A728E, 0x35ACCB),
    (0x21868C, 0x2BB9A9),
    (0x1F9A8A, 0x34C48A),
    (0x28A87C, 0x57CC68),
    (0x4DB15A, 0x86D14A),
    (0x74B03A, 0xB3D433),
    (0x9AA817, 0xDDD42B),
    (0xBC9A00, 0xFDC926),
    (0xDF8500, 0xFF9F40),
];

impl Ink {
    /// The ink of item `index` of `count` in an order.
    pub(super) fn of_ordered(index: usize, count: usize) -> Self {
        if count <= SOLID {
            return Self::Line(index);
        }
        Self::Ramp(index * (RAMP - 1) / (count - 1))
    }

    fn pair(self) -> (Rgb, Rgb) {
        match self {
            Self::Text => TEXT,
            Self::Axis => AXIS,
            Self::Grid => GRID,
            Self::Reference => REFERENCE,
            Self::Line(index) => LINE[index % LINES],
            Self::System(index) => SYSTEM[index.min(SYSTEMS - 1)],
            Self::Ramp(step) => STEP[step.min(RAMP - 1)],
        }
    }

    /// The colour as the plotting library takes it.
    pub(super) fn rgb(self) -> RGBColor {
        let [_, r, g, b] = self.pair().0.to_be_bytes();
        RGBColor(r, g, b)
    }

    /// The colour as it stands in the SVG.
    pub(super) fn hex(self) -> String {
        format!("#{:06X}", self.pair().0)
    }

    fn all() -> impl Iterator<Item = Self> {
        [Self::Text, Self::Axis, Self::Grid, Self::Reference]
            .into_iter()
            .chain((0..LINES).map(Self::Line))
            .chain((0..SYSTEMS).map(Self::System))
            .chain((0..RAMP).map(Self::Ramp))
    }

    /// Radius of the dots of a line, in the plot's units: what is drawn earlier shows around them.
    pub(super) fn dot(self) -> u32 {
        if let Self::System(index) = self { 4 + index.min(SYSTEMS - 1) as u32 } else { 4 }
    }

    /// Lengths of dash and gap, in the plot's units.
    fn dash(self) -> Option<(u32, u32)> {
        match self {
            Self::Reference => Some((4, 4)),
            Self::Line(index) if index >= SOLID => Some((8, 4)),
            Self::System(1) => Some((7, 7)),
            _ => None,
        }
    }
}

/// Rules that dash lines, and recolour every plot on a dark page.
pub(super) fn style_rules() -> String {
    let mut dashes = String::new();
    let mut dark = String::new();
    for ink in Ink::all() {
        let light = ink.hex();
        if let Some((on, off)) = ink.dash() {
            let (on, off) = (on * UNIT, off * UNIT);
            dashes += &format!("[stroke=\"{light}\"]{{stroke-dasharray:{on} {off}}}\n");
        }
        let colour = ink.pair().1;
        dark += &format!("[stroke=\"{light}\"]{{stroke:#{colour:06X}}}");
        dark += &format!("[fill=\"{light}\"]{{fill:#{colour:06X}}}\n");
    }
    format!("{dashes}@media (prefers-color-scheme: dark) {{\n{dark}}}\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_inks_share_a_light_colour() {
        let colours: BTreeSet<_> = Ink::all().map(Ink::hex).collect();
        assert_eq!(colours.len(), Ink::all().count());
    }
}
