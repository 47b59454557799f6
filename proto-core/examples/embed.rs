//! A PoP in a loop of one's own: the core over the sockets of the standard library and `poll(2)`.
//!
//! ```sh
//! cargo run --release -p entrouter-proto --example embed -- pop.toml
//! ```
//!
//! It reads the configuration of the shells and relays as they do. It has no admin API, no reload and no
//! end but that of the process, and does without UDP offloads and ECN marks, which the core allows.
#![expect(clippy::disallowed_methods, reason = "the core is told the time; this is who tells it")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::error::Error;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant, SystemTime};
use std::{env, fs, thread};

use entrouter_proto::config::{BASE_UDP_PAYLOAD, HostPort};
use entrouter_proto::{Action, Config, ConnId, ListenerId, Node, PeerId, SocketId, TcpEvent};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::SockRef;

/// Origins that are dialled at a time, each by a thread.
const DIALS: usize = 256;
/// After descriptors ran out, clients wait in the kernel's queue for so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often deadlines are looked at while the UDP socket is full, which hides them.
const BLOCKED_TICK: Duration = Duration::from_millis(1);

fn main() -> Result<(), Box<dyn Error>> {
    let path = env::args().nth(1).ok_or("the argument is the path of a configuration")?;
    let mut config = Config::parse(&path, &fs::read(&path)?).map_err(|errors| {
        eprintln!("{errors}"); // a line for each
        "this configuration cannot be used"
    })?;
    config.notices().iter().for_each(|notice| eprintln!("{notice}"));
    // The core looks for the largest datagram that the path carries. From a plain socket the kernel cuts
    // what is too large, and any would seem to pass. Leave this out where the socket sets DF.
    config.mesh.max_udp_payload = BASE_UDP_PAYLOAD;
    // Fresh for every node: all its keys and numbers come from it.
    let mut seed = [0; 32];
    fs::File::open("/dev/urandom")?.read_exact(&mut seed)?;
    let unix_now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let node = Node::new(config, seed, Instant::now(), unix_now)?;

    let udp = UdpSocket::bind(node.config().listen.relay_addr)?;
    udp.set_nonblocking(true)?;
    // Bursts overflow the usual 200 KiB. The kernel grants what net.core.rmem_max allows.
    SockRef::from(&udp).set_recv_buffer_size(4 << 20)?;
    eprintln!("listening on udp {} (relay)", udp.local_addr()?);
    let mut listeners = Vec::new();
    for (n, wanted) in node.listeners().iter().enumerate() {
        let listener = TcpListener::bind(wanted.addr)?;
        listener.set_nonblocking(true)?;
        eprintln!("listening on tcp {} (listener {n})", listener.local_addr()?);
        listeners.push(listener);
    }
    Ok(drive(node, &udp, listeners)?)
}

