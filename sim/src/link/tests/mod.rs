//! What a link promises: its figures hold, nothing vanishes uncounted, and luck is reproducible.

use super::*;

mod changes;
mod elements;
mod properties;

const MS: Duration = Duration::from_millis(1);
const END: Time = Time::from_nanos(u64::MAX);

fn link(config: &LinkConfig) -> Link<Vec<u8>> {
    Link::new(config, Seed::new(7)).expect("a valid link")
}

/// A payload of `bytes` bytes that begins with its number.
fn packet(nth: u32, bytes: usize) -> Vec<u8> {
    let mut packet = vec![0; bytes.max(4)];
    packet[..4].copy_from_slice(&nth.to_be_bytes());
    packet
}

fn number(packet: &[u8]) -> u32 {
    u32::from_be_bytes(packet[..4].try_into().expect("four bytes"))
}

/// Everything still in flight: (arrival, number).
fn drain(link: &mut Link<Vec<u8>>) -> Vec<(Time, u32)> {
    std::iter::from_fn(|| link.deliver(END)).map(|(at, packet)| (at, number(&packet))).collect()
}

/// Sends `count` packets of 1,222 bytes (1,250 on the wire), `every` apart.
fn offer(link: &mut Link<Vec<u8>>, count: u32, every: Duration) -> Vec<(Time, u32)> {
    for nth in 0..count {
        link.send(Time::ZERO + every * nth, packet(nth, 1250 - IP_UDP_OVERHEAD));
    }
    drain(link)
}

fn assert_near(found: f64, wanted: f64, tolerance: f64) {
    assert!((found / wanted - 1.0).abs() < tolerance, "{found} instead of {wanted}");
}
