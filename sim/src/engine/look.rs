//! What is looked at from time to time: bounds, conservation, samples. And the outcome.

use std::collections::BTreeMap;
use std::time::Duration;

use entrouter_proto::status::{PeerStatus, Status};

use super::queue::Event;
use super::{Engine, HostId, LinkId};
use crate::link::LinkCounters;
use crate::outcome::{LinkSeries, NodeOutcome, Outcome, Series, TunnelOutcome, TunnelSeries};
use crate::time::Time;

/// Between two looks; less if a sample is due.
const INTERVAL: Duration = Duration::from_secs(1);

/// Samples of a run at most: an hour, ten times a second.
const MAX_SAMPLES: usize = 36_000;

/// Takes samples.
#[derive(Debug)]
pub(super) struct Sampler {
    interval: Duration,
    next: Time,
    taken: usize,
    series: Series,
    /// What the counters said at the last sample: bytes by workload, (bytes, packets, lost) by link,
    /// (symbols, parity, repairs) by tunnel.
    goodput: BTreeMap<String, u64>,
    links: BTreeMap<String, [u64; 3]>,
    tunnels: BTreeMap<String, [u64; 3]>,
}

impl Sampler {
    fn new(interval: Duration) -> Self {
        Self {
            interval,
            next: Time::ZERO + interval,
            taken: 0,
            series: Series { interval_s: interval.as_secs_f64(), ..Series::default() },
            goodput: BTreeMap::new(),
            links: BTreeMap::new(),
            tunnels: BTreeMap::new(),
        }
    }

    fn mbps(&self, bytes: u64) -> f64 {
        bytes as f64 * 8.0 / 1e6 / self.interval.as_secs_f64()
    }
}

/// What a counter grew by; one that begins anew with a node's next life counts from zero.
fn grown<const N: usize>(
    last: &mut BTreeMap<String, [u64; N]>,
    name: &str,
    now: [u64; N],
) -> [u64; N] {
    let before = last.insert(name.to_owned(), now).unwrap_or([0; N]);
    std::array::from_fn(|n| if now[n] < before[n] { now[n] } else { now[n] - before[n] })
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 * 100.0 }
}

impl Engine {
    /// Takes a sample each `interval`; to be asked for before time passes. See [`Outcome::series`].
    pub fn sample(&mut self, interval: Duration) {
        self.sampler = Some(Sampler::new(interval.max(Duration::from_millis(1))));
    }

    pub(super) fn look(&mut self) {
        self.check();
        if let Some(mut sampler) = self.sampler.take() {
            if self.now >= sampler.next && sampler.taken < MAX_SAMPLES {
                self.take_sample(&mut sampler);
                sampler.next = self.now + sampler.interval;
            }
            self.sampler = Some(sampler);
        }
        self.queue.put(self.now + self.look_interval(), Event::Look);
    }

    pub(super) fn look_interval(&self) -> Duration {
        let next = self.sampler.as_ref().map(|sampler| sampler.next.since(self.now));
        next.filter(|next| !next.is_zero()).map_or(INTERVAL, |next| next.min(INTERVAL))
    }

    /// Checks what must hold at every moment and is not checked as it happens.
    pub fn check(&mut self) {
        let mut found = Vec::new();
        for id in (0..self.hosts.len()).map(HostId) {
            let status = self.status(id);
            self.see_routes(id, status.as_ref().map_or(&[], |status| &status.paths));
            let host = &self.hosts[id.0];
            let Some(core) = &host.core else { continue };
            for peer in status.iter().flat_map(|status| &status.peers) {
                let (blocks, from) = (peer.counters.fec_corrupt, &peer.node_id);
                if blocks > 0 {
                    found.push(format!(
                        "{}: parity of {blocks} blocks of {from} is wrong",
                        host.name
                    ));
                }
            }
            core.tables(&mut |table| {
                if table.len > table.bound {
                    let (name, len, bound) = (table.name, table.len, table.bound);
                    found.push(format!("{}: {name} holds {len} of at most {bound}", host.name));
                }
            });
        }
        for way in &self.network.links {
            let counters = way.link.counters();
            if !counters.is_conserved(way.link.in_flight()) {
                found.push(format!("{}: packets vanished uncounted: {counters:?}", way.name));
            }
        }
        found.iter().for_each(|what| self.violate(what));
    }

