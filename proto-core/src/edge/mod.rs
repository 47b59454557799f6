//! Clients and origins: what speaks TCP, TLS or QUIC on one side and flows on the other.
//!
//! [`Edges`] hands each connection, datagram and wish of a flow to the room that owns the connection:
//! [`tcp`] for plain TCP and for origins, [`tls`] for TLS over TCP, [`quic`] for QUIC, each of whose
//! streams is a connection of its own here ([`ConnId::stream`]).

pub(crate) mod admission;
#[cfg(test)]
mod admission_tests;
pub(crate) mod clock;
pub mod connect;
pub(crate) mod identity;
mod proxy;
#[cfg(test)]
pub(crate) mod proxy_tests;
pub(crate) mod quic;
pub(crate) mod tcp;
pub(crate) mod tls;
mod validity;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::{Config, EdgeProto};
use crate::flow::{Flows, Output};
use crate::ids::{ConnId, ListenerId, NodeId, ServiceName, SocketId};
use crate::io::{Action, Ecn, TcpEvent, Transmit};
use crate::rng::Rng;
use crate::status::{QuicStatus, Table};
use crate::wire::endpoints::Endpoints;

use admission::{Admission, Clients};
use clock::Clock;
use identity::Identity;
use quic::QuicEdge;
use tcp::TcpEdge;
use tls::TlsEdge;

/// A listener that the shell is to open: in [`Node::listeners`](crate::Node::listeners) a TCP socket,
/// whose place there is its [`ListenerId`]; in [`Node::quic_listeners`](crate::Node::quic_listeners) a
/// UDP socket, whose place there, plus one, is its [`SocketId`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Where.
    pub addr: SocketAddr,
    /// What its clients speak.
    pub proto: EdgeProto,
    /// The PoP that its flows lead to.
    pub dest: NodeId,
    /// The service there.
    pub service: ServiceName,
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Edges {
    /// Plain TCP and TLS.
    listeners: Vec<Listener>,
    tcp: TcpEdge,
    tls: TlsEdge,
    quic: QuicEdge,
    clock: Arc<Clock>,
    accepting: bool,
    admission: Admission,
    clients: Clients,
}

impl Edges {
    pub(crate) fn new(config: &Config, now: Instant, unix_now: Duration, rng: &mut Rng) -> Self {
        let clock = Arc::new(Clock::new(now, unix_now));
        let admission = Admission::new(&config.limits);
        let (quic, tcp) = listeners(config).partition(|l: &Listener| l.proto == EdgeProto::Quic);
        Self {
            listeners: tcp,
            tcp: TcpEdge::new(config),
            tls: TlsEdge::new(Arc::clone(&clock)),
            quic: QuicEdge::new(config, quic, Arc::clone(&clock), admission.clone(), rng),
            clock,
            accepting: true,
            admission,
            clients: Clients::default(),
        }
    }

    /// The TCP sockets that clients come to, those of TLS among them.
    pub(crate) fn listeners(&self) -> &[Listener] {
        &self.listeners
    }

    /// The UDP sockets that QUIC clients come to.
    pub(crate) fn quic_listeners(&self) -> &[Listener] {
        self.quic.listeners()
    }

    /// How many QUIC streams are open.
    pub(crate) fn quic_flows(&self) -> usize {
        self.quic.streams()
    }

    /// How many TLS connections carry a flow.
    pub(crate) fn tls_connections(&self) -> usize {
        self.tls.open()
    }

    /// TLS handshakes that failed, and that took too long.
    pub(crate) fn tls_failures(&self) -> (u64, u64) {
        self.tls.failures()
    }

    /// What there is to tell of QUIC clients.
    pub(crate) fn quic_status(&self) -> QuicStatus {
        self.quic.status()
    }

    /// Clients that were not let in because there were too many.
    pub(crate) fn clients_refused(&self) -> u64 {
        self.admission.refused()
    }

    /// Shows every table to `visit`; see [`Node::tables`](crate::Node::tables).
    pub(crate) fn tables(&self, flows: &Flows, visit: &mut dyn FnMut(Table)) {
        let mut table = |name, len: usize, bound: usize| {
            visit(Table { name, peer: None, len: len as u64, bound: bound as u64 });
        };
        let (clients, most) = self.admission.clients();
        table("clients", clients, most);
        table("proxy_headers", self.tcp.headers(), flows.bound());
        self.tls.tables(flows.bound() as u64, visit);
        self.quic.tables(visit);
    }

    /// Takes the certificate that TLS and QUIC clients are shown from now on.
    pub(crate) fn set_identity(&mut self, identity: &Identity) {
        self.tls.set_identity(identity);
        self.quic.set_identity(identity);
    }

