//! TLS clients of a node: bytes, ends, faults, sessions, bounds.

use std::time::Duration;

use rustls::HandshakeKind;
use rustls::version::{TLS12, TLS13};

use super::bench::{Bench, client, client_config, identity};
use super::conn::MAX_WAITING;
use super::{HANDSHAKE_TIMEOUT, IDLE_TIMEOUT, MAX_ENDING, MAX_HANDSHAKES};
use crate::ConnId;

fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    let mut out = vec![0; len];
    crate::rng::Rng::new(bytes).fill(&mut out);
    out
}

fn tls13() -> rustls::ClientConnection {
    client(&client_config(&TLS13))
}

/// A client whose handshake is done, and the origin answers nothing.
fn established(bench: &mut Bench) -> ConnId {
    bench.echo = false;
    let id = bench.connect(tls13());
    bench.run();
    assert!(!bench.client(id).tls.is_handshaking());
    id
}

fn counters(bench: &Bench) -> (usize, u64, u64) {
    let status = bench.node.status(bench.now);
    (status.tls_connections, status.counters.tls_failed, status.counters.tls_timed_out)
}

#[test]
fn bytes_are_exact_both_ways_with_each_kind_of_key_in_both_versions() {
    for kind in ["rsa", "ec", "ed25519"] {
        for version in [&TLS12, &TLS13] {
            let mut bench = Bench::new(1);
            bench.node.set_identity(bench.now, &identity(kind));
            let id = bench.connect(client(&client_config(version)));
            let said = pattern(2, 300_000);
            bench.say(id, &said);
            bench.say_end(id);
            bench.run();
            let c = bench.client(id);
            assert!(c.plaintext == said, "{kind}: {:?} {:?}", c.plaintext.len(), c.error);
            assert!(c.closed && c.socket.fin_received && !c.socket.reset);
            assert!(bench.origin().is_over() && !bench.origin().reset);
            assert_eq!((counters(&bench), bench.table("tls_connections")), ((0, 0, 0), 0));
        }
    }
}

#[test]
fn no_flow_begins_before_the_handshake_is_complete() {
    let mut bench = Bench::new(2);
    let id = bench.connect(tls13());
    let mut hello = Vec::new();
    bench.client(id).tls.write_tls(&mut hello).expect("a vector takes all");
    bench.client(id).mute = true;
    bench.client(id).socket.outgoing.extend(hello);
    bench.run();
    assert!(bench.client(id).socket.incoming.len() > 100, "the server's flight");
    assert_eq!(bench.node.status(bench.now).counters.flows_opened, 0);
    assert_eq!((bench.table("tls_handshakes"), bench.origins.len()), (1, 0));
    bench.client(id).mute = false;
    bench.run();
    assert_eq!(bench.node.status(bench.now).counters.flows_opened, 1);
    assert_eq!((bench.table("tls_handshakes"), counters(&bench)), (0, (1, 0, 0)));
}

#[test]
fn data_that_follows_the_handshake_at_once_opens_the_flow_together_with_it() {
    let mut bench = Bench::new(3);
    let id = bench.connect(tls13());
    bench.say(id, b"hello");
    bench.run();
    assert_eq!(bench.client(id).plaintext, b"hello");
}

#[test]
fn close_notify_is_a_half_close_each_way() {
    let mut bench = Bench::new(4);
    let id = established(&mut bench);
    bench.say(id, b"request");
    bench.client(id).tls.send_close_notify();
    bench.run();
    assert!(bench.origin().fin_received && bench.origin().incoming == b"request");
    let answer = pattern(4, 200_000);
    bench.origin().outgoing.extend(&answer);
    bench.run();
    assert!(bench.client(id).plaintext == answer && !bench.client(id).closed);
    bench.origin().fin = true;
    bench.run();
    assert!(bench.client(id).closed && bench.client(id).socket.fin_received);
    assert!(bench.origin().is_over() && bench.table("tls_ending") == 1);
    bench.client(id).socket.fin = true;
    bench.run();
    assert!(bench.client(id).socket.is_over() && !bench.client(id).socket.reset);
    assert_eq!(bench.table("tls_connections"), 0);

    // The other way round: the origin ends first.
    let mut bench = Bench::new(5);
    let id = established(&mut bench);
    bench.origin().outgoing.extend(b"greeting");
    bench.origin().fin = true;
    bench.run();
    assert!(bench.client(id).closed && bench.client(id).plaintext == b"greeting");
    let said = pattern(5, 200_000);
    bench.say(id, &said);
    bench.run();
    assert!(bench.origin().incoming == said && !bench.origin().fin_received);
    bench.say_end(id);
    bench.run();
    assert!(bench.origin().is_over() && !bench.origin().reset);
    assert!(bench.client(id).socket.is_over() && !bench.client(id).socket.reset);
    assert_eq!(bench.table("tls_connections"), 0);
}

