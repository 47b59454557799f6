//! The keys of listeners and origins: what they take, and what is said of what they do not take.

use super::tests::*;
use super::*;

#[test]
fn quic() {
    for wrong in ["\"true\"", "1"] {
        bad(
            &base(&format!("[listen]\nquic_0rtt = {wrong}\n")),
            5,
            "listen.quic_0rtt",
            "wanted true or false (without quotes)",
        );
    }
    for right in [true, false] {
        let config = good(&base(&format!("[listen]\nquic_0rtt = {right}\n")));
        assert_eq!(config.listen.quic_0rtt, right);
    }
    let alpn = |text: &str| base(&format!("[listen]\nquic_alpn = \"{text}\"\n"));
    for (wrong, found) in [
        (String::new(), "empty text"),
        ("a b".to_owned(), "\"a b\""),
        ("é".to_owned(), "\"é\""),
        ("x".repeat(256), "text of 256 characters"),
    ] {
        let problem = format!("found {found}, wanted 1 to 255 ASCII characters without spaces");
        bad(&alpn(&wrong), 5, "listen.quic_alpn", &problem);
    }
    for right in ["h3".to_owned(), "a/1.0~!".to_owned(), "x".repeat(255)] {
        assert_eq!(good(&alpn(&right)).listen.quic_alpn, right);
    }
    bad(&base("quic_alpn = \"x\"\n"), 4, "quic_alpn", "it belongs in [listen]");
    bad(&base("[listen]\nquic_0rt = true\n"), 5, "listen.quic_0rt", "did you mean \"quic_0rtt\"?");
}

#[test]
fn origins() {
    let web = |text: &str| base(&format!("[origins]\nweb = {{ {text} }}\n"));
    let service = ServiceName::new("web").unwrap();
    for (text, proxy_protocol) in [
        (web("addr = \"localhost:80\""), false),
        (web("addr = \"localhost:80\", proxy_protocol = \"v2\""), true),
        (base("[origins.web]\naddr = \"localhost:80\"\nproxy_protocol = \"v2\"\n"), true),
        (base("[origins]\nweb = \"localhost:80\"\n"), false),
    ] {
        let addr = "localhost:80".parse().unwrap();
        assert_eq!(good(&text).origins.get(&service), Some(&Origin { addr, proxy_protocol }));
    }
    for (wrong, found) in [
        ("\"v1\"", "found \"v1\""),
        ("\"\"", "found empty text"),
        ("true", "found true or false"),
        ("2", "found a whole number"),
    ] {
        bad(
            &web(&format!("addr = \"localhost:80\", proxy_protocol = {wrong}")),
            5,
            "origins.web.proxy_protocol",
            &format!("{found}, wanted \"v2\""),
        );
    }
    bad(&web("proxy_protocol = \"v2\""), 5, "origins.web.addr", "found nothing, wanted \"host:");
    bad(&web("addr = \"localhost\""), 5, "origins.web.addr", "found text without a port");
    bad(&web("addr = 80"), 5, "origins.web.addr", "found a whole number, wanted \"host:port\"");
    bad(
        &web("addr = \"localhost:80\", proxy_protocl = \"v2\""),
        5,
        "origins.web.proxy_protocl",
        "did you mean \"proxy_protocol\"?",
    );
    bad(&web(""), 5, "origins.web", "found a section, wanted \"host:port\", or { addr = ");
    bad(
        &base("origins.web = 80\n"),
        4,
        "origins.web",
        "found a whole number, wanted \"host:port\"",
    );
    bad(&base("proxy_protocol = \"v2\"\n"), 4, "proxy_protocol", "in an entry of [origins]");
    // A secret in the wrong place stays one.
    bad(&web(&format!("addr = \"{TOKEN}\"")), 5, "origins.web.addr", "found text without a port");
    bad(
        &web(&format!("addr = \"localhost:80\", shared_key = \"{KEY_A}\"")),
        5,
        "origins.web.shared_key",
        "it belongs in [[peers]]",
    );
    let secret = format!("[origins]\nshared_key = {{ addr = \"{TOKEN}:80\" }}\n");
    bad(&base(&secret), 5, "origins.shared_key", "it belongs");
}

