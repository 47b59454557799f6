//! Tickets for 0-RTT that outlive the process.
//!
//! rustls gives no way to write a client's ticket down: what belongs to it is derived from the keys of
//! the handshake that it came by. What can be written down is the handshake. All that goes into it is
//! an argument here (the seed of its randomness, the time, our transport parameters, what the edge
//! said), so it can be done again at any time, without the edge, and leaves the same tickets behind. A
//! handshake that itself resumed needs the one before it: hence a chain, of which at most [`MAX_STEPS`]
//! are kept.
//!
//! Doing it again checks the edge's certificate and signature anew, against what is trusted now. If
//! anything is not as it was, also another version of rustls, the handshake fails and there is no
//! ticket: a round trip is lost and nothing else. What is written down is as secret as the tickets are.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use quinn_proto::crypto::rustls::QuicClientConfig;
use quinn_proto::crypto::{
    ClientConfig, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, Session,
};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{ConnectError, ConnectionId, Side, TransportError};
use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;
use rustls::quic::Version;
use serde::{Deserialize, Serialize};

use crate::edge::clock::Clock;
use crate::rng::Rng;

use super::{fingerprint, seeded};

/// Handshakes in a chain. After that many, one is made without a ticket.
const MAX_STEPS: usize = 16;
/// Of one handshake, what the edge said: bytes in all.
const MAX_SAID: usize = 64 << 10;
/// Tickets kept of one handshake.
const MAX_TICKETS: usize = 8;
/// A file of tickets, in bytes.
pub(super) const MAX_FILE: usize = 2 << 20;

/// One handshake, as it can be done again.
#[derive(Clone)]
struct Step {
    unix_ms: u64,
    seed: [u8; 32],
    params: Vec<u8>,
    /// The ticket of the step before that it used: the how-many-th that came.
    used: Option<usize>,
    /// What the edge said, piece by piece: keys change between pieces.
    said: Vec<Vec<u8>>,
}

/// How a step stands in the file.
#[derive(Serialize, Deserialize)]
struct StepFile {
    unix_ms: u64,
    seed: String,
    params: String,
    used: Option<usize>,
    said: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    edge: String,
    steps: Vec<StepFile>,
    /// Tickets of the last step that were used already.
    spent: Vec<usize>,
}

const FILE_VERSION: u32 = 1;

#[derive(Default)]
struct Inner {
    /// The handshakes that led to `tickets`.
    chain: Vec<Step>,
    /// Those of the last step that were not used, with their numbers, in the order in which they came.
    tickets: Vec<(usize, Tls13ClientSessionValue)>,
    /// How many the last step brought.
    came: usize,
    /// The handshake that is under way, and what it stands on if it used a ticket. Becomes the end of the chain
    /// when it brings a ticket of its own.
    recording: Option<(Vec<Step>, Step)>,
    /// Counts handshakes: only the latest is recorded.
    number: u64,
    /// The handshake in which the edge spoke last: a ticket that comes is from there.
    speaker: u64,
    /// Which ticket is taken next; the latest if none is told.
    choice: Option<usize>,
    /// None is taken.
    held: bool,
    changed: bool,
}

/// The tickets for one edge.
pub(super) struct Tickets {
    edge: String,
    inner: Mutex<Inner>,
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").field("edge", &self.edge).finish_non_exhaustive()
    }
}

