use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::link::LinkCounters;
use crate::outcome::{
    ExpectationOutcome, Latency, LinkSeries, NodeOutcome, QueueOutcome, Series, TunnelOutcome,
    TunnelSeries, WorkloadOutcome,
};

/// A sequence that looks random and is the same on every machine, 0 to 1.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f64 / (1u64 << 24) as f64
    }
}

fn latency(samples: &[u64]) -> Latency {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    let at = |share: f64| sorted[((sorted.len() - 1) as f64 * share) as usize] as f64 / 1000.0;
    Latency {
        min_ms: at(0.0),
        p50_ms: at(0.5),
        p95_ms: at(0.95),
        p99_ms: at(0.99),
        p999_ms: at(0.999),
        max_ms: at(1.0),
    }
}

fn series(noise: &mut Noise, loss: f64) -> Series {
    let list = |of: &mut dyn FnMut(f64) -> f64| (0..200).map(|i| of(f64::from(i) * 0.1)).collect();
    let mut level = move |base: f64, spread: f64| base + spread * (noise.next() - 0.5);
    let mut series = Series { interval_s: 0.1, ..Series::default() };
    let best = 48.0 * (1.0 - loss / 100.0);
    let ramp = |t: f64| (t / 0.8).min(1.0);
    series.goodput_mbps = BTreeMap::from([
        ("download".to_owned(), list(&mut |t| level(best, 6.0) * ramp(t))),
        ("keys".to_owned(), list(&mut |_| level(0.2, 0.1))),
    ]);
    for (name, part) in [("fra>nyc", 1.0), ("nyc>fra", 0.2)] {
        let link = LinkSeries {
            offered_mbps: list(&mut |t| level(50.0 * part, 4.0) * ramp(t)),
            lost_pct: list(&mut |_| level(loss, loss).max(0.0)),
            queue_ms: list(&mut |t| {
                level(9.0, 8.0) * part + if t > 4.0 && t < 4.6 { 40.0 } else { 0.0 }
            }),
        };
        series.links.insert(name.to_owned(), link);
        let tunnel = TunnelSeries {
            rate_mbps: list(&mut |t| {
                if t < 0.8 { 900.0 * t + 5.0 } else { level(50.0 * part + 1.0, 3.0) }
            }),
            rtt_ms: list(&mut |_| level(125.0, 5.0)),
            fec_overhead_pct: list(&mut |_| level(12.0 + loss, 6.0) * part),
            repair_pct: list(&mut |_| level(loss * 0.9, 2.0).max(0.0) * part),
        };
        series.tunnels.insert(name.to_owned(), tunnel);
    }
    series.routes = BTreeMap::from([
        (
            "fra>nyc".to_owned(),
            vec![
                (0, "fra>nyc".to_owned()),
                (80, "fra>lon>nyc".to_owned()),
                (130, "fra>nyc".to_owned()),
            ],
        ),
        ("nyc>fra".to_owned(), vec![(0, "nyc>fra".to_owned()), (82, "nyc>lon>fra".to_owned())]),
    ]);
    series
}

