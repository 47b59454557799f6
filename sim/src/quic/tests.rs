//! The baseline in the engine, which compares every byte, every end and every reset.

mod twins;

use super::config::ControllerRef;
use super::*;
use crate::engine::{Engine, Fault, HostId, LinkId, MakeCore, Trace, UNIX_START};
use crate::link::{Jitter, LinkConfig, Loss, QueueLimit, Rate};
use crate::mesh;
use crate::outcome::WorkloadOutcome;
use crate::scenario;
use crate::seed::Seed;
use crate::stage::{self, RunOptions};
use crate::traffic::{Amount, Arrivals, Habits, Kind, Plan, TARGET_PORT, Workload};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const BOTH: [Congestion; 2] = [Congestion::Cubic, Congestion::Bbr];

const CLIENT: HostId = HostId(0);
const SERVER: HostId = HostId(1);

fn lossy(delay: Duration, average: f64) -> LinkConfig {
    LinkConfig { delay, loss: Loss::Bernoulli { average }, ..LinkConfig::default() }
}

/// With a bottleneck and a queue of 100 ms before it.
fn narrow(mbps: f64, link: LinkConfig) -> LinkConfig {
    let rate = Rate { mbps, queue: QueueLimit::Time(100 * MS), mark_above: None };
    LinkConfig { rate: Some(rate), ..link }
}

/// London to Sydney over the public Internet: 271 ms, 100 Mbit/s.
fn ocean(average: f64) -> LinkConfig {
    narrow(100.0, lossy(Duration::from_micros(135_500), average))
}

fn workload(name: &str, connections: u32, start: Duration, kind: Kind) -> Workload {
    Workload {
        name: name.to_owned(),
        from: CLIENT,
        to: SERVER,
        start,
        arrivals: Arrivals::Together(connections),
        plan: Plan::new(kind),
        refused: false,
    }
}

fn down(bytes: u64) -> Kind {
    Kind::Download(Amount::Bytes(bytes))
}

fn up(bytes: u64) -> Kind {
    Kind::Upload(Amount::Bytes(bytes))
}

fn exchanges(count: u32, pause: Duration) -> Kind {
    Kind::Exchanges { count, request: 64, answer: 640, pause }
}

/// Two ends and a link.
struct Line {
    seed: u64,
    congestion: Congestion,
    link: LinkConfig,
    /// Services of which the server has not heard.
    unknown: &'static [&'static str],
    /// In place of the client's.
    controller: Option<ControllerRef>,
    /// In place of the server's, in bytes.
    send_window: Option<u64>,
}

impl Line {
    fn new(seed: u64, congestion: Congestion, link: LinkConfig) -> Self {
        Self { seed, congestion, link, unknown: &[], controller: None, send_window: None }
    }

    fn engine(&self, workloads: &[Workload]) -> Engine {
        let mut engine = Engine::new(Seed::new(self.seed), Trace::new());
        for (host, make) in [(CLIENT, self.client(workloads)), (SERVER, self.server(workloads))] {
            let name = ["client", "server"][host.0];
            let added = engine.add_host(name, mesh::addr(host), None, 0, make);
            assert_eq!(added.expect("a core"), host);
        }
        engine.add_link((CLIENT, SERVER), &self.link, &self.link).expect("a link");
        for workload in workloads {
            engine.add_workload(workload.clone()).expect("a listener");
        }
        engine
    }

    fn client(&self, workloads: &[Workload]) -> MakeCore {
        let listener = |w: &Workload| ("server".to_owned(), w.name.clone());
        let options = ClientOptions {
            congestion: self.congestion,
            remote: mesh::addr(SERVER),
            listeners: workloads.iter().map(listener).collect(),
        };
        let controller = self.controller.clone();
        Box::new(move |boot| {
            let core = match controller.clone() {
                Some(controller) => {
                    let rng = ChaCha8Rng::from_seed(boot.seed);
                    let transport = config::transport(controller, true);
                    QuicCore::client_with(options.clone(), boot, rng, transport)
                }
                None => QuicCore::client(options.clone(), boot),
            };
            Ok(Box::new(core?))
        })
    }

