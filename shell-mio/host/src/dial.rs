//! A connection to an origin that does not stand yet: one address after the other.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use entrouter_proto::ConnId;
use entrouter_proto::config::HostPort;

use crate::sockets;

/// From [`Action::Connect`](entrouter_proto::Action) to the answer, resolving included.
const PATIENCE: Duration = Duration::from_secs(10);

/// A dial under way. Its loop watches the socket of the present attempt and the time.
#[derive(Debug)]
pub struct Dial {
    /// The id under which to report.
    pub id: ConnId,
    /// What is dialled.
    pub target: HostPort,
    /// The end of all attempts.
    deadline: Instant,
    /// The end of the present attempt, or of resolving.
    attempt_ends: Instant,
    /// None while the name is being resolved.
    stream: Option<Arc<TcpStream>>,
    rest: VecDeque<SocketAddr>,
    last_error: Option<io::Error>,
}

/// What became of an attempt.
#[derive(Debug)]
pub enum Progress {
    /// Wait for an event, or for [`Dial::ends`].
    Waiting,
    /// A new attempt: its socket is to be watched, and the former one no longer.
    Attempt(Arc<TcpStream>),
    /// It stands.
    Connected(Arc<TcpStream>),
    /// No address worked; why the last one did not.
    Failed(io::Error),
}

impl Dial {
    /// A dial whose addresses are not known yet.
    #[must_use]
    pub fn new(id: ConnId, target: HostPort, now: Instant) -> Self {
        let deadline = now + PATIENCE;
        Self {
            id,
            target,
            deadline,
            attempt_ends: deadline,
            stream: None,
            rest: VecDeque::new(),
            last_error: None,
        }
    }

    /// When to call [`Self::next`] unless something happens before.
    #[must_use]
    pub fn ends(&self) -> Instant {
        self.attempt_ends
    }

    /// The socket of the present attempt.
    #[must_use]
    pub fn stream(&self) -> Option<&Arc<TcpStream>> {
        self.stream.as_ref()
    }

    /// The name is resolved, or is not to be.
    pub fn start(&mut self, answer: io::Result<Vec<SocketAddr>>, now: Instant) -> Progress {
        match answer {
            Ok(addrs) => {
                self.rest = addrs.into();
                self.next(now)
            }
            Err(e) => Progress::Failed(e),
        }
    }

    /// Gives up the present attempt and tries the next address.
    pub fn next(&mut self, now: Instant) -> Progress {
        self.stream = None;
        while let Some(addr) = self.rest.pop_front() {
            let left = self.deadline.saturating_duration_since(now);
            if left.is_zero() {
                break;
            }
            match sockets::connect(addr) {
                Ok(stream) => {
                    let stream = Arc::new(stream);
                    // An address that swallows packets must leave time for the others.
                    let share = u32::try_from(self.rest.len() + 1).unwrap_or(u32::MAX);
                    self.attempt_ends = now + left / share;
                    self.stream = Some(Arc::clone(&stream));
                    return Progress::Attempt(stream);
                }
                Err(e) => self.last_error = Some(e),
            }
        }
        let timeout = || io::Error::new(io::ErrorKind::TimedOut, "no answer");
        Progress::Failed(self.last_error.take().unwrap_or_else(timeout))
    }

    /// The present attempt failed for the reason `e`.
    pub fn give_up(&mut self, e: io::Error, now: Instant) -> Progress {
        self.last_error = Some(e);
        self.next(now)
    }

    /// Something happened to the socket of the present attempt.
    pub fn ready(&mut self, now: Instant) -> Progress {
        let Some(stream) = &self.stream else { return Progress::Waiting };
        let verdict = match stream.take_error() {
            Ok(None) => established(stream),
            Ok(Some(e)) | Err(e) => Err(e),
        };
        match verdict {
            Ok(false) => Progress::Waiting,
            Ok(true) => match self.stream.take() {
                Some(stream) => Progress::Connected(stream),
                None => Progress::Waiting,
            },
            Err(e) => self.give_up(e, now),
        }
    }
}

/// Whether the connection stands; an error if it will not.
fn established(stream: &TcpStream) -> io::Result<bool> {
    match stream.peer_addr() {
        // A dial to a local port where nobody listens can meet itself, if the kernel happens to
        // choose that port for this side.
        Ok(peer) if stream.local_addr()? == peer => Err(io::ErrorKind::ConnectionRefused.into()),
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotConnected => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use super::*;

    fn dial(now: Instant) -> Dial {
        Dial::new(ConnId::accepted(0), "origin.invalid:80".parse().unwrap(), now)
    }

    /// Asks until there is something else to do than to wait.
    fn settle(dial: &mut Dial, now: Instant) -> Progress {
        let patience = Instant::now() + Duration::from_secs(30);
        loop {
            match dial.ready(now) {
                Progress::Waiting => assert!(Instant::now() < patience),
                progress => return progress,
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_dead_address_is_left_for_the_next_one() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let alive = listener.local_addr().unwrap();
        let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let now = Instant::now();
        let mut dial = dial(now);
        let mut progress = dial.start(Ok(vec![dead, alive]), now);
        while matches!(progress, Progress::Attempt(_)) {
            progress = settle(&mut dial, now);
        }
        let Progress::Connected(stream) = progress else { panic!("{progress:?}") };
        assert_eq!(stream.peer_addr().unwrap(), alive);
    }

    #[test]
    fn every_address_gets_its_share_of_the_time() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let now = Instant::now();
        let mut dial = dial(now);
        assert_eq!(dial.ends(), now + PATIENCE, "for resolving");
        assert!(matches!(dial.start(Ok(vec![addr, addr]), now), Progress::Attempt(_)));
        let first = dial.ends();
        assert_eq!(first, now + PATIENCE / 2);
        assert!(matches!(dial.next(first), Progress::Attempt(_)));
        assert_eq!(dial.ends(), now + PATIENCE);
        let Progress::Failed(e) = dial.next(now + PATIENCE) else { panic!("a third address") };
        assert_eq!(e.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn an_attempt_that_is_given_up_is_a_reset_even_if_it_stands() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let now = Instant::now();
        let mut dial = dial(now);
        let progress = dial.start(Ok(vec![listener.local_addr().unwrap()]), now);
        let (served, _) = listener.accept().unwrap();
        served.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        drop((dial, progress));
        let error = (&served).read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[test]
    fn a_name_that_is_not_resolved_fails() {
        let now = Instant::now();
        let answer = Err(io::Error::other("no such name"));
        let Progress::Failed(e) = dial(now).start(answer, now) else { panic!("it goes on") };
        assert_eq!(e.to_string(), "no such name");
    }
}
