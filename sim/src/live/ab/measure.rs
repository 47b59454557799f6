//! The measurements, each on a link and with a system of its own.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_core::RngCore;

use super::AbError;
use super::clients::{Asking, BULK, Sample, download, upload};
use super::options::{AbOptions, Direction, Measure, System};
use super::report::{BesideReport, BulkReport, DataReport, Spread};
use super::scene::{Controls, End, Scene};
use crate::link::LinkCounters;
use crate::live::bulk::{Timeline, mbps};
use crate::live::forward::Lateness;
use crate::live::ledger::{Side, Tally, Way};
use crate::live::link::{LiveLink, Shape};
use crate::live::meter::DirectionFigures;
use crate::seed::Seed;

/// Clients that ask at the same time.
const ASKING: u64 = 8;
/// What is called the start of a bulk flow.
const FIRST: Duration = Duration::from_secs(15);
/// What is under way when senders have finished gets so long to arrive.
const DRAIN: Duration = Duration::from_secs(15);
/// Clients that ask get so many round trip times for each question, and a minute.
const PATIENCE: u32 = 20;
/// `beside` takes at most so many times `--seconds` after its start.
const BESIDE_FACTOR: u32 = 3;
/// As large as the pieces in which data is made.
const PIECE: usize = 64 << 10;

/// What one measurement found.
pub(super) struct Found {
    pub(super) what: Measured,
    pub(super) remarks: Remarks,
    pub(super) controls: Controls,
    pub(super) settings: Vec<(String, String)>,
    /// How well the link kept its time.
    pub(super) lateness: Lateness,
}

/// What is to be said beside the figures, one line each.
#[derive(Debug, Default)]
pub(super) struct Remarks {
    /// What went wrong.
    pub(super) failures: Vec<String>,
    /// What is less than was asked for.
    pub(super) notes: Vec<String>,
}

pub(super) enum Measured {
    Bulk(Box<BulkReport>),
    Connect(Spread),
    Ping(Spread),
    Beside(BesideReport),
}

/// Measures one thing of one system.
pub(super) fn measure(
    what: Measure,
    system: &System,
    shape: &Shape,
    options: &AbOptions,
    stop: &AtomicBool,
) -> Result<Found, AbError> {
    let link = LiveLink::start(shape)?;
    let duration = match what {
        Measure::Beside => options.startup + options.duration * BESIDE_FACTOR,
        _ => options.duration,
    };
    let seed = shape.seed().child("data");
    let mut scene = Scene::start(&link, system, options, duration, seed, stop)?;
    let mut remarks = Remarks::default();
    let what = match what {
        Measure::Bulk => {
            let report = bulk(&link, &mut scene, options, stop, &mut remarks)?;
            Measured::Bulk(Box::new(report))
        }
        Measure::Connect => {
            let times = options.connects;
            Measured::Connect(ask(&mut scene, shape, times, true, stop, &mut remarks)?)
        }
        Measure::Ping => {
            let times = options.round_trips;
            Measured::Ping(ask(&mut scene, shape, times, false, stop, &mut remarks)?)
        }
        Measure::Beside => {
            Measured::Beside(beside(&mut scene, shape, options, stop, &mut remarks)?)
        }
    };
    let (settings, lateness) = (link.settings().to_vec(), link.stats().lateness);
    let (failed, controls) = scene.finish();
    remarks.failures.extend(failed);
    Ok(Found { what, remarks, controls, settings, lateness })
}

/// What a client uploads.
pub(super) fn upload_data(seed: Seed) -> ChaCha8Rng {
    seed.child("client").stream("bulk")
}

fn download_data(seed: Seed) -> ChaCha8Rng {
    seed.child("bulk").child("origin").stream(&BULK.to_string())
}

/// Starts the client of a bulk flow.
pub(super) fn start_bulk(
    scene: &Scene<'_>,
    direction: Direction,
    duration: Duration,
) -> Result<JoinHandle<()>, AbError> {
    let (edge, timelines, seed) = (scene.edges.bulk, Arc::clone(&scene.timelines), scene.seed);
    scene.spawn("bulk".into(), move |stage| match direction {
        Direction::Down => download(stage, edge, &timelines.down),
        Direction::Up => upload(stage, edge, &timelines.up, duration, seed),
    })
}

