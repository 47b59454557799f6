//! A reset crosses the line as a reset, whoever began.

use std::io::{Read, Write};
use std::net::TcpStream;

use entrouter_tests::client::{self, expect_reset};
use entrouter_tests::for_each_shell;
use entrouter_tests::line::Plan;
use entrouter_tests::origin::{Origin, accept, listen, nobody};

/// A client has asked and its origin has heard it; what follows leaves nothing behind in the PoPs.
fn after_a_question(then: impl Fn(TcpStream, TcpStream)) {
    for_each_shell(|shell| {
        let (listener, origin) = listen();
        let line = Plan::lossy(origin).start(shell);
        let mut client = line.connect();
        client.write_all(b"question").unwrap();
        let mut served = accept(&listener);
        served.read_exact(&mut [0; 8]).unwrap();
        then(client, served);
        line.entry.wait_idle();
        line.exit.wait_idle();
    });
}

#[test]
fn a_reset_of_the_client_reaches_the_origin() {
    after_a_question(|client, served| {
        client::reset(client);
        expect_reset(&served, "the origin");
    });
}

#[test]
fn a_reset_of_the_origin_reaches_the_client() {
    after_a_question(|mut client, mut served| {
        served.write_all(b"an answer that is begun").unwrap();
        client.read_exact(&mut [0; 5]).unwrap();
        client::reset(served);
        expect_reset(&client, "the client");
    });
}

#[test]
fn a_refused_origin_and_an_unknown_service_are_resets_and_harm_nobody_else() {
    for_each_shell(|shell| {
        let echo = Origin::echo();
        for (service, known) in [("dead", true), ("unknown", false)] {
            let mut plan = Plan::lossy(echo.addr()).edge(service);
            if known {
                plan = plan.service(service, nobody());
            }
            let mut line = plan.start(shell);
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
    });
}
