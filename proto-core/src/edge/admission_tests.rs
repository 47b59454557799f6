//! Who is let in, and that nobody is counted for longer than the shell has his connection.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use proptest::prelude::*;

use super::admission::Admission;
use crate::config::Limits;
use crate::tests::epoch;
use crate::{Action, Config, ConnId, ListenerId, Node, TcpEvent};

fn limits(max_connections: usize, max_connections_per_address: usize) -> Limits {
    Limits { max_connections, max_connections_per_address, ..Limits::default() }
}

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

#[test]
fn an_address_has_so_many_clients_and_all_together_have_so_many() {
    let admission = Admission::new(&limits(3, 2));
    let admit = |text| admission.admit(addr(text));
    let first = admit("192.0.2.1:1").expect("room");
    assert!(
        admission.is_crowded(addr("192.0.2.1:9")) && !admission.is_crowded(addr("192.0.2.2:9"))
    );
    let _second = admit("192.0.2.1:2").expect("room");
    assert!(admit("192.0.2.1:3").is_none(), "a third from there");
    let _third = admit("192.0.2.2:1").expect("room for others");
    assert!(admit("192.0.2.3:1").is_none(), "a fourth in all");
    assert_eq!((admission.clients(), admission.refused()), ((3, 3), 2));
    drop(first);
    assert!(admit("192.0.2.1:4").is_some(), "a place was given back");
}

#[test]
fn an_ipv6_network_counts_as_one_address_and_a_mapped_one_as_ipv4() {
    let admission = Admission::new(&limits(100, 1));
    let admit = |text| admission.admit(addr(text));
    let _one = admit("[2001:db8:1:2::3]:1").expect("room");
    assert!(admit("[2001:db8:1:2:ffff::4]:1").is_none(), "the same network");
    let _other = admit("[2001:db8:1:3::3]:1").expect("another network");
    let _v4 = admit("[::ffff:192.0.2.1]:1").expect("room");
    assert!(admit("192.0.2.1:1").is_none(), "the same host");
    assert!(admit("192.0.2.2:1").is_some(), "another host");
}

#[test]
fn who_is_in_when_a_limit_is_lowered_stays_and_nobody_comes_until_there_is_room() {
    let admission = Admission::new(&limits(4, 4));
    let client = addr("192.0.2.1:1");
    let mut inside: Vec<_> = (0..4).map(|_| admission.admit(client).expect("room")).collect();
    admission.set_limits(&limits(2, 2));
    assert_eq!(admission.clients(), (4, 4));
    for left in [3, 2] {
        assert!(admission.admit(client).is_none());
        inside.pop();
        assert_eq!(admission.clients(), (left, left));
    }
    inside.pop();
    assert!(admission.admit(client).is_some());
    assert_eq!(admission.clients().1, 2);
}

/// A shell that does what [`Action`] says, and everything that its sockets may do to it.
struct Shell {
    node: Node,
    now: std::time::Instant,
    accepted: u64,
    /// Those that are not over, with the address that the client has, if it is one.
    conns: BTreeMap<ConnId, Conn>,
    refused: u64,
}

#[derive(Default)]
struct Conn {
    client: Option<SocketAddr>,
    granted: usize,
    unwritten: usize,
    eof: bool,
    /// The core wants our half closed.
    ending: bool,
}

const MAX: usize = 6;
const MAX_OF_ONE: usize = 4;

impl Shell {
    fn new() -> Self {
        let text = format!(
            "node_id = \"a\"\nregion = \"x\"\n[listen]\ntcp_addr = \"127.0.0.1:2\"\n\
             [relay]\ndefault_dest = \"a\"\n[origins]\ndefault = \"127.0.0.1:80\"\n\
             [limits]\nmax_connections = {MAX}\nmax_connections_per_address = {MAX_OF_ONE}\n"
        );
        let config = Config::parse("test.toml", text.as_bytes()).expect("a valid configuration");
        let now = epoch();
        let node = Node::new(config, [7; 32], now, Duration::from_secs(1_800_000_000));
        let node = node.expect("a valid node");
        Self { node, now, accepted: 0, conns: BTreeMap::new(), refused: 0 }
    }

    fn tell(&mut self, event: TcpEvent<'_>) {
        self.node.handle_tcp(self.now, event);
        self.forget_ended();
        self.act();
    }

    /// One of those that there are.
    fn pick(&self, n: usize) -> Option<ConnId> {
        self.conns.keys().nth(n % self.conns.len().max(1)).copied()
    }

