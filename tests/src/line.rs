//! Two PoPs and what lies between them.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use entrouter_sim::link::{LinkConfig, Loss};
use entrouter_sim::live::{BoundProxy, Proxy};
use entrouter_sim::seed::Seed;

use crate::client;
use crate::connector::Connector;
use crate::pop::{Pop, PopConfig, any_port};
use crate::running::Running;
use crate::shells::Way;
use crate::tls::Pair;

/// What a line is made of.
#[derive(Debug)]
pub struct Plan {
    link: Option<LinkConfig>,
    entry: PopConfig,
    exit: PopConfig,
    /// Limits of open files, where the clients connect and at the exit.
    max_files: [Option<u32>; 2],
}

impl Plan {
    /// Nothing between the PoPs but loopback; the service "default" is at `origin`.
    pub fn direct(origin: SocketAddr) -> Self {
        let mut exit = PopConfig::new("exit", "entry", None);
        exit.origins.push(("default".to_owned(), origin));
        let mut entry = PopConfig::new("entry", "exit", None);
        entry.tcp = Some(any_port());
        Self { link: None, entry, exit, max_files: [None; 2] }
    }

    /// The same over a link with a round trip of 20 ms that loses 5 % of the packets each way.
    pub fn lossy(origin: SocketAddr) -> Self {
        let link = LinkConfig {
            delay: Duration::from_millis(10),
            loss: Loss::Bernoulli { average: 0.05 },
            ..LinkConfig::default()
        };
        Self { link: Some(link), ..Self::direct(origin) }
    }

    /// No packet above this size crosses the link.
    ///
    /// # Panics
    /// If there is none.
    pub fn mtu(mut self, bytes: usize) -> Self {
        self.link.as_mut().expect("a plan with a link").mtu = Some(bytes);
        self
    }

    /// Each PoP probes the other so often.
    pub fn probe_interval_ms(mut self, ms: u64) -> Self {
        self.entry.probe_interval_ms = ms;
        self.exit.probe_interval_ms = ms;
        self
    }

    /// A second listener of the entry, [`Line::edge`], that leads to this service.
    pub fn edge(mut self, service: &str) -> Self {
        self.entry.edges.push((any_port(), service.to_owned()));
        self
    }

    /// A further service of the exit.
    pub fn service(mut self, name: &str, origin: SocketAddr) -> Self {
        self.exit.origins.push((name.to_owned(), origin));
        self
    }

    /// Clients of the entry speak TLS and are shown this.
    pub fn tls(mut self, pair: Pair) -> Self {
        self.entry.tls = Some(pair);
        self
    }

    /// Keys: what the entry has, what the exit has, what the exit accepts besides.
    pub fn keys(mut self, entry: String, exit: String, exit_next: Option<String>) -> Self {
        self.entry.key = entry;
        self.exit.key = exit;
        self.exit.next_key = exit_next;
        self
    }

    /// A limit of open files where the clients connect: at the entry, or at the connector.
    pub fn door_files(mut self, most: u32) -> Self {
        self.max_files[0] = Some(most);
        self
    }

    /// A limit of open files at the exit.
    pub fn exit_files(mut self, most: u32) -> Self {
        self.max_files[1] = Some(most);
        self
    }

    /// Clients come by QUIC; no connector is started.
    pub fn quic(mut self) -> Self {
        self.entry.tcp = None;
        self.entry.quic = Some(any_port());
        self.entry.quic_edges.append(&mut self.entry.edges);
        self
    }

    /// What QUIC clients send with their first flight is refused.
    pub fn no_early_data(mut self) -> Self {
        self.entry.early_data = false;
        self
    }

    /// Between the PoPs lie so many milliseconds each way, and no loss.
    pub fn far(origin: SocketAddr, delay: Duration) -> Self {
        let link = LinkConfig { delay, ..LinkConfig::default() };
        Self { link: Some(link), ..Self::direct(origin) }
    }

