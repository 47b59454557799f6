//! The core's deadlines.

use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use async_io::{Async, Timer};
use entrouter_host::timer::PreciseTimer;
use tracing::warn;

/// One deadline, set anew again and again.
///
/// The reactor's own timers are as precise, but each new deadline costs a system call to wake the
/// reactor, and a turn of it for nothing: they stand in only where there is no `timerfd`.
pub(crate) struct Alarm {
    timer: PreciseTimer,
    /// Readable when the time has come.
    fd: Option<Async<OwnedFd>>,
    coarse: Timer,
}

impl Alarm {
    pub(crate) fn new(timer: PreciseTimer, fd: Option<Async<OwnedFd>>) -> Self {
        Self { timer, fd, coarse: Timer::never() }
    }

    pub(crate) fn arm(&mut self, now: Instant, at: Option<Instant>) {
        if self.fd.is_some() {
            match self.timer.arm(now, at) {
                Ok(()) => return,
                Err(e) => warn!("cannot set a timer: {e}"),
            }
        }
        match at {
            Some(at) => self.coarse.set_at(at),
            None => self.coarse = Timer::never(),
        }
    }

    /// Waits for the deadline.
    pub(crate) async fn rings(&mut self) {
        poll_fn(|cx| self.poll(cx)).await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(fd) = &self.fd
            && fd.poll_readable(cx).is_ready()
        {
            self.timer.drain();
            return Poll::Ready(());
        }
        Pin::new(&mut self.coarse).poll(cx).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// How late the alarm rings at best: some are late on a busy machine.
    fn lateness(mut alarm: Alarm) -> Duration {
        let late = |_| {
            let at = Instant::now() + Duration::from_micros(300);
            alarm.arm(Instant::now(), Some(at));
            async_io::block_on(alarm.rings());
            let now = Instant::now();
            assert!(now >= at, "it rings before its time");
            now - at
        };
        (0..50).map(late).min().unwrap_or_default()
    }

    #[test]
    fn it_rings_finer_than_a_millisecond() {
        let timer = PreciseTimer::new().unwrap();
        let fd = timer.fd().map(|fd| Async::new_nonblocking(fd.try_clone_to_owned().unwrap()));
        let fd = fd.transpose().unwrap();
        let late = lateness(Alarm::new(timer, fd));
        println!("late by {late:?} at best");
        assert!(late < Duration::from_millis(1), "late by {late:?}");
    }

    #[test]
    fn it_rings_without_a_descriptor() {
        lateness(Alarm::new(PreciseTimer::new().unwrap(), None));
    }
}
