//! What strangers send: anything at all, and real datagrams that were tampered with.

use std::time::Duration;

use proptest::prelude::*;

use super::world::{Path, World, pattern};

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// The datagrams of a whole connection, the client's side.
fn real() -> Vec<Vec<u8>> {
    let mut world = World::new(1, Path::clean(10));
    let n = world.client();
    world.keep_log = true;
    world.connect(n);
    let stream = world.clients[n].open(&pattern(1, 5_000), true);
    assert!(world.run(secs(2), |w| w.clients[n].streams[&stream].is_over()));
    world.log.into_iter().map(|(_, datagram)| datagram).collect()
}

fn still_serves(world: &mut World) {
    world.check_tables();
    let n = world.connected();
    let stream = world.clients[n].open(b"still there?", true);
    assert!(world.run(secs(5), |w| w.clients[n].streams[&stream].is_over()));
    assert_eq!(world.stream(n, stream).incoming, b"still there?");
}

#[test]
fn another_version_is_answered_only_if_it_came_in_a_large_datagram() {
    let mut world = World::new(3, Path::clean(10));
    let from = ([10, 5, 0, 1], 1).into();
    let mut datagram = vec![0xc0, 0xab, 0xcd, 0xef, 0x01, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0];
    world.inject(from, &datagram);
    assert_eq!(world.sent_by_node, 0);
    datagram.resize(1200, 0);
    world.inject(from, &datagram);
    assert!((1..100).contains(&world.sent_by_node), "{}", world.sent_by_node);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn anything_at_all_is_survived_and_answered_with_no_more_than_it_was(
        datagrams in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..1500), 1..30),
        first in prop::collection::vec(prop::sample::select(vec![0xc0u8, 0xd0, 0xe0, 0xf0, 0x40]), 30),
    ) {
        let mut world = World::new(1, Path::clean(10));
        for (mut datagram, first) in datagrams.into_iter().zip(first) {
            if let Some(byte) = datagram.first_mut() {
                *byte = first | *byte & 0x0f;
            }
            let before = world.sent_by_node;
            world.inject(([10, 5, 0, 1], 1).into(), &datagram);
            prop_assert!(world.sent_by_node - before <= datagram.len() as u64);
        }
        prop_assert_eq!(world.quic().connections, 0);
        still_serves(&mut world);
    }

    #[test]
    fn real_datagrams_that_were_tampered_with_are_survived(
        edits in prop::collection::vec(
            (0usize..60, 0usize..1500, any::<u8>(), 0usize..1500, 0u8..4), 1..40),
    ) {
        let real = real();
        let mut world = World::new(2, Path::clean(10));
        let n = world.connected();
        let stream = world.clients[n].open(&pattern(1, 50_000), true);
        for (which, at, byte, len, how) in edits {
            let mut datagram = real[which % real.len()].clone();
            let at = at % datagram.len();
            match how {
                0 => datagram[at] = byte,
                1 => datagram.truncate(len),
                2 => datagram.extend(real[(which + 1) % real.len()].iter().take(at)),
                _ => datagram.rotate_left(at),
            }
            // From a stranger, and from the client that is being served.
            let from = if byte % 2 == 0 { world.clients[n].addr } else { ([10, 5, 0, 2], 1).into() };
            world.inject(from, &datagram);
            world.pass(Duration::from_millis(3));
        }
        assert!(world.run(secs(20), |w| w.clients[n].streams[&stream].is_over()));
        prop_assert!(world.stream(n, stream).incoming == pattern(1, 50_000));
        world.pass(secs(15));
        still_serves(&mut world);
    }

    #[test]
    fn what_the_served_client_sends_may_be_damaged_doubled_and_late(
        seed in any::<u64>(),
        loss in 0.0f64..0.3,
        corrupt in 0.0f64..0.2,
        duplicate in 0.0f64..0.5,
        jitter in 0u64..60,
        ends in prop::collection::vec((0u8..6, 0u64..400), 1..12),
    ) {
        let jitter = Duration::from_millis(jitter);
        let path = Path { corrupt, duplicate, jitter, ..Path::lossy(20, loss) };
        let mut world = World::new(seed, path);
        let n = world.client();
        world.connect(n);
        world.run(secs(9), |w| w.clients[n].connected.is_some());
        for (what, wait) in ends {
            if world.clients[n].quic.is_none() || world.clients[n].lost.is_some() {
                world.connect(n);
                world.run(secs(9), |w| w.clients[n].connected.is_some());
                continue;
            }
            let last = world.clients[n].streams.keys().last().copied();
            match (what, last) {
                (0 | 1, _) | (_, None) => {
                    if world.clients[n].quic().streams().send_streams() < 50
                        && world.clients[n].connected.is_some()
                    {
                        world.clients[n].open(&pattern(seed, 1 + 100 * wait as usize), what == 0);
                    }
                }
                (2, Some(last)) => world.clients[n].reset(last, 5),
                (3, Some(last)) => world.clients[n].stop(last, 5),
                (4, _) => {
                    let now = world.now;
                    world.clients[n].close(now, (wait % 2) as u32);
                }
                _ => world.clients[n].addr.set_port(5000 + wait as u16),
            }
            world.pass(Duration::from_millis(wait));
            world.check_tables();
        }
        world.clients.clear();
        world.path = Path::clean(10);
        world.pass(secs(150));
        world.check_tables();
        prop_assert_eq!(world.quic().connections, 0);
        prop_assert_eq!(world.table("quic_streams"), 0);
        prop_assert!(world.origins.values().all(|o| o.reset || o.eof_received));
        still_serves(&mut world);
    }
}
