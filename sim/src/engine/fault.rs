//! What goes wrong, and comes right again.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use rand_core::RngCore;

use super::core::Boot;
use super::{Engine, HostId, LinkId, UNIX_START};
use crate::link::LinkConfig;
use crate::time::Time;
use crate::traffic::{End, Side};

/// Something that happens to a network or a host.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// One direction of a link behaves otherwise from now on.
    Change(LinkId, LinkConfig),
    /// It holds back what it carries.
    Clog(LinkId),
    /// It lets go of it.
    Release(LinkId),
    /// It drops what is offered.
    Cut(LinkId),
    /// It carries again.
    Mend(LinkId),
    /// No link carries anything between hosts of different sets; any earlier partition ends.
    Partition(Vec<Vec<HostId>>),
    /// The partition ends.
    Heal,
    /// The host appears under another address.
    Rebind(HostId, Rebind),
    /// The host dies, with all that it knew. Its connections are reset.
    Crash(HostId),
    /// The host starts anew; if it was up, it dies first. Its wall clock is found to be ahead by so
    /// many nanoseconds more.
    Restart(HostId, i64),
    /// What the host's cores wanted to be kept for later lives is lost.
    Forget(HostId),
    /// The host is asked to end in order.
    Drain(HostId),
    /// Origins at this host refuse connections, or take them again.
    Origins {
        /// Where they are dialled from.
        host: HostId,
        /// Whether they refuse.
        refuse: bool,
    },
    /// Origins at this host break off their connections.
    OriginsDie(HostId),
    /// From now on connections may end by a reset because of this; `None`: no longer. Those open
    /// meanwhile keep the excuse.
    Excuse(Option<&'static str>),
}

/// What changes when a NAT forgets a host (named as in the QUIC interop runner).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rebind {
    /// The port.
    Port,
    /// The IP address and the port.
    Addr,
}

impl Engine {
    pub(super) fn fail(&mut self, nth: usize) {
        let fault = self.faults[nth].clone();
        self.trace.record(self.now, "fault", "fault", &[nth as u64], &format!("{fault:?}"));
        match fault {
            Fault::Change(link, config) => self.change(link, &config),
            Fault::Clog(link) => self.network.links[link.0].link.clog(),
            Fault::Release(link) => {
                self.network.links[link.0].link.release(self.now);
                self.arm_link(link);
            }
            Fault::Cut(link) => self.network.cut(link, true),
            Fault::Mend(link) => self.network.cut(link, false),
            Fault::Partition(sets) => self.network.partition(&sets),
            Fault::Heal => self.network.partition(&[]),
            Fault::Rebind(host, what) => self.rebind(host, what),
            Fault::Crash(host) => self.crash(host),
            Fault::Restart(host, step) => self.restart(host, step),
            Fault::Forget(host) => self.hosts[host.0].kept.clear(),
            Fault::Drain(host) => self.drain(host),
            Fault::Origins { host, refuse } => self.refuse(host, refuse),
            Fault::OriginsDie(host) => self.kill_origins(host),
            Fault::Excuse(why) => {
                self.excuse = why;
                if let Some(why) = why {
                    self.excuse_deals(why, |_| true);
                }
            }
        }
    }

    fn change(&mut self, link: LinkId, config: &LinkConfig) {
        let way = &mut self.network.links[link.0];
        if let Err(error) = way.link.reconfigure(self.now, config) {
            let what = format!("link {}: {error}", way.name);
            self.violate(&what);
        }
        self.arm_link(link);
    }

    fn rebind(&mut self, host: HostId, what: Rebind) {
        let mut draws = self.seed.stream(&format!("rebind {} {}", host.0, self.now.as_nanos()));
        let mut moved = None;
        for (socket, old) in self.network.outer(host) {
            // All sockets of a host are at one address.
            let old = SocketAddr::new(moved.unwrap_or(old.ip()), old.port());
            let what = if moved.is_some() { Rebind::Port } else { what };
            let new = self.new_address(&mut draws, old, what);
            self.network.rebind(host, socket, new);
            moved = Some(new.ip());
        }
    }

    /// One that no host ever had.
    fn new_address(&self, draws: &mut impl RngCore, old: SocketAddr, what: Rebind) -> SocketAddr {
        loop {
            let draw = draws.next_u64();
            let port = 1024 + (draw % 60_000) as u16;
            let ip = match what {
                Rebind::Port => old.ip(),
                // The upper half of 198.18.0.0/15; hosts begin in the lower.
                Rebind::Addr => {
                    IpAddr::V4(Ipv4Addr::new(198, 19, (draw >> 32) as u8, (draw >> 40) as u8))
                }
            };
            let new = SocketAddr::new(ip, port);
            if !self.network.is_taken(new) {
                return new;
            }
        }
    }

