//! The engine itself: does it see what goes wrong, and is it the same each time?

use std::time::Duration;

use entrouter_proto::status::{Status, Table};
use entrouter_proto::{
    Action, ConnId, Ecn, ListenerId, Node, PeerId, SocketId, TcpEvent, Transmit,
};

use super::*;
use crate::link::{LinkConfig, Loss, QueueLimit, Rate};
use crate::mesh;
use crate::traffic::{Amount, Habits, Kind, Plan};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn lossy(loss: f64) -> LinkConfig {
    LinkConfig {
        rate: Some(Rate { mbps: 20.0, queue: QueueLimit::Time(50 * MS), mark_above: None }),
        loss: Loss::Bernoulli { average: loss },
        delay: 20 * MS,
        ..LinkConfig::default()
    }
}

fn workload(name: &str, plan: Plan) -> Workload {
    Workload {
        name: name.to_owned(),
        from: HostId(0),
        to: HostId(1),
        start: Duration::ZERO,
        arrivals: Arrivals::Together(2),
        plan,
        refused: false,
    }
}

fn exchanges(count: u32) -> Plan {
    Plan::new(Kind::Exchanges { count, request: 64, answer: 640, pause: MS })
}

/// Two PoPs and a link.
fn two_pops(seed: u64, link: &LinkConfig, workloads: &[Workload]) -> Engine {
    let seed = Seed::new(seed);
    let pop =
        |name: &str| mesh::Pop { name: name.to_owned(), hidden: false, config: toml::Table::new() };
    let (a, b) = (HostId(0), HostId(1));
    let configs =
        mesh::configs(seed, &[pop("a"), pop("b")], &[], &[(a, b)], workloads).expect("valid");
    let mut engine = Engine::new(seed, Trace::new());
    for (config, host) in configs.into_iter().zip([a, b]) {
        let name = config.node_id.to_string();
        let added = engine.add_host(&name, mesh::addr(host), None, 0, mesh::node(config));
        assert_eq!(added.expect("a node"), host);
    }
    engine.add_link((a, b), link, link).expect("a link");
    for workload in workloads {
        engine.add_workload(workload.clone()).expect("a listener");
    }
    engine
}

fn completed(engine: &Engine, name: &str) -> (u64, u64) {
    let workload = &engine.outcome("").workloads[name];
    (workload.completed, workload.reset)
}

#[test]
fn exchanges_uploads_and_downloads_complete_exactly() {
    let bulk = Amount::Bytes(300_000);
    let half = Plan { half_close: true, ..exchanges(3) };
    let slow = Habits { reads_per_second: Some(100_000), ..Habits::default() };
    let workloads = [
        workload("ping", exchanges(50)),
        workload("down", Plan::new(Kind::Download(bulk))),
        workload("up", Plan::new(Kind::Upload(bulk))),
        workload("timed", Plan::new(Kind::Download(Amount::For(2 * SECOND)))),
        workload("half", half),
        workload("slow", Plan { client: slow, ..Plan::new(Kind::Download(bulk)) }),
    ];
    let mut engine = two_pops(1, &lossy(0.05), &workloads);
    engine.run(60 * SECOND);
    assert_eq!(engine.violations(), [""; 0], "{:?}", engine.unfinished());
    assert!(engine.is_done(), "{:?}", engine.unfinished());
    for workload in &workloads {
        assert_eq!(completed(&engine, &workload.name), (2, 0), "{}", workload.name);
    }
    let outcome = engine.outcome("");
    assert_eq!(outcome.workloads["ping"].exchanges, 100);
    assert_eq!(outcome.workloads["down"].bytes_down, 600_000);
    assert!(outcome.workloads["ping"].latency.expect("samples").min_ms >= 40.0);
}

/// What a bad core does.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Twist {
    FlipsAByte,
    EndsEarly,
    MixesConnections,
    ReusesNonces,
    AcceptsTwice,
    OverfillsATable,
    SpinsOnATimer,
    AlwaysAsks,
    AlwaysSends,
    Resets,
    RunsTwice,
}

