//! The relay against the kernel's own TCP, on the same live link with the same luck.
//!
//! ```text
//! namespace A                                                     namespace B
//! relay:   client ─TCP─► PoP A ── UDP ─► link ─► UDP ── PoP B ─TCP─► origin
//! kernel:  client ── TCP ──────────────► link ─► ───────────── TCP ─► origin
//! ```
//!
//! Each measurement has a link, PoPs and an origin of its own, so that none starts with what another
//! learnt. The congestion control of every TCP connection is set and read back from it: the clients'
//! and the origin's one by one, the PoPs' through their namespace's default.

mod clients;
mod fair;
mod measure;
mod options;
mod report;
mod scene;
mod sockets;

use std::io;
use std::sync::atomic::AtomicBool;

pub use options::{AbArgs, AbOptions, Direction, List, Measure, System};
pub use report::{
    AbReport, BesideReport, BulkReport, CaseReport, DataReport, FairFlow, FairReport, Spread,
    SystemReport,
};
pub use scene::Controls;

use super::forward::Lateness;
use super::link::{LiveLinkError, NamespaceError, Shape, check_system};
use super::pops::PopError;
use super::progress::Progress;
use measure::{Found, Measured, measure};

const AVAILABLE: &str = "/proc/sys/net/ipv4/tcp_available_congestion_control";

/// A comparison could not be made.
#[derive(Debug, thiserror::Error)]
pub enum AbError {
    /// The link.
    #[error(transparent)]
    Link(#[from] LiveLinkError),
    /// The PoPs.
    #[error(transparent)]
    Pops(#[from] PopError),
    /// No such congestion control.
    #[error(
        "this kernel has no congestion control {name:?}, only {available}: try `modprobe tcp_{name}`"
    )]
    Congestion {
        /// What was asked for.
        name: String,
        /// What there is.
        available: String,
    },
    /// The origin.
    #[error("cannot start the origin: {0}")]
    Origin(#[source] io::Error),
    /// The clients.
    #[error("cannot start the clients: {0}")]
    Clients(#[source] io::Error),
    /// The PoPs' connections.
    #[error("cannot look at the PoPs' connections: {0}")]
    Sockets(#[source] io::Error),
    /// A signal came.
    #[error("interrupted")]
    Interrupted,
}

impl AbError {
    fn place(error: NamespaceError) -> Self {
        Self::Link(error.into())
    }
}

/// Compares, and says with `progress` how far it is.
///
/// When `stop` becomes true it ends at once, and reports what it has.
///
/// # Errors
/// [`AbError`] if something could not be started. What goes wrong later is in the report.
pub fn run(
    options: &AbOptions,
    stop: &AtomicBool,
    progress: &Progress,
) -> Result<AbReport, AbError> {
    check_system().map_err(AbError::place)?;
    check_congestion(options)?;
    let mut report = AbReport {
        exact: true,
        interrupted: false,
        failures: Vec::new(),
        notes: Vec::new(),
        shells: options.shells,
        direction: options.direction,
        seconds: options.duration.as_secs_f64(),
        settings: Vec::new(),
        cases: Vec::new(),
    };
    for shape in &options.shapes {
        report.cases.push(CaseReport { link: *shape, systems: Vec::new(), fair: None });
        match compare(shape, options, stop, progress, &mut report) {
            Ok(()) => {}
            Err(AbError::Interrupted | AbError::Pops(PopError::Interrupted)) => {
                report.interrupted = true;
                break;
            }
            Err(error) => return Err(error),
        }
    }
    progress.clear();
    report.exact = report.failures.is_empty() && !report.interrupted;
    Ok(report)
}

/// On one link.
fn compare(
    shape: &Shape,
    options: &AbOptions,
    stop: &AtomicBool,
    progress: &Progress,
    report: &mut AbReport,
) -> Result<(), AbError> {
    if options.fair {
        let systems: Vec<_> = options.systems.iter().map(System::to_string).collect();
        let systems = systems.join(", ");
        progress.say(&format!("{} % loss: {systems} at once", shape.loss_pct));
        let (found, failures, settings) = fair::fair(shape, options, stop)?;
        report.settings = settings;
        report.failures.extend(failures);
        if let Some(case) = report.cases.last_mut() {
            case.fair = Some(found);
        }
        return Ok(());
    }
    for system in &options.systems {
        let mut found = SystemReport {
            system: system.clone(),
            congestion: Controls::default(),
            bulk: None,
            connect: None,
            ping: None,
            beside: None,
            lateness: Lateness::default(),
        };
        for &what in &options.measures {
            let name = format!("{} % loss, {system}, {what}", shape.loss_pct);
            progress.say(&name);
            let one = measure(what, system, shape, options, stop)?;
            let named = |it: &String| format!("{name}: {it}");
            report.failures.extend(one.remarks.failures.iter().map(named));
            report.notes.extend(one.remarks.notes.iter().map(named));
            report.settings = one.settings.clone();
            found.take(one);
        }
        if let Some(case) = report.cases.last_mut() {
            case.systems.push(found);
        }
    }
    Ok(())
}

impl SystemReport {
    fn take(&mut self, found: Found) {
        self.congestion.add(&found.controls);
        self.lateness = worse(self.lateness, found.lateness);
        match found.what {
            Measured::Bulk(report) => self.bulk = Some(*report),
            Measured::Connect(report) => self.connect = Some(report),
            Measured::Ping(report) => self.ping = Some(report),
            Measured::Beside(report) => self.beside = Some(report),
        }
    }
}

fn worse(one: Lateness, other: Lateness) -> Lateness {
    Lateness {
        p50_us: one.p50_us.max(other.p50_us),
        p99_us: one.p99_us.max(other.p99_us),
        max_us: one.max_us.max(other.max_us),
    }
}

fn check_congestion(options: &AbOptions) -> Result<(), AbError> {
    // Where it cannot be read, the kernel refuses later.
    let Ok(available) = std::fs::read_to_string(AVAILABLE) else { return Ok(()) };
    let missing = options
        .congestion_controls()
        .into_iter()
        .find(|name| !available.split_whitespace().any(|there| there == *name));
    match missing {
        Some(name) => Err(AbError::Congestion {
            name: name.to_owned(),
            available: available.split_whitespace().collect::<Vec<_>>().join(", "),
        }),
        None => Ok(()),
    }
}
