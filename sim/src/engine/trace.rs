//! What happened in a run, as a hash and, if asked for, as text.

use std::io::{self, BufRead, Write};

use xxhash_rust::xxh3::Xxh3;

use crate::time::Time;

/// Hashes every event of a run and writes it as a line:
///
/// ```text
/// 0.270512000 a>b sent 17 1280 lost
/// ```
/// that is virtual seconds, where, what, numbers (here: of the datagram, and its bytes), and a note.
/// The hash covers the plaintext of streams too, the lines do not.
pub struct Trace {
    hash: Xxh3,
    record: Vec<u8>,
    lines: Option<Box<dyn Write>>,
    error: Option<io::Error>,
}

impl Trace {
    /// Without text.
    #[must_use]
    pub fn new() -> Self {
        Self { hash: Xxh3::new(), record: Vec::new(), lines: None, error: None }
    }

    /// Writes lines to `lines`, which should be buffered.
    #[must_use]
    pub fn to(lines: Box<dyn Write>) -> Self {
        Self { lines: Some(lines), ..Self::new() }
    }

    pub(super) fn record(
        &mut self,
        at: Time,
        place: &str,
        what: &str,
        numbers: &[u64],
        note: &str,
    ) {
        self.record.clear();
        self.record.extend_from_slice(&at.as_nanos().to_le_bytes());
        for text in [place, what, note] {
            self.record.extend_from_slice(text.as_bytes());
            self.record.push(0);
        }
        for number in numbers {
            self.record.extend_from_slice(&number.to_le_bytes());
        }
        self.hash.update(&self.record);
        if let Some(lines) = &mut self.lines
            && let Err(error) = write_line(lines, at, place, what, numbers, note)
        {
            self.error = Some(error);
            self.lines = None;
        }
    }

    pub(super) fn plaintext(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
    }

    /// The hash so far, in hex.
    #[must_use]
    pub fn hash(&self) -> String {
        format!("{:032x}", self.hash.digest128())
    }

    /// Writes what is buffered.
    ///
    /// # Errors
    /// Whatever went wrong in writing since the beginning; lines after that are missing.
    pub fn finish(&mut self) -> io::Result<()> {
        match (self.error.take(), &mut self.lines) {
            (Some(error), _) => Err(error),
            (None, Some(lines)) => lines.flush(),
            (None, None) => Ok(()),
        }
    }
}

impl Default for Trace {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trace").field("hash", &self.hash()).finish_non_exhaustive()
    }
}

fn write_line(
    lines: &mut dyn Write,
    at: Time,
    place: &str,
    what: &str,
    numbers: &[u64],
    note: &str,
) -> io::Result<()> {
    let (seconds, nanos) = (at.as_nanos() / 1_000_000_000, at.as_nanos() % 1_000_000_000);
    write!(lines, "{seconds}.{nanos:09} {place} {what}")?;
    for number in numbers {
        write!(lines, " {number}")?;
    }
    let space = if note.is_empty() { "" } else { " " };
    writeln!(lines, "{space}{note}")
}

/// Where two traces part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Number of the first line that differs, from 1.
    pub line: u64,
    /// The last lines that are the same.
    pub before: Vec<String>,
    /// The first that differ, of the first trace; empty if it ended.
    pub left: Vec<String>,
    /// Of the second.
    pub right: Vec<String>,
}

/// The first lines of the rest.
fn rest(
    first: Option<String>,
    lines: impl Iterator<Item = io::Result<String>>,
) -> io::Result<Vec<String>> {
    first.into_iter().map(Ok).chain(lines).take(CONTEXT).collect()
}

/// Lines of context around a difference.
const CONTEXT: usize = 5;

/// Compares two traces that were written as text; `None` if they are the same.
///
/// # Errors
/// If one of them cannot be read.
pub fn diff(left: impl BufRead, right: impl BufRead) -> io::Result<Option<Difference>> {
    let (mut left, mut right) = (left.lines(), right.lines());
    let mut before = std::collections::VecDeque::new();
    for line in 1.. {
        let pair = (left.next().transpose()?, right.next().transpose()?);
        match pair {
            (None, None) => break,
            (Some(one), Some(other)) if one == other => {
                if before.len() == CONTEXT {
                    before.pop_front();
                }
                before.push_back(one);
            }
            (one, other) => {
                let (before, left, right) = (before.into(), rest(one, left)?, rest(other, right)?);
                return Ok(Some(Difference { line, before, left, right }));
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_knows_time_place_numbers_note_and_plaintext() {
        let hash = |at: u64, place: &str, number: u64, note: &str, plain: &[u8]| {
            let mut trace = Trace::new();
            trace.record(Time::from_nanos(at), place, "sent", &[number], note);
            trace.plaintext(plain);
            trace.hash()
        };
        let one = hash(1, "a", 2, "", b"x");
        assert_eq!(one, hash(1, "a", 2, "", b"x"));
        let others = [(0, "a", 2, ""), (1, "b", 2, ""), (1, "a", 3, ""), (1, "a", 2, "late")];
        for (at, place, number, note) in others {
            assert_ne!(one, hash(at, place, number, note, b"x"));
        }
        assert_ne!(one, hash(1, "a", 2, "", b"y"));
    }

    #[test]
    fn a_difference_is_shown_with_its_context() {
        let lines = |last: &str| (0..9).map(|n| format!("{n}\n")).collect::<String>() + last;
        let (same, other) = (lines("x\ny\n"), lines("z\n"));
        assert_eq!(diff(same.as_bytes(), same.as_bytes()).expect("read"), None);
        let found = diff(same.as_bytes(), other.as_bytes()).expect("read").expect("differ");
        assert_eq!(
            (found.line, found.before),
            (10, ["4", "5", "6", "7", "8"].map(str::to_owned).to_vec())
        );
        assert_eq!(
            (found.left, found.right),
            (vec!["x".to_owned(), "y".to_owned()], vec!["z".to_owned()])
        );
    }
}
