//! What the tests of this room stand on: a node whose flows lead to itself, TLS clients before it and an
//! origin behind it. Sockets move as many bytes at a time as the test wants.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};

use super::TlsEdge;
use crate::config::{Lanes, Limits};
use crate::edge::clock::Clock;
use crate::edge::identity::Identity;
use crate::edge::{Listener, listeners};
use crate::flow::Flows;
use crate::ids::{Incarnation, NodeId};
use crate::rng::Rng;
use crate::tests::epoch;
use crate::{Action, Config, ConnId, ListenerId, Node, TcpEvent};

pub(super) const UNIX: Duration = Duration::from_secs(1_800_000_000);

pub(super) fn identity(kind: &str) -> Identity {
    let (chain, key): (&[u8], &[u8]) = match kind {
        "rsa" => (include_bytes!("../testdata/rsa.pem"), include_bytes!("../testdata/rsa.key")),
        "ec" => (include_bytes!("../testdata/ec.pem"), include_bytes!("../testdata/ec.key")),
        _ => (include_bytes!("../testdata/ed25519.pem"), include_bytes!("../testdata/ed25519.key")),
    };
    Identity::from_pem(chain, key).expect("an identity")
}

/// What clients have in common: whom they trust, and the sessions that they remember.
pub(super) fn client_config(version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(include_bytes!("../testdata/root.pem"));
    roots.add(root.expect("a certificate")).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config =
        ClientConfig::builder_with_details(provider, Arc::new(Clock::new(epoch(), UNIX)))
            .with_protocol_versions(&[version])
            .expect("a version")
            .with_root_certificates(roots)
            .with_no_client_auth();
    config.resumption = Resumption::in_memory_sessions(8);
    config.enable_secret_extraction = true;
    Arc::new(config)
}

pub(super) fn client(config: &Arc<ClientConfig>) -> ClientConnection {
    let name = ServerName::try_from("edge.example").expect("a name");
    let mut tls = ClientConnection::new(Arc::clone(config), name).expect("a client");
    tls.set_buffer_limit(None);
    tls
}

/// The socket of a connection, seen from its far end.
#[derive(Debug, Default)]
pub(super) struct Socket {
    /// On the way to the node.
    pub outgoing: VecDeque<u8>,
    /// A FIN follows when that is sent.
    pub fin: bool,
    pub fin_sent: bool,
    pub granted: usize,
    /// Written by the node and not taken yet.
    pub waiting: VecDeque<u8>,
    /// Takes so many bytes more.
    pub takes: Option<usize>,
    pub incoming: Vec<u8>,
    pub ending: bool,
    pub fin_received: bool,
    pub reset: bool,
    /// Bytes that the node ever read.
    pub read: usize,
}

impl Socket {
    pub(super) fn is_over(&self) -> bool {
        self.reset || (self.fin_sent && self.fin_received)
    }
}

#[derive(Debug)]
pub(super) struct Client {
    pub tls: ClientConnection,
    pub socket: Socket,
    /// Bytes of `socket.incoming` that the TLS client has.
    taken: usize,
    pub plaintext: Vec<u8>,
    /// It was told close_notify.
    pub closed: bool,
    pub error: Option<rustls::Error>,
    /// Not a TLS client: what comes is only collected.
    pub mute: bool,
    /// Says close_notify once the handshake is done; then FIN, if so.
    pub ends: Option<bool>,
    /// All that it says.
    pub tap: Option<Vec<u8>>,
    /// Of what it says from now on, the byte at that place gets other bits, or is left out.
    pub spoil: Option<(usize, Option<u8>)>,
}

pub(super) struct Bench {
    pub now: Instant,
    pub node: Node,
    pub clients: BTreeMap<ConnId, Client>,
    pub origins: BTreeMap<ConnId, Socket>,
    /// Clients that the test has put aside, and whether they were reset since.
    pub gone: BTreeMap<ConnId, bool>,
    pub echo: bool,
    /// At most so many bytes at a time pass a socket.
    pub piece: usize,
    accepted: u64,
    rng: Rng,
}

impl Bench {
    pub(super) fn new(seed: u64) -> Self {
        let mut bench = Self::without_identity(seed, "");
        bench.node.set_identity(bench.now, &identity("ec"));
        bench
    }

    /// A flow holds 64 KiB at most.
    pub(super) fn small(seed: u64) -> Self {
        let mut bench = Self::without_identity(seed, "[limits]\nflow_window_kib = 64\n");
        bench.node.set_identity(bench.now, &identity("ec"));
        bench
    }

