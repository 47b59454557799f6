//! The flags of `entrouter-sim demo`, and what they amount to.

use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use argh::FromArgs;

use super::shell::{ShellKind, Shells};
use crate::link::{Burst, LinkConfig, LinkConfigError, Loss, QueueLimit, Rate};
use crate::seed::Seed;

/// Path MTU of the link: Ethernet's, although loopback would carry more.
const MTU: usize = 1_500;
/// A queue of one BDP would vanish with the round trip time, and with it every burst of packets.
const LEAST_DEFAULT_QUEUE_MS: f64 = 5.0;
/// Eight connections with one request each at a time make 2,000 round trips of 40 ms in 10 s.
const PING_CONNECTIONS: usize = 8;

/// An origin, two PoPs on loopback and a long, lossy link between them: small requests and a bulk
/// transfer go through, and a table tells what arrived, how fast, and at what price.
#[derive(FromArgs, Debug, Clone, PartialEq)]
#[argh(subcommand, name = "demo")]
pub struct DemoArgs {
    /// round trip time of the link in milliseconds (default 40)
    #[argh(option, default = "40.0")]
    pub rtt_ms: f64,
    /// average loss in percent, in each direction (default 5)
    #[argh(option, default = "5.0")]
    pub loss_pct: f64,
    /// mean length of a run of losses in packets; 1 means independent losses (default 1)
    #[argh(option, default = "1.0")]
    pub burst: f64,
    /// rate in Mbit/s of IP packets, in each direction (default 100)
    #[argh(option, default = "100.0")]
    pub rate_mbps: f64,
    /// drop-tail queue before the link in milliseconds at that rate (default: the round trip time,
    /// that is one BDP, but at least 5)
    #[argh(option)]
    pub queue_ms: Option<f64>,
    /// how long requests and bulk data are sent (default 10)
    #[argh(option, default = "10.0")]
    pub seconds: f64,
    /// seed of the link's luck and of the data (default 1)
    #[argh(option, default = "1")]
    pub seed: u64,
    /// bulk transfer: on (origin to client), up (client to origin), both, off (default on)
    #[argh(option, default = "Bulk::Down")]
    pub bulk: Bulk,
    /// 64-byte round trips: on or off (default on)
    #[argh(option, default = "Switch::On")]
    pub ping: Switch,
    /// connections that make round trips, one at a time each (default 8)
    #[argh(option, default = "PING_CONNECTIONS")]
    pub ping_connections: usize,
    /// what drives the PoPs: mio, smol, or one each for PoP A, where the clients are, and PoP B, such as
    /// mio,smol (default mio)
    #[argh(option, default = "Shells([ShellKind::Mio; 2])")]
    pub shell: Shells,
    /// print the table as JSON
    #[argh(switch)]
    pub json: bool,
}

/// Which way bulk data goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bulk {
    /// Nowhere.
    Off,
    /// From the origin to the client.
    Down,
    /// From the client to the origin.
    Up,
    /// Both ways at once, on a connection each.
    Both,
}

impl Bulk {
    /// Whether data goes from the origin to the client.
    #[must_use]
    pub fn down(self) -> bool {
        matches!(self, Self::Down | Self::Both)
    }

    /// Whether data goes from the client to the origin.
    #[must_use]
    pub fn up(self) -> bool {
        matches!(self, Self::Up | Self::Both)
    }
}

impl FromStr for Bulk {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "on" | "down" => Ok(Self::Down),
            "off" => Ok(Self::Off),
            "up" => Ok(Self::Up),
            "both" => Ok(Self::Both),
            _ => Err(format!("\"{text}\" is none of on, up, both, off")),
        }
    }
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

impl FromStr for Switch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "on" => Ok(Self::On),
            "off" => Ok(Self::Off),
            _ => Err(format!("\"{text}\" is neither on nor off")),
        }
    }
}

/// A flag that cannot be followed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum FlagError {
    /// A number outside its range.
    #[error("--{flag} {found}: give a number from {least} to {most}")]
    Range {
        /// Its name.
        flag: &'static str,
        /// What was given.
        found: f64,
        /// The least that is possible.
        least: f64,
        /// The greatest that is possible.
        most: f64,
    },
    /// Nothing would be sent.
    #[error("--bulk off --ping off: nothing would be sent; switch one of them on")]
    NothingToDo,
    /// Two lengths of one queue.
    #[error("--queue-ms, --queue-bdp: give one of them")]
    QueueTwice,
    /// No name of a congestion control.
    #[error("--loopback {found:?}: give the name of a congestion control")]
    Congestion {
        /// What was given.
        found: String,
    },
    /// Loss and bursts do not fit together.
    #[error("--loss-pct, --burst: {0}")]
    Link(#[from] LinkConfigError),
}

/// What a demo is to do; consistent.
#[derive(Debug, Clone, PartialEq)]
pub struct DemoOptions {
    /// Round trip time of the link.
    pub rtt: Duration,
    /// Average loss in each direction, 0 to 1.
    pub loss: f64,
    /// Mean length of a run of losses, in packets.
    pub burst: f64,
    /// Rate in each direction, in Mbit/s.
    pub rate_mbps: f64,
    /// The queue before the link, as time at that rate.
    pub queue: Duration,
    /// How long data is sent.
    pub duration: Duration,
    /// Of everything.
    pub seed: Seed,
    /// Which way bulk data goes.
    pub bulk: Bulk,
    /// Connections that make round trips; may be none.
    pub ping_connections: usize,
    /// What drives the PoPs.
    pub shells: Shells,
}

