//! Scenarios: who is there, over what links, what traffic goes on, what befalls it, and what is
//! expected of the outcome. Read from TOML (`sim/scenarios/README.md` has all keys), checked, and
//! held in types that the engine can follow without checking again.

mod builtin;
mod connectors;
mod error;
mod events;
mod expect;
mod links;
mod mesh;
mod overrides;
mod paths;
mod raw;
mod source;
mod syntax;
mod values;
mod workloads;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_connectors;
#[cfg(test)]
mod tests_random;

use std::fmt;
use std::time::Duration;

use entrouter_proto::ids::NodeId;

pub use error::{Problem, ScenarioError};
pub use events::{Event, EventKind, OriginState, RebindKind};
pub use expect::{Expectation, evaluate, snapshots, watched};
pub use links::LinkSpec;
pub use overrides::Override;
pub use paths::Path;
pub use source::{Listing, cases, load, names, parse};
pub use workloads::{Amount, BitRate, Client, Opening, Origin, Workload, WorkloadKind};

/// A PoP of a scenario, by its place in [`Scenario::pops`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PopId(pub usize);

/// A link of a scenario, by its place in [`Scenario::links`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub usize);

/// Which directions of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Both.
    Both,
    /// From the first of its ends to the second.
    Forth,
    /// From the second of its ends to the first.
    Back,
}

impl Way {
    /// Whether it has the direction from the first end to the second.
    #[must_use]
    pub fn is_forth(self) -> bool {
        matches!(self, Self::Both | Self::Forth)
    }

    /// Whether it has the direction from the second end to the first.
    #[must_use]
    pub fn is_back(self) -> bool {
        matches!(self, Self::Both | Self::Back)
    }

    fn reversed(self) -> Self {
        match self {
            Self::Both => Self::Both,
            Self::Forth => Self::Back,
            Self::Back => Self::Forth,
        }
    }
}

/// How far a wall clock is off, or is stepped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClockOffset {
    /// Not at all.
    #[default]
    None,
    /// It shows a later time.
    Ahead(Duration),
    /// It shows an earlier time.
    Behind(Duration),
}

impl ClockOffset {
    /// `seconds` within ± 10^9, about 31 years.
    fn read(at: values::At<'_>, name: &str, seconds: f64) -> Result<Self, Problem> {
        at.number(name, seconds, -1e9..=1e9, "seconds")?;
        let by = at.seconds(name, seconds.abs(), 0.0..=1e9)?;
        Ok(match () {
            () if by.is_zero() => Self::None,
            () if seconds < 0.0 => Self::Behind(by),
            () => Self::Ahead(by),
        })
    }
}

/// One run, but for its seed; everything in it is within its range and refers to what exists.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// Name of the built-in scenario or of the file.
    pub name: String,
    /// Name of its case, if one was asked for.
    pub case: Option<String>,
    /// One line.
    pub title: String,
    /// What it shows, and where its parameters come from.
    pub about: String,
    /// Virtual time at which the run ends at the latest, 1 s to 1 day.
    pub ends_at: Duration,
    /// How long it goes on after the last connection ended.
    pub quiet: Duration,
    /// Two or more, at most [`MAX_POPS`], connectors counted, which come last; names are distinct.
    pub pops: Vec<Pop>,
    /// At least one, by name. Each also makes its two ends peers of each other.
    pub links: Vec<LinkSpec>,
    /// Merged into the configuration file of every PoP, as it stands; unchecked but for
    /// [`RESERVED_CONFIG`].
    pub config: toml::Table,
    /// At least one, by name.
    pub workloads: Vec<Workload>,
    /// In the order in which they happen; those at the same time in the order of the file. Some may
    /// lie behind the end.
    pub events: Vec<Event>,
    /// Of the outcome.
    pub expect: Vec<Expectation>,
}

/// The most PoPs.
pub const MAX_POPS: usize = 64;

/// Keys of a PoP's configuration file that the simulator writes itself.
pub const RESERVED_CONFIG: [&str; 5] = ["node_id", "listen", "peers", "origins", "edge"];

/// One PoP.
#[derive(Debug, Clone, PartialEq)]
pub struct Pop {
    /// Its name.
    pub name: NodeId,
    /// Whether it sits behind a NAT: its peers are given no address for it.
    pub nat: bool,
    /// How wrong its wall clock is at the start.
    pub clock_offset: ClockOffset,
    /// Merged into its configuration file, over [`Scenario::config`].
    pub config: toml::Table,
    /// If it is no PoP.
    pub connector: Option<Connector>,
}

/// What makes a host beside the mesh of a place where clients are: it takes them to the edge of a PoP over
/// QUIC. It has one link, to that PoP, and one workload begins there at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connector {
    /// That PoP.
    pub edge: PopId,
    /// How many QUIC connections it has, among which its clients go round; 1 to 10,000.
    pub connections: usize,
    /// Whether it sends data with the first packet when it comes back.
    pub early_data: bool,
}

impl Scenario {
    /// `NAME`, or `NAME/CASE`.
    #[must_use]
    pub fn full_name(&self) -> String {
        match &self.case {
            Some(case) => format!("{}/{case}", self.name),
            None => self.name.clone(),
        }
    }

    /// The PoP with that name.
    #[must_use]
    pub fn pop(&self, name: &str) -> Option<PopId> {
        self.pops.iter().position(|pop| pop.name.as_str() == name).map(PopId)
    }

    /// The name of the direction of a link, or of the tunnel at `from` towards `to`: `from>to`.
    /// Panics if there is no such PoP, as indexing does.
    #[must_use]
    pub fn direction_name(&self, from: PopId, to: PopId) -> String {
        format!("{}>{}", self.pops[from.0].name, self.pops[to.0].name)
    }

    /// What the scenario adds to the configuration file of a PoP; its own keys win over those for
    /// all. Panics if there is no such PoP, as indexing does.
    #[must_use]
    pub fn config_of(&self, pop: PopId) -> toml::Table {
        let mut config = self.config.clone();
        crate::mesh::merge(&mut config, &self.pops[pop.0].config);
        config
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.full_name(), self.title)
    }
}
