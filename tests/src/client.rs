//! The client's end of a connection.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::SockRef;

use crate::wait::PATIENCE;

/// Connects to a PoP. Neither reading nor writing then blocks for longer than [`PATIENCE`].
#[track_caller]
pub fn connect(addr: SocketAddr) -> TcpStream {
    try_connect(addr, PATIENCE).unwrap_or_else(|e| panic!("cannot connect to {addr}: {e}"))
}

/// Connects; the connection, reading and writing may each take `patience`.
pub fn try_connect(addr: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&addr, patience)?;
    patient(&stream, patience)?;
    Ok(stream)
}

/// Neither reading nor writing blocks for longer.
pub fn patient(stream: &TcpStream, patience: Duration) -> io::Result<()> {
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))
}

/// Sends all of `question`, closes that half, and reads the answer to its end.
pub fn ask(mut stream: &TcpStream, question: &[u8]) -> io::Result<Vec<u8>> {
    stream.write_all(question)?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

/// Sends and receives at the same time, as an echo of more than fits on the way needs it.
pub fn exchange(stream: &TcpStream, question: &[u8]) -> io::Result<Vec<u8>> {
    std::thread::scope(|scope| {
        let sent = scope.spawn(move || {
            let mut stream = stream;
            stream.write_all(question)?;
            stream.shutdown(Shutdown::Write)
        });
        let (mut stream, mut answer) = (stream, Vec::new());
        let read = stream.read_to_end(&mut answer);
        sent.join().expect("the sender does not panic")?;
        read.map(|_| answer)
    })
}

/// Ends a connection by a reset.
pub fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("SO_LINGER can be set");
}

/// Reads until the connection breaks.
///
/// # Panics
/// If it ends in any other way than by a reset.
#[track_caller]
pub fn expect_reset(mut stream: &TcpStream, what: &str) {
    match io::copy(&mut stream, &mut io::sink()) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionReset => {}
        other => panic!("{what}: wanted a reset, found {other:?}"),
    }
}

/// Whether an error says that the connection broke, or never came to be; not that time ran out.
pub fn is_broken(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            // Of `shutdown` on a connection that was reset.
            | io::ErrorKind::NotConnected
    )
}
