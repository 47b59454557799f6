use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use super::*;
use crate::config::Config;
use crate::fec::Codec;
use crate::ids::{Incarnation, PeerId};
use crate::rng::Rng;
use crate::tests::epoch;
use crate::tunnel::cookie::CookieJar;
use crate::tunnel::rate::{Controller, PathModel};
use crate::tunnel::{Lives, Shared, Sink, Source, USUAL_SHARD};
use crate::wire::packet::Packet;

const MS: Duration = Duration::from_millis(1);
const MAX_QUEUE: Duration = Duration::from_millis(250);
const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

/// Contents to be sent, by lane.
#[derive(Default)]
struct Waiting([VecDeque<Vec<u8>>; 3]);

impl Source for Waiting {
    fn has(&self, lane: Lane) -> bool {
        !self.0[lane as usize].is_empty()
    }

    fn fill(&mut self, _: Instant, lane: Lane, room: usize, out: &mut Vec<u8>) {
        let content = self.0[lane as usize].pop_front_if(|content| content.len() <= room);
        out.extend(content.unwrap_or_default());
    }
}

#[derive(Default)]
struct Arrived(Vec<(Lane, Duration, Vec<u8>)>);

impl Sink for Arrived {
    fn lives(&mut self, _: Lives) {}

    fn symbol(&mut self, _: Instant, lane: Lane, held: Duration, content: &[u8]) {
        self.0.push((lane, held, content.to_vec()));
    }
}

struct End {
    tunnel: Tunnel,
    shared: Shared,
    waiting: Waiting,
    arrived: Arrived,
    events: Vec<(Instant, TunnelEvent)>,
    /// Bytes sent, with those of IP and UDP; and that everything it sends is lost.
    sent: usize,
    is_mute: bool,
}

/// Two tunnels and what is between them.
struct Pair {
    now: Instant,
    ends: [End; 2],
    wire: BTreeMap<(Instant, u64), (usize, Vec<u8>)>,
    order: u64,
    delay: Duration,
    loss: f64,
    /// Bytes per second of the bottleneck each way, and when it is free again.
    rate: f64,
    free_at: [Instant; 2],
    rng: Rng,
}

const ADDRS: [([u8; 4], u16); 2] = [([10, 0, 0, 1], 4433), ([10, 0, 0, 2], 4433)];

/// No two of a test have the same `seed`, `at` and `life`.
fn end(seed: u8, at: usize, now: Instant, life: u64) -> End {
    let (own, other) = [("a", "b"), ("b", "a")][at];
    let text = format!(
        "node_id = \"{own}\"\nregion = \"x\"\n[listen]\nrelay_addr = \"127.0.0.1:1\"\n[[peers]]\n\
         node_id = \"{other}\"\naddr = \"10.0.0.{}:4433\"\nshared_key = \"{KEY}\"\n",
        2 - at
    );
    let config = Config::parse("test.toml", text.as_bytes()).expect("valid");
    let mut bytes = [seed; 32];
    (bytes[0], bytes[1]) = (at as u8, life as u8);
    let mut rng = Rng::new(bytes);
    let cookies = CookieJar::new(now, &mut rng);
    End {
        tunnel: Tunnel::new(now, PeerId(0), &config, &config.peers[0]),
        shared: Shared {
            rng,
            codec: Codec::new(USUAL_SHARD),
            indices: BTreeMap::new(),
            cookies,
            incarnation: Incarnation(life),
            started: now,
            unix_start: Duration::from_secs(1_800_000_000 + life),
        },
        waiting: Waiting::default(),
        arrived: Arrived::default(),
        events: Vec::new(),
        sent: 0,
        is_mute: false,
    }
}

