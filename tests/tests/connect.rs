//! What is of a connector alone: whom it trusts, its tickets, and what lies between it and its edge. That
//! programs are served by it as by the edge itself, the other tests show, which `on_every!(way: …)` runs
//! through a connector, too.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use entrouter_sim::link::{LinkConfig, Loss};
use entrouter_tests::bytes::{assert_same, pattern};
use entrouter_tests::client::{self, expect_reset};
use entrouter_tests::connector::Connector;
use entrouter_tests::detour::Detour;
use entrouter_tests::line::{Line, Plan};
use entrouter_tests::origin::{Origin, accept, listen};
use entrouter_tests::shells::Shell;
use entrouter_tests::tls::Pair;
use entrouter_tests::{on_every, wait};
use rustix::process::Signal;

/// "At once", on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(3);
/// Longer than a connector waits before it tries to reach its edge again.
const SOON: Duration = Duration::from_secs(40);
const DETOUR: Duration = Duration::from_millis(20);
const OCEAN: Duration = Duration::from_millis(100);

/// Of the core's tests: a certificate for 127.0.0.1 and edge.example, its key, and its authority.
fn testdata(name: &str) -> PathBuf {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../proto-core/src/edge/testdata");
    PathBuf::from(folder).join(name)
}

fn certified(plan: Plan) -> Plan {
    plan.tls(Pair { cert: testdata("ec.pem"), key: testdata("ec.key") })
}

fn root() -> String {
    testdata("root.pem").to_str().expect("UTF-8").to_owned()
}

/// A connector of this shell to that edge.
#[track_caller]
fn connect(shell: Shell, line: &Line, edge: SocketAddr) -> Connector {
    Connector::start(shell, edge, &["--fingerprint", &line.entry.fingerprint()])
}

#[track_caller]
fn assert_echoes(connector: &Connector, len: usize) {
    let question = pattern(9, len);
    let answer = client::exchange(&client::connect(connector.addr()), &question);
    assert_same(&answer.unwrap_or_else(|e| panic!("{e}")), &question, "echo");
}

fn an_authority_or_a_fingerprint_is_trusted_and_nobody_else([shell]: [Shell; 1]) {
    let origin = Origin::echo();
    let line = certified(Plan::direct(origin.addr())).quic().start([shell, shell]);
    let (edge, print, root) = (line.entry.quic(), line.entry.fingerprint(), root());
    let plain = print.replace(':', "").to_lowercase();
    for trusted in [
        &["--fingerprint", &print][..],
        &["--fingerprint", &plain],
        &["--ca", &root],
        &["--ca", &root, "--server-name", "edge.example"],
        &["--ca", &root, "--no-0rtt"],
    ] {
        assert_echoes(&Connector::start(shell, edge, trusted), 100_000);
    }
    let other = format!("00{}", &plain[2..]);
    let stranger = testdata("stranger.pem");
    for (refused, why) in [
        (&["--fingerprint", &other][..], "not the one with the fingerprint"),
        (&["--ca", stranger.to_str().unwrap()], "an authority that is not trusted"),
        (&["--ca", &root, "--server-name", "other.example"], "other.example"),
        (&["--ca", &root, "--alpn", "other"], "(ALPN)"),
    ] {
        let connector = Connector::start(shell, edge, refused);
        let client = client::connect(connector.addr());
        connector.running().wait_log(why);
        connector.running().wait_log("next try in");
        // Whom nobody serves is told so.
        expect_reset(&client, why);
    }
}

fn an_edge_that_comes_later_is_found([shell]: [Shell; 1]) {
    let origin = Origin::echo();
    let mut line = certified(Plan::direct(origin.addr())).quic().start([shell, shell]);
    line.entry.kill();
    let connector = Connector::start(shell, line.entry.quic(), &["--ca", &root()]);
    let early_bird = client::connect(connector.addr());
    line.entry.restart();
    line.wait_up();
    // It waited for the edge all the time.
    assert_eq!(client::ask(&early_bird, b"at last").unwrap(), b"at last");
    assert_echoes(&connector, 100_000);
}

