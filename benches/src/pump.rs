//! Two nodes and a connection.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use entrouter_proto::{Action, Config, ConnId, ListenerId, Node, SocketId, TcpEvent};

use crate::pattern::Pattern;

/// What the nodes send through. It has no limit of its own, and a sender without one goes on probing for
/// more: what the nodes may send is capped.
#[derive(Debug, Clone, Copy)]
struct Path {
    /// One way.
    delay: Duration,
    /// What a node may send, in Mbit/s.
    rate_mbps: u32,
    /// Datagrams lost of 1024, each way.
    lost_of_1024: u64,
}

/// Comes to rest with 2.5 MB on the way: as 500 Mbit/s at 40 ms.
const CLEAN: Path = Path { delay: Duration::from_millis(1), rate_mbps: 10_000, lost_of_1024: 0 };
/// 1 Gbit/s across an ocean that loses 5 %: 5 MB are on the way, and what was lost and what stands behind
/// it wait.
const LOSSY: Path = Path { delay: Duration::from_millis(20), rate_mbps: 1000, lost_of_1024: 51 };
/// Carried before the pump counts as warm, in bytes.
const WARM_UP: u64 = 64 << 20;
/// Datagrams in a batch at most, as `entrouter-mio` asks for.
const SEGMENTS: usize = 32;
/// Turns without a byte delivered after which the pump counts as stuck. The handshake takes a few.
const MAX_IDLE_TURNS: u32 = 100_000;

/// The client's node, and the origin's.
const CLIENT: usize = 0;
const ORIGIN: usize = 1;

/// Datagrams on their way: what GSO would take and GRO give.
#[derive(Debug)]
struct Batch {
    arrives: Instant,
    to: usize,
    segment_size: usize,
    bytes: Vec<u8>,
}

/// A client that always has more to send, its node, a path, the origin's node, and an origin that takes
/// everything at once.
///
/// It is driven through the public face of the core, as a shell would: whole batches, reads of up to
/// 64 KiB and no more than was granted. Time is virtual and jumps to the next thing that is due; the
/// nodes' seeds are fixed, so every run does the same.
#[derive(Debug)]
pub struct Pump {
    path: Path,
    /// Datagrams that were put on the path so far; says which of them are lost.
    datagrams: u64,
    start: Instant,
    now: Instant,
    nodes: [Node; 2],
    addrs: [SocketAddr; 2],
    /// In the order of arrival: the path's delay is the same for all.
    wire: VecDeque<Batch>,
    /// Buffers for later batches.
    spare: Vec<Vec<u8>>,
    pattern: Pattern,
    conn: ConnId,
    /// Bytes that the client may still send.
    granted: usize,
    sent: u64,
    delivered: u64,
    /// `delivered` at the end of the last transfer that was asked for.
    goal: u64,
    idle_turns: u32,
}

impl Pump {
    /// Over a path of 1 ms each way that loses nothing. Makes the nodes and the connection, and lets bytes
    /// through until the tunnel's rate has settled.
    ///
    /// # Panics
    /// As [`Pump::transfer`].
    #[must_use]
    pub fn warm() -> Self {
        Self::cold(CLEAN).warmed_up()
    }

    /// As [`Pump::warm`], over a path of 20 ms each way that loses 5 % of what is sent each way.
    ///
    /// # Panics
    /// As [`Pump::transfer`].
    #[must_use]
    pub fn lossy() -> Self {
        Self::cold(LOSSY).warmed_up()
    }

    fn warmed_up(mut self) -> Self {
        self.transfer(WARM_UP);
        self
    }

