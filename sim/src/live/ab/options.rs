//! The flags of `entrouter-sim ab`, and what they amount to.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use argh::FromArgs;
use serde::Serialize;

use crate::live::link::{Shape, ShapeFlags};
use crate::live::options::{FlagError, in_range};
use crate::live::shell::{ShellKind, Shells};

/// The relay against this kernel's own TCP, one after the other on the same link with the same luck
/// (Linux, root): a live link as `entrouter-sim link` makes it, a client on one side, an origin on
/// the other.
#[derive(FromArgs, Debug, Clone, PartialEq)]
#[argh(subcommand, name = "ab")]
pub struct AbArgs {
    /// what to compare, separated by commas: relay, and the kernel's congestion controls, over which
    /// the client connects straight to the origin (default relay,cubic,bbr)
    #[argh(option, default = "List(vec![System::Relay, kernel(\"cubic\"), kernel(\"bbr\")])")]
    pub systems: List<System>,
    /// what to measure, separated by commas: bulk, connect, ping, beside (default all)
    #[argh(option, default = "List(Measure::ALL.to_vec())")]
    pub measure: List<Measure>,
    /// instead: a bulk flow of each of the systems, all at the same time on one link
    #[argh(switch)]
    pub fair: bool,
    /// round trip time in milliseconds (default 271)
    #[argh(option, default = "271.0")]
    pub rtt_ms: f64,
    /// rate in Mbit/s of IP packets, in each direction (default 100)
    #[argh(option, default = "100.0")]
    pub rate_mbps: f64,
    /// average loss in percent, in each direction; several separated by commas are several cases
    /// (default 0)
    #[argh(option, default = "List(vec![0.0])")]
    pub loss_pct: List<f64>,
    /// average loss in percent from the origin to the client (default: as --loss-pct)
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
    /// seed of the link's luck and of the data (default 1)
    #[argh(option, default = "1")]
    pub seed: u64,
    /// how long bulk data is sent (default 20)
    #[argh(option, default = "20.0")]
    pub seconds: f64,
    /// bulk data goes down (origin to client) or up (default down)
    #[argh(option, default = "Direction::Down")]
    pub direction: Direction,
    /// connections that "connect" opens, at most 8 at a time (default 200)
    #[argh(option, default = "200")]
    pub connects: u64,
    /// round trips of "ping" and, after the start, of "beside" (default 1000)
    #[argh(option, default = "1000")]
    pub round_trips: u64,
    /// what counts as the start of the bulk flow in "beside", in seconds (default 5)
    #[argh(option, default = "5.0")]
    pub startup_s: f64,
    /// what drives the relay's PoPs: mio, smol, or one each for PoP A, where the clients are, and PoP B,
    /// such as mio,smol (default mio)
    #[argh(option, default = "Shells([ShellKind::Mio; 2])")]
    pub shell: Shells,
    /// congestion control of the relay's own TCP, all on loopback (default: the system's)
    #[argh(option)]
    pub loopback: Option<String>,
    /// print the table as JSON
    #[argh(switch)]
    pub json: bool,
}

/// Some of a kind, separated by commas.
#[derive(Debug, Clone, PartialEq)]
pub struct List<T>(pub Vec<T>);

impl<T: FromStr<Err: fmt::Display>> FromStr for List<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let part = |part: &str| part.trim().parse().map_err(|error| format!("{part:?}: {error}"));
        text.split(',').map(part).collect::<Result<_, _>>().map(Self)
    }
}

/// What is compared.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum System {
    /// Two PoPs between client and origin.
    Relay,
    /// Nothing between them, and this congestion control.
    Kernel(String),
}

fn kernel(name: &str) -> System {
    System::Kernel(name.to_owned())
}

impl FromStr for System {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "relay" {
            Ok(Self::Relay)
        } else if is_name(text) {
            Ok(kernel(text))
        } else {
            Err("neither relay nor the name of a congestion control")
        }
    }
}

/// Of a congestion control, as the kernel has them (at most 15 characters).
fn is_name(text: &str) -> bool {
    (1..16).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Relay => "relay",
            Self::Kernel(name) => name,
        })
    }
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// One long flow.
    Bulk,
    /// From the first packet of a connection to the first byte of an answer.
    Connect,
    /// Round trips.
    Ping,
    /// Round trips beside one long flow.
    Beside,
}

impl Measure {
    const ALL: [Self; 4] = [Self::Bulk, Self::Connect, Self::Ping, Self::Beside];
}

impl FromStr for Measure {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "bulk" => Ok(Self::Bulk),
            "connect" => Ok(Self::Connect),
            "ping" => Ok(Self::Ping),
            "beside" => Ok(Self::Beside),
            _ => Err("none of bulk, connect, ping, beside"),
        }
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bulk => "bulk",
            Self::Connect => "connect",
            Self::Ping => "ping",
            Self::Beside => "beside",
        })
    }
}

/// Which way bulk data goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From the origin to the client.
    Down,
    /// From the client to the origin.
    Up,
}

impl FromStr for Direction {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "down" => Ok(Self::Down),
            "up" => Ok(Self::Up),
            _ => Err("neither down nor up"),
        }
    }
}

