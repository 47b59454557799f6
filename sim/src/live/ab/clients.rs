//! The clients: one that loads, some that ask.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand_core::RngCore;

use crate::live::bulk::{self, Hello, Timeline};
use crate::live::stage::{Connection, Stage};
use crate::live::workload::PING_BYTES;
use crate::seed::Seed;

/// Bulk connections have this number, the others count from 0.
pub(super) const BULK: u64 = 1 << 32;

#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error("cannot connect to {0}: {1}")]
    Connect(SocketAddr, #[source] io::Error),
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    #[error("the other end closed the connection in the middle of a round trip")]
    Closed,
    #[error("an answer has other bytes than its request")]
    Altered,
    #[error("the origin's SHA-256 of the upload is not ours")]
    Digest,
}

fn connect(stage: &Arc<Stage>, edge: SocketAddr, number: u64) -> Result<Connection, ClientError> {
    let stream = stage.dial(edge).map_err(|error| ClientError::Connect(edge, error))?;
    Ok(Connection::client(stage, stream, number)?)
}

/// Reads all that the origin sends.
pub(super) fn download(
    stage: &Arc<Stage>,
    edge: SocketAddr,
    timeline: &Timeline,
) -> Result<(), ClientError> {
    timeline.start_once();
    let mut connection = connect(stage, edge, BULK)?;
    Hello { number: BULK, wants_data: true }.write(&mut connection)?;
    connection.finish_sending()?;
    bulk::receive(stage, &mut connection, timeline)?;
    Ok(())
}

/// Sends for `duration`.
pub(super) fn upload(
    stage: &Arc<Stage>,
    edge: SocketAddr,
    timeline: &Timeline,
    duration: Duration,
    seed: Seed,
) -> Result<(), ClientError> {
    timeline.start_once();
    let mut connection = connect(stage, edge, BULK)?;
    Hello { number: BULK, wants_data: false }.write(&mut connection)?;
    let mut data = super::measure::upload_data(seed);
    let mut ours = crate::live::ledger::Tally::default();
    bulk::send(stage, &mut connection, Instant::now() + duration, |buf| {
        data.fill_bytes(buf);
        ours.add(buf);
    })?;
    connection.finish_sending()?;
    let mut theirs = [0; 32];
    if !connection.fill(&mut theirs)? {
        return Err(ClientError::Closed);
    }
    if theirs == ours.digest() { Ok(()) } else { Err(ClientError::Digest) }
}

/// When something was asked, and after how many microseconds the answer was there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) asked: Instant,
    pub(super) micros: u64,
}

/// Who asks, how often and from when on that counts.
#[derive(Debug)]
pub(super) struct Asking {
    pub(super) edge: SocketAddr,
    pub(super) seed: Seed,
    /// Questions still to be asked, by all together.
    left: AtomicU64,
    /// Asked before that, they are beside the number.
    counted_from: Instant,
    samples: Mutex<Vec<Sample>>,
}

impl Asking {
    pub(super) fn new(edge: SocketAddr, seed: Seed, times: u64, counted_from: Instant) -> Self {
        let left = AtomicU64::new(times);
        Self { edge, seed, left, counted_from, samples: Mutex::default() }
    }

    /// Whether one more is to be asked.
    fn next(&self, stage: &Stage) -> bool {
        if stage.is_ending() {
            return false;
        }
        Instant::now() < self.counted_from
            || self.left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    fn answered(&self, asked: Instant) {
        let micros = u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX);
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        samples.push(Sample { asked, micros });
    }

    pub(super) fn samples(&self) -> Vec<Sample> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Round trips on one connection that stays.
    pub(super) fn ping(
        &self,
        stage: &Arc<Stage>,
        number: u64,
        wait: Duration,
    ) -> Result<(), ClientError> {
        std::thread::sleep(wait);
        let mut connection = connect(stage, self.edge, number)?;
        let mut random = self.seed.child("pings").stream(&number.to_string());
        // The number travels in front of the first request, without a packet of its own.
        let mut out = number.to_be_bytes().to_vec();
        while self.next(stage) {
            let request = request(&mut random);
            out.extend_from_slice(&request);
            let asked = Instant::now();
            connection.write_all(&out)?;
            let mut answer = [0; PING_BYTES];
            if !connection.fill(&mut answer)? {
                return Err(ClientError::Closed);
            }
            self.answered(asked);
            compare(&request, &answer)?;
            out.clear();
        }
        finish(&mut connection)
    }

    /// One connection after the other, with one request each. Their numbers are `number`,
    /// `number + step` and so on.
    pub(super) fn connect(
        &self,
        stage: &Arc<Stage>,
        mut number: u64,
        step: u64,
        wait: Duration,
    ) -> Result<(), ClientError> {
        std::thread::sleep(wait);
        let mut random = self.seed.child("connects").stream(&number.to_string());
        while self.next(stage) {
            let request = request(&mut random);
            let mut out = number.to_be_bytes().to_vec();
            out.extend_from_slice(&request);
            let asked = Instant::now();
            let mut connection = connect(stage, self.edge, number)?;
            connection.write_all(&out)?;
            let mut answer = [0; PING_BYTES];
            if !connection.fill(&mut answer[..1])? {
                return Err(ClientError::Closed);
            }
            self.answered(asked);
            connection.fill(&mut answer[1..])?;
            compare(&request, &answer)?;
            finish(&mut connection)?;
            number += step;
        }
        Ok(())
    }
}

fn request(random: &mut impl RngCore) -> [u8; PING_BYTES] {
    let mut request = [0; PING_BYTES];
    random.fill_bytes(&mut request);
    request
}

fn compare(request: &[u8], answer: &[u8]) -> Result<(), ClientError> {
    if request == answer { Ok(()) } else { Err(ClientError::Altered) }
}

fn finish(connection: &mut Connection) -> Result<(), ClientError> {
    connection.finish_sending()?;
    if connection.fill(&mut [0])? { Err(ClientError::Altered) } else { Ok(()) }
}
