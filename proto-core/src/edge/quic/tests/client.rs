//! A client: quinn-proto again, from the other side.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::BytesMut;
use quinn_proto::crypto::rustls::QuicClientConfig;
use quinn_proto::{
    ClientConfig, Connection, ConnectionError, ConnectionHandle, ConnectionIdGenerator,
    DatagramEvent, Dir, Endpoint, EndpointConfig, Event, ReadError, StreamEvent, StreamId,
    TransportConfig, VarInt, WriteError,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};

use crate::edge::clock::Clock;
use crate::edge::quic::secrets::{Cids, ResetKey};
use crate::rng::Rng;

/// What a client sees of one of its streams.
#[derive(Debug, Default)]
pub(super) struct ClientStream {
    /// quinn-proto lets it be.
    open: bool,
    pub outgoing: Vec<u8>,
    pub sent: usize,
    pub finish: bool,
    pub finished: bool,
    pub incoming: Vec<u8>,
    /// It reads so many bytes and no more.
    pub takes: Option<usize>,
    pub ended: bool,
    pub reset: Option<u64>,
    /// The edge wants no more of it.
    pub stopped: Option<u64>,
}

impl ClientStream {
    pub(super) fn is_over(&self) -> bool {
        self.reset.is_some() || (self.ended && self.finished)
    }
}