fn run(loss: f64) -> Run {
    let mut noise = Noise(loss.to_bits());
    let samples: Vec<u64> = (0..20_000)
        .map(|_| {
            let late =
                if noise.next() < loss / 800.0 { 130_000.0 * (1.0 + noise.next()) } else { 0.0 };
            (120_400.0 + 4_000.0 * noise.next() * (1.0 + loss / 5.0) + late) as u64
        })
        .collect();
    let download = WorkloadOutcome {
        connections: 1,
        completed: 1,
        bytes_down: 120_000_000,
        exchanges: 1,
        goodput_mbps: 47.6 * (1.0 - loss * 1.3 / 100.0),
        second_half_mbps: 48.1 * (1.0 - loss * 1.2 / 100.0),
        longest_gap_ms: 31.25,
        ..WorkloadOutcome::default()
    };
    let keys = WorkloadOutcome {
        connections: 4,
        completed: 4,
        bytes_up: 1_280_000,
        bytes_down: 1_280_000,
        exchanges: 20_000,
        goodput_mbps: 0.21,
        second_half_mbps: 0.21,
        longest_gap_ms: 260.0,
        latency: Some(latency(&samples)),
        samples_us: samples,
        ..WorkloadOutcome::default()
    };
    let link =
        LinkCounters { offered: 140_000, lost: (1_400.0 * loss) as u64, ..LinkCounters::default() };
    let tunnel = TunnelOutcome {
        bytes_out: 170_000_000,
        packets_out: 140_000,
        symbols_out: 100_000,
        parity_out: (1_000.0 * (8.0 + loss)) as u64,
        retransmitted: (900.0 * loss) as u64,
        handshakes: 1,
        ..TunnelOutcome::default()
    };
    let both = ["fra>nyc", "nyc>fra"];
    Run {
        case: format!("loss-{loss}"),
        loss_pct: Some(loss),
        rtt_ms: Some(120.0),
        rate_mbps: Some(50.0),
        bursts: String::new(),
        outcome: Outcome {
            scenario: "ocean".to_owned(),
            seed: 7,
            trace_hash: format!("{:064x}", u128::from(loss.to_bits()).pow(2)),
            seconds: 20.0,
            packets: 281_234,
            unfinished: Vec::new(),
            violations: Vec::new(),
            workloads: BTreeMap::from([
                ("download".to_owned(), download),
                ("keys".to_owned(), keys),
            ]),
            links: both.map(|l| (l.to_owned(), link)).into(),
            queues: both.map(|l| (l.to_owned(), QueueOutcome::default())).into(),
            wire_per_byte: Some(1.12 / (1.0 - loss / 100.0)),
            tunnels: both.map(|l| (l.to_owned(), tunnel)).into(),
            nodes: ["fra", "nyc", "syd"].map(|n| (n.to_owned(), NodeOutcome::default())).into(),
            nodes_at: BTreeMap::new(),
            routes: BTreeMap::new(),
            converged_s: None,
            quiet_kbps: None,
            expectations: vec![ExpectationOutcome {
                text: "keys.p99_over_rtt_ms <= 100".to_owned(),
                found: "12.4".to_owned(),
                held: loss < 35.0,
            }],
            series: Some(series(&mut noise, loss)),
        },
        direct: BTreeMap::new(),
    }
}

/// The run with what QUIC made of it: a share of the goodput, a multiple of the latency.
fn against_quic(mut run: Run) -> Run {
    for (system, share, slower) in [(System::QuicBbr, 0.8, 3.0), (System::QuicCubic, 0.004, 9.0)] {
        let mut outcome = Outcome { series: None, ..run.outcome.clone() };
        outcome.wire_per_byte = outcome.wire_per_byte.map(|ratio| ratio * 1.5);
        for workload in outcome.workloads.values_mut() {
            workload.second_half_mbps *= share;
            workload.first_15s_mbps = workload.second_half_mbps * 0.9;
            if let Some(latency) = &mut workload.latency {
                latency.p99_ms *= slower;
                latency.p999_ms *= slower;
            }
        }
        run.direct.insert(system, outcome);
    }
    run
}

fn ocean_against_quic() -> Page {
    let page = ocean();
    Page { runs: page.runs.into_iter().map(against_quic).collect(), ..page }
}

/// The figure with that heading, if the page has it.
fn figure<'a>(html: &'a str, title: &str) -> Option<&'a str> {
    let heading = format!("<h3>{title}</h3>");
    html.split("<figure>").find(|part| part.contains(&heading))?.split("</figure>").next()
}

fn ocean() -> Page {
    Page {
        title: "ocean".to_owned(),
        about: "A long path across an ocean: 120 ms, 50 Mbit/s, and more loss from case to case.\n\
                A download and keystrokes share the tunnel."
            .to_owned(),
        runs: [0.0, 0.5, 1.0, 3.0, 5.0, 10.0, 20.0, 40.0].map(run).into(),
        command: "entrouter-sim run ocean --seed 7 --report ocean.html".to_owned(),
        alone: None,
    }
}

