//! Runs of a scenario as one HTML page that needs nothing else: no script, no network, no font.
//!
//! Plots are SVG inside the page; they scale with it and follow the reader's choice of a light or
//! dark page. Equal runs give equal pages.

mod details;
mod html;
mod overview;
mod palette;
mod plot;
mod scale;
mod summary;
mod timeline;
mod versus;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use crate::outcome::Outcome;
use html::escape;
use palette::Ink;

/// One scenario with its runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// Heading.
    pub title: String,
    /// What the scenario is about, in plain text; line ends are kept.
    pub about: String,
    /// In the order in which they are shown.
    pub runs: Vec<Run>,
    /// The command line that reproduces the runs.
    pub command: String,
    /// Why there are no runs over QUIC, if that needs saying: a sentence without its full stop.
    pub alone: Option<String>,
}

/// What carried the connections of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum System {
    /// Entrouter Line.
    Relay,
    /// One QUIC connection with BBR.
    QuicBbr,
    /// One QUIC connection with CUBIC.
    QuicCubic,
}

impl System {
    const ALL: [Self; 3] = [Self::Relay, Self::QuicBbr, Self::QuicCubic];

    fn name(self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::QuicBbr => "QUIC, BBR",
            Self::QuicCubic => "QUIC, CUBIC",
        }
    }

    fn ink(self) -> Ink {
        Ink::System(match self {
            Self::Relay => 0,
            Self::QuicBbr => 1,
            Self::QuicCubic => 2,
        })
    }
}

/// One run, with what plots need to know about the link that it went over. Runs are compared with
/// each other where `loss_pct` is known.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// Name of the case within the scenario.
    pub case: String,
    /// Packet loss of the link, 0 to 100 percent.
    pub loss_pct: Option<f64>,
    /// RTT of the link without any queue, ms.
    pub rtt_ms: Option<f64>,
    /// Rate of the link, Mbit/s.
    pub rate_mbps: Option<f64>,
    /// How losses bunch, such as "bursts of 5 packets"; empty if each packet is lost for itself.
    pub bursts: String,
    /// What was found out.
    pub outcome: Outcome,
    /// What was found out of the same traffic over other systems on the same link.
    pub direct: BTreeMap<System, Outcome>,
}

impl Run {
    fn of(&self, system: System) -> Option<&Outcome> {
        if system == System::Relay { Some(&self.outcome) } else { self.direct.get(&system) }
    }

    /// The case, or the scenario if it has no cases.
    fn label(&self) -> String {
        if self.case.is_empty() { self.outcome.scenario.clone() } else { self.case.clone() }
    }
}

/// Why there is no page.
#[derive(Debug, Error)]
pub enum ReportError {
    /// The plotting library gave up.
    #[error("cannot draw the plot {title:?}: {reason}; leave its run out of the report")]
    Plot {
        /// Its heading.
        title: String,
        /// What the library says.
        reason: String,
    },
}

/// The page as a whole HTML document.
///
/// # Errors
/// [`ReportError::Plot`] if a plot cannot be drawn. Empty series and numbers that are not finite are
/// no reason: they leave gaps.
pub fn render(page: &Page) -> Result<String, ReportError> {
    let title = escape(&page.title);
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{}{}</style>\n</head>\n<body>\n",
        include_str!("style.css"),
        palette::style_rules()
    );
    out += &head(page);
    out += "<h2>All runs</h2>\n";
    out += &overview::table(&page.runs);
    if let Some(why) = &page.alone {
        out += &format!("<p class=\"note\">{}.</p>\n", escape(why));
    }
    out += &failures(&page.runs);
    let plots = summary::plots(&page.runs);
    if !plots.is_empty() {
        out += "<h2>Comparison</h2>\n<div class=\"plots\">\n";
        for plot in plots {
            out += &plot.figure()?;
        }
        out += "</div>\n";
    }
    out += "<h2>Run by run</h2>\n";
    for (i, run) in page.runs.iter().enumerate() {
        out += &details::section(run, i, i == 0)?;
    }
    out += "</body>\n</html>\n";
    Ok(out)
}

fn seeds(runs: &[Run]) -> BTreeSet<u64> {
    runs.iter().map(|r| r.outcome.seed).collect()
}

fn head(page: &Page) -> String {
    let seeds = seeds(&page.runs);
    let seed = match (seeds.first(), seeds.last()) {
        (Some(first), Some(last)) if first != last => {
            format!("{} seeds, {first} to {last}", seeds.len())
        }
        (Some(only), _) => only.to_string(),
        _ => "–".to_owned(),
    };
    let bad = page.runs.iter().filter(|r| !r.outcome.is_well()).count();
    let verdict = match (page.runs.len(), bad) {
        (0, _) => "no runs".to_owned(),
        (1, 0) => "<span class=\"good\">1 run, well</span>".to_owned(),
        (n, 0) => format!("<span class=\"good\">{n} runs, all well</span>"),
        (n, bad) => format!("<span class=\"bad\">{bad} of {n} runs failed</span>"),
    };
    format!(
        "<h1>{}</h1>\n<p class=\"about\">{}</p>\n<dl class=\"facts\">\n<dt>Verdict</dt><dd>{verdict}</dd>\n\
         <dt>Seed</dt><dd>{seed}</dd>\n\
         <dt>Reproduce</dt><dd><code class=\"command\">{}</code></dd>\n</dl>\n",
        escape(&page.title),
        escape(&page.about),
        escape(&page.command)
    )
}

/// What went wrong, run by run; the rest of a long list stands with its run.
fn failures(runs: &[Run]) -> String {
    let mut items = String::new();
    for run in runs.iter().filter(|r| !r.outcome.is_well()) {
        let label = escape(&run.label());
        let failed = run.outcome.expectations.iter().filter(|e| !e.held);
        let expected = failed.map(|e| {
            format!("expected <code>{}</code>, found {}", escape(&e.text), escape(&e.found))
        });
        let violations = run.outcome.violations.iter().map(|v| escape(v));
        let all: Vec<String> = expected.chain(violations).collect();
        items += &format!("<li>{label}\n<ul>\n{}</ul></li>\n", details::listed(&all, 5));
    }
    if items.is_empty() {
        return String::new();
    }
    format!("<ul class=\"failures\">\n{items}</ul>\n")
}
