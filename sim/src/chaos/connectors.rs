//! Clients beside the mesh, which get in over QUIC: what is added to some worlds.

use std::time::Duration;

use super::draws::Draws;
use super::sample::Connected;
use crate::engine::{Fault, HostId, Rebind};
use crate::link::{Jitter, LinkConfig, Loss, QueueLimit, Rate, Reorder};
use crate::mesh::Connector;
use crate::seed::Seed;
use crate::traffic::{Amount, Arrivals, Kind, Plan, Workload};

/// Connectors of a world, with what belongs to them.
#[derive(Debug, Default)]
pub(super) struct Beside {
    pub connectors: Vec<Connector>,
    /// One for each.
    pub links: Vec<Connected>,
    /// One for each.
    pub workloads: Vec<Workload>,
    pub faults: Vec<(Duration, Fault)>,
}

/// Of every three worlds one has one or two, beside so many PoPs.
pub(super) fn beside(seed: Seed, pops: usize, heals_at: Duration) -> Beside {
    let mut draws = Draws::new(seed, "connectors");
    let mut beside = Beside::default();
    if !draws.one_in(3) {
        return beside;
    }
    for nth in 0..draws.between(1, 2) as usize {
        let (own, edge) = (HostId(pops + nth), HostId(draws.index(pops)));
        let connections = draws.pick(&[1, 1, 1, 3]);
        let early_data = !draws.one_in(4);
        let name = format!("connector{nth}");
        beside.connectors.push(Connector { name, edge, connections, early_data });
        let (forth, back) = (link(&mut draws), link(&mut draws));
        beside.links.push(Connected { ends: (own, edge), forth, back });
        let to = HostId(draws.index(pops));
        beside.workloads.push(workload(&mut draws, format!("q{nth}"), own, to));
        let end = (heals_at - Duration::from_secs(1)).as_millis() as u64;
        for _ in 0..draws.between(0, 3) {
            let at = draws.millis(1_000, end);
            beside.faults.push((at, fault(&mut draws, own)));
        }
    }
    beside
}

/// Such that whoever waits ten seconds gets in.
fn link(draws: &mut Draws) -> LinkConfig {
    let delay = draws.millis(1, 80);
    let loss = draws.pick(&[0.0, 0.0, 0.005, 0.02]);
    let queue = QueueLimit::Time(draws.millis(20, 300));
    let mbps = draws.pick(&[5.0, 20.0, 100.0]);
    let range = delay / 2;
    let share = |draws: &mut Draws| draws.pick(&[0.0, 0.0, 0.01]);
    LinkConfig {
        mtu: draws.one_in(4).then(|| draws.between(1_280, 1_500) as usize),
        rate: (!draws.one_in(4)).then_some(Rate { mbps, queue, mark_above: None }),
        loss: if loss > 0.0 { Loss::Bernoulli { average: loss } } else { Loss::None },
        delay,
        jitter: draws.one_in(3).then_some(Jitter { range, reorders: true }),
        reorder: draws.one_in(4).then(|| Reorder { probability: 0.02, by: draws.millis(1, 100) }),
        duplicate: share(draws),
        corrupt: share(draws),
        replay: share(draws),
    }
}

fn workload(draws: &mut Draws, name: String, from: HostId, to: HostId) -> Workload {
    let kind = match draws.between(0, 2) {
        0 => Kind::Download(Amount::Bytes(draws.between(20_000, 400_000))),
        1 => Kind::Upload(Amount::Bytes(draws.between(20_000, 400_000))),
        _ => Kind::Exchanges {
            count: draws.between(1, 30) as u32,
            request: draws.pick(&[8, 64, 1_200, 20_000]),
            answer: draws.pick(&[1, 64, 1_200, 20_000]),
            pause: draws.millis(0, 400),
        },
    };
    let start = draws.millis(3_000, 20_000);
    let arrivals = match draws.one_in(2) {
        true => Arrivals::Together(draws.between(1, 4) as u32),
        false => Arrivals::Every {
            gap: draws.millis(2_000, 6_000),
            until: start + draws.millis(0, 12_000),
        },
    };
    let plan = Plan { half_close: draws.one_in(4), ..Plan::new(kind) };
    Workload { name, from, to, start, arrivals, plan, refused: false }
}

fn fault(draws: &mut Draws, own: HostId) -> Fault {
    match draws.between(0, 4) {
        0 => Fault::Rebind(own, Rebind::Port),
        1 | 2 => Fault::Rebind(own, Rebind::Addr),
        3 => Fault::Restart(own, draws.millis(0, 60_000).as_nanos() as i64),
        _ => Fault::Forget(own),
    }
}