fn a_connector_that_was_restarted_begins_with_its_request([shell]: [Shell; 1]) {
    let origin = Origin::echo();
    let line = Plan::direct(origin.addr()).quic().start([shell, shell]);
    let mut connector = connect(shell, &line, line.entry.quic());
    assert_echoes(&connector, 1_000);
    connector.wait_tickets();
    assert!(connector.log().contains("early=false") && !connector.log().contains("early=true"));
    for n in 1..=20 {
        connector.restart();
        assert_echoes(&connector, 1_000);
        connector.wait_up();
        let mode = std::fs::metadata(connector.tickets()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "restart {n}");
    }
    // Now and then one begins anew: what is kept does not grow for ever.
    let early = connector.log().matches("early=true").count();
    assert!(early >= 17, "{early} of 20 restarts were early");
    // Not those of another time.
    std::fs::write(connector.tickets(), "no tickets").unwrap();
    connector.restart();
    assert_echoes(&connector, 1_000);
    connector.running().wait_log("early=false");
}

/// From the beginning of the connector to the first byte of the answer, far away.
fn time_to_first_byte(connector: &Connector, begin: Instant) -> Duration {
    let mut stream = client::connect(connector.addr());
    stream.write_all(b"?").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    begin.elapsed()
}

fn a_returning_client_saves_the_round_trip_of_the_handshake([shell]: [Shell; 1]) {
    let origin = Origin::echo();
    let line = Plan::far(origin.addr(), OCEAN).quic().start([shell, shell]);
    let link = LinkConfig { delay: DETOUR, ..LinkConfig::default() };
    let detour = Detour::over(&link, line.entry.quic());
    let mut connector = connect(shell, &line, detour.addr());
    let new = time_to_first_byte(&connector, Instant::now());
    let mut returning = Vec::new();
    for _ in 0..5 {
        connector.wait_tickets();
        connector.restart();
        returning.push(time_to_first_byte(&connector, Instant::now()));
        connector.wait_up();
    }
    println!("{shell}: first byte after {new:.1?}, of returning clients after {returning:.1?}");
    assert!(connector.log().contains("early=true"));
    let (soonest, latest) = (2 * (DETOUR + OCEAN), Duration::from_millis(400));
    let best = returning.into_iter().min().unwrap();
    assert!(best >= soonest, "{best:?}: faster than light");
    assert!(best < latest, "{best:?}");
}

/// Large transfers both ways while something is done to the way to the edge.
fn exact_while(connector: &Connector, mut act: impl FnMut(usize)) {
    let question = pattern(4, 8_000_000);
    let stream = client::connect(connector.addr());
    let mut half = vec![0; question.len()];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            (&stream).write_all(&question).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        });
        for (n, part) in half.chunks_mut(question.len() / 8).enumerate() {
            (&stream).read_exact(part).unwrap();
            act(n);
        }
    });
    assert_eq!((&stream).read(&mut [0]).unwrap(), 0);
    assert_same(&half, &question, "echo");
}

fn a_client_whose_address_changes_goes_on([shell]: [Shell; 1]) {
    let origin = Origin::echo();
    let line = Plan::lossy(origin.addr()).quic().start([shell, shell]);
    let detour = Detour::start(line.entry.quic());
    let connector = connect(shell, &line, detour.addr());
    exact_while(&connector, |n| {
        if n % 2 == 0 {
            detour.rebind();
        }
    });
    let log = connector.log();
    assert_eq!(log.matches("connected to the edge").count(), 1, "it was one connection");
    line.entry.wait_idle();
}

fn losses_before_the_edge_cost_no_byte([shell]: [Shell; 1]) {
    let origin = Origin::echo();
    let line = Plan::lossy(origin.addr()).quic().start([shell, shell]);
    let loss = Loss::Bernoulli { average: 0.1 };
    let link = LinkConfig { delay: Duration::from_millis(5), loss, ..LinkConfig::default() };
    let detour = Detour::over(&link, line.entry.quic());
    let connector = connect(shell, &line, detour.addr());
    exact_while(&connector, |_| {});
    line.entry.wait_idle();
    assert!(detour.passed() > 1_000);
}

/// A program has asked and heard the beginning of its answer.
fn under_way(connector: &Connector, listener: &std::net::TcpListener) -> (TcpStream, TcpStream) {
    let mut client = client::connect(connector.addr());
    client.write_all(b"question").unwrap();
    let mut served = accept(listener);
    served.read_exact(&mut [0; 8]).unwrap();
    served.write_all(b"begin").unwrap();
    client.read_exact(&mut [0; 5]).unwrap();
    (client, served)
}

