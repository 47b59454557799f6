//! Hosts beside the mesh whose clients get in over QUIC: the core's connectors as an engine runs them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

use entrouter_proto::connect::{Connector, Wish};
use entrouter_proto::{Action, ConnId, Ecn, ListenerId, PeerId, SocketId, TcpEvent};
use entrouter_proto::{TimerReason, Transmit};

use crate::engine::{Boot, Core, MakeCore};
use crate::seed::Seed;

/// Makes hosts with so many connectors that do what is wished, but for its tickets: those are what earlier
/// lives of the host kept, in a file for each connector.
#[must_use]
pub fn make(wish: Wish, connectors: usize) -> MakeCore {
    Box::new(move |boot| Ok(Box::new(Connectors::new(&wish, connectors, boot)?)))
}

/// Connectors at one host. Each has the socket of its number, and clients go to them in turn.
#[derive(Debug)]
struct Connectors {
    all: Vec<Connector>,
    /// Which one has each client. Ids are never used twice, so that one that is over does no harm.
    by_conn: BTreeMap<ConnId, usize>,
    accepted: usize,
    now: Instant,
    /// Those that may have something to say.
    touched: BTreeSet<usize>,
    /// When each of the others wants to be called back, and the same in order.
    due: Vec<Option<Instant>>,
    timers: BTreeSet<(Instant, usize)>,
    to_keep: VecDeque<(usize, Vec<u8>)>,
    /// Those that are not drained.
    undrained: usize,
}

impl Connectors {
    fn new(
        wish: &Wish,
        connectors: usize,
        mut boot: Boot,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let mut first = [0; 8];
        first.copy_from_slice(&boot.seed[..8]);
        let seeds = Seed::new(u64::from_be_bytes(first));
        let mut all = Vec::with_capacity(connectors);
        for nth in 0..connectors {
            let wish = Wish { tickets: boot.kept.remove(&nth), ..wish.clone() };
            let seed = match nth {
                0 => boot.seed,
                _ => seeds.bytes(&format!("connector {nth}")),
            };
            all.push(Connector::new(wish, seed, boot.now, boot.unix_now)?);
        }
        Ok(Self {
            by_conn: BTreeMap::new(),
            accepted: 0,
            now: boot.now,
            touched: (0..connectors).collect(),
            due: vec![None; connectors],
            timers: BTreeSet::new(),
            to_keep: VecDeque::new(),
            undrained: connectors,
            all,
        })
    }

    fn touch(&mut self, now: Instant, nth: usize) -> Option<&mut Connector> {
        self.now = self.now.max(now);
        let connector = self.all.get_mut(nth)?;
        self.touched.insert(nth);
        Some(connector)
    }

    /// One has nothing to send: unless it asks for something, it is not looked at until it is touched.
    fn rest(&mut self, nth: usize) {
        let due = self.all[nth].poll_timeout();
        let is_waiting = matches!(due, Some((_, TimerReason::Output)));
        if is_waiting {
            return;
        }
        self.touched.remove(&nth);
        let due = due.map(|(at, _)| at);
        if let Some(old) = std::mem::replace(&mut self.due[nth], due) {
            self.timers.remove(&(old, nth));
        }
        self.timers.extend(due.map(|at| (at, nth)));
        if let Some(tickets) = self.all[nth].tickets_to_keep() {
            self.to_keep.push_back((nth, tickets));
        }
    }
}

impl Core for Connectors {
    fn handle_datagram(
        &mut self,
        now: Instant,
        socket: SocketId,
        remote: SocketAddr,
        ecn: Option<Ecn>,
        datagram: &mut [u8],
    ) {
        let len = datagram.len();
        if let Some(connector) = self.touch(now, socket.0) {
            connector.handle_datagram(now, SocketId::default(), remote, ecn, len, datagram);
        }
    }

    fn handle_tcp(&mut self, now: Instant, event: TcpEvent<'_>) {
        let conn = event.conn();
        if matches!(event, TcpEvent::Accepted { .. }) {
            self.by_conn.insert(conn, self.accepted % self.all.len());
            self.accepted += 1;
        }
        let Some(nth) = self.by_conn.get(&conn).copied() else { return };
        if let Some(connector) = self.touch(now, nth) {
            connector.handle_tcp(now, event);
        }
    }

    fn handle_resolved(&mut self, now: Instant, peer: PeerId, addrs: &[SocketAddr]) {
        if let Some(connector) = self.touch(now, peer.0) {
            connector.handle_resolved(now, PeerId(0), addrs);
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        while let Some((_, nth)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.timers.pop_first();
            self.due[nth] = None;
            if let Some(connector) = self.touch(now, nth) {
                connector.handle_timeout(now);
            }
        }
    }

    fn drain(&mut self, now: Instant) {
        for nth in 0..self.all.len() {
            if let Some(connector) = self.touch(now, nth) {
                connector.drain(now);
            }
        }
    }

    fn poll_transmit(
        &mut self,
        now: Instant,
        max_segments: usize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        let mut next = 0;
        while let Some(nth) = self.touched.range(next..).next().copied() {
            if let Some(transmit) = self.all[nth].poll_transmit(now, max_segments, buf) {
                return Some(Transmit { socket: SocketId(nth), ..transmit });
            }
            self.rest(nth);
            next = nth + 1;
        }
        None
    }

    fn poll_action(&mut self) -> Option<Action> {
        for nth in self.touched.iter().copied() {
            let action = match self.all[nth].poll_action() {
                None => continue,
                Some(Action::Drained) => {
                    self.undrained -= 1;
                    if self.undrained > 0 {
                        continue;
                    }
                    Action::Drained
                }
                Some(Action::Resolve { target, .. }) => {
                    Action::Resolve { peer: PeerId(nth), target }
                }
                Some(action) => action,
            };
            return Some(action);
        }
        None
    }

    fn poll_timeout(&self) -> Option<(Instant, TimerReason)> {
        if !self.touched.is_empty() {
            return Some((self.now, TimerReason::Output));
        }
        self.timers.first().map(|(at, _)| (*at, TimerReason::Edge))
    }

    fn listener(&self, _dest: &str, _service: &str) -> Option<ListenerId> {
        // Where it leads to is the edge's to say.
        Some(ListenerId(0))
    }

    fn keep(&mut self) -> Option<(usize, Vec<u8>)> {
        self.to_keep.pop_front()
    }
}
