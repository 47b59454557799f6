//! The first law: bytes out equal bytes in, in order, once.

use std::time::Duration;

use super::world::{Path, World, pattern};
use crate::config::Limits;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Transfers `len` bytes there and back; how long it took.
fn echo(seed: u64, path: Path, len: usize, limit: Duration) -> Duration {
    let mut world = World::new(seed, path);
    let data = pattern(seed, len);
    let conn = world.connect(&data, true);
    let done = world.run(limit, World::are_over);
    let status: Vec<_> =
        world.nodes.iter().flatten().map(|n| n.status(world.now).peers[0].clone()).collect();
    let client = world.client(conn);
    assert!(done, "{} of {len} after {limit:?}: {status:#?}", client.incoming.len());
    assert!(!client.reset && client.incoming == data);
    assert_eq!(world.dials, 1);
    world.elapsed()
}

#[test]
fn a_stream_is_exact_on_a_clean_link() {
    let took = echo(1, Path::clean(20), 3_000_000, secs(20));
    assert!(took < secs(3), "{took:?}");
}

#[test]
fn a_stream_is_exact_at_any_loss_rate() {
    for (seed, loss) in [(2, 0.01), (3, 0.05), (4, 0.1), (5, 0.2), (6, 0.3), (7, 0.4)] {
        let took = echo(seed, Path::lossy(20, loss), 400_000, secs(60));
        assert!(took < secs(4), "{loss}: {took:?}");
    }
    // Beyond what rate control is made for it is slow.
    echo(8, Path::lossy(20, 0.6), 60_000, secs(120));
}

#[test]
fn a_stream_is_exact_under_reordering_duplication_and_corruption() {
    for seed in 10..20 {
        let path = Path {
            jitter: Duration::from_millis(60),
            duplicate: 0.1,
            corrupt: 0.05,
            ..Path::lossy(10, 0.05)
        };
        echo(seed, path, 200_000, secs(120));
    }
}

#[test]
fn a_lone_message_waits_for_no_timer() {
    let mut world = World::new(30, Path::clean(20));
    world.run(secs(1), |_| false);
    let before = world.now;
    let conn = world.connect(b"hello", false);
    assert!(world.run(secs(1), |w| w.conns[0][&conn].incoming.len() == 5));
    assert_eq!(world.now - before, Duration::from_millis(40));
}

#[test]
fn a_half_closed_client_gets_the_whole_answer() {
    let mut world = World::new(31, Path::lossy(20, 0.05));
    world.echo = false;
    let conn = world.connect(b"request", true);
    assert!(world.run(secs(5), |w| w.conns[1].values().any(|o| o.eof_received)));
    let answer = pattern(31, 500_000);
    let origin = world.conns[1].values_mut().next().expect("an origin");
    assert_eq!(origin.incoming, b"request");
    origin.outgoing.extend(&answer);
    origin.close_when_sent = true;
    assert!(world.run(secs(60), World::are_over));
    assert!(world.client(conn).incoming == answer);
}

#[test]
fn a_client_that_resets_resets_its_origin() {
    let mut world = World::new(32, Path::lossy(20, 0.05));
    world.echo = false;
    let conn = world.connect(&pattern(1, 1000), false);
    assert!(world.run(secs(5), |w| w.conns[1].values().any(|o| o.incoming.len() == 1000)));
    world.reset_conn(0, conn);
    assert!(world.run(secs(5), |w| w.conns[1].values().all(|o| o.reset)));
}

#[test]
fn what_an_origin_said_before_it_reset_is_told_and_then_the_reset() {
    let mut world = World::new(33, Path::lossy(20, 0.05));
    world.echo = false;
    let conn = world.connect(b"x", false);
    assert!(world.run(secs(5), |w| w.conns[1].values().any(|o| !o.incoming.is_empty())));
    let said = pattern(2, 10_000);
    let origin = *world.conns[1].keys().next().expect("an origin");
    world.conns[1].get_mut(&origin).expect("an origin").outgoing.extend(&said);
    world.run(Duration::ZERO, |_| false);
    world.reset_conn(1, origin);
    assert!(world.run(secs(10), |w| w.conns[0][&conn].reset));
    assert!(world.client(conn).incoming == said);
    assert!(!world.client(conn).eof_received);
}

#[test]
fn a_refused_dial_and_a_missing_service_reach_the_client_as_a_reset() {
    let mut world = World::new(34, Path::clean(20));
    world.refuse_dials = true;
    let conn = world.connect(b"x", false);
    assert!(world.run(secs(5), |w| w.conns[0][&conn].reset));
}

