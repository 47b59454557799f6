//! A snapshot of everything that a person may ask of a node. `admin.rs` renders it.

use serde::Serialize;

use crate::ids::PeerId;

/// State of a node at one moment. Serialized as the answer of `GET /status`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Status {
    /// Name of this node.
    pub node_id: String,
    /// Its region.
    pub region: String,
    /// Version of the software.
    pub version: &'static str,
    /// Seconds since [`Node::new`](crate::Node::new).
    pub uptime_s: u64,
    /// Whether the node is finishing its last connections.
    pub draining: bool,
    /// How many neighbours have a live tunnel.
    pub peers_up: usize,
    /// Neighbours, in the order of the configuration.
    pub peers: Vec<PeerStatus>,
    /// Flows that began or end as TCP here.
    pub tcp_flows: usize,
    /// Flows that began as QUIC streams here.
    pub quic_flows: usize,
    /// TLS clients whose handshake is complete.
    pub tls_connections: usize,
    /// QUIC clients.
    pub quic: QuicStatus,
    /// Bytes reserved for flows, and the cap.
    pub flow_memory: MemoryStatus,
    /// The way to each node that is known in the mesh and can be reached, by name.
    pub paths: Vec<PathStatus>,
    /// The latency matrix of the mesh as this node knows it: every directed link that its begin reports, by
    /// names.
    pub latencies: Vec<LatencyStatus>,
    /// What is relayed for others.
    pub transit: TransitStatus,
    /// What was dropped or refused, by reason; monotonic.
    pub counters: NodeCounters,
}

/// Memory that flows hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct MemoryStatus {
    /// Bytes reserved now.
    pub reserved: u64,
    /// The most that may be reserved.
    pub cap: u64,
}

/// Connections of QUIC clients. All but `connections` are counters, and monotonic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct QuicStatus {
    /// Connections that there are now, those that end among them.
    pub connections: usize,
    /// Connections whose handshake was completed.
    pub accepted: u64,
    /// Handshakes that failed or took too long.
    pub failed: u64,
    /// Connections refused: too many in all or of one client, no memory, or the node ends.
    pub refused: u64,
    /// First flights that were not looked at because there were too many handshakes under way; clients send
    /// them again.
    pub postponed: u64,
    /// Clients that were told to show that they receive at their address.
    pub retries: u64,
    /// Connections whose first flight carried data that was accepted.
    pub early: u64,
    /// Tickets that were used before or are forgotten; data that came with them in the first flight was
    /// refused.
    pub tickets_refused: u64,
    /// Streams that were refused.
    pub streams_refused: u64,
}

/// How full one queue or table of a node is; see [`Node::tables`](crate::Node::tables).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    /// What it holds, such as `flows_lingering`. Each name is shown once, or once for each peer.
    pub name: &'static str,
    /// The neighbour that it belongs to, if it is not the node's.
    pub peer: Option<PeerId>,
    /// Entries now (bytes for `flow_memory`, `flow_window`, `flow_unacknowledged`, `transit_memory`,
    /// `transit_data`, `transit_control` and `transit_buffers`). Of what each flow
    /// or each lane has for itself, the fullest.
    pub len: u64,
    /// The most that there can be; above 0.
    pub bound: u64,
}

/// How full one kind of table of a `T` is: its name, its length, its bound.
pub(crate) type Gauge<T> = (&'static str, fn(&T) -> usize, usize);

/// One neighbour.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PeerStatus {
    /// Its name.
    pub node_id: String,
    /// Its region, as configured here.
    pub region: String,
    /// Whether authenticated traffic arrives and is answered.
    pub up: bool,
    /// Where its packets come from, if known.
    pub addr: Option<String>,
    /// Seconds since the present session was made.
    pub session_age_s: Option<u64>,
    /// Sessions made since the start.
    pub handshakes: u64,
    /// Whether what is sent to it is not acknowledged any more: no route leads over it then.
    pub suspect: bool,
    /// How often it became suspect.
    pub suspected: u64,
    /// Smoothed round trip time in microseconds.
    pub rtt_us: Option<u64>,
    /// Loss towards the peer before recovery, in percent.
    pub loss_out_pct: f64,
    /// Mean length of a run of losses towards the peer, in packets.
    pub burst_out: f64,
    /// Rate that the controller allows, in Mbit/s.
    pub rate_mbps: f64,
    /// UDP payload in bytes that datagrams to the peer may have at present: 1252 until more was found to
    /// pass, and again after a black hole.
    pub udp_payload: usize,
    /// Counters of this tunnel.
    pub counters: TunnelCounters,
}

