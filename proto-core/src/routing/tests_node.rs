//! One node, and what it makes of what it hears.

use std::time::Instant;

use proptest::prelude::*;

use super::database::{MAX_LINKS, MAX_NODES};
use super::tests::{Mesh, PROBES, ms, name, quality, secs};
use super::{Routing, RoutingEvent};
use crate::ids::{Incarnation, NodeHash, NodeId, PeerId};
use crate::rng::Rng;
use crate::tests::epoch;
use crate::wire::linkstate::{self, Fragment, FragmentHead, Link, MAX_INCARNATION};
use crate::wire::{Reader, VARINT_MAX};

const PEER: PeerId = PeerId(0);

fn alone(now: Instant) -> Routing {
    let rng = Rng::new([1; 32]);
    let mut routing = Routing::new(now, name(0), Incarnation(100), PROBES, rng);
    routing.add_neighbour(PEER, &name(1));
    routing
}

fn link(to: NodeHash) -> Link {
    Link { to, rtt_us: 10_000, jitter_us: 0, loss: 0, burst: 4, shaky: false }
}

fn frame(name: &str, life: u64, sequence: u64, (n, of): (u8, u8), links: &[NodeHash]) -> Vec<u8> {
    let head = FragmentHead {
        name,
        incarnation: Incarnation(life),
        sequence,
        fragment: n,
        fragments: of,
        relays: true,
        age_s: 0,
    };
    let links: Vec<_> = links.iter().copied().map(link).collect();
    let mut out = Vec::new();
    linkstate::put(&mut out, &head, links.iter());
    out
}

fn hear(routing: &mut Routing, now: Instant, bytes: &[u8]) {
    let frame = linkstate::read(&mut Reader::new(bytes)).expect("valid");
    routing.handle(now, PEER, &frame);
}

/// What the neighbour is told, as `(name, incarnation, sequence, fragment, age)`.
fn said(routing: &mut Routing, now: Instant) -> Vec<(String, u64, u64, u8, u64)> {
    let mut all = Vec::new();
    while routing.has(PEER) {
        let mut out = Vec::new();
        routing.fill(now, PEER, 1_200, &mut out);
        let mut reader = Reader::new(&out);
        while !reader.is_empty() {
            let Fragment { head, .. } = linkstate::read(&mut reader).expect("valid");
            let (life, sequence) = (head.incarnation.0, head.sequence);
            all.push((head.name.to_string(), life, sequence, head.fragment, head.age_s));
        }
    }
    all
}

fn events(routing: &mut Routing, now: Instant) -> Vec<RoutingEvent> {
    // Routes are computed anew no more often than so.
    std::iter::from_fn(|| routing.poll_event(now + super::BETWEEN)).collect()
}

#[test]
fn a_link_counts_only_if_both_ends_report_it() {
    let now = epoch();
    let (mut routing, one) = (alone(now), name(1).hash32());
    routing.set_link(now, PEER, Some(quality(ms(10))));
    assert!(events(&mut routing, now).is_empty());
    hear(&mut routing, now, &frame("node-1", 1, 1, (0, 1), &[]));
    let life = RoutingEvent::Life { node: one, life: Incarnation(1) };
    assert_eq!(events(&mut routing, now), [life], "it does not report the link");
    assert_eq!(routing.next_hop(one, None), None);
    hear(&mut routing, now, &frame("node-1", 1, 2, (0, 1), &[name(0).hash32()]));
    let route =
        RoutingEvent::Route { node: one, via: Some(PEER), rtt: ms(10), lost: false, hops: 1 };
    assert_eq!(events(&mut routing, now + ms(40)), [route]);
    assert_eq!(routing.next_hop(one, None), Some(PEER));
    let latencies = routing.latencies(now + ms(1_500));
    assert!(latencies.len() == 2 && latencies.iter().all(|l| l.used && l.age_ms == 1_500));
    hear(&mut routing, now, &frame("node-1", 1, 3, (0, 1), &[]));
    let route = RoutingEvent::Route { node: one, via: None, rtt: ms(0), lost: true, hops: 0 };
    assert_eq!(events(&mut routing, now + ms(80)), [route]);
    assert!(routing.latencies(now).iter().all(|l| !l.used));
}

