//! What must hold of a mesh: it agrees, comes to rest, loops nothing, and finds other ways.

use std::time::Duration;

use proptest::prelude::*;

use super::RoutingEvent;
use super::tests::{Mesh, ms, secs};
use crate::ids::Incarnation;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_mesh_at_rest_agrees_and_its_routes_are_short_and_free_of_loops(
        seed: u8, nodes in 2usize..14, degree in 2usize..5,
        changes in proptest::collection::vec((0u8..4, any::<prop::sample::Index>(), 0u64..3_000), 0..12),
    ) {
        let mut mesh = Mesh::random(seed, nodes, degree);
        mesh.set_all(true);
        for (what, which, wait) in changes {
            let keys: Vec<_> = mesh.links.keys().copied().collect();
            let (a, b) = keys[which.index(keys.len())];
            match what {
                0 => mesh.set(a, b, false),
                1 => mesh.set(a, b, true),
                2 => {
                    let rtt = ms(2 + u64::from(mesh.rng.next_u32() % 198));
                    mesh.links.get_mut(&(a, b)).expect("a link").rtt = rtt;
                }
                _ => {
                    mesh.crash(a);
                    // The clock may stand anywhere.
                    let life = 1 + u64::from(mesh.rng.next_u32() % 3_000);
                    mesh.start(a, Incarnation(life));
                    for peer in mesh.nodes[a].peers.clone() {
                        mesh.set(a, peer, true);
                    }
                }
            }
            mesh.run(ms(wait));
        }
        // Links that died before are used again, and stale ones are heard of by all.
        mesh.run(secs(200));
        mesh.check();
        mesh.check_alternates();
    }

    #[test]
    fn what_was_parted_heals(seed: u8, nodes in 4usize..12) {
        let mut mesh = Mesh::random(seed, nodes, 4);
        mesh.set_all(true);
        mesh.run(secs(5));
        mesh.check();
        let across: Vec<_> =
            mesh.links.keys().copied().filter(|(a, b)| a % 2 != b % 2).collect();
        across.iter().for_each(|(a, b)| mesh.set(*a, *b, false));
        mesh.run(secs(100));
        across.iter().for_each(|(a, b)| mesh.set(*a, *b, true));
        mesh.run(secs(100));
        prop_assert!(mesh.is_converged());
        mesh.check();
    }
}

#[test]
fn fifty_nodes_converge_within_three_seconds_and_are_quiet_then() {
    for seed in 1..=3 {
        let mut mesh = Mesh::random(seed, 50, 4);
        let begin = mesh.now;
        // Each starts within five seconds; a tunnel takes one and a half round trips.
        let starts: Vec<_> = (0..50).map(|_| secs(5).mul_f64(mesh.rng.unit())).collect();
        let mut ups: Vec<_> = mesh
            .links
            .iter()
            .map(|(&(a, b), link)| (starts[a].max(starts[b]) + link.rtt * 3 / 2, a, b))
            .collect();
        ups.sort();
        for (at, a, b) in ups {
            mesh.run((begin + at).saturating_duration_since(mesh.now));
            mesh.set(a, b, true);
        }
        let last = begin + starts.into_iter().max().expect("fifty");
        while !mesh.is_converged() {
            mesh.run(ms(10));
            assert!(mesh.now < last + secs(3), "seed {seed}: not converged");
        }
        println!("seed {seed}: converged {:?} after the last start", mesh.now - last);
        mesh.run(secs(20));
        mesh.check();
        mesh.links.values_mut().for_each(|link| link.bytes = 0);
        mesh.run(secs(300));
        let rates = mesh.links.values().map(|link| link.bytes as f64 * 8.0 / 300.0);
        let most = rates.fold(0.0, f64::max);
        println!("seed {seed}: at most {most:.0} bit/s on a link, both directions");
        assert!(most < 5_000.0, "{most} bit/s");
    }
}

