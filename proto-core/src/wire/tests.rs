//! Every layout comes back as it went; no bytes make a decoder panic, give more than there is, or
//! take memory by their own measure.

use std::net::{IpAddr, SocketAddr};

use proptest::collection::vec;
use proptest::prelude::*;

use super::ack::{self, CounterPart, LanePart, LinkAck};
use super::endpoints::Endpoints;
use super::flow::{
    self, AckRanges, Age, Body, Direction, DropReason, FlowAck, FlowKey, Head, Opening, ResetCode,
};
use super::frame::{self, Frame, ParityFields};
use super::linkstate;
use super::packet::{
    COOKIE_LEN, Cookie, DataHeader, EPHEMERAL_LEN, Hello, INITIATION_LEN, InitiationPayload, KeyId,
    Packet, REJECT_LEN, RESPONSE_LEN, RejectReason, ResponsePayload, SessionIndex, TAG_LEN,
    put_cookie, put_initiation, put_reject, put_response,
};
use super::ranges::Ranges;
use super::symbol::{self, Content};
use super::tests_linkstate::{check_fragment, fragment};
use super::{Reader, VARINT_MAX, put_varint, varint_len};
use crate::ids::{Lane, NodeHash, Ssn};

/// Numbers of every encoded length, the bounds among them.
pub(super) fn number() -> impl Strategy<Value = u64> {
    let bounds = [0, 0x3f, 0x40, 0x3fff, 0x4000, 0x3fff_ffff, 0x4000_0000, VARINT_MAX];
    prop_oneof![
        proptest::sample::select(bounds.to_vec()),
        (0u32..62, any::<u64>()).prop_map(|(bits, n)| n & ((2 << bits) - 1)),
    ]
}

fn lane() -> impl Strategy<Value = Lane> {
    proptest::sample::select(Lane::ALL.to_vec())
}

/// Ascending, disjoint ranges above `floor`, within what a varint holds.
fn ranges(floor: u64, steps: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut at = floor;
    let mut out = Vec::new();
    for (gap, len) in steps {
        let Some(start) = at.checked_add(*gap).filter(|s| *s < VARINT_MAX) else { break };
        let end = (start + 1).saturating_add(*len).min(VARINT_MAX);
        out.push((start, end));
        at = end;
    }
    out
}

fn steps(max: usize) -> impl Strategy<Value = Vec<(u64, u64)>> {
    vec((number(), number()), 0..=max)
}

fn forget_ranges(floor: u64, steps: &[(u64, u64)]) -> frame::ForgetRanges {
    let mut set = Ranges::new();
    for (start, end) in ranges(floor, steps) {
        assert!(set.push(start, end));
    }
    set
}

fn link_ack() -> impl Strategy<Value = LinkAck> {
    let counters = (any::<u32>(), proptest::array::uniform8(number()));
    let counters = counters.prop_map(|(session, numbers)| {
        let [largest, delay_us, idle_us, at_us, packets, bytes, ce_marks, loss_runs] = numbers;
        let session = SessionIndex(session);
        CounterPart {
            session,
            largest,
            delay_us,
            idle_us,
            at_us,
            packets,
            bytes,
            ce_marks,
            loss_runs,
        }
    });
    let part = (number(), steps(ack::MAX_RANGES)).prop_map(|(floor, steps)| {
        let mut part = LanePart { floor: Ssn(floor), ranges: Ranges::new() };
        for (start, end) in ranges(floor, &steps) {
            assert!(part.ranges.push(start, end));
        }
        part
    });
    let lanes = proptest::array::uniform3(proptest::option::of(part));
    (counters, lanes).prop_map(|(counters, lanes)| LinkAck { counters, lanes })
}

pub(super) fn head() -> impl Strategy<Value = Head> {
    let nodes = (any::<u32>(), any::<u32>(), any::<u32>(), any::<u32>(), number());
    (nodes, any::<bool>(), any::<bool>(), 0u8..32, any::<u8>()).prop_map(
        |(n, back, marked, hops, age)| {
            let key = FlowKey {
                ingress: NodeHash(n.0),
                ingress_life: n.1,
                egress: NodeHash(n.2),
                egress_life: n.3,
                id: n.4,
            };
            let direction = if back { Direction::ToIngress } else { Direction::ToEgress };
            Head { key, direction, marked, hops, age: Age(age) }
        },
    )
}

