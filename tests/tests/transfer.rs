//! Bytes arrive, all of them, once, in order.

use std::io::{Read, Write};
use std::net::{Shutdown, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use entrouter_tests::bytes::{assert_same, pattern, sha256};
use entrouter_tests::client;
use entrouter_tests::line::Plan;
use entrouter_tests::origin::Origin;
use entrouter_tests::scratch::Scratch;
use entrouter_tests::shells::Way;
use entrouter_tests::web::{HttpServer, curl, has_curl};
use entrouter_tests::{on_every, skip};

fn a_download_of_200_mb_by_curl_is_exact(pair: Way) {
    const SIZE: usize = 200_000_000;
    if !has_curl() {
        skip!("no curl");
    }
    let dir = Scratch::new();
    let content = pattern(1, SIZE);
    let wanted = sha256(&content);
    std::fs::write(dir.path().join("file"), content).unwrap();
    let Some(server) = HttpServer::start(dir.path()) else {
        skip!("no python3 that serves HTTP");
    };
    let line = Plan::direct(server.addr()).start(pair);
    let start = Instant::now();
    let got = curl(&[&format!("http://{}/file", line.door())]);
    let elapsed = start.elapsed();
    assert_eq!((got.len(), sha256(&got)), (SIZE, wanted));
    let rate = SIZE as f64 * 8e-6 / elapsed.as_secs_f64();
    println!("{pair:?}: 200 MB in {elapsed:.1?}, {rate:.0} Mbit/s");
}

fn a_client_that_closes_its_half_first_gets_the_whole_answer(pair: Way) {
    /// Reads a question to its end, and only then answers: with as many bytes as it says.
    fn answer_later() -> Origin {
        Origin::start(|mut stream| {
            let mut question = Vec::new();
            stream.read_to_end(&mut question)?;
            let length = u64::from_be_bytes(question[..8].try_into().expect("8 bytes")) as usize;
            assert_same(&question[8..], &pattern(2, question.len() - 8), "question");
            stream.write_all(&pattern(3, length))?;
            stream.shutdown(Shutdown::Write)
        })
    }
    let origin = answer_later();
    let line = Plan::lossy(origin.addr()).start(pair);
    let sizes = [
        (0, 0),
        (0, 1),
        (1, 1_400),
        (0, 65_536),
        (100, 1_000_000),
        (300_000, 10),
        (2_000_000, 0),
        (1_000_000, 5_000_000),
    ];
    for (asked, answered) in sizes {
        let mut question = (answered as u64).to_be_bytes().to_vec();
        question.extend(pattern(2, asked));
        let answer = client::ask(&line.connect(), &question);
        let answer = answer.unwrap_or_else(|e| panic!("{asked} and {answered} bytes: {e}"));
        assert_same(&answer, &pattern(3, answered), &format!("the answer to {asked} bytes"));
    }
}

fn stray_datagrams_neither_disturb_a_transfer_nor_cost_memory(pair: Way) {
    const DATAGRAMS: usize = 20_000;
    /// Half of it may be what the transfer itself needs.
    const GROWTH: u64 = 64 << 20;
    let origin = Origin::echo();
    let line = Plan::lossy(origin.addr()).start(pair);
    let pops = [&line.entry, &line.exit];
    let warm_up = pattern(4, 4_000_000);
    assert_same(&client::exchange(&line.connect(), &warm_up).unwrap(), &warm_up, "warm-up");
    let before = pops.map(|pop| pop.resident());

    let sprayed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let noise = pattern(5, 1 << 20);
            for n in 0..DATAGRAMS {
                // Lengths from 0 on; the first byte, a packet's kind, is a likely one in half.
                let (at, length) = (n * 37 % (noise.len() - 2_000), n * 7 % 1_500);
                let mut datagram = noise[at..at + length].to_vec();
                if let (0, Some(kind)) = (n % 2, datagram.first_mut()) {
                    *kind %= 8;
                }
                let to = pops[n / 2 % 2].config.relay;
                // An error is one of the socket's buffer: the datagram is lost, as others are.
                let _ = socket.send_to(&datagram, to);
                if n % 50 == 0 {
                    // Not to drown the transfer in the kernel's receive buffer.
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            sprayed.store(true, Ordering::Release);
        });
        // Transfers for as long as it rains.
        let question = pattern(6, 2_000_000);
        let mut transfers = 0;
        while transfers == 0 || !sprayed.load(Ordering::Acquire) {
            let answer = client::exchange(&line.connect(), &question);
            let answer = answer.unwrap_or_else(|e| panic!("transfer {transfers}: {e}"));
            assert_same(&answer, &question, "echo");
            transfers += 1;
        }
        println!("{pair:?}: {transfers} transfers beside {DATAGRAMS} datagrams");
    });

    for (pop, before) in pops.into_iter().zip(before) {
        let status = pop.status();
        let refused = status["counters"]["stray_datagrams"].as_u64().unwrap()
            + status["peers"][0]["counters"]["bad_packets"].as_u64().unwrap();
        assert!(refused > 1_000, "{}: only {refused} were refused", pop.config.node_id);
        if let (Some(before), Some(after)) = (before, pop.resident()) {
            let (name, grown) = (&pop.config.node_id, after.saturating_sub(before));
            println!("{name}: {refused} refused, memory grew by {} KiB", grown >> 10);
            assert!(grown < GROWTH, "{name} grew from {before} to {after} bytes");
        }
        assert!(pop.log().lines().count() < 30, "a line per datagram");
    }
}

on_every!(
    way:
    a_download_of_200_mb_by_curl_is_exact,
    a_client_that_closes_its_half_first_gets_the_whole_answer,
);

on_every!(
    pair:
    stray_datagrams_neither_disturb_a_transfer_nor_cost_memory,
);
