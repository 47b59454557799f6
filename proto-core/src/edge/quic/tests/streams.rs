//! Streams are flows: bytes, ends and resets, both ways.

use std::time::Duration;

use super::world::{Path, World, pattern};

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn what_a_client_says_reaches_the_origin_and_comes_back() {
    let mut world = World::new(1, Path::clean(20));
    let n = world.connected();
    let data = pattern(1, 300_000);
    let stream = world.clients[n].open(&data, true);
    assert!(world.run(secs(10), |w| w.clients[n].streams[&stream].is_over()));
    assert!(world.stream(n, stream).incoming == data && world.stream(n, stream).reset.is_none());
    assert!(world.origin().incoming == data && world.origin().is_over());
    world.pass(secs(1));
    assert_eq!(world.node.status(world.now).quic_flows, 0);
    assert_eq!(world.table("quic_streams"), 0);
}

#[test]
fn bytes_are_exact_over_a_link_that_loses_reorders_doubles_and_corrupts() {
    for seed in 0..4 {
        let path = Path {
            jitter: Duration::from_millis(15),
            duplicate: 0.02,
            corrupt: 0.02,
            ..Path::lossy(20, 0.1)
        };
        let mut world = World::new(seed, path);
        let n = world.connected();
        let data: Vec<_> = (0..3).map(|s| pattern(seed * 10 + s, 400_000)).collect();
        let streams: Vec<u64> = data.iter().map(|d| world.clients[n].open(d, true)).collect();
        assert!(world.run(secs(300), |w| w.clients[n].streams.values().all(|s| s.is_over())));
        for (stream, data) in streams.iter().zip(&data) {
            assert!(world.stream(n, *stream).incoming == *data, "seed {seed}");
        }
        world.check_tables();
    }
}

#[test]
fn each_half_ends_by_itself() {
    let mut world = World::new(3, Path::clean(20));
    world.echo = false;
    let n = world.connected();
    let stream = world.clients[n].open(b"request", true);
    assert!(world.run(secs(2), |w| w.origins.values().any(|o| o.eof_received)));
    world.pass(secs(5));
    assert!(!world.stream(n, stream).ended && !world.origin().reset);
    let answer = pattern(2, 100_000);
    world.origin().outgoing.extend(&answer);
    world.drive_all();
    assert!(world.run(secs(2), |w| w.clients[n].streams[&stream].incoming.len() == 100_000));
    world.origin().close_when_sent = true;
    assert!(world.run(secs(2), |w| w.clients[n].streams[&stream].is_over()));
    assert!(world.stream(n, stream).incoming == answer && world.stream(n, stream).reset.is_none());

    // And the other way round: the origin ends first.
    world.origins.clear();
    let stream = world.clients[n].open(b"a", false);
    assert!(world.run(secs(2), |w| !w.origins.is_empty()));
    world.origin().close_when_sent = true;
    assert!(world.run(secs(2), |w| w.clients[n].streams[&stream].ended));
    world.stream(n, stream).outgoing.extend_from_slice(&answer);
    world.stream(n, stream).finish = true;
    assert!(world.run(secs(2), |w| w.origins.values().all(|o| o.is_over())));
    assert!(world.origin().incoming[1..] == answer && !world.origin().reset);
}

#[test]
fn a_reset_of_the_origin_reaches_the_client_with_its_code() {
    let mut world = World::new(4, Path::clean(20));
    let n = world.connected();
    let stream = world.clients[n].open(b"x", false);
    assert!(world.run(secs(2), |w| !w.clients[n].streams[&stream].incoming.is_empty()));
    let conn = *world.origins.keys().next().expect("an origin");
    world.reset_origin(conn);
    assert!(world.run(secs(2), |w| w.clients[n].streams[&stream].reset.is_some()));
    assert_eq!(world.stream(n, stream).reset, Some(1));
    assert_eq!(world.stream(n, stream).stopped, Some(1));
}

#[test]
fn an_origin_that_cannot_be_had_is_a_reset() {
    let mut world = World::new(5, Path::clean(20));
    world.refuse_dials = true;
    let n = world.connected();
    let stream = world.clients[n].open(b"x", true);
    assert!(world.run(secs(2), |w| w.clients[n].streams[&stream].reset.is_some()));
    assert_eq!(world.stream(n, stream).reset, Some(1));
    assert!(world.clients[n].lost.is_none(), "the connection stays");
    world.refuse_dials = false;
    let stream = world.clients[n].open(b"x", true);
    assert!(world.run(secs(2), |w| w.clients[n].streams[&stream].is_over()));
    assert_eq!(world.stream(n, stream).incoming, b"x");
}

#[test]
fn a_reset_of_the_client_reaches_the_origin_and_ends_the_answer() {
    let mut world = World::new(6, Path::clean(20));
    let n = world.connected();
    let stream = world.clients[n].open(b"x", false);
    assert!(world.run(secs(2), |w| !w.clients[n].streams[&stream].incoming.is_empty()));
    world.clients[n].reset(stream, 7);
    assert!(world.run(secs(2), |w| w.origins.values().all(|o| o.reset)));
    assert!(world.run(secs(2), |w| w.clients[n].streams[&stream].reset.is_some()));
    assert_eq!(world.table("quic_streams"), 0);
}

