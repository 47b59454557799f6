//! Sessions that clients may resume, each once: a session that was resumed is forgotten, so a first flight
//! that somebody recorded and sends again finds none, and its early data is refused. There is no other copy:
//! not on another PoP, and not after a restart.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustls::server::StoresServerSessions;

/// Sessions kept at most; the oldest is forgotten first. Each takes about 300 bytes.
pub(super) const MAX_SESSIONS: usize = 32_768;

/// See the module's text.
pub(super) struct Sessions {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// With the place in the order of their coming.
    by_ticket: BTreeMap<Vec<u8>, (u64, Vec<u8>)>,
    /// By age. Those that were resumed are still here.
    order: VecDeque<(u64, Vec<u8>)>,
    next: u64,
    refused: u64,
}

impl Sessions {
    pub(super) fn new() -> Self {
        Self { inner: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn len(&self) -> usize {
        let inner = self.lock();
        inner.order.len().max(inner.by_ticket.len())
    }

    /// Tickets that clients came with and that were good for nothing: used before, or forgotten.
    pub(super) fn refused(&self) -> u64 {
        self.lock().refused
    }

    /// None of these. What handshakes that are under way would still put here, nobody will find.
    pub(super) fn afresh(&self) -> Self {
        let inner = Inner { refused: self.refused(), ..Inner::default() };
        Self { inner: Mutex::new(inner) }
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl StoresServerSessions for Sessions {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        let mut inner = self.lock();
        while inner.order.len() >= MAX_SESSIONS
            && let Some((place, oldest)) = inner.order.pop_front()
        {
            if inner.by_ticket.get(&oldest).is_some_and(|(at, _)| *at == place) {
                inner.by_ticket.remove(&oldest);
            }
        }
        let place = inner.next;
        inner.next += 1;
        inner.order.push_back((place, key.clone()));
        inner.by_ticket.insert(key, (place, value));
        true
    }

    /// Nothing is ever shown and kept.
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.take(key)
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        let mut inner = self.lock();
        let found = inner.by_ticket.remove(key).map(|(_, value)| value);
        inner.refused += u64::from(found.is_none());
        found
    }

    fn can_cache(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_taken_once() {
        let sessions = Sessions::new();
        assert!(sessions.put(vec![1], vec![2]));
        assert_eq!(sessions.take(&[1]), Some(vec![2]));
        assert_eq!(sessions.take(&[1]), None);
        assert_eq!(sessions.refused(), 1);
    }

    #[test]
    fn the_oldest_give_way_and_the_number_is_bounded() {
        let sessions = Sessions::new();
        let key = |n: usize| n.to_be_bytes().to_vec();
        for n in 0..MAX_SESSIONS + 10 {
            sessions.put(key(n), vec![0]);
            if n % 2 == 0 {
                sessions.take(&key(n));
            }
            assert!(sessions.len() <= MAX_SESSIONS);
        }
        assert_eq!(sessions.take(&key(9)), None);
        assert!(sessions.take(&key(11)).is_some());
        let afresh = sessions.afresh();
        assert_eq!(afresh.take(&key(MAX_SESSIONS + 9)), None);
        assert_eq!(afresh.refused(), 2);
    }
}
