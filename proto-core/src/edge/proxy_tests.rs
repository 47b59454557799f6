//! The PROXY header against a parser that was written from the specification alone, and how the bytes of
//! a connection are told apart.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use proptest::prelude::*;

use super::proxy::Headers;
use crate::ids::ConnId;
use crate::tests::epoch;
use crate::wire::endpoints::Endpoints;
use crate::{Action, Config, ListenerId, Node, TcpEvent};

/// What a header says: the addresses of client and destination, if any; and how long it is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Parsed {
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    pub len: usize,
}

/// As a receiver reads it (section 2.2); `None` if it is no whole header of version 2.
pub(crate) fn parse(bytes: &[u8]) -> Option<Parsed> {
    let fixed: &[u8; 16] = bytes.first_chunk()?;
    if fixed[..12] != [0x0d, 0x0a, 0x0d, 0x0a, 0, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a] {
        return None;
    }
    // Version and command: LOCAL or PROXY.
    if fixed[12] != 0x20 && fixed[12] != 0x21 {
        return None;
    }
    let rest = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    let body = bytes.get(16..16 + rest)?;
    let port = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
    let v4 = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&body[at..at + 4]).expect("4"));
    let v6 = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&body[at..at + 16]).expect("16"));
    let addresses = match (fixed[12] & 0xf, fixed[13]) {
        (1, 0x11) if rest >= 12 => {
            Some((SocketAddr::new(v4(0), port(8)), SocketAddr::new(v4(4), port(10))))
        }
        (1, 0x21) if rest >= 36 => {
            Some((SocketAddr::new(v6(0), port(32)), SocketAddr::new(v6(16), port(34))))
        }
        (1, 0x00) | (0, _) => None,
        _ => return None,
    };
    Some(Parsed { addresses, len: 16 + rest })
}

fn written_for(endpoints: Endpoints) -> Vec<u8> {
    let mut headers = Headers::default();
    let conn = ConnId::dialled(0);
    headers.dialled(conn, endpoints);
    let header = headers.connected(conn).expect("a header");
    assert_eq!(headers.connected(conn), None, "once for a connection");
    header.to_vec()
}

#[test]
fn the_header_is_that_of_the_specification() {
    let endpoints =
        Endpoints::new(([192, 0, 2, 1], 0x1234).into(), ([198, 51, 100, 7], 443).into());
    let mut expected = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c".to_vec();
    expected.extend([192, 0, 2, 1, 198, 51, 100, 7, 0x12, 0x34, 0x01, 0xbb]);
    assert_eq!(written_for(endpoints), expected);
}

#[test]
fn a_client_that_is_nowhere_is_not_made_up() {
    let local = ([198, 51, 100, 7], 443).into();
    for nowhere in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)] {
        let header = written_for(Endpoints::new(SocketAddr::new(nowhere, 0), local));
        assert_eq!(parse(&header), Some(Parsed { addresses: None, len: 16 }));
        assert_eq!(header.len(), 16);
    }
}

#[test]
fn who_wants_no_header_gets_none_and_one_that_is_over_is_forgotten() {
    let mut headers = Headers::default();
    let conn = ConnId::dialled(1);
    assert_eq!(headers.connected(conn), None);
    assert_eq!(headers.written(conn, 100), 100);
    headers.dialled(conn, crate::tests::endpoints());
    headers.forget(conn);
    assert_eq!((headers.connected(conn), headers.len()), (None, 0));
}

#[test]
fn a_flow_is_not_over_while_only_the_header_was_taken() {
    let text = "node_id = \"a\"\nregion = \"x\"\nlisten.tcp_addr = \"127.0.0.1:2\"\n\
                relay.default_dest = \"a\"\n\
                origins.default = { addr = \"127.0.0.1:80\", proxy_protocol = \"v2\" }\n";
    let config = Config::parse("test.toml", text.as_bytes()).expect("a valid configuration");
    let mut now = epoch();
    let node = Node::new(config, [31; 32], now, Duration::from_secs(1_800_000_000));
    let mut node = node.expect("a valid node");
    let (client, origin) = (ConnId::accepted(0), ConnId::dialled(0));
    // Client and origin say what they have to say and end; nothing is reported as written.
    let (remote, local) = (([192, 0, 2, 1], 1).into(), ([192, 0, 2, 2], 2).into());
    let listener = ListenerId(0);
    node.handle_tcp(now, TcpEvent::Accepted { conn: client, listener, remote, local });
    let mut heard = Vec::new();
    let mut settle = |node: &mut Node, now: &mut std::time::Instant| {
        for _ in 0..10 {
            while let Some(action) = node.poll_action() {
                match action {
                    Action::Connect { conn, .. } => {
                        node.handle_tcp(*now, TcpEvent::Connected { conn });
                    }
                    Action::Write { conn, data } if conn == origin => {
                        heard.extend_from_slice(&data);
                    }
                    _ => {}
                }
            }
            *now += Duration::from_millis(30);
            node.handle_timeout(*now);
        }
        heard.len()
    };
    node.handle_tcp(now, TcpEvent::Received { conn: client, data: &[7; 20] });
    node.handle_tcp(now, TcpEvent::Eof { conn: client });
    assert_eq!(settle(&mut node, &mut now), 28 + 20);
    node.handle_tcp(now, TcpEvent::Eof { conn: origin });
    node.handle_tcp(now, TcpEvent::Written { conn: origin, bytes: 28 });
    settle(&mut node, &mut now);
    assert_eq!(node.status(now).tcp_flows, 1, "the origin has not taken the client's bytes");
    node.handle_tcp(now, TcpEvent::Written { conn: origin, bytes: 20 });
    settle(&mut node, &mut now);
    assert_eq!(node.status(now).tcp_flows, 0);
}

proptest! {
    #[test]
    fn a_receiver_learns_both_addresses(client: SocketAddr, local: SocketAddr) {
        prop_assume!(!client.ip().to_canonical().is_unspecified());
        let header = written_for(Endpoints::new(client, local));
        let Some(Parsed { addresses: Some((from, to)), len }) = parse(&header) else {
            return Err(TestCaseError::fail(format!("no header: {header:02x?}")));
        };
        prop_assert_eq!(len, header.len());
        prop_assert_eq!(from.is_ipv4(), to.is_ipv4());
        for (told, is) in [(from, client), (to, local)] {
            prop_assert_eq!((told.ip().to_canonical(), told.port()), (is.ip().to_canonical(), is.port()));
        }
    }

    #[test]
    fn however_the_bytes_are_taken_the_flow_is_told_of_its_own(
        client: SocketAddr, local: SocketAddr, pieces in prop::collection::vec(0usize..60, 0..12),
    ) {
        let mut headers = Headers::default();
        let (conn, other) = (ConnId::dialled(3), ConnId::dialled(4));
        headers.dialled(conn, Endpoints::new(client, local));
        headers.dialled(other, Endpoints::new(client, local));
        let header = headers.connected(conn).expect("a header").len();
        let (mut taken, mut told) = (0, 0);
        for piece in pieces {
            taken += piece;
            told += headers.written(conn, piece);
            prop_assert_eq!(told, taken.saturating_sub(header));
            prop_assert_eq!(headers.len(), 1 + usize::from(taken < header));
        }
    }
}
