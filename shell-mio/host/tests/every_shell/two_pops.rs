//! The event loop through real sockets: a client, two PoPs, an origin. A module of each shell's
//! tests, which say which shell it is.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use entrouter_proto::Config;
use entrouter_proto::config::{HostPort, Lanes, Limits, Listen, Mesh, Peer, PresharedKey, Relay};
use entrouter_proto::ids::{NodeId, ServiceName};
use socket2::SockRef;

use crate::shell::{Handle, Options, RunError, Shell};

/// What a test waits for at most; nothing waits that long when all is well.
const PATIENCE: Duration = Duration::from_secs(30);

fn local() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn config(name: &str, peer: (&str, Option<SocketAddr>), origin: HostPort) -> Config {
    let peer_id = NodeId::new(peer.0).unwrap();
    Config {
        node_id: NodeId::new(name).unwrap(),
        region: "test".to_owned(),
        listen: Listen {
            relay_addr: local(),
            tcp_addr: Some(local()),
            quic_addr: None,
            admin_addr: Some(local()),
            admin_token: None,
            tls: None,
            quic_0rtt: true,
            quic_alpn: "entrouter".to_owned(),
        },
        mesh: Mesh {
            probe_interval: Duration::from_millis(100),
            max_udp_payload: 8972,
            transit: true,
        },
        relay: Relay { default_dest: Some(peer_id.clone()), fec: None },
        lanes: Lanes::default(),
        limits: Limits::default(),
        peers: vec![Peer {
            node_id: peer_id,
            region: "test".to_owned(),
            addr: peer.1.map(|a| HostPort { host: a.ip().to_string(), port: a.port() }),
            shared_key: PresharedKey::new([7; 32]),
            next_shared_key: None,
            max_rate_mbps: None,
        }],
        origins: BTreeMap::from([(ServiceName::default(), origin.into())]),
        edges: Vec::new(),
    }
}

/// A running shell; stopped when dropped.
struct Pop {
    handle: Handle,
    relay: SocketAddr,
    tcp: SocketAddr,
    admin: SocketAddr,
    thread: Option<JoinHandle<Result<(), RunError>>>,
}

impl Pop {
    fn run(config: Config) -> Self {
        let shell = Shell::bind(config, Options::default()).unwrap();
        Self {
            handle: shell.handle(),
            relay: shell.relay_addr(),
            tcp: shell.tcp_addrs()[0],
            admin: shell.admin_addr().unwrap(),
            thread: Some(std::thread::spawn(move || shell.run())),
        }
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap().unwrap();
        }
    }
}

impl Drop for Pop {
    fn drop(&mut self) {
        self.handle.stop();
    }
}

/// Clients connect to `entry`, origins are dialled by `exit`.
struct Line {
    entry: Pop,
    exit: Pop,
}

impl Line {
    fn start(host: &str, port: u16) -> Self {
        let origin = HostPort { host: host.to_owned(), port };
        let exit = Pop::run(config("exit", ("entry", None), origin.clone()));
        let entry = Pop::run(config("entry", ("exit", Some(exit.relay)), origin));
        Self { entry, exit }
    }

    fn connect(&self) -> TcpStream {
        patient(TcpStream::connect(self.entry.tcp).unwrap())
    }

    fn end(mut self) {
        for pop in [&mut self.entry, &mut self.exit] {
            pop.handle.stop();
            pop.join();
        }
    }
}

fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn origin() -> (TcpListener, u16) {
    let listener = TcpListener::bind(local()).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

fn accept(listener: &TcpListener) -> TcpStream {
    patient(listener.accept().unwrap().0)
}

/// Bytes that differ from place to place.
fn pattern(len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

#[test]
fn many_bytes_go_both_ways_at_once() {
    let (listener, port) = origin();
    let line = Line::start("127.0.0.1", port);
    let bytes = pattern(16 << 20);
    let bytes = bytes.as_slice();
    let client = line.connect();
    let served = accept(&listener);
    std::thread::scope(|scope| {
        for stream in [&client, &served] {
            scope.spawn(move || {
                let mut stream = stream;
                stream.write_all(bytes).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
            });
            scope.spawn(move || {
                let (mut stream, mut got) = (stream, Vec::new());
                stream.read_to_end(&mut got).unwrap();
                assert!(got == bytes);
            });
        }
    });
    line.end();
}

#[test]
fn halves_close_apart() {
    let (listener, port) = origin();
    // By name: through the resolver.
    let line = Line::start("localhost", port);
    let mut client = line.connect();
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut served = accept(&listener);
    let mut got = Vec::new();
    served.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"question");
    served.write_all(b"answer").unwrap();
    drop(served);
    got.clear();
    client.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"answer");
    line.end();
}

