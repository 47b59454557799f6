//! What both shells of Entrouter Line need from the operating system and that is no event loop:
//! command line, logging, signals, the admin API's HTTP, name resolution, socket options, timers,
//! entropy; and what a shell does to its sockets once its loop has found them ready.
//!
//! A shell is an [`EventLoop`](pop::EventLoop) in a [`Shell`](pop::Shell). The loop decides when and
//! in which order; these do the work, never wait, and never look at a clock:
//!
//! | | |
//! |---|---|
//! | [`datagrams`] | UDP sockets: batches in, batches out |
//! | [`accept`], [`dial`], [`conn`] | TCP connections: to come, to be made, to last and to end well |
//! | [`hangups`] | ends and resets of connections that are not read |
//! | [`certs`] | the certificate of the TLS and QUIC edges, and its reloading |
//! | [`names`] | names of peers and origins |
//! | [`life`] | draining, stopping, reloading, telling the status |
//! | [`pace`] | until when to wait |
//!
//! Nothing here decides anything about the protocol. What is pure (configuration, the content of
//! admin answers) lives in `entrouter-proto`; [`glue`] is the one place where this crate calls it.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod accept;
pub mod admin;
pub mod certs;
pub mod cli;
pub mod conn;
pub mod connect;
pub mod core;
pub mod datagrams;
pub mod dial;
pub mod entropy;
pub mod glue;
pub mod hangups;
pub mod life;
pub mod logging;
pub mod names;
pub mod pace;
pub mod pop;
pub mod ratelimit;
pub mod resolve;
pub mod signals;
pub mod sockets;
pub mod status_cell;
pub mod tickets;
pub mod timer;

use std::sync::Arc;

/// Wakes an event loop from another thread; cheap, and harmless when it is called too often.
pub type Wake = Arc<dyn Fn() + Send + Sync>;