impl TryFrom<&DemoArgs> for DemoOptions {
    type Error = FlagError;

    fn try_from(args: &DemoArgs) -> Result<Self, FlagError> {
        in_range("rtt-ms", args.rtt_ms, 0.0..=5_000.0)?;
        in_range("loss-pct", args.loss_pct, 0.0..=90.0)?;
        in_range("burst", args.burst, 1.0..=1_000.0)?;
        in_range("rate-mbps", args.rate_mbps, 0.1..=10_000.0)?;
        let queue_ms = args.queue_ms.unwrap_or(args.rtt_ms.max(LEAST_DEFAULT_QUEUE_MS));
        in_range("queue-ms", queue_ms, 0.0..=10_000.0)?;
        in_range("seconds", args.seconds, 0.1..=86_400.0)?;
        in_range("ping-connections", args.ping_connections as f64, 1.0..=64.0)?;
        let ping_connections = match args.ping {
            Switch::On => args.ping_connections,
            Switch::Off => 0,
        };
        if args.bulk == Bulk::Off && ping_connections == 0 {
            return Err(FlagError::NothingToDo);
        }
        let millis = |ms: f64| Duration::from_secs_f64(ms / 1e3);
        let options = Self {
            rtt: millis(args.rtt_ms),
            loss: args.loss_pct / 100.0,
            burst: args.burst,
            rate_mbps: args.rate_mbps,
            queue: millis(queue_ms),
            duration: Duration::from_secs_f64(args.seconds),
            seed: Seed::new(args.seed),
            bulk: args.bulk,
            ping_connections,
            shells: args.shell,
        };
        options.link().validate()?;
        Ok(options)
    }
}

impl DemoOptions {
    /// The link, the same in each direction.
    #[must_use]
    pub fn link(&self) -> LinkConfig {
        let average = self.loss;
        let loss = if self.burst > 1.0 {
            Loss::GilbertElliott { average, mean_burst: Burst::Packets(self.burst) }
        } else {
            Loss::Bernoulli { average }
        };
        LinkConfig {
            mtu: Some(MTU),
            rate: Some(Rate {
                mbps: self.rate_mbps,
                queue: QueueLimit::Time(self.queue),
                mark_above: None,
            }),
            loss,
            delay: self.rtt / 2,
            ..LinkConfig::default()
        }
    }
}

pub(super) fn in_range(
    flag: &'static str,
    found: f64,
    range: RangeInclusive<f64>,
) -> Result<(), FlagError> {
    if range.contains(&found) {
        Ok(())
    } else {
        Err(FlagError::Range { flag, found, least: *range.start(), most: *range.end() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(flags: &[&str]) -> Result<DemoOptions, String> {
        let args = DemoArgs::from_args(&["demo"], flags).map_err(|exit| exit.output)?;
        DemoOptions::try_from(&args).map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_are_a_lossy_ocean() {
        let options = options(&[]).expect("valid");
        assert_eq!(options.rtt, Duration::from_millis(40));
        assert_eq!(options.queue, options.rtt);
        assert_eq!(options.link().loss, Loss::Bernoulli { average: 0.05 });
        assert_eq!((options.bulk, options.ping_connections), (Bulk::Down, 8));
        assert_eq!(options.duration, Duration::from_secs(10));
        assert_eq!(options.shells, Shells([ShellKind::Mio; 2]));
    }

    #[test]
    fn a_shell_drives_both_pops_or_one_of_them() {
        use ShellKind::{Mio, Smol};
        for (flag, wanted) in [
            ("mio", [Mio, Mio]),
            ("smol", [Smol, Smol]),
            ("mio,smol", [Mio, Smol]),
            ("smol, mio", [Smol, Mio]),
        ] {
            assert_eq!(options(&["--shell", flag]).expect("valid").shells, Shells(wanted));
        }
    }

    #[test]
    fn bad_flags_are_refused_in_one_line_that_names_them() {
        for (flags, wanted) in [
            (&["--loss-pct", "91"][..], "--loss-pct 91: give a number from 0 to 90"),
            (&["--loss-pct", "NaN"], "--loss-pct NaN: give a number from 0 to 90"),
            (&["--seconds", "0"], "--seconds 0: give a number from 0.1 to 86400"),
            (&["--burst", "0.5"], "--burst 0.5: give a number from 1 to 1000"),
            (&["--ping-connections", "0"], "--ping-connections 0: give a number from 1 to 64"),
            (&["--bulk", "off", "--ping", "off"], "nothing would be sent"),
            (&["--loss-pct", "80", "--burst", "2"], "give a mean burst of at least 4.00"),
            (&["--shell", "tokio"], "\"tokio\": neither mio nor smol"),
            (&["--shell", "mio,"], "\"\": neither mio nor smol"),
            (&["--shell", "mio,smol,mio"], "\"smol,mio\": neither mio nor smol"),
            (&["--bulk", "maybe"], "\"maybe\" is none of on, up, both, off"),
        ] {
            let error = options(flags).expect_err("refused");
            assert!(error.contains(wanted), "{flags:?}: {error}");
            assert_eq!(error.trim().lines().count(), 1, "{error}");
        }
    }
}
