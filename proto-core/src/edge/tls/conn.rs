//! One TLS connection: ciphertext towards the shell, plaintext towards the flow. Both sides count: the
//! flow is given no more than it asked for, the shell reads no more than one record beyond that, and
//! the flow learns what the socket took of its bytes, to the byte.

use std::collections::VecDeque;
use std::io::{self, BufRead, Write};

use std::time::Instant;

use bytes::Bytes;
use rustls::{ServerConnection, SupportedCipherSuite};

use crate::edge::Listener;
use crate::flow::{Flows, NoMemory};
use crate::ids::{ConnId, NodeHash, ServiceName};
use crate::wire::endpoints::Endpoints;

use super::records::{RECORD_MAX, Records};

/// Ciphertext that a handshake may have waiting, and may send in all. A client's first message has
/// 200 to 2000 bytes.
const HANDSHAKE_WINDOW: usize = 8 << 10;
const HANDSHAKE_MAX: usize = 32 << 10;
/// Reading is granted in steps no smaller than this, unless nothing is granted at all.
const MIN_GRANT: usize = 8 << 10;
/// Records that bring no plaintext, such as new keys, may have so many bytes in a row.
const BARREN_MAX: usize = 2 * RECORD_MAX;
/// Plaintext of a record (RFC 8446 §5.1).
const FRAGMENT: usize = 16_384;
/// Before a TLS 1.2 cipher has encrypted all that it may, so many records are left for alerts and the like.
const SPARE_RECORDS: u64 = 64;
/// Writes that the shell has not carried out yet: a flow has up to 256 KiB in pieces of 16 KiB on the way,
/// but for its first and last piece, and a handshake a few flights.
pub(super) const MAX_UNWRITTEN: usize = 64;
/// Bytes that were read and that the flow did not have yet.
pub(super) const MAX_WAITING: usize = RECORD_MAX;

/// Why a connection is broken off.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("{0}")]
    Tls(#[from] rustls::Error),
    #[error("{0}")]
    NoMemory(#[from] NoMemory),
    #[error("this PoP takes no more clients")]
    Draining,
    #[error("it sends too much that says nothing")]
    Barren,
    #[error("it ended without close_notify")]
    Truncated,
    #[error("its cipher has encrypted all that it may (only TLS 1.3 changes keys)")]
    Exhausted,
}

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Handshake,
    /// There is, or was, a flow.
    Open,
    /// It failed; only the alert is still to be sent.
    Failed,
}

/// A write that the shell has not carried out yet.
#[derive(Debug)]
struct Unwritten {
    ciphertext: usize,
    /// The flow's bytes in it.
    plaintext: usize,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Conn {
    tls: Box<ServerConnection>,
    pub phase: Phase,
    pub client: Endpoints,
    dest: NodeHash,
    service: ServiceName,
    /// When a byte last came or went.
    pub active: Instant,
    /// The timer that is set for it.
    pub due: Instant,

    records: Records,
    /// Ciphertext that waits because the flow has not taken yet what came before.
    held: Vec<u8>,
    /// Plaintext that rustls holds for the same reason.
    pending: usize,
    /// Plaintext that the flow asked for.
    credit: usize,
    /// Ciphertext that the shell may read.
    granted: usize,
    received: usize,
    barren: usize,

    unwritten: VecDeque<Unwritten>,
    /// Records that may still be encrypted.
    pub records_left: u64,

    /// The client said close_notify.
    pub closed: bool,
    /// The shell reported the end.
    pub eof: bool,
    /// The shell was told to close our half.
    pub shutdown: bool,
}

impl Conn {
    pub(super) fn new(
        now: Instant,
        tls: ServerConnection,
        listener: &Listener,
        client: Endpoints,
    ) -> Self {
        let mut tls = Box::new(tls);
        // The flow's own bound on what is on the way is the bound here.
        tls.set_buffer_limit(None);
        Self {
            tls,
            phase: Phase::Handshake,
            client,
            dest: listener.dest.hash32(),
            service: listener.service.clone(),
            active: now,
            due: now,
            records: Records::default(),
            held: Vec::new(),
            pending: 0,
            credit: 0,
            granted: 0,
            received: 0,
            barren: 0,
            unwritten: VecDeque::new(),
            records_left: u64::MAX,
            closed: false,
            eof: false,
            shutdown: false,
        }
    }

