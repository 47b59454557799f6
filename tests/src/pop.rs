//! One PoP as a process.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::process::Signal;
use serde_json::Value;

use crate::running::Running;
use crate::scratch::Scratch;
use crate::shells::Shell;
use crate::tls::Pair;
use crate::{http, wait};

/// A key of the configuration, made of one byte.
pub fn key(byte: u8) -> String {
    STANDARD.encode([byte; 32])
}

/// A free port of 127.0.0.1.
pub fn any_port() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

/// What the configuration file says.
#[derive(Debug, Clone)]
pub struct PopConfig {
    /// Its name.
    pub node_id: String,
    /// `listen.relay_addr`.
    pub relay: SocketAddr,
    /// `listen.tcp_addr`; `None` for a PoP without clients.
    pub tcp: Option<SocketAddr>,
    /// `listen.quic_addr`.
    pub quic: Option<SocketAddr>,
    /// `listen.quic_0rtt`.
    pub early_data: bool,
    /// Address and service of further listeners.
    pub edges: Vec<(SocketAddr, String)>,
    /// The same for QUIC.
    pub quic_edges: Vec<(SocketAddr, String)>,
    /// `listen.admin_addr`.
    pub admin: SocketAddr,
    /// `listen.tls_cert_path` and `listen.tls_key_path`; then `tcp` is for clients of TLS.
    pub tls: Option<Pair>,
    /// Name of the first peer.
    pub peer: String,
    /// Where that is, if this PoP is to know.
    pub peer_addr: Option<SocketAddr>,
    /// Further peers: name, address if this PoP is to know it, and `shared_key`.
    pub more_peers: Vec<(String, Option<SocketAddr>, String)>,
    /// `mesh.probe_interval_ms`.
    pub probe_interval_ms: u64,
    /// `relay.default_dest`, which is needed with several peers.
    pub default_dest: Option<String>,
    /// `shared_key`.
    pub key: String,
    /// `next_shared_key`.
    pub next_key: Option<String>,
    /// Service and address.
    pub origins: Vec<(String, SocketAddr)>,
}

impl PopConfig {
    /// A PoP with a tunnel to one other, so far.
    pub fn new(node_id: &str, peer: &str, peer_addr: Option<SocketAddr>) -> Self {
        Self {
            node_id: node_id.to_owned(),
            relay: any_port(),
            tcp: None,
            quic: None,
            early_data: true,
            edges: Vec::new(),
            quic_edges: Vec::new(),
            admin: any_port(),
            tls: None,
            peer: peer.to_owned(),
            peer_addr,
            more_peers: Vec::new(),
            // Often, so that the tests learn soon what the PoPs notice.
            probe_interval_ms: 100,
            default_dest: None,
            key: key(1),
            next_key: None,
            origins: Vec::new(),
        }
    }

    /// The text of the file.
    pub fn toml(&self) -> String {
        let mut text = format!("node_id = \"{}\"\nregion = \"test\"\n", self.node_id);
        let mut line = |args: std::fmt::Arguments<'_>| {
            text.write_fmt(args).and_then(|()| text.write_char('\n')).expect("a string takes all");
        };
        line(format_args!("[listen]\nrelay_addr = \"{}\"", self.relay));
        line(format_args!("admin_addr = \"{}\"", self.admin));
        if let Some(Pair { cert, key }) = &self.tls {
            let (cert, key) = (cert.display(), key.display());
            line(format_args!("tls_cert_path = \"{cert}\"\ntls_key_path = \"{key}\""));
        }
        if let Some(tcp) = self.tcp {
            line(format_args!("tcp_addr = \"{tcp}\""));
        }
        if let Some(quic) = self.quic {
            line(format_args!("quic_addr = \"{quic}\"\nquic_0rtt = {}", self.early_data));
        }
        line(format_args!("[mesh]\nprobe_interval_ms = {}", self.probe_interval_ms));
        if let Some(dest) = &self.default_dest {
            line(format_args!("[relay]\ndefault_dest = \"{dest}\""));
        }
        line(format_args!("[[peers]]\nnode_id = \"{}\"", self.peer));
        line(format_args!("shared_key = \"{}\"", self.key));
        if let Some(next) = &self.next_key {
            line(format_args!("next_shared_key = \"{next}\""));
        }
        if let Some(addr) = self.peer_addr {
            line(format_args!("addr = \"{addr}\""));
        }
        for (peer, addr, key) in &self.more_peers {
            line(format_args!("[[peers]]\nnode_id = \"{peer}\"\nshared_key = \"{key}\""));
            if let Some(addr) = addr {
                line(format_args!("addr = \"{addr}\""));
            }
        }
        line(format_args!("[origins]"));
        for (service, addr) in &self.origins {
            line(format_args!("{service} = \"{addr}\""));
        }
        for (listen, service) in &self.edges {
            line(format_args!("[[edge]]\nlisten = \"{listen}\"\nservice = \"{service}\""));
        }
        for (listen, service) in &self.quic_edges {
            line(format_args!("[[edge]]\nlisten = \"{listen}\"\nservice = \"{service}\""));
            line(format_args!("proto = \"quic\""));
        }
        text
    }
}