/// What went through a tunnel; monotonic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct TunnelCounters {
    /// UDP payload bytes sent.
    pub bytes_out: u64,
    /// Datagrams sent.
    pub packets_out: u64,
    /// UDP payload bytes received and authenticated.
    pub bytes_in: u64,
    /// Datagrams received and authenticated.
    pub packets_in: u64,
    /// Source symbols sent for the first time.
    pub symbols_out: u64,
    /// Distinct symbols received or recovered.
    pub symbols_in: u64,
    /// Parity symbols sent.
    pub parity_out: u64,
    /// Parity symbols received.
    pub parity_in: u64,
    /// Symbols that FEC recovered here.
    pub fec_recovered: u64,
    /// FEC blocks given up because their parity did not fit their symbols. None, unless an end of the
    /// tunnel computes wrongly.
    pub fec_corrupt: u64,
    /// Copies of symbols sent again because they were found lost.
    pub retransmitted: u64,
    /// Copies of symbols sent again by a probe timeout.
    pub pto_sent: u64,
    /// Acknowledgements that told that something sent again had only been late.
    pub spurious: u64,
    /// Probes of the path's MTU sent.
    pub mtu_probes_out: u64,
    /// How often large datagrams vanished and small ones did not, so that the size fell.
    pub black_holes: u64,
    /// Symbols that had become too long for the path and were cut and sent anew.
    pub symbols_cut: u64,
    /// Symbols that arrived more than once.
    pub duplicates_in: u64,
    /// Datagrams refused: authentication failed.
    pub bad_packets: u64,
    /// Datagrams refused: replayed.
    pub replayed: u64,
}

/// Counters of the whole node; monotonic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct NodeCounters {
    /// Flows opened by clients here.
    pub flows_opened: u64,
    /// Flows accepted for origins here.
    pub flows_accepted: u64,
    /// Clients that were not let in because there were too many, in all or from their address.
    pub clients_refused: u64,
    /// Flows that ended by a reset, whoever asked for it.
    pub flows_reset: u64,
    /// Opens refused because the id was closed before.
    pub opens_refused: u64,
    /// Datagrams that no session or key claims.
    pub stray_datagrams: u64,
    /// Bytes that began or end here and were sent again end to end, because a hop had lost them for good.
    pub resent_bytes: u64,
    /// Reports of relays that they dropped data of flows that begin or end here.
    pub drops_told: u64,
    /// Times that the next hop to some destination changed.
    pub route_changes: u64,
    /// Advertisements of links refused because the database was full.
    pub link_state_refused: u64,
    /// TLS clients that spoke and came to no flow: what they said was wrong, they did not trust the
    /// certificate, or there was no room.
    pub tls_failed: u64,
    /// TLS clients whose handshake took too long.
    pub tls_timed_out: u64,
}

/// The way to one destination.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PathStatus {
    /// Destination node.
    pub to: String,
    /// Nodes on the way, this one first.
    pub via: Vec<String>,
    /// One way, in microseconds: latency, what the links' loss costs, and a little for each relay.
    pub cost_us: u64,
    /// Round trip time along it in microseconds, without queues.
    pub rtt_us: u64,
    /// The neighbour that takes over at once if the next hop dies.
    pub alternate: Option<String>,
}

/// One directed link, as its begin reports it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct LatencyStatus {
    /// From this node.
    pub from: String,
    /// To this one.
    pub to: String,
    /// Smoothed round trip time in microseconds, without the queues of the tunnel's own traffic.
    pub rtt_us: u64,
    /// Mean deviation of the round trip time in microseconds.
    pub jitter_us: u64,
    /// Loss in this direction before recovery, in percent.
    pub loss_pct: f64,
    /// Mean length of a run of losses, in packets.
    pub burst: f64,
    /// Since it was measured so, in milliseconds.
    pub age_ms: u64,
    /// Whether it is used: both ends report it, and its begin relays or is this node.
    pub used: bool,
}

/// What a node relays between other nodes. Counters are monotonic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct TransitStatus {
    /// Frames passed on.
    pub frames: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Bytes that wait now, for all neighbours.
    pub waiting_bytes: u64,
    /// Data frames that were given the mark of congestion here.
    pub marked: u64,
    /// Data frames dropped because too much waited.
    pub dropped_full: u64,
    /// Frames dropped because there was no way on.
    pub dropped_no_way: u64,
    /// Frames dropped because they had passed too many relays.
    pub dropped_hops: u64,
    /// Data frames dropped because they were too long in the mesh.
    pub dropped_old: u64,
    /// Frames that are not data dropped because far too much of them waited.
    pub dropped_control: u64,
    /// Acknowledgements whose place a later one of the same flow took while many waited.
    pub acks_merged: u64,
    /// Frames that waited for a neighbour when it died, to go another way.
    pub moved: u64,
    /// How long data waited here, in microseconds: median, 99th percentile, greatest; to 7 % and over the
    /// node's life.
    pub wait_p50_us: u64,
    /// See `wait_p50_us`.
    pub wait_p99_us: u64,
    /// See `wait_p50_us`.
    pub wait_max_us: u64,
}
