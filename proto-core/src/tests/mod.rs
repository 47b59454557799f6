//! Two nodes back to back under a virtual clock: the core as its users see it.

mod chaos;
mod handshake;
mod review;
mod streams;
mod world;
