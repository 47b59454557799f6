//! Walks the tables of a file. Goes on after a fault, so that one run tells all of them.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use toml::de::DeTable;

use super::error::ConfigErrors;
use super::peers::{Destinations, peers};
use super::reader::{Entry, Item, Report, Section};
use super::text::{key_of_line, shown, too_deep};
use super::values::{clash, is_alpn, is_path, is_region, is_token};
use super::{
    BASE_UDP_PAYLOAD, Config, Edge, EdgeProto, FixedFec, HostPort, Lanes, Limits, Listen,
    MAX_UDP_PAYLOAD, Mesh, Origin, Relay, Secret, TlsPaths, keys,
};
use crate::ids::{NodeId, ServiceName};

/// The longest file, in bytes.
pub const MAX_TEXT: usize = 1 << 20;
/// The most `[[edge]]`.
pub const MAX_EDGES: usize = 256;
/// The most entries of `[origins]`.
pub const MAX_ORIGINS: usize = 1024;

/// Above this size only the first syntax error is told: the TOML crate keeps them all in memory.
const MAX_RECOVERED_TEXT: usize = 1 << 16;

pub(super) const NAME: &str = "1 to 64 characters of A-Z a-z 0-9 . _ -";
const REGION: &str = "1 to 64 printable characters";
const TOKEN: &str = "1 to 256 ASCII characters without spaces";
const IP_PORT: &str = "IP address and port, such as \"0.0.0.0:4433\" or \"[::]:4433\"";
pub(super) const HOST_PORT: &str = "\"host:port\" with a DNS name, an IPv4 address or an [IPv6] \
                                    address, and a port from 1 to 65535";
const ORIGIN: &str = "\"host:port\", or { addr = \"host:port\", proxy_protocol = \"v2\" }";
const PROXY: &str = "\"v2\", the only version there is here, or no such key";
const ALPN: &str = "1 to 255 ASCII characters without spaces";
const PROBE: &str = "20 to 60000 milliseconds";
const PAYLOAD: &str = "1252 to 8972 bytes";
const BOOLEAN: &str = "true or false (without quotes)";
const DATA: &str = "1 to 128 source symbols";
const PARITY: &str = "0 to 64 parity symbols, at most 4 for each of fec_data_shards";
const WINDOW: &str = "64 to 1048576 KiB, at most limits.node_memory_mib";
const EXPRESS: &str = "0 to 65536 KiB";
const SHARE: &str = "1 to 100 percent";
const MEMORY: &str = "1 to 1048576 MiB";
const REKEY: &str = "1 to 120 seconds";
const CLIENTS: &str = "1 to 1000000 clients";
const CLIENTS_OF_ONE: &str = "1 to 1000000 clients, at most limits.max_connections";
const PROTO: &str = "\"tcp\", \"tls\" or \"quic\"";

pub(super) fn parse(file: &str, text: &[u8]) -> Result<Config, ConfigErrors> {
    let mut report = Report::new(file, text);
    match walk(&mut report, text) {
        Some(config) if report.is_empty() => Ok(config),
        _ => Err(report.into_errors()),
    }
}

fn walk(report: &mut Report, bytes: &[u8]) -> Option<Config> {
    if bytes.len() > MAX_TEXT {
        let found = bytes.len();
        report.add(
            1,
            "",
            format!("found {found} bytes, wanted a file of at most {MAX_TEXT} bytes"),
        );
        return None;
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let at = error.valid_up_to();
            let key = key_of_line(bytes, at, keys::all()).unwrap_or_default();
            let problem = "found a byte that is not UTF-8, wanted text in UTF-8";
            report.add(report.line_at(at), key, problem);
            return None;
        }
    };
    if let Some(at) = too_deep(text) {
        let problem = "found brackets or dotted keys that are nested too deeply, \
                       wanted no more than sections with keys";
        report.add(report.line_at(at), "", problem);
        return None;
    }
    match DeTable::parse(text) {
        Ok(table) => config(report, table.get_ref()),
        Err(first) => {
            let errors = if text.len() <= MAX_RECOVERED_TEXT {
                DeTable::parse_recoverable(text).1
            } else {
                vec![first]
            };
            syntax(report, text, &errors);
            None
        }
    }
}