impl End {
    fn receive(&mut self, now: Instant, from: SocketAddr, bytes: &mut [u8]) {
        let packet = Packet::parse(bytes).expect("a packet");
        let (tunnel, shared) = (&mut self.tunnel, &mut self.shared);
        match packet {
            Packet::Data(header) => {
                let sink = &mut self.arrived;
                tunnel.handle_data(now, shared, header, bytes, (from, false), sink);
            }
            Packet::Initiation(i) => {
                tunnel.handle_initiation(now, shared, 0, &i, from);
            }
            Packet::Response(r) => {
                tunnel.handle_response(now, shared, &r, from);
            }
            Packet::Reject(r) => {
                tunnel.handle_reject(now, shared, &r);
            }
            Packet::Cookie(c) => {
                tunnel.handle_cookie(now, &c);
            }
        }
        self.note(now);
    }

    fn note(&mut self, now: Instant) {
        while let Some(event) = self.tunnel.poll_event() {
            self.events.push((now, event));
        }
    }

    fn timeout(&self) -> Option<Instant> {
        let wants = Lane::ALL.map(|lane| self.waiting.has(lane));
        self.tunnel.poll_timeout(wants).map(|(at, _)| at)
    }

    fn when(&self, event: TunnelEvent) -> Option<Instant> {
        self.events.iter().find(|(_, e)| *e == event).map(|(at, _)| *at)
    }
}

impl Pair {
    fn new(seed: u8, delay_ms: u32, loss: f64) -> Self {
        let now = epoch();
        Self {
            now,
            ends: [end(seed, 0, now, 1), end(seed, 1, now, 1)],
            wire: BTreeMap::new(),
            order: 0,
            delay: MS * delay_ms,
            loss,
            rate: f64::INFINITY,
            free_at: [now; 2],
            rng: Rng::new([seed; 32]),
        }
    }

    fn push(&mut self, at: usize, lane: Lane, content: &[u8]) {
        self.ends[at].waiting.0[lane as usize].push_back(content.to_vec());
    }

    fn drain(&mut self, at: usize) {
        let mut buf = Vec::new();
        loop {
            buf.clear();
            let End { tunnel, shared, waiting, .. } = &mut self.ends[at];
            let Some(batch) = tunnel.poll_transmit(self.now, shared, 16, waiting, &mut buf) else {
                return;
            };
            for datagram in buf.chunks(batch.segment_size) {
                self.ends[at].sent += datagram.len() + 28;
                self.order += 1;
                if !self.ends[at].is_mute && self.rng.unit() >= self.loss {
                    let takes = Duration::from_secs_f64(datagram.len() as f64 / self.rate);
                    let begins = self.free_at[at].max(self.now);
                    if begins > self.now + MAX_QUEUE {
                        continue;
                    }
                    self.free_at[at] = begins + takes;
                    let slot = (self.free_at[at] + self.delay, self.order);
                    self.wire.insert(slot, (1 - at, datagram.to_vec()));
                }
            }
        }
    }

    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        let mut idle = 0;
        loop {
            (0..2).for_each(|at| self.drain(at));
            let timers = self.ends.iter().filter_map(End::timeout);
            let arrival = self.wire.keys().next().map(|(at, _)| *at);
            let next = timers.chain(arrival).min().expect("probes go on");
            if next > until {
                self.now = until;
                return;
            }
            idle = if next > self.now { 0 } else { idle + 1 };
            assert!(idle < 1000, "a loop without delay");
            self.now = self.now.max(next);
            while let Some(entry) = self.wire.first_entry().filter(|e| e.key().0 <= self.now) {
                let (to, mut bytes) = entry.remove();
                self.ends[to].receive(self.now, ADDRS[1 - to].into(), &mut bytes);
            }
            for end in &mut self.ends {
                if end.timeout().is_some_and(|at| at <= self.now) {
                    end.tunnel.handle_timeout(self.now, &mut end.shared);
                    end.note(self.now);
                }
            }
        }
    }

    /// Sends a little of data from `a`, again and again.
    fn run_with_data(&mut self, time: Duration, every: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.push(0, Lane::Express, b"data");
            self.run(every);
        }
    }

    fn take(
        &mut self,
        at: usize,
        wanted: impl Fn(&[u8]) -> bool,
    ) -> Vec<(Lane, Duration, Vec<u8>)> {
        let mut out = Vec::new();
        self.ends[at].tunnel.take_unacked(
            self.now,
            &mut |content| wanted(content),
            &mut |lane, held, content| out.push((lane, held, content.to_vec())),
        );
        out
    }
}

