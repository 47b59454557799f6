//! The core's example `embed` as a process: a PoP that is no shell.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use crate::build;
use crate::pop::PopConfig;
use crate::scratch::Scratch;
use crate::wait::PATIENCE;

/// One at work. Killed when dropped.
#[derive(Debug)]
pub struct Embedded {
    child: Child,
    /// Where the other PoP finds it.
    pub relay: SocketAddr,
    /// Where its clients connect, by listener.
    pub listeners: Vec<SocketAddr>,
    _dir: Scratch,
}

impl Embedded {
    /// Starts one, and returns once it listens. The admin address of the configuration is not served.
    #[track_caller]
    pub fn start(config: &PopConfig) -> Self {
        let dir = Scratch::new();
        let path = dir.path().join("pop.toml");
        std::fs::write(&path, config.toml()).expect("a file in a directory of our own");
        let child = Command::new(build::example("embed"))
            .arg(path)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = child.expect("what was built can be run");
        let lines = lines_of(&mut child);
        let listening = |what: &str| {
            let line = lines.recv_timeout(PATIENCE).unwrap_or_else(|e| panic!("{what}: {e}"));
            let addr = line.strip_prefix("listening on ").and_then(|rest| rest.strip_suffix(what));
            let addr = addr.and_then(|addr| addr.split_once(' ')?.1.parse().ok());
            addr.unwrap_or_else(|| panic!("wanted the address of{what}, found {line:?}"))
        };
        let relay = listening(" (relay)");
        let count = usize::from(config.tcp.is_some()) + config.edges.len();
        let listeners = (0..count).map(|n| listening(&format!(" (listener {n})"))).collect();
        Self { child, relay, listeners, _dir: dir }
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_none()
    }
}

/// What it writes, line by line; also shown with the test's output, in case it fails.
fn lines_of(child: &mut Child) -> Receiver<String> {
    let stderr = child.stderr.take().expect("stderr is piped");
    let (tx, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            eprintln!("embed: {line}");
            // Nobody listens any more once it has said where it does.
            let _ = tx.send(line);
        }
    });
    lines
}

impl Drop for Embedded {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
