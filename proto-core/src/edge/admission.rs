//! How many clients there are, in all and from each address. Connections of TCP, TLS and QUIC clients
//! count alike; those to origins do not count.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::Limits;
use crate::ids::ConnId;
use crate::io::{Action, TcpEvent};

/// Lets clients in, as far as the limits go. Clones count together: each edge has one.
#[derive(Debug, Clone)]
pub(crate) struct Admission(Arc<Mutex<Counts>>);

/// A client that was let in: counted until this is dropped.
#[derive(Debug)]
#[must_use]
pub(crate) struct Permit {
    counts: Arc<Mutex<Counts>>,
    source: Source,
}

#[derive(Debug, Default)]
struct Counts {
    max: usize,
    max_per_source: usize,
    clients: usize,
    /// As many as there were when the limit was lowered, or are left of them.
    inherited: usize,
    /// No entry is 0.
    by_source: BTreeMap<Source, usize>,
    refused: u64,
}

/// Whom a client's address stands for: a host in IPv4; in IPv6, where a host may take any address of
/// its network, that network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    V4(u32),
    /// The first 64 bits.
    V6(u64),
}

impl Source {
    fn of(client: IpAddr) -> Self {
        match client.to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4.to_bits()),
            // The upper half of 128 bits fits.
            IpAddr::V6(v6) => Self::V6((v6.to_bits() >> 64) as u64),
        }
    }
}

/// A panic elsewhere has not made the numbers wrong: each change is whole before anything can fail.
fn lock(counts: &Mutex<Counts>) -> MutexGuard<'_, Counts> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Admission {
    pub(crate) fn new(limits: &Limits) -> Self {
        let admission = Self(Arc::default());
        admission.set_limits(limits);
        admission
    }

    /// Takes other limits. Whoever is in stays.
    pub(crate) fn set_limits(&self, limits: &Limits) {
        let mut counts = lock(&self.0);
        counts.max = limits.max_connections;
        counts.max_per_source = limits.max_connections_per_address;
        counts.inherited = counts.clients;
    }

    /// Counts a client until the permit is dropped; `None` if there are too many already.
    pub(crate) fn admit(&self, client: SocketAddr) -> Option<Permit> {
        let source = Source::of(client.ip());
        let mut counts = lock(&self.0);
        let from_there = counts.by_source.get(&source).copied().unwrap_or(0);
        let refusal = if counts.clients >= counts.max {
            "max_connections"
        } else if from_there >= counts.max_per_source {
            "max_connections_per_address"
        } else {
            counts.clients += 1;
            counts.by_source.insert(source, from_there + 1);
            return Some(Permit { counts: Arc::clone(&self.0), source });
        };
        counts.refused += 1;
        tracing::debug!(%client, limit = refusal, "client refused");
        None
    }

    /// Whether there are half as many from there as may be: one more may be asked to prove that it is
    /// there, where its protocol can.
    pub(crate) fn is_crowded(&self, client: SocketAddr) -> bool {
        let counts = lock(&self.0);
        let from_there = counts.by_source.get(&Source::of(client.ip())).copied().unwrap_or(0);
        2 * from_there >= counts.max_per_source
    }

    /// Clients that were not let in; monotonic.
    pub(crate) fn refused(&self) -> u64 {
        lock(&self.0).refused
    }

    /// Clients now, and how many there can be.
    pub(crate) fn clients(&self) -> (usize, usize) {
        let counts = lock(&self.0);
        (counts.clients, counts.max.max(counts.inherited))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut counts = lock(&self.counts);
        counts.clients = counts.clients.saturating_sub(1);
        counts.inherited = counts.inherited.min(counts.clients);
        let Some(from_there) = counts.by_source.get_mut(&self.source) else { return };
        *from_there = from_there.saturating_sub(1);
        if *from_there == 0 {
            counts.by_source.remove(&self.source);
        }
    }
}

/// The TCP connections of clients, those of TLS among them, for as long as the shell has them: see
/// [`Action`] for when one is over. Bounded by the permits.
#[derive(Debug, Default)]
pub(crate) struct Clients(BTreeMap<ConnId, Client>);

#[derive(Debug)]
struct Client {
    _permit: Permit,
    /// Given to the shell and not reported as written.
    unwritten: usize,
    /// The client has closed its sending half; the shell has been told to close ours.
    eof: bool,
    shutdown: bool,
}

impl Client {
    fn is_over(&self) -> bool {
        self.eof && self.shutdown && self.unwritten == 0
    }
}

impl Clients {
    pub(crate) fn insert(&mut self, conn: ConnId, permit: Permit) {
        let client = Client { _permit: permit, unwritten: 0, eof: false, shutdown: false };
        self.0.insert(conn, client);
    }

    pub(crate) fn contains(&self, conn: ConnId) -> bool {
        self.0.contains_key(&conn)
    }

    /// The shell told this.
    pub(crate) fn on_event(&mut self, event: &TcpEvent<'_>) {
        match *event {
            TcpEvent::Written { conn, bytes } => {
                self.change(conn, |c| c.unwritten = c.unwritten.saturating_sub(bytes));
            }
            TcpEvent::Eof { conn } => self.change(conn, |c| c.eof = true),
            TcpEvent::Reset { conn } | TcpEvent::ConnectFailed { conn } => {
                self.0.remove(&conn);
            }
            TcpEvent::Accepted { .. } | TcpEvent::Connected { .. } | TcpEvent::Received { .. } => {}
        }
    }

    /// The shell will be told these, from that place on.
    pub(crate) fn on_actions(&mut self, actions: &VecDeque<Action>, from: usize) {
        for action in actions.iter().skip(from) {
            match *action {
                Action::Write { conn, ref data } => {
                    self.change(conn, |c| c.unwritten = c.unwritten.saturating_add(data.len()));
                }
                Action::Shutdown { conn } => self.change(conn, |c| c.shutdown = true),
                Action::Abort { conn } => {
                    self.0.remove(&conn);
                }
                Action::Connect { .. }
                | Action::GrantRead { .. }
                | Action::Resolve { .. }
                | Action::StopAccepting
                | Action::Drained => {}
            }
        }
    }

    fn change(&mut self, conn: ConnId, change: impl FnOnce(&mut Client)) {
        if !conn.is_accepted() {
            return;
        }
        let Some(client) = self.0.get_mut(&conn) else { return };
        change(client);
        if client.is_over() {
            self.0.remove(&conn);
        }
    }
}
