//! SIGTERM and Ctrl-C drain; the second one stops.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use entrouter_tests::bytes::{assert_same, pattern};
use entrouter_tests::client::{self, expect_reset};
use entrouter_tests::line::{Line, Plan};
use entrouter_tests::on_every;
use entrouter_tests::origin::{accept, listen};
use entrouter_tests::shells::Way;
use rustix::process::Signal;

/// SIGTERM, and what Ctrl-C sends.
const SIGNALS: [Signal; 2] = [Signal::TERM, Signal::INT];
/// A second signal counts as one only after 250 ms.
const APART: Duration = Duration::from_millis(300);
/// "At once", on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(3);

/// The exit waits 3 s until it takes the tunnel for dead and 30 s more for its peer to come back.
const GIVEN_UP: Duration = Duration::from_secs(45);

/// A connection on which something went either way.
fn under_way(line: &Line, listener: &std::net::TcpListener) -> (TcpStream, TcpStream) {
    let mut client = line.connect();
    client.write_all(b"question").unwrap();
    let mut served = accept(listener);
    served.read_exact(&mut [0; 8]).unwrap();
    served.write_all(b"begin").unwrap();
    client.read_exact(&mut [0; 5]).unwrap();
    (client, served)
}

/// The rest of a transfer, both ways, up to its clean end.
fn finish(mut client: TcpStream, mut served: TcpStream) {
    let (up, down) = (pattern(1, 1_000_000), pattern(2, 3_000_000));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut got = Vec::new();
            served.read_to_end(&mut got).unwrap();
            assert_same(&got, &up, "what the origin was sent");
            served.write_all(&down).unwrap();
            served.shutdown(Shutdown::Write).unwrap();
        });
        client.write_all(&up).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut got = Vec::new();
        client.read_to_end(&mut got).unwrap();
        assert_same(&got, &down, "what the client was sent");
    });
}

fn an_entry_that_drains_finishes_what_runs_and_refuses_what_is_new(pair: Way) {
    for signal in SIGNALS {
        let (listener, origin) = listen();
        let mut line = Plan::lossy(origin).start(pair);
        let (client, served) = under_way(&line, &listener);
        line.entry.signal(signal);
        line.entry.wait_for("draining", |status| status["draining"] == true);
        let refused = client::try_connect(line.door(), AT_ONCE).map(drop);
        assert!(refused.is_err_and(|e| client::is_broken(&e)), "a new client is not refused");
        assert!(line.entry.is_running(), "it does not wait for what runs");
        finish(client, served);
        let status = line.entry.wait_exit(AT_ONCE);
        assert_eq!(status.code(), Some(0), "{signal:?}");
        line.exit.wait_idle();
        assert!(line.exit.is_running());
    }
}

fn an_exit_that_drains_finishes_what_runs(pair: Way) {
    for signal in SIGNALS {
        let (listener, origin) = listen();
        let mut line = Plan::lossy(origin).start(pair);
        let (client, served) = under_way(&line, &listener);
        line.exit.signal(signal);
        line.exit.wait_for("draining", |status| status["draining"] == true);
        assert!(line.exit.is_running(), "it does not wait for what runs");
        finish(client, served);
        let status = line.exit.wait_exit(AT_ONCE);
        assert_eq!(status.code(), Some(0), "{signal:?}");
        line.entry.wait_idle();
        assert!(line.entry.is_running());
    }
}

fn an_exit_that_drains_resets_what_is_new_and_spares_what_runs(pair: Way) {
    let (listener, origin) = listen();
    let mut line = Plan::lossy(origin).start(pair);
    let (client, served) = under_way(&line, &listener);
    line.exit.signal(Signal::TERM);
    line.exit.wait_for("draining", |status| status["draining"] == true);
    let mut late = line.connect();
    // It may be told of the reset already here.
    let _ = late.write_all(b"question");
    let start = Instant::now();
    expect_reset(&late, "a client of a draining exit");
    let elapsed = start.elapsed();
    assert!(elapsed < AT_ONCE, "a new client is reset only after {elapsed:.1?}");
    finish(client, served);
    assert_eq!(line.exit.wait_exit(AT_ONCE).code(), Some(0));
}

fn a_second_signal_ends_at_once_and_resets_what_runs(pair: Way) {
    for signal in SIGNALS {
        let (listener, origin) = listen();
        let mut line = Plan::lossy(origin).start(pair);
        let (client, _served) = under_way(&line, &listener);
        line.entry.signal(signal);
        line.entry.wait_for("draining", |status| status["draining"] == true);
        // Before that, a second signal is taken for the first: some supervisors send both.
        line.entry.signal(signal);
        std::thread::sleep(APART);
        assert!(line.entry.is_running(), "signals close to each other are one");
        line.entry.signal(signal);
        let status = line.entry.wait_exit(AT_ONCE);
        assert_eq!(status.code(), Some(0), "{signal:?}");
        expect_reset(&client, "the client");
    }
}

fn an_entry_that_stops_at_once_and_stays_away_is_a_reset_at_the_origin(pair: Way) {
    let (listener, origin) = listen();
    let mut line = Plan::lossy(origin).start(pair);
    let (_client, served) = under_way(&line, &listener);
    line.entry.signal(Signal::TERM);
    line.entry.wait_for("draining", |status| status["draining"] == true);
    std::thread::sleep(APART);
    line.entry.signal(Signal::TERM);
    line.entry.wait_exit(AT_ONCE);
    client::patient(&served, GIVEN_UP).unwrap();
    expect_reset(&served, "the origin");
    line.exit.wait_idle();
}

fn an_idle_pop_ends_when_told(pair: Way) {
    for signal in SIGNALS {
        let mut line = Plan::lossy(listen().1).start(pair);
        for pop in [&mut line.entry, &mut line.exit] {
            pop.signal(signal);
            assert_eq!(pop.wait_exit(AT_ONCE).code(), Some(0), "{signal:?}");
        }
    }
}

on_every!(
    way:
    an_exit_that_drains_finishes_what_runs,
    an_exit_that_drains_resets_what_is_new_and_spares_what_runs,
);

on_every!(
    pair:
    an_entry_that_drains_finishes_what_runs_and_refuses_what_is_new,
    a_second_signal_ends_at_once_and_resets_what_runs,
    an_idle_pop_ends_when_told,
);

// Half a minute of waiting. The entry's shell is gone before it begins.
on_every!(mixed pair: an_entry_that_stops_at_once_and_stays_away_is_a_reset_at_the_origin);
