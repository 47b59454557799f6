//! The QUIC edge and a client that nobody here wrote.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::path::Path;
use std::sync::{Arc, Mutex};

use entrouter_tests::aioquic::{Aioquic, Outcome};
use entrouter_tests::bytes::{assert_same, pattern, sha256};
use entrouter_tests::client::expect_reset;
use entrouter_tests::line::{Line, Plan};
use entrouter_tests::origin::{Origin, accept, listen, nobody};
use entrouter_tests::shells::Shell;
use entrouter_tests::{cases, skip};

const ALPN: &str = "entrouter";
/// What a stream is told when its origin broke off.
const FAILED: u64 = 1;

/// Two PoPs, the entry with a QUIC edge, and a client; or nothing, and why.
fn edge(pair: [Shell; 2], plan: Plan) -> Result<(Line, Aioquic), String> {
    let aioquic = Aioquic::install(Path::new(env!("CARGO_TARGET_TMPDIR")))?;
    Ok((plan.quic().start(pair), aioquic))
}

fn run(line: &Line, aioquic: &Aioquic, mode: &str, questions: &[&[u8]]) -> Outcome {
    aioquic.run(mode, line.entry.quic().port(), ALPN, questions)
}

macro_rules! edge_or_skip {
    ($pair:expr, $plan:expr) => {
        match edge($pair, $plan) {
            Ok(edge) => edge,
            Err(why) => skip!("no aioquic: {why}"),
        }
    };
}

fn ten_megabytes_and_other_streams_beside_them_are_exact(pair: [Shell; 2]) {
    let origin = Origin::echo();
    let (line, aioquic) = edge_or_skip!(pair, Plan::lossy(origin.addr()));
    // None is empty: aioquic 1.3.0 forgets an end without data that does not fit what may be under way.
    let sizes = [10_000_000, 1_000_000, 100_000, 70_000, 1_000, 1];
    let questions: Vec<_> = (0..).zip(sizes).map(|(n, size)| pattern(n, size)).collect();
    let all: Vec<_> = questions.iter().map(Vec::as_slice).collect();
    let outcome = run(&line, &aioquic, "ask", &all);
    for (n, question) in questions.iter().enumerate() {
        let answer = outcome.answer(n);
        let sums = [&answer, question].map(|bytes| (bytes.len(), sha256(bytes)));
        assert_eq!(sums[0], sums[1], "stream {n}");
    }
    assert_eq!(outcome.told["fingerprint"], line.entry.fingerprint(), "as the log tells it");
    assert_eq!(outcome.told["alpn"], ALPN);
    line.entry.wait_idle();
    line.exit.wait_idle();
}

fn a_stream_whose_client_closed_its_half_gets_the_whole_answer(pair: [Shell; 2]) {
    let origin = Origin::start(|mut stream| {
        let mut question = Vec::new();
        stream.read_to_end(&mut question)?;
        assert_same(&question, &pattern(1, question.len()), "question");
        stream.write_all(&pattern(2, 10 * question.len()))?;
        stream.shutdown(Shutdown::Write)
    });
    let (line, aioquic) = edge_or_skip!(pair, Plan::lossy(origin.addr()));
    let questions = [0, 1, 1_400, 300_000].map(|size| pattern(1, size));
    let outcome = run(&line, &aioquic, "ask", &questions.each_ref().map(Vec::as_slice));
    for (n, question) in questions.iter().enumerate() {
        let wanted = pattern(2, 10 * question.len());
        assert_same(&outcome.answer(n), &wanted, &format!("answer {n}"));
    }
}

fn a_reset_of_the_client_is_one_at_the_origin(pair: [Shell; 2]) {
    let (listener, origin) = listen();
    let (line, aioquic) = edge_or_skip!(pair, Plan::lossy(origin));
    std::thread::scope(|scope| {
        scope.spawn(|| run(&line, &aioquic, "reset", &[b"question"]));
        let mut served = accept(&listener);
        served.read_exact(&mut [0; 8]).unwrap();
        served.write_all(b"begin").unwrap();
        expect_reset(&served, "the origin");
    });
    line.entry.wait_idle();
    line.exit.wait_idle();
}

fn a_reset_of_the_origin_is_one_of_the_stream(pair: [Shell; 2]) {
    let (listener, origin) = listen();
    let (line, aioquic) = edge_or_skip!(pair, Plan::lossy(origin));
    let outcome = std::thread::scope(|scope| {
        let client = scope.spawn(|| run(&line, &aioquic, "await_reset", &[b"question"]));
        let mut served = accept(&listener);
        served.read_exact(&mut [0; 8]).unwrap();
        entrouter_tests::client::reset(served);
        client.join().unwrap()
    });
    assert_eq!((&outcome.told["reset"], &outcome.told["stop"]), (&FAILED.into(), &FAILED.into()));
    line.entry.wait_idle();
    line.exit.wait_idle();
}

