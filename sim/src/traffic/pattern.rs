//! The bytes of a stream: each is a function of a key and its offset, so that a reference model of any
//! length needs no memory, and a byte that belongs to another stream or another place stands out.

/// One direction of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pattern {
    key: u64,
    /// The first 8 bytes: the number of the connection, by which its origin knows it.
    name: Option<u64>,
}

/// Bytes of a connection's number at the head of a stream.
pub(crate) const NAME_LEN: u64 = 8;

impl Pattern {
    /// Without a name.
    pub(crate) fn new(key: u64) -> Self {
        Self { key, name: None }
    }

    /// Begins with `name`, big-endian.
    pub(crate) fn named(key: u64, name: u64) -> Self {
        Self { key, name: Some(name) }
    }

    fn word(self, nth: u64) -> [u8; 8] {
        match self.name {
            Some(name) if nth == 0 => name.to_be_bytes(),
            _ => mix(self.key.wrapping_add(nth.wrapping_mul(0x9e37_79b9_7f4a_7c15))).to_le_bytes(),
        }
    }

    /// Appends the bytes from `offset` on, `len` of them.
    pub(crate) fn append(self, offset: u64, len: usize, out: &mut Vec<u8>) {
        let end = out.len() + len;
        let skip = (offset % 8) as usize;
        let mut nth = offset / 8;
        if skip > 0 && len > 0 {
            let word = self.word(nth);
            out.extend_from_slice(&word[skip..8.min(skip + len)]);
            nth += 1;
        }
        while out.len() + 8 <= end {
            out.extend_from_slice(&self.word(nth));
            nth += 1;
        }
        let rest = end - out.len();
        out.extend_from_slice(&self.word(nth)[..rest]);
    }

    /// The place in `found`, which is to stand at `offset`, where it begins to differ.
    pub(crate) fn differs(self, offset: u64, found: &[u8], scratch: &mut Vec<u8>) -> Option<usize> {
        scratch.clear();
        self.append(offset, found.len(), scratch);
        if scratch == found {
            return None;
        }
        scratch.iter().zip(found).position(|(expected, found)| expected != found)
    }
}

/// The finalizer of SplitMix64: every bit of the output depends on every bit of the input.
pub(crate) fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_the_same_however_it_is_cut() {
        let pattern = Pattern::named(7, 0x0102_0304_0506_0708);
        let mut whole = Vec::new();
        pattern.append(0, 300, &mut whole);
        assert_eq!(whole[..8], [1, 2, 3, 4, 5, 6, 7, 8]);
        for from in 0..40 {
            for len in 0..60 {
                let mut part = Vec::new();
                pattern.append(from as u64, len, &mut part);
                assert_eq!(part, whole[from..from + len]);
            }
        }
    }

    #[test]
    fn a_byte_from_elsewhere_is_found() {
        let pattern = Pattern::new(7);
        let (mut found, mut scratch) = (Vec::new(), Vec::new());
        pattern.append(1_000, 64, &mut found);
        assert_eq!(pattern.differs(1_000, &found, &mut scratch), None);
        assert_eq!(pattern.differs(1_001, &found, &mut scratch), Some(0));
        assert_eq!(Pattern::new(8).differs(1_000, &found, &mut scratch), Some(0));
        found[13] ^= 1;
        assert_eq!(pattern.differs(1_000, &found, &mut scratch), Some(13));
    }
}