    /// Starts the host's next life.
    pub(super) fn boot(&mut self, id: HostId) -> Result<(), Box<dyn Error + Send + Sync>> {
        let now = self.instant();
        let host = &mut self.hosts[id.0];
        let life = host.life;
        host.life += 1;
        let seed = self.seed.child(&format!("host {}", host.name)).bytes(&format!("life {life}"));
        let unix = UNIX_START + (now - self.epoch);
        let boot =
            Boot { seed, now, unix_now: host.wall_clock(unix), life, kept: host.kept.clone() };
        host.core = Some((host.make)(boot)?);
        host.draining = None;
        host.born = self.now;
        host.accepted_packets.clear();
        self.trace.record(self.now, &host.name, "boot", &[u64::from(life)], "");
        // Not before the run has begun: until then there are no links for what it sends.
        self.arm(id, self.now);
        Ok(())
    }

    pub(super) fn restart(&mut self, id: HostId, step: i64) {
        self.crash(id);
        let ahead = &mut self.hosts[id.0].clock_ahead;
        *ahead = ahead.saturating_add(step);
        if let Err(error) = self.boot(id) {
            let what = format!("{} does not start again: {error}", self.hosts[id.0].name);
            self.violate(&what);
        }
    }

    pub(super) fn crash(&mut self, id: HostId) {
        if self.hosts[id.0].core.is_none() {
            return;
        }
        self.trace.record(self.now, &self.hosts[id.0].name, "crash", &[], "");
        self.excuse_deals("its PoP crashed", |ends| ends.contains(&id));
        self.remember(id);
        self.end(id);
    }

    fn end(&mut self, id: HostId) {
        let host = &mut self.hosts[id.0];
        host.core = None;
        host.armed = None;
        host.woken = (Time::ZERO, 0);
        host.dialling.clear();
        host.ready.clear();
        let conns: Vec<_> = host.sockets.keys().copied().collect();
        for conn in conns {
            self.close(id, conn);
        }
    }

    fn drain(&mut self, id: HostId) {
        // What has not reached it yet is refused; what has may go on for a while.
        self.excuse_unheard(id, "the exit drains");
        let now = self.instant();
        let host = &mut self.hosts[id.0];
        host.draining.get_or_insert(self.now);
        if let Some(core) = &mut host.core {
            core.drain(now);
        }
        self.settle(id);
    }

    /// The host has ended in order: like its process, it is down from now on.
    pub(super) fn drained(&mut self, id: HostId) {
        self.trace.record(self.now, &self.hosts[id.0].name, "drained", &[], "");
        let open = self.hosts[id.0].sockets.len();
        if open > 0 {
            let what = format!("{} drained with {open} connections", self.hosts[id.0].name);
            self.violate(&what);
        }
        // The other ends of what it had to reset may hear of that only later.
        self.excuse_deals("its PoP ended", |ends| ends.contains(&id));
        self.transmit_all(id);
        self.remember(id);
        self.end(id);
    }

    fn refuse(&mut self, id: HostId, refuse: bool) {
        for origin in self.hosts[id.0].origins.values_mut() {
            origin.refuses = refuse;
        }
        if refuse {
            self.excuse_unheard(id, "the origin refuses");
        }
    }

    /// Excuses the connections to origins at that host whose request has not reached one yet.
    fn excuse_unheard(&mut self, id: HostId, why: &'static str) {
        let workloads = &self.workloads;
        for deal in self.deals.iter_mut().filter(|deal| deal.origin == End::Unknown) {
            if workloads[deal.workload].workload.to == id {
                deal.excuse.get_or_insert(why);
            }
        }
    }

    fn kill_origins(&mut self, id: HostId) {
        let origins = |(conn, socket): (&_, &super::host::Socket)| {
            (socket.side == Side::Origin).then_some((*conn, socket.deal))
        };
        let origins: Vec<_> = self.hosts[id.0].sockets.iter().filter_map(origins).collect();
        for (conn, deal) in origins {
            match deal {
                Some(nth) => {
                    self.deals[nth].excuse.get_or_insert("the origin died");
                }
                // Whose it is is not known yet: one of those that no origin has heard of.
                None => self.excuse_unheard(id, "the origin died"),
            }
            self.reset(id, conn);
        }
        self.settle(id);
    }

    /// Excuses the connections that are not over, by where their client and their origin are, and where
    /// they enter the mesh.
    fn excuse_deals(&mut self, why: &'static str, which: impl Fn(&[HostId; 3]) -> bool) {
        let (workloads, hosts) = (&self.workloads, &self.hosts);
        for deal in self.deals.iter_mut().filter(|deal| !deal.counted) {
            let workload = &workloads[deal.workload].workload;
            let edge = hosts[workload.from.0].edge.unwrap_or(workload.from);
            if which(&[workload.from, edge, workload.to]) {
                deal.excuse.get_or_insert(why);
            }
        }
    }
}
