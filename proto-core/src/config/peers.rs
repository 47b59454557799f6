//! `[[peers]]`, and the destinations that listeners lead to.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::IpAddr;

use super::parse::{HOST_PORT, NAME};
use super::reader::{Item, Report, Section};
use super::values::{is_region, parse_key};
use super::{HostPort, Peer, PresharedKey, keys};
use crate::ids::{NodeHash, NodeId};

/// The most `[[peers]]`.
pub const MAX_PEERS: usize = 1024;

const PEER_REGION: &str = "at most 64 printable characters";
const KEY: &str = "32 bytes in base64 (make one with `entrouter-mio genkey`)";
const RATE: &str = "a number of Mbit/s above 0 and up to 100000";

/// The peers that could be read, and what a `dest` may name.
pub(super) fn peers(
    report: &mut Report,
    root: &Section<'_>,
    own: Option<&Item<NodeId>>,
) -> (Vec<Peer>, Destinations) {
    let (sections, mut complete) = root.sections(report, "peers", keys::PEER, MAX_PEERS);
    let mut ids = Vec::new();
    let mut peers = Vec::new();
    let mut names: BTreeMap<NodeId, String> = BTreeMap::new();
    let mut hashes: BTreeMap<NodeHash, NodeId> = BTreeMap::new();
    let mut known_keys = Vec::new();
    if let Some(own) = own {
        hashes.insert(own.value.hash32(), own.value.clone());
    }
    for section in &sections {
        let node_id = section.parsed(report, "node_id", NAME, |text| NodeId::new(text).ok());
        if !section.has("node_id") {
            section.missing(report, "node_id", NAME);
        }
        if let Some(Item { value: name, line }) = &node_id {
            let key = section.key("node_id");
            if own.is_some_and(|own| own.value == *name) {
                let problem = format!("found \"{name}\", this PoP itself, wanted another PoP");
                report.add(*line, key, problem);
            } else if let Some(first) = names.get(name) {
                let problem =
                    format!("found \"{name}\", the name of {first}, wanted a name of its own");
                report.add(*line, key, problem);
            } else {
                ids.push(name.clone());
                names.insert(name.clone(), section.key("node_id"));
                if let Some(problem) = collision(&mut hashes, name) {
                    report.add(*line, key, problem);
                }
            }
        }
        complete &= node_id.is_some();

        let region = section.parsed(report, "region", PEER_REGION, |text| {
            is_region(text, true).then(|| text.to_owned())
        });
        let addr = peer_addr(report, section);
        let shared = key(report, section, "shared_key");
        if !section.has("shared_key") {
            section.missing(report, "shared_key", KEY);
        }
        let next = key(report, section, "next_shared_key");
        for (name, key) in [("shared_key", &shared), ("next_shared_key", &next)] {
            if let Some(Item { value: key, line }) = key {
                refuse_reuse(report, &mut known_keys, key, section.key(name), *line);
            }
        }
        let rate = section.positive(report, "max_rate_mbps", RATE, 100_000.0);

        if let (Some(node_id), Some(shared_key)) = (node_id, shared) {
            peers.push(Peer {
                node_id: node_id.value,
                region: region.map(|item| item.value).unwrap_or_default(),
                addr: addr.map(|item| item.value),
                shared_key: shared_key.value,
                next_shared_key: next.map(|item| item.value),
                max_rate_mbps: rate.map(|item| item.value),
            });
        }
    }
    (peers, Destinations { peers: ids, complete, names: hashes })
}

fn peer_addr(report: &mut Report, section: &Section<'_>) -> Option<Item<HostPort>> {
    let addr = section.parsed(report, "addr", HOST_PORT, |text| text.parse::<HostPort>().ok())?;
    let unusable = |ip: IpAddr| ip.is_unspecified() || ip.is_multicast();
    if addr.value.literal().is_some_and(|addr| unusable(addr.ip())) {
        let problem = format!("found \"{}\", wanted an address that leads to one host", addr.value);
        report.add(addr.line, section.key("addr"), problem);
        return None;
    }
    Some(addr)
}

fn key(report: &mut Report, section: &Section<'_>, name: &str) -> Option<Item<PresharedKey>> {
    let Item { value, line } = section.text(report, name, KEY)?;
    match parse_key(value) {
        Ok(value) => Some(Item { value, line }),
        Err(found) => {
            report.add(line, section.key(name), format!("found {found}, wanted {KEY}"));
            None
        }
    }
}

/// Two pairs of PoPs with one key could pass for each other.
fn refuse_reuse(
    report: &mut Report,
    known: &mut Vec<(PresharedKey, String)>,
    key: &PresharedKey,
    name: String,
    line: usize,
) {
    match known.iter().find(|(other, _)| other == key) {
        Some((_, first)) => {
            let problem = format!(
                "found the key of {first} again, wanted a key of its own \
                 (make one with `entrouter-mio genkey`)"
            );
            report.add(line, name, problem);
        }
        None => known.push((key.clone(), name)),
    }
}

/// What a `dest` may name: any PoP, since the mesh finds the way.
#[derive(Debug)]
pub(super) struct Destinations {
    pub(super) peers: Vec<NodeId>,
    /// Where a peer's name could not be read, nobody can tell which is the sole one.
    pub(super) complete: bool,
    /// Whose name a hash stands for: this PoP's, those of peers and of the destinations so far.
    names: BTreeMap<NodeHash, NodeId>,
}

impl Destinations {
    pub(super) fn wanted(&self) -> String {
        let names: Vec<_> = self.peers.iter().take(5).map(NodeId::as_str).collect();
        let more = if self.peers.len() > names.len() { ", ..." } else { "" };
        if names.is_empty() {
            return "the node_id of a PoP".to_owned();
        }
        format!("the node_id of a PoP, such as one of [[peers]] ({}{more})", names.join(", "))
    }

    pub(super) fn read(
        &mut self,
        report: &mut Report,
        section: &Section<'_>,
        name: &str,
    ) -> Option<Item<NodeId>> {
        let wanted = self.wanted();
        let dest = section.parsed(report, name, &wanted, |text| NodeId::new(text).ok())?;
        // A peer that collides is told at the peer.
        if !self.peers.contains(&dest.value)
            && let Some(problem) = collision(&mut self.names, &dest.value)
        {
            report.add(dest.line, section.key(name), problem);
            return None;
        }
        Some(dest)
    }
}

/// Frames name a PoP by the hash of its name: who has another's would be taken for it.
fn collision(names: &mut BTreeMap<NodeHash, NodeId>, name: &NodeId) -> Option<String> {
    match names.entry(name.hash32()) {
        Entry::Vacant(vacant) => {
            vacant.insert(name.clone());
            None
        }
        Entry::Occupied(other) if other.get() == name => None,
        Entry::Occupied(other) => {
            let other = other.get();
            Some(format!(
                "found \"{name}\", which looks like \"{other}\" on the wire (same 32-bit hash), \
                 wanted one of them renamed"
            ))
        }
    }
}
