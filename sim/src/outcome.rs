//! What a run found out, as numbers: for tables, JSON, expectations and plots.

use std::collections::BTreeMap;

use entrouter_proto::status::Status;
use serde::Serialize;

use crate::link::LinkCounters;

/// The result of one run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// Name of the scenario and, after a slash, of its case.
    pub scenario: String,
    /// The seed that reproduces it.
    pub seed: u64,
    /// Hash over times, lengths and plaintext of everything that happened, in hex.
    pub trace_hash: String,
    /// Virtual seconds.
    pub seconds: f64,
    /// Datagrams sent.
    pub packets: u64,
    /// Everything that must never happen and did; empty if all is well.
    pub violations: Vec<String>,
    /// Connections that were still open at the end.
    pub unfinished: Vec<String>,
    /// By name.
    pub workloads: BTreeMap<String, WorkloadOutcome>,
    /// Each direction of each link, by name (`a>b`).
    pub links: BTreeMap<String, LinkCounters>,
    /// What was sent into each direction of each link over time, and how long it waited there.
    pub queues: BTreeMap<String, QueueOutcome>,
    /// With two PoPs: bytes put on the link, with IP and UDP headers, per byte of payload that arrived,
    /// both in the direction that carries most. Absent if nothing arrived there.
    pub wire_per_byte: Option<f64>,
    /// What the nodes counted, by tunnel (`a>b`: at `a`, towards `b`).
    pub tunnels: BTreeMap<String, TunnelOutcome>,
    /// What the nodes counted beyond their tunnels, by name.
    pub nodes: BTreeMap<String, NodeOutcome>,
    /// The same at times that were asked for, in milliseconds.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub nodes_at: BTreeMap<u64, BTreeMap<String, NodeOutcome>>,
    /// The way from one node to another, each time it was seen to have changed: by `from>to`.
    pub routes: BTreeMap<String, Vec<Route>>,
    /// When every node had a way to every other one, and kept one to the end, in seconds since the last
    /// start of a node; absent if that never was.
    pub converged_s: Option<f64>,
    /// Put on both directions of a link together, with IP and UDP headers, in kbit/s, over the second half of
    /// the quiet time behind the last connection; of all links the greatest. Absent if connections were
    /// open at the end.
    pub quiet_kbps: Option<f64>,
    /// The scenario's expectations.
    pub expectations: Vec<ExpectationOutcome>,
    /// How things went over time, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub series: Option<Series>,
}

impl Outcome {
    /// Whether nothing is wrong: no violation, and every expectation held.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.violations.is_empty() && self.expectations.iter().all(|e| e.held)
    }
}

/// The result of one workload.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct WorkloadOutcome {
    /// Connections opened by clients.
    pub connections: u64,
    /// Of them, those in which every byte arrived both ways and both ends closed in order.
    pub completed: u64,
    /// Of them, those that ended by a reset. One without a cause (a client or an origin that resets, a
    /// refusing origin, a PoP that crashed) is a violation, too.
    pub reset: u64,
    /// Application bytes that arrived at origins.
    pub bytes_up: u64,
    /// Application bytes that arrived at clients.
    pub bytes_down: u64,
    /// Exchanges (a request and its whole answer) completed.
    pub exchanges: u64,
    /// Payload of both directions over the time from the first connection to the last byte, Mbit/s.
    pub goodput_mbps: f64,
    /// The same over the second half of that time.
    pub second_half_mbps: f64,
    /// The same over the first 15 seconds, the start included; of a workload that took less, over all of it.
    pub first_15s_mbps: f64,
    /// The longest time in which something was under way on a connection in one direction, and nothing
    /// of it arrived, until something did; ms.
    pub longest_gap_ms: f64,
    /// Time of an exchange from the first byte of the request to the last of the answer, as the
    /// client sees it; absent if none completed.
    pub latency: Option<Latency>,
    /// The time of each exchange in microseconds, in order of completion.
    #[serde(skip)]
    pub samples_us: Vec<u64>,
}

