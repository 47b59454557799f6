//! What a seed stands for: a mesh, its links, its traffic, and what goes wrong.

use std::fmt;
use std::time::Duration;

use toml::{Table, Value};

use super::draws::Draws;
use crate::engine::{Fault, HostId, LinkId, Rebind};
use crate::link::{Burst, Jitter, LinkConfig, Loss, QueueLimit, Rate, Reorder};
use crate::mesh::Pop;
use crate::seed::Seed;
use crate::traffic::{Amount, Arrivals, Habits, Kind, Plan, Workload};

/// Application bytes that a seed moves at least, if nothing is reset.
pub const MIN_BYTES: u64 = 2_000_000;
/// Of which one workload moves at most so many: a seed is many small things, not one large.
const MAX_BYTES: u64 = 1_000_000;
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
        let count = draws.pick(&[2, 2, 2, 3, 3, 4]);
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
        let links = links(seed, count);
        let workloads = workloads(seed, &links);
        let heals_at = draws.millis(30_000, 40_000);
        let (mut faults, misfortunes) = Faults::new(seed, count, &links, mobile, heals_at).sample();
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
            links,
            workloads,
            faults,
            misfortunes,
            heals_at,
            probe_interval,
            rekey_after,
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

/// A mesh in which every host has a neighbour.
fn links(seed: Seed, count: usize) -> Vec<Connected> {
    let mut draws = Draws::new(seed, "links");
    let mut ends: Vec<(usize, usize)> = (1..count).map(|b| (draws.index(b), b)).collect();
    for b in 1..count {
        for a in 0..b {
            if !ends.contains(&(a, b)) && draws.one_in(2) {
                ends.push((a, b));
            }
        }
    }
    let mut connect = |(a, b)| Connected {
        ends: (HostId(a), HostId(b)),
        forth: link(&mut draws),
        back: link(&mut draws),
    };
    ends.into_iter().map(&mut connect).collect()
}

/// One direction.
pub(super) fn link(draws: &mut Draws) -> LinkConfig {
    let delay = draws.millis(1, 120);
    let loss = draws.pick(&[0.0, 0.0, 0.005, 0.02, 0.05, 0.15, 0.3]);
    let loss = match draws.between(0, 2) {
        _ if loss == 0.0 => Loss::None,
        0 => {
            // Longer ones, in packets, could swallow every attempt at a handshake for ten seconds.
            let mean_burst = Burst::Packets(draws.between(2, 3) as f64);
            Loss::GilbertElliott { average: loss, mean_burst }
        }
        1 => {
            let mean_burst = Burst::Time(draws.millis(1, 60));
            Loss::GilbertElliott { average: loss, mean_burst }
        }
        _ => Loss::Bernoulli { average: loss },
    };
    let queue = match draws.one_in(2) {
        true => QueueLimit::Time(draws.millis(5, 300)),
        false => QueueLimit::Bytes(draws.between(4_000, 400_000)),
    };
    let mark_above = draws.one_in(4).then_some(QueueLimit::Time(Duration::from_millis(5)));
    let mbps = draws.pick(&[2.0, 5.0, 20.0, 100.0]);
    let reorders = draws.one_in(2);
    let range = draws.millis(0, delay.as_millis() as u64);
    let share = |draws: &mut Draws| draws.pick(&[0.0, 0.0, 0.0, 0.01, 0.1]);
    LinkConfig {
        mtu: draws.one_in(4).then(|| draws.between(1_280, 1_500) as usize),
        rate: (!draws.one_in(4)).then_some(Rate { mbps, queue, mark_above }),
        loss,
        delay,
        jitter: draws.one_in(3).then_some(Jitter { range, reorders }),
        reorder: draws.one_in(4).then(|| Reorder { probability: 0.02, by: draws.millis(1, 100) }),
        duplicate: share(draws),
        corrupt: share(draws),
        replay: share(draws),
    }
}