fn bulk(
    link: &LiveLink,
    scene: &mut Scene<'_>,
    options: &AbOptions,
    stop: &AtomicBool,
    remarks: &mut Remarks,
) -> Result<BulkReport, AbError> {
    let (before, start) = (link.stats(), Instant::now());
    let client = start_bulk(scene, options.direction, options.duration)?;
    let half = start + options.duration / 2;
    let (mut marked, mut at_end) = (false, None);
    let end = scene.watch(vec![client], start + options.duration + DRAIN, stop, &mut |now| {
        if !marked && now >= half {
            link.mark();
            marked = true;
        }
        if at_end.is_none() && now >= start + options.duration {
            at_end = Some(link.figures());
        }
    });
    if end == End::Interrupted {
        return Err(AbError::Interrupted);
    }
    let (after, figures) = (link.stats(), at_end.unwrap_or_else(|| link.figures()));
    let (counters, figures) = match options.direction {
        Direction::Down => (since(before.b_to_a, after.b_to_a), figures[1]),
        Direction::Up => (since(before.a_to_b, after.a_to_b), figures[0]),
    };
    scene.close();
    let data = data_report(scene, options.direction, end == End::Finished);
    remarks.failures.extend(data.failure());
    if !data.complete {
        remarks.notes.push(format!(
            "{} of {} bytes sent had arrived {} s after the last; the others are not compared",
            data.received,
            data.sent,
            DRAIN.as_secs()
        ));
    }
    Ok(bulk_report(scene, options, data, counters, figures))
}

pub(super) fn timeline<'s>(scene: &'s Scene<'_>, direction: Direction) -> &'s Timeline {
    match direction {
        Direction::Down => &scene.timelines.down,
        Direction::Up => &scene.timelines.up,
    }
}

fn bulk_report(
    scene: &Scene<'_>,
    options: &AbOptions,
    data: DataReport,
    counters: LinkCounters,
    figures: DirectionFigures,
) -> BulkReport {
    let timeline = timeline(scene, options.direction);
    let (whole, first) = (options.duration, options.duration.min(FIRST));
    let delivered = data.received;
    BulkReport {
        mbps: goodput(timeline, Duration::ZERO, whole),
        second_half_mbps: goodput(timeline, whole / 2, whole),
        first_mbps: goodput(timeline, Duration::ZERO, first),
        first_s: first.as_secs_f64(),
        wire_bytes_per_byte: (delivered > 0)
            .then(|| counters.offered_bytes as f64 / delivered as f64),
        link: counters,
        figures,
        data,
    }
}

/// What came between two moments after the start.
pub(super) fn goodput(timeline: &Timeline, from: Duration, until: Duration) -> f64 {
    mbps(timeline.bytes_after(until) - timeline.bytes_after(from), until - from)
}

fn since(before: LinkCounters, after: LinkCounters) -> LinkCounters {
    LinkCounters {
        offered: after.offered - before.offered,
        offered_bytes: after.offered_bytes - before.offered_bytes,
        lost: after.lost - before.lost,
        queue_dropped: after.queue_dropped - before.queue_dropped,
        too_big: after.too_big - before.too_big,
        loss_runs: after.loss_runs - before.loss_runs,
        marked: after.marked - before.marked,
        delivered: after.delivered - before.delivered,
        delivered_bytes: after.delivered_bytes - before.delivered_bytes,
        ..after
    }
}

/// Compares what was sent and what arrived. If not all of it did before its time was over, what was
/// sent is made again, up to where it arrived.
pub(super) fn data_report(scene: &Scene<'_>, direction: Direction, complete: bool) -> DataReport {
    let way = match direction {
        Direction::Down => Way::ToClient,
        Direction::Up => Way::ToOrigin,
    };
    let entry = |side| scene.stage.ledger.entry(way, side, BULK);
    let (sent, sent_hash) = entry(Side::Sender).unwrap_or((0, Tally::default().digest()));
    let (received, received_hash) = entry(Side::Receiver).unwrap_or((0, Tally::default().digest()));
    let expected = if received == sent {
        sent_hash
    } else {
        match direction {
            Direction::Down => prefix_digest(&[], download_data(scene.seed), received),
            Direction::Up => prefix_digest(&hello(), upload_data(scene.seed), received),
        }
    };
    DataReport {
        sent,
        received,
        complete: complete && received == sent,
        sha256_sent: hex(&expected),
        sha256_received: hex(&received_hash),
    }
}

/// What an upload begins with.
fn hello() -> [u8; 9] {
    let mut hello = [0; 9];
    hello[..8].copy_from_slice(&BULK.to_be_bytes());
    hello
}

