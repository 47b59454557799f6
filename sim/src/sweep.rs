//! Many seeds on all cores.

use std::io::{IsTerminal, Write};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A seed that failed, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Which.
    pub seed: u64,
    /// What went wrong, a line each.
    pub what: Vec<String>,
}

/// What became of many seeds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Swept {
    /// How many were run.
    pub run: u64,
    /// Those that failed, in order.
    pub failures: Vec<Failure>,
}

/// Runs `one` for each seed, on as many threads as there are cores; it returns what went wrong. A panic
/// fails its seed and no other. `told` hears of each failure at once. Ends early once `stop` is set.
pub fn sweep(
    seeds: Range<u64>,
    stop: &AtomicBool,
    one: impl Fn(u64) -> Vec<String> + Sync,
    told: impl Fn(&Failure) + Sync,
) -> Swept {
    let next = AtomicU64::new(seeds.start);
    let swept = Mutex::new(Swept::default());
    let progress = Mutex::new(Progress::new(seeds.end - seeds.start));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        while !stop.load(Ordering::Relaxed) {
            let another = |next: u64| (next < seeds.end).then(|| next + 1);
            let Ok(seed) = next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, another) else {
                return;
            };
            let what = catch_unwind(AssertUnwindSafe(|| one(seed)))
                .unwrap_or_else(|panic| vec![format!("panicked: {}", said(panic.as_ref()))]);
            // A thread that panicked with a lock held has left nothing half done behind it.
            let mut swept = swept.lock().unwrap_or_else(|broken| broken.into_inner());
            let mut progress = progress.lock().unwrap_or_else(|broken| broken.into_inner());
            swept.run += 1;
            if !what.is_empty() {
                let failure = Failure { seed, what };
                progress.clear();
                told(&failure);
                swept.failures.push(failure);
            }
            progress.show(swept.run, swept.failures.len());
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    progress.into_inner().unwrap_or_else(|broken| broken.into_inner()).clear();
    let mut swept = swept.into_inner().unwrap_or_else(|broken| broken.into_inner());
    swept.failures.sort_by_key(|failure| failure.seed);
    swept
}

fn said(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a word")
}

/// A bar on a terminal; nothing elsewhere.
#[derive(Debug)]
struct Progress {
    of: u64,
    began: Instant,
    shown: Option<Instant>,
    terminal: bool,
}

const WIDTH: u64 = 30;

impl Progress {
    fn new(of: u64) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { of, began: Instant::now(), shown: None, terminal }
    }

    fn show(&mut self, run: u64, failed: usize) {
        let recent = self.shown.is_some_and(|at| at.elapsed() < Duration::from_millis(100));
        if !self.terminal || recent {
            return;
        }
        self.shown = Some(Instant::now());
        let full = (run as f64 / self.of.max(1) as f64 * WIDTH as f64) as usize;
        let left = self.of.saturating_sub(run) as f64 / run.max(1) as f64;
        let left = self.began.elapsed().as_secs_f64() * left;
        // A terminal that went away is no reason to stop.
        let _ = write!(
            std::io::stderr(),
            "\r[{:<width$}] {run} of {}, {failed} failed, {left:.0} s left \x1b[K",
            "#".repeat(full),
            self.of,
            width = WIDTH as usize
        );
    }

    fn clear(&mut self) {
        if self.shown.take().is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_is_run_once_and_failures_are_told_in_order() {
        let stop = AtomicBool::new(false);
        let runs = Mutex::new(Vec::new());
        let swept = sweep(
            10..60,
            &stop,
            |seed| {
                runs.lock().expect("no panic").push(seed);
                assert!(seed != 31, "seed 31");
                if seed % 20 == 0 { vec![format!("{seed} is bad")] } else { Vec::new() }
            },
            |_| {},
        );
        let mut runs = runs.into_inner().expect("no panic");
        runs.sort_unstable();
        assert_eq!(runs, (10..60).collect::<Vec<_>>());
        let failed: Vec<_> = swept.failures.iter().map(|f| (f.seed, f.what[0].as_str())).collect();
        assert_eq!(failed, [(20, "20 is bad"), (31, "panicked: seed 31"), (40, "40 is bad")]);
        assert_eq!(swept.run, 50);
    }
}