    /// Nothing has passed between the nodes yet.
    fn cold(path: Path) -> Self {
        // The nodes compare instants and never ask for the time.
        let now = Instant::now();
        let addrs: [SocketAddr; 2] = [([10, 0, 0, 1], 4433).into(), ([10, 0, 0, 2], 4433).into()];
        let node = |seed: u8, config: &str| {
            let config = Config::parse("bench.toml", config.as_bytes()).expect("it is valid");
            let unix_now = Duration::from_secs(1_800_000_000);
            Node::new(config, [seed; 32], now, unix_now).expect("names that do not collide")
        };
        let client = node(
            1,
            &format!(
                "node_id = 'a'\nregion = 'x'\nlisten.tcp_addr = '127.0.0.1:8443'\n{}",
                peer("b", addrs[ORIGIN], path)
            ),
        );
        let origin = node(
            2,
            &format!(
                "node_id = 'b'\nregion = 'y'\norigins.default = '127.0.0.1:80'\n{}",
                peer("a", addrs[CLIENT], path)
            ),
        );
        let conn = ConnId::accepted(0);
        let mut pump = Self {
            path,
            datagrams: 0,
            start: now,
            now,
            nodes: [client, origin],
            addrs,
            wire: VecDeque::new(),
            spare: Vec::new(),
            pattern: Pattern::new(),
            conn,
            granted: 0,
            sent: 0,
            delivered: 0,
            goal: 0,
            idle_turns: 0,
        };
        let (remote, local) = (([10, 0, 0, 3], 1).into(), ([10, 0, 0, 1], 1).into());
        let accepted = TcpEvent::Accepted { conn, listener: ListenerId(0), remote, local };
        pump.nodes[CLIENT].handle_tcp(now, accepted);
        pump
    }

    /// Virtual time since the nodes were made.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// Lets so many bytes more through. What is on its way at the end belongs to the next transfer, and
    /// the few bytes that arrive beyond the last one count for it.
    ///
    /// # Panics
    /// If bytes come out that are not those that went in, or none any more, or a node gives up.
    pub fn transfer(&mut self, bytes: u64) {
        self.goal += bytes;
        while self.delivered < self.goal {
            let before = self.delivered;
            self.turn();
            self.idle_turns = if self.delivered > before { 0 } else { self.idle_turns + 1 };
            assert!(self.idle_turns < MAX_IDLE_TURNS, "stuck after {:?}", self.elapsed());
        }
    }

    /// Goes to the next moment at which something is due, and does what is due then.
    fn turn(&mut self) {
        let timers = self.nodes.iter().filter_map(|node| Some(node.poll_timeout()?.0));
        let arrival = self.wire.front().map(|batch| batch.arrives);
        let next = timers.chain(arrival).min().expect("a neighbour is always probed again");
        self.now = self.now.max(next);
        let now = self.now;
        let mut is_awake =
            [CLIENT, ORIGIN].map(|at| self.nodes[at].poll_timeout().is_some_and(|(t, _)| t <= now));
        for (node, _) in self.nodes.iter_mut().zip(is_awake).filter(|(_, due)| *due) {
            node.handle_timeout(now);
        }
        while self.wire.front().is_some_and(|batch| batch.arrives <= now)
            && let Some(mut batch) = self.wire.pop_front()
        {
            is_awake[batch.to] |= self.arrive(&mut batch);
            self.spare.push(batch.bytes);
        }
        for at in [CLIENT, ORIGIN] {
            if is_awake[at] {
                self.act(at);
                self.transmit(at);
            }
        }
    }

    /// Gives the node what the path has not lost of a batch: it comes in pieces, as GRO would make them.
    /// Whether anything is left.
    fn arrive(&mut self, batch: &mut Batch) -> bool {
        let Batch { to, segment_size, ref mut bytes, .. } = *batch;
        let (node, from) = (&mut self.nodes[to], self.addrs[1 - to]);
        let (lost, before) = (self.path.lost_of_1024, self.datagrams);
        self.datagrams += bytes.len().div_ceil(segment_size) as u64;
        let mut is_any = false;
        let (mut rest, mut numbers) = (bytes.as_mut_slice(), before..self.datagrams);
        while !rest.is_empty() {
            let kept = numbers.by_ref().take_while(|n| !is_lost(*n, lost)).count();
            let (piece, more) = rest.split_at_mut((kept * segment_size).min(rest.len()));
            if !piece.is_empty() {
                is_any = true;
                node.handle_datagram(
                    self.now,
                    SocketId::default(),
                    from,
                    None,
                    segment_size,
                    piece,
                );
            }
            rest = more.get_mut(segment_size..).unwrap_or_default();
        }
        is_any
    }

