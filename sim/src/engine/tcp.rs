//! TCP connections at hosts: sockets with bounded buffers, and the clients and origins behind them.
//!
//! The network between a client and its host, and between a host and its origin, takes no time.

use std::time::Duration;

use bytes::{Buf, Bytes};
use entrouter_proto::{Action, ConnId, TcpEvent};

use super::host::Socket;
use super::queue::Event;
use super::{Engine, HostId, MAX_TURNS};
use crate::time::Time;
use crate::traffic::{Arrivals, Deal, End, NAME_LEN, Side, mix};

/// What a socket buffers in each direction, in bytes.
const BUFFER: u64 = 64 * 1024;
/// Bytes given to a core at once.
const READ: usize = 64 * 1024;
/// Bytes that a core may have written to a socket that does not take them.
const MAX_WRITE_AHEAD: usize = 1 << 20;
/// Bytes that a core may ask to be given before it got any.
const MAX_GRANT: usize = 1 << 20;
/// After so long, others know of a host's new life.
const TO_BE_KNOWN: Duration = Duration::from_secs(10);
/// A host finds out after so long that the edge which it was connected to begins anew.
const TO_BE_FOUND: Duration = Duration::from_secs(35);
/// A host that ends in order lets connections go on for so long, and resets the rest.
const TO_DRAIN: Duration = Duration::from_secs(10);
/// Between two reads of an application that reads slowly.
const TURN: Duration = Duration::from_millis(10);

impl Engine {
    /// A client connects.
    pub(super) fn open(&mut self, nth: usize) {
        let stage = &mut self.workloads[nth];
        let (from, to) = (stage.workload.from, stage.workload.to);
        let name = self.deals.len() as u64;
        let key = mix(self.seed.get() ^ mix(name));
        let mut deal = Deal::new(self.now, name, key, nth, stage.workload.plan);
        stage.opened += 1;
        stage.meter.opened(self.now);
        if let Arrivals::Every { gap, until } = stage.workload.arrivals {
            let next = self.now + gap;
            if next < Time::ZERO + until {
                self.queue.put(next, Event::Open(nth));
                self.open += 1;
            }
        }
        let target = stage.workload.target();
        let refuses = self.hosts[to.0].origins.get(&target).is_some_and(|o| o.refuses);
        deal.excuse = match self.excuse {
            _ if refuses => Some("the origin refuses"),
            _ if self.hosts[to.0].draining.is_some() => Some("the exit is draining"),
            _ if self.hosts[to.0].core.is_none() => Some("the exit is down"),
            _ if self.is_unknown(to) => Some("the exit was started just before"),
            _ if self.is_edge_away(from) => Some("the edge was away just before"),
            excuse => excuse,
        };
        let dest = self.hosts[to.0].name.clone();
        let service = &self.workloads[nth].workload.name;
        let host = &mut self.hosts[from.0];
        let listener = host.core.as_ref().and_then(|core| core.listener(&dest, service));
        let Some(listener) = listener else {
            // Nothing listens there now: the connection is refused at once.
            deal.excuse = Some("the entry is down");
            deal.client = End::Over;
            self.deals.push(deal);
            self.count(name as usize);
            return;
        };
        let conn = ConnId::accepted(host.accepted);
        host.accepted += 1;
        if host.draining.is_some() {
            deal.excuse = Some("the entry is draining");
        }
        deal.client = End::Open(from, conn);
        self.deals.push(deal);
        let socket = Socket::new(Side::Client, Some(name as usize), String::new());
        host.sockets.insert(conn, socket);
        self.trace.record(self.now, &host.name, "client", &[name], service);
        let remote = ([192, 0, 2, 1], 1024 + (name % 60_000) as u16).into();
        let local = ([192, 0, 2, 2], 443).into();
        self.tell(from, TcpEvent::Accepted { conn, listener, remote, local });
        self.progress(from, conn);
        self.settle(from);
    }

    /// Others may still take the host for its former life, and bind a connection to that.
    fn is_unknown(&self, id: HostId) -> bool {
        let host = &self.hosts[id.0];
        host.life > 1 && self.now.since(host.born) < TO_BE_KNOWN
    }

    /// The PoP at whose edge the connections of that host enter is not there, or not known to be there.
    fn is_edge_away(&self, id: HostId) -> bool {
        let Some(edge) = self.hosts[id.0].edge else { return false };
        let host = &self.hosts[edge.0];
        host.core.is_none()
            || host.draining.is_some()
            || (host.life > 1 && self.now.since(host.born) < TO_BE_FOUND)
    }

