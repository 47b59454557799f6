//! The two things that the core may not fetch for itself: a seed and the calendar.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The operating system gave no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("the operating system gives no random bytes ({0}): is /dev/urandom available here?")]
pub struct EntropyError(getrandom::Error);

/// 32 fresh random bytes. Never use one seed for two nodes: keys are drawn from it.
///
/// # Errors
/// [`EntropyError`] if the operating system refuses.
pub fn seed() -> Result<[u8; 32], EntropyError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(EntropyError)?;
    Ok(seed)
}

/// Time since the Unix epoch; zero if the clock stands before it.
#[must_use]
pub fn unix_now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
