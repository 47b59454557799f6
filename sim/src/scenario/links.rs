//! Links and their parameters.

use std::collections::BTreeMap;
use std::time::Duration;

use toml::Table;

use super::error::Problem;
use super::raw::{RawLink, read};
use super::values::At;
use super::{LinkId, Pop, PopId, Way};
use crate::link::{Burst, Jitter, LinkConfig, Loss, QueueLimit, Rate, Reorder};

/// A link between two PoPs, which are peers of each other through it.
#[derive(Debug, Clone, PartialEq)]
pub struct LinkSpec {
    /// Its ends; not the same.
    pub ends: (PopId, PopId),
    /// From the first end to the second.
    pub forth: LinkConfig,
    /// From the second end to the first.
    pub back: LinkConfig,
    /// Delay of both directions together, without jitter.
    pub rtt: Duration,
}

/// Ethernet's; larger packets are rare between PoPs.
const DEFAULT_MTU: usize = 1_500;

/// Keys of one direction, each within its range.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Part {
    rtt: Option<Duration>,
    rate_mbps: Option<f64>,
    queue: Option<Queue>,
    mark: Option<Duration>,
    loss: Option<f64>,
    burst: Option<MeanBurst>,
    jitter: Option<Duration>,
    jitter_reorders: Option<bool>,
    reorder: Option<f64>,
    reorder_by: Option<Duration>,
    duplicate: Option<f64>,
    corrupt: Option<f64>,
    replay: Option<f64>,
    mtu: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Queue {
    Bdp(f64),
    Limit(QueueLimit),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum MeanBurst {
    /// Each packet for itself.
    Independent,
    Of(Burst),
}

impl Part {
    /// Without `forth` and `back`, which are the caller's.
    fn new(at: At<'_>, raw: &RawLink) -> Result<Self, Problem> {
        let rate_mbps = raw
            .rate_mbps
            .map(|mbps| at.number("rate_mbps", mbps, 0.001..=1e6, "Mbit/s"))
            .transpose()?;
        let mtu = raw
            .mtu
            .map(|mtu| at.count("mtu", mtu, 576..=65_535, "bytes of an IP packet"))
            .transpose()?;
        Ok(Self {
            rtt: at.millis("rtt_ms", raw.rtt_ms, 0.0..=60_000.0)?,
            rate_mbps,
            queue: queue(at, raw)?,
            mark: at.millis("mark_ms", raw.mark_ms, 0.0..=600_000.0)?,
            loss: at.share("loss_pct", raw.loss_pct)?,
            burst: burst(at, raw)?,
            jitter: at.millis("jitter_ms", raw.jitter_ms, 0.0..=60_000.0)?,
            jitter_reorders: raw.jitter_reorders,
            reorder: at.share("reorder_pct", raw.reorder_pct)?,
            reorder_by: at.millis("reorder_ms", raw.reorder_ms, 0.0..=60_000.0)?,
            duplicate: at.share("duplicate_pct", raw.duplicate_pct)?,
            corrupt: at.share("corrupt_pct", raw.corrupt_pct)?,
            replay: at.share("replay_pct", raw.replay_pct)?,
            mtu: mtu.and_then(|mtu| usize::try_from(mtu).ok()),
        })
    }

    fn over(self, below: Self) -> Self {
        Self {
            rtt: self.rtt.or(below.rtt),
            rate_mbps: self.rate_mbps.or(below.rate_mbps),
            queue: self.queue.or(below.queue),
            mark: self.mark.or(below.mark),
            loss: self.loss.or(below.loss),
            burst: self.burst.or(below.burst),
            jitter: self.jitter.or(below.jitter),
            jitter_reorders: self.jitter_reorders.or(below.jitter_reorders),
            reorder: self.reorder.or(below.reorder),
            reorder_by: self.reorder_by.or(below.reorder_by),
            duplicate: self.duplicate.or(below.duplicate),
            corrupt: self.corrupt.or(below.corrupt),
            replay: self.replay.or(below.replay),
            mtu: self.mtu.or(below.mtu),
        }
    }

    fn delay(self) -> Duration {
        self.rtt.unwrap_or_default() / 2
    }

    /// `rtt` is that of the link, which a queue in BDP is a multiple of.
    fn config(self, at: At<'_>, rtt: Duration) -> Result<LinkConfig, Problem> {
        let config = LinkConfig {
            mtu: Some(self.mtu.unwrap_or(DEFAULT_MTU)),
            rate: self.rate(at, rtt)?,
            loss: self.loss(),
            delay: self.delay(),
            jitter: self
                .jitter
                .filter(|range| !range.is_zero())
                .map(|range| Jitter { range, reorders: self.jitter_reorders.unwrap_or(true) }),
            reorder: self.reorder(at)?,
            duplicate: self.duplicate.unwrap_or_default(),
            corrupt: self.corrupt.unwrap_or_default(),
            replay: self.replay.unwrap_or_default(),
        };
        match config.validate() {
            Ok(()) => Ok(config),
            Err(error) => Err(Problem::new(at.0, error.to_string())),
        }
    }

    fn rate(self, at: At<'_>, rtt: Duration) -> Result<Option<Rate>, Problem> {
        let mark = self.mark.filter(|mark| !mark.is_zero());
        let Some(mbps) = self.rate_mbps else {
            let limit = match (self.queue, mark) {
                (None, None) => return Ok(None),
                (Some(_), _) => "a queue",
                (None, Some(_)) => "marking",
            };
            let problem = format!("{limit} without a rate has nothing to wait for: give rate_mbps");
            return Err(Problem::new(at.0, problem));
        };
        let queue = match self.queue.unwrap_or(Queue::Bdp(1.0)) {
            Queue::Bdp(_) if rtt.is_zero() => {
                let problem = "without a round trip a queue in BDP holds nothing: \
                               give rtt_ms, or queue_ms";
                return Err(Problem::new(at.0, problem));
            }
            // Both are bounded, so that this fits by far.
            Queue::Bdp(times) => QueueLimit::Time(rtt.mul_f64(times)),
            Queue::Limit(limit) => limit,
        };
        Ok(Some(Rate { mbps, queue, mark_above: mark.map(QueueLimit::Time) }))
    }

    fn loss(self) -> Loss {
        let average = self.loss.unwrap_or_default();
        match self.burst {
            _ if average <= 0.0 => Loss::None,
            // Where nothing arrives there are no bursts.
            _ if average >= 1.0 => Loss::Bernoulli { average: 1.0 },
            None | Some(MeanBurst::Independent) => Loss::Bernoulli { average },
            Some(MeanBurst::Of(mean_burst)) => Loss::GilbertElliott { average, mean_burst },
        }
    }

    fn reorder(self, at: At<'_>) -> Result<Option<Reorder>, Problem> {
        let probability = self.reorder.unwrap_or_default();
        match self.reorder_by {
            _ if probability <= 0.0 => Ok(None),
            Some(by) => Ok(Some(Reorder { probability, by })),
            None => Err(at.problem("reorder_ms", "say how much later such packets arrive")),
        }
    }
}

fn queue(at: At<'_>, raw: &RawLink) -> Result<Option<Queue>, Problem> {
    let bdp = raw
        .queue_bdp
        .map(|times| at.number("queue_bdp", times, 0.0..=1_000.0, "times rate × RTT"))
        .transpose()?;
    let time = at.millis("queue_ms", raw.queue_ms, 0.0..=600_000.0)?;
    let kib = raw
        .queue_kib
        .map(|kib| at.number("queue_kib", kib, 0.0..=4_194_304.0, "KiB"))
        .transpose()?;
    match (bdp, time, kib) {
        (None, None, None) => Ok(None),
        (Some(times), None, None) => Ok(Some(Queue::Bdp(times))),
        (None, Some(time), None) => Ok(Some(Queue::Limit(QueueLimit::Time(time)))),
        (None, None, Some(kib)) => {
            Ok(Some(Queue::Limit(QueueLimit::Bytes((kib * 1024.0).round() as u64))))
        }
        _ => Err(Problem::new(at.0, "give one of queue_bdp, queue_ms and queue_kib")),
    }
}

fn burst(at: At<'_>, raw: &RawLink) -> Result<Option<MeanBurst>, Problem> {
    let time = at.millis("burst_ms", raw.burst_ms, 0.001..=600_000.0)?;
    match (raw.burst, time) {
        (None, None) => Ok(None),
        (None, Some(time)) => Ok(Some(MeanBurst::Of(Burst::Time(time)))),
        (Some(0.0), None) => Ok(Some(MeanBurst::Independent)),
        (Some(packets), None) => {
            let unit = "packets, or 0 for independent losses";
            let packets = at.number("burst", packets, 1.0..=1e6, unit)?;
            Ok(Some(MeanBurst::Of(Burst::Packets(packets))))
        }
        (Some(_), Some(_)) => Err(Problem::new(at.0, "give one of burst and burst_ms")),
    }
}

/// Both directions of a link, as keys.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Pair {
    forth: Part,
    back: Part,
}