fn an_origin_that_refuses_is_a_reset_of_the_stream(pair: [Shell; 2]) {
    let (line, aioquic) = edge_or_skip!(pair, Plan::lossy(nobody()));
    let outcome = run(&line, &aioquic, "await_reset", &[b"question"]);
    assert_eq!((&outcome.told["reset"], &outcome.told["stop"]), (&FAILED.into(), &FAILED.into()));
}

fn a_client_of_another_alpn_is_refused(pair: [Shell; 2]) {
    let (line, aioquic) = edge_or_skip!(pair, Plan::lossy(nobody()));
    let outcome = aioquic.run("refused", line.entry.quic().port(), "other", &[]);
    assert!(outcome.told["refused"].is_string(), "{}", outcome.told);
}

/// An echo, and what it was asked.
fn listening_echo() -> (Origin, Arc<Mutex<Vec<Vec<u8>>>>) {
    let heard = Arc::<Mutex<Vec<_>>>::default();
    let told = Arc::clone(&heard);
    let origin = Origin::start(move |mut stream| {
        let mut question = Vec::new();
        let read = stream.read_to_end(&mut question);
        told.lock().unwrap().push(question.clone());
        read?;
        stream.write_all(&question)?;
        stream.shutdown(Shutdown::Write)
    });
    (origin, heard)
}

fn a_first_flight_is_served_once_and_never_from_a_recording(pair: [Shell; 2]) {
    let (origin, heard) = listening_echo();
    let (line, aioquic) = edge_or_skip!(pair, Plan::lossy(origin.addr()));
    // More than one datagram; the second is sent under a ticket that was used.
    let (question, other) = (pattern(1, 5_000), pattern(2, 5_000));
    let outcome = run(&line, &aioquic, "early", &[&question, &other]);
    let told = &outcome.told;
    assert_eq!(told["first"], false, "nothing is early without a ticket");
    assert_eq!((&told["resumed"], &told["accepted"]), (&true.into(), &true.into()));
    assert_eq!(told["again"], false, "a ticket is used once");
    assert!(told["flight"].as_u64() >= Some(4), "the question was not in the first flight");
    assert!(told["replies"].as_u64() > Some(0), "the edge did not look at the recording");
    assert_same(&outcome.answer(0), &question, "the early answer");
    assert_same(&outcome.answer(1), &other, "the late answer");
    line.entry.wait_idle();
    line.exit.wait_idle();
    let heard = heard.lock().unwrap().clone();
    let count = |what: &[u8]| heard.iter().filter(|heard| *heard == what).count();
    assert_eq!((count(&question), count(&other), heard.len()), (1, 1, 2), "at the origin");
    let quic = &line.entry.status()["quic"];
    assert_eq!(quic["early"], 1, "{quic}");
    // The recording, and the ticket that was used.
    assert_eq!(quic["tickets_refused"], 2, "{quic}");
}

fn without_0rtt_a_returning_client_waits_and_is_served(pair: [Shell; 2]) {
    let (origin, heard) = listening_echo();
    let plan = Plan::lossy(origin.addr()).no_early_data();
    let (line, aioquic) = edge_or_skip!(pair, plan);
    let question = pattern(1, 5_000);
    let outcome = run(&line, &aioquic, "resume", &[&question]);
    assert_eq!(outcome.told["accepted"], false);
    assert_same(&outcome.answer(0), &question, "the answer");
    line.entry.wait_idle();
    assert_eq!(heard.lock().unwrap().len(), 1);
}

macro_rules! on_both {
    ($($test:ident),+ $(,)?) => { $(cases! { $test [mio_mio smol_smol] })+ };
}

on_both!(
    ten_megabytes_and_other_streams_beside_them_are_exact,
    a_stream_whose_client_closed_its_half_gets_the_whole_answer,
    a_reset_of_the_client_is_one_at_the_origin,
    a_reset_of_the_origin_is_one_of_the_stream,
    an_origin_that_refuses_is_a_reset_of_the_stream,
    a_client_of_another_alpn_is_refused,
    a_first_flight_is_served_once_and_never_from_a_recording,
    without_0rtt_a_returning_client_waits_and_is_served,
);
