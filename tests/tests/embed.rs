//! The core in a loop of an embedder's own, the example `embed`: alone, and against each shell.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use entrouter_tests::bytes::{assert_same, pattern, sha256};
use entrouter_tests::client::{self, expect_reset};
use entrouter_tests::embed::Embedded;
use entrouter_tests::origin::{Origin, accept, listen, nobody};
use entrouter_tests::pop::{Pop, PopConfig, any_port};
use entrouter_tests::scratch::Scratch;
use entrouter_tests::shells::Shell;
use entrouter_tests::web::{HttpServer, curl, has_curl};
use entrouter_tests::{on_every, skip};

/// Of a file there and of a file back.
const SIZE: usize = 30_000_000;

/// One of the two PoPs: the example, or a shell.
enum End {
    Example(Embedded),
    Shell(Box<Pop>),
}

impl End {
    #[track_caller]
    fn start(shell: Option<Shell>, config: PopConfig) -> Self {
        match shell {
            None => Self::Example(Embedded::start(&config)),
            Some(shell) => Self::Shell(Box::new(Pop::start(shell, config))),
        }
    }

    fn relay(&self) -> SocketAddr {
        match self {
            Self::Example(pop) => pop.relay,
            Self::Shell(pop) => pop.config.relay,
        }
    }

    /// Where the clients of each service connect.
    fn listeners(&self) -> Vec<SocketAddr> {
        match self {
            Self::Example(pop) => pop.listeners.clone(),
            Self::Shell(pop) => pop.config.edges.iter().map(|(addr, _)| *addr).collect(),
        }
    }

    fn is_running(&mut self) -> bool {
        match self {
            Self::Example(pop) => pop.is_running(),
            Self::Shell(pop) => pop.is_running(),
        }
    }
}

/// Runs a test over a line with a listener for each of `origins`: with the example at both ends, then
/// at one of them and each shell at the other. Nobody waits for the tunnel: clients do.
fn for_each_line(origins: &[SocketAddr], test: impl Fn(&[SocketAddr])) {
    let shells: [Shell; 2] = on_every!(shell);
    let mixed = shells.into_iter().flat_map(|shell| [(None, Some(shell)), (Some(shell), None)]);
    for (entry, exit) in [(None, None)].into_iter().chain(mixed) {
        let name = |shell: Option<Shell>| shell.unwrap_or("example");
        // Shown only if the test fails: which line it was.
        eprintln!("--- {} at the entry, {} at the exit", name(entry), name(exit));
        let services = origins.iter().enumerate().map(|(n, origin)| (format!("s{n}"), *origin));
        let mut config = PopConfig::new("exit", "entry", None);
        config.origins = services.collect();
        let names: Vec<_> = config.origins.iter().map(|(name, _)| name.clone()).collect();
        let mut exit = End::start(exit, config);
        let mut config = PopConfig::new("entry", "exit", Some(exit.relay()));
        config.edges = names.into_iter().map(|name| (any_port(), name)).collect();
        let mut entry = End::start(entry, config);
        test(&entry.listeners());
        assert!(entry.is_running() && exit.is_running(), "a PoP has ended");
    }
}

/// Takes what is PUT by HTTP, and answers with its SHA-256.
fn hashing_origin() -> Origin {
    Origin::start(|mut stream| {
        let mut request = BufReader::new(stream.try_clone()?);
        let (mut line, mut length) = (String::new(), 0);
        while request.read_line(&mut line)? > 2 {
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
            line.clear();
        }
        let mut body = vec![0; length];
        request.read_exact(&mut body)?;
        let (hash, head) = (sha256(&body), "HTTP/1.1 200 OK\r\nConnection: close");
        write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n{hash}", hash.len())?;
        stream.shutdown(Shutdown::Write)
    })
}

