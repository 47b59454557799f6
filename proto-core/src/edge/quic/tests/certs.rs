//! Two identities. Their keys are public and secure nothing.
//!
//! Made by `openssl genpkey -algorithm ed25519` and `openssl req -x509 -subj /CN=edge.test -days 36500`.
//! Ed25519, because its signatures are always of the same length.

use crate::edge::identity::Identity;

const FIRST: &str = "-----BEGIN CERTIFICATE-----
MIIBQTCB9KADAgECAgEBMAUGAytlcDAUMRIwEAYDVQQDDAllZGdlLnRlc3QwIBcN
MjYxMTI2MDEzNjI4WhgPMjEyNjExMDIwMTM2MjhaMBQxEjAQBgNVBAMMCWVkZ2Uu
dGVzdDAqMAUGAytlcAMhAIGxr9K2dklzmcEhZXAjz4ltJlZdO2JZBnFEoRnLjOO7
o2kwZzAdBgNVHQ4EFgQULN0GMGZYPIB+YIs+ljf9Zf2u9+gwHwYDVR0jBBgwFoAU
LN0GMGZYPIB+YIs+ljf9Zf2u9+gwDwYDVR0TAQH/BAUwAwEB/zAUBgNVHREEDTAL
ggllZGdlLnRlc3QwBQYDK2VwA0EAGAhvp27UC2a4EbJhDsJoW2T1OuMwCwN+sqUO
L1vKJeROyqVjejP15Q37+ARiNhckw4KVeXiG9VcOHLACb9YPCQ==
-----END CERTIFICATE-----
-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIA90GisYKGfjnYvFQpSZx1FvAI4DqibLEcsNVki6Hlyf
-----END PRIVATE KEY-----
";

const SECOND: &str = "-----BEGIN CERTIFICATE-----
MIIBQTCB9KADAgECAgEBMAUGAytlcDAUMRIwEAYDVQQDDAllZGdlLnRlc3QwIBcN
MjYxMTI2MDEzNjI5WhgPMjEyNjExMDIwMTM2MjlaMBQxEjAQBgNVBAMMCWVkZ2Uu
dGVzdDAqMAUGAytlcAMhALJME/apZbeXdLSiRsqz1h+aryMWrcup0HgA/ORQJQ0J
o2kwZzAdBgNVHQ4EFgQU7QofSfz3KDlTZbCzmthaGjUtX5AwHwYDVR0jBBgwFoAU
7QofSfz3KDlTZbCzmthaGjUtX5AwDwYDVR0TAQH/BAUwAwEB/zAUBgNVHREEDTAL
ggllZGdlLnRlc3QwBQYDK2VwA0EAj94Qs37EilyPk8F9buevXRUjQpIud1OnPbHe
ys/jgOqjXYHJHE90eTszL879AsHY1UOdrSjL3uk7Tt4QicSyAw==
-----END CERTIFICATE-----
-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIEcSi7hg/0pSfBaoV8kIUV/ylekYqIZ9t9oIoBoHgvk/
-----END PRIVATE KEY-----
";

pub(super) fn first() -> Identity {
    Identity::from_pem(FIRST.as_bytes(), FIRST.as_bytes()).expect("a certificate and its key")
}

pub(super) fn second() -> Identity {
    Identity::from_pem(SECOND.as_bytes(), SECOND.as_bytes()).expect("a certificate and its key")
}