    /// A client issues its next request.
    pub(super) fn ask(&mut self, deal: usize) {
        let now = self.now;
        self.deals[deal].ask(now);
        self.act_as(deal, Side::Client);
    }

    /// A sender that sends for a time has sent long enough.
    pub(super) fn stop(&mut self, deal: usize) {
        self.deals[deal].stop();
        self.act_as(deal, Side::Client);
        self.act_as(deal, Side::Origin);
    }

    fn act_as(&mut self, deal: usize, side: Side) {
        if let End::Open(host, conn) = *self.deals[deal].end(side) {
            self.progress(host, conn);
            self.settle(host);
        }
    }

    fn tell(&mut self, id: HostId, event: TcpEvent<'_>) {
        let now = self.instant();
        if let Some(core) = &mut self.hosts[id.0].core {
            core.handle_tcp(now, event);
        }
    }

    /// Carries out what the host's core asks for, and gives it what its sockets have. True if there
    /// was anything.
    pub(super) fn act_all(&mut self, id: HostId) -> bool {
        for done in 0..MAX_TURNS {
            if let Some(action) = self.hosts[id.0].core.as_mut().and_then(|c| c.poll_action()) {
                self.act(id, action);
            } else if let Some(conn) = self.hosts[id.0].ready.pop_front() {
                self.feed(id, conn);
            } else {
                return done > 0;
            }
        }
        self.condemn(id, "has always more to ask for");
        true
    }

    fn act(&mut self, id: HostId, action: Action) {
        match action {
            Action::Connect { conn, target } => {
                self.note(id, "connect", 0, "");
                let host = &mut self.hosts[id.0];
                if host.sockets.contains_key(&conn)
                    || host.dialling.insert(conn, target.to_string()).is_some()
                {
                    self.violate(&format!("{conn:?} was dialled twice"));
                }
                self.count_dial(id, conn);
                self.queue.put(self.now, Event::Dialled(id, conn));
            }
            Action::Write { conn, data } => {
                self.note(id, "write", data.len(), "");
                self.write(id, conn, data);
            }
            Action::GrantRead { conn, bytes } => {
                self.note(id, "grant", bytes, "");
                let Some(socket) = self.socket(id, conn, "a grant") else { return };
                socket.granted += bytes;
                if socket.granted > MAX_GRANT {
                    self.violate(&format!("{conn:?} was granted more than {MAX_GRANT} bytes"));
                }
                self.hosts[id.0].ready.push_back(conn);
            }
            Action::Shutdown { conn } => {
                self.note(id, "shutdown", 0, "");
                let Some(socket) = self.socket(id, conn, "a shutdown") else { return };
                let twice = std::mem::replace(&mut socket.shutdown, true);
                if twice {
                    self.violate(&format!("{conn:?} was shut down twice"));
                }
                self.drain_writes(id, conn);
            }
            Action::Abort { conn } => {
                self.note(id, "abort", 0, "");
                if self.hosts[id.0].dialling.remove(&conn).is_none()
                    && self.socket(id, conn, "an abort").is_some()
                {
                    self.close(id, conn);
                }
            }
            // The engine's hosts have literal addresses.
            Action::Resolve { peer, target } => {
                let now = self.instant();
                let addrs: Vec<_> = target.literal().into_iter().collect();
                if let Some(core) = &mut self.hosts[id.0].core {
                    core.handle_resolved(now, peer, &addrs);
                }
            }
            Action::StopAccepting => self.note(id, "stop accepting", 0, ""),
            Action::Drained => self.drained(id),
        }
    }

    /// Each client is dialled for once. Where an origin refuses, nothing else would show a second time.
    fn count_dial(&mut self, id: HostId, conn: ConnId) {
        let host = &self.hosts[id.0];
        let origin = host.dialling.get(&conn).and_then(|target| host.origins.get(target));
        let Some(stage) = origin.map(|origin| &mut self.workloads[origin.workload]) else { return };
        stage.dialled += 1;
        if stage.dialled > stage.opened {
            let (dials, clients) = (stage.dialled, stage.opened);
            let name = stage.workload.name.clone();
            self.violate(&format!("{name}: dialled {dials} times for {clients} clients"));
        }
    }

