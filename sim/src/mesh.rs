//! PoPs as they would be configured: configuration files for a mesh of links and workloads, and the
//! nodes that they make.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use base64::Engine as _;
use entrouter_proto::config::{ConfigErrors, HostPort};
use entrouter_proto::connect::{Trust, Wish};
use entrouter_proto::{Config, Identity, Node};
use toml::{Table, Value};

use crate::connect;
use crate::engine::{Engine, HostId, MakeCore, SetupError};
use crate::seed::Seed;
use crate::traffic::Workload;

/// UDP port of every PoP.
const RELAY_PORT: u16 = 4433;
/// What QUIC clients are shown: Ed25519, so that handshakes are always of the same length.
const CERTIFICATE: &[u8] = include_bytes!("../testdata/edge.pem");
const KEY: &[u8] = include_bytes!("../testdata/edge.key");
/// The name that it is for, and what it is known by.
const SERVER_NAME: &str = "edge.sim";
const FINGERPRINT: &str = "796510a663a2264d22d050cb62ea55fc104244532a03bb8045bf500bf58db376";
/// TCP port of a PoP's first listener.
const FIRST_EDGE_PORT: u16 = 8000;

/// A PoP of a simulated mesh; its [`HostId`] is its place among them.
#[derive(Debug, Clone, PartialEq)]
pub struct Pop {
    /// `node_id`.
    pub name: String,
    /// Peers are not told its address: it must come to them.
    pub hidden: bool,
    /// What its configuration file has beyond what the mesh asks for; wins over that.
    pub config: Table,
}

/// A host beside the mesh whose clients get in over QUIC; its [`HostId`] is that of the last PoP, and its
/// place among the connectors more, and 1. It carries one workload.
#[derive(Debug, Clone, PartialEq)]
pub struct Connector {
    /// Its name.
    pub name: String,
    /// The PoP that it connects to.
    pub edge: HostId,
    /// How many connections to the PoP it has, among which its clients go round.
    pub connections: usize,
    /// Whether it sends data with the first packet when it comes back.
    pub early_data: bool,
}

/// The address at which a host is found at the start: 198.18.0.0/16, in order.
#[must_use]
pub fn addr(host: HostId) -> SocketAddr {
    let [high, low] = ((host.0 + 1) as u16).to_be_bytes();
    (Ipv4Addr::new(198, 18, high, low), RELAY_PORT).into()
}

/// The address of a socket of a host that it has beyond its first.
#[must_use]
pub fn socket_addr(host: HostId, nth: usize) -> SocketAddr {
    let mut addr = addr(host);
    addr.set_port(RELAY_PORT + nth as u16);
    addr
}

/// The configuration of each PoP: peers along those of `links` that join PoPs, a listener for each workload
/// that begins there, or at a connector that connects to it, an origin for each that ends there.
///
/// # Errors
/// What the core says of a configuration that it does not take, which only [`Pop::config`] can cause.
pub fn configs(
    seed: Seed,
    pops: &[Pop],
    connectors: &[Connector],
    links: &[(HostId, HostId)],
    workloads: &[Workload],
) -> Result<Vec<Config>, ConfigErrors> {
    let text = |nth| toml::to_string(&table(seed, pops, connectors, links, workloads, HostId(nth)));
    (0..pops.len())
        .map(|nth| {
            let file = format!("{}.toml", pops[nth].name);
            // A table of texts and numbers can always be written.
            Config::parse(&file, text(nth).unwrap_or_default().as_bytes())
        })
        .collect()
}

