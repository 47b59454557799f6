use std::collections::BTreeSet;

use super::*;

pub(super) const EXAMPLE: &str = include_str!("../../../config.example.toml");

pub(super) const KEY_A: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
pub(super) const KEY_B: &str = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";
pub(super) const KEY_C: &str = "AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=";
pub(super) const TOKEN: &str = "tok-3fz9-quite-secret";

pub(super) fn parse(text: &str) -> Result<Config, ConfigErrors> {
    Config::parse("config.toml", text.as_bytes())
}

#[track_caller]
pub(super) fn good(text: &str) -> Config {
    parse(text).unwrap_or_else(|errors| panic!("{errors}\n---\n{text}"))
}

/// Two names that are one on the wire; the first is met first.
pub(super) fn two_of_one_hash() -> (NodeId, NodeId) {
    let mut seen = BTreeMap::new();
    (0..)
        .find_map(|i: u32| {
            let id = NodeId::new(&format!("n{i}")).unwrap();
            seen.insert(id.hash32(), id.clone()).map(|other| (other, id))
        })
        .unwrap()
}

/// A valid file that `more` is appended to; its lines begin at 4.
pub(super) fn base(more: &str) -> String {
    format!("node_id = \"a\"\nregion = \"r\"\n# line 3\n{more}")
}

/// The same with two peers and no default destination; `more` begins at line 9.
pub(super) fn two_peers(more: &str) -> String {
    base(&format!(
        "peers = [\n{{ node_id = \"b\", shared_key = \"{KEY_A}\" }},\n\
         {{ node_id = \"c\", shared_key = \"{KEY_B}\" }},\n]\n# line 8\n{more}"
    ))
}

#[track_caller]
pub(super) fn no_secret_in(text: &str) {
    for secret in [KEY_A, KEY_B, KEY_C, TOKEN] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}

/// The file has exactly that fault.
#[track_caller]
pub(super) fn bad(text: &str, line: usize, key: &str, problem: &str) {
    let errors = match parse(text) {
        Ok(_) => panic!("accepted:\n{text}"),
        Err(errors) => errors,
    };
    let shown = errors.to_string();
    assert_eq!(errors.errors().len(), 1, "{shown}\n---\n{text}");
    let error = &errors.errors()[0];
    assert_eq!((error.line, error.key.as_str()), (line, key), "{shown}\n---\n{text}");
    assert!(error.problem.contains(problem), "wanted: {problem}\ngot: {shown}");
    let says_both = shown.contains("found") && shown.contains("wanted");
    assert!(says_both || shown.contains("unknown key"), "{shown}");
    assert_eq!(shown.lines().count(), 1, "{shown}");
    assert!(shown.starts_with(&format!("config.toml:{line}: {key}")), "{shown}");
    no_secret_in(&format!("{shown} {errors:?}"));
}

#[test]
fn the_example_is_valid() {
    let config = good(EXAMPLE);
    assert_eq!(config.node_id.as_str(), "us-east-01");
    assert_eq!(config.peers.len(), 1);
    let origin = config.origins.get(&ServiceName::default()).unwrap();
    assert_eq!(origin.to_string(), "127.0.0.1:8080");
    assert_eq!(config.listeners().len(), 1);
    let notices: Vec<_> = config.notices().iter().map(ToString::to_string).collect();
    assert_eq!(notices.len(), 1, "{notices:?}");
    assert!(notices[0].starts_with("peers[0].shared_key is the key of the example file"));
}

