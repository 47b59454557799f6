//! What stands sealed in a data packet: any number of unnumbered frames, then at most one symbol or
//! parity symbol, which takes the rest of the packet.
//!
//! ```text
//! 0x01 link ack    see `ack`
//! 0x02 ping        token u64 ‖ last heard from you, ms (varint)
//! 0x03 pong        token u64 ‖ held, µs (varint)
//! 0x04 close
//! 0x05 MTU probe   token u64 ‖ padding to the end of the packet
//! 0x06 MTU answer  token u64 ‖ UDP payload of the probe, bytes (varint)
//! 0x07 forget      lane u8 ‖ SSN varint ‖ ranges above it, see `ranges`
//! 0x10 + lane      symbol:  SSN varint ‖ flow frames, see `flow`
//! 0x14 + lane      repair:  SSN varint ‖ held ms varint ‖ flow frames
//! 0x18 + lane      parity:  first SSN varint ‖ k u8 ‖ generator u8 ‖ index u8 ‖ shard
//! ```
//! A repair is a copy of a symbol that was sent before, or of a piece of one: the sender had held its
//! frames for so long when it sent the copy.

use crate::ids::{Lane, Ssn};

use super::ack::LinkAck;
use super::ranges::Ranges;
use super::{Malformed, Reader, put_varint, varint_len};

const ACK: u8 = 0x01;
const PING: u8 = 0x02;
const PONG: u8 = 0x03;
const CLOSE: u8 = 0x04;
const MTU_PROBE: u8 = 0x05;
const MTU_ANSWER: u8 = 0x06;
const FORGET: u8 = 0x07;
const SYMBOL: u8 = 0x10;
const REPAIR: u8 = 0x14;
const PARITY: u8 = 0x18;

/// Bytes of a ping, a pong or an MTU answer at most.
pub(crate) const PING_MAX_LEN: usize = 1 + 8 + 8;
/// The most ranges of a forget frame.
pub(crate) const MAX_FORGET_RANGES: usize = 32;
/// Bytes before the shard of a parity symbol at most.
pub(crate) const PARITY_HEADER_MAX: usize = 1 + 8 + 3;
/// A coded shard begins with the length of its symbol and has an even length.
pub(crate) const SHARD_OVERHEAD: usize = 3;

/// The longest time that a repair can be said to have been held: four bytes always hold it.
pub(crate) const MAX_HELD_MS: u64 = (1 << 30) - 1;
/// Bytes before the content of a symbol or a repair at most.
const REPAIR_HEADER_MAX: usize = 1 + 8 + 4;
const _: () =
    assert!(REPAIR_HEADER_MAX <= PARITY_HEADER_MAX + SHARD_OVERHEAD, "a repair fits, too");

/// The largest symbol content of which a parity symbol fits a packet of `plaintext` bytes.
pub(crate) const fn max_symbol(plaintext: usize) -> usize {
    plaintext.saturating_sub(PARITY_HEADER_MAX + SHARD_OVERHEAD)
}

/// SSNs of a forget frame.
pub(crate) type ForgetRanges = Ranges<MAX_FORGET_RANGES>;

/// One frame of a packet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame<'a> {
    Ack(Box<LinkAck>),
    Ping {
        token: u64,
        heard_ms: u64,
    },
    Pong {
        token: u64,
        held_us: u64,
    },
    Close,
    /// Takes the rest of the packet. To be answered with the size of the datagram.
    MtuProbe {
        token: u64,
    },
    MtuAnswer {
        token: u64,
        size: u64,
    },
    /// These symbols will not be sent again: their frames travel in others.
    Forget {
        lane: Lane,
        ranges: Box<ForgetRanges>,
    },
    Symbol {
        lane: Lane,
        ssn: Ssn,
        content: &'a [u8],
    },
    Repair {
        lane: Lane,
        ssn: Ssn,
        held_ms: u64,
        content: &'a [u8],
    },
    Parity {
        lane: Lane,
        header: ParityFields,
        shard: &'a [u8],
    },
}

/// Names the range that a parity symbol covers and its place in the code. Not checked against the
/// code's limits here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ParityFields {
    pub first: Ssn,
    pub k: u8,
    pub generator: u8,
    pub index: u8,
}