    fn step(&mut self, kind: u8, n: usize) {
        if kind == 0 {
            let client = SocketAddr::from(([192, 0, 2, (n % 3) as u8], 1));
            let conn = ConnId::accepted(self.accepted);
            self.accepted += 1;
            self.conns.insert(conn, Conn { client: Some(client), ..Conn::default() });
            let (listener, remote, local) = (ListenerId(0), client, addr("192.0.2.9:2"));
            return self.tell(TcpEvent::Accepted { conn, listener, remote, local });
        }
        if kind == 1 {
            self.now += Duration::from_millis(1 << (n % 15));
            self.node.handle_timeout(self.now);
            return self.act();
        }
        let Some(conn) = self.pick(n) else { return };
        let Some(state) = self.conns.get_mut(&conn) else { return };
        match kind {
            2 => self.tell(TcpEvent::Connected { conn }),
            3 => {
                self.conns.remove(&conn);
                self.tell(TcpEvent::ConnectFailed { conn });
            }
            4 => {
                self.conns.remove(&conn);
                self.tell(TcpEvent::Reset { conn });
            }
            5 | 6 if !state.eof => {
                let len = state.granted.min(n * 100);
                state.granted -= len;
                self.tell(TcpEvent::Received { conn, data: &vec![1; len] });
            }
            7 | 8 => {
                let bytes = state.unwritten.min(n * 150);
                state.unwritten -= bytes;
                self.tell(TcpEvent::Written { conn, bytes });
            }
            9 => {
                state.eof = true;
                self.tell(TcpEvent::Eof { conn });
            }
            _ => {}
        }
    }

    fn act(&mut self) {
        while let Some(action) = self.node.poll_action() {
            match action {
                Action::Connect { conn, .. } => {
                    self.conns.insert(conn, Conn::default());
                }
                Action::Write { conn, data } => {
                    if let Some(state) = self.conns.get_mut(&conn) {
                        state.unwritten += data.len();
                    }
                }
                Action::GrantRead { conn, bytes } => {
                    if let Some(state) = self.conns.get_mut(&conn) {
                        state.granted += bytes;
                    }
                }
                Action::Shutdown { conn } => {
                    if let Some(state) = self.conns.get_mut(&conn) {
                        state.ending = true;
                    }
                }
                Action::Abort { conn } => {
                    let gone = self.conns.remove(&conn);
                    let is_client = gone.is_some_and(|state| state.client.is_some());
                    self.refused += u64::from(is_client);
                }
                Action::Resolve { .. } | Action::StopAccepting | Action::Drained => {}
            }
            self.forget_ended();
        }
    }

    fn forget_ended(&mut self) {
        self.conns.retain(|_, state| !(state.eof && state.ending && state.unwritten == 0));
    }

    fn clients(&self) -> Vec<SocketAddr> {
        self.conns.values().filter_map(|state| state.client).collect()
    }

    fn check(&self) {
        let mut counted = None;
        self.node.tables(&mut |table| {
            if table.name == "clients" {
                counted = Some((table.len as usize, table.bound as usize));
            }
        });
        let clients = self.clients();
        assert_eq!(counted, Some((clients.len(), MAX)), "those whom the shell has are counted");
        for client in &clients {
            let from_there = clients.iter().filter(|other| *other == client).count();
            assert!(from_there <= MAX_OF_ONE, "{from_there} from {client}");
        }
    }
}

#[test]
fn who_comes_beyond_the_limit_is_reset_at_once_and_counted() {
    let mut shell = Shell::new();
    let listener = ListenerId(0);
    let (remote, local) = (addr("192.0.2.1:1"), addr("192.0.2.9:2"));
    for n in 0..=MAX_OF_ONE as u64 {
        let conn = ConnId::accepted(n);
        let event = TcpEvent::Accepted { conn, listener, remote, local };
        shell.node.handle_tcp(shell.now, event);
        let action = shell.node.poll_action();
        let is_refused = action == Some(Action::Abort { conn });
        assert_eq!(is_refused, n == MAX_OF_ONE as u64, "{n}: {action:?}");
    }
    assert_eq!(shell.node.status(shell.now).counters.clients_refused, 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_client_counts_for_as_long_as_the_shell_has_its_connection(
        steps in prop::collection::vec((0u8..10, 0usize..200), 1..150),
        drains in any::<bool>(),
    ) {
        let mut shell = Shell::new();
        for (kind, n) in steps {
            shell.step(kind, n);
            shell.check();
        }
        if drains {
            shell.node.drain(shell.now);
            shell.step(1, 14);
            shell.step(1, 14);
            // What ended both ways before is let finish.
            let ending = |state: &Conn| state.client.is_some() && state.ending && state.eof;
            let left = shell.conns.iter().filter(|(_, state)| ending(state));
            for (conn, bytes) in left.map(|(c, s)| (*c, s.unwritten)).collect::<Vec<_>>() {
                shell.conns.entry(conn).and_modify(|state| state.unwritten = 0);
                shell.tell(TcpEvent::Written { conn, bytes });
            }
        } else {
            while let Some(conn) = shell.pick(0) {
                shell.conns.remove(&conn);
                shell.tell(TcpEvent::Reset { conn });
            }
        }
        shell.check();
        prop_assert_eq!(shell.clients(), vec![]);
        let refused = shell.node.status(shell.now).counters.clients_refused;
        prop_assert!(refused <= shell.refused);
    }
}
