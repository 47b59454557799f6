//! Datagrams: the header of data packets, and the four handshake packets.
//!
//! ```text
//! data        5 ‖ 0 0 0 ‖ receiver index u32 ‖ counter u64 ‖ sealed frames ‖ tag 16
//! initiation  1 ‖ version ‖ 0 0 ‖ sender index u32 ‖ key id 8 ‖ noise 1 ‖ mac1 16 ‖ mac2 16
//! response    2 ‖ version ‖ 0 0 ‖ receiver index u32 ‖ sender index u32 ‖ noise 2 ‖ mac 16
//! reject      3 ‖ version ‖ reason ‖ 0 ‖ receiver index u32 ‖ timestamp u64 ‖ incarnation u64 ‖ mac 16
//! cookie      4 ‖ version ‖ 0 0 ‖ receiver index u32 ‖ cookie 16 ‖ mac 16
//! ```
//! The first 16 bytes of a data packet are its AAD. The MACs cover all bytes before them (and what
//! `tunnel::keys` binds them to). Noise messages: an X25519 public key, a sealed payload and its tag.

use super::{Malformed, PROTOCOL_VERSION, Reader};

/// Length of the header of a data packet.
pub(crate) const HEADER_LEN: usize = 16;
/// Length of an AEAD tag.
pub(crate) const TAG_LEN: usize = 16;
/// Length of a handshake MAC, of a cookie.
pub(crate) const MAC_LEN: usize = 16;
/// Length of an X25519 public key.
pub(crate) const EPHEMERAL_LEN: usize = 32;
/// Header and tag around the frames of a data packet.
pub(crate) const DATA_OVERHEAD: usize = HEADER_LEN + TAG_LEN;

const KIND_INITIATION: u8 = 1;
const KIND_RESPONSE: u8 = 2;
const KIND_REJECT: u8 = 3;
const KIND_COOKIE: u8 = 4;
const KIND_DATA: u8 = 5;

const NOISE_1_LEN: usize = EPHEMERAL_LEN + InitiationPayload::LEN + TAG_LEN;
const NOISE_2_LEN: usize = EPHEMERAL_LEN + ResponsePayload::LEN + TAG_LEN;
/// Length of an initiation.
pub(crate) const INITIATION_LEN: usize = 16 + NOISE_1_LEN + 2 * MAC_LEN;
/// No version's initiation is longer.
const MAX_INITIATION_LEN: usize = 1252;
/// Length of a response.
pub(crate) const RESPONSE_LEN: usize = 12 + NOISE_2_LEN + MAC_LEN;
/// Length of a reject.
pub(crate) const REJECT_LEN: usize = 24 + MAC_LEN;
/// Length of a cookie reply.
pub(crate) const COOKIE_LEN: usize = 8 + 2 * MAC_LEN;

// No answer to a datagram whose source address may be forged is larger than the question.
const _: () = assert!(RESPONSE_LEN <= INITIATION_LEN && REJECT_LEN <= INITIATION_LEN);

/// Number of a session at one end, chosen by that end; the other end addresses packets by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SessionIndex(pub u32);

/// Names a pre-shared key and the direction of an initiation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct KeyId(pub [u8; 8]);

/// A datagram by its kind; nothing in it is authenticated yet.
#[derive(Debug)]
pub(crate) enum Packet<'a> {
    Data(DataHeader),
    Initiation(Initiation<'a>),
    Response(Response<'a>),
    Reject(Reject<'a>),
    Cookie(Cookie<'a>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DataHeader {
    pub receiver: SessionIndex,
    pub counter: u64,
}

#[derive(Debug)]
pub(crate) struct Initiation<'a> {
    pub version: u8,
    pub sender: SessionIndex,
    pub key_id: KeyId,
    pub noise: &'a [u8],
    /// Everything before `mac1`.
    pub mac1_input: &'a [u8],
    pub mac1: [u8; MAC_LEN],
    /// Everything before `mac2`.
    pub mac2_input: &'a [u8],
    pub mac2: [u8; MAC_LEN],
}

impl Initiation<'_> {
    /// The initiator's ephemeral public key, which stands in the clear.
    pub(crate) fn ephemeral(&self) -> &[u8] {
        self.noise.get(..EPHEMERAL_LEN).unwrap_or_default()
    }
}

#[derive(Debug)]
pub(crate) struct Response<'a> {
    pub receiver: SessionIndex,
    pub sender: SessionIndex,
    pub noise: &'a [u8],
    pub mac_input: &'a [u8],
    pub mac: [u8; MAC_LEN],
}