    fn note(&mut self, id: HostId, what: &str, bytes: usize, note: &str) {
        self.trace.record(self.now, &self.hosts[id.0].name, what, &[bytes as u64], note);
    }

    /// The socket that an action is about. There must be one: an action for a connection that is
    /// over is a violation.
    fn socket(&mut self, id: HostId, conn: ConnId, what: &str) -> Option<&mut Socket> {
        if !self.hosts[id.0].sockets.contains_key(&conn) {
            let name = &self.hosts[id.0].name;
            let what = format!("{name} asked for {what} of {conn:?}, which is not open");
            self.violate(&what);
            return None;
        }
        self.hosts[id.0].sockets.get_mut(&conn)
    }

    /// The result of a dial.
    pub(super) fn dialled(&mut self, id: HostId, conn: ConnId) {
        let host = &mut self.hosts[id.0];
        let Some(target) = host.dialling.remove(&conn) else { return };
        match host.origins.get(&target) {
            Some(origin) if !origin.refuses => {
                host.sockets.insert(conn, Socket::new(Side::Origin, None, target));
                self.note(id, "connected", 0, "");
                self.tell(id, TcpEvent::Connected { conn });
            }
            Some(_) => {
                self.note(id, "refused", 0, "");
                self.tell(id, TcpEvent::ConnectFailed { conn });
            }
            None => {
                let what = format!("{} dialled {target}, which no one configured", host.name);
                self.violate(&what);
                self.tell(id, TcpEvent::ConnectFailed { conn });
            }
        }
        self.settle(id);
    }

    fn write(&mut self, id: HostId, conn: ConnId, data: Bytes) {
        let Some(socket) = self.socket(id, conn, "a write") else { return };
        socket.queued += data.len();
        socket.queue.push_back(data);
        let (late, ahead) = (socket.shutdown, socket.queued > MAX_WRITE_AHEAD);
        if late {
            self.violate(&format!("{conn:?} was written to after its shutdown"));
        }
        if ahead {
            self.violate(&format!("{conn:?} was written more than it takes"));
        }
        self.drain_writes(id, conn);
    }

    /// The socket takes what its buffer has room for, and the end if nothing else is left.
    fn drain_writes(&mut self, id: HostId, conn: ConnId) {
        let mut written = 0;
        loop {
            let Some(socket) = self.hosts[id.0].sockets.get_mut(&conn) else { return };
            let room = BUFFER.saturating_sub(socket.unread) as usize;
            let Some(front) = socket.queue.front_mut().filter(|_| room > 0) else { break };
            let part = front.split_to(room.min(front.len()));
            if !front.has_remaining() {
                socket.queue.pop_front();
            }
            socket.queued -= part.len();
            written += part.len();
            self.hear(id, conn, &part);
        }
        if written > 0 {
            self.tell(id, TcpEvent::Written { conn, bytes: written });
        }
        let Some(socket) = self.hosts[id.0].sockets.get_mut(&conn) else { return };
        if socket.shutdown && !socket.shut && socket.queue.is_empty() {
            socket.shut = true;
            self.hear_end(id, conn);
        }
        if self.hosts[id.0].sockets.contains_key(&conn) {
            self.progress(id, conn);
            self.close_if_over(id, conn);
        }
    }

    /// Bytes arrived at an application; compares each.
    fn hear(&mut self, id: HostId, conn: ConnId, mut bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let deal = self.hosts[id.0].sockets.get(&conn).and_then(|socket| socket.deal);
        let Some(deal) = deal.or_else(|| self.claim(id, conn, &mut bytes)) else { return };
        let Some(socket) = self.hosts[id.0].sockets.get_mut(&conn) else { return };
        let side = socket.side;
        let name = std::mem::take(&mut socket.name);
        self.deliver(deal, side, &name);
        self.deliver(deal, side, bytes);
        let habits = match side {
            Side::Client => self.deals[deal].plan.client,
            Side::Origin => self.deals[deal].plan.origin,
        };
        if habits.reads_per_second.is_some()
            && let Some(socket) = self.hosts[id.0].sockets.get_mut(&conn)
        {
            socket.unread += (bytes.len() + name.len()) as u64;
            if !std::mem::replace(&mut socket.turn_set, true) {
                let turn = habits.reads_every.unwrap_or(TURN);
                self.queue.put(self.now + turn, Event::Read(id, conn));
            }
        }
        self.break_off(id, conn);
    }