fn a_connector_that_drains_finishes_what_runs_and_takes_nothing_new([shell]: [Shell; 1]) {
    for signal in [Signal::TERM, Signal::INT] {
        let (listener, origin) = listen();
        let line = Plan::lossy(origin).quic().start([shell, shell]);
        let mut connector = connect(shell, &line, line.entry.quic());
        let (mut client, mut served) = under_way(&connector, &listener);
        connector.process().signal(signal);
        connector.running().wait_log("draining");
        wait::until("a new program is refused", || {
            let refused = client::try_connect(connector.addr(), AT_ONCE).map(drop);
            refused.is_err_and(|e| client::is_broken(&e)).then_some(())
        });
        let bytes = pattern(3, 3_000_000);
        served.write_all(&bytes).unwrap();
        served.shutdown(Shutdown::Write).unwrap();
        let mut got = Vec::new();
        client.read_to_end(&mut got).unwrap();
        assert_same(&got, &bytes, "the rest of the answer");
        client.write_all(b"thanks").unwrap();
        drop(client);
        let mut said = Vec::new();
        served.read_to_end(&mut said).unwrap();
        assert_eq!(said, b"thanks");
        assert_eq!(connector.wait_exit(AT_ONCE), Some(0), "{signal:?}");
        line.entry.wait_idle();
    }
}

fn a_second_signal_and_a_crash_are_resets_at_both_ends([shell]: [Shell; 1]) {
    let (listener, origin) = listen();
    let line = Plan::lossy(origin).quic().start([shell, shell]);
    let mut connector = connect(shell, &line, line.entry.quic());
    let (client, served) = under_way(&connector, &listener);
    connector.process().signal(Signal::INT);
    connector.running().wait_log("draining");
    // Before that, a second signal is taken for the first.
    std::thread::sleep(Duration::from_millis(300));
    connector.process().signal(Signal::INT);
    assert_eq!(connector.wait_exit(AT_ONCE), Some(0));
    expect_reset(&client, "the program");
    client::patient(&served, SOON).unwrap();
    expect_reset(&served, "the origin");
    connector.restart();
    let (client, served) = under_way(&connector, &listener);
    connector.process().kill();
    expect_reset(&client, "the program of a connector that crashed");
    client::patient(&served, SOON).unwrap();
    expect_reset(&served, "its origin");
    line.entry.wait_idle();
}

fn an_edge_that_drains_finishes_what_runs_and_is_found_again([shell]: [Shell; 1]) {
    let (listener, origin) = listen();
    let mut line = certified(Plan::lossy(origin)).quic().start([shell, shell]);
    let connector = Connector::start(shell, line.entry.quic(), &["--ca", &root()]);
    let (mut client, mut served) = under_way(&connector, &listener);
    line.entry.signal(Signal::TERM);
    line.entry.wait_for("draining", |status| status["draining"] == true);
    let late = client::connect(connector.addr());
    let _ = (&late).write_all(b"question");
    expect_reset(&late, "who comes later");
    served.write_all(b"the end").unwrap();
    drop(served);
    let mut got = Vec::new();
    client.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"the end");
    drop(client);
    assert_eq!(line.entry.wait_exit(AT_ONCE).code(), Some(0));
    line.entry.restart();
    line.wait_up();
    wait::until_within(SOON, "the edge is found again", || {
        let mut client = client::try_connect(connector.addr(), AT_ONCE).ok()?;
        client.write_all(b"?").ok()?;
        listener.set_nonblocking(true).ok()?;
        listener.accept().ok()
    });
}

on_every!(
    shell:
    an_authority_or_a_fingerprint_is_trusted_and_nobody_else,
    an_edge_that_comes_later_is_found,
    a_connector_that_was_restarted_begins_with_its_request,
    a_returning_client_saves_the_round_trip_of_the_handshake,
    a_client_whose_address_changes_goes_on,
    losses_before_the_edge_cost_no_byte,
    a_connector_that_drains_finishes_what_runs_and_takes_nothing_new,
    a_second_signal_and_a_crash_are_resets_at_both_ends,
    an_edge_that_drains_finishes_what_runs_and_is_found_again,
);
