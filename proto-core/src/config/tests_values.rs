//! Each key by itself: what it takes, and what is said of what it does not take.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::tests::*;
use super::*;

#[test]
fn names_and_regions() {
    bad("region = \"r\"\n", 1, "node_id", "found nothing, wanted 1 to 64");
    bad("node_id = \"a\"\n", 1, "region", "found nothing, wanted 1 to 64 printable");
    bad("node_id = \"a b\"\nregion = \"r\"\n", 1, "node_id", "found \"a b\", wanted 1 to 64");
    bad("node_id = \"\"\nregion = \"r\"\n", 1, "node_id", "found empty text");
    bad("node_id = 7\nregion = \"r\"\n", 1, "node_id", "found a whole number, wanted");
    bad("node_id = \"a\"\nregion = \" \"\n", 2, "region", "found \" \", wanted");
    bad("node_id = \"a\"\n\n\nregion = \"x\\ny\"\n", 4, "region", "found text of 3 characters");
    let long = "x".repeat(65);
    bad(&format!("node_id = \"a\"\nregion = \"{long}\"\n"), 2, "region", "text of 65 characters");
    good(&format!("node_id = \"a\"\nregion = \"{}\"\n", "é".repeat(64)));
}

#[test]
fn unknown_keys() {
    let peer = format!("[[peers]]\nnode_id = \"b\"\nshared_key = \"{KEY_A}\"\n");
    bad(
        &base("[mesh]\nprobe_intervall_ms = 9\n"),
        5,
        "mesh.probe_intervall_ms",
        "did you mean \"probe_interval_ms\"?",
    );
    bad(
        &base(&format!("{peer}next_shared_ky = \"{KEY_B}\"\n")),
        7,
        "peers[0].next_shared_ky",
        "unknown key \"next_shared_ky\": did you mean \"next_shared_key\"?",
    );
    bad(
        &base(&format!("{peer}admin_token = \"{TOKEN}\"\n")),
        7,
        "peers[0].admin_token",
        "it belongs before the first section, or in [listen]",
    );
    bad(&base("tcp_addr = \"0.0.0.0:1\"\n"), 4, "tcp_addr", "it belongs in [listen]");
    bad(&base("[Peers]\n"), 4, "Peers", "did you mean \"peers\"?");
    bad(&base("zzzzzz = 1\n"), 4, "zzzzzz", "wanted one of node_id, region, admin_token");
    bad(&base(&format!("[relay]\n\"{KEY_A}\" = 1\n")), 5, "relay", "unknown key of 44 characters");
}

#[test]
fn secrets_among_the_origins() {
    for name in ["admin_token", "shared_key", "next_shared_key"] {
        bad(
            &base(&format!("[origins]\n{name} = \"{TOKEN}:80\"\n")),
            5,
            &format!("origins.{name}"),
            "it belongs",
        );
    }
    bad(
        &base(&format!("[origins]\nadmin_tokn = \"{TOKEN}\"\n")),
        5,
        "origins.admin_tokn",
        "found text without a port",
    );
}

#[test]
fn wrong_kinds() {
    bad(
        &base("listen = 1\n"),
        4,
        "listen",
        "found a whole number, wanted a section: write [listen]",
    );
    bad(&base("[[listen]]\n"), 4, "listen", "found a list, wanted a section: write [listen]");
    bad(
        &base("[peers]\nnode_id = \"b\"\n"),
        4,
        "peers",
        "found a section, wanted a list: write [[peers]]",
    );
    bad(&base("peers = [1]\n"), 4, "peers[0]", "found a whole number");
    bad(&base("listen.tcp_addr = 8443\n"), 4, "listen.tcp_addr", "found a whole number, wanted IP");
    bad(&base("mesh.probe_interval_ms = \"500\"\n"), 4, "mesh.probe_interval_ms", "found text");
    bad(&base("mesh.probe_interval_ms = 1.5\n"), 4, "mesh.probe_interval_ms", "with a fraction");
    bad(&base("origins.default = [1]\n"), 4, "origins.default", "found a list");
    bad(&base("region2 = 1979-05-27\n"), 4, "region2", "did you mean \"region\"?");
    bad(&base("mesh = 1979-05-27\n"), 4, "mesh", "found a date or time");
    bad(&base("relay.default_dest = true\n"), 4, "relay.default_dest", "found true or false");
}