    fn take_sample(&mut self, sampler: &mut Sampler) {
        for stage in &self.workloads {
            let name = &stage.workload.name;
            let bytes = stage.meter.bytes();
            let before = sampler.goodput.insert(name.clone(), bytes).unwrap_or(0);
            let mbps = sampler.mbps(bytes - before);
            sampler.series.goodput_mbps.entry(name.clone()).or_default().push(mbps);
        }
        for way in &self.network.links {
            let c = way.link.counters();
            let lost = c.too_big + c.queue_dropped + c.lost + c.cut + c.clog_dropped;
            let [bytes, packets, lost] =
                grown(&mut sampler.links, &way.name, [c.offered_bytes, c.offered, lost]);
            let mbps = sampler.mbps(bytes);
            let series: &mut LinkSeries = sampler.series.links.entry(way.name.clone()).or_default();
            series.offered_mbps.push(mbps);
            series.lost_pct.push(percent(lost, packets));
            series.queue_ms.push(way.link.queueing_delay(self.now).as_secs_f64() * 1e3);
        }
        for id in 0..self.hosts.len() {
            let status = self.status(HostId(id));
            self.sample_tunnels(sampler, id, status.as_ref());
        }
        sampler.taken += 1;
    }

    fn sample_tunnels(&self, sampler: &mut Sampler, id: usize, status: Option<&Status>) {
        let from = &self.hosts[id].name;
        let none = PeerStatus::default();
        // A host that is down has samples too, so that all lists are of one length.
        for link in self.network.links.iter().filter(|way| way.from == HostId(id)) {
            let peer_name = &self.hosts[link.to.0].name;
            let peer = status
                .and_then(|status| status.peers.iter().find(|peer| peer.node_id == *peer_name))
                .unwrap_or(&none);
            let c = peer.counters;
            let counted = [c.symbols_out, c.parity_out, c.retransmitted + c.pto_sent];
            let [symbols, parity, repairs] = grown(&mut sampler.tunnels, &link.name, counted);
            let series: &mut TunnelSeries =
                sampler.series.tunnels.entry(link.name.clone()).or_default();
            series.rate_mbps.push(peer.rate_mbps);
            series.rtt_ms.push(peer.rtt_us.unwrap_or(0) as f64 / 1e3);
            let all = symbols + parity + repairs;
            series.fec_overhead_pct.push(percent(parity, all));
            series.repair_pct.push(percent(repairs, all));
        }
        for path in status.map_or(&[][..], |status| &status.paths) {
            let route = path.via.join(">");
            let routes = sampler.series.routes.entry(format!("{from}>{}", path.to)).or_default();
            if routes.last().is_none_or(|(_, last)| *last != route) {
                routes.push((sampler.taken, route));
            }
        }
    }

    /// A host's state; `None` while it is down, or if its core tells none.
    #[must_use]
    pub fn status(&self, id: HostId) -> Option<Status> {
        self.hosts[id.0].core.as_ref()?.status(self.instant())
    }

    /// Keeps what a life counted that is about to end.
    pub(super) fn remember(&mut self, id: HostId) {
        let Some(status) = self.status(id) else { return };
        for peer in &status.peers {
            let past = self.hosts[id.0].past.entry(peer.node_id.clone()).or_default();
            add(past, peer);
        }
        let past = &mut self.hosts[id.0].past_node;
        *past = past.and(&NodeOutcome::of(&status));
    }

    /// Keeps what the nodes will have counted at `at` after the start, for
    /// [`Outcome::nodes_at`]; to be asked for before time passes.
    pub fn snapshot(&mut self, at: Duration) {
        self.queue.put(Time::ZERO + at, Event::Snapshot);
    }

