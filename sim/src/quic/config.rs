//! How the QUIC baseline is set up.

use std::sync::Arc;
use std::time::Duration;

use quinn_proto::congestion::{ControllerFactory, CubicConfig};
use quinn_proto::{
    ConnectionId, ConnectionIdGenerator, EndpointConfig, InvalidCid, TransportConfig, VarInt,
};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use sha2::{Digest, Sha256};

use super::Congestion;
use super::bbr::SeededBbr;

/// Bytes that a stream may have on the way. 64 MiB are 8 × 100 Mbit/s × 670 ms, so nothing but the
/// congestion controller limits a transfer.
///
/// The connection as a whole has no such window, as in quinn-proto's defaults: what a transfer has
/// buffered and not sent would count, and leave no credit to others until 8 MiB of it were read.
const STREAM_WINDOW: u32 = 64 << 20;

/// Bytes that a connection may hold unacknowledged: eight windows, as in quinn-proto's defaults.
const SEND_WINDOW: u64 = 8 * STREAM_WINDOW as u64;

/// TCP connections at a time; more wait in the client for their turn.
const MAX_STREAMS: u32 = 16_384;

/// Well below the idle timeout, for which quinn-proto's default of 30 s is kept.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Bytes of a connection id, quinn-proto's default.
const CID_LEN: usize = 8;

pub(super) type ControllerRef = Arc<dyn ControllerFactory + Send + Sync>;

pub(super) fn controller(congestion: Congestion, rng: &mut ChaCha8Rng) -> ControllerRef {
    match congestion {
        Congestion::Cubic => Arc::new(CubicConfig::default()),
        Congestion::Bbr => {
            let mut seed = [0; 32];
            rng.fill_bytes(&mut seed);
            Arc::new(SeededBbr::new(seed))
        }
    }
}

/// quinn-proto's defaults but for the windows, the number of streams and the client's keep-alive.
pub(super) fn transport(controller: ControllerRef, is_client: bool) -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .congestion_controller_factory(controller)
        .stream_receive_window(STREAM_WINDOW.into())
        .send_window(SEND_WINDOW)
        .max_concurrent_bidi_streams(MAX_STREAMS.into())
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .keep_alive_interval(is_client.then_some(KEEP_ALIVE));
    config
}

pub(super) fn endpoint(rng: &mut ChaCha8Rng) -> Arc<EndpointConfig> {
    let mut config = EndpointConfig::default();
    let mut seed = [0; 32];
    rng.fill_bytes(&mut seed);
    config.rng_seed(Some(seed));
    rng.fill_bytes(&mut seed);
    config.cid_generator(move || Box::new(SeededCids::new(seed)));
    Arc::new(config)
}

/// Connection ids as those of quinn-proto's `HashedConnectionIdGenerator`, a nonce and its keyed hash,
/// but from a seed.
///
/// A bit flipped on the link can turn a packet's short header into a long one. Then its connection id
/// is read as version and lengths, so what becomes of the packet depends on it.
struct SeededCids {
    rng: ChaCha8Rng,
    key: [u8; 16],
}

impl SeededCids {
    fn new(seed: [u8; 32]) -> Self {
        let mut rng = ChaCha8Rng::from_seed(seed);
        let mut key = [0; 16];
        rng.fill_bytes(&mut key);
        Self { rng, key }
    }

    fn signed(&self, nonce: [u8; 3]) -> [u8; CID_LEN] {
        let hash = Sha256::new().chain_update(self.key).chain_update(nonce).finalize();
        let mut cid = [0; CID_LEN];
        cid[..3].copy_from_slice(&nonce);
        cid[3..].copy_from_slice(&hash[..CID_LEN - 3]);
        // In a long header the length of an id (RFC 9000 §17.2): above 20, the packet is dropped before
        // anything is read that the seed does not determine.
        cid[4] |= 0x80;
        cid
    }
}

impl ConnectionIdGenerator for SeededCids {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut nonce = [0; 3];
        self.rng.fill_bytes(&mut nonce);
        ConnectionId::new(&self.signed(nonce))
    }

    fn validate(&self, cid: &ConnectionId) -> Result<(), InvalidCid> {
        let nonce = [cid[0], cid[1], cid[2]];
        if self.signed(nonce) == **cid { Ok(()) } else { Err(InvalidCid) }
    }

    fn cid_len(&self) -> usize {
        CID_LEN
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}