#[test]
fn a_dead_link_is_left_within_the_timeout_and_the_probes_while_data_flows() {
    for seed in 0..4 {
        let mut pair = Pair::new(seed, 40, 0.0);
        pair.run_with_data(MS * 10_000, MS * 7);
        assert!(pair.ends.iter().all(|end| end.tunnel.is_usable(pair.now)));
        let (died, rto) = (pair.now, pair.ends[0].tunnel.rto());
        let needed = pair.ends[0].tunnel.silence.needed() as u32;
        assert_eq!(needed, 6);
        pair.ends.iter_mut().for_each(|end| end.is_mute = true);
        pair.run_with_data(MS * 1500, MS * 7);
        let found = pair.ends[0].when(TunnelEvent::Suspect).expect("found") - died;
        assert!(found <= rto + MS * 25 * needed + MS * 30, "{found:?}, {rto:?}");
        // The other end, which sends nothing but probes.
        let found = pair.ends[1].when(TunnelEvent::Suspect).expect("found") - died;
        assert!(found <= MS * 550 + rto * 2 + MS * 25 * needed + MS * 30, "{found:?}, {rto:?}");
        assert!(pair.ends.iter().all(|end| !end.tunnel.is_usable(pair.now)));
        assert!(pair.ends[0].tunnel.status(pair.now).suspect);
    }
}

#[test]
fn both_ends_find_that_one_direction_died() {
    for mute in 0..2 {
        let mut pair = Pair::new(mute as u8, 30, 0.0);
        pair.run(MS * 60_000);
        pair.ends[mute].is_mute = true;
        pair.run(MS * 1200);
        for end in &pair.ends {
            assert!(end.tunnel.silence.is_suspect() && !end.tunnel.is_usable(pair.now));
        }
        // The one that still hears from the other is up, and yet not usable.
        assert!(pair.ends[mute].tunnel.is_up(pair.now));
        pair.ends[mute].is_mute = false;
        pair.run(MS * 1000);
        for end in &pair.ends {
            let last = end.events.last().map(|(_, event)| *event);
            assert!(end.tunnel.is_usable(pair.now) && last == Some(TunnelEvent::Trusted));
            assert!(end.tunnel.loss.loss() < 0.01 && end.tunnel.silence.needed() == 6);
        }
    }
}

#[test]
fn an_idle_link_knows_its_loss_and_is_not_suspected_for_it() {
    for (seed, loss) in [(1, 0.0), (2, 0.1), (3, 0.4), (4, 0.4)] {
        let mut pair = Pair::new(seed, 40, loss);
        pair.run(MS * 10_000);
        pair.ends.iter_mut().for_each(|end| end.sent = 0);
        let span = Duration::from_secs(600);
        pair.run(span);
        for end in &pair.ends {
            let found = end.tunnel.quality().expect("measured");
            assert!((found.loss - loss).abs() <= 0.25 * loss, "{loss}: {found:?}");
            assert!((MS * 79..=MS * 81).contains(&found.rtt), "{found:?}");
            assert_eq!(end.when(TunnelEvent::Suspect), None);
            // Nothing was measured of rates: a transfer begins as on a fresh tunnel.
            assert_eq!(end.tunnel.rate.pacing_rate(), PathModel::new().pacing_rate());
        }
        let bits = pair.ends.iter().map(|end| end.sent).sum::<usize>() * 8 / 600;
        // With loss, what is not answered in time is asked again at once.
        let bound = if loss > 0.1 { 60_000 } else { 6_000 + (60_000.0 * loss) as usize };
        assert!(bits <= bound, "{loss}: {bits} bit/s");
    }
}

