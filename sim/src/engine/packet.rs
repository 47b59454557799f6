//! What travels on simulated links.

use entrouter_proto::Ecn;

use crate::link::Datagram;

/// An address that some host has or had; its place in the network's list of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct AddrId(pub u32);

/// A UDP datagram. Copies that a link makes keep the number of their original.
#[derive(Debug, Clone)]
pub(super) struct Packet {
    pub number: u64,
    pub from: AddrId,
    pub to: AddrId,
    pub ecn: Option<Ecn>,
    /// A link changed its payload.
    pub corrupted: bool,
    pub payload: Vec<u8>,
}

impl Datagram for Packet {
    fn payload(&self) -> &[u8] {
        &self.payload
    }

    fn payload_mut(&mut self) -> &mut [u8] {
        self.corrupted = true;
        &mut self.payload
    }

    fn mark_ce(&mut self) -> bool {
        let capable = self.ecn.is_some();
        if capable {
            self.ecn = Some(Ecn::Ce);
        }
        capable
    }
}
