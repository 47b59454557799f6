//! A shell's binary as a process, and its log.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::shells::Shell;
use crate::{build, process, wait};

/// A process and the thread that reads its log. Killed when dropped.
#[derive(Debug)]
pub struct Running {
    name: String,
    child: Child,
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Running {
    /// Starts `entrouter-<shell>` with these arguments and, if told, a limit of open files. `name` is how
    /// a failed test calls it.
    pub fn spawn<A: AsRef<OsStr>>(
        name: &str,
        shell: Shell,
        args: impl IntoIterator<Item = A>,
        max_files: Option<u32>,
    ) -> Self {
        let binary = build::binary(shell);
        let mut command = match max_files {
            None => Command::new(&binary),
            Some(files) => {
                // `exec`, so that signals reach the process and not a shell around it.
                let mut sh = Command::new("sh");
                sh.arg("-c").arg(format!("ulimit -n {files}; exec \"$0\" \"$@\"")).arg(&binary);
                sh
            }
        };
        let child = command
            .args(args)
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
        Self { name: name.to_owned(), child, log, reader: Some(reader) }
    }

    /// How it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until its log holds `text`.
    #[track_caller]
    pub fn wait_log(&self, text: &str) {
        let what = format!("{} logs {text:?}", self.name);
        wait::until(&what, || self.log().contains(text).then_some(()));
    }

    /// Resident memory in bytes, where the system tells.
    pub fn resident(&self) -> Option<u64> {
        process::resident(self.pid())
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
        kill_process(Pid::from_child(&self.child), signal).expect("the process is there");
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Waits for it to end by itself.
    #[track_caller]
    pub fn wait_exit(&mut self, patience: Duration) -> ExitStatus {
        let what = format!("{} ends", self.name);
        wait::until_within(patience, &what, || self.ended())
    }

    /// Ends it as a crash would, by SIGKILL.
    pub fn kill(&mut self) {
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