/// One fault per line: what follows the first one there is mostly its consequence.
fn syntax(report: &mut Report, text: &str, errors: &[toml::de::Error]) {
    let mut told = BTreeMap::new();
    for error in errors {
        let at = error.span().map_or(0, |span| span.start);
        told.entry(report.line_at(at)).or_insert((at, error));
    }
    for (line, (at, error)) in told {
        let key = key_of_line(text.as_bytes(), at, keys::all()).unwrap_or_default();
        // The message is made of fixed phrases; the crate's `Display` would quote the line.
        let what = error.message().replace(char::is_control, " ");
        report.add(line, key, format!("found what is not valid TOML, wanted key = value: {what}"));
    }
}

fn config(report: &mut Report, table: &DeTable<'_>) -> Option<Config> {
    let root = Section::root(report, table);

    let node_id = root.parsed(report, "node_id", NAME, |text| NodeId::new(text).ok());
    if !root.has("node_id") {
        root.missing(report, "node_id", NAME);
    }
    let region = root
        .parsed(report, "region", REGION, |text| is_region(text, false).then(|| text.to_owned()));
    if !root.has("region") {
        root.missing(report, "region", REGION);
    }

    let mut sockets = Sockets::default();
    let listen = listen(report, &root, &mut sockets);
    let mesh = mesh(report, &root);
    let (peers, mut destinations) = peers(report, &root, node_id.as_ref());
    let relay = relay(report, &root, &mut destinations);
    let lanes = lanes(report, &root);
    let limits = limits(report, &root);
    let origins = origins(report, &root);
    let edges = edges(report, &root, &mut destinations, &relay, &mut sockets);

    Some(Config {
        node_id: node_id?.value,
        region: region?.value,
        listen,
        mesh,
        relay,
        lanes,
        limits,
        peers,
        origins,
        edges,
    })
}

/// A text that is not shown if it is wrong.
fn secret(report: &mut Report, section: &Section<'_>, name: &str) -> Option<Item<Secret>> {
    let Item { value, line } = section.text(report, name, TOKEN)?;
    if !is_token(value) {
        let found = match value.chars().count() {
            0 => "empty text".to_owned(),
            len => format!("text of {len} characters"),
        };
        report.add(line, section.key(name), format!("found {found}, wanted {TOKEN}"));
        return None;
    }
    Some(Item { value: Secret::new(value.to_owned()), line })
}

fn socket_addr(report: &mut Report, section: &Section<'_>, name: &str) -> Option<Item<SocketAddr>> {
    section.parsed(report, name, IP_PORT, |text| text.parse().ok())
}

/// The addresses given to sockets so far, with the keys that gave them.
#[derive(Debug, Default)]
struct Sockets {
    tcp: Vec<(SocketAddr, String)>,
    udp: Vec<(SocketAddr, String)>,
}

/// Which ports an address is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Tcp,
    Udp,
}

impl Sockets {
    fn claim(
        &mut self,
        report: &mut Report,
        transport: Transport,
        key: String,
        line: usize,
        addr: SocketAddr,
    ) {
        let taken = match transport {
            Transport::Tcp => &mut self.tcp,
            Transport::Udp => &mut self.udp,
        };
        match taken.iter().find(|(other, _)| clash(addr, *other)) {
            Some((_, by)) => {
                let problem = format!(
                    "found \"{addr}\", which {by} takes already, wanted an address of its own"
                );
                report.add(line, key, problem);
            }
            None => taken.push((addr, key)),
        }
    }
}

