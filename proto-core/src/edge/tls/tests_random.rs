//! Any cut of the streams gives the same bytes; nothing that a stranger says does any harm.

use std::collections::VecDeque;
use std::time::Duration;

use proptest::prelude::*;
use rustls::version::{TLS12, TLS13};

use super::bench::{Bench, client, client_config, room};
use crate::flow::{Flows, Output};
use crate::tests::epoch;
use crate::wire::endpoints::Endpoints;
use crate::{Action, ConnId, TcpEvent};

/// What a real client says until its data is answered: its whole side of the connection.
fn recording(version: &'static rustls::SupportedProtocolVersion) -> (Bench, Vec<u8>) {
    let mut bench = Bench::new(30);
    let id = bench.connect(client(&client_config(version)));
    let mut said = Vec::new();
    bench.say(id, &[9; 3000]);
    bench.say_end(id);
    bench.client(id).tap = Some(Vec::new());
    bench.run();
    said.extend(bench.client(id).tap.take().expect("a tap"));
    (bench, said)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn bytes_are_exact_at_any_size_of_pieces_and_of_windows(
        seed: u64,
        piece in prop_oneof![1usize..40, 40usize..5000, 5000usize..100_000],
        len in prop_oneof![0usize..3000, 3000usize..200_000],
        says in prop_oneof![1usize..2000, 2000usize..60_000],
        twelve: bool,
        small: bool,
    ) {
        let mut bench = if small { Bench::small(seed) } else { Bench::new(seed) };
        // Small pieces of much take long.
        let len = len.min(piece * 3000);
        bench.piece = piece;
        let version = if twelve { &TLS12 } else { &TLS13 };
        let id = bench.connect(client(&client_config(version)));
        let data: Vec<u8> = (0..len).map(|n| ((n * 31) >> 3) as u8).collect();
        // Records of all sizes: each say is one, or several if it is large.
        let mut left = &data[..];
        while !left.is_empty() {
            let (now, later) = left.split_at(left.len().min(says.max(len / 200)));
            bench.say(id, now);
            bench.turn();
            bench.turn();
            left = later;
        }
        bench.say_end(id);
        bench.run();
        let c = bench.client(id);
        prop_assert!(c.plaintext == data, "{} of {len}, {:?}", c.plaintext.len(), c.error);
        prop_assert!(c.closed && c.socket.is_over() && !c.socket.reset);
        prop_assert!(bench.origins.values().all(|o| o.is_over() && !o.reset));
        prop_assert_eq!(bench.table("tls_connections"), 0);
        prop_assert_eq!(bench.node.status(bench.now).flow_memory.reserved, 0);
    }

    #[test]
    fn a_client_hello_that_was_changed_does_no_harm(
        edits in prop::collection::vec((0usize..400, any::<u8>(), 0u8..3), 1..8),
        twelve: bool,
        twice: bool,
    ) {
        let mut bench = Bench::new(33);
        let mut tls = client(&client_config(if twelve { &TLS12 } else { &TLS13 }));
        let mut said = Vec::new();
        tls.write_tls(&mut said).expect("a vector takes all");
        for (at, byte, how) in edits {
            let at = at % said.len();
            match how {
                0 => said[at] = byte,
                1 => said.insert(at, byte),
                _ => drop(said.remove(at)),
            }
        }
        if twice {
            said.extend(said.clone());
        }
        let id = bench.connect_raw(&said);
        bench.pass(Duration::from_secs(10));
        prop_assert!(bench.client(id).socket.is_over() && bench.origins.is_empty());
        prop_assert_eq!(bench.table("tls_connections"), 0);
    }

    #[test]
    fn what_is_no_tls_does_no_harm(
        piece in 1usize..300,
        said in prop::collection::vec(
            prop_oneof![
                prop::collection::vec(any::<u8>(), 0..200),
                // Looks like records.
                (20u8..25, 0u8..5, prop::collection::vec(any::<u8>(), 0..300), any::<u16>(), any::<bool>())
                    .prop_map(|(kind, minor, body, lie, lies)| {
                        let len = if lies { lie } else { body.len() as u16 };
                        let mut record = vec![kind, 3, minor];
                        record.extend(len.to_be_bytes());
                        record.extend(body);
                        record
                    }),
            ],
            0..10,
        ),
        fin: bool,
    ) {
        let mut bench = Bench::new(31);
        bench.piece = piece;
        let id = bench.connect_raw(&said.concat());
        bench.client(id).socket.fin = fin;
        bench.run();
        prop_assert!(bench.origins.is_empty());
        bench.pass(Duration::from_secs(10));
        prop_assert!(bench.client(id).socket.is_over());
        prop_assert_eq!(bench.table("tls_connections"), 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// A client whose bytes are changed on the way, in the handshake or behind it.
    #[test]
    fn a_changed_byte_never_gives_the_origin_a_wrong_one(
        at in 0usize..4000,
        bit in 0u32..8,
        twelve: bool,
        drop: bool,
    ) {
        let mut bench = Bench::new(32);
        bench.echo = false;
        let id = bench.connect(client(&client_config(if twelve { &TLS12 } else { &TLS13 })));
        bench.say(id, &[9; 3000]);
        bench.say_end(id);
        bench.client(id).spoil = Some((at, (!drop).then_some(1 << bit)));
        bench.run();
        let spoilt = bench.client(id).spoil.is_none();
        bench.pass(Duration::from_secs(20));
        for origin in bench.origins.values() {
            prop_assert!([9; 3000].starts_with(&origin.incoming));
            prop_assert!(!origin.fin_received || !spoilt || origin.incoming.len() == 3000);
            prop_assert!(!spoilt || origin.reset || origin.incoming.len() == 3000);
        }
        if spoilt {
            prop_assert!(bench.client(id).socket.is_over());
        }
    }
}

/// What may happen to a room whose flow has no way to its destination, so that its credit is small and
/// known.
#[derive(Debug, Clone)]
enum Step {
    Bytes(usize),
    Eof,
    Reset,
    Written(usize),
    Time(u64),
    Grant(usize),
    Write(usize),
    Shutdown,
    Abort,
    Poll,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop_oneof![1usize..100, 1usize..40_000].prop_map(Step::Bytes),
        1 => Just(Step::Eof),
        1 => Just(Step::Reset),
        3 => (0usize..70_000).prop_map(Step::Written),
        1 => (0u64..20_000).prop_map(Step::Time),
        3 => (0usize..40_000).prop_map(Step::Grant),
        2 => (0usize..70_000).prop_map(Step::Write),
        1 => Just(Step::Shutdown),
        1 => Just(Step::Abort),
        4 => Just(Step::Poll),
    ]
}

fn bytes_of_flow(flows: &Flows) -> u64 {
    let mut held = 0;
    flows.tables(&mut |table| {
        if table.name == "flow_unacknowledged" {
            held = table.len;
        }
    });
    held
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_events_and_wishes_is_survived(
        recorded: bool,
        steps in prop::collection::vec(step(), 0..60),
    ) {
        let (mut tls, mut flows, listeners) = room();
        let mut actions = VecDeque::new();
        let (id, mut now) = (ConnId::accepted(0), epoch());
        let remote = ([192, 0, 2, 1], 9).into();
        prop_assert!(tls.accept(now, id, &listeners[0], Endpoints::new(remote, remote), &mut actions));
        let mut bot = client(&client_config(&TLS13));
        let mut out: VecDeque<u8> = VecDeque::new();
        use std::io::Write;
        bot.writer().write_all(&[5; 200_000]).expect("no limit");
        for step in steps {
            if !tls.owns(id) {
                break;
            }
            while bot.wants_write() {
                let mut some = Vec::new();
                bot.write_tls(&mut some).expect("a vector takes all");
                out.extend(some);
            }
            match step {
                Step::Bytes(n) if recorded => {
                    let data: Vec<u8> = out.drain(..n.min(out.len())).collect();
                    tls.handle(now, TcpEvent::Received { conn: id, data: &data }, &mut flows, &mut actions);
                }
                Step::Bytes(n) => {
                    let data = vec![22; n];
                    tls.handle(now, TcpEvent::Received { conn: id, data: &data }, &mut flows, &mut actions);
                }
                Step::Eof => tls.handle(now, TcpEvent::Eof { conn: id }, &mut flows, &mut actions),
                Step::Reset => tls.handle(now, TcpEvent::Reset { conn: id }, &mut flows, &mut actions),
                Step::Written(bytes) => {
                    tls.handle(now, TcpEvent::Written { conn: id, bytes }, &mut flows, &mut actions);
                }
                Step::Time(ms) => {
                    now += Duration::from_millis(ms);
                    tls.handle_timeout(now, &mut flows, &mut actions);
                }
                Step::Grant(bytes) => {
                    let output = Output::GrantRead { conn: id, bytes };
                    tls.carry_out(now, output, &mut flows, &mut actions);
                }
                Step::Write(n) => {
                    let output = Output::Write { conn: id, data: vec![1; n].into() };
                    tls.carry_out(now, output, &mut flows, &mut actions);
                }
                Step::Shutdown => {
                    tls.carry_out(now, Output::Shutdown { conn: id }, &mut flows, &mut actions);
                }
                Step::Abort => {
                    tls.carry_out(now, Output::Abort { conn: id }, &mut flows, &mut actions);
                }
                Step::Poll => {
                    while let Some(output) = flows.poll_output(now) {
                        tls.carry_out(now, output, &mut flows, &mut actions);
                    }
                }
            }
            while let Some(action) = actions.pop_front() {
                if let Action::Write { data, .. } = action {
                    let mut data = &data[..];
                    while !data.is_empty() && matches!(bot.read_tls(&mut data), Ok(1..)) {
                        if bot.process_new_packets().is_err() {
                            break;
                        }
                        while let Ok(n) = std::io::Read::read(&mut bot.reader(), &mut [0; 4096]) {
                            if n == 0 { break }
                        }
                    }
                }
            }
        }
    }

    /// The flow waits for a way, so it asks for its first 16 KiB and nothing more.
    #[test]
    fn a_flow_is_never_given_more_than_it_asked_for(
        sizes in prop::collection::vec(prop_oneof![1usize..50, 50usize..20_000], 1..60),
        cut in 1usize..70_000,
    ) {
        use std::io::Write;
        let (mut tls, mut flows, listeners) = room();
        let mut actions = VecDeque::new();
        let (id, now) = (ConnId::accepted(0), epoch());
        let remote = ([192, 0, 2, 1], 9).into();
        prop_assert!(tls.accept(now, id, &listeners[0], Endpoints::new(remote, remote), &mut actions));
        let mut bot = client(&client_config(&TLS13));
        let (mut out, mut granted, mut asked) = (VecDeque::new(), 0, 0);
        let mut sizes = sizes.into_iter();
        loop {
            let mut any = false;
            if let Some(output) = flows.poll_output(now) {
                any = true;
                if let Output::GrantRead { bytes, .. } = output {
                    asked += bytes as u64;
                }
                tls.carry_out(now, output, &mut flows, &mut actions);
            }
            while let Some(action) = actions.pop_front() {
                any = true;
                match action {
                    Action::GrantRead { bytes, .. } => granted += bytes,
                    Action::Write { data, .. } => {
                        let mut data = &data[..];
                        while !data.is_empty() {
                            bot.read_tls(&mut data).expect("a slice gives all");
                            bot.process_new_packets().expect("a good server");
                        }
                    }
                    other => prop_assert!(false, "{other:?}"),
                }
            }
            if let Some(size) = sizes.next() {
                any = true;
                bot.writer().write_all(&vec![5; size]).expect("no limit");
            }
            while bot.wants_write() {
                let mut some = Vec::new();
                bot.write_tls(&mut some).expect("a vector takes all");
                out.extend(some);
            }
            let n = cut.min(granted).min(out.len());
            if n > 0 {
                any = true;
                granted -= n;
                let data: Vec<u8> = out.drain(..n).collect();
                tls.handle(now, TcpEvent::Received { conn: id, data: &data }, &mut flows, &mut actions);
            }
            prop_assert!(bytes_of_flow(&flows) <= 16 << 10);
            let mut waiting = 0;
            tls.tables(100, &mut |table| {
                assert!(table.len <= table.bound, "{table:?}");
                if table.name == "tls_waiting" {
                    waiting = table.len;
                }
            });
            prop_assert!(waiting + (granted as u64) <= asked + super::conn::MAX_WAITING as u64);
            if !any {
                break;
            }
        }
        prop_assert!(asked <= 16 << 10 && (out.is_empty() || granted == 0));
    }
}

#[test]
fn a_recorded_connection_that_is_said_again_comes_to_nothing() {
    for version in [&TLS12, &TLS13] {
        let (mut bench, said) = recording(version);
        assert!(said.len() > 3000);
        let origins = bench.origins.len();
        let id = bench.connect_raw(&said);
        bench.run();
        bench.pass(Duration::from_secs(10));
        assert!(bench.client(id).socket.is_over());
        assert_eq!((bench.origins.len(), bench.table("tls_connections")), (origins, 0));
    }
}
