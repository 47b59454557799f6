//! The names of peers and origins: resolved off the loop, and complained about now and then.

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use entrouter_proto::config::HostPort;
use entrouter_proto::{ConnId, PeerId, TcpEvent};
use tracing::warn;

use crate::Wake;
use crate::core::Core;
use crate::ratelimit::{RateLimit, Suppressed};
use crate::resolve::{Answer, Resolver};

/// What an event loop does about names.
#[derive(Debug)]
pub struct Names {
    resolver: Resolver<Ask>,
    /// The relay socket is IPv4, so peers have no other addresses.
    ipv4_peers: bool,
    complaints: RateLimit<String>,
}

/// For whom a name is resolved.
#[derive(Debug, Clone, Copy)]
enum Ask {
    Origin(ConnId),
    Peer(PeerId),
}

impl Names {
    pub(crate) fn new(wake: Wake, ipv4_peers: bool) -> io::Result<Self> {
        Ok(Self {
            resolver: Resolver::system(wake)?,
            ipv4_peers,
            complaints: RateLimit::new(Duration::from_secs(10)),
        })
    }

    /// [`Action::Resolve`](entrouter_proto::Action::Resolve).
    pub fn resolve_peer(&mut self, peer: PeerId, target: HostPort, core: &mut Core, now: Instant) {
        if let Some(addr) = target.literal() {
            core.handle_resolved(now, peer, &[addr]);
        } else if let Err(e) = self.resolver.request(Ask::Peer(peer), target) {
            self.peer_resolved(peer, Err(io::Error::other(e)), core, now);
        }
    }

    /// The addresses of an origin, if they are known at once; else they come out of
    /// [`Self::answer`] later.
    pub fn resolve_origin(&mut self, conn: ConnId, target: &HostPort) -> Option<Answer> {
        match target.literal() {
            Some(addr) => Some(Ok(vec![addr])),
            None => match self.resolver.request(Ask::Origin(conn), target.clone()) {
                Ok(()) => None,
                Err(busy) => Some(Err(io::Error::other(busy))),
            },
        }
    }

    /// The next answer for an origin; the connection may be gone meanwhile. Those for peers go
    /// straight to the core.
    pub fn answer(&mut self, core: &mut Core, now: Instant) -> Option<(ConnId, Answer)> {
        loop {
            match self.resolver.poll()? {
                (Ask::Origin(conn), answer) => return Some((conn, answer)),
                (Ask::Peer(peer), answer) => self.peer_resolved(peer, answer, core, now),
            }
        }
    }

    fn peer_resolved(&mut self, peer: PeerId, answer: Answer, core: &mut Core, now: Instant) {
        let usable = answer.and_then(|mut addrs: Vec<SocketAddr>| {
            addrs.retain(|addr| addr.is_ipv4() || !self.ipv4_peers);
            let none = || io::Error::other("it has no IPv4 address, and listen.relay_addr is IPv4");
            if addrs.is_empty() { Err(none()) } else { Ok(addrs) }
        });
        match usable {
            Ok(addrs) => core.handle_resolved(now, peer, &addrs),
            Err(e) => {
                if let Some(n) = self.complaints.hit(now, format!("peer {}", peer.0)) {
                    match core {
                        Core::Pop(_) => {
                            warn!("peers[{}].addr cannot be resolved: {e}{}", peer.0, Suppressed(n))
                        }
                        Core::Connector(_) => {
                            warn!("the edge cannot be resolved: {e}{}", Suppressed(n));
                        }
                    }
                }
                // The core tries again when it sees fit.
                core.handle_resolved(now, peer, &[]);
            }
        }
    }

    /// No address of an origin worked.
    pub fn unreachable(
        &mut self,
        conn: ConnId,
        target: &HostPort,
        e: &dyn Display,
        core: &mut Core,
        now: Instant,
    ) {
        let target = target.to_string();
        if let Some(n) = self.complaints.hit(now, target.clone()) {
            warn!("origin {target} cannot be reached: {e}{}", Suppressed(n));
        }
        core.handle_tcp(now, TcpEvent::ConnectFailed { conn });
    }
}
