//! What a node holds has bounds, and within the smallest of them it still works.

use std::collections::BTreeMap;
use std::time::Duration;

use super::world::{Path, World, pattern};
use crate::config::Limits;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn both(limits: Limits) -> [Limits; 2] {
    [limits.clone(), limits]
}

fn handshakes(world: &World, at: usize) -> u64 {
    world.nodes[at].as_ref().expect("a node").status(world.now).peers[0].handshakes
}

#[test]
fn every_table_is_shown_and_within_its_bound_while_everything_is_busy() {
    let path = Path { jitter: Duration::from_millis(30), duplicate: 0.05, ..Path::lossy(20, 0.1) };
    let limits = Limits { rekey_after: secs(1), node_memory: 4 << 20, ..Limits::default() };
    let mut world = World::with_limits(70, path, both(limits));
    let mut most = BTreeMap::new();
    for round in 0..30 {
        let conn = world.connect(&pattern(round, 200_000), true);
        if round % 3 == 0 {
            world.client(conn).takes = Some(50_000);
        }
        if round % 7 == 3 {
            world.reset_conn(0, conn);
        }
        for _ in 0..20 {
            world.run(Duration::from_millis(10), |_| false);
            world.check_tables(&mut |table| {
                let seen = most.entry(table.name).or_insert(0);
                *seen = table.len.max(*seen);
            });
        }
    }
    // What is emptied before a call returns, or was not provoked here (nothing is relayed), is shown all
    // the same.
    let never: Vec<_> =
        most.iter().filter(|(_, most)| **most == 0).map(|(name, _)| *name).collect();
    let emptied = [
        "closed_ids",
        "control_replies",
        "fec_blocks_finished",
        "flow_outputs",
        "flow_writers",
        "flows_waiting",
        "handshake_packets",
        "lane_pieces",
        "lane_repairs",
        "link_state_waiting",
        "mtu_answers",
        "orphans",
        "pongs",
        "proxy_headers",
        "quic_answers",
        "quic_connections",
        "quic_handles",
        "quic_handshakes",
        "quic_memory",
        "quic_sending",
        "quic_sessions",
        "quic_stream_waiting",
        "quic_streams",
        "quic_timers",
        "routing_news",
        "tls_connections",
        "tls_ending",
        "tls_handshakes",
        "tls_sessions",
        "tls_unwritten",
        "tls_waiting",
        "transit_buffers",
        "transit_control",
        "transit_data",
        "transit_flows",
        "transit_memory",
        "transit_reports",
        "tunnel_events",
    ];
    assert!(never.iter().all(|name| emptied.contains(name)), "never filled: {never:?}");
    assert_eq!(most.len(), 71, "{most:?}");
}

#[test]
fn the_smallest_node_serves_a_few_at_a_time_and_refuses_the_rest() {
    for seed in 0..4 {
        let limits = Limits { node_memory: 1 << 20, flow_window: 1 << 20, ..Limits::default() };
        let mut world = World::with_limits(seed, Path::lossy(20, 0.02), both(limits));
        let mut served = 0;
        for wave in 0..3 {
            // Long enough to leave the beginning of a burst, where little is read ahead.
            let data: Vec<_> = (0..30).map(|n| pattern(100 * wave + n, 600_000)).collect();
            let clients: Vec<_> = data.iter().map(|data| world.connect(data, true)).collect();
            let over = world.run(secs(120), |w| {
                w.check_tables(&mut |_| {});
                w.are_over()
            });
            assert!(over, "seed {seed}: stuck");
            for (conn, data) in clients.iter().zip(&data) {
                let client = world.client(*conn);
                assert!(client.reset || client.incoming == *data, "seed {seed}");
                served += usize::from(!client.reset);
            }
        }
        assert!(served >= 3 * 8, "seed {seed}: only {served} served");
    }
}

#[test]
fn a_transfer_goes_on_while_idle_connections_hold_the_memory() {
    let limits = Limits { node_memory: 1 << 20, flow_window: 1 << 20, ..Limits::default() };
    let mut world = World::with_limits(75, Path::clean(20), both(limits));
    let data = pattern(1, 3_000_000);
    let bulk = world.connect(&data, true);
    let has = |w: &World, n: usize| w.conns[1].values().any(|origin| origin.incoming.len() >= n);
    assert!(world.run(secs(20), |w| has(w, 600_000)));
    (0..12).for_each(|_| {
        world.connect(b"x", false);
    });
    assert!(world.run(secs(120), |w| w.conns[0][&bulk].eof_received), "stuck");
    assert!(world.client(bulk).incoming == data);
}

