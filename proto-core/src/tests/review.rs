//! What a review with fresh eyes suspected. Each test states a rule and fails while it is broken.

use std::time::{Duration, Instant};

use super::world::{Path, World, pattern};
use super::{endpoints, epoch};
use crate::config::{Lanes, Limits};
use crate::flow::{Flows, Output, Route};
use crate::ids::{ConnId, Incarnation, Lane, NodeHash, PeerId, ServiceName};

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Two flow rooms and no tunnel: what one fills is handed to the other when the test says so.
struct Pair {
    now: Instant,
    ends: [Flows; 2],
    hashes: [NodeHash; 2],
}

const HOP: PeerId = PeerId(0);

impl Pair {
    fn new() -> Self {
        let now = epoch();
        let hashes = [NodeHash(1), NodeHash(2)];
        let lives = [Incarnation(1000), Incarnation(2000)];
        let ends = [0, 1].map(|at| {
            let mut flows =
                Flows::new(hashes[at], lives[at], &Limits::default(), &Lanes::default());
            flows.add_hop(HOP);
            flows.set_remote_life(now, hashes[1 - at], lives[1 - at]);
            let route = Route { via: HOP, rtt: Duration::from_millis(20), hops: 1 };
            flows.set_route(now, hashes[1 - at], Some(route), false);
            flows
        });
        Self { now, ends, hashes }
    }

    fn accept(&mut self, n: u64) -> ConnId {
        let conn = ConnId::accepted(n);
        let service = ServiceName::default();
        self.ends[0].accept(self.now, conn, self.hashes[1], service, endpoints()).expect("room");
        conn
    }

    /// All symbols that `from` has for `lane` now.
    fn fill(&mut self, from: usize, lane: Lane) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        while self.ends[from].has(HOP, lane) {
            let mut symbol = Vec::new();
            self.ends[from].fill(self.now, HOP, lane, 1200, &mut symbol);
            if symbol.is_empty() {
                break;
            }
            out.push(symbol);
        }
        out
    }

    fn hand(&mut self, to: usize, symbols: &[Vec<u8>]) {
        for symbol in symbols {
            self.ends[to].handle_symbol(self.now, HOP, symbol).expect("well formed");
        }
    }

    fn outputs(&mut self, at: usize) -> Vec<Output> {
        let now = self.now;
        std::iter::from_fn(|| self.ends[at].poll_output(now)).collect()
    }

    /// Carries everything both ways until nothing more is said.
    fn settle(&mut self) -> [Vec<Output>; 2] {
        let mut all = [Vec::new(), Vec::new()];
        for _ in 0..100 {
            for (at, all) in all.iter_mut().enumerate() {
                for lane in Lane::ALL {
                    let symbols = self.fill(at, lane);
                    self.hand(1 - at, &symbols);
                }
                all.extend(self.outputs(at));
            }
        }
        all
    }

    fn wait(&mut self, time: Duration) -> [Vec<Output>; 2] {
        let end = self.now + time;
        let mut all = [Vec::new(), Vec::new()];
        loop {
            for (all, new) in all.iter_mut().zip(self.settle()) {
                all.extend(new);
            }
            let next = self.ends.iter().filter_map(Flows::poll_timeout).min();
            let Some(next) = next.filter(|at| *at <= end) else { break };
            self.now = self.now.max(next);
            for flows in &mut self.ends {
                flows.handle_timeout(self.now);
            }
        }
        self.now = end;
        all
    }
}

/// Law 1: an origin that breaks off in the middle must not look like one that finished.
#[test]
fn a_broken_origin_is_no_clean_end_when_data_overtakes_the_reset() {
    let mut pair = Pair::new();
    let client = pair.accept(0);
    pair.ends[0].received(pair.now, client, b"GET");
    let outputs = pair.settle();
    let origin = outputs[1]
        .iter()
        .find_map(|o| match o {
            Output::Dial { conn, .. } => Some(*conn),
            _ => None,
        })
        .expect("a dial");
    pair.ends[1].connected(pair.now, origin);
    pair.settle();
    pair.ends[1].received(pair.now, origin, b"half an answ");
    pair.ends[1].conn_reset(pair.now, origin);
    // The symbol with the reset is lost and will be repaired in a moment; the one with data is not.
    let _lost = pair.fill(1, Lane::Control);
    let data = pair.fill(1, Lane::Express);
    pair.hand(0, &data);
    let outputs = pair.outputs(0);
    assert!(outputs.iter().any(|o| matches!(o, Output::Write { .. })));
    assert!(
        !outputs.contains(&Output::Shutdown { conn: client }),
        "the client sees a clean end of a stream that was cut"
    );
}

