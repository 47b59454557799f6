//! What quinn-proto would take from the operating system, made from the node's own randomness: connection
//! ids, the tokens of stateless resets, the keys of Retry tokens.

use std::time::Duration;

use blake2::Blake2sMac;
use blake2::digest::consts::U32;
use blake2::digest::{FixedOutput, KeyInit, Update};
use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{ChaCha20Poly1305, Nonce, Tag};
use quinn_proto::crypto::{AeadKey, CryptoError, HandshakeTokenKey, HmacKey};
use quinn_proto::{ConnectionId, ConnectionIdGenerator, InvalidCid};
use subtle::ConstantTimeEq;

use crate::config::Config;
use crate::rng::Rng;

/// Bytes of a connection id, and how many of them are random: the rest tells ours from others'.
const CID_LEN: usize = 8;
const CID_RANDOM: usize = 5;

/// Bytes of an AEAD's tag.
const TAG_LEN: usize = 16;

/// A keyed BLAKE2s hash (RFC 7693 §2.9).
fn hash(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    // Fails for keys of more than 32 bytes only.
    let Ok(mut mac) = <Blake2sMac<U32> as KeyInit>::new_from_slice(key) else { return [0; 32] };
    for part in parts {
        mac.update(part);
    }
    mac.finalize_fixed().into()
}

/// What outlives the process: a node that has forgotten a connection then knows the id for one of its own and
/// can say so to the client (a stateless reset, RFC 9000 §10.3), who need not wait until time runs out.
pub(super) struct Lasting {
    reset: [u8; 32],
    cids: [u8; 32],
}

impl Lasting {
    /// Of the `listener`-th. Each has its own: it must not give away the token of another's connection (RFC
    /// 9000 §10.3.2). Without a peer there is no lasting secret.
    pub(super) fn new(config: &Config, listener: usize, rng: &mut Rng) -> Self {
        let fresh = rng.fork();
        let key = config.peers.first().map_or(&fresh, |peer| peer.shared_key.expose());
        let listener = listener.to_be_bytes();
        let make = |what: &[u8]| hash(key, &[what, &listener, config.node_id.as_str().as_bytes()]);
        Self { reset: make(b"QUIC stateless resets"), cids: make(b"QUIC connection ids") }
    }

    pub(super) fn reset_key(&self) -> ResetKey {
        ResetKey(self.reset)
    }

    /// Ids from a fresh seed.
    pub(super) fn cids(&self, seed: [u8; 32]) -> Cids {
        Cids { rng: Rng::new(seed), key: self.cids }
    }
}

/// Makes the tokens of stateless resets.
pub(crate) struct ResetKey([u8; 32]);

impl ResetKey {
    pub(crate) fn new(rng: &mut Rng) -> Self {
        Self(rng.fork())
    }
}

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        for (out, byte) in signature_out.iter_mut().zip(hash(&self.0, &[data])) {
            *out = byte;
        }
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        if bool::from(hash(&self.0, &[data]).ct_eq(signature)) { Ok(()) } else { Err(CryptoError) }
    }
}

/// Makes the key of each Retry token from the token's own random bytes.
pub(super) struct TokenKey([u8; 32]);

impl TokenKey {
    pub(crate) fn new(rng: &mut Rng) -> Self {
        Self(rng.fork())
    }
}

impl HandshakeTokenKey for TokenKey {
    fn aead_from_hkdf(&self, random_bytes: &[u8]) -> Box<dyn AeadKey> {
        let key = hash(&self.0, &[random_bytes]);
        Box::new(OneToken(ChaCha20Poly1305::new(&key.into())))
    }
}

/// Seals one token, so that its nonce may be 0.
struct OneToken(ChaCha20Poly1305);

impl AeadKey for OneToken {
    fn seal(&self, data: &mut Vec<u8>, additional_data: &[u8]) -> Result<(), CryptoError> {
        let tag = self
            .0
            .encrypt_in_place_detached(&Nonce::default(), additional_data, data)
            .map_err(|_| CryptoError)?;
        data.extend_from_slice(&tag);
        Ok(())
    }