    fn server(&self, workloads: &[Workload]) -> MakeCore {
        let known = workloads.iter().filter(|w| !self.unknown.contains(&w.name.as_str()));
        let target = |w: &Workload| HostPort { host: w.name.clone(), port: TARGET_PORT };
        let origins = known.map(|w| (w.name.clone(), target(w))).collect();
        let options = ServerOptions { congestion: self.congestion, origins };
        let send_window = self.send_window;
        Box::new(move |boot| {
            let mut rng = ChaCha8Rng::from_seed(boot.seed);
            let controller = config::controller(options.congestion, &mut rng);
            let mut transport = config::transport(controller, false);
            if let Some(bytes) = send_window {
                transport.send_window(bytes);
            }
            Ok(Box::new(QuicCore::server_with(options.clone(), boot, rng, transport)?))
        })
    }
}

/// Until every connection is over.
fn run(engine: &mut Engine, limit: Duration) {
    engine.run(limit);
    engine.check();
    assert_eq!(engine.violations(), [""; 0], "{:?}", engine.unfinished());
    assert!(engine.is_done(), "at {:?}: {:?}", engine.now(), engine.unfinished());
}

fn found(engine: &Engine, name: &str) -> WorkloadOutcome {
    engine.outcome("").workloads.remove(name).expect("a workload")
}

/// How many completed, how many were reset.
fn ends(engine: &Engine, name: &str) -> (u64, u64) {
    let found = found(engine, name);
    (found.completed, found.reset)
}

#[test]
fn every_byte_arrives_both_ways_through_loss() {
    let large = Kind::Exchanges { count: 2, request: 300_000, answer: 300_000, pause: MS };
    let workloads = [
        workload("down", 2, Duration::ZERO, down(1_000_000)),
        workload("up", 2, Duration::ZERO, up(1_000_000)),
        workload("large", 2, Duration::ZERO, large),
        workload("many", 200, SECOND, exchanges(3, MS)),
    ];
    for congestion in BOTH {
        let mut engine = Line::new(1, congestion, lossy(30 * MS, 0.05)).engine(&workloads);
        run(&mut engine, 600 * SECOND);
        let ends = workloads.each_ref().map(|workload| ends(&engine, &workload.name));
        assert_eq!(ends, [(2, 0), (2, 0), (2, 0), (200, 0)], "{congestion:?}");
        assert_eq!(found(&engine, "many").exchanges, 600);
    }
}

#[test]
fn bytes_flow_on_in_one_direction_after_the_other_ended() {
    let half = |name, kind| {
        let mut workload = workload(name, 3, Duration::ZERO, kind);
        workload.plan.half_close = true;
        workload
    };
    let workloads = [half("ask", exchanges(3, MS)), half("down", down(1_000_000))];
    let mut engine = Line::new(2, Congestion::Cubic, lossy(20 * MS, 0.02)).engine(&workloads);
    run(&mut engine, 60 * SECOND);
    assert_eq!((ends(&engine, "ask"), ends(&engine, "down")), ((3, 0), (3, 0)));
}

