//! A bounded list of ranges above a base, as acknowledgements carry it.
//!
//! ```text
//! n u8 ≤ N ‖ n × (gap, length − 1)   (varints)
//! ```
//! Ranges ascend and do not touch; the first gap counts from the base, each further one from the end
//! before it.

use super::{Malformed, Reader, VARINT_MAX, put_varint};

/// At most `N` half-open ranges; holds them in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ranges<const N: usize> {
    ranges: [(u64, u64); N],
    len: usize,
}

impl<const N: usize> Ranges<N> {
    pub(crate) fn new() -> Self {
        Self { ranges: [(0, 0); N], len: 0 }
    }

    /// Adds `start..end` above all before it; false if there is no room.
    pub(crate) fn push(&mut self, start: u64, end: u64) -> bool {
        match self.ranges.get_mut(self.len) {
            Some(slot) => {
                *slot = (start, end);
                self.len += 1;
                true
            }
            None => false,
        }
    }

    pub(crate) fn as_slice(&self) -> &[(u64, u64)] {
        self.ranges.get(..self.len).unwrap_or_default()
    }

    pub(super) fn put(&self, base: u64, out: &mut Vec<u8>) {
        out.push(self.len as u8);
        let mut at = base;
        for (start, end) in self.as_slice() {
            put_varint(out, start - at);
            put_varint(out, end - start - 1);
            at = *end;
        }
    }

    /// `base` is a varint's value.
    pub(super) fn read(base: u64, r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let mut ranges = Self::new();
        let mut at = base;
        for _ in 0..r.u8()? {
            // Each is below 2^62, so the sums cannot wrap before the check refuses them.
            let start = at + r.varint()?;
            let end = start + r.varint()? + 1;
            if end > VARINT_MAX || !ranges.push(start, end) {
                return Err(Malformed);
            }
            at = end;
        }
        Ok(ranges)
    }
}