fn listen(report: &mut Report, root: &Section<'_>, sockets: &mut Sockets) -> Listen {
    let section = root.section(report, "listen", Some(keys::LISTEN));
    let mut claimed = |name, transport, default: Option<SocketAddr>| {
        let given = socket_addr(report, &section, name).map(|item| item.value);
        let addr = given.or(default);
        if let Some(addr) = addr {
            let line = section.line_of(report, name);
            sockets.claim(report, transport, section.key(name), line, addr);
        }
        addr
    };
    let default_relay = SocketAddr::from(([0, 0, 0, 0], 4433));
    let relay_addr = claimed("relay_addr", Transport::Udp, Some(default_relay));
    let tcp_addr = claimed("tcp_addr", Transport::Tcp, None);
    let quic_addr = claimed("quic_addr", Transport::Udp, None);
    let admin_addr = claimed("admin_addr", Transport::Tcp, None);

    let zero_rtt = section.boolean(report, "quic_0rtt", BOOLEAN);
    let alpn =
        section.parsed(report, "quic_alpn", ALPN, |text| is_alpn(text).then(|| text.to_owned()));

    let top_token = secret(report, root, "admin_token");
    let token = secret(report, &section, "admin_token");
    if root.has("admin_token") && section.has("admin_token") {
        let line = section.line_of(report, "admin_token");
        let problem = "found a second admin_token, wanted one, here or before the first section";
        report.add(line, section.key("admin_token"), problem);
    }

    const PATH: &str = "path of a PEM file";
    let mut path =
        |name| section.parsed(report, name, PATH, |text| is_path(text).then(|| text.to_owned()));
    let tls = match (path("tls_cert_path"), path("tls_key_path")) {
        (Some(cert), Some(key)) => Some(TlsPaths { cert: cert.value, key: key.value }),
        _ => None,
    };
    for (name, other) in [("tls_cert_path", "tls_key_path"), ("tls_key_path", "tls_cert_path")] {
        if section.has(other) && !section.has(name) {
            let line = section.line_of(report, other);
            let problem = format!("found nothing, wanted {PATH}, since {other} is given");
            report.add(line, section.key(name), problem);
        }
    }

    Listen {
        relay_addr: relay_addr.unwrap_or(default_relay),
        tcp_addr,
        quic_addr,
        quic_0rtt: zero_rtt.is_none_or(|item| item.value),
        quic_alpn: alpn.map_or_else(|| "entrouter".to_owned(), |item| item.value),
        admin_addr,
        admin_token: token.or(top_token).map(|item| item.value),
        tls,
    }
}

fn mesh(report: &mut Report, root: &Section<'_>) -> Mesh {
    let section = root.section(report, "mesh", Some(keys::MESH));
    let interval = section.integer(report, "probe_interval_ms", PROBE, 20..=60_000);
    let millis = interval.and_then(|item| u64::try_from(item.value).ok()).unwrap_or(500);
    let range = BASE_UDP_PAYLOAD as i64..=MAX_UDP_PAYLOAD as i64;
    let payload = section.integer(report, "max_udp_payload", PAYLOAD, range);
    let payload = payload.and_then(|item| usize::try_from(item.value).ok());
    let transit = section.boolean(report, "transit", BOOLEAN);
    Mesh {
        probe_interval: Duration::from_millis(millis),
        max_udp_payload: payload.unwrap_or(MAX_UDP_PAYLOAD),
        transit: transit.is_none_or(|item| item.value),
    }
}

fn relay(report: &mut Report, root: &Section<'_>, destinations: &mut Destinations) -> Relay {
    let section = root.section(report, "relay", Some(keys::RELAY));
    let configured = destinations.read(report, &section, "default_dest").map(|item| item.value);
    let sole = match destinations.peers.as_slice() {
        [peer] if destinations.complete && !section.has("default_dest") => Some(peer.clone()),
        _ => None,
    };

    let data = section.integer(report, "fec_data_shards", DATA, 1..=128);
    let parity = section.integer(report, "fec_parity_shards", PARITY, 0..=64);
    for (name, other, wanted) in [
        ("fec_data_shards", "fec_parity_shards", DATA),
        ("fec_parity_shards", "fec_data_shards", PARITY),
    ] {
        if section.has(other) && !section.has(name) {
            let line = section.line_of(report, other);
            let problem = format!("found nothing, wanted {wanted}, since {other} is given");
            report.add(line, section.key(name), problem);
        }
    }
    let fec = data.zip(parity).and_then(|(data, parity)| {
        if parity.value > 4 * data.value {
            let problem =
                format!("found {} for {} data, wanted {PARITY}", parity.value, data.value);
            report.add(parity.line, section.key("fec_parity_shards"), problem);
        }
        let (data, parity) = (u8::try_from(data.value), u8::try_from(parity.value));
        Some(FixedFec { data: data.ok()?, parity: parity.ok()? })
    });
    Relay { default_dest: configured.or(sole), fec }
}