/// A PoP at work. Killed when dropped; if that is because the test failed, its log is shown.
#[derive(Debug)]
pub struct Pop {
    shell: Shell,
    /// What it was started with; after that with the ports that it got.
    pub config: PopConfig,
    max_files: Option<u32>,
    running: Running,
    /// What earlier processes of it wrote.
    earlier: String,
    dir: Scratch,
}

impl Pop {
    /// Starts one, and returns once it listens.
    #[track_caller]
    pub fn start(shell: Shell, config: PopConfig) -> Self {
        Self::start_limited(shell, config, None)
    }

    /// The same with a limit of open files.
    #[track_caller]
    pub fn start_limited(shell: Shell, config: PopConfig, max_files: Option<u32>) -> Self {
        let dir = Scratch::new();
        let path = write_config(&dir, &config);
        let running = spawn(shell, &config.node_id, &path, max_files);
        let mut pop = Self { shell, config, max_files, running, earlier: String::new(), dir };
        pop.learn_ports();
        pop
    }

    /// Takes the ports from the log: the file said "any".
    #[track_caller]
    fn learn_ports(&mut self) {
        let what = format!("{} listens", self.config.node_id);
        // The admin API is the last to be told.
        self.config.admin = wait::until(&what, || {
            let ended = self.running.ended();
            assert!(ended.is_none(), "{} ended at its start: {ended:?}", self.config.node_id);
            self.listening("http", "admin")
        });
        self.config.relay = self.listening("udp", "relay").expect("a relay socket is told");
        let first_edge = usize::from(self.config.tcp.is_some());
        if self.config.tcp.is_some() {
            self.config.tcp = self.listening("tcp", "listener 0");
        }
        for n in 0..self.config.edges.len() {
            let name = format!("listener {}", first_edge + n);
            self.config.edges[n].0 = self.listening("tcp", &name).expect("an edge is told");
        }
        let first_edge = usize::from(self.config.quic.is_some());
        if self.config.quic.is_some() {
            self.config.quic = self.listening("udp", "quic listener 0");
        }
        for n in 0..self.config.quic_edges.len() {
            let name = format!("quic listener {}", first_edge + n);
            self.config.quic_edges[n].0 = self.listening("udp", &name).expect("an edge is told");
        }
    }

    fn listening(&self, proto: &str, what: &str) -> Option<SocketAddr> {
        let (before, after) = (format!("listening on {proto} "), format!(" ({what})"));
        self.running
            .log()
            .lines()
            .find_map(|line| line.split_once(&before)?.1.strip_suffix(&after)?.parse().ok())
    }

    /// Where its clients connect.
    pub fn tcp(&self) -> SocketAddr {
        self.config.tcp.expect("this PoP has clients")
    }

    /// Where its QUIC clients connect.
    pub fn quic(&self) -> SocketAddr {
        self.config.quic.expect("this PoP has QUIC clients")
    }

    /// The SHA-256 of the certificate that it shows, as its log tells.
    #[track_caller]
    pub fn fingerprint(&self) -> String {
        let log = self.running.log();
        let told = |line: &str| {
            let rest = line.split_once("certificate SHA-256 ")?.1;
            Some(rest.split(' ').next()?.to_owned())
        };
        log.lines().rev().find_map(told).expect("the certificate's fingerprint is told")
    }

