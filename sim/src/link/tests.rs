//! What a link promises: its figures hold, nothing vanishes uncounted, and luck is reproducible.

use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);

fn link(config: &LinkConfig) -> Link<Vec<u8>> {
    Link::new(config, Seed::new(7)).expect("a valid link")
}

/// A payload of `bytes` bytes that begins with its number.
fn packet(nth: u32, bytes: usize) -> Vec<u8> {
    let mut packet = vec![0; bytes.max(4)];
    packet[..4].copy_from_slice(&nth.to_be_bytes());
    packet
}

fn number(packet: &[u8]) -> u32 {
    u32::from_be_bytes(packet[..4].try_into().expect("four bytes"))
}

/// Everything still in flight: (arrival, number).
fn drain(link: &mut Link<Vec<u8>>) -> Vec<(Time, u32)> {
    let end = Time::from_nanos(u64::MAX);
    std::iter::from_fn(|| link.deliver(end)).map(|(at, packet)| (at, number(&packet))).collect()
}

/// Sends `count` packets of 1,222 bytes (1,250 on the wire), `every` apart.
fn offer(link: &mut Link<Vec<u8>>, count: u32, every: Duration) -> Vec<(Time, u32)> {
    for nth in 0..count {
        link.send(Time::ZERO + every * nth, packet(nth, 1250 - IP_UDP_OVERHEAD));
    }
    drain(link)
}

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
    let mut slow =
        link(&LinkConfig { rate: Some(Rate { mbps: 30.0, queue }), ..LinkConfig::default() });
    let arrivals = offer(&mut slow, 1_000_000, Duration::ZERO);
    let (last, _) = arrivals[arrivals.len() - 1];
    assert_eq!(last.as_nanos(), 1_000_000 * 10_000 * 1_000 / 30);
}

#[test]
fn a_queue_of_20_ms_holds_20_ms() {
    let rate = Rate { mbps: 100.0, queue: QueueLimit::Time(20 * MS) };
    let mut slow = link(&LinkConfig { rate: Some(rate), delay: 30 * MS, ..LinkConfig::default() });
    // 0.1 ms each: 200 fit.
    let arrivals = offer(&mut slow, 1_000, Duration::ZERO);
    assert_eq!(arrivals.len(), 200);
    assert_eq!(slow.counters().queue_dropped, 800);
    assert_eq!(arrivals[199].0, Time::ZERO + 50 * MS);
    let bytes = Rate { mbps: 100.0, queue: QueueLimit::Bytes(250_000) };
    let mut same = link(&LinkConfig { rate: Some(bytes), delay: 30 * MS, ..LinkConfig::default() });
    assert_eq!(offer(&mut same, 1_000, Duration::ZERO), arrivals);
}

