//! Clients that finished their handshake well and then misuse what the protocol allows.

use std::collections::VecDeque;
use std::io::Read;

use ring::aead;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConnection, ConnectionTrafficSecrets, ExtractedSecrets};

use super::bench::{Bench, client, client_config, room};
use super::conn::MAX_WAITING;
use crate::flow::Output;
use crate::tests::epoch;
use crate::wire::endpoints::Endpoints;
use crate::{Action, ConnId, TcpEvent};

const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;

/// A client whose TLS 1.3 keys are in the hands of the test.
struct Forger {
    id: ConnId,
    seq: u64,
    secrets: ConnectionTrafficSecrets,
}

impl Forger {
    fn new(bench: &mut Bench) -> Self {
        bench.echo = false;
        let id = bench.connect(client(&client_config(&TLS13)));
        bench.run();
        let c = bench.client(id);
        let tls = std::mem::replace(&mut c.tls, client(&client_config(&TLS13)));
        c.mute = true;
        let ExtractedSecrets { tx: (seq, secrets), .. } =
            tls.dangerous_extract_secrets().expect("secrets");
        Self { id, seq, secrets }
    }

    /// RFC 8446 §5.2.
    fn say(&mut self, bench: &mut Bench, kind: u8, content: &[u8], padding: usize) {
        let (kind_of_key, key, iv) = match &self.secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&aead::AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&aead::AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => {
                (&aead::CHACHA20_POLY1305, key, iv)
            }
            _ => panic!("another cipher"),
        };
        let mut nonce: [u8; 12] = iv.as_ref().try_into().expect("12 bytes");
        for (byte, seq) in nonce.iter_mut().skip(4).zip(self.seq.to_be_bytes()) {
            *byte ^= seq;
        }
        self.seq += 1;
        let mut body = content.to_vec();
        body.push(kind);
        body.resize(body.len() + padding, 0);
        let mut record = vec![DATA, 3, 3];
        record.extend((body.len() as u16 + 16).to_be_bytes());
        let key = aead::UnboundKey::new(kind_of_key, key.as_ref()).expect("a key");
        let aad = aead::Aad::from(record.clone());
        let nonce = aead::Nonce::assume_unique_for_key(nonce);
        let key = aead::LessSafeKey::new(key);
        key.seal_in_place_append_tag(nonce, aad, &mut body).expect("sealed");
        record.extend(body);
        bench.client(self.id).socket.outgoing.extend(record);
    }

    fn is_cut_off(&self, bench: &mut Bench) -> bool {
        bench.run();
        let socket = &bench.client(self.id).socket;
        (socket.reset || socket.fin_received) && bench.origin().reset
    }
}

#[test]
fn padding_is_allowed_and_nothing_but_padding_is_not() {
    let mut bench = Bench::new(40);
    let mut forger = Forger::new(&mut bench);
    for _ in 0..50 {
        forger.say(&mut bench, DATA, b"x", 10_000);
        forger.say(&mut bench, DATA, b"", 16_000);
    }
    assert!(!forger.is_cut_off(&mut bench));
    assert_eq!(bench.origin().incoming, [b'x'; 50]);
    for _ in 0..3 {
        forger.say(&mut bench, DATA, b"", 16_000);
    }
    assert!(forger.is_cut_off(&mut bench));
}

#[test]
fn a_flood_of_empty_records_is_cut_off() {
    let mut bench = Bench::new(41);
    let mut forger = Forger::new(&mut bench);
    for _ in 0..100 {
        forger.say(&mut bench, DATA, b"", 0);
    }
    assert!(forger.is_cut_off(&mut bench));
    assert!(
        bench.client(forger.id).socket.outgoing.is_empty() || bench.client(forger.id).socket.reset
    );
}

#[test]
fn a_message_that_never_ends_is_cut_off() {
    // 60,000 bytes are announced, which rustls would wait for, and more than it takes of any.
    for announced in [[0, 0xea, 0x60], [0xff, 0xff, 0xff]] {
        let mut bench = Bench::new(42);
        let mut forger = Forger::new(&mut bench);
        let [high, middle, low] = announced;
        forger.say(&mut bench, HANDSHAKE, &[24, high, middle, low], 0);
        for _ in 0..3 {
            forger.say(&mut bench, HANDSHAKE, &[0; 16_000], 0);
        }
        assert!(forger.is_cut_off(&mut bench));
    }
}

