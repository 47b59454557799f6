//! The cipher and two copies.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use crate::pattern::Pattern;

/// UDP payload of a full packet, as the core sends them.
const UDP_PAYLOAD: usize = 1252;
const HEADER: usize = 16;
const TAG: usize = 16;
/// Bytes of the stream in a packet.
const PLAINTEXT: usize = UDP_PAYLOAD - HEADER - TAG;

/// Each packet's bytes are copied in, sealed, opened, and copied out: by `ring`'s ChaCha20-Poly1305, in
/// packets of the size that the core sends, with a header of the same length as associated data.
#[derive(Debug)]
pub struct Floor {
    key: LessSafeKey,
    counter: u64,
    pattern: Pattern,
    /// Bytes that came out so far.
    delivered: u64,
    packet: Vec<u8>,
    out: Vec<u8>,
}

impl Floor {
    /// Ready to run.
    #[must_use]
    pub fn new() -> Self {
        let key = UnboundKey::new(&CHACHA20_POLY1305, &[7; 32]).expect("a key of 32 bytes");
        Self {
            key: LessSafeKey::new(key),
            counter: 0,
            pattern: Pattern::new(),
            delivered: 0,
            packet: Vec::with_capacity(UDP_PAYLOAD),
            out: Vec::with_capacity(PLAINTEXT),
        }
    }

    /// Lets so many bytes more through.
    ///
    /// # Panics
    /// If bytes come out that are not those that went in.
    pub fn run(&mut self, bytes: u64) {
        let goal = self.delivered + bytes;
        while self.delivered < goal {
            let len = PLAINTEXT.min((goal - self.delivered) as usize);
            self.packet(len);
        }
    }

    fn packet(&mut self, len: usize) {
        let Self { key, counter, pattern, delivered, packet, out } = self;
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&counter.to_be_bytes());
        *counter += 1;
        let header = [5; HEADER];
        packet.clear();
        packet.extend_from_slice(&header);
        packet.extend_from_slice(pattern.piece(*delivered, len));
        let tag = key
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(&header),
                &mut packet[HEADER..],
            )
            .expect("a packet is no 256 GiB");
        packet.extend_from_slice(tag.as_ref());
        let (header, sealed) = packet.split_at_mut(HEADER);
        let opened = key
            .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(&*header), sealed)
            .expect("nobody touched it");
        out.clear();
        out.extend_from_slice(opened);
        assert!(pattern.matches(*delivered, out), "other bytes came out than went in");
        *delivered += len as u64;
    }
}

impl Default for Floor {
    fn default() -> Self {
        Self::new()
    }
}