/// The same through whole nodes.
#[test]
fn a_broken_origin_never_looks_finished_at_any_loss_rate() {
    for seed in 0..60 {
        let mut world = World::new(seed, Path::lossy(20, 0.3));
        world.echo = false;
        let conn = world.connect(b"x", false);
        assert!(world.run(secs(20), |w| w.conns[1].values().any(|o| !o.incoming.is_empty())));
        let origin = *world.conns[1].keys().next().expect("an origin");
        let said = pattern(seed, 3000);
        world.conns[1].get_mut(&origin).expect("an origin").outgoing.extend(&said);
        world.run(Duration::ZERO, |_| false);
        world.reset_conn(1, origin);
        world.run(secs(20), |w| w.conns[0][&conn].reset);
        let client = world.client(conn);
        assert!(!client.eof_received, "seed {seed}: a clean end of a stream that was cut");
        assert!(client.reset, "seed {seed}");
    }
}

/// A client that had the end of the answer must still hear that its upload failed.
#[test]
fn a_reset_after_a_half_close_reaches_the_client() {
    let mut world = World::new(2, Path::clean(20));
    world.echo = false;
    let conn = world.connect(b"x", false);
    assert!(world.run(secs(5), |w| w.conns[1].values().any(|o| !o.incoming.is_empty())));
    let origin = *world.conns[1].keys().next().expect("an origin");
    let end = world.conns[1].get_mut(&origin).expect("an origin");
    end.outgoing.extend(b"enough");
    end.close_when_sent = true;
    assert!(world.run(secs(5), |w| w.conns[0][&conn].eof_received));
    world.reset_conn(1, origin);
    assert!(world.run(secs(60), |w| w.conns[0][&conn].reset), "the client hangs for good");
}

/// A reset that overtakes the open must close the id: nobody wants the request any more.
#[test]
fn a_flow_that_was_reset_before_it_was_opened_is_not_opened_afterwards() {
    let mut pair = Pair::new();
    let client = pair.accept(0);
    pair.ends[0].received(pair.now, client, b"POST /order");
    let late = pair.fill(0, Lane::Express);
    pair.ends[0].conn_reset(pair.now, client);
    let reset = pair.fill(0, Lane::Control);
    pair.hand(1, &reset);
    pair.settle();
    // Now the repair of the first symbol arrives.
    pair.hand(1, &late);
    let outputs = pair.outputs(1);
    pair.wait(secs(3600));
    assert!(
        !outputs.iter().any(|o| matches!(o, Output::Dial { .. })),
        "dialled for nobody; {} flows left an hour later",
        pair.ends[1].live()
    );
}

/// The same through whole nodes: impatient clients on a lossy link leave nothing behind.
#[test]
fn impatient_clients_leave_no_flow_behind() {
    let mut left = Vec::new();
    for seed in 0..60 {
        let mut world = World::new(seed, Path::lossy(20, 0.3));
        world.run(secs(2), |_| false);
        let conn = world.connect(b"x", false);
        world.run(Duration::from_millis(1), |_| false);
        world.reset_conn(0, conn);
        world.run(secs(300), |_| false);
        let live = world.nodes[1].as_ref().expect("a node").status(world.now).tcp_flows;
        if live > 0 {
            left.push(seed);
        }
    }
    assert!(left.is_empty(), "origins are held for nobody; seeds {left:?}");
}

/// Both ends of a flow must come to the same view after a partition, however long.
#[test]
fn a_long_partition_leaves_no_half_of_a_flow() {
    let mut world = World::new(3, Path::clean(20));
    world.echo = false;
    let conn = world.connect(b"x", false);
    assert!(world.run(secs(5), |w| w.conns[1].values().any(|o| !o.incoming.is_empty())));
    world.run(secs(5), |_| false);
    let origin = *world.conns[1].keys().next().expect("an origin");
    world.path.cut = true;
    world.conns[1].get_mut(&origin).expect("an origin").outgoing.extend(b"answer");
    world.run(secs(120), |_| false);
    world.path.cut = false;
    world.run(secs(600), |_| false);
    assert!(world.conns[1][&origin].reset, "the egress gave the flow up");
    assert!(world.client(conn).reset, "the client waits for an answer that nobody has any more");
}

/// A clock that starts anew at each boot gives two lives the same number.
#[test]
fn two_lives_with_the_same_number_are_told_apart() {
    let mut world = World::new(4, Path::clean(20));
    let first = pattern(1, 100_000);
    let conn = world.connect(&first, true);
    assert!(world.run(secs(20), World::are_over));
    assert!(world.client(conn).incoming == first);
    // Back to what the clock said at the first boot.
    world.unix -= world.elapsed();
    world.boot(0);
    world.run(secs(3), |_| false);
    let data = pattern(2, 100_000);
    let mut again = world.connect(&data, true);
    for _ in 0..3 {
        world.run(secs(10), |w| w.conns[0][&again].reset || w.conns[0][&again].eof_received);
        if world.client(again).reset {
            again = world.connect(&data, true);
        }
    }
    assert!(world.client(again).incoming == data, "{} bytes", world.client(again).incoming.len());
}