/// Connections of all kinds, over links chosen by chance, of `MIN_BYTES` in all.
fn workloads(seed: Seed, links: &[Connected]) -> Vec<Workload> {
    let (mut draws, mut rests) = (Draws::new(seed, "workloads"), Draws::new(seed, "rests"));
    let mut all: Vec<Workload> = Vec::new();
    while all.len() < 4 || all.iter().filter(|w| !w.refused).map(bytes).sum::<u64>() < MIN_BYTES {
        let (a, b) = links[draws.index(links.len())].ends;
        let (from, to) = if draws.one_in(2) { (a, b) } else { (b, a) };
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

/// Faults that leave every connection a way to complete, or an excuse.
struct Faults<'a> {
    draws: Draws,
    hosts: usize,
    links: &'a [Connected],
    mobile: Option<HostId>,
    end: Duration,
    /// What went wrong; a fault that mends another is none.
    misfortunes: usize,
    found: Vec<(Duration, Fault)>,
}

impl<'a> Faults<'a> {
    fn new(
        seed: Seed,
        hosts: usize,
        links: &'a [Connected],
        mobile: Option<HostId>,
        heals_at: Duration,
    ) -> Self {
        let end = heals_at - Duration::from_secs(1);
        Self {
            draws: Draws::new(seed, "faults"),
            hosts,
            links,
            mobile,
            end,
            misfortunes: 0,
            found: Vec::new(),
        }
    }

    fn sample(mut self) -> (Vec<(Duration, Fault)>, usize) {
        self.outages();
        let more = self.draws.between(1, 6) as usize;
        while self.misfortunes < MIN_FAULTS + more {
            self.nuisance();
        }
        self.found.sort_by_key(|(at, _)| *at);
        (self.found, self.misfortunes)
    }

    fn add(&mut self, at: Duration, fault: Fault) {
        self.found.push((at.min(self.end), fault));
    }

    fn host(&mut self) -> HostId {
        HostId(self.draws.index(self.hosts))
    }

    fn link(&mut self) -> LinkId {
        // The engine numbers both directions of each link, in order.
        LinkId::nth(self.draws.index(self.links.len() * 2))
    }

    fn configured(&self, way: LinkId) -> &LinkConfig {
        let link = &self.links[way.index() / 2];
        if way.index().is_multiple_of(2) { &link.forth } else { &link.back }
    }

    /// What lets nothing through for a while: one after the other, with time to recover between.
    fn outages(&mut self) {
        let mut at = self.draws.millis(500, 12_000);
        while at < self.end {
            self.misfortunes += 1;
            let mut over = at + self.draws.millis(50, 6_000);
            match self.draws.between(0, 6) {
                0 => {
                    let link = self.link();
                    self.add(at, Fault::Clog(link));
                    self.add(over, Fault::Release(link));
                }
                1 => {
                    let link = self.link();
                    self.add(at, Fault::Cut(link));
                    self.add(over, Fault::Mend(link));
                }
                2 => {
                    let sides = self.sides();
                    self.add(at, Fault::Partition(sides));
                    self.add(over, Fault::Heal);
                }
                3 => {
                    // So long that connections are given up.
                    over = at + self.draws.millis(8_000, 40_000);
                    let sides = self.sides();
                    self.add(at, Fault::Excuse(Some("there was no way for long")));
                    self.add(at, Fault::Partition(sides));
                    self.add(over, Fault::Heal);
                    self.add(over, Fault::Excuse(None));
                }
                4 => {
                    let host = self.host();
                    over = at + self.draws.millis(12_000, 16_000);
                    self.add(at, Fault::Drain(host));
                    self.restart(over, host);
                }
                _ => {
                    let host = self.host();
                    self.add(at, Fault::Crash(host));
                    self.restart(over, host);
                }
            }
            at = over + self.draws.millis(4_000, 15_000);
        }
    }

    fn restart(&mut self, at: Duration, host: HostId) {
        let step = self.draws.pick(&[0, 0, 1, -1]) * self.draws.millis(1, 90_000).as_nanos() as i64;
        self.add(at, Fault::Restart(host, step));
    }

    /// Two sets of hosts.
    fn sides(&mut self) -> Vec<Vec<HostId>> {
        let cut = self.draws.between(1, (1 << self.hosts) - 2);
        let side =
            |which| (0..self.hosts).filter(|host| (cut >> host) & 1 == which).map(HostId).collect();
        vec![side(0), side(1)]
    }

    /// What makes things worse, but lets something through.
    fn nuisance(&mut self) {
        self.misfortunes += 1;
        let last = self.end.as_millis() as u64;
        let at = self.draws.millis(100, last);
        match self.draws.between(0, 6) {
            6 => {
                // The path carries less from one packet to the next, for a while or until the end.
                let narrowed = self.link();
                let over = at + self.draws.millis(2_000, 30_000);
                let restored = self.configured(narrowed).clone();
                let mtu = Some(self.draws.between(1_280, 1_500) as usize);
                let config = LinkConfig { mtu, ..restored.clone() };
                self.add(at, Fault::Change(narrowed, config));
                self.add(over, Fault::Change(narrowed, restored));
            }
            0 => {
                let changed = self.link();
                let over = at + self.draws.millis(100, 10_000);
                let restored = self.configured(changed).clone();
                let config = link(&mut self.draws);
                self.add(at, Fault::Change(changed, config));
                self.add(over, Fault::Change(changed, restored));
            }
            1 | 2 if self.mobile.is_some() => {
                let what = self.draws.pick(&[Rebind::Port, Rebind::Addr]);
                if let Some(host) = self.mobile {
                    self.add(at, Fault::Rebind(host, what));
                }
            }
            3 => {
                let host = self.host();
                let over = at + self.draws.millis(100, 5_000);
                self.add(at, Fault::Origins { host, refuse: true });
                self.add(over, Fault::Origins { host, refuse: false });
            }
            4 => {
                let host = self.host();
                self.add(at, Fault::OriginsDie(host));
            }
            _ => {
                // A short hiccup in one direction.
                let link = self.link();
                let over = at + self.draws.millis(10, 900);
                self.add(at, Fault::Clog(link));
                self.add(over, Fault::Release(link));
            }
        }
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}", self.seed.get())?;
        let name = |host: HostId| self.pops[host.0].name.as_str();
        for (pop, clock) in self.pops.iter().zip(&self.clocks) {
            let config = toml::to_string(&pop.config).unwrap_or_default().replace('\n', " ");
            writeln!(f, "  pop {}: clock {:+} ms; {config}", pop.name, clock / 1_000_000)?;
        }
        if let Some(host) = self.mobile {
            let nat = if self.nat { ", behind a NAT" } else { "" };
            writeln!(f, "  {} may move{nat}", name(host))?;
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
