//! How tasks of one thread call each other.

use std::cell::{Cell, RefCell};
use std::task::{Context, Poll, Waker};

/// Wakes one task; rung while nobody waits, it is heard by the next who does.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    rung: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Bell {
    pub(crate) fn ring(&self) {
        if !self.rung.replace(true)
            && let Some(waker) = self.waker.borrow().as_ref()
        {
            waker.wake_by_ref();
        }
    }

    /// Whether it was rung since the last call.
    pub(crate) fn take(&self) -> bool {
        self.rung.take()
    }

    /// Ready when it was rung.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.rung.get() {
            return Poll::Ready(());
        }
        let mut waker = self.waker.borrow_mut();
        match &mut *waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => *waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}
