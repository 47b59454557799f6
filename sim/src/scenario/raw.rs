//! The file as serde sees it: names and types of keys. Ranges and what goes together is checked
//! later.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::Table;

use super::error::Problem;

/// The whole file. Elements of arrays stay tables, so that an error in one can name its number.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawScenario {
    pub(super) title: String,
    pub(super) about: String,
    pub(super) seconds: f64,
    #[serde(default = "quiet_s")]
    pub(super) quiet_s: f64,
    #[serde(default)]
    pub(super) expect: Vec<String>,
    pub(super) pops: Option<u64>,
    #[serde(default)]
    pub(super) pop: Vec<Table>,
    #[serde(default)]
    pub(super) connector: Vec<Table>,
    pub(super) mesh: Option<Table>,
    #[serde(default)]
    pub(super) link: Table,
    pub(super) links: Option<BTreeMap<String, Table>>,
    #[serde(default)]
    pub(super) config: Table,
    #[serde(default)]
    pub(super) workload: BTreeMap<String, Table>,
    #[serde(default)]
    pub(super) event: Vec<Table>,
}

/// Long enough to hear whatever is said or kept that should not be.
fn quiet_s() -> f64 {
    2.0
}

/// `[mesh]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMesh {
    pub(super) degree: u64,
    pub(super) rtt_ms: [f64; 2],
    #[serde(default)]
    pub(super) seed: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCase {
    pub(super) name: String,
    pub(super) title: Option<String>,
    #[serde(default)]
    pub(super) set: Table,
    pub(super) expect: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPop {
    pub(super) name: String,
    #[serde(default)]
    pub(super) nat: bool,
    #[serde(default)]
    pub(super) clock_offset_s: f64,
    #[serde(default)]
    pub(super) config: Table,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawConnector {
    pub(super) name: String,
    pub(super) edge: String,
    #[serde(default = "one")]
    pub(super) connections: u64,
    #[serde(default = "yes")]
    pub(super) early_data: bool,
    #[serde(default)]
    pub(super) clock_offset_s: f64,
}

fn one() -> u64 {
    1
}

fn yes() -> bool {
    true
}

/// `[link]`, `[links.X]`, their `forth` and `back`, and `set` of an event.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLink {
    pub(super) rtt_ms: Option<f64>,
    pub(super) rate_mbps: Option<f64>,
    pub(super) queue_bdp: Option<f64>,
    pub(super) queue_ms: Option<f64>,
    pub(super) queue_kib: Option<f64>,
    pub(super) mark_ms: Option<f64>,
    pub(super) loss_pct: Option<f64>,
    pub(super) burst: Option<f64>,
    pub(super) burst_ms: Option<f64>,
    pub(super) jitter_ms: Option<f64>,
    pub(super) jitter_reorders: Option<bool>,
    pub(super) reorder_pct: Option<f64>,
    pub(super) reorder_ms: Option<f64>,
    pub(super) duplicate_pct: Option<f64>,
    pub(super) corrupt_pct: Option<f64>,
    pub(super) replay_pct: Option<f64>,
    pub(super) mtu: Option<u64>,
    pub(super) forth: Option<Box<RawLink>>,
    pub(super) back: Option<Box<RawLink>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RawKind {
    Request,
    Download,
    Upload,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RawOrigin {
    #[default]
    Accept,
    Refuse,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawWorkload {
    pub(super) kind: RawKind,
    pub(super) from: Option<String>,
    pub(super) to: Option<String>,
    pub(super) connections: Option<u64>,
    pub(super) count: Option<u64>,
    pub(super) request_bytes: Option<u64>,
    pub(super) answer_bytes: Option<u64>,
    pub(super) pause_ms: Option<f64>,
    pub(super) bytes: Option<u64>,
    pub(super) for_s: Option<f64>,
    #[serde(default)]
    pub(super) start_s: f64,
    pub(super) every_ms: Option<f64>,
    pub(super) until_s: Option<f64>,
    #[serde(default)]
    pub(super) half_close: bool,
    pub(super) read_kbps: Option<f64>,
    pub(super) origin_read_kbps: Option<f64>,
    pub(super) client_resets_after: Option<u64>,
    pub(super) origin_resets_after: Option<u64>,
    #[serde(default)]
    pub(super) origin: RawOrigin,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RawDirection {
    Both,
    Forth,
    Back,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawEvent {
    pub(super) at_s: f64,
    pub(super) every_s: Option<f64>,
    pub(super) until_s: Option<f64>,
    pub(super) link: Option<String>,
    pub(super) direction: Option<RawDirection>,
    pub(super) clock_step_s: Option<f64>,
    pub(super) forgets: Option<bool>,
    pub(super) set: Option<Table>,
    pub(super) restore: Option<bool>,
    pub(super) clog: Option<bool>,
    pub(super) cut: Option<bool>,
    pub(super) partition: Option<Vec<Vec<String>>>,
    pub(super) heal: Option<bool>,
    pub(super) rebind_port: Option<String>,
    pub(super) rebind_addr: Option<String>,
    pub(super) crash: Option<String>,
    pub(super) restart: Option<String>,
    pub(super) drain: Option<String>,
    pub(super) origin_refuses: Option<String>,
    pub(super) origin_accepts: Option<String>,
    pub(super) origin_dies: Option<String>,
}

/// The keys of a table that stands at `key`; the root's `key` is empty.
pub(super) fn read<T: DeserializeOwned>(key: &str, table: Table) -> Result<T, Problem> {
    table.try_into().map_err(|error: toml::de::Error| {
        // Only its text tells the keys inside `table`: a last line of the form "in `a.b`".
        let text = error.to_string();
        let inner = text.trim_end().rsplit_once("\nin `").and_then(|(_, at)| at.strip_suffix('`'));
        let key = match (key, inner) {
            ("", None) => "the file".to_owned(),
            ("", Some(inner)) => inner.to_owned(),
            (key, None) => key.to_owned(),
            (key, Some(inner)) => format!("{key}.{inner}"),
        };
        Problem::new(key, error.message().replace(char::is_control, " "))
    })
}
