//! Three PoPs, each linked to both others, so that there is a way over a relay and a direct one.

use std::net::SocketAddr;
use std::time::Duration;

use entrouter_sim::link::{LinkConfig, QueueLimit, Rate};
use entrouter_sim::live::{BoundProxy, Proxy};
use entrouter_sim::seed::Seed;

use crate::pop::{Pop, PopConfig, any_port, key};
use crate::shells::Shell;
use crate::wait;

/// The way that is taken while the relay lives.
pub const OVER_RELAY: [&str; 3] = ["entry", "relay", "exit"];
/// The way that is left without it.
pub const DIRECT: [&str; 2] = ["entry", "exit"];

/// Round trips: of each of the two links over the relay, and of the direct one.
const SHORT: Duration = Duration::from_millis(5);
const LONG: Duration = Duration::from_millis(40);
/// Keys of the links between the entry and the relay, the relay and the exit, the entry and the exit.
const NEAR: u8 = 1;
const FAR: u8 = 2;
const DIRECT_KEY: u8 = 3;
/// Slow enough for a transfer to take seconds, and for a busy machine to keep up.
const MBPS: f64 = 40.0;

/// Clients connect to `entry`, origins are dialled by `exit`, `relay` has neither.
#[derive(Debug)]
pub struct Triangle {
    /// Where the clients are.
    pub entry: Pop,
    /// What lies on the shorter way.
    pub relay: Pop,
    /// Where the origins are.
    pub exit: Pop,
    links: [Proxy; 3],
}

impl Triangle {
    /// Starts all three by these shells, in the order of [`OVER_RELAY`], with the service "default" at
    /// `origin`, and waits until each is up for each.
    #[track_caller]
    pub fn start([entry_shell, relay_shell, exit_shell]: [Shell; 3], origin: SocketAddr) -> Self {
        let [near, far, direct] = [SHORT, SHORT, LONG].map(link);
        // Who starts later knows where to find those before; these learn it from the handshake.
        let mut exit = config("exit", [("relay", None, FAR), ("entry", None, DIRECT_KEY)]);
        exit.origins.push(("default".to_owned(), origin));
        let exit = Pop::start(exit_shell, exit);
        let peers = [("exit", Some(far.addr_facing_a()), FAR), ("entry", None, NEAR)];
        let relay = Pop::start(relay_shell, config("relay", peers));
        let mut entry = config(
            "entry",
            [
                ("relay", Some(near.addr_facing_a()), NEAR),
                ("exit", Some(direct.addr_facing_a()), DIRECT_KEY),
            ],
        );
        entry.tcp = Some(any_port());
        entry.default_dest = Some("exit".to_owned());
        let entry = Pop::start(entry_shell, entry);
        let join = |proxy: BoundProxy, a: &Pop, b: &Pop| {
            proxy.start(a.config.relay, b.config.relay).expect("a thread for a link")
        };
        let links =
            [join(near, &entry, &relay), join(far, &relay, &exit), join(direct, &entry, &exit)];
        let triangle = Self { entry, relay, exit, links };
        for pop in [&triangle.entry, &triangle.relay, &triangle.exit] {
            pop.wait_for("both peers are up", |status| status["peers_up"] == 2);
        }
        triangle
    }

    /// Waits until the entry goes to the exit by that way.
    #[track_caller]
    pub fn wait_way(&self, way: &[&str], patience: Duration) {
        let what = format!("the entry goes by {way:?}");
        wait::until_within(patience, &what, || {
            let status = self.entry.try_status()?;
            let paths = status["paths"].as_array()?;
            let path = paths.iter().find(|path| path["to"] == "exit")?;
            let via = path["via"].as_array()?;
            via.iter().map(|node| node.as_str()).eq(way.iter().copied().map(Some)).then_some(())
        });
    }

    /// Checks that the links still forward.
    #[track_caller]
    pub fn assert_linked(&self) {
        assert!(!self.links.iter().any(Proxy::has_failed), "a link has ended");
    }
}

fn link(rtt: Duration) -> BoundProxy {
    let queue = QueueLimit::Time(Duration::from_millis(50));
    let config = LinkConfig {
        delay: rtt / 2,
        rate: Some(Rate { mbps: MBPS, queue, mark_above: None }),
        ..LinkConfig::default()
    };
    BoundProxy::bind(&config, &config, Seed::new(1)).expect("a link on loopback")
}

/// A PoP with two peers: name, address if it is to know it, and of what byte the key is made.
fn config(name: &str, peers: [(&str, Option<SocketAddr>, u8); 2]) -> PopConfig {
    let [(first, addr, first_key), (second, second_addr, second_key)] = peers;
    let mut config = PopConfig::new(name, first, addr);
    config.key = key(first_key);
    config.more_peers.push((second.to_owned(), second_addr, key(second_key)));
    config
}