#[test]
fn an_embedded_core_relays_what_curl_downloads_and_uploads_exactly() {
    if !has_curl() {
        skip!("no curl");
    }
    let dir = Scratch::new();
    let file = dir.path().join("file");
    let content = pattern(1, SIZE);
    let wanted = sha256(&content);
    std::fs::write(&file, content).unwrap();
    let Some(server) = HttpServer::start(dir.path()) else {
        skip!("no python3 that serves HTTP");
    };
    let hashing = hashing_origin();
    for_each_line(&[server.addr(), hashing.addr()], |listeners| {
        let down = curl(&[&format!("http://{}/file", listeners[0])]);
        assert_eq!((down.len(), sha256(&down)), (SIZE, wanted.clone()), "downloaded");
        // Without "Expect: 100-continue", which the origin does not know.
        let to = format!("http://{}/file", listeners[1]);
        let up = curl(&["--header", "Expect:", "--upload-file", file.to_str().unwrap(), &to]);
        assert_eq!(String::from_utf8_lossy(&up), wanted, "uploaded");
    });
}

#[test]
fn an_embedded_core_carries_both_directions_at_once_and_half_closes() {
    let echo = Origin::echo();
    let late = Origin::start(|mut stream| {
        let mut question = Vec::new();
        stream.read_to_end(&mut question)?;
        stream.write_all(&pattern(3, question.len()))?;
        stream.shutdown(Shutdown::Write)
    });
    for_each_line(&[echo.addr(), late.addr()], |listeners| {
        std::thread::scope(|scope| {
            for seed in 10..18 {
                scope.spawn(move || {
                    let question = pattern(seed, 1_000_000 * (seed as usize - 9));
                    let answer = client::exchange(&client::connect(listeners[0]), &question);
                    assert_same(&answer.unwrap(), &question, "echo");
                });
            }
        });
        for size in [0, 1, 70_000, 5_000_000] {
            let answer = client::ask(&client::connect(listeners[1]), &pattern(2, size)).unwrap();
            assert_same(&answer, &pattern(3, size), "answer after the question's end");
        }
    });
}

#[test]
fn an_embedded_core_passes_resets_on_whoever_began() {
    let (server, by_hand) = listen();
    for_each_line(&[nobody(), by_hand], |listeners| {
        expect_reset(&client::connect(listeners[0]), "a client whose origin refuses");
        let begin = || -> (TcpStream, TcpStream) {
            let mut client = client::connect(listeners[1]);
            client.write_all(b"question").unwrap();
            let mut served = accept(&server);
            served.read_exact(&mut [0; 8]).unwrap();
            (client, served)
        };
        let (client, served) = begin();
        client::reset(client);
        expect_reset(&served, "the origin of a client that resets");
        let (client, served) = begin();
        client::reset(served);
        expect_reset(&client, "the client of an origin that resets");
    });
}

#[test]
fn an_embedded_core_reads_no_more_than_it_can_pass_on() {
    /// More than all buffers on the way: those of six sockets and two windows.
    const MOST: usize = 256 << 20;
    let (server, by_hand) = listen();
    for_each_line(&[by_hand], |listeners| {
        let mut client = client::connect(listeners[0]);
        client.set_nonblocking(true).unwrap();
        // An origin that does not read stops the client; then it reads, and every byte is there.
        let (block, mut sent, mut quiet, mut served) = (pattern(4, 1 << 20), 0, 0, None);
        entrouter_tests::wait::until("the client is stopped", || {
            let before = sent;
            while let Ok(len) = client.write(&block[sent % block.len()..]) {
                sent += len;
                assert!(sent < MOST, "{sent} bytes for an origin that reads nothing");
            }
            served.get_or_insert_with(|| accept(&server));
            quiet = if sent == before { quiet + 1 } else { 0 };
            (quiet == 50).then_some(())
        });
        client.shutdown(Shutdown::Write).unwrap();
        let mut got = Vec::new();
        served.unwrap().read_to_end(&mut got).unwrap();
        let wanted: Vec<u8> = block.iter().cycle().take(sent).copied().collect();
        assert_same(&got, &wanted, "what the origin read late");
    });
}
