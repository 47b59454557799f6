//! The link-state frame: a fragment of what a node says of its links.
//!
//! ```text
//! 0x60 ‖ name: length u8, bytes ‖ incarnation u64 ‖ sequence varint ‖ fragment u8 ‖ fragments u8
//!      ‖ flags u8 (1: does not relay) ‖ age s varint ‖ links u8 ‖ links
//! link   neighbour u32 ‖ rtt µs varint ‖ jitter µs varint ‖ loss u16 ‖ burst u8 ‖ flags u8 (1: shaky)
//! ```
//! Loss is a share of 65535, a burst a number of quarter packets; both saturate. A frame takes at most
//! 1,000 bytes, so a node with many links says them in several.

use crate::ids::{Incarnation, MAX_NAME_LEN, NodeHash};

use super::{Malformed, Reader, put_varint};

/// The first byte of the frame.
pub(crate) const KIND: u8 = 0x60;
/// Bytes of a frame at most.
pub(crate) const MAX_LEN: usize = 1000;
/// Links of a fragment at most: as many as always fit.
pub(crate) const MAX_LINKS: usize = 48;
/// Fragments of a node at most.
pub(crate) const MAX_FRAGMENTS: u8 = 64;
/// Incarnations are below: what is above cannot be superseded.
pub(crate) const MAX_INCARNATION: u64 = 1 << 63;
/// The longest time that a link tells; about a quarter of an hour.
pub(crate) const MAX_MICROS: u32 = (1 << 30) - 1;

const FLAG_NO_RELAY: u8 = 1;
const FLAG_SHAKY: u8 = 1;

/// One link of the advertising node, towards a neighbour, as it travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Link {
    pub to: NodeHash,
    pub rtt_us: u32,
    pub jitter_us: u32,
    /// Of 65535.
    pub loss: u16,
    /// Mean run of losses, in quarter packets.
    pub burst: u8,
    /// It died of late: to be used only where there is nothing else.
    pub shaky: bool,
}

/// What stands in a frame besides the links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FragmentHead<'a> {
    /// The advertising node. Not checked to be a [`NodeId`](crate::ids::NodeId), but for its length.
    pub name: &'a str,
    pub incarnation: Incarnation,
    /// Counts up over all fragments of a life.
    pub sequence: u64,
    pub fragment: u8,
    /// How many there are.
    pub fragments: u8,
    /// Whether paths of others may lead through the node.
    pub relays: bool,
    /// Seconds since it was said.
    pub age_s: u64,
}

/// A frame that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fragment<'a> {
    pub head: FragmentHead<'a>,
    pub links: Links<'a>,
}

/// The links of a fragment; all of them are well-formed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Links<'a> {
    left: u8,
    bytes: &'a [u8],
}

impl Iterator for Links<'_> {
    type Item = Link;

    fn next(&mut self) -> Option<Link> {
        self.left = self.left.checked_sub(1)?;
        let mut reader = Reader::new(self.bytes);
        let link = read_link(&mut reader).ok();
        self.bytes = reader.take_rest();
        link
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.left), Some(usize::from(self.left)))
    }
}

impl ExactSizeIterator for Links<'_> {}

fn read_micros(r: &mut Reader<'_>) -> Result<u32, Malformed> {
    let micros = u32::try_from(r.varint()?).map_err(|_| Malformed)?;
    if micros <= MAX_MICROS { Ok(micros) } else { Err(Malformed) }
}

fn read_link(r: &mut Reader<'_>) -> Result<Link, Malformed> {
    Ok(Link {
        to: NodeHash(r.u32()?),
        rtt_us: read_micros(r)?,
        jitter_us: read_micros(r)?,
        loss: u16::from_be_bytes(r.array()?),
        burst: r.u8()?,
        shaky: r.u8()? & FLAG_SHAKY != 0,
    })
}

/// Reads a link-state frame.
pub(crate) fn read<'a>(r: &mut Reader<'a>) -> Result<Fragment<'a>, Malformed> {
    let whole = r.rest.len();
    if r.u8()? != KIND {
        return Err(Malformed);
    }
    let len = usize::from(r.u8()?);
    if len == 0 || len > MAX_NAME_LEN {
        return Err(Malformed);
    }
    let name = std::str::from_utf8(r.take(len)?).map_err(|_| Malformed)?;
    let incarnation = r.u64()?;
    let sequence = r.varint()?;
    let (fragment, fragments) = (r.u8()?, r.u8()?);
    let relays = r.u8()? & FLAG_NO_RELAY == 0;
    let age_s = r.varint()?;
    let count = r.u8()?;
    let is_valid = incarnation < MAX_INCARNATION
        && fragment < fragments
        && fragments <= MAX_FRAGMENTS
        && usize::from(count) <= MAX_LINKS;
    if !is_valid {
        return Err(Malformed);
    }
    let bytes = r.rest;
    for _ in 0..count {
        read_link(r)?;
    }
    let bytes = bytes.get(..bytes.len() - r.rest.len()).unwrap_or_default();
    if whole - r.rest.len() > MAX_LEN {
        return Err(Malformed);
    }
    let incarnation = Incarnation(incarnation);
    let head = FragmentHead { name, incarnation, sequence, fragment, fragments, relays, age_s };
    Ok(Fragment { head, links: Links { left: count, bytes } })
}

/// Appends a link-state frame. Of the links, which are at most [`MAX_LINKS`], what exceeds the layout's
/// limits is told as the limit.
pub(crate) fn put<'a>(
    out: &mut Vec<u8>,
    head: &FragmentHead<'_>,
    links: impl ExactSizeIterator<Item = &'a Link>,
) {
    out.extend_from_slice(&[KIND, head.name.len() as u8]);
    out.extend_from_slice(head.name.as_bytes());
    out.extend_from_slice(&head.incarnation.0.to_be_bytes());
    put_varint(out, head.sequence);
    let flags = if head.relays { 0 } else { FLAG_NO_RELAY };
    out.extend_from_slice(&[head.fragment, head.fragments, flags]);
    put_varint(out, head.age_s);
    out.push(links.len().min(MAX_LINKS) as u8);
    for link in links.take(MAX_LINKS) {
        out.extend_from_slice(&link.to.0.to_be_bytes());
        put_varint(out, u64::from(link.rtt_us.min(MAX_MICROS)));
        put_varint(out, u64::from(link.jitter_us.min(MAX_MICROS)));
        out.extend_from_slice(&link.loss.to_be_bytes());
        out.extend_from_slice(&[link.burst, if link.shaky { FLAG_SHAKY } else { 0 }]);
    }
}
