//! Where TLS records begin and end in the stream: rustls does not tell what it has consumed, and
//! what the shell may still read is counted by it.

/// A record's header.
const HEADER: usize = 5;
/// The longest record: TLS 1.2 allows 2048 bytes beyond the plaintext (RFC 5246 §6.2.3), TLS 1.3 less.
/// One that says it is longer is an error to rustls as soon as its header is read.
pub(super) const RECORD_MAX: usize = HEADER + 16_384 + 2048;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Records {
    header: [u8; HEADER],
    /// Bytes of the present record that have passed, its header included.
    have: usize,
}

impl Records {
    /// Takes from `input` what belongs to the present record; with it the size of the whole record if it
    /// is complete now. `None` if there is nothing.
    pub(super) fn take<'a>(&mut self, input: &mut &'a [u8]) -> Option<(&'a [u8], Option<usize>)> {
        if input.is_empty() {
            return None;
        }
        for (slot, byte) in self.header.iter_mut().skip(self.have).zip(input.iter()) {
            *slot = *byte;
        }
        let [.., high, low] = self.header;
        let body = usize::from(u16::from_be_bytes([high, low]));
        let has_header = self.have + input.len() >= HEADER;
        let size = if has_header { HEADER + body } else { HEADER };
        let (piece, rest) = input.split_at_checked(size - self.have).unwrap_or((*input, &[]));
        *input = rest;
        self.have += piece.len();
        let complete = (has_header && self.have == size).then_some(size);
        if complete.is_some() {
            self.have = 0;
        }
        Some((piece, complete))
    }

    /// Bytes of a record that is not complete yet.
    pub(super) fn partial(&self) -> usize {
        self.have
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Records;

    proptest! {
        #[test]
        fn any_cut_of_the_stream_gives_the_same_records(
            sizes in prop::collection::vec(0usize..700, 0..8),
            cuts in prop::collection::vec(1usize..300, 0..40),
        ) {
            let mut stream = Vec::new();
            for size in &sizes {
                stream.extend([23, 3, 3]);
                stream.extend((*size as u16).to_be_bytes());
                stream.extend(vec![7; *size]);
            }
            let mut records = Records::default();
            let (mut whole, mut passed) = (Vec::new(), Vec::new());
            let mut left = &stream[..];
            for cut in cuts.into_iter().chain([usize::MAX]) {
                let (mut input, rest) = left.split_at(cut.min(left.len()));
                left = rest;
                while let Some((piece, complete)) = records.take(&mut input) {
                    passed.extend_from_slice(piece);
                    whole.extend(complete.map(|size| size - 5));
                }
                prop_assert!(input.is_empty());
            }
            prop_assert_eq!(whole, sizes);
            prop_assert_eq!(passed, stream);
            prop_assert_eq!(records.partial(), 0);
        }
    }
}