#[test]
fn an_idle_bottleneck_saves_no_credit_and_an_empty_queue_takes_any_packet() {
    let rate = Rate { mbps: 10.0, queue: QueueLimit::Bytes(100) };
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

fn assert_near(found: f64, wanted: f64, tolerance: f64) {
    assert!((found / wanted - 1.0).abs() < tolerance, "{found} instead of {wanted}");
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
    let end = Time::from_nanos(u64::MAX);
    let (mut arrived, mut flipped) = (0, 0);
    while let Some((_, bytes)) = sloppy.deliver(end) {
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
    let rate = Rate { mbps: 0.0, queue: QueueLimit::Bytes(1) };
    refused(LinkConfig { rate: Some(rate), ..base() });
    refused(LinkConfig { jitter: Some(Jitter { range: MS, reorders: true }), ..base() });
}

/// Any link that is not a perfect wire, and not an absurd one.
fn any_link() -> impl Strategy<Value = LinkConfig> {
    let loss = prop_oneof![
        Just(Loss::None),
        (0.0..1.0).prop_map(|average| Loss::Bernoulli { average }),
        (0.0..0.5, 1.0..10.0).prop_map(|(average, mean)| Loss::GilbertElliott {
            average,
            mean_burst: Burst::Packets(mean),
        }),
        (0.0..0.9, 1u64..100).prop_map(|(average, ms)| Loss::GilbertElliott {
            average,
            mean_burst: Burst::Time(Duration::from_millis(ms)),
        }),
    ];
    let queue = prop_oneof![
        (0u64..100_000).prop_map(QueueLimit::Bytes),
        (0u64..100).prop_map(|ms| QueueLimit::Time(Duration::from_millis(ms))),
    ];
    let rate =
        proptest::option::of((0.1..1000.0, queue).prop_map(|(mbps, queue)| Rate { mbps, queue }));
    let jitter = proptest::option::of((0u32..50, any::<bool>()));
    let reorder = proptest::option::of((0.0..1.0, 0u32..50));
    let mtu = proptest::option::of(200usize..1500);
    (loss, rate, 50u32..200, jitter, reorder, mtu, 0.0..0.5, 0.0..0.5).prop_map(
        |(loss, rate, delay, jitter, reorder, mtu, duplicate, corrupt)| LinkConfig {
            mtu,
            rate,
            loss,
            delay: MS * delay,
            jitter: jitter.map(|(range, reorders)| Jitter { range: MS * range, reorders }),
            reorder: reorder.map(|(probability, by)| Reorder { probability, by: MS * by }),
            duplicate,
            corrupt,
        },
    )
}

/// (gap before it in µs, payload in bytes)
fn any_traffic() -> impl Strategy<Value = Vec<(u32, usize)>> {
    proptest::collection::vec((0u32..5_000, 4usize..1500), 1..200)
}

/// Sends and, now and then, takes out what is due.
fn run(link: &mut Link<Vec<u8>>, traffic: &[(u32, usize)]) -> Vec<(Time, Vec<u8>)> {
    let mut now = Time::ZERO;
    let mut arrivals = Vec::new();
    for (nth, &(gap, bytes)) in (0u32..).zip(traffic) {
        now = now + Duration::from_micros(gap.into());
        link.send(now, packet(nth, bytes));
        while let Some(arrival) = link.deliver(now) {
            arrivals.push(arrival);
        }
    }
    arrivals.extend(std::iter::from_fn(|| link.deliver(Time::from_nanos(u64::MAX))));
    arrivals
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_packet_vanishes_uncounted(config in any_link(), traffic in any_traffic(), seed: u64) {
        let mut link = Link::new(&config, Seed::new(seed)).expect("valid");
        for (nth, &(_, bytes)) in (0u32..).zip(&traffic) {
            link.send(Time::ZERO + MS * nth, packet(nth, bytes));
            let c = link.counters();
            prop_assert_eq!(c.offered, u64::from(nth) + 1);
            prop_assert_eq!(
                c.offered + c.duplicated,
                c.too_big + c.queue_dropped + c.lost + c.delivered + link.in_flight() as u64
            );
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_run(config in any_link(), traffic in any_traffic(), seed: u64) {
        let mut runs = [0, 1].map(|_| Link::new(&config, Seed::new(seed)).expect("valid"));
        let [first, second] = runs.each_mut().map(|link| run(link, &traffic));
        prop_assert_eq!(first, second);
        prop_assert_eq!(runs[0].counters(), runs[1].counters());
    }

    #[test]
    fn arrivals_are_in_time_and_not_before_the_delay(
        config in any_link(), traffic in any_traffic(), seed: u64,
    ) {
        let mut link = Link::new(&config, Seed::new(seed)).expect("valid");
        let arrivals = run(&mut link, &traffic);
        prop_assert!(arrivals.windows(2).all(|pair| pair[0].0 <= pair[1].0));
        let least = config.delay - config.jitter.map_or(Duration::ZERO, |jitter| jitter.range);
        prop_assert!(arrivals.iter().all(|(at, _)| *at >= Time::ZERO + least));
    }

    #[test]
    fn without_reordering_elements_the_order_is_kept(
        config in any_link(), traffic in any_traffic(), seed: u64,
    ) {
        let jitter = config.jitter.map(|jitter| Jitter { reorders: false, ..jitter });
        let config = LinkConfig { jitter, reorder: None, corrupt: 0.0, ..config };
        let mut link = Link::new(&config, Seed::new(seed)).expect("valid");
        let arrivals = run(&mut link, &traffic);
        prop_assert!(arrivals.windows(2).all(|p| number(&p[0].1) <= number(&p[1].1)));
    }

    /// Which packets are lost, copied and late does not depend on what else the link does.
    #[test]
    fn another_element_does_not_shift_the_luck(traffic in any_traffic(), seed: u64) {
        let mean_burst = Burst::Packets(2.0);
        let plain = LinkConfig {
            loss: Loss::GilbertElliott { average: 0.3, mean_burst },
            delay: 10 * MS,
            duplicate: 0.2,
            ..LinkConfig::default()
        };
        let numbers = |config: &LinkConfig| {
            let mut link = Link::new(config, Seed::new(seed)).expect("valid");
            let mut all: Vec<_> = run(&mut link, &traffic)
                .iter()
                .map(|(_, bytes)| bytes.len() << 32 | number(bytes) as usize)
                .collect();
            all.sort_unstable();
            all
        };
        let expected = numbers(&plain);
        let rate = Some(Rate { mbps: 1.0, queue: QueueLimit::Bytes(u64::MAX) });
        let jitter = Some(Jitter { range: 5 * MS, reorders: true });
        let reorder = Some(Reorder { probability: 0.5, by: MS });
        prop_assert_eq!(&numbers(&LinkConfig { rate, jitter, reorder, ..plain.clone() }), &expected);
        // A queue that drops takes packets away, but gives none of the others a different fate.
        let rate = Some(Rate { mbps: 1.0, queue: QueueLimit::Bytes(3_000) });
        let survivors = numbers(&LinkConfig { rate, ..plain });
        let mut rest = expected.iter();
        prop_assert!(survivors.iter().all(|one| rest.any(|other| other == one)));
    }
}