#[test]
fn data_after_close_notify_is_ignored() {
    let mut bench = Bench::new(6);
    let id = established(&mut bench);
    bench.say(id, b"all");
    bench.client(id).tls.send_close_notify();
    bench.run();
    bench.client(id).socket.outgoing.extend([0xff; 5000]);
    bench.run();
    assert!(bench.origin().incoming == b"all" && bench.origin().fin_received);
    assert!(!bench.client(id).socket.reset);
}

#[test]
fn a_truncated_stream_is_a_reset_at_the_origin() {
    // At the end of a record, and within one.
    for cut in [0, 7] {
        let mut bench = Bench::new(7);
        let id = established(&mut bench);
        bench.say(id, &pattern(7, 100_000));
        bench.run();
        bench.say(id, b"more");
        let mut records = Vec::new();
        bench.client(id).tls.write_tls(&mut records).expect("a vector takes all");
        records.truncate(cut);
        bench.client(id).socket.outgoing.extend(records);
        bench.client(id).socket.fin = true;
        bench.run();
        assert!(bench.origin().reset && !bench.origin().fin_received);
        assert!(bench.client(id).socket.reset && !bench.client(id).closed);
        assert_eq!(bench.table("tls_connections"), 0);
    }
}

#[test]
fn truncation_behind_data_that_still_waits_is_found_and_so_is_a_clean_end() {
    let said = pattern(8, 1_000_000);
    let stalled = || {
        let mut bench = Bench::small(8);
        let id = established(&mut bench);
        bench.origin().takes = Some(0);
        (bench, id)
    };
    let (mut bench, id) = stalled();
    let before = bench.client(id).socket.read;
    bench.say(id, &said);
    bench.run();
    let may = bench.client(id).socket.read - before;
    for clean in [false, true] {
        let (mut bench, id) = stalled();
        // As much as is read although the flow does not take it, close_notify included.
        let said = &said[..may - may.div_ceil(16_384) * 22 - 24];
        bench.say(id, said);
        if clean {
            bench.client(id).tls.send_close_notify();
        }
        bench.client(id).socket.fin = true;
        bench.run();
        assert!(bench.client(id).socket.fin_sent && bench.table("tls_waiting") > 0);
        assert!(!bench.origin().reset && !bench.origin().fin_received);
        bench.origin().takes = None;
        bench.run();
        assert_eq!((bench.origin().reset, bench.origin().fin_received), (!clean, clean));
        assert!(!clean || bench.origin().incoming == said);
    }
}

#[test]
fn an_origin_that_ended_well_is_not_taken_back_by_a_client_that_leaves_out_close_notify() {
    let mut bench = Bench::new(9);
    let id = established(&mut bench);
    bench.say(id, b"request");
    bench.origin().outgoing.extend(pattern(9, 100_000));
    bench.origin().fin = true;
    bench.run();
    assert!(bench.client(id).closed);
    bench.client(id).socket.fin = true;
    bench.run();
    assert!(bench.origin().reset, "that the client was done is not known");
    assert!(!bench.client(id).socket.reset, "what it was told stays told");
    assert_eq!(bench.table("tls_connections"), 0);
}

#[test]
fn resets_pass_both_ways() {
    let mut bench = Bench::new(10);
    let id = established(&mut bench);
    bench.reset(id);
    bench.run();
    assert!(bench.origin().reset);

    let mut bench = Bench::new(11);
    let id = established(&mut bench);
    bench.origin().outgoing.extend(b"half an ans");
    bench.run();
    let origin = *bench.origins.keys().next().expect("an origin");
    bench.reset(origin);
    bench.run();
    let c = bench.client(id);
    assert!(c.socket.reset && !c.closed && c.plaintext == b"half an ans");
    assert_eq!(bench.table("tls_connections"), 0);
}

