use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::link::{Burst, LinkCounters, Loss, QueueLimit};
use crate::outcome::{Latency, NodeOutcome, Outcome, WorkloadOutcome};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// Two PoPs and a request over a link; `more` comes behind.
fn base(more: &str) -> String {
    format!("{HEAD}[link]\nrtt_ms = 100\nrate_mbps = 10\n{PING}{more}")
}

const HEAD: &str =
    "title = 'T'\nabout = 'A'\nseconds = 60\n[[pop]]\nname = 'a'\n[[pop]]\nname = 'b'\n";
const PING: &str = "[workload.ping]\nkind = 'request'\n";

fn try_read(text: &str, overrides: &[&str]) -> Result<Scenario, ScenarioError> {
    let overrides: Vec<Override> =
        overrides.iter().map(|text| Override::parse(text)).collect::<Result<_, _>>()?;
    parse("test", None, text, &overrides)
}

fn read(text: &str) -> Scenario {
    try_read(text, &[]).unwrap()
}

fn with(text: &str, overrides: &[&str]) -> Scenario {
    try_read(text, overrides).unwrap()
}

#[test]
fn every_built_in_scenario_and_case_can_be_run() {
    let names = names();
    assert!(names.len() > 60, "{}", names.len());
    for Listing { name, title } in names {
        let scenario = load(&name, &[]).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(scenario.full_name(), name);
        assert!(!title.is_empty() && title.len() < 120, "{name}: {title}");
        assert!(scenario.about.len() > 80 && !scenario.about.contains('\n'), "{name}");
        let exact = |e: &Expectation| e.text() == "delivered = \"exact\"";
        assert!(scenario.expect.iter().any(exact), "{name}");
        // What happens behind the end would never be seen.
        let late = scenario.events.iter().find(|event| event.at > scenario.ends_at);
        assert_eq!(late, None, "{name}");
    }
}

#[test]
fn built_in_scenarios_are_listed_in_the_reference() {
    let reference = include_str!("../../scenarios/README.md");
    let (_, reference) = reference.split_once("## The scenarios").unwrap();
    for Listing { name, .. } in names() {
        let (scenario, case) = name.split_once('/').unwrap_or((&name, ""));
        let row = reference.lines().find(|line| line.starts_with(&format!("| `{scenario}` |")));
        let row = row.unwrap_or_else(|| panic!("{scenario} has no row"));
        assert!(case.is_empty() || row.contains(&format!("`{case}`")), "{name}");
    }
}

#[test]
fn the_example_of_the_reference_can_be_run() {
    let reference = include_str!("../../scenarios/README.md");
    let (_, example) = reference.split_once("```toml\n").unwrap();
    let (example, _) = example.split_once("```").unwrap();
    assert_eq!(read(example).events.len(), 2);
    assert!(parse("test", Some("loss-20"), example, &[]).is_ok());
}

#[test]
fn links_take_their_keys_from_the_most_specific_table() {
    let text = format!(
        "{HEAD}[[pop]]\nname = 'c-d'\n\
         [link]\nrtt_ms = 100\nrate_mbps = 10\nloss_pct = 5\nburst = 3\nmark_ms = 5\n\
         back.queue_kib = 64\nback.mark_ms = 0\n\
         [links.a-b]\n[links.c-d-a]\nrtt_ms = 40\nqueue_ms = 7\nforth.loss_pct = 0\n\
         forth.mtu = 9000\nback.rtt_ms = 60\nback.burst = 0\n{PING}"
    );
    let scenario = read(&text);
    let [ab, ca] = scenario.links.as_slice() else { panic!("{:?}", scenario.links) };

    assert_eq!((ab.ends, ab.rtt), ((PopId(0), PopId(1)), 100 * MS));
    let bursty = Loss::GilbertElliott { average: 0.05, mean_burst: Burst::Packets(3.0) };
    assert_eq!((ab.forth.loss, ab.back.loss), (bursty, bursty));
    let rate = ab.forth.rate.unwrap();
    assert_eq!((rate.mbps, rate.queue), (10.0, QueueLimit::Time(100 * MS)), "one BDP");
    assert_eq!(rate.mark_above, Some(QueueLimit::Time(5 * MS)));
    let rate = ab.back.rate.unwrap();
    assert_eq!((rate.queue, rate.mark_above), (QueueLimit::Bytes(65_536), None));
    assert_eq!((ab.forth.delay, ab.forth.mtu), (50 * MS, Some(1_500)));

    assert_eq!(ca.ends, (PopId(2), PopId(0)), "a name may have a dash");
    assert_eq!((ca.forth.delay, ca.back.delay, ca.rtt), (20 * MS, 30 * MS, 50 * MS));
    assert_eq!(ca.forth.loss, Loss::None);
    assert_eq!(ca.back.loss, Loss::Bernoulli { average: 0.05 });
    assert_eq!((ca.forth.mtu, ca.back.mtu), (Some(9_000), Some(1_500)));
    assert_eq!(ca.back.rate.unwrap().queue, QueueLimit::Time(7 * MS), "the link's own wins");
}

