//! Flow frames.
//!
//! ```text
//! head   kind u8 ‖ way u8 ‖ age u8 ‖ ingress u32 ‖ its life u32 ‖ egress u32 ‖ its life u32 ‖ id varint
//! way    bit 7: towards the ingress; bit 6: congestion met; bits 0–4: hops so far
//! age    time in the mesh so far, in sixteenths of a second
//! 0x40   data:      offset ‖ flags (1 fin, 2 open) ‖ [opening] ‖ length ‖ bytes
//!        opening    length u8 and bytes of the service's name ‖ client, see `endpoints`
//! 0x41   ack:       everything below ‖ credit ‖ flags (1 fin had) ‖ marked ‖ asked ‖ ranges, see `ranges`
//! 0x42   reset:     code u8 ‖ final size
//! 0x43   reset ack
//! 0x44   ask:       number
//! 0x45   dropped:   offset ‖ length ‖ reason u8
//! ```
//! An ask wants an acknowledgement at once, which names it as the last that was `asked`. `marked` counts the
//! bytes of the other direction that arrived with the mark of congestion. A relay that drops data tells its
//! sender (whose direction is the other one) which.
//!
//! Numbers without a size are varints; offsets count the bytes of one direction from 0.

use std::time::Duration;

use crate::ids::{MAX_NAME_LEN, NodeHash};

use super::endpoints::Endpoints;
use super::ranges::Ranges;
use super::{Malformed, Reader, VARINT_MAX, put_varint, varint_len};

const DATA: u8 = 0x40;
const ACK: u8 = 0x41;
const RESET: u8 = 0x42;
const RESET_ACK: u8 = 0x43;
const ASK: u8 = 0x44;
const DROPPED: u8 = 0x45;

const WAY_TO_INGRESS: u8 = 0x80;
const WAY_MARKED: u8 = 0x40;
const WAY_HOPS: u8 = 0x1f;
/// Where a frame has them.
const WAY_AT: usize = 1;
const AGE_AT: usize = 2;

const FLAG_FIN: u8 = 1;
const FLAG_OPEN: u8 = 2;

/// The most ranges in a flow acknowledgement.
pub(crate) const MAX_RANGES: usize = 16;
/// The largest frame that is not data.
pub(crate) const MAX_FLOW_ACK_LEN: usize = 27 + 33 + 1 + 16 * MAX_RANGES;

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

impl Direction {
    pub(crate) fn reversed(self) -> Self {
        match self {
            Direction::ToEgress => Direction::ToIngress,
            Direction::ToIngress => Direction::ToEgress,
        }
    }
}

/// Why a relay dropped data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DropReason {
    /// Too much waits for the next hop.
    Congestion,
    /// It has no way to the other end, or the frame has passed too many relays.
    NoWay,
}

/// What all flow frames begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub key: FlowKey,
    pub direction: Direction,
    /// A relay on the way had a queue.
    pub marked: bool,
    /// Relays passed so far.
    pub hops: u8,
    pub age: Age,
}

impl Head {
    /// The head of what is said first: neither marked nor old.
    pub(crate) fn new(key: FlowKey, direction: Direction) -> Self {
        Self { key, direction, marked: false, hops: 0, age: Age::default() }
    }

    /// The node that the frame is for, and the one that it is from.
    pub(crate) fn ends(&self) -> (NodeHash, NodeHash) {
        match self.direction {
            Direction::ToEgress => (self.key.egress, self.key.ingress),
            Direction::ToIngress => (self.key.ingress, self.key.egress),
        }
    }
}

/// Time in the mesh, in sixteenths of a second; the greatest stands for all beyond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Age(pub u8);

impl Age {
    const PER_SECOND: f64 = 16.0;

    /// To the nearest.
    pub(crate) fn of(time: Duration) -> Self {
        // A cast of a float saturates.
        Self((time.as_secs_f64() * Self::PER_SECOND).round() as u8)
    }

    pub(crate) fn time(self) -> Duration {
        Duration::from_secs_f64(f64::from(self.0) / Self::PER_SECOND)
    }
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

/// What an acknowledgement says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FlowAck {
    /// Every byte below has arrived.
    pub cumulative: u64,
    /// Every byte below may be sent.
    pub credit: u64,
    /// The end has arrived, too.
    pub fin: bool,
    /// Bytes that arrived with the mark of congestion so far.
    pub marked: u64,
    /// The highest number of the asks that arrived, 0 if there was none.
    pub asked: u64,
    pub ranges: AckRanges,
}

/// What a flow begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Opening<'a> {
    pub service: &'a str,
    pub endpoints: Endpoints,
}

