//! The same as `tests`, for link-state frames.

use proptest::collection::vec;
use proptest::prelude::*;

use super::linkstate::{self, FragmentHead, Link};
use super::symbol::{self, Content};
use super::tests::{body, head, number, put, same};
use super::{Reader, VARINT_MAX};
use crate::ids::{Incarnation, NodeHash};

pub(super) fn check_fragment(fragment: &linkstate::Fragment<'_>) {
    let head = &fragment.head;
    assert!((1..=crate::ids::MAX_NAME_LEN).contains(&head.name.len()));
    assert!(head.incarnation.0 < linkstate::MAX_INCARNATION && head.sequence <= VARINT_MAX);
    assert!(head.fragment < head.fragments && head.fragments <= linkstate::MAX_FRAGMENTS);
    assert!(fragment.links.len() <= linkstate::MAX_LINKS);
    assert_eq!(fragment.links.count(), fragment.links.len(), "all of them can be read");
    let longest = |link: Link| link.rtt_us.max(link.jitter_us);
    assert!(fragment.links.map(longest).all(|micros| micros <= linkstate::MAX_MICROS));
}

/// A link-state frame with what it borrows.
#[derive(Debug, Clone)]
pub(super) struct OwnedFragment {
    name: String,
    incarnation: u64,
    sequence: u64,
    fragment: u8,
    fragments: u8,
    relays: bool,
    age_s: u64,
    links: Vec<Link>,
}

impl OwnedFragment {
    pub(super) fn head(&self) -> FragmentHead<'_> {
        FragmentHead {
            name: &self.name,
            incarnation: Incarnation(self.incarnation),
            sequence: self.sequence,
            fragment: self.fragment,
            fragments: self.fragments,
            relays: self.relays,
            age_s: self.age_s,
        }
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        linkstate::put(out, &self.head(), self.links.iter());
    }
}

pub(super) fn fragment() -> impl Strategy<Value = OwnedFragment> {
    let micros = || (0u32..31, any::<u32>()).prop_map(|(bits, n)| n & ((1 << bits) - 1));
    let link = (any::<u32>(), micros(), micros(), any::<u16>(), any::<u8>(), any::<bool>());
    let link = link.prop_map(|(to, rtt_us, jitter_us, loss, burst, shaky)| Link {
        to: NodeHash(to),
        rtt_us,
        jitter_us,
        loss,
        burst,
        shaky,
    });
    let numbers = (0..linkstate::MAX_INCARNATION, number(), number(), any::<bool>());
    let fragments = (1..=linkstate::MAX_FRAGMENTS).prop_flat_map(|n| (0..n, Just(n)));
    let links = vec(link, 0..=linkstate::MAX_LINKS);
    ("[a-zA-Z0-9._-]{1,64}", numbers, fragments, links).prop_map(
        |(name, (incarnation, sequence, age_s, relays), (fragment, fragments), links)| {
            OwnedFragment { name, incarnation, sequence, fragment, fragments, relays, age_s, links }
        },
    )
}

proptest! {
    #[test]
    fn link_state_comes_back_beside_flow_frames(
        fragment in fragment(), head in head(), body in body(),
    ) {
        let mut out = Vec::new();
        put(&mut out, &head, &body);
        let at = out.len();
        fragment.put(&mut out);
        let end = out.len();
        prop_assert!(end - at <= linkstate::MAX_LEN);
        put(&mut out, &head, &body);
        let mut reader = Reader::new(&out);
        for turn in 0..3 {
            let read = symbol::read(&mut reader).expect("valid").expect("there");
            match read.content {
                Content::Flow(read_head, read_body) => {
                    prop_assert!(turn != 1 && read_head == head && same(&read_body, &body));
                }
                Content::LinkState(read_fragment) => {
                    prop_assert_eq!((turn, read.raw), (1, &out[at..end]));
                    prop_assert_eq!(read_fragment.head, fragment.head());
                    prop_assert!(read_fragment.links.eq(fragment.links.iter().copied()));
                }
            }
        }
        prop_assert_eq!(symbol::read(&mut reader), Ok(None));
        // Cut anywhere it is none.
        for cut in at + 1..end {
            prop_assert!(linkstate::read(&mut Reader::new(&out[at..cut])).is_err());
        }
    }

    #[test]
    fn link_state_beyond_the_limits_is_refused(fragment in fragment(), what in 0usize..6) {
        let mut spoilt = fragment.clone();
        let mut out = Vec::new();
        match what {
            0 => spoilt.incarnation |= linkstate::MAX_INCARNATION,
            1 => spoilt.fragment = spoilt.fragments,
            2 => spoilt.fragments = linkstate::MAX_FRAGMENTS + 1,
            3 => spoilt.name.clear(),
            4 => spoilt.name = "n".repeat(crate::ids::MAX_NAME_LEN + 1),
            _ => {}
        }
        spoilt.put(&mut out);
        if what == 5 {
            // One link more than a fragment has.
            let links = spoilt.links.len();
            let mut none = Vec::new();
            linkstate::put(&mut none, &spoilt.head(), [].iter());
            out[none.len() - 1] = linkstate::MAX_LINKS as u8 + 1;
            out.resize(out.len() + (linkstate::MAX_LINKS + 1 - links) * 16, 0);
        }
        prop_assert!(linkstate::read(&mut Reader::new(&out)).is_err());
    }
}
