//! A link in real time between two network namespaces, for real kernels' TCP.
//!
//! ```text
//! namespace A                                              namespace B
//! programs, TCP ── line0 198.18.0.1 ─► link ─► line0 198.18.0.2 ── TCP, programs
//! ```
//!
//! The addresses are out of 198.18.0.0/15, which is set aside for measurements (RFC 2544); they exist
//! only inside the two namespaces, so that they are the same for every link and meet no other.

mod check;
mod namespace;
mod options;
mod packet;
mod report;
mod run;
mod tun;

use std::net::Ipv4Addr;

pub use namespace::{NamespaceError, check_system};
pub use options::{LinkArgs, LinkOptions, Shape};
pub use report::{CheckReport, LiveLinkReport};
pub use run::run;
pub use tun::TunError;

pub(super) use namespace::Namespaces;
pub(super) use options::ShapeFlags;

use super::forward::{ForwardError, Forwarding, LiveStats};
use super::meter::DirectionFigures;
use crate::link::{Link, LinkConfigError};
use packet::IpPacket;
use tun::TunEnds;

/// Of both namespaces, in their order.
pub const ADDRS: [Ipv4Addr; 2] = [Ipv4Addr::new(198, 18, 0, 1), Ipv4Addr::new(198, 18, 0, 2)];
const PREFIX: u8 = 30;

/// What is set in both namespaces: windows that leave room for 64 MiB under way, no memory of former
/// connections, and no IPv6, whose neighbours would chatter over the link.
const SETTINGS: [(&str, &str); 5] = [
    ("net.ipv6.conf.all.disable_ipv6", "1"),
    ("net.ipv6.conf.default.disable_ipv6", "1"),
    ("net.ipv4.tcp_no_metrics_save", "1"),
    ("net.ipv4.tcp_rmem", "4096 131072 67108864"),
    ("net.ipv4.tcp_wmem", "4096 65536 67108864"),
];

const CONGESTION: &str = "net.ipv4.tcp_congestion_control";

/// A live link could not be made.
#[derive(Debug, thiserror::Error)]
pub enum LiveLinkError {
    /// The namespaces.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// The devices.
    #[error(transparent)]
    Tun(#[from] TunError),
    /// The thread.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// There is no such link.
    #[error(transparent)]
    Link(#[from] LinkConfigError),
    /// Forwarding ended by itself.
    #[error("the link ended by itself (was its device or namespace removed?): {0}")]
    Ended(#[source] std::io::Error),
    /// What checks it.
    #[error("cannot send packets over the link: {0}")]
    Check(#[source] std::io::Error),
}

/// A link at work. Dropped, it is gone with its namespaces and devices.
#[derive(Debug)]
pub struct LiveLink {
    forwarding: Forwarding<IpPacket>,
    settings: Vec<(String, String)>,
    /// Go last.
    namespaces: Namespaces,
}

impl LiveLink {
    /// Makes namespaces and devices and begins to forward.
    ///
    /// # Errors
    /// [`LiveLinkError`], naming what is missing.
    pub fn start(shape: &Shape) -> Result<Self, LiveLinkError> {
        let [out, back] = shape.configs();
        let seed = shape.seed().child("link");
        let links =
            [Link::new(&out, seed.child("a to b"))?, Link::new(&back, seed.child("b to a"))?];
        let namespaces = Namespaces::new()?;
        let mut found = Vec::new();
        for (key, value) in SETTINGS {
            namespaces.set(key, value)?;
            found.push((key.to_owned(), namespaces.get(key)?));
        }
        let addrs = ADDRS.map(|addr| format!("{addr}/{PREFIX}"));
        let ends = TunEnds::new(&namespaces, addrs, shape.mtu)?;
        let forwarding = Forwarding::start(ends, links)?;
        Ok(Self { forwarding, settings: found, namespaces })
    }

    /// The names of both namespaces, as `ip netns exec` takes them.
    #[must_use]
    pub fn names(&self) -> &[String; 2] {
        self.namespaces.names()
    }

    /// What was set with `sysctl`, and what was read back.
    #[must_use]
    pub fn settings(&self) -> &[(String, String)] {
        &self.settings
    }

    /// What the default congestion control of TCP in both namespaces is, after `name`, if one is
    /// given, was made the default.
    ///
    /// # Errors
    /// [`NamespaceError::Default`] if that is not allowed.
    pub fn default_congestion(&self, name: Option<&str>) -> Result<String, NamespaceError> {
        if let Some(name) = name {
            self.namespaces.set(CONGESTION, name)?;
        }
        let found = self.namespaces.get(CONGESTION)?;
        match name {
            Some(name) if name != found => Err(NamespaceError::Default(name.to_owned())),
            _ => Ok(found),
        }
    }

    /// Runs `what` on a thread in namespace A (0) or B (1). Sockets that it opens belong there, and
    /// so do threads that it starts.
    ///
    /// # Errors
    /// [`NamespaceError::Enter`].
    pub fn enter<T: Send>(
        &self,
        which: usize,
        what: impl FnOnce() -> T + Send,
    ) -> Result<T, NamespaceError> {
        self.namespaces.enter(which, what)
    }

    /// What happened so far.
    #[must_use]
    pub fn stats(&self) -> LiveStats {
        self.forwarding.stats()
    }

    /// Queue and rate at both entrances: from A to B, from B to A.
    #[must_use]
    pub fn figures(&self) -> [DirectionFigures; 2] {
        self.forwarding.figures()
    }

    /// From now on the late figures count.
    pub fn mark(&self) {
        self.forwarding.mark();
    }

    /// Whether forwarding has ended by itself, which it does only on an error of the system.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.forwarding.has_failed()
    }

    /// Takes it down. What is in flight is dropped.
    ///
    /// # Errors
    /// [`LiveLinkError::Ended`] if forwarding had ended by itself.
    pub fn stop(self) -> Result<(), LiveLinkError> {
        self.forwarding.stop().map_err(LiveLinkError::Ended)
    }
}