#[test]
fn bad_records_are_answered_with_an_alert_and_reset_the_origin() {
    let mut bench = Bench::new(12);
    let id = established(&mut bench);
    bench.say(id, b"good");
    bench.run();
    bench.client(id).socket.outgoing.extend([23, 3, 3, 0, 40]);
    bench.client(id).socket.outgoing.extend([7; 40]);
    bench.run();
    assert!(bench.origin().reset && bench.origin().incoming == b"good");
    let alert = rustls::AlertDescription::BadRecordMac;
    assert_eq!(bench.client(id).error, Some(rustls::Error::AlertReceived(alert)));
    assert!(bench.client(id).socket.fin_received && !bench.client(id).closed);
    // One that hangs on is reset.
    bench.pass(Duration::from_secs(3));
    assert!(bench.client(id).socket.reset);
    assert_eq!(bench.table("tls_connections"), 0);
}

#[test]
fn who_does_not_speak_tls_is_told_so_and_sent_away() {
    let mut bench = Bench::new(13);
    for bytes in [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], &[0x16, 3, 1, 0xff, 0xff], &[0; 100]] {
        let id = bench.connect_raw(bytes);
        bench.run();
        let socket = &bench.client(id).socket;
        assert!(socket.incoming.first() == Some(&21), "an alert: {:?}", socket.incoming);
        assert!(socket.fin_received);
    }
    assert_eq!((counters(&bench), bench.table("tls_ending")), ((0, 3, 0), 3));
    bench.pass(Duration::from_secs(3));
    assert_eq!(bench.table("tls_connections"), 0);
    assert!(bench.clients.values().all(|c| c.socket.reset));
}

#[test]
fn a_client_that_distrusts_the_certificate_is_counted() {
    let mut bench = Bench::new(14);
    let config = client_config(&TLS13);
    let name = "other.example".try_into().expect("a name");
    let tls = rustls::ClientConnection::new(config, name).expect("a client");
    let id = bench.connect(tls);
    bench.run();
    assert!(bench.client(id).error.is_some() && bench.client(id).socket.is_over());
    assert_eq!((counters(&bench), bench.origins.len()), ((0, 1, 0), 0));
}

#[test]
fn a_handshake_that_takes_too_long_is_broken_off() {
    let mut bench = Bench::new(15);
    let silent = bench.connect_raw(b"");
    let slow = bench.connect_raw(&[0x16, 3, 1, 2, 0, 1]);
    let quick = bench.connect(tls13());
    bench.pass(HANDSHAKE_TIMEOUT - Duration::from_millis(1));
    assert!(!bench.client(silent).socket.reset && !bench.client(slow).socket.reset);
    bench.pass(Duration::from_millis(1));
    assert!(bench.client(silent).socket.reset && bench.client(slow).socket.reset);
    assert!(!bench.client(quick).socket.reset);
    assert_eq!(counters(&bench), (1, 0, 2));
}

#[test]
fn a_connection_on_which_nothing_moves_is_reset_after_hours_and_a_used_one_is_not() {
    let mut bench = Bench::new(16);
    let id = bench.connect(tls13());
    bench.run();
    for _ in 0..3 {
        bench.pass(IDLE_TIMEOUT - Duration::from_secs(1));
        bench.say(id, b"x");
        bench.run();
    }
    assert!(!bench.client(id).socket.reset && bench.client(id).plaintext == b"xxx");
    bench.pass(IDLE_TIMEOUT);
    assert!(bench.client(id).socket.reset && bench.origin().reset);
    assert_eq!(bench.table("tls_connections"), 0);
}

#[test]
fn returning_clients_take_up_their_session_in_both_versions() {
    for version in [&TLS12, &TLS13] {
        let mut bench = Bench::new(17);
        let config = client_config(version);
        for round in 0..4 {
            if round == 2 {
                // Another certificate does not end it.
                bench.node.set_identity(bench.now, &identity("ed25519"));
            }
            let id = bench.connect(client(&config));
            bench.say(id, b"x");
            bench.say_end(id);
            bench.run();
            assert_eq!(bench.client(id).plaintext, b"x");
            let kind = bench.client(id).tls.handshake_kind();
            let wanted = if round == 0 { HandshakeKind::Full } else { HandshakeKind::Resumed };
            assert_eq!(kind, Some(wanted), "{version:?}, {round}");
        }
    }
}

#[test]
fn another_certificate_is_shown_to_new_clients_and_touches_no_other() {
    let mut bench = Bench::without_identity(18, "");
    let early = bench.connect(tls13());
    bench.run();
    assert!(bench.client(early).socket.reset, "nothing to show yet");
    let mut shown = Vec::new();
    let mut all = Vec::new();
    for kind in ["ec", "ed25519", "rsa"] {
        bench.node.set_identity(bench.now, &identity(kind));
        let id = bench.connect(tls13());
        bench.run();
        let leaf = bench.client(id).tls.peer_certificates().expect("a chain")[0].to_vec();
        assert_eq!(leaf, identity(kind).certificate());
        shown.push(leaf);
        all.push(id);
    }
    shown.dedup();
    assert_eq!(shown.len(), 3);
    for id in all {
        bench.say(id, b"still here");
        bench.run();
        assert_eq!(bench.client(id).plaintext, b"still here");
    }
}

