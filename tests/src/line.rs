//! Two PoPs and what lies between them.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use entrouter_sim::link::{LinkConfig, Loss};
use entrouter_sim::live::{BoundProxy, Proxy};
use entrouter_sim::seed::Seed;

use crate::client;
use crate::pop::{Pop, PopConfig, any_port};
use crate::shells::Shell;

/// What a line is made of.
#[derive(Debug)]
pub struct Plan {
    link: Option<LinkConfig>,
    entry: PopConfig,
    exit: PopConfig,
    /// Limits of open files, at the entry and at the exit.
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

    /// Keys: what the entry has, what the exit has, what the exit accepts besides.
    pub fn keys(mut self, entry: String, exit: String, exit_next: Option<String>) -> Self {
        self.entry.key = entry;
        self.exit.key = exit;
        self.exit.next_key = exit_next;
        self
    }

    /// A limit of open files at the entry.
    pub fn entry_files(mut self, most: u32) -> Self {
        self.max_files[0] = Some(most);
        self
    }

    /// A limit of open files at the exit.
    pub fn exit_files(mut self, most: u32) -> Self {
        self.max_files[1] = Some(most);
        self
    }

    /// Starts both, the entry and the exit by these shells, and waits until the tunnel stands, seen
    /// from both ends.
    #[track_caller]
    pub fn start(self, pair: [Shell; 2]) -> Line {
        let line = self.start_unconnected(pair);
        line.wait_up();
        line
    }

    /// Starts both and returns once they listen.
    #[track_caller]
    pub fn start_unconnected(mut self, [entry, exit]: [Shell; 2]) -> Line {
        // The exit learns where the entry is from its handshake, so it can start first.
        let exit = Pop::start_limited(exit, self.exit, self.max_files[1]);
        let proxy = self
            .link
            .map(|link| BoundProxy::bind(&link, &link, Seed::new(1)).expect("a link on loopback"));
        let facing = proxy.as_ref().map(BoundProxy::addr_facing_a);
        self.entry.peer_addr = Some(facing.unwrap_or(exit.config.relay));
        let entry = Pop::start_limited(entry, self.entry, self.max_files[0]);
        let link = proxy.map(|proxy| {
            proxy.start(entry.config.relay, exit.config.relay).expect("a thread for the link")
        });
        Line { entry, exit, link }
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
}

impl Line {
    /// Waits until the tunnel stands, seen from both ends.
    #[track_caller]
    pub fn wait_up(&self) {
        self.entry.wait_up();
        self.exit.wait_up();
    }

    /// A client's connection to the service "default".
    #[track_caller]
    pub fn connect(&self) -> TcpStream {
        client::connect(self.entry.tcp())
    }

    /// A client's connection to the service of [`Plan::edge`].
    #[track_caller]
    pub fn edge(&self) -> TcpStream {
        client::connect(self.entry.config.edges[0].0)
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
    }
}
