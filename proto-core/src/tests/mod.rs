//! Two nodes back to back under a virtual clock: the core as its users see it.

mod chaos;
mod client_address;
mod handshake;
mod limits;
mod mtu;
mod review;
mod streams;
mod world;

use std::time::Instant;

use crate::wire::endpoints::Endpoints;

/// The moment that a test counts from; the only look at a clock in this crate.
#[expect(clippy::disallowed_methods, reason = "an Instant has no other beginning")]
pub(crate) fn epoch() -> Instant {
    Instant::now()
}

/// Where some client is, and where it came to.
pub(crate) fn endpoints() -> Endpoints {
    Endpoints::new(([192, 0, 2, 1], 1000).into(), ([192, 0, 2, 2], 443).into())
}
