//! Your own wrapper around the core, in the simulator's engine.
//!
//! An embedder rarely runs a bare `Node`: there is something around it that decides who may connect,
//! counts, or keeps a budget. Here it is a `Doorman`, who lets no more than a few clients in at a time.
//! The engine runs it where it would run a node, over a link that loses 5 %, and checks every byte.
//!
//! ```sh
//! cargo run --release -p entrouter-sim --example own_wrapper
//! ```

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::error::Error;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use entrouter_proto::status::{Status, Table};
use entrouter_proto::{
    Action, ConnId, Ecn, ListenerId, Node, PeerId, SocketId, TcpEvent, TimerReason, Transmit,
};
use entrouter_sim::engine::{Core, Engine, Fault, HostId, MakeCore, Trace, data_header};
use entrouter_sim::link::{LinkConfig, Loss, QueueLimit, Rate};
use entrouter_sim::mesh::{self, Pop};
use entrouter_sim::outcome::Outcome;
use entrouter_sim::seed::Seed;
use entrouter_sim::traffic::{Amount, Arrivals, Kind, Plan, Workload};

/// Clients at a time.
const MOST: usize = 3;

/// A node with somebody at its door.
struct Doorman {
    node: Node,
    inside: BTreeSet<ConnId>,
    /// Clients turned away, yet to be told.
    away: Vec<(ConnId, Instant)>,
    /// How many were, in all; shared with whoever made him.
    turned_away: Rc<RefCell<usize>>,
}

impl Core for Doorman {
    fn handle_tcp(&mut self, now: Instant, event: TcpEvent<'_>) {
        match event {
            TcpEvent::Accepted { conn, .. } if self.inside.len() == MOST => {
                self.away.push((conn, now));
                *self.turned_away.borrow_mut() += 1;
                return;
            }
            TcpEvent::Accepted { conn, .. } => {
                self.inside.insert(conn);
            }
            TcpEvent::Reset { conn } => {
                self.inside.remove(&conn);
            }
            _ => {}
        }
        self.node.handle_tcp(now, event);
    }

    fn poll_action(&mut self) -> Option<Action> {
        if let Some((conn, _)) = self.away.pop() {
            return Some(Action::Abort { conn });
        }
        let action = self.node.poll_action();
        // Here a client's connection ends with the answer to it.
        if let Some(Action::Shutdown { conn } | Action::Abort { conn }) = &action {
            self.inside.remove(conn);
        }
        action
    }

    fn poll_timeout(&self) -> Option<(Instant, TimerReason)> {
        // If output is waiting, it is due at once.
        let waiting = self.away.last().map(|(_, since)| (*since, TimerReason::Output));
        waiting.or_else(|| self.node.poll_timeout())
    }

    // The rest is the node's.

    fn handle_datagram(
        &mut self,
        now: Instant,
        socket: SocketId,
        remote: SocketAddr,
        ecn: Option<Ecn>,
        datagram: &mut [u8],
    ) {
        Core::handle_datagram(&mut self.node, now, socket, remote, ecn, datagram);
    }

    fn handle_resolved(&mut self, now: Instant, peer: PeerId, addrs: &[SocketAddr]) {
        self.node.handle_resolved(now, peer, addrs);
    }

    fn handle_timeout(&mut self, now: Instant) {
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
        self.node.poll_transmit(now, max_segments, buf)
    }

    fn listener(&self, dest: &str, service: &str) -> Option<ListenerId> {
        self.node.listener(dest, service)
    }

    fn status(&self, now: Instant) -> Option<Status> {
        Some(self.node.status(now))
    }

    fn packets_accepted(&self) -> Option<u64> {
        Some(self.node.packets_accepted())
    }

    fn tables(&self, visit: &mut dyn FnMut(Table)) {
        self.node.tables(visit);
    }

    fn nonce(&self, datagram: &[u8]) -> Option<(u64, u64)> {
        data_header(datagram)
    }
}

/// Fifty clients come, one every 80 ms, and each fetches 500 kB.
fn simulate(seed: u64) -> Result<(Outcome, usize), Box<dyn Error>> {
    let seed = Seed::new(seed);
    let (entry, exit) = (HostId::nth(0), HostId::nth(1));
    let fetch = Workload {
        name: "fetch".to_owned(),
        from: entry,
        to: exit,
        start: Duration::from_secs(1),
        arrivals: Arrivals::Every { gap: Duration::from_millis(80), until: Duration::from_secs(5) },
        plan: Plan::new(Kind::Download(Amount::Bytes(500_000))),
        refused: false,
    };
    let pops = ["entry", "exit"].map(|name| Pop {
        name: name.to_owned(),
        hidden: false,
        config: toml::Table::new(),
    });
    let mut configs =
        mesh::configs(seed, &pops, &[], &[(entry, exit)], std::slice::from_ref(&fetch))?
            .into_iter();
    let (Some(at_entry), Some(at_exit)) = (configs.next(), configs.next()) else {
        return Err("two PoPs have two configurations".into());
    };

    let mut engine = Engine::new(seed, Trace::new());
    let turned_away = Rc::new(RefCell::new(0));
    let count = Rc::clone(&turned_away);
    let doorman: MakeCore = Box::new(move |boot| {
        let node = Node::new(at_entry.clone(), boot.seed, boot.now, boot.unix_now)?;
        let turned_away = Rc::clone(&count);
        Ok(Box::new(Doorman { node, inside: BTreeSet::new(), away: Vec::new(), turned_away }))
    });
    engine.add_host("entry", mesh::addr(entry), None, 0, doorman)?;
    engine.add_host("exit", mesh::addr(exit), None, 0, mesh::node(at_exit))?;
    let queue = QueueLimit::Time(Duration::from_millis(50));
    let link = LinkConfig {
        delay: Duration::from_millis(40),
        rate: Some(Rate { mbps: 50.0, queue, mark_above: None }),
        loss: Loss::Bernoulli { average: 0.05 },
        ..LinkConfig::default()
    };
    engine.add_link((entry, exit), &link, &link)?;
    engine.add_workload(fetch)?;
    // A reset without a cause would be a violation; the doorman is one.
    engine.schedule(Duration::ZERO, Fault::Excuse(Some("the doorman turns clients away")));
    engine.run(Duration::from_secs(60));
    engine.check();
    let turned_away = *turned_away.borrow();
    Ok((engine.outcome("own wrapper"), turned_away))
}

fn main() -> Result<(), Box<dyn Error>> {
    let (outcome, turned_away) = simulate(1)?;
    let fetch = &outcome.workloads["fetch"];
    println!(
        "{} clients came, {} fetched everything, {turned_away} were turned away",
        fetch.connections, fetch.completed
    );
    println!("violations: {:?}", outcome.violations);
    println!("trace hash {}", outcome.trace_hash);
    if outcome.violations.is_empty() { Ok(()) } else { Err("see the violations".into()) }
}

#[test]
fn a_wrapper_runs_in_the_engine_and_keeps_its_own_rule() {
    let (outcome, turned_away) = simulate(1).expect("it runs");
    assert_eq!(outcome.violations, [""; 0]);
    let fetch = &outcome.workloads["fetch"];
    assert!(turned_away > 0 && fetch.reset == turned_away as u64, "{turned_away}");
    assert!(fetch.completed > 0 && fetch.connections == fetch.completed + fetch.reset);
}
