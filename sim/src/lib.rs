//! A deterministic simulator of Entrouter Line, and its live demo.
//!
//! The cores are the real ones, never a reimplementation. What is around them is simulated: a virtual
//! clock, links, TCP clients and origins. A run is a function of one number, its seed.
//!
//! From the outside inwards:
//!
//! - [`cli`]: the commands of `entrouter-sim`.
//! - [`scenario`]: a scenario as text (TOML) and what is expected of it; [`stage`]: a run of one;
//!   [`outcome`]: what it found out; [`report`]: that as a page with plots.
//! - [`chaos`]: a whole world sampled from a seed; [`mod@sweep`]: many seeds on all cores.
//! - [`engine`]: the event loop, hosts, network, faults and checks. To run a core of your own in it,
//!   start there.
//! - [`connect`]: hosts beside the mesh whose clients get in over QUIC.
//! - [`traffic`]: what clients and origins do; [`mesh`]: PoPs as they would be configured.
//! - [`link`]: one direction of a link, pure: it is handed the time and a seed.
//! - [`seed`] and [`time`]: what everything simulated shares.
//! - `quic` (feature `compare`, on by default): what a user would do without a relay.
//! - `live` (feature `live`, on by default): an origin, two PoPs on real loopback sockets, and a
//!   simulated link between them in real time; on Linux the same link between two network namespaces,
//!   for real kernels' TCP.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod chaos;
pub mod cli;
pub mod connect;
pub mod engine;
pub mod link;
#[cfg(feature = "live")]
pub mod live;
pub mod mesh;
pub mod outcome;
#[cfg(feature = "compare")]
pub mod quic;
pub mod report;
pub mod scenario;
pub mod seed;
pub mod stage;
pub mod sweep;
pub mod time;
pub mod traffic;
