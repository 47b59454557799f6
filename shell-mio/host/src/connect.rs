//! The command `connect`: what it is told, and what a connector is told then.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use argh::FromArgs;
use entrouter_proto::config::HostPort;
use entrouter_proto::connect::{Authorities, Trust, TrustError, Wish};

use crate::pop::Connect;
use crate::tickets::TicketFile;

/// take connections of local programs to a PoP's QUIC edge, until SIGTERM or Ctrl-C (again to stop at once)
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "connect")]
pub(crate) struct ConnectArgs {
    /// the edge's QUIC address: name:port, IPv4:port or [IPv6]:port
    #[argh(option, arg_name = "HOST:PORT")]
    edge: HostPort,

    /// where programs connect by TCP, as 127.0.0.1:9000
    #[argh(option, arg_name = "IP:PORT", from_str_fn(ip_port))]
    listen: SocketAddr,

    /// trust the authorities in this PEM file instead of the system's
    #[argh(option, arg_name = "FILE")]
    ca: Option<PathBuf>,

    /// trust only the certificate with this SHA-256 (the PoP's log tells it), whatever name it is for
    #[argh(option, arg_name = "SHA256")]
    fingerprint: Option<String>,

    /// the name in the edge's certificate, if it is not the host of --edge
    #[argh(option, arg_name = "NAME")]
    server_name: Option<String>,

    /// the protocol that the edge speaks (its quic_alpn), default entrouter
    #[argh(option, arg_name = "NAME", default = "String::from(\"entrouter\")")]
    alpn: String,

    /// where tickets for 0-RTT are kept, default in ~/.local/state/entrouter
    #[argh(option, arg_name = "FILE")]
    tickets: Option<PathBuf>,

    /// send nothing before the edge has answered: a round trip more on return, and nothing that a thief
    /// could play again
    #[argh(switch, long = "no-0rtt")]
    no_early_data: bool,

    /// error, warn, info, debug, trace or a filter of the `tracing` kind; default RUST_LOG or info
    #[argh(option, arg_name = "LEVEL")]
    pub(crate) log: Option<String>,
}

/// A command line that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConnectArgsError {
    /// Two ways to trust.
    #[error("--ca and --fingerprint exclude each other")]
    Both,
    /// A file cannot be read.
    #[error("--ca {}: {source}", .path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// What was given is of no use.
    #[error("{option}: {source}")]
    Trust {
        /// Which option gave it.
        option: String,
        /// Why not.
        source: TrustError,
    },
    /// The system trusts nobody.
    #[error(
        "this system's certificate authorities cannot be read{0} (install ca-certificates, or use --ca or \
         --fingerprint)"
    )]
    NoRoots(String),
    /// An ALPN is 1 to 255 bytes (RFC 7301 §3.1).
    #[error("--alpn: wanted 1 to 255 visible ASCII characters")]
    Alpn,
}

impl ConnectArgs {
    pub(crate) fn resolve(self) -> Result<Connect, ConnectArgsError> {
        let trust = match (&self.ca, &self.fingerprint) {
            (Some(_), Some(_)) => return Err(ConnectArgsError::Both),
            (Some(path), None) => Trust::Authorities(authorities(path)?),
            (None, Some(text)) => Trust::fingerprint(text).map_err(|source| {
                ConnectArgsError::Trust { option: "--fingerprint".to_owned(), source }
            })?,
            (None, None) => Trust::Authorities(of_system()?),
        };
        let is_alpn = self.alpn.bytes().all(|b| b.is_ascii_graphic());
        if !is_alpn || self.alpn.is_empty() || self.alpn.len() > 255 {
            return Err(ConnectArgsError::Alpn);
        }
        let tickets = match self.tickets {
            _ if self.no_early_data => None,
            Some(path) => Some(TicketFile::new(path)),
            None => TicketFile::of_user(&self.edge.to_string()),
        };
        let wish = Wish {
            server_name: self.server_name.unwrap_or_else(|| self.edge.host.clone()),
            edge: self.edge,
            trust,
            alpn: self.alpn,
            early_data: !self.no_early_data,
            tickets: None,
        };
        Ok(Connect { wish, listen: self.listen, tickets })
    }
}

fn ip_port(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "wanted IP:port, such as 127.0.0.1:9000 or [::1]:9000".to_owned())
}

fn authorities(path: &Path) -> Result<Authorities, ConnectArgsError> {
    let pem = std::fs::read(path)
        .map_err(|source| ConnectArgsError::Read { path: path.to_owned(), source })?;
    Authorities::from_pem(&pem).map_err(|source| ConnectArgsError::Trust {
        option: format!("--ca {}", path.display()),
        source,
    })
}

fn of_system() -> Result<Authorities, ConnectArgsError> {
    let found = rustls_native_certs::load_native_certs();
    let why = found.errors.first().map(|e| format!(": {e}")).unwrap_or_default();
    Authorities::from_der(found.certs.iter().map(AsRef::as_ref))
        .map_err(|_| ConnectArgsError::NoRoots(why))
}