#[test]
fn tokens() {
    bad(
        &base(&format!("[listen]\nadmin_token = \"{TOKEN} \"\n")),
        5,
        "listen.admin_token",
        "found text of 22 characters, wanted 1 to 256 ASCII",
    );
    bad(&base("admin_token = \"\"\n"), 4, "admin_token", "found empty text");
    bad(&base("admin_token = 123456789\n"), 4, "admin_token", "found a whole number");
    bad(
        &base(&format!("admin_token = \"{TOKEN}\"\n[listen]\nadmin_token = \"{TOKEN}\"\n")),
        6,
        "listen.admin_token",
        "found a second admin_token",
    );
    let top = good(&base(&format!("admin_token = \"{TOKEN}\"\n")));
    assert_eq!(top.listen.admin_token.unwrap().expose(), TOKEN);
}

#[test]
fn listen_addresses() {
    for wrong in
        ["localhost:1", "0.0.0.0", ":8443", "8443", "0.0.0.0:65536", "1.2.3.4.5:1", "::1:x"]
    {
        bad(
            &base(&format!("[listen]\nrelay_addr = \"{wrong}\"\n")),
            5,
            "listen.relay_addr",
            &format!("found \"{wrong}\", wanted IP address and port"),
        );
    }
    let clash = |a: &str, b: &str, line, key: &str| {
        bad(&base(&format!("[listen]\n{a}\n{b}\n")), line, key, "takes already");
    };
    clash("relay_addr = \"0.0.0.0:9\"", "quic_addr = \"0.0.0.0:9\"", 6, "listen.quic_addr");
    clash("", "quic_addr = \"127.0.0.1:4433\"", 6, "listen.quic_addr");
    clash("tcp_addr = \"[::1]:9\"", "admin_addr = \"[::1]:9\"", 6, "listen.admin_addr");
    good(&base("[listen]\nrelay_addr = \"0.0.0.0:9\"\ntcp_addr = \"0.0.0.0:9\"\n"));
    good(&base("[listen]\ntcp_addr = \"0.0.0.0:0\"\nadmin_addr = \"0.0.0.0:0\"\n"));
    good(&base("[listen]\nrelay_addr = \"[::]:0\"\nquic_addr = \"[::]:0\"\n"));
}

#[test]
fn certificates() {
    bad(
        &base("[listen]\ntls_cert_path = \"c\"\n"),
        5,
        "listen.tls_key_path",
        "found nothing, wanted path of a PEM file, since tls_cert_path is given",
    );
    bad(&base("[listen]\ntls_key_path = \"c\"\n"), 5, "listen.tls_cert_path", "found nothing");
    bad(
        &base("[listen]\ntls_key_path = \"c\"\ntls_cert_path = \"\"\n"),
        6,
        "listen.tls_cert_path",
        "found empty text",
    );
}