/// A node with a fault, which sits at the exit.
struct Twisted {
    node: Node,
    twist: Twist,
    /// Connections that were written to; the first dial, and the first request, to be repeated.
    conns: Vec<ConnId>,
    first: Option<Action>,
    again: Option<bytes::Bytes>,
    extra: Vec<Action>,
    arrived: u64,
    now: Instant,
}

impl Twisted {
    fn twist(&mut self, action: Action) -> Action {
        let Action::Write { conn, data } = &action else {
            if let (Twist::RunsTwice, Action::Connect { target, .. }) = (self.twist, &action) {
                let conn = ConnId::dialled(1_000);
                self.first.get_or_insert(Action::Connect { conn, target: target.clone() });
            }
            return action;
        };
        let (conn, data) = (*conn, data.clone());
        if !self.conns.contains(&conn) {
            self.conns.push(conn);
        }
        match self.twist {
            Twist::FlipsAByte if data.len() > 20 => {
                let mut data = data.to_vec();
                data[20] ^= 1;
                Action::Write { conn, data: data.into() }
            }
            Twist::MixesConnections if self.conns.len() > 1 => {
                let other = self.conns[usize::from(self.conns[0] == conn)];
                Action::Write { conn: other, data }
            }
            Twist::EndsEarly => Action::Shutdown { conn },
            Twist::Resets => {
                self.node.handle_tcp(self.now, TcpEvent::Reset { conn });
                Action::Abort { conn }
            }
            Twist::RunsTwice if self.first.is_some() => {
                self.again = Some(data);
                self.extra.extend(self.first.take());
                action
            }
            _ => action,
        }
    }
}

impl Core for Twisted {
    fn handle_datagram(
        &mut self,
        now: Instant,
        socket: SocketId,
        remote: SocketAddr,
        ecn: Option<Ecn>,
        datagram: &mut [u8],
    ) {
        self.arrived += 1;
        self.now = now;
        Core::handle_datagram(&mut self.node, now, socket, remote, ecn, datagram);
    }

    fn handle_tcp(&mut self, now: Instant, event: TcpEvent<'_>) {
        match (event, self.again.take()) {
            (TcpEvent::Connected { conn }, Some(data)) if conn == ConnId::dialled(1_000) => {
                self.extra.push(Action::Write { conn, data });
            }
            (event, again) => {
                self.again = again;
                self.node.handle_tcp(now, event);
            }
        }
    }

    fn handle_resolved(&mut self, now: Instant, peer: PeerId, addrs: &[SocketAddr]) {
        self.node.handle_resolved(now, peer, addrs);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        self.node.handle_timeout(now);
    }

    fn drain(&mut self, now: Instant) {
        self.node.drain(now);
    }

    fn poll_transmit(
        &mut self,
        now: Instant,
        max_segments: usize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        let transmit = self.node.poll_transmit(now, max_segments, buf);
        if self.twist == Twist::AlwaysSends && transmit.is_none() && self.arrived > 20 {
            buf.push(0);
            let (socket, remote) = (Default::default(), mesh::addr(HostId(0)));
            return Some(Transmit { socket, remote, ecn: None, len: 1, segment_size: 1 });
        }
        transmit
    }

    fn poll_action(&mut self) -> Option<Action> {
        let waits = self.conns.len() > 1;
        if let Some(action) = self.extra.pop() {
            return Some(action);
        }
        if self.twist == Twist::AlwaysAsks && waits {
            return Some(Action::GrantRead { conn: self.conns[0], bytes: 0 });
        }
        let action = self.node.poll_action()?;
        Some(self.twist(action))
    }

    fn poll_timeout(&self) -> Option<(Instant, TimerReason)> {
        if self.twist == Twist::SpinsOnATimer && self.arrived > 20 {
            return Some((self.now, TimerReason::Flow));
        }
        self.node.poll_timeout()
    }

    fn listener(&self, dest: &str, service: &str) -> Option<ListenerId> {
        self.node.listener(dest, service)
    }

    fn status(&self, now: Instant) -> Option<Status> {
        Some(self.node.status(now))
    }

