//! Name resolution off the event loop: a few threads, a bounded queue, the system's resolver.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};

use entrouter_proto::config::HostPort;

use crate::Wake;

/// Threads of [`Resolver::system`]. `getaddrinfo` may block for many seconds, so one is not enough.
const THREADS: usize = 4;

/// Requests that wait at most in [`Resolver::system`].
const QUEUE: usize = 256;

/// Too many names are being resolved already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many names wait for the system's resolver: is the DNS server reachable?")]
pub struct Busy;

/// The answer to one request; never an empty list.
pub type Answer = io::Result<Vec<SocketAddr>>;

type Lookup = Arc<dyn Fn(&HostPort) -> Answer + Send + Sync>;

/// Resolves names on its own threads; `K` tells its user which request an answer belongs to.
///
/// Threads are not joined on drop, because `getaddrinfo` cannot be interrupted: each ends after the
/// lookup that it is at.
pub struct Resolver<K> {
    shared: Arc<Shared<K>>,
    answers: mpsc::Receiver<(K, Answer)>,
    bound: usize,
}

struct Shared<K> {
    queue: Mutex<Queue<K>>,
    filled: Condvar,
}

struct Queue<K> {
    waiting: VecDeque<(K, HostPort)>,
    closed: bool,
}

impl<K> fmt::Debug for Resolver<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}

impl<K: Send + 'static> Resolver<K> {
    /// Starts the threads; `wake` is called after each answer.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn system(wake: Wake) -> io::Result<Self> {
        let lookup = |target: &HostPort| {
            (target.host.as_str(), target.port).to_socket_addrs().map(Iterator::collect)
        };
        Self::with_lookup(THREADS, QUEUE, wake, Arc::new(lookup))
    }

    fn with_lookup(threads: usize, bound: usize, wake: Wake, lookup: Lookup) -> io::Result<Self> {
        let queue = Mutex::new(Queue { waiting: VecDeque::new(), closed: false });
        let shared = Arc::new(Shared { queue, filled: Condvar::new() });
        let (tx, answers) = mpsc::channel();
        let resolver = Self { shared: Arc::clone(&shared), answers, bound };
        for n in 0..threads {
            let (shared, tx) = (Arc::clone(&shared), tx.clone());
            let (wake, lookup) = (Arc::clone(&wake), Arc::clone(&lookup));
            std::thread::Builder::new().name(format!("resolver-{n}")).spawn(move || {
                while let Some((key, target)) = shared.next() {
                    let answer = lookup(&target).and_then(|addrs| match addrs.is_empty() {
                        true => Err(io::Error::new(io::ErrorKind::NotFound, "no addresses")),
                        false => Ok(addrs),
                    });
                    if tx.send((key, answer)).is_err() {
                        return;
                    }
                    wake();
                }
            })?;
        }
        Ok(resolver)
    }

    /// Resolves `target` in the background. Not for literal addresses
    /// ([`HostPort::literal`]): they need no thread.
    ///
    /// # Errors
    /// [`Busy`] at once if too many requests wait.
    pub fn request(&self, key: K, target: HostPort) -> Result<(), Busy> {
        let mut queue = self.shared.lock();
        if queue.waiting.len() >= self.bound {
            return Err(Busy);
        }
        queue.waiting.push_back((key, target));
        self.shared.filled.notify_one();
        Ok(())
    }

    /// The next answer, if there is one. Answers come in any order.
    #[must_use]
    pub fn poll(&self) -> Option<(K, Answer)> {
        self.answers.try_recv().ok()
    }
}

impl<K> Drop for Resolver<K> {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.filled.notify_all();
    }
}

impl<K> Shared<K> {
    fn lock(&self) -> MutexGuard<'_, Queue<K>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<(K, HostPort)> {
        let mut queue = self.lock();
        loop {
            if queue.closed {
                return None;
            }
            if let Some(request) = queue.waiting.pop_front() {
                return Some(request);
            }
            queue = self.filled.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn target(host: &str) -> HostPort {
        HostPort { host: host.to_owned(), port: 80 }
    }

    #[test]
    fn resolves_localhost_and_reports_what_does_not_resolve() {
        let (tx, woken) = mpsc::channel();
        let resolver = Resolver::system(Arc::new(move || tx.send(()).unwrap_or_default())).unwrap();
        resolver.request(1, target("localhost")).unwrap();
        resolver.request(2, target("bad name.invalid")).unwrap();
        for _ in 0..2 {
            woken.recv_timeout(Duration::from_secs(30)).unwrap();
            match resolver.poll().unwrap() {
                (1, Ok(addrs)) => {
                    assert!(addrs.iter().all(|a| a.ip().is_loopback() && a.port() == 80));
                }
                (2, Err(_)) => {}
                other => panic!("{other:?}"),
            }
        }
        assert!(resolver.poll().is_none());
    }

    #[test]
    fn the_queue_is_bounded_and_a_stuck_lookup_does_not_stop_the_others() {
        let (tx, woken) = mpsc::channel();
        let (release, held) = mpsc::channel::<()>();
        let held = Mutex::new(held);
        let (started_tx, started) = mpsc::channel();
        let lookup = move |target: &HostPort| {
            started_tx.send(()).unwrap();
            if target.host == "stuck" {
                let _ = held.lock().unwrap().recv();
            }
            Ok(vec![SocketAddr::from(([127, 0, 0, 1], target.port))])
        };
        let wake: Wake = Arc::new(move || tx.send(()).unwrap_or_default());
        let resolver = Resolver::with_lookup(2, 1, wake, Arc::new(lookup)).unwrap();
        let patience = Duration::from_secs(30);
        resolver.request("first", target("stuck")).unwrap();
        started.recv_timeout(patience).unwrap();
        resolver.request("second", target("quick")).unwrap();
        woken.recv_timeout(patience).unwrap();
        assert_eq!(resolver.poll().unwrap().0, "second");
        started.recv_timeout(patience).unwrap();
        resolver.request("third", target("stuck")).unwrap();
        started.recv_timeout(patience).unwrap();
        // Both threads are busy now, one request may wait.
        resolver.request("fourth", target("quick")).unwrap();
        assert_eq!(resolver.request("fifth", target("quick")), Err(Busy));
        drop(release);
        for _ in 0..3 {
            woken.recv_timeout(patience).unwrap();
            assert!(resolver.poll().unwrap().1.is_ok());
        }
    }
}
