//! Live links from outside: real TCP across one, and nothing left behind. They need root, TUN and `ip`
//! and are skipped, with a word, where these are missing.
#![cfg(all(feature = "live", target_os = "linux"))]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use argh::FromArgs;
use entrouter_sim::live::link::{ADDRS, LinkArgs, LinkOptions, LiveLink, check_system};
use serde_json::Value;

/// Whether there can be live links here; says why not.
fn possible(test: &str) -> bool {
    let missing = check_system().map_err(|error| error.to_string()).and_then(|()| may_add(test));
    if let Err(missing) = &missing {
        eprintln!("SKIPPED {test}: {missing}");
    }
    missing.is_ok()
}

/// Root in a container need not be allowed to.
fn may_add(test: &str) -> Result<(), String> {
    let name = format!("{}-{test}", std::process::id());
    let netns = |what| Command::new("ip").args(["netns", what, &name]).output();
    let added = netns("add").expect("ip runs");
    if !added.status.success() {
        return Err(String::from_utf8_lossy(&added.stderr).trim().to_owned());
    }
    assert!(netns("del").expect("ip runs").status.success());
    Ok(())
}

fn start(args: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_entrouter-sim"))
        .args(args)
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

fn signal(child: &Child, signal: &str) {
    let killed = Command::new("kill").args([signal, &child.id().to_string()]).status();
    assert!(killed.expect("kill runs").success());
}

/// What is left of a process' namespaces.
fn namespaces(pid: u32) -> Vec<PathBuf> {
    ["a", "b"]
        .map(|end| Path::new("/var/run/netns").join(format!("line-{pid}-{end}")))
        .into_iter()
        .filter(|path| path.exists())
        .collect()
}

/// Who could not remove them itself has left that to another process.
fn assert_gone_soon(pid: u32) {
    let start = Instant::now();
    while !namespaces(pid).is_empty() {
        assert!(start.elapsed() < Duration::from_secs(30), "{:?}", namespaces(pid));
        std::thread::yield_now();
    }
}

/// A link that says it is up, and the rest of what it will say.
fn link(flags: &[&str]) -> (Child, BufReader<ChildStdout>) {
    let mut child = start(&[&["link"], flags].concat());
    let mut said = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut line = String::new();
    while !line.contains("Ctrl-C") {
        line.clear();
        let read = said.read_line(&mut line).expect("text");
        assert!(read > 0, "it ended before it began: {:?}", finish(child));
    }
    (child, said)
}

#[test]
fn bad_flags_are_one_line_and_exit_2() {
    for flags in [
        &["link", "--loss-back-pct", "91"][..],
        &["link", "--queue-ms", "1", "--queue-bdp", "1"],
        &["link", "--seconds", "x"],
        &["ab", "--systems", ""],
        &["ab", "--measure", "all"],
        &["ab", "--loss-pct", "1,,2"],
    ] {
        let (code, stdout, stderr) = finish(start(flags));
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{flags:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
}

#[test]
fn what_is_missing_is_one_line_and_exit_1() {
    // Without a path there is no `ip`; without root that is said first.
    let output = Command::new(env!("CARGO_BIN_EXE_entrouter-sim"))
        .args(["ab", "--seconds", "1"])
        .env("PATH", "/nonexistent")
        .output()
        .expect("the binary runs");
    let stderr = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(["root", "/dev/net/tun", "iproute2"].iter().any(|it| stderr.contains(it)), "{stderr}");
}

#[test]
fn programs_in_both_namespaces_see_the_link_and_an_interruption_leaves_nothing() {
    if !possible("programs_in_both_namespaces_see_the_link_and_an_interruption_leaves_nothing") {
        return;
    }
    let (child, mut said) = link(&["--rtt-ms", "30", "--loss-back-pct", "0", "--seconds", "60"]);
    let pid = child.id();
    assert_eq!(namespaces(pid).len(), 2);
    let inside = |end: &str, what: &[&str]| {
        let name = format!("line-{pid}-{end}");
        let output = Command::new("ip").args(["netns", "exec", &name]).args(what).output();
        let output = output.expect("ip runs");
        assert!(output.status.success(), "{what:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    assert!(inside("a", &["ip", "addr"]).contains("198.18.0.1/30"));
    assert!(inside("b", &["ip", "addr"]).contains("198.18.0.2/30"));
    let set = inside("b", &["cat", "/proc/sys/net/ipv4/tcp_no_metrics_save"]);
    assert_eq!(set.trim(), "1");
    signal(&child, "-INT");
    let mut table = String::new();
    said.read_to_string(&mut table).expect("text");
    let (code, _, stderr) = finish(child);
    assert_eq!(code, Some(0), "{table}{stderr}");
    assert!(table.contains("packets offered") && table.contains("delivered late"), "{table}");
    assert_eq!(namespaces(pid), Vec::<PathBuf>::new());
}

#[test]
fn real_tcp_crosses_and_is_marked_where_it_is_capable() {
    if !possible("real_tcp_crosses_and_is_marked_where_it_is_capable") {
        return;
    }
    let args =
        LinkArgs::from_args(&["link"], &["--rtt-ms", "20", "--rate-mbps", "5", "--mark-ms", "5"]);
    let options = LinkOptions::try_from(&args.expect("flags")).expect("valid flags");
    let link = LiveLink::start(&options.shape).expect("a link");
    for which in 0..2 {
        let set = || std::fs::write("/proc/sys/net/ipv4/tcp_ecn", "1");
        link.enter(which, set).expect("entered").expect("set");
    }
    let listener = link.enter(1, || TcpListener::bind((ADDRS[1], 0))).expect("entered");
    let listener = listener.expect("a listener");
    let addr = listener.local_addr().expect("an address");
    let server = std::thread::spawn(move || {
        let (mut stream, peer) = listener.accept().expect("a client");
        let mut got = Vec::new();
        stream.read_to_end(&mut got).expect("data");
        (peer.ip(), got)
    });
    let start = Instant::now();
    let client = link.enter(0, || TcpStream::connect(addr)).expect("entered");
    let mut client = client.expect("connected");
    assert!(start.elapsed() >= options.shape.rtt());
    let data: Vec<u8> = (0..1_000_000u32).map(|n| (n % 251) as u8).collect();
    client.write_all(&data).expect("sent");
    drop(client);
    let (peer, got) = server.join().expect("no panic");
    assert!(peer == ADDRS[0] && got == data);
    // A megabyte takes 1.6 s at 5 Mbit/s.
    assert!(start.elapsed() >= Duration::from_millis(1_500));
    let stats = link.stats();
    assert!(stats.a_to_b.marked > 0 && stats.b_to_a.marked == 0, "{stats:?}");
    assert!(stats.a_to_b.offered_bytes > 1_000_000 && stats.send_errors == 0, "{stats:?}");
    let names = link.names().clone();
    link.stop().expect("a clean end");
    assert!(!names.iter().any(|name| Path::new("/var/run/netns").join(name).exists()));
}

#[test]
fn a_killed_link_leaves_nothing() {
    if !possible("a_killed_link_leaves_nothing") {
        return;
    }
    let (child, _said) = link(&[]);
    let pid = child.id();
    signal(&child, "-KILL");
    finish(child);
    assert_gone_soon(pid);
}

#[test]
fn a_link_interrupted_while_it_is_made_leaves_nothing() {
    if !possible("a_link_interrupted_while_it_is_made_leaves_nothing") {
        return;
    }
    for signal_name in ["-INT", "-TERM", "-KILL"] {
        let child = start(&["link"]);
        let pid = child.id();
        // As soon as there is something to be left.
        let start = Instant::now();
        while namespaces(pid).is_empty() {
            assert!(start.elapsed() < Duration::from_secs(30), "{:?}", finish(child));
            std::thread::yield_now();
        }
        signal(&child, signal_name);
        let (code, stdout, stderr) = finish(child);
        if signal_name == "-KILL" {
            assert_gone_soon(pid);
        } else {
            assert_eq!(code, Some(0), "{stdout}{stderr}");
            assert_eq!(namespaces(pid), Vec::<PathBuf>::new());
        }
    }
}

#[test]
fn the_link_delays_packets_as_it_should() {
    if !possible("the_link_delays_packets_as_it_should") {
        return;
    }
    let flags = ["--check", "--seconds", "1", "--rtt-ms", "20", "--json"];
    let (code, stdout, stderr) = finish(start(&[&["link"], &flags[..]].concat()));
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    let report: Value = serde_json::from_str(&stdout).expect("JSON and nothing else");
    let check = &report["check"];
    assert!(check["packets"].as_u64() > Some(1_000), "{check}");
    // Ten times what it should be.
    assert!(check["late"]["p50_us"].as_u64() < Some(2_000), "{check}");
    assert_eq!(report["a_to_b"]["queue_dropped"], 0);
}

#[test]
fn relay_and_kernel_tcp_deliver_every_byte_over_the_same_link() {
    if !possible("relay_and_kernel_tcp_deliver_every_byte_over_the_same_link") {
        return;
    }
    let flags = [
        "ab",
        "--systems",
        "relay,bbr",
        "--loss-pct",
        "0,2",
        "--rtt-ms",
        "40",
        "--rate-mbps",
        "20",
        "--seconds",
        "2",
        "--round-trips",
        "40",
        "--connects",
        "16",
        "--startup-s",
        "1",
        "--shell",
        "smol,mio",
        "--json",
    ];
    let child = start(&flags);
    let pid = child.id();
    let (code, stdout, stderr) = finish(child);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    let report: Value = serde_json::from_str(&stdout).expect("JSON and nothing else");
    assert_eq!(report["shells"], serde_json::json!(["smol", "mio"]));
    assert_eq!((&report["exact"], &report["failures"]), (&true.into(), &Value::Array(vec![])));
    let cases = report["cases"].as_array().expect("cases");
    assert_eq!(cases.len(), 2);
    for system in cases.iter().flat_map(|case| case["systems"].as_array().expect("systems")) {
        let bulk = &system["bulk"];
        assert_eq!(bulk["data"]["sha256_sent"], bulk["data"]["sha256_received"]);
        // Nothing crosses for less than its own weight, and a tenth of the rate is no feat.
        assert!(bulk["mbps"].as_f64() > Some(2.0), "{system}");
        assert!(bulk["wire_bytes_per_byte"].as_f64() > Some(1.0), "{system}");
        for what in ["connect", "ping"] {
            assert!(system[what]["p50_ms"].as_f64() >= Some(40.0), "{system}");
            assert!(system[what]["p50_ms"].as_f64() < Some(400.0), "{system}");
        }
        assert_eq!(
            (&system["connect"]["count"], &system["ping"]["count"]),
            (&16.into(), &40.into())
        );
        assert!(system["beside"]["settled"]["count"].as_u64() > Some(0), "{system}");
        let ends = system["congestion"]["ends"].as_object().expect("a map");
        assert_eq!(ends.len(), 1, "{system}");
        if system["system"] == "bbr" {
            assert!(ends.contains_key("bbr"), "{system}");
        } else {
            assert_eq!(&system["congestion"]["pops"].as_object().expect("a map").len(), &1);
        }
    }
    // The second case lost packets, the first did not.
    assert_eq!(cases[0]["systems"][0]["bulk"]["link"]["lost"], 0);
    assert!(cases[1]["systems"][0]["bulk"]["link"]["lost"].as_u64() > Some(0));
    assert_eq!(namespaces(pid), Vec::<PathBuf>::new());
}

#[test]
fn uploads_and_shared_links_are_compared_too() {
    if !possible("uploads_and_shared_links_are_compared_too") {
        return;
    }
    let link = ["--rtt-ms", "20", "--rate-mbps", "20", "--seconds", "2", "--json"];
    let up = ["ab", "--direction", "up", "--measure", "bulk", "--systems", "relay,cubic"];
    let fair = ["ab", "--fair"];
    for flags in [&up[..], &fair[..]] {
        let (code, stdout, stderr) = finish(start(&[flags, &link[..]].concat()));
        assert_eq!(code, Some(0), "{stdout}{stderr}");
        let report: Value = serde_json::from_str(&stdout).expect("JSON and nothing else");
        let case = &report["cases"][0];
        let mbps = |system: &Value| system["mbps"].as_f64().expect("a number");
        if let Some(flows) = case["fair"]["flows"].as_array() {
            let sum: f64 = flows.iter().map(mbps).sum();
            assert!((2.0..20.0).contains(&sum), "{case}");
        } else {
            for system in case["systems"].as_array().expect("systems") {
                assert!((2.0..20.0).contains(&mbps(&system["bulk"])), "{system}");
            }
        }
    }
}
