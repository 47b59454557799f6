//! One PoP as a process.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::scratch::Scratch;
use crate::shells::Shell;
use crate::{build, http, process, wait};

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
    /// Address and service of further listeners.
    pub edges: Vec<(SocketAddr, String)>,
    /// `listen.admin_addr`.
    pub admin: SocketAddr,
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
            edges: Vec::new(),
            admin: any_port(),
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
        if let Some(tcp) = self.tcp {
            line(format_args!("tcp_addr = \"{tcp}\""));
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
        let running = Running::spawn(shell, path, max_files);
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
            let ended = self.running.child.try_wait().expect("a child can be waited for");
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

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.running.child.id()
    }

    /// Resident memory in bytes, where the system tells.
    pub fn resident(&self) -> Option<u64> {
        process::resident(self.pid())
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
            status["tcp_flows"] == 0 && status["flow_memory"]["reserved"] == 0
        });
    }

    /// Waits until its log holds `text`.
    #[track_caller]
    pub fn wait_log(&self, text: &str) {
        let what = format!("{} logs {text:?}", self.config.node_id);
        wait::until(&what, || self.running.log().contains(text).then_some(()));
    }

    /// Processor time that it uses within `span`, where the system tells.
    pub fn cpu_over(&self, span: Duration) -> Option<Duration> {
        let before = process::cpu_time(self.pid())?;
        // The passage of time itself is what is measured here.
        std::thread::sleep(span);
        Some(process::cpu_time(self.pid())?.saturating_sub(before))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.running.child), signal).expect("the process is there");
    }

    /// Ends it as a crash would, by SIGKILL.
    pub fn kill(&mut self) {
        self.running.kill();
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.running.child.try_wait().expect("a child can be waited for").is_none()
    }

    /// Waits for it to end by itself.
    #[track_caller]
    pub fn wait_exit(&mut self, patience: Duration) -> ExitStatus {
        let what = format!("{} ends", self.config.node_id);
        let child = &mut self.running.child;
        wait::until_within(patience, &what, || child.try_wait().expect("a child can be waited for"))
    }

    /// Starts it again, on the same ports, and returns once it listens.
    #[track_caller]
    pub fn restart(&mut self) {
        self.kill();
        self.earlier = self.log();
        let path = write_config(&self.dir, &self.config);
        self.running = Running::spawn(self.shell, path, self.max_files);
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

fn write_config(dir: &Scratch, config: &PopConfig) -> PathBuf {
    let path = dir.path().join("pop.toml");
    std::fs::write(&path, config.toml()).expect("a file in a directory of our own");
    path
}

/// A process and the thread that reads its log. Killed when dropped.
#[derive(Debug)]
struct Running {
    child: Child,
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Running {
    fn spawn(shell: Shell, config: PathBuf, max_files: Option<u32>) -> Self {
        let binary = build::binary(shell);
        let mut command = match max_files {
            None => Command::new(&binary),
            Some(files) => {
                // `exec`, so that signals reach the PoP and not a shell around it.
                let mut sh = Command::new("sh");
                sh.arg("-c").arg(format!("ulimit -n {files}; exec \"$0\" \"$@\"")).arg(&binary);
                sh
            }
        };
        let child = command
            .args(["run", "--config"])
            .arg(config)
            // Some tests count lines, so only on request: with `debug` a PoP says why it resets.
            .env("RUST_LOG", std::env::var("ENTROUTER_TEST_LOG").unwrap_or("info".to_owned()))
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = child.unwrap_or_else(|e| panic!("cannot run {}: {e}", binary.display()));
        let log = Arc::new(Mutex::new(String::new()));
        let (stderr, sink) = (child.stderr.take().expect("stderr is piped"), Arc::clone(&log));
        let reader = std::thread::spawn(move || {
            let mut lines = BufReader::new(stderr);
            let mut line = Vec::new();
            while lines.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                let mut log = sink.lock().unwrap_or_else(PoisonError::into_inner);
                log.push_str(&String::from_utf8_lossy(&line));
                line.clear();
            }
        });
        Self { child, log, reader: Some(reader) }
    }

    fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn kill(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}
