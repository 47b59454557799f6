//! How other threads ask the event loop for a snapshot: they leave a wish and wake it, it publishes
//! when it comes round.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use entrouter_proto::status::Status;

use crate::Wake;

/// Where the event loop leaves its [`Status`] for whoever asked.
pub struct StatusCell {
    /// Counts requests.
    asked: AtomicU64,
    /// Up to which of them there is an answer; changed under the lock.
    answered: AtomicU64,
    inner: Mutex<Inner>,
    published: Condvar,
    wake: Wake,
}

/// Requests that wait for an answer.
#[derive(Debug, Clone, Copy)]
pub struct Wanted(u64);

#[derive(Default)]
struct Inner {
    status: Option<Arc<Status>>,
    closed: bool,
}

impl fmt::Debug for StatusCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatusCell").finish_non_exhaustive()
    }
}

impl StatusCell {
    /// A cell whose event loop is woken by `wake`.
    #[must_use]
    pub fn new(wake: Wake) -> Arc<Self> {
        Arc::new(Self {
            asked: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            inner: Mutex::default(),
            published: Condvar::new(),
            wake,
        })
    }

    /// Asks the event loop and waits for its answer; `None` if it gave none in time or has ended.
    /// Not to be called on the event loop's own thread.
    #[must_use]
    pub fn get(&self, patience: Duration) -> Option<Status> {
        let deadline = Instant::now() + patience;
        let mut inner = self.lock();
        let ticket = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        (self.wake)();
        while self.answered.load(Ordering::Acquire) < ticket && !inner.closed {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            inner =
                self.published.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        if inner.closed { None } else { inner.status.as_deref().cloned() }
    }

    /// For the event loop: whether somebody asked since the last publication. To be handed to
    /// [`Self::publish`]; what happened before a request is known when it is seen here.
    #[must_use]
    pub fn wanted(&self) -> Option<Wanted> {
        let asked = self.asked.load(Ordering::Acquire);
        (asked > self.answered.load(Ordering::Acquire)).then_some(Wanted(asked))
    }

    /// For the event loop: answers the requests that [`Self::wanted`] told of.
    pub fn publish(&self, wanted: Wanted, status: Status) {
        let mut inner = self.lock();
        inner.status = Some(Arc::new(status));
        self.answered.store(wanted.0, Ordering::Release);
        self.published.notify_all();
    }

    /// For the event loop: there will be no more answers.
    pub fn close(&self) {
        self.lock().closed = true;
        self.published.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn is_answered_by_a_loop_and_not_by_a_dead_one() {
        let (tx, rx) = mpsc::channel();
        let cell = StatusCell::new(Arc::new(move || tx.send(()).unwrap_or_default()));
        let event_loop = std::thread::spawn({
            let cell = Arc::clone(&cell);
            move || {
                for uptime_s in [7, 8] {
                    rx.recv().unwrap();
                    let wanted = cell.wanted().unwrap();
                    cell.publish(wanted, Status { uptime_s, ..Status::default() });
                }
                rx
            }
        });
        let patience = Duration::from_secs(10);
        assert_eq!(cell.get(patience).unwrap().uptime_s, 7);
        assert_eq!(cell.get(patience).unwrap().uptime_s, 8);
        let _rx = event_loop.join().unwrap();
        assert!(cell.wanted().is_none(), "both were answered");
        assert_eq!(cell.get(Duration::from_millis(10)), None, "nobody answers");
        cell.close();
        assert_eq!(cell.get(patience), None);
    }
}
