//! The binary from outside: exit codes, output, interruption.
#![cfg(feature = "live")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

fn demo(flags: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_entrouter-sim"))
        .arg("demo")
        .args(flags)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts")
}

fn finish(child: Child) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = child.wait_with_output().expect("the binary ends");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (status.code(), text(stdout), text(stderr))
}

fn assert_exact(child: Child) -> Value {
    let (code, stdout, stderr) = finish(child);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    let report: Value = serde_json::from_str(&stdout).expect("JSON and nothing else");
    assert_eq!(report["exact"], true);
    for way in ["to_origin", "to_client"] {
        assert_eq!(report[way]["sha256_sent"], report[way]["sha256_received"]);
        assert!(report[way]["received"].as_u64() > Some(0));
    }
    report
}

#[test]
fn bad_flags_are_one_line_and_exit_2() {
    for flags in [
        &["--loss-pct", "91"][..],
        &["--seconds", "-1"],
        &["--seed", "x"],
        &["--bulk", "maybe"],
        &["--shell", "tokio"],
        &["--bulk", "off", "--ping", "off"],
        &["--no-such-flag"],
        &["surplus"],
    ] {
        let (code, stdout, stderr) = finish(demo(flags));
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{flags:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
}

#[test]
fn two_demos_at_once_deliver_every_byte() {
    let [first, second] = ["mio,smol", "smol,mio"]
        .map(|shells| demo(&["--seconds", "2", "--bulk", "both", "--json", "--shell", shells]));
    for report in [assert_exact(first), assert_exact(second)] {
        assert!(report["round_trips"]["count"].as_u64() > Some(0));
        assert!(report["bulk"]["to_client"]["mbps"].as_f64() > Some(0.0));
        assert!(report["link"]["to_client"]["link"]["lost"].as_u64() > Some(0));
    }
}

#[test]
fn an_interrupted_demo_still_prints_its_table() {
    let start = Instant::now();
    let mut child = demo(&["--seconds", "60", "--rate-mbps", "20"]);
    // Under way when the first progress line says so; the rest of stderr must still find a reader.
    let mut progress = BufReader::new(child.stderr.take().expect("a pipe"));
    let mut line = String::new();
    while !line.contains("round trips") {
        line.clear();
        assert!(progress.read_line(&mut line).expect("text") > 0, "it ended before it began");
    }
    std::thread::spawn(move || std::io::copy(&mut progress, &mut std::io::sink()));
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(killed.expect("kill runs").success());
    let (code, stdout, stderr) = finish(child);
    assert!(start.elapsed() < Duration::from_secs(30));
    assert!(stdout.contains("interrupted") && stdout.contains("SHA-256"), "{stdout}{stderr}");
    // 0 if what was under way arrived within the grace, 1 otherwise; never a signal's death.
    assert!(matches!(code, Some(0 | 1)), "{code:?}");
}
