//! The TCP side of the loop: listeners, dials, connections, and who of them is next.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;
use entrouter_host::Wake;
use entrouter_host::ratelimit::{RateLimit, Suppressed};
use entrouter_host::resolve::{Answer, Resolver};
use entrouter_host::sockets::canonical;
use entrouter_proto::config::HostPort;
use entrouter_proto::{ConnId, ListenerId, Node, PeerId, TcpEvent};
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use slab::Slab;
use tracing::{debug, warn};

use crate::conn::{Conn, Step};
use crate::dial::{Dial, Progress};
use crate::event_loop::{FIRST_CONN, FIRST_LISTENER};

/// Connections accepted per listener in a turn of the loop.
const ACCEPTS: usize = 32;

/// Connections read from in a turn of the loop, once each.
const READS: usize = 64;

/// Connections written to in a turn of the loop.
const WRITES: usize = 256;

/// Read at once from one connection.
const READ_BUFFER: usize = 64 << 10;

/// How long nothing is accepted after file descriptors ran out, unless a connection ends.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct Tcp {
    registry: Registry,
    listeners: Vec<Listener>,
    /// The token of a connection is [`FIRST_CONN`] plus its place here. A place may be taken anew
    /// within a turn; an event for its former tenant is then only a hint that proves false.
    slots: Slab<Slot>,
    places: HashMap<ConnId, usize>,
    accepted: u64,
    resolver: Resolver<Ask>,
    /// The relay socket is IPv4, so peers have no other addresses.
    ipv4_peers: bool,
    /// Ends of dialling attempts.
    deadlines: BTreeSet<(Instant, ConnId)>,
    /// Places of connections that have something to read, or to write; some may be out of date.
    readers: VecDeque<usize>,
    writers: VecDeque<usize>,
    buf: Box<[u8]>,
    paused_until: Option<Instant>,
    complaints: RateLimit<String>,
}

#[derive(Debug)]
struct Listener {
    socket: TcpListener,
    /// May have connections: cleared only by `WouldBlock`.
    ready: bool,
}

#[derive(Debug)]
enum Slot {
    Dial(Dial),
    Open(Conn),
}

/// For whom a name is resolved.
#[derive(Debug, Clone, Copy)]
enum Ask {
    Dial(ConnId),
    Peer(PeerId),
}

impl Tcp {
    pub(crate) fn new(
        listeners: Vec<std::net::TcpListener>,
        wake: Wake,
        registry: Registry,
        ipv4_peers: bool,
    ) -> io::Result<Self> {
        let listeners = listeners.into_iter().enumerate().map(|(n, listener)| {
            let mut socket = TcpListener::from_std(listener);
            registry.register(&mut socket, Token(FIRST_LISTENER + n), Interest::READABLE)?;
            Ok(Listener { socket, ready: false })
        });
        Ok(Self {
            listeners: listeners.collect::<io::Result<_>>()?,
            registry,
            slots: Slab::new(),
            places: HashMap::new(),
            accepted: 0,
            resolver: Resolver::system(wake)?,
            ipv4_peers,
            deadlines: BTreeSet::new(),
            readers: VecDeque::new(),
            writers: VecDeque::new(),
            buf: vec![0; READ_BUFFER].into_boxed_slice(),
            paused_until: None,
            complaints: RateLimit::new(Duration::from_secs(10)),
        })
    }

    /// The poll reported something about a token from [`FIRST_LISTENER`] on.
    pub(crate) fn ready(&mut self, event: &mio::event::Event, node: &mut Node, now: Instant) {
        let token = event.token();
        let Some(place) = token.0.checked_sub(FIRST_CONN) else {
            if let Some(listener) = self.listeners.get_mut(token.0 - FIRST_LISTENER) {
                listener.ready = true;
            }
            return;
        };
        match self.slots.get_mut(place) {
            Some(Slot::Open(conn)) => {
                let step = conn.ready(event, node, now);
                self.after(place, step);
            }
            Some(Slot::Dial(dial)) => {
                let progress = dial.ready(now, &self.registry, token);
                self.dialled(place, progress, node, now);
                // The same event may tell of first bytes, or even of the end: there is no other.
                if let Some(Slot::Open(conn)) = self.slots.get_mut(place) {
                    let step = conn.ready(event, node, now);
                    self.after(place, step);
                }
            }
            None => {}
        }
    }

    /// Accepts and reads what a turn allows.
    pub(crate) fn receive(&mut self, node: &mut Node, now: Instant) {
        self.accept(node, now);
        for _ in 0..self.readers.len().min(READS) {
            let Some(place) = self.readers.pop_front() else { break };
            if let Some(Slot::Open(conn)) = self.slots.get_mut(place) {
                conn.queued.read = false;
                let step = conn.read(&mut self.buf, node, now);
                self.after(place, step);
            }
        }
    }