fn lanes(report: &mut Report, root: &Section<'_>) -> Lanes {
    let section = root.section(report, "lanes", Some(keys::LANES));
    let kib = section.integer(report, "express_kib", EXPRESS, 0..=1 << 16);
    let share = section.integer(report, "express_share_pct", SHARE, 1..=100);
    let default = Lanes::default();
    Lanes {
        express_bytes: kib
            .and_then(|item| u64::try_from(item.value).ok())
            .map_or(default.express_bytes, |kib| kib << 10),
        express_share: share
            .and_then(|item| u8::try_from(item.value).ok())
            .unwrap_or(default.express_share),
    }
}

fn limits(report: &mut Report, root: &Section<'_>) -> Limits {
    let section = root.section(report, "limits", Some(keys::LIMITS));
    let mut whole = |name, wanted, range| {
        let Item { value, line } = section.integer(report, name, wanted, range)?;
        Some(Item { value: u64::try_from(value).ok()?, line })
    };
    let window = whole("flow_window_kib", WINDOW, 64..=1 << 20);
    let memory = whole("node_memory_mib", MEMORY, 1..=1 << 20);
    let rekey = whole("rekey_after_s", REKEY, 1..=120);
    let clients = whole("max_connections", CLIENTS, 1..=1_000_000);
    let of_one = whole("max_connections_per_address", CLIENTS_OF_ONE, 1..=1_000_000);

    let default = Limits::default();
    // A faulty one is told once, at its own key.
    let is_faulty = memory.is_none() && section.has("node_memory_mib");
    let node_memory = memory.map_or(default.node_memory, |item| item.value << 20);
    if let Some(Item { value: kib, line }) = window
        && kib << 10 > node_memory
        && !is_faulty
    {
        let mib = node_memory >> 20;
        let problem =
            format!("found {kib}, more than a node_memory_mib of {mib} holds, wanted {WINDOW}");
        report.add(line, section.key("flow_window_kib"), problem);
    }
    let count = |item: &Option<Item<u64>>, default: usize| {
        item.as_ref().and_then(|item| usize::try_from(item.value).ok()).unwrap_or(default)
    };
    let max_connections = count(&clients, default.max_connections);
    let max_of_one = count(&of_one, default.max_connections_per_address);
    if let Some(Item { value, line }) = of_one
        && max_of_one > max_connections
        && (clients.is_some() || !section.has("max_connections"))
    {
        let problem = format!(
            "found {value}, more than a max_connections of {max_connections}, \
             wanted {CLIENTS_OF_ONE}"
        );
        report.add(line, section.key("max_connections_per_address"), problem);
    }
    Limits {
        flow_window: window.map_or(default.flow_window, |item| item.value << 10).min(node_memory),
        node_memory,
        rekey_after: rekey.map_or(default.rekey_after, |item| Duration::from_secs(item.value)),
        max_connections,
        max_connections_per_address: max_of_one.min(max_connections),
    }
}