#[test]
fn numbers() {
    for (wrong, found) in [
        ("19", "19"),
        ("60001", "60001"),
        ("0", "0"),
        ("-500", "-500"),
        ("99999999999999999999", "a number that is too big"),
    ] {
        bad(
            &base(&format!("[mesh]\nprobe_interval_ms = {wrong}\n")),
            5,
            "mesh.probe_interval_ms",
            &format!("found {found}, wanted 20 to 60000 milliseconds"),
        );
    }
    for (right, ms) in [("20", 20), ("60_000", 60_000), ("0x64", 100), ("+500", 500)] {
        let config = good(&base(&format!("[mesh]\nprobe_interval_ms = {right}\n")));
        assert_eq!(config.mesh.probe_interval, Duration::from_millis(ms));
    }
    for wrong in ["1251", "8973", "0", "-1472"] {
        bad(
            &base(&format!("[mesh]\nmax_udp_payload = {wrong}\n")),
            5,
            "mesh.max_udp_payload",
            &format!("found {wrong}, wanted 1252 to 8972 bytes"),
        );
    }
    for right in [1252, 1472, 8972] {
        let config = good(&base(&format!("[mesh]\nmax_udp_payload = {right}\n")));
        assert_eq!(config.mesh.max_udp_payload, right);
    }
    let rate = |rate: &str| {
        base(&format!(
            "[[peers]]\nnode_id = \"b\"\nshared_key = \"{KEY_A}\"\nmax_rate_mbps = {rate}\n"
        ))
    };
    for wrong in [
        "0",
        "-1",
        "0.0",
        "nan",
        "inf",
        "-inf",
        "100001",
        "1e300",
        "\"10\"",
        "99999999999999999999",
    ] {
        bad(&rate(wrong), 7, "peers[0].max_rate_mbps", "wanted a number of Mbit/s above 0");
    }
    for (right, mbps) in [("1", 1.0), ("0.5", 0.5), ("1e5", 1e5), ("100_000", 1e5)] {
        assert_eq!(good(&rate(right)).peers[0].max_rate_mbps, Some(mbps));
    }
}

#[test]
fn fixed_fec() {
    let fec = |data: &str, parity: &str| {
        base(&format!("[relay]\nfec_data_shards = {data}\nfec_parity_shards = {parity}\n"))
    };
    bad(&fec("0", "0"), 5, "relay.fec_data_shards", "found 0, wanted 1 to 128 source symbols");
    bad(&fec("129", "4"), 5, "relay.fec_data_shards", "found 129");
    bad(&fec("128", "65"), 6, "relay.fec_parity_shards", "found 65, wanted 0 to 64");
    bad(&fec("1", "5"), 6, "relay.fec_parity_shards", "found 5 for 1 data");
    bad(&fec("10", "-1"), 6, "relay.fec_parity_shards", "found -1");
    bad(
        &base("relay.fec_data_shards = 10\n"),
        4,
        "relay.fec_parity_shards",
        "found nothing, wanted 0 to 64",
    );
    bad(&base("relay.fec_parity_shards = 10\n"), 4, "relay.fec_data_shards", "found nothing");
    for (data, parity) in [(1, 4), (128, 64), (10, 0)] {
        let config = good(&fec(&data.to_string(), &parity.to_string()));
        assert_eq!(config.relay.fec, Some(FixedFec { data, parity }));
    }
}

#[test]
fn lanes() {
    let lanes = |text: &str| base(&format!("[lanes]\n{text}\n"));
    for (key, least, most, wanted) in [
        ("express_kib", 0, 1 << 16, "wanted 0 to 65536 KiB"),
        ("express_share_pct", 1, 100, "wanted 1 to 100 percent"),
    ] {
        for wrong in [least - 1, most + 1, i64::MAX] {
            let problem = format!("found {wrong}, {wanted}");
            bad(&lanes(&format!("{key} = {wrong}")), 5, &format!("lanes.{key}"), &problem);
        }
        for right in [least, most] {
            good(&lanes(&format!("{key} = {right}")));
        }
    }
    let given = good(&lanes("express_kib = 64\nexpress_share_pct = 20"));
    assert_eq!(given.lanes, Lanes { express_bytes: 64 << 10, express_share: 20 });
    bad(&base("express_kib = 64\n"), 4, "express_kib", "it belongs in [lanes]");
}

