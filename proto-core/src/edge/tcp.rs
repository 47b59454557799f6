//! Plain TCP: a listener's connections become flows to its service, flows become connections to the
//! origin that this PoP's own configuration names.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use crate::config::{Config, Origin};
use crate::flow::{Flows, Output};
use crate::ids::{ConnId, ServiceName};
use crate::io::{Action, TcpEvent};
use crate::wire::endpoints::Endpoints;
use crate::wire::flow::ResetCode;

use super::Listener;
use super::proxy::Headers;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct TcpEdge {
    origins: BTreeMap<ServiceName, Origin>,
    headers: Headers,
}

impl TcpEdge {
    pub(crate) fn new(config: &Config) -> Self {
        Self { origins: config.origins.clone(), headers: Headers::default() }
    }

    /// Takes the origins of a new configuration.
    pub(crate) fn reconfigure(&mut self, config: &Config) {
        self.origins.clone_from(&config.origins);
    }

    /// Connections to origins whose header is not written yet.
    pub(crate) fn headers(&self) -> usize {
        self.headers.len()
    }

    /// Hands an event to the flow that it concerns.
    pub(crate) fn handle(
        &mut self,
        now: Instant,
        event: TcpEvent<'_>,
        flows: &mut Flows,
        actions: &mut VecDeque<Action>,
    ) {
        match event {
            TcpEvent::Accepted { .. } => {}
            TcpEvent::Connected { conn } => {
                // Before anything that the flow has for it.
                let header = self.headers.connected(conn);
                actions.extend(header.map(|data| Action::Write { conn, data }));
                flows.connected(now, conn);
            }
            TcpEvent::ConnectFailed { conn } => {
                self.headers.forget(conn);
                flows.refuse(now, conn, ResetCode::ConnectFailed);
            }
            TcpEvent::Received { conn, data } => flows.received(now, conn, data),
            TcpEvent::Written { conn, bytes } => {
                let bytes = self.headers.written(conn, bytes);
                if bytes > 0 {
                    flows.written(now, conn, bytes);
                }
            }
            TcpEvent::Eof { conn } => flows.eof(now, conn),
            TcpEvent::Reset { conn } => {
                self.headers.forget(conn);
                flows.conn_reset(now, conn);
            }
        }
    }

    /// Whether the client's flow begins.
    pub(crate) fn accept(
        &self,
        now: Instant,
        conn: ConnId,
        listener: &Listener,
        client: Endpoints,
        flows: &mut Flows,
    ) -> bool {
        let service = listener.service.clone();
        let taken = flows.accept(now, conn, listener.dest.hash32(), service, client);
        if let Err(error) = taken {
            tracing::debug!(client = %client.client(), %error, "client refused");
        }
        taken.is_ok()
    }

    /// What a flow wants of a connection, as an action for the shell.
    pub(crate) fn translate(
        &mut self,
        now: Instant,
        output: Output,
        flows: &mut Flows,
    ) -> Option<Action> {
        Some(match output {
            Output::Dial { conn, service, endpoints } => match self.origins.get(&service) {
                Some(origin) => {
                    if origin.proxy_protocol {
                        self.headers.dialled(conn, endpoints);
                    }
                    Action::Connect { conn, target: origin.addr.clone() }
                }
                None => {
                    tracing::debug!(%service, "no such service");
                    flows.refuse(now, conn, ResetCode::NoSuchService);
                    return None;
                }
            },
            Output::Write { conn, data } => Action::Write { conn, data },
            Output::GrantRead { conn, bytes } => Action::GrantRead { conn, bytes },
            Output::Shutdown { conn } => Action::Shutdown { conn },
            Output::Abort { conn } => {
                self.headers.forget(conn);
                Action::Abort { conn }
            }
        })
    }
}