/// The loop. Nothing in it knows the protocol.
fn drive(mut node: Node, udp: &UdpSocket, mut listeners: Vec<TcpListener>) -> io::Result<()> {
    let mut conns = BTreeMap::<ConnId, Conn>::new();
    let (mut accepted, mut accept_from) = (0, Instant::now());
    let mut dialling = BTreeSet::new();
    let (helper, found) = mpsc::channel();
    let (mut wake, waker) = UnixStream::pair()?;
    wake.set_nonblocking(true)?;
    let helper = (helper, Arc::new(waker));
    // Datagrams that the core handed over: those in `out` before the number have left.
    let (mut unsent, mut drained) = (None, false);
    let (mut out, mut buf) = (Vec::new(), vec![0; 64 << 10]);
    while !drained || unsent.is_some() {
        // Sleep until a socket is ready or something is due. `poll` tells levels, not edges: nothing is
        // asked for that would then be left as it is.
        let now = Instant::now();
        let mut due = node.poll_timeout().map(|(at, _why)| at);
        let mut wanted = PollFlags::IN;
        if unsent.is_some() {
            wanted |= PollFlags::OUT;
            due = due.map(|at| at.max(now + BLOCKED_TICK)); // what waits for the socket is due
        }
        let mut fds = vec![PollFd::new(udp, wanted), PollFd::new(&wake, PollFlags::IN)];
        if accept_from <= now {
            fds.extend(listeners.iter().map(|l| PollFd::new(l, PollFlags::IN)));
        } else {
            due = due.into_iter().chain([accept_from]).min();
        }
        let before = fds.len();
        // One that is closed both ways, but not read to its end, would be told for ever.
        let watched = conns.values().filter(|c| !(c.held && c.shut_done));
        let ids: Vec<_> = watched.clone().map(|c| c.id).collect();
        fds.extend(watched.map(|c| PollFd::new(&c.stream, c.wanted())));
        let wait = due.map(|at| Timespec::try_from(at.saturating_duration_since(now)));
        match poll(&mut fds, wait.transpose().map_err(io::Error::other)?.as_ref()) {
            Err(e) if e != rustix::io::Errno::INTR => return Err(e.into()),
            _ => {}
        }
        let ready: Vec<_> = fds[before..].iter().map(PollFd::revents).collect();

        // Take in what there is, a portion of each kind: `poll` tells again of what is left.
        let now = Instant::now();
        for (conn, ready) in ids.into_iter().zip(ready).filter(|(_, ready)| !ready.is_empty()) {
            let Some(c) = conns.get_mut(&conn) else { continue };
            let mut tell = |event: TcpEvent<'_>| node.handle_tcp(now, event);
            let works = c.read(ready, &mut buf, &mut tell).and_then(|()| c.write(&mut tell));
            if works.is_err() {
                tell(TcpEvent::Reset { conn });
            } else if c.eof && c.shut_done {
                let _ = SockRef::from(&c.stream).set_linger(None); // see `Conn::new`
            } else {
                continue;
            }
            conns.remove(&conn);
        }
        for _ in 0..64 {
            let Ok((len, remote)) = udp.recv_from(&mut buf) else { break };
            node.handle_datagram(now, SocketId(0), remote, None, len, &mut buf[..len]);
        }
        for (n, listener) in listeners.iter().enumerate() {
            let conn = ConnId::accepted(accepted);
            let client = listener.accept().and_then(|(stream, remote)| {
                let local = stream.local_addr()?;
                Ok((Conn::new(conn, stream)?, remote, local))
            });
            match unless_later(client) {
                Ok(Some((c, remote, local))) => {
                    accepted += 1;
                    conns.insert(conn, c);
                    let listener = ListenerId(n);
                    node.handle_tcp(now, TcpEvent::Accepted { conn, listener, remote, local });
                }
                Ok(None) => {}
                Err(_) => accept_from = now + ACCEPT_PAUSE,
            }
        }
        let _ = wake.read(&mut buf);
        while let Ok(found) = found.try_recv() {
            match found {
                Found::Resolved(peer, addrs) => node.handle_resolved(now, peer, &addrs),
                Found::Dialled(conn, _) if !dialling.remove(&conn) => {} // aborted meanwhile
                Found::Dialled(conn, Err(_)) => {
                    node.handle_tcp(now, TcpEvent::ConnectFailed { conn });
                }
                Found::Dialled(conn, Ok(c)) => {
                    conns.insert(conn, c);
                    node.handle_tcp(now, TcpEvent::Connected { conn });
                }
            }
        }

        // Let the core think, and do what it asks. A connection that is not there ended before the core
        // could know.
        node.handle_timeout(now); // nothing due: does nothing
        while let Some(action) = node.poll_action() {
            match action {
                Action::Connect { conn, .. } if dialling.len() >= DIALS => {
                    node.handle_tcp(now, TcpEvent::ConnectFailed { conn });
                }
                Action::Connect { conn, target } => {
                    dialling.insert(conn);
                    find(&helper, move || Found::Dialled(conn, dial(conn, &target)));
                }
                Action::Resolve { peer, target } => {
                    find(&helper, move || Found::Resolved(peer, resolve(&target)));
                }
                Action::Write { conn, data } => {
                    conns.entry(conn).and_modify(|c| c.queue.extend(data.iter()));
                }
                Action::GrantRead { conn, bytes } => {
                    conns.entry(conn).and_modify(|c| (c.grant, c.held) = (c.grant + bytes, false));
                }
                Action::Shutdown { conn } => {
                    conns.entry(conn).and_modify(|c| c.shut = true);
                }
                Action::Abort { conn } => {
                    dialling.remove(&conn);
                    conns.remove(&conn); // closing is a RST, see `Conn::new`
                }
                // They follow `Node::drain`, for which your program has its own occasion.
                Action::StopAccepting => listeners.clear(),
                Action::Drained => drained = true,
            }
        }

        // Send until the core has nothing more for now, or the socket is full: then keep the rest.
        'send: loop {
            let batch = unsent.take().or_else(|| {
                out.clear();
                node.poll_transmit(Instant::now(), 16, &mut out).map(|batch| (batch, 0))
            });
            let Some((batch, mut sent)) = batch else { break };
            while sent < batch.len {
                let next = batch.len.min(sent + batch.segment_size);
                if let Ok(None) = unless_later(udp.send_to(&out[sent..next], batch.remote)) {
                    unsent = Some((batch, sent));
                    break 'send;
                }
                sent = next; // any other failure is a lost datagram, and those are repaired
            }
        }
    }
    Ok(())
}