#[test]
fn events_change_links_one_after_the_other_until_they_are_restored() {
    let scenario = read(&base(
        "[[event]]\nat_s = 5\nset = { loss_pct = 100 }\n\
         [[event]]\nat_s = 9\nrestore = true\nlink = 'b-a'\ndirection = 'forth'\n\
         [[event]]\nat_s = 1\nset = { rtt_ms = 300, burst = 4 }\n\
         [[event]]\nat_s = 2\nevery_s = 3\nuntil_s = 8\nclog = true\nlink = 'b-a'\ndirection = 'forth'\n",
    ));
    let times: Vec<u64> = scenario.events.iter().map(|event| event.at.as_secs()).collect();
    assert_eq!(times, [1, 2, 5, 5, 8, 9]);
    let clogged = EventKind::Clog { link: LinkId(0), way: Way::Back, on: true };
    assert_eq!(scenario.events[1].what, clogged, "forth of b-a is back of a-b");
    let EventKind::SetLink { forth: Some(forth), back: Some(_), .. } = &scenario.events[2].what
    else {
        panic!("of two at the same time that of the file's order: {:?}", scenario.events[2])
    };
    assert_eq!(forth.loss, Loss::Bernoulli { average: 1.0 });
    assert_eq!(forth.delay, 150 * MS, "what was set before stays");
    assert_eq!(forth.rate.unwrap().queue, QueueLimit::Time(300 * MS));
    let EventKind::SetLink { forth: None, back: Some(back), .. } = &scenario.events[5].what else {
        panic!("{:?}", scenario.events[5])
    };
    assert_eq!((back.loss, back.delay), (Loss::None, 50 * MS));
}

#[test]
fn workloads_say_who_talks_to_whom_and_when() {
    let scenario = read(&base(
        "connections = 3\n\
         [workload.short]\nkind = 'request'\nfrom = 'b'\nto = 'a'\nevery_ms = 250\nstart_s = 1\n\
         until_s = 2\norigin = 'refuse'\n\
         [workload.up]\nkind = 'upload'\nbytes = 1000\norigin_read_kbps = 800\n\
         origin_resets_after = 500\n",
    ));
    let [ping, short, up] = scenario.workloads.as_slice() else { panic!() };
    assert_eq!((ping.from, ping.to), (PopId(0), PopId(1)));
    assert_eq!(ping.opening.times().collect::<Vec<_>>(), [Duration::ZERO; 3]);
    assert_eq!((short.from, short.to), (PopId(1), PopId(0)));
    assert_eq!((&short.path.links[..], short.path.rtt), (&[LinkId(0)][..], 100 * MS));
    let times: Vec<u128> = short.opening.times().map(|time| time.as_millis()).collect();
    assert_eq!(times, [1_000, 1_250, 1_500, 1_750, 2_000]);
    assert_eq!(short.origin, Origin::Refuses);
    assert_eq!(up.kind, WorkloadKind::Upload { amount: Amount::Bytes(1_000) });
    let reads_at = Some(BitRate(800_000));
    assert_eq!(up.origin, Origin::Accepts { reads_at, resets_after: Some(500) });
}

#[test]
fn a_pops_own_configuration_goes_over_that_for_all() {
    let text = base("[config.mesh]\nprobe_interval_ms = 100\n[config.limits]\nrekey_after_s = 1\n");
    let scenario = with(&text, &["pop.b.config.limits.rekey_after_s = 9", "pop.1.nat=true"]);
    assert_eq!(scenario.config_of(PopId(0)), scenario.config);
    let of_b = "[mesh]\nprobe_interval_ms = 100\n[limits]\nrekey_after_s = 9";
    assert_eq!(scenario.config_of(PopId(1)), of_b.parse().unwrap());
    assert!(scenario.pops[1].nat && !scenario.pops[0].nat);
}