#[test]
fn a_reset_crosses_either_way() {
    let breaking = |name, kind, client: bool| {
        let mut workload = workload(name, 3, Duration::ZERO, kind);
        let habits = Habits { resets_after: Some(100_000), ..Habits::default() };
        *(if client { &mut workload.plan.client } else { &mut workload.plan.origin }) = habits;
        workload
    };
    let forever = Kind::Download(Amount::For(600 * SECOND));
    // The client has nothing left to reset but what it receives.
    let mut half = breaking("client-half", forever, true);
    half.plan.half_close = true;
    let workloads = [
        breaking("client-down", forever, true),
        breaking("client-up", up(2_000_000), true),
        breaking("origin-down", forever, false),
        breaking("origin-up", up(2_000_000), false),
        half,
        workload("dies-down", 3, Duration::ZERO, forever),
        workload("dies-idle", 3, Duration::ZERO, exchanges(2, 600 * SECOND)),
    ];
    let link = narrow(20.0, lossy(20 * MS, 0.05));
    let mut engine = Line::new(3, Congestion::Cubic, link).engine(&workloads);
    engine.schedule(15 * SECOND, Fault::OriginsDie(SERVER));
    // The first five are over before.
    engine.run_until(15 * SECOND - MS);
    let reset = |engine: &Engine| workloads.each_ref().map(|workload| ends(engine, &workload.name));
    assert_eq!(reset(&engine)[..5], [(0, 3); 5], "{:?}", engine.unfinished());
    assert_eq!(found(&engine, "dies-idle").exchanges, 3);
    run(&mut engine, 17 * SECOND);
    assert_eq!(reset(&engine), [(0, 3); 7]);
}

#[test]
fn a_refused_dial_and_an_unknown_service_reset_the_client() {
    let kind = exchanges(1, MS);
    let refused = Workload { refused: true, ..workload("refused", 2, Duration::ZERO, kind) };
    // Its origin would answer, were it dialled.
    let unknown = workload("unknown", 2, Duration::ZERO, kind);
    let line = Line::new(4, Congestion::Cubic, lossy(20 * MS, 0.0));
    let mut engine = Line { unknown: &["unknown"], ..line }.engine(&[refused, unknown]);
    engine.schedule(Duration::ZERO, Fault::Excuse(Some("the service is unknown")));
    run(&mut engine, SECOND);
    assert_eq!((ends(&engine, "refused"), ends(&engine, "unknown")), ((0, 2), (0, 2)));
}

#[test]
fn a_first_byte_needs_one_trip_on_a_connection_that_stands() {
    let workloads = [workload("ping", 4, SECOND, exchanges(1, MS))];
    let mut engine = Line::new(5, Congestion::Cubic, lossy(50 * MS, 0.0)).engine(&workloads);
    run(&mut engine, 2 * SECOND);
    let slowest = found(&engine, "ping").latency.expect("exchanges").max_ms;
    assert!((100.0..100.1).contains(&slowest), "{slowest} ms");
}

#[test]
fn an_end_that_reads_slowly_stops_the_other_and_loses_nothing() {
    // More than fits into the windows.
    const BYTES: u64 = 80 << 20;
    const WINDOW: u64 = 64 << 20;
    let slow = Habits { reads_per_second: Some(1 << 20), ..Habits::default() };
    for kind in [up(BYTES), down(BYTES)] {
        let mut workload = workload("slow", 1, Duration::ZERO, kind);
        *(if kind == up(BYTES) { &mut workload.plan.origin } else { &mut workload.plan.client }) =
            slow;
        let mut engine = Line::new(6, Congestion::Bbr, lossy(5 * MS, 0.0))
            .engine(std::slice::from_ref(&workload));
        engine.run_until(8 * SECOND);
        // `0 of 16 bytes to the origin, 1000 of 2000 to the client`
        let told = engine.unfinished().concat();
        let mut written = told.split(" of ").skip(1).map(|rest| {
            let digits = rest.split(' ').next().unwrap_or_default();
            digits.parse::<u64>().expect("a number")
        });
        let written = written.by_ref().max().expect("a stream");
        // What was read, and the buffers of the two ends, come on top.
        assert!((WINDOW..=WINDOW + (12 << 20)).contains(&written), "{told}");
        run(&mut engine, 100 * SECOND);
        assert_eq!(ends(&engine, "slow"), (1, 0));
    }
}