/// Taking a peer out of the configuration and in again must leave a working tunnel.
#[test]
fn a_peer_taken_out_and_in_again_works() {
    let mut world = World::new(5, Path::clean(20));
    let data = pattern(1, 3_000_000);
    let conn = world.connect(&data, true);
    assert!(world.run(secs(20), World::are_over));
    assert!(world.client(conn).incoming == data);
    let now = world.now;
    let with = world.nodes[1].as_ref().expect("a node").config().clone();
    let mut without = with.clone();
    without.peers.clear();
    without.relay.default_dest = None;
    let node = world.nodes[1].as_mut().expect("a node");
    node.reconfigure(now, without).expect("no reason against it");
    node.reconfigure(now, with).expect("no reason against it");
    world.run(secs(3), |_| false);
    let data = pattern(2, 100_000);
    let again = world.connect(&data, true);
    world.run(secs(3), |w| w.conns[0][&again].eof_received);
    let had = world.client(again).incoming.len();
    assert!(
        had == data.len(),
        "{had} bytes after 3 s on a clean path of 40 ms: symbols are swallowed"
    );
}

/// Law 4, when the ingress takes its peer out and in again: an id that was used stays used.
#[test]
fn no_bytes_cross_between_flows_when_a_peer_is_taken_out_and_in_again() {
    let mut world = World::new(5, Path::clean(20));
    world.echo = false;
    world.connect(b"first:", false);
    assert!(world.run(secs(5), |w| w.conns[1].values().any(|o| o.incoming == b"first:")));
    let now = world.now;
    let with = world.nodes[0].as_ref().expect("a node").config().clone();
    let mut without = with.clone();
    without.peers.clear();
    without.relay.default_dest = None;
    without.listen.tcp_addr = None;
    let node = world.nodes[0].as_mut().expect("a node");
    node.reconfigure(now, without).expect("no reason against it");
    node.reconfigure(now, with).expect("no reason against it");
    world.run(secs(3), |_| false);
    world.connect(b"SECOND CLIENT'S SECRET", false);
    world.run(secs(20), |_| false);
    for (origin, end) in &world.conns[1] {
        let text = String::from_utf8_lossy(&end.incoming);
        assert!(["", "first:", "SECOND CLIENT'S SECRET"].contains(&&*text), "{origin:?}: {text}");
    }
}

/// Draining ends, also when the peer says goodbye first.
#[test]
fn two_nodes_that_drain_at_once_both_end() {
    for seed in 0..20 {
        let mut world =
            World::new(seed, Path { jitter: Duration::from_millis(seed), ..Path::clean(5) });
        world.run(secs(2), |_| false);
        let now = world.now;
        for at in 0..2 {
            world.nodes[at].as_mut().expect("a node").drain(now);
        }
        assert!(world.run(secs(60), |w| w.drained == [true; 2]), "seed {seed}");
    }
}

/// What waits after an origin's reset is memory like any other.
#[test]
fn what_a_broken_origin_said_stays_accounted_for() {
    let mut pair = Pair::new();
    let client = pair.accept(0);
    pair.ends[0].received(pair.now, client, b"GET");
    let outputs = pair.settle();
    let dial = outputs[1].iter().find_map(|o| match o {
        Output::Dial { conn, .. } => Some(*conn),
        _ => None,
    });
    let origin = dial.expect("a dial");
    pair.ends[1].connected(pair.now, origin);
    pair.outputs(1);
    pair.ends[1].received(pair.now, origin, &[7; 60_000]);
    pair.ends[1].conn_reset(pair.now, origin);
    let reserved = pair.ends[1].memory().reserved;
    assert!(reserved >= 60_000, "60,000 bytes are held, {reserved} are accounted for");
}

/// Another flow's traffic is no reason not to repair this one.
#[test]
fn a_hole_is_repaired_end_to_end_although_the_tunnel_is_busy_with_others() {
    let mut pair = Pair::new();
    let client = pair.accept(0);
    pair.ends[0].received(pair.now, client, b"GET");
    let _dropped_by_a_transit = pair.fill(0, Lane::Express);
    // As `Node::after` would say it as long as any flow keeps the tunnel busy.
    let held = Some(pair.now + Duration::from_millis(1));
    pair.ends[0].set_held(HOP, held);
    let outputs = pair.wait(secs(60));
    assert!(outputs[1].iter().any(|o| matches!(o, Output::Dial { .. })), "stalled for a minute");
}

