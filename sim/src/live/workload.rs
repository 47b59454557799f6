//! The clients: round trips of 64 bytes on a few connections, and bulk transfers.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rand_core::RngCore;

use super::bulk::{self, Hello, Timelines};
use super::options::{Bulk, DemoOptions};
use super::stage::{Connection, Stage};

/// A request, and its answer.
pub(super) const PING_BYTES: usize = 64;
/// Without bulk data the percentiles are the point: as many round trips as a p99 needs.
const LEAST_ROUND_TRIPS: u64 = 2_000;
/// Bulk connections are numbered from here, the others from 0.
const BULK_DOWN: u64 = 1 << 32;
const BULK_UP: u64 = BULK_DOWN + 1;

/// Where clients find the services.
#[derive(Debug, Clone, Copy)]
pub(super) struct Edges {
    pub(super) ping: SocketAddr,
    pub(super) bulk: SocketAddr,
}

/// The clients at work.
#[derive(Debug)]
pub(super) struct Workload {
    threads: Vec<JoinHandle<()>>,
    /// Of every round trip, in microseconds, in no order.
    samples: Arc<Mutex<Vec<u64>>>,
}

impl Workload {
    /// Starts all clients.
    pub(super) fn start(
        stage: &Arc<Stage>,
        edges: Edges,
        options: &DemoOptions,
        timelines: &Arc<Timelines>,
    ) -> io::Result<Self> {
        let mut workload = Self { threads: Vec::new(), samples: Arc::default() };
        match workload.start_all(stage, edges, options, timelines) {
            Ok(()) => Ok(workload),
            Err(error) => {
                stage.close();
                workload.join();
                Err(error)
            }
        }
    }

    fn start_all(
        &mut self,
        stage: &Arc<Stage>,
        edges: Edges,
        options: &DemoOptions,
        timelines: &Arc<Timelines>,
    ) -> io::Result<()> {
        for nth in 0..options.ping_connections {
            let pinger = Pinger {
                stage: Arc::clone(stage),
                edge: edges.ping,
                number: nth as u64,
                // Spread over a round trip, so that the requests do not travel in a bunch.
                offset: options.rtt * nth as u32 / options.ping_connections as u32,
                options: options.clone(),
                samples: Arc::clone(&self.samples),
            };
            self.spawn(stage, format!("ping {nth}"), move || pinger.run())?;
        }
        if options.bulk.down() {
            let (stage_, timelines) = (Arc::clone(stage), Arc::clone(timelines));
            let run = move || download(&stage_, edges.bulk, &timelines);
            self.spawn(stage, "bulk download".into(), run)?;
        }
        if options.bulk.up() {
            let (stage_, options) = (Arc::clone(stage), options.clone());
            let run = move || upload(&stage_, edges.bulk, &options);
            self.spawn(stage, "bulk upload".into(), run)?;
        }
        Ok(())
    }

    fn spawn(
        &mut self,
        stage: &Arc<Stage>,
        name: String,
        run: impl FnOnce() -> Result<(), ClientError> + Send + 'static,
    ) -> io::Result<()> {
        let stage = Arc::clone(stage);
        let client = name.clone();
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            if let Err(error) = run() {
                stage.fail(format!("client \"{client}\": {error}"));
            }
        })?;
        self.threads.push(thread);
        Ok(())
    }

    /// Whether all clients have finished.
    pub(super) fn is_finished(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Waits for all clients; their round trips in microseconds, sorted.
    pub(super) fn join(self) -> Vec<u64> {
        for thread in self.threads {
            // A panic was printed where it happened.
            let _ = thread.join();
        }
        let mut samples =
            std::mem::take(&mut *self.samples.lock().unwrap_or_else(PoisonError::into_inner));
        samples.sort_unstable();
        samples
    }
}

#[derive(Debug, thiserror::Error)]
enum ClientError {
    #[error("cannot connect to the PoP at {0}: {1}")]
    Connect(SocketAddr, #[source] io::Error),
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    #[error("the origin closed the connection in the middle of a round trip")]
    Closed,
    #[error("round trip {0} brought back other bytes than were sent")]
    Altered(u64),
    #[error("more bytes came back than were sent")]
    Surplus,
    #[error("the origin's SHA-256 of the upload is not ours")]
    Digest,
}

fn connect(stage: &Arc<Stage>, edge: SocketAddr, number: u64) -> Result<Connection, ClientError> {
    let stream = stage.dial(edge).map_err(|error| ClientError::Connect(edge, error))?;
    Ok(Connection::client(stage, stream, number)?)
}

struct Pinger {
    stage: Arc<Stage>,
    edge: SocketAddr,
    number: u64,
    offset: Duration,
    options: DemoOptions,
    samples: Arc<Mutex<Vec<u64>>>,
}

impl Pinger {
    fn run(self) -> Result<(), ClientError> {
        let start = Instant::now();
        std::thread::sleep(self.offset);
        let mut connection = connect(&self.stage, self.edge, self.number)?;
        let mut samples = Vec::new();
        let result = self.exchange(&mut connection, start, &mut samples);
        // Also what was measured before an error counts.
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).extend(samples);
        result
    }

    fn exchange(
        &self,
        connection: &mut Connection,
        start: Instant,
        samples: &mut Vec<u64>,
    ) -> Result<(), ClientError> {
        let mut random = self.options.seed.child("pings").stream(&self.number.to_string());
        // The number travels in front of the first request, without a packet of its own.
        let mut out = Vec::with_capacity(8 + PING_BYTES);
        out.extend_from_slice(&self.number.to_be_bytes());
        let (mut request, mut answer) = ([0; PING_BYTES], [0; PING_BYTES]);
        while self.goes_on(start) {
            random.fill_bytes(&mut request);
            out.extend_from_slice(&request);
            let asked = Instant::now();
            connection.write_all(&out)?;
            if !connection.fill(&mut answer)? {
                return Err(ClientError::Closed);
            }
            samples.push(u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX));
            if answer != request {
                return Err(ClientError::Altered(samples.len() as u64));
            }
            self.stage.round_trips.fetch_add(1, Relaxed);
            out.clear();
        }
        connection.finish_sending()?;
        if connection.fill(&mut [0])? { Err(ClientError::Surplus) } else { Ok(()) }
    }

    fn goes_on(&self, start: Instant) -> bool {
        let elapsed = start.elapsed();
        let wanted = self.options.duration;
        let too_few = self.options.bulk == Bulk::Off
            && self.stage.round_trips.load(Relaxed) < LEAST_ROUND_TRIPS
            && elapsed < wanted * 3 + Duration::from_secs(30);
        !self.stage.is_ending() && (elapsed < wanted || too_few)
    }
}

fn download(
    stage: &Arc<Stage>,
    edge: SocketAddr,
    timelines: &Timelines,
) -> Result<(), ClientError> {
    let mut connection = connect(stage, edge, BULK_DOWN)?;
    Hello { number: BULK_DOWN, wants_data: true }.write(&mut connection)?;
    connection.finish_sending()?;
    bulk::receive(stage, &mut connection, &timelines.down)?;
    Ok(())
}

fn upload(stage: &Arc<Stage>, edge: SocketAddr, options: &DemoOptions) -> Result<(), ClientError> {
    let mut connection = connect(stage, edge, BULK_UP)?;
    Hello { number: BULK_UP, wants_data: false }.write(&mut connection)?;
    let mut data = options.seed.child("client").stream("bulk");
    let mut ours = super::ledger::Tally::default();
    bulk::send(stage, &mut connection, Instant::now() + options.duration, |buf| {
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