    /// Writes what a turn allows.
    pub(crate) fn flush(&mut self, node: &mut Node, now: Instant) {
        for _ in 0..self.writers.len().min(WRITES) {
            let Some(place) = self.writers.pop_front() else { break };
            if let Some(Slot::Open(conn)) = self.slots.get_mut(place) {
                conn.queued.write = false;
                let step = conn.flush(node, now);
                self.after(place, step);
            }
        }
    }

    /// Whether there is work that no event will announce.
    pub(crate) fn has_work(&self) -> bool {
        let accepting = self.paused_until.is_none() && self.listeners.iter().any(|l| l.ready);
        accepting || !self.readers.is_empty() || !self.writers.is_empty()
    }

    /// When [`Self::expire`] is to be called.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let dial = self.deadlines.first().map(|(at, _)| *at);
        dial.into_iter().chain(self.paused_until).min()
    }

    /// Ends what took too long.
    pub(crate) fn expire(&mut self, node: &mut Node, now: Instant) {
        if self.paused_until.is_some_and(|at| at <= now) {
            self.paused_until = None;
        }
        while let Some(&(at, id)) = self.deadlines.first() {
            if at > now {
                break;
            }
            self.deadlines.pop_first();
            let Some(&place) = self.places.get(&id) else { continue };
            if let Some(Slot::Dial(dial)) = self.slots.get_mut(place) {
                let progress = dial.next(now, &self.registry, Token(FIRST_CONN + place));
                self.dialled(place, progress, node, now);
            }
        }
    }

    /// Takes what the resolver has found.
    pub(crate) fn resolved(&mut self, node: &mut Node, now: Instant) {
        while let Some((ask, answer)) = self.resolver.poll() {
            match ask {
                Ask::Peer(peer) => self.peer_resolved(peer, answer, node, now),
                Ask::Dial(id) => {
                    // Else it was aborted, or took too long.
                    let Some(&place) = self.places.get(&id) else { continue };
                    let Some(Slot::Dial(dial)) = self.slots.get_mut(place) else { continue };
                    let progress = match answer {
                        Ok(addrs) => {
                            dial.start(addrs, now, &self.registry, Token(FIRST_CONN + place))
                        }
                        Err(e) => Progress::Failed(e),
                    };
                    self.dialled(place, progress, node, now);
                }
            }
        }
    }

    /// [`Action::Resolve`](entrouter_proto::Action::Resolve).
    pub(crate) fn resolve(
        &mut self,
        peer: PeerId,
        target: HostPort,
        node: &mut Node,
        now: Instant,
    ) {
        if let Some(addr) = target.literal() {
            node.handle_resolved(now, peer, &[addr]);
        } else if let Err(e) = self.resolver.request(Ask::Peer(peer), target) {
            self.peer_resolved(peer, Err(io::Error::other(e)), node, now);
        }
    }

    fn peer_resolved(&mut self, peer: PeerId, answer: Answer, node: &mut Node, now: Instant) {
        let usable = answer.and_then(|mut addrs| {
            addrs.retain(|addr| addr.is_ipv4() || !self.ipv4_peers);
            let none = || io::Error::other("it has no IPv4 address, and listen.relay_addr is IPv4");
            if addrs.is_empty() { Err(none()) } else { Ok(addrs) }
        });
        match usable {
            Ok(addrs) => node.handle_resolved(now, peer, &addrs),
            Err(e) => {
                if let Some(n) = self.complaints.hit(now, format!("peer {}", peer.0)) {
                    warn!("peers[{}].addr cannot be resolved: {e}{}", peer.0, Suppressed(n));
                }
                // The core tries again when it sees fit.
                node.handle_resolved(now, peer, &[]);
            }
        }
    }

    /// [`Action::Connect`](entrouter_proto::Action::Connect).
    pub(crate) fn connect(&mut self, id: ConnId, target: HostPort, node: &mut Node, now: Instant) {
        let literal = target.literal();
        let dial = Dial::new(id, target.clone(), now);
        let place = self.slots.insert(Slot::Dial(dial));
        self.places.insert(id, place);
        let Some(Slot::Dial(dial)) = self.slots.get_mut(place) else { return };
        let progress = match literal {
            Some(addr) => dial.start(vec![addr], now, &self.registry, Token(FIRST_CONN + place)),
            None => match self.resolver.request(Ask::Dial(id), target) {
                Ok(()) => Progress::Waiting,
                Err(busy) => Progress::Failed(io::Error::other(busy)),
            },
        };
        self.dialled(place, progress, node, now);
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
        for mut listener in self.listeners.drain(..) {
            let _ = self.registry.deregister(&mut listener.socket);
        }
        self.paused_until = None;
    }

    fn with(&mut self, id: ConnId, change: impl FnOnce(&mut Conn)) {
        // Else the connection ended before the core could know.
        let Some(&place) = self.places.get(&id) else { return };
        if let Some(Slot::Open(conn)) = self.slots.get_mut(place) {
            change(conn);
            self.after(place, Step::Idle);
        }
    }

    /// After anything happened to a connection: who is over leaves, who has work queues up.
    fn after(&mut self, place: usize, step: Step) {
        if step == Step::Over {
            self.remove(place);
            return;
        }
        let Some(Slot::Open(conn)) = self.slots.get_mut(place) else { return };
        if conn.wants_read() && !std::mem::replace(&mut conn.queued.read, true) {
            self.readers.push_back(place);
        }
        if conn.wants_write() && !std::mem::replace(&mut conn.queued.write, true) {
            self.writers.push_back(place);
        }
    }

    /// After anything happened to a dial.
    fn dialled(&mut self, place: usize, progress: Progress, node: &mut Node, now: Instant) {
        let Some(Slot::Dial(dial)) = self.slots.get_mut(place) else { return };
        let id = dial.id;
        match progress {
            Progress::Waiting => {
                let ends = dial.attempt_ends;
                if let Some(before) = dial.watched.replace(ends) {
                    self.deadlines.remove(&(before, id));
                }
                self.deadlines.insert((ends, id));
            }
            Progress::Connected(stream) => {
                if let Some(watched) = dial.watched.take() {
                    self.deadlines.remove(&(watched, id));
                }
                if let Some(slot) = self.slots.get_mut(place) {
                    *slot = Slot::Open(Conn::new(id, stream));
                }
                node.handle_tcp(now, TcpEvent::Connected { conn: id });
            }
            Progress::Failed(e) => {
                let target = dial.target.to_string();
                self.remove(place);
                if let Some(n) = self.complaints.hit(now, target.clone()) {
                    warn!("origin {target} cannot be reached: {e}{}", Suppressed(n));
                }
                node.handle_tcp(now, TcpEvent::ConnectFailed { conn: id });
            }
        }
    }

    fn remove(&mut self, place: usize) {
        let Some(slot) = self.slots.try_remove(place) else { return };
        // A descriptor is free again.
        self.paused_until = None;
        match slot {
            Slot::Open(mut conn) => {
                self.places.remove(&conn.id);
                let _ = self.registry.deregister(&mut conn.stream);
            }
            Slot::Dial(mut dial) => {
                self.places.remove(&dial.id);
                if let Some(watched) = dial.watched {
                    self.deadlines.remove(&(watched, dial.id));
                }
                dial.abandon(&self.registry);
            }
        }
    }

    fn accept(&mut self, node: &mut Node, now: Instant) {
        for n in 0..self.listeners.len() {
            for _ in 0..ACCEPTS {
                let listener = &mut self.listeners[n];
                if !listener.ready || self.paused_until.is_some() {
                    break;
                }
                match listener.socket.accept() {
                    Ok((stream, remote)) => {
                        let Some(conn) = self.admit(stream, now) else { continue };
                        let (listener, remote) = (ListenerId(n), canonical(remote));
                        node.handle_tcp(now, TcpEvent::Accepted { conn, listener, remote });
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => listener.ready = false,
                    // Of this one connection, which is gone (accept(2)).
                    Err(e) if is_passing(&e) => debug!("accept: {e}"),
                    Err(e) => self.pause(now, &e),
                }
            }
        }
    }

    fn admit(&mut self, mut stream: TcpStream, now: Instant) -> Option<ConnId> {
        let entry = self.slots.vacant_entry();
        let token = Token(FIRST_CONN + entry.key());
        let both = Interest::READABLE | Interest::WRITABLE;
        if let Err(e) = self.registry.register(&mut stream, token, both) {
            self.pause(now, &e);
            return None;
        }
        let id = ConnId::accepted(self.accepted);
        self.accepted += 1;
        self.places.insert(id, entry.key());
        entry.insert(Slot::Open(Conn::new(id, stream)));
        Some(id)
    }

    /// Out of file descriptors or memory, as a rule. Clients wait in the kernel's queue meanwhile.
    fn pause(&mut self, now: Instant, e: &io::Error) {
        self.paused_until = Some(now + ACCEPT_PAUSE);
        if let Some(n) = self.complaints.hit(now, "accept".to_owned()) {
            warn!(
                "cannot accept connections: {e}; trying again (is the limit of open files too low? \
                 see `ulimit -n`){}",
                Suppressed(n)
            );
        }
    }
}

fn is_passing(e: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(
        e.kind(),
        K::Interrupted
            | K::ConnectionAborted
            | K::ConnectionReset
            | K::NetworkDown
            | K::NetworkUnreachable
            | K::HostUnreachable
            | K::TimedOut
    )
}