/// Takes any certificate, and remembers those that it was shown.
#[derive(Debug)]
struct Trusting {
    provider: Arc<CryptoProvider>,
    shown: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.shown.lock().expect("no panic").push(end_entity.to_vec());
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("not with QUIC".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// One client with one connection at a time; it keeps its tickets.
pub(super) struct Client {
    pub addr: SocketAddr,
    endpoint: Endpoint,
    config: ClientConfig,
    handle: Option<ConnectionHandle>,
    pub quic: Option<Connection>,
    pub streams: BTreeMap<u64, ClientStream>,
    pub connected: Option<Instant>,
    pub lost: Option<ConnectionError>,
    /// The certificates that it was shown.
    pub shown: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Client {
    pub(super) fn new(
        addr: SocketAddr,
        clock: Arc<Clock>,
        rng: &mut Rng,
        transport: TransportConfig,
        alpn: &str,
    ) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let shown = Arc::new(Mutex::new(Vec::new()));
        let verifier = Trusting { provider: Arc::clone(&provider), shown: Arc::clone(&shown) };
        let mut tls = rustls::ClientConfig::builder_with_details(provider, clock)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        tls.enable_early_data = true;
        tls.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        let tls = QuicClientConfig::try_from(tls).expect("a cipher suite for Initials");
        let mut config = ClientConfig::new(Arc::new(tls));
        config.transport_config(Arc::new(transport));
        let cids = Mutex::new(Cids::new(rng.fork()));
        config.initial_dst_cid_provider(Arc::new(move || {
            cids.lock().expect("no panic").generate_cid()
        }));
        let mut endpoint = EndpointConfig::new(Arc::new(ResetKey::new(rng)));
        let (seed, cids) = (rng.fork(), rng.fork());
        endpoint.rng_seed(Some(seed)).cid_generator(move || Box::new(Cids::new(cids)));
        Self {
            addr,
            endpoint: Endpoint::new(Arc::new(endpoint), None, true, None),
            config,
            handle: None,
            quic: None,
            streams: BTreeMap::new(),
            connected: None,
            lost: None,
            shown,
        }
    }

    /// Begins a new connection, and forgets about the last one.
    pub(super) fn connect(&mut self, now: Instant, to: SocketAddr) {
        if let Some(handle) = self.handle.take() {
            self.endpoint.handle_event(handle, quinn_proto::EndpointEvent::drained());
        }
        self.streams.clear();
        (self.connected, self.lost) = (None, None);
        let made = self.endpoint.connect(now, self.config.clone(), to, "edge.test");
        let (handle, quic) = made.expect("a connection");
        (self.handle, self.quic) = (Some(handle), Some(quic));
    }

    pub(super) fn quic(&mut self) -> &mut Connection {
        self.quic.as_mut().expect("a connection")
    }

    /// Opens a stream, whose number it returns.
    pub(super) fn open(&mut self, outgoing: &[u8], finish: bool) -> u64 {
        let n = self.streams.len() as u64;
        let stream =
            ClientStream { outgoing: outgoing.to_vec(), finish, ..ClientStream::default() };
        self.streams.insert(n, stream);
        self.open_all();
        self.write(n);
        n
    }

    /// Opens the streams that could not be opened yet.
    fn open_all(&mut self) {
        let Some(quic) = &mut self.quic else { return };
        for (n, stream) in self.streams.iter_mut().filter(|(_, stream)| !stream.open) {
            let Some(id) = quic.streams().open(Dir::Bi) else { return };
            assert_eq!(id.index(), *n);
            stream.open = true;
        }
    }

    pub(super) fn stream(&mut self, n: u64) -> &mut ClientStream {
        self.streams.get_mut(&n).expect("a stream")
    }

    pub(super) fn reset(&mut self, n: u64, code: u32) {
        if self.stream(n).open {
            let _ = self.quic().send_stream(id(n)).reset(VarInt::from_u32(code));
        }
    }

    pub(super) fn stop(&mut self, n: u64, code: u32) {
        if self.stream(n).open {
            let _ = self.quic().recv_stream(id(n)).stop(VarInt::from_u32(code));
            self.stream(n).ended = true;
        }
    }

    pub(super) fn close(&mut self, now: Instant, code: u32) {
        self.quic().close(now, VarInt::from_u32(code), bytes::Bytes::new());
    }

    pub(super) fn handle(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        let mut answer = Vec::new();
        let data = BytesMut::from(datagram);
        match self.endpoint.handle(now, from, None, None, data, &mut answer) {
            Some(DatagramEvent::ConnectionEvent(handle, event)) if Some(handle) == self.handle => {
                self.quic().handle_event(event);
            }
            _ => {}
        }
    }

    pub(super) fn poll_timeout(&mut self) -> Option<Instant> {
        self.quic.as_mut()?.poll_timeout()
    }

    /// Does what is to be done, and returns the datagrams.
    pub(super) fn drive(&mut self, now: Instant) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut out = Vec::new();
        if self.poll_timeout().is_some_and(|at| at <= now) {
            self.quic().handle_timeout(now);
        }
        let Some(handle) = self.handle else { return out };
        loop {
            let Some(quic) = self.quic.as_mut() else { return out };
            while let Some(event) = quic.poll_endpoint_events() {
                if let Some(answer) = self.endpoint.handle_event(handle, event) {
                    quic.handle_event(answer);
                }
            }
            let Some(event) = quic.poll() else { break };
            self.on_event(now, event);
        }
        self.open_all();
        let all: Vec<u64> = self.streams.keys().copied().collect();
        for n in all {
            self.write(n);
            self.read(n);
        }
        let mut buf = Vec::new();
        while let Some(made) = self.quic().poll_transmit(now, 8, &mut buf) {
            for datagram in buf.chunks(made.segment_size.unwrap_or(made.size)) {
                out.push((made.destination, datagram.to_vec()));
            }
            buf.clear();
        }
        if self.quic().is_drained() {
            (self.handle, self.quic) = (None, None);
        }
        out
    }

    fn on_event(&mut self, now: Instant, event: Event) {
        match event {
            Event::Connected => {
                self.connected = Some(now);
                // What was sent early is to be sent again.
                if self.quic().has_0rtt() && !self.quic().accepted_0rtt() {
                    let streams = std::mem::take(&mut self.streams);
                    for stream in streams.into_values() {
                        self.open(&stream.outgoing, stream.finish);
                    }
                }
            }
            Event::ConnectionLost { reason } => self.lost = Some(reason),
            Event::Stream(StreamEvent::Stopped { id, error_code }) => {
                if let Some(stream) = self.streams.get_mut(&id.index()) {
                    stream.stopped = Some(error_code.into_inner());
                }
                let _ = self.quic().send_stream(id).reset(error_code);
            }
            _ => {}
        }
    }

    fn write(&mut self, n: u64) {
        let Some(quic) = &mut self.quic else { return };
        let Some(stream) = self.streams.get_mut(&n).filter(|stream| stream.open) else { return };
        while stream.sent < stream.outgoing.len() && stream.stopped.is_none() {
            match quic.send_stream(id(n)).write(&stream.outgoing[stream.sent..]) {
                Ok(written) => stream.sent += written,
                Err(WriteError::Blocked) => break,
                Err(_) => return,
            }
        }
        if stream.sent == stream.outgoing.len() && stream.finish && !stream.finished {
            stream.finished = quic.send_stream(id(n)).finish().is_ok();
        }
    }

    fn read(&mut self, n: u64) {
        let Some(quic) = &mut self.quic else { return };
        let Some(stream) = self.streams.get_mut(&n).filter(|stream| stream.open) else { return };
        if stream.ended || stream.reset.is_some() {
            return;
        }
        let mut recv = quic.recv_stream(id(n));
        if let Ok(Some(code)) = recv.received_reset() {
            stream.reset = Some(code.into_inner());
            return;
        }
        let Ok(mut chunks) = recv.read(true) else { return };
        loop {
            let room = stream.takes.map_or(usize::MAX, |t| t.saturating_sub(stream.incoming.len()));
            if room == 0 {
                break;
            }
            match chunks.next(room) {
                Ok(Some(chunk)) => stream.incoming.extend_from_slice(&chunk.bytes),
                Ok(None) => {
                    stream.ended = true;
                    break;
                }
                Err(ReadError::Blocked) => break,
                Err(ReadError::Reset(code)) => {
                    stream.reset = Some(code.into_inner());
                    break;
                }
            }
        }
        let _ = chunks.finalize();
    }
}

fn id(n: u64) -> StreamId {
    StreamId::new(quinn_proto::Side::Client, Dir::Bi, n)
}
