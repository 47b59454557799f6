//! One TCP connection and the stream that carries it.

use std::collections::VecDeque;

use bytes::Bytes;
use entrouter_proto::{Action, ConnId};
use quinn_proto::{Connection, ReadError, StreamId, VarInt};

/// Bytes that may be held here between a TCP connection and its stream, in each direction.
pub(super) const AHEAD: usize = 256 << 10;

/// Nothing more can be carried: the stream was reset, or is no stream of ours.
#[derive(Debug)]
pub(super) struct Broken;

/// What happened to a stream that was read.
#[derive(Debug)]
pub(super) enum Progress {
    /// Nothing that concerns others.
    None,
    /// The stream has named its service.
    Named(Vec<u8>),
}

#[derive(Debug)]
enum Stage {
    /// Awaiting the name of the service: one byte of length, then the name.
    Preface(Vec<u8>),
    /// Awaiting the shell's answer to [`Action::Connect`].
    Dialling,
    /// The TCP connection stands.
    Open,
}

#[derive(Debug)]
pub(super) struct Bridge {
    pub(super) conn: ConnId,
    /// None while the peer allows no further stream.
    pub(super) stream: Option<StreamId>,
    stage: Stage,
    /// From TCP, not accepted by the stream yet.
    queue: VecDeque<Bytes>,
    queued: usize,
    /// Bytes that the shell may still read.
    granted: usize,
    /// TCP ended.
    eof: bool,
    /// The stream knows.
    finished: bool,
    /// To TCP, not taken by the socket yet.
    unwritten: usize,
    /// The stream ended, and TCP knows.
    shut: bool,
}

impl Bridge {
    /// For an accepted connection; the stream is yet to be opened.
    pub(super) fn of_client(conn: ConnId, service: &str) -> Self {
        let mut preface = Vec::with_capacity(1 + service.len());
        // Options with a longer name are refused.
        preface.push(u8::try_from(service.len()).unwrap_or(u8::MAX));
        preface.extend_from_slice(service.as_bytes());
        let mut bridge = Self::new(conn, None, Stage::Open);
        bridge.queued = preface.len();
        bridge.queue.push_back(preface.into());
        bridge
    }

    /// For a stream that the peer opened; `conn` is not known to the shell yet.
    pub(super) fn of_stream(conn: ConnId, stream: StreamId) -> Self {
        Self::new(conn, Some(stream), Stage::Preface(Vec::new()))
    }

    fn new(conn: ConnId, stream: Option<StreamId>, stage: Stage) -> Self {
        Self {
            conn,
            stream,
            stage,
            queue: VecDeque::new(),
            queued: 0,
            granted: 0,
            eof: false,
            finished: false,
            unwritten: 0,
            shut: false,
        }
    }

    pub(super) fn dialling(&mut self) {
        self.stage = Stage::Dialling;
    }

    pub(super) fn connected(&mut self) {
        self.stage = Stage::Open;
    }

    pub(super) fn received(&mut self, data: &[u8]) {
        self.granted = self.granted.saturating_sub(data.len());
        self.queued += data.len();
        self.queue.push_back(Bytes::copy_from_slice(data));
    }

    pub(super) fn eof(&mut self) {
        self.eof = true;
    }

    pub(super) fn written(&mut self, bytes: usize) {
        self.unwritten = self.unwritten.saturating_sub(bytes);
    }

    /// Both directions have ended, as far as this side can see.
    pub(super) fn is_done(&self) -> bool {
        self.finished && self.shut && self.unwritten == 0
    }

    /// Whether the shell has a connection that it has not ended itself.
    pub(super) fn can_abort(&self) -> bool {
        let unknown = matches!(self.stage, Stage::Preface(_));
        let over = self.eof && self.shut && self.unwritten == 0;
        !unknown && !over
    }

