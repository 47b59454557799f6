//! Each element does what its figures say.

use super::*;

#[test]
fn a_perfect_wire_hands_out_what_it_was_given_at_once() {
    let mut wire = link(&LinkConfig::default());
    wire.send(Time::from_nanos(5), packet(1, 10));
    assert_eq!(wire.next_delivery(), Some(Time::from_nanos(5)));
    assert_eq!(wire.deliver(Time::from_nanos(4)), None);
    assert_eq!(wire.deliver(Time::from_nanos(5)), Some((Time::from_nanos(5), packet(1, 10))));
    assert_eq!(wire.next_delivery(), None);
}

#[test]
fn the_rate_is_exact_over_a_million_packets() {
    // 1,250 bytes at 30 Mbit/s take 333,333.3 ns: rounding each would show.
    let queue = QueueLimit::Bytes(u64::MAX);
    let mut slow = link(&LinkConfig {
        rate: Some(Rate { mbps: 30.0, queue, mark_above: None }),
        ..LinkConfig::default()
    });
    let arrivals = offer(&mut slow, 1_000_000, Duration::ZERO);
    let (last, _) = arrivals[arrivals.len() - 1];
    assert_eq!(last.as_nanos(), 1_000_000 * 10_000 * 1_000 / 30);
}

#[test]
fn a_queue_of_20_ms_holds_20_ms() {
    let rate = Rate { mbps: 100.0, queue: QueueLimit::Time(20 * MS), mark_above: None };
    let mut slow = link(&LinkConfig { rate: Some(rate), delay: 30 * MS, ..LinkConfig::default() });
    // 0.1 ms each: 200 fit.
    let arrivals = offer(&mut slow, 1_000, Duration::ZERO);
    assert_eq!(arrivals.len(), 200);
    assert_eq!(slow.counters().queue_dropped, 800);
    assert_eq!(arrivals[199].0, Time::ZERO + 50 * MS);
    let bytes = Rate { mbps: 100.0, queue: QueueLimit::Bytes(250_000), mark_above: None };
    let mut same = link(&LinkConfig { rate: Some(bytes), delay: 30 * MS, ..LinkConfig::default() });
    assert_eq!(offer(&mut same, 1_000, Duration::ZERO), arrivals);
}

#[test]
fn an_idle_bottleneck_saves_no_credit_and_an_empty_queue_takes_any_packet() {
    let rate = Rate { mbps: 10.0, queue: QueueLimit::Bytes(100), mark_above: None };
    let mut slow = link(&LinkConfig { rate: Some(rate), ..LinkConfig::default() });
    // 1 ms of work every 2 ms.
    let arrivals = offer(&mut slow, 5, 2 * MS);
    let expected: Vec<_> = (0..5).map(|n| (Time::ZERO + MS * (2 * n + 1), n)).collect();
    assert_eq!(arrivals, expected);
}

#[test]
fn above_the_mtu_nothing_passes() {
    let mut narrow = link(&LinkConfig { mtu: Some(1500), ..LinkConfig::default() });
    narrow.send(Time::ZERO, packet(0, 1472));
    narrow.send(Time::ZERO, packet(1, 1473));
    assert_eq!(drain(&mut narrow), [(Time::ZERO, 0)]);
    assert_eq!(narrow.counters().too_big, 1);
}

/// Loss and mean burst over half a million packets, 0.1 ms apart.
fn measured(loss: Loss) -> (f64, f64) {
    let mut lossy = link(&LinkConfig { loss, ..LinkConfig::default() });
    offer(&mut lossy, 500_000, MS / 10);
    let counters = lossy.counters();
    (counters.loss(), counters.lost as f64 / counters.loss_runs as f64)
}

#[test]
fn bernoulli_loss_has_its_average() {
    for average in [0.001, 0.05, 0.4] {
        let (loss, burst) = measured(Loss::Bernoulli { average });
        assert_near(loss, average, 0.1);
        assert_near(burst, 1.0 / (1.0 - average), 0.02);
    }
    assert!(measured(Loss::Bernoulli { average: 1.0 }).0 == 1.0);
}

#[test]
fn gilbert_elliott_has_its_average_and_its_burst() {
    for (average, mean) in [(0.01, 3.0), (0.05, 1.0), (0.03, 5.0), (0.3, 8.0), (0.5, 1.0)] {
        let mean_burst = Burst::Packets(mean);
        let (loss, burst) = measured(Loss::GilbertElliott { average, mean_burst });
        assert_near(loss, average, 0.1);
        assert_near(burst, mean, 0.05);
    }
}

#[test]
fn gilbert_elliott_in_time_has_its_average_and_its_burst() {
    // Many packets per stay: the runs are as long as the stay, in packets.
    let mean_burst = Burst::Time(5 * MS);
    let (loss, burst) = measured(Loss::GilbertElliott { average: 0.1, mean_burst });
    assert_near(loss, 0.1, 0.1);
    assert_near(burst, 50.0, 0.1);
    // Few packets: hardly ever two in the same one.
    let mean_burst = Burst::Time(MS / 100);
    let (loss, burst) = measured(Loss::GilbertElliott { average: 0.1, mean_burst });
    assert_near(loss, 0.1, 0.1);
    assert_near(burst, 1.0 / 0.9, 0.05);
}