#[test]
fn a_transfer_that_begins_does_not_make_the_path_longer() {
    let mut pair = Pair::new(1, 40, 0.0);
    pair.rate = 2_500_000.0;
    pair.run(MS * 10_000);
    let mut longest = [Duration::ZERO; 3];
    for _ in 0..2_000 {
        while pair.ends[0].waiting.0[Lane::Bulk as usize].len() < 200 {
            pair.push(0, Lane::Bulk, &[7; 1100]);
        }
        pair.run(MS * 5);
        for (end, longest) in pair.ends.iter().zip(&mut longest) {
            let found = end.tunnel.quality().expect("measured");
            *longest = found.rtt.max(*longest);
            assert!(found.jitter < MS * 10, "{found:?}");
        }
        longest[2] = longest[2].max(pair.free_at[0].saturating_duration_since(pair.now));
        assert!(pair.ends.iter().all(|end| end.when(TunnelEvent::Suspect).is_none()));
    }
    let carried = pair.ends[1].arrived.0.len() * 1100;
    assert!(carried > 15_000_000 && longest[2] > MS * 60, "{carried}, {longest:?}");
    assert!(longest[0] < MS * 85 && longest[1] < MS * 85, "{longest:?}");
}

#[test]
fn what_waits_for_a_dead_neighbour_moves_on_and_the_lanes_open_again() {
    let mut pair = Pair::new(1, 20, 0.0);
    pair.run_with_data(MS * 5_000, MS * 20);
    pair.ends[0].is_mute = true;
    for n in 0..300u32 {
        let lane = Lane::ALL[n as usize % 3];
        pair.push(0, lane, &n.to_be_bytes());
        pair.run(MS * 3);
    }
    assert!(pair.ends[0].tunnel.silence.is_suspect());
    let is_third = |content: &[u8]| content[3] % 4 == 3;
    let left = pair.ends[0].tunnel.lanes.iter().map(|lane| lane.unacked()).sum::<usize>();
    let taken = pair.take(0, |content| !is_third(content));
    assert!(taken.len() > 50, "{}", taken.len());
    // By lane, the oldest first, with their age.
    for pair in taken.windows(2) {
        assert!((pair[0].0 as u8, &pair[0].2) < (pair[1].0 as u8, &pair[1].2));
        assert!(pair[0].0 != pair[1].0 || pair[0].1 >= pair[1].1);
    }
    assert!(taken.iter().all(|(_, held, content)| !is_third(content) && *held > Duration::ZERO));
    let unacked = pair.ends[0].tunnel.lanes.iter().map(|lane| lane.unacked()).sum::<usize>();
    assert_eq!(unacked, left - taken.len());
    assert!(pair.take(0, |content| !is_third(content)).is_empty(), "each is handed out once");
    // What was not sent yet for want of a window is the source's.
    pair.ends[0].waiting.0.iter_mut().for_each(VecDeque::clear);
    pair.run(MS * 2_000);
    let before = pair.ends[1].arrived.0.len();
    pair.ends[0].is_mute = false;
    pair.run(MS * 3_000);
    let late = pair.ends[1].arrived.0.split_off(before);
    let contents = late.iter().map(|(_, _, content)| content.clone()).collect::<Vec<_>>();
    for (_, _, content) in &taken {
        assert!(!contents.contains(content), "sent although it was taken: {content:?}");
    }
    // What was left is sent here, and told to be old.
    assert_eq!(contents.len(), unacked);
    assert!(late.iter().all(|(_, held, content)| is_third(content) && *held > MS * 2_000));
    let tunnel = &pair.ends[0].tunnel;
    assert!(!tunnel.has_unacked() && tunnel.lanes.iter().all(|lane| lane.retired() == 0));
    assert!(tunnel.is_usable(pair.now) && tunnel.held_since().is_none());
    for lane in Lane::ALL {
        pair.push(0, lane, b"new");
    }
    pair.run(MS * 100);
    assert_eq!(pair.ends[1].arrived.0.len(), before + 3);
    assert!(!pair.ends[0].tunnel.has_unacked());
}

