//! The connection to the edge: found, made, kept up, lost.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use quinn_proto::{
    Connection, ConnectionError, ConnectionHandle, Endpoint, EndpointEvent, Event, StreamEvent,
    StreamId,
};
use rustls::AlertDescription;

use crate::ids::{ConnId, PeerId};
use crate::io::Action;

use super::client::Client;
use super::connector::{Connector, PATIENCE};

/// One attempt to reach the edge.
const ATTEMPT: Duration = Duration::from_secs(10);
/// While streams are open and nothing comes for so long, the edge is asked for a sign of life: if this
/// machine's address has changed, the edge still sends to the old one (RFC 9000 §9).
const SILENCE: Duration = Duration::from_secs(1);
/// Between attempts, doubled each time.
const RETRY: Duration = Duration::from_millis(250);
const MAX_RETRY: Duration = Duration::from_secs(15);
/// Connections that are over and say so to whoever still asks.
const MAX_LEAVING: usize = 8;
/// Codes of QUIC from here on are alerts of TLS (RFC 9001 §4.8).
const TLS_ALERTS: u64 = 0x100;

/// The connection to the edge.
pub(super) struct Link {
    pub(super) handle: ConnectionHandle,
    pub(super) quic: Connection,
    /// The edge has confirmed it: the handshake is through.
    pub(super) is_up: bool,
    /// If not, it is given up then.
    pub(super) gives_up: Instant,
    /// When something came from the edge, or it was asked for a sign of life.
    pub(super) heard: Instant,
}

impl Link {
    /// When the edge is to be asked for a sign of life, if it has something to say.
    pub(super) fn silent_at(&self, has_streams: bool) -> Option<Instant> {
        (self.is_up && has_streams).then(|| self.heard + SILENCE)
    }
}

/// Where the connector stands.
pub(super) enum State {
    /// Nothing is under way until then.
    Waiting(Instant),
    /// The edge's name is being resolved.
    Resolving,
    Linked(Box<Link>),
}

impl Connector {
    pub(super) fn resolve(&mut self) {
        self.state = State::Resolving;
        self.actions.push_back(Action::Resolve { peer: PeerId(0), target: self.wish.edge.clone() });
    }

    pub(super) fn connect(&mut self, addr: SocketAddr) {
        self.setup.tickets.hold(self.attempts > 0);
        let (config, name) = (self.setup.quic.clone(), self.wish.server_name.clone());
        match self.endpoint.connect(self.now, config, addr, &name) {
            Ok((handle, quic)) => {
                let gives_up = self.now + ATTEMPT;
                let heard = self.now;
                let link = Link { handle, quic, is_up: false, gives_up, heard };
                self.state = State::Linked(Box::new(link));
                self.is_sending = true;
            }
            Err(e) => self.failed(&e.to_string()),
        }
    }

    /// An attempt led to nothing.
    pub(super) fn failed(&mut self, why: &str) {
        self.status.failed += 1;
        let wait = RETRY.saturating_mul(1 << self.attempts.min(8)).min(MAX_RETRY);
        self.attempts = self.attempts.saturating_add(1);
        // Another address next time.
        self.addrs.rotate_left(usize::from(!self.addrs.is_empty()));
        self.state = State::Waiting(self.now + wait);
        tracing::warn!(edge = %self.wish.edge, "no connection to the edge: {why}; next try in {wait:?}");
    }

    /// Lets the endpoint know what its connections have for it.
    pub(super) fn settle(&mut self) {
        if let State::Linked(link) = &mut self.state {
            pass(&mut self.endpoint, link.handle, &mut link.quic);
        }
        let endpoint = &mut self.endpoint;
        self.leaving.retain_mut(|(handle, quic)| {
            while quic.poll().is_some() {}
            !pass(endpoint, *handle, quic)
        });
    }

    pub(super) fn on_event(&mut self, event: Event) {
        match event {
            Event::Connected => self.confirmed(),
            Event::ConnectionLost { reason } => self.lost(&told(&reason)),
            Event::Stream(StreamEvent::Readable { id }) => {
                if let Some(conn) = self.by_stream.get(&id).copied() {
                    self.read(conn);
                }
            }
            Event::Stream(StreamEvent::Writable { id } | StreamEvent::Stopped { id, .. }) => {
                match self.by_stream.get(&id).copied() {
                    Some(conn) => self.write(conn),
                    // Stopped: nobody wants what is left.
                    None => self.finished(id),
                }
            }
            Event::Stream(StreamEvent::Finished { id }) => self.finished(id),
            // `open` tries whenever anything has happened.
            Event::Stream(_)
            | Event::HandshakeDataReady
            | Event::DatagramReceived
            | Event::DatagramsUnblocked => {}
        }
    }

