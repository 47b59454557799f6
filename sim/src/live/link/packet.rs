//! An IP packet as a link carries it.

use crate::link::{Datagram, IP_UDP_OVERHEAD};

/// Bytes 10 and 11 of an IPv4 header: its checksum.
const CHECKSUM: std::ops::Range<usize> = 10..12;
/// Both bits of the ECN field set: "congestion experienced" (RFC 3168 §5).
const CE: u8 = 0b11;

/// An IP packet, header and all.
///
/// A link counts [`IP_UDP_OVERHEAD`] bytes beside the payload it is shown, and here they are inside:
/// so the payload is what comes behind them, whatever it is, and the sum is the packet's length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct IpPacket(Vec<u8>);

impl IpPacket {
    /// `None` for what is shorter than IPv4 and UDP headers; nothing real is.
    pub(super) fn new(bytes: &[u8]) -> Option<Self> {
        (bytes.len() >= IP_UDP_OVERHEAD).then(|| Self(bytes.to_vec()))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Datagram for IpPacket {
    fn payload(&self) -> &[u8] {
        &self.0[IP_UDP_OVERHEAD..]
    }

    fn payload_mut(&mut self) -> &mut [u8] {
        &mut self.0[IP_UDP_OVERHEAD..]
    }

    fn mark_ce(&mut self) -> bool {
        match self.0[0] >> 4 {
            4 => mark_v4(&mut self.0),
            6 => mark_v6(&mut self.0),
            _ => false,
        }
    }
}

fn mark_v4(packet: &mut [u8]) -> bool {
    let before = u16::from_be_bytes([packet[0], packet[1]]);
    if packet[1] & CE == 0 {
        return false;
    }
    packet[1] |= CE;
    let after = u16::from_be_bytes([packet[0], packet[1]]);
    let checksum = u16::from_be_bytes([packet[CHECKSUM.start], packet[CHECKSUM.start + 1]]);
    packet[CHECKSUM].copy_from_slice(&updated(checksum, before, after).to_be_bytes());
    true
}

/// The traffic class lies across two bytes, its last two bits (ECN) in the second; no checksum.
fn mark_v6(packet: &mut [u8]) -> bool {
    if packet[1] >> 4 & CE == 0 {
        return false;
    }
    packet[1] |= CE << 4;
    true
}

/// RFC 1624, equation 3.
fn updated(checksum: u16, before: u16, after: u16) -> u16 {
    let mut sum = u32::from(!checksum) + u32::from(!before) + u32::from(after);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // Folded: it fits.
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::wire_size;

    /// RFC 1071: over a whole header with its checksum this is zero.
    fn sum_of(header: &[u8]) -> u16 {
        let mut sum: u32 =
            header.chunks(2).map(|two| u32::from(u16::from_be_bytes([two[0], two[1]]))).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    fn v4(tos: u8, length: usize) -> Vec<u8> {
        let mut packet = vec![0x5a; length];
        packet[..20].copy_from_slice(&[
            0x45, tos, 0, 40, 0x12, 0x34, 0x40, 0, 64, 6, 0, 0, 198, 18, 0, 1, 198, 18, 0, 2,
        ]);
        let checksum = sum_of(&packet[..20]);
        packet[CHECKSUM].copy_from_slice(&checksum.to_be_bytes());
        packet
    }

    #[test]
    fn it_weighs_what_it_is_long() {
        let packet = IpPacket::new(&v4(0, 1_500)).expect("a packet");
        assert_eq!((wire_size(&packet), packet.bytes().len()), (1_500, 1_500));
        assert_eq!(IpPacket::new(&[0x45; 27]), None);
        assert!(IpPacket::new(&v4(0, 28)).is_some_and(|packet| packet.payload().is_empty()));
    }

    #[test]
    fn a_mark_is_set_where_the_sender_is_capable_and_leaves_a_right_checksum() {
        for (tos, marked) in [(0, None), (0b01, Some(0b11)), (0xb8 | 0b10, Some(0xb8 | 0b11))] {
            let mut packet = IpPacket::new(&v4(tos, 40)).expect("a packet");
            assert_eq!(packet.mark_ce(), marked.is_some());
            assert_eq!(packet.bytes()[1], marked.unwrap_or(tos));
            assert_eq!(sum_of(&packet.bytes()[..20]), 0);
        }
        let mut v6 = vec![0; 60];
        (v6[0], v6[1]) = (0x6b, 0x20);
        let mut packet = IpPacket::new(&v6).expect("a packet");
        assert!(packet.mark_ce());
        assert_eq!(packet.bytes()[..2], [0x6b, 0x30]);
    }
}
