//! The handshake of the baseline: a fixed certificate, pinned, and messages of fixed length.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quinn_proto::TimeSource;
use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, PeerMisbehaved, ServerConfig};
use rustls::{Error, SignatureScheme};

use super::QuicError;

/// What the client asks for; the certificate is compared whole, so no name is looked at.
pub(super) const SERVER_NAME: &str = "quic-baseline";

/// An Ed25519 key in PKCS #8 (RFC 8410 §7): a header, then 32 bytes that anybody can read here. It
/// protects nothing: both ends of a simulated link are in one process.
const KEY: &[u8; 48] =
    b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20this key is public, secures none";

/// Made once with OpenSSL 3.0 (`KEY` in `key.der`):
/// `openssl req -x509 -new -key key.der -keyform DER -subj /CN=quic-baseline -days 36500
/// -set_serial 1 -outform DER`.
///
/// Ed25519, because its signatures are always of the same length, which ECDSA's are not.
#[rustfmt::skip]
const CERTIFICATE: [u8; 311] = [
    0x30, 0x82, 0x01, 0x33, 0x30, 0x81, 0xe6, 0xa0, 0x03, 0x02, 0x01, 0x02, 0x02, 0x01, 0x01, 0x30,
    0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x30, 0x18, 0x31, 0x16, 0x30, 0x14, 0x06, 0x03, 0x55, 0x04,
    0x03, 0x0c, 0x0d, 0x71, 0x75, 0x69, 0x63, 0x2d, 0x62, 0x61, 0x73, 0x65, 0x6c, 0x69, 0x6e, 0x65,
    0x30, 0x20, 0x17, 0x0d, 0x32, 0x36, 0x31, 0x31, 0x32, 0x33, 0x30, 0x36, 0x34, 0x31, 0x31, 0x35,
    0x5a, 0x18, 0x0f, 0x32, 0x31, 0x32, 0x36, 0x31, 0x30, 0x33, 0x30, 0x30, 0x36, 0x34, 0x31, 0x31,
    0x35, 0x5a, 0x30, 0x18, 0x31, 0x16, 0x30, 0x14, 0x06, 0x03, 0x55, 0x04, 0x03, 0x0c, 0x0d, 0x71,
    0x75, 0x69, 0x63, 0x2d, 0x62, 0x61, 0x73, 0x65, 0x6c, 0x69, 0x6e, 0x65, 0x30, 0x2a, 0x30, 0x05,
    0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00, 0x91, 0x9e, 0x9b, 0x99, 0xa4, 0x06, 0x84, 0xbf,
    0xba, 0xa0, 0x5a, 0x3c, 0x1d, 0xa4, 0x53, 0x4b, 0xf8, 0x9b, 0xa0, 0xe2, 0x07, 0x95, 0x51, 0xa9,
    0x86, 0x8d, 0x8f, 0x3e, 0x5d, 0x92, 0xd0, 0x55, 0xa3, 0x53, 0x30, 0x51, 0x30, 0x1d, 0x06, 0x03,
    0x55, 0x1d, 0x0e, 0x04, 0x16, 0x04, 0x14, 0xb1, 0x95, 0x72, 0xef, 0xc7, 0x9d, 0x0a, 0x89, 0x63,
    0xe9, 0x0b, 0xb3, 0xf1, 0x0c, 0x35, 0xdc, 0x42, 0x6f, 0x99, 0xf7, 0x30, 0x1f, 0x06, 0x03, 0x55,
    0x1d, 0x23, 0x04, 0x18, 0x30, 0x16, 0x80, 0x14, 0xb1, 0x95, 0x72, 0xef, 0xc7, 0x9d, 0x0a, 0x89,
    0x63, 0xe9, 0x0b, 0xb3, 0xf1, 0x0c, 0x35, 0xdc, 0x42, 0x6f, 0x99, 0xf7, 0x30, 0x0f, 0x06, 0x03,
    0x55, 0x1d, 0x13, 0x01, 0x01, 0xff, 0x04, 0x05, 0x30, 0x03, 0x01, 0x01, 0xff, 0x30, 0x05, 0x06,
    0x03, 0x2b, 0x65, 0x70, 0x03, 0x41, 0x00, 0xf2, 0xbd, 0xa5, 0xf4, 0x76, 0xf9, 0x97, 0x3a, 0x4e,
    0x76, 0x4e, 0xf4, 0xa3, 0x22, 0x51, 0xe5, 0x0f, 0xa7, 0xbe, 0x2f, 0xc2, 0xc8, 0x19, 0x87, 0x78,
    0x0b, 0x84, 0xcf, 0x7c, 0xcb, 0xa7, 0x4e, 0x6b, 0x58, 0xa8, 0x3c, 0x5e, 0xac, 0x42, 0x55, 0x85,
    0xbf, 0xa2, 0xfe, 0x63, 0x21, 0x51, 0x67, 0x2c, 0xeb, 0xc7, 0x5a, 0xa9, 0xb1, 0x7a, 0xa7, 0x02,
    0x83, 0xd2, 0x40, 0x5e, 0x02, 0x7f, 0x02,
];

/// The clock of a host: it stands at the moment of its start. Nothing depends on it.
#[derive(Debug, Clone, Copy)]
pub(super) struct BootClock(pub(super) Duration);

impl TimeProvider for BootClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(self.0))
    }
}

impl TimeSource for BootClock {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + self.0
    }
}

/// One cipher suite and one group, so that no negotiation can change the length of a message.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![ring::cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![ring::kx_group::X25519],
        ..ring::default_provider()
    })
}

pub(super) fn client(clock: BootClock) -> Result<Arc<QuicClientConfig>, QuicError> {
    let provider = provider();
    let pinned = Arc::new(Pinned(Arc::clone(&provider)));
    let mut config = ClientConfig::builder_with_details(provider, Arc::new(clock))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(pinned)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(QuicClientConfig::try_from(config)?))
}

pub(super) fn server(clock: BootClock) -> Result<Arc<QuicServerConfig>, QuicError> {
    let chain = vec![CertificateDer::from(CERTIFICATE.as_slice())];
    let key = PrivatePkcs8KeyDer::from(KEY.as_slice()).into();
    let mut config = ServerConfig::builder_with_details(provider(), Arc::new(clock))
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(QuicServerConfig::try_from(config)?))
}

/// Takes [`CERTIFICATE`] and no other.
#[derive(Debug)]
struct Pinned(Arc<CryptoProvider>);

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if end_entity.as_ref() != CERTIFICATE {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}
