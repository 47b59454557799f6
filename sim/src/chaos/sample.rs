//! What a seed stands for: a mesh, its links, its traffic, and what goes wrong.

use std::fmt;
use std::time::Duration;

use toml::{Table, Value};

use super::connectors::beside;
use super::draws::Draws;
use super::faults::Faults;
use super::shape::links;
use crate::engine::{Fault, HostId};
use crate::link::LinkConfig;
use crate::mesh::{Connector, Pop};
use crate::seed::Seed;
use crate::traffic::{Amount, Arrivals, Habits, Kind, Plan, Workload};

/// Application bytes that a seed moves at least, if nothing is reset.
pub const MIN_BYTES: u64 = 2_000_000;
/// Of which one workload moves at most so many: a seed is many small things, not one large.
const MAX_BYTES: u64 = 1_000_000;
/// Datagrams of a seed with one link, at most.
const MAX_PACKETS: u64 = 50_000;
/// And for each further link.
const MAX_PACKETS_OF_LINK: u64 = 8_000;
/// PoPs of the largest mesh.
pub(super) const MOST_POPS: usize = 12;
/// What goes wrong in a seed, at least.
pub const MIN_FAULTS: usize = 3;

/// Everything sampled from a seed.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The seed.
    pub seed: Seed,
    /// The PoPs.
    pub pops: Vec<Pop>,
    /// By which time their wall clocks are ahead, in nanoseconds.
    pub clocks: Vec<i64>,
    /// The host that is behind a NAT or changes its address, if there is one. (Two neighbours that
    /// both moved could not find each other: no one told them.)
    pub mobile: Option<HostId>,
    /// Whether it is behind a NAT.
    pub nat: bool,
    /// Hosts beside the mesh; each has a link and a workload, the last of them.
    pub connectors: Vec<Connector>,
    /// Ends, and both directions.
    pub links: Vec<Connected>,
    /// The traffic.
    pub workloads: Vec<Workload>,
    /// What goes wrong, and when.
    pub faults: Vec<(Duration, Fault)>,
    /// How many of the faults make something worse: the rest mend that.
    pub misfortunes: usize,
    /// When all is well again; at least 30 s.
    pub heals_at: Duration,
    /// Between two probes of a neighbour: an idle mesh sends little else.
    pub probe_interval: Duration,
    /// The shortest age at which keys are changed.
    pub rekey_after: Duration,
}

/// A link between two hosts.
#[derive(Debug, Clone, PartialEq)]
pub struct Connected {
    /// Its ends.
    pub ends: (HostId, HostId),
    /// From the first to the second.
    pub forth: LinkConfig,
    /// From the second to the first.
    pub back: LinkConfig,
}

