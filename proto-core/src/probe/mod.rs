//! What is known of the path to a neighbour: latency, loss, bursts, whether it answers.

mod loss;
mod ping;
mod reordering;
mod rtt;

pub(crate) use loss::LossEstimator;
pub(crate) use ping::Pinger;
pub(crate) use reordering::Reordering;
pub(crate) use rtt::RttEstimator;