fn table(
    seed: Seed,
    pops: &[Pop],
    connectors: &[Connector],
    links: &[(HostId, HostId)],
    workloads: &[Workload],
    own: HostId,
) -> Table {
    let text = |text: &str| Value::from(text);
    let pop = &pops[own.0];
    let joins_pops = |link: &&(HostId, HostId)| link.0.0.max(link.1.0) < pops.len();
    let peers = links.iter().filter(joins_pops).filter_map(|&(a, b)| match own {
        _ if own == a => Some(b),
        _ if own == b => Some(a),
        _ => None,
    });
    let peers = peers.map(|peer| {
        let ends = (own.min(peer), own.max(peer));
        let key = seed.bytes(&format!("key {} {}", pops[ends.0.0].name, pops[ends.1.0].name));
        let key = base64::engine::general_purpose::STANDARD.encode(key);
        let mut table = Table::new();
        table.insert("node_id".to_owned(), text(&pops[peer.0].name));
        table.insert("shared_key".to_owned(), text(&key));
        if !pops[peer.0].hidden {
            table.insert("addr".to_owned(), text(&addr(peer).to_string()));
        }
        Value::from(table)
    });
    let edge = |listen: String, proto: &str, workload: &Workload| {
        let mut table = Table::new();
        table.insert("listen".to_owned(), text(&listen));
        table.insert("proto".to_owned(), text(proto));
        table.insert("dest".to_owned(), text(&pops[workload.to.0].name));
        table.insert("service".to_owned(), text(&workload.name));
        Value::from(table)
    };
    let begin = workloads.iter().filter(|workload| workload.from == own);
    let edges = begin
        .zip(FIRST_EDGE_PORT..)
        .map(|(workload, port)| edge(format!("127.0.0.1:{port}"), "tcp", workload));
    let enter = entering(pops.len(), connectors, workloads, own);
    let quic = enter.zip(1..).map(|(workload, nth)| {
        edge(format!("0.0.0.0:{}", socket_addr(own, nth).port()), "quic", workload)
    });
    let end = workloads.iter().filter(|workload| workload.to == own);
    let origins: Table = end.map(|w| (w.name.clone(), text(&w.target()))).collect();
    let listen = BTreeMap::from([("relay_addr", format!("0.0.0.0:{RELAY_PORT}"))]);
    let mut table = Table::from_iter([
        ("node_id".to_owned(), text(&pop.name)),
        ("region".to_owned(), text("simulated")),
        ("listen".to_owned(), Value::from(listen)),
        ("peers".to_owned(), Value::Array(peers.collect())),
        ("edge".to_owned(), Value::Array(edges.chain(quic).collect())),
        ("origins".to_owned(), Value::from(origins)),
    ]);
    merge(&mut table, &pop.config);
    table
}

/// What `over` has goes into `table`, section by section.
pub(crate) fn merge(table: &mut Table, over: &Table) {
    for (key, value) in over {
        match (table.get_mut(key), value) {
            (Some(Value::Table(section)), Value::Table(over)) => merge(section, over),
            _ => {
                table.insert(key.clone(), value.clone());
            }
        }
    }
}

/// The workloads of connectors that connect to the PoP `at`, in order: each has a listener of its own there.
fn entering<'a>(
    pops: usize,
    connectors: &'a [Connector],
    workloads: &'a [Workload],
    at: HostId,
) -> impl Iterator<Item = &'a Workload> {
    workloads.iter().filter(move |workload| {
        let from = workload.from.0.checked_sub(pops).and_then(|nth| connectors.get(nth));
        from.is_some_and(|connector| connector.edge == at)
    })
}

/// Makes nodes of that configuration. Those that accept QUIC show the certificate of simulated edges.
#[must_use]
pub fn node(config: Config) -> MakeCore {
    Box::new(move |boot| {
        let mut node = Node::new(config.clone(), boot.seed, boot.now, boot.unix_now)?;
        if !node.quic_listeners().is_empty() {
            node.set_identity(boot.now, &Identity::from_pem(CERTIFICATE, KEY)?);
        }
        Ok(Box::new(node))
    })
}

/// Adds the hosts of connectors, behind those of all PoPs, and to these the sockets that accept them.
///
/// # Errors
/// As [`Engine::add_host`].
pub fn add_connectors(
    engine: &mut Engine,
    pops: usize,
    connectors: &[Connector],
    workloads: &[Workload],
    clocks: &[i64],
) -> Result<(), SetupError> {
    for edge in (0..pops).map(HostId) {
        for (nth, _) in (1..).zip(entering(pops, connectors, workloads, edge)) {
            engine.add_socket(edge, socket_addr(edge, nth), true)?;
        }
    }
    for (nth, connector) in connectors.iter().enumerate() {
        let host = HostId(pops + nth);
        let mut enter = entering(pops, connectors, workloads, connector.edge);
        // One without a workload has nowhere to connect to, but may be there.
        let place = enter.position(|workload| workload.from == host).unwrap_or(0);
        let edge = socket_addr(connector.edge, place + 1);
        let wish = Wish {
            edge: HostPort { host: edge.ip().to_string(), port: edge.port() },
            server_name: SERVER_NAME.to_owned(),
            trust: Trust::fingerprint(FINGERPRINT).map_err(|error| SetupError::Core {
                host: connector.name.clone(),
                error: error.into(),
            })?,
            alpn: "entrouter".to_owned(),
            early_data: connector.early_data,
            tickets: None,
        };
        let clock = clocks.get(nth).copied().unwrap_or(0);
        let make = connect::make(wish, connector.connections);
        engine.add_host(&connector.name, addr(host), None, clock, make)?;
        for nth in 1..connector.connections {
            engine.add_socket(host, socket_addr(host, nth), false)?;
        }
        engine.enters_at(host, connector.edge)?;
    }
    Ok(())
}
