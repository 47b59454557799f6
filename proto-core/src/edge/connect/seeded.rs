//! A TLS provider whose randomness is an argument.
//!
//! rustls asks its provider for random bytes at moments of its own choosing, through a `&'static`
//! reference. [`with`] lends it a generator for the length of one call; outside of such a call there is
//! none and rustls fails, so that nothing random can come from anywhere else.

use std::cell::RefCell;

use curve25519_dalek::MontgomeryPoint;
use rustls::crypto::{
    ActiveKeyExchange, CryptoProvider, GetRandomFailed, SecureRandom, SharedSecret,
    SupportedKxGroup,
};
use rustls::{Error, NamedGroup, PeerMisbehaved};
use zeroize::Zeroizing;

use crate::rng::Rng;

thread_local! {
    /// Lent by [`with`], at other times none.
    static LENT: RefCell<Option<Rng>> = const { RefCell::new(None) };
}

/// Gives back what was lent before, however the call ends.
struct Lending(Option<Rng>);

impl Drop for Lending {
    fn drop(&mut self) {
        LENT.with(|lent| *lent.borrow_mut() = self.0.take());
    }
}

/// Whatever `act` has the provider do takes its randomness from `seed`.
pub(super) fn with<T>(seed: [u8; 32], act: impl FnOnce() -> T) -> T {
    let _lending = Lending(LENT.with(|lent| lent.borrow_mut().replace(Rng::new(seed))));
    act()
}

fn fill(buf: &mut [u8]) -> Result<(), GetRandomFailed> {
    LENT.with(|lent| match lent.borrow_mut().as_mut() {
        Some(rng) => {
            rng.fill(buf);
            Ok(())
        }
        None => Err(GetRandomFailed),
    })
}

/// The provider of the `ring` crate but for its randomness, and with X25519 only.
pub(super) fn provider() -> CryptoProvider {
    CryptoProvider {
        kx_groups: vec![&X25519],
        secure_random: &Seeded,
        ..rustls::crypto::ring::default_provider()
    }
}

#[derive(Debug)]
struct Seeded;

impl SecureRandom for Seeded {
    fn fill(&self, buf: &mut [u8]) -> Result<(), GetRandomFailed> {
        fill(buf)
    }
}

/// RFC 7748 §6.1, as TLS 1.3 uses it (RFC 8446 §4.2.8.2, §7.4.2).
#[derive(Debug)]
struct X25519;

impl SupportedKxGroup for X25519 {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let mut private = Zeroizing::new([0; 32]);
        fill(&mut *private)?;
        let public = MontgomeryPoint::mul_base_clamped(*private).to_bytes();
        Ok(Box::new(Exchange { private, public }))
    }

    fn ffdhe_group(&self) -> Option<rustls::ffdhe_groups::FfdheGroup<'static>> {
        None
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

struct Exchange {
    private: Zeroizing<[u8; 32]>,
    public: [u8; 32],
}

impl ActiveKeyExchange for Exchange {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        let peer: [u8; 32] = peer.try_into().map_err(|_| PeerMisbehaved::InvalidKeyShare)?;
        let shared = MontgomeryPoint(peer).mul_clamped(*self.private);
        // RFC 8446 §7.4.2: the all-zero value shows a point of small order.
        if shared.to_bytes() == [0; 32] {
            return Err(PeerMisbehaved::InvalidKeyShare.into());
        }
        Ok(SharedSecret::from(shared.to_bytes().as_slice()))
    }

    fn pub_key(&self) -> &[u8] {
        &self.public
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_no_randomness_but_what_is_lent() {
        let mut buf = [0; 8];
        assert!(Seeded.fill(&mut buf).is_err());
        let first = with([1; 32], || X25519.start().map(|x| x.pub_key().to_vec()).unwrap());
        let again = with([1; 32], || X25519.start().map(|x| x.pub_key().to_vec()).unwrap());
        let other = with([2; 32], || X25519.start().map(|x| x.pub_key().to_vec()).unwrap());
        assert_eq!(first, again);
        assert_ne!(first, other);
        assert!(X25519.start().is_err());
    }

    #[test]
    fn both_ends_agree_and_small_orders_are_refused() {
        let ours = with([1; 32], || X25519.start().unwrap());
        let theirs = rustls::crypto::ring::kx_group::X25519.start().unwrap();
        let (our_public, their_public) = (ours.pub_key().to_vec(), theirs.pub_key().to_vec());
        let here = ours.complete(&their_public).unwrap();
        let there = theirs.complete(&our_public).unwrap();
        assert_eq!(here.secret_bytes(), there.secret_bytes());
        for bad in [&[0; 32][..], &[1; 31], &[]] {
            assert!(with([1; 32], || X25519.start().unwrap()).complete(bad).is_err());
        }
    }
}
