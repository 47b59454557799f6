//! Whom a connector takes for its edge.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use sha2::{Digest as _, Sha256};

/// Whom to take for the edge.
#[derive(Clone, PartialEq, Eq)]
pub enum Trust {
    /// Whoever shows a certificate for the edge's name that one of these authorities vouches for.
    Authorities(Authorities),
    /// Whoever shows the certificate with this SHA-256 and holds its key. Name and dates do not matter.
    Fingerprint([u8; 32]),
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Authorities(all) => f.debug_tuple("Authorities").field(&all.0.len()).finish(),
            Self::Fingerprint(print) => write!(f, "Fingerprint({})", Fingerprint(print)),
        }
    }
}

/// Certificates of authorities; at least one.
#[derive(Clone, PartialEq, Eq)]
pub struct Authorities(Vec<CertificateDer<'static>>);

impl std::fmt::Debug for Authorities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Authorities").field(&self.0.len()).finish()
    }
}

/// Nobody can be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// Not PEM, or nothing in it.
    #[error("no certificate found (wanted a PEM file with the certificates of authorities)")]
    NoAuthority,
    /// None of the authorities is usable.
    #[error("none of the authorities' certificates can be used: {0}")]
    Unusable(String),
    /// Not a fingerprint.
    #[error("wanted the SHA-256 of a certificate: 64 hexadecimal digits, with or without colons")]
    NoFingerprint,
}

impl Authorities {
    /// Reads PEM.
    ///
    /// # Errors
    /// [`TrustError::NoAuthority`].
    pub fn from_pem(pem: &[u8]) -> Result<Self, TrustError> {
        let all = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
        Self::from_der(all.map_err(|_| TrustError::NoAuthority)?.iter().map(AsRef::as_ref))
    }

    /// Takes certificates in DER, as a system's store has them.
    ///
    /// # Errors
    /// [`TrustError::NoAuthority`] if there are none.
    pub fn from_der<'a>(all: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, TrustError> {
        let all: Vec<_> = all.into_iter().map(|der| CertificateDer::from(der.to_vec())).collect();
        if all.is_empty() { Err(TrustError::NoAuthority) } else { Ok(Self(all)) }
    }
}

impl Trust {
    /// Reads a fingerprint as `openssl x509 -noout -fingerprint -sha256` and the log of a PoP show it.
    ///
    /// # Errors
    /// [`TrustError::NoFingerprint`].
    pub fn fingerprint(text: &str) -> Result<Self, TrustError> {
        let digits: Vec<u8> = text.bytes().filter(|b| *b != b':').collect();
        let mut print = [0; 32];
        if digits.len() != 64 {
            return Err(TrustError::NoFingerprint);
        }
        for (byte, pair) in print.iter_mut().zip(digits.chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| TrustError::NoFingerprint)?;
            let is_hex = pair.bytes().all(|b| b.is_ascii_hexdigit());
            let value = u8::from_str_radix(pair, 16).ok().filter(|_| is_hex);
            *byte = value.ok_or(TrustError::NoFingerprint)?;
        }
        Ok(Self::Fingerprint(print))
    }

    pub(super) fn verifier(
        &self,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Arc<dyn ServerCertVerifier>, TrustError> {
        match self {
            Self::Authorities(Authorities(all)) => {
                let mut roots = RootCertStore::empty();
                // A system's store may hold some that cannot be used.
                roots.add_parsable_certificates(all.iter().cloned());
                let provider = Arc::clone(provider);
                let built =
                    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
                built
                    .map(|verifier| verifier as Arc<dyn ServerCertVerifier>)
                    .map_err(|e| TrustError::Unusable(e.to_string()))
            }
            Self::Fingerprint(print) => {
                Ok(Arc::new(Pinned { print: *print, provider: Arc::clone(provider) }))
            }
        }
    }
}

/// SHA-256 of a certificate, as people compare it.
struct Fingerprint<'a>(&'a [u8; 32]);

impl std::fmt::Display for Fingerprint<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str(":")?;
            }
            write!(f, "{byte:02X}")?;
        }
        Ok(())
    }
}

/// The SHA-256 of a certificate in DER as `openssl x509 -fingerprint -sha256` prints it: pairs of
/// hexadecimal digits between colons.
#[must_use]
pub fn fingerprint(certificate: &[u8]) -> String {
    Fingerprint(&Sha256::digest(certificate).into()).to_string()
}

/// Trusts one certificate.
#[derive(Debug)]
struct Pinned {
    print: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if <[u8; 32]>::from(Sha256::digest(end_entity)) == self.print {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_read_as_they_are_shown() {
        let shown = fingerprint(b"certificate");
        let Ok(Trust::Fingerprint(print)) = Trust::fingerprint(&shown) else { panic!("{shown}") };
        assert_eq!(print, <[u8; 32]>::from(Sha256::digest(b"certificate")));
        let plain = shown.replace(':', "").to_lowercase();
        assert_eq!(Trust::fingerprint(&plain), Ok(Trust::Fingerprint(print)));
        for bad in ["", "AB", "zz", &shown[..94], &format!("{shown}:00"), &"+1".repeat(32)] {
            assert_eq!(Trust::fingerprint(bad), Err(TrustError::NoFingerprint), "{bad}");
        }
    }
}