impl Tickets {
    /// None so far. `edge` names the server in the file.
    pub(super) fn new(edge: String) -> Self {
        Self { edge, inner: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be written down, if that has changed since the last call.
    pub(super) fn take_changed(&self) -> Option<Vec<u8>> {
        let mut inner = self.lock();
        if !std::mem::take(&mut inner.changed) {
            return None;
        }
        let encode = |step: &Step| StepFile {
            unix_ms: step.unix_ms,
            seed: BASE64.encode(step.seed),
            params: BASE64.encode(&step.params),
            used: step.used,
            said: step.said.iter().map(|piece| BASE64.encode(piece)).collect(),
        };
        let left = |n: &usize| inner.tickets.iter().any(|(number, _)| number == n);
        let file = File {
            version: FILE_VERSION,
            edge: self.edge.clone(),
            steps: inner.chain.iter().map(encode).collect(),
            spent: (0..inner.came).filter(|n| !left(n)).collect(),
        };
        let body = serde_json::to_vec(&file).ok()?;
        Some([fingerprint(&body).as_bytes(), b"\n", &body].concat())
    }

    /// Whether the next connections do without tickets: an edge that does not answer would use them up.
    pub(super) fn hold(&self, held: bool) {
        self.lock().held = held;
    }

    /// How many connections can still begin with 0-RTT.
    #[cfg(test)]
    pub(super) fn left(&self) -> usize {
        self.lock().tickets.len()
    }

    /// Does the handshakes of a file again. Whether that left a ticket.
    pub(super) fn restore(
        &self,
        file: &[u8],
        config: &Arc<rustls::ClientConfig>,
        name: &ServerName<'static>,
        clock: &Clock,
    ) -> bool {
        let Some((steps, spent)) = decode(file, &self.edge) else { return false };
        *self.lock() = Inner::default();
        for step in steps {
            {
                let mut inner = self.lock();
                inner.choice = step.used;
                if step.used.is_some() && !inner.has(step.used) {
                    *inner = Inner::default();
                    return false;
                }
                if step.used.is_none() {
                    inner.forget();
                }
            }
            clock.pretend(Some(step.unix_ms));
            let done = self.redo(step, config, name);
            clock.pretend(None);
            if done.is_none() {
                *self.lock() = Inner::default();
                return false;
            }
        }
        let mut inner = self.lock();
        inner.choice = None;
        inner.recording = None;
        inner.changed = false;
        inner.tickets.retain(|(number, _)| !spent.contains(number));
        !inner.tickets.is_empty()
    }

    fn redo(
        &self,
        step: Step,
        config: &Arc<rustls::ClientConfig>,
        name: &ServerName<'static>,
    ) -> Option<()> {
        let said = step.said.clone();
        self.begin(Step { said: Vec::new(), ..step.clone() });
        let (config, name, params) = (Arc::clone(config), name.clone(), step.params);
        let new = || rustls::quic::ClientConnection::new(config, Version::V1, name, params);
        let mut connection = seeded::with(step.seed, new).ok()?;
        self.began();
        let mut sink = Vec::new();
        let flush = |connection: &mut rustls::quic::ClientConnection, sink: &mut Vec<u8>| {
            loop {
                sink.clear();
                if connection.write_hs(sink).is_none() && sink.is_empty() {
                    return;
                }
            }
        };
        flush(&mut connection, &mut sink);
        let number = self.lock().number;
        for piece in said {
            self.heard(number, &piece);
            connection.read_hs(&piece).ok()?;
            flush(&mut connection, &mut sink);
        }
        Some(())
    }

    /// A handshake begins; rustls takes a ticket, if there is one, before [`Tickets::began`].
    fn begin(&self, step: Step) {
        let mut inner = self.lock();
        inner.number += 1;
        if inner.chain.len() >= MAX_STEPS {
            inner.forget();
        }
        let step = Step { used: None, ..step };
        inner.recording = Some((Vec::new(), step));
    }

    /// rustls has taken a ticket, or none.
    fn began(&self) -> u64 {
        let mut inner = self.lock();
        inner.choice = None;
        inner.number
    }

    /// The edge says something in handshake `number`.
    fn heard(&self, number: u64, piece: &[u8]) {
        let mut inner = self.lock();
        inner.speaker = number;
        if inner.number != number {
            return;
        }
        let Inner { chain, recording, .. } = &mut *inner;
        let step = recording.as_mut().map(|(_, step)| step).or(chain.last_mut());
        let Some(step) = step else { return };
        let len: usize = step.said.iter().map(Vec::len).sum();
        if len + piece.len() <= MAX_SAID {
            step.said.push(piece.to_vec());
        } else {
            // Too much to keep: there will be no ticket.
            inner.number += 1;
            inner.recording = None;
        }
    }
}

impl Inner {
    fn has(&self, number: Option<usize>) -> bool {
        self.tickets.iter().any(|(n, _)| Some(*n) == number)
    }

    fn forget(&mut self) {
        self.chain.clear();
        self.tickets.clear();
        self.came = 0;
    }
}

fn decode(file: &[u8], edge: &str) -> Option<(Vec<Step>, Vec<usize>)> {
    if file.len() > MAX_FILE {
        return None;
    }
    // The first line tells whether the rest is whole.
    let (sum, body) = file.split_at_checked(file.iter().position(|b| *b == b'\n')?)?;
    let body = body.get(1..)?;
    if sum != fingerprint(body).as_bytes() {
        return None;
    }
    let file: File = serde_json::from_slice(body).ok()?;
    if file.version != FILE_VERSION || file.edge != edge || file.steps.len() > MAX_STEPS {
        return None;
    }
    let decode = |step: StepFile| {
        Some(Step {
            unix_ms: step.unix_ms,
            seed: BASE64.decode(step.seed).ok()?.try_into().ok()?,
            params: BASE64.decode(step.params).ok()?,
            used: step.used,
            said: step.said.into_iter().map(|s| BASE64.decode(s).ok()).collect::<Option<_>>()?,
        })
    };
    let steps = file.steps.into_iter().map(decode).collect::<Option<_>>()?;
    Some((steps, file.spent))
}

impl ClientSessionStore for Tickets {
    // There is one group.
    fn set_kx_hint(&self, _name: ServerName<'static>, _group: NamedGroup) {}

    fn kx_hint(&self, _name: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    // QUIC is TLS 1.3 (RFC 9001 §4.2).
    fn set_tls12_session(&self, _name: ServerName<'static>, _value: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _name: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _name: ServerName<'static>, value: Tls13ClientSessionValue) {
        let mut inner = self.lock();
        if inner.speaker != inner.number {
            return;
        }
        if let Some((mut chain, step)) = inner.recording.take() {
            chain.push(step);
            inner.chain = chain;
            inner.tickets.clear();
            inner.came = 0;
        }
        if inner.came < MAX_TICKETS && !inner.chain.is_empty() {
            let number = inner.came;
            inner.came += 1;
            inner.tickets.push((number, value));
            inner.changed = true;
        }
    }

    fn take_tls13_ticket(&self, _name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        let mut inner = self.lock();
        if inner.held {
            return None;
        }
        let at = match inner.choice {
            Some(number) => inner.tickets.iter().position(|(n, _)| *n == number)?,
            None => inner.tickets.len().checked_sub(1)?,
        };
        let (number, ticket) = inner.tickets.remove(at);
        let parents = inner.chain.clone();
        if let Some((chain, step)) = &mut inner.recording {
            *chain = parents;
            step.used = Some(number);
        }
        inner.changed = true;
        Some(ticket)
    }
}

/// Makes the handshakes of a connector, and writes them down.
pub(super) struct Recorder {
    inner: Arc<QuicClientConfig>,
    tickets: Arc<Tickets>,
    clock: Arc<Clock>,
    rng: Mutex<Rng>,
}

impl Recorder {
    pub(super) fn new(
        inner: Arc<QuicClientConfig>,
        tickets: Arc<Tickets>,
        clock: Arc<Clock>,
        rng: Rng,
    ) -> Self {
        Self { inner, tickets, clock, rng: Mutex::new(rng) }
    }
}

impl ClientConfig for Recorder {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn Session>, ConnectError> {
        let mut told = Vec::new();
        params.write(&mut told);
        let seed = self.rng.lock().unwrap_or_else(PoisonError::into_inner).fork();
        let unix_ms = self.clock.unix_ms();
        // Whole milliseconds, so that the handshake can be done again at the same time.
        self.clock.pretend(Some(unix_ms));
        self.tickets.begin(Step { unix_ms, seed, params: told, used: None, said: Vec::new() });
        let inner = Arc::clone(&self.inner);
        let session = seeded::with(seed, || inner.start_session(version, server_name, params));
        let number = self.tickets.began();
        self.clock.pretend(None);
        let (tickets, clock) = (Arc::clone(&self.tickets), Arc::clone(&self.clock));
        Ok(Box::new(Recorded { inner: session?, tickets, clock, number, unix_ms }))
    }
}

/// A session that writes down what the edge says.
struct Recorded {
    inner: Box<dyn Session>,
    tickets: Arc<Tickets>,
    clock: Arc<Clock>,
    number: u64,
    /// When it began, which is all the time that TLS is told: a ticket's age counts from there, and
    /// must when the handshake is done again.
    unix_ms: u64,
}

impl Session for Recorded {
    fn initial_keys(&self, dst_cid: &ConnectionId, side: Side) -> Keys {
        self.inner.initial_keys(dst_cid, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.inner.handshake_data()
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.inner.peer_identity()
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        self.inner.early_crypto()
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.inner.early_data_accepted()
    }

    fn is_handshaking(&self) -> bool {
        self.inner.is_handshaking()
    }

    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        self.tickets.heard(self.number, buf);
        self.clock.pretend(Some(self.unix_ms));
        let result = self.inner.read_handshake(buf);
        self.clock.pretend(None);
        result
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        self.inner.transport_parameters()
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        self.inner.write_handshake(buf)
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        self.inner.next_1rtt_keys()
    }

    fn is_valid_retry(&self, orig_dst_cid: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        self.inner.is_valid_retry(orig_dst_cid, header, payload)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.inner.export_keying_material(output, label, context)
    }
}