#[test]
fn the_example_shows_every_key_and_all_are_valid() {
    let optional = |line: &str| line.starts_with('#') && !line.starts_with("# ") && line != "#";
    let all: String = EXAMPLE
        .lines()
        .map(|line| if optional(line) { &line[1..] } else { line })
        .flat_map(|line| [line, "\n"])
        .collect();
    let config = good(&all);
    assert_eq!(config.edges.len(), 1);
    assert!(config.listen.tls.is_some() && config.listen.admin_token.is_some());
    assert_eq!(config.relay.fec, Some(FixedFec { data: 10, parity: 4 }));
    // Optional keys are shown with their defaults, where they have one.
    assert_eq!(config.limits, Limits::default());
    assert!(config.listen.quic_0rtt && config.listen.quic_alpn == "entrouter");
    let told: Vec<_> = config.origins.values().map(|origin| origin.proxy_protocol).collect();
    assert_eq!(told, [false, true]);
    assert_eq!(config.peers[0].max_rate_mbps, Some(500.0));
    assert!(config.peers[0].next_shared_key.is_some());
    let present: BTreeSet<_> = all
        .lines()
        .map(|line| line.trim_matches(['[', ']']).split(" =").next().unwrap_or_default())
        .collect();
    for key in keys::all() {
        assert!(present.contains(key), "{key} is not in the example");
    }
}

#[test]
fn the_quick_start_of_the_readme_is_valid_with_a_real_key() {
    let config = good(&format!(
        "node_id = \"us-east-01\"\nregion = \"us-east\"\n\n[listen]\n\
         relay_addr = \"0.0.0.0:4433\"\ntcp_addr   = \"0.0.0.0:8443\"\n\
         quic_addr  = \"0.0.0.0:4434\"\nadmin_addr = \"127.0.0.1:9090\"\n\n[[peers]]\n\
         node_id    = \"eu-west-01\"\nregion     = \"eu-west\"\naddr       = \"1.2.3.4:4433\"\n\
         shared_key = \"{KEY_A}\"\n"
    ));
    assert_eq!(config.peers[0].shared_key.expose(), &[1; 32]);
    let listeners = config.listeners();
    let protos: Vec<_> = listeners.iter().map(|l| l.proto).collect();
    assert_eq!(protos, [EdgeProto::Tcp, EdgeProto::Quic]);
    for listener in listeners {
        assert_eq!(listener.dest.as_str(), "eu-west-01");
        assert_eq!(listener.service, ServiceName::default());
    }
}

#[test]
fn defaults() {
    let config = good(&base(""));
    assert_eq!(config.listen.relay_addr.to_string(), "0.0.0.0:4433");
    assert_eq!(config.listen.tcp_addr, None);
    assert_eq!(config.listen.quic_addr, None);
    assert!(config.listen.quic_0rtt);
    assert_eq!(config.listen.quic_alpn, "entrouter");
    assert_eq!(config.listen.admin_addr, None);
    assert!(config.listen.admin_token.is_none() && config.listen.tls.is_none());
    assert_eq!(config.mesh.probe_interval, Duration::from_millis(500));
    assert_eq!(config.mesh.max_udp_payload, 8972);
    assert!(config.mesh.transit);
    assert_eq!(config.relay, Relay { default_dest: None, fec: None });
    assert_eq!(config.lanes, Lanes::default());
    assert_eq!(config.limits, Limits::default());
    assert!(config.peers.is_empty() && config.origins.is_empty() && config.edges.is_empty());
    assert!(config.listeners().is_empty());

    let config = good(&base(&format!(
        "[[peers]]\nnode_id = \"b\"\nshared_key = \"{KEY_A}\"\n[[edge]]\nlisten = \"[::1]:5\"\n"
    )));
    let peer = &config.peers[0];
    assert_eq!((peer.region.as_str(), &peer.addr, peer.max_rate_mbps), ("", &None, None));
    assert!(peer.next_shared_key.is_none());
    let edge = &config.edges[0];
    assert_eq!((edge.proto, &edge.dest), (EdgeProto::Tcp, &None));
    assert_eq!(edge.service.as_str(), "default");
}

