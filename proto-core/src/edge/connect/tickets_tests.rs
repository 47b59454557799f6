use std::sync::Arc;
use std::time::Duration;

use quinn_proto::crypto::ClientConfig as _;
use quinn_proto::crypto::rustls::QuicClientConfig;
use quinn_proto::transport_parameters::TransportParameters;
use rustls::pki_types::ServerName;
use rustls::quic::{ServerConnection, Version};
use rustls::server::ServerSessionMemoryCache;

use super::*;
use crate::edge::clock::Clock;
use crate::edge::identity::Identity;
use crate::rng::Rng;
use tickets::{Recorder, Tickets};

const CERT: &[u8] = include_bytes!("../testdata/ed25519.pem");
const KEY: &[u8] = include_bytes!("../testdata/ed25519.key");
const NAME: &str = "localhost";

/// A server of TLS 1.3 for QUIC, as the edge has it, and its clock.
fn server() -> (Arc<rustls::ServerConfig>, Arc<Clock>) {
    let clock = Arc::new(Clock::new(crate::tests::epoch(), Duration::from_secs(1)));
    let time: Arc<dyn rustls::time_provider::TimeProvider> = clock.clone();
    let identity = Identity::from_pem(CERT, KEY).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_details(provider, time)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(identity.chain, identity.key)
        .unwrap();
    config.session_storage = ServerSessionMemoryCache::new(100);
    config.max_early_data_size = u32::MAX;
    config.alpn_protocols = vec![b"entrouter".to_vec()];
    (Arc::new(config), clock)
}

/// One process of a connector.
struct Client {
    tickets: Arc<Tickets>,
    config: Arc<rustls::ClientConfig>,
    clock: Arc<Clock>,
    recorder: Arc<Recorder>,
}

impl Client {
    fn new(seed: u8, unix_s: u64, trust: &Trust) -> Self {
        let clock = Arc::new(Clock::new(crate::tests::epoch(), Duration::from_secs(unix_s)));
        let provider = Arc::new(seeded::provider());
        let tickets = Arc::new(Tickets::new(NAME.to_owned()));
        let time: Arc<dyn rustls::time_provider::TimeProvider> = clock.clone();
        let mut config = rustls::ClientConfig::builder_with_details(provider.clone(), time)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(trust.verifier(&provider).unwrap())
            .with_no_client_auth();
        config.alpn_protocols = vec![b"entrouter".to_vec()];
        config.enable_early_data = true;
        config.resumption = rustls::client::Resumption::store(tickets.clone());
        let config = Arc::new(config);
        let quic = Arc::new(QuicClientConfig::try_from(config.clone()).unwrap());
        let rng = Rng::new([seed; 32]);
        let recorder = Arc::new(Recorder::new(quic, tickets.clone(), clock.clone(), rng));
        Self { tickets, config, clock, recorder }
    }

    fn restore(&self, file: &[u8]) -> bool {
        let name = ServerName::try_from(NAME).unwrap();
        self.tickets.restore(file, &self.config, &name, &self.clock)
    }

    /// A whole handshake: whether it offered early data, and whether the server took it.
    fn connect(&self, server: &Arc<rustls::ServerConfig>) -> (bool, bool) {
        let params = TransportParameters::read(quinn_proto::Side::Server, &mut &[][..]).unwrap();
        let mut client = self.recorder.clone().start_session(1, NAME, &params).unwrap();
        let offered = client.early_crypto().is_some();
        let mut their_params = Vec::new();
        params.write(&mut their_params);
        let mut server = ServerConnection::new(server.clone(), Version::V1, their_params).unwrap();
        for _ in 0..4 {
            for piece in written(|buf| client.write_handshake(buf).is_some()) {
                server.read_hs(&piece).unwrap();
            }
            for piece in written(|buf| server.write_hs(buf).is_some()) {
                client.read_handshake(&piece).unwrap();
            }
        }
        assert!(!client.is_handshaking() && !server.is_handshaking());
        (offered, client.early_data_accepted() == Some(true))
    }
}

/// What is written between changes of keys.
fn written(mut write: impl FnMut(&mut Vec<u8>) -> bool) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    loop {
        let mut piece = Vec::new();
        let changed = write(&mut piece);
        if !changed && piece.is_empty() {
            return pieces;
        }
        if !piece.is_empty() {
            pieces.push(piece);
        }
    }
}

