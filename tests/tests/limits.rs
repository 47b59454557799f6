//! File descriptors run out.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use entrouter_tests::client;
use entrouter_tests::line::{Line, Plan};
use entrouter_tests::on_every;
use entrouter_tests::origin::Origin;
use entrouter_tests::running::Running;
use entrouter_tests::shells::Way;
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

fn fate(stream: &io::Result<TcpStream>) -> Fate {
    let read = match stream {
        Ok(stream) => {
            let mut reader = stream;
            reader.set_nonblocking(true).and_then(|()| reader.read(&mut [0]))
        }
        Err(e) => Err(e.kind().into()),
    };
    match read {
        Ok(n) => {
            assert_eq!(n, 1, "closed as if all were well");
            Fate::Served
        }
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Fate::Waiting,
        Err(e) if client::is_broken(&e) => Fate::Broken,
        Err(e) => panic!("{e}"),
    }
}

/// Opens more connections than `process` can have, lets go of them, and goes on as before. `complaint`
/// is what its log says.
fn run_out(
    pair: Way,
    line: &Line,
    process: &Running,
    complaint: &str,
    fates_after: impl Fn(&[Fate]),
) {
    let begin = Instant::now();
    line.assert_echoes();
    let streams: Vec<_> = (0..CONNECTIONS)
        .map(|n| {
            // It may be broken already, even before we know that it stands; what became of it is
            // looked at below.
            let mut stream = client::try_connect(line.door(), wait::PATIENCE)?;
            let _ = stream.write_all(&[n as u8]);
            Ok(stream)
        })
        .collect();
    process.wait_log(complaint);
    if let Some(spent) = process.cpu_over(Duration::from_secs(2)) {
        println!("{pair:?}: {spent:?} of processor time in 2 s without descriptors");
        assert!(spent < LITTLE, "{} used {spent:?} within 2 s", process.name());
    }
    let fates: Vec<_> = streams.iter().map(fate).collect();
    let served = fates.iter().filter(|fate| **fate == Fate::Served).count();
    println!("{pair:?}: {served} of {CONNECTIONS} served");
    assert!(served >= 10, "only {served} were served");
    fates_after(&fates);

    // What was accepted is closed, and what still waits is served or reset meanwhile.
    drop(streams);
    wait::until("new connections work again", || {
        let stream = client::try_connect(line.door(), Duration::from_secs(2)).ok()?;
        (client::ask(&stream, b"again").ok()? == b"again").then_some(())
    });
    line.entry.wait_idle();
    line.exit.wait_idle();
    let allowed = 1 + begin.elapsed().as_secs() / LOG_INTERVAL.as_secs();
    let lines = process.log().lines().filter(|line| line.contains(complaint)).count();
    assert!((1..=allowed as usize).contains(&lines), "{lines} lines {complaint:?}");
}

fn an_entry_without_descriptors_lets_clients_wait_and_recovers(pair: Way) {
    let origin = Origin::echo();
    let mut line = Plan::direct(origin.addr()).door_files(FILES).start(pair);
    run_out(pair, &line, line.doorkeeper(), "cannot accept connections", |fates| {
        assert!(fates.contains(&Fate::Waiting), "all were accepted");
        assert!(!fates.contains(&Fate::Broken), "a client was turned away");
    });
    line.assert_running();
}

fn an_exit_without_descriptors_resets_what_it_cannot_dial_and_recovers(pair: Way) {
    let origin = Origin::echo();
    let mut line = Plan::direct(origin.addr()).exit_files(FILES).start(pair);
    run_out(pair, &line, line.exit.running(), "cannot be reached", |fates| {
        assert!(!fates.contains(&Fate::Waiting), "a client is left without an answer");
        assert!(fates.contains(&Fate::Broken), "all were dialled");
    });
    line.assert_running();
}

on_every!(
    way:
    an_entry_without_descriptors_lets_clients_wait_and_recovers,
    an_exit_without_descriptors_resets_what_it_cannot_dial_and_recovers,
);
