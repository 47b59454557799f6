//! `check`: every fault of a configuration is one clear line.

use std::path::Path;
use std::process::{Command, Output};

use entrouter_tests::pop::key;
use entrouter_tests::scratch::Scratch;
use entrouter_tests::shells::Shell;
use entrouter_tests::{build, on_every};

/// 31 bytes: one too few.
const SHORT_KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQ==";
/// A key with a character that base64 has not.
const BAD_KEY: &str = "AQEBAQEBAQEBAQEB!QEBAQEBAQEBAQEBAQEBAQEBAQE=";

fn check(shell: Shell, dir: &Path) -> Output {
    let mut command = Command::new(build::binary(shell));
    command.args(["check", "--config", "pop.toml"]).current_dir(dir).env_remove("RUST_LOG");
    command.output().unwrap()
}

/// A good file that `more` can be appended to; it has nine lines.
fn good() -> String {
    format!(
        "node_id = \"a\"\nregion = \"r\"\n[[peers]]\nnode_id = \"b\"\nshared_key = \"{}\"\n\
         [[peers]]\nnode_id = \"c\"\nshared_key = \"{}\"\naddr = \"127.0.0.1:1\"\n",
        key(1),
        key(2)
    )
}

/// `good` with one line replaced.
fn with(line: usize, text: &str) -> Vec<u8> {
    let mut lines: Vec<_> = good().lines().map(str::to_owned).collect();
    lines[line - 1] = text.to_owned();
    (lines.join("\n") + "\n").into_bytes()
}

/// `good` and then `more`, which begins at line 10.
fn and(more: &str) -> Vec<u8> {
    (good() + more + "\n").into_bytes()
}