#[test]
fn a_window_of_64_kib_bounds_what_is_under_way() {
    let limits = Limits { flow_window: 64 << 10, ..Limits::default() };
    let mut world = World::with_limits(71, Path::clean(50), both(limits));
    world.run(secs(1), |_| false);
    let before = world.now;
    let data = pattern(1, 1 << 20);
    let conn = world.connect(&data, true);
    assert!(world.run(secs(20), World::are_over));
    assert!(world.client(conn).incoming == data);
    // 16 windows, one for each round trip of 100 ms.
    assert!(world.now - before > Duration::from_millis(1500), "{:?}", world.now - before);
}

#[test]
fn lowered_limits_take_nothing_away_and_give_nothing_until_enough_is_back() {
    let mut world = World::new(72, Path::clean(20));
    let early: Vec<_> = (0..40).map(|n| (world.connect(&pattern(n, 300_000), true), n)).collect();
    assert!(world.run(secs(5), |w| w.dials == 40));
    let now = world.now;
    for node in world.nodes.iter_mut().flatten() {
        let mut config = node.config().clone();
        config.limits.node_memory = 1 << 20;
        config.limits.flow_window = 64 << 10;
        node.reconfigure(now, config).expect("no reason against it");
    }
    world.check_tables(&mut |_| {});
    let refused = world.connect(b"x", true);
    assert!(world.client(refused).reset);
    let over = world.run(secs(60), |w| {
        w.check_tables(&mut |_| {});
        w.are_over()
    });
    assert!(over, "stuck");
    assert!(early.iter().all(|(conn, n)| world.client(*conn).incoming == pattern(*n, 300_000)));
    let memory = world.nodes[0].as_ref().expect("a node").status(world.now).flow_memory;
    assert!(memory.cap == 1 << 20 && memory.reserved <= memory.cap);
    let later = world.connect(b"x", true);
    assert!(world.run(secs(5), World::are_over) && !world.client(later).reset);
}

#[test]
fn sessions_of_a_second_are_renewed_by_one_end_and_none_dies_on_a_long_lossy_link() {
    let limits = Limits { rekey_after: secs(1), ..Limits::default() };
    let mut world = World::with_limits(73, Path::lossy(300, 0.3), both(limits));
    assert!(world.run(secs(30), |w| handshakes(w, 0) > 0 && handshakes(w, 1) > 0));
    for round in 0..60 {
        world.run(secs(1), |_| false);
        for node in world.nodes.iter().flatten() {
            let peer = &node.status(world.now).peers[0];
            assert!(peer.session_age_s.is_some(), "no session in second {round}");
        }
    }
    let made = handshakes(&world, 0);
    // A second, a round trip of 0.6 s, and now and then another attempt.
    assert!((15..45).contains(&made), "{made} in a minute");
    let data = pattern(1, 200_000);
    let conn = world.connect(&data, true);
    assert!(world.run(secs(60), World::are_over));
    assert!(world.client(conn).incoming == data);
}

#[test]
fn a_session_outlives_its_time_by_a_minute_if_no_other_can_be_made() {
    let limits = Limits { rekey_after: secs(1), ..Limits::default() };
    let mut world = World::with_limits(74, Path::clean(20), both(limits));
    assert!(world.run(secs(2), |w| handshakes(w, 0) > 0 && handshakes(w, 1) > 0));
    world.run(Duration::from_millis(200), |_| false);
    world.no_handshakes = true;
    let made = handshakes(&world, 0);
    for round in 0..11 {
        let conn = world.connect(&pattern(round, 1000), true);
        assert!(world.run(secs(5), |w| w.conns[0][&conn].eof_received), "after {round} × 5 s");
        world.run(secs(5), |_| false);
    }
    assert_eq!(handshakes(&world, 0), made);
    world.run(secs(20), |_| false);
    let age = |w: &World| w.nodes[0].as_ref().expect("a node").status(w.now).peers[0].session_age_s;
    assert_eq!(age(&world), None, "it lives for ever");
    world.no_handshakes = false;
    assert!(world.run(secs(2), |w| age(w).is_some()));
}