#[test]
fn what_a_client_sends_arrives_whole_though_it_wants_no_answer() {
    let mut world = World::new(7, Path::clean(20));
    let n = world.connected();
    let data = pattern(1, 500_000);
    let stream = world.clients[n].open(&data, true);
    world.clients[n].stop(stream, 0);
    assert!(world.run(secs(5), |w| w.origins.values().any(|o| o.eof_received)));
    assert!(world.origin().incoming == data);
    world.pass(secs(1));
    assert_eq!(world.table("quic_streams"), 0);

    // An origin that goes on talking to somebody who is not there any more hears of it.
    world.origins.clear();
    world.echo = false;
    let stream = world.clients[n].open(&data, true);
    world.clients[n].stop(stream, 0);
    assert!(world.run(secs(5), |w| w.origins.values().any(|o| o.eof_received)));
    world.pass(secs(1));
    assert!(world.origin().incoming == data && !world.origin().reset);
    world.origin().outgoing.extend(&pattern(2, 10_000));
    world.drive_all();
    assert!(world.run(secs(1), |w| w.origins.values().all(|o| o.reset)));
}

#[test]
fn who_leaves_with_a_word_has_what_it_sent_delivered_and_who_does_not_resets_it() {
    for (code, takes) in [(0, None), (0, Some(30_000)), (9, None)] {
        let mut world = World::new(8, Path::clean(20));
        world.echo = false;
        world.takes = takes;
        let n = world.connected();
        let data = pattern(1, 400_000);
        world.clients[n].open(&data, true);
        // The edge has acknowledged all that the window holds.
        assert!(world.run(secs(5), |w| w.clients[n].streams.values().all(|s| s.sent >= 200_000)));
        world.pass(secs(3));
        let now = world.now;
        world.clients[n].close(now, code);
        world.pass(secs(5));
        world.take_all();
        world.pass(secs(5));
        world.check_tables();
        let complete = world.origin().incoming == data && world.origin().eof_received;
        match (code, takes) {
            (0, None) => assert!(complete && !world.origin().reset),
            // What was under way when it left may be missing: then it is a reset, and never an end.
            (0, _) => assert!(complete != world.origin().reset),
            _ => assert!(world.origin().reset || complete),
        }
        assert_eq!(world.table("quic_streams"), u64::from(code == 0 && complete));
    }
}

#[test]
fn an_origin_that_does_not_read_stops_its_client_and_no_other() {
    let mut world = World::new(9, Path::clean(20));
    world.takes = Some(10_000);
    world.echo = false;
    let n = world.connected();
    let data = pattern(1, 64 << 20);
    let stalled = world.clients[n].open(&data, true);
    world.pass(secs(30));
    let sent = world.stream(n, stalled).sent;
    assert!(sent < 12 << 20, "{sent} bytes were taken from the client");
    let held = world.node.status(world.now).flow_memory.reserved;
    assert!(held < 4 << 20, "{held} bytes in flows");
    world.check_tables();
    // Another stream of the same connection still works.
    world.takes = None;
    world.echo = true;
    let other = world.clients[n].open(&pattern(2, 100_000), true);
    assert!(world.run(secs(20), |w| w.clients[n].streams[&other].is_over()));
    assert!(world.stream(n, other).incoming == pattern(2, 100_000));
    assert!(world.stream(n, stalled).sent < data.len() / 2);
    world.take_all();
    assert!(world.run(secs(60), |w| w.origins.values().all(|o| o.eof_received)));
    assert!(world.origins.values().any(|o| o.incoming == data));
}

#[test]
fn a_client_that_does_not_read_stops_its_origin() {
    let mut world = World::new(10, Path::clean(20));
    let n = world.connected();
    let data = pattern(1, 40 << 20);
    let stream = world.clients[n].open(&data, true);
    world.stream(n, stream).takes = Some(1000);
    world.pass(secs(60));
    let memory = world.node.status(world.now).flow_memory.reserved;
    assert!(memory < 80 << 20, "{memory}");
    assert!(world.table("quic_stream_waiting") <= 300_000);
    let heard = world.origin().incoming.len() - world.origin().outgoing.len();
    assert!(heard < 40 << 20, "{heard} bytes were taken from the origin");
    world.check_tables();
    world.stream(n, stream).takes = None;
    assert!(world.run(secs(60), |w| w.clients[n].streams[&stream].is_over()));
    assert!(world.stream(n, stream).incoming == data);
}

#[test]
fn a_client_has_as_many_streams_as_it_needs_one_after_the_other_and_at_a_time() {
    let mut world = World::new(11, Path::lossy(10, 0.02));
    let n = world.connected();
    let mut done = 0;
    for round in 0..12 {
        let mut open = 0;
        while open < 60 + 15 * round {
            let data = pattern(done, 500 + 37 * done as usize % 5000);
            world.clients[n].open(&data, true);
            (done, open) = (done + 1, open + 1);
        }
        let over = world.run(secs(60), |w| w.clients[n].streams.values().all(|s| s.is_over()));
        assert!(over, "round {round}");
        world.check_tables();
    }
    for (stream, seed) in (0..done).zip(0..) {
        let data = pattern(seed, 500 + 37 * seed as usize % 5000);
        assert!(world.stream(n, stream).incoming == data, "stream {stream}");
    }
    world.pass(secs(1));
    assert_eq!(world.table("quic_streams"), 0);
}

