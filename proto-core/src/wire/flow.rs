//! Flow frames: the content of a symbol is any number of them.
//!
//! ```text
//! head   kind u8 ‖ way u8 ‖ ingress u32 ‖ its life u32 ‖ egress u32 ‖ its life u32 ‖ id varint
//! way    bit 7: towards the ingress; bit 6: congestion met; bits 0–4: hops so far
//! 0x40   data:      offset ‖ flags (1 fin, 2 open) ‖ [service: length u8, bytes] ‖ length ‖ bytes
//! 0x41   ack:       everything below ‖ credit ‖ flags (1 fin had) ‖ ranges, see `ranges`
//! 0x42   reset:     code u8 ‖ final size
//! 0x43   reset ack
//! 0x44   blocked:   at this offset
//! ```
//! Numbers without a size are varints; offsets count the bytes of one direction from 0.

use std::collections::VecDeque;

use crate::ids::{MAX_NAME_LEN, NodeHash};

use super::ranges::Ranges;
use super::{Malformed, Reader, VARINT_MAX, put_varint, varint_len};

const DATA: u8 = 0x40;
const ACK: u8 = 0x41;
const RESET: u8 = 0x42;
const RESET_ACK: u8 = 0x43;
const BLOCKED: u8 = 0x44;

const WAY_TO_INGRESS: u8 = 0x80;
const WAY_MARKED: u8 = 0x40;
const WAY_HOPS: u8 = 0x1f;

const FLAG_FIN: u8 = 1;
const FLAG_OPEN: u8 = 2;

/// The most ranges in a flow acknowledgement.
pub(crate) const MAX_RANGES: usize = 16;
/// The largest frame that is not data.
pub(crate) const MAX_FLOW_ACK_LEN: usize = 26 + 17 + 1 + 16 * MAX_RANGES;

/// Names a flow in the whole mesh. Lives are the low 32 bits of incarnations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FlowKey {
    pub ingress: NodeHash,
    pub ingress_life: u32,
    pub egress: NodeHash,
    pub egress_life: u32,
    pub id: u64,
}

/// Which way a frame travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    ToEgress,
    ToIngress,
}

/// What all flow frames begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub key: FlowKey,
    pub direction: Direction,
    /// A relay on the way had a queue.
    pub marked: bool,
    /// Tunnels crossed so far.
    pub hops: u8,
}

/// Why a flow was reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ResetCode {
    /// The TCP connection at the other end broke.
    ConnectionReset,
    /// The origin could not be dialled.
    ConnectFailed,
    /// The egress offers no such service.
    NoSuchService,
    /// The flow is not known there (any more).
    UnknownFlow,
    /// The other end has no memory for it.
    NoMemory,
    /// The other end goes away.
    ShuttingDown,
    /// No route for too long.
    Unreachable,
    /// Something that this version does not know.
    Other(u8),
}

impl ResetCode {
    fn to_wire(self) -> u8 {
        match self {
            ResetCode::ConnectionReset => 1,
            ResetCode::ConnectFailed => 2,
            ResetCode::NoSuchService => 3,
            ResetCode::UnknownFlow => 4,
            ResetCode::NoMemory => 5,
            ResetCode::ShuttingDown => 6,
            ResetCode::Unreachable => 7,
            ResetCode::Other(n) => n,
        }
    }

    fn from_wire(n: u8) -> Self {
        match n {
            1 => ResetCode::ConnectionReset,
            2 => ResetCode::ConnectFailed,
            3 => ResetCode::NoSuchService,
            4 => ResetCode::UnknownFlow,
            5 => ResetCode::NoMemory,
            6 => ResetCode::ShuttingDown,
            7 => ResetCode::Unreachable,
            _ => ResetCode::Other(n),
        }
    }
}

impl std::fmt::Display for ResetCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ResetCode::ConnectionReset => f.write_str("connection reset"),
            ResetCode::ConnectFailed => f.write_str("the origin could not be reached"),
            ResetCode::NoSuchService => f.write_str("no such service"),
            ResetCode::UnknownFlow => f.write_str("unknown flow"),
            ResetCode::NoMemory => f.write_str("out of flow memory"),
            ResetCode::ShuttingDown => f.write_str("shutting down"),
            ResetCode::Unreachable => f.write_str("unreachable"),
            ResetCode::Other(n) => write!(f, "code {n}"),
        }
    }
}

