//! Numbers of a file into durations, shares and counts of a known range.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::error::Problem;

/// The table at hand, for the keys that errors name.
#[derive(Debug, Clone, Copy)]
pub(super) struct At<'a>(pub(super) &'a str);

impl At<'_> {
    pub(super) fn key(self, name: &str) -> String {
        if self.0.is_empty() { name.to_owned() } else { format!("{}.{name}", self.0) }
    }

    pub(super) fn problem(self, name: &str, problem: impl Into<String>) -> Problem {
        Problem::new(self.key(name), problem)
    }

    /// A number within a range; `unit` ends the sentence that says so.
    pub(super) fn number(
        self,
        name: &str,
        found: f64,
        range: RangeInclusive<f64>,
        unit: &str,
    ) -> Result<f64, Problem> {
        // A NaN is in no range.
        if range.contains(&found) {
            return Ok(found);
        }
        let (least, most) = (range.start(), range.end());
        Err(self.problem(name, format!("found {found}, give {least} to {most} {unit}")))
    }

    /// A whole number within a range.
    pub(super) fn count(
        self,
        name: &str,
        found: u64,
        range: RangeInclusive<u64>,
        unit: &str,
    ) -> Result<u64, Problem> {
        if range.contains(&found) {
            return Ok(found);
        }
        let (least, most) = (range.start(), range.end());
        Err(self.problem(name, format!("found {found}, give {least} to {most} {unit}")))
    }

    /// Percent into a share from 0 to 1.
    pub(super) fn share(self, name: &str, percent: Option<f64>) -> Result<Option<f64>, Problem> {
        percent
            .map(|found| Ok(self.number(name, found, 0.0..=100.0, "percent")? / 100.0))
            .transpose()
    }

    pub(super) fn millis(
        self,
        name: &str,
        found: Option<f64>,
        range: RangeInclusive<f64>,
    ) -> Result<Option<Duration>, Problem> {
        found
            .map(|found| Ok(nanos(self.number(name, found, range, "milliseconds")? * 1e6)))
            .transpose()
    }

    pub(super) fn seconds(
        self,
        name: &str,
        found: f64,
        range: RangeInclusive<f64>,
    ) -> Result<Duration, Problem> {
        Ok(nanos(self.number(name, found, range, "seconds")? * 1e9))
    }
}

/// Of a number that is known to be neither negative nor beyond a century.
fn nanos(nanos: f64) -> Duration {
    Duration::from_nanos(nanos.round() as u64)
}
