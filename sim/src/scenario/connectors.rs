//! Hosts beside the mesh, whose clients get in over QUIC.

use entrouter_proto::ids::NodeId;
use toml::Table;

use super::error::Problem;
use super::links::LinkSpec;
use super::raw::{RawConnector, read};
use super::source::NAME;
use super::values::At;
use super::workloads::{Workload, pop};
use super::{ClockOffset, Connector, Pop, PopId};

/// Adds them behind the PoPs.
pub(super) fn add(pops: &mut Vec<Pop>, tables: Vec<Table>) -> Result<(), Problem> {
    let mesh = pops.len();
    for (n, table) in tables.into_iter().enumerate() {
        let key = format!("connector.{n}");
        let raw: RawConnector = read(&key, table)?;
        let at = At(&key);
        let name = NodeId::new(&raw.name)
            .map_err(|_| at.problem("name", format!("found \"{}\", give {NAME}", raw.name)))?;
        if pops.iter().any(|pop| pop.name == name) {
            let problem = format!("there is a PoP or connector \"{name}\": rename one");
            return Err(at.problem("name", problem));
        }
        let edge = pop(&pops[..mesh], at, "edge", &raw.edge)?;
        let connections =
            at.count("connections", raw.connections, 1..=10_000, "QUIC connections")? as usize;
        let connector = Connector { edge, connections, early_data: raw.early_data };
        pops.push(Pop {
            name,
            nat: false,
            clock_offset: ClockOffset::read(at, "clock_offset_s", raw.clock_offset_s)?,
            config: Table::new(),
            connector: Some(connector),
        });
    }
    Ok(())
}

/// Each with its place and its key.
fn all(pops: &[Pop]) -> impl Iterator<Item = (PopId, Connector, String)> {
    let all = pops.iter().enumerate().filter_map(|(n, pop)| Some((PopId(n), pop.connector?)));
    all.zip(0..).map(|((id, connector), n)| (id, connector, format!("connector.{n}")))
}

/// Each has a link to its edge, and no other.
pub(super) fn check_links(pops: &[Pop], links: &[LinkSpec]) -> Result<(), Problem> {
    for (id, Connector { edge, .. }, key) in all(pops) {
        let (own, edge_name) = (&pops[id.0].name, &pops[edge.0].name);
        let its = links.iter().filter(|link| link.ends.0 == id || link.ends.1 == id);
        let others = its.map(|link| if link.ends.0 == id { link.ends.1 } else { link.ends.0 });
        if others.collect::<Vec<_>>() != [edge] {
            let problem = format!(
                "link it with its edge and nothing else: keep only [links.{own}-{edge_name}]"
            );
            return Err(At(&key).problem("edge", problem));
        }
    }
    Ok(())
}

/// An edge takes all that comes to one address to one service. A connector without a workload connects where
/// the first one does that has one.
pub(super) fn check_workloads(pops: &[Pop], workloads: &[Workload]) -> Result<(), Problem> {
    let enters_at = |workload: &Workload| pops[workload.from.0].connector.map(|c| c.edge);
    for (id, Connector { edge, .. }, key) in all(pops) {
        let name = &pops[id.0].name;
        let mut begin = workloads.iter().filter(|workload| workload.from == id);
        if let (Some(_), Some(second)) = (begin.next(), begin.next()) {
            let problem = format!("{name} has one workload already: add a connector for this one");
            return Err(At(&format!("workload.{}", second.name)).problem("from", problem));
        }
        if let Some(workload) = workloads.iter().find(|workload| workload.to == id) {
            let problem = format!("{name} is a connector, which has no origins: name a PoP");
            return Err(At(&format!("workload.{}", workload.name)).problem("to", problem));
        }
        if !workloads.iter().any(|workload| enters_at(workload) == Some(edge)) {
            let problem = "no workload of a connector enters there: begin one at a connector";
            return Err(At(&key).problem("edge", problem));
        }
    }
    Ok(())
}