impl Pair {
    /// The keys of a table, with those of `forth` and `back` over them.
    fn read(key: &str, table: Table) -> Result<Self, Problem> {
        let raw: RawLink = read(key, table)?;
        let at = At(key);
        let common = Part::new(at, &raw)?;
        let side = |name: &str, side: Option<&RawLink>| match side {
            None => Ok(common),
            Some(raw) => {
                let key = at.key(name);
                let inner = At(&key);
                if raw.forth.is_some() || raw.back.is_some() {
                    return Err(Problem::new(
                        key,
                        "this is one direction: it has no forth and back",
                    ));
                }
                Ok(Part::new(inner, raw)?.over(common))
            }
        };
        Ok(Self {
            forth: side("forth", raw.forth.as_deref())?,
            back: side("back", raw.back.as_deref())?,
        })
    }

    fn over(self, below: Self) -> Self {
        Self { forth: self.forth.over(below.forth), back: self.back.over(below.back) }
    }

    fn rtt(self) -> Duration {
        self.forth.delay() + self.back.delay()
    }
}

/// A link with the keys it came from, which events change.
#[derive(Debug, Clone)]
struct LinkState {
    ends: (PopId, PopId),
    /// Where its keys stand, for errors.
    key: String,
    configured: Pair,
    now: Pair,
    spec: LinkSpec,
}

