//! What is known of the path to a neighbour: latency, loss, bursts, whether it answers.

mod latency;
mod loss;
mod pace;
mod ping;
mod reordering;
mod rtt;
mod silence;

use std::time::Duration;

/// What a link is like towards the neighbour, as routes are chosen by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct LinkQuality {
    /// Smoothed round trip time, without the queues of the tunnel's own traffic.
    pub rtt: Duration,
    /// Mean deviation of it.
    pub jitter: Duration,
    /// Share of packets lost before recovery, 0 to 1.
    pub loss: f64,
    /// Mean run of losses in packets, at least 1.
    pub burst: f64,
}

pub(crate) use latency::Latency;
pub(crate) use loss::LossEstimator;
pub(crate) use pace::Pace;
pub(crate) use ping::Pinger;
pub(crate) use reordering::Reordering;
pub(crate) use rtt::RttEstimator;
pub(crate) use silence::{MAX_SLOTS, Silence, Verdict};