#[test]
fn limits() {
    let limits = |text: &str| base(&format!("[limits]\n{text}\n"));
    for (key, least, most, wanted) in [
        ("flow_window_kib", 64, 1 << 20, "wanted 64 to 1048576 KiB"),
        ("node_memory_mib", 1, 1 << 20, "wanted 1 to 1048576 MiB"),
        ("rekey_after_s", 1, 120, "wanted 1 to 120 seconds"),
        ("max_connections", 1, 1_000_000, "wanted 1 to 1000000 clients"),
    ] {
        for wrong in [least - 1, most + 1, -1, i64::MAX] {
            let problem = format!("found {wrong}, {wanted}");
            bad(&limits(&format!("{key} = {wrong}")), 5, &format!("limits.{key}"), &problem);
        }
        bad(&limits(&format!("{key} = 1.5")), 5, &format!("limits.{key}"), wanted);
        for right in [least, most] {
            good(&limits(&format!("{key} = {right}")));
        }
    }
    let given = good(&limits(
        "flow_window_kib = 64\nnode_memory_mib = 3\nrekey_after_s = 7\nmax_connections = 9\n\
         max_connections_per_address = 8",
    ));
    let wanted = Limits {
        flow_window: 64 << 10,
        node_memory: 3 << 20,
        rekey_after: Duration::from_secs(7),
        max_connections: 9,
        max_connections_per_address: 8,
    };
    assert_eq!(given.limits, wanted);

    // What is not configured gives way to what is; what contradicts itself is refused.
    assert_eq!(good(&limits("node_memory_mib = 1")).limits.flow_window, 1 << 20);
    good(&limits("flow_window_kib = 1024\nnode_memory_mib = 1"));
    bad(
        &limits("flow_window_kib = 1025\nnode_memory_mib = 1"),
        5,
        "limits.flow_window_kib",
        "found 1025, more than a node_memory_mib of 1 holds, wanted",
    );
    bad(&limits("flow_window_kib = 1025\nnode_memory_mib = 0"), 6, "limits.node_memory_mib", "");
    bad(&base("flow_window_kib = 64\n"), 4, "flow_window_kib", "it belongs in [limits]");

    assert_eq!(good(&limits("max_connections = 7")).limits.max_connections_per_address, 7);
    good(&limits("max_connections = 7\nmax_connections_per_address = 7"));
    for (text, max) in [("max_connections = 7\n", 7), ("", 1 << 16)] {
        let one = max + 1;
        bad(
            &limits(&format!("max_connections_per_address = {one}\n{text}")),
            5,
            "limits.max_connections_per_address",
            &format!("found {one}, more than a max_connections of {max}, wanted 1 to 1000000"),
        );
    }
    for wrong in [0, 1_000_001] {
        bad(
            &limits(&format!("max_connections_per_address = {wrong}")),
            5,
            "limits.max_connections_per_address",
            &format!("found {wrong}, wanted 1 to 1000000 clients, at most limits.max_connections"),
        );
    }
    let faulty = limits("max_connections_per_address = 1000000\nmax_connections = 0");
    bad(&faulty, 6, "limits.max_connections", "");
    bad(&limits("max_conections = 7"), 5, "limits.max_conections", "did you mean");
}

