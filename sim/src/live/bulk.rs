//! Bulk data: how a connection begins, how both ends send and receive, how fast it went.

use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::ledger::Tally;
use super::stage::{Connection, Stage};

const CHUNK: usize = 64 << 10;
/// Between two marks of a timeline.
const MARK_EVERY: Duration = Duration::from_millis(10);

/// The first bytes of a bulk connection: its number, and who is to send.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hello {
    pub(super) number: u64,
    /// The origin sends; otherwise the client does.
    pub(super) wants_data: bool,
}

impl Hello {
    pub(super) fn write(self, connection: &mut Connection) -> io::Result<()> {
        let mut bytes = [0; 9];
        bytes[..8].copy_from_slice(&self.number.to_be_bytes());
        bytes[8] = self.wants_data.into();
        connection.write_all(&bytes)
    }

    /// `None` if the client left without a word.
    pub(super) fn read(connection: &mut Connection) -> io::Result<Option<Self>> {
        let mut number = [0; 8];
        let mut wants_data = [0];
        if !connection.fill(&mut number)? || !connection.fill(&mut wants_data)? {
            return Ok(None);
        }
        Ok(Some(Self { number: u64::from_be_bytes(number), wants_data: wants_data != [0] }))
    }
}

/// Sends what `fill` makes until `deadline`, or until the stage ends.
pub(super) fn send(
    stage: &Stage,
    connection: &mut Connection,
    deadline: Instant,
    mut fill: impl FnMut(&mut [u8]),
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    while Instant::now() < deadline && !stage.is_ending() {
        fill(&mut chunk);
        connection.write_all(&chunk)?;
    }
    Ok(())
}

/// Reads to the end; the SHA-256 of what came.
pub(super) fn receive(
    stage: &Stage,
    connection: &mut Connection,
    timeline: &Timeline,
) -> io::Result<[u8; 32]> {
    let mut chunk = vec![0; CHUNK];
    let mut tally = Tally::default();
    timeline.start_once();
    loop {
        let length = connection.read(&mut chunk)?;
        if length == 0 {
            return Ok(tally.digest());
        }
        tally.add(&chunk[..length]);
        timeline.add(length as u64);
        stage.bulk_bytes.fetch_add(length as u64, Relaxed);
    }
}

/// Of both directions.
#[derive(Debug, Default)]
pub(super) struct Timelines {
    /// Client to origin.
    pub(super) up: Timeline,
    /// Origin to client.
    pub(super) down: Timeline,
}

/// When how many bytes had been received.
#[derive(Debug, Default)]
pub(super) struct Timeline(Mutex<Option<Marks>>);

#[derive(Debug)]
struct Marks {
    start: Instant,
    /// Time since the start and bytes until then, ascending; the last one is the present state.
    marks: Vec<(Duration, u64)>,
}

impl Timeline {
    /// Begins, if that was not done before.
    pub(super) fn start_once(&self) {
        let start = Instant::now();
        self.lock().get_or_insert_with(|| Marks { start, marks: vec![(Duration::ZERO, 0)] });
    }

    /// Bytes that had come so long after the start.
    pub(super) fn bytes_after(&self, time: Duration) -> u64 {
        self.lock().as_ref().map_or(0, |marks| {
            let after = marks.marks.partition_point(|&(at, _)| at <= time);
            after.checked_sub(1).map_or(0, |last| marks.marks[last].1)
        })
    }

    fn add(&self, bytes: u64) {
        if let Some(marks) = self.lock().as_mut() {
            marks.add(marks.start.elapsed(), bytes);
        }
    }

    /// How fast it went; `None` if nothing came.
    pub(super) fn report(&self) -> Option<BulkReport> {
        self.lock().as_ref().and_then(Marks::report)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Marks>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Marks {
    fn add(&mut self, at: Duration, bytes: u64) {
        let total = self.marks.last().map_or(0, |&(_, total)| total) + bytes;
        // The last mark moves on until it is far enough from the one before it.
        if let [.., (before, _), last] = self.marks.as_mut_slice()
            && last.0 < *before + MARK_EVERY
        {
            *last = (at, total);
        } else {
            self.marks.push((at, total));
        }
    }

    fn report(&self) -> Option<BulkReport> {
        let &(took, bytes) = self.marks.last().filter(|&&(_, bytes)| bytes > 0)?;
        let half = took / 2;
        let middle = self.marks.partition_point(|&(at, _)| at <= half).saturating_sub(1);
        let (_, before) = self.marks[middle];
        Some(BulkReport {
            bytes,
            seconds: took.as_secs_f64(),
            mbps: mbps(bytes, took),
            second_half_mbps: mbps(bytes - before, took - half),
        })
    }
}

/// Megabits (10^6) per second.
pub(super) fn mbps(bytes: u64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { bytes as f64 * 8.0 / 1e6 / time.as_secs_f64() }
}

/// A bulk transfer as its receiver saw it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct BulkReport {
    /// Payload received.
    pub bytes: u64,
    /// From the request to the last byte.
    pub seconds: f64,
    /// Goodput: payload over that time.
    pub mbps: f64,
    /// Goodput in the second half of that time, when the start is forgotten.
    pub second_half_mbps: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_half_forgets_the_start() {
        let start = Instant::now();
        let mut marks = Marks { start, marks: vec![(Duration::ZERO, 0)] };
        assert_eq!(marks.report(), None);
        // Nothing for a second, then 1 MB per ms.
        for ms in 1_000..2_000 {
            marks.add(Duration::from_millis(ms), 1_000_000);
        }
        let report = marks.report().expect("bytes came");
        assert_eq!(report.bytes, 1_000_000_000);
        assert!(marks.marks.len() < 150, "{}", marks.marks.len());
        assert!((report.mbps - 4_002.0).abs() < 1.0, "{report:?}");
        assert!((report.second_half_mbps - 8_000.0).abs() < 200.0, "{report:?}");
    }
}
