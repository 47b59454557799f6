//! A connector as a process: `entrouter-<shell> connect`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::pop::any_port;
use crate::running::Running;
use crate::scratch::Scratch;
use crate::shells::Shell;
use crate::wait;

/// One at work. Killed when dropped; if that is because the test failed, its log is shown.
#[derive(Debug)]
pub struct Connector {
    shell: Shell,
    edge: String,
    more: Vec<String>,
    max_files: Option<u32>,
    addr: SocketAddr,
    running: Running,
    /// What earlier processes of it wrote.
    earlier: String,
    dir: Scratch,
}

impl Connector {
    /// Starts one that takes programs to `edge`, and returns once it listens. `more` says whom to trust.
    #[track_caller]
    pub fn start(shell: Shell, edge: impl ToString, more: &[&str]) -> Self {
        Self::start_limited(shell, edge, more, None)
    }

    /// The same with a limit of open files.
    #[track_caller]
    pub fn start_limited(
        shell: Shell,
        edge: impl ToString,
        more: &[&str],
        max_files: Option<u32>,
    ) -> Self {
        let (edge, dir, addr) = (edge.to_string(), Scratch::new(), any_port());
        let more = more.iter().map(|&arg| arg.to_owned()).collect::<Vec<_>>();
        let running = spawn(shell, &edge, addr, &more, dir.path(), max_files);
        let mut new =
            Self { shell, edge, more, max_files, addr, running, earlier: String::new(), dir };
        new.learn_port();
        new
    }

    #[track_caller]
    fn learn_port(&mut self) {
        let after = format!(" (to {})", self.edge);
        self.addr = wait::until("the connector listens", || {
            let (ended, log) = (self.running.ended(), self.running.log());
            assert!(ended.is_none(), "the connector ended at its start: {ended:?}\n{log}");
            let told = |line: &str| {
                line.split_once("listening on tcp ")?.1.strip_suffix(&after)?.parse().ok()
            };
            log.lines().find_map(told)
        });
    }

    /// Where programs connect.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Running {
        &mut self.running
    }

    /// Its process, to look at.
    pub fn running(&self) -> &Running {
        &self.running
    }

    /// All that its processes wrote so far.
    pub fn log(&self) -> String {
        format!("{}{}", self.earlier, self.running.log())
    }

    /// Where it keeps its tickets.
    pub fn tickets(&self) -> PathBuf {
        tickets(self.dir.path())
    }

    /// Waits until it has tickets to keep.
    #[track_caller]
    pub fn wait_tickets(&self) {
        wait::until("tickets are kept", || self.tickets().exists().then_some(()));
    }

    /// Waits until it is connected.
    #[track_caller]
    pub fn wait_up(&self) {
        self.running.wait_log("connected to the edge");
    }

    /// Starts it again, on the same port, and returns once it listens.
    #[track_caller]
    pub fn restart(&mut self) {
        self.running.kill();
        self.earlier = self.log();
        self.running =
            spawn(self.shell, &self.edge, self.addr, &self.more, self.dir.path(), self.max_files);
        self.learn_port();
    }

    /// Waits for it to end by itself.
    #[track_caller]
    pub fn wait_exit(&mut self, patience: Duration) -> Option<i32> {
        self.running.wait_exit(patience).code()
    }
}

fn tickets(dir: &Path) -> PathBuf {
    dir.join("edge.tickets")
}

fn spawn(
    shell: Shell,
    edge: &str,
    listen: SocketAddr,
    more: &[String],
    dir: &Path,
    max_files: Option<u32>,
) -> Running {
    let listen = listen.to_string();
    let tickets = tickets(dir);
    let tickets = tickets.to_str().expect("a temporary directory with a name in UTF-8");
    let args = ["connect", "--edge", edge, "--listen", &listen, "--tickets", tickets];
    let args = args.into_iter().chain(more.iter().map(String::as_str));
    Running::spawn("connector", shell, args, max_files)
}

impl Drop for Connector {
    fn drop(&mut self) {
        self.running.kill();
        if std::thread::panicking() {
            eprintln!("--- log of the connector ({})\n{}---", self.shell, self.log());
        }
    }
}
