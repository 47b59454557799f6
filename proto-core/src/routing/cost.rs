//! What a link costs: the time that a byte needs for it, in microseconds, repairs included.

use crate::probe::LinkQuality;
use crate::wire::linkstate::{Link, MAX_MICROS};

/// What a relay costs beside its links: its queues, and one thing more that can break.
const PER_HOP: u64 = 500;
/// What is laid upon a link that died of late.
pub(super) const SHAKY: u64 = 1_000_000;

/// Until parity repairs a lost packet, in microseconds, for each packet of the mean run of losses: it trails
/// by about 2 ms and is spread the more, the longer the runs are.
const PARITY: f64 = 5_000.0;
/// Until a retransmission does, in round trips …
const REPAIR: f64 = 1.25;
/// … and how much that counts: those wait for it whose bytes are many, and what they need is not time.
const PATIENCE: f64 = 0.2;

/// What the loss of a link costs a byte that crosses it, in expected microseconds. What somebody waits for is
/// protected by parity: over 20 ms of which one hop of 10 ms loses 8 % (40 %) each way, the 99th percentile
/// of round trips is 1.0 ms (1.8 ms) above what it is without loss (scenario `loss-route`). So little loss
/// outweighs little latency only.
fn loss_cost(p: f64, burst: f64, rtt_us: f64) -> f64 {
    p * (PARITY * burst + REPAIR * PATIENCE * rtt_us)
}

/// The cost of a directed link, but for its being shaky.
pub(super) fn link_cost(link: &Link) -> u64 {
    let rtt = f64::from(link.rtt_us);
    let p = f64::from(link.loss) / f64::from(u16::MAX);
    let burst = (f64::from(link.burst) / 4.0).max(1.0);
    u64::from(link.rtt_us / 2) + loss_cost(p, burst, rtt) as u64 + PER_HOP
}

/// Whether one cost is another one really: by more than a tenth and more than 2 ms.
pub(super) fn clearly_less(cost: u64, than: u64) -> bool {
    cost + than / 10 < than && cost + 2_000 < than
}

/// A measured link as it is advertised.
pub(super) fn to_wire(to: crate::ids::NodeHash, quality: &LinkQuality, shaky: bool) -> Link {
    let micros = |time: std::time::Duration| {
        u32::try_from(time.as_micros()).unwrap_or(MAX_MICROS).min(MAX_MICROS)
    };
    // Conversions from floats saturate, and what is no number becomes 0.
    let loss = (quality.loss * f64::from(u16::MAX)).round() as u16;
    let burst = (quality.burst * 4.0).round() as u8;
    let (rtt_us, jitter_us) = (micros(quality.rtt), micros(quality.jitter));
    Link { to, rtt_us, jitter_us, loss, burst, shaky }
}
