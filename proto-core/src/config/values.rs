//! The texts that values are made of.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::{HostPort, PresharedKey};

/// The bytes of the key in `config.example.toml`; whoever reads the source knows it.
pub(super) const EXAMPLE_KEY: &[u8; 32] = b"this is only an example, no key!";

/// A text that is no [`HostPort`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "wanted host:port with a DNS name, an IPv4 address or an [IPv6] address, and port 1 to 65535"
)]
pub struct InvalidHostPort;

impl FromStr for HostPort {
    type Err = InvalidHostPort;

    /// # Errors
    /// [`InvalidHostPort`] unless it is `name:port`, `IPv4:port` or `[IPv6]:port` with a port other
    /// than 0.
    fn from_str(text: &str) -> Result<Self, InvalidHostPort> {
        let (host, port) = text.rsplit_once(':').ok_or(InvalidHostPort)?;
        let port = parse_port(port).ok_or(InvalidHostPort)?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(v6) => IpAddr::V6(v6.parse().map_err(|_| InvalidHostPort)?).to_string(),
            None => match host.parse::<Ipv4Addr>() {
                Ok(v4) => v4.to_string(),
                Err(_) if is_dns_name(host) => host.to_owned(),
                Err(_) => return Err(InvalidHostPort),
            },
        };
        Ok(Self { host, port })
    }
}

fn parse_port(text: &str) -> Option<u16> {
    // `u16::from_str` would take a sign.
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|port| *port != 0)
}

fn is_dns_name(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // A name whose last label is a number is a mistyped IPv4 address; no such top-level domain
    // exists.
    let is_number = |label: &str| label.bytes().all(|b| b.is_ascii_digit());
    name.len() <= 253
        && name.split('.').all(is_label)
        && !name.rsplit('.').next().is_some_and(is_number)
}

/// Whether one socket can be bound to each of both: port 0 is a fresh port every time, and a
/// wildcard address takes the port on all addresses of its family.
pub(super) fn clash(a: SocketAddr, b: SocketAddr) -> bool {
    let same_family = a.is_ipv4() == b.is_ipv4();
    let overlap = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() != 0 && a.port() == b.port() && same_family && overlap
}

/// Printable text of 1 to 64 characters (0 to 64 where it is optional).
pub(super) fn is_region(text: &str, may_be_empty: bool) -> bool {
    (may_be_empty || !text.trim().is_empty())
        && text.chars().count() <= 64
        && !text.chars().any(char::is_control)
}

/// A path that the operating system can take.
pub(super) fn is_path(text: &str) -> bool {
    !text.trim().is_empty() && text.len() <= 4096 && !text.chars().any(char::is_control)
}

/// What can stand in an HTTP header after `Bearer `.
pub(super) fn is_token(text: &str) -> bool {
    (1..=256).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

/// What an application protocol may be called here (RFC 7301 §3.1 has any bytes, as many).
pub(super) fn is_alpn(text: &str) -> bool {
    (1..=255).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

/// The key, or what was found instead; that never repeats the text.
pub(super) fn parse_key(text: &str) -> Result<PresharedKey, String> {
    if text.is_empty() {
        return Err("empty text".to_owned());
    }
    let bytes = STANDARD
        .decode(text)
        .map(Zeroizing::new)
        .map_err(|_| "text that is not base64".to_owned())?;
    let mut key = Zeroizing::new([0; 32]);
    if bytes.len() != key.len() {
        return Err(format!("{} bytes", bytes.len()));
    }
    key.copy_from_slice(&bytes);
    if *key == [0; 32] {
        return Err("32 zero bytes".to_owned());
    }
    Ok(PresharedKey::new(*key))
}
