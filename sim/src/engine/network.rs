//! Addresses, NATs and the links between hosts.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use entrouter_proto::SocketId;

use super::HostId;
use super::packet::{AddrId, Packet};
use super::watch::Watch;
use crate::link::{Link, LinkConfig, LinkConfigError};
use crate::seed::Seed;
use crate::time::Time;

/// One direction of a link between two hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkId(pub(super) usize);

impl LinkId {
    /// The `nth` direction that was added; each [`Engine::add_link`](super::Engine::add_link) adds
    /// two.
    #[must_use]
    pub fn nth(nth: usize) -> Self {
        Self(nth)
    }

    /// Its number.
    #[must_use]
    pub fn index(self) -> usize {
        self.0
    }
}

/// A NAT in front of a host: others see an address that it chose, and reach the host only as an answer
/// (RFC 4787: address- and port-dependent filtering).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NatConfig {
    /// A remote that was not sent to for so long is shut out again.
    pub idle: Duration,
}

impl Default for NatConfig {
    /// 30 s, as the most impatient that are common.
    fn default() -> Self {
        Self { idle: Duration::from_secs(30) }
    }
}

/// One direction of a link, with its ends.
#[derive(Debug)]
pub(super) struct OneWay {
    pub name: String,
    pub from: HostId,
    pub to: HostId,
    pub link: Link<Packet>,
    pub watch: Watch,
    /// Cut by itself, and by a partition.
    pub cut: bool,
    pub parted: bool,
    /// The arrival for which there is an event.
    pub armed: Option<Time>,
}

#[derive(Debug)]
struct Nat {
    config: NatConfig,
    /// When each remote was last sent to.
    sent_to: BTreeMap<AddrId, Time>,
}

/// A UDP socket of a host, as others see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct UdpSocket {
    addr: AddrId,
    /// Strangers know it: it stays where it is, and no NAT is before it.
    is_public: bool,
}

/// Where a host is.
#[derive(Debug)]
struct Place {
    /// By [`SocketId`]; one or more.
    sockets: Vec<UdpSocket>,
    nat: Option<Nat>,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Network {
    pub links: Vec<OneWay>,
    by_ends: BTreeMap<(HostId, HostId), LinkId>,
    /// Every address that some host has, had, or that was sent to.
    addrs: Vec<SocketAddr>,
    ids: BTreeMap<SocketAddr, AddrId>,
    owners: BTreeMap<AddrId, HostId>,
    /// By host.
    places: Vec<Place>,
}

/// Why a datagram could not go or come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    /// No host has that address (any more).
    NoSuchAddress,
    /// No link leads there.
    NoLink,
    /// A NAT did not let it in.
    Filtered,
    /// The host has no such socket.
    NoSuchSocket,
}

impl Lost {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::NoSuchAddress => "no such address",
            Self::NoLink => "no link",
            Self::Filtered => "filtered by NAT",
            Self::NoSuchSocket => "no such socket",
        }
    }
}

impl Network {
    /// The next host is at `addr`.
    pub(super) fn add_host(&mut self, addr: SocketAddr, nat: Option<NatConfig>) {
        let host = HostId(self.places.len());
        let addr = self.id(addr);
        self.owners.insert(addr, host);
        let nat = nat.map(|config| Nat { config, sent_to: BTreeMap::new() });
        let sockets = vec![UdpSocket { addr, is_public: false }];
        self.places.push(Place { sockets, nat });
    }

    /// The host has one socket more.
    pub(super) fn add_socket(&mut self, host: HostId, addr: SocketAddr, is_public: bool) {
        let addr = self.id(addr);
        self.owners.insert(addr, host);
        self.places[host.0].sockets.push(UdpSocket { addr, is_public });
    }

    pub(super) fn add_link(
        &mut self,
        name: String,
        ends: (HostId, HostId),
        config: &LinkConfig,
        seed: Seed,
    ) -> Result<LinkId, LinkConfigError> {
        let id = LinkId(self.links.len());
        let link = Link::new(config, seed)?;
        let (from, to) = ends;
        self.links.push(OneWay {
            name,
            from,
            to,
            link,
            cut: false,
            parted: false,
            armed: None,
            watch: Watch::default(),
        });
        self.by_ends.insert(ends, id);
        Ok(id)
    }