#[test]
fn keys() {
    let key = |key: &str| base(&format!("[[peers]]\nnode_id = \"b\"\nshared_key = \"{key}\"\n"));
    let wanted = "wanted 32 bytes in base64 (make one with `entrouter-mio genkey`)";
    for (wrong, found) in [
        (STANDARD.encode([1; 31]), "31 bytes"),
        (STANDARD.encode([1; 33]), "33 bytes"),
        (STANDARD.encode([0; 32]), "32 zero bytes"),
        (KEY_A.trim_end_matches('=').to_owned(), "text that is not base64"),
        (format!(" {KEY_A}"), "text that is not base64"),
        ("base64-encoded-32-byte-key".to_owned(), "text that is not base64"),
        (String::new(), "empty text"),
    ] {
        bad(&key(&wrong), 6, "peers[0].shared_key", &format!("found {found}, {wanted}"));
    }
    bad(
        &base("[[peers]]\nnode_id = \"b\"\n"),
        4,
        "peers[0].shared_key",
        &format!("found nothing, {wanted}"),
    );
    bad(
        &key(&format!("{KEY_A}\"\nnext_shared_key = \"AAAA")),
        7,
        "peers[0].next_shared_key",
        "found 3 bytes",
    );
    bad(
        &key(&format!("{KEY_A}\"\nnext_shared_key = \"{KEY_A}")),
        7,
        "peers[0].next_shared_key",
        "found the key of peers[0].shared_key again",
    );
    bad(
        &two_peers(&format!("[[edge]]\nlisten = \"{KEY_A}\"\ndest = \"b\"\n")),
        10,
        "edge[0].listen",
        "found text of 44 characters",
    );
    let unpadded = KEY_A.trim_end_matches('=');
    bad(
        &key(&format!("{KEY_A}\"\naddr = \"{unpadded}")),
        7,
        "peers[0].addr",
        "text of 43 characters",
    );
    assert_eq!(
        parse(&key(&STANDARD.encode([1; 31]))).unwrap_err().to_string(),
        format!("config.toml:6: peers[0].shared_key: found 31 bytes, {wanted}")
    );
}

#[test]
fn peers() {
    let peer =
        |id: &str, key: &str| format!("[[peers]]\nnode_id = \"{id}\"\nshared_key = \"{key}\"\n");
    let peers = |a: &str, b: &str| base(&format!("{}{}", peer(a, KEY_A), peer(b, KEY_B)));
    bad(&peers("b", "b"), 8, "peers[1].node_id", "found \"b\", the name of peers[0].node_id");
    bad(&peers("b", "a"), 8, "peers[1].node_id", "found \"a\", this PoP itself");
    bad(
        &base(&format!("{}{}", peer("b", KEY_A), peer("c", KEY_A))),
        9,
        "peers[1].shared_key",
        "found the key of peers[0].shared_key again",
    );
    bad(
        &base(&format!("{}next_shared_key = \"{KEY_B}\"\n{}", peer("b", KEY_A), peer("c", KEY_B))),
        10,
        "peers[1].shared_key",
        "found the key of peers[0].next_shared_key again",
    );
    bad(
        &base(&format!("[[peers]]\nshared_key = \"{KEY_A}\"\n")),
        4,
        "peers[0].node_id",
        "found nothing",
    );
    bad(
        &base(&format!("{}region = \"\\u0007\"\n", peer("b", KEY_A))),
        7,
        "peers[0].region",
        "found text of 1 characters",
    );
    let many: String = (0..MAX_PEERS + 1)
        .map(|i| {
            let mut key = [9; 32];
            key[..8].copy_from_slice(&(i as u64).to_be_bytes());
            peer(&format!("peer-{i}"), &STANDARD.encode(key))
        })
        .collect();
    bad(&base(&many), 4 + 3 * MAX_PEERS, "peers", "found 1025 of them, wanted at most 1024");
}