#[test]
fn a_client_may_change_its_address_in_the_middle() {
    for same_host in [false, true] {
        let mut world = World::new(12, Path::lossy(30, 0.05));
        let n = world.connected();
        let data = pattern(1, 2_000_000);
        let stream = world.clients[n].open(&data, true);
        for step in 1..6u16 {
            assert!(world.run(secs(60), |w| {
                w.clients[n].streams[&stream].incoming.len() >= 300_000 * usize::from(step)
            }));
            let addr = &mut world.clients[n].addr;
            if same_host {
                addr.set_port(5000 + step);
            } else {
                *addr = ([10, 2, 0, step as u8], 5000).into();
                // As a host does that knows of it.
                world.clients[n].quic().local_address_changed();
            }
        }
        assert!(world.run(secs(60), |w| w.clients[n].streams[&stream].is_over()));
        assert!(world.stream(n, stream).incoming == data);
        assert_eq!(world.origins.len(), 1);
    }
}

#[test]
fn each_listener_leads_to_its_own_service_and_a_datagram_to_the_wrong_one_does_nothing() {
    let mut world = World::new(13, Path::clean(10));
    let n = world.connected();
    let stream = world.clients[n].open(b"one", true);
    assert!(world.run(secs(1), |w| w.clients[n].streams[&stream].is_over()));
    world.keep_log = true;
    world.clients[n].open(&pattern(1, 5000), true);
    let before = world.dials;
    world.drive_all();
    let log = std::mem::take(&mut world.log);
    let from = world.clients[n].addr;
    for (_, datagram) in &log {
        world.inject_to(2, from, datagram);
        world.inject_to(3, from, datagram);
    }
    world.pass(secs(1));
    assert_eq!(world.dials, before + 1);
    let m = world.client();
    let now = world.now;
    world.clients[m].connect(now, super::world::server(1));
    let stream = world.clients[m].open(b"two", true);
    assert!(world.run(secs(1), |w| w.clients[m].streams[&stream].is_over()));
    assert_eq!(world.stream(m, stream).incoming, b"two");
}

#[test]
fn a_node_that_ends_lets_streams_finish_and_takes_no_new_ones() {
    let mut world = World::new(14, Path::clean(20));
    let n = world.connected();
    let data = pattern(1, 300_000);
    let stream = world.clients[n].open(&data, true);
    let idle = world.connected();
    let lazy = world.clients[idle].open(b"lazy", false);
    world.pass(Duration::from_millis(30));
    let now = world.now;
    world.node.drain(now);
    let late = world.clients[n].open(b"late", true);
    let m = world.client();
    world.connect(m);
    assert!(world.run(secs(9), |w| w.clients[n].streams[&stream].is_over()));
    assert!(world.stream(n, stream).incoming == data);
    assert_eq!(world.stream(n, late).reset, Some(3));
    assert!(world.clients[m].lost.is_some() && world.clients[m].connected.is_none());
    assert!(world.run(secs(12), |w| w.drained), "it ends");
    world.pass(secs(1));
    assert_eq!(world.stream(idle, lazy).reset, Some(3));
    for n in [n, idle] {
        let lost = format!("{:?}", world.clients[n].lost);
        assert!(lost.contains("ApplicationClosed"), "{lost}");
    }
}

#[test]
fn another_certificate_is_shown_to_who_comes_and_nobody_loses_the_connection() {
    let mut world = World::new(15, Path::clean(10));
    let n = world.connected();
    let stream = world.clients[n].open(b"begun", false);
    world.pass(secs(1));
    let now = world.now;
    world.node.set_identity(now, &super::certs::second());
    let m = world.connected();
    let shown = world.clients[m].shown.lock().expect("no panic").clone();
    assert_eq!(shown, [super::certs::second().certificate()]);
    world.stream(n, stream).outgoing.extend_from_slice(b", ended");
    world.stream(n, stream).finish = true;
    assert!(world.run(secs(1), |w| w.clients[n].streams[&stream].is_over()));
    assert_eq!(world.stream(n, stream).incoming, b"begun, ended");
    // It comes back to another certificate: what it knew of the first one is no good.
    let now = world.now;
    world.clients[n].close(now, 0);
    world.pass(secs(1));
    world.connect(n);
    let stream = world.clients[n].open(b"again", true);
    assert!(world.run(secs(1), |w| w.clients[n].streams.values().any(|s| s.is_over())));
    assert_eq!(world.stream(n, stream).incoming, b"again");
    assert!(!world.clients[n].quic().accepted_0rtt());
    let last = world.clients[n].shown.lock().expect("no panic").last().cloned();
    assert_eq!(last.as_deref(), Some(super::certs::second().certificate()));
}