#[test]
fn jitter_fills_its_range_and_keeps_the_order_unless_told_otherwise() {
    let jitter = |reorders| LinkConfig {
        delay: 100 * MS,
        jitter: Some(Jitter { range: 50 * MS, reorders }),
        ..LinkConfig::default()
    };
    let free = offer(&mut link(&jitter(true)), 100_000, MS);
    let mut delays: Vec<u64> =
        free.iter().map(|&(at, nth)| at.as_nanos() / 1_000 - u64::from(nth) * 1_000).collect();
    delays.sort_unstable();
    assert!(delays[0] >= 50_000 && delays[0] < 50_100, "{}", delays[0]);
    assert!(delays[99_999] <= 150_000 && delays[99_999] > 149_900, "{}", delays[99_999]);
    assert_near(delays[50_000] as f64, 100_000.0, 0.01);
    assert!(free.windows(2).any(|pair| pair[0].1 > pair[1].1));
    let ordered = offer(&mut link(&jitter(false)), 100_000, MS);
    assert!(ordered.windows(2).all(|pair| pair[0].1 < pair[1].1));
}

#[test]
fn held_back_packets_are_overtaken_and_the_others_are_not() {
    let reorder = Some(Reorder { probability: 0.01, by: 5 * MS });
    let mut detour = link(&LinkConfig { delay: 10 * MS, reorder, ..LinkConfig::default() });
    let arrivals = offer(&mut detour, 10_000, MS);
    let late = arrivals.iter().filter(|&&(at, nth)| at > Time::ZERO + MS * (nth + 10)).count();
    assert_eq!(late as u64, detour.counters().held_back);
    assert!((60..140).contains(&late), "{late}");
}

#[test]
fn copies_and_flipped_bits_are_as_frequent_as_asked() {
    let config = LinkConfig { duplicate: 0.02, corrupt: 0.03, ..LinkConfig::default() };
    let mut sloppy = link(&config);
    for nth in 0..100_000 {
        sloppy.send(Time::ZERO, packet(nth, 40));
    }
    let (mut arrived, mut flipped) = (0, 0);
    while let Some((_, bytes)) = sloppy.deliver(END) {
        arrived += 1;
        flipped += u64::from(bytes[4..].iter().map(|byte| byte.count_ones()).sum::<u32>() == 1);
    }
    let counters = sloppy.counters();
    assert_eq!(arrived, 100_000 + counters.duplicated);
    assert_near(counters.duplicated as f64, 2_000.0, 0.1);
    assert_near(counters.corrupted as f64, 3_000.0, 0.1);
    // Bits in the number itself (4 bytes of 40) are not looked at, copies are.
    assert_near(flipped as f64, 3_000.0 * 0.9 * 1.02, 0.1);
}

#[test]
fn impossible_links_are_refused_with_the_remedy() {
    let refused = |config: LinkConfig| match Link::<Vec<u8>>::new(&config, Seed::new(1)) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("{config:?} was accepted"),
    };
    let loss = |average, mean| Loss::GilbertElliott { average, mean_burst: Burst::Packets(mean) };
    let base = LinkConfig::default;
    let text = refused(LinkConfig { loss: loss(0.9, 3.0), ..base() });
    assert!(text.ends_with("give a mean burst of at least 9.00"), "{text}");
    refused(LinkConfig { loss: loss(0.1, 0.5), ..base() });
    refused(LinkConfig { loss: Loss::Bernoulli { average: f64::NAN }, ..base() });
    refused(LinkConfig { duplicate: 1.5, ..base() });
    refused(LinkConfig { replay: -0.1, ..base() });
    let rate = Rate { mbps: 0.0, queue: QueueLimit::Bytes(1), mark_above: None };
    refused(LinkConfig { rate: Some(rate), ..base() });
    refused(LinkConfig { jitter: Some(Jitter { range: MS, reorders: true }), ..base() });
}

/// Remembers whether it was marked.
#[derive(Debug, Clone)]
struct Ecn {
    capable: bool,
    marked: bool,
    bytes: Vec<u8>,
}

impl Datagram for Ecn {
    fn payload(&self) -> &[u8] {
        &self.bytes
    }

    fn payload_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    fn mark_ce(&mut self) -> bool {
        self.marked = self.capable;
        self.capable
    }
}