#[test]
fn any_pop_may_be_a_destination() {
    for dest in ["b", "far-away", "a"] {
        let text = format!(
            "[relay]\ndefault_dest = \"{dest}\"\n[[edge]]\nlisten = \"0.0.0.0:1\"\ndest = \"{dest}\"\n"
        );
        for text in [base(&text), two_peers(&text)] {
            let config = good(&text);
            let dests: Vec<_> = config.destinations().map(NodeId::as_str).collect();
            assert_eq!(dests, [dest, dest]);
        }
    }
}

#[test]
fn a_listener_needs_a_destination() {
    bad(
        &two_peers("relay.default_dest = \"b b\"\n"),
        9,
        "relay.default_dest",
        "found \"b b\", wanted the node_id of a PoP, such as one of [[peers]] (b, c)",
    );
    bad(
        &two_peers("[[edge]]\nlisten = \"0.0.0.0:1\"\n"),
        9,
        "edge[0].dest",
        "found nothing, wanted the node_id of a PoP, such as one of [[peers]] (b, c), \
         since there is no relay.default_dest",
    );
    bad(
        &base("[[edge]]\nlisten = \"0.0.0.0:1\"\n"),
        4,
        "edge[0].dest",
        "found nothing, wanted the node_id of a PoP, since there is no relay.default_dest",
    );
    // A fault in the default is not told again at each listener that would use it.
    bad(
        &two_peers("[relay]\ndefault_dest = \"\"\n[[edge]]\nlisten = \"0.0.0.0:1\"\n"),
        10,
        "relay.default_dest",
        "found empty text",
    );
    // Nor is a peer without a readable name, which may have been the sole one.
    let text = base(
        "[[peers]]\nnode_id = \"b b\"\nshared_key = \"AAAA\"\n[[edge]]\nlisten = \"0.0.0.0:1\"\n",
    );
    let errors = parse(&text).unwrap_err();
    let lines: Vec<_> = errors.errors().iter().map(|error| error.line).collect();
    assert_eq!(lines, [5, 6], "{errors}");
}

#[test]
fn edges() {
    let edge = |more: &str| two_peers(&format!("[[edge]]\ndest = \"b\"\n{more}\n"));
    bad(&edge(""), 9, "edge[0].listen", "found nothing, wanted IP address and port");
    bad(
        &edge("listen = \"0.0.0.0:1\"\nproto = \"udp\""),
        12,
        "edge[0].proto",
        "found \"udp\", wanted \"tcp\", \"tls\" or \"quic\"",
    );
    bad(
        &edge("listen = \"0.0.0.0:1\"\nproto = \"tls\""),
        12,
        "edge[0].proto",
        "found \"tls\" without a certificate, wanted listen.tls_cert_path",
    );
    good(&edge("listen = \"0.0.0.0:1\"\nproto = \"quic\""));
    bad(&edge("listen = \"0.0.0.0:1\"\nservice = \"a/b\""), 12, "edge[0].service", "found \"a/b\"");
    bad(
        &edge("listen = \"0.0.0.0:1\"\n[[edge]]\nlisten = \"0.0.0.0:1\"\ndest = \"c\""),
        13,
        "edge[1].listen",
        "which edge[0].listen takes already",
    );
    bad(
        &edge("listen = \"0.0.0.0:1\"\n[listen]\ntcp_addr = \"0.0.0.0:1\""),
        11,
        "edge[0].listen",
        "which listen.tcp_addr takes already",
    );
    good(&edge("listen = \"0.0.0.0:0\"\n[[edge]]\nlisten = \"0.0.0.0:0\"\ndest = \"c\""));
    bad(
        &edge(&format!(
            "listen = \"0.0.0.0:0\"\n{}",
            "[[edge]]\nlisten = \"0.0.0.0:0\"\ndest = \"b\"\n".repeat(MAX_EDGES)
        )),
        9 + 3 * MAX_EDGES,
        "edge",
        "found 257 of them, wanted at most 256",
    );
}
