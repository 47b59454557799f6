//! A timer finer than the milliseconds of `epoll_wait`.
//!
//! Pacing works in tens of microseconds. An event loop waits for this file descriptor beside its
//! sockets and blocks without a timeout. Where there is no `timerfd`, [`PreciseTimer::fd`] is
//! `None` and the loop falls back to the timeout of its poll call.

use std::io;
use std::os::fd::BorrowedFd;
#[cfg(target_os = "linux")]
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

/// No timer could be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot create a timer: {0} (is the limit of open files reached? see `ulimit -n`)")]
pub struct TimerError(io::Error);

/// One deadline that makes a file descriptor readable.
#[derive(Debug)]
pub struct PreciseTimer {
    #[cfg(target_os = "linux")]
    fd: OwnedFd,
    armed: Option<Instant>,
}

#[cfg(target_os = "linux")]
impl PreciseTimer {
    /// A timer that is not armed.
    ///
    /// # Errors
    /// [`TimerError`] if file descriptors ran out.
    pub fn new() -> Result<Self, TimerError> {
        use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
        let fd = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
        )
        .map_err(|e| TimerError(e.into()))?;
        Ok(Self { fd, armed: None })
    }

    /// What to wait for.
    #[must_use]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fd.as_fd())
    }

    /// Sets or clears the deadline. Setting the same one again costs nothing, a deadline that is
    /// already over fires at once.
    ///
    /// # Errors
    /// As `timerfd_settime(2)`; not with a valid descriptor.
    pub fn arm(&mut self, now: Instant, deadline: Option<Instant>) -> io::Result<()> {
        use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};
        if deadline == self.armed {
            return Ok(());
        }
        let value = match deadline {
            // All zero would disarm.
            Some(at) => {
                let wait =
                    at.saturating_duration_since(now).max(std::time::Duration::from_nanos(1));
                Timespec {
                    tv_sec: wait.as_secs().try_into().unwrap_or(i64::MAX),
                    tv_nsec: wait.subsec_nanos().into(),
                }
            }
            None => Timespec { tv_sec: 0, tv_nsec: 0 },
        };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &once)?;
        self.armed = deadline;
        Ok(())
    }

    /// Takes note that the timer fired, so that it is not readable any more.
    pub fn drain(&mut self) {
        let mut ticks = [0; 8];
        if rustix::io::read(&self.fd, &mut ticks).is_ok() {
            self.armed = None;
        }
    }
}

#[cfg(not(target_os = "linux"))]
impl PreciseTimer {
    /// A timer that only remembers its deadline.
    ///
    /// # Errors
    /// Never.
    pub fn new() -> Result<Self, TimerError> {
        Ok(Self { armed: None })
    }

    /// Nothing to wait for: use the timeout of the poll call.
    #[must_use]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Remembers the deadline.
    ///
    /// # Errors
    /// Never.
    pub fn arm(&mut self, _now: Instant, deadline: Option<Instant>) -> io::Result<()> {
        self.armed = deadline;
        Ok(())
    }

    /// Nothing to do.
    pub fn drain(&mut self) {}
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    fn fired(timer: &PreciseTimer, within: Duration) -> bool {
        let mut fds = [PollFd::new(&timer.fd, PollFlags::IN)];
        let within = Timespec {
            tv_sec: within.as_secs().try_into().unwrap(),
            tv_nsec: within.subsec_nanos().into(),
        };
        poll(&mut fds, Some(&within)).unwrap() > 0
    }

    #[test]
    fn fires_not_before_its_time_and_soon_after() {
        let mut timer = PreciseTimer::new().unwrap();
        let mut best = Duration::MAX;
        for _ in 0..20 {
            let start = Instant::now();
            timer.arm(start, Some(start + Duration::from_micros(300))).unwrap();
            assert!(fired(&timer, Duration::from_secs(5)));
            let took = start.elapsed();
            assert!(took >= Duration::from_micros(300), "fired after {took:?}");
            best = best.min(took);
            timer.drain();
            assert!(!fired(&timer, Duration::ZERO));
        }
        // On a busy machine some are late; that all are later than a millisecond would mean that
        // the timer has only milliseconds.
        assert!(best < Duration::from_millis(1), "best of 20 took {best:?}");
    }

    #[test]
    fn past_deadlines_fire_and_cleared_ones_do_not() {
        let mut timer = PreciseTimer::new().unwrap();
        let now = Instant::now();
        timer.arm(now, Some(now)).unwrap();
        assert!(fired(&timer, Duration::from_secs(5)));
        timer.drain();
        timer.arm(now, Some(now + Duration::from_millis(1))).unwrap();
        timer.arm(now, None).unwrap();
        assert!(!fired(&timer, Duration::from_millis(20)));
    }
}