    /// Takes the origins of a new configuration. Listeners stay as they were opened; those whose
    /// address is still configured lead where it says now.
    pub(crate) fn reconfigure(&mut self, config: &Config) {
        self.admission.set_limits(&config.limits);
        self.tcp.reconfigure(config);
        self.quic.reconfigure(config);
        for new in listeners(config) {
            let all = self.listeners.iter_mut().chain(self.quic.listeners_mut());
            for old in all.filter(|l| l.addr == new.addr && l.proto == new.proto) {
                old.dest.clone_from(&new.dest);
                old.service.clone_from(&new.service);
            }
        }
    }

    /// Takes no more clients.
    pub(crate) fn stop(&mut self) {
        self.accepting = false;
        self.tls.stop();
        self.quic.stop();
    }

    /// Draining is over: connections that carry no streams any more are closed.
    pub(crate) fn close(&mut self, now: Instant) {
        self.quic.close(now);
    }

    /// Hands an event to the flow or the TLS connection that it concerns.
    pub(crate) fn handle(
        &mut self,
        now: Instant,
        event: TcpEvent<'_>,
        flows: &mut Flows,
        actions: &mut VecDeque<Action>,
    ) {
        self.clock.tick(now);
        let before = actions.len();
        self.clients.on_event(&event);
        if let TcpEvent::Accepted { conn, listener, remote, local } = event {
            let endpoints = Endpoints::new(remote, local);
            if !self.accept(now, conn, listener, endpoints, flows, actions) {
                actions.push_back(Action::Abort { conn });
            }
        } else if self.tls.owns(event.conn()) {
            self.tls.handle(now, event, flows, actions);
        } else {
            self.tcp.handle(now, event, flows, actions);
        }
        self.clients.on_actions(actions, before);
    }

    fn accept(
        &mut self,
        now: Instant,
        conn: ConnId,
        listener: ListenerId,
        client: Endpoints,
        flows: &mut Flows,
        actions: &mut VecDeque<Action>,
    ) -> bool {
        if !self.accepting || !conn.is_accepted() || conn.is_stream() {
            return false;
        }
        let Some(listener) = self.listeners.get(listener.0) else { return false };
        if self.clients.contains(conn) {
            return false;
        }
        let Some(permit) = self.admission.admit(client.client()) else { return false };
        let accepted = match listener.proto {
            EdgeProto::Tcp => self.tcp.accept(now, conn, listener, client, flows),
            EdgeProto::Tls => self.tls.accept(now, conn, listener, client, actions),
            EdgeProto::Quic => false,
        };
        if accepted {
            self.clients.insert(conn, permit);
        }
        accepted
    }

    /// Does what a flow wants of a connection.
    pub(crate) fn carry_out(
        &mut self,
        now: Instant,
        output: Output,
        flows: &mut Flows,
        actions: &mut VecDeque<Action>,
    ) {
        let conn = output.conn();
        let before = actions.len();
        if conn.is_stream() {
            self.quic.carry_out(now, output, flows);
        } else if self.tls.owns(conn) {
            self.tls.carry_out(now, output, flows, actions);
        } else {
            actions.extend(self.tcp.translate(now, output, flows));
        }
        self.clients.on_actions(actions, before);
    }

    /// Datagrams of QUIC clients.
    pub(crate) fn handle_datagram(
        &mut self,
        now: Instant,
        socket: SocketId,
        remote: SocketAddr,
        ecn: Option<Ecn>,
        datagrams: &mut dyn Iterator<Item = &[u8]>,
        flows: &mut Flows,
    ) {
        self.clock.tick(now);
        for datagram in datagrams {
            self.quic.handle_datagram(now, socket, remote, ecn, datagram, flows);
        }
    }

    /// As [`Node::poll_transmit`](crate::Node::poll_transmit).
    pub(crate) fn poll_transmit(
        &mut self,
        now: Instant,
        max_segments: usize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        self.quic.poll_transmit(now, max_segments, buf)
    }

    /// Time passed.
    pub(crate) fn handle_timeout(
        &mut self,
        now: Instant,
        flows: &mut Flows,
        actions: &mut VecDeque<Action>,
    ) {
        self.clock.tick(now);
        let before = actions.len();
        self.tls.handle_timeout(now, flows, actions);
        self.clients.on_actions(actions, before);
        self.quic.handle_timeout(now, flows);
    }

    /// When [`Self::handle_timeout`] or [`Self::poll_transmit`] is to be called.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        [self.tls.poll_timeout(), self.quic.poll_timeout()].into_iter().flatten().min()
    }
}

/// What the configuration opens, TCP and QUIC.
fn listeners(config: &Config) -> impl Iterator<Item = Listener> {
    let open = |l: crate::config::ServedListener| Listener {
        addr: l.addr,
        proto: l.proto,
        dest: l.dest,
        service: l.service,
    };
    config.listeners().into_iter().map(open)
}
