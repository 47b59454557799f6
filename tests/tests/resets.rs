//! A reset crosses the line as a reset, whoever began.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use entrouter_tests::client::{self, expect_reset};
use entrouter_tests::line::{Line, Plan};
use entrouter_tests::on_every;
use entrouter_tests::origin::{Origin, accept, listen, nobody};
use entrouter_tests::pop::Pop;
use entrouter_tests::shells::Way;
use entrouter_tests::wait;

/// Nothing is taken for so long: everything on the way is full.
const FULL: Duration = Duration::from_millis(300);

/// A client has asked and its origin has heard it; what follows leaves nothing behind in the PoPs.
fn after_a_question(pair: Way, then: impl Fn(&Line, TcpStream, TcpStream)) {
    let (listener, origin) = listen();
    let line = Plan::lossy(origin).start(pair);
    let mut client = line.connect();
    client.write_all(b"question").unwrap();
    let mut served = accept(&listener);
    served.read_exact(&mut [0; 8]).unwrap();
    then(&line, client, served);
    line.entry.wait_idle();
    line.exit.wait_idle();
}

fn a_reset_of_the_client_reaches_the_origin(pair: Way) {
    after_a_question(pair, |_, client, served| {
        client::reset(client);
        expect_reset(&served, "the origin");
    });
}

fn a_reset_of_the_origin_reaches_the_client(pair: Way) {
    after_a_question(pair, |_, mut client, mut served| {
        served.write_all(b"an answer that is begun").unwrap();
        client.read_exact(&mut [0; 5]).unwrap();
        client::reset(served);
        expect_reset(&client, "the client");
    });
}

/// Writes until nothing more is taken for a while: all on the way is full.
fn fill(mut stream: &TcpStream) {
    stream.set_write_timeout(Some(FULL)).unwrap();
    let blocked = |e: &std::io::Error| e.kind() == std::io::ErrorKind::WouldBlock;
    let filled = std::iter::repeat_with(|| stream.write(&[5; 64 << 10])).find_map(Result::err);
    assert!(filled.as_ref().is_some_and(blocked), "{filled:?}");
}

/// Fails unless the connection, on which nothing more was to be read, is broken.
#[track_caller]
fn expect_broken(mut stream: &TcpStream, what: &str) {
    let error = wait::until(what, || stream.write(&[0]).err());
    assert!(client::is_broken(&error), "{what}: {error}");
}

/// Waits until a PoP has let go of the connection, before anything more is read or written.
#[track_caller]
fn wait_noticed(pop: &Pop) {
    pop.wait_for("the reset is noticed", |status| {
        status["tcp_flows"] == 0 && status["quic_flows"] == 0
    });
}

fn a_reset_of_a_client_is_noticed_while_nothing_may_be_read_from_it(pair: Way) {
    after_a_question(pair, |line, client, served| {
        fill(&client);
        client::reset(client);
        wait_noticed(&line.entry);
        expect_reset(&served, "the origin, which had not read");
    });
}

fn a_reset_of_an_origin_is_noticed_while_nothing_may_be_read_from_it(pair: Way) {
    after_a_question(pair, |line, client, served| {
        fill(&served);
        client::reset(served);
        wait_noticed(&line.exit);
        expect_reset(&client, "the client, which had not read");
    });
}

fn a_reset_of_a_client_is_noticed_after_it_closed_its_half(pair: Way) {
    after_a_question(pair, |line, client, mut served| {
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(served.read(&mut [0]).unwrap(), 0);
        client::reset(client);
        wait_noticed(&line.entry);
        expect_broken(&served, "the origin, which had not answered");
    });
}

fn a_reset_of_an_origin_is_noticed_after_it_closed_its_half(pair: Way) {
    after_a_question(pair, |line, mut client, served| {
        served.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        client::reset(served);
        wait_noticed(&line.exit);
        expect_broken(&client, "the client, which had not closed");
    });
}

fn a_refused_origin_and_an_unknown_service_are_resets_and_harm_nobody_else(pair: Way) {
    let echo = Origin::echo();
    for (service, known) in [("dead", true), ("unknown", false)] {
        let mut plan = Plan::lossy(echo.addr()).edge(service);
        if known {
            plan = plan.service(service, nobody());
        }
        let mut line = plan.start(pair);
        for _ in 0..20 {
            // With and without a first word: an open travels with the first bytes.
            let silent = line.edge();
            let mut talking = line.edge();
            // It may be told of the reset already here.
            let _ = talking.write_all(b"question");
            expect_reset(&silent, &format!("a silent client of a service that is {service}"));
            expect_reset(&talking, &format!("a client of a service that is {service}"));
        }
        line.assert_echoes();
        line.entry.wait_idle();
        line.exit.wait_idle();
        line.assert_running();
        let lines = line.exit.log().lines().count();
        assert!(lines < 20, "{lines} lines of log for 40 connections");
    }
}

on_every!(
    way:
    a_reset_of_the_client_reaches_the_origin,
    a_reset_of_the_origin_reaches_the_client,
    a_reset_of_a_client_is_noticed_while_nothing_may_be_read_from_it,
    a_reset_of_an_origin_is_noticed_while_nothing_may_be_read_from_it,
    a_reset_of_a_client_is_noticed_after_it_closed_its_half,
    a_reset_of_an_origin_is_noticed_after_it_closed_its_half,
    a_refused_origin_and_an_unknown_service_are_resets_and_harm_nobody_else,
);