    pub(super) fn without_identity(seed: u64, more: &str) -> Self {
        let text = format!(
            "node_id = \"a\"\nregion = \"x\"\n[listen]\nrelay_addr = \"127.0.0.1:1\"\n\
             tcp_addr = \"127.0.0.1:2\"\ntls_cert_path = \"c\"\ntls_key_path = \"k\"\n\
             [relay]\ndefault_dest = \"a\"\n[origins]\ndefault = \"127.0.0.1:80\"\n{more}"
        );
        let config = Config::parse("test.toml", text.as_bytes()).expect("a configuration");
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_be_bytes());
        let now = epoch();
        Self {
            now,
            node: Node::new(config, bytes, now, UNIX).expect("a node"),
            clients: BTreeMap::new(),
            origins: BTreeMap::new(),
            gone: BTreeMap::new(),
            echo: true,
            piece: usize::MAX,
            accepted: 0,
            rng: Rng::new(bytes),
        }
    }

    pub(super) fn connect(&mut self, tls: ClientConnection) -> ConnId {
        let id = ConnId::accepted(self.accepted);
        self.accepted += 1;
        let client = Client {
            tls,
            socket: Socket::default(),
            taken: 0,
            plaintext: Vec::new(),
            closed: false,
            error: None,
            mute: false,
            ends: None,
            tap: None,
            spoil: None,
        };
        self.clients.insert(id, client);
        // Each from an address of its own: how many come from one is limited elsewhere.
        let [.., a, b, c] = (self.accepted as u32).to_be_bytes();
        let remote = ([10, a, b, c], 5000).into();
        let event = TcpEvent::Accepted { conn: id, listener: ListenerId(0), remote, local: remote };
        self.node.handle_tcp(self.now, event);
        self.act();
        id
    }

    /// A client that says these bytes, whatever they are.
    pub(super) fn connect_raw(&mut self, bytes: &[u8]) -> ConnId {
        let id = self.connect(client(&client_config(&rustls::version::TLS13)));
        let c = self.client(id);
        c.mute = true;
        c.socket.outgoing.extend(bytes);
        id
    }

    pub(super) fn client(&mut self, id: ConnId) -> &mut Client {
        self.clients.get_mut(&id).expect("a client")
    }

    /// The only origin there is.
    pub(super) fn origin(&mut self) -> &mut Socket {
        assert_eq!(self.origins.len(), 1);
        self.origins.values_mut().next().expect("an origin")
    }

    pub(super) fn say(&mut self, id: ConnId, bytes: &[u8]) {
        self.client(id).tls.writer().write_all(bytes).expect("no limit");
    }

    /// close_notify, then FIN.
    pub(super) fn say_end(&mut self, id: ConnId) {
        self.client(id).ends = Some(true);
    }

    /// Goes on until nothing moves any more.
    pub(super) fn run(&mut self) {
        let mut turns = 0;
        while self.turn() {
            turns += 1;
            assert!(turns < 2_000_000, "it never rests");
            self.check_tables();
        }
    }

    /// Lets time pass, then goes on.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.run();
            let due = self.node.poll_timeout().map(|(at, _)| at).filter(|at| *at <= end);
            let Some(due) = due else { break };
            self.now = self.now.max(due);
            self.node.handle_timeout(self.now);
        }
        self.now = end;
        self.run();
    }

    pub(super) fn check_tables(&self) {
        self.node.tables(&mut |table| assert!(table.len <= table.bound, "{table:?}"));
    }

    pub(super) fn table(&self, name: &str) -> u64 {
        let mut len = None;
        self.node.tables(&mut |table| {
            if table.name == name {
                len = Some(table.len);
            }
        });
        len.expect("a table")
    }

    /// Moves everything once; whether anything moved.
    pub(super) fn turn(&mut self) -> bool {
        let mut any = self.act();
        for id in self.clients.keys().copied().collect::<Vec<_>>() {
            let Some(c) = self.clients.get_mut(&id) else { continue };
            if !c.mute {
                if let Some(fin) = c.ends.take_if(|_| !c.tls.is_handshaking()) {
                    c.tls.send_close_notify();
                    c.socket.fin = fin;
                }
                let mut out = Vec::new();
                while c.tls.wants_write() {
                    c.tls.write_tls(&mut out).expect("a vector takes all");
                }
                c.say(out);
            }
            any |= Self::move_bytes(
                &mut self.node,
                self.now,
                id,
                &mut c.socket,
                self.piece,
                &mut self.rng,
            );
            any |= c.take();
        }
        for (id, origin) in &mut self.origins {
            let had = origin.incoming.len();
            any |=
                Self::move_bytes(&mut self.node, self.now, *id, origin, self.piece, &mut self.rng);
            if self.echo {
                origin.outgoing.extend(&origin.incoming[had..]);
                origin.fin |= origin.fin_received;
            }
        }
        any
    }

    /// One step of a socket each way.
    fn move_bytes(
        node: &mut Node,
        now: Instant,
        id: ConnId,
        socket: &mut Socket,
        piece: usize,
        rng: &mut Rng,
    ) -> bool {
        if socket.is_over() {
            return false;
        }
        let mut any = false;
        let mut some = |most: usize| match most.min(piece) {
            0 => 0,
            most if piece == usize::MAX => most,
            most => 1 + rng.next_u32() as usize % most,
        };
        let n = some(socket.granted.min(socket.outgoing.len()));
        if n > 0 {
            let data: Vec<u8> = socket.outgoing.drain(..n).collect();
            socket.granted -= n;
            socket.read += n;
            node.handle_tcp(now, TcpEvent::Received { conn: id, data: &data });
            any = true;
        }
        let n = some(socket.waiting.len().min(socket.takes.unwrap_or(usize::MAX)));
        if n > 0 {
            socket.incoming.extend(socket.waiting.drain(..n));
            if let Some(takes) = &mut socket.takes {
                *takes -= n;
            }
            node.handle_tcp(now, TcpEvent::Written { conn: id, bytes: n });
            any = true;
        }
        if socket.fin && !socket.fin_sent && socket.outgoing.is_empty() {
            socket.fin_sent = true;
            node.handle_tcp(now, TcpEvent::Eof { conn: id });
            any = true;
        }
        if socket.ending && socket.waiting.is_empty() {
            any |= !socket.fin_received;
            socket.fin_received = true;
        }
        any
    }

    fn act(&mut self) -> bool {
        let mut any = false;
        while let Some(action) = self.node.poll_action() {
            any = true;
            match action {
                Action::Connect { conn, .. } => {
                    self.origins.insert(conn, Socket::default());
                    self.node.handle_tcp(self.now, TcpEvent::Connected { conn });
                }
                Action::Write { conn, data } => {
                    let socket = self.socket(conn);
                    assert!(!socket.is_over() && !socket.ending, "a write after the end");
                    assert!(!data.is_empty());
                    socket.waiting.extend(data);
                }
                // It may have crossed with the end.
                Action::GrantRead { conn, bytes } => self.socket(conn).granted += bytes,
                Action::Shutdown { conn } => {
                    let socket = self.socket(conn);
                    assert!(!socket.is_over() && !socket.ending, "two ends");
                    socket.ending = true;
                    socket.fin_received = socket.waiting.is_empty();
                }
                Action::Abort { conn } if self.gone.contains_key(&conn) => {
                    self.gone.insert(conn, true);
                }
                Action::Abort { conn } => {
                    let socket = self.socket(conn);
                    assert!(!socket.is_over(), "abort of a connection that is over");
                    socket.reset = true;
                }
                Action::StopAccepting | Action::Drained => {}
                Action::Resolve { .. } => panic!("there are no peers"),
            }
        }
        any
    }

    fn socket(&mut self, conn: ConnId) -> &mut Socket {
        match self.clients.get_mut(&conn) {
            Some(client) => &mut client.socket,
            None => self.origins.get_mut(&conn).expect("a connection"),
        }
    }

    pub(super) fn reset(&mut self, conn: ConnId) {
        self.socket(conn).reset = true;
        self.node.handle_tcp(self.now, TcpEvent::Reset { conn });
    }
}