    /// TCP to stream.
    pub(super) fn pump_out(&mut self, quic: &mut Connection, actions: &mut VecDeque<Action>) {
        if let Some(id) = self.stream {
            let mut stream = quic.send_stream(id);
            while !self.queue.is_empty() {
                // An error is no room, or is told by an event of its own.
                let Ok(taken) = stream.write_chunks(self.queue.make_contiguous()) else { break };
                self.queue.drain(..taken.chunks);
                self.queued -= taken.bytes;
            }
            if self.eof && self.queue.is_empty() && !self.finished {
                self.finished = true;
                let _ = stream.finish(); // fails if the peer stopped the stream: an event tells
            }
        }
        self.grant(actions);
    }

    fn grant(&mut self, actions: &mut VecDeque<Action>) {
        let room = AHEAD.saturating_sub(self.queued + self.granted);
        if matches!(self.stage, Stage::Open) && !self.eof && room >= AHEAD / 2 {
            self.granted += room;
            actions.push_back(Action::GrantRead { conn: self.conn, bytes: room });
        }
    }

    /// Stream to TCP.
    pub(super) fn pump_in(
        &mut self,
        quic: &mut Connection,
        actions: &mut VecDeque<Action>,
    ) -> Result<Progress, Broken> {
        let Some(id) = self.stream.filter(|_| !self.shut) else { return Ok(Progress::None) };
        let mut stream = quic.recv_stream(id);
        let room = match &self.stage {
            Stage::Preface(_) => usize::MAX,
            Stage::Dialling => 0,
            Stage::Open => AHEAD.saturating_sub(self.unwritten),
        };
        // Not by a few bytes each time that the socket takes a few.
        if room < AHEAD / 4 {
            // A reset must be seen all the same.
            return match stream.received_reset() {
                Ok(None) => Ok(Progress::None),
                Ok(Some(_)) | Err(_) => Err(Broken),
            };
        }
        let mut chunks = stream.read(true).map_err(|_| Broken)?;
        let result = match &mut self.stage {
            Stage::Preface(preface) => read_preface(preface, |most| chunks.next(most)),
            Stage::Dialling | Stage::Open => self.take(|most| chunks.next(most), actions),
        };
        let _ = chunks.finalize(); // credit is sent with the next packet; the caller polls for it
        result
    }

    fn take(
        &mut self,
        mut next: impl FnMut(usize) -> Result<Option<quinn_proto::Chunk>, ReadError>,
        actions: &mut VecDeque<Action>,
    ) -> Result<Progress, Broken> {
        while self.unwritten < AHEAD {
            match next(AHEAD - self.unwritten) {
                Ok(Some(chunk)) => {
                    self.unwritten += chunk.bytes.len();
                    actions.push_back(Action::Write { conn: self.conn, data: chunk.bytes });
                }
                Ok(None) => {
                    self.shut = true;
                    actions.push_back(Action::Shutdown { conn: self.conn });
                    break;
                }
                Err(ReadError::Blocked) => break,
                Err(ReadError::Reset(_)) => return Err(Broken),
            }
        }
        Ok(Progress::None)
    }

    /// Takes the connection off its stream, and tells the shell where it does not know.
    pub(super) fn break_off(&self, quic: &mut Connection, actions: &mut VecDeque<Action>) {
        if let Some(id) = self.stream {
            // They fail where a direction has ended already.
            let _ = quic.send_stream(id).reset(VarInt::from_u32(0));
            let _ = quic.recv_stream(id).stop(VarInt::from_u32(0));
        }
        if self.can_abort() {
            actions.push_back(Action::Abort { conn: self.conn });
        }
    }
}

fn read_preface(
    preface: &mut Vec<u8>,
    mut next: impl FnMut(usize) -> Result<Option<quinn_proto::Chunk>, ReadError>,
) -> Result<Progress, Broken> {
    loop {
        let missing = preface.first().map_or(1, |&len| 1 + usize::from(len) - preface.len());
        if missing == 0 {
            return Ok(Progress::Named(preface.split_off(1)));
        }
        match next(missing) {
            Ok(Some(chunk)) => preface.extend_from_slice(&chunk.bytes),
            Err(ReadError::Blocked) => return Ok(Progress::None),
            Ok(None) | Err(ReadError::Reset(_)) => return Err(Broken),
        }
    }
}
