//! What is wrong with a configuration file, one line of text per fault.

use std::fmt;
use std::sync::Arc;

/// The most faults that one [`ConfigErrors`] holds; the rest is only counted.
pub const MAX_ERRORS: usize = 20;

/// One fault of a configuration file. Displays as one line.
///
/// It never holds the value of a key that is a secret, and no line of the file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfigError {
    /// Line in the file, from 1. For something that is missing: where its section begins.
    pub line: usize,
    /// The key with its section, such as `peers[0].shared_key`; empty if no key is concerned.
    pub key: String,
    /// What was found and what is wanted.
    pub problem: String,
    /// The file, as it was named to [`Config::parse`](super::Config::parse).
    pub file: Arc<str>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.file, self.line)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.problem)
    }
}

impl std::error::Error for ConfigError {}

/// Everything that is wrong with a configuration file, in the order of its lines; never empty.
///
/// Displays as one line per fault, without a newline at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    errors: Vec<ConfigError>,
    omitted: usize,
}

impl ConfigErrors {
    pub(super) fn new(mut errors: Vec<ConfigError>) -> Self {
        errors.sort();
        errors.dedup();
        let omitted = errors.len().saturating_sub(MAX_ERRORS);
        errors.truncate(MAX_ERRORS);
        Self { errors, omitted }
    }

    /// The faults, by line; at most [`MAX_ERRORS`].
    #[must_use]
    pub fn errors(&self) -> &[ConfigError] {
        &self.errors
    }

    /// How many further faults were found.
    #[must_use]
    pub fn omitted(&self) -> usize {
        self.omitted
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.errors.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        if self.omitted > 0 {
            write!(f, "\n... and {} more", self.omitted)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
