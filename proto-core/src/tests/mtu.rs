//! The size of datagrams follows the path: up by discovery, down where large ones vanish, and no byte is
//! lost or doubled meanwhile.

use std::time::Duration;

use super::world::{Path, World, pattern};
use crate::Config;
use crate::status::PeerStatus;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn peer(world: &World, at: usize) -> PeerStatus {
    world.nodes[at].as_ref().expect("a node").status(world.now).peers[0].clone()
}

fn sizes(world: &World) -> [usize; 2] {
    [0, 1].map(|at| peer(world, at).udp_payload)
}

fn on(mtu: usize, loss: f64) -> Path {
    Path { mtu, ..Path::lossy(20, loss) }
}

/// Echoes `len` bytes; `during` is asked again and again until it is done.
fn echo(world: &mut World, len: usize, limit: Duration, mut during: impl FnMut(&mut World)) {
    let data = pattern(len as u64, len);
    let conn = world.connect(&data, true);
    let end = world.now + limit;
    while world.now < end && !world.run(Duration::from_millis(10), World::are_over) {
        during(world);
        world.check_tables(&mut |_| {});
    }
    let status = [peer(world, 0), peer(world, 1)];
    let client = world.client(conn);
    assert!(client.incoming == data, "{} of {len}: {status:#?}", client.incoming.len());
}

#[test]
fn discovery_finds_what_the_path_carries() {
    // The largest, or a little less where it is no common size.
    let paths = [(1472, 1472), (8972, 8972), (20_000, 8972), (1372, 1372), (1300, 1270)];
    for (seed, (mtu, least)) in paths.into_iter().enumerate() {
        for loss in [0.0, 0.2] {
            let mut world = World::new(40 + 2 * seed as u64 + u64::from(loss > 0.0), on(mtu, loss));
            echo(&mut world, 300_000, secs(60), |_| {});
            world.run(secs(60), |_| false);
            for size in sizes(&world) {
                assert!(size >= least && size <= mtu, "{mtu}, {loss}: {size}");
            }
        }
    }
}

#[test]
fn a_common_path_is_filled_after_one_round_trip_of_use() {
    let mut world = World::new(63, on(1472, 0.0));
    world.run(secs(1), |_| false);
    assert_eq!(sizes(&world), [1252; 2], "an idle tunnel does not probe");
    assert_eq!(peer(&world, 0).counters.mtu_probes_out, 0);
    world.connect(&pattern(3, 20_000), false);
    world.run(Duration::from_millis(60), |world| sizes(world)[0] == 1472);
    assert_eq!(sizes(&world)[0], 1472);
}

#[test]
fn probes_end_and_begin_again_only_after_ten_minutes_of_use() {
    let mut world = World::new(64, on(1472, 0.0));
    echo(&mut world, 100_000, secs(10), |_| {});
    world.run(secs(30), |_| false);
    let probes = peer(&world, 0).counters.mtu_probes_out;
    assert!((1..=7).contains(&probes), "{probes}");
    world.path.mtu = 9000;
    echo(&mut world, 100_000, secs(10), |_| {});
    world.run(secs(700), |_| false);
    assert_eq!(peer(&world, 0).counters.mtu_probes_out, probes);
    echo(&mut world, 100_000, secs(10), |_| {});
    world.run(secs(5), |_| false);
    assert_eq!(sizes(&world)[0], 8972);
}

#[test]
fn the_configured_maximum_is_kept() {
    let mut world = World::new(74, on(9000, 0.0));
    let mut configs = world.configs.clone();
    configs[0].mesh.max_udp_payload = 1400;
    configs[1].mesh.max_udp_payload = 1252;
    world = World::with_configs(75, on(9000, 0.0), configs);
    echo(&mut world, 300_000, secs(10), |_| {});
    assert_eq!(sizes(&world), [1400, 1252]);
    assert_eq!(peer(&world, 1).counters.mtu_probes_out, 0);
    // Lowered while it runs: what is under way still arrives.
    let config = Config { mesh: world.configs[1].mesh.clone(), ..world.configs[0].clone() };
    let mut lowered = false;
    echo(&mut world, 300_000, secs(10), |world| {
        if !std::mem::replace(&mut lowered, true) {
            let now = world.now;
            let node = world.nodes[0].as_mut().expect("a node");
            node.reconfigure(now, config.clone()).expect("valid");
        }
    });
    assert_eq!(sizes(&world), [1252, 1252]);
}

