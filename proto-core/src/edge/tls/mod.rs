//! TLS over TCP: versions 1.2 and 1.3, any server name, no client certificates, no ALPN, no early data
//! (which could be replayed; QUIC has it, with tickets that are good for one use).
//!
//! A flow begins when the handshake is complete. From then on the two halves are the flow's:
//! close_notify ends one, either way. TCP's own end without it is what an attacker can make, so that it
//! is a fault: the origin sees a reset. Faults of the flow reach the client in the same way, as a reset
//! without close_notify.

#[cfg(test)]
mod bench;
mod conn;
mod records;
mod sessions;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_hostile;
#[cfg(test)]
mod tests_random;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustls::crypto::CryptoProvider;
use rustls::server::StoresServerSessions;
use rustls::sign::SingleCertAndKey;
use rustls::time_provider::TimeProvider;
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, ServerConnection};

use crate::flow::{Flows, Output};
use crate::ids::ConnId;
use crate::io::{Action, TcpEvent};
use crate::status::Table;
use crate::wire::endpoints::Endpoints;

use super::Listener;
use super::clock::Clock;
use super::identity::Identity;
use conn::{Conn, Fault, MAX_UNWRITTEN, MAX_WAITING, Phase};
use sessions::{MAX_SESSIONS, Sessions};

/// A client has so long for its handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection on which no byte moved for so long is reset. As long as NATs are to keep one
/// (RFC 5382 §5), so that what lives with those lives here; keepalive finds dead clients much sooner.
const IDLE_TIMEOUT: Duration = Duration::from_secs(2 * 3600 + 4 * 60);
/// An alert has so long to get away before the connection is reset.
const ALERT_TIMEOUT: Duration = Duration::from_secs(2);
/// Handshakes that are not complete. A newcomer takes the place of the oldest: a client that means it is
/// done within a round trip or two, so that whoever opens thousands and says nothing only drives out
/// itself.
const MAX_HANDSHAKES: usize = 4096;
/// Connections whose flow is over and whose end the client has not taken yet; the oldest goes.
const MAX_ENDING: usize = 4096;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct TlsEdge {
    clock: Arc<Clock>,
    provider: Arc<CryptoProvider>,
    sessions: Arc<Sessions>,
    /// None before the first certificate.
    config: Option<Arc<ServerConfig>>,
    accepting: bool,
    conns: BTreeMap<ConnId, Conn>,
    /// Their ids grow: the first is the oldest.
    handshakes: BTreeSet<ConnId>,
    ending: BTreeSet<ConnId>,
    timers: BTreeSet<(Instant, ConnId)>,
    failed: u64,
    timed_out: u64,
}

impl TlsEdge {
    pub(crate) fn new(clock: Arc<Clock>) -> Self {
        Self {
            provider: Arc::new(rustls::crypto::ring::default_provider()),
            sessions: Arc::new(Sessions::new(Arc::clone(&clock))),
            clock,
            config: None,
            accepting: true,
            conns: BTreeMap::new(),
            handshakes: BTreeSet::new(),
            ending: BTreeSet::new(),
            timers: BTreeSet::new(),
            failed: 0,
            timed_out: 0,
        }
    }

    /// Takes the certificate for connections from now on. Sessions are kept: a client that takes one up
    /// proves that it spoke with this PoP before, whatever certificate it was shown then.
    pub(crate) fn set_identity(&mut self, identity: &Identity) {
        let clock: Arc<dyn TimeProvider> = Arc::<Clock>::clone(&self.clock);
        let builder = ServerConfig::builder_with_details(Arc::clone(&self.provider), clock)
            .with_protocol_versions(&[&TLS13, &TLS12]);
        match builder {
            Ok(builder) => {
                let shown = SingleCertAndKey::from(Arc::clone(&identity.certified));
                let mut config = builder.with_no_client_auth().with_cert_resolver(Arc::new(shown));
                let sessions: Arc<dyn StoresServerSessions> =
                    Arc::<Sessions>::clone(&self.sessions);
                config.session_storage = sessions;
                self.config = Some(Arc::new(config));
            }
            Err(error) => tracing::error!(%error, "TLS is not served"),
        }
    }

    /// Takes no more clients, nor those whose handshake is not complete.
    pub(crate) fn stop(&mut self) {
        self.accepting = false;
    }

    /// Connections that carry a flow.
    pub(crate) fn open(&self) -> usize {
        self.conns.len().saturating_sub(self.handshakes.len() + self.ending.len())
    }

