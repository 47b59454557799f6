//! What the senders of dropped data are to be told.

use std::collections::VecDeque;

use crate::wire::flow::{DropReason, Head};

/// The most reports that wait. Beyond that the oldest goes: the timers of its sender take over.
pub(super) const MAX_REPORTS: usize = 1024;
/// So many of the latest reports are looked at for one that can be extended. Reports are fetched as soon
/// as they are made; more wait only while the flows of many are dropped at once.
const LOOK_BACK: usize = 64;

#[derive(Debug)]
struct Report {
    /// Of a frame towards the data's sender.
    head: Head,
    start: u64,
    end: u64,
    reason: DropReason,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Reports {
    waiting: VecDeque<Report>,
}

impl Reports {
    /// Data with this head, `len` bytes from `offset` on, were dropped.
    pub(super) fn push(&mut self, dropped: Head, offset: u64, len: u64, reason: DropReason) {
        let head = Head::new(dropped.key, dropped.direction.reversed());
        let (start, end) = (offset, offset.saturating_add(len));
        let touching = self.waiting.iter_mut().rev().take(LOOK_BACK).find(|report| {
            report.head == head
                && report.reason == reason
                && start <= report.end
                && report.start <= end
        });
        if let Some(report) = touching {
            report.start = report.start.min(start);
            report.end = report.end.max(end);
            return;
        }
        if self.waiting.len() >= MAX_REPORTS {
            self.waiting.pop_front();
        }
        self.waiting.push_back(Report { head, start, end, reason });
    }

    pub(super) fn pop(&mut self) -> Option<(Head, u64, u64, DropReason)> {
        let report = self.waiting.pop_front()?;
        Some((report.head, report.start, report.end - report.start, report.reason))
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }
}