#[test]
fn a_black_hole_in_mid_transfer_is_survived_within_two_seconds() {
    for (seed, loss, before) in
        [(51, 0.0, 1472), (52, 0.02, 1472), (53, 0.1, 1472), (54, 0.2, 1472), (55, 0.0, 8972)]
    {
        let mut world = World::new(seed, on(before, loss));
        // Discovery takes longer than a transfer over a path without a limit.
        echo(&mut world, 300_000, secs(60), |_| {});
        world.run(secs(20), |_| false);
        let (mut fell, mut gap, mut had) = (None, Duration::ZERO, (0, world.now));
        echo(&mut world, 6_000_000, secs(120), |world| {
            let got = world.conns[0].values().map(|c| c.incoming.len()).sum();
            if got > had.0 {
                had = (got, world.now);
            }
            if got > 2_000_000 && fell.is_none() && sizes(world) == [before; 2] {
                (fell, had.1) = (Some(world.now), world.now);
                world.path.mtu = 1252;
            }
            if fell.is_some_and(|at| world.now < at + secs(10)) {
                gap = gap.max(world.now - had.1);
            }
        });
        assert!(fell.is_some() && gap < secs(2), "{loss}: {gap:?}");
        let counters = [0, 1].map(|at| peer(&world, at).counters);
        assert!(counters.iter().any(|c| c.black_holes > 0 && c.symbols_cut > 0), "{counters:?}");
        // Every symbol that was cut has been forgotten.
        world.run(secs(5), |_| false);
        world.check_tables(&mut |table| {
            assert!(table.name != "lane_symbols" || table.len == 0, "{table:?}");
        });
    }
}

#[test]
fn loss_and_outages_are_no_black_hole() {
    for (seed, loss) in [(71, 0.2), (72, 0.3), (73, 0.4)] {
        let mut world = World::new(seed, on(1472, loss));
        echo(&mut world, 2_000_000, secs(120), |_| {});
        for at in [0, 1] {
            assert_eq!(peer(&world, at).counters.black_holes, 0, "{loss}");
        }
    }
    let mut world = World::new(69, on(1472, 0.0));
    let mut turns = 0;
    echo(&mut world, 20_000_000, secs(120), |world| {
        turns += 1;
        world.path.cut = turns % 300 > 200;
    });
    for at in [0, 1] {
        assert_eq!(peer(&world, at).counters.black_holes, 0, "cut {turns}");
    }
}

#[test]
fn a_path_that_carries_more_again_is_searched_again() {
    let mut world = World::new(66, on(1472, 0.0));
    let mut cut = false;
    echo(&mut world, 6_000_000, secs(60), |world| {
        if !std::mem::replace(&mut cut, true) || sizes(world)[0] == 1472 {
            world.path.mtu = if sizes(world)[0] == 1472 { 1252 } else { 1472 };
        }
    });
    assert!(peer(&world, 0).counters.black_holes >= 1);
    world.path.mtu = 1472;
    world.run(secs(15), |_| false);
    echo(&mut world, 100_000, secs(10), |_| {});
    assert_eq!(sizes(&world), [1472; 2]);
}

#[test]
fn a_path_that_shrinks_a_little_is_found_out_beside_traffic_that_still_fits() {
    // What is shorter than the new limit keeps passing: only what is longer vanishes.
    let mut world = World::new(67, on(1472, 0.0));
    let mut shrunk = false;
    echo(&mut world, 6_000_000, secs(60), |world| {
        let grown = sizes(world) == [1472; 2];
        if grown && !std::mem::replace(&mut shrunk, true) {
            world.path.mtu = 1372;
        }
    });
    assert!(shrunk);
    world.run(secs(15), |_| false);
    echo(&mut world, 1_000_000, secs(10), |_| {});
    world.run(secs(10), |_| false);
    assert_eq!(sizes(&world), [1372; 2]);
}

#[test]
fn another_address_begins_with_the_least_size() {
    let mut world = World::new(68, on(1472, 0.0));
    echo(&mut world, 300_000, secs(10), |_| {});
    assert_eq!(sizes(&world), [1472; 2]);
    world.path.mtu = 1252;
    world.addrs[0] = ([10, 0, 0, 9], 4433).into();
    echo(&mut world, 300_000, secs(10), |_| {});
    let counters = peer(&world, 1).counters;
    assert_eq!((sizes(&world)[1], counters.black_holes), (1252, 0));
}