/// All links, as they are at some time.
#[derive(Debug, Clone)]
pub(super) struct Links(Vec<LinkState>);

/// A direction that changes, if it does.
pub(super) type Change = (Option<LinkConfig>, Option<LinkConfig>);

impl Links {
    pub(super) fn specs(&self) -> Vec<LinkSpec> {
        self.0.iter().map(|link| link.spec.clone()).collect()
    }

    pub(super) fn sole(&self) -> Option<LinkId> {
        (self.0.len() == 1).then_some(LinkId(0))
    }

    /// The link of that name, and whether it names the ends the other way round.
    pub(super) fn named(&self, pops: &[Pop], name: &str) -> Result<(LinkId, bool), String> {
        let (a, b) = ends(pops, name)?;
        let found = self.0.iter().position(|link| link.ends == (a, b) || link.ends == (b, a));
        let found = found.ok_or_else(|| format!("no link joins {name}: add [links.{name}]"))?;
        Ok((LinkId(found), self.0[found].ends == (b, a)))
    }

    /// Changes keys of a link; `at` is where they stand.
    pub(super) fn set(
        &mut self,
        at: At<'_>,
        link: LinkId,
        way: Way,
        keys: Part,
    ) -> Result<Change, Problem> {
        let link = &mut self.0[link.0];
        if way.is_forth() {
            link.now.forth = keys.over(link.now.forth);
        }
        if way.is_back() {
            link.now.back = keys.over(link.now.back);
        }
        link.change(at, way)
    }

