//! `Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s` by the crate `snow` (Noise specification rev. 34, §7.5 and
//! §9), with randomness from a seed that is used once. The keys of a session come out raw, for the
//! AEAD seam.

use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, HandshakeState};
use zeroize::Zeroizing;

use crate::config::PresharedKey;
use crate::ids::NodeId;
use crate::rng::Rng;
use crate::wire::PROTOCOL_VERSION;
use crate::wire::packet::{InitiationPayload, ResponsePayload};

const PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";
const MAX_MESSAGE: usize = 256;

/// The two raw keys of a session.
pub(crate) struct RawKeys {
    pub initiator_to_responder: Zeroizing<[u8; 32]>,
    pub responder_to_initiator: Zeroizing<[u8; 32]>,
}

/// A handshake that failed: wrong key, forged, or damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the handshake message is not authentic")]
pub(crate) struct NoiseError;

impl From<snow::Error> for NoiseError {
    fn from(_: snow::Error) -> Self {
        NoiseError
    }
}

/// The initiator between its message and the response.
pub(crate) struct Initiator(HandshakeState);

impl Initiator {
    /// Makes message 1.
    pub(crate) fn start(
        psk: &PresharedKey,
        initiator: &NodeId,
        responder: &NodeId,
        seed: [u8; 32],
        payload: &InitiationPayload,
    ) -> Result<(Self, Vec<u8>), NoiseError> {
        let prologue = prologue(initiator, responder);
        let mut state = builder(psk, &prologue, seed)?.build_initiator()?;
        let mut message = vec![0; MAX_MESSAGE];
        let len = state.write_message(&payload.encode(), &mut message)?;
        message.truncate(len);
        Ok((Self(state), message))
    }

    /// Reads message 2.
    pub(crate) fn finish(
        &mut self,
        message: &[u8],
    ) -> Result<(ResponsePayload, RawKeys), NoiseError> {
        let mut payload = [0; MAX_MESSAGE];
        let len = self.0.read_message(message, &mut payload)?;
        let payload = payload.get(..len).ok_or(NoiseError)?;
        let payload = ResponsePayload::decode(payload).map_err(|_| NoiseError)?;
        Ok((payload, split(&mut self.0)))
    }
}

/// The responder between message 1 and its response.
pub(crate) struct Responder(HandshakeState);

impl Responder {
    /// Reads message 1. No Diffie-Hellman is computed yet.
    pub(crate) fn start(
        psk: &PresharedKey,
        initiator: &NodeId,
        responder: &NodeId,
        seed: [u8; 32],
        message: &[u8],
    ) -> Result<(Self, InitiationPayload), NoiseError> {
        let prologue = prologue(initiator, responder);
        let mut state = builder(psk, &prologue, seed)?.build_responder()?;
        let mut payload = [0; MAX_MESSAGE];
        let len = state.read_message(message, &mut payload)?;
        let payload = payload.get(..len).ok_or(NoiseError)?;
        let payload = InitiationPayload::decode(payload).map_err(|_| NoiseError)?;
        Ok((Self(state), payload))
    }

    /// Makes message 2.
    pub(crate) fn finish(
        mut self,
        payload: &ResponsePayload,
    ) -> Result<(Vec<u8>, RawKeys), NoiseError> {
        let mut message = vec![0; MAX_MESSAGE];
        let len = self.0.write_message(&payload.encode(), &mut message)?;
        message.truncate(len);
        Ok((message, split(&mut self.0)))
    }
}

impl std::fmt::Debug for Initiator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Initiator(..)")
    }
}

fn prologue(initiator: &NodeId, responder: &NodeId) -> Vec<u8> {
    let mut out = vec![PROTOCOL_VERSION];
    for id in [initiator, responder] {
        out.push(id.as_str().len() as u8);
        out.extend_from_slice(id.as_str().as_bytes());
    }
    out
}

fn builder<'a>(
    psk: &'a PresharedKey,
    prologue: &'a [u8],
    seed: [u8; 32],
) -> Result<Builder<'a>, NoiseError> {
    let params = PATTERN.parse().map_err(|_| NoiseError)?;
    let resolver = Box::new(SeededResolver { seed });
    Ok(Builder::with_resolver(params, resolver).psk(0, psk.expose())?.prologue(prologue)?)
}

fn split(state: &mut HandshakeState) -> RawKeys {
    let (a, b) = state.dangerously_get_raw_split();
    RawKeys { initiator_to_responder: Zeroizing::new(a), responder_to_initiator: Zeroizing::new(b) }
}

/// snow's own primitives, but for the randomness.
struct SeededResolver {
    seed: [u8; 32],
}

impl CryptoResolver for SeededResolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(SeededRandom(Rng::new(self.seed))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        DefaultResolver.resolve_dh(choice)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

struct SeededRandom(Rng);

impl Random for SeededRandom {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        self.0.fill(dest);
        Ok(())
    }
}
