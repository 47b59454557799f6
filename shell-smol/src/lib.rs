//! A PoP of Entrouter Line: `entrouter-proto` driven by `smol` tasks on one thread.
//!
//! Nothing here knows the protocol, nor how a socket is read or written: that is
//! [`entrouter_proto`]'s and [`entrouter_host`]'s. Here is what waits for what. Every source of
//! events has a task that waits for it and tells the core; one task, the driver, does what the core
//! asks and lets it send:
//!
//! ```text
//!   task of each UDP socket ─► handle_datagram ─┐
//!   task of each listener ───► handle_tcp       │  ring   driver:  handle_timeout
//!   task of each connection ─► handle_tcp       ├───────►          poll_action ───► dial, write, grant, close
//!   task of each dial ───────► handle_tcp       │                  poll_transmit ─► UDP
//!   tasks of signals, wakes ────────────────────┘                  poll_timeout ──► its timer
//!             ▲                                                         │
//!             └──────────── wakes the connections that it asked ────────┘
//! ```
//!
//! The tasks share the core by a `RefCell` that nobody holds while waiting. Each does a bounded
//! amount of work when its turn comes and then queues up again, so that none starves another: the
//! executor's queue is what the order of a turn is in a hand-written loop.
//!
//! To embed it, bind it and give it a thread; it needs no runtime around it, and works beside one.
//! (Its sockets are watched by `async-io`'s reactor, which the whole process shares.)
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = entrouter_host::glue::load_config("pop.toml".as_ref())?;
//! let pop = entrouter_smol::Shell::bind(config, Default::default())?;
//! let handle = pop.handle();
//! std::thread::scope(|scope| {
//!     scope.spawn(|| pop.run());
//!     println!("{:?}", handle.status());
//!     handle.stop();
//! });
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod alarm;
mod bell;
mod driver;
mod event_loop;
mod state;
mod tcp;

pub use entrouter_host::pop::{Handle, Options, RunError, StartError};
pub use event_loop::SmolLoop;

/// A PoP whose sockets are bound and that does not run yet.
pub type Shell = entrouter_host::pop::Shell<SmolLoop>;