/// Checks that every element of the page is closed in order and every attribute quoted once.
fn assert_well_formed(html: &str) {
    const VOID: [&str; 3] = ["!DOCTYPE", "meta", "br"];
    let mut open: Vec<&str> = Vec::new();
    let mut rest = html;
    while let Some(start) = rest.find('<') {
        assert!(
            !rest[..start].contains('>') || open.last() == Some(&"style"),
            "{}",
            &rest[..start]
        );
        let end = start + rest[start..].find('>').expect("every tag ends");
        let tag = &rest[start + 1..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "closed in order");
            continue;
        }
        let name = tag.split([' ', '/']).next().expect("a name");
        assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || c == '!'), "{tag}");
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        let attributes: Vec<&str> =
            tag.split('"').step_by(2).filter_map(|part| part.trim().strip_suffix('=')).collect();
        for (i, attribute) in attributes.iter().enumerate() {
            assert!(!attributes[..i].contains(attribute), "{tag}");
        }
        if !VOID.contains(&name) && !tag.ends_with('/') {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn a_page_shows_every_run_and_stays_small() {
    let page = ocean();
    let html = render(&page).unwrap();
    if let Ok(path) = std::env::var("ENTROUTER_REPORT_SAMPLE") {
        std::fs::write(path, &html).unwrap();
    }
    assert_well_formed(&html);
    assert!(html.len() < 1_500_000, "{} bytes", html.len());
    for run in &page.runs {
        assert!(html.contains(&run.outcome.trace_hash));
        assert!(html.contains(&format!("<summary>{} ", run.case)));
    }
    for title in [
        "Goodput against loss, second half",
        "Goodput against loss, first 15 s",
        "Latency against loss: keys",
        "Redundancy against loss",
        "Latency distribution: keys",
        "Queue at the bottleneck",
        "Route",
    ] {
        assert!(html.contains(&format!("<h3>{title}</h3>")), "{title}");
    }
    assert!(html.contains("1 of 8 runs failed"));
    assert!(html.contains("<li>expected <code>keys.p99_over_rtt_ms &lt;= 100</code>, found 12.4"));
}

#[test]
fn a_page_refers_to_nothing_outside() {
    let html = render(&ocean()).unwrap();
    for reference in ["http", "src=", "url(", "@import", "<script", "<link"] {
        assert!(!html.contains(reference), "{reference}");
    }
}

#[test]
fn equal_runs_give_equal_pages() {
    assert_eq!(render(&ocean()).unwrap(), render(&ocean()).unwrap());
}

#[test]
fn runs_at_one_loss_are_not_plotted_against_loss() {
    let page = Page { runs: vec![run(5.0), run(5.0)], ..ocean() };
    let html = render(&page).unwrap();
    assert!(!html.contains("against loss"));
    assert!(html.contains("Latency distribution"));
}

/// Names of the lines in a figure's legend, in order.
fn legend(figure: &str) -> Vec<&str> {
    let items = figure.split("</svg>").skip(1).filter_map(|part| part.split_once("</li>"));
    items.map(|(name, _)| name).collect()
}

#[test]
fn plots_show_the_relay_and_both_kinds_of_quic() {
    let html = render(&ocean_against_quic()).unwrap();
    if let Ok(path) = std::env::var("ENTROUTER_REPORT_SAMPLE") {
        std::fs::write(path + ".versus.html", &html).unwrap();
    }
    assert_well_formed(&html);
    for title in [
        "Goodput against loss, second half",
        "Goodput against loss, first 15 s",
        "Goodput against loss, by decades",
        "Cost against loss",
        "Latency against loss, p50: keys",
        "Latency against loss, p99: keys",
        "Latency against loss, p99.9: keys",
    ] {
        let figure = figure(&html, title).unwrap_or_else(|| panic!("no {title}"));
        assert_eq!(legend(figure)[..3], ["relay", "QUIC, BBR", "QUIC, CUBIC"], "{title}");
        for system in System::ALL {
            let (ink, dots) = (system.ink().hex(), figure.matches("<circle").count());
            assert!(
                figure.contains(&format!("<polyline fill=\"none\" stroke=\"{ink}\"")),
                "{title}"
            );
            assert_eq!(dots, 3 * 8, "{title}");
        }
    }
    // Both workloads of each run, over each system.
    let table = html.split("</table>").next().unwrap();
    assert_eq!(table.matches("<td>QUIC, CUBIC</td>").count(), 16);
    assert_eq!(table.matches("<td>QUIC, BBR</td>").count(), 16);
}

#[test]
fn a_logarithmic_plot_is_drawn_only_for_what_a_linear_one_hides() {
    let mut page = ocean_against_quic();
    assert!(render(&page).unwrap().contains("by decades"));
    page.runs.iter_mut().for_each(|run| drop(run.direct.remove(&System::QuicCubic)));
    assert!(!render(&page).unwrap().contains("by decades"));
}

#[test]
fn a_run_that_quic_did_not_make_leaves_a_gap() {
    let mut page = ocean_against_quic();
    page.runs[3].direct.clear();
    page.runs[5].direct.remove(&System::QuicCubic);
    let html = render(&page).unwrap();
    assert_well_formed(&html);
    let figure = figure(&html, "Goodput against loss, second half").unwrap();
    assert_eq!(figure.matches("<circle").count(), 8 + 7 + 6);
}

#[test]
fn runs_without_latency_have_neither_its_plots_nor_its_columns() {
    let mut page = ocean_against_quic();
    for run in &mut page.runs {
        run.outcome.workloads.remove("keys");
        run.direct.values_mut().for_each(|outcome| drop(outcome.workloads.remove("keys")));
    }
    let html = render(&page).unwrap();
    assert_well_formed(&html);
    let overview = html.split("<h2>Run by run</h2>").next().unwrap();
    assert!(overview.contains("Goodput against loss"));
    assert!(!overview.contains("Latency"));
}

#[test]
fn of_one_run_the_distribution_of_each_system_is_drawn() {
    let html = render(&Page { runs: vec![against_quic(run(5.0))], ..ocean() }).unwrap();
    let figure = figure(&html, "Latency distribution: keys").unwrap();
    assert_eq!(legend(figure)[..3], ["relay", "QUIC, BBR", "QUIC, CUBIC"]);
}

#[test]
fn loss_in_bursts_is_no_point_of_a_line_of_independent_loss() {
    let mut page = ocean_against_quic();
    page.runs[3].bursts = "bursts of 5 packets".to_owned();
    let html = render(&page).unwrap();
    let figure = figure(&html, "Goodput against loss, second half, independent loss").unwrap();
    assert_eq!(figure.matches("<circle").count(), 3 * 7);
    assert!(html.contains("<h3>Latency distribution: keys, bursts of 5 packets</h3>"));
}

#[test]
fn a_page_says_why_nothing_is_compared() {
    let why = "Not compared with QUIC: star has <three> PoPs";
    let html = render(&Page { alone: Some(why.to_owned()), ..ocean() }).unwrap();
    assert!(html.contains("Not compared with QUIC: star has &lt;three&gt; PoPs.</p>"));
    assert!(!html.contains("QUIC, BBR"));
}

#[test]
fn text_of_runs_cannot_become_markup() {
    let evil = "<em x=\"'&\0\">".to_owned();
    let mut run = run(3.0);
    run.case.clone_from(&evil);
    run.bursts.clone_from(&evil);
    let outcome = &mut run.outcome;
    outcome.trace_hash.clone_from(&evil);
    outcome.scenario.clone_from(&evil);
    outcome.violations = vec![evil.clone(); 30];
    outcome.expectations =
        vec![ExpectationOutcome { text: evil.clone(), found: evil.clone(), held: false }];
    rename(&mut outcome.workloads, &evil);
    rename(&mut outcome.links, &evil);
    rename(&mut outcome.queues, &evil);
    rename(&mut outcome.tunnels, &evil);
    rename(&mut outcome.nodes, &evil);
    let series = outcome.series.as_mut().unwrap();
    rename(&mut series.goodput_mbps, &evil);
    rename(&mut series.links, &evil);
    rename(&mut series.tunnels, &evil);
    rename(&mut series.routes, &evil);
    series.routes.values_mut().flatten().for_each(|(_, way)| way.clone_from(&evil));
    let page = Page {
        title: evil.clone(),
        about: evil.clone(),
        command: evil.clone(),
        alone: Some(evil),
        runs: vec![against_quic(run), against_quic(self::run(9.0))],
    };
    let html = render(&page).unwrap();
    assert_well_formed(&html);
    assert!(!html.contains("<em"), "{}", html.split("<em").nth(1).unwrap_or_default());
    assert!(!html.contains('\0'));
    assert!(html.contains("and 10 more") && html.contains("and 26 more"));
}

fn rename<T>(map: &mut BTreeMap<String, T>, name: &str) {
    let old = std::mem::take(map);
    map.extend(old.into_values().enumerate().map(|(i, v)| (format!("{name}{i}"), v)));
}

fn number() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => 0.0..500.0f64,
        1 => Just(0.0),
        1 => Just(f64::NAN),
        1 => Just(f64::INFINITY),
        2 => any::<f64>(),
    ]
}

