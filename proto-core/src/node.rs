//! `Node`: routes inputs to rooms and drains rooms. No protocol logic.

mod mesh;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::config::{Config, Peer};
use crate::edge::identity::Identity;
use crate::edge::{Edges, Listener};
use crate::fec::Codec;
use crate::flow::Flows;
use crate::ids::{Incarnation, Lane, NodeHash, NodeId, PeerId, SocketId};
use crate::io::{Action, Ecn, TcpEvent, TimerReason, Transmit};
use crate::rng::Rng;
use crate::routing::{self, Routing};
use crate::status::{Status, Table};
use crate::transit::Transit;
use crate::tunnel::cookie::CookieJar;
use crate::tunnel::{MAX_INDICES, Shared, Tunnel, USUAL_SHARD};
use crate::wire::linkstate::MAX_INCARNATION;
use crate::wire::packet::{KeyId, Packet};

use mesh::{Link, MeshSink, MeshSource};

/// How long draining waits for flows to finish by themselves.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// How long it then waits for the other ends to hear of the resets.
const DRAIN_RESETS: Duration = Duration::from_secs(1);
/// How long the goodbyes may take.
const DRAIN_CLOSE: Duration = Duration::from_millis(500);

/// Why a node cannot be what a configuration asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// Two nodes have the same hash on the wire.
    #[error("{0}")]
    Routing(String),
    /// Something changed that a running node cannot change.
    #[error("{0} cannot change while the node runs: restart it")]
    NeedsRestart(&'static str),
}

/// How far draining has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Drain {
    /// Flows may finish until then.
    Finishing(Instant),
    /// The rest were reset; the other ends may hear of it until then.
    Resetting(Instant),
    /// The peers are being told goodbye, those that can be.
    Closing(Instant),
    Done,
}

/// One PoP without sockets, clocks and randomness of its own: time, datagrams and TCP events go in,
/// datagrams and [`Action`]s come out. See the [crate docs](crate) for a loop that drives it.
///
/// Any order of calls is legal, and nothing is lost by draining late. The same configuration, seed and
/// inputs give the same outputs.
#[derive(Debug)]
pub struct Node {
    config: Config,
    local: NodeHash,
    shared: Shared,
    /// By [`PeerId`]. One whose peer was taken out of the configuration is parked.
    tunnels: Vec<Tunnel>,
    by_key: BTreeMap<KeyId, (PeerId, usize)>,
    flows: Flows,
    routing: Routing,
    transit: Transit,
    /// What is known of each tunnel as a link of the mesh, by [`PeerId`].
    links: Vec<Link>,
    edge: Edges,
    actions: VecDeque<Action>,
    /// The latest time that was told.
    now: Instant,
    drain: Option<Drain>,
    /// When the mesh last made this node begin another life.
    outlived: Option<Instant>,
    /// The tunnel that may send first, so that none starves the others.
    turn: usize,
    stray: u64,
}

impl Node {
    /// Makes a node at the time `now`, which is `unix_now` after the Unix epoch. `seed` must be
    /// fresh randomness: a seed is never used twice.
    ///
    /// # Errors
    /// [`NodeError::Routing`] if two configured nodes have the same hash.
    pub fn new(
        config: Config,
        seed: [u8; 32],
        now: Instant,
        unix_now: Duration,
    ) -> Result<Self, NodeError> {
        check_names(&config)?;
        let mut rng = Rng::new(seed);
        let millis = u64::try_from(unix_now.as_millis()).unwrap_or(u64::MAX);
        let life = millis.min(u64::MAX >> 21) << 20 | u64::from(rng.next_u32() >> 12);
        let incarnation = Incarnation(life.max(1));
        let cookies = CookieJar::new(now, &mut rng);
        let interval = config.mesh.probe_interval;
        let routing_rng = Rng::new(rng.fork());
        let edge = Edges::new(&config, now, unix_now, &mut rng);
        let mut node = Self {
            local: config.node_id.hash32(),
            shared: Shared {
                rng,
                codec: Codec::new(USUAL_SHARD),
                indices: BTreeMap::new(),
                cookies,
                incarnation,
                started: now,
                unix_start: unix_now,
            },
            tunnels: Vec::new(),
            by_key: BTreeMap::new(),
            flows: Flows::new(config.node_id.hash32(), incarnation, &config.limits, &config.lanes),
            routing: Routing::new(now, config.node_id.clone(), incarnation, interval, routing_rng),
            transit: Transit::new(),
            links: Vec::new(),
            edge,
            actions: VecDeque::new(),
            now,
            drain: None,
            outlived: None,
            turn: 0,
            stray: 0,
            config: config.clone(),
        };
        for peer in &config.peers {
            node.add_peer(now, peer);
        }
        node.index_keys();
        node.routing.set_relaying(now, node.config.mesh.transit);
        node.add_destinations(now);
        Ok(node)
    }