#[test]
fn a_sole_peer_is_the_default_destination() {
    let one = base(&format!("peers = [{{ node_id = \"b\", shared_key = \"{KEY_A}\" }}]\n"));
    assert_eq!(good(&one).relay.default_dest.unwrap().as_str(), "b");
    assert_eq!(good(&two_peers("")).relay.default_dest, None);
    let elsewhere = good(&format!("{one}relay.default_dest = \"x\"\n"));
    assert_eq!(elsewhere.relay.default_dest.unwrap().as_str(), "x");
    let chosen = good(&two_peers("relay.default_dest = \"c\"\n"));
    assert_eq!(chosen.relay.default_dest.unwrap().as_str(), "c");
}

#[test]
fn listeners_are_those_that_are_served() {
    let config = good(&two_peers(
        "[listen]\ntcp_addr = \"0.0.0.0:1\"\ntls_cert_path = \"c\"\ntls_key_path = \"k\"\n\
         [relay]\ndefault_dest = \"b\"\n\
         [[edge]]\nlisten = \"0.0.0.0:2\"\ndest = \"c\"\nservice = \"ssh\"\n\
         [[edge]]\nlisten = \"0.0.0.0:3\"\nproto = \"tls\"\n\
         [[edge]]\nlisten = \"0.0.0.0:3\"\nproto = \"quic\"\n\
         [[edge]]\nlisten = \"0.0.0.0:4\"\nproto = \"tcp\"\n",
    ));
    let served = |config: &Config| -> Vec<_> {
        let show = |l: &ServedListener| {
            format!("{} {} {} {}", l.proto.as_str(), l.addr, l.dest, l.service)
        };
        config.listeners().iter().map(show).collect()
    };
    let edges = [
        "tcp 0.0.0.0:2 c ssh",
        "tls 0.0.0.0:3 b default",
        "quic 0.0.0.0:3 b default",
        "tcp 0.0.0.0:4 b default",
    ];
    assert_eq!(served(&config)[0], "tls 0.0.0.0:1 b default", "a certificate: never plain TCP");
    assert_eq!(served(&config)[1..], edges);
    assert_eq!(config.notices(), []);
    assert!(config.serves_quic() && config.needs_identity());

    let plain = good(&two_peers(
        "[listen]\ntcp_addr = \"0.0.0.0:1\"\nquic_addr = \"0.0.0.0:1\"\n\
         [[edge]]\nlisten = \"0.0.0.0:2\"\ndest = \"c\"\n",
    ));
    assert_eq!(served(&plain), ["tcp 0.0.0.0:2 c default"], "no destination");
    assert!(!plain.serves_quic() && !plain.needs_identity());
}

#[test]
fn a_self_signed_certificate_is_told() {
    let quic = "[relay]\ndefault_dest = \"b\"\n[listen]\nquic_addr = \"0.0.0.0:1\"\n";
    let notices: Vec<_> =
        good(&two_peers(quic)).notices().iter().map(ToString::to_string).collect();
    let told = "QUIC clients are shown a self-signed certificate, made anew at each start: its \
                fingerprint is in the log";
    assert_eq!(notices, [told]);
    let own = format!("{quic}tls_cert_path = \"c\"\ntls_key_path = \"k\"\n");
    assert_eq!(good(&two_peers(&own)).notices(), []);
}