impl Sample {
    /// What `seed` stands for.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let seed = Seed::new(seed);
        let mut draws = Draws::new(seed, "mesh");
        let count = draws.pick(&[2, 2, 2, 3, 3, 4, 5, 6, 7]);
        let count = if count == 7 { draws.between(7, MOST_POPS as u64) as usize } else { count };
        let scarce = draws.one_in(6);
        // Probes of many links at the shortest interval would be most of what a seed sends.
        let shortest = if count == 2 { 100 } else { 500 };
        let probe_ms = draws.pick(&[shortest, 500, 500, 2_000]);
        let rekey_s = draws.pick(&[1, 2, 5, 20, 120]);
        let mobile = draws.one_in(2).then(|| HostId(draws.index(count)));
        let nat = mobile.is_some() && draws.one_in(2);
        let pops = (0..count).map(|nth| Pop {
            name: char::from(b'a' + nth as u8).to_string(),
            hidden: nat && mobile == Some(HostId(nth)),
            config: config(&mut draws, scarce, probe_ms, rekey_s),
        });
        let pops = pops.collect();
        let clocks = (0..count)
            .map(|_| draws.pick(&[0, 0, 1, -1]) * draws.millis(1, 90_000).as_nanos() as i64)
            .collect();
        let mut links = links(seed, count);
        let mut workloads = workloads(seed, count);
        let heals_at = draws.millis(30_000, 40_000);
        let (mut faults, misfortunes) = Faults::new(seed, count, &links, mobile, heals_at).sample();
        let beside = beside(seed, count, heals_at);
        links.extend(beside.links);
        workloads.extend(beside.workloads);
        faults.extend(beside.faults);
        faults.sort_by_key(|(at, _)| *at);
        if scarce {
            faults.retain(|(_, fault)| *fault != Fault::Excuse(None));
            faults.insert(0, (Duration::ZERO, Fault::Excuse(Some("memory is scarce"))));
        }
        let probe_interval = Duration::from_millis(probe_ms);
        let rekey_after = Duration::from_secs(rekey_s);
        Self {
            seed,
            pops,
            clocks,
            mobile,
            nat,
            connectors: beside.connectors,
            links,
            workloads,
            faults,
            misfortunes,
            heals_at,
            probe_interval,
            rekey_after,
        }
    }

    /// Datagrams that a run sends at most: those of the traffic go over several links, and each link has
    /// its probes.
    #[must_use]
    pub fn max_packets(&self) -> u64 {
        MAX_PACKETS + MAX_PACKETS_OF_LINK * (self.links.len() as u64 - 1)
    }

    /// What a host is called.
    #[must_use]
    pub fn name(&self, host: HostId) -> &str {
        match self.pops.get(host.0) {
            Some(pop) => &pop.name,
            None => self.connectors.get(host.0 - self.pops.len()).map_or("", |c| &c.name),
        }
    }

    /// Application bytes of all connections, if none is reset.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.workloads.iter().filter(|w| !w.refused).map(bytes).sum()
    }
}

/// What one PoP is told beyond what the mesh asks for.
fn config(draws: &mut Draws, scarce: bool, probe_ms: u64, rekey_s: u64) -> Table {
    let section = |keys: &[(&str, u64)]| {
        let keys = keys.iter().map(|(key, value)| ((*key).to_owned(), Value::from(*value as i64)));
        Value::from(Table::from_iter(keys))
    };
    let window = draws.pick(&[64, 64, 200, 1024]);
    let memory = if scarce { draws.between(1, 2) } else { draws.pick(&[64, 1024]) };
    let limits =
        [("flow_window_kib", window), ("node_memory_mib", memory), ("rekey_after_s", rekey_s)];
    let mut table = Table::from_iter([
        ("mesh".to_owned(), section(&[("probe_interval_ms", probe_ms)])),
        ("limits".to_owned(), section(&limits)),
    ]);
    if draws.one_in(4) {
        let data = draws.between(1, 20);
        let parity = draws.between(0, data.min(8));
        let fixed = [("fec_data_shards", data), ("fec_parity_shards", parity)];
        table.insert("relay".to_owned(), section(&fixed));
    }
    table
}

/// Connections of all kinds, between hosts chosen by chance, of `MIN_BYTES` in all.
fn workloads(seed: Seed, count: usize) -> Vec<Workload> {
    let (mut draws, mut rests) = (Draws::new(seed, "workloads"), Draws::new(seed, "rests"));
    let mut all: Vec<Workload> = Vec::new();
    while all.len() < 4 || all.iter().filter(|w| !w.refused).map(bytes).sum::<u64>() < MIN_BYTES {
        let (from, to) = ends(&mut draws, count);
        let kind = kind(&mut draws);
        let small = matches!(kind, Kind::Exchanges { .. });
        let start = draws.millis(0, 20_000);
        let arrivals = match draws.between(0, 2) {
            0 if small => Arrivals::Every {
                gap: draws.millis(200, 2_000),
                until: start + draws.millis(0, 8_000),
            },
            1 => Arrivals::Together(draws.between(2, 5) as u32),
            _ => Arrivals::Together(1),
        };
        let plan = Plan {
            kind,
            half_close: draws.one_in(4),
            client: habits(&mut draws, &mut rests),
            origin: habits(&mut draws, &mut rests),
        };
        let name = format!("w{}", all.len());
        let refused = draws.one_in(12);
        let workload = Workload { name, from, to, start, arrivals, plan, refused };
        if bytes(&workload) <= MAX_BYTES {
            all.push(workload);
        }
    }
    all
}

