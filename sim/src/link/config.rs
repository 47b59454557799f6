//! What a link is asked to do, in the units of the field.

use std::time::Duration;

/// One direction of a link. The default is a perfect wire: no delay, no loss, no limit.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LinkConfig {
    /// Largest IP packet, headers included, in bytes; larger ones are dropped as with DF set.
    pub mtu: Option<usize>,
    /// The bottleneck and the queue before it.
    pub rate: Option<Rate>,
    /// Random loss, behind the bottleneck.
    pub loss: Loss,
    /// Propagation delay in one direction.
    pub delay: Duration,
    /// Variation of the delay.
    pub jitter: Option<Jitter>,
    /// Late packets.
    pub reorder: Option<Reorder>,
    /// Share of packets that arrive twice, 0 to 1.
    pub duplicate: f64,
    /// Share of packets that arrive with one bit flipped, 0 to 1.
    pub corrupt: f64,
    /// Share of packets offered behind which one of the [`REPLAY_MEMORY`](super::REPLAY_MEMORY)
    /// before them is sent again, as it was offered, 0 to 1.
    pub replay: f64,
}

/// A bottleneck with a drop-tail queue.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Megabits (10^6) per second of IP packets, that is with 28 bytes of IPv4 and UDP header each.
    pub mbps: f64,
    /// How much may wait.
    pub queue: QueueLimit,
    /// A packet that finds more than this waiting is marked (ECN CE) if it is capable. `None`: the
    /// queue never marks.
    pub mark_above: Option<QueueLimit>,
}

/// A length of a queue, what is being sent included. As a limit: an empty queue takes any packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueLimit {
    /// Bytes of IP packets.
    Bytes(u64),
    /// What the bottleneck sends in that time.
    Time(Duration),
}

/// Random loss.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Loss {
    /// None.
    #[default]
    None,
    /// Each packet for itself. Runs of losses have a mean length of 1 / (1 - average).
    Bernoulli {
        /// Share of packets lost, 0 to 1.
        average: f64,
    },
    /// Two states: in the good one nothing is lost, in the bad one everything is.
    GilbertElliott {
        /// Share of packets lost, 0 to 1 (exclusive).
        average: f64,
        /// Mean stay in the bad state.
        mean_burst: Burst,
    },
}

/// Mean length of a loss burst, and with it what makes the state of Gilbert-Elliott advance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Burst {
    /// In packets, at least 1; the state advances with every packet.
    Packets(f64),
    /// In time; the state advances whether or not packets are sent.
    Time(Duration),
}

/// Variation of the delay: uniform in delay ± `range`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Jitter {
    /// Half the width; not above the delay.
    pub range: Duration,
    /// Whether a packet may overtake another. If not, it waits for those before it.
    pub reorders: bool,
}

/// Packets that take a detour: what was sent after them arrives before them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reorder {
    /// Share of packets, 0 to 1.
    pub probability: f64,
    /// How much later they arrive.
    pub by: Duration,
}

/// A link that cannot be.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum LinkConfigError {
    /// A probability outside its range.
    #[error("{what} is {found}: give a share between 0 and {most}")]
    Share {
        /// Which one.
        what: &'static str,
        /// Its value.
        found: f64,
        /// The greatest that is possible.
        most: f64,
    },
    /// A rate that is not a positive number.
    #[error("a rate of {0} Mbit/s: give a number from 0.001 to 1000000")]
    Rate(f64),
    /// A mean burst that is not possible.
    #[error("a mean burst of {0} packets: give 1 or more")]
    Burst(f64),
    /// A mean burst of no time.
    #[error("a mean burst of no time: give a duration above zero")]
    BurstTime,
    /// Bursts too short for so much loss: even a single good packet between two is too many.
    #[error(
        "an average loss of {average} cannot come in bursts of {mean_burst} packets on average: \
         give a mean burst of at least {least:.2}"
    )]
    BurstTooShort {
        /// Share of packets lost.
        average: f64,
        /// Packets.
        mean_burst: f64,
        /// The shortest that is possible.
        least: f64,
    },
    /// A packet would arrive before it was sent.
    #[error("jitter of ± {jitter:?} exceeds the delay of {delay:?}: lower it or raise the delay")]
    JitterAboveDelay {
        /// Half the width.
        jitter: Duration,
        /// The delay.
        delay: Duration,
    },
}

impl LinkConfig {
    /// Whether such a link can be made.
    ///
    /// # Errors
    /// The first part that cannot be, with its remedy.
    pub fn validate(&self) -> Result<(), LinkConfigError> {
        share("duplicate", self.duplicate, 1.0)?;
        share("corrupt", self.corrupt, 1.0)?;
        share("replay", self.replay, 1.0)?;
        if let Some(reorder) = self.reorder {
            share("reorder", reorder.probability, 1.0)?;
        }
        if let Some(rate) = self.rate
            && !(0.001..=1e6).contains(&rate.mbps)
        {
            return Err(LinkConfigError::Rate(rate.mbps));
        }
        if let Some(jitter) = self.jitter
            && jitter.range > self.delay
        {
            let (jitter, delay) = (jitter.range, self.delay);
            return Err(LinkConfigError::JitterAboveDelay { jitter, delay });
        }
        self.loss.validate()
    }
}

impl Loss {
    fn validate(self) -> Result<(), LinkConfigError> {
        match self {
            Self::None => Ok(()),
            Self::Bernoulli { average } => share("average loss", average, 1.0),
            Self::GilbertElliott { average, mean_burst } => {
                share("average loss", average, 0.999)?;
                match mean_burst {
                    Burst::Time(mean) if mean.is_zero() => Err(LinkConfigError::BurstTime),
                    Burst::Time(_) => Ok(()),
                    Burst::Packets(mean) if !(mean >= 1.0 && mean.is_finite()) => {
                        Err(LinkConfigError::Burst(mean))
                    }
                    Burst::Packets(mean_burst) => {
                        let least = average / (1.0 - average);
                        if mean_burst < least {
                            let error =
                                LinkConfigError::BurstTooShort { average, mean_burst, least };
                            return Err(error);
                        }
                        Ok(())
                    }
                }
            }
        }
    }
}

fn share(what: &'static str, found: f64, most: f64) -> Result<(), LinkConfigError> {
    // A NaN is in no range.
    if (0.0..=most).contains(&found) {
        Ok(())
    } else {
        Err(LinkConfigError::Share { what, found, most })
    }
}