#[test]
fn notices() {
    let told = |text: &str, start: &str| {
        let notices: Vec<_> = good(text).notices().iter().map(ToString::to_string).collect();
        assert!(notices.iter().all(|notice| notice.lines().count() == 1));
        notices.iter().any(|notice| notice.starts_with(start))
    };
    let tcp = "[listen]\ntcp_addr = \"0.0.0.0:1\"\n";
    assert!(told(
        &base(tcp),
        "tcp_addr does not accept: there are no peers and no relay.default_dest"
    ));
    assert!(told(
        &two_peers(tcp),
        "tcp_addr does not accept: several peers and no relay.default_dest"
    ));
    let dest = format!("{tcp}[relay]\ndefault_dest = \"b\"\n");
    assert!(!told(&two_peers(&dest), "tcp_addr"));
    assert!(told(&base("listen.quic_addr = \"0.0.0.0:9\"\n"), "quic_addr does not accept"));
    assert!(told(&base(""), "no [origins]: this PoP dials nothing"));
    assert!(!told(&base("origins.default = \"localhost:80\"\n"), "no [origins]"));

    let admin = "admin_addr 0.0.0.0:9 is not a loopback address";
    assert!(told(&base("listen.admin_addr = \"0.0.0.0:9\"\n"), admin));
    let with_token =
        format!("listen.admin_addr = \"0.0.0.0:9\"\nlisten.admin_token = \"{TOKEN}\"\n");
    assert!(!told(&base(&with_token), "admin_addr"));
    for loopback in ["127.0.0.1:9", "127.9.9.9:9", "[::1]:9", "[::ffff:127.0.0.1]:9"] {
        assert!(!told(&base(&format!("listen.admin_addr = \"{loopback}\"\n")), "admin_addr"));
    }
}

/// As an embedder may make one: the file's own checks are not in the way.
#[test]
fn a_node_refuses_two_names_that_are_one_on_the_wire() {
    let (a, b) = two_of_one_hash();
    let now = crate::tests::epoch();
    let node = |config: Config| crate::Node::new(config, [1; 32], now, Duration::ZERO);
    let fine = good(&two_peers("[[edge]]\nlisten = \"0.0.0.0:0\"\ndest = \"x\"\n"));
    type Name = fn(&mut Config) -> &mut NodeId;
    let places: [Name; 5] = [
        |config| &mut config.node_id,
        |config| &mut config.peers[0].node_id,
        |config| &mut config.peers[1].node_id,
        |config| config.relay.default_dest.get_or_insert_with(|| NodeId::new("y").unwrap()),
        |config| config.edges[0].dest.as_mut().unwrap(),
    ];
    for (i, first) in places.iter().enumerate() {
        for (j, second) in places.iter().enumerate() {
            let mut config = fine.clone();
            first(&mut config).clone_from(&a);
            assert!(node(config.clone()).is_ok(), "{i}");
            second(&mut config).clone_from(&b);
            let problem = node(config.clone()).err().map(|e| e.to_string());
            let collides = problem.is_some_and(|e| e.contains("have the same hash on the wire"));
            assert_eq!(collides, i != j, "{i} {j}");

            // Nor does a running node become such a one.
            config.node_id.clone_from(&fine.node_id);
            let mut running = node(fine.clone()).unwrap();
            let is_left = i != j && i > 0 && j > 0;
            assert_eq!(running.reconfigure(now, config).is_err(), is_left, "{i} {j}");
        }
    }
    // A destination that is this PoP, a peer, or named twice is no collision.
    let mut config = fine;
    config.relay.default_dest = Some(config.node_id.clone());
    config.edges.extend(config.edges.clone());
    assert!(node(config.clone()).is_ok());
    config.relay.default_dest = Some(config.peers[1].node_id.clone());
    assert!(node(config).is_ok());
}