/// Received ranges above the cumulative acknowledgement.
pub(crate) type AckRanges = Ranges<MAX_RANGES>;

/// What a flow frame says after its head.
#[derive(Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "lives on the stack for one frame; a box would be an allocation per packet"
)]
pub(crate) enum Body<'a> {
    Data {
        offset: u64,
        fin: bool,
        /// The service, while the flow may still have to be opened.
        open: Option<&'a str>,
        data: &'a [u8],
    },
    Ack {
        cumulative: u64,
        credit: u64,
        fin: bool,
        ranges: AckRanges,
    },
    Reset {
        code: ResetCode,
        final_size: u64,
    },
    ResetAck,
    Blocked {
        offset: u64,
    },
}

/// Reads the next flow frame of a symbol; `None` at the end.
pub(crate) fn read<'a>(r: &mut Reader<'a>) -> Result<Option<(Head, Body<'a>)>, Malformed> {
    if r.is_empty() {
        return Ok(None);
    }
    let kind = r.u8()?;
    let head = read_head(r)?;
    let body = match kind {
        DATA => read_data(r)?,
        ACK => read_ack(r)?,
        RESET => Body::Reset { code: ResetCode::from_wire(r.u8()?), final_size: r.varint()? },
        RESET_ACK => Body::ResetAck,
        BLOCKED => Body::Blocked { offset: r.varint()? },
        _ => return Err(Malformed),
    };
    Ok(Some((head, body)))
}

fn read_head(r: &mut Reader<'_>) -> Result<Head, Malformed> {
    let way = r.u8()?;
    let key = FlowKey {
        ingress: NodeHash(r.u32()?),
        ingress_life: r.u32()?,
        egress: NodeHash(r.u32()?),
        egress_life: r.u32()?,
        id: r.varint()?,
    };
    let direction =
        if way & WAY_TO_INGRESS == 0 { Direction::ToEgress } else { Direction::ToIngress };
    Ok(Head { key, direction, marked: way & WAY_MARKED != 0, hops: way & WAY_HOPS })
}

fn read_data<'a>(r: &mut Reader<'a>) -> Result<Body<'a>, Malformed> {
    let offset = r.varint()?;
    let flags = r.u8()?;
    let open = if flags & FLAG_OPEN == 0 {
        None
    } else {
        let len = usize::from(r.u8()?);
        if len > MAX_NAME_LEN {
            return Err(Malformed);
        }
        Some(std::str::from_utf8(r.take(len)?).map_err(|_| Malformed)?)
    };
    let len = usize::try_from(r.varint()?).map_err(|_| Malformed)?;
    let data = r.take(len)?;
    if offset + len as u64 > VARINT_MAX {
        return Err(Malformed);
    }
    Ok(Body::Data { offset, fin: flags & FLAG_FIN != 0, open, data })
}

fn read_ack<'a>(r: &mut Reader<'_>) -> Result<Body<'a>, Malformed> {
    let cumulative = r.varint()?;
    let credit = r.varint()?;
    let flags = r.u8()?;
    let ranges = AckRanges::read(cumulative, r)?;
    Ok(Body::Ack { cumulative, credit, fin: flags & FLAG_FIN != 0, ranges })
}

fn put_head(out: &mut Vec<u8>, kind: u8, head: &Head) {
    let mut way = head.hops & WAY_HOPS;
    if head.direction == Direction::ToIngress {
        way |= WAY_TO_INGRESS;
    }
    if head.marked {
        way |= WAY_MARKED;
    }
    out.extend_from_slice(&[kind, way]);
    out.extend_from_slice(&head.key.ingress.0.to_be_bytes());
    out.extend_from_slice(&head.key.ingress_life.to_be_bytes());
    out.extend_from_slice(&head.key.egress.0.to_be_bytes());
    out.extend_from_slice(&head.key.egress_life.to_be_bytes());
    put_varint(out, head.key.id);
}

