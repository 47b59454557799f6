//! What the threads of a demo share: how far they are, whether to end, and their sockets, so that
//! none of them can stay blocked once the demo is over.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use socket2::SockRef;

use super::ledger::{Ledger, Side, Tally, Way};

/// More failures than that tell nothing new.
const MAX_FAILURES: usize = 20;

#[derive(Debug, Default)]
pub(super) struct Stage {
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

    pub(super) fn watch_listener(&self, listener: &TcpListener) -> io::Result<()> {
        lock(&self.listeners).push(listener.try_clone()?);
        Ok(())
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