/// Name, file, and for each fault where it is and a word of what is said.
type Case = (&'static str, Vec<u8>, Vec<(&'static str, &'static str)>);

fn broken() -> Vec<Case> {
    vec![
        (
            "not base64",
            with(5, &format!("shared_key = \"{BAD_KEY}\"")),
            vec![("5: peers[0].shared_key", "base64")],
        ),
        (
            "a short key",
            with(5, &format!("shared_key = \"{SHORT_KEY}\"")),
            vec![("5: peers[0].shared_key", "31 bytes")],
        ),
        ("no key", with(5, "# none"), vec![("3: peers[0].shared_key", "nothing")]),
        (
            "the same key twice",
            with(8, &format!("shared_key = \"{}\"", key(1))),
            vec![("8: peers[1].shared_key", "peers[0]")],
        ),
        (
            "a certificate without key",
            and("[listen]\ntls_cert_path = \"c.pem\""),
            vec![("11: listen.tls_key_path", "tls_cert_path is given")],
        ),
        ("two peers of one name", with(7, "node_id = \"b\""), vec![("7: peers[1].node_id", "b")]),
        ("itself as peer", with(4, "node_id = \"a\""), vec![("4: peers[0].node_id", "a")]),
        (
            "an unknown key",
            and("[mesh]\nprobe_intervall_ms = 100"),
            vec![("11: mesh.probe_intervall_ms", "did you mean \"probe_interval_ms\"?")],
        ),
        (
            "no address",
            and("[listen]\nrelay_addr = \"somewhere\""),
            vec![("11: listen.relay_addr", "somewhere")],
        ),
        (
            "an address without port",
            and("[listen]\ntcp_addr = \"0.0.0.0\""),
            vec![("11: listen.tcp_addr", "port")],
        ),
        (
            "one address twice",
            and("[listen]\ntcp_addr = \"0.0.0.0:5\"\nadmin_addr = \"0.0.0.0:5\""),
            vec![("12: listen.admin_addr", "listen.tcp_addr")],
        ),
        (
            "no data shards",
            and("[relay]\nfec_data_shards = 0\nfec_parity_shards = 4"),
            vec![("11: relay.fec_data_shards", "found 0")],
        ),
        (
            "absurdly many",
            and("[relay]\nfec_data_shards = 10\nfec_parity_shards = 70000"),
            vec![("12: relay.fec_parity_shards", "70000")],
        ),
        (
            "half a ratio",
            and("[relay]\nfec_data_shards = 10"),
            vec![("11: relay.fec_parity_shards", "fec_data_shards is given")],
        ),
        (
            "not UTF-8",
            with(2, "region = \"\u{1}\"").iter().map(|b| if *b == 1 { 0xff } else { *b }).collect(),
            vec![("2: region", "UTF-8")],
        ),
        ("nothing at all", Vec::new(), vec![("1: node_id", "nothing"), ("1: region", "nothing")]),
        (
            "a key twice",
            with(2, "node_id = \"x\"\nregion = \"r\""),
            vec![("2: node_id", "duplicate")],
        ),
        ("no end of text", with(1, "node_id = \"a"), vec![("1: node_id", "TOML")]),
        (
            "port 0 of a peer",
            with(9, "addr = \"127.0.0.1:0\""),
            vec![("9: peers[1].addr", "127.0.0.1:0")],
        ),
        (
            "no name as destination",
            and("[relay]\ndefault_dest = \"d d\""),
            vec![("11: relay.default_dest", "d d")],
        ),
        (
            "neither yes nor no",
            and("[mesh]\ntransit = \"no\""),
            vec![("11: mesh.transit", "true or false")],
        ),
        (
            "two destinations",
            and("[relay]\ndefault_dest = \"b\"\ndefault_dest = \"c\""),
            vec![("12: default_dest", "duplicate")],
        ),
        (
            "less than no time",
            and("[mesh]\nprobe_interval_ms = -5"),
            vec![("11: mesh.probe_interval_ms", "-5")],
        ),
        (
            "text for a number",
            and("[mesh]\nprobe_interval_ms = \"500\""),
            vec![("11: mesh.probe_interval_ms", "text")],
        ),
        ("a number for text", with(2, "region = 5"), vec![("2: region", "number")]),
        (
            "a rate below zero",
            and("max_rate_mbps = -1.0"),
            vec![("10: peers[1].max_rate_mbps", "-1")],
        ),
        (
            "a port beyond all",
            and("[origins]\ndefault = \"127.0.0.1:65536\""),
            vec![("11: origins.default", "65536")],
        ),
        (
            "an unknown protocol",
            and("[[edge]]\nlisten = \"0.0.0.0:5\"\ndest = \"b\"\nproto = \"udp\""),
            vec![("13: edge[0].proto", "udp")],
        ),
        (
            "a listener that leads nowhere",
            and("[[edge]]\nlisten = \"0.0.0.0:5\""),
            vec![("10: edge[0].dest", "nothing")],
        ),
        ("a name with a space", with(1, "node_id = \"a b\""), vec![("1: node_id", "a b")]),
        (
            "two faults",
            with(1, "node_id = 5\nregions = 1"),
            vec![("1: node_id", "number"), ("2: regions", "did you mean \"region\"?")],
        ),
    ]
}

fn every_fault_is_one_line_that_names_its_place_and_shows_no_key([shell]: [Shell; 1]) {
    let cases = broken();
    assert!(cases.len() >= 20);
    let mut wrong = String::new();
    for (name, file, faults) in &cases {
        let dir = Scratch::new();
        std::fs::write(dir.path().join("pop.toml"), file).unwrap();
        let output = check(shell, dir.path());
        let stderr = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<_> = stderr.lines().collect();
        let told = lines.len() == faults.len()
            && lines.iter().zip(faults).all(|(line, (place, word))| {
                line.strip_prefix(&format!("entrouter-{shell}: pop.toml:{place}: "))
                    .is_some_and(|problem| problem.contains(word))
            });
        let secrets = [&key(1), &key(2), SHORT_KEY, BAD_KEY, "AQEBAQEB"];
        let shown = secrets.iter().any(|secret| stderr.contains(*secret));
        let code = output.status.code();
        if !told || shown || code != Some(2) || !output.stdout.is_empty() {
            wrong += &format!("{name}: wanted {faults:?}, code {code:?}, found\n{stderr}");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

fn a_good_file_and_the_example_pass([shell]: [Shell; 1]) {
    let example = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../config.example.toml"));
    let goods = [
        example.unwrap(),
        good().into_bytes(),
        and("[relay]\ndefault_dest = \"c\"\nfec_data_shards = 20\nfec_parity_shards = 1"),
        and("[mesh]\ntransit = false\n[relay]\ndefault_dest = \"neither-b-nor-c\""),
        and("[[edge]]\nlisten = \"[::1]:0\"\ndest = \"a\"\n[origins]\ndefault = \"localhost:80\""),
        and("[listen]\ntcp_addr = \"[::1]:0\"\n[origins]\ndefault = \"localhost:80\""),
        b"node_id = \"alone\"\r\nregion = \"windows\"\r\n".to_vec(),
    ];
    for file in &goods {
        let dir = Scratch::new();
        std::fs::write(dir.path().join("pop.toml"), file).unwrap();
        let output = check(shell, dir.path());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &*stderr), (Some(0), ""));
        assert!(!String::from_utf8_lossy(&output.stdout).contains(&key(1)));
    }
}

on_every!(
    shell:
    every_fault_is_one_line_that_names_its_place_and_shows_no_key,
    a_good_file_and_the_example_pass,
);
