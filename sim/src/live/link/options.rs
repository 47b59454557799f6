//! The flags that describe a live link, and the flags of `entrouter-sim link`.

use std::fmt::{self, Write as _};
use std::time::Duration;

use argh::FromArgs;
use serde::Serialize;

use crate::link::{Burst, Jitter, LinkConfig, Loss, QueueLimit, Rate};
use crate::live::options::{FlagError, in_range};
use crate::seed::Seed;

/// A queue of one BDP would vanish with the round trip time, and with it every burst of packets.
const LEAST_DEFAULT_QUEUE_MS: f64 = 5.0;

/// A simulated link in real time between two network namespaces of this machine (Linux, root): put
/// any program on either side of it. Namespaces and devices are removed at the end, however it comes.
#[derive(FromArgs, Debug, Clone, PartialEq)]
#[argh(subcommand, name = "link")]
pub struct LinkArgs {
    /// round trip time in milliseconds (default 271)
    #[argh(option, default = "271.0")]
    pub rtt_ms: f64,
    /// rate in Mbit/s of IP packets, in each direction (default 100)
    #[argh(option, default = "100.0")]
    pub rate_mbps: f64,
    /// average loss in percent, in each direction (default 0)
    #[argh(option, default = "0.0")]
    pub loss_pct: f64,
    /// average loss in percent from B to A (default: as --loss-pct)
    #[argh(option)]
    pub loss_back_pct: Option<f64>,
    /// mean length of a run of losses in packets; 1 means independent losses (default 1)
    #[argh(option, default = "1.0")]
    pub burst: f64,
    /// drop-tail queue before the link in milliseconds at its rate (default: one BDP, at least 5)
    #[argh(option)]
    pub queue_ms: Option<f64>,
    /// the same in bandwidth-delay products
    #[argh(option)]
    pub queue_bdp: Option<f64>,
    /// variation of the delay in each direction, plus or minus, in milliseconds; packets overtake
    /// each other (default 0)
    #[argh(option, default = "0.0")]
    pub jitter_ms: f64,
    /// mark packets of ECN-capable senders that find more than so many milliseconds waiting
    #[argh(option)]
    pub mark_ms: Option<f64>,
    /// largest IP packet in bytes, for the link and both devices (default 1500)
    #[argh(option, default = "1500")]
    pub mtu: u16,
    /// seed of the link's luck (default 1)
    #[argh(option, default = "1")]
    pub seed: u64,
    /// end after so many seconds (default: on Ctrl-C or SIGTERM)
    #[argh(option)]
    pub seconds: Option<f64>,
    /// send 20,000 small packets a second over it, half of them each way, for --seconds (default 5),
    /// and tell how much later they come than the link means them to
    #[argh(switch)]
    pub check: bool,
    /// print the counters as JSON, everything else to stderr
    #[argh(switch)]
    pub json: bool,
}

/// The flags that describe a link, as they were given.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::live) struct ShapeFlags {
    pub(in crate::live) rtt_ms: f64,
    pub(in crate::live) rate_mbps: f64,
    pub(in crate::live) loss_pct: f64,
    pub(in crate::live) loss_back_pct: Option<f64>,
    pub(in crate::live) burst: f64,
    pub(in crate::live) queue_ms: Option<f64>,
    pub(in crate::live) queue_bdp: Option<f64>,
    pub(in crate::live) jitter_ms: f64,
    pub(in crate::live) mark_ms: Option<f64>,
    pub(in crate::live) mtu: u16,
    pub(in crate::live) seed: u64,
}

/// A live link in the units of the flags; consistent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Shape {
    /// Round trip time in milliseconds.
    pub rtt_ms: f64,
    /// Rate per direction in Mbit/s of IP packets.
    pub rate_mbps: f64,
    /// Loss from A to B in percent.
    pub loss_pct: f64,
    /// Loss from B to A in percent.
    pub loss_back_pct: f64,
    /// Mean run of losses in packets; 1 for independent ones.
    pub burst: f64,
    /// Queue before the link in milliseconds.
    pub queue_ms: f64,
    /// Half the width of the jitter in milliseconds.
    pub jitter_ms: f64,
    /// The queue marks above that, in milliseconds.
    pub mark_ms: Option<f64>,
    /// Largest IP packet.
    pub mtu: u16,
    /// Of the link's luck.
    pub seed: u64,
}

