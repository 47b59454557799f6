//! What the threads of a demo share: how far they are, whether to end, and their sockets, so that
//! none of them can stay blocked once the demo is over.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

#[cfg(target_os = "linux")]
use rustix::net::sockopt::{set_tcp_congestion, tcp_congestion};
use socket2::{Domain, SockRef, Socket, Type};

use super::ledger::{Ledger, Side, Tally, Way};

/// More failures than that tell nothing new.
const MAX_FAILURES: usize = 20;

#[derive(Debug, Default)]
pub(super) struct Stage {
    /// Congestion control of all connections here; `None`: the system's, unsaid.
    congestion: Option<String>,
    /// What they were found to have, and how many.
    controls: Mutex<BTreeMap<String, u64>>,
    pub(super) ledger: Ledger,
    /// Round trips made.
    pub(super) round_trips: AtomicU64,
    /// Bulk bytes received, whichever way.
    pub(super) bulk_bytes: AtomicU64,
    /// Application bytes read and written by anyone: a sign of life.
    moved: AtomicU64,
    ending: AtomicBool,
    closed: AtomicBool,
    streams: Mutex<Vec<Weak<TcpStream>>>,
    listeners: Mutex<Vec<TcpListener>>,
    failures: Mutex<Vec<String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stage {
    /// One whose connections have this congestion control.
    #[cfg(target_os = "linux")]
    pub(super) fn with_congestion(congestion: &str) -> Self {
        Self { congestion: Some(congestion.to_owned()), ..Self::default() }
    }

    /// How many connections were found to have which congestion control.
    #[cfg(target_os = "linux")]
    pub(super) fn controls(&self) -> BTreeMap<String, u64> {
        lock(&self.controls).clone()
    }

    /// Where a service of this stage is to listen.
    pub(super) fn listen(&self, addr: SocketAddr) -> io::Result<TcpListener> {
        let listener = TcpListener::bind(addr)?;
        // Those it accepts inherit it.
        self.set_congestion(&listener)?;
        lock(&self.listeners).push(listener.try_clone()?);
        Ok(listener)
    }

    /// A connection that has its congestion control from the start.
    pub(super) fn dial(&self, addr: SocketAddr) -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
        self.set_congestion(&socket)?;
        socket.connect(&addr.into())?;
        Ok(socket.into())
    }

    /// Asks all senders to finish; what is under way still arrives.
    pub(super) fn end(&self) {
        self.ending.store(true, Relaxed);
    }

    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Relaxed)
    }

    /// Cuts everything off: no thread stays blocked in a socket call.
    pub(super) fn close(&self) {
        self.end();
        self.closed.store(true, SeqCst);
        for stream in lock(&self.streams).iter().filter_map(Weak::upgrade) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        for listener in lock(&self.listeners).iter() {
            // On Linux this makes a blocked accept return.
            let _ = SockRef::from(listener).shutdown(Shutdown::Both);
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(SeqCst)
    }

    pub(super) fn moved(&self) -> u64 {
        self.moved.load(Relaxed)
    }

    /// Notes what went wrong, unless it is a consequence of [`Stage::close`].
    pub(super) fn fail(&self, what: String) {
        let mut failures = lock(&self.failures);
        if !self.is_closed() && failures.len() < MAX_FAILURES {
            failures.push(what);
        }
    }

    pub(super) fn failures(&self) -> Vec<String> {
        lock(&self.failures).clone()
    }

    fn watch_stream(&self, stream: &Arc<TcpStream>) -> io::Result<()> {
        lock(&self.streams).push(Arc::downgrade(stream));
        // `close` sets the flag before it looks at the list: one of both sees the other.
        if self.is_closed() {
            stream.shutdown(Shutdown::Both)?;
        }
        Ok(())
    }
}

#[cfg(target_os = "linux")]
impl Stage {
    fn set_congestion(&self, socket: impl AsFd) -> io::Result<()> {
        let Some(congestion) = &self.congestion else { return Ok(()) };
        Ok(set_tcp_congestion(socket, congestion)?)
    }

    /// Notes what a connection really has.
    fn note_congestion(&self, stream: &TcpStream) -> io::Result<()> {
        if self.congestion.is_some() {
            *lock(&self.controls).entry(tcp_congestion(stream)?).or_default() += 1;
        }
        Ok(())
    }
}

/// Elsewhere no stage asks for one.
#[cfg(not(target_os = "linux"))]
impl Stage {
    fn set_congestion(&self, _: impl AsFd) -> io::Result<()> {
        Ok(())
    }

    fn note_congestion(&self, _: &TcpStream) -> io::Result<()> {
        Ok(())
    }
}

/// A TCP connection whose bytes are counted and hashed at this end. They are entered in the ledger
/// when it is dropped.
#[derive(Debug)]
pub(super) struct Connection {
    stream: Arc<TcpStream>,
    stage: Arc<Stage>,
    /// The direction in which this end sends.
    out: Way,
    /// Known to the origin only once the client has said it.
    number: Option<u64>,
    sent: Tally,
    received: Tally,
}

impl Connection {
    pub(super) fn client(stage: &Arc<Stage>, stream: TcpStream, number: u64) -> io::Result<Self> {
        Self::new(stage, stream, Way::ToOrigin, Some(number))
    }

    pub(super) fn origin(stage: &Arc<Stage>, stream: TcpStream) -> io::Result<Self> {
        Self::new(stage, stream, Way::ToClient, None)
    }

    fn new(
        stage: &Arc<Stage>,
        stream: TcpStream,
        out: Way,
        number: Option<u64>,
    ) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stage.note_congestion(&stream)?;
        let stream = Arc::new(stream);
        stage.watch_stream(&stream)?;
        let (sent, received) = (Tally::default(), Tally::default());
        Ok(Self { stream, stage: Arc::clone(stage), out, number, sent, received })
    }

    /// Tells the origin's end which connection it is.
    pub(super) fn set_number(&mut self, number: u64) {
        self.number = Some(number);
    }

    pub(super) fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match (&*self.stream).write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.sent.add(&bytes[..written]);
                    self.stage.moved.fetch_add(written as u64, Relaxed);
                    bytes = &bytes[written..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads what there is; 0 at the end.
    pub(super) fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match (&*self.stream).read(buf) {
                Ok(length) => {
                    self.received.add(&buf[..length]);
                    self.stage.moved.fetch_add(length as u64, Relaxed);
                    return Ok(length);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Fills `buf`; `false` if the peer had finished before the first byte.
    pub(super) fn fill(&mut self, buf: &mut [u8]) -> io::Result<bool> {
        let mut filled = 0;
        while filled < buf.len() {
            match self.read(&mut buf[filled..])? {
                0 if filled == 0 => return Ok(false),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                length => filled += length,
            }
        }
        Ok(true)
    }

    /// Says that nothing more will be sent.
    pub(super) fn finish_sending(&self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let back = match self.out {
            Way::ToOrigin => Way::ToClient,
            Way::ToClient => Way::ToOrigin,
        };
        if let Some(number) = self.number {
            let ledger = &self.stage.ledger;
            ledger.enter(self.out, Side::Sender, number, &self.sent);
            ledger.enter(back, Side::Receiver, number, &self.received);
        }
    }
}
