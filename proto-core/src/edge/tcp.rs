//! Plain TCP: a listener's connections become flows to its service, flows become connections to the
//! origin that this PoP's own configuration names.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use crate::config::{Config, HostPort};
use crate::flow::{Flows, Output};
use crate::ids::{ListenerId, NodeId, ServiceName};
use crate::io::{Action, TcpEvent};
use crate::wire::flow::ResetCode;

/// A listener that the shell is to open; its place in
/// [`Node::listeners`](crate::Node::listeners) is its [`ListenerId`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Where.
    pub addr: SocketAddr,
    /// The PoP that its flows lead to.
    pub dest: NodeId,
    /// The service there.
    pub service: ServiceName,
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct TcpEdge {
    listeners: Vec<Listener>,
    origins: BTreeMap<ServiceName, HostPort>,
    accepting: bool,
}

impl TcpEdge {
    pub(crate) fn new(config: &Config) -> Self {
        let listeners = config
            .listeners()
            .into_iter()
            .map(|l| Listener { addr: l.addr, dest: l.dest, service: l.service })
            .collect();
        Self { listeners, origins: config.origins.clone(), accepting: true }
    }

    pub(crate) fn listeners(&self) -> &[Listener] {
        &self.listeners
    }

    /// Takes the origins of a new configuration. Listeners stay as they were opened; those whose
    /// address is still configured lead where it says now.
    pub(crate) fn reconfigure(&mut self, config: &Config) {
        self.origins.clone_from(&config.origins);
        for new in config.listeners() {
            if let Some(old) = self.listeners.iter_mut().find(|l| l.addr == new.addr) {
                old.dest = new.dest;
                old.service = new.service;
            }
        }
    }

    /// Takes no more clients.
    pub(crate) fn stop(&mut self) {
        self.accepting = false;
    }

    /// Hands an event to the flow that it concerns; an answer for the shell, if there is one at once.
    pub(crate) fn handle(
        &mut self,
        now: Instant,
        event: TcpEvent<'_>,
        flows: &mut Flows,
    ) -> Option<Action> {
        match event {
            TcpEvent::Accepted { conn, listener, remote } => {
                let accepted = conn.is_accepted()
                    && self.accepting
                    && self.accept(now, conn, listener, remote, flows);
                return (!accepted).then_some(Action::Abort { conn });
            }
            TcpEvent::Connected { conn } => flows.connected(now, conn),
            TcpEvent::ConnectFailed { conn } => {
                flows.refuse(now, conn, ResetCode::ConnectFailed);
            }
            TcpEvent::Received { conn, data } => flows.received(now, conn, data),
            TcpEvent::Written { conn, bytes } => flows.written(now, conn, bytes),
            TcpEvent::Eof { conn } => flows.eof(now, conn),
            TcpEvent::Reset { conn } => flows.conn_reset(now, conn),
        }
        None
    }

    fn accept(
        &self,
        now: Instant,
        conn: crate::ids::ConnId,
        listener: ListenerId,
        client: SocketAddr,
        flows: &mut Flows,
    ) -> bool {
        let Some(route) = self.listeners.get(listener.0) else { return false };
        let taken = flows.accept(now, conn, route.dest.hash32(), route.service.clone());
        if let Err(error) = taken {
            tracing::debug!(%client, %error, "client refused");
        }
        taken.is_ok()
    }

    /// What a flow wants of a connection, as an action for the shell.
    pub(crate) fn translate(
        &self,
        now: Instant,
        output: Output,
        flows: &mut Flows,
    ) -> Option<Action> {
        Some(match output {
            Output::Dial { conn, service } => match self.origins.get(&service) {
                Some(target) => Action::Connect { conn, target: target.clone() },
                None => {
                    tracing::debug!(%service, "no such service");
                    flows.refuse(now, conn, ResetCode::NoSuchService);
                    return None;
                }
            },
            Output::Write { conn, data } => Action::Write { conn, data },
            Output::GrantRead { conn, bytes } => Action::GrantRead { conn, bytes },
            Output::Shutdown { conn } => Action::Shutdown { conn },
            Output::Abort { conn } => Action::Abort { conn },
        })
    }
}