#[test]
fn a_lost_connection_resets_what_it_carried_and_the_next_client_gets_another() {
    let workloads = [
        workload("idle", 2, SECOND, exchanges(4, 45 * SECOND)),
        workload("next", 2, 170 * SECOND, exchanges(4, SECOND)),
    ];
    let mut engine = Line::new(7, Congestion::Cubic, lossy(20 * MS, 0.0)).engine(&workloads);
    for (at, why) in [(100, Some("the link is cut")), (160, None)] {
        engine.schedule(at * SECOND, Fault::Excuse(why));
        for way in [LinkId::nth(0), LinkId::nth(1)] {
            let fault = if why.is_some() { Fault::Cut(way) } else { Fault::Mend(way) };
            engine.schedule(at * SECOND, fault);
        }
    }
    engine.run_until(99 * SECOND);
    // Kept alive between them.
    let before = found(&engine, "idle");
    let slowest = before.latency.expect("exchanges").max_ms;
    assert!((before.exchanges, before.reset) == (6, 0) && slowest < 41.0, "{before:?}");
    engine.run_until(135 * SECOND);
    assert_eq!(ends(&engine, "idle"), (0, 2), "{:?}", engine.unfinished());
    run(&mut engine, 180 * SECOND);
    assert_eq!(ends(&engine, "next"), (2, 0));
}

#[test]
fn a_client_that_no_server_answers_gives_up_and_says_why() {
    let now = Instant::now();
    let listeners = vec![("server".to_owned(), "web".to_owned())];
    let remote = mesh::addr(SERVER);
    let options = ClientOptions { congestion: Congestion::Cubic, remote, listeners };
    let boot = Boot { seed: [1; 32], now, unix_now: UNIX_START, life: 0, kept: Default::default() };
    let mut core = QuicCore::client(options, boot).expect("a client");
    let conn = ConnId::accepted(0);
    let (listener, local) = (ListenerId(0), remote);
    core.handle_tcp(now, TcpEvent::Accepted { conn, listener, remote, local });
    let mut time = now;
    while core.last_loss().is_none() {
        let mut datagrams = Vec::new();
        while core.poll_transmit(time, 1, &mut datagrams).is_some() {}
        assert!(!matches!(core.poll_action(), Some(Action::Abort { .. })));
        time = core.poll_timeout().expect("a timer").0;
        core.handle_timeout(time);
    }
    assert_eq!(core.last_loss(), Some(&ConnectionError::TimedOut));
    assert_eq!(time - now, 30 * SECOND);
    let aborts = std::iter::from_fn(|| core.poll_action());
    assert_eq!(aborts.filter(|a| matches!(a, Action::Abort { conn: c } if *c == conn)).count(), 1);
}