/// What `entrouter-sim ab` is to do; consistent.
#[derive(Debug, Clone, PartialEq)]
pub struct AbOptions {
    /// The links, one for each case; never empty.
    pub shapes: Vec<Shape>,
    /// What to compare.
    pub systems: Vec<System>,
    /// What to measure.
    pub measures: Vec<Measure>,
    /// All systems at once, bulk only.
    pub fair: bool,
    /// How long bulk data is sent.
    pub duration: Duration,
    /// Which way.
    pub direction: Direction,
    /// Connections to open.
    pub connects: u64,
    /// Round trips to make.
    pub round_trips: u64,
    /// The start of the bulk flow beside which round trips are made.
    pub startup: Duration,
    /// What drives the relay's PoPs.
    pub shells: Shells,
    /// Congestion control of the relay's TCP; `None`: the system's default.
    pub loopback: Option<String>,
}

impl TryFrom<&AbArgs> for AbOptions {
    type Error = FlagError;

    fn try_from(args: &AbArgs) -> Result<Self, FlagError> {
        let shape = |&loss_pct: &f64| {
            Shape::try_from(ShapeFlags {
                rtt_ms: args.rtt_ms,
                rate_mbps: args.rate_mbps,
                loss_pct,
                loss_back_pct: args.loss_back_pct,
                burst: args.burst,
                queue_ms: args.queue_ms,
                queue_bdp: args.queue_bdp,
                jitter_ms: args.jitter_ms,
                mark_ms: args.mark_ms,
                mtu: args.mtu,
                seed: args.seed,
            })
        };
        let shapes = args.loss_pct.0.iter().map(shape).collect::<Result<_, _>>()?;
        in_range("seconds", args.seconds, 1.0..=86_400.0)?;
        in_range("startup-s", args.startup_s, 0.0..=86_400.0)?;
        in_range("connects", args.connects as f64, 1.0..=1e6)?;
        in_range("round-trips", args.round_trips as f64, 1.0..=1e8)?;
        if let Some(found) = args.loopback.clone().filter(|name| !is_name(name)) {
            return Err(FlagError::Congestion { found });
        }
        Ok(Self {
            shapes,
            systems: args.systems.0.clone(),
            measures: args.measure.0.clone(),
            fair: args.fair,
            duration: Duration::from_secs_f64(args.seconds),
            direction: args.direction,
            connects: args.connects,
            round_trips: args.round_trips,
            startup: Duration::from_secs_f64(args.startup_s),
            shells: args.shell,
            loopback: args.loopback.clone(),
        })
    }
}

impl AbOptions {
    /// Those of the kernel that will be asked for.
    pub(super) fn congestion_controls(&self) -> Vec<&str> {
        let kernel = self.systems.iter().filter_map(|system| match system {
            System::Relay => None,
            System::Kernel(name) => Some(name.as_str()),
        });
        self.loopback.as_deref().into_iter().chain(kernel).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(flags: &[&str]) -> Result<AbOptions, String> {
        let args = AbArgs::from_args(&["ab"], flags).map_err(|exit| exit.output)?;
        AbOptions::try_from(&args).map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_measure_everything_of_three_systems() {
        let options = options(&[]).expect("valid");
        assert_eq!(options.systems, [System::Relay, kernel("cubic"), kernel("bbr")]);
        assert_eq!(options.measures, Measure::ALL);
        assert_eq!(options.congestion_controls(), ["cubic", "bbr"]);
        assert_eq!((options.connects, options.round_trips), (200, 1_000));
        assert_eq!(options.shapes.len(), 1);
        assert_eq!(options.shells, Shells([ShellKind::Mio; 2]));
    }

    #[test]
    fn several_losses_are_several_links() {
        let options = options(&["--loss-pct", "0, 1,5", "--burst", "3"]).expect("valid");
        let losses: Vec<f64> = options.shapes.iter().map(|shape| shape.loss_back_pct).collect();
        assert_eq!(losses, [0.0, 1.0, 5.0]);
    }

    #[test]
    fn bad_flags_are_refused_in_one_line_that_names_them() {
        for (flags, wanted) in [
            (&["--systems", "relay,"][..], "neither relay nor the name"),
            (&["--measure", "bulk,all"], "\"all\": none of bulk, connect, ping, beside"),
            (&["--loss-pct", "1,x"], "\"x\": invalid float"),
            (&["--loss-pct", "1,91"], "--loss-pct 91: give a number from 0 to 90"),
            (&["--direction", "both"], "neither down nor up"),
            (&["--seconds", "0.5"], "--seconds 0.5: give a number from 1 to 86400"),
            (&["--shell", "mio,tokio"], "\"tokio\": neither mio nor smol"),
            (&["--connects", "0"], "--connects 0: give a number from 1"),
            (&["--loopback", "a b"], "--loopback \"a b\": give the name of a congestion control"),
        ] {
            let error = options(flags).expect_err("refused");
            assert!(error.contains(wanted), "{flags:?}: {error}");
            assert_eq!(error.trim().lines().count(), 1, "{error}");
        }
    }
}