impl TryFrom<ShapeFlags> for Shape {
    type Error = FlagError;

    fn try_from(flags: ShapeFlags) -> Result<Self, FlagError> {
        in_range("rtt-ms", flags.rtt_ms, 0.0..=5_000.0)?;
        in_range("rate-mbps", flags.rate_mbps, 0.1..=10_000.0)?;
        in_range("loss-pct", flags.loss_pct, 0.0..=90.0)?;
        let loss_back_pct = flags.loss_back_pct.unwrap_or(flags.loss_pct);
        in_range("loss-back-pct", loss_back_pct, 0.0..=90.0)?;
        in_range("burst", flags.burst, 1.0..=1_000.0)?;
        let queue_ms = match (flags.queue_ms, flags.queue_bdp) {
            (Some(_), Some(_)) => return Err(FlagError::QueueTwice),
            (Some(ms), None) => ms,
            (None, Some(bdp)) => {
                in_range("queue-bdp", bdp, 0.0..=100.0)?;
                bdp * flags.rtt_ms
            }
            (None, None) => flags.rtt_ms.max(LEAST_DEFAULT_QUEUE_MS),
        };
        in_range("queue-ms", queue_ms, 0.0..=10_000.0)?;
        in_range("jitter-ms", flags.jitter_ms, 0.0..=flags.rtt_ms / 2.0)?;
        if let Some(mark_ms) = flags.mark_ms {
            in_range("mark-ms", mark_ms, 0.0..=10_000.0)?;
        }
        // Below 576 no host need be able to speak IPv4 (RFC 791); above, TUN has its limit.
        in_range("mtu", flags.mtu.into(), 576.0..=65_521.0)?;
        let ShapeFlags {
            rtt_ms, rate_mbps, loss_pct, burst, jitter_ms, mark_ms, mtu, seed, ..
        } = flags;
        let shape = Self {
            rtt_ms,
            rate_mbps,
            loss_pct,
            loss_back_pct,
            burst,
            queue_ms,
            jitter_ms,
            mark_ms,
            mtu,
            seed,
        };
        for config in shape.configs() {
            config.validate()?;
        }
        Ok(shape)
    }
}

impl Shape {
    /// From A to B, from B to A.
    #[must_use]
    pub fn configs(&self) -> [LinkConfig; 2] {
        [self.loss_pct, self.loss_back_pct].map(|percent| self.config(percent / 100.0))
    }

    fn config(&self, average: f64) -> LinkConfig {
        let loss = if average == 0.0 {
            Loss::None
        } else if self.burst > 1.0 {
            Loss::GilbertElliott { average, mean_burst: Burst::Packets(self.burst) }
        } else {
            Loss::Bernoulli { average }
        };
        LinkConfig {
            mtu: Some(self.mtu.into()),
            rate: Some(Rate {
                mbps: self.rate_mbps,
                queue: QueueLimit::Time(millis(self.queue_ms)),
                mark_above: self.mark_ms.map(|ms| QueueLimit::Time(millis(ms))),
            }),
            loss,
            delay: self.rtt() / 2,
            jitter: (self.jitter_ms > 0.0)
                .then(|| Jitter { range: millis(self.jitter_ms), reorders: true }),
            ..LinkConfig::default()
        }
    }

    /// Round trip time without queue and jitter.
    #[must_use]
    pub fn rtt(&self) -> Duration {
        millis(self.rtt_ms)
    }

    /// Of the link's luck.
    #[must_use]
    pub fn seed(&self) -> Seed {
        Seed::new(self.seed)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (out, back) = (self.loss_pct, self.loss_back_pct);
        if out == back {
            write!(f, "{out} % loss each way, ")?;
        } else {
            write!(f, "{out} % loss A to B, {back} % B to A, ")?;
        }
        f.write_str(&self.but_loss())
    }
}

