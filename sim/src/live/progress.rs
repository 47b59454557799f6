//! A line on stderr that tells how far the demo is.

use std::io::{IsTerminal, Write};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::bulk::mbps;
use super::options::DemoOptions;
use super::proxy::Proxy;
use super::stage::Stage;

const TERMINAL_EVERY: Duration = Duration::from_millis(500);
const FILE_EVERY: Duration = Duration::from_secs(2);

/// Where progress is shown: a line that is overwritten on a terminal, now and then a new one
/// elsewhere.
#[derive(Debug)]
pub struct Progress {
    terminal: bool,
    shown: Option<(Instant, u64)>,
}

impl Progress {
    /// On stderr.
    #[must_use]
    pub fn stderr() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), shown: None }
    }

    pub(super) fn say(&self, text: &str) {
        self.put(text);
    }

    /// Shows the line if the last one is old enough.
    pub(super) fn show(&mut self, snapshot: &Snapshot, now: Instant) {
        let every = if self.terminal { TERMINAL_EVERY } else { FILE_EVERY };
        let Some((at, bulk_before)) = self.shown else {
            self.shown = Some((now, 0));
            return;
        };
        if now - at < every {
            return;
        }
        let rate = mbps(snapshot.bulk_bytes - bulk_before, now - at);
        self.shown = Some((now, snapshot.bulk_bytes));
        self.put(&format!(
            "{:4.1} of {:.1} s   {} round trips   bulk {:.1} MB, now {rate:.1} Mbit/s   \
             link lost {}, queue dropped {}",
            snapshot.elapsed.as_secs_f64(),
            snapshot.duration.as_secs_f64(),
            snapshot.round_trips,
            snapshot.bulk_bytes as f64 / 1e6,
            snapshot.lost,
            snapshot.queue_dropped,
        ));
    }

    /// Makes room for the table.
    pub(super) fn clear(&self) {
        if self.terminal {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }

    /// A progress line that cannot be written is no reason to end.
    fn put(&self, line: &str) {
        let mut stderr = std::io::stderr().lock();
        let _ = if self.terminal {
            write!(stderr, "\r{line}\x1b[K")
        } else {
            writeln!(stderr, "{line}")
        };
        let _ = stderr.flush();
    }
}

/// How far a demo is.
#[derive(Debug)]
pub(super) struct Snapshot {
    elapsed: Duration,
    duration: Duration,
    round_trips: u64,
    bulk_bytes: u64,
    lost: u64,
    queue_dropped: u64,
}

impl Snapshot {
    pub(super) fn take(
        stage: &Stage,
        options: &DemoOptions,
        started: Instant,
        proxy: &Proxy,
    ) -> Self {
        let stats = proxy.stats();
        Self {
            elapsed: started.elapsed(),
            duration: options.duration,
            round_trips: stage.round_trips.load(Relaxed),
            bulk_bytes: stage.bulk_bytes.load(Relaxed),
            lost: stats.a_to_b.lost + stats.b_to_a.lost,
            queue_dropped: stats.a_to_b.queue_dropped + stats.b_to_a.queue_dropped,
        }
    }
}