impl Client {
    fn say(&mut self, mut bytes: Vec<u8>) {
        if let Some(tap) = &mut self.tap {
            tap.extend(&bytes);
        }
        if let Some((at, bits)) = self.spoil.take() {
            match (bytes.get_mut(at), bits) {
                (None, _) => self.spoil = Some((at - bytes.len(), bits)),
                (Some(byte), Some(bits)) => *byte ^= bits,
                (Some(_), None) => drop(bytes.remove(at)),
            }
        }
        self.socket.outgoing.extend(bytes);
    }

    /// The TLS client takes what came.
    fn take(&mut self) -> bool {
        let mut new = &self.socket.incoming[self.taken..];
        if self.mute || new.is_empty() || self.error.is_some() || self.closed {
            return false;
        }
        while !new.is_empty() && !self.closed {
            let n = self.tls.read_tls(&mut new).expect("a slice gives all");
            let state = match self.tls.process_new_packets() {
                Ok(state) => state,
                Err(error) => {
                    self.error = Some(error);
                    return true;
                }
            };
            let had = self.plaintext.len();
            self.plaintext.resize(had + state.plaintext_bytes_to_read(), 0);
            self.tls.reader().read_exact(&mut self.plaintext[had..]).expect("so many bytes");
            self.closed = state.peer_has_closed();
            assert!(n > 0 || self.closed);
        }
        self.taken = self.socket.incoming.len();
        true
    }
}

/// The room alone, with a listener whose flows have no way to go.
pub(super) fn room() -> (TlsEdge, Flows, Vec<Listener>) {
    let text = "node_id = \"a\"\nregion = \"x\"\n[listen]\nrelay_addr = \"127.0.0.1:1\"\n\
                tcp_addr = \"127.0.0.1:2\"\ntls_cert_path = \"c\"\ntls_key_path = \"k\"\n\
                [relay]\ndefault_dest = \"b\"\n";
    let config = Config::parse("test.toml", text.as_bytes()).expect("a configuration");
    let mut tls = TlsEdge::new(Arc::new(Clock::new(epoch(), UNIX)));
    tls.set_identity(&identity("ec"));
    let local = NodeId::new("a").expect("a name").hash32();
    let dest = NodeId::new("b").expect("a name").hash32();
    let mut flows = Flows::new(local, Incarnation(1), &Limits::default(), &Lanes::default());
    flows.add_destination(epoch(), dest);
    (tls, flows, listeners(&config).collect())
}