/// A host and another one; in a mesh now and then the same.
fn ends(draws: &mut Draws, count: usize) -> (HostId, HostId) {
    let from = draws.index(count);
    let own = count > 2 && draws.one_in(10);
    let to = if own { from } else { (from + 1 + draws.index(count - 1)) % count };
    (HostId(from), HostId(to))
}

fn kind(draws: &mut Draws) -> Kind {
    let bulk = |draws: &mut Draws| {
        Amount::Bytes(match draws.between(0, 3) {
            0 => draws.between(8, 5_000),
            _ => draws.between(50_000, 500_000),
        })
    };
    match draws.between(0, 3) {
        0 => Kind::Download(bulk(draws)),
        1 => Kind::Upload(bulk(draws)),
        _ => Kind::Exchanges {
            count: draws.between(1, 40) as u32,
            request: draws.pick(&[8, 64, 1_200, 20_000]),
            answer: draws.pick(&[1, 64, 1_200, 20_000]),
            pause: draws.millis(0, 400),
        },
    }
}

fn habits(draws: &mut Draws, rests: &mut Draws) -> Habits {
    let slow = draws.one_in(8).then(|| draws.between(30_000, 1_000_000));
    let every = slow.and_then(|_| rests.one_in(2).then(|| rests.millis(100, 2_000)));
    // One that rests is slower still, so that it is waited for, and not the link.
    let reads = |rate: u64| if every.is_some() { (rate / 8).max(20_000) } else { rate };
    Habits {
        reads_per_second: slow.map(reads),
        reads_every: every,
        resets_after: draws.one_in(15).then(|| draws.between(1, 60_000)),
    }
}

fn bytes(workload: &Workload) -> u64 {
    let times = match workload.arrivals {
        Arrivals::Together(count) => u64::from(count),
        Arrivals::Every { gap, until } => {
            (until.saturating_sub(workload.start).as_nanos() / gap.as_nanos()) as u64 + 1
        }
    };
    let each = match workload.plan.kind {
        Kind::Exchanges { count, request, answer, .. } => u64::from(count) * (request + answer),
        Kind::Download(Amount::Bytes(bytes)) | Kind::Upload(Amount::Bytes(bytes)) => bytes,
        Kind::Download(Amount::For(_)) | Kind::Upload(Amount::For(_)) => 0,
    };
    times * each
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}", self.seed.get())?;
        let name = |host: HostId| self.name(host);
        for (pop, clock) in self.pops.iter().zip(&self.clocks) {
            let config = toml::to_string(&pop.config).unwrap_or_default().replace('\n', " ");
            writeln!(f, "  pop {}: clock {:+} ms; {config}", pop.name, clock / 1_000_000)?;
        }
        if let Some(host) = self.mobile {
            let nat = if self.nat { ", behind a NAT" } else { "" };
            writeln!(f, "  {} may move{nat}", name(host))?;
        }
        for connector in &self.connectors {
            writeln!(f, "  {connector:?}")?;
        }
        for link in &self.links {
            let (a, b) = (name(link.ends.0), name(link.ends.1));
            writeln!(f, "  link {a}>{b}: {:?}\n  link {b}>{a}: {:?}", link.forth, link.back)?;
        }
        for w in &self.workloads {
            let refused = if w.refused { ", refused" } else { "" };
            let (from, to) = (name(w.from), name(w.to));
            write!(f, "  {} {from}>{to} at {:?}: {:?}", w.name, w.start, w.arrivals)?;
            writeln!(f, " {:?}{refused}", w.plan)?;
        }
        for (at, fault) in &self.faults {
            writeln!(f, "  at {at:?}: {fault:?}")?;
        }
        write!(f, "  all is well at {:?}", self.heals_at)
    }
}