#[test]
fn an_origin_may_speak_first_and_end_at_once() {
    let (listener, port) = origin();
    let line = Line::start("127.0.0.1", port);
    for _ in 0..50 {
        let mut client = line.connect();
        let mut served = accept(&listener);
        served.write_all(b"220 ready").unwrap();
        served.shutdown(Shutdown::Write).unwrap();
        let mut got = Vec::new();
        client.read_to_end(&mut got).unwrap();
        assert_eq!(got, b"220 ready");
    }
    line.end();
}

#[test]
fn a_reset_goes_through_even_to_a_reader_who_does_not_read() {
    let (listener, port) = origin();
    let line = Line::start("127.0.0.1", port);
    let client = line.connect();
    let mut served = accept(&listener);
    // The client reads nothing, so the grant towards it runs out and with it every window.
    served.set_nonblocking(true).unwrap();
    let filler = pattern(1 << 20);
    let deadline = Instant::now() + PATIENCE;
    let mut stalled_since = Instant::now();
    while stalled_since.elapsed() < Duration::from_millis(300) {
        assert!(Instant::now() < deadline, "backpressure never came");
        match served.write(&filler) {
            Ok(_) => stalled_since = Instant::now(),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
            Err(e) => panic!("{e}"),
        }
    }
    reset(served);
    drop(listener);
    let mut client = client;
    let error = io::copy(&mut client, &mut io::sink()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    line.end();
}

#[test]
fn a_client_that_resets_resets_the_origin() {
    let (listener, port) = origin();
    let line = Line::start("127.0.0.1", port);
    let mut client = line.connect();
    client.write_all(b"x").unwrap();
    let mut served = accept(&listener);
    served.read_exact(&mut [0]).unwrap();
    reset(client);
    let error = served.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    line.end();
}

#[test]
fn a_dead_origin_and_an_unknown_name_reset_the_client() {
    for host in ["127.0.0.1", "no-such-host.invalid"] {
        let (listener, port) = origin();
        drop(listener);
        let line = Line::start(host, port);
        let mut client = line.connect();
        // The first bytes may still be taken, or be told of the reset.
        let written = client.write_all(b"x");
        let error = written.and_then(|()| client.read_exact(&mut [0])).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        line.end();
    }
}

#[test]
fn many_connections_share() {
    let (listener, port) = origin();
    let line = Line::start("127.0.0.1", port);
    let bytes = pattern(100_000);
    const CONNECTIONS: usize = 200;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Echoes, one thread for each.
            for _ in 0..CONNECTIONS {
                let stream = accept(&listener);
                scope.spawn(move || io::copy(&mut &stream, &mut &stream).unwrap());
            }
        });
        for n in 0..CONNECTIONS {
            let (line, bytes) = (&line, &bytes);
            scope.spawn(move || {
                let stream = line.connect();
                std::thread::scope(|scope| {
                    scope.spawn(|| {
                        (&stream).write_all(&bytes[n..]).unwrap();
                        stream.shutdown(Shutdown::Write).unwrap();
                    });
                    let mut got = Vec::new();
                    (&stream).read_to_end(&mut got).unwrap();
                    assert!(got == bytes[n..]);
                });
            });
        }
    });
    line.end();
}

#[test]
fn draining_finishes_what_is_there_and_takes_nothing_new() {
    let (listener, port) = origin();
    let mut line = Line::start("127.0.0.1", port);
    let mut client = line.connect();
    client.write_all(b"before").unwrap();
    let mut served = accept(&listener);
    served.read_exact(&mut [0; 6]).unwrap();
    line.entry.handle.drain();
    // Published at the end of a turn, so draining has begun.
    assert!(line.entry.handle.status().is_some());
    assert!(TcpStream::connect(line.entry.tcp).is_err(), "the listener stays open");
    client.write_all(b"after").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut got = Vec::new();
    served.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"after");
    served.write_all(b"bye").unwrap();
    drop(served);
    got.clear();
    client.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"bye");
    line.entry.join();
    assert_eq!(line.entry.handle.status(), None, "nobody answers any more");
}

#[test]
fn stopping_resets() {
    let (listener, port) = origin();
    let line = Line::start("127.0.0.1", port);
    let mut client = line.connect();
    let mut served = accept(&listener);
    assert_eq!(line.entry.handle.status().map(|s| s.node_id.is_empty()), Some(false));
    line.end();
    for stream in [&mut client, &mut served] {
        let error = stream.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "never silently cut short");
    }
}

#[test]
fn health_is_answered_while_it_runs() {
    let (_listener, port) = origin();
    let line = Line::start("127.0.0.1", port);
    let mut stream = patient(TcpStream::connect(line.entry.admin).unwrap());
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.0 200 "), "{answer}");
    line.end();
}

#[test]
fn a_taken_address_names_its_key() {
    let (taken, port) = origin();
    let origin = HostPort { host: "127.0.0.1".to_owned(), port };
    let mut config = config("entry", ("exit", None), origin);
    config.listen.tcp_addr = Some(taken.local_addr().unwrap());
    let error = Shell::bind(config, Options::default()).unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "listen.tcp_addr 127.0.0.1:{port}: address already in use (is another instance \
             running?)"
        )
    );
}