    /// What the node asks for, and what the client may send then.
    fn act(&mut self, at: usize) {
        loop {
            while let Some(action) = self.nodes[at].poll_action() {
                self.carry_out(at, action);
            }
            if at == ORIGIN || self.granted == 0 {
                return;
            }
            let data = self.pattern.piece(self.sent, self.granted);
            self.nodes[at].handle_tcp(self.now, TcpEvent::Received { conn: self.conn, data });
            self.granted -= data.len();
            self.sent += data.len() as u64;
        }
    }

    fn carry_out(&mut self, at: usize, action: Action) {
        let event = match action {
            Action::Connect { conn, .. } => TcpEvent::Connected { conn },
            Action::Write { conn, data } if at == ORIGIN => {
                let is_right = self.pattern.matches(self.delivered, &data);
                assert!(is_right, "other bytes came out than went in, near {}", self.delivered);
                self.delivered += data.len() as u64;
                TcpEvent::Written { conn, bytes: data.len() }
            }
            Action::GrantRead { bytes, .. } => {
                // The origin says nothing, whatever it may.
                if at == CLIENT {
                    self.granted += bytes;
                }
                return;
            }
            other => panic!("nobody gave a reason for {other:?}"),
        };
        self.nodes[at].handle_tcp(self.now, event);
    }

    fn transmit(&mut self, at: usize) {
        loop {
            let mut bytes = self.spare.pop().unwrap_or_default();
            bytes.clear();
            let Some(sent) = self.nodes[at].poll_transmit(self.now, SEGMENTS, &mut bytes) else {
                self.spare.push(bytes);
                return;
            };
            self.wire.push_back(Batch {
                arrives: self.now + self.path.delay,
                to: 1 - at,
                segment_size: sent.segment_size,
                bytes,
            });
        }
    }
}

/// SplitMix64 (Steele, Lea and Flood 2014) of the datagram's number decides.
fn is_lost(number: u64, of_1024: u64) -> bool {
    let mut hash = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (hash ^ hash >> 31) % 1024 < of_1024
}

fn peer(name: &str, addr: SocketAddr, path: Path) -> String {
    let key = "dGhpcyBpcyBvbmx5IGFuIGV4YW1wbGUsIG5vIGtleSE=";
    format!(
        "[[peers]]\nnode_id = '{name}'\naddr = '{addr}'\nshared_key = '{key}'\n\
         max_rate_mbps = {}\n",
        path.rate_mbps
    )
}

#[cfg(test)]
mod tests {
    use super::{CLEAN, CLIENT, ORIGIN, Pump};

    /// Of what the sender may send, the share that comes out.
    fn share(pump: &mut Pump, bytes: u64) -> f64 {
        let before = pump.elapsed();
        pump.transfer(bytes);
        let took = (pump.elapsed() - before).as_secs_f64();
        bytes as f64 * 8.0 / took / 1e6 / f64::from(pump.path.rate_mbps)
    }

    #[test]
    fn a_warm_pump_has_settled_and_loses_nothing() {
        let mut pump = Pump::warm();
        for _ in 0..3 {
            let share = share(&mut pump, 16 << 20);
            // Headers and tags are counted in the limit.
            assert!((0.92..0.97).contains(&share), "{share} of the rate");
        }
        let counters = pump.nodes[CLIENT].status(pump.now).peers[0].counters;
        assert_eq!((counters.retransmitted, counters.pto_sent), (0, 0));
    }

    #[test]
    fn a_lossy_pump_has_settled_and_loses_one_in_twenty_each_way() {
        let mut pump = Pump::lossy();
        // Long enough that it does not matter how much waits behind a hole at the begin and the end.
        let share = share(&mut pump, 256 << 20);
        // Headers, tags and what is sent again are counted in the limit.
        assert!((0.8..0.92).contains(&share), "{share} of the rate");
        for node in [CLIENT, ORIGIN] {
            let loss = pump.nodes[node].status(pump.now).peers[0].loss_out_pct;
            // The estimate rises faster than it falls, so it lies above the mean.
            assert!((4.0..10.0).contains(&loss), "{loss} % lost");
        }
    }

    #[test]
    #[should_panic(expected = "other bytes came out than went in, near 5001")]
    fn a_byte_that_is_missing_is_noticed() {
        let mut pump = Pump::cold(CLEAN);
        pump.transfer(5000);
        pump.delivered = 5001;
        pump.transfer(100_000);
    }
}
