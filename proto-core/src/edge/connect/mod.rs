//! The client of a QUIC edge: connections of local TCP programs travel as streams of one QUIC connection.
//!
//! ```text
//! program ─TCP─► Connector ─QUIC─► edge of a PoP ─► mesh ─► origin
//! ```
//!
//! [`Connector`] is a state machine like [`Node`](crate::Node), with the same face: what a shell does for
//! one it does for the other.

mod client;
mod connector;
#[cfg(test)]
mod connector_tests;
mod link;
mod seeded;
mod setup;
mod tickets;
#[cfg(test)]
mod tickets_tests;
mod trust;

pub use connector::{ConnectError, Connector, ConnectorStatus, Wish};
pub use trust::{Authorities, Trust, TrustError, fingerprint};