#[test]
fn destinations_that_may_be_slips_are_told() {
    let told = |text: &str| -> Vec<String> {
        good(text).notices().iter().map(ToString::to_string).collect()
    };
    let edge = |addr: u16, dest: &str, more: &str| {
        format!("[[edge]]\nlisten = \"0.0.0.0:{addr}\"\ndest = \"{dest}\"\n{more}")
    };
    let far = "destination x is no peer: it is reached over other PoPs, if one of that name is in \
               the mesh; check the spelling";
    let listeners = edge(1, "x", "") + &edge(2, "x", "") + &edge(3, "b", "");
    assert_eq!(told(&two_peers(&listeners)), [far]);
    let default = "[listen]\ntcp_addr = \"0.0.0.0:9\"\n[relay]\ndefault_dest = \"x\"\n";
    assert_eq!(told(&two_peers(default)), [far]);
    assert_eq!(told(&base(default)), ["destination x cannot be reached: there are no peers"]);

    // To itself: only what its own origins have.
    let own = |service: &str| {
        format!(
            "tcp 0.0.0.0:1 leads to this PoP itself, and {service} is none of its [origins]: \
             clients are refused"
        )
    };
    let origins = "[origins]\nssh = \"localhost:22\"\n";
    let ssh = edge(1, "a", "service = \"ssh\"\n");
    assert_eq!(told(&base(&ssh)), [own("ssh")]);
    assert_eq!(told(&base(&(ssh + origins))), <[&str; 0]>::default());
    assert_eq!(told(&base(&(edge(1, "a", "") + origins))), [own("default")]);
    let default = "[listen]\ntcp_addr = \"0.0.0.0:1\"\n[relay]\ndefault_dest = \"a\"\n";
    assert_eq!(told(&two_peers(default)), [own("default")]);
    // At a peer nobody here knows which services there are.
    assert_eq!(told(&two_peers(&edge(1, "b", "service = \"x\"\n"))), <[&str; 0]>::default());
}

#[test]
fn the_summary_is_aligned_and_keeps_secrets() {
    let config = good(&two_peers(&format!(
        "[listen]\nadmin_addr = \"127.0.0.1:9\"\nadmin_token = \"{TOKEN}\"\n\
         tcp_addr = \"[::]:8443\"\nquic_addr = \"[::]:8443\"\n[relay]\ndefault_dest = \"c\"\n\
         [origins]\ndefault = \"localhost:80\"\n\
         web = {{ addr = \"[::1]:81\", proxy_protocol = \"v2\" }}\n"
    )));
    let summary = config.summary();
    assert_eq!(
        summary,
        "node     a (r)\n\
         relay    udp 0.0.0.0:4433\n\
         clients  tcp [::]:8443 -> c/default\n         quic [::]:8443 -> c/default\n\
         quic     0-RTT, ALPN entrouter\n\
         admin    http 127.0.0.1:9, token needed\n\
         peers    b  comes to us\n         c  comes to us\n\
         origins  default  localhost:80\n         web      [::1]:81, PROXY protocol v2\n\
         fec      adaptive\n\
         probes   every 500 ms\n\
         packets  up to 8972 bytes of UDP\n\
         transit  relays for others\n\
         express  first 256 KiB, 50 % beside bulk\n\
         limits   65536 clients, 4096 from one address\n\
         memory   1024 MiB for flows, 32768 KiB for each\n\
         rekey    every 120 s\n"
    );
    no_secret_in(&format!("{summary} {config:?}"));
    let summary = good(&base("mesh.transit = false\n")).summary();
    assert!(summary.contains("\ntransit  off\n"), "{summary}");
}

#[test]
fn what_is_not_toml() {
    bad(&base("[listen\n"), 4, "", "not valid TOML");
    bad(&base(&format!("[[peers]]\nshared_key = \"{KEY_A}\n")), 5, "shared_key", "not valid TOML");
    bad(&base(&format!("admin_token = {TOKEN}\n")), 4, "admin_token", "not valid TOML");
    bad(&base("region = \"again\"\n"), 4, "region", "duplicate key");
    bad(&base("[mesh]\n[mesh]\n"), 5, "", "duplicate key");
    bad(&base("[listen]\nadmin_token\n"), 5, "admin_token", "not valid TOML");
    bad(&base(&format!("\"{TOKEN}\n")), 4, "", "not valid TOML");

    let mut bytes = base("admin_token = \"").into_bytes();
    bytes.extend_from_slice(b"\xff\"\n");
    let errors = Config::parse("config.toml", &bytes).unwrap_err();
    assert_eq!(
        errors.to_string(),
        "config.toml:4: admin_token: found a byte that is not UTF-8, wanted text in UTF-8"
    );
    let huge = vec![b'#'; MAX_TEXT + 1];
    let errors = Config::parse("config.toml", &huge).unwrap_err();
    assert_eq!(
        errors.to_string(),
        "config.toml:1: found 1048577 bytes, wanted a file of at most 1048576 bytes"
    );
    let errors = Config::parse("a\nb", b"").unwrap_err();
    assert_eq!(errors.to_string().lines().count(), 2);
    assert_eq!(errors.errors()[0].file.as_ref(), "a?b");
}