fn pinned() -> Trust {
    let identity = Identity::from_pem(CERT, KEY).unwrap();
    Trust::fingerprint(&fingerprint(identity.certificate())).unwrap()
}

#[test]
fn tickets_outlive_the_process_many_times_over() {
    let (server, clock) = server();
    let first = Client::new(1, 1_000_000, &pinned());
    clock.pretend(Some(1_000_000_000));
    assert_eq!(first.connect(&server), (false, false));
    let mut file = first.tickets.take_changed().unwrap();
    assert_eq!(first.tickets.take_changed(), None);
    let mut without = 0;
    for life in 2..60 {
        let unix_s = 1_000_000 + 3600 * u64::from(life);
        clock.pretend(Some(unix_s * 1000));
        let client = Client::new(life, unix_s, &pinned());
        assert!(client.restore(&file), "life {life}");
        assert_eq!(client.tickets.take_changed(), None);
        let (offered, accepted) = client.connect(&server);
        assert_eq!(offered, accepted, "life {life}");
        without += usize::from(!accepted);
        file = client.tickets.take_changed().unwrap();
        assert!(file.len() < 100_000, "{}", file.len());
    }
    assert!(without <= 4, "once in a chain of handshakes: {without}");
}

/// A file with tickets of the server's first handshake.
fn file_of(server: &Arc<rustls::ServerConfig>, clock: &Clock) -> Vec<u8> {
    clock.pretend(Some(1_000_000_000));
    let client = Client::new(1, 1_000_000, &pinned());
    client.connect(server);
    client.tickets.take_changed().unwrap()
}

#[test]
fn each_ticket_is_used_once() {
    let (server, clock) = server();
    let file = file_of(&server, &clock);
    let client = Client::new(2, 1_000_000, &pinned());
    assert!(client.restore(&file));
    let before = client.tickets.left();
    // Used, and then the process died before the edge had answered.
    let params = TransportParameters::read(quinn_proto::Side::Server, &mut &[][..]).unwrap();
    drop(client.recorder.clone().start_session(1, NAME, &params).unwrap());
    let left = client.tickets.take_changed().unwrap();
    let next = Client::new(3, 1_000_000, &pinned());
    assert_eq!(next.restore(&left), before > 1);
    assert_eq!(next.tickets.left(), before - 1);
    // While tickets are held, none is used.
    next.tickets.hold(true);
    let session = next.recorder.clone().start_session(1, NAME, &params).unwrap();
    assert!(session.early_crypto().is_none());
    assert_eq!(next.tickets.left(), before - 1);
}

#[test]
fn tickets_of_an_edge_that_is_trusted_no_more_are_not_used() {
    let (server, clock) = server();
    let file = file_of(&server, &clock);
    let other = Client::new(2, 1_000_000, &Trust::Fingerprint([7; 32]));
    assert!(!other.restore(&file));
    assert_eq!(other.tickets.left(), 0);
    let same = Client::new(2, 1_000_000, &pinned());
    assert!(same.restore(&file));
}

#[test]
fn a_ticket_that_the_edge_has_forgotten_costs_a_round_trip_and_nothing_else() {
    let (first, clock) = server();
    let file = file_of(&first, &clock);
    let (second, clock) = server();
    clock.pretend(Some(1_000_000_000));
    let client = Client::new(2, 1_000_000, &pinned());
    assert!(client.restore(&file));
    assert_eq!(client.connect(&second), (true, false));
    let file = client.tickets.take_changed().unwrap();
    let client = Client::new(3, 1_000_000, &pinned());
    assert!(client.restore(&file));
    assert_eq!(client.connect(&second), (true, true));
}

#[test]
fn a_damaged_file_leaves_no_ticket_and_does_no_harm() {
    let (server, clock) = server();
    let file = file_of(&server, &clock);
    for at in 0..file.len() {
        let mut damaged = file.clone();
        damaged[at] ^= 1;
        let client = Client::new(2, 1_000_000, &pinned());
        assert!(!client.restore(&damaged) && client.tickets.left() == 0);
        if at % 16 == 0 {
            assert!(!client.restore(&file[..at]));
        }
    }
    let empty = Client::new(2, 1_000_000, &pinned());
    assert!(!empty.restore(&vec![b'['; 3 << 20]) && !empty.restore(b"{}"));
}