/// Two ways of 100 and 101 ms whose every link jitters by 10 ms.
#[test]
fn jitter_does_not_drag_routes_to_and_fro() {
    let us = Duration::from_micros;
    let diamond = vec![(0, 1, ms(50)), (1, 3, ms(50)), (0, 2, us(50_500)), (2, 3, us(50_500))];
    let direct = vec![(0, 1, ms(100)), (0, 2, us(50_500)), (2, 1, us(50_500))];
    let short = vec![(0, 1, ms(20)), (1, 3, ms(20)), (0, 2, ms(20)), (2, 3, ms(21))];
    for (seed, (nodes, links)) in [(4, diamond), (3, direct), (4, short)].into_iter().enumerate() {
        let mut mesh = Mesh::new(seed as u8, nodes, &links);
        mesh.links.values_mut().for_each(|link| link.jitter = ms(10));
        mesh.set_all(true);
        mesh.run(secs(3_600));
        for n in 0..nodes {
            let changes = mesh.routing(n).route_changes();
            println!("mesh {seed}, node {n}: {changes} changes in an hour");
            assert!(changes < 60, "mesh {seed}, node {n}: {changes} changes");
        }
    }
}

#[test]
fn a_better_way_is_taken_after_a_while_and_a_clearly_worse_one_left() {
    let links = [(0, 1, ms(50)), (1, 3, ms(50)), (0, 2, ms(60)), (2, 3, ms(60))];
    let mut mesh = Mesh::new(1, 4, &links);
    mesh.set_all(true);
    mesh.run(secs(20));
    assert_eq!(mesh.follow(0, 3), [0, 1, 3]);
    mesh.links.get_mut(&(1, 3)).expect("a link").rtt = ms(120);
    mesh.run(secs(1));
    assert_eq!(mesh.follow(0, 3), [0, 1, 3], "it may be a wobble");
    mesh.run(secs(10));
    assert_eq!(mesh.follow(0, 3), [0, 2, 3]);
    assert!(mesh.routing(0).route_changes() == 1);
    mesh.check();
}

#[test]
fn the_alternate_takes_over_at_once() {
    let links = [(0, 1, ms(50)), (1, 3, ms(50)), (0, 2, ms(60)), (2, 3, ms(60))];
    let mut mesh = Mesh::new(1, 4, &links);
    mesh.set_all(true);
    mesh.run(secs(20));
    let (dest, first, other) = (mesh.hash(3), mesh.peer(0, 1), mesh.peer(0, 2));
    let now = mesh.now;
    let routing = mesh.nodes[0].routing.as_mut().expect("it runs");
    assert_eq!(routing.next_hop(dest, None), Some(first));
    assert_eq!(routing.next_hop(dest, Some(first)), Some(other), "never back");
    // Before anything is computed.
    routing.set_link(now, first, None);
    assert_eq!(routing.next_hop(dest, None), Some(other));
    assert_eq!(routing.next_hop(dest, Some(other)), None);
    let mut lost = Vec::new();
    while let Some(event) = routing.poll_event(now) {
        lost.extend(match event {
            RoutingEvent::Route { node, via, lost, hops, .. } => Some((node, via, lost, hops)),
            _ => None,
        });
    }
    assert!(lost.contains(&(dest, Some(other), true, 2)), "{lost:?}");
}

#[test]
fn a_link_lost_on_the_way_is_told_even_if_the_next_hop_stays() {
    let links = [(0, 1, ms(10)), (1, 3, ms(10)), (1, 2, ms(10)), (2, 3, ms(10))];
    let mut mesh = Mesh::new(1, 4, &links);
    mesh.set_all(true);
    mesh.run(secs(20));
    let (dest, via) = (mesh.hash(3), Some(mesh.peer(0, 1)));
    mesh.nodes[0].events.clear();
    mesh.set(1, 3, false);
    mesh.run(ms(100));
    let told = mesh.nodes[0].events.iter().any(|event| {
        matches!(event, RoutingEvent::Route { node, via: v, lost: true, hops: 3, .. }
            if *node == dest && *v == via)
    });
    assert!(told, "{:?}", mesh.nodes[0].events);
    // A better way is no loss.
    mesh.nodes[0].events.clear();
    mesh.set(1, 3, true);
    mesh.run(secs(20));
    assert_eq!(mesh.follow(0, 3), [0, 1, 3]);
    let lost = |event: &RoutingEvent| matches!(event, RoutingEvent::Route { lost: true, .. });
    assert!(!mesh.nodes[0].events.iter().any(lost), "{:?}", mesh.nodes[0].events);
}

