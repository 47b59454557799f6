//! The live demo: an origin, two PoPs on real loopback sockets, and a simulated link between them.
//!
//! ```text
//! clients ─TCP─► PoP A ─UDP─► link ─UDP─► PoP B ─TCP─► origin
//! ```
//!
//! Everything runs in this process and on free ports of 127.0.0.1, so that several demos can run at
//! once. Nothing is written to disk.
//!
//! On Linux the link can also lie between two network namespaces (`link`), so that this kernel's own
//! TCP can be put on it, and be compared with the relay there (`ab`).

#[cfg(target_os = "linux")]
pub mod ab;
mod bulk;
mod demo;
mod forward;
mod histogram;
mod ledger;
#[cfg(target_os = "linux")]
pub mod link;
mod meter;
mod options;
mod origin;
mod pops;
mod progress;
mod proxy;
mod report;
mod shell;
mod stage;
mod workload;

pub use bulk::BulkReport;
pub use demo::{DemoError, run};
pub use forward::{ForwardError, Lateness, LiveStats};
pub use ledger::BytesReport;
pub use meter::{DirectionFigures, QueueDelay};
pub use options::{Bulk, DemoArgs, DemoOptions, FlagError, Switch};
pub use pops::PopError;
pub use progress::Progress;
pub use proxy::{BoundProxy, Proxy, ProxyError};
pub use report::{
    BulkReports, DirectionReport, LinkReport, RepairReport, Report, RoundTrips, Setup,
};
pub use shell::{ShellKind, Shells};
