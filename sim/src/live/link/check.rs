//! How well this machine keeps a live link's time.

use std::io;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::report::CheckReport;
use super::{ADDRS, LiveLink, LiveLinkError, Shape};
use crate::live::forward::Lateness;
use crate::live::histogram::Histogram;

/// 10,000 packets per second each way.
const EVERY: Duration = Duration::from_micros(100);
/// An IP packet carries 28 bytes of headers beside them.
const PAYLOAD: usize = 64;
const IP_PACKET: usize = PAYLOAD + 28;

/// Sends packets both ways for `duration` and measures how late they come. One thread does it all
/// and never sleeps, so that its own waking up is not in the figures.
pub(super) fn check(
    link: &LiveLink,
    shape: &Shape,
    duration: Duration,
    stop: &AtomicBool,
) -> Result<CheckReport, LiveLinkError> {
    let bind = |which: usize| -> io::Result<UdpSocket> {
        let socket = UdpSocket::bind((ADDRS[which], 0))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    let there = |which| link.enter(which, || bind(which))?.map_err(LiveLinkError::Check);
    let (a, b) = (there(0)?, there(1)?);
    exchange([&a, &b], shape, duration, stop).map_err(LiveLinkError::Check)
}

fn exchange(
    sockets: [&UdpSocket; 2],
    shape: &Shape,
    duration: Duration,
    stop: &AtomicBool,
) -> io::Result<CheckReport> {
    let addrs = [sockets[0].local_addr()?, sockets[1].local_addr()?];
    // Its bits on the wire, and the way.
    let takes =
        Duration::from_secs_f64(IP_PACKET as f64 * 8.0 / (shape.rate_mbps * 1e6)) + shape.rtt() / 2;
    let (mut late, mut packets) = (Histogram::default(), 0);
    let start = Instant::now();
    let mut next = start;
    let mut buf = [0; 2 * PAYLOAD];
    while start.elapsed() < duration + takes * 2 && !stop.load(Relaxed) {
        if Instant::now() >= next && start.elapsed() < duration {
            // Not both ways at the same moment, nor in a burst after a pause of ours.
            for (from, socket) in sockets.iter().enumerate() {
                let mut message = [0; PAYLOAD];
                let sent = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
                message[..8].copy_from_slice(&sent.to_be_bytes());
                socket.send_to(&message, addrs[1 - from])?;
            }
            next = (next + EVERY).max(Instant::now());
        }
        for socket in sockets {
            while socket.recv(&mut buf).is_ok() {
                let mut sent = [0; 8];
                sent.copy_from_slice(&buf[..8]);
                let took =
                    start.elapsed().saturating_sub(Duration::from_nanos(u64::from_be_bytes(sent)));
                let micros = took.saturating_sub(takes).as_micros();
                late.record(u64::try_from(micros).unwrap_or(u64::MAX));
                packets += 1;
            }
        }
    }
    Ok(CheckReport {
        packets,
        packets_per_second: packets as f64 / duration.as_secs_f64(),
        late: Lateness {
            p50_us: late.percentile(50.0),
            p99_us: late.percentile(99.0),
            max_us: late.max(),
        },
    })
}
