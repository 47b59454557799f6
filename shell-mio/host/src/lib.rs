//! What both shells of Entrouter Line need from the operating system and that is no event loop:
//! command line, logging, signals, the admin API's HTTP, name resolution, socket options, timers,
//! entropy.
//!
//! Nothing here decides anything about the protocol. What is pure (configuration, the content of
//! admin answers) lives in `entrouter-proto`; [`glue`] is the one place where this crate calls it.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod admin;
pub mod cli;
pub mod entropy;
pub mod glue;
pub mod logging;
pub mod ratelimit;
pub mod resolve;
pub mod signals;
pub mod sockets;
pub mod status_cell;
pub mod timer;

use std::sync::Arc;

/// Wakes an event loop from another thread; cheap, and harmless when it is called too often.
pub type Wake = Arc<dyn Fn() + Send + Sync>;
