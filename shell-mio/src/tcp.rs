//! The TCP side of the loop: listeners, dials, connections, and who of them is next.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Instant;

use bytes::Bytes;
use entrouter_host::accept::{ACCEPTS, Client, Gate};
use entrouter_host::conn::{Conn, READ_BUFFER, Readiness, Step};
use entrouter_host::core::Core;
use entrouter_host::dial::{Dial, Progress};
use entrouter_host::names::Names;
use entrouter_host::pace::WRITES;
use entrouter_host::resolve::Answer;
use entrouter_proto::config::HostPort;
use entrouter_proto::{ConnId, ListenerId, TcpEvent};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use slab::Slab;

use crate::event_loop::{FIRST_CONN, FIRST_LISTENER};

/// Connections read from in a turn of the loop, once each.
const READS: usize = 64;

#[derive(Debug)]
pub(crate) struct Tcp {
    registry: Registry,
    listeners: Vec<Listener>,
    /// The token of a connection is [`FIRST_CONN`] plus its place here. A place may be taken anew
    /// within a turn; an event for its former tenant is then only a hint that proves false.
    slots: Slab<Slot>,
    places: HashMap<ConnId, usize>,
    /// Ends of dialling attempts.
    deadlines: BTreeSet<(Instant, ConnId)>,
    /// Places of connections that have something to read, or to write; some may be out of date.
    readers: VecDeque<usize>,
    writers: VecDeque<usize>,
    buf: Box<[u8]>,
    gate: Gate,
}

#[derive(Debug)]
struct Listener {
    socket: TcpListener,
    /// May have connections: cleared only by `WouldBlock`.
    ready: bool,
}

#[derive(Debug)]
enum Slot {
    Dial {
        dial: Dial,
        /// Which end of an attempt stands among the loop's deadlines.
        watched: Option<Instant>,
    },
    Open {
        conn: Conn,
        /// Whether it stands in the queue of readers, and of writers.
        reads: bool,
        writes: bool,
    },
}

impl Slot {
    fn open(conn: Conn) -> Self {
        Self::Open { conn, reads: false, writes: false }
    }
}

impl Tcp {
    pub(crate) fn new(listeners: Vec<TcpListener>, registry: Registry) -> io::Result<Self> {
        let listeners = listeners.into_iter().enumerate().map(|(n, socket)| {
            let (fd, token) = (socket.as_raw_fd(), Token(FIRST_LISTENER + n));
            registry.register(&mut SourceFd(&fd), token, Interest::READABLE)?;
            Ok(Listener { socket, ready: false })
        });
        Ok(Self {
            listeners: listeners.collect::<io::Result<_>>()?,
            registry,
            slots: Slab::new(),
            places: HashMap::new(),
            deadlines: BTreeSet::new(),
            readers: VecDeque::new(),
            writers: VecDeque::new(),
            buf: vec![0; READ_BUFFER].into_boxed_slice(),
            gate: Gate::default(),
        })
    }

    /// The poll reported something about a token from [`FIRST_LISTENER`] on.
    pub(crate) fn ready(
        &mut self,
        event: &mio::event::Event,
        core: &mut Core,
        names: &mut Names,
        now: Instant,
    ) {
        let token = event.token();
        let Some(place) = token.0.checked_sub(FIRST_CONN) else {
            if let Some(listener) = self.listeners.get_mut(token.0 - FIRST_LISTENER) {
                listener.ready = true;
            }
            return;
        };
        if let Some(Slot::Dial { dial, .. }) = self.slots.get_mut(place) {
            let progress = dial.ready(now);
            self.dialled(place, progress, core, names, now);
        }
        // Also after a dial: the same event may tell of first bytes, or even of the end, and there
        // is no other.
        if let Some(Slot::Open { conn, .. }) = self.slots.get_mut(place) {
            let step = conn.ready(readiness(event), core, now);
            self.after(place, step);
        }
    }

    /// Accepts and reads what a turn allows.
    pub(crate) fn receive(&mut self, core: &mut Core, now: Instant) {
        self.accept(core, now);
        for _ in 0..self.readers.len().min(READS) {
            let Some(place) = self.readers.pop_front() else { break };
            if let Some(Slot::Open { conn, reads, .. }) = self.slots.get_mut(place) {
                *reads = false;
                let step = conn.read(&mut self.buf, core, now);
                self.after(place, step);
            }
        }
    }

