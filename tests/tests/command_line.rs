//! What a person types, and what a PoP says to it: the same of every shell.

use std::net::UdpSocket;
use std::process::{Command, Output};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use entrouter_tests::pop::{Pop, PopConfig};
use entrouter_tests::scratch::Scratch;
use entrouter_tests::shells::Shell;
use entrouter_tests::{build, on_every};
use rustix::process::Signal;

/// Runs the binary to its end: exit code, stdout, stderr.
fn run(shell: Shell, args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(build::binary(shell));
    let Output { status, stdout, stderr } =
        command.args(args).env_remove("RUST_LOG").output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

fn a_key_is_32_bytes_and_never_the_same([shell]: [Shell; 1]) {
    let [first, second] = [(); 2].map(|()| {
        let (code, stdout, stderr) = run(shell, &["genkey"]);
        assert_eq!((code, stderr.as_str()), (Some(0), ""));
        STANDARD.decode(stdout.trim_end()).expect("base64")
    });
    assert_eq!((first.len(), second.len()), (32, 32));
    assert_ne!(first, second);
}

fn help_and_version_are_answers_and_what_is_not_understood_exits_2([shell]: [Shell; 1]) {
    let name = format!("entrouter-{shell}");
    let (code, stdout, _) = run(shell, &["--version"]);
    assert_eq!(code, Some(0));
    assert_eq!(stdout.split_whitespace().next(), Some(name.as_str()), "{stdout}");
    let (code, help, _) = run(shell, &["--help"]);
    assert_eq!(code, Some(0));
    for word in [name.as_str(), "run", "check", "genkey", "--config", "--log", "--version"] {
        assert!(help.contains(word), "no {word:?} in {help}");
    }
    // All the shells are explained in the same words.
    let first: Shell = on_every!(shell)[0];
    let (_, wanted, _) = run(first, &["--help"]);
    assert_eq!(help.replace(&name, "…"), wanted.replace(&format!("entrouter-{first}"), "…"));
    for args in
        [&[][..], &["frob"], &["run"], &["--config", "x", "genkey"], &["run", "--config", "/"]]
    {
        let (code, stdout, stderr) = run(shell, args);
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{args:?}: {stderr}");
        assert!(stderr.contains(&name), "{args:?}: {stderr}");
    }
}

fn a_port_that_is_taken_is_one_line_that_names_its_key([shell]: [Shell; 1]) {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut config = PopConfig::new("a", "b", None);
    config.relay = taken.local_addr().unwrap();
    let dir = Scratch::new();
    let path = dir.path().join("pop.toml");
    std::fs::write(&path, config.toml()).unwrap();
    let (code, stdout, stderr) =
        run(shell, &["--log", "error", "--config", path.to_str().unwrap()]);
    assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains("listen.relay_addr"), "{stderr}");
    assert!(stderr.starts_with(&format!("entrouter-{shell}: ")), "{stderr}");
}

fn a_broken_file_is_not_taken_up_and_stops_nothing([shell]: [Shell; 1]) {
    let mut pop = Pop::start(shell, PopConfig::new("a", "b", None));
    let key = std::mem::replace(&mut pop.config.key, "not base64".to_owned());
    pop.rewrite();
    pop.signal(Signal::HUP);
    pop.wait_log("the configuration was not reloaded, the old one stays");
    assert!(pop.log().contains("peers[0].shared_key"), "the fault is not named");
    assert!(pop.is_running());
    assert_eq!(pop.status()["node_id"], "a");
    pop.config.key = key;
    pop.reload();
}

on_every!(
    shell:
    a_key_is_32_bytes_and_never_the_same,
    help_and_version_are_answers_and_what_is_not_understood_exits_2,
    a_port_that_is_taken_is_one_line_that_names_its_key,
    a_broken_file_is_not_taken_up_and_stops_nothing,
);
