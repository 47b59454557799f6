//! Certificates made by `openssl`, and a client of TLS.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion,
};

use crate::client;

/// Kinds of keys, as `openssl req` is asked for them.
pub const KINDS: [&[&str]; 3] =
    [&["rsa:2048"], &["ec", "-pkeyopt", "ec_paramgen_curve:P-256"], &["ed25519"]];
/// One of them, quickly made.
pub const EC: &[&str] = KINDS[1];

/// Of the authority and of what it signs.
const EXTENSIONS: &str = "[req]\ndistinguished_name = dn\n[dn]\n\
    [ca]\nbasicConstraints = critical, CA:TRUE\nsubjectKeyIdentifier = hash\n\
    [leaf]\nbasicConstraints = critical, CA:FALSE\nsubjectAltName = DNS:localhost, IP:127.0.0.1\n";

/// Whether there is an `openssl` to make certificates.
pub fn has_openssl() -> bool {
    Command::new("openssl").arg("version").output().is_ok_and(|output| output.status.success())
}

/// What `openssl` writes.
///
/// # Panics
/// If it fails, with what it says.
#[track_caller]
pub fn openssl(args: &[&str]) -> String {
    let output = Command::new("openssl").args(args).output().expect("there is an openssl");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {args:?}: {}, {said}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Files of a certificate with its chain, and of its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The certificate, then its issuer.
    pub cert: PathBuf,
    /// The key.
    pub key: PathBuf,
}

impl Pair {
    /// Takes the place of `other` by one rename of each file, as careful tools do it.
    pub fn replace(&self, other: &Self) {
        self.replace_cert(other);
        self.replace_key(other);
    }

    /// The certificate alone.
    pub fn replace_cert(&self, other: &Self) {
        replace(&self.cert, &other.cert);
    }

    /// The key alone.
    pub fn replace_key(&self, other: &Self) {
        replace(&self.key, &other.key);
    }

    /// The certificate that clients see.
    pub fn certificate(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(&self.cert).expect("a certificate")
    }

    /// Its SHA-256 as people compare it.
    pub fn fingerprint(&self) -> String {
        let cert = self.cert.to_str().expect("a UTF-8 path");
        let told = openssl(&["x509", "-in", cert, "-noout", "-fingerprint", "-sha256"]);
        told.trim_end().rsplit_once('=').expect("a fingerprint").1.to_owned()
    }
}

fn replace(from: &Path, to: &Path) {
    let new = to.with_extension("new");
    std::fs::copy(from, &new).expect("a file in a directory of our own");
    std::fs::rename(&new, to).expect("a file in a directory of our own");
}

/// Signs certificates for localhost, in a directory.
#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
}

impl Authority {
    /// Makes one.
    pub fn new(dir: &Path) -> Self {
        let authority = Self { dir: dir.to_owned() };
        std::fs::write(authority.path("openssl.cnf"), EXTENSIONS).expect("a directory of our own");
        let (config, cert, key) =
            (authority.file("openssl.cnf"), authority.file("ca.pem"), authority.file("ca.key"));
        let args = ["req", "-x509", "-nodes", "-config", &config, "-extensions", "ca"];
        let files = ["-keyout", &key, "-out", &cert, "-subj", "/CN=authority", "-newkey"];
        openssl(&[&args[..], &files, EC].concat());
        authority
    }

    /// Whom clients are to trust.
    pub fn cert(&self) -> String {
        self.file("ca.pem")
    }

    /// Makes a certificate.
    pub fn sign(&self, name: &str, kind: &[&str]) -> Pair {
        self.sign_for(name, kind, 30)
    }

    /// One that is valid for so many days; with 0 it is never.
    pub fn sign_for(&self, name: &str, kind: &[&str], days: u32) -> Pair {
        let file = |ending: &str| self.file(&format!("{name}.{ending}"));
        let (request, cert, key, config) =
            (file("csr"), file("pem"), file("key"), self.file("openssl.cnf"));
        let (subject, days) = (format!("/CN={name}"), &days.to_string());
        let args = ["req", "-nodes", "-config", &config, "-keyout", &key, "-out", &request];
        openssl(&[&args[..], &["-subj", &subject, "-newkey"], kind].concat());
        let (ca, ca_key) = (self.cert(), self.file("ca.key"));
        let args = ["x509", "-req", "-in", &request, "-out", &cert, "-CA", &ca, "-CAkey", &ca_key];
        let more = ["-CAcreateserial", "-extfile", &config, "-extensions", "leaf", "-days", days];
        openssl(&[&args[..], &more].concat());
        let chain = [&cert, &ca].map(|path| std::fs::read_to_string(path).expect("a certificate"));
        std::fs::write(&cert, chain.concat()).expect("a directory of our own");
        Pair { cert: cert.into(), key: key.into() }
    }

    /// Connects a client that trusts it; of its versions one, or the best.
    ///
    /// # Errors
    /// If the server refuses, or shows something else.
    pub fn connect(
        &self,
        addr: SocketAddr,
        versions: &[&'static SupportedProtocolVersion],
    ) -> io::Result<Client> {
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(self.path("ca.pem")).expect("a certificate");
        roots.add(ca).expect("an authority");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("versions that there are")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").expect("a name");
        let conn = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(conn, client::connect(addr));
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Client(stream))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn file(&self, name: &str) -> String {
        self.path(name).to_str().expect("a UTF-8 path").to_owned()
    }
}

/// A connection whose handshake is complete.
#[derive(Debug)]
pub struct Client(StreamOwned<ClientConnection, TcpStream>);

impl Client {
    /// What the server showed.
    pub fn certificate(&self) -> CertificateDer<'static> {
        let chain = self.0.conn.peer_certificates().expect("a handshake that is complete");
        chain.first().expect("a certificate").clone().into_owned()
    }

    /// Ends its own half as TLS does it: by close_notify, and TCP's half after that.
    ///
    /// # Errors
    /// If the connection broke.
    pub fn finish(&mut self) -> io::Result<()> {
        self.0.conn.send_close_notify();
        self.0.flush()?;
        self.0.sock.shutdown(Shutdown::Write)
    }

    /// Ends its own half as an attacker would: by TCP's FIN alone.
    ///
    /// # Errors
    /// If the connection broke.
    pub fn cut(&self) -> io::Result<()> {
        self.0.sock.shutdown(Shutdown::Write)
    }

    /// The TCP connection below.
    pub fn socket(&self) -> &TcpStream {
        &self.0.sock
    }
}

impl Read for Client {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for Client {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
