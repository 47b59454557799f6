//! A node and its QUIC clients under a virtual clock.

mod bulk;
mod certs;
mod client;
mod early;
mod limits;
mod random;
mod streams;
mod world;