    /// Breaks the connection off if its application wants to by now.
    fn break_off(&mut self, id: HostId, conn: ConnId) -> bool {
        let Some(socket) = self.hosts[id.0].sockets.get(&conn) else { return true };
        let Some(nth) = socket.deal else { return false };
        let breaks = self.deals[nth].breaks_off(socket.side, socket.taken);
        if breaks {
            self.deals[nth].excuse.get_or_insert("the application resets");
            self.reset(id, conn);
        }
        breaks
    }

    /// An origin knows its client by the first bytes. `None` while they are not all there.
    fn claim(&mut self, id: HostId, conn: ConnId, bytes: &mut &[u8]) -> Option<usize> {
        let host = &mut self.hosts[id.0];
        let socket = host.sockets.get_mut(&conn)?;
        let missing = (NAME_LEN as usize - socket.name.len()).min(bytes.len());
        let (name, rest) = bytes.split_at(missing);
        socket.name.extend_from_slice(name);
        *bytes = rest;
        let name = u64::from_be_bytes(socket.name.as_slice().try_into().ok()?);
        let service = host.origins.get(&socket.target).map(|origin| origin.workload);
        let deal = usize::try_from(name).ok().filter(|nth| *nth < self.deals.len());
        let known = deal.filter(|nth| Some(self.deals[*nth].workload) == service);
        let Some(nth) = known else {
            let what = format!("{}: {conn:?} begins with bytes of no client of it", host.name);
            self.violate(&what);
            self.reset(id, conn);
            return None;
        };
        socket.deal = Some(nth);
        if self.deals[nth].origin == End::Unknown {
            self.deals[nth].origin = End::Open(id, conn);
        } else {
            self.violate(&format!("the request of client {nth} was run twice"));
            self.reset(id, conn);
            return None;
        }
        Some(nth)
    }

    fn deliver(&mut self, nth: usize, side: Side, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let deal = &mut self.deals[nth];
        let stream = deal.received_by(side);
        let at = stream.delivered;
        let differs = stream.pattern.differs(at, bytes, &mut self.buffers.expected);
        let beyond = at + bytes.len() as u64 > stream.written;
        let after_end = stream.ended;
        let waited = stream.deliver(self.now, bytes.len() as u64);
        let up = side == Side::Origin;
        let meter = &mut self.workloads[deal.workload].meter;
        meter.delivered(self.now, up, bytes.len() as u64, waited);
        self.trace.plaintext(bytes);
        if side == Side::Client {
            while let Some(took) = deal.next_answered(self.now) {
                meter.exchanged(took);
            }
            if let Some(pause) = deal.pause() {
                self.queue.put(self.now + pause, Event::Ask(nth));
            }
        }
        let way = if up { "to the origin" } else { "to the client" };
        if let Some(offset) = differs {
            let at = at + offset as u64;
            self.violate(&format!(
                "connection {nth} {way}: byte {at} is not the one that was sent"
            ));
        } else if beyond {
            self.violate(&format!("connection {nth} {way}: bytes that were not sent yet"));
        } else if after_end {
            self.violate(&format!("connection {nth} {way}: bytes after the end"));
        }
    }

    fn hear_end(&mut self, id: HostId, conn: ConnId) {
        let Some(socket) = self.hosts[id.0].sockets.get(&conn) else { return };
        let Some(nth) = socket.deal else {
            self.violate(&format!("{conn:?}: a clean end before the first bytes"));
            return;
        };
        let stream = self.deals[nth].received_by(socket.side);
        stream.ended = true;
        if !stream.closed || stream.delivered != stream.written {
            let (had, of) = (stream.delivered, stream.written);
            let open = if stream.closed { "" } else { " so far" };
            self.violate(&format!("connection {nth}: a clean end after {had} of {of} bytes{open}"));
        }
    }

    /// An application that reads slowly takes its share.
    pub(super) fn read_slowly(&mut self, id: HostId, conn: ConnId) {
        let Some(socket) = self.hosts[id.0].sockets.get_mut(&conn) else { return };
        let Some(nth) = socket.deal else { return };
        let plan = &self.deals[nth].plan;
        let habits = if socket.side == Side::Client { plan.client } else { plan.origin };
        let turn = habits.reads_every.unwrap_or(TURN);
        let rate = u128::from(habits.reads_per_second.unwrap_or(u64::MAX));
        let share = u64::try_from(rate * turn.as_micros() / 1_000_000).unwrap_or(u64::MAX);
        socket.unread = socket.unread.saturating_sub(share.max(1));
        socket.turn_set = socket.unread > 0;
        if socket.turn_set {
            self.queue.put(self.now + turn, Event::Read(id, conn));
        }
        self.drain_writes(id, conn);
        self.settle(id);
    }

