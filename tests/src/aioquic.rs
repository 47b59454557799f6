//! A QUIC client that is not ours: aioquic, from PyPI, in a virtual environment of its own.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use rustix::fs::{FlockOperation, flock};
use serde_json::Value;

use crate::scratch::Scratch;

const WANTED: &str = "aioquic==1.3.0";
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/aioquic/client.py");

/// Python with aioquic.
#[derive(Debug, Clone)]
pub struct Aioquic(PathBuf);

/// What the client's script told, and where it left what it was answered.
#[derive(Debug)]
pub struct Outcome {
    /// The line of JSON.
    pub told: Value,
    dir: Scratch,
}

impl Aioquic {
    /// Installs it in a folder of `target`, unless that is done. Tests of any number of processes may ask
    /// at once.
    ///
    /// # Errors
    /// Why it cannot be had here.
    pub fn install(target: &Path) -> Result<Self, String> {
        static INSTALLED: OnceLock<Result<Aioquic, String>> = OnceLock::new();
        INSTALLED.get_or_init(|| install(target)).clone()
    }

    /// Runs the script in this mode against an edge on this port of 127.0.0.1, with these questions.
    ///
    /// # Panics
    /// If it fails, with what it says.
    #[track_caller]
    pub fn run(&self, mode: &str, port: u16, alpn: &str, questions: &[&[u8]]) -> Outcome {
        let dir = Scratch::new();
        for (n, question) in questions.iter().enumerate() {
            let path = dir.path().join(format!("q{n}"));
            std::fs::write(path, question).expect("a file in a directory of our own");
        }
        let output = Command::new(&self.0)
            .args([SCRIPT, mode, &port.to_string(), alpn])
            .arg(dir.path())
            .stdin(Stdio::null())
            .output()
            .expect("python can be run");
        let Output { status, stdout, stderr } = output;
        assert!(status.success(), "{mode}: {status}\n{}", String::from_utf8_lossy(&stderr));
        let told = serde_json::from_slice(&stdout);
        let told = told.unwrap_or_else(|e| panic!("{mode}: {e}"));
        println!("{mode}: {told}");
        Outcome { told, dir }
    }
}

impl Outcome {
    /// The answer to the question of this number.
    #[track_caller]
    pub fn answer(&self, n: usize) -> Vec<u8> {
        std::fs::read(self.dir.path().join(format!("a{n}"))).expect("an answer")
    }
}

fn install(target: &Path) -> Result<Aioquic, String> {
    let dir = target.join(WANTED);
    let python = dir.join("bin").join("python");
    let done = dir.join("installed");
    std::fs::create_dir_all(target).map_err(|e| format!("{}: {e}", target.display()))?;
    let lock = File::create(target.join("aioquic.lock")).map_err(|e| e.to_string())?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|e| e.to_string())?;
    if !done.exists() {
        // What is half there is of no use.
        let _ = std::fs::remove_dir_all(&dir);
        run(Command::new("python3").args(["-m", "venv"]).arg(&dir))?;
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
        run(Command::new(&python).args(pip).args(["--retries", "2", "--timeout", "15", WANTED]))?;
        std::fs::write(done, WANTED).map_err(|e| e.to_string())?;
    }
    Ok(Aioquic(python))
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|e| format!("{command:?}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    Err(said.trim().lines().last().unwrap_or("no reason told").to_owned())
}