    /// Starts both, the entry and the exit by these shells, and waits until the tunnel stands, seen
    /// from both ends. If clients are to come by a connector, that is started, too.
    #[track_caller]
    pub fn start(self, pair: impl Into<Way>) -> Line {
        let pair = pair.into();
        let max_files = self.max_files[0].filter(|_| pair.connector.is_some());
        let mut line = self.start_unconnected(pair);
        line.wait_up();
        if let Some(shell) = pair.connector {
            let trust = ["--fingerprint", &line.entry.fingerprint()];
            let edges = &line.entry.config.quic_edges;
            for edge in std::iter::once(line.entry.quic()).chain(edges.iter().map(|edge| edge.0)) {
                let connector = Connector::start_limited(shell, edge, &trust, max_files);
                connector.wait_up();
                line.connectors.push(connector);
            }
        }
        line
    }

    /// Starts both and returns once they listen.
    #[track_caller]
    pub fn start_unconnected(self, pair: impl Into<Way>) -> Line {
        let pair = pair.into();
        let mut plan = if pair.connector.is_some() { self.quic() } else { self };
        if pair.connector.is_some() {
            // One that it made itself would be another after a restart.
            let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../proto-core/src/edge/testdata");
            let [cert, key] = ["ec.pem", "ec.key"].map(|name| Path::new(folder).join(name));
            plan.entry.tls.get_or_insert(Pair { cert, key });
        }
        // The exit learns where the entry is from its handshake, so it can start first.
        let exit = Pop::start_limited(pair.exit, plan.exit, plan.max_files[1]);
        let proxy = plan
            .link
            .map(|link| BoundProxy::bind(&link, &link, Seed::new(1)).expect("a link on loopback"));
        let facing = proxy.as_ref().map(BoundProxy::addr_facing_a);
        plan.entry.peer_addr = Some(facing.unwrap_or(exit.config.relay));
        let max_files = plan.max_files[0].filter(|_| pair.connector.is_none());
        let entry = Pop::start_limited(pair.entry, plan.entry, max_files);
        let link = proxy.map(|proxy| {
            proxy.start(entry.config.relay, exit.config.relay).expect("a thread for the link")
        });
        Line { entry, exit, link, connectors: Vec::new() }
    }
}

/// Clients connect to `entry`, origins are dialled by `exit`.
#[derive(Debug)]
pub struct Line {
    /// Where the clients are.
    pub entry: Pop,
    /// Where the origins are.
    pub exit: Pop,
    /// What lies between them, if it is not only loopback.
    pub link: Option<Proxy>,
    /// What takes clients to the entry, if they do not go there by TCP themselves: to the service
    /// "default", and to that of [`Plan::edge`].
    pub connectors: Vec<Connector>,
}

impl Line {
    /// Waits until the tunnel stands, seen from both ends.
    #[track_caller]
    pub fn wait_up(&self) {
        self.entry.wait_up();
        self.exit.wait_up();
    }

    /// Where clients connect.
    pub fn door(&self) -> SocketAddr {
        self.connectors.first().map_or_else(|| self.entry.tcp(), Connector::addr)
    }

    /// The process that they connect to.
    pub fn doorkeeper(&self) -> &Running {
        self.connectors.first().map_or_else(|| self.entry.running(), Connector::running)
    }

    /// A client's connection to the service "default".
    #[track_caller]
    pub fn connect(&self) -> TcpStream {
        client::connect(self.door())
    }

    /// A client's connection to the service of [`Plan::edge`].
    #[track_caller]
    pub fn edge(&self) -> TcpStream {
        let by_connector = self.connectors.get(1).map(Connector::addr);
        client::connect(by_connector.unwrap_or_else(|| self.entry.config.edges[0].0))
    }

    /// Asks something of the service "default", which echoes, and checks the answer.
    #[track_caller]
    pub fn assert_echoes(&self) {
        let question = crate::bytes::pattern(7, 10_000);
        let answer = client::exchange(&self.connect(), &question);
        let answer = answer.unwrap_or_else(|e| panic!("a new connection does not work: {e}"));
        crate::bytes::assert_same(&answer, &question, "echo");
    }

    /// Checks that neither has crashed.
    #[track_caller]
    pub fn assert_running(&mut self) {
        for pop in [&mut self.entry, &mut self.exit] {
            assert!(pop.is_running(), "{} has ended", pop.config.node_id);
        }
        for connector in &mut self.connectors {
            assert!(connector.process().ended().is_none(), "the connector has ended");
        }
    }
}
