//! Many connections at once.

use std::sync::{Barrier, Mutex, PoisonError};

use entrouter_tests::bytes::{assert_same, pattern};
use entrouter_tests::line::{Line, Plan};
use entrouter_tests::on_every;
use entrouter_tests::origin::Origin;
use entrouter_tests::shells::Way;
use entrouter_tests::{client, wait};

const CONNECTIONS: usize = 500;
/// About 20 KB each.
const BYTES: usize = 20_000;
/// More resident memory than before that a PoP may keep once all is over.
const KEPT: u64 = 64 << 20;

/// Both ends of all connections are this process': with two such tests at once it would need more file
/// descriptors than the usual limit of 1,024.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Every connection stands before the first ends: they are really all there at once.
fn all_at_once(line: &Line) {
    let all_stand = Barrier::new(CONNECTIONS);
    std::thread::scope(|scope| {
        for n in 0..CONNECTIONS {
            let all_stand = &all_stand;
            let run = move || {
                let stream = client::try_connect(line.door(), wait::PATIENCE);
                all_stand.wait();
                let stream = stream.unwrap_or_else(|e| panic!("connection {n}: {e}"));
                let question = pattern(n as u64, BYTES + n);
                let answer = client::exchange(&stream, &question);
                let answer = answer.unwrap_or_else(|e| panic!("connection {n}: {e}"));
                assert_same(&answer, &question, &format!("the echo of connection {n}"));
            };
            std::thread::Builder::new().stack_size(256 << 10).spawn_scoped(scope, run).unwrap();
        }
    });
}

fn five_hundred_connections_at_once_are_exact_and_leave_nothing_behind(pair: Way) {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let origin = Origin::echo();
    let mut line = Plan::lossy(origin.addr()).start(pair);
    line.assert_echoes();
    line.entry.wait_idle();
    line.exit.wait_idle();
    let before = [&line.entry, &line.exit].map(|pop| pop.resident());

    all_at_once(&line);

    for (pop, before) in [&line.entry, &line.exit].into_iter().zip(before) {
        let name = &pop.config.node_id;
        pop.wait_idle();
        if let Some(before) = before {
            let after = wait::until(&format!("{name} returns its memory"), || {
                pop.resident().filter(|now| *now < before + KEPT)
            });
            println!("{name}: {} KiB before, {} KiB after", before >> 10, after >> 10);
        }
    }
    line.assert_running();
}

on_every!(
    way:
    five_hundred_connections_at_once_are_exact_and_leave_nothing_behind,
);