/// Bytes of a head with its kind.
pub(crate) fn head_len(key: &FlowKey) -> usize {
    18 + varint_len(key.id)
}

/// Bytes that a data frame needs besides its data, if that is shorter than 16 KiB.
pub(crate) fn data_overhead(key: &FlowKey, offset: u64, open: Option<&str>) -> usize {
    head_len(key) + varint_len(offset) + 1 + open.map_or(0, |s| 1 + s.len()) + 2
}

/// Appends a data frame without its bytes, of which `len` must follow.
pub(crate) fn put_data_header(
    out: &mut Vec<u8>,
    head: &Head,
    offset: u64,
    fin: bool,
    open: Option<&str>,
    len: usize,
) {
    put_head(out, DATA, head);
    put_varint(out, offset);
    out.push(if fin { FLAG_FIN } else { 0 } | if open.is_some() { FLAG_OPEN } else { 0 });
    if let Some(service) = open {
        out.push(service.len() as u8);
        out.extend_from_slice(service.as_bytes());
    }
    put_varint(out, len as u64);
}

/// Cuts the frames of one symbol into contents of at most `max` bytes, in their order. Data frames are
/// split; the others are at most 1,000 bytes long, and `max` is more.
///
/// # Errors
/// [`Malformed`]; what stands before the bad frame has been cut.
pub(crate) fn cut(
    content: &[u8],
    max: usize,
    pieces: &mut VecDeque<Vec<u8>>,
) -> Result<(), Malformed> {
    let mut reader = Reader::new(content);
    let mut piece = Vec::with_capacity(max);
    loop {
        let whole = reader.rest;
        let Some((head, body)) = read(&mut reader)? else { break };
        let frame = whole.get(..whole.len() - reader.rest.len()).unwrap_or_default();
        if piece.len() + frame.len() <= max {
            piece.extend_from_slice(frame);
            continue;
        }
        let Body::Data { mut offset, fin, open, mut data } = body else {
            pieces.push_back(std::mem::replace(&mut piece, Vec::with_capacity(max)));
            piece.extend_from_slice(frame);
            continue;
        };
        loop {
            // Nothing is put where not even one byte would fit.
            let overhead = data_overhead(&head.key, offset, open);
            let room = max.saturating_sub(piece.len() + overhead);
            if room == 0 && !piece.is_empty() {
                pieces.push_back(std::mem::replace(&mut piece, Vec::with_capacity(max)));
                continue;
            }
            let (now, later) = data.split_at(room.max(1).min(data.len()));
            let is_last = later.is_empty();
            put_data_header(&mut piece, &head, offset, fin && is_last, open, now.len());
            piece.extend_from_slice(now);
            if is_last {
                break;
            }
            offset += now.len() as u64;
            data = later;
        }
    }
    if !piece.is_empty() {
        pieces.push_back(piece);
    }
    Ok(())
}

/// Appends an acknowledgement.
pub(crate) fn put_ack(
    out: &mut Vec<u8>,
    head: &Head,
    cumulative: u64,
    credit: u64,
    fin: bool,
    ranges: &AckRanges,
) {
    put_head(out, ACK, head);
    put_varint(out, cumulative);
    put_varint(out, credit);
    out.push(if fin { FLAG_FIN } else { 0 });
    ranges.put(cumulative, out);
}

/// Appends a reset.
pub(crate) fn put_reset(out: &mut Vec<u8>, head: &Head, code: ResetCode, final_size: u64) {
    put_head(out, RESET, head);
    out.push(code.to_wire());
    put_varint(out, final_size);
}

/// Appends the acknowledgement of a reset.
pub(crate) fn put_reset_ack(out: &mut Vec<u8>, head: &Head) {
    put_head(out, RESET_ACK, head);
}

/// Appends the notice of a sender that has no credit.
pub(crate) fn put_blocked(out: &mut Vec<u8>, head: &Head, offset: u64) {
    put_head(out, BLOCKED, head);
    put_varint(out, offset);
}
