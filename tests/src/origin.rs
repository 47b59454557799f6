//! Servers that a PoP dials.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use socket2::{Domain, Protocol, Socket, Type};

use crate::client;
use crate::wait::PATIENCE;

/// Threads only copy; with hundreds of them the default of 2 MiB each would add up.
const STACK: usize = 256 << 10;

/// A server on a free port with one thread for each connection. Accepts until it is dropped.
#[derive(Debug)]
pub struct Origin {
    addr: SocketAddr,
    closed: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl Origin {
    /// `serve` has each connection to itself, until it returns; its errors end the connection.
    pub fn start(serve: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static) -> Self {
        let (listener, addr) = listen();
        let closed = Arc::new(AtomicBool::new(false));
        let (serve, over) = (Arc::new(serve), Arc::clone(&closed));
        let accepting = std::thread::spawn(move || {
            loop {
                let accepted = listener.accept();
                if over.load(Ordering::Acquire) {
                    return;
                }
                let Ok((stream, _)) = accepted else { continue };
                let serve = Arc::clone(&serve);
                let run = move || {
                    // An error is the client's matter: it sees the end of the connection.
                    let _ = client::patient(&stream, PATIENCE).and_then(|()| serve(stream));
                };
                let thread = std::thread::Builder::new().stack_size(STACK).spawn(run);
                thread.expect("a thread for a connection");
            }
        });
        Self { addr, closed, accepting: Some(accepting) }
    }

    /// Answers with what it is sent, as it comes.
    pub fn echo() -> Self {
        Self::start(|mut stream| {
            let mut buf = vec![0; 64 << 10];
            loop {
                match stream.read(&mut buf)? {
                    0 => return stream.shutdown(Shutdown::Write),
                    n => stream.write_all(&buf[..n])?,
                }
            }
        })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Release);
        // Wakes the accepting thread.
        let woken = TcpStream::connect(self.addr);
        if let (Ok(_), Some(thread)) = (woken, self.accepting.take()) {
            let _ = thread.join();
        }
    }
}

/// A listener on a free port, for a test that serves by hand.
pub fn listen() -> (TcpListener, SocketAddr) {
    // By hand for the sake of the backlog: that of `TcpListener::bind` is 128, too few for tests
    // that open hundreds of connections at once.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).expect("a socket");
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a free port");
    socket.listen(1024).expect("a listener");
    let listener = TcpListener::from(socket);
    let addr = listener.local_addr().expect("its address");
    (listener, addr)
}

/// The next connection, at most [`PATIENCE`] from now.
#[track_caller]
pub fn accept(listener: &TcpListener) -> TcpStream {
    listener.set_nonblocking(true).expect("a nonblocking listener");
    let stream = crate::wait::until("a connection at the origin", || match listener.accept() {
        Ok((stream, _)) => Some(stream),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => None,
        Err(e) => panic!("the origin cannot accept: {e}"),
    });
    stream.set_nonblocking(false).expect("a blocking stream");
    client::patient(&stream, PATIENCE).expect("timeouts");
    stream
}

/// An address where nobody listens.
pub fn nobody() -> SocketAddr {
    listen().1
}