/// Waiting before the bottleneck of one direction of a link, as packets meet it that are put on the link.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct QueueOutcome {
    /// Median, to 0.1 ms.
    pub queue_p50_ms: f64,
    /// 99th percentile.
    pub queue_p99_ms: f64,
    /// Greatest.
    pub queue_max_ms: f64,
    /// Median from ten seconds after the first packet on.
    pub settled_queue_p50_ms: f64,
    /// 99th percentile from then on.
    pub settled_queue_p99_ms: f64,
    /// Most that was put on the link within a second (in steps of 100 ms), IP and UDP headers included,
    /// Mbit/s.
    pub busiest_second_mbps: f64,
}

/// Percentiles of exact samples, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Latency {
    /// Least.
    pub min_ms: f64,
    /// Median.
    pub p50_ms: f64,
    /// 95th percentile.
    pub p95_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// 99.9th percentile.
    pub p999_ms: f64,
    /// Greatest.
    pub max_ms: f64,
}

/// What one tunnel counted, over all lives of its node.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct TunnelOutcome {
    /// UDP payload bytes sent.
    pub bytes_out: u64,
    /// Datagrams sent.
    pub packets_out: u64,
    /// Source symbols sent for the first time.
    pub symbols_out: u64,
    /// Parity symbols sent.
    pub parity_out: u64,
    /// Symbols that FEC recovered here.
    pub fec_recovered: u64,
    /// Copies of symbols sent again because they were found lost.
    pub retransmitted: u64,
    /// Copies sent again by a probe timeout.
    pub pto_sent: u64,
    /// UDP payload in bytes that datagrams may have at the end.
    pub udp_payload: u64,
    /// Probes of the path's MTU sent.
    pub mtu_probes_out: u64,
    /// How often large datagrams vanished and small ones did not, so that the size fell.
    pub black_holes: u64,
    /// Symbols that had become too long for the path and were cut and sent anew.
    pub symbols_cut: u64,
    /// Symbols that arrived more than once.
    pub duplicates_in: u64,
    /// Sessions made.
    pub handshakes: u64,
}

/// What one node counted, over all its lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct NodeOutcome {
    /// Frames passed on for other nodes.
    pub transit_frames: u64,
    /// Bytes of them.
    pub transit_bytes: u64,
    /// Bytes that waited at the end, for all neighbours.
    pub waiting_bytes: u64,
    /// Frames passed on with the mark of congestion.
    pub marked: u64,
    /// Data frames dropped because too much waited.
    pub dropped_full: u64,
    /// Frames dropped because there was no way on.
    pub dropped_no_way: u64,
    /// Frames dropped because they had passed too many relays.
    pub dropped_hops: u64,
    /// Data frames dropped because they were too long in the mesh.
    pub dropped_old: u64,
    /// Frames that waited for a neighbour that died and were sent another way.
    pub moved: u64,
    /// How long frames waited for their turn: median, of the life in which it was greatest.
    pub wait_p50_us: u64,
    /// 99th percentile, likewise.
    pub wait_p99_us: u64,
    /// Greatest.
    pub wait_max_us: u64,
    /// Bytes sent again end to end.
    pub resent_bytes: u64,
    /// Reports of relays that they dropped data.
    pub drops_told: u64,
    /// Times that the next hop to some destination changed.
    pub route_changes: u64,
    /// Times that a neighbour became suspect.
    pub suspected: u64,
    /// Flows opened by clients.
    pub flows_opened: u64,
    /// Flows accepted for origins.
    pub flows_accepted: u64,
    /// Flows that ended by a reset.
    pub flows_reset: u64,
    /// Opens refused because the id was closed before.
    pub opens_refused: u64,
}

impl NodeOutcome {
    /// What one life counted.
    #[must_use]
    pub fn of(status: &Status) -> Self {
        let (transit, counters) = (&status.transit, &status.counters);
        Self {
            transit_frames: transit.frames,
            transit_bytes: transit.bytes,
            waiting_bytes: transit.waiting_bytes,
            marked: transit.marked,
            dropped_full: transit.dropped_full,
            dropped_no_way: transit.dropped_no_way,
            dropped_hops: transit.dropped_hops,
            dropped_old: transit.dropped_old,
            moved: transit.moved,
            wait_p50_us: transit.wait_p50_us,
            wait_p99_us: transit.wait_p99_us,
            wait_max_us: transit.wait_max_us,
            resent_bytes: counters.resent_bytes,
            drops_told: counters.drops_told,
            route_changes: counters.route_changes,
            suspected: status.peers.iter().map(|peer| peer.suspected).sum(),
            flows_opened: counters.flows_opened,
            flows_accepted: counters.flows_accepted,
            flows_reset: counters.flows_reset,
            opens_refused: counters.opens_refused,
        }
    }