/// A flow frame's body with what it borrows.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "a few of them at a time")]
pub(super) enum Owned {
    Data { offset: u64, fin: bool, open: Option<(String, Endpoints)>, data: Vec<u8> },
    Ack(FlowAck),
    Reset { code: u8, final_size: u64 },
    ResetAck,
    Ask { number: u64 },
    Dropped { offset: u64, len: u64, reason: DropReason },
}

fn code(n: u8) -> ResetCode {
    let all = [
        ResetCode::ConnectionReset,
        ResetCode::ConnectFailed,
        ResetCode::NoSuchService,
        ResetCode::UnknownFlow,
        ResetCode::NoMemory,
        ResetCode::ShuttingDown,
        ResetCode::Unreachable,
    ];
    usize::from(n).checked_sub(1).and_then(|at| all.get(at)).copied().unwrap_or(ResetCode::Other(n))
}

pub(super) fn endpoints() -> impl Strategy<Value = Endpoints> {
    let addr = || (any::<IpAddr>(), any::<u16>()).prop_map(SocketAddr::from);
    (addr(), addr()).prop_map(|(client, local)| Endpoints::new(client, local))
}

fn opening(open: &Option<(String, Endpoints)>) -> Option<Opening<'_>> {
    let (service, endpoints) = open.as_ref()?;
    Some(Opening { service, endpoints: *endpoints })
}

pub(super) fn body() -> impl Strategy<Value = Owned> {
    let open = proptest::option::of(("[a-z0-9._-]{1,64}", endpoints()));
    let data = (number(), any::<bool>(), open, vec(any::<u8>(), 0..1500));
    let numbers = proptest::array::uniform4(number());
    let ack = (numbers, any::<bool>(), steps(flow::MAX_RANGES));
    prop_oneof![
        data.prop_map(|(offset, fin, open, data)| {
            let offset = offset.min(VARINT_MAX - data.len() as u64);
            Owned::Data { offset, fin, open, data }
        }),
        ack.prop_map(|([cumulative, credit, marked, asked], fin, steps)| {
            let mut set = AckRanges::new();
            for (start, end) in ranges(cumulative, &steps) {
                assert!(set.push(start, end));
            }
            Owned::Ack(FlowAck { cumulative, credit, fin, marked, asked, ranges: set })
        }),
        (any::<u8>(), number()).prop_map(|(code, final_size)| Owned::Reset { code, final_size }),
        Just(Owned::ResetAck),
        number().prop_map(|number| Owned::Ask { number }),
        (number(), number(), any::<bool>()).prop_map(|(offset, len, way)| {
            let reason = if way { DropReason::NoWay } else { DropReason::Congestion };
            Owned::Dropped { offset, len, reason }
        }),
    ]
}

pub(super) fn put(out: &mut Vec<u8>, head: &Head, body: &Owned) {
    match body {
        Owned::Data { offset, fin, open, data } => {
            let at = out.len();
            flow::put_data_header(out, head, *offset, *fin, opening(open), data.len());
            let announced = flow::data_overhead(&head.key, *offset, opening(open));
            assert!(out.len() - at <= announced);
            out.extend_from_slice(data);
        }
        Owned::Ack(ack) => {
            let at = out.len();
            flow::put_ack(out, head, ack);
            assert!(out.len() - at <= flow::MAX_FLOW_ACK_LEN);
        }
        Owned::Reset { code: n, final_size } => flow::put_reset(out, head, code(*n), *final_size),
        Owned::ResetAck => flow::put_reset_ack(out, head),
        Owned::Ask { number } => flow::put_ask(out, head, *number),
        Owned::Dropped { offset, len, reason } => {
            flow::put_dropped(out, head, *offset, *len, *reason);
        }
    }
}