#[test]
fn a_queue_marks_what_finds_too_much_waiting_and_can_carry_a_mark() {
    // 0.1 ms each: two may wait unmarked, ten fit.
    for mark_above in [QueueLimit::Bytes(2_500), QueueLimit::Time(MS / 5)] {
        let rate =
            Rate { mbps: 100.0, queue: QueueLimit::Bytes(12_500), mark_above: Some(mark_above) };
        let config = LinkConfig { rate: Some(rate), duplicate: 1.0, ..LinkConfig::default() };
        let mut link = Link::new(&config, Seed::new(7)).expect("a valid link");
        let mut fates = Vec::new();
        for nth in 0..12 {
            let bytes = packet(nth, 1250 - IP_UDP_OVERHEAD);
            let sent = Ecn { capable: nth % 2 == 1, marked: false, bytes };
            fates.push(link.send(Time::ZERO, sent).outcome);
        }
        let marked = |outcome: &Outcome| matches!(outcome, Outcome::Passed { marked: true, .. });
        let numbers: Vec<_> = (0..12).filter(|&nth| marked(&fates[nth])).collect();
        assert_eq!(numbers, [3, 5, 7, 9]);
        assert_eq!(fates[10..], [Outcome::Dropped(DropReason::QueueFull); 2]);
        assert_eq!(link.counters().marked, 4);
        let arrived: Vec<_> = std::iter::from_fn(|| link.deliver(END))
            .filter_map(|(_, packet)| packet.marked.then(|| number(&packet.bytes)))
            .collect();
        assert_eq!(arrived, [3, 3, 5, 5, 7, 7, 9, 9]);
    }
}

#[test]
fn a_replay_is_one_of_the_last_256_as_it_was_offered_and_waits_for_nothing() {
    let rate = Rate { mbps: 1.0, queue: QueueLimit::Bytes(u64::MAX), mark_above: None };
    let config = LinkConfig {
        rate: Some(rate),
        delay: 10 * MS,
        jitter: Some(Jitter { range: 5 * MS, reorders: false }),
        // Every original is recognised by its flipped bit.
        corrupt: 1.0,
        replay: 0.1,
        ..LinkConfig::default()
    };
    // The number twice, so that a flip in one of them shows, too.
    let checked = |nth: u32| {
        let mut packet = packet(nth, 1250 - IP_UDP_OVERHEAD);
        packet[4..8].copy_from_slice(&nth.to_be_bytes());
        packet
    };
    let mut replaying = link(&config);
    let mut quiet = link(&LinkConfig { replay: 0.0, ..config });
    let mut expected = Vec::new();
    for nth in 0..20_000 {
        let now = Time::ZERO + MS * nth;
        let fate = replaying.send(now, checked(nth));
        assert_eq!(fate.outcome, quiet.send(now, checked(nth)).outcome);
        expected.extend(fate.replayed);
        assert!(fate.replayed.is_none_or(|due| due == now + 10 * MS));
    }
    assert_near(expected.len() as f64, 2_000.0, 0.1);
    assert_eq!(replaying.counters().replayed, expected.len() as u64);

    let mut replays = Vec::new();
    while let Some((due, bytes)) = replaying.deliver(END) {
        let nth = number(&bytes);
        if bytes == checked(nth) {
            replays.push((due, nth));
        }
    }
    assert!(replays.iter().map(|(due, _)| due).eq(&expected));
    let mut ages: Vec<u64> = replays
        .iter()
        .map(|&(due, nth)| due.as_nanos() / 1_000_000 - 10 - u64::from(nth))
        .collect();
    ages.sort_unstable();
    assert_eq!((ages[0], ages[ages.len() - 1]), (1, REPLAY_MEMORY as u64));
    assert_near(ages[ages.len() / 2] as f64, 128.0, 0.1);
}

#[test]
fn a_replay_follows_even_a_lost_packet_but_obeys_the_mtu_and_a_cut() {
    let base = LinkConfig { replay: 1.0, ..LinkConfig::default() };
    let mut link = link(&base);
    let at = Time::ZERO;
    assert_eq!(link.send(at, packet(0, 1000)).replayed, None, "there is no older one");
    link.reconfigure(at, &LinkConfig { loss: Loss::Bernoulli { average: 1.0 }, ..base.clone() })
        .expect("valid");
    let fate = link.send(at, packet(1, 1000));
    assert_eq!(fate, Fate { outcome: Outcome::Dropped(DropReason::Lost), replayed: Some(at) });
    link.set_cut(true);
    let fate = link.send(at, packet(2, 1000));
    assert_eq!(fate, Fate { outcome: Outcome::Dropped(DropReason::Cut), replayed: None });
    link.set_cut(false);
    link.reconfigure(at, &LinkConfig { mtu: Some(500), ..base.clone() }).expect("valid");
    assert_eq!(link.send(at, packet(3, 100)).replayed, None, "all older ones are too big");
    // What is absent forgets.
    link.reconfigure(at, &LinkConfig::default()).expect("valid");
    link.reconfigure(at, &base).expect("valid");
    assert_eq!(link.send(at, packet(4, 100)).replayed, None);
    assert_eq!(drain(&mut link), [(at, 0), (at, 0), (at, 3), (at, 4)]);
}