/// SHA-256 of the first `length` bytes of `head` and then `data`.
fn prefix_digest(head: &[u8], mut data: ChaCha8Rng, length: u64) -> [u8; 32] {
    let mut tally = Tally::default();
    let mut left = usize::try_from(length).unwrap_or(usize::MAX);
    let taken = head.len().min(left);
    tally.add(&head[..taken]);
    left -= taken;
    let mut piece = vec![0; PIECE];
    while left > 0 {
        data.fill_bytes(&mut piece);
        let taken = PIECE.min(left);
        tally.add(&piece[..taken]);
        left -= taken;
    }
    tally.digest()
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Starts the clients that ask.
fn start_asking(
    scene: &Scene<'_>,
    asking: &Arc<Asking>,
    shape: &Shape,
    connects: bool,
) -> Result<Vec<JoinHandle<()>>, AbError> {
    let client = |nth: u64| {
        // Spread over a round trip, so that the requests do not travel in a bunch.
        let wait = shape.rtt() * nth as u32 / ASKING as u32;
        let asking = Arc::clone(asking);
        scene.spawn(format!("client {nth}"), move |stage| {
            if connects {
                asking.connect(stage, nth, ASKING, wait)
            } else {
                asking.ping(stage, nth, wait)
            }
        })
    };
    (0..ASKING).map(client).collect()
}

fn ask(
    scene: &mut Scene<'_>,
    shape: &Shape,
    times: u64,
    connects: bool,
    stop: &AtomicBool,
    remarks: &mut Remarks,
) -> Result<Spread, AbError> {
    let now = Instant::now();
    let asking = Arc::new(Asking::new(scene.edges.ping, scene.seed, times, now));
    let clients = start_asking(scene, &asking, shape, connects)?;
    let rounds = u32::try_from(times.div_ceil(ASKING)).unwrap_or(u32::MAX);
    let patience = shape.rtt().saturating_mul(rounds).saturating_mul(PATIENCE);
    let until = now + patience.min(Duration::from_secs(86_400)) + Duration::from_secs(60);
    if scene.watch(clients, until, stop, &mut |_| {}) == End::Interrupted {
        return Err(AbError::Interrupted);
    }
    let spread = Spread::of(asking.samples());
    remarks.notes.extend(too_few(spread.count, times, until - now));
    Ok(spread)
}

fn too_few(count: u64, times: u64, time: Duration) -> Option<String> {
    (count < times).then(|| format!("only {count} of {times} in {:.0} s", time.as_secs_f64()))
}

fn beside(
    scene: &mut Scene<'_>,
    shape: &Shape,
    options: &AbOptions,
    stop: &AtomicBool,
    remarks: &mut Remarks,
) -> Result<BesideReport, AbError> {
    let start = Instant::now();
    let settled = start + options.startup;
    let longest = start + options.startup + options.duration * BESIDE_FACTOR;
    let bulk = start_bulk(scene, options.direction, longest - start)?;
    let asking = Arc::new(Asking::new(scene.edges.ping, scene.seed, options.round_trips, settled));
    let clients = start_asking(scene, &asking, shape, false)?;
    // When all is asked, the bulk flow is cut off.
    let stage = Arc::clone(&scene.stage);
    let asked_all = scene.spawn("end of the asking".into(), move |_| {
        for client in clients {
            // A panic was printed where it happened.
            let _ = client.join();
        }
        stage.close();
        Ok::<_, Infallible>(())
    })?;
    let mut ended = longest;
    let stage = Arc::clone(&scene.stage);
    let end = scene.watch(vec![bulk, asked_all], longest + DRAIN, stop, &mut |now| {
        if now >= longest {
            stage.end();
        }
        if stage.is_ending() {
            ended = ended.min(now);
        }
    });
    if end == End::Interrupted {
        return Err(AbError::Interrupted);
    }
    scene.close();
    remarks.failures.extend(data_report(scene, options.direction, false).failure());
    let (start_up, rest): (Vec<Sample>, Vec<Sample>) =
        asking.samples().into_iter().partition(|sample| sample.asked < settled);
    let timeline = timeline(scene, options.direction);
    let settled = Spread::of(rest);
    remarks.notes.extend(too_few(settled.count, options.round_trips, ended - start));
    Ok(BesideReport {
        start_up: Spread::of(start_up),
        settled,
        bulk_mbps: goodput(timeline, options.startup, (ended - start).max(options.startup)),
    })
}