#[test]
fn messages_of_another_time_are_refused() {
    // A ClientHello, a Finished, and a message that does not exist.
    for kind in [1, 20, 99] {
        let mut bench = Bench::new(44);
        let mut forger = Forger::new(&mut bench);
        forger.say(&mut bench, HANDSHAKE, &[kind, 0, 0, 1, 0], 0);
        assert!(forger.is_cut_off(&mut bench));
    }
}

#[test]
fn a_record_longer_than_any_is_refused_by_its_header() {
    let mut bench = Bench::new(45);
    let forger = Forger::new(&mut bench);
    bench.client(forger.id).socket.outgoing.extend([DATA, 3, 3, 0x7f, 0xff]);
    assert!(forger.is_cut_off(&mut bench));
}

#[test]
fn the_longest_record_passes_however_little_the_flow_wants() {
    let mut bench = Bench::small(46);
    let mut forger = Forger::new(&mut bench);
    bench.origin().takes = Some(0);
    for _ in 0..20 {
        forger.say(&mut bench, DATA, &[7; 16_384], 0);
    }
    bench.run();
    assert!(bench.table("tls_waiting") > 16_384 / 2);
    while bench.origin().incoming.len() < 20 * 16_384 {
        let had = bench.origin().incoming.len();
        bench.origin().takes = Some(700);
        bench.run();
        assert!(
            bench.origin().incoming.len() > had && bench.table("tls_waiting") <= MAX_WAITING as u64
        );
    }
}

#[test]
fn new_keys_in_the_middle_are_taken_and_endless_ones_are_not() {
    let mut bench = Bench::new(47);
    let id = bench.connect(client(&client_config(&TLS13)));
    bench.run();
    for _ in 0..100 {
        bench.client(id).tls.refresh_traffic_keys().expect("TLS 1.3");
        bench.say(id, b"x");
        bench.run();
    }
    assert_eq!(bench.client(id).plaintext, [b'x'; 100]);
    for _ in 0..100 {
        bench.client(id).tls.refresh_traffic_keys().expect("TLS 1.3");
    }
    bench.run();
    assert!(bench.client(id).socket.reset || bench.client(id).socket.fin_received);
    assert!(bench.origin().reset);
}

#[test]
fn a_tls_1_2_cipher_is_not_used_beyond_its_limit_and_that_is_no_clean_end() {
    let (mut tls, mut flows, listeners) = room();
    let (mut actions, id, now) = (VecDeque::new(), ConnId::accepted(0), epoch());
    let remote = ([192, 0, 2, 1], 9).into();
    assert!(tls.accept(now, id, &listeners[0], Endpoints::new(remote, remote), &mut actions));
    let mut bot = client(&client_config(&TLS12));
    for _ in 0..4 {
        let mut said = Vec::new();
        while bot.wants_write() {
            bot.write_tls(&mut said).expect("a vector takes all");
        }
        tls.handle(now, TcpEvent::Received { conn: id, data: &said }, &mut flows, &mut actions);
        hear(&mut bot, &mut actions);
    }
    assert!(!bot.is_handshaking());
    let conn = tls.conns.get_mut(&id).expect("a connection");
    assert_eq!(conn.records_left, (1 << 24) - 64);
    conn.records_left = 10;
    for n in 0..11 {
        assert!(tls.owns(id), "{n}");
        let output = Output::Write { conn: id, data: vec![5; 16_384].into() };
        tls.carry_out(now, output, &mut flows, &mut actions);
    }
    assert!(!tls.owns(id));
    assert_eq!(actions.pop_back(), Some(Action::Abort { conn: id }));
    assert_eq!(hear(&mut bot, &mut actions), (10 * 16_384, false));
}

/// Plaintext bytes that the client is told, and whether close_notify.
fn hear(bot: &mut ClientConnection, actions: &mut VecDeque<Action>) -> (usize, bool) {
    let (mut heard, mut closed) = (0, false);
    for action in actions.drain(..) {
        let Action::Write { data, .. } = action else { continue };
        let mut data = &data[..];
        while !data.is_empty() {
            bot.read_tls(&mut data).expect("a slice gives all");
            let state = bot.process_new_packets().expect("a good server");
            let mut plaintext = vec![0; state.plaintext_bytes_to_read()];
            bot.reader().read_exact(&mut plaintext).expect("so many bytes");
            heard += plaintext.len();
            closed |= state.peer_has_closed();
        }
    }
    (heard, closed)
}
