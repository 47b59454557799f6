//! Accepting connections: which errors pass, and what to do when descriptors run out.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use entrouter_proto::ConnId;
use tracing::{debug, warn};

use crate::ratelimit::{RateLimit, Suppressed};
use crate::sockets::canonical;

/// Connections accepted per listener in a turn of the loop.
pub const ACCEPTS: usize = 32;

/// How long nothing is accepted after file descriptors ran out, unless a connection ends.
const PAUSE: Duration = Duration::from_millis(100);

/// The gate through which clients come, whichever listener they come to.
#[derive(Debug)]
pub struct Gate {
    accepted: u64,
    closed_until: Option<Instant>,
    complaints: RateLimit<()>,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            accepted: 0,
            closed_until: None,
            complaints: RateLimit::new(Duration::from_secs(10)),
        }
    }
}

impl Gate {
    /// When accepting goes on, while nothing is accepted.
    #[must_use]
    pub fn closed_until(&self) -> Option<Instant> {
        self.closed_until
    }

    /// A descriptor is free again, or the time is over.
    pub fn open(&mut self) {
        self.closed_until = None;
    }

    /// Whether accepting goes on at `now`.
    pub fn is_open(&mut self, now: Instant) -> bool {
        if self.closed_until.is_some_and(|at| at <= now) {
            self.open();
        }
        self.closed_until.is_none()
    }

    /// The next client of `listener`, whose connection is nonblocking.
    ///
    /// # Errors
    /// `WouldBlock` if there is none at present. Everything else was dealt with: there may be a next
    /// one, if the gate is still open.
    pub fn accept(&mut self, listener: &TcpListener, now: Instant) -> io::Result<Client> {
        let accepted = listener.accept();
        match &accepted {
            Ok((stream, _)) => stream.set_nonblocking(true)?,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            // Of this one connection, which is gone (accept(2)).
            Err(e) if is_passing(e) => debug!("accept: {e}"),
            Err(e) => self.close(now, e),
        }
        let (stream, remote) = accepted?;
        let local = canonical(stream.local_addr()?);
        Ok(Client { stream: Arc::new(stream), remote: canonical(remote), local })
    }

    /// The id of a connection that was accepted and is watched.
    pub fn admit(&mut self) -> ConnId {
        let id = ConnId::accepted(self.accepted);
        self.accepted += 1;
        id
    }

    /// Out of file descriptors or memory, as a rule. Clients wait in the kernel's queue meanwhile.
    pub fn close(&mut self, now: Instant, e: &io::Error) {
        self.closed_until = Some(now + PAUSE);
        if let Some(n) = self.complaints.hit(now, ()) {
            warn!(
                "cannot accept connections: {e}; trying again (is the limit of open files too low? \
                 see `ulimit -n`){}",
                Suppressed(n)
            );
        }
    }
}

/// One that was accepted.
#[derive(Debug)]
pub struct Client {
    /// Its connection.
    pub stream: Arc<TcpStream>,
    /// Its address.
    pub remote: SocketAddr,
    /// The address that it came to.
    pub local: SocketAddr,
}

fn is_passing(e: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(
        e.kind(),
        K::Interrupted
            | K::ConnectionAborted
            | K::ConnectionReset
            | K::NetworkDown
            | K::NetworkUnreachable
            | K::HostUnreachable
            | K::TimedOut
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gate_opens_after_a_while_or_when_a_descriptor_is_free() {
        let mut gate = Gate::default();
        let now = Instant::now();
        let full = io::Error::from_raw_os_error(24);
        gate.close(now, &full);
        assert!(!gate.is_open(now));
        let at = gate.closed_until().unwrap();
        assert!(gate.is_open(at));
        gate.close(now, &full);
        gate.open();
        assert!(gate.is_open(now));
    }

    #[test]
    fn clients_are_accepted_until_there_is_none() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut gate = Gate::default();
        let now = Instant::now();
        let Client { stream, remote, local } = gate.accept(&listener, now).unwrap();
        assert_eq!((remote, local), (client.local_addr().unwrap(), client.peer_addr().unwrap()));
        // Nonblocking, or this would wait for ever.
        let error = stream.peek(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert_eq!(gate.accept(&listener, now).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_ne!(gate.admit(), gate.admit());
    }
}
