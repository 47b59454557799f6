//! What a valid configuration means, told to a person or to a shell.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::net::SocketAddr;

use super::values::EXAMPLE_KEY;
use super::{Config, EdgeProto, Lanes, Limits, Listen};
use crate::ids::{NodeId, ServiceName};

/// Something that is allowed and that the operator should know. One line of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice(String);

impl Notice {
    /// The line, without a newline.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A listener whose clients' connections, or streams, become flows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedListener {
    /// Where it listens: on UDP for QUIC, else on TCP.
    pub addr: SocketAddr,
    /// What its clients speak.
    pub proto: EdgeProto,
    /// The PoP that its flows lead to: any of the mesh, or this one.
    pub dest: NodeId,
    /// The service there.
    pub service: ServiceName,
}

impl Config {
    /// The listeners that are served: `tcp_addr` (TLS if there is a certificate) and `quic_addr`, if
    /// there is a destination, then each `[[edge]]` in the order of the file.
    #[must_use]
    pub fn listeners(&self) -> Vec<ServedListener> {
        let default_dest = self.relay.default_dest.as_ref();
        let tcp = if self.listen.tls.is_some() { EdgeProto::Tls } else { EdgeProto::Tcp };
        let firsts = [(self.listen.tcp_addr, tcp), (self.listen.quic_addr, EdgeProto::Quic)];
        let firsts = firsts.into_iter().filter_map(|(addr, proto)| {
            let dest = default_dest?.clone();
            Some(ServedListener { addr: addr?, proto, dest, service: ServiceName::default() })
        });
        let others = self.edges.iter().filter_map(|edge| {
            let dest = edge.dest.as_ref().or(default_dest)?.clone();
            let (addr, proto, service) = (edge.listen, edge.proto, edge.service.clone());
            Some(ServedListener { addr, proto, dest, service })
        });
        firsts.chain(others).collect()
    }

    /// What is configured but does not accept, and what is dangerous; for `check` and the log at start.
    #[must_use]
    pub fn notices(&self) -> Vec<Notice> {
        let mut notices = Vec::new();
        let mut tell = |text: String| notices.push(Notice(text));
        if let Some(why) = self.refusal() {
            let addrs = [("tcp_addr", self.listen.tcp_addr), ("quic_addr", self.listen.quic_addr)];
            for (name, _) in addrs.into_iter().filter(|(_, addr)| addr.is_some()) {
                tell(format!("{name} does not accept: {why}"));
            }
        }
        if self.serves_quic() && self.listen.tls.is_none() {
            tell(
                "QUIC clients are shown a self-signed certificate, made anew at each start: its \
                 fingerprint is in the log"
                    .to_owned(),
            );
        }
        for text in self.destination_notices() {
            tell(text);
        }
        if self.origins.is_empty() && self.listeners().is_empty() {
            tell(
                "no [origins]: this PoP dials nothing: opens are reset with `no such service`"
                    .to_owned(),
            );
        }
        if let Some(addr) = self.listen.admin_addr
            && !addr.ip().to_canonical().is_loopback()
            && self.listen.admin_token.is_none()
        {
            tell(format!(
                "admin_addr {addr} is not a loopback address and there is no admin_token: \
                 whoever reaches it can read the status"
            ));
        }
        for (i, peer) in self.peers.iter().enumerate() {
            let keys = [
                ("shared_key", Some(&peer.shared_key)),
                ("next_shared_key", peer.next_shared_key.as_ref()),
            ];
            for (name, key) in keys {
                if key.is_some_and(|key| key.expose() == EXAMPLE_KEY) {
                    tell(format!(
                        "peers[{i}].{name} is the key of the example file, which everybody knows: \
                         make your own with `entrouter-mio genkey`"
                    ));
                }
            }
        }
        notices
    }

    /// Destinations that a slip of the pen may have made. Each name is told once.
    fn destination_notices(&self) -> Vec<String> {
        let peers: BTreeSet<_> = self.peers.iter().map(|peer| &peer.node_id).collect();
        let dests: BTreeSet<_> = self.destinations().collect();
        let strangers = dests.into_iter().filter(|d| **d != self.node_id && !peers.contains(d));
        let mut told: Vec<_> = strangers
            .map(|dest| {
                if peers.is_empty() {
                    format!("destination {dest} cannot be reached: there are no peers")
                } else {
                    format!(
                        "destination {dest} is no peer: it is reached over other PoPs, if one of \
                         that name is in the mesh; check the spelling"
                    )
                }
            })
            .collect();
        let own = self.listeners().into_iter().filter(|listener| listener.dest == self.node_id);
        let unserved = own.filter(|listener| !self.origins.contains_key(&listener.service));
        told.extend(unserved.map(|ServedListener { addr, proto, service, .. }| {
            format!(
                "{} {addr} leads to this PoP itself, and {service} is none of its [origins]: \
                 clients are refused",
                proto.as_str()
            )
        }));
        told
    }