#[test]
fn a_stalled_origin_stops_the_client_within_the_flows_window() {
    let mut bench = Bench::small(19);
    let id = established(&mut bench);
    bench.origin().takes = Some(0);
    bench.say(id, &pattern(19, 1_000_000));
    bench.run();
    let read = bench.client(id).socket.read;
    assert!(read < 2 * 65_536 + 2 * MAX_WAITING, "{read} bytes were read");
    bench.origin().takes = None;
    bench.run();
    assert_eq!(bench.client(id).plaintext.len(), 0);
    assert!(bench.origin().incoming == pattern(19, 1_000_000));
}

#[test]
fn a_stalled_client_stops_the_origin() {
    let mut bench = Bench::new(20);
    let id = established(&mut bench);
    bench.client(id).socket.takes = Some(0);
    bench.origin().outgoing.extend(pattern(20, 80 << 20));
    bench.run();
    let waiting = bench.client(id).socket.waiting.len();
    assert!((200 << 10..300 << 10).contains(&waiting), "{waiting} bytes wait in the shell");
    assert!(bench.origin().read < 70 << 20);
    bench.client(id).socket.takes = None;
    bench.run();
    assert!(bench.client(id).plaintext == pattern(20, 80 << 20));
}

#[test]
fn half_open_handshakes_are_bounded_and_do_not_keep_others_out() {
    let mut bench = Bench::new(21);
    for n in 0..10_000 {
        let start: &[u8] = if n % 2 == 0 { &[] } else { &[0x16, 3, 1, 0x20, 0] };
        bench.connect_raw(start);
        if n % 500 == 0 {
            bench.check_tables();
            let id = bench.connect(tls13());
            bench.say(id, b"me too");
            // Only the node and this client: the others say nothing.
            let others = std::mem::take(&mut bench.clients);
            let (mine, mut others): (std::collections::BTreeMap<_, _>, _) =
                others.into_iter().partition(|(other, _)| *other == id);
            bench.clients = mine;
            for _ in 0..50 {
                bench.turn();
            }
            assert_eq!(bench.client(id).plaintext, b"me too");
            others.append(&mut bench.clients);
            bench.clients = others;
        }
    }
    assert_eq!(bench.table("tls_handshakes"), MAX_HANDSHAKES as u64);
    let reset = bench.clients.values().filter(|c| c.socket.reset).count();
    assert_eq!(reset, 10_000 - MAX_HANDSHAKES);
    bench.pass(HANDSHAKE_TIMEOUT);
    assert_eq!((bench.table("tls_handshakes"), bench.table("tls_connections")), (0, 20));
}

#[test]
fn clients_that_never_take_their_end_are_bounded() {
    let mut bench = Bench::new(22);
    let config = client_config(&TLS13);
    let warm = bench.connect(client(&config));
    bench.run();
    for n in 0..=MAX_ENDING {
        let id = bench.connect(client(&config));
        bench.client(id).ends = Some(false);
        for _ in 0..20 {
            bench.turn();
        }
        assert!(bench.client(id).closed, "{n}");
        if n < MAX_ENDING {
            // Only the first is looked at later.
            let ended = bench.clients.remove(&id).expect("a client");
            assert!(!ended.socket.reset && ended.socket.fin_received);
            bench.origins.retain(|_, origin| !origin.is_over());
            bench.gone.insert(id, false);
        }
    }
    assert_eq!(bench.table("tls_ending"), MAX_ENDING as u64);
    assert_eq!(
        bench.gone.values().filter(|reset| **reset).count(),
        1,
        "one was reset to make room"
    );
    assert!(!bench.client(warm).socket.reset);
}

#[test]
fn while_draining_no_handshake_becomes_a_flow() {
    let mut bench = Bench::new(23);
    let old = bench.connect(tls13());
    bench.run();
    let new = bench.connect(tls13());
    bench.node.drain(bench.now);
    bench.say(old, b"x");
    bench.run();
    assert!(bench.client(new).socket.reset && !bench.client(old).socket.reset);
    assert_eq!(bench.client(old).plaintext, b"x");
    let late = bench.connect(tls13());
    assert!(bench.client(late).socket.reset);
}
