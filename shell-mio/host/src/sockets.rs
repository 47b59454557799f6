//! Sockets with the options that a PoP wants, and errors that name the configuration's key.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

/// Buffers that a UDP socket asks for: 40 ms at 800 Mbit/s.
pub const UDP_BUFFER: usize = 4 << 20;

const BACKLOG: i32 = 1024;

/// A socket could not be opened or bound.
#[derive(Debug, thiserror::Error)]
#[error("{key} {addr}: {}", explain(.source))]
pub struct BindError {
    /// The key of the configuration that asked for the socket.
    pub key: String,
    /// Its address.
    pub addr: SocketAddr,
    /// What went wrong.
    pub source: io::Error,
}

impl BindError {
    fn new(key: &str, addr: SocketAddr) -> impl FnOnce(io::Error) -> Self {
        move |source| Self { key: key.to_owned(), addr, source }
    }
}

/// What went wrong and what to do about it.
fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "address already in use (is another instance running?)".to_owned()
        }
        io::ErrorKind::AddrNotAvailable => {
            "this machine has no such address (use one of its own, or 0.0.0.0 or [::] for all)"
                .to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "permission denied (ports below 1024 need CAP_NET_BIND_SERVICE)".to_owned()
        }
        _ => error.to_string(),
    }
}

/// A UDP buffer is smaller than what was asked for; bursts will be lost.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the kernel grants only {granted} bytes of UDP {which} buffer instead of {UDP_BUFFER}; bursts \
     will be lost: sysctl -w net.core.{sysctl}={UDP_BUFFER}"
)]
pub struct SmallBuffer {
    which: &'static str,
    sysctl: &'static str,
    granted: usize,
}

/// Binds the UDP socket of the tunnels: nonblocking, dual-stack on `[::]`, large buffers.
///
/// # Errors
/// [`BindError`] naming `key`.
pub fn udp(key: &str, addr: SocketAddr) -> Result<(UdpSocket, Vec<SmallBuffer>), BindError> {
    let bind = || {
        let socket = open(addr, Type::DGRAM, Protocol::UDP)?;
        // Asking for more than is allowed is no error, the kernel grants what it may.
        let _ = socket.set_recv_buffer_size(UDP_BUFFER);
        let _ = socket.set_send_buffer_size(UDP_BUFFER);
        socket.bind(&addr.into())?;
        Ok(socket)
    };
    let socket = bind().map_err(BindError::new(key, addr))?;
    let small = [
        ("receive", "rmem_max", socket.recv_buffer_size()),
        ("send", "wmem_max", socket.send_buffer_size()),
    ]
    .into_iter()
    .filter_map(|(which, sysctl, reported)| {
        let granted = usable(reported.ok()?);
        (granted < UDP_BUFFER).then_some(SmallBuffer { which, sysctl, granted })
    })
    .collect();
    Ok((socket.into(), small))
}

/// Linux reports twice what was granted, half of it for its own bookkeeping (socket(7)).
fn usable(reported: usize) -> usize {
    if cfg!(target_os = "linux") { reported / 2 } else { reported }
}

/// Binds a nonblocking TCP listener, dual-stack on `[::]`.
///
/// # Errors
/// [`BindError`] naming `key`.
pub fn tcp_listener(key: &str, addr: SocketAddr) -> Result<TcpListener, BindError> {
    let bind = || {
        let socket = open(addr, Type::STREAM, Protocol::TCP)?;
        // So that a restart need not wait for TIME_WAIT; on Unix it allows no second listener.
        socket.set_reuse_address(true)?;
        socket.bind(&addr.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    bind().map_err(BindError::new(key, addr))
}

/// Begins to connect to `addr`: nonblocking; writable as soon as it is decided. A connection that
/// stands before anybody took note of it is reset on close, too ([`prepare_stream`]).
///
/// # Errors
/// If it fails at once.
pub fn connect(addr: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_linger(Some(Duration::ZERO))?;
    match socket.connect(&addr.into()) {
        Err(e) if !under_way(&e) => Err(e),
        _ => Ok(socket.into()),
    }
}

/// Whether connecting goes on in the background (connect(2)).
fn under_way(e: &io::Error) -> bool {
    let code = e.raw_os_error();
    e.kind() == io::ErrorKind::WouldBlock
        || code == Some(rustix::io::Errno::INPROGRESS.raw_os_error())
}

fn open(addr: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), kind, Some(protocol))?;
    if addr.is_ipv6() && addr.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Sets what every TCP connection of a PoP has, to clients and to origins: no Nagle, keepalive
/// after 60 s, and a reset instead of a clean end if this process dies.
///
/// The last is what keeps the promise that a connection is never silently cut short: with
/// `SO_LINGER` 0 the kernel sends RST on close, however the process ends. [`let_finish`] takes it
/// back for connections that ended well.
///
/// # Errors
/// As `setsockopt(2)`; some systems refuse on a connection that is already broken.
pub fn prepare_stream<'s>(stream: impl Into<SockRef<'s>>) -> io::Result<()> {
    let socket = stream.into();
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(15));
    #[cfg(any(target_os = "linux", target_os = "macos", target_os = "freebsd"))]
    let keepalive = keepalive.with_retries(4);
    socket.set_tcp_keepalive(&keepalive)
}

