//! Bytes that differ from place to place and from seed to seed, so that none can be lost, doubled
//! or swapped unseen.

use sha2::{Digest, Sha256};

/// `len` bytes.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    // SplitMix64, eight bytes at a time.
    let mut state = seed.wrapping_mul(0x2545_f491_4f6c_dd1d);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(z ^ (z >> 31)).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Fails if they differ, naming the first place rather than showing megabytes.
#[track_caller]
pub fn assert_same(got: &[u8], wanted: &[u8], what: &str) {
    if got == wanted {
        return;
    }
    let place = got.iter().zip(wanted).position(|(a, b)| a != b);
    panic!("{what}: {} bytes, wanted {}; first difference at {place:?}", got.len(), wanted.len());
}

/// SHA-256 in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}
