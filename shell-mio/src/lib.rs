//! A PoP of Entrouter Line: `entrouter-proto` driven by a `mio` event loop on one thread.
//!
//! Nothing here knows the protocol, nor how a socket is read or written: that is
//! [`entrouter_proto`]'s and [`entrouter_host`]'s. The loop ([`MioLoop`]) decides what is done when:
//!
//! ```text
//!          wait for readiness, a deadline, a wake-up
//!             │
//!   UDP ──────┼─► handle_datagram ─┐
//!   TCP ──────┼─► handle_tcp       ├─► poll_action ───► dial, write, grant, close
//!   names ────┼─► handle_resolved  │   poll_transmit ─► UDP
//!   deadline ─┴─► handle_timeout ──┘   poll_timeout ──► the next deadline
//! ```
//!
//! Every turn of the loop does a bounded amount of each kind of work, so that none starves another;
//! what is left over is taken up in the next turn without waiting.
//!
//! ```no_run
//! use entrouter_mio::{Options, Shell};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = entrouter_host::glue::load_config("pop.toml".as_ref())?;
//! let shell = Shell::bind(config, Options::default())?;
//! let handle = shell.handle();
//! let pop = std::thread::spawn(move || shell.run());
//! println!("{:?}", handle.status());
//! handle.drain();
//! pop.join().expect("the event loop does not panic")?;
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod event_loop;
mod tcp;
mod udp;

pub use entrouter_host::pop::{Handle, Options, RunError, StartError};
pub use event_loop::MioLoop;

/// A PoP whose sockets are bound and that does not run yet.
pub type Shell = entrouter_host::pop::Shell<MioLoop>;