#[test]
fn what_is_newer_about_oneself_is_outdone_and_never_installed() {
    let now = epoch();
    let mut routing = alone(now);
    routing.set_link(now, PEER, Some(quality(ms(10))));
    said(&mut routing, now);
    hear(&mut routing, now, &frame("node-0", 100, 7_000, (0, 1), &[NodeHash(5)]));
    assert_eq!(said(&mut routing, now), [("node-0".into(), 100, 7_001, 0, 0)]);
    // The same number with other words.
    hear(&mut routing, now, &frame("node-0", 100, 7_001, (0, 1), &[NodeHash(5)]));
    assert_eq!(said(&mut routing, now), [("node-0".into(), 100, 7_002, 0, 0)]);
    // A fragment that there is not: the first says so.
    hear(&mut routing, now, &frame("node-0", 100, 9_000, (4, 9), &[NodeHash(5)]));
    assert_eq!(said(&mut routing, now), [("node-0".into(), 100, 9_001, 0, 0)]);
    // Something old is answered by what is new.
    hear(&mut routing, now, &frame("node-0", 99, 20_000, (0, 1), &[]));
    assert_eq!(said(&mut routing, now), [("node-0".into(), 100, 9_001, 0, 0)]);
    assert!(events(&mut routing, now).is_empty());
    // A later life, and a number above which there is none, ask for a life above.
    hear(&mut routing, now, &frame("node-0", 300, 1, (0, 1), &[NodeHash(5)]));
    let outlived = |seen| RoutingEvent::Outlived { seen: Incarnation(seen) };
    assert_eq!(events(&mut routing, now), [outlived(300)]);
    routing.set_incarnation(now, Incarnation(301));
    assert_eq!(said(&mut routing, now), [("node-0".into(), 301, 1, 0, 0)]);
    hear(&mut routing, now, &frame("node-0", 301, VARINT_MAX, (0, 1), &[]));
    assert_eq!(events(&mut routing, now), [outlived(301)]);
    routing.set_incarnation(now, Incarnation(302));
    // The greatest of all leaves no room above.
    hear(&mut routing, now, &frame("node-0", MAX_INCARNATION - 1, 1, (0, 1), &[]));
    assert!(events(&mut routing, now).is_empty());
    assert_eq!(routing.db.nodes.len(), 1);
}

#[test]
fn fragments_that_a_node_has_no_more_are_dropped() {
    let now = epoch();
    let mut routing = alone(now);
    let (links, one) = ([NodeHash(1), NodeHash(2)], name(1).hash32());
    hear(&mut routing, now, &frame("node-1", 1, 9_000, (4, 9), &links));
    hear(&mut routing, now, &frame("node-1", 1, 9_001, (0, 1), &[]));
    assert_eq!(routing.db.nodes[&one].fragments.len(), 1);
    hear(&mut routing, now, &frame("node-1", 1, 9_000, (4, 9), &links));
    assert_eq!((routing.db.nodes[&one].fragments.len(), routing.db.links), (1, 0));
    // A later life voids all of the earlier.
    hear(&mut routing, now, &frame("node-1", 1, 9_002, (3, 4), &links));
    assert_eq!(routing.db.links, 2);
    hear(&mut routing, now, &frame("node-1", 2, 1, (1, 2), &links[..1]));
    assert_eq!((routing.db.nodes[&one].fragments.len(), routing.db.links), (1, 1));
    hear(&mut routing, now, &frame("node-1", 1, 9_003, (0, 1), &links));
    assert_eq!((routing.db.nodes[&one].fragments.len(), routing.db.links), (1, 1));
}

#[test]
fn a_copy_grows_old_on_its_way_and_is_forgotten_at_last() {
    let mut now = epoch();
    let mut routing = alone(now);
    routing.set_link(now, PEER, Some(quality(ms(10))));
    hear(&mut routing, now, &frame("node-9", 1, 1, (0, 1), &[NodeHash(4)]));
    assert!(said(&mut routing, now).iter().all(|frame| frame.0 != "node-9"), "it knows");
    events(&mut routing, now);
    now += ms(100_200);
    routing.handle_timeout(now);
    routing.exchange(PEER);
    let told = said(&mut routing, now);
    assert!(told.contains(&("node-9".into(), 1, 1, 0, 101)), "{told:?}");
    routing.exchange(PEER);
    now += ms(199_700);
    let told = said(&mut routing, now);
    assert!(told.iter().all(|frame| frame.0 != "node-9"), "too old to be told: {told:?}");
    assert!(routing.poll_timeout().is_some_and(|at| at <= now + ms(100)));
    now += ms(100);
    routing.handle_timeout(now);
    let gone = RoutingEvent::Gone { node: name(9).hash32() };
    assert!(events(&mut routing, now).contains(&gone));
    assert_eq!((routing.db.nodes.len(), routing.db.links), (1, 1));
    // Oneself never.
    assert_eq!(routing.db.nodes[&name(0).hash32()].fragments.len(), 1);
}

