//! The certificate of the TLS and QUIC edges: read from its files, made where there are none, and read
//! again when they change.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::time::Duration;

use entrouter_proto::config::TlsPaths;
use entrouter_proto::connect::fingerprint;
use entrouter_proto::{Config, Identity, IdentityError};
use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use tracing::{error, info};

use crate::Wake;

/// How often the files are looked at.
const EVERY: Duration = Duration::from_secs(2);

/// A chain of certificates is some KiB. What is longer is something else, or has no end.
const LONGEST: u64 = 1 << 20;

/// Before a certificate expires, how long it is told that it will.
const SOON: Duration = Duration::from_secs(14 * 24 * 3600);

const CERT: &str = "listen.tls_cert_path";
const KEY: &str = "listen.tls_key_path";

/// There is no certificate to show.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// A file cannot be read.
    #[error("{key}: {path}: {source} (give the path of a PEM file that this user may read)")]
    Read {
        /// Of the configuration.
        key: &'static str,
        /// Which file.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// A file does not hold what it should, or the two do not fit together.
    #[error("{key}: {path}: {source}")]
    Unusable {
        /// Of the configuration.
        key: &'static str,
        /// Which file.
        path: String,
        /// Why not, and what to do.
        source: IdentityError,
    },
    /// None could be made.
    #[error("cannot make a self-signed certificate: {0} (give one by listen.tls_cert_path)")]
    Make(#[from] rcgen::Error),
    /// Nor could the one that was made be used.
    #[error("the self-signed certificate cannot be used: {0} (give one by listen.tls_cert_path)")]
    Made(#[from] IdentityError),
    /// Nobody can watch the files.
    #[error("cannot watch the certificate's files: {0} (is the limit of threads reached?)")]
    Watch(#[source] io::Error),
}

/// The certificate and the key in these files.
///
/// # Errors
/// [`CertError`], naming the key of the configuration, the file and the remedy.
pub fn load(paths: &TlsPaths) -> Result<Identity, CertError> {
    read(paths).map(|loaded| loaded.identity)
}

/// The identity that this configuration asks for, and what looks after its files, if it has any.
pub(crate) fn of(
    config: &Config,
    wake: &Wake,
) -> Result<(Option<Identity>, Option<Watch>), CertError> {
    match &config.listen.tls {
        Some(paths) => {
            let (identity, watch) = Watch::start(paths.clone(), Arc::clone(wake))?;
            Ok((Some(identity), Some(watch)))
        }
        None if config.needs_identity() => Ok((Some(self_signed(config.node_id.as_str())?), None)),
        None => Ok((None, None)),
    }
}

/// What people compare: `SHA-256 AA:BB:…`.
#[must_use]
pub fn print(identity: &Identity) -> String {
    format!("SHA-256 {}", fingerprint(identity.certificate()))
}

/// What is wrong with the certificate's time, or soon will be; `unix` is the time since the Unix epoch.
#[must_use]
pub fn remark(identity: &Identity, unix: Duration) -> Option<String> {
    let (first, last) = identity.validity()?;
    if unix < first {
        let wait = span(first - unix);
        Some(format!("the certificate is valid only in {wait}: until then clients refuse it"))
    } else if unix > last {
        Some(format!("the certificate expired {} ago: clients refuse it", span(unix - last)))
    } else if last - unix < SOON {
        Some(format!("the certificate expires in {}", span(last - unix)))
    } else {
        None
    }
}

fn span(time: Duration) -> String {
    match time.as_secs() / 3600 {
        hours if hours >= 48 => format!("{} days", hours / 24),
        0 => "less than an hour".to_owned(),
        1 => "1 hour".to_owned(),
        hours => format!("{hours} hours"),
    }
}

/// A pair of files as they were.
struct Loaded {
    identity: Identity,
    /// Of all their bytes, the key's too.
    digest: String,
}

fn read(paths: &TlsPaths) -> Result<Loaded, CertError> {
    let chain = contents(CERT, &paths.cert)?;
    let key = contents(KEY, &paths.key)?;
    let identity = Identity::from_pem(&chain, &key).map_err(|source| {
        let (key, path) = match source {
            IdentityError::NoCertificate
            | IdentityError::WrongOrder
            | IdentityError::BadCertificate(_) => (CERT, &paths.cert),
            IdentityError::NoKey
            | IdentityError::EncryptedKey
            | IdentityError::UnknownKey
            | IdentityError::Mismatch => (KEY, &paths.key),
        };
        CertError::Unusable { key, path: path.clone(), source }
    })?;
    Ok(Loaded { identity, digest: [&chain, &key].map(|bytes| fingerprint(bytes)).concat() })
}

fn contents(key: &'static str, path: &str) -> Result<Vec<u8>, CertError> {
    let read = || {
        let mut bytes = Vec::new();
        File::open(path)?.take(LONGEST + 1).read_to_end(&mut bytes)?;
        match bytes.len() as u64 > LONGEST {
            true => Err(io::Error::new(io::ErrorKind::InvalidData, "longer than 1 MiB")),
            false => Ok(bytes),
        }
    };
    read().map_err(|source| CertError::Read { key, path: path.to_owned(), source })
}

/// For a PoP without a certificate: its clients compare the fingerprint, or do not care. The key lives
/// as long as the process.
fn self_signed(node_id: &str) -> Result<Identity, CertError> {
    let names = [node_id, "localhost"].into_iter().filter(|name| is_dns_name(name));
    let mut wanted = CertificateParams::new(names.map(str::to_owned).collect::<Vec<_>>())?;
    wanted.distinguished_name.push(DnType::CommonName, node_id);
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let made = wanted.self_signed(&key)?;
    Ok(Identity::from_pem(made.pem().as_bytes(), key.serialize_pem().as_bytes())?)
}

/// Whether clients can ask for this name. One that they cannot read spoils the whole certificate.
fn is_dns_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let is_number = |label: &str| label.bytes().all(|b| b.is_ascii_digit());
    name.len() <= 253
        && name.split('.').all(is_label)
        && !name.rsplit('.').next().is_some_and(is_number)
}

/// Looks after a pair of files on a thread of its own, as a disk may be slow. Ends when dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    orders: Sender<Option<TlsPaths>>,
    found: Receiver<Identity>,
}

impl Watch {
    /// Reads the pair and watches it from then on.
    pub(crate) fn start(paths: TlsPaths, wake: Wake) -> Result<(Identity, Self), CertError> {
        let Loaded { identity, digest } = read(&paths)?;
        let (orders, ordered) = channel();
        let (finds, found) = sync_channel(1);
        let watcher = Watcher::new(paths, digest);
        std::thread::Builder::new()
            .name("certificates".to_owned())
            .spawn(move || watcher.run(&ordered, &finds, &wake))
            .map_err(CertError::Watch)?;
        Ok((identity, Self { orders, found }))
    }

    /// Reads them now, whether or not they seem to have changed; those at `paths` from now on.
    pub(crate) fn reload(&self, paths: Option<TlsPaths>) {
        // Fails only if the thread is gone, which it is never before this end of the channel.
        let _ = self.orders.send(paths);
    }

    /// A new pair, once.
    pub(crate) fn take(&self) -> Option<Identity> {
        self.found.try_recv().ok()
    }
}

/// The thread's part.
struct Watcher {
    paths: TlsPaths,
    /// Of the pair in use.
    digest: String,
    /// Of the files when they were last read.
    stamps: [Option<Stamp>; 2],
    /// A file may change twice in the granularity of its times: after a change it is read once more.
    settled: bool,
    /// What is wrong, as was told.
    told: Option<String>,
}

/// Device, inode, size, modified, changed: which file it is and what state it is in.
type Stamp = (u64, u64, u64, (i64, i64), (i64, i64));

fn stamp(path: &String) -> Option<Stamp> {
    let file = std::fs::metadata(path).ok()?;
    let modified = (file.mtime(), file.mtime_nsec());
    Some((file.dev(), file.ino(), file.size(), modified, (file.ctime(), file.ctime_nsec())))
}

impl Watcher {
    fn new(paths: TlsPaths, digest: String) -> Self {
        Self { paths, digest, stamps: [None, None], settled: false, told: None }
    }

    fn run(
        mut self,
        orders: &Receiver<Option<TlsPaths>>,
        finds: &SyncSender<Identity>,
        wake: &Wake,
    ) {
        loop {
            let ordered = match orders.recv_timeout(EVERY) {
                Ok(paths) => {
                    self.paths = paths.unwrap_or(self.paths);
                    true
                }
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if let Some(identity) = self.look(ordered) {
                if finds.send(identity).is_err() {
                    return;
                }
                wake();
            }
        }
    }

    /// The pair, if there is a new one. A broken one may be half-written: it is read again until it is
    /// whole.
    fn look(&mut self, ordered: bool) -> Option<Identity> {
        // Before the files themselves, so that what changes meanwhile is seen the next time.
        let stamps = [&self.paths.cert, &self.paths.key].map(stamp);
        let same = std::mem::replace(&mut self.stamps, stamps) == stamps;
        let settled = std::mem::replace(&mut self.settled, same);
        if same && settled && self.told.is_none() && !ordered {
            return None;
        }
        match read(&self.paths) {
            Ok(loaded) => {
                let was_broken = self.told.take().is_some();
                if loaded.digest != self.digest {
                    self.digest = loaded.digest;
                    return Some(loaded.identity);
                }
                if ordered || was_broken {
                    info!("certificate unchanged, {}", print(&loaded.identity));
                }
            }
            Err(e) => {
                let problem = e.to_string();
                if ordered || self.told.as_ref() != Some(&problem) {
                    error!("{problem}");
                    error!("the certificate was not reloaded, the old one stays");
                }
                self.told = Some(problem);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;

    /// Two files of a test, removed at the end.
    struct Files(TlsPaths);

    impl Files {
        fn new(test: &str, pair: &(String, String)) -> Self {
            let path = |kind| {
                let name = format!("entrouter-host-{}-{test}.{kind}", std::process::id());
                std::env::temp_dir().join(name).to_str().expect("a UTF-8 path").to_owned()
            };
            let files = Self(TlsPaths { cert: path("pem"), key: path("key") });
            files.write(pair);
            files
        }

        fn write(&self, (cert, key): &(String, String)) {
            std::fs::write(&self.0.cert, cert).expect("a file of our own");
            std::fs::write(&self.0.key, key).expect("a file of our own");
        }
    }

    impl Drop for Files {
        fn drop(&mut self) {
            for path in [&self.0.cert, &self.0.key] {
                let _ = std::fs::remove_file(path);
            }
        }
    }

    fn pair() -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let cert = CertificateParams::default().self_signed(&key).expect("a certificate");
        (cert.pem(), key.serialize_pem())
    }

    fn watcher(files: &Files) -> Watcher {
        let digest = read(&files.0).expect("a pair").digest;
        Watcher::new(files.0.clone(), digest)
    }

    #[test]
    fn a_self_signed_certificate_is_new_each_time_and_bears_the_names() {
        let made = |node_id| self_signed(node_id).expect("an identity");
        let has = |identity: &Identity, name: &str| {
            identity.certificate().windows(name.len()).any(|window| window == name.as_bytes())
        };
        let identity = made("us-east-01");
        assert!(has(&identity, "us-east-01") && has(&identity, "localhost"));
        assert_ne!(print(&identity), print(&made("us-east-01")));
        assert!(print(&identity).starts_with("SHA-256 "));
        assert_eq!(remark(&identity, crate::entropy::unix_now()), None);
        assert!(has(&made("a_b"), "localhost"), "no name of DNS, and yet a certificate");
    }

    #[test]
    fn names_that_dns_does_not_know_are_left_out() {
        assert!(["a", "us-east-01", "a.b-c.d", "4a"].into_iter().all(is_dns_name));
        let long = "a".repeat(64);
        let odd = ["", ".", "a.", ".a", "a_b", "-a", "a-", "7", "10.0.0.1", "ä", &long];
        assert!(!odd.into_iter().any(is_dns_name));
    }

    #[test]
    fn a_changed_pair_is_found_once_and_an_unchanged_one_never() {
        let files = Files::new("changed", &pair());
        let mut watcher = watcher(&files);
        assert!((0..3).all(|_| watcher.look(false).is_none()));
        assert!(watcher.look(true).is_none(), "the same when asked for");
        files.write(&pair());
        assert!(watcher.look(false).is_some());
        assert!((0..3).all(|_| watcher.look(false).is_none()));
        // In place, with all that a directory shows as it was.
        files.write(&read_pair(&files.0));
        assert!((0..3).all(|_| watcher.look(false).is_none()));
    }

    #[test]
    fn a_pair_half_written_is_told_once_and_taken_when_it_is_whole() {
        let files = Files::new("half", &pair());
        let mut watcher = watcher(&files);
        let (cert, key) = pair();
        std::fs::write(&files.0.cert, &cert).expect("a file of our own");
        assert!((0..3).all(|_| watcher.look(false).is_none()));
        let told = watcher.told.clone().expect("a problem");
        assert!(told.starts_with("listen.tls_key_path: ") && told.contains(&files.0.key), "{told}");
        std::fs::remove_file(&files.0.key).expect("a file of our own");
        assert!(watcher.look(false).is_none());
        assert!(watcher.told.as_ref().is_some_and(|told| told.contains("No such file")));
        std::fs::write(&files.0.key, &key).expect("a file of our own");
        assert!(watcher.look(false).is_some());
        assert_eq!(watcher.told, None);
    }

    #[test]
    fn a_change_within_the_granularity_of_the_times_is_found() {
        let files = Files::new("twice", &pair());
        let mut watcher = watcher(&files);
        let _ = watcher.look(false);
        files.write(&pair());
        assert!(watcher.look(false).is_some());
        files.write(&pair());
        watcher.stamps = [&files.0.cert, &files.0.key].map(stamp);
        assert!(watcher.look(false).is_some());
    }

    #[test]
    fn what_cannot_be_read_names_the_key_the_file_and_the_remedy() {
        let files = Files::new("wrong", &pair());
        let error = |cert: &str, key: &str| {
            let paths = TlsPaths { cert: cert.to_owned(), key: key.to_owned() };
            load(&paths).expect_err("no identity").to_string()
        };
        let TlsPaths { cert, key } = &files.0;
        let missing = error("/nowhere/x.pem", key);
        assert!(missing.starts_with("listen.tls_cert_path: /nowhere/x.pem: "), "{missing}");
        assert!(missing.contains("(give the path of"), "{missing}");
        assert!(error(cert, "/nowhere").starts_with("listen.tls_key_path: /nowhere: "));
        assert!(error(cert, cert).contains("no private key found"));
        assert!(
            error(key, key).starts_with(&format!("listen.tls_cert_path: {key}: no certificate"))
        );
        let endless = Path::new("/dev/zero");
        if endless.exists() {
            assert!(error("/dev/zero", key).contains("longer than 1 MiB"));
        }
    }

    #[test]
    fn times_are_told_when_they_matter() {
        let key = KeyPair::generate().expect("a key");
        let mut wanted = CertificateParams::default();
        wanted.not_before = rcgen::date_time_ymd(2030, 1, 1);
        wanted.not_after = rcgen::date_time_ymd(2031, 1, 1);
        let cert = wanted.self_signed(&key).expect("a certificate").pem();
        let identity = Identity::from_pem(cert.as_bytes(), key.serialize_pem().as_bytes());
        let identity = identity.expect("an identity");
        let (first, last) = identity.validity().expect("times");
        let (hour, day) = (Duration::from_secs(3600), Duration::from_secs(24 * 3600));
        let told = |unix| remark(&identity, unix).unwrap_or_default();
        assert!(told(first - hour * 30).contains("valid only in 30 hours"));
        assert_eq!(told(first), "");
        assert_eq!(told(last - SOON), "");
        assert!(told(last - day * 3).contains("expires in 3 days"));
        assert!(told(last + hour).contains("expired 1 hour ago"));
    }

    fn read_pair(paths: &TlsPaths) -> (String, String) {
        let read = |path: &String| std::fs::read_to_string(PathBuf::from(path)).expect("a file");
        (read(&paths.cert), read(&paths.key))
    }
}
