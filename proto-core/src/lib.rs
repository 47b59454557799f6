//! The sans-IO core of Entrouter Line: one PoP as a pure state machine.
//!
//! A relay fabric carries TCP connections between points of presence (PoPs) over encrypted UDP
//! tunnels that repair their own losses, over as many PoPs as the best path has. Everything that makes it
//! one is here: the configuration, handshake, encryption, forward error correction, retransmission,
//! pacing, routing, relaying, flow control. What is not here is everything impure: no sockets, no
//! threads, no clock, no randomness, no `unsafe`. Those belong to a *shell*, an event loop around one
//! [`Node`]. `entrouter-mio` is such a shell; the [complete loop](#a-complete-loop) below is another one.
//!
//! # The rooms
//!
//! In the order in which a client's byte walks through them. Only `node` sees all of them; each module's
//! text says what it is for.
//!
//! | Room | What |
//! |---|---|
//! | [`config`] | TOML text becomes a checked [`Config`]; every error names its key |
//! | `node` | [`Node`], the only public state machine: brings inputs to rooms, and empties them |
//! | `edge` | clients, of TCP, TLS and QUIC, and origins; [`connect`] is a client of QUIC |
//! | `flow` | one ordered byte stream across the mesh: both ends of it, windows, close, reset |
//! | `routing` | link state, flooded; Dijkstra on a change; destination → next hop, and the alternate |
//! | `transit` | what passes through: a queue for each flow and neighbour, marks, bounds |
//! | `probe` | round trips, jitter, loss of a link, and whether anything sent over it still arrives |
//! | `tunnel` | one neighbour: handshake, keys, symbols and their repair, rate, pacing; a link's death |
//! | `fec` | parity, and what it recovers |
//! | `wire` | byte layouts, and nothing else |
//! | [`status`] | what a person may ask; [`admin`] answers with it |
//!
//! # The mesh
//!
//! A loop does nothing for it. What to know:
//!
//! - A destination is any PoP of the mesh, whether or not there is a tunnel to it, or this one itself:
//!   `relay.default_dest` and `dest` of an `[[edge]]`, as [`Listener::dest`] tells. One that is not
//!   there (yet) is waited for, 10 s by clients; then they get an [`Action::Abort`].
//! - A relay sees no connection of what it relays: datagrams come in, and others go out to other peers.
//!   So [`Node::poll_transmit`] is to be asked after datagrams as after everything else.
//! - [`TimerReason::Mesh`] is one more reason of [`Node::poll_timeout`], with nothing to be done but
//!   [`Node::handle_timeout`].
//! - A dead neighbour is left after a few tenths of a second without an acknowledgement, so a loop that
//!   stands still for half a second is dead to its neighbours meanwhile. It does not take them for
//!   dead: that a timer came late is noticed.
//! - [`Node::status`] has paths, latencies of all links, and what was relayed: [`status::Status`].
//!
//! # TLS and QUIC clients
//!
//! A loop has three things to do for them, and nothing more: they are state machines, too.
//!
//! - **A certificate**: [`Node::set_identity`] at start if [`Config::needs_identity`] says so, and whenever
//!   there is a new one. Before the first, such clients are refused. [`Identity::from_pem`] reads what
//!   `listen.tls` names; who wants QUIC without that makes a self-signed one, as the core has no entropy
//!   but its seed.
//! - **TLS** comes over the listeners of [`Node::listeners`] as plain TCP does. The loop carries bytes,
//!   and need not know what they are: [`Listener::proto`] is for the log.
//! - **QUIC** comes over UDP sockets of its own, one for each of [`Node::quic_listeners`], in that order:
//!   [`SocketId`] 0 is the tunnels' socket, 1 the first of these, and so on, in
//!   [`Node::handle_datagram`] and in [`Transmit::socket`]. Its streams are flows that the loop never
//!   sees: there is no [`TcpEvent`] and no [`Action`] of them.
//!
//! Two dependencies check themselves in debug builds by assertions that do not hold: of rustls that no
//! alert follows its close_notify (a client's bad record makes one), of quinn-proto that certain timers
//! and black holes cannot be. Nothing wrong comes of it, but a debug build can be ended from outside. A
//! workspace with this crate should have, as this one's `Cargo.toml` has:
//!
//! ```toml
//! [profile.dev.package.rustls]
//! debug-assertions = false
//! [profile.dev.package.quinn-proto]
//! debug-assertions = false
//! ```
//!
//! # The contract
//!
//! **What comes in.** Time is an argument, an [`Instant`](std::time::Instant) that should not go
//! back; wall time and a 32-byte seed are given once, to [`Node::new`]. The seed must be fresh
//! randomness: all keys come from it, a seed is never used twice. The same configuration, seed and
//! inputs give the same outputs.
//!
//! | Something happened | Call |
//! |---|---|
//! | datagrams arrived | [`Node::handle_datagram`] |
//! | a TCP connection came, stands, spoke, took bytes, ended, broke | [`Node::handle_tcp`] |
//! | a peer's name was resolved | [`Node::handle_resolved`] |
//! | the time of [`Node::poll_timeout`] has come | [`Node::handle_timeout`] |
//! | the operator wants another configuration, or the end | [`Node::reconfigure`], [`Node::drain`] |
//! | there is a (new) certificate | [`Node::set_identity`] |
//!
//! **What comes out**, when asked for: things to do ([`Node::poll_action`]), datagrams to send
//! ([`Node::poll_transmit`]) and the next deadline ([`Node::poll_timeout`]).
//!
//! **Order.** Any order of calls is legal, and nothing is lost by draining late. A
//! [`Node::handle_timeout`] before its time does nothing. Any input may make new outputs, and taking
//! outputs moves the deadline, so a turn of the loop is: inputs, `handle_timeout` if due, `poll_action`
//! until `None`, `poll_transmit` until `None`, then wait until [`Node::poll_timeout`] or for a socket.
//! While output waits, the deadline is due at once.
//!
//! **Connections.** The shell numbers the connections that it accepts ([`ConnId::accepted`]), the core
//! those that it asks for by [`Action::Connect`]; no number is used twice. A connection is over after
//! [`Action::Abort`], after [`TcpEvent::Reset`] or [`TcpEvent::ConnectFailed`], or once
//! [`TcpEvent::Eof`] was reported *and* [`Action::Shutdown`] carried out. Events and actions may cross:
//! each side ignores what concerns a connection that is over. An abort must reach the other side as a
//! RST, and so should the death of the process (`SO_LINGER` of 0 until a connection is over);
//! otherwise a connection that was cut off looks complete.
//!
//! **Backpressure.** From a connection the shell reads no more than [`Action::GrantRead`] granted in
//! all; grants add up. It queues every [`Action::Write`] and reports by [`TcpEvent::Written`] what the
//! socket took; the core hands out only a bounded amount ahead of that. A [`Transmit`] for which the
//! UDP socket has no room is kept, and nothing more is polled until it has left; one that fails
//! otherwise counts as lost, and is repaired. So every queue, on either side, has a bound.
//!
//! **Offloads.** [`Node::handle_datagram`] takes a batch of equal datagrams as UDP GRO delivers it,
//! [`Node::poll_transmit`] gives one as GSO takes it: a buffer and a segment size.
//!
//! **The end.** After [`Node::drain`] come [`Action::StopAccepting`] and, when all connections are over
//! and the peers are told (after about 11 s at the latest), [`Action::Drained`]. Go on driving the node
//! until then.
//!
//! # A complete loop
//!
//! A PoP over the sockets of the standard library, and two of them at work. It can be copied as it
//! stands but for two things: a real loop waits for readiness instead of looking after its sockets every
//! millisecond, and it resets connections (see `fn reset` at its end).
//!
//! ```
//! use std::collections::{BTreeMap, BTreeSet, VecDeque};
//! use std::io::{self, ErrorKind::WouldBlock, Read, Write};
//! use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
//! use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
//! use std::sync::{Arc, mpsc};
//! use std::thread;
//! use std::time::{Duration, Instant, SystemTime};
//!
//! use entrouter_proto::config::HostPort;
//! use entrouter_proto::{Action, Config, ConnId, Identity, ListenerId, Node, PeerId, SocketId};
//! use entrouter_proto::{TcpEvent, Transmit};
//!
//! /// A TCP connection that stands, to a client or to an origin.
//! struct Conn {
//!     stream: TcpStream,
//!     /// Bytes that may still be read.
//!     grant: usize,
//!     /// `Eof` was reported.
//!     eof: bool,
//!     /// Bytes that the socket has not taken yet.
//!     queue: VecDeque<u8>,
//!     /// `Shutdown` was asked for, and carried out.
//!     shut: bool,
//!     shut_done: bool,
//! }
//!
//! /// What helper threads found out.
//! enum Found {
//!     Dialled(ConnId, io::Result<TcpStream>),
//!     Resolved(PeerId, Vec<SocketAddr>),
//! }
//!
//! /// The node with its sockets. Nothing in here knows the protocol.
//! struct Pop {
//!     node: Node,
//!     /// Each at the place of its `SocketId`.
//!     udp: Vec<UdpSocket>,
//!     listeners: Vec<TcpListener>,
//!     conns: BTreeMap<ConnId, Conn>,
//!     dialling: BTreeSet<ConnId>,
//!     accepted: u64,
//!     found: (mpsc::Sender<Found>, mpsc::Receiver<Found>),
//!     /// Datagrams handed over by the core; the bytes of `out` before the number have left.
//!     unsent: Option<(Transmit, usize)>,
//!     out: Vec<u8>,
//!     buf: Vec<u8>,
//!     drained: bool,
//! }
//!
//! impl Pop {
//!     fn bind(config: &str) -> Result<Self, Box<dyn std::error::Error>> {
//!         let config = Config::parse("pop.toml", config.as_bytes())?;
//!         // Fresh for every node: all its keys and numbers come from it.
//!         let mut seed = [0; 32];
//!         std::fs::File::open("/dev/urandom")?.read_exact(&mut seed)?;
//!         let unix_now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
//!         let mut node = Node::new(config, seed, Instant::now(), unix_now)?;
//!         // A real loop makes a certificate where there is none and QUIC wants one.
//!         if let Some(tls) = &node.config().listen.tls {
//!             let (chain, key) = (std::fs::read(&tls.cert)?, std::fs::read(&tls.key)?);
//!             node.set_identity(Instant::now(), &Identity::from_pem(&chain, &key)?);
//!         }
//!         let mut udp = vec![UdpSocket::bind(node.config().listen.relay_addr)?];
//!         for wanted in node.quic_listeners() {
//!             udp.push(UdpSocket::bind(wanted.addr)?);
//!         }
//!         udp.iter().try_for_each(|socket| socket.set_nonblocking(true))?;
//!         let mut listeners = Vec::new();
//!         for wanted in node.listeners() {
//!             let listener = TcpListener::bind(wanted.addr)?;
//!             listener.set_nonblocking(true)?;
//!             listeners.push(listener);
//!         }
//!         Ok(Self {
//!             node,
//!             udp,
//!             listeners,
//!             conns: BTreeMap::new(),
//!             dialling: BTreeSet::new(),
//!             accepted: 0,
//!             found: mpsc::channel(),
//!             unsent: None,
//!             out: Vec::new(),
//!             buf: vec![0; 64 << 10],
//!             drained: false,
//!         })
//!     }
//!
//!     /// Runs until drained; `end` begins that.
//!     fn run(mut self, end: &AtomicBool) {
//!         while !self.drained || self.unsent.is_some() {
//!             if end.load(Relaxed) {
//!                 self.node.drain(Instant::now()); // again: does nothing
//!             }
//!             let received = self.receive();
//!             self.node.handle_timeout(Instant::now()); // nothing due: does nothing
//!             let acted = self.act();
//!             self.transmit();
//!             if received || acted {
//!                 continue;
//!             }
//!             // A real loop sleeps in `poll(2)` or its like until a socket is ready or the time has
//!             // come. This one looks after its sockets every millisecond.
//!             let most = Duration::from_millis(1);
//!             let due = self.node.poll_timeout().map(|(at, _why)| at);
//!             let wait = due.map_or(most, |at| at.saturating_duration_since(Instant::now()));
//!             let blocked = self.unsent.is_some(); // its output stays due; the socket is full
//!             thread::sleep(if blocked { most } else { wait.min(most) });
//!         }
//!     }
//!
//!     /// Everything that came in. True: there may be more.
//!     fn receive(&mut self) -> bool {
//!         let Self { node, conns, buf, .. } = self;
//!         let now = Instant::now();
//!         let mut any = false;
//!         for (n, udp) in self.udp.iter().enumerate() {
//!             for _ in 0..64 {
//!                 let Ok((len, remote)) = udp.recv_from(buf) else { break };
//!                 node.handle_datagram(now, SocketId(n), remote, None, len, &mut buf[..len]);
//!                 any = true;
//!             }
//!         }
//!         for (n, listener) in self.listeners.iter().enumerate() {
//!             let Ok((stream, remote)) = listener.accept() else { continue };
//!             let Ok(local) = stream.local_addr() else { continue };
//!             let conn = ConnId::accepted(self.accepted);
//!             self.accepted += 1;
//!             conns.insert(conn, Conn::new(stream));
//!             let listener = ListenerId(n);
//!             node.handle_tcp(now, TcpEvent::Accepted { conn, listener, remote, local });
//!             any = true;
//!         }
//!         while let Ok(found) = self.found.1.try_recv() {
//!             match found {
//!                 Found::Resolved(peer, addrs) => node.handle_resolved(now, peer, &addrs),
//!                 // Else it was aborted meanwhile.
//!                 Found::Dialled(conn, result) if self.dialling.remove(&conn) => match result {
//!                     Ok(stream) => {
//!                         conns.insert(conn, Conn::new(stream));
//!                         node.handle_tcp(now, TcpEvent::Connected { conn });
//!                     }
//!                     Err(_) => node.handle_tcp(now, TcpEvent::ConnectFailed { conn }),
//!                 },
//!                 Found::Dialled(..) => {}
//!             }
//!             any = true;
//!         }
//!         conns.retain(|&conn, c| match c.read(buf) {
//!             Ok(Some(0)) => {
//!                 c.eof = true;
//!                 node.handle_tcp(now, TcpEvent::Eof { conn });
//!                 any = true;
//!                 !c.is_over()
//!             }
//!             Ok(Some(len)) => {
//!                 node.handle_tcp(now, TcpEvent::Received { conn, data: &buf[..len] });
//!                 any = true;
//!                 true
//!             }
//!             Ok(None) => true,
//!             Err(_) => {
//!                 node.handle_tcp(now, TcpEvent::Reset { conn });
//!                 false
//!             }
//!         });
//!         any
//!     }
//!
//!     /// What the core asks for, and writes that the sockets take. True: there may be more.
//!     fn act(&mut self) -> bool {
//!         let mut any = false;
//!         while let Some(action) = self.node.poll_action() {
//!             any = true;
//!             match action {
//!                 Action::Connect { conn, target } => {
//!                     self.dialling.insert(conn);
//!                     let found = self.found.0.clone();
//!                     thread::spawn(move || found.send(Found::Dialled(conn, dial(&target))));
//!                 }
//!                 Action::Resolve { peer, target } => {
//!                     let found = self.found.0.clone();
//!                     thread::spawn(move || found.send(Found::Resolved(peer, resolve(&target))));
//!                 }
//!                 // A connection that is not there ended before the core could know.
//!                 Action::Write { conn, data } => {
//!                     self.conns.entry(conn).and_modify(|c| c.queue.extend(data));
//!                 }
//!                 Action::GrantRead { conn, bytes } => {
//!                     self.conns.entry(conn).and_modify(|c| c.grant += bytes);
//!                 }
//!                 Action::Shutdown { conn } => {
//!                     self.conns.entry(conn).and_modify(|c| c.shut = true);
//!                 }
//!                 Action::Abort { conn } => {
//!                     self.dialling.remove(&conn);
//!                     self.conns.remove(&conn).into_iter().for_each(|c| reset(c.stream));
//!                 }
//!                 Action::StopAccepting => self.listeners.clear(),
//!                 Action::Drained => self.drained = true,
//!             }
//!         }
//!         let (node, now) = (&mut self.node, Instant::now());
//!         self.conns.retain(|&conn, c| {
//!             let (written, result) = c.write();
//!             if written > 0 {
//!                 node.handle_tcp(now, TcpEvent::Written { conn, bytes: written });
//!                 any = true;
//!             }
//!             if result.is_err() {
//!                 node.handle_tcp(now, TcpEvent::Reset { conn });
//!             }
//!             result.is_ok() && !c.is_over()
//!         });
//!         any
//!     }
//!
//!     fn transmit(&mut self) {
//!         loop {
//!             if self.unsent.is_none() {
//!                 self.out.clear();
//!                 let batch = self.node.poll_transmit(Instant::now(), 16, &mut self.out);
//!                 self.unsent = batch.map(|batch| (batch, 0));
//!             }
//!             let Some((batch, sent)) = &mut self.unsent else { return };
//!             while *sent < batch.len {
//!                 let next = batch.len.min(*sent + batch.segment_size);
//!                 let udp = &self.udp[batch.socket.0];
//!                 match udp.send_to(&self.out[*sent..next], batch.remote) {
//!                     // The socket is full: the rest is kept.
//!                     Err(e) if e.kind() == WouldBlock => return,
//!                     // Any other failure is a lost datagram, and those are repaired.
//!                     _ => *sent = next,
//!                 }
//!             }
//!             self.unsent = None;
//!         }
//!     }
//! }
//!
//! impl Conn {
//!     fn new(stream: TcpStream) -> Self {
//!         let _ = stream.set_nodelay(true);
//!         stream.set_nonblocking(true).expect("a fresh socket");
//!         let queue = VecDeque::new();
//!         Self { stream, grant: 0, eof: false, queue, shut: false, shut_done: false }
//!     }
//!
//!     /// Reads what is granted; `Some(0)` is the end, which may come, and must be seen, without a
//!     /// grant, too.
//!     fn read(&mut self, buf: &mut [u8]) -> io::Result<Option<usize>> {
//!         let most = self.grant.min(buf.len());
//!         if (self.eof || most == 0)
//!             && let Some(error) = self.stream.take_error()?
//!         {
//!             return Err(error);
//!         }
//!         let read = match (self.eof, most) {
//!             (true, _) => return Ok(None),
//!             (false, 0) => self.stream.peek(&mut buf[..1]),
//!             (false, _) => self.stream.read(&mut buf[..most]),
//!         };
//!         match read {
//!             Ok(len) if len > most => Ok(None), // seen, but not granted
//!             Ok(len) => {
//!                 self.grant -= len;
//!                 Ok(Some(len))
//!             }
//!             Err(e) if e.kind() == WouldBlock => Ok(None),
//!             Err(e) => Err(e),
//!         }
//!     }
//!
//!     /// Writes what the socket takes, then closes the sending half if that was asked for.
//!     fn write(&mut self) -> (usize, io::Result<()>) {
//!         let mut written = 0;
//!         while !self.queue.is_empty() {
//!             match self.stream.write(self.queue.as_slices().0) {
//!                 Ok(len) => {
//!                     self.queue.drain(..len);
//!                     written += len;
//!                 }
//!                 Err(e) if e.kind() == WouldBlock => return (written, Ok(())),
//!                 Err(e) => return (written, Err(e)),
//!             }
//!         }
//!         if self.shut && !self.shut_done {
//!             self.shut_done = true;
//!             return (written, self.stream.shutdown(Shutdown::Write));
//!         }
//!         (written, Ok(()))
//!     }
//!
//!     fn is_over(&self) -> bool {
//!         self.eof && self.shut_done
//!     }
//! }
//!
//! /// Resolves anew each time, and tries every address.
//! fn dial(target: &HostPort) -> io::Result<TcpStream> {
//!     let mut last = io::Error::other("no address");
//!     for addr in resolve(target) {
//!         match TcpStream::connect_timeout(&addr, Duration::from_secs(5)) {
//!             Ok(stream) => return Ok(stream),
//!             Err(e) => last = e,
//!         }
//!     }
//!     Err(last)
//! }
//!
//! fn resolve(target: &HostPort) -> Vec<SocketAddr> {
//!     let found = (target.host.as_str(), target.port).to_socket_addrs();
//!     found.map(Iterator::collect).unwrap_or_default()
//! }
//!
//! /// Breaks a connection off, so that the other side cannot take it for a clean end.
//! fn reset(stream: TcpStream) {
//!     // The standard library cannot ask for a RST.
//!     let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
//!     drop(stream);
//! }
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     // An origin that answers with what it was told.
//!     let origin = TcpListener::bind("127.0.0.1:0")?;
//!     let origin_addr = origin.local_addr()?;
//!     thread::spawn(move || {
//!         let (mut stream, _) = origin.accept()?;
//!         let mut said = Vec::new();
//!         stream.read_to_end(&mut said)?;
//!         stream.write_all(&said)
//!     });
//!
//!     // Two PoPs, both in this process. `exit` waits for `entry`, which knows its address.
//!     let key = "dGhpcyBpcyBvbmx5IGFuIGV4YW1wbGUsIG5vIGtleSE="; // make your own
//!     let exit = Pop::bind(&format!(
//!         r#"
//!         node_id = "exit"
//!         region = "here"
//!         listen = {{ relay_addr = "127.0.0.1:0" }}
//!         peers = [{{ node_id = "entry", shared_key = "{key}" }}]
//!         origins = {{ default = "{origin_addr}" }}
//!         "#
//!     ))?;
//!     let entry = Pop::bind(&format!(
//!         r#"
//!         node_id = "entry"
//!         region = "here"
//!         listen = {{ relay_addr = "127.0.0.1:0", tcp_addr = "127.0.0.1:0" }}
//!         peers = [{{ node_id = "exit", shared_key = "{key}", addr = "{}" }}]
//!         "#,
//!         exit.udp[0].local_addr()?
//!     ))?;
//!     let entry_addr = entry.listeners[0].local_addr()?;
//!     let end = Arc::new(AtomicBool::new(false));
//!     let pops = [exit, entry].map(|pop| {
//!         let end = Arc::clone(&end);
//!         thread::spawn(move || pop.run(&end))
//!     });
//!
//!     // A client: a million bytes go there, the same come back.
//!     let mut client = TcpStream::connect(entry_addr)?;
//!     let said: Vec<u8> = (0..1_000_000u32).map(|n| (n ^ n >> 8) as u8).collect();
//!     client.write_all(&said)?;
//!     client.shutdown(Shutdown::Write)?;
//!     let mut heard = Vec::new();
//!     client.read_to_end(&mut heard)?;
//!     assert!(heard == said);
//!
//!     end.store(true, Relaxed);
//!     for pop in pops {
//!         pop.join().expect("the loop does not panic");
//!     }
//!     Ok(())
//! }
//! ```
//!
//! # Features
//!
//! - `ring`: ChaCha20-Poly1305 by the crate `ring` (which needs a C compiler to build) instead of the
//!   portable `chacha20poly1305`. The bytes are the same, the processor time is not.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod admin;
pub mod config;
mod edge;
mod fec;
mod flow;
pub mod ids;
mod io;
mod node;
mod probe;
mod rng;
mod routing;
pub mod status;
#[cfg(test)]
mod tests;
mod transit;
mod tunnel;
mod wire;

pub use config::Config;
pub use edge::identity::{Identity, IdentityError};
pub use edge::{Listener, connect};
pub use ids::{ConnId, ListenerId, PeerId, SocketId};
pub use io::{Action, Ecn, TcpEvent, TimerReason, Transmit};
pub use node::{Node, NodeError};
#[cfg(feature = "bench")]
#[doc(hidden)]
pub use routing::bench;
