//! Rules that hold for any link, whatever is done to it.

use proptest::prelude::*;

use super::*;

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
    let queue = || {
        prop_oneof![
            (0u64..100_000).prop_map(QueueLimit::Bytes),
            (0u64..100).prop_map(|ms| QueueLimit::Time(Duration::from_millis(ms))),
        ]
    };
    let rate = (0.1..1000.0, queue(), proptest::option::of(queue()))
        .prop_map(|(mbps, queue, mark_above)| Rate { mbps, queue, mark_above });
    let rate = proptest::option::of(rate);
    let jitter = proptest::option::of((0u32..50, any::<bool>()));
    let reorder = proptest::option::of((0.0..1.0, 0u32..50));
    let mtu = proptest::option::of(200usize..1500);
    let replay = prop_oneof![Just(0.0), 0.0..0.5];
    (loss, rate, 50u32..200, jitter, reorder, mtu, 0.0..0.5, 0.0..0.5, replay).prop_map(
        |(loss, rate, delay, jitter, reorder, mtu, duplicate, corrupt, replay)| LinkConfig {
            mtu,
            rate,
            loss,
            delay: MS * delay,
            jitter: jitter.map(|(range, reorders)| Jitter { range: MS * range, reorders }),
            reorder: reorder.map(|(probability, by)| Reorder { probability, by: MS * by }),
            duplicate,
            corrupt,
            replay,
        },
    )
}

/// What is done to a link.
#[derive(Debug, Clone)]
enum Step {
    /// A payload of so many bytes.
    Send(usize),
    Clog,
    Release,
    Cut(bool),
    Become(Box<LinkConfig>),
}

/// Steps, each with the gap before it in µs.
type Traffic = Vec<(u32, Step)>;

fn any_traffic() -> impl Strategy<Value = Traffic> {
    let step = prop_oneof![
        20 => (4usize..1500).prop_map(Step::Send),
        1 => Just(Step::Clog),
        2 => Just(Step::Release),
        1 => any::<bool>().prop_map(Step::Cut),
        1 => any_link().prop_map(|config| Step::Become(Box::new(config))),
    ];
    proptest::collection::vec((0u32..5_000, step), 1..250)
}

/// Every link that `traffic` makes becomes what `change` makes of it.
fn map_links(traffic: &Traffic, change: impl Fn(LinkConfig) -> LinkConfig) -> Traffic {
    let map = |step: &Step| match step {
        Step::Become(config) => Step::Become(Box::new(change((**config).clone()))),
        other => other.clone(),
    };
    traffic.iter().map(|(gap, step)| (*gap, map(step))).collect()
}

#[derive(Debug, PartialEq)]
struct Run {
    /// Of one packet after another.
    fates: Vec<Fate>,
    arrivals: Vec<(Time, Vec<u8>)>,
    counters: LinkCounters,
}

