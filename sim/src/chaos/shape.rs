//! What a mesh looks like: who is linked to whom, and by what.

use std::time::Duration;

use super::draws::Draws;
use super::sample::Connected;
use crate::engine::HostId;
use crate::link::{Burst, Jitter, LinkConfig, Loss, QueueLimit, Rate, Reorder};
use crate::seed::Seed;

/// A mesh in which every host reaches every other one: a line, a ring, a star, two rings that share a
/// host, or a tree with some links more. However large, it has at most half as many links again as hosts.
pub(super) fn links(seed: Seed, count: usize) -> Vec<Connected> {
    let mut draws = Draws::new(seed, "links");
    let ends = match draws.between(0, 6) {
        0 => chain(0..count).collect(),
        1 => ring((0..count).collect()),
        2 => (1..count).map(|leaf| (0, leaf)).collect(),
        3 if count >= 5 => {
            let mut second: Vec<_> = (count / 2..count).collect();
            second.push(0);
            [ring((0..count / 2).collect()), ring(second)].concat()
        }
        _ => tree_and_more(&mut draws, count),
    };
    let longest = longest(count);
    let mut connect = |(a, b)| Connected {
        ends: (HostId(a), HostId(b)),
        forth: link(&mut draws, longest),
        back: link(&mut draws, longest),
    };
    ends.into_iter().map(&mut connect).collect()
}

/// Delay of a link, at most, in milliseconds: a way over all hosts is to stay below a second.
pub(super) fn longest(count: usize) -> u64 {
    (480 / count as u64).min(120)
}

fn chain(hosts: std::ops::Range<usize>) -> impl Iterator<Item = (usize, usize)> {
    hosts.clone().zip(hosts.skip(1))
}

/// Of two hosts it is one link.
fn ring(hosts: Vec<usize>) -> Vec<(usize, usize)> {
    let mut ends: Vec<_> = hosts.windows(2).map(|pair| (pair[0], pair[1])).collect();
    if let ([first, .., last], true) = (&hosts[..], hosts.len() > 2) {
        ends.push((*first, *last));
    }
    ends
}

fn tree_and_more(draws: &mut Draws, count: usize) -> Vec<(usize, usize)> {
    let mut ends: Vec<(usize, usize)> = (1..count).map(|b| (draws.index(b), b)).collect();
    for _ in 0..count / 2 {
        let b = draws.index(count - 1) + 1;
        let a = draws.index(b);
        if !ends.contains(&(a, b)) {
            ends.push((a, b));
        }
    }
    ends
}

/// One direction, with a delay of so many milliseconds at most.
pub(super) fn link(draws: &mut Draws, longest: u64) -> LinkConfig {
    let delay = draws.millis(1, longest);
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
