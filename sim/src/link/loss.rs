//! Random loss: Bernoulli and Gilbert-Elliott.

use rand_chacha::ChaCha8Rng;
use rand_core::RngCore;

use super::config::{Burst, Loss};
use super::draw::below;
use crate::time::{Time, nanos};

/// Decides over one packet after another. Exactly one draw each, none while it is absent.
#[derive(Debug)]
pub(super) struct LossElement {
    config: Loss,
    /// `None` where nothing is lost.
    model: Option<Model>,
    rng: ChaCha8Rng,
}

#[derive(Debug)]
enum Model {
    Bernoulli {
        average: f64,
    },
    /// A Markov chain that takes a step per packet.
    PerPacket {
        bad: bool,
        into_bad: f64,
        out_of_bad: f64,
    },
    /// A Markov chain in continuous time, looked at whenever a packet passes.
    PerTime {
        bad: bool,
        average: f64,
        /// Sum of both transition rates, per nanosecond: how fast the chain forgets.
        forgets: f64,
        seen: Time,
    },
}

impl LossElement {
    /// The config was validated.
    pub(super) fn new(config: Loss, mut rng: ChaCha8Rng) -> Self {
        let model = Model::new(config, Time::ZERO, &mut rng);
        Self { config, model, rng }
    }

    /// The stream goes on where it stood; another chain draws its first state from it.
    pub(super) fn set(&mut self, config: Loss, now: Time) {
        if self.config != config {
            self.config = config;
            self.model = Model::new(config, now, &mut self.rng);
        }
    }

    /// Whether the packet that enters the long wire at `at` is lost. `at` must not run backwards.
    pub(super) fn next(&mut self, at: Time) -> bool {
        let Some(model) = &mut self.model else { return false };
        let draw = self.rng.next_u64();
        match model {
            Model::Bernoulli { average } => below(draw, *average),
            Model::PerPacket { bad, into_bad, out_of_bad } => {
                let lost = *bad;
                *bad = if lost { !below(draw, *out_of_bad) } else { below(draw, *into_bad) };
                lost
            }
            Model::PerTime { bad, average, forgets, seen } => {
                // What is left of the former state's influence (`libm`: std's exp is the platform's).
                let elapsed = nanos(at.since(*seen)) as f64;
                let memory = libm::exp(-*forgets * elapsed);
                let was = if *bad { 1.0 } else { 0.0 };
                *bad = below(draw, *average + (was - *average) * memory);
                *seen = at.max(*seen);
                *bad
            }
        }
    }
}

impl Model {
    fn new(loss: Loss, now: Time, rng: &mut ChaCha8Rng) -> Option<Self> {
        let (average, mean_burst) = match loss {
            Loss::None => return None,
            Loss::Bernoulli { average } => (average, None),
            Loss::GilbertElliott { average, mean_burst } => (average, Some(mean_burst)),
        };
        if average <= 0.0 {
            return None;
        }
        let Some(mean_burst) = mean_burst else {
            return Some(Self::Bernoulli { average });
        };
        // The first state is drawn from the stationary distribution, so that the average holds
        // from the first packet on.
        let bad = below(rng.next_u64(), average);
        Some(match mean_burst {
            Burst::Packets(mean) => {
                let out_of_bad = 1.0 / mean;
                let into_bad = average * out_of_bad / (1.0 - average);
                Self::PerPacket { bad, into_bad, out_of_bad }
            }
            Burst::Time(mean) => {
                let out_of_bad = 1.0 / nanos(mean) as f64;
                let forgets = out_of_bad / (1.0 - average);
                Self::PerTime { bad, average, forgets, seen: now }
            }
        })
    }
}