pub(super) fn same(body: &Body<'_>, owned: &Owned) -> bool {
    match (body, owned) {
        (
            Body::Data { offset, fin, open, data },
            Owned::Data { offset: o, fin: f, open: s, data: d },
        ) => offset == o && fin == f && *open == opening(s) && data == d,
        (Body::Ack(ack), Owned::Ack(other)) => ack == other,
        (Body::Reset { code: c, final_size }, Owned::Reset { code: n, final_size: f }) => {
            *c == code(*n) && final_size == f
        }
        (Body::ResetAck, Owned::ResetAck) => true,
        (Body::Ask { number }, Owned::Ask { number: n }) => number == n,
        (
            Body::Dropped { offset, len, reason },
            Owned::Dropped { offset: o, len: l, reason: r },
        ) => offset == o && len == l && reason == r,
        _ => false,
    }
}

/// Reads `bytes` as everything that bytes can be. What borrows lies within them by its lifetime;
/// what is owned has a fixed size (arrays in `LanePart` and `AckRanges`; the one `Box` is of a
/// `LinkAck`), so that no packet can size an allocation. Left to show: bounds, order, progress.
fn read_all(bytes: &[u8]) {
    let _ = Packet::parse(bytes);
    let _ = InitiationPayload::decode(bytes);
    let _ = ResponsePayload::decode(bytes);

    let mut reader = Reader::new(bytes);
    let (mut left, mut carried) = (bytes.len(), 0);
    while let Ok(Some(frame)) = frame::read(&mut reader) {
        let rest = reader.clone().take_rest().len();
        assert!(rest < left, "each frame takes something");
        left = rest;
        match frame {
            Frame::Ack(ack) => {
                for part in ack.lanes.iter().flatten() {
                    assert!(part.ranges.as_slice().len() <= ack::MAX_RANGES);
                    check_ranges(part.floor.0, part.ranges.as_slice());
                }
            }
            Frame::Symbol { ssn, content, .. } => {
                assert!(ssn.0 <= VARINT_MAX && rest == 0);
                carried += content.len();
            }
            Frame::Repair { ssn, held_ms, content, .. } => {
                assert!(ssn.0 <= VARINT_MAX && held_ms <= VARINT_MAX && rest == 0);
                carried += content.len();
            }
            Frame::Parity { header, shard, .. } => {
                assert!(header.first.0 <= VARINT_MAX && rest == 0);
                carried += shard.len();
            }
            Frame::Forget { ranges, .. } => {
                assert!(ranges.as_slice().len() <= frame::MAX_FORGET_RANGES);
                check_ranges(0, ranges.as_slice());
            }
            Frame::MtuProbe { .. } => assert!(rest == 0),
            Frame::MtuAnswer { size, .. } => assert!(size <= VARINT_MAX),
            Frame::Ping { .. } | Frame::Pong { .. } | Frame::Close => {}
        }
    }
    assert!(carried <= bytes.len());

    let mut reader = Reader::new(bytes);
    let (mut left, mut carried) = (bytes.len(), 0);
    while let Ok(Some(read)) = symbol::read(&mut reader) {
        let rest = reader.clone().take_rest().len();
        assert!(rest < left, "each frame takes something");
        left = rest;
        let (head, body) = match read.content {
            Content::Flow(head, body) => (head, body),
            Content::LinkState(fragment) => {
                check_fragment(&fragment);
                assert!(read.raw.len() <= linkstate::MAX_LEN);
                continue;
            }
        };
        assert!(head.key.id <= VARINT_MAX && head.hops < 32);
        match body {
            Body::Data { offset, open, data, .. } => {
                assert!(offset + data.len() as u64 <= VARINT_MAX);
                assert!(open.is_none_or(|open| open.service.len() <= crate::ids::MAX_NAME_LEN));
                carried += data.len();
            }
            Body::Ack(ack) => {
                assert!(
                    ack.credit <= VARINT_MAX && ack.ranges.as_slice().len() <= flow::MAX_RANGES
                );
                check_ranges(ack.cumulative, ack.ranges.as_slice());
            }
            Body::Reset { final_size, .. } => assert!(final_size <= VARINT_MAX),
            Body::Ask { number } => assert!(number <= VARINT_MAX),
            Body::Dropped { offset, len, .. } => assert!(offset.max(len) <= VARINT_MAX),
            Body::ResetAck => {}
        }
    }
    assert!(carried <= bytes.len());
}

fn check_ranges(floor: u64, ranges: &[(u64, u64)]) {
    let mut at = floor;
    for (start, end) in ranges {
        assert!(*start >= at && end > start && *end <= VARINT_MAX);
        at = *end;
    }
}

