//! Whatever a file or an override holds, reading it does not panic, and what is accepted is usable.

use proptest::prelude::*;

use super::builtin::BUILTIN;
use super::*;
use crate::link::Link;
use crate::seed::Seed;

const PIECES: &[&str] = &[
    "\"",
    "'",
    "\"\"\"",
    "'''",
    "=",
    "[",
    "]",
    "{",
    "}",
    "\n",
    ".",
    ",",
    "#",
    "\\",
    "-",
    " ",
    "0",
    "1",
    "inf",
    "nan",
    "-1",
    "1e300",
    "9223372036854775807",
    "0.000001",
    "true",
    "[[event]]",
    "[[case]]",
    "[[pop]]",
    "[link.forth]",
    "loss_pct",
    "queue_ms",
    "every_s",
    "partition",
    "expect",
    "for_s",
    "bytes",
];

/// Keys, some with values that fit.
const PATHS: &[&str] = &[
    "seconds",
    "title",
    "expect",
    "config",
    "pop",
    "pop.0",
    "pop.a.name",
    "pop.a.nat",
    "pop.0.clock_offset_s",
    "pop.0.config",
    "link",
    "link.rtt_ms",
    "link.rate_mbps",
    "link.queue_bdp",
    "link.queue_ms",
    "link.queue_kib",
    "link.mark_ms",
    "link.loss_pct",
    "link.burst",
    "link.burst_ms",
    "link.jitter_ms",
    "link.jitter_reorders",
    "link.reorder_pct",
    "link.reorder_ms",
    "link.duplicate_pct",
    "link.corrupt_pct",
    "link.replay_pct",
    "link.mtu",
    "link.forth",
    "link.back.loss_pct",
    "links",
    "links.a-b",
    "pops",
    "mesh",
    "mesh.degree",
    "mesh.rtt_ms",
    "quiet_s",
    "links.a-b.rtt_ms",
    "workload",
    "workload.ping.kind",
    "workload.ping.from",
    "workload.ping.count",
    "workload.ping.for_s",
    "workload.ping.bytes",
    "workload.ping.pause_ms",
    "workload.ping.start_s",
    "workload.ping.every_ms",
    "workload.ping.until_s",
    "workload.ping.connections",
    "workload.ping.read_kbps",
    "workload.ping.client_resets_after",
    "event",
    "event.0",
    "event.0.at_s",
    "event.0.every_s",
    "event.0.until_s",
    "event.0.set",
    "event.0.set.rtt_ms",
    "event.0.clog",
    "event.0.cut",
    "event.0.partition",
    "event.0.restart",
    "event.0.clock_step_s",
    "event.0.link",
    "event.0.direction",
    "case",
    "about",
];

const VALUES: &[&str] = &[
    "",
    "0",
    "1",
    "-1",
    "0.5",
    "100",
    "86400",
    "1e9",
    "1e300",
    "-inf",
    "nan",
    "9223372036854775807",
    "-9223372036854775808",
    "99999999999999999999",
    "true",
    "a",
    "b",
    "a-b",
    "both",
    "upload",
    "[]",
    "{}",
    "[['a'], ['b']]",
    "['completed_pct > 0']",
    "['routes.a>b.at.1 = a>b', 'nodes.a.marked_after.1 = 0']",
    "{ degree = 2, rtt_ms = [1, 9] }",
    "[1, 9]",
    "[1]",
    "{ a = { b = 1 } }",
    "[{ at_s = 1, cut = true }]",
    "{ rtt_ms = 3 }",
    "1979-05-27",
    "'''",
    "[[[[[[[[[[",
];

/// What is accepted can be made and followed.
fn usable(scenario: &Scenario) {
    for link in &scenario.links {
        for config in [&link.forth, &link.back] {
            Link::<Vec<u8>>::new(config, Seed::new(1)).unwrap();
        }
        assert_eq!(link.rtt, link.forth.delay + link.back.delay);
    }
    for workload in &scenario.workloads {
        let times: Vec<Duration> = workload.opening.times().collect();
        assert!((1..=100_000).contains(&times.len()));
        assert_eq!(workload.path.links.is_empty(), workload.from == workload.to);
        assert!(times.is_sorted());
    }
    assert!(scenario.events.len() <= 10_000);
    assert!(scenario.events.is_sorted_by_key(|event| event.at));
    for event in &scenario.events {
        if let EventKind::SetLink { forth, back, .. } = &event.what {
            for config in [forth, back].into_iter().flatten() {
                config.validate().unwrap();
            }
        }
    }
    for pop in 0..scenario.pops.len() {
        let _ = scenario.config_of(PopId(pop));
    }
}

fn try_all(text: &str, overrides: &[Override]) {
    let results =
        [None, Some("loss-20"), Some("cut")].map(|case| parse("random", case, text, overrides));
    for result in &results {
        match result {
            Ok(scenario) => usable(scenario),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

/// Takes away and puts in, at places given as shares of the text.
fn mutate(text: &str, edits: &[(f64, usize, String)]) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for (place, remove, insert) in edits {
        let at = ((chars.len() as f64) * place) as usize;
        let end = chars.len().min(at + remove);
        chars.splice(at..end, insert.chars());
    }
    chars.into_iter().collect()
}

fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::sample::select(PIECES).prop_map(str::to_owned),
        1 => any::<String>(),
    ]
}

fn random_override() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        8 => prop::sample::select(VALUES).prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    (prop::sample::select(PATHS), value).prop_map(|(path, value)| format!("{path}={value}"))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1024) })]

    #[test]
    fn any_text_is_read_or_refused(text in any::<String>(), pieces in prop::collection::vec(piece(), 0..40)) {
        try_all(&text, &[]);
        try_all(&pieces.concat(), &[]);
        let _ = Override::parse(&text);
        let _ = Override::parse(&pieces.concat());
        let _ = load(&text, &[]);
    }

    #[test]
    fn any_change_of_a_file_is_read_or_refused(
        (_, text) in prop::sample::select(BUILTIN),
        edits in prop::collection::vec((0.0..1.0, 0..12usize, piece()), 1..4),
    ) {
        try_all(&mutate(text, &edits), &[]);
    }

    #[test]
    fn any_override_is_followed_or_refused(
        overrides in prop::collection::vec(random_override(), 1..3),
    ) {
        // One that has everything of which PATHS speaks.
        let (_, text) = BUILTIN.iter().find(|(name, _)| *name == "clog").unwrap();
        let overrides: Vec<Override> =
            overrides.iter().filter_map(|text| Override::parse(text).ok()).collect();
        try_all(text, &overrides);
    }
}
