//! What travels over a link.

/// What a link carries. It is cloned for each copy that the link makes, and once per packet where
/// it replays; so a clone should be cheap.
pub trait Datagram: Clone {
    /// The UDP payload.
    fn payload(&self) -> &[u8];

    /// The same, for corruption; asked for only when a bit is about to be flipped.
    fn payload_mut(&mut self) -> &mut [u8];

    /// Sets "congestion experienced" in the IP header, or does nothing and returns false if the
    /// datagram is not ECN-capable (RFC 3168 §5). One that is marked already is capable.
    fn mark_ce(&mut self) -> bool {
        false
    }
}

/// A bare UDP payload, not ECN-capable.
impl Datagram for Vec<u8> {
    fn payload(&self) -> &[u8] {
        self
    }

    fn payload_mut(&mut self) -> &mut [u8] {
        self
    }
}