fn numbers() -> impl Strategy<Value = Vec<f64>> {
    prop_oneof![prop::collection::vec(number(), 0..5), prop::collection::vec(number(), 700..702)]
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![Just("a>b".to_owned()), Just("b>c".to_owned()), any::<String>()]
}

fn any_series() -> impl Strategy<Value = Series> {
    let way = || (any::<u16>(), name()).prop_map(|(at, way)| (usize::from(at), way));
    (
        number(),
        prop::collection::btree_map(name(), numbers(), 0..6),
        prop::collection::btree_map(name(), (numbers(), numbers()), 0..10),
        prop::collection::btree_map(name(), prop::collection::vec(way(), 0..4), 0..10),
    )
        .prop_map(|(interval_s, goodput_mbps, pairs, routes)| {
            let link = |(a, b): &(Vec<f64>, Vec<f64>)| LinkSeries {
                offered_mbps: Vec::new(),
                lost_pct: a.clone(),
                queue_ms: b.clone(),
            };
            let tunnel = |(a, b): &(Vec<f64>, Vec<f64>)| TunnelSeries {
                rate_mbps: a.clone(),
                rtt_ms: Vec::new(),
                fec_overhead_pct: b.clone(),
                repair_pct: a.clone(),
            };
            let links = pairs.iter().map(|(n, p)| (n.clone(), link(p))).collect();
            let tunnels = pairs.iter().map(|(n, p)| (n.clone(), tunnel(p))).collect();
            Series { interval_s, goodput_mbps, links, tunnels, routes }
        })
}