/// Why an initiation was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RejectReason {
    /// Its timestamp or incarnation is not above those seen before.
    Stale,
    /// It speaks another protocol version.
    Version,
}

#[derive(Debug)]
pub(crate) struct Reject<'a> {
    pub version: u8,
    pub reason: RejectReason,
    pub receiver: SessionIndex,
    pub timestamp: u64,
    pub incarnation: u64,
    pub mac_input: &'a [u8],
    pub mac: [u8; MAC_LEN],
}

#[derive(Debug)]
pub(crate) struct Cookie<'a> {
    pub receiver: SessionIndex,
    pub cookie: [u8; MAC_LEN],
    pub mac_input: &'a [u8],
    pub mac: [u8; MAC_LEN],
}

impl<'a> Packet<'a> {
    /// Reads the clear parts of a datagram.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        match (r.u8()?, bytes.len()) {
            (KIND_DATA, len) if len >= DATA_OVERHEAD => {
                r.take(3)?;
                Ok(Packet::Data(DataHeader { receiver: SessionIndex(r.u32()?), counter: r.u64()? }))
            }
            // Another version's may have another length; it still has these places, so that it can
            // be authenticated and its sender told.
            (KIND_INITIATION, len) if (48..=MAX_INITIATION_LEN).contains(&len) => {
                let version = r.u8()?;
                r.take(2)?;
                Ok(Packet::Initiation(Initiation {
                    version,
                    sender: SessionIndex(r.u32()?),
                    key_id: KeyId(r.array()?),
                    noise: r.take(len - 16 - 2 * MAC_LEN)?,
                    mac1_input: before(bytes, 2 * MAC_LEN),
                    mac1: r.array()?,
                    mac2_input: before(bytes, MAC_LEN),
                    mac2: r.array()?,
                }))
            }
            (KIND_RESPONSE, RESPONSE_LEN) => {
                // The version is part of the Noise prologue: another one's response cannot be read.
                r.take(3)?;
                Ok(Packet::Response(Response {
                    receiver: SessionIndex(r.u32()?),
                    sender: SessionIndex(r.u32()?),
                    noise: r.take(NOISE_2_LEN)?,
                    mac_input: before(bytes, MAC_LEN),
                    mac: r.array()?,
                }))
            }
            (KIND_REJECT, REJECT_LEN) => {
                let version = r.u8()?;
                let reason = match r.u8()? {
                    1 => RejectReason::Stale,
                    2 => RejectReason::Version,
                    _ => return Err(Malformed),
                };
                r.take(1)?;
                Ok(Packet::Reject(Reject {
                    version,
                    reason,
                    receiver: SessionIndex(r.u32()?),
                    timestamp: r.u64()?,
                    incarnation: r.u64()?,
                    mac_input: before(bytes, MAC_LEN),
                    mac: r.array()?,
                }))
            }
            (KIND_COOKIE, COOKIE_LEN) => {
                r.take(3)?;
                Ok(Packet::Cookie(Cookie {
                    receiver: SessionIndex(r.u32()?),
                    cookie: r.array()?,
                    mac_input: before(bytes, MAC_LEN),
                    mac: r.array()?,
                }))
            }
            _ => Err(Malformed),
        }
    }
}