#[test]
fn deep_nesting_is_refused_on_a_small_stack() {
    let dotted = ["a"; 79].join(".");
    let attacks = [
        base(&format!("x = {}", "[".repeat(300_000))),
        base(&format!("x = {}1{}", "[".repeat(79), "]".repeat(79))),
        base(&"{a=".repeat(100_000)),
        base(&format!("{}\n", ["a"; 200_000].join("."))),
        format!("[{dotted}]\n{}a=1{}\n", format!("{dotted} = {{").repeat(79), "}".repeat(79)),
        base(&format!(
            "x = '''''''\n{}a=1{}\n",
            format!("{dotted} = {{").repeat(79),
            "}".repeat(79)
        )),
    ];
    let run = move || {
        for text in attacks {
            let errors = parse(&text).unwrap_err().to_string();
            assert!(errors.contains("nested too deeply"), "{errors}");
        }
    };
    std::thread::Builder::new().stack_size(512 << 10).spawn(run).unwrap().join().unwrap();
    // Dots and brackets in strings and comments are no nesting.
    let dots = ".[{".repeat(1000);
    good(&base(&format!("# {dots}\n")));
    let errors = parse(&base(&format!("x = \"\"\"\n\\\"\"{dots}\n\"\"\"\ny = '{dots}'\n")));
    assert!(errors.unwrap_err().to_string().contains("unknown key"));
    good(&base("origins = { a = \"b.c:1\", d = \"e.f:1\" }\n"));
}

#[test]
fn all_faults_are_told_by_line_and_capped() {
    let errors =
        parse("node_id = 1\nnope = 1\n[listen]\ntcp_addr = \"x\"\n[mesh]\nprobe_interval_ms = 1\n");
    let errors = errors.unwrap_err();
    let told: Vec<_> = errors.errors().iter().map(|e| (e.line, e.key.as_str())).collect();
    assert_eq!(
        told,
        [
            (1, "node_id"),
            (1, "region"),
            (2, "nope"),
            (4, "listen.tcp_addr"),
            (6, "mesh.probe_interval_ms")
        ]
    );
    let many: String = (0..100).map(|i| format!("k{i} = 1\n")).collect();
    let errors = parse(&base(&many)).unwrap_err();
    assert_eq!((errors.errors().len(), errors.omitted()), (MAX_ERRORS, 80));
    assert_eq!(errors.errors().last().unwrap().line, 3 + MAX_ERRORS);
    assert_eq!(errors.to_string().lines().count(), MAX_ERRORS + 1);
    assert!(errors.to_string().ends_with("... and 80 more"));
}

#[test]
fn big_files_are_quick() {
    let started_with = |unit: &str| {
        let text = unit.repeat(MAX_TEXT / unit.len() - 1);
        parse(&text).unwrap_err()
    };
    for unit in [
        "[[peers]]\n",
        "[[edge]]\nlisten=\"0.0.0.0:1\"\n",
        "\u{1}\n",
        "=\n",
        "a = 1\n",
        "\"",
        "[",
        "]\n",
        "x.y.z=1\n",
    ] {
        no_secret_in(&started_with(unit).to_string());
    }
    let keys: String = (0..60_000).map(|i| format!("k{i}=1\n")).collect();
    assert_eq!(parse(&keys).unwrap_err().errors().len(), MAX_ERRORS);
}
