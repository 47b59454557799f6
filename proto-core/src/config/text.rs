//! What can be said about the text of a file without reading it as TOML.

/// Byte offset → line number.
#[derive(Debug)]
pub(super) struct Lines {
    newlines: Vec<usize>,
}

impl Lines {
    pub(super) fn new(text: &[u8]) -> Self {
        let newlines =
            text.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(i, _)| i).collect();
        Self { newlines }
    }

    /// The line, from 1, in which that byte stands.
    pub(super) fn at(&self, offset: usize) -> usize {
        self.newlines.partition_point(|newline| *newline < offset) + 1
    }
}

/// Brackets and dots of keys within one another, at most: deeper than any key of ours, and shallow
/// enough for the smallest stack. The TOML crate's own limit counts brackets and dots apart; their
/// product overflows the stack of a thread when it is freed.
pub const MAX_DEPTH: usize = 64;

/// The offset in bytes at which brackets and dotted keys are nested more than [`MAX_DEPTH`] deep, if they
/// are. To be asked before a text of unknown origin is given to the TOML crate.
#[must_use]
pub fn too_deep(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    // Dots of the key at hand, for each open bracket; a comma or a newline ends that key.
    let mut dots = vec![0usize];
    let mut depth = 0;
    let mut i = 0;
    while let Some(&byte) = bytes.get(i) {
        match byte {
            b'#' => i = line_end(bytes, i),
            b'"' | b'\'' => {
                i = string_end(bytes, i);
                continue;
            }
            b'[' | b'{' => {
                dots.push(0);
                depth += 1;
            }
            // The outermost place stays, however many brackets are closed.
            b']' | b'}' if dots.len() > 1 => depth -= 1 + dots.pop().unwrap_or(0),
            b'.' => {
                if let Some(top) = dots.last_mut() {
                    *top += 1;
                    depth += 1;
                }
            }
            b',' => depth -= dots.last_mut().map_or(0, std::mem::take),
            b'\n' if dots.len() == 1 => depth -= dots.last_mut().map_or(0, std::mem::take),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Some(i);
        }
        if byte != b'#' {
            i += 1;
        }
    }
    None
}

fn line_end(bytes: &[u8], from: usize) -> usize {
    let rest = bytes.get(from..).unwrap_or_default();
    rest.iter().position(|b| *b == b'\n').map_or(bytes.len(), |n| from + n)
}

/// Past the end of the string that begins at `from`; a string of one line ends with that line.
fn string_end(bytes: &[u8], from: usize) -> usize {
    let at = |i: usize| bytes.get(i).copied();
    let Some(quote) = at(from) else { return from };
    let is_triple = |i: usize| (i..i + 3).all(|i| at(i) == Some(quote));
    let multi_line = is_triple(from);
    let mut i = if multi_line { from + 3 } else { from + 1 };
    while let Some(byte) = at(i) {
        if byte == b'\\' && quote == b'"' {
            // An escaped newline does not carry a string of one line over its end.
            i += if at(i + 1) == Some(b'\n') { 1 } else { 2 };
        } else if multi_line && is_triple(i) {
            i += 3;
            // Up to two quotes may stand before the closing three.
            for _ in 0..2 {
                i += usize::from(at(i) == Some(quote));
            }
            return i;
        } else if !multi_line && byte == quote {
            return i + 1;
        } else if !multi_line && byte == b'\n' {
            return i;
        } else {
            i += 1;
        }
    }
    bytes.len()
}

/// The key that stands before the `=` of the line around `offset`, if it is one of `known`. Nothing
/// else of a line that could not be read may be shown: it may hold a secret.
pub(super) fn key_of_line(
    text: &[u8],
    offset: usize,
    known: impl Iterator<Item = &'static str>,
) -> Option<&'static str> {
    let before = text.get(..offset.min(text.len()))?;
    let start = before.iter().rposition(|b| *b == b'\n').map_or(0, |n| n + 1);
    let line = text.get(start..line_end(text, start))?;
    let key = line.split(|b| *b == b'=').next()?.trim_ascii();
    known.into_iter().find(|known| known.as_bytes() == key)
}

/// How a found text is named in an error: quoted if it is short, of one line and unlike anything
/// that might be a secret in the wrong place, otherwise by its length alone.
pub(super) fn shown(text: &str) -> String {
    let len = text.chars().count();
    if len == 0 {
        return "empty text".to_owned();
    }
    let harmless = |c: char| !c.is_control() && !matches!(c, '=' | '"' | '\'' | '\\');
    if len <= 64 && text.chars().all(harmless) && !looks_like_key(text) {
        format!("\"{text}\"")
    } else {
        format!("text of {len} characters")
    }
}

/// Whether it has a run as long as 16 or more bytes take in hexadecimal or base64.
fn looks_like_key(text: &str) -> bool {
    let in_key = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/');
    text.split(|c| !in_key(c)).any(|run| run.len() >= 32)
}
