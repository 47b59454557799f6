//! The first flight of a returning client.

use std::time::Duration;

use super::world::{Path, World, pattern};

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A client that was here before and has left.
fn returning(world: &mut World) -> usize {
    let n = world.connected();
    let stream = world.clients[n].open(b"hello", true);
    assert!(world.run(ms(5000), |w| w.clients[n].streams[&stream].is_over()));
    let now = world.now;
    world.clients[n].close(now, 0);
    world.pass(Duration::from_secs(5));
    assert_eq!(world.quic().connections, 0);
    world.origins.clear();
    n
}

#[test]
fn data_of_the_first_flight_is_at_the_origin_before_the_handshake_ends() {
    let mut world = World::new(2, Path::clean(20));
    let n = returning(&mut world);
    let began = world.now;
    world.connect(n);
    assert!(world.clients[n].quic().has_0rtt());
    let data = pattern(1, 3000);
    let stream = world.clients[n].open(&data, true);
    assert!(world.run(ms(5000), |w| w.clients[n].streams[&stream].is_over()));
    assert!(world.stream(n, stream).incoming == data);
    let heard = world.origin().first.expect("data at the origin");
    assert_eq!(heard - began, ms(20), "one way and nothing else");
    assert_eq!(world.now - began, ms(40), "the answer comes with the handshake");
    assert!(world.clients[n].quic().accepted_0rtt());
    assert_eq!(world.quic().early, 1);
}

/// The datagrams of a first flight that carries data, and what it said.
fn recorded(world: &mut World, n: usize) -> (Vec<Vec<u8>>, Vec<u8>) {
    let data = pattern(1, 2000);
    world.keep_log = true;
    world.connect(n);
    assert!(world.clients[n].quic().has_0rtt());
    world.clients[n].open(&data, true);
    world.drive_all();
    world.keep_log = false;
    let flight = std::mem::take(&mut world.log).into_iter().map(|(_, datagram)| datagram).collect();
    (flight, data)
}

#[test]
fn a_recorded_first_flight_is_refused_wherever_and_whenever_it_comes_again() {
    for after_the_end in [false, true] {
        let mut world = World::new(3, Path::clean(20));
        let n = returning(&mut world);
        let (flight, data) = recorded(&mut world, n);
        assert!(world.run(ms(1000), |w| w.clients[n].streams.values().all(|s| s.is_over())));
        if after_the_end {
            let now = world.now;
            world.clients[n].close(now, 0);
            world.pass(Duration::from_secs(5));
            assert_eq!(world.quic().connections, 0);
        }
        assert!(world.dials == 2 && world.origin().incoming == data);
        let refused = world.quic().tickets_refused;
        for (round, socket) in [1, 2, 1].into_iter().enumerate() {
            for datagram in &flight {
                world.inject_to(socket, ([10, 9, 0, round as u8], 77).into(), datagram);
            }
            world.pass(Duration::from_secs(15));
        }
        assert_eq!(world.dials, 2, "data was taken twice");
        assert!(world.quic().tickets_refused > refused);
        assert_eq!(world.quic().early, 1);
        // The client has another ticket, and what it says anew is heard.
        world.connect(n);
        let stream = world.clients[n].open(b"again", true);
        assert!(world.run(ms(1000), |w| w.clients[n].streams[&stream].is_over()));
        assert!(world.clients[n].quic().accepted_0rtt());
    }
}

#[test]
fn a_first_flight_that_is_doubled_on_the_way_is_served_once() {
    let mut world = World::new(4, Path { duplicate: 1.0, ..Path::clean(20) });
    let n = returning(&mut world);
    let (_, data) = recorded(&mut world, n);
    assert!(world.run(ms(1000), |w| w.clients[n].streams.values().all(|s| s.is_over())));
    world.pass(Duration::from_secs(20));
    assert!(world.dials == 2 && world.origin().incoming == data);
}

#[test]
fn another_run_of_the_node_refuses_the_flight_and_serves_the_client() {
    let mut world = World::new(5, Path::clean(20));
    let n = returning(&mut world);
    let mut other = World::new(6, Path::clean(20));
    std::mem::swap(&mut world.node, &mut other.node);
    let (flight, data) = recorded(&mut world, n);
    assert!(world.run(ms(2000), |w| w.clients[n].streams.values().any(|s| s.is_over())));
    assert!(!world.clients[n].quic().accepted_0rtt());
    assert!(world.clients[n].streams.values().any(|s| s.incoming == data), "sent again");
    assert_eq!(world.dials, 2);
    for datagram in &flight {
        world.inject(([10, 9, 0, 1], 77).into(), datagram);
    }
    world.pass(Duration::from_secs(15));
    assert_eq!(world.dials, 2);
}

#[test]
fn data_of_a_lossy_first_flight_is_exact_and_served_once() {
    for seed in 10..20 {
        let mut world = World::new(seed, Path::lossy(20, 0.2));
        let n = returning(&mut world);
        let began = world.dials;
        world.connect(n);
        let data = pattern(seed, 30_000);
        let stream = world.clients[n].open(&data, true);
        assert!(world.run(Duration::from_secs(60), |w| w.clients[n].streams[&stream].is_over()));
        assert!(world.stream(n, stream).incoming == data, "seed {seed}");
        assert_eq!(world.dials, began + 1);
    }
}

#[test]
fn where_it_is_switched_off_the_data_waits_for_the_handshake() {
    let mut world = World::new(7, Path::clean(20));
    world.reconfigure("quic_0rtt = false");
    let n = world.connected();
    let stream = world.clients[n].open(b"hello", true);
    assert!(world.run(ms(5000), |w| w.clients[n].streams[&stream].is_over()));
    let now = world.now;
    world.clients[n].close(now, 0);
    world.pass(Duration::from_secs(5));
    world.origins.clear();
    let began = world.now;
    world.connect(n);
    assert!(!world.clients[n].quic().has_0rtt());
    while world.clients[n].connected.is_none() {
        assert!(world.run(ms(1000), |w| w.clients[n].connected.is_some()));
    }
    world.clients[n].open(b"again", true);
    assert!(world.run(ms(5000), |w| w.origins.values().any(|o| o.first.is_some())));
    assert_eq!(world.origin().first.expect("data") - began, ms(60));
    assert_eq!(world.quic().early, 0);
}

#[test]
fn a_client_of_another_protocol_is_refused() {
    let mut world = World::new(8, Path::clean(20));
    let n = world.client_with(quinn_proto::TransportConfig::default(), "h3");
    world.connect(n);
    assert!(world.run(ms(1000), |w| w.clients[n].lost.is_some()));
    let lost = format!("{:?}", world.clients[n].lost);
    assert!(lost.contains("crypto(78)"), "no_application_protocol: {lost}");
    assert_eq!(world.quic().failed, 1);
    world.reconfigure("quic_alpn = \"h3\"");
    world.connect(n);
    assert!(world.run(ms(1000), |w| w.clients[n].connected.is_some()));
}