#[test]
fn of_two_names_with_one_hash_the_lesser_is_installed() {
    // Found by trying: names are 32 bits on the wire.
    let mut seen = std::collections::BTreeMap::new();
    let pair = (0u32..).find_map(|n| {
        let id = NodeId::new(&format!("c{n}")).expect("a name");
        seen.insert(id.hash32(), id.clone()).map(|other| (other, id))
    });
    let (a, b) = pair.expect("there are two");
    let (lesser, greater) = if a < b { (a, b) } else { (b, a) };
    let (now, hash) = (epoch(), lesser.hash32());
    for order in [[&lesser, &greater], [&greater, &lesser]] {
        let mut routing = alone(now);
        for (n, id) in order.into_iter().enumerate() {
            let links = [NodeHash(3), NodeHash(4)];
            hear(&mut routing, now, &frame(id.as_str(), 5, 1, (0, 1), &links[n..]));
        }
        assert_eq!(routing.db.nodes[&hash].name, lesser);
        assert_eq!(routing.db.links, if order[0] == &lesser { 2 } else { 1 });
    }
    let mut routing = Routing::new(now, greater.clone(), Incarnation(1), PROBES, Rng::new([1; 32]));
    routing.add_neighbour(PEER, &name(1));
    hear(&mut routing, now, &frame(lesser.as_str(), 5, 1, (0, 1), &[]));
    assert_eq!(routing.db.nodes[&hash].name, greater, "oneself is never put aside");
}

#[test]
fn a_flood_of_nodes_finds_an_end() {
    let now = epoch();
    let mut routing = alone(now);
    routing.set_link(now, PEER, Some(quality(ms(10))));
    let links: Vec<_> = (0..48).map(NodeHash).collect();
    for n in 0..3_000 {
        for fragment in 0..2 {
            let frame = frame(&format!("fake-{n}"), 1, 1 + fragment, (fragment as u8, 2), &links);
            hear(&mut routing, now, &frame);
        }
        if n % 100 == 0 {
            routing.tables(&mut |table| assert!(table.len <= table.bound, "{table:?}"));
        }
    }
    assert!(routing.db.nodes.len() <= MAX_NODES && routing.db.links <= MAX_LINKS);
    assert!(routing.db.links > MAX_LINKS - 48 && routing.refused() > 0);
    events(&mut routing, now);
    // It goes by.
    routing.handle_timeout(now + secs(301));
    assert_eq!(routing.db.nodes.len(), 1);
    events(&mut routing, now);
    for n in 0..3_000 {
        hear(&mut routing, now, &frame(&format!("fake-{n}"), 1, 1, (0, 1), &[]));
    }
    assert_eq!(routing.db.nodes.len(), MAX_NODES);
    routing.tables(&mut |table| assert!(table.len <= table.bound, "{table:?}"));
}

#[test]
fn a_quality_is_said_anew_only_when_it_has_really_changed() {
    let mut now = epoch();
    let mut routing = alone(now);
    routing.set_link(now, PEER, Some(quality(ms(100))));
    said(&mut routing, now);
    let mut measure = |routing: &mut Routing, rtt: u64, loss: f64| {
        now += PROBES;
        routing.handle_timeout(now);
        let measured = crate::probe::LinkQuality { loss, ..quality(ms(rtt)) };
        routing.set_link(now, PEER, Some(measured));
        said(routing, now).len()
    };
    for rtt in [104, 96, 109, 150, 150, 100, 150, 60, 100] {
        assert_eq!(measure(&mut routing, rtt, 0.0), 0, "wobbles");
    }
    let changed = [150; 5].map(|rtt| measure(&mut routing, rtt, 0.0));
    assert_eq!(changed, [0, 0, 0, 1, 0]);
    let lossy = [0.3; 5].map(|loss| measure(&mut routing, 150, loss));
    assert_eq!(lossy, [0, 0, 0, 1, 0]);
    let hardly = [0.31; 5].map(|loss| measure(&mut routing, 150, loss));
    assert_eq!(hardly, [0; 5]);
}

#[test]
fn a_link_that_comes_and_goes_is_shaky_for_longer_and_longer() {
    let mut now = epoch();
    let mut routing = alone(now);
    let own = name(0).hash32();
    let shaky = |routing: &Routing| routing.db.nodes[&own].edges().any(|edge| edge.link.shaky);
    routing.set_link(now, PEER, Some(quality(ms(10))));
    assert!(!shaky(&routing), "the first time is none");
    for expected in [1, 2, 4, 8, 16, 30, 30] {
        now += ms(20);
        routing.set_link(now, PEER, None);
        now += ms(20);
        routing.set_link(now, PEER, Some(quality(ms(10))));
        routing.handle_timeout(now);
        let came = now;
        while shaky(&routing) || routing.own.next_due().is_none_or(|at| at <= now + secs(20)) {
            now = routing.poll_timeout().expect("a timer").max(now);
            routing.handle_timeout(now);
        }
        let time = now - came;
        assert!(time >= secs(expected) && time < secs(expected) + ms(2_000), "{time:?}");
    }
    routing.set_link(now, PEER, None);
    for _ in 0..20 {
        now += secs(60);
        routing.handle_timeout(now);
    }
    routing.set_link(now, PEER, Some(quality(ms(10))));
    assert!(!shaky(&routing), "deaths are forgotten");
}

