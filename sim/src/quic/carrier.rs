//! One QUIC connection with the TCP connections that it carries.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use bytes::Bytes;
use entrouter_proto::config::HostPort;
use entrouter_proto::{Action, ConnId};
use quinn_proto::{
    Connection, ConnectionError, ConnectionHandle, Dir, Endpoint, Event, StreamEvent, StreamId,
    Transmit, VarInt,
};

use super::bridge::{Bridge, Broken, Progress};

/// What a server does with new streams.
#[derive(Debug)]
pub(super) struct Dialler {
    pub(super) origins: BTreeMap<String, HostPort>,
    /// Connections numbered so far.
    pub(super) numbered: u64,
    pub(super) accepting: bool,
}

#[derive(Debug)]
pub(super) struct Carrier {
    handle: ConnectionHandle,
    quic: Connection,
    bridges: BTreeMap<ConnId, Bridge>,
    streams: BTreeMap<StreamId, ConnId>,
    /// Clients for whom there is no stream yet, in order.
    waiting: VecDeque<ConnId>,
    /// There may be datagrams to send.
    has_output: bool,
    deadline: Option<Instant>,
    loss: Option<ConnectionError>,
}

impl Carrier {
    pub(super) fn new(handle: ConnectionHandle, quic: Connection) -> Self {
        Self {
            handle,
            quic,
            bridges: BTreeMap::new(),
            streams: BTreeMap::new(),
            waiting: VecDeque::new(),
            has_output: true,
            deadline: None,
            loss: None,
        }
    }

