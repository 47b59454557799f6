//! A pair of network namespaces that is gone when this process is, however it ends.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rustix::process::geteuid;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where iproute2 keeps names.
const NAMES: &str = "/var/run/netns";
const TUN: &str = "/dev/net/tun";

/// Makes both namespaces, waits until its stdin ends, and removes them. Signals meant for everybody
/// (Ctrl-C) do not end it before that, nor does our end.
const GUARDIAN: &str = "trap '' INT TERM HUP PIPE\n\
    ip netns add \"$1\" && ip netns add \"$2\" && echo made\n\
    read -r _\n\
    ip netns del \"$1\" 2>/dev/null\n\
    ip netns del \"$2\" 2>/dev/null\n";

/// What a live link needs of the system and did not get.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// An ordinary user.
    #[error("a live link makes network namespaces and devices: run it as root")]
    NotRoot,
    /// No TUN driver.
    #[error("{TUN} is missing: load the kernel's module `tun`, or give the container that device")]
    NoTun,
    /// No iproute2.
    #[error("the program `ip` is missing or does not run ({0}): install iproute2")]
    NoIp(#[source] io::Error),
    /// No shell to clean up behind us.
    #[error("cannot start `sh` to make the network namespaces: {0}")]
    Guardian(#[source] io::Error),
    /// The kernel, or whatever confines this process, refused.
    #[error("`ip netns add` failed: {0}")]
    Refused(String),
    /// The namespace cannot be entered.
    #[error("cannot enter the network namespace {name}: {source}")]
    Enter {
        /// Its name.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The kernel lets a namespace have only some as its default.
    #[error(
        "{0} cannot be a namespace's default congestion control: choose one of those in \
         /proc/sys/net/ipv4/tcp_allowed_congestion_control, or add it there"
    )]
    Default(String),
    /// A command in a namespace failed.
    #[error("`{command}` failed: {said}")]
    Command {
        /// As it was run.
        command: String,
        /// What it said.
        said: String,
    },
}

/// Two namespaces, A and B, numbered 0 and 1.
#[derive(Debug)]
pub(in crate::live) struct Namespaces {
    names: [String; 2],
    files: [File; 2],
    /// Outlives the rest.
    _guardian: Guardian,
}

/// Removes the namespaces when its stdin is closed, which the kernel does if we cannot.
#[derive(Debug)]
struct Guardian(Child);

impl Drop for Guardian {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // Nothing of it is left to tell.
        let _ = self.0.wait();
    }
}

/// Whether this system can have a live link at all.
///
/// # Errors
/// The first thing that is missing.
pub fn check_system() -> Result<(), NamespaceError> {
    if !geteuid().is_root() {
        return Err(NamespaceError::NotRoot);
    }
    if !Path::new(TUN).exists() {
        return Err(NamespaceError::NoTun);
    }
    let ip = Command::new("ip").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
    ip.map(drop).map_err(NamespaceError::NoIp)
}

impl Namespaces {
    /// Makes two with names of their own.
    pub(in crate::live) fn new() -> Result<Self, NamespaceError> {
        check_system()?;
        let names = names();
        let guardian = Guardian::start(&names)?;
        let open = |name: &String| {
            File::open(Path::new(NAMES).join(name))
                .map_err(|source| NamespaceError::Enter { name: name.clone(), source })
        };
        let files = [open(&names[0])?, open(&names[1])?];
        Ok(Self { names, files, _guardian: guardian })
    }

    pub(in crate::live) fn names(&self) -> &[String; 2] {
        &self.names
    }

    /// Runs `what` on a thread in namespace A (0) or B (1). Sockets that it opens belong there, and
    /// so do threads that it starts.
    pub(in crate::live) fn enter<T: Send>(
        &self,
        which: usize,
        what: impl FnOnce() -> T + Send,
    ) -> Result<T, NamespaceError> {
        let file = &self.files[which];
        let run = move || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(what())
        };
        let ran = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("namespace".into());
            thread.spawn_scoped(scope, run)?.join().unwrap_or_else(|panic| {
                std::panic::resume_unwind(panic);
            })
        });
        ran.map_err(|source| NamespaceError::Enter { name: self.names[which].clone(), source })
    }

    /// Runs `ip` in namespace A (0) or B (1).
    pub(in crate::live) fn ip(&self, which: usize, args: &[&str]) -> Result<(), NamespaceError> {
        let name = self.names[which].as_str();
        let output = Command::new("ip")
            .args(["-n", name])
            .args(args)
            .stdin(Stdio::null())
            .output()
            .map_err(NamespaceError::NoIp)?;
        if output.status.success() {
            return Ok(());
        }
        let command = format!("ip -n {name} {}", args.join(" "));
        Err(NamespaceError::Command { command, said: in_one_line(&output.stderr) })
    }

    /// Sets a key of `sysctl` in both namespaces. What cannot be set shows in what is read.
    pub(in crate::live) fn set(&self, key: &str, value: &str) -> Result<(), NamespaceError> {
        for which in 0..2 {
            self.enter(which, || drop(std::fs::write(sysctl(key), value)))?;
        }
        Ok(())
    }

    /// What a key of `sysctl` is in the first namespace; empty if it is not there.
    pub(in crate::live) fn get(&self, key: &str) -> Result<String, NamespaceError> {
        let found = self.enter(0, || std::fs::read_to_string(sysctl(key)).unwrap_or_default())?;
        Ok(found.split_whitespace().collect::<Vec<_>>().join(" "))
    }
}

/// Unique on this machine as long as processes see each other's ids.
fn names() -> [String; 2] {
    static MADE: AtomicU64 = AtomicU64::new(0);
    let pid = std::process::id();
    let base = match MADE.fetch_add(1, Relaxed) {
        0 => format!("line-{pid}"),
        nth => format!("line-{pid}-{nth}"),
    };
    [format!("{base}-a"), format!("{base}-b")]
}

impl Guardian {
    /// Returns when both namespaces exist.
    fn start(names: &[String; 2]) -> Result<Self, NamespaceError> {
        let mut child = Command::new("sh")
            .args(["-c", GUARDIAN, "guardian", &names[0], &names[1]])
            // Not in the group that a terminal interrupts.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(NamespaceError::Guardian)?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let mut guardian = Self(child);
        let mut line = String::new();
        if let Some(stdout) = stdout {
            let mut stdout = BufReader::new(stdout);
            // On failure it says nothing, and goes on once its stdin has ended.
            let made = stdout.by_ref().lines().next();
            line = made.transpose().map_err(NamespaceError::Guardian)?.unwrap_or_default();
        }
        if line == "made" {
            return Ok(guardian);
        }
        drop(guardian.0.stdin.take());
        let mut said = Vec::new();
        if let Some(mut stderr) = stderr {
            stderr.read_to_end(&mut said).map_err(NamespaceError::Guardian)?;
        }
        Err(NamespaceError::Refused(in_one_line(&said)))
    }
}

/// Its file, which tells each thread of that thread's namespace.
fn sysctl(key: &str) -> String {
    format!("/proc/sys/{}", key.replace('.', "/"))
}

fn in_one_line(said: &[u8]) -> String {
    String::from_utf8_lossy(said).split_whitespace().collect::<Vec<_>>().join(" ")
}
