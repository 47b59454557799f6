//! Traffic goes over a relay where that is the shorter way, and around it when it dies.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use entrouter_tests::bytes::{assert_same, pattern};
use entrouter_tests::origin::Origin;
use entrouter_tests::shells::Shell;
use entrouter_tests::triangle::{DIRECT, OVER_RELAY, Triangle};
use entrouter_tests::{client, on_every};

/// Ten times what it may take on a machine that has nothing else to do: 2 s to find the way, 1 s until
/// data flows again, 3 s until a relay that is back is used again.
const FOUND: Duration = Duration::from_secs(20);
const FLOWS: Duration = Duration::from_secs(10);
const USED_AGAIN: Duration = Duration::from_secs(30);

/// Some seconds at the links' 40 Mbit/s.
const SIZE: usize = 16_000_000;

/// Sends a pattern, whatever is asked.
fn origin() -> Origin {
    Origin::start(|mut stream| {
        let mut question = Vec::new();
        stream.read_to_end(&mut question)?;
        stream.write_all(&pattern(9, SIZE))?;
        stream.shutdown(Shutdown::Write)
    })
}

/// Downloads the pattern and checks it; `halfway` is called once. The longest time without a byte.
fn download(mesh: &mut Triangle, halfway: impl FnOnce(&mut Triangle)) -> Duration {
    let mut stream = client::connect(mesh.entry.tcp());
    stream.shutdown(Shutdown::Write).expect("a half can be closed");
    let (mut got, mut buf) = (Vec::with_capacity(SIZE), vec![0; 64 << 10]);
    let (mut halfway, mut longest) = (Some(halfway), Duration::ZERO);
    let mut last = Instant::now();
    loop {
        let read = stream.read(&mut buf).unwrap_or_else(|e| panic!("after {}: {e}", got.len()));
        longest = longest.max(last.elapsed());
        last = Instant::now();
        if read == 0 {
            break;
        }
        got.extend_from_slice(&buf[..read]);
        if got.len() >= SIZE / 2
            && let Some(halfway) = halfway.take()
        {
            halfway(mesh);
        }
    }
    assert_same(&got, &pattern(9, SIZE), "the download");
    longest
}

fn a_relay_that_dies_in_mid_transfer_costs_a_pause_and_no_byte_and_is_used_again_when_it_is_back(
    trio: [Shell; 3],
) {
    let origin = origin();
    let mut mesh = Triangle::start(trio, origin.addr());
    mesh.wait_way(&OVER_RELAY, FOUND);

    let longest = download(&mut mesh, |mesh| mesh.relay.kill());
    println!("{trio:?}: nothing arrived for {longest:.2?} when the relay died");
    assert!(longest < FLOWS, "nothing arrived for {longest:?}");
    mesh.wait_way(&DIRECT, FLOWS);

    mesh.relay.restart();
    mesh.wait_way(&OVER_RELAY, USED_AGAIN);
    download(&mut mesh, |_| ());
    let relayed = mesh.relay.status()["transit"]["bytes"].as_u64();
    assert!(relayed.is_some_and(|bytes| bytes >= SIZE as u64), "{relayed:?} bytes relayed");
    mesh.assert_linked();
    for pop in [&mut mesh.entry, &mut mesh.relay, &mut mesh.exit] {
        assert!(pop.is_running(), "{} has ended", pop.config.node_id);
    }
    mesh.entry.wait_idle();
    mesh.exit.wait_idle();
}

on_every!(
    trio:
    a_relay_that_dies_in_mid_transfer_costs_a_pause_and_no_byte_and_is_used_again_when_it_is_back,
);
