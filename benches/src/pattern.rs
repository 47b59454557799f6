//! The endless stream of bytes that is sent, so that any piece of it can be checked from its offset.
//!
//! It repeats after [`PERIOD`] bytes: small enough to stay in a processor's cache, and a prime, so that
//! bytes lost, doubled or moved by any usual amount do not match.

/// Bytes after which the stream repeats.
pub const PERIOD: usize = 65_521;
/// The longest piece that is given or checked at once, in bytes: what a shell reads at once.
pub const MAX_PIECE: usize = 64 << 10;

/// The stream.
#[derive(Debug, Clone)]
pub struct Pattern {
    /// A period, and so much of the next one that every piece is contiguous.
    bytes: Box<[u8]>,
}

impl Pattern {
    /// Always the same stream.
    #[must_use]
    pub fn new() -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let period: Vec<u8> = std::iter::repeat_with(|| {
            // xorshift64 (Marsaglia 2003).
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[7]
        })
        .take(PERIOD)
        .collect();
        Self { bytes: period.iter().copied().cycle().take(PERIOD + MAX_PIECE).collect() }
    }

    /// The bytes from `offset` on, `len` of them or [`MAX_PIECE`] if that is less.
    #[must_use]
    pub fn piece(&self, offset: u64, len: usize) -> &[u8] {
        let start = (offset % PERIOD as u64) as usize;
        &self.bytes[start..start + len.min(MAX_PIECE)]
    }

    /// Whether `data` is what stands at `offset`.
    #[must_use]
    pub fn matches(&self, offset: u64, data: &[u8]) -> bool {
        let mut at = offset;
        data.chunks(MAX_PIECE).all(|chunk| {
            let equal = self.piece(at, chunk.len()) == chunk;
            at += chunk.len() as u64;
            equal
        })
    }
}

impl Default for Pattern {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_PIECE, PERIOD, Pattern};

    #[test]
    fn pieces_join_to_one_stream_and_a_moved_one_does_not_match() {
        let pattern = Pattern::new();
        let mut stream = Vec::new();
        while stream.len() < 3 * PERIOD {
            let piece = pattern.piece(stream.len() as u64, 50_000);
            stream.extend_from_slice(piece);
        }
        assert_eq!(pattern.piece(0, usize::MAX).len(), MAX_PIECE);
        assert!(pattern.matches(0, &stream));
        assert!(pattern.matches(777, &stream[777..]));
        assert!((1..PERIOD as u64).step_by(61).all(|by| !pattern.matches(by, &stream[..64])));
        stream[2 * PERIOD + 5] ^= 1;
        assert!(!pattern.matches(0, &stream));
    }
}
