//! What the benchmarks of Entrouter Line measure, driven in memory and in virtual time: no socket, no
//! thread and no sleep takes part, so the figures are processor time alone.
//!
//! - [`Pump`]: two nodes back to back and one connection through them: application bytes in at one
//!   side, application bytes out at the other; over a path that loses nothing and over one that does.
//! - [`Floor`]: the same bytes through the cipher and two copies, and nothing else: what no relay that
//!   encrypts can be faster than.
//!
//! Both compare every byte that comes out with what went in (see [`pattern`]); that is about one part
//! in a hundred of the floor, on both sides of the ratio.
//!
//! # Running
//!
//! ```sh
//! cargo bench -p entrouter-benches             # measure
//! cargo bench -p entrouter-benches -- --test   # run each once, to see that it works
//! ```
//!
//! MiB/s depend on the machine and on what else it does. `node_pump takes N x floor`, and the same of
//! `node_pump_lossy`, printed last, are taken from both in turn within one run and are what to compare
//! between two versions.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod floor;
pub mod pattern;
mod pump;

pub use floor::Floor;
pub use pump::Pump;