#[test]
fn a_reader_that_stops_holds_its_own_flow_only() {
    let mut world = World::new(35, Path::lossy(20, 0.02));
    let slow = world.connect(&pattern(3, 2_000_000), true);
    world.client(slow).takes = Some(10_000);
    let quick = world.connect(&pattern(4, 300_000), true);
    assert!(world.run(secs(30), |w| w.conns[0][&quick].eof_received));
    assert!(world.client(quick).incoming == pattern(4, 300_000));
    world.run(secs(30), |_| false);
    let memory = world.nodes[0].as_ref().expect("a node").status(world.now).flow_memory;
    assert!(memory.reserved <= memory.cap);
    world.client(slow).takes = None;
    world.take(0, slow);
    assert!(world.run(secs(60), World::are_over));
    assert!(world.client(slow).incoming == pattern(3, 2_000_000));
}

#[test]
fn when_all_is_over_nothing_is_left() {
    let mut world = World::new(36, Path::lossy(10, 0.05));
    for n in 0..200 {
        world.connect(&pattern(n, 5000), true);
    }
    assert!(world.run(secs(60), World::are_over));
    world.run(secs(15), |_| false);
    for node in world.nodes.iter().flatten() {
        let status = node.status(world.now);
        assert_eq!((status.tcp_flows, status.flow_memory.reserved), (0, 0));
        assert_eq!(status.counters.flows_reset, 0);
    }
}

#[test]
fn an_idle_mesh_goes_quiet_but_for_probes() {
    let mut world = World::new(37, Path::lossy(10, 0.05));
    world.connect(&pattern(1, 100_000), true);
    assert!(world.run(secs(60), World::are_over));
    world.run(secs(30), |_| false);
    world.keep_log = true;
    world.run(secs(60), |_| false);
    let (packets, bytes) = world.log.iter().fold((0, 0), |(n, b), (_, d)| (n + 1, b + d.len()));
    // A PING each way per half second and its PONG, now and then a handshake, and what each knows of its link.
    assert!(packets < 60 * 2 * 2 * 2 + 60, "{packets} packets, {bytes} bytes in a minute");
}

#[test]
fn draining_lets_flows_finish_and_tells_the_peer() {
    let mut world = World::new(38, Path::lossy(20, 0.05));
    let data = pattern(5, 300_000);
    let conn = world.connect(&data, true);
    world.run(Duration::from_millis(200), |_| false);
    let now = world.now;
    world.nodes[0].as_mut().expect("a node").drain(now);
    assert!(world.run(secs(20), |w| w.drained[0]));
    assert!(world.client(conn).incoming == data);
    let late = world.connect(b"x", true);
    assert!(world.client(late).reset);
}

#[test]
fn draining_resets_what_does_not_finish() {
    let mut world = World::new(39, Path::clean(20));
    let conn = world.connect(b"x", false);
    world.run(secs(1), |_| false);
    let now = world.now;
    world.nodes[0].as_mut().expect("a node").drain(now);
    assert!(world.run(secs(12), |w| w.drained[0]));
    assert!(world.client(conn).reset);
    assert!(world.conns[1].values().all(|o| o.reset));
}

#[test]
fn memory_stays_below_its_cap_and_what_is_accepted_gets_through() {
    for seed in 50..56 {
        let cap = 2 << 20;
        let limits = Limits { node_memory: cap, ..Limits::default() };
        let mut world = World::with_limits(seed, Path::lossy(20, 0.05), [limits.clone(), limits]);
        let data: Vec<_> = (0..60).map(|n| pattern(seed * 100 + n, 150_000)).collect();
        let clients: Vec<_> = data.iter().map(|data| world.connect(data, true)).collect();
        let below = move |w: &World| {
            let memory = |n: &crate::Node| n.status(w.now).flow_memory.reserved;
            assert!(w.nodes.iter().flatten().all(|n| memory(n) <= cap));
            w.are_over()
        };
        assert!(world.run(secs(120), below), "seed {seed}: stuck");
        let mut served = 0;
        for (conn, data) in clients.iter().zip(&data) {
            let client = world.client(*conn);
            assert!(client.reset || client.incoming == *data, "seed {seed}");
            served += usize::from(!client.reset);
        }
        assert!(served >= 10, "seed {seed}: only {served} served");
        world.run(secs(15), |_| false);
        let status = world.nodes[0].as_ref().expect("a node").status(world.now);
        assert_eq!(status.flow_memory.reserved, 0);
    }
}

#[test]
fn a_path_that_drops_what_is_marked_ecn_capable_is_used_without_marks() {
    for seed in 0..4 {
        let path = Path { drops_ect: true, ..Path::lossy(20, 0.02) };
        let took = echo(400 + seed, path, 200_000, secs(30));
        assert!(took > secs(1), "{took:?}: nothing was marked");
    }
}