    /// Takes bytes that the shell read.
    pub(super) fn receive(
        &mut self,
        now: Instant,
        id: ConnId,
        data: &[u8],
        accepting: bool,
        flows: &mut Flows,
    ) -> Result<(), Fault> {
        self.active = now;
        self.granted = self.granted.saturating_sub(data.len());
        self.received = self.received.saturating_add(data.len());
        if self.held.is_empty() {
            let mut input = data;
            let result = self.advance(now, id, &mut input, accepting, flows);
            self.held.extend_from_slice(input);
            return result;
        }
        self.held.extend_from_slice(data);
        self.catch_up(now, id, accepting, flows)
    }

    /// The flow wants more.
    pub(super) fn grant(
        &mut self,
        now: Instant,
        id: ConnId,
        bytes: usize,
        flows: &mut Flows,
    ) -> Result<(), Fault> {
        self.credit = self.credit.saturating_add(bytes);
        self.catch_up(now, id, true, flows)
    }

    /// Goes on with what waits.
    fn catch_up(
        &mut self,
        now: Instant,
        id: ConnId,
        accepting: bool,
        flows: &mut Flows,
    ) -> Result<(), Fault> {
        let mut held = std::mem::take(&mut self.held);
        let mut input = &held[..];
        let result = self.advance(now, id, &mut input, accepting, flows);
        let taken = held.len() - input.len();
        held.drain(..taken);
        if !held.is_empty() {
            self.held = held;
        }
        result
    }

    /// Decrypts record after record, as long as the flow takes what they hold. What does not concern
    /// the flow needs no credit.
    fn advance(
        &mut self,
        now: Instant,
        id: ConnId,
        input: &mut &[u8],
        accepting: bool,
        flows: &mut Flows,
    ) -> Result<(), Fault> {
        loop {
            self.deliver(now, id, flows);
            if self.closed || self.phase == Phase::Failed {
                // "Any data received after a closure alert … MUST be ignored" (RFC 8446 §6.1).
                *input = &[];
            }
            if self.pending > 0 {
                return Ok(());
            }
            let Some((piece, complete)) = self.records.take(input) else { break };
            self.feed(piece)?;
            self.count_barren(complete)?;
            if self.phase == Phase::Handshake && !self.tls.is_handshaking() {
                self.open(now, id, accepting, flows)?;
            }
            if self.closed {
                flows.eof(now, id);
            }
        }
        if self.eof && !self.closed {
            return Err(Fault::Truncated);
        }
        self.trim();
        Ok(())
    }

    fn deliver(&mut self, now: Instant, id: ConnId, flows: &mut Flows) {
        while self.pending > 0 && self.credit > 0 {
            let mut reader = self.tls.reader();
            let Ok(chunk) = reader.fill_buf() else { return };
            let n = chunk.len().min(self.credit);
            flows.received(now, id, chunk.get(..n).unwrap_or_default());
            reader.consume(n);
            self.credit -= n;
            self.pending = self.pending.saturating_sub(n);
        }
    }

    fn feed(&mut self, mut bytes: &[u8]) -> Result<(), Fault> {
        while !bytes.is_empty() && !self.closed {
            // The only error is that a message is longer than rustls takes any.
            if !matches!(self.tls.read_tls(&mut bytes), Ok(1..)) {
                return Err(Fault::Barren);
            }
            let state = self.tls.process_new_packets()?;
            self.pending = state.plaintext_bytes_to_read();
            self.closed = state.peer_has_closed();
        }
        Ok(())
    }

    /// rustls bounds most of what brings nothing; not how large it is.
    fn count_barren(&mut self, complete: Option<usize>) -> Result<(), Fault> {
        if self.pending > 0 {
            self.barren = 0;
            return Ok(());
        }
        self.barren += complete.unwrap_or(0);
        if self.barren > BARREN_MAX { Err(Fault::Barren) } else { Ok(()) }
    }