impl Shape {
    /// Everything else, for people.
    pub(in crate::live) fn but_loss(&self) -> String {
        let mut text = format!(
            "{} ms RTT, {} Mbit/s, queue {} ms",
            self.rtt_ms, self.rate_mbps, self.queue_ms
        );
        // Writing to a String cannot fail.
        if let Some(mark_ms) = self.mark_ms {
            let _ = write!(text, " (marks above {mark_ms} ms)");
        }
        if self.jitter_ms > 0.0 {
            let _ = write!(text, ", jitter \u{b1} {} ms", self.jitter_ms);
        }
        if self.burst > 1.0 {
            let _ = write!(text, ", mean burst of losses {}", self.burst);
        }
        let _ = write!(text, ", MTU {}, seed {}", self.mtu, self.seed);
        text
    }
}

fn millis(ms: f64) -> Duration {
    Duration::from_secs_f64(ms / 1e3)
}

/// What `entrouter-sim link` is to do; consistent.
#[derive(Debug, Clone, PartialEq)]
pub struct LinkOptions {
    /// The link.
    pub shape: Shape,
    /// Ends by itself after that.
    pub duration: Option<Duration>,
    /// Send packets over it and tell how late they come.
    pub check: bool,
}

impl TryFrom<&LinkArgs> for LinkOptions {
    type Error = FlagError;

    fn try_from(args: &LinkArgs) -> Result<Self, FlagError> {
        let shape = Shape::try_from(ShapeFlags {
            rtt_ms: args.rtt_ms,
            rate_mbps: args.rate_mbps,
            loss_pct: args.loss_pct,
            loss_back_pct: args.loss_back_pct,
            burst: args.burst,
            queue_ms: args.queue_ms,
            queue_bdp: args.queue_bdp,
            jitter_ms: args.jitter_ms,
            mark_ms: args.mark_ms,
            mtu: args.mtu,
            seed: args.seed,
        })?;
        if let Some(seconds) = args.seconds {
            in_range("seconds", seconds, 0.1..=31_536_000.0)?;
        }
        let duration = args.seconds.map(Duration::from_secs_f64);
        Ok(Self { shape, duration, check: args.check })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(flags: &[&str]) -> Result<LinkOptions, String> {
        let args = LinkArgs::from_args(&["link"], flags).map_err(|exit| exit.output)?;
        LinkOptions::try_from(&args).map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_are_a_long_clean_link_with_a_queue_of_one_bdp() {
        let options = options(&[]).expect("valid");
        let [out, back] = options.shape.configs();
        assert_eq!(out, back);
        assert_eq!((out.delay, out.loss), (Duration::from_micros(135_500), Loss::None));
        let rate = out.rate.expect("a rate");
        assert_eq!(rate.queue, QueueLimit::Time(Duration::from_millis(271)));
        assert_eq!((options.duration, options.check), (None, false));
    }

    #[test]
    fn each_direction_has_its_own_loss() {
        let flags = ["--loss-pct", "0", "--loss-back-pct", "10", "--queue-bdp", "0.5"];
        let shape = options(&flags).expect("valid").shape;
        let [out, back] = shape.configs();
        assert_eq!((out.loss, back.loss), (Loss::None, Loss::Bernoulli { average: 0.1 }));
        assert_eq!(shape.queue_ms, 135.5);
    }

    #[test]
    fn bad_flags_are_refused_in_one_line_that_names_them() {
        for (flags, wanted) in [
            (&["--loss-back-pct", "91"][..], "--loss-back-pct 91: give a number from 0 to 90"),
            (&["--queue-ms", "5", "--queue-bdp", "1"], "--queue-ms, --queue-bdp: give one"),
            (
                &["--jitter-ms", "20", "--rtt-ms", "30"],
                "--jitter-ms 20: give a number from 0 to 15",
            ),
            (&["--mtu", "100"], "--mtu 100: give a number from 576 to 65521"),
            (&["--loss-pct", "80", "--burst", "2"], "give a mean burst of at least 4.00"),
            (&["--seconds", "0"], "--seconds 0: give a number from 0.1"),
            (&["--rtt-ms", "NaN"], "--rtt-ms NaN"),
        ] {
            let error = options(flags).expect_err("refused");
            assert!(error.contains(wanted), "{flags:?}: {error}");
            assert_eq!(error.trim().lines().count(), 1, "{error}");
        }
    }
}