#[test]
fn draining_lets_connections_end_and_cuts_off_what_does_not() {
    let drain_at = 1_200 * MS;
    let endless = Kind::Download(Amount::For(600 * SECOND));
    for (host, is_cut_off) in [(CLIENT, false), (SERVER, false), (CLIENT, true), (SERVER, true)] {
        let mut workloads = vec![
            workload("down", 2, SECOND, down(300_000)),
            workload("up", 2, SECOND, up(300_000)),
            workload("late", 2, drain_at + MS, exchanges(1, MS)),
        ];
        if is_cut_off {
            workloads.push(workload("endless", 2, SECOND, endless));
        }
        let link = narrow(20.0, lossy(20 * MS, 0.02));
        let mut engine = Line::new(8, Congestion::Bbr, link).engine(&workloads);
        engine.schedule(drain_at, Fault::Drain(host));
        engine.run_until(drain_at + DRAIN_LIMIT - MS);
        assert_eq!(engine.core(host).is_some(), is_cut_off, "{:?}", engine.unfinished());
        run(&mut engine, drain_at + DRAIN_LIMIT + SECOND);
        engine.run_until(drain_at + DRAIN_LIMIT + 2 * SECOND);
        assert!(engine.core(host).is_none());
        let ends = |name| ends(&engine, name);
        assert_eq!((ends("down"), ends("up"), ends("late")), ((2, 0), (2, 0), (0, 2)));
        assert!(!is_cut_off || ends("endless") == (0, 2));
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let rough = LinkConfig {
        jitter: Some(Jitter { range: 5 * MS, reorders: true }),
        duplicate: 0.01,
        corrupt: 0.02,
        ..lossy(20 * MS, 0.02)
    };
    let workloads = [
        workload("down", 3, Duration::ZERO, down(300_000)),
        workload("up", 3, Duration::ZERO, up(300_000)),
        workload("ping", 3, Duration::ZERO, exchanges(20, MS)),
    ];
    for congestion in BOTH {
        let hash = |seed| {
            let mut engine = Line::new(seed, congestion, rough.clone()).engine(&workloads);
            run(&mut engine, 200 * SECOND);
            engine.trace().hash()
        };
        assert_eq!(hash(10), hash(10), "{congestion:?}");
        assert_ne!(hash(10), hash(11), "{congestion:?}");
    }
}

#[test]
fn a_long_transfer_survives_a_long_lossy_path_that_reorders_or_not() {
    let jitter = Jitter { range: 10 * MS, reorders: true };
    let reordering = LinkConfig { jitter: Some(jitter), ..ocean(0.01) };
    // CUBIC takes each loss for congestion: 4 MB take it a minute and a half. Reordering beyond three
    // packets slows BBR down likewise.
    for (seed, congestion, link, bytes) in [
        (11, Congestion::Bbr, ocean(0.02), 40_000_000),
        (11, Congestion::Cubic, ocean(0.02), 4_000_000),
        (5, Congestion::Bbr, reordering, 40_000_000),
    ] {
        let workloads = [workload("up", 1, Duration::ZERO, up(bytes))];
        let mut engine = Line::new(seed, congestion, link).engine(&workloads);
        run(&mut engine, 600 * SECOND);
        assert_eq!(ends(&engine, "up"), (1, 0));
    }
}

#[test]
fn streams_share_a_connection_whose_buffers_and_windows_transfers_fill() {
    let bulk = Kind::Download(Amount::For(60 * SECOND));
    let workloads = [
        workload("bulk", 1, Duration::ZERO, bulk),
        workload("other", 1, Duration::ZERO, bulk),
        workload("ping", 8, SECOND, exchanges(20, 100 * MS)),
    ];
    // As it is, and where transfers leave no room at all.
    for send_window in [None, Some(256 << 10)] {
        let line = Line::new(13, Congestion::Cubic, narrow(100.0, lossy(50 * MS, 0.05)));
        let mut engine = Line { send_window, ..line }.engine(&workloads);
        engine.run_until(30 * SECOND);
        assert_eq!(engine.violations(), [""; 0]);
        let ping = found(&engine, "ping");
        assert_eq!(ping.completed, 8, "{send_window:?}: {:?}", engine.unfinished());
        let p50 = ping.latency.expect("exchanges").p50_ms;
        assert!(p50 < 200.0, "{send_window:?}: {p50} ms");
        let (one, other) = (found(&engine, "bulk").bytes_down, found(&engine, "other").bytes_down);
        assert!(one.min(other) > one.max(other) / 2, "{send_window:?}: {one} and {other} bytes");
    }
}

#[test]
fn what_one_connection_cannot_carry_is_refused() {
    for name in ["three-pops", "star", "nat"] {
        let scenario = scenario::load(name, &[]).expect("it is built in");
        let carrier = stage::Carrier::Quic(Congestion::Cubic);
        let refused = stage::run(&scenario, RunOptions { carrier, ..RunOptions::new(1) });
        let told = refused.expect_err("it was run").to_string();
        assert!(told.contains(name) && told.contains("it needs two PoPs"), "{told}");
    }
}