#[test]
fn a_shaky_link_is_used_where_there_is_nothing_else() {
    let links = [(0, 1, ms(10)), (0, 2, ms(100)), (2, 1, ms(100)), (1, 3, ms(10))];
    let mut mesh = Mesh::new(1, 4, &links);
    mesh.set_all(true);
    mesh.run(secs(20));
    for (a, b) in [(0, 1), (1, 3)] {
        mesh.set(a, b, false);
        mesh.run(ms(300));
        mesh.set(a, b, true);
    }
    mesh.run(ms(500));
    assert_eq!(mesh.follow(0, 1), [0, 2, 1]);
    assert_eq!(mesh.follow(1, 3), [1, 3]);
    mesh.run(secs(20));
    assert_eq!(mesh.follow(0, 1), [0, 1]);
}

#[test]
fn advertisements_are_throttled_but_withdrawals_hardly() {
    let now = epoch();
    let mut routing = alone(now);
    routing.set_link(now, PEER, Some(quality(ms(10))));
    let before = said(&mut routing, now)[0].2;
    for _ in 0..50 {
        routing.set_link(now, PEER, None);
        routing.set_link(now, PEER, Some(quality(ms(10))));
    }
    let after = said(&mut routing, now)[0].2;
    assert!(after - before <= 12, "{before} to {after}");
    let mut later = now;
    for _ in 0..10 {
        later += secs(1);
        routing.handle_timeout(later);
    }
    let at_last = said(&mut routing, later)[0].2;
    assert!(at_last > after && at_last - after <= 10);
}

#[test]
fn nothing_is_said_to_neighbours_that_are_down_and_all_to_those_that_come() {
    let now = epoch();
    let mut routing = alone(now);
    hear(&mut routing, now, &frame("node-7", 1, 1, (0, 1), &[]));
    routing.exchange(PEER);
    assert!(!routing.has(PEER));
    let mut out = Vec::new();
    routing.fill(now, PEER, 1_200, &mut out);
    assert!(out.is_empty());
    routing.set_link(now, PEER, Some(quality(ms(10))));
    // Whole frames only.
    routing.fill(now, PEER, 20, &mut out);
    assert!(out.is_empty() && routing.has(PEER));
    assert_eq!(said(&mut routing, now).len(), 2);
    routing.exchange(PEER);
    routing.set_link(now, PEER, None);
    assert!(!routing.has(PEER));
}

#[test]
fn a_neighbour_that_was_removed_is_withdrawn_and_finds_no_ear() {
    let now = epoch();
    let mut routing = alone(now);
    routing.set_link(now, PEER, Some(quality(ms(10))));
    hear(&mut routing, now, &frame("node-1", 1, 1, (0, 1), &[name(0).hash32()]));
    events(&mut routing, now);
    assert!(routing.next_hop(name(1).hash32(), None).is_some());
    routing.remove_neighbour(now, PEER);
    assert!(routing.next_hop(name(1).hash32(), None).is_none());
    events(&mut routing, now);
    hear(&mut routing, now, &frame("node-8", 1, 1, (0, 1), &[]));
    assert!(
        routing.db.nodes.len() == 2 && routing.db.nodes[&name(0).hash32()].edges().count() == 0
    );
    assert!(!routing.has(PEER) && routing.paths().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever neighbours say, in whatever order: bounds hold and nothing stays due.
    #[test]
    fn any_advertisements_leave_the_room_in_order(
        frames in proptest::collection::vec(
            (0usize..6, 0u64..4, 0u64..6, 0u8..3, 1u8..4, proptest::collection::vec(0usize..8, 0..6)),
            0..80,
        ),
    ) {
        let mut now = epoch();
        let mut routing = alone(now);
        routing.set_link(now, PEER, Some(quality(ms(10))));
        for (node, life, sequence, n, more, links) in frames {
            let links: Vec<_> = links.into_iter().map(|n| name(n).hash32()).collect();
            let of = n + more;
            hear(&mut routing, now, &frame(name(node).as_str(), 99 + life, sequence, (n, of), &links));
            for event in events(&mut routing, now) {
                if let RoutingEvent::Outlived { seen } = event {
                    routing.set_incarnation(now, Incarnation(seen.0 + 1));
                }
            }
            let links: usize = routing.db.nodes.values().map(|entry| entry.edges().count()).sum();
            prop_assert_eq!(links, routing.db.links);
            routing.tables(&mut |table| assert!(table.len <= table.bound, "{table:?}"));
            now += ms(700);
            routing.handle_timeout(now);
            prop_assert!(routing.poll_timeout().is_none_or(|at| at > now));
            said(&mut routing, now);
        }
    }
}
