//! Connectors in scenarios.

use std::time::Duration;

use super::*;

/// A PoP with a connector, another PoP, and a request from end to end; `more` comes behind.
fn text(more: &str) -> String {
    format!(
        "title = 'T'\nabout = 'A'\nseconds = 60\n[[pop]]\nname = 'a'\n[[pop]]\nname = 'b'\n\
         [[connector]]\nname = 'c'\nedge = 'a'\n[links.a-b]\nrtt_ms = 100\n[links.c-a]\nrtt_ms = 40\n\
         [workload.ping]\nkind = 'request'\nfrom = 'c'\nto = 'b'\n{more}"
    )
}

fn read(text: &str, set: &[&str]) -> Result<Scenario, ScenarioError> {
    let set: Vec<Override> =
        set.iter().map(|text| Override::parse(text)).collect::<Result<_, _>>()?;
    parse("test", None, text, &set)
}

#[test]
fn a_connector_comes_behind_the_pops_and_can_be_named_like_one() {
    let events = "[[event]]\nat_s = 1\nrebind_addr = 'c'\n[[event]]\nat_s = 2\nrestart = 'c'\n\
                  forgets = true\nclock_step_s = 1\n[[event]]\nat_s = 3\ncut = true\nlink = 'c-a'\n";
    let scenario = read(&text(events), &["connector.c.connections=3"]).unwrap();
    let c = scenario.pop("c").unwrap();
    assert_eq!(c, PopId(2));
    let connector = Connector { edge: PopId(0), connections: 3, early_data: true };
    assert_eq!(scenario.pops[2].connector, Some(connector));
    assert_eq!(scenario.workloads[0].path.rtt, Duration::from_millis(140));
    let clock_step = ClockOffset::Ahead(Duration::from_secs(1));
    let what: Vec<_> = scenario.events.iter().map(|event| event.what.clone()).collect();
    assert_eq!(
        what,
        [
            EventKind::Rebind { pop: c, what: RebindKind::Addr },
            EventKind::Restart { pop: c, clock_step, forgets: true },
            EventKind::Cut { link: LinkId(1), way: Way::Both, on: true },
        ]
    );
}

#[test]
fn one_pop_and_one_connector_need_no_more_than_a_link() {
    let text = "title = 'T'\nabout = 'A'\nseconds = 60\n[[pop]]\nname = 'a'\n[[connector]]\n\
                name = 'c'\nedge = 'a'\nearly_data = false\n[link]\nrtt_ms = 40\n\
                [workload.ping]\nkind = 'request'\nfrom = 'c'\nto = 'a'\n";
    let scenario = read(text, &[]).unwrap();
    assert_eq!(scenario.links[0].ends, (PopId(0), PopId(1)));
    assert!(!scenario.pops[1].connector.unwrap().early_data);
}

#[test]
fn what_a_connector_cannot_be_is_told() {
    let second = "[workload.more]\nkind = 'request'\nfrom = 'c'\nto = 'b'\n";
    let cases = [
        (
            text(""),
            "connector.c.edge=b",
            "connector.0.edge: link it with its edge and nothing else: keep only [links.c-b]",
        ),
        (
            text(""),
            "connector.c.edge=c",
            "connector.0.edge: there is no PoP \"c\": name one of a, b",
        ),
        (
            text(""),
            "connector.c.name=a",
            "connector.0.name: there is a PoP or connector \"a\": rename one",
        ),
        (
            text(""),
            "connector.c.connections=0",
            "connector.0.connections: found 0, give 1 to 10000 QUIC",
        ),
        (text(""), "connector.c.nat=true", "connector.0: unknown field `nat`"),
        (
            text("[links.c-b]\nrtt_ms = 1"),
            "seconds=9",
            "connector.0.edge: link it with its edge and nothing else",
        ),
        (text(second), "seconds=9", "workload.ping.from: c has one workload already"),
        (
            text(""),
            "workload.ping.to=c",
            "workload.ping.to: c is a connector, which has no origins",
        ),
        (
            text(""),
            "workload.ping.from=a",
            "connector.0.edge: no workload of a connector enters there",
        ),
        (
            text("[[event]]\nat_s = 1\nrestart = 'a'\nforgets = true"),
            "seconds=9",
            "event.0.forgets: a PoP keeps nothing, a connector does",
        ),
        (
            text("[[event]]\nat_s = 1\ncrash = 'c'\nforgets = true"),
            "seconds=9",
            "event.0.forgets: only who restarts forgets",
        ),
    ];
    for (text, set, expected) in cases {
        let error = read(&text, &[set]).unwrap_err().to_string();
        assert!(error.contains(expected), "{set}: {error}");
    }
}
