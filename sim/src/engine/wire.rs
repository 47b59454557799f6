//! Datagrams between cores and links, and what is checked of them.

use std::net::IpAddr;

use entrouter_proto::SocketId;

use super::packet::Packet;
use super::queue::Event;
use super::{Engine, HostId, LinkId, MAX_SEGMENTS, MAX_TURNS};
use crate::link::{DropReason, Fate, Outcome, wire_size};

/// Buffers kept for datagrams to come.
const MAX_SPARE: usize = 4096;

impl Engine {
    /// Puts everything that the host's core may send now on its links.
    pub(super) fn transmit_all(&mut self, id: HostId) {
        let now = self.instant();
        let mut batch = std::mem::take(&mut self.buffers.transmit);
        for turn in 0.. {
            if turn > MAX_TURNS {
                self.condemn(id, "has always more to send");
            }
            let Some(core) = &mut self.hosts[id.0].core else { break };
            batch.clear();
            let Some(transmit) = core.poll_transmit(now, MAX_SEGMENTS, &mut batch) else { break };
            if transmit.len != batch.len() {
                self.violate("poll_transmit told a wrong length");
                break;
            }
            for payload in batch.chunks(transmit.segment_size.max(1)) {
                self.send(id, &transmit, payload);
            }
        }
        self.buffers.transmit = batch;
    }

    fn send(&mut self, id: HostId, transmit: &entrouter_proto::Transmit, payload: &[u8]) {
        // What other sockets send is none of a tunnel's.
        let in_tunnel = transmit.socket == SocketId::default();
        if in_tunnel {
            self.check_nonce(id, transmit.remote.ip(), payload);
        }
        let number = self.packets;
        self.packets += 1;
        let numbers = [number, payload.len() as u64];
        let host = &self.hosts[id.0];
        let way = self.network.route(self.now, id, transmit.socket, transmit.remote);
        let (link, from, to) = match way {
            Ok(way) => way,
            Err(lost) => {
                self.trace.record(self.now, &host.name, "unsent", &numbers, lost.as_str());
                return;
            }
        };
        if in_tunnel {
            self.check_keystream(id, self.network.links[link.0].to, payload);
        }
        let mut buffer = self.buffers.packets.pop().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(payload);
        let ecn = transmit.ecn;
        let packet = Packet { number, from, to, ecn, corrupted: false, payload: buffer };
        let way = &mut self.network.links[link.0];
        let wait = way.link.queueing_delay(self.now);
        way.watch.offered(self.now, wire_size(&packet) as u64, wait);
        let fate = way.link.send(self.now, packet);
        self.trace.record(self.now, &way.name, "sent", &numbers, note(fate));
        self.arm_link(link);
    }

    /// The nonce is above all that were sent under the same key: none is used twice.
    fn check_nonce(&mut self, id: HostId, remote: IpAddr, payload: &[u8]) {
        let host = &mut self.hosts[id.0];
        let Some((key, nonce)) = host.core.as_ref().and_then(|core| core.nonce(payload)) else {
            return;
        };
        let greatest = host.nonces.entry((remote, key)).or_default();
        if nonce < *greatest {
            let (name, before) = (&host.name, *greatest - 1);
            let what = format!("{name} used nonce {nonce} of key {key:08x} after {before}");
            self.violate(&what);
        } else {
            *greatest = nonce + 1;
        }
    }

    /// No two sessions of a pair of hosts, of whichever lives and in whichever direction, have one key.
    fn check_keystream(&mut self, from: HostId, to: HostId, payload: &[u8]) {
        let Some(core) = &self.hosts[from.0].core else { return };
        let (Some((_, nonce)), Some(byte)) = (core.nonce(payload), core.sealed_byte(payload))
        else {
            return;
        };
        let pair = (from.min(to), from.max(to));
        if self.keystreams.entry(pair).or_default().is_seen_again(nonce, byte) {
            let (from, to) = (&self.hosts[from.0].name, &self.hosts[to.0].name);
            let what = format!("{from} and {to} use a key in two sessions or directions");
            self.violate(&what);
        }
    }

    pub(super) fn arm_link(&mut self, id: LinkId) {
        let way = &mut self.network.links[id.0];
        let Some(at) = way.link.next_delivery() else { return };
        let at = at.max(self.now);
        if way.armed.is_none_or(|set| at < set) {
            way.armed = Some(at);
            self.queue.put(at, Event::Arrival(id));
        }
    }

    /// Takes what is due out of a link.
    pub(super) fn arrive(&mut self, id: LinkId) {
        let to = self.network.links[id.0].to;
        let mut any = false;
        while let Some((_, packet)) = self.network.links[id.0].link.deliver(self.now) {
            any |= self.hand_over(id, to, packet);
        }
        if any {
            self.settle(to);
        }
        self.arm_link(id);
    }

    /// Gives a datagram to the host's core; false if it does not get there.
    fn hand_over(&mut self, link: LinkId, to: HostId, mut packet: Packet) -> bool {
        let now = self.instant();
        let numbers = [packet.number, packet.payload.len() as u64];
        let way = &self.network.links[link.0].name;
        let (socket, from) = match self.network.admit(self.now, to, &packet) {
            Ok(found) => found,
            Err(lost) => {
                self.trace.record(self.now, way, "refused", &numbers, lost.as_str());
                return false;
            }
        };
        let host = &mut self.hosts[to.0];
        let down = host.core.is_none();
        let note = if down { "host is down" } else { "" };
        self.trace.record(self.now, way, "arrived", &numbers, note);
        if down {
            return false;
        }
        let Some(core) = &mut host.core else { return false };
        let before = core.packets_accepted();
        core.handle_datagram(now, socket, from, packet.ecn, &mut packet.payload);
        if core.packets_accepted() != before {
            let again = host.accept(packet.number);
            if again || packet.corrupted {
                let what = if again { "a datagram twice" } else { "a damaged datagram" };
                let what = format!("{} accepted {what} ({})", host.name, packet.number);
                self.violate(&what);
            }
        }
        if self.buffers.packets.len() < MAX_SPARE {
            self.buffers.packets.push(packet.payload);
        }
        true
    }
}

fn note(fate: Fate) -> &'static str {
    match fate.outcome {
        Outcome::Dropped(DropReason::TooBig) => "too big",
        Outcome::Dropped(DropReason::QueueFull) => "queue full",
        Outcome::Dropped(DropReason::Lost) => "lost",
        Outcome::Dropped(DropReason::Cut) => "cut",
        Outcome::Dropped(DropReason::Clogged) => "clogged",
        Outcome::Passed { corrupted: true, .. } => "damaged",
        Outcome::Passed { copied: true, .. } => "copied",
        Outcome::Passed { marked: true, .. } => "marked",
        Outcome::Passed { .. } => "",
    }
}
