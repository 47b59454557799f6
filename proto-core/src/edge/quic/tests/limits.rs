//! What strangers, crowds and the greedy can take.

use std::time::Duration;

use quinn_proto::TransportConfig;

use super::client::Client;
use super::world::{Path, World, config, pattern};

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// The first datagram of a handshake that is never finished.
fn first_flight(world: &mut World) -> Vec<u8> {
    let (now, clock) = (world.now, world.clock.clone());
    let addr = ([10, 3, 0, 1], 1).into();
    let transport = TransportConfig::default();
    let mut client = Client::new(addr, clock, &mut world.rng, transport, "entrouter");
    client.connect(now, super::world::server(0));
    client.drive(now).remove(0).1
}

#[test]
fn ten_thousand_handshakes_that_never_finish_take_bounded_memory_and_give_it_back() {
    let mut world = World::new(1, Path::clean(20));
    let served = world.connected();
    world.pass(secs(1));
    for flood in 0..10_000u32 {
        let [_, _, a, b] = flood.to_be_bytes();
        let flight = first_flight(&mut world);
        let before = world.sent_by_node;
        world.inject(([10, 4, a, b], 4000).into(), &flight);
        let answered = world.sent_by_node - before;
        assert!(answered <= 3 * flight.len() as u64, "{answered} bytes for {}", flight.len());
        if flood % 1000 == 0 {
            world.check_tables();
        }
    }
    assert_eq!(world.quic().connections, 65, "one is served, 64 are waited for");
    assert_eq!(world.quic().retries, 10_000 - 64);
    // Others are served meanwhile: who was here, and who comes and shows its address.
    let data = pattern(1, 100_000);
    let stream = world.clients[served].open(&data, true);
    let n = world.connected();
    let other = world.clients[n].open(&data, true);
    assert!(world.run(secs(2), |w| {
        w.clients[served].streams[&stream].is_over() && w.clients[n].streams[&other].is_over()
    }));
    assert_eq!(world.quic().retries, 10_000 - 64 + 1);
    world.pass(secs(11));
    assert_eq!(world.quic().connections, 2);
    assert_eq!(world.table("quic_handshakes"), 0);
    assert!(world.table("quic_memory") < 1 << 20);
    assert_eq!(world.table("clients"), 2);
}

#[test]
fn a_client_has_its_share_of_connections_and_no_more() {
    let few = config("[limits]\nmax_connections = 8\nmax_connections_per_address = 3\n");
    let mut world = World::with_config(2, Path::clean(10), few);
    let crowd: Vec<usize> = (0..6).map(|_| world.client()).collect();
    for (port, n) in crowd.iter().enumerate() {
        world.clients[*n].addr = ([10, 7, 7, 7], 6000 + port as u16).into();
        world.connect(*n);
        world.pass(secs(1));
    }
    let connected = |w: &World| w.clients.iter().filter(|c| c.connected.is_some()).count();
    assert_eq!(connected(&world), 3);
    assert_eq!(world.quic().refused, 3);
    let others: Vec<usize> = (0..7).map(|_| world.client()).collect();
    for n in others {
        world.connect(n);
        world.pass(secs(1));
    }
    assert_eq!(connected(&world), 8, "in all");
    world.check_tables();
    // One leaves, another comes.
    let now = world.now;
    world.clients[crowd[0]].close(now, 0);
    world.pass(secs(2));
    let n = world.connected();
    assert!(world.clients[n].lost.is_none());
}

#[test]
fn idle_connections_end_after_a_minute() {
    let mut world = World::new(3, Path::clean(10));
    let mut transport = TransportConfig::default();
    transport.max_idle_timeout(None);
    let n = world.client_with(transport, "entrouter");
    world.connect(n);
    assert!(world.run(secs(1), |w| w.clients[n].connected.is_some()));
    let stream = world.clients[n].open(b"x", false);
    world.pass(secs(2));
    assert_eq!(world.quic().connections, 1);
    // It vanishes.
    world.clients[n].quic = None;
    world.pass(secs(50));
    assert_eq!(world.quic().connections, 1);
    world.pass(secs(30));
    assert_eq!(world.quic().connections, 0);
    assert!(world.origin().reset, "the origin is told that its client is gone");
    assert!(world.clients[n].streams[&stream].reset.is_none());
}

