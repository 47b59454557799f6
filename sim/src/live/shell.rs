//! Which shell drives a PoP.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use entrouter_host::pop::{EventLoop, Handle, Options, RunError, Shell, StartError};
use entrouter_proto::Config;
use serde::Serialize;

/// The core under one event loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ShellKind {
    /// `entrouter-mio`.
    Mio,
    /// `entrouter-smol`.
    Smol,
}

impl FromStr for ShellKind {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "mio" => Ok(Self::Mio),
            "smol" => Ok(Self::Smol),
            _ => Err("neither mio nor smol"),
        }
    }
}

impl fmt::Display for ShellKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mio => "mio",
            Self::Smol => "smol",
        })
    }
}

/// The shells of PoP A, where clients connect, and of PoP B, which dials the origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Shells(pub [ShellKind; 2]);

impl FromStr for Shells {
    type Err = String;

    /// One name, for both, or two.
    fn from_str(text: &str) -> Result<Self, String> {
        let (a, b) = text.split_once(',').unwrap_or((text, text));
        let kind = |part: &str| part.trim().parse().map_err(|error| format!("{part:?}: {error}"));
        Ok(Self([kind(a)?, kind(b)?]))
    }
}

impl fmt::Display for Shells {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b] = self.0;
        if a == b { write!(f, "{a}") } else { write!(f, "{a} (PoP A) and {b} (PoP B)") }
    }
}

/// A PoP whose sockets are bound and that does not run yet, under whatever event loop.
pub(super) struct BoundShell {
    pub(super) handle: Handle,
    /// Where the tunnel's socket is bound.
    pub(super) relay_addr: SocketAddr,
    /// Where the TCP listeners are bound.
    pub(super) tcp_addrs: Vec<SocketAddr>,
    /// The event loop.
    pub(super) run: Box<dyn FnOnce() -> Result<(), RunError> + Send>,
}

impl ShellKind {
    /// Binds all that the configuration names.
    pub(super) fn bind(self, config: Config) -> Result<BoundShell, StartError> {
        let options = Options::default();
        Ok(match self {
            Self::Mio => BoundShell::new(entrouter_mio::Shell::bind(config, options)?),
            Self::Smol => BoundShell::new(entrouter_smol::Shell::bind(config, options)?),
        })
    }
}

impl BoundShell {
    fn new<L: EventLoop + Send + 'static>(shell: Shell<L>) -> Self {
        Self {
            handle: shell.handle(),
            relay_addr: shell.relay_addr(),
            tcp_addrs: shell.tcp_addrs(),
            run: Box::new(move || shell.run()),
        }
    }
}

impl fmt::Debug for BoundShell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundShell").field("relay_addr", &self.relay_addr).finish_non_exhaustive()
    }
}