#[test]
fn names_that_collide_on_the_wire() {
    let (a, b) = two_of_one_hash();
    let text = base(&format!(
        "[[peers]]\nnode_id = \"{a}\"\nshared_key = \"{KEY_A}\"\n\
         [[peers]]\nnode_id = \"{b}\"\nshared_key = \"{KEY_B}\"\n"
    ));
    bad(&text, 8, "peers[1].node_id", &format!("looks like \"{a}\" on the wire"));
    let own = |more: &str| format!("node_id = \"{a}\"\nregion = \"r\"\n{more}");
    let peer = format!("[[peers]]\nnode_id = \"{b}\"\nshared_key = \"{KEY_B}\"\n");
    bad(&own(&peer), 4, "peers[0].node_id", "same 32-bit hash");

    // Destinations too, with this PoP, a peer and each other; each pair is told once.
    let default = |dest: &NodeId| format!("relay.default_dest = \"{dest}\"\n");
    let edge = |dest: &NodeId| format!("[[edge]]\nlisten = \"0.0.0.0:0\"\ndest = \"{dest}\"\n");
    let told = format!("found \"{b}\", which looks like \"{a}\" on the wire");
    bad(&own(&default(&b)), 3, "relay.default_dest", &told);
    bad(&own(&edge(&b)), 5, "edge[0].dest", &told);
    bad(&own(&format!("{peer}{}", edge(&b))), 4, "peers[0].node_id", &told);
    bad(&base(&format!("{}{}", default(&a), edge(&b))), 7, "edge[0].dest", &told);
    let peer = format!("[[peers]]\nnode_id = \"{a}\"\nshared_key = \"{KEY_B}\"\n");
    bad(&base(&format!("{peer}{}{}", edge(&a), edge(&b))), 12, "edge[1].dest", &told);
    good(&base(&format!("{}{}{}", default(&b), edge(&b), edge(&b))));
}

#[test]
fn transit() {
    for wrong in ["\"false\"", "0", "[]"] {
        bad(
            &base(&format!("[mesh]\ntransit = {wrong}\n")),
            5,
            "mesh.transit",
            "wanted true or false (without quotes)",
        );
    }
    for right in [true, false] {
        assert_eq!(good(&base(&format!("[mesh]\ntransit = {right}\n"))).mesh.transit, right);
    }
    bad(&base("transit = false\n"), 4, "transit", "it belongs in [mesh]");
    bad(&base("[mesh]\ntranist = false\n"), 5, "mesh.tranist", "did you mean \"transit\"?");
}

#[test]
fn hosts_and_ports() {
    let addr = |addr: &str| {
        base(&format!("[[peers]]\nnode_id = \"b\"\nshared_key = \"{KEY_A}\"\naddr = \"{addr}\"\n"))
    };
    for wrong in [
        "1.2.3.4",
        "1.2.3.4:0",
        "1.2.3.4:65536",
        "1.2.3.4:+1",
        "1.2.3.4:",
        ":4433",
        "::1:4433",
        "[::1]",
        "[::1]:0",
        "[1.2.3.4]:1",
        "[::1:4433",
        "1.2.3:1",
        "1.2.3.400:1",
        "a b:1",
        "-a:1",
        "a..b:1",
        "é.example:1",
        "http://a:1",
        "a:1:2",
        "host:4433/",
        "1:2",
    ] {
        bad(&addr(wrong), 7, "peers[0].addr", &format!("found \"{wrong}\", wanted \"host:port\""));
    }
    bad(&addr("0.0.0.0:4433"), 7, "peers[0].addr", "leads to one host");
    bad(&addr("[ff02::1]:4433"), 7, "peers[0].addr", "leads to one host");
    for (right, shown) in [
        ("1.2.3.4:1", "1.2.3.4:1"),
        ("[0:0::1]:65535", "[::1]:65535"),
        ("a-b.example.net:443", "a-b.example.net:443"),
        ("localhost:80", "localhost:80"),
        ("example.com.:80", "example.com.:80"),
        ("4chan.org:80", "4chan.org:80"),
    ] {
        let config = good(&addr(right));
        assert_eq!(config.peers[0].addr.as_ref().unwrap().to_string(), shown);
    }
    bad(&base("[origins]\ndefault = \"127.0.0.1\"\n"), 5, "origins.default", "found \"127.0.0.1\"");
    bad(&base("[origins]\n\"a b\" = \"localhost:1\"\n"), 5, "origins", "found \"a b\" as name");
    bad(
        &base("[origins]\nweb.v1 = \"localhost:1\"\n"),
        5,
        "origins.web",
        "put a name that has dots into quotes",
    );
    assert_eq!(good(&base("[origins]\n\"web.v1\" = \"localhost:1\"\n")).origins.len(), 1);
}