#[test]
fn a_relay_that_restarted_loses_what_was_under_way_through_it() {
    let links = [(0, 1, ms(10)), (1, 2, ms(10)), (2, 3, ms(10)), (1, 3, ms(200))];
    let mut mesh = Mesh::new(1, 4, &links);
    mesh.set_all(true);
    mesh.run(secs(20));
    mesh.nodes[0].events.clear();
    mesh.crash(2);
    mesh.start(2, Incarnation(5_000));
    mesh.set(2, 1, true);
    mesh.set(2, 3, true);
    mesh.run(secs(20));
    let (dest, relay) = (mesh.hash(3), mesh.hash(2));
    let events = &mesh.nodes[0].events;
    let lost = |e: &RoutingEvent| matches!(e, RoutingEvent::Route { node, lost: true, .. } if *node == dest);
    assert!(events.iter().any(lost), "{events:?}");
    let life = RoutingEvent::Life { node: relay, life: Incarnation(5_000) };
    assert!(events.contains(&life), "{events:?}");
}

#[test]
fn a_node_that_comes_back_is_believed_whatever_its_clock_says() {
    for clock in [1, 1_001, 1_002, 9_000] {
        let mut mesh = Mesh::random(7, 8, 3);
        mesh.set_all(true);
        mesh.run(secs(10));
        mesh.crash(1);
        mesh.run(secs(10));
        assert!(mesh.routing(0).next_hop(mesh.hash(1), None).is_none());
        mesh.start(1, Incarnation(clock));
        mesh.run(secs(3));
        for peer in mesh.nodes[1].peers.clone() {
            mesh.set(1, peer, true);
        }
        mesh.run(secs(3));
        assert!(mesh.is_converged(), "clock at {clock}");
        mesh.run(secs(60));
        mesh.check();
        let life = mesh.nodes[1].life;
        assert!((0..8).all(|n| mesh.routing(n).db.nodes[&mesh.hash(1)].life == life));
    }
}

#[test]
fn a_node_that_does_not_relay_is_the_end_of_paths_and_no_more() {
    let links = [(0, 1, ms(10)), (1, 2, ms(10)), (0, 3, ms(100)), (3, 2, ms(100)), (1, 4, ms(5))];
    let mut mesh = Mesh::new(1, 5, &links);
    mesh.set_all(true);
    mesh.run(secs(20));
    assert_eq!(mesh.follow(0, 2), [0, 1, 2]);
    let now = mesh.now;
    mesh.nodes[1].routing.as_mut().expect("it runs").set_relaying(now, false);
    mesh.run(secs(5));
    assert_eq!(mesh.follow(0, 2), [0, 3, 2], "around it");
    assert_eq!(mesh.follow(0, 1), [0, 1], "to it");
    assert_eq!(mesh.follow(1, 2), [1, 2], "from it");
    assert_eq!(mesh.follow(0, 4), [0], "what only it leads to is cut off");
    mesh.check();
    mesh.check_alternates();
    mesh.nodes[1].routing.as_mut().expect("it runs").set_relaying(now, true);
    mesh.run(secs(20));
    assert_eq!(mesh.follow(0, 2), [0, 1, 2]);
    mesh.check();
}

#[test]
fn a_hub_with_more_links_than_a_fragment_holds_reaches_all() {
    let links: Vec<_> = (1..=120).map(|n| (0, n, ms(10))).collect();
    let mut mesh = Mesh::new(1, 121, &links);
    mesh.set_all(true);
    mesh.run(secs(5));
    assert!(mesh.is_converged());
    assert_eq!(mesh.routing(7).db.nodes[&mesh.hash(0)].fragments.len(), 3);
    assert_eq!(mesh.follow(1, 120), [1, 0, 120]);
    mesh.set(0, 77, false);
    mesh.run(secs(1));
    assert_eq!(mesh.follow(1, 77), [1]);
    assert!(mesh.routing(1).next_hop(mesh.hash(76), None).is_some());
}
