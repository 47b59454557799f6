//! Waiting with a deadline.

use std::time::{Duration, Instant};

/// What a test waits for at most; nothing waits that long when all is well. Generous, since the
/// machine may be busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks.
const STEP: Duration = Duration::from_millis(10);

/// Looks until there is something, at most for [`PATIENCE`].
#[track_caller]
pub fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    until_within(PATIENCE, what, look)
}

/// Looks until there is something, at most for `patience`.
///
/// # Panics
/// With `what`, when that is over. PoPs that are dropped by the panic show their logs.
#[track_caller]
pub fn until_within<T>(patience: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < patience, "waited {patience:?} in vain: {what}");
        std::thread::sleep(STEP);
    }
}
