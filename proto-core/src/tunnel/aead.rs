//! The AEAD seam: ChaCha20-Poly1305 (RFC 8439) from the portable crate, or from `ring` by the
//! feature of that name. The bytes are the same; a test holds them against each other.
//!
//! The nonce is 32 zero bits and the packet's 64-bit counter, big-endian. A key serves one direction
//! of one session, so no nonce repeats under it.

use crate::wire::packet::TAG_LEN;

#[cfg(not(feature = "ring"))]
use portable::Cipher;
#[cfg(feature = "ring")]
use ring_impl::Cipher;

/// The key of one direction of one session.
pub(crate) struct PacketKey {
    cipher: Cipher,
    #[cfg(test)]
    key: [u8; 32],
}

impl PacketKey {
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        Self {
            cipher: Cipher::new(key),
            #[cfg(test)]
            key: *key,
        }
    }

    /// Encrypts `plaintext` in place and returns the tag.
    pub(crate) fn seal(&self, counter: u64, aad: &[u8], plaintext: &mut [u8]) -> [u8; TAG_LEN] {
        #[cfg(test)]
        audit::sealed(&self.key, counter);
        self.cipher.seal(&nonce(counter), aad, plaintext)
    }

    /// Decrypts `sealed` (ciphertext and tag) in place; the plaintext's length, or `None` if it is
    /// not authentic, with the bytes then undefined.
    pub(crate) fn open(&self, counter: u64, aad: &[u8], sealed: &mut [u8]) -> Option<usize> {
        self.cipher.open(&nonce(counter), aad, sealed)
    }
}

impl std::fmt::Debug for PacketKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PacketKey(..)")
    }
}

fn nonce(counter: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_be_bytes());
    nonce
}

#[cfg(any(test, not(feature = "ring")))]
mod portable {
    use chacha20poly1305::aead::AeadInPlace;
    use chacha20poly1305::{ChaCha20Poly1305, KeyInit, Tag};

    use super::TAG_LEN;

    pub(super) struct Cipher(ChaCha20Poly1305);

    impl Cipher {
        pub(super) fn new(key: &[u8; 32]) -> Self {
            Self(ChaCha20Poly1305::new(key.into()))
        }

        pub(super) fn seal(
            &self,
            nonce: &[u8; 12],
            aad: &[u8],
            plaintext: &mut [u8],
        ) -> [u8; TAG_LEN] {
            // Fails for more than 256 GiB only; no packet is.
            self.0
                .encrypt_in_place_detached(nonce.into(), aad, plaintext)
                .map_or([0; TAG_LEN], Into::into)
        }

        pub(super) fn open(
            &self,
            nonce: &[u8; 12],
            aad: &[u8],
            sealed: &mut [u8],
        ) -> Option<usize> {
            let len = sealed.len().checked_sub(TAG_LEN)?;
            let (ciphertext, tag) = sealed.split_at_mut_checked(len)?;
            let tag = Tag::clone_from_slice(tag);
            self.0.decrypt_in_place_detached(nonce.into(), aad, ciphertext, &tag).ok()?;
            Some(len)
        }
    }
}

#[cfg(any(test, feature = "ring"))]
mod ring_impl {
    use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

    use super::TAG_LEN;

    pub(super) struct Cipher(Option<LessSafeKey>);

    impl Cipher {
        pub(super) fn new(key: &[u8; 32]) -> Self {
            // Fails for a key of another length only.
            Self(UnboundKey::new(&CHACHA20_POLY1305, key).ok().map(LessSafeKey::new))
        }

        pub(super) fn seal(
            &self,
            nonce: &[u8; 12],
            aad: &[u8],
            plaintext: &mut [u8],
        ) -> [u8; TAG_LEN] {
            let mut out = [0; TAG_LEN];
            let nonce = Nonce::assume_unique_for_key(*nonce);
            let tag = self
                .0
                .as_ref()
                .and_then(|k| k.seal_in_place_separate_tag(nonce, Aad::from(aad), plaintext).ok());
            match tag {
                Some(tag) => out.copy_from_slice(tag.as_ref()),
                // Nothing readable may leave if sealing could ever fail.
                None => plaintext.fill(0),
            }
            out
        }

        pub(super) fn open(
            &self,
            nonce: &[u8; 12],
            aad: &[u8],
            sealed: &mut [u8],
        ) -> Option<usize> {
            let nonce = Nonce::assume_unique_for_key(*nonce);
            let plain = self.0.as_ref()?.open_in_place(nonce, Aad::from(aad), sealed).ok()?;
            Some(plain.len())
        }
    }
}

/// In tests every seal is recorded, and one that repeats a (key, nonce) pair fails the test.
#[cfg(test)]
pub(crate) mod audit {
    use std::cell::RefCell;
    use std::collections::BTreeSet;

    thread_local! {
        static SEALED: RefCell<BTreeSet<([u8; 32], u64)>> = const { RefCell::new(BTreeSet::new()) };
    }

    pub(super) fn sealed(key: &[u8; 32], counter: u64) {
        let fresh = SEALED.with_borrow_mut(|set| set.insert((*key, counter)));
        assert!(fresh, "a (key, nonce) pair was used twice");
    }

    /// Distinct keys and packets sealed so far on this thread.
    pub(crate) fn totals() -> (usize, usize) {
        SEALED.with_borrow(|set| {
            let keys: BTreeSet<_> = set.iter().map(|(key, _)| key).collect();
            (keys.len(), set.len())
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{nonce, portable, ring_impl};

    proptest! {
        #[test]
        fn both_implementations_seal_to_the_same_bytes_and_open_each_other(
            key: [u8; 32], counter: u64, aad in prop::collection::vec(any::<u8>(), 0..32),
            text in prop::collection::vec(any::<u8>(), 0..1500),
        ) {
            let (a, b) = (portable::Cipher::new(&key), ring_impl::Cipher::new(&key));
            let (mut x, mut y) = (text.clone(), text.clone());
            let tag_a = a.seal(&nonce(counter), &aad, &mut x);
            let tag_b = b.seal(&nonce(counter), &aad, &mut y);
            prop_assert_eq!(&x, &y);
            prop_assert_eq!(tag_a, tag_b);
            x.extend_from_slice(&tag_a);
            y.extend_from_slice(&tag_b);
            prop_assert_eq!(b.open(&nonce(counter), &aad, &mut x), Some(text.len()));
            prop_assert_eq!(a.open(&nonce(counter), &aad, &mut y), Some(text.len()));
            prop_assert_eq!(&x[..text.len()], &text[..]);
            prop_assert_eq!(&y[..text.len()], &text[..]);
        }

        #[test]
        fn both_implementations_refuse_a_flipped_bit(key: [u8; 32], bit in 0usize..(40 * 8)) {
            let aad = [7u8; 16];
            let mut sealed = vec![1u8; 24];
            let tag = portable::Cipher::new(&key).seal(&nonce(1), &aad, &mut sealed);
            sealed.extend_from_slice(&tag);
            sealed[bit / 8] ^= 1 << (bit % 8);
            let mut again = sealed.clone();
            prop_assert_eq!(portable::Cipher::new(&key).open(&nonce(1), &aad, &mut sealed), None);
            prop_assert_eq!(ring_impl::Cipher::new(&key).open(&nonce(1), &aad, &mut again), None);
        }
    }
}