/// Takes each step and then out what is due. Between two steps, everything is accounted for.
fn run(config: &LinkConfig, seed: u64, traffic: &Traffic) -> Run {
    let mut link = Link::new(config, Seed::new(seed)).expect("valid");
    let mut now = Time::ZERO;
    let (mut fates, mut arrivals) = (Vec::new(), Vec::new());
    for (gap, step) in traffic {
        now = now + Duration::from_micros((*gap).into());
        match step {
            Step::Send(bytes) => fates.push(link.send(now, packet(fates.len() as u32, *bytes))),
            Step::Clog => link.clog(),
            Step::Release => link.release(now),
            Step::Cut(cut) => link.set_cut(*cut),
            Step::Become(config) => link.reconfigure(now, config).expect("valid"),
        }
        arrivals.extend(std::iter::from_fn(|| link.deliver(now)));
        assert!(link.counters().is_conserved(link.in_flight()));
    }
    link.release(now);
    arrivals.extend(std::iter::from_fn(|| link.deliver(END)));
    assert_eq!(link.in_flight(), 0);
    Run { fates, arrivals, counters: link.counters() }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_packet_vanishes_uncounted_and_fates_tell_what_is_counted(
        config in any_link(), traffic in any_traffic(), seed: u64,
    ) {
        let Run { fates, arrivals, counters: c } = run(&config, seed, &traffic);
        prop_assert!(c.is_conserved(0));
        let count = |matches: &dyn Fn(&Fate) -> bool| {
            fates.iter().filter(|fate| matches(fate)).count() as u64
        };
        let dropped = |reason| count(&|fate| fate.outcome == Outcome::Dropped(reason));
        prop_assert_eq!(c.offered, fates.len() as u64);
        prop_assert_eq!(c.delivered, arrivals.len() as u64);
        prop_assert_eq!(c.cut, dropped(DropReason::Cut));
        prop_assert_eq!(c.too_big, dropped(DropReason::TooBig));
        prop_assert_eq!(c.queue_dropped, dropped(DropReason::QueueFull));
        prop_assert_eq!(c.lost, dropped(DropReason::Lost));
        prop_assert_eq!(c.clog_dropped, dropped(DropReason::Clogged));
        let copied = |fate: &Fate| matches!(fate.outcome, Outcome::Passed { copied: true, .. });
        prop_assert_eq!(c.duplicated, count(&copied));
        let flipped = |fate: &Fate| matches!(fate.outcome, Outcome::Passed { corrupted: true, .. });
        prop_assert_eq!(c.corrupted, count(&flipped));
        prop_assert_eq!(c.replayed, count(&|fate| fate.replayed.is_some()));
    }

    #[test]
    fn the_same_seed_gives_the_same_run(config in any_link(), traffic in any_traffic(), seed: u64) {
        prop_assert_eq!(run(&config, seed, &traffic), run(&config, seed, &traffic));
    }

    #[test]
    fn arrivals_are_in_time_and_not_before_the_delay(
        config in any_link(), traffic in any_traffic(), seed: u64,
    ) {
        let arrivals = run(&config, seed, &traffic).arrivals;
        prop_assert!(arrivals.windows(2).all(|pair| pair[0].0 <= pair[1].0));
        let configs = traffic.iter().filter_map(|(_, step)| match step {
            Step::Become(config) => Some(&**config),
            _ => None,
        });
        let least = configs
            .chain([&config])
            .map(|link| link.delay - link.jitter.map_or(Duration::ZERO, |jitter| jitter.range))
            .min()
            .expect("one or more");
        prop_assert!(arrivals.iter().all(|(at, _)| *at >= Time::ZERO + least));
    }

    #[test]
    fn without_a_clog_packets_arrive_when_their_fate_says(
        config in any_link(), traffic in any_traffic(), seed: u64,
    ) {
        let mut traffic = traffic;
        traffic.retain(|(_, step)| !matches!(step, Step::Clog));
        let Run { fates, arrivals, .. } = run(&config, seed, &traffic);
        let mut told = Vec::new();
        for fate in fates {
            if let Outcome::Passed { due, copied, .. } = fate.outcome {
                told.extend(std::iter::repeat_n(due, 1 + usize::from(copied)));
            }
            told.extend(fate.replayed);
        }
        told.sort_unstable();
        prop_assert_eq!(told, arrivals.iter().map(|&(at, _)| at).collect::<Vec<_>>());
    }

    #[test]
    fn without_reordering_elements_the_order_is_kept(
        config in any_link(), traffic in any_traffic(), seed: u64,
    ) {
        let tame = |config: LinkConfig| LinkConfig {
            jitter: config.jitter.map(|jitter| Jitter { reorders: false, ..jitter }),
            reorder: None,
            corrupt: 0.0,
            replay: 0.0,
            ..config
        };
        let arrivals = run(&tame(config), seed, &map_links(&traffic, tame)).arrivals;
        prop_assert!(arrivals.windows(2).all(|p| number(&p[0].1) <= number(&p[1].1)));
    }

    #[test]
    fn becoming_the_same_link_is_no_change(
        config in any_link(), traffic in any_traffic(), seed: u64,
    ) {
        let mut traffic = traffic;
        traffic.retain(|(_, step)| !matches!(step, Step::Become(_)));
        let again: Traffic = traffic
            .iter()
            .flat_map(|(gap, step)| {
                [(0, Step::Become(Box::new(config.clone()))), (*gap, step.clone())]
            })
            .collect();
        prop_assert_eq!(run(&config, seed, &traffic), run(&config, seed, &again));
    }

    /// Which packets are lost, copied, corrupted and replayed, and in which way, depends neither on
    /// what else the link does nor on what is done to it.
    #[test]
    fn another_element_does_not_shift_the_luck(
        config in any_link(), traffic in any_traffic(), seed: u64,
    ) {
        let mean_burst = Burst::Packets(2.0);
        let plain = LinkConfig {
            loss: Loss::GilbertElliott { average: 0.3, mean_burst },
            duplicate: 0.2,
            corrupt: 0.2,
            replay: 0.2,
            ..LinkConfig::default()
        };
        let busy = |config: LinkConfig| LinkConfig {
            mtu: config.mtu,
            rate: config.rate,
            delay: config.delay,
            jitter: config.jitter,
            reorder: config.reorder,
            ..plain.clone()
        };
        let mut sends = traffic.clone();
        sends.retain(|(_, step)| matches!(step, Step::Send(_)));
        let expected = run(&plain, seed, &sends);
        let found = run(&busy(config), seed, &map_links(&traffic, busy));

        for (expected, found) in expected.fates.iter().zip(&found.fates) {
            match (expected.outcome, found.outcome) {
                (
                    Outcome::Passed { corrupted, copied, .. },
                    Outcome::Passed { corrupted: found_corrupted, copied: found_copied, .. },
                ) => prop_assert_eq!((corrupted, copied), (found_corrupted, found_copied)),
                (Outcome::Passed { .. }, dropped) => {
                    prop_assert_ne!(dropped, Outcome::Dropped(DropReason::Lost));
                }
                (Outcome::Dropped(_), found) => {
                    prop_assert!(matches!(found, Outcome::Dropped(_)));
                }
            }
            prop_assert!(found.replayed.is_none() || expected.replayed.is_some());
        }
        // Every packet that arrives does so in the plain run, too, bit by bit.
        let packets = |run: Run| {
            let mut packets: Vec<_> = run.arrivals.into_iter().map(|(_, bytes)| bytes).collect();
            packets.sort_unstable();
            packets
        };
        let expected = packets(expected);
        let mut rest = expected.iter();
        prop_assert!(packets(found).iter().all(|one| rest.any(|other| other == one)));
    }
}
