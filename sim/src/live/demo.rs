//! Puts the pieces together, waits, and takes them down again.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::bulk::Timelines;
use super::ledger::Way;
use super::options::DemoOptions;
use super::origin::{BulkPlan, Origin};
use super::pops::{BoundPops, Places, PopError, Pops};
use super::progress::{Progress, Snapshot};
use super::proxy::{BoundProxy, Proxy, ProxyError};
use super::report::{BulkReports, LinkReport, Report, RoundTrips};
use super::stage::Stage;
use super::workload::{Edges, Workload};

/// Far longer than the link's thread takes to be woken.
const SOCKETS_EMPTY_WITHIN: Duration = Duration::from_millis(20);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Nothing moved for so long: nothing will. Longer than any repair, and than any of the mesh's own
/// limits.
const STALLED_AFTER: Duration = Duration::from_secs(30);
/// What is under way when a person interrupts gets so long to arrive.
const INTERRUPTED_FOR: Duration = Duration::from_secs(5);

/// The demo could not begin.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The origin.
    #[error("cannot start the origin on 127.0.0.1: {0}")]
    Origin(#[source] io::Error),
    /// The link.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// The PoPs.
    #[error(transparent)]
    Pops(#[from] PopError),
    /// The clients.
    #[error("cannot start the clients: {0}")]
    Clients(#[source] io::Error),
}

/// Closes the stage on every way out, so that no thread outlives the demo.
struct Curtain(Arc<Stage>, Option<Origin>);

impl Drop for Curtain {
    fn drop(&mut self) {
        self.0.close();
        if let Some(origin) = self.1.take() {
            origin.join();
        }
    }
}

/// Runs a demo to its end and reports.
///
/// When `stop` becomes true, senders finish at once; what is under way gets a few seconds to arrive.
///
/// # Errors
/// [`DemoError`] if something could not be started. What goes wrong later is in the report.
pub fn run(
    options: &DemoOptions,
    stop: &AtomicBool,
    progress: &mut Progress,
) -> Result<Report, DemoError> {
    let stage = Arc::new(Stage::default());
    let timelines = Arc::<Timelines>::default();
    let plan = BulkPlan {
        seed: options.seed.child("bulk"),
        duration: options.duration,
        timelines: Arc::clone(&timelines),
    };
    let origin = Origin::start(&stage, Ipv4Addr::LOCALHOST, &plan).map_err(DemoError::Origin)?;
    let origin_addrs = Edges { ping: origin.ping_addr, bulk: origin.bulk_addr };
    let curtain = Curtain(Arc::clone(&stage), Some(origin));

    let link = options.link();
    let proxy = BoundProxy::bind(&link, &link, options.seed.child("link"))?;
    let places = Places {
        relay: [(Ipv4Addr::LOCALHOST, 0).into(); 2],
        peer: [proxy.addr_facing_a(), proxy.addr_facing_b()],
        enter: &|_, what| {
            what();
            Ok(())
        },
    };
    let pops = BoundPops::bind(&places, options.shells, origin_addrs, options.seed.child("pops"))?;
    let (a, b) = pops.relay_addrs();
    let proxy = proxy.start(a, b)?;
    let pops = pops.start(&places)?;
    progress.say("two PoPs started; waiting for the tunnel between them");
    pops.wait_until_up(stop).inspect_err(|_| progress.clear())?;

    let started = Instant::now();
    let workload =
        Workload::start(&stage, pops.edges, options, &timelines).map_err(DemoError::Clients)?;
    let interrupted = watch(&stage, &workload, stop, &mut |moment| {
        if broken(&proxy, &pops).is_some() {
            stage.close();
        }
        progress.show(&Snapshot::take(&stage, options, started, &proxy), moment);
    });
    progress.clear();
    let samples = workload.join();
    let seconds = started.elapsed().as_secs_f64();
    let link = link_report(&proxy, &pops);
    // What the clients suffered from comes before what they say of it.
    let mut failures: Vec<String> = broken(&proxy, &pops).into_iter().collect();
    failures.extend(stage.failures());
    // The clients have read everything: the origin has at most a FIN to see.
    drop(curtain);
    drop(pops);
    // An error of the link has been reported above.
    let _ = proxy.stop();
    Ok(Report::new(
        options,
        seconds,
        interrupted,
        failures,
        [Way::ToOrigin, Way::ToClient].map(|way| stage.ledger.sum(way)),
        RoundTrips::of(&samples, options.rtt),
        BulkReports { to_origin: timelines.up.report(), to_client: timelines.down.report() },
        link,
    ))
}

/// Waits for the clients; whether they were interrupted.
fn watch(
    stage: &Stage,
    workload: &Workload,
    stop: &AtomicBool,
    look: &mut dyn FnMut(Instant),
) -> bool {
    let (mut moved, mut moved_at) = (0, Instant::now());
    let mut interrupted_at = None;
    while !workload.is_finished() {
        std::thread::sleep(LOOK_EVERY);
        let now = Instant::now();
        look(now);
        if stage.moved() != moved {
            (moved, moved_at) = (stage.moved(), now);
        }
        if stop.load(Relaxed) && interrupted_at.is_none() {
            interrupted_at = Some(now);
            stage.end();
        }
        if interrupted_at.is_some_and(|at| now - at > INTERRUPTED_FOR) {
            stage.fail("interrupted: what was under way did not arrive in 5 s".into());
            stage.close();
        } else if now - moved_at > STALLED_AFTER {
            stage.fail(format!("stalled: not a byte moved in {STALLED_AFTER:?}"));
            stage.close();
        }
    }
    interrupted_at.is_some()
}

/// What is gone of that which must run to the end.
fn broken(proxy: &Proxy, pops: &Pops) -> Option<String> {
    if proxy.has_failed() {
        return Some("the link's thread ended by itself".into());
    }
    pops.check().err().map(|error| error.to_string())
}

fn link_report(proxy: &Proxy, pops: &Pops) -> LinkReport {
    // First the PoPs, then the link, once it has emptied its sockets: so what they sent and it never
    // saw was lost in between.
    let (a, b) = pops.tunnels();
    std::thread::sleep(SOCKETS_EMPTY_WITHIN);
    LinkReport::new(&proxy.stats(), a.map(|peer| peer.counters), b.map(|peer| peer.counters))
}

#[cfg(test)]
mod tests {
    use argh::FromArgs;

    use super::super::options::DemoArgs;
    use super::*;

    /// The clients and the origin without PoPs between them.
    fn direct(flags: &[&str], stop_after: Option<Duration>) -> (Arc<Stage>, Vec<u64>, Timelines) {
        let args = DemoArgs::from_args(&["demo"], flags).expect("flags");
        let options = DemoOptions::try_from(&args).expect("valid flags");
        let stage = Arc::new(Stage::default());
        let timelines = Arc::<Timelines>::default();
        let plan = BulkPlan {
            seed: options.seed.child("bulk"),
            duration: options.duration,
            timelines: Arc::clone(&timelines),
        };
        let origin = Origin::start(&stage, Ipv4Addr::LOCALHOST, &plan).expect("an origin");
        let edges = Edges { ping: origin.ping_addr, bulk: origin.bulk_addr };
        let curtain = Curtain(Arc::clone(&stage), Some(origin));
        let workload = Workload::start(&stage, edges, &options, &timelines).expect("clients");
        let (stop, start) = (AtomicBool::new(false), Instant::now());
        let interrupted = watch(&stage, &workload, &stop, &mut |now| {
            stop.fetch_or(stop_after.is_some_and(|after| now - start >= after), Relaxed);
        });
        assert_eq!(interrupted, stop_after.is_some());
        let samples = workload.join();
        drop(curtain);
        drop(plan);
        (stage, samples, Arc::into_inner(timelines).expect("no thread is left"))
    }

    #[test]
    fn every_byte_is_accounted_for_both_ways() {
        let flags = ["--seconds", "0.3", "--rtt-ms", "1", "--bulk", "both"];
        let (stage, samples, timelines) = direct(&flags, None);
        assert_eq!(stage.failures(), Vec::<String>::new());
        let [up, down] = [Way::ToOrigin, Way::ToClient].map(|way| stage.ledger.sum(way));
        assert!(up.exact() && down.exact(), "{up:?} {down:?}");
        let pings = 64 * samples.len() as u64;
        let bulk = |timeline: &super::super::bulk::Timeline| timeline.report().expect("data").bytes;
        // Each connection says its number; the bulk ones also their direction.
        assert_eq!(up.received, pings + bulk(&timelines.up) + 8 * 8 + 2 * 9);
        assert_eq!(down.received, pings + bulk(&timelines.down) + 32);
    }

    #[test]
    fn without_bulk_there_are_enough_round_trips_for_a_p99() {
        let flags = ["--seconds", "0.1", "--bulk", "off", "--rtt-ms", "0"];
        let (stage, samples, timelines) = direct(&flags, None);
        assert!(samples.len() >= 2_000);
        assert!(timelines.down.report().is_none() && timelines.up.report().is_none());
        assert!(stage.ledger.sum(Way::ToClient).exact());
    }

    #[test]
    fn an_interruption_ends_early_and_loses_nothing() {
        let start = Instant::now();
        let (stage, _, _) = direct(&["--seconds", "60"], Some(Duration::from_millis(200)));
        assert!(start.elapsed() < INTERRUPTED_FOR);
        assert_eq!(stage.failures(), Vec::<String>::new());
        assert!(stage.ledger.sum(Way::ToClient).exact());
    }
}
