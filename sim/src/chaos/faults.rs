//! What goes wrong in a seed, and comes right again.

use std::time::Duration;

use super::draws::Draws;
use super::sample::{Connected, MIN_FAULTS};
use super::shape::{link, longest};
use crate::engine::{Fault, HostId, LinkId, Rebind};
use crate::link::LinkConfig;
use crate::seed::Seed;

/// Faults that leave every connection a way to complete, or an excuse.
pub(super) struct Faults<'a> {
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
    pub(super) fn new(
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

    pub(super) fn sample(mut self) -> (Vec<(Duration, Fault)>, usize) {
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

    /// Both directions of a link.
    fn both_ways(&mut self) -> [LinkId; 2] {
        let way = self.link().index();
        [way, way ^ 1].map(LinkId::nth)
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
            match self.draws.between(0, 9) {
                7 => over = self.flap(at),
                8 => {
                    let [forth, back] = self.both_ways();
                    for way in [forth, back] {
                        self.add(at, Fault::Cut(way));
                        self.add(over, Fault::Mend(way));
                    }
                }
                9 => {
                    // So long that everyone else finds another way, or knows that there is none; but
                    // not so long that connections over it are given up.
                    let host = self.host();
                    over = at + self.draws.millis(6_000, 15_000);
                    self.away(at, over, host, Fault::Crash(host));
                }
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
                    self.away(at, over, host, Fault::Drain(host));
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

    /// A host is away for long: where it is the only way between others, no client waits for that.
    fn away(&mut self, at: Duration, over: Duration, host: HostId, how: Fault) {
        let parts = self.parts_others(host);
        if parts {
            self.add(at, Fault::Excuse(Some("there was no way for long")));
        }
        self.add(at, how);
        self.restart(over, host);
        if parts {
            self.add(over, Fault::Excuse(None));
        }
    }

    /// Whether some of the others reach each other only over that host.
    fn parts_others(&self, host: HostId) -> bool {
        let Some(first) = (0..self.hosts).map(HostId).find(|other| *other != host) else {
            return false;
        };
        let mut reached = vec![first];
        let mut at = 0;
        while let Some(&from) = reached.get(at) {
            at += 1;
            for link in self.links {
                let next = match link.ends {
                    (a, b) if a == from => b,
                    (a, b) if b == from => a,
                    _ => continue,
                };
                if next != host && !reached.contains(&next) {
                    reached.push(next);
                }
            }
        }
        reached.len() + 1 < self.hosts
    }

    /// A link is cut and mended several times within seconds, one way or both; when it is over.
    fn flap(&mut self, at: Duration) -> Duration {
        let ways = self.both_ways();
        let ways = if self.draws.one_in(3) { &ways[..1] } else { &ways[..] };
        let mut next = at;
        for _ in 0..self.draws.between(3, 8) {
            let mended = next + self.draws.millis(30, 600);
            for way in ways {
                self.add(next, Fault::Cut(*way));
                self.add(mended, Fault::Mend(*way));
            }
            next = mended + self.draws.millis(30, 1_000);
        }
        next
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
                let config = link(&mut self.draws, longest(self.hosts));
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