#[test]
fn a_stream_for_which_there_is_no_memory_is_refused_and_the_others_go_on() {
    let small = config("[limits]\nnode_memory_mib = 1\n");
    let mut world = World::with_config(4, Path::clean(10), small);
    let n = world.connected();
    let streams: Vec<u64> = (0..40).map(|_| world.clients[n].open(b"x", false)).collect();
    world.pass(secs(2));
    let refused: Vec<u64> = streams
        .iter()
        .copied()
        .filter(|stream| world.clients[n].streams[stream].reset == Some(2))
        .collect();
    assert!(refused.len() >= 20 && refused.len() < 38, "{}", refused.len());
    assert_eq!(world.quic().streams_refused, refused.len() as u64);
    for stream in &streams {
        world.stream(n, *stream).finish = true;
    }
    assert!(world.run(secs(5), |w| w.clients[n].streams.values().all(|s| s.is_over())));
    let stream = world.clients[n].open(&pattern(1, 300_000), true);
    assert!(world.run(secs(5), |w| w.clients[n].streams[&stream].is_over()));
    assert!(world.stream(n, stream).incoming == pattern(1, 300_000));
    world.check_tables();
}

#[test]
fn many_connections_of_some_streams_are_served_within_what_there_is() {
    let mut world = World::new(5, Path::clean(10));
    let all: Vec<usize> = (0..300).map(|_| world.client()).collect();
    for n in &all {
        world.connect(*n);
        world.clients[*n].open(&pattern(*n as u64, 3_000), true);
    }
    assert!(world.run(secs(20), |w| w.clients.iter().all(|c| c.connected.is_some())));
    for n in &all {
        for stream in 1..5 {
            world.clients[*n].open(&pattern(stream, 20_000), true);
        }
    }
    world.pass(Duration::from_millis(15));
    world.check_tables();
    let done = |c: &Client| c.streams.values().all(|s| s.is_over());
    assert!(world.run(secs(20), |w| w.clients.iter().all(done)));
    for n in &all {
        assert!(world.stream(*n, 0).incoming == pattern(*n as u64, 3_000));
        assert!((1..5).all(|s| world.clients[*n].streams[&s].incoming == pattern(s, 20_000)));
    }
    world.check_tables();
}

#[test]
fn before_there_is_a_certificate_nobody_is_answered() {
    let mut world = World::new(6, Path::clean(10));
    let unix = Duration::from_secs(1_800_000_000);
    let seed = world.rng.fork();
    world.node = crate::Node::new(config(""), seed, world.now, unix).expect("a node");
    let n = world.client();
    world.connect(n);
    world.pass(Duration::from_millis(500));
    assert_eq!(world.sent_by_node, 0);
    let now = world.now;
    world.node.set_identity(now, &super::certs::first());
    assert!(world.run(secs(5), |w| w.clients[n].connected.is_some()), "its next try is answered");
}

#[test]
fn who_sends_crumbs_that_nobody_reads_is_sent_away_and_who_is_read_is_not() {
    for reads in [true, false] {
        let small = config("[limits]\nflow_window_kib = 64\n");
        let mut world = World::with_config(7, Path::clean(5), small);
        world.echo = false;
        world.takes = (!reads).then_some(0);
        let n = world.connected();
        let mut said = pattern(1, 300_000);
        let stream = world.clients[n].open(&said, false);
        world.pass(secs(5));
        for crumb in 0..20_000u32 {
            let byte = crumb.to_be_bytes()[3];
            said.push(byte);
            world.stream(n, stream).outgoing.push(byte);
            world.pass(Duration::from_millis(1));
        }
        world.pass(secs(1));
        let lost = format!("{:?}", world.clients[n].lost);
        assert_eq!(lost.contains("error_code: 4"), !reads, "{lost}");
        assert!(!reads || world.origin().incoming == said);
        assert!(reads || world.origin().reset);
        world.check_tables();
    }
}