    pub(super) fn has_output(&self) -> bool {
        self.has_output
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Why the connection broke, if it did.
    pub(super) fn loss(&self) -> Option<&ConnectionError> {
        self.loss.as_ref()
    }

    /// Nothing will happen any more.
    pub(super) fn is_gone(&self) -> bool {
        self.quic.is_drained()
    }

    pub(super) fn carries(&self, conn: ConnId) -> bool {
        self.bridges.contains_key(&conn)
    }

    /// Whether nothing would be cut off by closing: everything taken from TCP has arrived, or is lost.
    pub(super) fn is_idle(&mut self) -> bool {
        let is_lost = self.loss.is_some();
        is_lost || (self.bridges.is_empty() && self.quic.streams().send_streams() == 0)
    }

    pub(super) fn handle_event(&mut self, event: quinn_proto::ConnectionEvent) {
        self.quic.handle_event(event);
        self.has_output = true;
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.quic.handle_timeout(now);
        self.has_output = true;
    }

    pub(super) fn poll_transmit(
        &mut self,
        now: Instant,
        max_segments: usize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        let transmit = self.quic.poll_transmit(now, max_segments, buf);
        self.has_output = transmit.is_some();
        self.deadline = self.quic.poll_timeout();
        transmit
    }

    /// Resets every connection, and lets the peer know of each.
    pub(super) fn cut_off(&mut self, actions: &mut VecDeque<Action>) {
        self.bridges.values().for_each(|bridge| bridge.break_off(&mut self.quic, actions));
        self.bridges.clear();
        self.streams.clear();
        self.waiting.clear();
        self.has_output = true;
    }

    /// Cuts everything off and closes the connection.
    pub(super) fn close(&mut self, now: Instant, actions: &mut VecDeque<Action>) {
        self.abort_all(actions);
        self.quic.close(now, VarInt::from_u32(0), Bytes::new());
        self.has_output = true;
        self.deadline = self.quic.poll_timeout();
    }

    /// Takes up a client.
    pub(super) fn accept(&mut self, conn: ConnId, service: &str, actions: &mut VecDeque<Action>) {
        self.bridges.insert(conn, Bridge::of_client(conn, service));
        self.waiting.push_back(conn);
        self.open_waiting(actions);
        self.pump(conn, actions);
    }

    pub(super) fn connected(&mut self, conn: ConnId, actions: &mut VecDeque<Action>) {
        self.with(conn, actions, Bridge::connected);
    }

    pub(super) fn received(&mut self, conn: ConnId, data: &[u8], actions: &mut VecDeque<Action>) {
        self.with(conn, actions, |bridge| bridge.received(data));
    }

    pub(super) fn eof(&mut self, conn: ConnId, actions: &mut VecDeque<Action>) {
        self.with(conn, actions, Bridge::eof);
    }

    pub(super) fn written(&mut self, conn: ConnId, bytes: usize, actions: &mut VecDeque<Action>) {
        self.with(conn, actions, |bridge| bridge.written(bytes));
    }

    /// The TCP connection is dead, and the shell knows.
    pub(super) fn reset(&mut self, conn: ConnId) {
        // An abort would be of a connection that is over.
        self.break_off(conn, &mut VecDeque::new());
    }

    fn with(
        &mut self,
        conn: ConnId,
        actions: &mut VecDeque<Action>,
        change: impl FnOnce(&mut Bridge),
    ) {
        if let Some(bridge) = self.bridges.get_mut(&conn) {
            change(bridge);
            self.pump(conn, actions);
        }
    }

    /// Answers everything that the connection has to say.
    pub(super) fn advance(
        &mut self,
        endpoint: &mut Endpoint,
        mut dialler: Option<&mut Dialler>,
        actions: &mut VecDeque<Action>,
    ) {
        loop {
            // quinn-proto names first the stream that was blocked last. If that one were served before
            // the next is named, it would take all the room and be blocked last again, and others would
            // starve; so they are served together, as quinn's tasks are woken.
            let mut writable = Vec::new();
            while let Some(event) = self.next_event(endpoint) {
                match event {
                    Event::ConnectionLost { reason } => {
                        self.loss = Some(reason);
                        self.abort_all(actions);
                    }
                    Event::Stream(StreamEvent::Writable { id }) => writable.push(id),
                    Event::Stream(event) => {
                        self.handle_stream(event, dialler.as_deref_mut(), actions);
                    }
                    Event::Connected => self.open_waiting(actions),
                    Event::HandshakeDataReady
                    | Event::DatagramReceived
                    | Event::DatagramsUnblocked => {}
                }
            }
            if writable.is_empty() {
                break;
            }
            for id in writable {
                if let Some(&conn) = self.streams.get(&id) {
                    self.pump(conn, actions);
                }
            }
        }
        self.deadline = self.quic.poll_timeout();
    }

    fn next_event(&mut self, endpoint: &mut Endpoint) -> Option<Event> {
        while let Some(event) = self.quic.poll_endpoint_events() {
            if let Some(answer) = endpoint.handle_event(self.handle, event) {
                self.quic.handle_event(answer);
            }
        }
        self.quic.poll()
    }

    fn handle_stream(
        &mut self,
        event: StreamEvent,
        mut dialler: Option<&mut Dialler>,
        actions: &mut VecDeque<Action>,
    ) {
        match event {
            StreamEvent::Opened { dir } => {
                while let Some(id) = self.quic.streams().accept(dir) {
                    self.take_stream(id, dialler.as_deref_mut(), actions);
                }
            }
            StreamEvent::Readable { id } => {
                if let Some(&conn) = self.streams.get(&id) {
                    self.read(conn, dialler, actions);
                }
            }
            // Only a connection that broke stops a stream.
            StreamEvent::Stopped { id, .. } => match self.streams.get(&id) {
                Some(&conn) => self.break_off(conn, actions),
                None => {
                    let _ = self.quic.send_stream(id).reset(VarInt::from_u32(0));
                }
            },
            StreamEvent::Available { .. } => self.open_waiting(actions),
            // `advance` keeps what is writable for the end.
            StreamEvent::Writable { .. } | StreamEvent::Finished { .. } => {}
        }
    }

    /// Opens streams for clients that wait, as far as the peer allows.
    fn open_waiting(&mut self, actions: &mut VecDeque<Action>) {
        while let Some(&conn) = self.waiting.front() {
            if let Some(bridge) = self.bridges.get_mut(&conn) {
                let Some(id) = self.quic.streams().open(Dir::Bi) else { return };
                bridge.stream = Some(id);
                self.streams.insert(id, conn);
                self.pump(conn, actions);
            }
            self.waiting.pop_front();
        }
    }

    fn take_stream(
        &mut self,
        id: StreamId,
        dialler: Option<&mut Dialler>,
        actions: &mut VecDeque<Action>,
    ) {
        let Some(dialler) = dialler.filter(|d| d.accepting) else {
            let _ = self.quic.send_stream(id).reset(VarInt::from_u32(0));
            let _ = self.quic.recv_stream(id).stop(VarInt::from_u32(0));
            return;
        };
        let conn = ConnId::dialled(dialler.numbered);
        dialler.numbered += 1;
        self.bridges.insert(conn, Bridge::of_stream(conn, id));
        self.streams.insert(id, conn);
        self.read(conn, Some(dialler), actions);
    }

    /// Moves bytes both ways as far as they go.
    fn pump(&mut self, conn: ConnId, actions: &mut VecDeque<Action>) {
        if let Some(bridge) = self.bridges.get_mut(&conn) {
            bridge.pump_out(&mut self.quic, actions);
            self.read(conn, None, actions);
        }
    }

    /// Moves bytes from the stream to TCP. Takes no room to write from streams that wait for it.
    fn read(
        &mut self,
        conn: ConnId,
        dialler: Option<&mut Dialler>,
        actions: &mut VecDeque<Action>,
    ) {
        self.has_output = true;
        let Some(bridge) = self.bridges.get_mut(&conn) else { return };
        let progress = match bridge.pump_in(&mut self.quic, actions) {
            Ok(Progress::Named(service)) => dial(bridge, &service, dialler, actions),
            Ok(Progress::None) => Ok(()),
            Err(Broken) => Err(Broken),
        };
        match progress {
            Err(Broken) => self.break_off(conn, actions),
            Ok(()) if bridge.is_done() => self.forget(conn),
            Ok(()) => {}
        }
    }

    fn break_off(&mut self, conn: ConnId, actions: &mut VecDeque<Action>) {
        if let Some(bridge) = self.bridges.get(&conn) {
            bridge.break_off(&mut self.quic, actions);
            self.forget(conn);
            self.has_output = true;
        }
    }

    fn forget(&mut self, conn: ConnId) {
        if let Some(id) = self.bridges.remove(&conn).and_then(|bridge| bridge.stream) {
            self.streams.remove(&id);
        }
    }

    fn abort_all(&mut self, actions: &mut VecDeque<Action>) {
        let doomed = self.bridges.values().filter(|bridge| bridge.can_abort());
        actions.extend(doomed.map(|bridge| Action::Abort { conn: bridge.conn }));
        self.bridges.clear();
        self.streams.clear();
        self.waiting.clear();
    }
}

fn dial(
    bridge: &mut Bridge,
    service: &[u8],
    dialler: Option<&mut Dialler>,
    actions: &mut VecDeque<Action>,
) -> Result<(), Broken> {
    let name = std::str::from_utf8(service).map_err(|_| Broken)?;
    let target = dialler.and_then(|d| d.origins.get(name)).ok_or(Broken)?;
    bridge.dialling();
    actions.push_back(Action::Connect { conn: bridge.conn, target: target.clone() });
    Ok(())
}
