//! File descriptors run out.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use entrouter_tests::client;
use entrouter_tests::for_each_shell;
use entrouter_tests::line::{Line, Plan};
use entrouter_tests::origin::Origin;
use entrouter_tests::pop::Pop;
use entrouter_tests::wait;

/// `ulimit -n` of the PoP that runs out.
const FILES: u32 = 64;
const CONNECTIONS: usize = 120;
/// Processor time within 2 s that is no spinning.
const LITTLE: Duration = Duration::from_millis(600);
/// Log lines of one kind come at most that often.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// What a connection does that asked to hear a byte.
#[derive(Debug, PartialEq)]
enum Fate {
    Served,
    Waiting,
    Broken,
}

fn fate(stream: &TcpStream) -> Fate {
    stream.set_nonblocking(true).unwrap();
    let mut reader = stream;
    match reader.read(&mut [0]) {
        Ok(n) => {
            assert_eq!(n, 1, "closed as if all were well");
            Fate::Served
        }
        Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => Fate::Waiting,
        Err(e) if client::is_broken(&e) => Fate::Broken,
        Err(e) => panic!("{e}"),
    }
}

/// Opens more connections than `pop` can have, lets go of them, and goes on as before. `complaint`
/// is what its log says.
fn run_out(shell: &str, line: &Line, pop: &Pop, complaint: &str, fates_after: impl Fn(&[Fate])) {
    let begin = Instant::now();
    line.assert_echoes();
    let streams: Vec<_> = (0..CONNECTIONS)
        .map(|n| {
            let mut stream = line.connect();
            // It may be broken already; what became of it is looked at below.
            let _ = stream.write_all(&[n as u8]);
            stream
        })
        .collect();
    pop.wait_log(complaint);
    if let Some(spent) = pop.cpu_over(Duration::from_secs(2)) {
        println!("entrouter-{shell}: {spent:?} of processor time in 2 s without descriptors");
        assert!(spent < LITTLE, "{} used {spent:?} within 2 s", pop.config.node_id);
    }
    let fates: Vec<_> = streams.iter().map(fate).collect();
    let served = fates.iter().filter(|fate| **fate == Fate::Served).count();
    println!("entrouter-{shell}: {served} of {CONNECTIONS} served");
    assert!(served >= 10, "only {served} were served");
    fates_after(&fates);

    // What was accepted is closed, and what still waits is served or reset meanwhile.
    drop(streams);
    wait::until("new connections work again", || {
        let stream = client::try_connect(line.entry.tcp(), Duration::from_secs(2)).ok()?;
        (client::ask(&stream, b"again").ok()? == b"again").then_some(())
    });
    line.entry.wait_idle();
    line.exit.wait_idle();
    let allowed = 1 + begin.elapsed().as_secs() / LOG_INTERVAL.as_secs();
    let lines = pop.log().lines().filter(|line| line.contains(complaint)).count();
    assert!((1..=allowed as usize).contains(&lines), "{lines} lines {complaint:?}");
}

#[test]
fn an_entry_without_descriptors_lets_clients_wait_and_recovers() {
    for_each_shell(|shell| {
        let origin = Origin::echo();
        let mut line = Plan::direct(origin.addr()).entry_files(FILES).start(shell);
        run_out(shell, &line, &line.entry, "cannot accept connections", |fates| {
            assert!(fates.contains(&Fate::Waiting), "all were accepted");
        });
        line.assert_running();
    });
}

#[test]
fn an_exit_without_descriptors_resets_what_it_cannot_dial_and_recovers() {
    for_each_shell(|shell| {
        let origin = Origin::echo();
        let mut line = Plan::direct(origin.addr()).exit_files(FILES).start(shell);
        run_out(shell, &line, &line.exit, "cannot be reached", |fates| {
            assert!(!fates.contains(&Fate::Waiting), "a client is left without an answer");
            assert!(fates.contains(&Fate::Broken), "all were dialled");
        });
        line.assert_running();
    });
}