    fn open<'a>(
        &self,
        data: &'a mut [u8],
        additional_data: &[u8],
    ) -> Result<&'a mut [u8], CryptoError> {
        let at = data.len().checked_sub(TAG_LEN).ok_or(CryptoError)?;
        let (text, tag) = data.split_at_mut(at);
        self.0
            .decrypt_in_place_detached(
                &Nonce::default(),
                additional_data,
                text,
                Tag::from_slice(tag),
            )
            .map_err(|_| CryptoError)?;
        Ok(text)
    }
}

/// Connection ids: random bytes and a part of their hash, so that what was never ours is known without a
/// look at any table.
pub(crate) struct Cids {
    rng: Rng,
    key: [u8; 32],
}

impl Cids {
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        let mut rng = Rng::new(seed);
        let key = rng.fork();
        Self { rng, key }
    }

    fn signed(&self, random: [u8; CID_RANDOM]) -> [u8; CID_LEN] {
        let [a, b, c, d, e] = random;
        let [x, y, z, ..] = hash(&self.key, &[&random]);
        [a, b, c, d, e, x, y, z]
    }
}

impl ConnectionIdGenerator for Cids {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut random = [0; CID_RANDOM];
        self.rng.fill(&mut random);
        ConnectionId::new(&self.signed(random))
    }

    fn validate(&self, cid: &ConnectionId) -> Result<(), InvalidCid> {
        let random = cid.first_chunk::<CID_RANDOM>().ok_or(InvalidCid)?;
        if self.signed(*random) == **cid { Ok(()) } else { Err(InvalidCid) }
    }

    fn cid_len(&self) -> usize {
        CID_LEN
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_known_as_ours_and_others_are_not() {
        let (mut ours, mut others) = (Cids::new([1; 32]), Cids::new([2; 32]));
        for _ in 0..100 {
            let (a, b) = (ours.generate_cid(), others.generate_cid());
            assert!(ours.validate(&a).is_ok() && ours.validate(&b).is_err());
        }
        assert!(ours.validate(&ConnectionId::new(&[1, 2, 3])).is_err());
    }

    #[test]
    fn what_outlives_the_process_is_of_one_node_and_one_listener() {
        let config = |node: &str, peer: &str| {
            let text = format!("node_id = \"{node}\"\nregion = \"r\"\n{peer}");
            Config::parse("test", text.as_bytes()).unwrap()
        };
        let key = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
        let peer = format!("[[peers]]\nnode_id = \"z\"\nshared_key = \"{key}\"\n");
        let make = |config: &Config, listener, seed| {
            let lasting = Lasting::new(config, listener, &mut Rng::new([seed; 32]));
            (lasting.reset, lasting.cids)
        };
        let first = make(&config("a", &peer), 0, 1);
        assert_eq!(first, make(&config("a", &peer), 0, 2), "after a restart");
        assert_ne!(first.0, first.1);
        for other in [make(&config("a", &peer), 1, 1), make(&config("b", &peer), 0, 1)] {
            assert!(first.0 != other.0 && first.1 != other.1);
        }
        let alone = "[relay]\ndefault_dest = \"a\"\n";
        assert_ne!(make(&config("a", alone), 0, 1), make(&config("a", alone), 0, 2));
    }

    #[test]
    fn a_token_is_opened_whole_or_not_at_all() {
        let key = TokenKey::new(&mut Rng::new([3; 32]));
        let mut sealed = b"a token".to_vec();
        key.aead_from_hkdf(&[1; 16]).seal(&mut sealed, b"").expect("a tag");
        let open = |random: u8, mut bytes: Vec<u8>| {
            let key = key.aead_from_hkdf(&[random; 16]);
            key.open(&mut bytes, b"").map(|text| text.to_vec()).ok()
        };
        assert_eq!(open(1, sealed.clone()).as_deref(), Some(b"a token".as_slice()));
        assert_eq!(open(2, sealed.clone()), None, "another token's key");
        assert_eq!(open(1, sealed[..10].to_vec()), None);
        sealed[0] ^= 1;
        assert_eq!(open(1, sealed), None);
    }
}
