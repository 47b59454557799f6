//! A connection to an origin that does not stand yet: one address after the other.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use entrouter_proto::ConnId;
use entrouter_proto::config::HostPort;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

/// From [`Action::Connect`](entrouter_proto::Action) to the answer, resolving included.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Dial {
    pub(crate) id: ConnId,
    pub(crate) target: HostPort,
    /// The end of all attempts.
    deadline: Instant,
    /// The end of the present attempt, or of resolving.
    pub(crate) attempt_ends: Instant,
    /// Which end of an attempt stands among the loop's deadlines.
    pub(crate) watched: Option<Instant>,
    /// None while the name is being resolved.
    pub(crate) stream: Option<TcpStream>,
    rest: VecDeque<SocketAddr>,
    last_error: Option<io::Error>,
}

/// What became of an attempt.
#[derive(Debug)]
pub(crate) enum Progress {
    /// Wait for an event or the end of the attempt.
    Waiting,
    /// It stands.
    Connected(TcpStream),
    /// No address worked; why the last one did not.
    Failed(io::Error),
}

impl Dial {
    pub(crate) fn new(id: ConnId, target: HostPort, now: Instant) -> Self {
        let deadline = now + PATIENCE;
        Self {
            id,
            target,
            deadline,
            attempt_ends: deadline,
            watched: None,
            stream: None,
            rest: VecDeque::new(),
            last_error: None,
        }
    }

    /// The name is resolved.
    pub(crate) fn start(
        &mut self,
        addrs: Vec<SocketAddr>,
        now: Instant,
        registry: &Registry,
        token: Token,
    ) -> Progress {
        self.rest = addrs.into();
        self.next(now, registry, token)
    }

    /// Gives up the present attempt and tries the next address.
    pub(crate) fn next(&mut self, now: Instant, registry: &Registry, token: Token) -> Progress {
        self.abandon(registry);
        while let Some(addr) = self.rest.pop_front() {
            let left = self.deadline.saturating_duration_since(now);
            if left.is_zero() {
                break;
            }
            let attempt = TcpStream::connect(addr).and_then(|mut stream| {
                registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
                Ok(stream)
            });
            match attempt {
                Ok(stream) => {
                    // An address that swallows packets must leave time for the others.
                    let share = u32::try_from(self.rest.len() + 1).unwrap_or(u32::MAX);
                    self.attempt_ends = now + left / share;
                    self.stream = Some(stream);
                    return Progress::Waiting;
                }
                Err(e) => self.last_error = Some(e),
            }
        }
        let timeout = || io::Error::new(io::ErrorKind::TimedOut, "no answer");
        Progress::Failed(self.last_error.take().unwrap_or_else(timeout))
    }

    /// The poll reported something.
    pub(crate) fn ready(&mut self, now: Instant, registry: &Registry, token: Token) -> Progress {
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
            Err(e) => {
                self.last_error = Some(e);
                self.next(now, registry, token)
            }
        }
    }

    /// Closes the present attempt.
    pub(crate) fn abandon(&mut self, registry: &Registry) {
        if let Some(mut stream) = self.stream.take() {
            let _ = registry.deregister(&mut stream);
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
