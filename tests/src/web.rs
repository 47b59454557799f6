//! `curl`, and an HTTP server: both ends of a connection that are not ours.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Whether there is `curl`.
pub fn has_curl() -> bool {
    Command::new("curl").arg("--version").output().is_ok_and(|output| output.status.success())
}

/// What `curl` writes; at most a minute later.
///
/// # Panics
/// If it fails, with what it says.
#[track_caller]
pub fn curl(args: &[&str]) -> Vec<u8> {
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--fail", "--max-time", "60"])
        .args(args)
        .output()
        .expect("there is a curl");
    let (status, said) = (output.status, String::from_utf8_lossy(&output.stderr));
    assert!(status.success(), "curl {args:?}: {status}, {said}");
    output.stdout
}

/// `python3 -m http.server`. Killed when dropped.
#[derive(Debug)]
pub struct HttpServer {
    child: Child,
    addr: SocketAddr,
}

impl HttpServer {
    /// Serves the files of `dir`. `None` if there is no python3 that does.
    pub fn start(dir: &Path) -> Option<Self> {
        let child = Command::new("python3")
            .args(["-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory"])
            .arg(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut server = Self { child: child.ok()?, addr: SocketAddr::from(([127, 0, 0, 1], 0)) };
        let mut line = String::new();
        BufReader::new(server.child.stdout.take()?).read_line(&mut line).ok()?;
        // "Serving HTTP on 127.0.0.1 port 40000 (http://127.0.0.1:40000/) ..."
        let port = line.split(" port ").nth(1)?.split(' ').next()?.parse().ok()?;
        server.addr.set_port(port);
        Some(server)
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