    /// The edge has all of a stream, or wants no more of it.
    fn finished(&mut self, id: StreamId) {
        let conn = self.by_stream.get(&id);
        match conn.and_then(|conn| self.clients.get_mut(conn)) {
            Some(client) => client.is_acknowledged = true,
            None => {
                self.ending.remove(&id);
                self.advance_drain();
            }
        }
    }

    /// The handshake is through.
    pub(super) fn confirmed(&mut self) {
        let State::Linked(link) = &mut self.state else { return };
        link.is_up = true;
        self.attempts = 0;
        self.setup.tickets.hold(false);
        self.status.connections += 1;
        let early = link.quic.accepted_0rtt();
        self.status.early += u64::from(early);
        let remote = link.quic.remote_address();
        tracing::info!(edge = %self.wish.edge, %remote, early, "connected to the edge");
        // Streams that were opened before: they stand only if early data was accepted.
        if early {
            self.clients.values_mut().for_each(Client::confirm);
        } else {
            let opened: Vec<ConnId> = std::mem::take(&mut self.by_stream).into_values().collect();
            for conn in opened.into_iter().rev() {
                if let Some(client) = self.clients.get_mut(&conn) {
                    client.rewind(self.now + PATIENCE);
                    self.queue.push_front(conn);
                }
            }
        }
        for conn in self.clients.keys().copied().collect::<Vec<_>>() {
            self.grant(conn);
        }
    }

    /// The connection is over, or never was.
    pub(super) fn lost(&mut self, why: &str) {
        let was_up = self.is_up();
        self.leave();
        // What went with it is lost; those who had no stream yet wait for the next.
        self.ending.clear();
        let broken: Vec<ConnId> = std::mem::take(&mut self.by_stream).into_values().collect();
        for conn in broken {
            self.remove(conn, true);
        }
        if was_up {
            tracing::warn!(edge = %self.wish.edge, "the connection to the edge is lost: {why}");
            self.state = State::Waiting(self.now);
        } else {
            self.failed(why);
        }
    }

    /// The connection goes to those that are over.
    pub(super) fn leave(&mut self) {
        let state = std::mem::replace(&mut self.state, State::Waiting(self.now));
        let State::Linked(link) = state else {
            self.state = state;
            return;
        };
        self.leaving.push((link.handle, link.quic));
        if self.leaving.len() > MAX_LEAVING {
            let (handle, _) = self.leaving.remove(0);
            self.endpoint.handle_event(handle, EndpointEvent::drained());
        }
    }
}

/// Whether the connection is over for good.
fn pass(endpoint: &mut Endpoint, handle: ConnectionHandle, quic: &mut Connection) -> bool {
    let mut is_over = false;
    while let Some(event) = quic.poll_endpoint_events() {
        is_over |= event.is_drained();
        if let Some(answer) = endpoint.handle_event(handle, event) {
            quic.handle_event(answer);
        }
    }
    is_over
}

/// Why a connection ended, and what to do about it.
fn told(reason: &ConnectionError) -> String {
    match reason {
        ConnectionError::TimedOut => "it does not answer".to_owned(),
        ConnectionError::ApplicationClosed(close) => match close.error_code.into_inner() {
            0 => "it closed the connection".to_owned(),
            2 => "it has no room for more".to_owned(),
            3 => "it is shutting down".to_owned(),
            code => format!("it closed the connection with code {code}"),
        },
        ConnectionError::TransportError(e) => alert(e.code.into(), &e.reason),
        ConnectionError::ConnectionClosed(close) => {
            alert(close.error_code.into(), &String::from_utf8_lossy(&close.reason))
        }
        ConnectionError::Reset => "it was restarted, or has forgotten the connection".to_owned(),
        other => other.to_string(),
    }
}

/// What a code of QUIC means to whoever set up a connector.
fn alert(code: u64, reason: &str) -> String {
    let tls = code.checked_sub(TLS_ALERTS).and_then(|alert| u8::try_from(alert).ok());
    match tls.map(AlertDescription::from) {
        // What rustls makes of a certificate that `Trust` does not take.
        Some(AlertDescription::AccessDenied) => {
            "its certificate is not the one with the fingerprint that is trusted".to_owned()
        }
        Some(AlertDescription::UnknownCA) => {
            "its certificate is of an authority that is not trusted".to_owned()
        }
        Some(AlertDescription::NoApplicationProtocol) => {
            "it does not speak the protocol that was asked for (ALPN)".to_owned()
        }
        Some(alert) => format!("TLS failed: {alert:?}, {reason}"),
        None => format!("QUIC failed with code {code}: {reason}"),
    }
}