    fn packets_accepted(&self) -> Option<u64> {
        let lies = self.twist == Twist::AcceptsTwice;
        Some(if lies { self.arrived } else { self.node.packets_accepted() })
    }

    fn nonce(&self, datagram: &[u8]) -> Option<(u64, u64)> {
        let (key, nonce) = data_header(datagram)?;
        Some((key, if self.twist == Twist::ReusesNonces { 7 } else { nonce }))
    }

    fn tables(&self, visit: &mut dyn FnMut(Table)) {
        let len = if self.twist == Twist::OverfillsATable { 9 } else { 8 };
        visit(Table { name: "shelf", peer: None, len, bound: 8 });
    }
}

#[test]
fn each_thing_that_must_not_happen_is_seen() {
    for (twist, wanted) in [
        (Twist::FlipsAByte, "is not the one that was sent"),
        (Twist::EndsEarly, "a clean end before the first bytes"),
        (Twist::MixesConnections, "is not the one that was sent"),
        (Twist::ReusesNonces, "used nonce 7 of key"),
        (Twist::AcceptsTwice, "accepted a datagram twice"),
        (Twist::OverfillsATable, "shelf holds 9 of at most 8"),
        (Twist::SpinsOnATimer, "spins: it is woken again and again"),
        (Twist::AlwaysAsks, "spins: it has always more to ask for"),
        (Twist::AlwaysSends, "spins: it has always more to send"),
        (Twist::Resets, "was reset without a cause"),
        (Twist::RunsTwice, "was run twice"),
    ] {
        let workloads = [workload("up", Plan::new(Kind::Upload(Amount::Bytes(200_000))))];
        let link = LinkConfig { duplicate: 0.1, ..lossy(0.0) };
        let mut engine = twisted(twist, &link, &workloads);
        engine.run(5 * SECOND);
        engine.check();
        let found = engine.violations();
        assert!(found.iter().any(|what| what.contains(wanted)), "{twist:?}: {found:?}");
    }
}

/// As [`two_pops`], with a bad core at the exit.
fn twisted(twist: Twist, link: &LinkConfig, workloads: &[Workload]) -> Engine {
    let seed = Seed::new(1);
    let pop =
        |name: &str| mesh::Pop { name: name.to_owned(), hidden: false, config: toml::Table::new() };
    let (a, b) = (HostId(0), HostId(1));
    let configs =
        mesh::configs(seed, &[pop("a"), pop("b")], &[], &[(a, b)], workloads).expect("valid");
    let [entry, exit] = <[_; 2]>::try_from(configs).expect("two");
    let make: MakeCore = Box::new(move |boot| {
        let node = Node::new(exit.clone(), boot.seed, boot.now, boot.unix_now)?;
        let (conns, extra) = (Vec::new(), Vec::new());
        let now = boot.now;
        let (first, again) = (None, None);
        Ok(Box::new(Twisted { node, twist, conns, first, again, extra, arrived: 0, now }))
    });
    let mut engine = Engine::new(seed, Trace::new());
    engine.add_host("a", mesh::addr(a), None, 0, mesh::node(entry)).expect("a node");
    engine.add_host("b", mesh::addr(b), None, 0, make).expect("a node");
    engine.add_link((a, b), link, link).expect("a link");
    for workload in workloads {
        engine.add_workload(workload.clone()).expect("a listener");
    }
    engine
}

#[test]
fn what_cannot_be_set_up_is_refused() {
    let mut engine = two_pops(1, &lossy(0.0), &[workload("ping", exchanges(1))]);
    let link = lossy(0.0);
    let again = engine.add_link((HostId(1), HostId(0)), &link, &link);
    assert!(again.expect_err("twice").to_string().contains("a link between b and a already"));
    let nowhere = engine.add_link((HostId(0), HostId(7)), &link, &link);
    assert_eq!(
        nowhere.expect_err("nowhere").to_string(),
        "there is no host number 7: add it first"
    );
    let small = Plan::new(Kind::Upload(Amount::Bytes(7)));
    for plan in [exchanges(0), small] {
        let refused = engine.add_workload(workload("ping", plan));
        assert!(matches!(refused, Err(SetupError::Workload { .. })));
    }
}