/// To be called before a connection that ended well is closed: what the kernel still has to send
/// is sent.
///
/// # Errors
/// As `setsockopt(2)`.
pub fn let_finish<'s>(stream: impl Into<SockRef<'s>>) -> io::Result<()> {
    stream.into().set_linger(None)
}

/// An IPv4 address in its own form, where a dual-stack socket shows it as `::ffff:a.b.c.d`.
#[must_use]
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(v4.into(), v6.port()),
            None => addr,
        },
        SocketAddr::V4(_) => addr,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_taken_address_is_reported_with_key_and_remedy() {
        let local = SocketAddr::from(([127, 0, 0, 1], 0));
        let (taken, _) = udp("listen.relay_addr", local).unwrap();
        let addr = taken.local_addr().unwrap();
        assert_eq!(
            udp("listen.relay_addr", addr).unwrap_err().to_string(),
            format!(
                "listen.relay_addr {addr}: address already in use (is another instance running?)"
            )
        );
        let taken = tcp_listener("listen.tcp_addr", local).unwrap();
        let addr = taken.local_addr().unwrap();
        assert_eq!(
            tcp_listener("edge[2].listen", addr).unwrap_err().to_string(),
            format!("edge[2].listen {addr}: address already in use (is another instance running?)")
        );
    }

    #[test]
    fn a_foreign_address_is_reported_with_remedy() {
        // 192.0.2.0/24 is for documentation (RFC 5737).
        let error = udp("listen.relay_addr", "192.0.2.1:7000".parse().unwrap()).unwrap_err();
        assert!(error.to_string().contains("this machine has no such address"), "{error}");
    }

    #[test]
    fn a_wildcard_takes_both_families() {
        let Ok((socket, _)) = udp("listen.relay_addr", "[::]:0".parse().unwrap()) else {
            return; // a machine without IPv6
        };
        let port = socket.local_addr().unwrap().port();
        let v4 = UdpSocket::bind("127.0.0.1:0").unwrap();
        v4.send_to(b"x", ("127.0.0.1", port)).unwrap();
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert_eq!(socket.recv_from(&mut [0; 8]).unwrap().0, 1);
    }

    #[test]
    fn mapped_addresses_become_ipv4_and_others_keep_their_scope() {
        let canonical = |text: &str| canonical(text.parse().unwrap()).to_string();
        assert_eq!(canonical("[::ffff:192.0.2.1]:7"), "192.0.2.1:7");
        assert_eq!(canonical("[fe80::1%3]:7"), "[fe80::1%3]:7");
        assert_eq!(canonical("192.0.2.1:7"), "192.0.2.1:7");
    }

    #[test]
    fn a_small_buffer_names_the_sysctl() {
        let small = SmallBuffer { which: "receive", sysctl: "rmem_max", granted: 212_992 };
        assert_eq!(
            small.to_string(),
            "the kernel grants only 212992 bytes of UDP receive buffer instead of 4194304; bursts \
             will be lost: sysctl -w net.core.rmem_max=4194304"
        );
    }

    #[test]
    fn a_prepared_stream_resets_on_close_unless_it_may_finish() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connect = || {
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let (served, _) = listener.accept().unwrap();
            prepare_stream(&served).unwrap();
            assert!(served.nodelay().unwrap());
            (client, served)
        };
        let (mut client, served) = connect();
        drop(served);
        let error = client.read(&mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let (mut client, served) = connect();
        let_finish(&served).unwrap();
        drop(served);
        assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
    }
}
