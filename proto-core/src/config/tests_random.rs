//! Whatever a file holds, reading it neither panics nor shows a secret.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::tests::{EXAMPLE, KEY_A, KEY_B, TOKEN, good, two_peers};
use super::*;

/// The example with secrets of its own, every optional key switched on.
fn full_example() -> String {
    EXAMPLE
        .replace("\n#", "\n")
        .lines()
        .filter(|line| line.contains(" = ") || line.starts_with('['))
        .filter(|line| !line.starts_with(' '))
        .flat_map(|line| [line, "\n"])
        .collect::<String>()
        .replace("dGhpcyBpcyBvbmx5IGFuIGV4YW1wbGUsIG5vIGtleSE=", KEY_A)
        .replace("YW5vdGhlciBleGFtcGxlIG9mIGEga2V5LCBub25lISE=", KEY_B)
        .replace("example-token-change-me", TOKEN)
}

#[test]
fn the_full_example_has_its_secrets() {
    let text = full_example();
    let config = good(&text);
    assert_eq!(config.listen.admin_token.as_ref().unwrap().expose(), TOKEN);
    assert!(config.peers[0].next_shared_key.is_some());
}

#[derive(Debug, Clone)]
enum Mutation {
    Remove(usize, usize),
    Insert(usize, String),
    SwapLines(usize, usize),
    RepeatLine(usize, usize),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let piece = prop_oneof![
        prop::sample::select(vec![
            "\"", "'", "\"\"\"", "'''", "=", "[", "]", "{", "}", "\n", ".", ",", "#", "\\", "0",
            "-", " "
        ])
        .prop_map(str::to_owned),
        any::<char>().prop_map(String::from),
        prop::sample::select(keys::all().collect::<Vec<_>>()).prop_map(str::to_owned),
    ];
    let at = any::<usize>;
    prop_oneof![
        (at(), 0..20usize).prop_map(|(at, n)| Mutation::Remove(at, n)),
        (at(), piece).prop_map(|(at, text)| Mutation::Insert(at, text)),
        (at(), at()).prop_map(|(a, b)| Mutation::SwapLines(a, b)),
        (at(), at()).prop_map(|(a, b)| Mutation::RepeatLine(a, b)),
    ]
}

fn mutate(text: &str, mutation: &Mutation) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
    match mutation {
        Mutation::Remove(at, n) => {
            // Not across lines: no reader can know that a secret welded to another value is one.
            let at = at % chars.len().max(1);
            let line = chars.iter().skip(at).take_while(|c| **c != '\n').count();
            chars.drain(at..at + (*n).min(line));
            chars.into_iter().collect()
        }
        Mutation::Insert(at, piece) => {
            let at = at % (chars.len() + 1);
            chars.splice(at..at, piece.chars());
            chars.into_iter().collect()
        }
        Mutation::SwapLines(a, b) if !lines.is_empty() => {
            let len = lines.len();
            lines.swap(a % len, b % len);
            lines.concat()
        }
        Mutation::RepeatLine(a, b) if !lines.is_empty() => {
            let len = lines.len();
            lines.insert(b % len, lines[a % len]);
            lines.concat()
        }
        _ => text.to_owned(),
    }
}

/// Nothing that can be printed has a secret, or enough of one to be useful.
fn keeps_secrets(bytes: &[u8]) {
    let printed = match Config::parse("config.toml", bytes) {
        Ok(config) => format!("{config:?}{}{:?}", config.summary(), config.notices()),
        Err(errors) => {
            assert!(!errors.errors().is_empty() && errors.errors().len() <= MAX_ERRORS);
            let last = bytes.iter().filter(|b| **b == b'\n').count() + 1;
            for error in errors.errors() {
                assert_eq!(error.to_string().lines().count(), 1);
                assert!((1..=last).contains(&error.line));
            }
            format!("{errors}{errors:?}")
        }
    };
    for secret in [&KEY_A[..20], &KEY_B[..20], TOKEN] {
        assert!(!printed.contains(secret), "{printed}");
    }
}

#[test]
fn no_single_slip_shows_a_secret() {
    let text = full_example();
    for at in 0..text.len() {
        let (before, after) = text.split_at(at);
        keeps_secrets(format!("{before}{}", &after[1..]).as_bytes());
        keeps_secrets(before.as_bytes());
        let slips =
            ["\"", "'", "\"\"\"", "'''", "=", "[", "]", "{", "}", "\n", ".", ",", "#", "\\"];
        for slip in slips {
            keeps_secrets(format!("{before}{slip}{after}").as_bytes());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        keeps_secrets(&bytes);
    }

    #[test]
    fn arbitrary_toml_characters_never_panic(text in "[\\[\\]{}=.,\"'#\\\\\na-c0-9 ]{0,200}") {
        keeps_secrets(text.as_bytes());
    }

    #[test]
    fn a_mutated_file_keeps_its_secrets(mutations in prop::collection::vec(mutation(), 1..8)) {
        let text = mutations.iter().fold(full_example(), |text, mutation| mutate(&text, mutation));
        keeps_secrets(text.as_bytes());
    }

    #[test]
    fn every_destination_is_taken_and_strangers_are_told(
        default in "[a-e]",
        dests in prop::collection::vec("[a-e]", 0..6),
    ) {
        let edges: String = dests
            .iter()
            .map(|dest| format!("[[edge]]\nlisten = \"0.0.0.0:0\"\ndest = \"{dest}\"\n"))
            .collect();
        let config = good(&two_peers(&format!("relay.default_dest = \"{default}\"\n{edges}")));
        let named: BTreeSet<_> = dests.iter().chain([&default]).map(String::as_str).collect();
        let notices = config.notices();
        // This PoP is `a`, its peers are `b` and `c`.
        for name in ["a", "b", "c", "d", "e"] {
            let start = format!("destination {name} is no peer");
            let told = notices.iter().filter(|n| n.as_str().starts_with(&start)).count();
            let is_stranger = ["d", "e"].contains(&name) && named.contains(name);
            prop_assert_eq!(told, usize::from(is_stranger), "{}: {:?}", name, notices);
        }
    }

    #[test]
    fn hosts_are_shown_as_they_are_read(text in "[a-z0-9.:\\[\\]-]{1,20}") {
        if let Ok(host) = text.parse::<HostPort>() {
            prop_assert_eq!(host.to_string().parse::<HostPort>(), Ok(host));
        }
    }
}