    /// Back to the configured keys.
    pub(super) fn restore(
        &mut self,
        at: At<'_>,
        link: LinkId,
        way: Way,
    ) -> Result<Change, Problem> {
        let link = &mut self.0[link.0];
        if way.is_forth() {
            link.now.forth = link.configured.forth;
        }
        if way.is_back() {
            link.now.back = link.configured.back;
        }
        link.change(at, way)
    }
}

impl LinkState {
    fn change(&self, at: At<'_>, way: Way) -> Result<Change, Problem> {
        let rtt = self.now.rtt();
        let one = |wanted: bool, part: Part| wanted.then(|| part.config(at, rtt)).transpose();
        Ok((one(way.is_forth(), self.now.forth)?, one(way.is_back(), self.now.back)?))
    }
}

/// The keys of an event's `set`.
pub(super) fn part(key: &str, table: Table) -> Result<Part, Problem> {
    let raw: RawLink = read(key, table)?;
    if raw.forth.is_some() || raw.back.is_some() {
        return Err(Problem::new(key, "say direction = \"forth\" or \"back\" beside it"));
    }
    Part::new(At(key), &raw)
}

/// All links of a file, by name.
pub(super) fn links(
    pops: &[Pop],
    defaults: Table,
    named: Option<BTreeMap<String, Table>>,
) -> Result<Links, Problem> {
    let defaults = Pair::read("link", defaults)?;
    let mut links: Vec<LinkState> = Vec::new();
    match named {
        Some(named) => {
            for (name, table) in named {
                let key = format!("links.{name}");
                let ends = ends(pops, &name).map_err(|problem| Problem::new(&key, problem))?;
                let known = |link: &&LinkState| link.ends == ends || link.ends == (ends.1, ends.0);
                if let Some(other) = links.iter().find(known) {
                    let problem = format!("{} is the same link: keep one of them", other.key);
                    return Err(Problem::new(key, problem));
                }
                let pair = Pair::read(&key, table)?.over(defaults);
                links.push(link(pops, key, ends, pair)?);
            }
        }
        None if pops.len() == 2 => {
            links.push(link(pops, "link".to_owned(), (PopId(0), PopId(1)), defaults)?);
        }
        None => {}
    }
    if links.is_empty() {
        let problem = "say which PoPs are linked, with a table [links.A-B] for each pair";
        return Err(Problem::new("links", problem));
    }
    Ok(Links(links))
}

fn link(pops: &[Pop], key: String, ends: (PopId, PopId), pair: Pair) -> Result<LinkState, Problem> {
    if pops[ends.0.0].nat && pops[ends.1.0].nat {
        let problem = "both ends are behind a NAT, so that neither can reach the other: \
                       take nat = true from one";
        return Err(Problem::new(key, problem));
    }
    let rtt = pair.rtt();
    let side = |name: &str, part: Part| part.config(At(&At(&key).key(name)), rtt);
    // What is wrong with both is told without naming one.
    let forth = if pair.forth == pair.back {
        pair.forth.config(At(&key), rtt)?
    } else {
        side("forth", pair.forth)?
    };
    let back = side("back", pair.back)?;
    let spec = LinkSpec { ends, forth, back, rtt };
    Ok(LinkState { ends, key, configured: pair, now: pair, spec })
}

/// The PoPs that `A-B` names. Their names may have a `-`, too.
fn ends(pops: &[Pop], name: &str) -> Result<(PopId, PopId), String> {
    let pop = |name: &str| pops.iter().position(|pop| pop.name.as_str() == name).map(PopId);
    let mut found =
        name.match_indices('-').filter_map(|(i, _)| Some((pop(&name[..i])?, pop(&name[i + 1..])?)));
    match (found.next(), found.next()) {
        (Some((a, b)), None) if a == b => {
            Err(format!("\"{name}\" joins a PoP with itself: name two"))
        }
        (Some(ends), None) => Ok(ends),
        (Some(_), Some(_)) => {
            Err(format!("\"{name}\" can be read as more than one pair of PoPs: rename one of them"))
        }
        (None, _) => Err(format!("\"{name}\" names no two PoPs: write A-B with names of [[pop]]")),
    }
}