    /// Writes what a turn allows.
    pub(crate) fn flush(&mut self, core: &mut Core, now: Instant) {
        for _ in 0..self.writers.len().min(WRITES) {
            let Some(place) = self.writers.pop_front() else { break };
            if let Some(Slot::Open { conn, writes, .. }) = self.slots.get_mut(place) {
                *writes = false;
                let step = conn.flush(core, now);
                self.after(place, step);
            }
        }
    }

    /// Whether there is work that no event will announce.
    pub(crate) fn has_work(&self) -> bool {
        let closed = self.gate.closed_until().is_some();
        let accepting = !closed && self.listeners.iter().any(|l| l.ready);
        accepting || !self.readers.is_empty() || !self.writers.is_empty()
    }

    /// When [`Self::expire`] is to be called.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let dial = self.deadlines.first().map(|(at, _)| *at);
        dial.into_iter().chain(self.gate.closed_until()).min()
    }

    /// Ends what took too long.
    pub(crate) fn expire(&mut self, core: &mut Core, names: &mut Names, now: Instant) {
        self.gate.is_open(now);
        while let Some(&(at, id)) = self.deadlines.first() {
            if at > now {
                break;
            }
            self.deadlines.pop_first();
            self.with_dial(id, core, names, now, |dial| dial.next(now));
        }
    }

    /// Goes on with a dial whose name is resolved.
    pub(crate) fn resolved(
        &mut self,
        id: ConnId,
        answer: Answer,
        core: &mut Core,
        names: &mut Names,
        now: Instant,
    ) {
        self.with_dial(id, core, names, now, |dial| dial.start(answer, now));
    }

    /// [`Action::Connect`](entrouter_proto::Action::Connect).
    pub(crate) fn connect(
        &mut self,
        id: ConnId,
        target: HostPort,
        core: &mut Core,
        names: &mut Names,
        now: Instant,
    ) {
        let known = names.resolve_origin(id, &target);
        let dial = Dial::new(id, target, now);
        let place = self.slots.insert(Slot::Dial { dial, watched: None });
        self.places.insert(id, place);
        self.with_dial(id, core, names, now, |dial| match known {
            Some(answer) => dial.start(answer, now),
            None => Progress::Waiting,
        });
    }

    /// [`Action::Write`](entrouter_proto::Action::Write).
    pub(crate) fn write(&mut self, id: ConnId, data: Bytes) {
        self.with(id, |conn| conn.write(data));
    }

    /// [`Action::GrantRead`](entrouter_proto::Action::GrantRead).
    pub(crate) fn grant(&mut self, id: ConnId, bytes: usize) {
        self.with(id, |conn| conn.grant(bytes));
    }

    /// [`Action::Shutdown`](entrouter_proto::Action::Shutdown).
    pub(crate) fn shutdown(&mut self, id: ConnId) {
        self.with(id, Conn::shutdown);
    }

    /// [`Action::Abort`](entrouter_proto::Action::Abort). Closing resets, because
    /// `SO_LINGER` is 0 until a connection has ended well.
    pub(crate) fn abort(&mut self, id: ConnId) {
        if let Some(&place) = self.places.get(&id) {
            self.remove(place);
        }
    }

    /// [`Action::StopAccepting`](entrouter_proto::Action::StopAccepting).
    pub(crate) fn stop_accepting(&mut self) {
        for listener in self.listeners.drain(..) {
            let _ = self.registry.deregister(&mut SourceFd(&listener.socket.as_raw_fd()));
        }
        self.gate.open();
    }

    fn with(&mut self, id: ConnId, change: impl FnOnce(&mut Conn)) {
        // Else the connection ended before the core could know.
        let Some(&place) = self.places.get(&id) else { return };
        if let Some(Slot::Open { conn, .. }) = self.slots.get_mut(place) {
            change(conn);
            self.after(place, Step::Idle);
        }
    }

    fn with_dial(
        &mut self,
        id: ConnId,
        core: &mut Core,
        names: &mut Names,
        now: Instant,
        change: impl FnOnce(&mut Dial) -> Progress,
    ) {
        // Else it was aborted, or took too long.
        let Some(&place) = self.places.get(&id) else { return };
        if let Some(Slot::Dial { dial, .. }) = self.slots.get_mut(place) {
            let progress = change(dial);
            self.dialled(place, progress, core, names, now);
        }
    }

    /// After anything happened to a connection: who is over leaves, who has work queues up.
    fn after(&mut self, place: usize, step: Step) {
        if step == Step::Over {
            self.remove(place);
            return;
        }
        let Some(Slot::Open { conn, reads, writes }) = self.slots.get_mut(place) else { return };
        if conn.wants_read() && !std::mem::replace(reads, true) {
            self.readers.push_back(place);
        }
        if conn.wants_write() && !std::mem::replace(writes, true) {
            self.writers.push_back(place);
        }
    }

    /// After anything happened to a dial.
    fn dialled(
        &mut self,
        place: usize,
        mut progress: Progress,
        core: &mut Core,
        names: &mut Names,
        now: Instant,
    ) {
        let Some(Slot::Dial { dial, watched }) = self.slots.get_mut(place) else { return };
        let id = dial.id;
        while let Progress::Attempt(stream) = progress {
            progress = match watch(&self.registry, place, &stream) {
                Ok(()) => Progress::Waiting,
                Err(e) => dial.give_up(e, now),
            };
        }
        if let Some(before) = watched.take() {
            self.deadlines.remove(&(before, id));
        }
        match progress {
            Progress::Waiting | Progress::Attempt(_) => {
                *watched = Some(dial.ends());
                self.deadlines.insert((dial.ends(), id));
            }
            Progress::Connected(stream) => {
                if let Some(slot) = self.slots.get_mut(place) {
                    *slot = Slot::open(Conn::new(id, stream));
                }
                core.handle_tcp(now, TcpEvent::Connected { conn: id });
            }
            Progress::Failed(e) => {
                names.unreachable(id, &dial.target, &e, core, now);
                self.remove(place);
            }
        }
    }

    fn remove(&mut self, place: usize) {
        let Some(slot) = self.slots.try_remove(place) else { return };
        // A descriptor is free again.
        self.gate.open();
        match slot {
            // Closing a socket ends its being watched, too.
            Slot::Open { conn, .. } => {
                self.places.remove(&conn.id());
            }
            Slot::Dial { dial, watched } => {
                self.places.remove(&dial.id);
                if let Some(watched) = watched {
                    self.deadlines.remove(&(watched, dial.id));
                }
            }
        }
    }

    fn accept(&mut self, core: &mut Core, now: Instant) {
        for n in 0..self.listeners.len() {
            for _ in 0..ACCEPTS {
                let listener = &mut self.listeners[n];
                if !listener.ready || !self.gate.is_open(now) {
                    break;
                }
                match self.gate.accept(&listener.socket, now) {
                    Ok(Client { stream, remote, local }) => {
                        let place = self.slots.vacant_key();
                        if let Err(e) = watch(&self.registry, place, &stream) {
                            self.gate.close(now, &e);
                            continue;
                        }
                        let (conn, listener) = (self.gate.admit(), ListenerId(n));
                        self.slots.insert(Slot::open(Conn::new(conn, stream)));
                        self.places.insert(conn, place);
                        core.handle_tcp(now, TcpEvent::Accepted { conn, listener, remote, local });
                    }
                    Err(e) => listener.ready = e.kind() != io::ErrorKind::WouldBlock,
                }
            }
        }
    }
}

/// Lets the poll report on a connection.
fn watch(registry: &Registry, place: usize, stream: &TcpStream) -> io::Result<()> {
    let both = Interest::READABLE | Interest::WRITABLE;
    registry.register(&mut SourceFd(&stream.as_raw_fd()), Token(FIRST_CONN + place), both)
}

fn readiness(event: &mio::event::Event) -> Readiness {
    Readiness {
        readable: event.is_readable(),
        writable: event.is_writable(),
        end: event.is_read_closed(),
        broken: event.is_error() || event.is_write_closed(),
    }
}