    pub(super) fn between(&self, from: HostId, to: HostId) -> Option<LinkId> {
        self.by_ends.get(&(from, to)).copied()
    }

    pub(super) fn id(&mut self, addr: SocketAddr) -> AddrId {
        *self.ids.entry(addr).or_insert_with(|| {
            self.addrs.push(addr);
            AddrId(self.addrs.len() as u32 - 1)
        })
    }

    pub(super) fn addr(&self, id: AddrId) -> SocketAddr {
        self.addrs[id.0 as usize]
    }

    /// What others see of those sockets of a host that may move.
    pub(super) fn outer(&self, host: HostId) -> Vec<(SocketId, SocketAddr)> {
        let sockets = self.places[host.0].sockets.iter().enumerate();
        let moving = sockets.filter(|(_, socket)| !socket.is_public);
        moving.map(|(nth, socket)| (SocketId(nth), self.addr(socket.addr))).collect()
    }

    /// The way for a datagram of `from` to `remote`, and the addresses that it bears.
    pub(super) fn route(
        &mut self,
        now: Time,
        from: HostId,
        socket: SocketId,
        remote: SocketAddr,
    ) -> Result<(LinkId, AddrId, AddrId), Lost> {
        let to = self.id(remote);
        let place = &mut self.places[from.0];
        let socket = *place.sockets.get(socket.0).ok_or(Lost::NoSuchSocket)?;
        if let Some(nat) = place.nat.as_mut().filter(|_| !socket.is_public) {
            nat.sent_to.insert(to, now);
        }
        let addr = socket.addr;
        let owner = *self.owners.get(&to).ok_or(Lost::NoSuchAddress)?;
        let link = self.between(from, owner).ok_or(Lost::NoLink)?;
        Ok((link, addr, to))
    }

    /// Whether a datagram that reached the host's end of a link gets in; at which socket, and the source
    /// address it bears.
    pub(super) fn admit(
        &self,
        now: Time,
        host: HostId,
        packet: &Packet,
    ) -> Result<(SocketId, SocketAddr), Lost> {
        let place = &self.places[host.0];
        let nth = place.sockets.iter().position(|socket| socket.addr == packet.to);
        let nth = nth.ok_or(Lost::NoSuchAddress)?;
        if let Some(nat) = place.nat.as_ref().filter(|_| !place.sockets[nth].is_public) {
            let sent = nat.sent_to.get(&packet.from).ok_or(Lost::Filtered)?;
            if now.since(*sent) > nat.config.idle {
                return Err(Lost::Filtered);
            }
        }
        Ok((SocketId(nth), self.addr(packet.from)))
    }

    /// A socket of the host has another address from now on; what is under way to the old one is lost. A
    /// NAT keeps on knowing whom the host sent to.
    pub(super) fn rebind(&mut self, host: HostId, socket: SocketId, to: SocketAddr) {
        let addr = self.id(to);
        let old = std::mem::replace(&mut self.places[host.0].sockets[socket.0].addr, addr);
        self.owners.remove(&old);
        self.owners.insert(addr, host);
    }

    pub(super) fn is_taken(&self, addr: SocketAddr) -> bool {
        self.ids.contains_key(&addr)
    }

    /// Parts the hosts of different sets, and no others.
    pub(super) fn partition(&mut self, sets: &[Vec<HostId>]) {
        let set_of = |host: HostId| sets.iter().position(|set| set.contains(&host));
        for way in &mut self.links {
            let sides = (set_of(way.from), set_of(way.to));
            way.parted = matches!(sides, (Some(a), Some(b)) if a != b);
            way.link.set_cut(way.cut || way.parted);
        }
    }

    pub(super) fn cut(&mut self, link: LinkId, cut: bool) {
        let way = &mut self.links[link.0];
        way.cut = cut;
        way.link.set_cut(way.cut || way.parted);
    }
}
