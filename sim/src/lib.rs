//! Simulated links and the live demo of Entrouter Line.
//!
//! - [`link`]: one direction of a long link (rate and queue, loss, delay), pure: it is handed the
//!   time and a seed, and reads neither clock nor operating system.
//! - [`seed`] and [`time`]: what everything simulated shares.
//! - `live` (feature `live`, on by default): an origin, two PoPs on real loopback sockets, and such
//!   a link between them.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod link;
#[cfg(feature = "live")]
pub mod live;
pub mod seed;
pub mod time;
