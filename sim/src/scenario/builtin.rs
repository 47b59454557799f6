//! The scenarios that are part of the program.

macro_rules! builtin {
    ($($name:literal),* $(,)?) => {
        /// By name, with their text.
        pub(super) const BUILTIN: &[(&str, &str)] = &[$(
            ($name, include_str!(concat!("../../scenarios/", $name, ".toml"))),
        )*];
    };
}

builtin![
    "ack-loss",
    "beside",
    "blackhole",
    "bulk",
    "bursts",
    "clog",
    "connect",
    "edge",
    "edge-crowd",
    "crosstraffic",
    "failover",
    "first-byte",
    "goodput",
    "half-close",
    "handshakecorruption",
    "handshakeloss",
    "idle-loss",
    "jitter",
    "longrtt",
    "loss-route",
    "mesh50",
    "mtu",
    "nat",
    "ocean",
    "partition-mesh",
    "ping",
    "queue",
    "rebind-addr",
    "rebind-port",
    "replay",
    "reset",
    "restart",
    "rings",
    "short",
    "slow-hop",
    "slow-reader",
    "star",
    "three-pops",
    "transfercorruption",
    "transferloss",
    "triangle",
    "two-hops",
    "wobble",
];
