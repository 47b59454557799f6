//! Two nodes back to back under a virtual clock: the core as its users see it.

mod chaos;
mod handshake;
mod limits;
mod mtu;
mod review;
mod streams;
mod world;

use std::time::Instant;

/// The moment that a test counts from; the only look at a clock in this crate.
#[expect(clippy::disallowed_methods, reason = "an Instant has no other beginning")]
pub(crate) fn epoch() -> Instant {
    Instant::now()
}