/// Nobody waits for ever on a node that does not come back.
#[test]
fn an_idle_flow_does_not_outlive_the_node_at_its_other_end() {
    for dead in [1, 0] {
        let mut world = World::new(60 + dead as u64, Path::clean(20));
        world.echo = false;
        world.connect(b"a request that is all there", false);
        assert!(world.run(secs(5), |w| w.conns[1].values().any(|o| !o.incoming.is_empty())));
        world.run(secs(5), |_| false);
        world.kill(dead);
        let other = 1 - dead;
        let over = world.run(secs(300), |w| w.conns[other].values().all(|e| e.reset));
        assert!(over, "node {dead} is dead for five minutes, its flow is not");
    }
}

/// The peer's goodbye may come between deciding on ours and sending it.
#[test]
fn draining_ends_when_the_peer_says_goodbye_first() {
    let mut world = World::new(7, Path::clean(20));
    world.run(secs(2), |_| false);
    world.keep_log = true;
    let now = world.now;
    world.nodes[1].as_mut().expect("a node").drain(now);
    world.drive(1);
    world.run(Duration::from_millis(1), |_| false);
    let bye = world.log.iter().rev().find(|(from, _)| *from == 1).expect("a goodbye").1.clone();
    let (now, from) = (world.now, world.addrs[1]);
    let node = world.nodes[0].as_mut().expect("a node");
    node.drain(now);
    let (len, mut bye) = (bye.len(), bye);
    node.handle_datagram(now, Default::default(), from, None, len, &mut bye);
    world.kill(1);
    assert!(world.run(secs(60), |w| w.drained[0]), "the process never ends");
}

/// A peer with the key may say anything in a reject; nothing of it is added to.
#[test]
fn the_greatest_timestamp_of_a_reject_is_survived() {
    use crate::tunnel::keys::PeerKeys;
    use crate::wire::packet::{Packet, RejectReason, put_reject};

    let mut world = World::new(8, Path::clean(20));
    world.kill(1);
    world.keep_log = true;
    world.run(secs(1), |_| false);
    let (_, initiation) = world.log.last().expect("an initiation").clone();
    let Ok(Packet::Initiation(initiation)) = Packet::parse(&initiation) else { panic!("another") };
    let (now, from) = (world.now, world.addrs[1]);
    let node = world.nodes[0].as_mut().expect("a node");
    let peer = &node.config().peers[0];
    let keys = PeerKeys::new(peer.shared_key.clone(), &peer.node_id, &node.config().node_id);
    let mut reject = Vec::new();
    put_reject(&mut reject, RejectReason::Stale, initiation.sender, u64::MAX, 0);
    let mac = keys.sign(&[&reject, initiation.ephemeral()]);
    reject.extend_from_slice(&mac);
    let len = reject.len();
    node.handle_datagram(now, Default::default(), from, None, len, &mut reject);
    world.run(secs(2), |_| false);
}

fn is_bounded(flows: &Flows) {
    flows.tables(&mut |table| assert!(table.len <= table.bound, "{table:?}"));
}

fn small() -> Limits {
    Limits { node_memory: 1 << 20, ..Limits::default() }
}

/// Clients that come and go while the other end hears nothing must not fill the memory with their
/// resets.
#[test]
fn resets_that_nobody_hears_are_bounded() {
    let mut pair = Pair::new();
    pair.ends[0].set_limits(&small(), &Lanes::default());
    let accept = |pair: &mut Pair, n: u64| {
        let (now, to) = (pair.now, pair.hashes[1]);
        let service = ServiceName::default();
        pair.ends[0].accept(now, ConnId::accepted(n), to, service, endpoints())
    };
    let mut n = 0;
    while accept(&mut pair, n).is_ok() {
        let client = ConnId::accepted(n);
        pair.ends[0].received(pair.now, client, b"GET");
        let _lost = pair.fill(0, Lane::Express);
        pair.ends[0].conn_reset(pair.now, client);
        let _lost = pair.fill(0, Lane::Control);
        pair.outputs(0);
        n += 1;
        assert!(n < 50_000, "no end of it");
    }
    is_bounded(&pair.ends[0]);
    pair.now += secs(61);
    let now = pair.now;
    pair.ends[0].handle_timeout(now);
    assert!(accept(&mut pair, n).is_ok(), "refused although all that is over");
}

/// A peer that opens and resets flows must not fill the queue of a shell that drains late.
#[test]
fn what_waits_for_the_shell_is_bounded() {
    let mut pair = Pair::new();
    pair.ends[1].set_limits(&small(), &Lanes::default());
    for n in 0..20_000 {
        let client = pair.accept(n);
        pair.ends[0].received(pair.now, client, b"GET");
        let open = pair.fill(0, Lane::Express);
        pair.hand(1, &open);
        pair.ends[0].conn_reset(pair.now, client);
        let reset = pair.fill(0, Lane::Control);
        pair.hand(1, &reset);
        let answers = pair.fill(1, Lane::Control);
        pair.hand(0, &answers);
        pair.outputs(0);
        is_bounded(&pair.ends[1]);
    }
}