    /// Handshakes that ended without a flow, and those of them that took too long.
    pub(crate) fn failures(&self) -> (u64, u64) {
        (self.failed, self.timed_out)
    }

    pub(crate) fn owns(&self, conn: ConnId) -> bool {
        self.conns.contains_key(&conn)
    }

    /// Whether the handshake begins.
    pub(crate) fn accept(
        &mut self,
        now: Instant,
        id: ConnId,
        listener: &Listener,
        client: Endpoints,
        actions: &mut VecDeque<Action>,
    ) -> bool {
        let Some(config) = self.config.as_ref().filter(|_| !self.owns(id)) else {
            tracing::debug!(client = %client.client(), "refused: there is no certificate");
            return false;
        };
        let Ok(tls) = ServerConnection::new(Arc::clone(config)) else { return false };
        while self.handshakes.len() >= MAX_HANDSHAKES {
            let Some(oldest) = self.handshakes.pop_first() else { break };
            self.failed += 1;
            self.abort(oldest, actions);
        }
        let mut conn = Conn::new(now, tls, listener, client);
        if let Some(bytes) = conn.top_up() {
            actions.push_back(Action::GrantRead { conn: id, bytes });
        }
        self.conns.insert(id, conn);
        self.handshakes.insert(id);
        self.arm(id, now + HANDSHAKE_TIMEOUT);
        true
    }

    /// Something happened to a connection that it [owns](Self::owns).
    pub(crate) fn handle(
        &mut self,
        now: Instant,
        event: TcpEvent<'_>,
        flows: &mut Flows,
        actions: &mut VecDeque<Action>,
    ) {
        let id = event.conn();
        let Some(conn) = self.conns.get_mut(&id) else { return };
        match event {
            TcpEvent::Received { .. } if conn.phase == Phase::Failed => {}
            TcpEvent::Received { data, .. } => {
                let result = conn.receive(now, id, data, self.accepting, flows);
                self.follow(now, id, result, flows, actions);
            }
            TcpEvent::Written { bytes, .. } => {
                let plaintext = conn.wrote(now, bytes);
                if plaintext > 0 {
                    flows.written(now, id, plaintext);
                }
                self.settle(id, actions);
            }
            TcpEvent::Eof { .. } => match conn.end() {
                Err(fault) if conn.phase != Phase::Failed => {
                    self.fail(now, id, &fault, flows, actions);
                }
                _ => self.settle(id, actions),
            },
            TcpEvent::Reset { .. } => {
                self.count_failure(id);
                flows.conn_reset(now, id);
                self.remove(id);
            }
            TcpEvent::Accepted { .. }
            | TcpEvent::Connected { .. }
            | TcpEvent::ConnectFailed { .. } => {}
        }
    }

    /// Does what a flow wants of a connection that it [owns](Self::owns).
    pub(crate) fn carry_out(
        &mut self,
        now: Instant,
        output: Output,
        flows: &mut Flows,
        actions: &mut VecDeque<Action>,
    ) {
        let id = output.conn();
        let Some(conn) = self.conns.get_mut(&id) else { return };
        match output {
            Output::GrantRead { bytes, .. } => {
                let result = conn.grant(now, id, bytes, flows);
                self.follow(now, id, result, flows, actions);
            }
            Output::Write { data, .. } => match conn.write(&data) {
                Ok(records) => write(id, records, actions),
                Err(fault) => self.fail(now, id, &fault, flows, actions),
            },
            Output::Shutdown { .. } => {
                write(id, conn.close(), actions);
                conn.shutdown = true;
                actions.push_back(Action::Shutdown { conn: id });
                self.settle(id, actions);
            }
            Output::Abort { .. } => self.abort(id, actions),
            Output::Dial { .. } => {}
        }
    }

    /// What comes of new bytes, or of new credit.
    fn follow(
        &mut self,
        now: Instant,
        id: ConnId,
        result: Result<(), Fault>,
        flows: &mut Flows,
        actions: &mut VecDeque<Action>,
    ) {
        if let Err(fault) = result {
            return self.fail(now, id, &fault, flows, actions);
        }
        let Some(conn) = self.conns.get_mut(&id) else { return };
        write(id, conn.flush(0), actions);
        if let Some(bytes) = conn.top_up() {
            actions.push_back(Action::GrantRead { conn: id, bytes });
        } else if conn.is_stuck() {
            return self.fail(now, id, &Fault::Barren, flows, actions);
        }
        if conn.phase == Phase::Open && self.handshakes.remove(&id) {
            self.arm(id, now + IDLE_TIMEOUT);
        }
        self.settle(id, actions);
    }

