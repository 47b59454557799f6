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
    /// Bytes reserved for flows, and the cap.
    pub flow_memory: MemoryStatus,
    /// Next hop per destination.
    pub paths: Vec<PathStatus>,
    /// Measured latencies per directed link.
    pub latencies: Vec<LatencyStatus>,
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

/// How full one queue or table of a node is; see [`Node::tables`](crate::Node::tables).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    /// What it holds, such as `flows_lingering`. Each name is shown once, or once for each peer.
    pub name: &'static str,
    /// The neighbour that it belongs to, if it is not the node's.
    pub peer: Option<PeerId>,
    /// Entries now (bytes for `flow_memory`, `flow_window` and `flow_unacknowledged`). Of what each flow
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
    /// Flows that ended by a reset, whoever asked for it.
    pub flows_reset: u64,
    /// Opens refused because the id was closed before.
    pub opens_refused: u64,
    /// Datagrams that no session or key claims.
    pub stray_datagrams: u64,
}

/// The way to one destination.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PathStatus {
    /// Destination node.
    pub to: String,
    /// Nodes on the way, this one first.
    pub via: Vec<String>,
    /// Cost in microseconds.
    pub cost_us: u64,
}

/// One directed link.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LatencyStatus {
    /// From this node.
    pub from: String,
    /// To this one.
    pub to: String,
    /// Smoothed round trip time in microseconds.
    pub rtt_us: u64,
}