    /// Its process, to look at.
    pub fn running(&self) -> &Running {
        &self.running
    }

    /// Its process' number.
    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// Resident memory in bytes, where the system tells.
    pub fn resident(&self) -> Option<u64> {
        self.running.resident()
    }

    /// All that its processes wrote so far.
    pub fn log(&self) -> String {
        format!("{}{}", self.earlier, self.running.log())
    }

    /// `GET /status`, if it answers.
    pub fn try_status(&self) -> Option<Value> {
        let (code, body) = http::get(self.config.admin, "/status").ok()?;
        (code == 200).then(|| serde_json::from_str(&body).expect("the status is JSON"))
    }

    /// `GET /status`.
    #[track_caller]
    pub fn status(&self) -> Value {
        wait::until("a status", || self.try_status())
    }

    /// Waits until its status is as wanted.
    #[track_caller]
    pub fn wait_for(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let what = format!("{}: {what}", self.config.node_id);
        wait::until(&what, || self.try_status().filter(&wanted))
    }

    /// Waits until the tunnel to its peer is up.
    #[track_caller]
    pub fn wait_up(&self) {
        self.wait_for("the peer is up", |status| status["peers"][0]["up"] == true);
    }

    /// Waits until no flow is left and no memory is held for any.
    #[track_caller]
    pub fn wait_idle(&self) {
        self.wait_for("no flow and no flow memory is left", |status| {
            let flows = [&status["tcp_flows"], &status["quic_flows"]];
            flows.iter().all(|flows| **flows == 0) && status["flow_memory"]["reserved"] == 0
        });
    }

    /// Waits until its log holds `text`.
    #[track_caller]
    pub fn wait_log(&self, text: &str) {
        self.running.wait_log(text);
    }

    /// Processor time that it uses within `span`, where the system tells.
    pub fn cpu_over(&self, span: Duration) -> Option<Duration> {
        self.running.cpu_over(span)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        self.running.signal(signal);
    }

    /// Ends it as a crash would, by SIGKILL.
    pub fn kill(&mut self) {
        self.running.kill();
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.running.ended().is_none()
    }

    /// Waits for it to end by itself.
    #[track_caller]
    pub fn wait_exit(&mut self, patience: Duration) -> ExitStatus {
        self.running.wait_exit(patience)
    }

    /// Starts it again, on the same ports, and returns once it listens.
    #[track_caller]
    pub fn restart(&mut self) {
        self.kill();
        self.earlier = self.log();
        let path = write_config(&self.dir, &self.config);
        self.running = spawn(self.shell, &self.config.node_id, &path, self.max_files);
        self.learn_ports();
    }

    /// Writes `config` to its file.
    pub fn rewrite(&self) {
        write_config(&self.dir, &self.config);
    }

    /// Writes `config` to its file and lets it reload.
    #[track_caller]
    pub fn reload(&mut self) {
        let reloads = |log: &str| log.matches("configuration reloaded").count();
        let before = reloads(&self.running.log());
        self.rewrite();
        self.signal(Signal::HUP);
        wait::until("the configuration is reloaded", || {
            (reloads(&self.running.log()) > before).then_some(())
        });
    }
}

impl Drop for Pop {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        let status = if failed && self.is_running() { self.try_status() } else { None };
        self.kill();
        if failed {
            let name = &self.config.node_id;
            let status = status.map_or_else(|| "none".to_owned(), |status| status.to_string());
            let shell = self.shell;
            eprintln!("--- log of {name} ({shell})\n{}--- its status: {status}", self.log());
        }
    }
}

fn spawn(shell: Shell, node_id: &str, config: &Path, max_files: Option<u32>) -> Running {
    let args = ["run".as_ref(), "--config".as_ref(), config.as_os_str()];
    Running::spawn(node_id, shell, args, max_files)
}

fn write_config(dir: &Scratch, config: &PopConfig) -> PathBuf {
    let path = dir.path().join("pop.toml");
    std::fs::write(&path, config.toml()).expect("a file in a directory of our own");
    path
}