    fn add_peer(&mut self, now: Instant, peer: &Peer) {
        let id = PeerId(self.tunnels.len());
        self.tunnels.push(Tunnel::new(now, id, &self.config, peer));
        self.links.push(Link::default());
        self.flows.add_hop(id);
        self.routing.add_neighbour(id, &peer.node_id);
    }

    /// Clients wait for a way to where they want to go.
    fn add_destinations(&mut self, now: Instant) {
        for dest in self.config.destinations() {
            self.flows.add_destination(now, dest.hash32());
        }
    }

    fn index_keys(&mut self) {
        self.by_key.clear();
        for (at, tunnel) in self.tunnels.iter().enumerate() {
            for (n, keys) in tunnel.keys().iter().enumerate() {
                self.by_key.insert(keys.key_id_in, (PeerId(at), n));
            }
        }
    }

    /// The TCP listeners to open; each is named by its place here.
    #[must_use]
    pub fn listeners(&self) -> &[Listener] {
        self.edge.listeners()
    }

    /// The UDP sockets to open for QUIC clients. The socket of the tunnels is [`SocketId`] 0, the first
    /// of these is 1, and so on.
    #[must_use]
    pub fn quic_listeners(&self) -> &[Listener] {
        self.edge.quic_listeners()
    }

    /// Takes the certificate that TLS and QUIC clients are shown from now on; connections that stand
    /// are not touched. Before the first one no such client is served.
    pub fn set_identity(&mut self, now: Instant, identity: &Identity) {
        self.tick(now);
        self.edge.set_identity(identity);
    }

    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Datagrams from `remote`: `bytes` holds one or, as offloads deliver them, several of
    /// `segment_size` bytes of which the last may be shorter. They are opened in place; the contents
    /// of `bytes` are undefined afterwards.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        socket: SocketId,
        remote: SocketAddr,
        ecn: Option<Ecn>,
        segment_size: usize,
        bytes: &mut [u8],
    ) {
        self.tick(now);
        if socket != SocketId::default() {
            let mut datagrams = bytes.chunks(segment_size.max(1));
            self.edge.handle_datagram(now, socket, remote, ecn, &mut datagrams, &mut self.flows);
            return;
        }
        let ce = ecn == Some(Ecn::Ce);
        for datagram in bytes.chunks_mut(segment_size.max(1)) {
            let peer = self.dispatch(now, remote, ce, datagram);
            match peer {
                Some(peer) => self.after(now, peer),
                None => self.stray += 1,
            }
        }
        self.follow_routes(now);
    }

    /// The peer that the datagram is from; `None` if it proved to be from none.
    fn dispatch(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        ce: bool,
        datagram: &mut [u8],
    ) -> Option<PeerId> {
        let packet = Packet::parse(datagram).ok()?;
        if let Packet::Data(header) = packet {
            let peer = *self.shared.indices.get(&header.receiver)?;
            let tunnel = self.tunnels.get_mut(peer.0)?;
            let mut sink = MeshSink {
                now,
                flows: &mut self.flows,
                routing: &mut self.routing,
                transit: &mut self.transit,
                local: self.local,
                peer,
                node: tunnel.remote_hash(),
                flight: tunnel.rtt() / 2,
            };
            let from = (remote, ce);
            return tunnel
                .handle_data(now, &mut self.shared, header, datagram, from, &mut sink)
                .then_some(peer);
        }
        let (peer, key) = match &packet {
            Packet::Initiation(i) => *self.by_key.get(&i.key_id)?,
            Packet::Response(r) => (*self.shared.indices.get(&r.receiver)?, 0),
            Packet::Reject(r) => (*self.shared.indices.get(&r.receiver)?, 0),
            Packet::Cookie(c) => (*self.shared.indices.get(&c.receiver)?, 0),
            Packet::Data(_) => return None,
        };
        let tunnel = self.tunnels.get_mut(peer.0)?;
        let shared = &mut self.shared;
        let authentic = match &packet {
            Packet::Initiation(i) => tunnel.handle_initiation(now, shared, key, i, remote),
            Packet::Response(r) => tunnel.handle_response(now, shared, r, remote),
            Packet::Reject(r) => tunnel.handle_reject(now, shared, r),
            Packet::Cookie(c) => tunnel.handle_cookie(now, c),
            Packet::Data(_) => false,
        };
        authentic.then_some(peer)
    }

    /// Something happened to a TCP connection or listener.
    pub fn handle_tcp(&mut self, now: Instant, event: TcpEvent<'_>) {
        self.tick(now);
        self.edge.handle(now, event, &mut self.flows, &mut self.actions);
    }

    /// The answer to [`Action::Resolve`]; empty if the name could not be resolved.
    pub fn handle_resolved(&mut self, now: Instant, peer: PeerId, addrs: &[SocketAddr]) {
        self.tick(now);
        if let Some(tunnel) = self.tunnels.get_mut(peer.0) {
            tunnel.handle_resolved(now, addrs);
        }
    }

    /// Time passed. Does nothing if nothing is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.tick(now);
        for at in 0..self.tunnels.len() {
            if let Some(tunnel) = self.tunnels.get_mut(at) {
                tunnel.handle_timeout(now, &mut self.shared);
            }
            self.after(now, PeerId(at));
        }
        self.routing.handle_timeout(now);
        self.follow_routes(now);
        self.flows.handle_timeout(now);
        self.edge.handle_timeout(now, &mut self.flows, &mut self.actions);
        self.advance_drain(now);
    }

    /// Takes another configuration: peers, their keys and addresses, origins, destinations of
    /// listeners, [`Lanes`](crate::config::Lanes), [`Limits`](crate::config::Limits). On an error everything stays as it was.
    ///
    /// # Errors
    /// As for [`Node::new`]; [`NodeError::NeedsRestart`] for a change of `node_id`.
    pub fn reconfigure(&mut self, now: Instant, config: Config) -> Result<(), NodeError> {
        if config.node_id != self.config.node_id {
            return Err(NodeError::NeedsRestart("node_id"));
        }
        self.tick(now);
        // A peer keeps its number; a new one gets the next.
        let known = |id: &NodeId| self.tunnels.iter().position(|t| t.remote_id() == id);
        let mut next = self.tunnels.len();
        let ids: Vec<PeerId> = config
            .peers
            .iter()
            .map(|peer| {
                PeerId(known(&peer.node_id).unwrap_or_else(|| {
                    next += 1;
                    next - 1
                }))
            })
            .collect();
        check_names(&config)?;
        self.edge.reconfigure(&config);
        self.flows.set_limits(&config.limits, &config.lanes);
        let mut gone = Vec::new();
        for (at, tunnel) in self.tunnels.iter_mut().enumerate() {
            if config.peers.iter().all(|p| p.node_id != *tunnel.remote_id()) {
                tunnel.park(now, &mut self.shared);
                gone.push((PeerId(at), tunnel.remote_hash()));
            }
        }
        self.config = config;
        for (at, peer) in self.config.peers.clone().iter().enumerate() {
            let Some(id) = ids.get(at).copied() else { continue };
            match self.tunnels.get_mut(id.0) {
                Some(tunnel) => {
                    tunnel.reconfigure(now, &self.config, peer);
                    self.routing.add_neighbour(id, &peer.node_id);
                }
                None => self.add_peer(now, peer),
            }
        }
        self.index_keys();
        self.routing.set_interval(self.config.mesh.probe_interval);
        self.routing.set_relaying(now, self.config.mesh.transit);
        self.add_destinations(now);
        for (peer, node) in gone {
            self.look_at_link(now, peer);
            self.routing.remove_neighbour(now, peer);
            self.follow_routes(now);
            // It may be reached another way.
            if self.routing.next_hop(node, None).is_none() {
                self.flows.abandon(node);
            }
        }
        self.follow_routes(now);
        Ok(())
    }

    /// Begins to end: no more clients, flows finish or are reset after 10 s, peers are told.
    /// [`Action::Drained`] says when it is over.
    pub fn drain(&mut self, now: Instant) {
        self.tick(now);
        if self.drain.is_none() {
            self.drain = Some(Drain::Finishing(now + DRAIN_LIMIT));
            self.edge.stop();
            self.flows.refuse_new();
            self.routing.leave(now);
            self.actions.push_back(Action::StopAccepting);
        }
        self.advance_drain(now);
    }

    fn advance_drain(&mut self, now: Instant) {
        match self.drain {
            Some(Drain::Finishing(until)) if self.flows.live() == 0 || now >= until => {
                self.flows.reset_all(now);
                self.drain = Some(Drain::Resetting(now + DRAIN_RESETS));
                self.advance_drain(now);
            }
            Some(Drain::Resetting(until)) if self.is_told() || now >= until => {
                self.tunnels.iter_mut().for_each(Tunnel::close);
                self.edge.close(self.now);
                self.drain = Some(Drain::Closing(now + DRAIN_CLOSE));
            }
            Some(Drain::Closing(until))
                if now >= until || self.tunnels.iter().all(Tunnel::is_closed) =>
            {
                self.drain = Some(Drain::Done);
                self.actions.push_back(Action::Drained);
            }
            _ => {}
        }
    }

    fn is_told(&self) -> bool {
        self.flows.is_quiet()
            && self.transit.is_quiet(self.now)
            && !self.tunnels.iter().any(|t| t.is_up(self.now) && t.has_unacked())
    }

    /// Appends datagrams to `buf` and tells what they are: at most `max_segments`, all of one size but
    /// for the last. `None`: nothing may be sent now. Ask again until then; anything given in between
    /// may make more.
    #[must_use]
    pub fn poll_transmit(
        &mut self,
        now: Instant,
        max_segments: usize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        self.tick(now);
        let count = self.tunnels.len();
        for step in 0..count {
            let at = (self.turn + step) % count;
            let Some(tunnel) = self.tunnels.get_mut(at) else { continue };
            let peer = PeerId(at);
            let Some(link) = self.links.get_mut(at) else { continue };
            self.transit.set_rate(peer, tunnel.rate());
            let mut source = MeshSource {
                flows: &mut self.flows,
                routing: &mut self.routing,
                transit: &mut self.transit,
                link,
                peer,
            };
            let batch = tunnel.poll_transmit(now, &mut self.shared, max_segments, &mut source, buf);
            if let Some(batch) = batch {
                self.turn = at + 1;
                return Some(Transmit {
                    socket: SocketId::default(),
                    remote: batch.remote,
                    // RFC 3168 §5: ECT(0).
                    ecn: batch.ecn.then_some(Ecn::Ect0),
                    len: batch.len,
                    segment_size: batch.segment_size,
                });
            }
        }
        if let Some(transmit) = self.edge.poll_transmit(now, max_segments, buf) {
            return Some(transmit);
        }
        self.advance_drain(now);
        None
    }

    /// The next thing for the shell to do. Ask until `None`; anything given to the node may make more.
    #[must_use]
    pub fn poll_action(&mut self) -> Option<Action> {
        loop {
            if let Some(action) = self.actions.pop_front() {
                return Some(action);
            }
            let output = self.flows.poll_output(self.now)?;
            self.edge.carry_out(self.now, output, &mut self.flows, &mut self.actions);
        }
    }

    /// When [`Node::handle_timeout`] is to be called, and why; may lie in the past. If output is
    /// waiting it is due at once. Changes with anything that is given to or taken from the node.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, TimerReason)> {
        if !self.actions.is_empty() || self.flows.has_output() {
            return Some((self.now, TimerReason::Output));
        }
        let mut next = self.flows.poll_timeout().map(|at| (at, TimerReason::Flow));
        let drain = match self.drain {
            Some(Drain::Finishing(until) | Drain::Resetting(until) | Drain::Closing(until)) => {
                Some(until)
            }
            _ => None,
        };
        let tunnels = self.tunnels.iter().enumerate().filter_map(|(at, tunnel)| {
            let wants = Lane::ALL.map(|lane| self.has(PeerId(at), lane));
            tunnel.poll_timeout(wants)
        });
        let edge = self.edge.poll_timeout().map(|at| (at, TimerReason::Edge));
        let mesh = self.routing.poll_timeout().map(|at| (at, TimerReason::Mesh));
        for timer in tunnels.chain(mesh).chain(edge).chain(drain.map(|at| (at, TimerReason::Drain)))
        {
            if next.is_none_or(|(at, _)| timer.0 < at) {
                next = Some(timer);
            }
        }
        next
    }

    fn tick(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    /// A peer remembers a later life of this node than this one: the clock was set back. Begin a life
    /// above it, which nothing of the earlier ones can be mistaken for.
    fn outlive(&mut self, now: Instant, seen: Incarnation) {
        // There must be room above it, for this life and those after it.
        if seen < self.shared.incarnation || seen.0 >= MAX_INCARNATION - 2 {
            return;
        }
        self.shared.incarnation = Incarnation(seen.0.saturating_add(1));
        tracing::warn!(
            "the clock is behind that of an earlier run of this node; going on above it"
        );
        self.flows.set_life(self.shared.incarnation);
        self.routing.set_incarnation(now, self.shared.incarnation);
        for tunnel in &mut self.tunnels {
            tunnel.reset_sessions(now, &mut self.shared);
        }
    }

    /// Shows every queue and table that the network, clients or peers can fill to `visit`, each with its
    /// bound: `len <= bound` at any moment, whatever happens. For operators who look for what is filling
    /// up, and for tests. It takes no memory and looks once at every flow.
    ///
    /// Not shown is what the shell's own calls fill: for each client that is refused, an
    /// [`Action::Abort`] waits until it is polled.
    pub fn tables(&self, visit: &mut dyn FnMut(Table)) {
        self.flows.tables(visit);
        self.edge.tables(&self.flows, visit);
        self.routing.tables(visit);
        self.transit.tables(visit);
        let (len, bound) = (self.shared.indices.len(), self.tunnels.len() * MAX_INDICES);
        let (len, bound) = (len as u64, bound.max(1) as u64);
        visit(Table { name: "session_indices", peer: None, len, bound });
        self.tunnels.iter().for_each(|tunnel| tunnel.tables(visit));
    }

    /// How many data packets were authenticated and found fresh, from all peers; monotonic. Cheap: for
    /// those who want to know whether a datagram just handed in was accepted.
    #[must_use]
    pub fn packets_accepted(&self) -> u64 {
        self.tunnels.iter().map(Tunnel::packets_accepted).sum()
    }

    /// A snapshot for people.
    #[must_use]
    pub fn status(&self, now: Instant) -> Status {
        let peers: Vec<_> =
            self.tunnels.iter().filter(|t| !t.is_parked()).map(|t| t.status(now)).collect();
        let mut counters = self.flows.counters;
        counters.stray_datagrams = self.stray;
        counters.clients_refused = self.edge.clients_refused();
        counters.route_changes = self.routing.route_changes();
        counters.link_state_refused = self.routing.refused();
        (counters.tls_failed, counters.tls_timed_out) = self.edge.tls_failures();
        Status {
            region: self.config.region.clone(),
            version: env!("CARGO_PKG_VERSION"),
            uptime_s: now.saturating_duration_since(self.shared.started).as_secs(),
            draining: self.drain.is_some(),
            peers_up: peers.iter().filter(|p| p.up).count(),
            tcp_flows: self.flows.live().saturating_sub(self.edge.quic_flows()),
            quic_flows: self.edge.quic_flows(),
            tls_connections: self.edge.tls_connections(),
            quic: self.edge.quic_status(),
            flow_memory: self.flows.memory(),
            paths: self.routing.paths(),
            latencies: self.routing.latencies(now),
            transit: self.transit.status(),
            node_id: self.config.node_id.to_string(),
            peers,
            counters,
        }
    }
}

fn check_names(config: &Config) -> Result<(), NodeError> {
    let peers = config.peers.iter().map(|peer| &peer.node_id);
    let names = std::iter::once(&config.node_id).chain(peers).chain(config.destinations());
    routing::tell_apart(names).map_err(|e| NodeError::Routing(e.to_string()))
}