fn link_frame() -> impl Strategy<Value = Vec<u8>> {
    let bytes = || vec(any::<u8>(), 0..300);
    prop_oneof![
        link_ack().prop_map(|ack| {
            let mut out = Vec::new();
            frame::put_ack(&mut out, &ack);
            out
        }),
        (lane(), number(), steps(frame::MAX_FORGET_RANGES), any::<u64>()).prop_map(
            |(lane, floor, steps, token)| {
                let mut out = Vec::new();
                frame::put_forget(&mut out, lane, &forget_ranges(floor, &steps));
                frame::put_mtu_answer(&mut out, token, floor);
                frame::put_mtu_probe(&mut out, token);
                out
            }
        ),
        (lane(), number(), bytes()).prop_map(|(lane, ssn, content)| {
            let mut out = Vec::new();
            frame::put_symbol_header(&mut out, lane, Ssn(ssn));
            out.extend(content);
            out
        }),
        (head(), body()).prop_map(|(head, body)| {
            let mut out = Vec::new();
            put(&mut out, &head, &body);
            out
        }),
        fragment().prop_map(|fragment| {
            let mut out = Vec::new();
            fragment.put(&mut out);
            out
        }),
        (any::<u32>(), any::<[u8; 8]>(), bytes()).prop_map(|(index, key, noise)| {
            let mut out = Vec::new();
            put_initiation(&mut out, SessionIndex(index), KeyId(key), &noise);
            out
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_varint_comes_back_in_as_many_bytes_as_announced(value in number(), more: u64) {
        for value in [value, more] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            prop_assert_eq!(out.len(), varint_len(value.min(VARINT_MAX)));
            let mut reader = Reader::new(&out);
            prop_assert_eq!(reader.varint(), Ok(value.min(VARINT_MAX)));
            prop_assert!(reader.is_empty());
            prop_assert!(Reader::new(&out[..out.len() - 1]).varint().is_err());
        }
    }

    #[test]
    fn a_link_ack_comes_back(ack in link_ack()) {
        let mut out = Vec::new();
        frame::put_ack(&mut out, &ack);
        let mut reader = Reader::new(&out);
        prop_assert_eq!(frame::read(&mut reader), Ok(Some(Frame::Ack(Box::new(ack)))));
        prop_assert!(reader.is_empty());
        // Cut anywhere it is no acknowledgement, and one range too many is refused.
        for cut in 1..out.len() {
            prop_assert!(frame::read(&mut Reader::new(&out[..cut])).is_err());
        }
    }

    #[test]
    fn small_frames_and_a_symbol_share_a_packet(
        token: u64, time in number(), lane in lane(), ssn in number(),
        content in vec(any::<u8>(), 0..1300),
    ) {
        let mut out = Vec::new();
        frame::put_ping(&mut out, token, time);
        prop_assert!(out.len() <= frame::PING_MAX_LEN);
        let at = out.len();
        frame::put_pong(&mut out, token, time);
        prop_assert!(out.len() - at <= frame::PING_MAX_LEN);
        frame::put_close(&mut out);
        let at = out.len();
        frame::put_symbol_header(&mut out, lane, Ssn(ssn));
        prop_assert_eq!(out.len() - at, frame::symbol_header_len(Ssn(ssn)));
        prop_assert!(out.len() - at <= 1 + 8);
        out.extend_from_slice(&content);
        let mut r = Reader::new(&out);
        prop_assert_eq!(frame::read(&mut r), Ok(Some(Frame::Ping { token, heard_ms: time })));
        prop_assert_eq!(frame::read(&mut r), Ok(Some(Frame::Pong { token, held_us: time })));
        prop_assert_eq!(frame::read(&mut r), Ok(Some(Frame::Close)));
        let symbol = Frame::Symbol { lane, ssn: Ssn(ssn), content: &content };
        prop_assert_eq!(frame::read(&mut r), Ok(Some(symbol)));
        prop_assert_eq!(frame::read(&mut r), Ok(None));
    }

    #[test]
    fn a_repair_says_how_long_it_was_held_and_fits_where_parity_does(
        lane in lane(), ssn in number(), held in number(), content in vec(any::<u8>(), 0..1300),
    ) {
        let mut out = Vec::new();
        frame::put_repair_header(&mut out, lane, Ssn(ssn), held);
        prop_assert_eq!(out.len(), frame::repair_header_len(Ssn(ssn), held));
        prop_assert!(out.len() <= frame::PARITY_HEADER_MAX + frame::SHARD_OVERHEAD);
        out.extend_from_slice(&content);
        let mut r = Reader::new(&out);
        let held_ms = held.min(frame::MAX_HELD_MS);
        let repair = Frame::Repair { lane, ssn: Ssn(ssn), held_ms, content: &content };
        prop_assert_eq!(frame::read(&mut r), Ok(Some(repair)));
        prop_assert_eq!(frame::read(&mut r), Ok(None));
    }

    #[test]
    fn frames_about_the_mtu_come_back(
        token: u64, size in number(), lane in lane(), floor in number(),
        steps in steps(frame::MAX_FORGET_RANGES), padding in 0usize..1500,
    ) {
        let forgotten = forget_ranges(floor, &steps);
        let mut out = Vec::new();
        frame::put_forget(&mut out, lane, &forgotten);
        let at = out.len();
        frame::put_mtu_answer(&mut out, token, size);
        prop_assert!(out.len() - at <= frame::PING_MAX_LEN);
        frame::put_mtu_probe(&mut out, token);
        out.resize(out.len() + padding, 0);
        let mut r = Reader::new(&out);
        let forget = Frame::Forget { lane, ranges: Box::new(forgotten) };
        prop_assert_eq!(frame::read(&mut r), Ok(Some(forget)));
        prop_assert_eq!(frame::read(&mut r), Ok(Some(Frame::MtuAnswer { token, size })));
        prop_assert_eq!(frame::read(&mut r), Ok(Some(Frame::MtuProbe { token })));
        prop_assert_eq!(frame::read(&mut r), Ok(None));
    }

    #[test]
    fn frames_that_are_cut_say_the_same(
        frames in vec((head(), body()), 0..6), max in 1001usize..1500,
    ) {
        let (mut whole, mut pieces) = (Vec::new(), std::collections::VecDeque::new());
        for (head, body) in &frames {
            put(&mut whole, head, body);
        }
        prop_assert!(symbol::cut(&whole, max, &mut pieces).is_ok());
        let mut wanted = frames.iter();
        // The data frame in hand, and how much of it came.
        let mut open_frame: Option<(&(Head, Owned), usize)> = None;
        for piece in &pieces {
            prop_assert!(!piece.is_empty() && piece.len() <= max);
            let mut reader = Reader::new(piece);
            while let Some((head, read)) = flow::read(&mut reader).expect("valid") {
                let (frame, had) = match open_frame.take() {
                    Some(open) => open,
                    None => (wanted.next().expect("no more than there was"), 0),
                };
                prop_assert_eq!(&head, &frame.0);
                let (Body::Data { offset, fin, open, data }, Owned::Data { offset: o, fin: f, open: s, data: d }) =
                    (&read, &frame.1)
                else {
                    prop_assert!(same(&read, &frame.1));
                    continue;
                };
                prop_assert_eq!((*offset, *open), (o + had as u64, opening(s)));
                prop_assert_eq!(*data, &d[had..had + data.len()]);
                let had = had + data.len();
                prop_assert_eq!(*fin, *f && had == d.len());
                if had < d.len() {
                    prop_assert!(!data.is_empty());
                    open_frame = Some((frame, had));
                }
            }
        }
        prop_assert!(wanted.next().is_none() && open_frame.is_none());
    }

    #[test]
    fn a_parity_symbol_comes_back(
        lane in lane(), first in number(), k: u8, generator: u8, index: u8,
        shard in vec(any::<u8>(), 0..1300),
    ) {
        let header = ParityFields { first: Ssn(first), k, generator, index };
        let mut out = Vec::new();
        frame::put_parity_header(&mut out, lane, header);
        prop_assert!(out.len() <= frame::PARITY_HEADER_MAX);
        out.extend_from_slice(&shard);
        let read = frame::read(&mut Reader::new(&out));
        prop_assert_eq!(read, Ok(Some(Frame::Parity { lane, header, shard: &shard })));
    }

    #[test]
    fn flow_frames_come_back_in_order(frames in vec((head(), body()), 0..6)) {
        let mut out = Vec::new();
        for (head, body) in &frames {
            put(&mut out, head, body);
        }
        let mut reader = Reader::new(&out);
        for (head, body) in &frames {
            let (read_head, read_body) = flow::read(&mut reader).expect("valid").expect("there");
            prop_assert_eq!(&read_head, head);
            prop_assert!(same(&read_body, body), "{:?} was {:?}", read_body, body);
        }
        prop_assert_eq!(flow::read(&mut reader), Ok(None));
    }

    #[test]
    fn an_opening_that_names_no_client_is_refused(
        head in head(), open in ("[a-z0-9._-]{1,64}", endpoints()), family: u8,
        data in vec(any::<u8>(), 0..40), cut in 0.0f64..1.0,
    ) {
        let mut raw = Vec::new();
        let announced = flow::data_overhead(&head.key, 7, opening(&Some(open.clone())));
        let fixed = flow::data_overhead(&head.key, 7, None);
        flow::put_data_header(&mut raw, &head, 7, false, opening(&Some(open.clone())), data.len());
        prop_assert_eq!(announced - fixed, 1 + open.0.len() + open.1.wire_len());
        let family_at = fixed - 2 + 1 + open.0.len();
        raw.extend_from_slice(&data);
        prop_assert!(matches!(flow::read(&mut Reader::new(&raw)), Ok(Some(_))));
        // Cut anywhere, it is no frame.
        let short = raw.get(..(raw.len() as f64 * cut) as usize).unwrap_or_default();
        prop_assert!(short.is_empty() || flow::read(&mut Reader::new(short)).is_err());
        if family != 4 && family != 6 {
            raw[family_at] = family;
            prop_assert!(flow::read(&mut Reader::new(&raw)).is_err());
        }
    }

    #[test]
    fn endpoints_come_back_and_are_of_one_family(client: SocketAddr, local: SocketAddr) {
        let endpoints = Endpoints::new(client, local);
        let mut raw = Vec::new();
        endpoints.put(&mut raw);
        prop_assert_eq!(raw.len(), endpoints.wire_len());
        let mut reader = Reader::new(&raw);
        prop_assert_eq!(Endpoints::read(&mut reader), Ok(endpoints));
        prop_assert!(reader.is_empty());
        let canonical = SocketAddr::new(client.ip().to_canonical(), client.port());
        prop_assert_eq!(endpoints.client(), canonical);
        let both_v4 = canonical.is_ipv4() && local.ip().to_canonical().is_ipv4();
        prop_assert_eq!(matches!(endpoints, Endpoints::V4 { .. }), both_v4);
    }

    #[test]
    fn handshake_packets_come_back_in_their_lengths(
        a: u32, b: u32, key: [u8; 8], n: u64, m: u64, mac: [u8; 16], mac2: [u8; 16], stale: bool,
        noise in vec(any::<u8>(), INITIATION_LEN - 48), version: u8,
    ) {
        let mut out = Vec::new();
        put_initiation(&mut out, SessionIndex(a), KeyId(key), &noise);
        let mac1_at = out.len();
        out.extend_from_slice(&mac);
        out.extend_from_slice(&mac2);
        prop_assert_eq!(out.len(), INITIATION_LEN);
        out[1] = version;
        let Ok(Packet::Initiation(i)) = Packet::parse(&out) else { panic!("no initiation") };
        prop_assert_eq!((i.version, i.sender, i.key_id), (version, SessionIndex(a), KeyId(key)));
        prop_assert_eq!((i.noise, i.mac1, i.mac2), (&noise[..], mac, mac2));
        prop_assert_eq!((i.mac1_input, i.mac2_input), (&out[..mac1_at], &out[..mac1_at + 16]));
        prop_assert_eq!(i.ephemeral(), &noise[..EPHEMERAL_LEN]);

        let noise = &noise[..RESPONSE_LEN - 28];
        let mut out = Vec::new();
        put_response(&mut out, SessionIndex(a), SessionIndex(b), noise);
        out.extend_from_slice(&mac);
        prop_assert_eq!(out.len(), RESPONSE_LEN);
        let Ok(Packet::Response(r)) = Packet::parse(&out) else { panic!("no response") };
        prop_assert_eq!(r.receiver, SessionIndex(a));
        prop_assert_eq!((r.sender, r.noise, r.mac), (SessionIndex(b), noise, mac));
        prop_assert_eq!(r.mac_input, &out[..RESPONSE_LEN - 16]);

        let reason = if stale { RejectReason::Stale } else { RejectReason::Version };
        let mut out = Vec::new();
        put_reject(&mut out, reason, SessionIndex(a), n, m);
        out.extend_from_slice(&mac);
        prop_assert_eq!(out.len(), REJECT_LEN);
        let Ok(Packet::Reject(r)) = Packet::parse(&out) else { panic!("no reject") };
        prop_assert_eq!((r.reason, r.receiver), (reason, SessionIndex(a)));
        prop_assert_eq!((r.timestamp, r.incarnation, r.mac), (n, m, mac));
        prop_assert_eq!(r.mac_input, &out[..REJECT_LEN - 16]);

        let mut out = Vec::new();
        put_cookie(&mut out, SessionIndex(a), &mac2);
        out.extend_from_slice(&mac);
        prop_assert_eq!(out.len(), COOKIE_LEN);
        let Ok(Packet::Cookie(Cookie { receiver, cookie, mac: m, mac_input })) = Packet::parse(&out)
        else {
            panic!("no cookie")
        };
        prop_assert_eq!((receiver, cookie, m), (SessionIndex(a), mac2, mac));
        prop_assert_eq!(mac_input, &out[..COOKIE_LEN - 16]);

        let header = DataHeader { receiver: SessionIndex(a), counter: n };
        let mut out = header.encode().to_vec();
        prop_assert!(Packet::parse(&out).is_err(), "no room for a tag");
        out.extend_from_slice(&[0; TAG_LEN]);
        prop_assert!(matches!(Packet::parse(&out), Ok(Packet::Data(h)) if h == header));
    }

    #[test]
    fn handshake_payloads_come_back(timestamp: u64, seen_incarnation: u64, life: u64, ring: u8) {
        let hello = Hello { incarnation: life, fec_ring_log2: ring };
        let payload = InitiationPayload { timestamp, seen_incarnation, hello };
        prop_assert_eq!(InitiationPayload::decode(&payload.encode()), Ok(payload));
        let payload = ResponsePayload { hello };
        prop_assert_eq!(ResponsePayload::decode(&payload.encode()), Ok(payload));
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..1500), kind in 0u8..0x68) {
        read_all(&bytes);
        // With a kind that exists more often than chance has it.
        let mut bytes = bytes;
        if let Some(first) = bytes.first_mut() {
            *first = kind;
        }
        read_all(&bytes);
    }

    #[test]
    fn spoilt_encodings_are_read_or_refused(
        bytes in link_frame(), more in link_frame(),
        spoils in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(), keep: bool,
    ) {
        let mut bytes = bytes;
        bytes.extend(more);
        for (at, value) in spoils {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if !keep {
            bytes.truncate(cut.index(bytes.len()));
        }
        read_all(&bytes);
    }

    /// Sums of the greatest numbers are refused before they can wrap.
    #[test]
    fn ranges_beyond_the_greatest_number_are_refused(n in 1u8.., floor in number()) {
        let mut body = Vec::new();
        put_varint(&mut body, floor);
        let mut link = vec![1];
        link.extend_from_slice(&[0; 4]);
        link.extend_from_slice(&[0; 6]);
        link.push(1);
        link.extend_from_slice(&body);
        link.push(n);
        let mut flow = vec![0x41];
        flow.extend_from_slice(&[0; 18]);
        flow.extend_from_slice(&body);
        flow.extend_from_slice(&[0, 0, n]);
        for _ in 0..n {
            for out in [&mut link, &mut flow] {
                put_varint(out, VARINT_MAX);
                put_varint(out, VARINT_MAX);
            }
        }
        prop_assert!(frame::read(&mut Reader::new(&link)).is_err());
        prop_assert!(flow::read(&mut Reader::new(&flow)).is_err());
        read_all(&link);
        read_all(&flow);
    }
}
