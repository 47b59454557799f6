use std::time::Duration;

use super::{Evidence, MAX_NOTED, SendLane};
use crate::ids::{Lane, Ssn};
use crate::tests::epoch;
use crate::wire::ack::LanePart;
use crate::wire::ranges::Ranges;

#[test]
fn a_peer_that_never_acknowledges_fills_nothing() {
    let (mut lane, mut now) = (SendLane::new(Lane::Express), epoch());
    lane.push(now, b"x", true);
    for _ in 0..2 * MAX_NOTED {
        now += Duration::from_secs(2);
        assert!(lane.probe());
        lane.repaired(now);
        assert!(lane.judged.len() <= MAX_NOTED && lane.repairs.len() <= 1);
    }
}

#[test]
fn a_probe_is_sent_twice_where_somebody_waits_and_thrice_when_that_was_in_vain() {
    for (which, copies) in [(Lane::Express, [2, 3, 3]), (Lane::Bulk, [1, 1, 1])] {
        let (mut lane, mut now) = (SendLane::new(which), epoch());
        lane.push(now, b"x", false);
        for wanted in copies {
            now += Duration::from_millis(300);
            assert!(lane.probe());
            let mut sent = 0;
            while lane.next_repair().is_some() {
                lane.repaired(now);
                sent += 1;
            }
            assert_eq!(sent, wanted, "{which:?}");
        }
    }
}

#[test]
fn repairs_that_are_overtaken_by_their_acknowledgement_do_not_pile_up() {
    let (mut lane, mut now) = (SendLane::new(Lane::Bulk), epoch());
    let ms = Duration::from_millis(1);
    for round in 1..=10 {
        for _ in 0..1000 {
            lane.push(now, b"x", false);
        }
        now += ms;
        let evidence = Evidence { newest_sent: now, rtt: ms, reordering: ms };
        now += ms * 10;
        let mut lost = 0;
        lane.detect(now, &evidence, &mut lost);
        assert_eq!((lost, lane.repairs.len()), (1000, 1000));
        let part = LanePart { floor: Ssn(round * 1000), ranges: Ranges::new() };
        assert_eq!(lane.on_ack(now, &part, ms, None).acked, 1000);
        assert!(lane.repairs.is_empty() && !lane.has_repairs());
    }
}
