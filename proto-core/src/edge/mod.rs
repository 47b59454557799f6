//! Clients and origins. Knows flows, not tunnels.

pub(crate) mod tcp;
