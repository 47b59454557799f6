//! Which congestion control the PoPs' own TCP connections have.
//!
//! The shell makes them; here they are found among this process' descriptors and asked.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd, RawFd};

use rustix::net::sockopt::tcp_congestion;
use rustix::net::{getpeername, getsockname};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

use crate::live::workload::Edges;

/// The PoPs' connections seen so far.
#[derive(Debug)]
pub(super) struct PopSockets {
    own: OwnedFd,
    /// Where PoP A listens, where PoP B dials.
    edges: Edges,
    origin: Edges,
    /// Looked at before; the kernel gives each socket its number.
    known: BTreeSet<u64>,
    controls: BTreeMap<String, u64>,
}

impl PopSockets {
    pub(super) fn new(edges: Edges, origin: Edges) -> io::Result<Self> {
        let own = pidfd_open(getpid(), PidfdFlags::empty())?;
        Ok(Self { own, edges, origin, known: BTreeSet::new(), controls: BTreeMap::new() })
    }

    /// Looks for new ones.
    pub(super) fn look(&mut self) -> io::Result<()> {
        for entry in std::fs::read_dir("/proc/self/fd")? {
            let entry = entry?;
            // Any of them may be closed by now.
            let Ok(target) = std::fs::read_link(entry.path()) else { continue };
            let Some(number) = socket_number(&target.to_string_lossy()) else { continue };
            let Ok(fd) = entry.file_name().to_string_lossy().parse::<RawFd>() else { continue };
            if !self.known.contains(&number)
                && let Ok(socket) = pidfd_getfd(&self.own, fd, PidfdGetfdFlags::empty())
                && let Ok(control) = tcp_congestion(&socket)
                && let Some(addrs) = connected(&socket)
            {
                self.known.insert(number);
                if self.is_a_pops(addrs) {
                    *self.controls.entry(control).or_default() += 1;
                }
            }
        }
        Ok(())
    }

    pub(super) fn controls(self) -> BTreeMap<String, u64> {
        self.controls
    }

    fn is_a_pops(&self, (local, peer): (SocketAddr, SocketAddr)) -> bool {
        [self.edges.ping, self.edges.bulk].contains(&local)
            || [self.origin.ping, self.origin.bulk].contains(&peer)
    }
}

fn socket_number(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// Its own address and the peer's; `None` for a listener, and while it is connecting.
fn connected(socket: impl AsFd) -> Option<(SocketAddr, SocketAddr)> {
    let local = getsockname(&socket).ok()?.try_into().ok()?;
    let peer = getpeername(&socket).ok()??.try_into().ok()?;
    Some((local, peer))
}