#[test]
fn overrides_reach_every_part_and_the_later_one_wins() {
    let text = base("[[event]]\nat_s = 1\ncrash = 'b'\n");
    let overrides = [
        "link.loss_pct=5",
        "link.loss_pct = 20",
        "link.queue_ms=30",
        "links.a-b.mtu=1280",
        "seconds=10",
        "title=a = b",
        "workload.\"ping\".count=7",
        "workload.bulk={ kind = 'download', for_s = 3 }",
        "workload.bulk.bytes=9",
        "event.0.restart=a",
        "expect=['ping.p50_ms < 1']",
    ];
    let scenario = with(&text, &overrides);
    let link = &scenario.links[0];
    assert_eq!(link.forth.loss, Loss::Bernoulli { average: 0.2 });
    assert_eq!(link.forth.rate.unwrap().queue, QueueLimit::Time(30 * MS));
    assert_eq!(link.forth.mtu, Some(1_280));
    assert_eq!((scenario.ends_at, scenario.title.as_str()), (10 * SECOND, "a = b"));
    assert_eq!(
        scenario.workloads[0].kind,
        WorkloadKind::Download { amount: Amount::Bytes(9), half_close: false },
        "keys that exclude each other"
    );
    assert!(matches!(scenario.workloads[1].kind, WorkloadKind::Request { count: 7, .. }));
    let restart =
        EventKind::Restart { pop: PopId(0), clock_step: ClockOffset::None, forgets: false };
    assert_eq!(scenario.events[0].what, restart);
    assert_eq!(scenario.expect[0].text(), "ping.p50_ms < 1");
}

#[test]
fn a_case_changes_what_it_sets_and_overrides_go_over_it() {
    let text = base(
        "[[case]]\nname = 'lossy'\nset = { 'link.loss_pct' = 20, link.rtt_ms = 50 }\n\
         expect = ['packets > 0']\n[[case]]\nname = 'other'\ntitle = 'O'\n",
    )
    .replace("seconds = 60", "seconds = 60\nexpect = ['violations = 0']");
    let over = [Override::parse("link.loss_pct=30").unwrap()];
    let lossy = parse("test", Some("lossy"), &text, &over).unwrap();
    assert_eq!(lossy.full_name(), "test/lossy");
    assert_eq!(lossy.links[0].forth.loss, Loss::Bernoulli { average: 0.3 });
    assert_eq!((lossy.links[0].rtt, lossy.expect[0].text()), (50 * MS, "packets > 0"));
    let other = parse("test", Some("other"), &text, &[]).unwrap();
    assert_eq!((other.title.as_str(), other.links[0].rtt), ("O", 100 * MS));
    assert_eq!(other.expect[0].text(), "violations = 0", "the file's, if it has none");
    let error = parse("test", Some("none"), &text, &[]).unwrap_err();
    assert_eq!(error.to_string(), "test has no case \"none\": name one of lossy, other");
}

#[test]
fn files_are_loaded_by_their_path() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios");
    let scenario = load(&format!("{dir}/ocean.toml/loss-20"), &[]).unwrap();
    assert_eq!(scenario, load("ocean/loss-20", &[]).unwrap());
    let error = load("nowhere/at-all.toml", &[]).unwrap_err().to_string();
    assert!(error.starts_with("nowhere/at-all.toml: "), "{error}");
    let error = load("ocaen", &[]).unwrap_err().to_string();
    assert!(error.starts_with("there is no scenario \"ocaen\": name one of ack-loss, "), "{error}");
}

