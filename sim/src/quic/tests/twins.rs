//! Our BBR beside quinn-proto's own.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use quinn_proto::RttEstimator;
use quinn_proto::congestion::{BbrConfig, Controller, ControllerFactory};

use super::super::bbr::SeededBbr;
use super::*;

/// Ours, which counts, beside quinn-proto's own, as long as neither has drawn a random number.
#[derive(Debug)]
struct Twins {
    ours: Arc<SeededBbr>,
    theirs: Arc<BbrConfig>,
    compared: Arc<Mutex<u64>>,
}

struct Twin {
    ours: Box<dyn Controller>,
    theirs: Box<dyn Controller>,
    peak: u64,
    compared: Arc<Mutex<u64>>,
}

impl ControllerFactory for Twins {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        Box::new(Twin {
            ours: Arc::clone(&self.ours).build(now, mtu),
            theirs: Arc::clone(&self.theirs).build(now, mtu),
            peak: 0,
            compared: Arc::clone(&self.compared),
        })
    }
}

impl Controller for Twin {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.ours.on_sent(now, bytes, last_packet_number);
        self.theirs.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        limited: bool,
        rtt: &RttEstimator,
    ) {
        self.ours.on_ack(now, sent, bytes, limited, rtt);
        self.theirs.on_ack(now, sent, bytes, limited, rtt);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, limited: bool, largest: Option<u64>) {
        self.ours.on_end_acks(now, in_flight, limited, largest);
        self.theirs.on_end_acks(now, in_flight, limited, largest);
        // Startup never slows down; what follows it ends in a random choice.
        let pacing = |c: &dyn Controller| c.metrics().pacing_rate.expect("BBR paces");
        let (ours, theirs) = (pacing(&*self.ours), pacing(&*self.theirs));
        if ours >= self.peak {
            self.peak = ours;
            assert_eq!((ours, self.ours.window()), (theirs, self.theirs.window()));
            *self.compared.lock().expect("not poisoned") += 1;
        } else {
            self.peak = u64::MAX;
        }
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, lost: u64) {
        self.ours.on_congestion_event(now, sent, persistent, lost);
        self.theirs.on_congestion_event(now, sent, persistent, lost);
    }

    fn on_mtu_update(&mut self, mtu: u16) {
        self.ours.on_mtu_update(mtu);
        self.theirs.on_mtu_update(mtu);
    }

    fn window(&self) -> u64 {
        self.ours.window()
    }

    fn metrics(&self) -> quinn_proto::congestion::ControllerMetrics {
        self.ours.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        let compared = Arc::clone(&self.compared);
        let (ours, theirs) = (self.ours.clone_box(), self.theirs.clone_box());
        Box::new(Self { ours, theirs, compared, peak: self.peak })
    }

    fn initial_window(&self) -> u64 {
        assert_eq!(self.ours.initial_window(), self.theirs.initial_window());
        self.ours.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any> {
        self
    }
}

#[test]
fn until_its_first_random_choice_our_bbr_does_what_quinns_own_does() {
    let compared = Arc::new(Mutex::new(0));
    let twins = Arc::new(Twins {
        ours: Arc::new(SeededBbr::new([1; 32])),
        theirs: Arc::new(BbrConfig::default()),
        compared: Arc::clone(&compared),
    });
    let line = Line::new(12, Congestion::Bbr, ocean(0.02));
    let workloads = [workload("up", 1, Duration::ZERO, up(5_000_000))];
    let mut engine = Line { controller: Some(twins), ..line }.engine(&workloads);
    run(&mut engine, 60 * SECOND);
    let compared = *compared.lock().expect("not poisoned");
    assert!(compared > 100, "{compared}");
}
