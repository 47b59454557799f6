//! Sessions that returning clients take up again. They stay here and clients are only given their
//! numbers: what a thief finds in a client's file is no key of this PoP, and rustls' tickets that hold the
//! session themselves look at the clock behind our back.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::server::StoresServerSessions;

use crate::edge::clock::Clock;

/// The oldest goes when there are more. A TLS 1.3 handshake leaves two.
pub(super) const MAX_SESSIONS: usize = 8192;
/// A session that is larger is not kept: a client chose an absurd name.
const MAX_SIZE: usize = 1024;
/// RFC 5246 §F.1.4: no longer than a day.
const LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Debug)]
struct Session {
    value: Vec<u8>,
    serial: u64,
    until: Duration,
}

#[derive(Debug, Default)]
struct Kept {
    by_id: BTreeMap<Vec<u8>, Session>,
    /// In the order in which they came, together with those that were taken meanwhile.
    order: VecDeque<(u64, Vec<u8>)>,
    serial: u64,
}

impl Kept {
    fn put(&mut self, id: Vec<u8>, value: Vec<u8>, until: Duration) {
        while self.order.len() >= MAX_SESSIONS {
            let Some((serial, oldest)) = self.order.pop_front() else { break };
            if self.by_id.get(&oldest).is_some_and(|session| session.serial == serial) {
                self.by_id.remove(&oldest);
            }
        }
        self.serial += 1;
        self.order.push_back((self.serial, id.clone()));
        self.by_id.insert(id, Session { value, serial: self.serial, until });
    }
}

/// See the module's text.
pub(super) struct Sessions {
    clock: Arc<Clock>,
    kept: Mutex<Kept>,
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sessions").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl Sessions {
    pub(super) fn new(clock: Arc<Clock>) -> Self {
        Self { clock, kept: Mutex::default() }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn len(&self) -> usize {
        self.kept().order.len()
    }
}

impl StoresServerSessions for Sessions {
    fn put(&self, id: Vec<u8>, value: Vec<u8>) -> bool {
        let fits = id.len() + value.len() <= MAX_SIZE;
        if fits {
            self.kept().put(id, value, self.clock.unix() + LIFETIME);
        }
        fits
    }

    fn get(&self, id: &[u8]) -> Option<Vec<u8>> {
        let now = self.clock.unix();
        self.kept().by_id.get(id).filter(|s| now < s.until).map(|s| s.value.clone())
    }

    fn take(&self, id: &[u8]) -> Option<Vec<u8>> {
        let now = self.clock.unix();
        self.kept().by_id.remove(id).filter(|s| now < s.until).map(|s| s.value)
    }

    fn can_cache(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::epoch;

    #[test]
    fn sessions_are_bounded_and_the_oldest_go_first() {
        let clock = Arc::new(Clock::new(epoch(), Duration::from_secs(1_800_000_000)));
        let sessions = Sessions::new(clock);
        for n in 0..2 * MAX_SESSIONS as u32 {
            assert!(sessions.put(n.to_be_bytes().to_vec(), vec![1]));
            assert!(sessions.len() <= MAX_SESSIONS);
        }
        let id = |n: u32| n.to_be_bytes();
        assert!(sessions.get(&id(MAX_SESSIONS as u32 - 1)).is_none());
        assert!(sessions.get(&id(MAX_SESSIONS as u32)).is_some());
        assert!(!sessions.put(vec![0; 32], vec![0; MAX_SIZE]), "too large");
        // Taken ones count until their turn comes, so the table of the others is no larger either.
        assert!(sessions.take(&id(MAX_SESSIONS as u32)).is_some());
        assert!(sessions.take(&id(MAX_SESSIONS as u32)).is_none());
    }

    #[test]
    fn a_session_lives_for_a_day() {
        let start = epoch();
        let clock = Arc::new(Clock::new(start, Duration::from_secs(1_800_000_000)));
        let sessions = Sessions::new(Arc::clone(&clock));
        assert!(sessions.put(vec![1], vec![1]) && sessions.put(vec![2], vec![2]));
        clock.tick(start + LIFETIME - Duration::from_secs(1));
        assert!(sessions.get(&[1]).is_some());
        clock.tick(start + LIFETIME);
        assert!(sessions.get(&[1]).is_none() && sessions.take(&[2]).is_none());
    }
}