    /// The handshake is complete: the flow begins.
    fn open(
        &mut self,
        now: Instant,
        id: ConnId,
        accepting: bool,
        flows: &mut Flows,
    ) -> Result<(), Fault> {
        if !accepting {
            return Err(Fault::Draining);
        }
        flows.accept(now, id, self.dest, self.service.clone(), self.client)?;
        self.phase = Phase::Open;
        self.barren = 0;
        if let Some(SupportedCipherSuite::Tls12(suite)) = self.tls.negotiated_cipher_suite() {
            self.records_left = suite.common.confidentiality_limit.saturating_sub(SPARE_RECORDS);
        }
        Ok(())
    }

    /// An idle connection keeps no large buffer: rustls makes its own small when it is about to read
    /// and nothing is left in it.
    fn trim(&mut self) {
        if self.records.partial() == 0 && !self.closed {
            let _nothing = self.tls.read_tls(&mut io::empty());
        }
    }

    /// How much more the shell may read, if it is told to.
    pub(super) fn top_up(&mut self) -> Option<usize> {
        if self.closed || self.eof || self.phase == Phase::Failed {
            return None;
        }
        let holds = self.granted + self.waiting();
        let more = if self.phase == Phase::Handshake {
            let rest = HANDSHAKE_MAX.saturating_sub(self.received + self.granted);
            HANDSHAKE_WINDOW.saturating_sub(holds).min(rest)
        } else {
            (self.credit + RECORD_MAX).saturating_sub(holds)
        };
        let grant = more >= MIN_GRANT || (self.granted == 0 && more > 0);
        grant.then(|| {
            self.granted += more;
            more
        })
    }

    /// Whether it waits for bytes that the shell was never told to read: there can be no progress.
    pub(super) fn is_stuck(&self) -> bool {
        self.phase == Phase::Handshake && self.granted == 0
    }

    /// Bytes that came and that the flow does not have yet.
    pub(super) fn waiting(&self) -> usize {
        self.records.partial() + self.held.len() + self.pending
    }

    pub(super) fn has_spoken(&self) -> bool {
        self.received > 0
    }

    pub(super) fn unwritten(&self) -> usize {
        self.unwritten.len()
    }

    /// The flow's bytes as records.
    pub(super) fn write(&mut self, data: &[u8]) -> Result<Option<Bytes>, Fault> {
        let records = data.len().div_ceil(FRAGMENT) as u64;
        // Else rustls would say close_notify, and what is cut short would look complete.
        self.records_left = self.records_left.checked_sub(records).ok_or(Fault::Exhausted)?;
        self.tls.writer().write_all(data).map_err(|_| Fault::Exhausted)?;
        Ok(self.flush(data.len()))
    }

    pub(super) fn close(&mut self) -> Option<Bytes> {
        self.tls.send_close_notify();
        self.flush(0)
    }

    /// What rustls wants to send, `plaintext` bytes of it the flow's.
    pub(super) fn flush(&mut self, plaintext: usize) -> Option<Bytes> {
        let mut out = Vec::new();
        while self.tls.wants_write() {
            // A vector takes everything.
            if !matches!(self.tls.write_tls(&mut out), Ok(1..)) {
                break;
            }
        }
        if out.is_empty() {
            return None;
        }
        self.unwritten.push_back(Unwritten { ciphertext: out.len(), plaintext });
        Some(Bytes::from(out))
    }

    /// The socket took so many bytes; how many of the flow's are all through with them.
    pub(super) fn wrote(&mut self, now: Instant, mut bytes: usize) -> usize {
        self.active = now;
        let mut plaintext = 0;
        while let Some(first) = self.unwritten.front_mut().filter(|_| bytes > 0) {
            let n = first.ciphertext.min(bytes);
            first.ciphertext -= n;
            bytes -= n;
            if first.ciphertext == 0 {
                plaintext += first.plaintext;
                self.unwritten.pop_front();
            }
        }
        plaintext
    }

    /// The shell reported the end. What came before it may still wait; else it is told whether that is a
    /// clean end.
    pub(super) fn end(&mut self) -> Result<(), Fault> {
        self.eof = true;
        if self.closed || self.pending > 0 { Ok(()) } else { Err(Fault::Truncated) }
    }

    /// Whether the shell is done with it, or will be without being told.
    pub(super) fn is_over(&self) -> bool {
        self.eof && self.shutdown && self.unwritten.is_empty()
    }
}
