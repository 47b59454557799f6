//! Byte layouts and nothing else: encode and decode, without panics on any input and without
//! allocations that an input could size. Integers are big-endian; sizes that vary are QUIC varints
//! (RFC 9000 §16).

pub(crate) mod ack;
pub(crate) mod endpoints;
pub(crate) mod flow;
pub(crate) mod frame;
pub(crate) mod linkstate;
pub(crate) mod packet;
pub(crate) mod ranges;
pub(crate) mod symbol;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_linkstate;

/// Version of everything in this room and of the handshake; stands in the Noise prologue and, so
/// that a mismatch can be named, in the clear in every handshake packet.
pub(crate) const PROTOCOL_VERSION: u8 = 4;

/// The largest number that a varint holds.
pub(crate) const VARINT_MAX: u64 = (1 << 62) - 1;

/// The input is no valid encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed")]
pub(crate) struct Malformed;

/// Takes values off the front of a slice.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn take(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.rest.split_at_checked(n).ok_or(Malformed)?;
        self.rest = rest;
        Ok(head)
    }

    pub(crate) fn take_rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(Malformed)?;
        self.rest = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[b]| b)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn varint(&mut self) -> Result<u64, Malformed> {
        let first = *self.rest.first().ok_or(Malformed)?;
        let len = 1usize << (first >> 6);
        let bytes = self.take(len)?;
        let mut value = u64::from(first & 0x3f);
        for b in bytes.iter().skip(1) {
            value = value << 8 | u64::from(*b);
        }
        Ok(value)
    }
}

/// Bytes that [`put_varint`] writes for `value`.
pub(crate) fn varint_len(value: u64) -> usize {
    match value {
        0..=0x3f => 1,
        0x40..=0x3fff => 2,
        0x4000..=0x3fff_ffff => 4,
        _ => 8,
    }
}

/// Appends `value`, which must not exceed [`VARINT_MAX`]; a greater one is written as the maximum.
pub(crate) fn put_varint(out: &mut Vec<u8>, value: u64) {
    let value = value.min(VARINT_MAX);
    let bytes = value.to_be_bytes();
    let tail = |n: usize| bytes.get(8 - n..).unwrap_or_default();
    let at = out.len();
    match varint_len(value) {
        1 => out.extend_from_slice(tail(1)),
        2 => out.extend_from_slice(tail(2)),
        4 => out.extend_from_slice(tail(4)),
        _ => out.extend_from_slice(tail(8)),
    }
    let prefix = match out.len() - at {
        1 => 0x00,
        2 => 0x40,
        4 => 0x80,
        _ => 0xc0,
    };
    if let Some(first) = out.get_mut(at) {
        *first |= prefix;
    }
}