impl Opening<'_> {
    fn wire_len(&self) -> usize {
        1 + self.service.len() + self.endpoints.wire_len()
    }
}

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
        /// There while the flow may still have to be opened.
        open: Option<Opening<'a>>,
        data: &'a [u8],
    },
    Ack(FlowAck),
    Reset {
        code: ResetCode,
        final_size: u64,
    },
    ResetAck,
    Ask {
        number: u64,
    },
    Dropped {
        offset: u64,
        len: u64,
        reason: DropReason,
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
        ASK => Body::Ask { number: r.varint()? },
        DROPPED => {
            let (offset, len) = (r.varint()?, r.varint()?);
            let reason = match r.u8()? {
                0 => DropReason::Congestion,
                _ => DropReason::NoWay,
            };
            Body::Dropped { offset, len, reason }
        }
        _ => return Err(Malformed),
    };
    Ok(Some((head, body)))
}

fn read_head(r: &mut Reader<'_>) -> Result<Head, Malformed> {
    let way = r.u8()?;
    let age = Age(r.u8()?);
    let key = FlowKey {
        ingress: NodeHash(r.u32()?),
        ingress_life: r.u32()?,
        egress: NodeHash(r.u32()?),
        egress_life: r.u32()?,
        id: r.varint()?,
    };
    let direction =
        if way & WAY_TO_INGRESS == 0 { Direction::ToEgress } else { Direction::ToIngress };
    Ok(Head { key, direction, marked: way & WAY_MARKED != 0, hops: way & WAY_HOPS, age })
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
        let service = std::str::from_utf8(r.take(len)?).map_err(|_| Malformed)?;
        Some(Opening { service, endpoints: Endpoints::read(r)? })
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
    let (marked, asked) = (r.varint()?, r.varint()?);
    let ranges = AckRanges::read(cumulative, r)?;
    Ok(Body::Ack(FlowAck { cumulative, credit, fin: flags & FLAG_FIN != 0, marked, asked, ranges }))
}

fn way(head: &Head) -> u8 {
    let mut way = head.hops & WAY_HOPS;
    if head.direction == Direction::ToIngress {
        way |= WAY_TO_INGRESS;
    }
    if head.marked {
        way |= WAY_MARKED;
    }
    way
}

/// Writes what changes on the way (mark, hops, age) into a frame that was read with another head.
pub(crate) fn restamp(frame: &mut [u8], head: &Head) {
    for (at, value) in [(WAY_AT, way(head)), (AGE_AT, head.age.0)] {
        if let Some(byte) = frame.get_mut(at) {
            *byte = value;
        }
    }
}

fn put_head(out: &mut Vec<u8>, kind: u8, head: &Head) {
    out.extend_from_slice(&[kind, way(head), head.age.0]);
    out.extend_from_slice(&head.key.ingress.0.to_be_bytes());
    out.extend_from_slice(&head.key.ingress_life.to_be_bytes());
    out.extend_from_slice(&head.key.egress.0.to_be_bytes());
    out.extend_from_slice(&head.key.egress_life.to_be_bytes());
    put_varint(out, head.key.id);
}

/// Bytes of a head with its kind.
pub(crate) fn head_len(key: &FlowKey) -> usize {
    19 + varint_len(key.id)
}

/// Bytes that a data frame needs besides its data, if that is shorter than 16 KiB.
pub(crate) fn data_overhead(key: &FlowKey, offset: u64, open: Option<Opening<'_>>) -> usize {
    head_len(key) + varint_len(offset) + 1 + open.map_or(0, |open| open.wire_len()) + 2
}

/// Appends a data frame without its bytes, of which `len` must follow.
pub(crate) fn put_data_header(
    out: &mut Vec<u8>,
    head: &Head,
    offset: u64,
    fin: bool,
    open: Option<Opening<'_>>,
    len: usize,
) {
    put_head(out, DATA, head);
    put_varint(out, offset);
    out.push(if fin { FLAG_FIN } else { 0 } | if open.is_some() { FLAG_OPEN } else { 0 });
    if let Some(Opening { service, endpoints }) = open {
        out.push(service.len() as u8);
        out.extend_from_slice(service.as_bytes());
        endpoints.put(out);
    }
    put_varint(out, len as u64);
}

/// Appends an acknowledgement.
pub(crate) fn put_ack(out: &mut Vec<u8>, head: &Head, ack: &FlowAck) {
    put_head(out, ACK, head);
    put_varint(out, ack.cumulative);
    put_varint(out, ack.credit);
    out.push(if ack.fin { FLAG_FIN } else { 0 });
    put_varint(out, ack.marked);
    put_varint(out, ack.asked);
    ack.ranges.put(ack.cumulative, out);
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

/// Appends the question of a sender what has arrived.
pub(crate) fn put_ask(out: &mut Vec<u8>, head: &Head, number: u64) {
    put_head(out, ASK, head);
    put_varint(out, number);
}

/// Appends a relay's word of data that it dropped. The head is that of frames from their receiver.
pub(crate) fn put_dropped(
    out: &mut Vec<u8>,
    head: &Head,
    offset: u64,
    len: u64,
    reason: DropReason,
) {
    put_head(out, DROPPED, head);
    put_varint(out, offset);
    put_varint(out, len);
    out.push(match reason {
        DropReason::Congestion => 0,
        DropReason::NoWay => 1,
    });
}
