//! Bulk flows of several systems at the same time on one link.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::AbError;
use super::measure::{data_report, goodput, start_bulk, timeline};
use super::options::{AbOptions, Direction, System};
use super::report::{FairFlow, FairReport};
use super::scene::{End, Scene};
use crate::live::link::{LiveLink, Shape};

/// What is under way when senders have finished is of no interest here.
const DRAIN: Duration = Duration::from_secs(1);

/// What was found, what went wrong, and what was set.
pub(super) type Fairness = (FairReport, Vec<String>, Vec<(String, String)>);

/// The systems beside each other.
pub(super) fn fair(
    shape: &Shape,
    options: &AbOptions,
    stop: &AtomicBool,
) -> Result<Fairness, AbError> {
    let link = LiveLink::start(shape)?;
    let systems = &options.systems;
    let mut scenes = Vec::new();
    for system in systems {
        let seed = shape.seed().child("data").child(&system.to_string());
        scenes.push(Scene::start(&link, system, options, options.duration, seed, stop)?);
    }
    let start = Instant::now();
    let mut clients = Vec::new();
    for scene in &scenes {
        clients.push(start_bulk(scene, options.direction, options.duration)?);
    }
    let (end, half) = (start + options.duration, start + options.duration / 2);
    let mut marked = false;
    let (mut first, others) = (scenes.remove(0), scenes);
    let mut figures = None;
    let first_stage = Arc::clone(&first.stage);
    let ended = first.watch(clients, end + DRAIN, stop, &mut |now| {
        if !marked && now >= half {
            link.mark();
            marked = true;
        }
        if now >= end {
            figures.get_or_insert_with(|| link.figures());
        }
        if now >= end + DRAIN {
            others.iter().for_each(|scene| scene.stage.close());
        }
        for broken in others.iter().filter_map(Scene::broken) {
            first_stage.fail(broken);
        }
    });
    others.iter().for_each(|scene| scene.stage.close());
    if ended == End::Interrupted {
        return Err(AbError::Interrupted);
    }
    let stats = link.stats();
    let (counters, which) = match options.direction {
        Direction::Down => (stats.b_to_a, 1),
        Direction::Up => (stats.a_to_b, 0),
    };
    let figures = figures.unwrap_or_else(|| link.figures())[which];
    let mut failures = Vec::new();
    let mut flows = Vec::new();
    for (system, scene) in systems.iter().cloned().zip(std::iter::once(first).chain(others)) {
        flows.push(flow(system, scene, options, &mut failures));
    }
    share(&mut flows);
    let report = FairReport { flows, queue_dropped: counters.queue_dropped, figures };
    Ok((report, failures, link.settings().to_vec()))
}

fn flow(
    system: System,
    mut scene: Scene<'_>,
    options: &AbOptions,
    failures: &mut Vec<String>,
) -> FairFlow {
    scene.close();
    let timeline = timeline(&scene, options.direction);
    let mbps = goodput(timeline, Duration::ZERO, options.duration);
    let second_half_mbps = goodput(timeline, options.duration / 2, options.duration);
    let data = data_report(&scene, options.direction, false);
    let (failed, congestion) = scene.finish();
    let failed = failed.into_iter().chain(data.failure());
    failures.extend(failed.map(|failure| format!("{system}: {failure}")));
    FairFlow {
        system,
        congestion,
        mbps,
        share_pct: 0.0,
        second_half_mbps,
        second_half_share_pct: 0.0,
        data,
    }
}

fn share(flows: &mut [FairFlow]) {
    let count = flows.len() as f64;
    let fair: f64 = flows.iter().map(|flow| flow.mbps).sum::<f64>() / count;
    let late: f64 = flows.iter().map(|flow| flow.second_half_mbps).sum::<f64>() / count;
    let percent = |mbps: f64, fair: f64| if fair > 0.0 { mbps / fair * 100.0 } else { 0.0 };
    for flow in flows {
        flow.share_pct = percent(flow.mbps, fair);
        flow.second_half_share_pct = percent(flow.second_half_mbps, late);
    }
}
