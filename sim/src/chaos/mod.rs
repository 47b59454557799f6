//! Chaos: a whole world sampled from a seed, in two phases.
//!
//! While things go wrong, nothing may happen that must never happen (see [`crate::engine`]). Then the
//! network heals, and within a bounded time every connection that has no excuse completes, every other
//! one ends, nothing is left of them, every node has a path to every other one, and the mesh goes quiet.

mod connectors;
mod draws;
mod faults;
mod run;
mod sample;
mod shape;

pub use run::run;
pub use sample::{Connected, MIN_BYTES, MIN_FAULTS, Sample};