#[test]
fn errors_name_the_key_and_the_remedy() {
    let named =
        |more: &str| format!("{HEAD}[[pop]]\nname = 'a-b'\n[[pop]]\nname = 'b-b'\n{more}\n{PING}");
    let cases = [
        (base("x"), "test, line 13: this is not TOML"),
        (base("bytes = 3"), "workload.ping.bytes: a request has no such key: leave it out"),
        (base("lost = 3"), "workload.ping: unknown field `lost`, expected one of `kind`, `from`"),
        (base("kind = 'r'"), "line 13: this is not TOML: duplicate key"),
        (
            base("[link.forth]\nloss_pct = 101"),
            "link.forth.loss_pct: found 101, give 0 to 100 percent",
        ),
        (
            base("[link.forth]\nrtt_ms = 'x'"),
            "link.forth.rtt_ms: invalid type: string \"x\", expected f64",
        ),
        (base("[link.forth.back]"), "link.forth: this is one direction: it has no forth and back"),
        (
            base("[link.forth]\njitter_ms = 51"),
            "link.forth: jitter of ± 51ms exceeds the delay of 50ms",
        ),
        (base("[link.forth]\nloss_pct = 90\nburst = 2"), "give a mean burst of at least 9.00"),
        (
            base("[link.forth]\nburst = 0.5"),
            "link.forth.burst: found 0.5, give 1 to 1000000 packets, or 0",
        ),
        (
            base("[link.forth]\nburst = 2\nburst_ms = 2"),
            "link.forth: give one of burst and burst_ms",
        ),
        (
            base("[link.forth]\nqueue_ms = 2\nqueue_kib = 2"),
            "give one of queue_bdp, queue_ms and queue_kib",
        ),
        (base("[link.forth]\nreorder_pct = 2"), "link.forth.reorder_ms: say how much later"),
        (
            base("[link.forth]\nmtu = 100"),
            "link.forth.mtu: found 100, give 576 to 65535 bytes of an IP packet",
        ),
        (base("[link.forth]\nrate_mbps = nan"), "link.forth.rate_mbps: found NaN, give 0.001 to"),
        (
            base("[links.a-c]"),
            "links.a-c: \"a-c\" names no two PoPs: write A-B with names of [[pop]]",
        ),
        (base("[links.a-a]"), "links.a-a: \"a-a\" joins a PoP with itself: name two"),
        (
            base("[links.a-b]\n[links.b-a]"),
            "links.b-a: links.a-b is the same link: keep one of them",
        ),
        (
            named("[links.a-b-b]"),
            "links.a-b-b: \"a-b-b\" can be read as more than one pair of PoPs",
        ),
        (named(""), "links: say which PoPs are linked, with a table [links.A-B] for each pair"),
        (
            named("[links.a-b]\n[links.a-b-b-b]\n")
                .replace("[workload.ping]", "[workload.ping]\nto = 'b-b'"),
            "workload.ping.to: no links lead from a to b-b: add some",
        ),
        (
            named("[links.a-b]\nmark_ms = 1\n"),
            "links.a-b: marking without a rate has nothing to wait for: give rate_mbps",
        ),
        (
            base("").replace("rtt_ms = 100\n", ""),
            "link: without a round trip a queue in BDP holds nothing: give rtt_ms, or queue_ms",
        ),
        (base("to = 'c'"), "workload.ping.to: there is no PoP \"c\": name one of a, b"),
        (
            base("request_bytes = 7"),
            "workload.ping.request_bytes: found 7, give 8 to 16777216 bytes",
        ),
        (
            base("connections = -1"),
            "workload.ping.connections: invalid value: integer `-1`, expected u64",
        ),
        (base("every_ms = 1"), "workload.ping.until_s: say when the last is opened"),
        (base("until_s = 1"), "workload.ping.until_s: it ends every_ms: give both or neither"),
        (
            base("every_ms = 1\nuntil_s = 1\nconnections = 2"),
            "workload.ping.connections: every_ms opens them",
        ),
        (
            base("every_ms = 1\nuntil_s = 101"),
            "workload.ping.every_ms: that makes over 100000 connections",
        ),
        (
            base("every_ms = 1\nuntil_s = 1\nstart_s = 2"),
            "workload.ping.until_s: it lies before start_s",
        ),
        (
            base("origin = 'refuse'\norigin_read_kbps = 1"),
            "workload.ping.origin_read_kbps: the origin refuses",
        ),
        (
            base("[workload.x]\nkind = 'download'"),
            "workload.x: say how much is sent: one of bytes and for_s",
        ),
        (
            base("[workload.x]\nkind = 'upload'\nbytes = 1\nhalf_close = true"),
            "workload.x.half_close: an upload has",
        ),
        (
            base("[workload.'x y']\nkind = 'request'"),
            "workload.x y: name it with 1 to 64 characters",
        ),
        (
            base("[workload.x]\nkind = 'other'"),
            "workload.x.kind: unknown variant `other`, expected one of `request`",
        ),
        (base("[[event]]\nat_s = 1"), "event.0: nothing happens: give one of set, restore, clog"),
        (base("[[event]]\nheal = true"), "event.0: missing field `at_s`"),
        (
            base("[[event]]\nat_s = 1\nheal = false"),
            "event.0.heal: write true, or leave the event out",
        ),
        (
            base("[[event]]\nat_s = 1\nheal = true\ncut = true"),
            "event.0: it does cut and heal: make an event of each",
        ),
        (
            base("[[event]]\nat_s = 1\nheal = true\nlink = 'a-b'"),
            "event.0.link: heal is about no link: leave it out",
        ),
        (
            base("[[event]]\nat_s = 1\ncut = true\nlink = 'x'"),
            "event.0.link: \"x\" names no two PoPs",
        ),
        (
            base("[[event]]\nat_s = 1\ncrash = 'x'"),
            "event.0.crash: there is no PoP \"x\": name one of a, b",
        ),
        (
            base("[[event]]\nat_s = 1\ncrash = 'a'\nclock_step_s = 1"),
            "event.0.clock_step_s: only restart steps a clock",
        ),
        (base("[[event]]\nat_s = 1\ncrash = 'a'\nuntil_s = 3"), "event.0.until_s: it ends every_s"),
        (
            base("[[event]]\nat_s = 1\ncrash = 'a'\nevery_s = 0.001"),
            "event.0.every_s: with it there are over 10000 events",
        ),
        (
            base("[[event]]\nat_s = 1\nset = { los = 1 }"),
            "event.0.set: unknown field `los`, expected one of `rtt_ms`",
        ),
        (
            base("[[event]]\nat_s = 1\nset = { jitter_ms = 60 }"),
            "event.0: jitter of ± 60ms exceeds the delay",
        ),
        (
            base("[[event]]\nat_s = 1\nset = { forth.mtu = 1500 }"),
            "event.0.set: say direction = \"forth\" or \"back\"",
        ),
        (
            base("[[event]]\nat_s = 1\npartition = [['a', 'b']]"),
            "event.0.partition: one group is no partition",
        ),
        (base("[[event]]\nat_s = 1\npartition = [['a'], []]"), "event.0.partition: b is missing"),
        (
            base("[[event]]\nat_s = 1\npartition = [['a'], ['b', 'a']]"),
            "event.0.partition: a is named twice",
        ),
        (base("[config.listen]"), "config.listen: the simulator writes this one: leave it out"),
        (base("[[pop]]\nname = 'a'"), "pop.2.name: there are two PoPs \"a\": rename one"),
        (base("[[pop]]\nname = '>'"), "pop.2.name: found \">\", give 1 to 64 characters of A-Z"),
        (
            base("[[pop]]\nname = 'c'\nclock_offset_s = inf"),
            "pop.2.clock_offset_s: found inf, give -1000000000 to",
        ),
        (
            base("[[pop]]\nname = 'c'\nnat = true\n[links.a-c]\n")
                .replace("name = 'a'", "name = 'a'\nnat = true"),
            "links.a-c: both ends are behind a NAT",
        ),
        (base("[[case]]\nname = 'x'\nset = { 'a b' = 1 }"), "case.0.set: \"a b\" is no key"),
        (
            base("[[case]]\nname = 'x'\n[[case]]\nname = 'x'"),
            "case.1.name: there are two cases \"x\": rename one",
        ),
        (base("").replace("60", "0.5"), "seconds: found 0.5, give 1 to 86400 seconds"),
        (base("").replace("'T'", "\"a\\nb\""), "title: give one line of text"),
        (base("").replace("'A'", "''"), "about: say what the scenario shows"),
        (HEAD.to_owned(), "workload: there is no traffic: add a table [workload.NAME]"),
        ("about = ''".to_owned(), "the file: missing field `title`"),
        ("x".repeat(1 << 19), "line 1: found 524288 bytes, give at most 262144"),
    ];
    for (text, wanted) in cases {
        let error = try_read(&text, &[]).expect_err(wanted).to_string();
        assert!(error.contains(wanted), "wanted: {wanted}\nfound:  {error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn overrides_that_do_not_fit_are_told() {
    for (over, wanted) in [
        ("seconds", "--set seconds: there is no \"=\": write KEY=VALUE"),
        ("a b=1", "--set a b=1: \"a b\" is no key"),
        ("a..b=1", "\"a..b\" is no key"),
        ("a.b.c.d.e.f.g.h.i=1", "is no key: join up to 8 names"),
        ("case.0.name=x", "a case cannot be changed"),
        (
            "pop.c.nat=true",
            "--set pop.c.nat=true: there is no pop \"c\": there are 2, counted from 0",
        ),
        ("pop.2.nat=true", "there is no pop \"2\""),
        ("title.x=1", "--set title.x=1: title is a single value, there is no \"x\" in it"),
        ("secnds=1", "test: the file: unknown field `secnds`, expected one of"),
        ("link.los=1", "test: link: unknown field `los`, expected one of"),
        ("link.loss_pct=much", "test: link.loss_pct: invalid type: string \"much\", expected f64"),
        ("workload.x.count=1", "test: workload.x: missing field `kind`"),
        ("link=3", "test: link: invalid type: integer `3`, expected a map"),
    ] {
        let error = try_read(&base(""), &[over]).expect_err(over).to_string();
        assert!(error.contains(wanted), "wanted: {wanted}\nfound:  {error}");
    }
}

/// With workloads `ping` and `bulk`, and these expectations.
fn expecting(expect: &str) -> Result<Scenario, ScenarioError> {
    try_read(
        &base("[workload.bulk]\nkind = 'download'\nbytes = 1\n"),
        &[&format!("expect={expect}")],
    )
}

#[test]
fn workloads_lead_over_several_links_or_none() {
    let text = "title = 'T'\nabout = 'A'\nseconds = 60\npops = 4\n[link]\nrtt_ms = 20\n\
                [links.n0-n1]\n[links.n1-n2]\n[links.n0-n2]\nrtt_ms = 50\n[links.n2-n3]\n\
                [workload.far]\nkind = 'request'\nto = 'n3'\n\
                [workload.self]\nkind = 'request'\nfrom = 'n1'\nto = 'n1'\n";
    let scenario = with(text, &["expect=['far.p99_over_rtt_ms < 5']"]);
    let [far, own] = scenario.workloads.as_slice() else { panic!() };
    // By name: n0-n1, n0-n2, n1-n2, n2-n3.
    assert_eq!((&far.path.links[..], far.path.rtt), (&[0, 2, 3].map(LinkId)[..], 60 * MS));
    assert_eq!(own.path, Path::default());
}

#[test]
fn a_mesh_by_chance_is_connected_and_the_same_each_time() {
    let text = "title = 'T'\nabout = 'A'\nseconds = 60\npops = 50\n\
                [mesh]\ndegree = 4\nrtt_ms = [10, 200]\n[links.n0-n1]\nrtt_ms = 5\n";
    let text = format!("{text}{PING}to = 'n49'\n");
    let scenario = read(&text);
    assert_eq!(scenario, read(&text));
    assert_ne!(scenario.links, with(&text, &["mesh.seed=2"]).links);
    assert!((98..=101).contains(&scenario.links.len()), "{}", scenario.links.len());
    for pop in 0..50 {
        let of = |link: &&LinkSpec| link.ends.0 == PopId(pop) || link.ends.1 == PopId(pop);
        let degree = scenario.links.iter().filter(of).count();
        assert!((2..=5).contains(&degree), "n{pop} has {degree} links");
        assert!(paths::shortest(&scenario.links, PopId(0), PopId(pop)).is_some(), "n{pop}");
    }
    let own = |link: &&LinkSpec| link.ends == (PopId(0), PopId(1));
    let own = scenario.links.iter().find(own).unwrap();
    assert_eq!(own.rtt, 5 * MS);
    let drawn = |link: &&LinkSpec| (10 * MS..=200 * MS).contains(&link.rtt);
    assert_eq!(scenario.links.iter().filter(drawn).count(), scenario.links.len() - 1);
    for (over, wanted) in [
        ("mesh.degree=50", "mesh.degree: found 50, give 1 to 49 links of each PoP"),
        ("mesh.rtt_ms=[3, 2]", "mesh.rtt_ms: found 3, give 0 to 2 milliseconds"),
        ("pops=65", "pops: found 65, give 2 to 64 PoPs"),
        ("quiet_s=-1", "quiet_s: found -1, give 0 to 86400 seconds"),
    ] {
        let error = try_read(&text, &[over]).expect_err(over).to_string();
        assert!(error.contains(wanted), "wanted: {wanted}\nfound:  {error}");
    }
    let both = format!("{text}[[pop]]\nname = 'a'\n");
    let error = try_read(&both, &[]).expect_err("both").to_string();
    assert!(error.contains("pops: give one of pops and [[pop]]"), "{error}");
}

#[test]
fn expectations_of_what_the_scenario_does_not_have_are_told() {
    for (expect, wanted) in [
        ("ping.p50_ms", "expect.0: \"ping.p50_ms\" is no expectation: write METRIC OP VALUE"),
        ("ping.p50_ms<3", "is no expectation"),
        ("ping.p50_ms == 3", "is no expectation"),
        ("ping.p50_ms < x", "the value of ping.p50_ms is a number, write one"),
        ("ping.p50_ms < nan", "the value of ping.p50_ms is a number"),
        ("pong.p50_ms < 1", "pong.p50_ms: there is no workload \"pong\": name one of bulk, ping"),
        ("ping.p51_ms < 1", "p51_ms: a workload has connections, completed"),
        ("bulk.p50_ms < 1", "p50_ms: bulk makes no requests, so that it has no latency"),
        ("goodput_mbps > 1", "several workloads have it: write bulk.goodput_mbps or ping.goodput"),
        ("goodput > 1", "goodput: the run has no such metric: it has completed_pct, violations"),
        ("delivered = 1", "write delivered = \"exact\", or != \"exact\""),
        ("delivered > \"exact\"", "write delivered = \"exact\""),
        ("links.a>c.lost = 0", "links.a>c.lost: there is no \"a>c\": name one of a>b, b>a"),
        ("links.a>b.last = 0", "links.a>b.last: nothing counts \"last\": clog_dropped, corrupted"),
        (
            "tunnels.a>b.lost = 0",
            "tunnels.a>b.lost: nothing counts \"lost\": black_holes, bytes_out",
        ),
        ("nodes.c.marked = 0", "nodes.c.marked: there is no PoP \"c\""),
        ("nodes.lost = 0", "nodes.lost: nothing counts \"lost\": dropped_full, dropped_hops"),
        ("nodes.a.wait_p99_us_after.3 = 0", "wait_p99_us is no count: leave _after out"),
        ("nodes.a.marked_after.61 = 0", "\"61\" is no time: give seconds, at most 60"),
        ("routes.a>c.changes = 0", "routes.a>c.changes: write routes.A>B. with names of two PoPs"),
        ("routes.a>a.changes = 0", "routes.a>a.changes: write routes.A>B. with names"),
        ("routes.a>b.length = 0", "routes.a>b.length: a route has at.SECONDS, changes"),
        ("routes.a>b.at.x = a>b", "\"x\" is no time"),
        ("routes.a>b.at.3 = b>a", "routes.a>b.at.3: \"b>a\" is no way between the two"),
        ("routes.a>b.at.3 < a>b", "write routes.a>b.at.3 = \"A>B\", or !="),
    ] {
        let error = expecting(&format!("['{expect}']")).expect_err(expect).to_string();
        assert!(error.contains(wanted), "wanted: {wanted}\nfound:  {error}");
    }
}

fn outcome() -> Outcome {
    let latency = Latency {
        min_ms: 100.0,
        p50_ms: 101.5,
        p95_ms: 110.0,
        p99_ms: 140.0,
        p999_ms: 150.0,
        max_ms: 200.0,
    };
    let ping = WorkloadOutcome {
        connections: 4,
        completed: 3,
        reset: 1,
        exchanges: 40,
        goodput_mbps: 0.25,
        longest_gap_ms: 12.0,
        latency: Some(latency),
        ..WorkloadOutcome::default()
    };
    let bulk = WorkloadOutcome {
        connections: 4,
        completed: 4,
        bytes_down: 9,
        ..WorkloadOutcome::default()
    };
    let lossy = LinkCounters { lost: 7, ..LinkCounters::default() };
    let relay = NodeOutcome { dropped_full: 5, wait_max_us: 9, ..NodeOutcome::default() };
    let before = NodeOutcome { dropped_full: 4, ..relay };
    let ways = [(0.5, "a>b"), (3.0, "none"), (4.0, "a>b")].map(|(at, way)| (at, way.to_owned()));
    Outcome {
        scenario: "test".to_owned(),
        seed: 1,
        trace_hash: String::new(),
        seconds: 12.0,
        packets: 1_000,
        unfinished: Vec::new(),
        violations: Vec::new(),
        workloads: BTreeMap::from([("ping".to_owned(), ping), ("bulk".to_owned(), bulk)]),
        links: BTreeMap::from([("a>b".to_owned(), lossy)]),
        queues: BTreeMap::new(),
        wire_per_byte: Some(1.25),
        tunnels: BTreeMap::new(),
        nodes: BTreeMap::from([("a".to_owned(), relay), ("b".to_owned(), relay)]),
        nodes_at: BTreeMap::from([(2_500, BTreeMap::from([("a".to_owned(), before)]))]),
        routes: BTreeMap::from([("a>b".to_owned(), ways.to_vec())]),
        converged_s: Some(1.5),
        quiet_kbps: None,
        expectations: Vec::new(),
        series: None,
    }
}

#[test]
fn expectations_are_held_against_the_outcome() {
    for (expect, found, held) in [
        ("delivered = \"exact\"", "exact", true),
        ("delivered != exact", "exact", false),
        ("completed_pct >= 87.5", "87.5", true),
        ("wire_per_byte <= 1.2", "1.25", false),
        ("ping.completed_pct < 75", "75", false),
        ("bulk.bytes_down = 9", "9", true),
        ("bulk.bytes_down != 9", "9", false),
        ("ping.p50_over_rtt_ms <= 1.5", "1.5", true),
        ("p99_over_rtt_ms < 40", "40", false),
        ("p999_ms > 149", "150", true),
        ("ping.longest_gap_ms <= 12", "12", true),
        ("links.a>b.lost > 6", "7", true),
        ("links.b>a.lost = 0", "absent", false),
        ("tunnels.a>b.handshakes != 3", "absent", false),
        ("packets > 1000", "1000", false),
        ("seconds <= 12", "12", true),
        ("violations = 0", "0", true),
        ("converged_s < 2", "1.5", true),
        ("quiet_kbps < 2", "absent", false),
        ("nodes.dropped_full = 10", "10", true),
        ("nodes.wait_max_us = 9", "9", true),
        ("nodes.a.dropped_full <= 4", "5", false),
        ("nodes.a.dropped_full_after.2.5 <= 1", "1", true),
        ("nodes.a.dropped_full_after.3 <= 1", "absent", false),
        ("routes.a>b.changes = 2", "2", true),
        ("routes.a>b.changes_after.3.5 > 1", "1", false),
        ("routes.b>a.changes = 0", "absent", false),
        ("routes.a>b.at.0.5 = \"a>b\"", "a>b", true),
        ("routes.a>b.at.3.9 = \"none\"", "none", true),
        ("routes.a>b.at.0.4 != a>b", "none", true),
        ("routes.a>b.at.4 != a>b", "a>b", false),
    ] {
        let scenario = expecting(&format!("['{expect}']")).unwrap();
        let evaluated = evaluate(&scenario, &outcome());
        let [one] = evaluated.as_slice() else { panic!("{evaluated:?}") };
        assert_eq!((one.text.as_str(), one.found.as_str(), one.held), (expect, found, held));
    }
}

#[test]
fn delivery_is_exact_only_if_every_connection_ended_and_nothing_was_violated() {
    let scenario = expecting("['delivered = \"exact\"', 'delivered != \"exact\"']").unwrap();
    let mut open = outcome();
    open.workloads.get_mut("ping").unwrap().connections = 6;
    let mut violated = outcome();
    violated.violations.push("a byte too many".to_owned());
    let mut absent = outcome();
    absent.workloads.remove("bulk");
    for (outcome, found) in
        [(open, "ping: 2 of 6 did not end"), (violated, "1 violations"), (absent, "bulk is absent")]
    {
        let evaluated = evaluate(&scenario, &outcome);
        assert_eq!((evaluated[0].found.as_str(), evaluated[0].held), (found, false));
        assert!(evaluated[1].held);
    }
}

#[test]
fn clocks_are_stepped_both_ways() {
    let scenario = read(
        &base("[[event]]\nat_s = 1\nrestart = 'b'\nclock_step_s = -1.5\n")
            .replace("name = 'a'", "name = 'a'\nclock_offset_s = 2"),
    );
    assert_eq!(scenario.pops[0].clock_offset, ClockOffset::Ahead(2 * SECOND));
    let EventKind::Restart { clock_step, .. } = scenario.events[0].what else { panic!() };
    assert_eq!(clock_step, ClockOffset::Behind(1_500 * MS));
}
