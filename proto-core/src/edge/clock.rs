//! The time that TLS and QUIC are shown: what the shell told last.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use rustls::pki_types::UnixTime;

/// The wall clock, as the core knows it: what it was at the start, and what has passed since.
#[derive(Debug)]
pub(crate) struct Clock {
    started: Instant,
    unix_start: Duration,
    /// Milliseconds since the Unix epoch.
    unix_ms: AtomicU64,
    /// Told instead, unless it is 0.
    pretended_ms: AtomicU64,
}

impl Clock {
    pub(crate) fn new(now: Instant, unix_now: Duration) -> Self {
        let clock = Self {
            started: now,
            unix_start: unix_now,
            unix_ms: AtomicU64::new(0),
            pretended_ms: AtomicU64::new(0),
        };
        clock.tick(now);
        clock
    }

    pub(crate) fn tick(&self, now: Instant) {
        let unix = self.unix_start.saturating_add(now.saturating_duration_since(self.started));
        let ms = u64::try_from(unix.as_millis()).unwrap_or(u64::MAX);
        self.unix_ms.fetch_max(ms, Ordering::Relaxed);
    }

    /// Milliseconds since the Unix epoch.
    pub(crate) fn unix_ms(&self) -> u64 {
        match self.pretended_ms.load(Ordering::Relaxed) {
            0 => self.unix_ms.load(Ordering::Relaxed),
            pretended => pretended,
        }
    }

    /// Tells this time until `None` is given.
    pub(crate) fn pretend(&self, unix_ms: Option<u64>) {
        self.pretended_ms.store(unix_ms.unwrap_or(0), Ordering::Relaxed);
    }

    pub(crate) fn unix(&self) -> Duration {
        Duration::from_millis(self.unix_ms())
    }
}

impl rustls::time_provider::TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(self.unix()))
    }
}

impl quinn_proto::TimeSource for Clock {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.unix()
    }
}
