//! The shells' binaries, and the core's examples.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use crate::shells::Shell;

/// Built once per process; where each process runs one test (nextest), cargo finds it fresh and its
/// lock lets one build at a time.
static BUILT: Mutex<BTreeMap<Shell, PathBuf>> = Mutex::new(BTreeMap::new());

/// Variables that `cargo test` and nextest set for what they run. A build script that watches one of
/// them (ring's does) would be run again, and all that depends on it compiled again.
const OF_THE_TEST: &[&str] = &[
    "CARGO_BIN_",
    "CARGO_CRATE_",
    "CARGO_MANIFEST_",
    "CARGO_PKG_",
    "CARGO_PRIMARY_",
    "CARGO_TARGET_TMPDIR",
    "NEXTEST",
    "OUT_DIR",
];

/// Path of `entrouter-<shell>`, built by the release profile if that is not done yet.
pub fn binary(shell: Shell) -> PathBuf {
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let package = format!("entrouter-{shell}");
    built.entry(shell).or_insert_with(|| build(&package, "--bin", &package)).clone()
}

/// Path of an example of the core, likewise.
pub fn example(name: &'static str) -> PathBuf {
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    built.entry(name).or_insert_with(|| build("entrouter-proto", "--example", name)).clone()
}

fn build(package: &str, kind: &str, name: &str) -> PathBuf {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let of_the_test = |name: &str| OF_THE_TEST.iter().any(|prefix| name.starts_with(prefix));
        if name.to_str().is_some_and(of_the_test) {
            cargo.env_remove(name);
        }
    }
    let output = cargo
        .args(["build", "--release", "--quiet", "--message-format=json", "--package", package])
        .args([kind, name, "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .stderr(Stdio::inherit())
        .output()
        .unwrap_or_else(|e| panic!("cannot run cargo to build {name}: {e}"));
    assert!(output.status.success(), "cargo could not build {name}: {}", output.status);
    let executable = String::from_utf8_lossy(&output.stdout).lines().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_it = message["target"]["name"] == name;
        message["executable"].as_str().filter(|_| is_it).map(PathBuf::from)
    });
    executable.unwrap_or_else(|| panic!("cargo named no executable of {name}"))
}