/// A TCP connection that stands, to a client or to an origin.
struct Conn {
    id: ConnId,
    stream: TcpStream,
    /// Bytes that may still be read.
    grant: usize,
    /// A byte waits that is not granted.
    held: bool,
    /// `Eof` was reported.
    eof: bool,
    /// Bytes that the socket has not taken yet; the core bounds them.
    queue: VecDeque<u8>,
    /// `Shutdown` was asked for, and carried out.
    shut: bool,
    shut_done: bool,
}

impl Conn {
    fn new(id: ConnId, stream: TcpStream) -> io::Result<Self> {
        // Closing is a RST, also when this process dies, until the connection has ended well: what was
        // cut off must not look complete.
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let (queue, [held, eof, shut, shut_done]) = (VecDeque::new(), [false; 4]);
        Ok(Self { id, stream, grant: 0, held, eof, queue, shut, shut_done })
    }

    /// What to look for. That it broke is told whether it is asked for or not.
    fn wanted(&self) -> PollFlags {
        let mut wanted = PollFlags::empty();
        wanted.set(PollFlags::IN, !self.eof && !self.held);
        wanted.set(PollFlags::OUT, !self.queue.is_empty() || self.shut && !self.shut_done);
        wanted
    }

    /// Reads once, what is granted. The end is seen, and told, without a grant, too.
    fn read(
        &mut self,
        ready: PollFlags,
        buf: &mut [u8],
        tell: &mut impl FnMut(TcpEvent<'_>),
    ) -> io::Result<()> {
        if ready.intersects(PollFlags::ERR | PollFlags::HUP)
            && let Some(error) = self.stream.take_error()?
        {
            return Err(error);
        }
        if self.eof || self.held {
            return Ok(());
        }
        let (conn, most) = (self.id, self.grant.min(buf.len()));
        let read = match most {
            0 => self.stream.peek(&mut buf[..1]),
            _ => self.stream.read(&mut buf[..most]),
        };
        match unless_later(read)? {
            None => {}
            Some(0) => {
                self.eof = true;
                tell(TcpEvent::Eof { conn });
            }
            Some(_) if most == 0 => self.held = true,
            Some(len) => {
                self.grant -= len;
                tell(TcpEvent::Received { conn, data: &buf[..len] });
            }
        }
        Ok(())
    }

    /// Writes what the socket takes, then closes the sending half if that was asked for.
    fn write(&mut self, tell: &mut impl FnMut(TcpEvent<'_>)) -> io::Result<()> {
        while !self.queue.is_empty() {
            let taken = unless_later(self.stream.write(self.queue.as_slices().0))?;
            let Some(bytes) = taken else { return Ok(()) };
            self.queue.drain(..bytes);
            tell(TcpEvent::Written { conn: self.id, bytes });
        }
        if self.shut && !self.shut_done {
            self.stream.shutdown(Shutdown::Write)?;
            self.shut_done = true;
        }
        Ok(())
    }
}

/// `None`: not now; `poll` will tell when.
fn unless_later<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
        result => result.map(Some),
    }
}

/// What helper threads found out.
enum Found {
    Dialled(ConnId, io::Result<Conn>),
    Resolved(PeerId, Vec<SocketAddr>),
}

type Helper = (mpsc::Sender<Found>, Arc<UnixStream>);

/// On a thread, since a name may take seconds, for which the loop must not stand still.
fn find(helper: &Helper, find: impl FnOnce() -> Found + Send + 'static) {
    let (to, waker) = helper.clone();
    thread::spawn(move || to.send(find()).map(|()| (&*waker).write(&[0])));
}

/// Resolves anew each time, and tries every address.
fn dial(conn: ConnId, target: &HostPort) -> io::Result<Conn> {
    let mut last = io::Error::other("no address");
    for addr in resolve(target) {
        match TcpStream::connect_timeout(&addr, Duration::from_secs(5)) {
            // A dial to a local port where nobody listens can meet itself.
            Ok(stream) if stream.local_addr()? == addr => {}
            Ok(stream) => return Conn::new(conn, stream),
            Err(e) => last = e,
        }
    }
    Err(last)
}

fn resolve(target: &HostPort) -> Vec<SocketAddr> {
    let found = (target.host.as_str(), target.port).to_socket_addrs();
    found.map(Iterator::collect).unwrap_or_default()
}
