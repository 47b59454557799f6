//! How quinn-proto and rustls are set up for clients.

use std::sync::Arc;
use std::time::Duration;

use quinn_proto::crypto::rustls::QuicServerConfig;
use quinn_proto::{Endpoint, EndpointConfig, ServerConfig, TransportConfig, VarInt};
use rustls::pki_types::CertificateDer;

use crate::config::Config;
use crate::edge::clock::Clock;
use crate::edge::identity::Identity;
use crate::rng::Rng;

use super::congestion::Follow;
use super::secrets::{Lasting, TokenKey};
use super::sessions::Sessions;
use super::windows;

/// A connection on which nothing arrives for so long is over.
const IDLE: Duration = Duration::from_secs(60);
/// Streams that a client may have open at a time in the beginning, and once it has used half of that: each
/// that may be opened takes some memory, open or not.
pub(super) const FIRST_STREAMS: u32 = 64;
pub(super) const MOST_STREAMS: u32 = 4096;
/// What the round trip is taken to be until it is measured. RFC 9002 §6.2.2 has 333 ms, and thrice that passes
/// before the first packet of a handshake is sent again: seconds, where several are lost.
pub(crate) const FIRST_RTT: Duration = Duration::from_millis(100);
/// The version of QUIC that is spoken, RFC 9000's, and what its first datagrams have at least (§14.1).
const VERSION: u32 = 1;
const LEAST_FIRST: usize = 1200;

/// Whether a datagram is to be looked at: one of another version is answered by the versions that there are,
/// but only if it is so large that nobody can send more to others this way than to us (§6.1).
pub(super) fn is_sound(datagram: &[u8]) -> bool {
    match datagram {
        [first, version @ ..] if first & 0x80 != 0 => {
            datagram.len() >= LEAST_FIRST || version.starts_with(&VERSION.to_be_bytes())
        }
        _ => !datagram.is_empty(),
    }
}

/// Packets that overtake another before that is taken for lost. Links reorder, so it is time that tells, an
/// eighth of a round trip: what is taken for lost too early is sent twice, and counts as not delivered.
pub(crate) const PACKET_THRESHOLD: u32 = 256;

/// What the edge was told about how to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wishes {
    /// Whether returning clients may send data with their first packet.
    pub early_data: bool,
    /// The application protocol that they must speak.
    pub alpn: Vec<u8>,
}

impl Wishes {
    pub(super) fn of(config: &Config) -> Self {
        let alpn = config.listen.quic_alpn.clone().into_bytes();
        Self { early_data: config.listen.quic_0rtt, alpn }
    }
}

/// Makes what quinn-proto wants.
pub(super) struct Setup {
    clock: Arc<Clock>,
    token_key: Arc<TokenKey>,
    transport: Arc<TransportConfig>,
    pub(super) sessions: Arc<Sessions>,
    wishes: Wishes,
    /// The certificate that the sessions were made under.
    shown: Vec<CertificateDer<'static>>,
    tls: Option<rustls::ServerConfig>,
}

impl std::fmt::Debug for Setup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Setup").field("wishes", &self.wishes).finish_non_exhaustive()
    }
}

impl Setup {
    pub(super) fn new(wishes: Wishes, clock: Arc<Clock>, rng: &mut Rng) -> Self {
        Self {
            clock,
            token_key: Arc::new(TokenKey::new(rng)),
            transport: Arc::new(transport()),
            sessions: Arc::new(Sessions::new()),
            wishes,
            shown: Vec::new(),
            tls: None,
        }
    }

    /// One for each socket: a connection belongs to the socket that it came to.
    pub(super) fn endpoint(lasting: Lasting, rng: &mut Rng) -> Endpoint {
        let mut config = EndpointConfig::new(Arc::new(lasting.reset_key()));
        let (seed, cids) = (rng.fork(), rng.fork());
        config.rng_seed(Some(seed)).supported_versions(vec![VERSION]);
        config.cid_generator(move || Box::new(lasting.cids(cids)));
        Endpoint::new(Arc::new(config), None, true, None)
    }

    /// Whether clients can be served.
    pub(super) fn has_identity(&self) -> bool {
        self.tls.is_some()
    }

    /// Takes the certificate of connections from now on. Under another one nobody resumes what was made under
    /// this one: who comes back is to see the new one.
    pub(super) fn set_identity(&mut self, identity: &Identity) -> Result<(), rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let clock: Arc<Clock> = Arc::clone(&self.clock);
        let mut tls = rustls::ServerConfig::builder_with_details(provider, clock)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(identity.chain.clone(), identity.key.clone_key())?;
        if self.shown != identity.chain {
            self.sessions = Arc::new(self.sessions.afresh());
            self.shown.clone_from(&identity.chain);
        }
        // Early data is accepted only from sessions that are kept here; with a ticketer it would silently
        // be off.
        tls.session_storage = Arc::clone(&self.sessions) as _;
        self.tls = Some(tls);
        Ok(())
    }

    /// Takes other wishes; whether they are other ones.
    pub(super) fn set_wishes(&mut self, wishes: Wishes) -> bool {
        let is_new = self.wishes != wishes;
        self.wishes = wishes;
        is_new
    }

    /// For new connections, if there is an identity.
    pub(super) fn server(&self) -> Option<Arc<ServerConfig>> {
        let mut tls = self.tls.clone()?;
        tls.alpn_protocols = vec![self.wishes.alpn.clone()];
        // QUIC knows no other values (RFC 9001 §4.6.1).
        tls.max_early_data_size = if self.wishes.early_data { u32::MAX } else { 0 };
        let tls = QuicServerConfig::try_from(tls).ok()?;
        let mut config = ServerConfig::new(Arc::new(tls), Arc::clone(&self.token_key) as _);
        config
            .transport_config(Arc::clone(&self.transport))
            .time_source(Arc::clone(&self.clock) as _)
            .migration(true);
        Some(Arc::new(config))
    }
}

fn transport() -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(FIRST_STREAMS.into())
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .max_idle_timeout(VarInt::try_from(IDLE.as_millis()).ok().map(Into::into))
        .stream_receive_window(windows::STREAM.into())
        .receive_window(windows::FIRST_RECEIVE.into())
        .send_window(windows::FIRST_SEND.into())
        .packet_threshold(PACKET_THRESHOLD)
        .initial_rtt(FIRST_RTT)
        .datagram_receive_buffer_size(None)
        .datagram_send_buffer_size(0)
        .congestion_controller_factory(Arc::new(Follow));
    config
}
