//! The binary's command line. A module of each shell's tests, which say which shell it is.

use std::path::PathBuf;
use std::process::{Command, Output};

use crate::{BINARY, NAME};

fn run(args: &[&str]) -> (i32, String, String) {
    let output: Output = Command::new(BINARY).args(args).env_remove("RUST_LOG").output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// A file that is deleted at the end.
struct Temporary(PathBuf);

impl Temporary {
    fn new(name: &str, text: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("{NAME}-{}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn genkey_prints_a_new_key_each_time() {
    let (code, first, stderr) = run(&["genkey"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert_eq!(first.trim_end().len(), 44, "base64 of 32 bytes");
    assert_ne!(first, run(&["genkey"]).1);
}

#[test]
fn version_and_help() {
    let (code, stdout, _) = run(&["--version"]);
    assert_eq!((code, stdout), (0, format!("{NAME} 0.1.0\n")));
    let (code, stdout, _) = run(&["--help"]);
    assert_eq!(code, 0);
    for word in ["run", "check", "genkey", "--config", "--log", "--version"] {
        assert!(stdout.contains(word), "{stdout}");
    }
}

#[test]
fn wrong_usage_is_told_on_stderr_with_code_2() {
    let wrong: [&[&str]; 7] = [
        &[],
        &["--bogus"],
        &["bogus"],
        &["run"],
        &["check"],
        &["--config"],
        &["--config", "x", "check", "--config", "x"],
    ];
    for args in wrong {
        let (code, stdout, stderr) = run(args);
        assert_eq!((code, stdout.as_str()), (2, ""), "{args:?}");
        assert!(!stderr.is_empty(), "{args:?}");
    }
    let (code, _, stderr) = run(&["run", "--config", "x", "--log", "loud"]);
    assert_eq!(code, 2);
    assert!(stderr.starts_with(&format!("{NAME}: log level `loud`")), "{stderr}");
}

#[test]
fn a_missing_file_is_one_clear_line() {
    for args in [
        ["check", "--config", "/nowhere/pop.toml"].as_slice(),
        &["run", "--config", "/nowhere/pop.toml"],
        &["--config", "/nowhere/pop.toml"],
    ] {
        let (code, stdout, stderr) = run(args);
        assert_eq!((code, stdout.as_str()), (2, ""));
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.contains("/nowhere/pop.toml"), "{stderr}");
    }
}

#[test]
fn a_broken_configuration_is_told_by_check_and_by_run() {
    let broken = Temporary::new("broken.toml", b"node_idd = \"a\"\n[listen]\n");
    for args in [["check", "--config", broken.path()].as_slice(), &["--config", broken.path()]] {
        let (code, stdout, stderr) = run(args);
        assert_eq!((code, stdout.as_str()), (2, ""));
        assert!(stderr.contains("node_id"), "{stderr}");
        assert!(stderr.lines().all(|l| l.starts_with(NAME)), "{stderr}");
    }
    let binary = Temporary::new("binary.toml", b"\xff\xfe\x00");
    assert_eq!(run(&["check", "--config", binary.path()]).0, 2);
}

#[test]
fn the_example_is_valid_and_shown() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../config.example.toml");
    let (code, stdout, stderr) = run(&["check", "--config", example]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.contains("us-east-01"), "{stdout}");
}
