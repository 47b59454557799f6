//! PoPs as they would be configured: configuration files for a mesh of links and workloads, and the
//! nodes that they make.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use base64::Engine as _;
use entrouter_proto::config::ConfigErrors;
use entrouter_proto::{Config, Node};
use toml::{Table, Value};

use crate::engine::{HostId, MakeCore};
use crate::seed::Seed;
use crate::traffic::Workload;

/// UDP port of every PoP.
const RELAY_PORT: u16 = 4433;
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

/// The address at which a host is found at the start: 198.18.0.0/16, in order.
#[must_use]
pub fn addr(host: HostId) -> SocketAddr {
    let [high, low] = ((host.0 + 1) as u16).to_be_bytes();
    (Ipv4Addr::new(198, 18, high, low), RELAY_PORT).into()
}

/// The configuration of each PoP: peers along `links`, a listener for each workload that begins there,
/// an origin for each that ends there.
///
/// # Errors
/// What the core says of a configuration that it does not take, which only [`Pop::config`] can cause.
pub fn configs(
    seed: Seed,
    pops: &[Pop],
    links: &[(HostId, HostId)],
    workloads: &[Workload],
) -> Result<Vec<Config>, ConfigErrors> {
    let text = |nth| toml::to_string(&table(seed, pops, links, workloads, HostId(nth)));
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
    links: &[(HostId, HostId)],
    workloads: &[Workload],
    own: HostId,
) -> Table {
    let text = |text: &str| Value::from(text);
    let pop = &pops[own.0];
    let peers = links.iter().filter_map(|&(a, b)| match own {
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
    let begin = workloads.iter().filter(|workload| workload.from == own);
    let edges = begin.zip(FIRST_EDGE_PORT..).map(|(workload, port)| {
        let mut table = Table::new();
        table.insert("listen".to_owned(), text(&format!("127.0.0.1:{port}")));
        table.insert("dest".to_owned(), text(&pops[workload.to.0].name));
        table.insert("service".to_owned(), text(&workload.name));
        Value::from(table)
    });
    let end = workloads.iter().filter(|workload| workload.to == own);
    let origins: Table = end.map(|w| (w.name.clone(), text(&w.target()))).collect();
    let listen = BTreeMap::from([("relay_addr", format!("0.0.0.0:{RELAY_PORT}"))]);
    let mut table = Table::from_iter([
        ("node_id".to_owned(), text(&pop.name)),
        ("region".to_owned(), text("simulated")),
        ("listen".to_owned(), Value::from(listen)),
        ("peers".to_owned(), Value::Array(peers.collect())),
        ("edge".to_owned(), Value::Array(edges.collect())),
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

/// Makes nodes of that configuration.
#[must_use]
pub fn node(config: Config) -> MakeCore {
    Box::new(move |boot| {
        let node = Node::new(config.clone(), boot.seed, boot.now, boot.unix_now)?;
        Ok(Box::new(node))
    })
}