#[test]
fn a_full_lane_of_symbols_that_moved_on_opens_again() {
    let mut pair = Pair::new(1, 20, 0.0);
    pair.run(MS * 3_000);
    let now = pair.now;
    let lane = &mut pair.ends[0].tunnel.lanes[Lane::Bulk as usize];
    while lane.next_ssn().is_some() {
        lane.push(now, b"x", false);
    }
    let full = lane.unacked();
    assert_eq!(pair.take(0, |_| true).len(), full);
    pair.push(0, Lane::Bulk, b"new");
    pair.run(MS * 200);
    assert_eq!(pair.ends[1].arrived.0.iter().filter(|(_, _, c)| c == b"new").count(), 1);
    let lane = &pair.ends[0].tunnel.lanes[Lane::Bulk as usize];
    assert_eq!((lane.unacked(), lane.retired()), (0, 0));
}

#[test]
fn copies_say_how_long_they_were_held() {
    let mut pair = Pair::new(1, 20, 0.0);
    pair.run_with_data(MS * 3_000, MS * 20);
    assert!(pair.ends[1].arrived.0.iter().all(|(_, held, _)| held.is_zero()));
    pair.ends[0].is_mute = true;
    pair.push(0, Lane::Bulk, b"late");
    pair.run(MS * 700);
    pair.ends[0].is_mute = false;
    pair.run(MS * 2_000);
    let (_, held, _) = pair.ends[1].arrived.0.last().expect("repaired");
    assert!(*held >= MS * 700 && *held < MS * 1500, "{held:?}");
}

#[test]
fn what_a_former_life_of_the_peer_never_acknowledged_is_kept_for_the_node() {
    let mut pair = Pair::new(1, 20, 0.0);
    pair.run_with_data(MS * 3_000, MS * 20);
    pair.ends[1].is_mute = true;
    for n in 0..20u8 {
        pair.push(0, Lane::Express, &[n]);
        pair.run(MS * 5);
    }
    let unacked = pair.ends[0].tunnel.lanes.iter().map(|lane| lane.unacked()).sum::<usize>();
    assert!(unacked >= 15, "{unacked}");
    pair.wire.clear();
    pair.ends[1] = end(1, 1, pair.now, 2);
    let ups = |pair: &Pair| {
        let is_fresh = |e: &TunnelEvent| matches!(e, TunnelEvent::Up { fresh: true, .. });
        pair.ends[0].events.iter().filter(|(_, e)| is_fresh(e)).count()
    };
    assert_eq!(ups(&pair), 1);
    pair.run(MS * 3_000);
    assert_eq!(ups(&pair), 2);
    assert!(!pair.ends[0].tunnel.has_unacked() && pair.ends[0].tunnel.is_usable(pair.now));
    let mut taken = Vec::new();
    let now = pair.now;
    let tunnel = &mut pair.ends[0].tunnel;
    tunnel.take_orphans(now, &mut |lane, held, content| {
        assert!(lane == Lane::Express && held > MS * 2_000);
        taken.push(content.to_vec());
    });
    taken.retain(|content| content.len() == 1);
    assert!(taken.len() >= 15 && taken.is_sorted(), "{taken:?}");
    tunnel.take_orphans(now, &mut |_, _, _| panic!("once"));
    // Nothing of it reaches the new life by itself.
    assert!(pair.ends[1].arrived.0.is_empty());
}

#[test]
fn a_process_that_slept_suspects_nobody() {
    for (seed, slept) in [(0, 150), (2, 400), (4, 2_000)] {
        for asleep in 0..2 {
            let mut pair = Pair::new(seed + asleep as u8, 100, 0.0);
            pair.run_with_data(MS * 10_000, MS * 7);
            // Time passes for nobody, and then all at once: timers come first.
            pair.now += MS * slept;
            for at in [asleep, 1 - asleep] {
                let end = &mut pair.ends[at];
                end.tunnel.handle_timeout(pair.now, &mut end.shared);
                end.note(pair.now);
            }
            pair.run_with_data(MS * 3_000, MS * 7);
            for end in &pair.ends {
                assert_eq!(end.when(TunnelEvent::Suspect), None, "{slept}, {asleep}");
            }
        }
    }
}
