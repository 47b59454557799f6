//! The engine itself: does it see what goes wrong, and is it the same each time?

use std::time::Duration;

use super::*;
use crate::link::{LinkConfig, Loss, QueueLimit, Rate};
use crate::mesh;
use crate::traffic::{Amount, Habits, Kind, Plan};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn lossy(loss: f64) -> LinkConfig {
    LinkConfig {
        rate: Some(Rate { mbps: 20.0, queue: QueueLimit::Time(50 * MS), mark_above: None }),
        loss: Loss::Bernoulli { average: loss },
        delay: 20 * MS,
        ..LinkConfig::default()
    }
}

fn workload(name: &str, plan: Plan) -> Workload {
    Workload {
        name: name.to_owned(),
        from: HostId(0),
        to: HostId(1),
        start: Duration::ZERO,
        arrivals: Arrivals::Together(2),
        plan,
        refused: false,
    }
}

fn exchanges(count: u32) -> Plan {
    Plan::new(Kind::Exchanges { count, request: 64, answer: 640, pause: MS })
}

/// Two PoPs and a link.
fn two_pops(seed: u64, link: &LinkConfig, workloads: &[Workload]) -> Engine {
    let seed = Seed::new(seed);
    let pop =
        |name: &str| mesh::Pop { name: name.to_owned(), hidden: false, config: toml::Table::new() };
    let (a, b) = (HostId(0), HostId(1));
    let configs = mesh::configs(seed, &[pop("a"), pop("b")], &[(a, b)], workloads).expect("valid");
    let mut engine = Engine::new(seed, Trace::new());
    for (config, host) in configs.into_iter().zip([a, b]) {
        let name = config.node_id.to_string();
        let added = engine.add_host(&name, mesh::addr(host), None, 0, mesh::node(config));
        assert_eq!(added.expect("a node"), host);
    }
    engine.add_link((a, b), link, link).expect("a link");
    for workload in workloads {
        engine.add_workload(workload.clone()).expect("a listener");
    }
    engine
}

fn completed(engine: &Engine, name: &str) -> (u64, u64) {
    let workload = &engine.outcome("").workloads[name];
    (workload.completed, workload.reset)
}

#[test]
fn exchanges_uploads_and_downloads_complete_exactly() {
    let bulk = Amount::Bytes(300_000);
    let half = Plan { half_close: true, ..exchanges(3) };
    let slow = Habits { reads_per_second: Some(100_000), resets_after: None };
    let workloads = [
        workload("ping", exchanges(50)),
        workload("down", Plan::new(Kind::Download(bulk))),
        workload("up", Plan::new(Kind::Upload(bulk))),
        workload("timed", Plan::new(Kind::Download(Amount::For(2 * SECOND)))),
        workload("half", half),
        workload("slow", Plan { client: slow, ..Plan::new(Kind::Download(bulk)) }),
    ];
    let mut engine = two_pops(1, &lossy(0.05), &workloads);
    engine.run(60 * SECOND);
    assert_eq!(engine.violations(), [""; 0], "{:?}", engine.unfinished());
    assert!(engine.is_done(), "{:?}", engine.unfinished());
    for workload in &workloads {
        assert_eq!(completed(&engine, &workload.name), (2, 0), "{}", workload.name);
    }
    let outcome = engine.outcome("");
    assert_eq!(outcome.workloads["ping"].exchanges, 100);
    assert_eq!(outcome.workloads["down"].bytes_down, 600_000);
    assert!(outcome.workloads["ping"].latency.expect("samples").min_ms >= 40.0);
}
