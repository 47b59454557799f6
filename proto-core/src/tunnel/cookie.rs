//! Under load an initiation is answered by a cookie for its source address instead of by work, as in
//! the WireGuard paper (§5.3): only who can receive at that address gets further.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::rng::Rng;
use crate::tunnel::keys::{equal, mac};
use crate::wire::packet::MAC_LEN;

/// Initiations per second that are worked on without asking for a cookie.
const FREE_RATE: f64 = 100.0;
/// And how many of them at once.
const FREE_BURST: f64 = 200.0;
/// A cookie is good for this long at least, and for twice as long at most.
const SECRET_LIFE: Duration = Duration::from_secs(120);

/// Decides which initiations are worked on.
#[derive(Debug)]
pub(crate) struct CookieJar {
    tokens: f64,
    refilled: Instant,
    secrets: [[u8; 32]; 2],
    changed: Instant,
}

impl CookieJar {
    pub(crate) fn new(now: Instant, rng: &mut Rng) -> Self {
        Self { tokens: FREE_BURST, refilled: now, secrets: [rng.fork(), rng.fork()], changed: now }
    }

    /// Takes one initiation into account; true if it may be worked on without a cookie.
    pub(crate) fn admit(&mut self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.refilled).as_secs_f64();
        self.tokens = (self.tokens + elapsed * FREE_RATE).min(FREE_BURST);
        self.refilled = now;
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }

    /// The cookie to hand to `remote`.
    pub(crate) fn issue(&mut self, now: Instant, rng: &mut Rng, remote: SocketAddr) -> [u8; 16] {
        if now.saturating_duration_since(self.changed) > SECRET_LIFE {
            self.secrets = [rng.fork(), self.secrets[0]];
            self.changed = now;
        }
        cookie(&self.secrets[0], remote)
    }

    /// Whether `mac2` was made over `input` with a cookie that `remote` was given.
    pub(crate) fn check(
        &self,
        now: Instant,
        remote: SocketAddr,
        input: &[u8],
        mac2: &[u8; MAC_LEN],
    ) -> bool {
        now.saturating_duration_since(self.changed) <= 2 * SECRET_LIFE
            && self.secrets.iter().any(|s| equal(&mac(&cookie(s, remote), &[input]), mac2))
    }
}

fn cookie(secret: &[u8; 32], remote: SocketAddr) -> [u8; 16] {
    let port = remote.port().to_be_bytes();
    match remote.ip() {
        IpAddr::V4(ip) => mac(secret, &[&ip.octets(), &port]),
        IpAddr::V6(ip) => mac(secret, &[&ip.octets(), &port]),
    }
}