fn origins(report: &mut Report, root: &Section<'_>) -> BTreeMap<ServiceName, Origin> {
    let section = root.section(report, "origins", None);
    let mut origins = BTreeMap::new();
    let entries = section.entries(report, keys::ORIGIN, ORIGIN);
    if entries.len() > MAX_ORIGINS {
        let found = entries.len();
        report.add(section.line, "origins", format!("found {found}, wanted at most {MAX_ORIGINS}"));
    }
    for (name, entry) in entries.into_iter().take(MAX_ORIGINS) {
        // A key appended to the end of a file lands here, where it would be read as a service.
        if keys::SECRETS.contains(&name.value) {
            let place = keys::place_of(name.value).unwrap_or_default();
            let problem = format!("unknown key \"{}\": it belongs {place}", name.value);
            report.add(name.line, section.key(name.value), problem);
            continue;
        }
        let service = ServiceName::new(name.value);
        if service.is_err() {
            let problem = format!("found {} as name, wanted {NAME}", shown(name.value));
            report.add(name.line, section.safe_key(name.value), problem);
        }
        let origin = match entry {
            Entry::Text(addr) => {
                origin_addr(report, section.safe_key(name.value), &addr).map(Origin::from)
            }
            Entry::Section(entry) => origin(report, &entry),
        };
        if let (Ok(service), Some(origin)) = (service, origin) {
            origins.insert(service, origin);
        }
    }
    origins
}

fn origin(report: &mut Report, section: &Section<'_>) -> Option<Origin> {
    let text = section.text(report, "addr", HOST_PORT);
    if !section.has("addr") {
        section.missing(report, "addr", HOST_PORT);
    }
    let addr = text.and_then(|text| origin_addr(report, section.key("addr"), &text));
    let proxy =
        section.parsed(report, "proxy_protocol", PROXY, |text| (text == "v2").then_some(()));
    Some(Origin { addr: addr?, proxy_protocol: proxy.is_some() })
}

fn origin_addr(report: &mut Report, key: String, addr: &Item<&str>) -> Option<HostPort> {
    let target = addr.value.parse::<HostPort>();
    if target.is_err() {
        // What is nothing like an address may be a secret under a mistyped name.
        let like_address = addr.value.contains(':') || addr.value.parse::<IpAddr>().is_ok();
        let found = if like_address || addr.value.is_empty() {
            shown(addr.value)
        } else {
            "text without a port".to_owned()
        };
        report.add(addr.line, key, format!("found {found}, wanted {HOST_PORT}"));
    }
    target.ok()
}

fn edges(
    report: &mut Report,
    root: &Section<'_>,
    destinations: &mut Destinations,
    relay: &Relay,
    sockets: &mut Sockets,
) -> Vec<Edge> {
    // A fault that is told at another key is not told here again.
    let needs_dest = relay.default_dest.is_none()
        && destinations.complete
        && !root.has_in("relay", "default_dest");
    let tls_is_given =
        ["tls_cert_path", "tls_key_path"].iter().any(|key| root.has_in("listen", key));

    let mut edges = Vec::new();
    for section in root.sections(report, "edge", keys::EDGE, MAX_EDGES).0 {
        let addr = socket_addr(report, &section, "listen");
        if !section.has("listen") {
            section.missing(report, "listen", IP_PORT);
        }
        let read_proto = section.parsed(report, "proto", PROTO, |text| match text {
            "tcp" => Some(EdgeProto::Tcp),
            "tls" => Some(EdgeProto::Tls),
            "quic" => Some(EdgeProto::Quic),
            _ => None,
        });
        let proto = read_proto.as_ref().map_or(EdgeProto::Tcp, |item| item.value);
        if let Some(Item { line, .. }) = read_proto
            && proto == EdgeProto::Tls
            && !tls_is_given
        {
            let problem = format!(
                "found \"{}\" without a certificate, \
                 wanted listen.tls_cert_path and listen.tls_key_path",
                proto.as_str()
            );
            report.add(line, section.key("proto"), problem);
        }
        let dest = destinations.read(report, &section, "dest").map(|item| item.value);
        if needs_dest && !section.has("dest") {
            let wanted = format!("{}, since there is no relay.default_dest", destinations.wanted());
            section.missing(report, "dest", &wanted);
        }
        let service = section.parsed(report, "service", NAME, |text| ServiceName::new(text).ok());

        if let Some(Item { value: addr, line }) = addr {
            let transport = if proto == EdgeProto::Quic { Transport::Udp } else { Transport::Tcp };
            sockets.claim(report, transport, section.key("listen"), line, addr);
            let service = service.map(|item| item.value).unwrap_or_default();
            edges.push(Edge { listen: addr, proto, dest, service });
        }
    }
    edges
}