    /// The application at that socket does what it can do now.
    fn progress(&mut self, id: HostId, conn: ConnId) {
        let Some(socket) = self.hosts[id.0].sockets.get(&conn) else { return };
        let Some(nth) = socket.deal else { return };
        let deal = &mut self.deals[nth];
        if deal.write(self.now, socket.side, socket.taken, BUFFER) {
            self.hosts[id.0].ready.push_back(conn);
        }
        if let Some(after) = deal.stop_after() {
            self.queue.put(self.now + after, Event::Stop(nth));
        }
    }

    /// Gives the core what it may read of a socket.
    fn feed(&mut self, id: HostId, conn: ConnId) {
        let now = self.instant();
        let Some(socket) = self.hosts[id.0].sockets.get_mut(&conn) else { return };
        let Some(nth) = socket.deal else { return };
        let stream = self.deals[nth].sent_by(socket.side);
        let waiting = usize::try_from(stream.written - socket.taken).unwrap_or(usize::MAX);
        let len = waiting.min(socket.granted).min(READ);
        if len > 0 {
            let mut payload = std::mem::take(&mut self.buffers.payload);
            payload.clear();
            stream.pattern.append(socket.taken, len, &mut payload);
            socket.granted -= len;
            socket.taken += len as u64;
            let more = if waiting > len { socket.granted > 0 } else { stream.closed };
            if let Some(core) = &mut self.hosts[id.0].core {
                core.handle_tcp(now, TcpEvent::Received { conn, data: &payload });
            }
            self.buffers.payload = payload;
            self.note(id, "read", len, "");
            if self.break_off(id, conn) {
                return;
            }
            if more {
                self.hosts[id.0].ready.push_back(conn);
            }
            self.progress(id, conn);
            return;
        }
        if stream.closed && waiting == 0 && !socket.eof_told {
            socket.eof_told = true;
            self.note(id, "eof", 0, "");
            self.tell(id, TcpEvent::Eof { conn });
            self.close_if_over(id, conn);
        }
    }

    fn close_if_over(&mut self, id: HostId, conn: ConnId) {
        let over = self.hosts[id.0].sockets.get(&conn).is_some_and(|s| s.eof_told && s.shut);
        if over {
            self.close(id, conn);
        }
    }

    /// The application, or whatever happens to it, breaks the connection off.
    pub(super) fn reset(&mut self, id: HostId, conn: ConnId) {
        if self.hosts[id.0].sockets.contains_key(&conn) {
            self.note(id, "reset", 0, "");
            self.tell(id, TcpEvent::Reset { conn });
            self.close(id, conn);
        }
    }

    /// A socket is gone.
    pub(super) fn close(&mut self, id: HostId, conn: ConnId) {
        let Some(socket) = self.hosts[id.0].sockets.remove(&conn) else { return };
        if let Some(nth) = socket.deal {
            *self.deals[nth].end(socket.side) = End::Over;
            self.count(nth);
        }
    }

    /// Counts a connection once it is over.
    fn count(&mut self, nth: usize) {
        let deal = &mut self.deals[nth];
        if !deal.is_over() || deal.counted {
            return;
        }
        deal.counted = true;
        self.open -= 1;
        let meter = &mut self.workloads[deal.workload].meter;
        if deal.is_complete() {
            meter.completed += 1;
            return;
        }
        meter.reset += 1;
        let deal = &self.deals[nth];
        let workload = &self.workloads[deal.workload].workload;
        let overdue = |host: HostId| {
            let since = self.hosts[host.0].draining;
            since.is_some_and(|since| self.now.since(since) >= TO_DRAIN)
        };
        let edge = self.hosts[workload.from.0].edge.unwrap_or(workload.from);
        let ends = [workload.from, edge, workload.to];
        if deal.excuse.is_none() && !ends.into_iter().any(overdue) {
            let (up, down) = (&deal.up, &deal.down);
            let what = format!(
                "connection {nth} was reset without a cause, after {} of {} bytes to the origin \
                 and {} of {} to the client",
                up.delivered, up.written, down.delivered, down.written
            );
            self.violate(&what);
        }
    }
}
