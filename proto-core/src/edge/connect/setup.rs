//! How quinn-proto and rustls are set up for a connector.

use std::sync::Arc;
use std::time::Duration;

use quinn_proto::crypto::rustls::QuicClientConfig;
use quinn_proto::{ClientConfig, TransportConfig, VarInt};
use rustls::client::Resumption;
use rustls::pki_types::ServerName;

use crate::edge::clock::Clock;
use crate::edge::quic::{FIRST_RTT, Follow, PACKET_THRESHOLD};
use crate::rng::Rng;

use super::connector::{ConnectError, Wish};
use super::seeded;
use super::tickets::{Recorder, Tickets};

/// An edge from which nothing came for so long is gone.
const IDLE: Duration = Duration::from_secs(15);
/// So often something is sent when nothing else is, which also keeps the state of NATs on the way.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// What may be under way on the whole connection each way: 1 Gbit/s over 250 ms.
const WINDOW: u32 = 32 << 20;

/// What handshakes are made of.
pub(super) struct Setup {
    pub(super) tickets: Arc<Tickets>,
    pub(super) quic: ClientConfig,
}

impl Setup {
    pub(super) fn new(
        wish: &Wish,
        clock: &Arc<Clock>,
        rng: &mut Rng,
    ) -> Result<Self, ConnectError> {
        let refused = |e: rustls::Error| ConnectError::Tls(e.to_string());
        let name = ServerName::try_from(wish.server_name.clone())
            .map_err(|_| ConnectError::ServerName(wish.server_name.clone()))?;
        let provider = Arc::new(seeded::provider());
        let time: Arc<Clock> = Arc::clone(clock);
        let mut tls = rustls::ClientConfig::builder_with_details(Arc::clone(&provider), time)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(refused)?
            .dangerous()
            .with_custom_certificate_verifier(wish.trust.verifier(&provider)?)
            .with_no_client_auth();
        tls.alpn_protocols = vec![wish.alpn.clone().into_bytes()];
        let tickets = Arc::new(Tickets::new(wish.server_name.clone()));
        tls.enable_early_data = wish.early_data;
        tls.resumption = if wish.early_data {
            Resumption::store(Arc::clone(&tickets) as _)
        } else {
            Resumption::disabled()
        };
        let tls = Arc::new(tls);
        if let Some(file) = wish.tickets.as_ref().filter(|_| wish.early_data)
            && !tickets.restore(file, &tls, &name, clock)
        {
            tracing::info!("no ticket that was kept can be used: nothing will be early");
        }
        let quic = QuicClientConfig::try_from(tls).map_err(|e| ConnectError::Tls(e.to_string()))?;
        let rng = Rng::new(rng.fork());
        let (store, clock) = (Arc::clone(&tickets), Arc::clone(clock));
        let recorder = Recorder::new(Arc::new(quic), store, clock, rng);
        let mut quic = ClientConfig::new(Arc::new(recorder));
        quic.transport_config(Arc::new(transport()));
        Ok(Self { tickets, quic })
    }
}

fn transport() -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .max_idle_timeout(VarInt::try_from(IDLE.as_millis()).ok().map(Into::into))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .stream_receive_window(WINDOW.into())
        .receive_window(WINDOW.into())
        .send_window(WINDOW.into())
        .datagram_receive_buffer_size(None)
        .datagram_send_buffer_size(0)
        .packet_threshold(PACKET_THRESHOLD)
        .initial_rtt(FIRST_RTT)
        .congestion_controller_factory(Arc::new(Follow));
    config
}
