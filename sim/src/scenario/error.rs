//! What can be wrong with a scenario.

/// Why a scenario cannot be run. Every message names the place and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScenarioError {
    /// No such built-in scenario.
    #[error(
        "there is no scenario \"{name}\": name one of {}, or a file that ends in .toml",
        known.join(", ")
    )]
    Unknown {
        /// As it was asked for.
        name: String,
        /// Those that are built in.
        known: Vec<&'static str>,
    },
    /// The scenario has no such case.
    #[error("{scenario} has no case \"{case}\": {}", cases_or_none(known))]
    UnknownCase {
        /// The scenario.
        scenario: String,
        /// As it was asked for.
        case: String,
        /// Those that it has.
        known: Vec<String>,
    },
    /// A file that cannot be read.
    #[error("{path}: {problem}")]
    Unreadable {
        /// Its path.
        path: String,
        /// What the operating system said, or what is unfit about it.
        problem: String,
    },
    /// Not TOML.
    #[error("{scenario}, line {line}: {problem}")]
    Syntax {
        /// The scenario.
        scenario: String,
        /// From 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// An override that is not of the form `KEY=VALUE`.
    #[error("--set {text}: {problem}")]
    Override {
        /// As it was given.
        text: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A key with a value that cannot be.
    #[error("{scenario}: {problem}")]
    Invalid {
        /// The scenario, and its case after a slash.
        scenario: String,
        /// Which key, and why.
        problem: Problem,
    },
}

fn cases_or_none(known: &[String]) -> String {
    if known.is_empty() {
        "it has none, so ask for it by its name alone".to_owned()
    } else {
        format!("name one of {}", known.join(", "))
    }
}

/// What is wrong with one key, and what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct Problem {
    /// The key with the tables it stands in, joined by dots; elements of arrays by number from 0.
    pub key: String,
    /// What was found and what to write.
    pub problem: String,
}

impl Problem {
    pub(super) fn new(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { key: key.into(), problem: problem.into() }
    }
}
