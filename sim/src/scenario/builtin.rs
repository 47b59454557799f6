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
    "crosstraffic",
    "goodput",
    "half-close",
    "handshakecorruption",
    "handshakeloss",
    "jitter",
    "longrtt",
    "mtu",
    "nat",
    "ocean",
    "ping",
    "queue",
    "rebind-addr",
    "rebind-port",
    "replay",
    "reset",
    "restart",
    "short",
    "slow-reader",
    "star",
    "three-pops",
    "transfercorruption",
    "transferloss",
];
