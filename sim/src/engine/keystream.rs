//! Whether two sessions have one key, as far as that shows in what is sent.

use std::collections::BTreeMap;

/// Nonces that are looked at: in each session those below this.
const NONCES: u64 = 1024;
/// Sessions that a new one is compared with: the last.
const SESSIONS: usize = 64;
/// Comparisons before there is a verdict.
const ENOUGH: u64 = 200;
/// Under different keys one comparison in 256 finds alike bytes, under one key about every other.
const TOO_MANY: u64 = 8;

/// The first sealed byte of every datagram that two hosts sent each other, by nonce.
#[derive(Debug, Default)]
pub(super) struct Keystreams {
    bytes: BTreeMap<u64, Vec<u8>>,
    compared: u64,
    alike: u64,
    told: bool,
}

impl Keystreams {
    /// Takes the byte of the next datagram. True, once, if a keystream must have been used again.
    pub(super) fn is_seen_again(&mut self, nonce: u64, byte: u8) -> bool {
        if nonce >= NONCES {
            return false;
        }
        let earlier = self.bytes.entry(nonce).or_default();
        self.compared += earlier.len() as u64;
        self.alike += earlier.iter().filter(|other| **other == byte).count() as u64;
        if earlier.len() == SESSIONS {
            earlier.remove(0);
        }
        earlier.push(byte);
        let found = self.compared >= ENOUGH && self.alike * TOO_MANY > self.compared;
        found && !std::mem::replace(&mut self.told, true)
    }
}

#[cfg(test)]
mod tests {
    use rand_core::RngCore;

    use super::{ENOUGH, Keystreams, NONCES};
    use crate::seed::Seed;

    /// What sessions send under keystreams, one after the other: bytes of four kinds of frames.
    fn sessions(keystreams: &[Vec<u8>]) -> bool {
        let (mut seen, mut draws) = (Keystreams::default(), Seed::new(1).stream("frames"));
        let mut found = false;
        for keystream in keystreams {
            for (nonce, key) in keystream.iter().enumerate() {
                let frame = (draws.next_u32() % 4) as u8;
                found |= seen.is_seen_again(nonce as u64, frame ^ key);
            }
        }
        found
    }

    #[test]
    fn a_key_of_two_sessions_is_found_and_others_are_not() {
        let mut draws = Seed::new(1).stream("keys");
        let mut keystream = |len| {
            let mut bytes = vec![0; len];
            draws.fill_bytes(&mut bytes);
            bytes
        };
        let others: Vec<_> = (0..40).map(|_| keystream(NONCES as usize)).collect();
        assert!(!sessions(&others));
        let again = keystream(2 * ENOUGH as usize);
        assert!(sessions(&[again.clone(), keystream(100), again]));
    }
}