    /// Breaks a connection off. An alert of rustls, which says why, is sent first if there is one.
    fn fail(
        &mut self,
        now: Instant,
        id: ConnId,
        fault: &Fault,
        flows: &mut Flows,
        actions: &mut VecDeque<Action>,
    ) {
        self.count_failure(id);
        flows.conn_reset(now, id);
        let Some(conn) = self.conns.get_mut(&id) else { return };
        tracing::debug!(client = %conn.client.client(), %fault, "TLS client broken off");
        conn.phase = Phase::Failed;
        if conn.eof && conn.shutdown {
            // Both halves are closed; what the client is still to get is on its way.
            self.arm(id, now + IDLE_TIMEOUT);
            return self.settle(id, actions);
        }
        let alert =
            conn.flush(0).filter(|_| matches!(fault, Fault::Tls(_)) && !conn.eof && !conn.shutdown);
        if alert.is_none() {
            return self.abort(id, actions);
        }
        write(id, alert, actions);
        conn.shutdown = true;
        actions.push_back(Action::Shutdown { conn: id });
        self.arm(id, now + ALERT_TIMEOUT);
        self.settle(id, actions);
    }

    fn count_failure(&mut self, id: ConnId) {
        // Who asks only whether the port is open did not fail.
        if self.handshakes.remove(&id) && self.conns.get(&id).is_some_and(Conn::has_spoken) {
            self.failed += 1;
        }
    }

    /// Forgets a connection that is over, and keeps a list of those that only the client still holds.
    fn settle(&mut self, id: ConnId, actions: &mut VecDeque<Action>) {
        let Some(conn) = self.conns.get(&id) else { return };
        if conn.is_over() {
            return self.remove(id);
        }
        if conn.shutdown && (conn.closed || conn.phase == Phase::Failed) && self.ending.insert(id) {
            while self.ending.len() > MAX_ENDING {
                let Some(oldest) = self.ending.pop_first() else { break };
                self.abort(oldest, actions);
            }
        }
    }

    fn abort(&mut self, id: ConnId, actions: &mut VecDeque<Action>) {
        actions.push_back(Action::Abort { conn: id });
        self.remove(id);
    }

    fn remove(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.remove(&id) {
            self.timers.remove(&(conn.due, id));
            self.handshakes.remove(&id);
            self.ending.remove(&id);
        }
    }

    fn arm(&mut self, id: ConnId, at: Instant) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        self.timers.remove(&(conn.due, id));
        conn.due = at;
        self.timers.insert((at, id));
    }

    /// Time passed.
    pub(crate) fn handle_timeout(
        &mut self,
        now: Instant,
        flows: &mut Flows,
        actions: &mut VecDeque<Action>,
    ) {
        while let Some(&(due, id)) = self.timers.first().filter(|(due, _)| *due <= now) {
            let Some(conn) = self.conns.get(&id) else {
                self.timers.remove(&(due, id));
                continue;
            };
            let idle_until = conn.active + IDLE_TIMEOUT;
            match conn.phase {
                Phase::Open if idle_until > now => {
                    self.arm(id, idle_until);
                    continue;
                }
                Phase::Open => flows.conn_reset(now, id),
                Phase::Handshake => self.timed_out += 1,
                Phase::Failed => {}
            }
            self.abort(id, actions);
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Shows every table to `visit`; `flows` are those that there can be with a connection.
    pub(crate) fn tables(&self, flows: u64, visit: &mut dyn FnMut(Table)) {
        let mut show = |name, len: usize, bound: u64| {
            visit(Table { name, peer: None, len: len as u64, bound });
        };
        let without_flow = (MAX_HANDSHAKES + MAX_ENDING) as u64;
        show("tls_connections", self.conns.len(), flows + without_flow);
        show("tls_handshakes", self.handshakes.len(), MAX_HANDSHAKES as u64);
        show("tls_ending", self.ending.len(), MAX_ENDING as u64);
        show("tls_sessions", self.sessions.len(), MAX_SESSIONS as u64);
        let fullest = |of: fn(&Conn) -> usize| self.conns.values().map(of).max().unwrap_or(0);
        show("tls_waiting", fullest(Conn::waiting), MAX_WAITING as u64);
        show("tls_unwritten", fullest(Conn::unwritten), MAX_UNWRITTEN as u64);
    }
}

fn write(conn: ConnId, data: Option<Bytes>, actions: &mut VecDeque<Action>) {
    actions.extend(data.map(|data| Action::Write { conn, data }));
}
