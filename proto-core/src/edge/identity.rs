//! The certificate and key that TLS and QUIC clients are shown.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};

use super::validity;

/// Why an identity cannot be used, and what to do. Never holds key material.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The chain is not PEM, or holds no certificate.
    #[error("no certificate found (wanted a PEM file with the certificate, then its issuers)")]
    NoCertificate,
    /// The key is not PEM, or there is none.
    #[error(
        "no private key found (wanted a PEM file with one RSA, EC or Ed25519 key, unencrypted)"
    )]
    NoKey,
    /// The key is protected by a password, which nobody is there to type.
    #[error("the private key is encrypted (remove the password: `openssl pkey -in OLD -out NEW`)")]
    EncryptedKey,
    /// The key is of a kind, or a size, that is not known.
    #[error(
        "unknown kind of private key (wanted RSA of 2048 to 8192 bits, EC P-256 or P-384, or Ed25519)"
    )]
    UnknownKey,
    /// The key belongs to a certificate that is not the first.
    #[error(
        "the certificates are in the wrong order (put that of the key first, then its issuers)"
    )]
    WrongOrder,
    /// The key belongs to none of the certificates.
    #[error(
        "the private key does not belong to the certificate (give the two that were made together)"
    )]
    Mismatch,
    /// The certificate cannot be read.
    #[error("the certificate cannot be used: {0} (make a new one)")]
    BadCertificate(String),
}

/// A certificate chain and its private key.
pub struct Identity {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
    /// Both of them, ready to sign.
    pub(crate) certified: Arc<CertifiedKey>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("chain", &self.chain.len()).finish_non_exhaustive()
    }
}

impl Identity {
    /// Reads PEM: the certificate first, then its issuers; and its key (PKCS #8, PKCS #1 or SEC 1).
    /// Other sections are passed over, so both may be one file.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, IdentityError> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .map_err(|_| IdentityError::NoCertificate)?;
        if chain.is_empty() {
            return Err(IdentityError::NoCertificate);
        }
        if is_encrypted(key) {
            return Err(IdentityError::EncryptedKey);
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| IdentityError::NoKey)?;
        let signing = rustls::crypto::ring::sign::any_supported_type(&key)
            .map_err(|_| IdentityError::UnknownKey)?;
        let certified = CertifiedKey::new(chain.clone(), signing);
        match certified.keys_match() {
            Ok(()) => {}
            Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                let of_another = chain.iter().any(|cert| {
                    let other = CertifiedKey::new(vec![cert.clone()], Arc::clone(&certified.key));
                    other.keys_match().is_ok()
                });
                let error =
                    if of_another { IdentityError::WrongOrder } else { IdentityError::Mismatch };
                return Err(error);
            }
            Err(e) => return Err(IdentityError::BadCertificate(e.to_string())),
        }
        Ok(Self { chain, key, certified: Arc::new(certified) })
    }

    /// The certificate itself in DER, whose SHA-256 is what people compare.
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        self.chain.first().map_or(&[], |cert| cert.as_ref())
    }

    /// The first and the last moment at which clients take the certificate for valid, since the Unix epoch.
    #[must_use]
    pub fn validity(&self) -> Option<(Duration, Duration)> {
        validity::of(self.certificate())
    }
}

/// PKCS #8 says so in its label, the older forms in a header (RFC 1421 §4.6.1.1).
fn is_encrypted(pem: &[u8]) -> bool {
    let text = String::from_utf8_lossy(pem);
    text.lines().any(|line| {
        line.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY")
            || line.starts_with("Proc-Type: 4,ENCRYPTED")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RSA: (&[u8], &[u8]) =
        (include_bytes!("testdata/rsa.pem"), include_bytes!("testdata/rsa.key"));
    const EC: (&[u8], &[u8]) =
        (include_bytes!("testdata/ec.pem"), include_bytes!("testdata/ec.key"));
    const ED: (&[u8], &[u8]) =
        (include_bytes!("testdata/ed25519.pem"), include_bytes!("testdata/ed25519.key"));
    const ENCRYPTED: &[u8] = include_bytes!("testdata/encrypted.key");

    /// The certificates of a chain, each as PEM.
    fn certificates(chain: &[u8]) -> Vec<String> {
        let text = String::from_utf8_lossy(chain).into_owned();
        let parts = text.split_inclusive("-----END CERTIFICATE-----\n");
        parts.filter(|part| part.contains("BEGIN")).map(str::to_owned).collect()
    }

    #[test]
    fn rsa_ec_and_ed25519_keys_load_with_their_chains() {
        for (chain, key) in [RSA, EC, ED] {
            let identity = Identity::from_pem(chain, key).expect("an identity");
            assert_eq!(identity.chain.len(), 2);
            assert_eq!(identity.certificate(), &*identity.chain[0]);
            assert!(!format!("{identity:?}").contains("key"));
        }
    }

    #[test]
    fn one_file_may_hold_both_in_either_order() {
        for (chain, key) in [RSA, EC, ED] {
            for both in [[chain, key].concat(), [key, chain].concat()] {
                assert!(Identity::from_pem(&both, &both).is_ok());
            }
        }
    }

    #[test]
    fn what_does_not_fit_together_is_told_apart() {
        let error = |chain: &[u8], key: &[u8]| Identity::from_pem(chain, key).err();
        assert_eq!(error(RSA.0, EC.1), Some(IdentityError::Mismatch));
        assert_eq!(error(ED.0, EC.1), Some(IdentityError::Mismatch));
        let mut turned = certificates(EC.0);
        turned.reverse();
        assert_eq!(error(turned.concat().as_bytes(), EC.1), Some(IdentityError::WrongOrder));
        assert_eq!(error(b"", EC.1), Some(IdentityError::NoCertificate));
        assert_eq!(error(EC.1, EC.1), Some(IdentityError::NoCertificate));
        assert_eq!(error(EC.0, b"hello"), Some(IdentityError::NoKey));
        assert_eq!(error(EC.0, EC.0), Some(IdentityError::NoKey));
        assert_eq!(error(ED.0, ENCRYPTED), Some(IdentityError::EncryptedKey));
        let odd = b"-----BEGIN PRIVATE KEY-----\nMAMCAQA=\n-----END PRIVATE KEY-----\n";
        assert_eq!(error(EC.0, odd), Some(IdentityError::UnknownKey));
        let odd = b"-----BEGIN CERTIFICATE-----\nMAMCAQA=\n-----END CERTIFICATE-----\n";
        assert!(matches!(error(odd, EC.1), Some(IdentityError::BadCertificate(_))));
    }

    #[test]
    fn files_that_are_cut_short_are_refused_and_never_panic() {
        for (chain, key) in [RSA, EC, ED] {
            let whole = Identity::from_pem(chain, key).expect("an identity").chain.len();
            for cut in 0..chain.len() - 1 {
                // Once the first certificate is there, the others may be missing.
                if let Ok(identity) = Identity::from_pem(&chain[..cut], key) {
                    assert!(identity.chain.len() < whole);
                }
            }
            let end = key.len() - 2;
            for cut in (0..end).step_by(7) {
                assert!(Identity::from_pem(chain, &key[..cut]).is_err(), "{cut} of {end}");
            }
        }
    }
}