    pub(super) fn take_snapshot(&mut self) {
        let at = self.now.as_nanos() / 1_000_000;
        let nodes = self.nodes();
        self.snapshots.insert(at, nodes);
    }

    /// What each node has counted so far.
    fn nodes(&self) -> BTreeMap<String, NodeOutcome> {
        let node = |(id, host): (usize, &super::host::Host)| {
            let status = self.status(HostId(id));
            let now = status.as_ref().map(NodeOutcome::of).unwrap_or_default();
            (host.name.clone(), host.past_node.and(&now))
        };
        self.hosts.iter().enumerate().map(node).collect()
    }

    /// What happened to the packets of one direction of a link so far.
    #[must_use]
    pub fn counters(&self, way: LinkId) -> LinkCounters {
        self.network.links[way.0].link.counters()
    }

    /// What one direction of a link is called: `from>to`.
    #[must_use]
    pub fn link_name(&self, way: LinkId) -> &str {
        &self.network.links[way.0].name
    }

    /// What was found out so far.
    #[must_use]
    pub fn outcome(&self, scenario: &str) -> Outcome {
        let mut tunnels = BTreeMap::new();
        for (id, host) in self.hosts.iter().enumerate() {
            let mut all = host.past.clone();
            for peer in self.status(HostId(id)).iter().flat_map(|status| &status.peers) {
                add(all.entry(peer.node_id.clone()).or_default(), peer);
            }
            tunnels.extend(all.into_iter().map(|(peer, t)| (format!("{}>{peer}", host.name), t)));
        }
        let workloads = self.workloads.iter();
        let links = self.network.links.iter();
        Outcome {
            scenario: scenario.to_owned(),
            seed: self.seed.get(),
            trace_hash: self.trace.hash(),
            seconds: self.now.as_nanos() as f64 / 1e9,
            packets: self.packets,
            violations: self.violations.clone(),
            unfinished: self.unfinished(),
            workloads: workloads.map(|s| (s.workload.name.clone(), s.meter.outcome())).collect(),
            links: links.clone().map(|way| (way.name.clone(), way.link.counters())).collect(),
            queues: links.map(|way| (way.name.clone(), way.watch.outcome())).collect(),
            wire_per_byte: None,
            tunnels,
            nodes: self.nodes(),
            nodes_at: self.snapshots.clone(),
            routes: self.routes(),
            converged_s: self.converged(),
            quiet_kbps: None,
            expectations: Vec::new(),
            series: self.sampler.as_ref().map(|sampler| sampler.series.clone()),
        }
    }

    /// What is still open, for a person who wonders why.
    #[must_use]
    pub fn unfinished(&self) -> Vec<String> {
        let open = self.deals.iter().enumerate().filter(|(_, deal)| !deal.counted);
        open.map(|(nth, deal)| {
            let name = &self.workloads[deal.workload].workload.name;
            let (up, down) = (&deal.up, &deal.down);
            format!(
                "connection {nth} ({name}): {} of {} bytes to the origin{}, {} of {} to the client{}",
                up.delivered,
                up.written,
                if up.ended { " and the end" } else { "" },
                down.delivered,
                down.written,
                if down.ended { " and the end" } else { "" },
            )
        })
        .collect()
    }
}

fn add(sum: &mut TunnelOutcome, peer: &PeerStatus) {
    let c = &peer.counters;
    sum.bytes_out += c.bytes_out;
    sum.packets_out += c.packets_out;
    sum.symbols_out += c.symbols_out;
    sum.parity_out += c.parity_out;
    sum.fec_recovered += c.fec_recovered;
    sum.retransmitted += c.retransmitted;
    sum.pto_sent += c.pto_sent;
    sum.udp_payload = peer.udp_payload as u64;
    sum.mtu_probes_out += c.mtu_probes_out;
    sum.black_holes += c.black_holes;
    sum.symbols_cut += c.symbols_cut;
    sum.duplicates_in += c.duplicates_in;
    sum.handshakes += peer.handshakes;
}
