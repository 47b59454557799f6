//! The keys that a file may have, complete.

pub(super) const ROOT: &[&str] = &[
    "node_id",
    "region",
    "admin_token",
    "listen",
    "mesh",
    "relay",
    "lanes",
    "limits",
    "peers",
    "origins",
    "edge",
];

pub(super) const LISTEN: &[&str] = &[
    "relay_addr",
    "tcp_addr",
    "quic_addr",
    "quic_0rtt",
    "quic_alpn",
    "admin_addr",
    "admin_token",
    "tls_cert_path",
    "tls_key_path",
];

pub(super) const MESH: &[&str] = &["probe_interval_ms", "max_udp_payload", "transit"];

pub(super) const RELAY: &[&str] = &["default_dest", "fec_data_shards", "fec_parity_shards"];

pub(super) const LANES: &[&str] = &["express_kib", "express_share_pct"];

pub(super) const LIMITS: &[&str] = &[
    "flow_window_kib",
    "node_memory_mib",
    "rekey_after_s",
    "max_connections",
    "max_connections_per_address",
];

pub(super) const PEER: &[&str] =
    &["node_id", "region", "addr", "shared_key", "next_shared_key", "max_rate_mbps"];

pub(super) const EDGE: &[&str] = &["listen", "proto", "dest", "service"];

/// Of an entry of `[origins]` that is more than a text.
pub(super) const ORIGIN: &[&str] = &["addr", "proxy_protocol"];

/// Keys whose values are never shown.
pub(super) const SECRETS: &[&str] = &["admin_token", "shared_key", "next_shared_key"];

/// Every key but the names of `[origins]`.
pub(super) fn all() -> impl Iterator<Item = &'static str> {
    [ROOT, LISTEN, MESH, RELAY, LANES, LIMITS, PEER, ORIGIN, EDGE].into_iter().flatten().copied()
}

/// Where a key belongs that was found in a section that does not have it. A key appended to the end
/// of a file lands in the section that happens to be last, which is easily overlooked.
pub(super) fn place_of(name: &str) -> Option<&'static str> {
    if name == "admin_token" {
        Some("before the first section, or in [listen]")
    } else if name == "node_id" || name == "region" {
        Some("before the first section, or in [[peers]]")
    } else if ROOT.contains(&name) {
        Some("to the top level of the file")
    } else if LISTEN.contains(&name) {
        Some("in [listen]")
    } else if MESH.contains(&name) {
        Some("in [mesh]")
    } else if RELAY.contains(&name) {
        Some("in [relay]")
    } else if LANES.contains(&name) {
        Some("in [lanes]")
    } else if LIMITS.contains(&name) {
        Some("in [limits]")
    } else if PEER.contains(&name) {
        Some("in [[peers]]")
    } else if ORIGIN.contains(&name) {
        Some("in an entry of [origins]")
    } else if EDGE.contains(&name) {
        Some("in [[edge]]")
    } else {
        None
    }
}