    /// With what another life or node counted: the sum, of waits the greater.
    #[must_use]
    pub fn and(self, other: &Self) -> Self {
        Self {
            transit_frames: self.transit_frames + other.transit_frames,
            transit_bytes: self.transit_bytes + other.transit_bytes,
            waiting_bytes: self.waiting_bytes + other.waiting_bytes,
            marked: self.marked + other.marked,
            dropped_full: self.dropped_full + other.dropped_full,
            dropped_no_way: self.dropped_no_way + other.dropped_no_way,
            dropped_hops: self.dropped_hops + other.dropped_hops,
            dropped_old: self.dropped_old + other.dropped_old,
            moved: self.moved + other.moved,
            wait_p50_us: self.wait_p50_us.max(other.wait_p50_us),
            wait_p99_us: self.wait_p99_us.max(other.wait_p99_us),
            wait_max_us: self.wait_max_us.max(other.wait_max_us),
            resent_bytes: self.resent_bytes + other.resent_bytes,
            drops_told: self.drops_told + other.drops_told,
            route_changes: self.route_changes + other.route_changes,
            suspected: self.suspected + other.suspected,
            flows_opened: self.flows_opened + other.flows_opened,
            flows_accepted: self.flows_accepted + other.flows_accepted,
            flows_reset: self.flows_reset + other.flows_reset,
            opens_refused: self.opens_refused + other.opens_refused,
        }
    }
}

/// Since when, in virtual seconds, and through which nodes, joined by `>`, or [`NO_WAY`].
pub type Route = (f64, String);

/// A route that leads nowhere.
pub const NO_WAY: &str = "none";

/// One expectation, held against the run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExpectationOutcome {
    /// As the scenario has it, such as `ping.p99_over_rtt_ms <= 3`.
    pub text: String,
    /// What was found, as text.
    pub found: String,
    /// Whether it held.
    pub held: bool,
}

/// Samples at a fixed interval; all lists have one entry per sample.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Series {
    /// Virtual seconds between two samples.
    pub interval_s: f64,
    /// Payload that arrived in that interval, in Mbit/s, by workload.
    pub goodput_mbps: BTreeMap<String, Vec<f64>>,
    /// By direction of a link (`a>b`).
    pub links: BTreeMap<String, LinkSeries>,
    /// By tunnel (`a>b`: at `a`, towards `b`).
    pub tunnels: BTreeMap<String, TunnelSeries>,
    /// The way from one node to another, nodes joined by `>`, each time it changed: by `from>to`,
    /// with the sample's number.
    pub routes: BTreeMap<String, Vec<(usize, String)>>,
}

/// One direction of a link over time.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct LinkSeries {
    /// Put on the link, with IP and UDP headers, Mbit/s.
    pub offered_mbps: Vec<f64>,
    /// Share of the packets offered in the interval that never arrive, at random or dropped by the
    /// queue or a fault, in percent.
    pub lost_pct: Vec<f64>,
    /// Waiting at the bottleneck, as time, in milliseconds.
    pub queue_ms: Vec<f64>,
}

/// One direction of a tunnel over time.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct TunnelSeries {
    /// Rate that the controller allows, Mbit/s.
    pub rate_mbps: Vec<f64>,
    /// Smoothed RTT, ms; 0 while unknown.
    pub rtt_ms: Vec<f64>,
    /// Parity symbols, in percent of all symbols sent in the interval; 0 where none was sent.
    pub fec_overhead_pct: Vec<f64>,
    /// Copies sent again, in percent of all symbols sent in the interval.
    pub repair_pct: Vec<f64>,
}
