//! Clients and origins: what they do, and the reference model of every stream between them.

mod deal;
mod meter;
mod pattern;
mod plan;

pub(crate) use deal::{Deal, End, Side};
pub(crate) use meter::Meter;
pub(crate) use pattern::{NAME_LEN, Pattern, mix};
#[cfg(feature = "compare")]
pub(crate) use plan::TARGET_PORT;
pub use plan::{Amount, Arrivals, Habits, Kind, Plan, Workload};