fn any_workload() -> impl Strategy<Value = WorkloadOutcome> {
    let samples = prop_oneof![
        prop::collection::vec(any::<u64>(), 0..3),
        prop::collection::vec(0..900_000u64, 0..200)
    ];
    (number(), number(), any::<u64>(), prop::option::of(number()), samples).prop_map(
        |(goodput_mbps, second_half_mbps, exchanges, ms, samples_us)| WorkloadOutcome {
            goodput_mbps,
            second_half_mbps,
            exchanges,
            bytes_up: exchanges,
            bytes_down: exchanges,
            latency: ms.map(|v| Latency {
                min_ms: v,
                p50_ms: v,
                p95_ms: v * 2.0,
                p99_ms: v * 1e3,
                p999_ms: f64::NAN,
                max_ms: v,
            }),
            samples_us,
            ..WorkloadOutcome::default()
        },
    )
}

fn name_of_bursts(seed: u64) -> String {
    if seed.is_multiple_of(4) { "<bursts>".to_owned() } else { String::new() }
}

fn any_run() -> impl Strategy<Value = Run> {
    let parameter = || prop::option::of(number());
    let tunnel = (any::<u64>(), any::<u64>()).prop_map(|(symbols_out, parity_out)| TunnelOutcome {
        symbols_out,
        parity_out,
        retransmitted: parity_out,
        pto_sent: parity_out,
        ..TunnelOutcome::default()
    });
    (
        (any::<String>(), parameter(), parameter(), parameter()),
        (any::<u64>(), number()),
        prop::collection::btree_map(name(), any_workload(), 0..4),
        prop::collection::btree_map(name(), tunnel, 0..3),
        prop::option::of(any_series()),
    )
        .prop_map(
            |((case, loss_pct, rtt_ms, rate_mbps), (seed, seconds), workloads, tunnels, series)| {
                let outcome = Outcome {
                    scenario: "any".to_owned(),
                    seed,
                    trace_hash: String::new(),
                    seconds,
                    packets: seed,
                    unfinished: Vec::new(),
                    violations: Vec::new(),
                    workloads,
                    links: BTreeMap::new(),
                    queues: BTreeMap::new(),
                    wire_per_byte: None,
                    tunnels,
                    nodes: BTreeMap::new(),
                    nodes_at: BTreeMap::new(),
                    routes: BTreeMap::new(),
                    converged_s: None,
                    quiet_kbps: None,
                    expectations: Vec::new(),
                    series,
                };
                let bursts = name_of_bursts(seed);
                let direct = BTreeMap::new();
                Run { case, loss_pct, rtt_ms, rate_mbps, bursts, outcome, direct }
            },
        )
}

/// A run to which QUIC's are added, whatever they have to do with it.
fn any_compared() -> impl Strategy<Value = Run> {
    (any_run(), prop::option::of(any_run()), prop::option::of(any_run())).prop_map(
        |(mut run, bbr, cubic)| {
            let direct = [(System::QuicBbr, bbr), (System::QuicCubic, cubic)];
            run.direct = direct.into_iter().filter_map(|(s, r)| Some((s, r?.outcome))).collect();
            run
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn whatever_came_out_gives_a_well_formed_page(
        runs in prop_oneof![
            prop::collection::vec(any_run(), 0..16),
            prop::collection::vec(any_compared(), 0..8),
        ]
    ) {
        let page = Page {
            title: String::new(),
            about: String::new(),
            runs,
            command: String::new(),
            alone: None,
        };
        let html = render(&page).unwrap();
        assert_well_formed(&html);
        // No coordinate or table cell shows what is no number.
        prop_assert!(!html.contains("inf,") && !html.contains(">NaN<"));
        for i in 0..page.runs.len() {
            let id = format!("id=\"run-{i}\"");
            prop_assert!(html.contains(&id));
        }
    }
}