/// Reads the next frame; `None` at the end.
pub(crate) fn read<'a>(r: &mut Reader<'a>) -> Result<Option<Frame<'a>>, Malformed> {
    if r.is_empty() {
        return Ok(None);
    }
    let kind = r.u8()?;
    let frame = match kind {
        ACK => Frame::Ack(Box::new(LinkAck::read(r)?)),
        PING => Frame::Ping { token: r.u64()?, heard_ms: r.varint()? },
        PONG => Frame::Pong { token: r.u64()?, held_us: r.varint()? },
        CLOSE => Frame::Close,
        MTU_PROBE => {
            let token = r.u64()?;
            r.take_rest();
            Frame::MtuProbe { token }
        }
        MTU_ANSWER => Frame::MtuAnswer { token: r.u64()?, size: r.varint()? },
        FORGET => {
            let lane = Lane::from_wire(r.u8()?).ok_or(Malformed)?;
            let base = r.varint()?;
            Frame::Forget { lane, ranges: Box::new(Ranges::read(base, r)?) }
        }
        _ if kind & !3 == SYMBOL => Frame::Symbol {
            lane: Lane::from_wire(kind & 3).ok_or(Malformed)?,
            ssn: Ssn(r.varint()?),
            content: r.take_rest(),
        },
        _ if kind & !3 == REPAIR => Frame::Repair {
            lane: Lane::from_wire(kind & 3).ok_or(Malformed)?,
            ssn: Ssn(r.varint()?),
            held_ms: r.varint()?,
            content: r.take_rest(),
        },
        _ if kind & !7 == PARITY => Frame::Parity {
            lane: Lane::from_wire(kind & 7).ok_or(Malformed)?,
            header: ParityFields {
                first: Ssn(r.varint()?),
                k: r.u8()?,
                generator: r.u8()?,
                index: r.u8()?,
            },
            shard: r.take_rest(),
        },
        _ => return Err(Malformed),
    };
    Ok(Some(frame))
}

pub(crate) fn put_ack(out: &mut Vec<u8>, ack: &LinkAck) {
    out.push(ACK);
    ack.put(out);
}

pub(crate) fn put_ping(out: &mut Vec<u8>, token: u64, heard_ms: u64) {
    out.push(PING);
    out.extend_from_slice(&token.to_be_bytes());
    put_varint(out, heard_ms);
}

pub(crate) fn put_pong(out: &mut Vec<u8>, token: u64, held_us: u64) {
    out.push(PONG);
    out.extend_from_slice(&token.to_be_bytes());
    put_varint(out, held_us);
}

pub(crate) fn put_close(out: &mut Vec<u8>) {
    out.push(CLOSE);
}

pub(crate) fn put_mtu_probe(out: &mut Vec<u8>, token: u64) {
    out.push(MTU_PROBE);
    out.extend_from_slice(&token.to_be_bytes());
}

pub(crate) fn put_mtu_answer(out: &mut Vec<u8>, token: u64, size: u64) {
    out.push(MTU_ANSWER);
    out.extend_from_slice(&token.to_be_bytes());
    put_varint(out, size);
}

pub(crate) fn put_forget(out: &mut Vec<u8>, lane: Lane, ranges: &ForgetRanges) {
    let base = ranges.as_slice().first().map_or(0, |(start, _)| *start);
    out.extend_from_slice(&[FORGET, lane as u8]);
    put_varint(out, base);
    ranges.put(base, out);
}

pub(crate) fn put_symbol_header(out: &mut Vec<u8>, lane: Lane, ssn: Ssn) {
    out.push(SYMBOL | lane as u8);
    put_varint(out, ssn.0);
}

/// Bytes that [`put_symbol_header`] writes.
pub(crate) fn symbol_header_len(ssn: Ssn) -> usize {
    1 + varint_len(ssn.0)
}

/// `held_ms` is written as [`MAX_HELD_MS`] if it is more.
pub(crate) fn put_repair_header(out: &mut Vec<u8>, lane: Lane, ssn: Ssn, held_ms: u64) {
    out.push(REPAIR | lane as u8);
    put_varint(out, ssn.0);
    put_varint(out, held_ms.min(MAX_HELD_MS));
}

/// Bytes that [`put_repair_header`] writes.
pub(crate) fn repair_header_len(ssn: Ssn, held_ms: u64) -> usize {
    1 + varint_len(ssn.0) + varint_len(held_ms.min(MAX_HELD_MS))
}

pub(crate) fn put_parity_header(out: &mut Vec<u8>, lane: Lane, header: ParityFields) {
    out.push(PARITY | lane as u8);
    put_varint(out, header.first.0);
    out.extend_from_slice(&[header.k, header.generator, header.index]);
}