    /// Whether any listener is for QUIC clients.
    #[must_use]
    pub fn serves_quic(&self) -> bool {
        self.listeners().iter().any(|l| l.proto == EdgeProto::Quic)
    }

    /// Whether any listener shows a certificate.
    #[must_use]
    pub fn needs_identity(&self) -> bool {
        self.listeners().iter().any(|l| l.proto != EdgeProto::Tcp)
    }

    /// Why nothing is accepted at `tcp_addr` and `quic_addr`, if that is so.
    fn refusal(&self) -> Option<&'static str> {
        if self.relay.default_dest.is_some() {
            None
        } else if self.peers.is_empty() {
            Some("there are no peers and no relay.default_dest")
        } else {
            Some("several peers and no relay.default_dest")
        }
    }

    /// What the configuration says, in a few aligned lines without secrets; each ends with a
    /// newline.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut rows: Vec<(&str, String)> = Vec::new();
        rows.push(("node", format!("{} ({})", self.node_id, self.region)));
        rows.push(("relay", format!("udp {}", self.listen.relay_addr)));
        let served = self.listeners();
        let tcp = if self.listen.tls.is_some() { EdgeProto::Tls } else { EdgeProto::Tcp };
        let firsts = [(self.listen.tcp_addr, tcp), (self.listen.quic_addr, EdgeProto::Quic)];
        let firsts = firsts.into_iter().filter_map(|(addr, proto)| Some((addr?, proto)));
        let all = firsts.chain(self.edges.iter().map(|edge| (edge.listen, edge.proto)));
        for (addr, proto) in all {
            let target = match served.iter().find(|l| l.addr == addr && l.proto == proto) {
                Some(l) => format!("-> {}/{}", l.dest, l.service),
                None => "does not accept".to_owned(),
            };
            rows.push(("clients", format!("{} {addr} {target}", proto.as_str())));
        }
        if self.serves_quic() {
            let Listen { quic_alpn, quic_0rtt, .. } = &self.listen;
            let zero_rtt = if *quic_0rtt { "0-RTT" } else { "no 0-RTT" };
            rows.push(("quic", format!("{zero_rtt}, ALPN {quic_alpn}")));
        }
        rows.push((
            "admin",
            match (self.listen.admin_addr, &self.listen.admin_token) {
                (None, _) => "off".to_owned(),
                (Some(addr), None) => format!("http {addr}, no token"),
                (Some(addr), Some(_)) => format!("http {addr}, token needed"),
            },
        ));
        let width = self.peers.iter().map(|peer| peer.node_id.as_str().len()).max().unwrap_or(0);
        for peer in &self.peers {
            let mut text = format!("{:width$}  ", peer.node_id.as_str());
            match &peer.addr {
                Some(addr) => text += &addr.to_string(),
                None => text += "comes to us",
            }
            if !peer.region.is_empty() {
                text += &format!(" ({})", peer.region);
            }
            if let Some(rate) = peer.max_rate_mbps {
                text += &format!(", at most {rate} Mbit/s");
            }
            if peer.next_shared_key.is_some() {
                text += ", key being rotated";
            }
            rows.push(("peers", text));
        }
        let width = self.origins.keys().map(|name| name.as_str().len()).max().unwrap_or(0);
        for (name, origin) in &self.origins {
            rows.push(("origins", format!("{:width$}  {origin}", name.as_str())));
        }
        for (title, is_empty) in
            [("peers", self.peers.is_empty()), ("origins", self.origins.is_empty())]
        {
            if is_empty {
                rows.push((title, "none".to_owned()));
            }
        }
        rows.push((
            "fec",
            match self.relay.fec {
                None => "adaptive".to_owned(),
                Some(fec) => format!("fixed, {} data + {} parity", fec.data, fec.parity),
            },
        ));
        rows.push(("probes", format!("every {} ms", self.mesh.probe_interval.as_millis())));
        rows.push(("packets", format!("up to {} bytes of UDP", self.mesh.max_udp_payload)));
        let transit = if self.mesh.transit { "relays for others" } else { "off" };
        rows.push(("transit", transit.to_owned()));
        let Lanes { express_bytes, express_share } = self.lanes;
        rows.push((
            "express",
            format!("first {} KiB, {express_share} % beside bulk", express_bytes >> 10),
        ));
        let Limits { flow_window, node_memory, rekey_after, .. } = self.limits;
        let Limits { max_connections, max_connections_per_address, .. } = self.limits;
        rows.push((
            "limits",
            format!("{max_connections} clients, {max_connections_per_address} from one address"),
        ));
        rows.push((
            "memory",
            format!("{} MiB for flows, {} KiB for each", node_memory >> 20, flow_window >> 10),
        ));
        rows.push(("rekey", format!("every {} s", rekey_after.as_secs())));

        let mut summary = String::new();
        let mut last = "";
        for (title, text) in &rows {
            let shown = if *title == last { "" } else { title };
            // Writing to a String cannot fail.
            let _ = writeln!(summary, "{shown:<9}{text}");
            last = title;
        }
        summary
    }
}