fn before(bytes: &[u8], tail: usize) -> &[u8] {
    bytes.get(..bytes.len().saturating_sub(tail)).unwrap_or_default()
}

impl DataHeader {
    pub(crate) fn encode(self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[0] = KIND_DATA;
        out[4..8].copy_from_slice(&self.receiver.0.to_be_bytes());
        out[8..16].copy_from_slice(&self.counter.to_be_bytes());
        out
    }
}

/// Appends an initiation up to `mac1`.
pub(crate) fn put_initiation(out: &mut Vec<u8>, sender: SessionIndex, key_id: KeyId, noise: &[u8]) {
    out.extend_from_slice(&[KIND_INITIATION, PROTOCOL_VERSION, 0, 0]);
    out.extend_from_slice(&sender.0.to_be_bytes());
    out.extend_from_slice(&key_id.0);
    out.extend_from_slice(noise);
}

/// Appends a response up to its MAC.
pub(crate) fn put_response(
    out: &mut Vec<u8>,
    receiver: SessionIndex,
    sender: SessionIndex,
    noise: &[u8],
) {
    out.extend_from_slice(&[KIND_RESPONSE, PROTOCOL_VERSION, 0, 0]);
    out.extend_from_slice(&receiver.0.to_be_bytes());
    out.extend_from_slice(&sender.0.to_be_bytes());
    out.extend_from_slice(noise);
}

/// Appends a reject up to its MAC.
pub(crate) fn put_reject(
    out: &mut Vec<u8>,
    reason: RejectReason,
    receiver: SessionIndex,
    timestamp: u64,
    incarnation: u64,
) {
    let reason = match reason {
        RejectReason::Stale => 1,
        RejectReason::Version => 2,
    };
    out.extend_from_slice(&[KIND_REJECT, PROTOCOL_VERSION, reason, 0]);
    out.extend_from_slice(&receiver.0.to_be_bytes());
    out.extend_from_slice(&timestamp.to_be_bytes());
    out.extend_from_slice(&incarnation.to_be_bytes());
}

/// Appends a cookie reply up to its MAC.
pub(crate) fn put_cookie(out: &mut Vec<u8>, receiver: SessionIndex, cookie: &[u8; MAC_LEN]) {
    out.extend_from_slice(&[KIND_COOKIE, PROTOCOL_VERSION, 0, 0]);
    out.extend_from_slice(&receiver.0.to_be_bytes());
    out.extend_from_slice(cookie);
}

/// What either end tells of itself in its handshake message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hello {
    /// This life of the sender.
    pub incarnation: u64,
    /// The sender keeps the last `1 << fec_ring_log2` symbols of each lane for FEC.
    pub fec_ring_log2: u8,
}

/// Sealed in an initiation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InitiationPayload {
    /// Microseconds of Unix time, or more where a peer has seen more.
    pub timestamp: u64,
    /// The greatest incarnation of the responder that the initiator has seen; 0 if none.
    pub seen_incarnation: u64,
    pub hello: Hello,
}

/// Sealed in a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ResponsePayload {
    pub hello: Hello,
}

impl Hello {
    const LEN: usize = 8 + 1;

    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.incarnation.to_be_bytes());
        out.push(self.fec_ring_log2);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self { incarnation: r.u64()?, fec_ring_log2: r.u8()? })
    }
}

impl InitiationPayload {
    const LEN: usize = 16 + Hello::LEN;

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::LEN);
        out.extend_from_slice(&self.timestamp.to_be_bytes());
        out.extend_from_slice(&self.seen_incarnation.to_be_bytes());
        self.hello.put(&mut out);
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        Ok(Self { timestamp: r.u64()?, seen_incarnation: r.u64()?, hello: Hello::read(&mut r)? })
    }
}

impl ResponsePayload {
    const LEN: usize = Hello::LEN;

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::LEN);
        self.hello.put(&mut out);
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        Ok(Self { hello: Hello::read(&mut r)? })
    }
}
