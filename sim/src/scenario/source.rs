//! From a name or a file to a scenario.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use entrouter_proto::ids::NodeId;
use toml::{Table, Value};

use super::builtin::BUILTIN;
use super::connectors;
use super::error::{Problem, ScenarioError};
use super::events::events;
use super::expect::Expectation;
use super::links::links;
use super::overrides::{Override, put};
use super::raw::{RawCase, RawPop, RawScenario, read};
use super::syntax::{self, MAX_TEXT};
use super::values::At;
use super::workloads::workloads;
use super::{ClockOffset, MAX_POPS, Pop, RESERVED_CONFIG, Scenario, mesh};

/// A built-in scenario, or a case of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// As [`load`] takes it.
    pub name: String,
    /// One line.
    pub title: String,
}

/// All built-in scenarios, each followed by its cases.
#[must_use]
pub fn names() -> Vec<Listing> {
    let mut listings = Vec::new();
    for (name, text) in BUILTIN {
        let file = ScenarioFile::new(name, text).expect("built in and tested");
        let title = file.root.get("title").and_then(Value::as_str).unwrap_or_default();
        listings.push(Listing { name: (*name).to_owned(), title: title.to_owned() });
        for case in &file.cases {
            listings.push(Listing { name: format!("{name}/{}", case.name), title: case.title() });
        }
    }
    listings
}

/// What [`load`] takes for the scenario called `name` (or in the file `path.toml`) and for each of its
/// cases; for a case, that case alone.
///
/// # Errors
/// There is none of that name, or its file cannot be read.
pub fn cases(name: &str) -> Result<Vec<String>, ScenarioError> {
    let scenario = load(name, &[])?;
    if scenario.case.is_some() {
        return Ok(vec![name.to_owned()]);
    }
    let text = match BUILTIN.iter().find(|(known, _)| *known == name) {
        Some((_, text)) => (*text).to_owned(),
        None => read_file(name)?,
    };
    let cases = ScenarioFile::new(name, &text)?.cases;
    let cases = cases.into_iter().map(|case| format!("{name}/{}", case.name));
    Ok(std::iter::once(name.to_owned()).chain(cases).collect())
}

/// The scenario called `name`, or the case `name/case`, or the one in the file `path.toml`, or the
/// case `path.toml/case` of it; with `overrides`, of which later ones win.
///
/// # Errors
/// There is none of that name, its file cannot be read, or something in it cannot be.
pub fn load(name: &str, overrides: &[Override]) -> Result<Scenario, ScenarioError> {
    const FILE: &str = ".toml";
    let (path, case) = match name.rsplit_once(".toml/") {
        Some((path, case)) => (Some(format!("{path}{FILE}")), Some(case)),
        None => (name.ends_with(FILE).then(|| name.to_owned()), None),
    };
    if let Some(path) = path {
        let text = read_file(&path)?;
        let stem = Path::new(&path).file_stem().unwrap_or_default();
        return parse(&stem.to_string_lossy(), case, &text, overrides);
    }
    let (name, case) = match name.split_once('/') {
        Some((name, case)) => (name, Some(case)),
        None => (name, None),
    };
    let Some((_, text)) = BUILTIN.iter().find(|(known, _)| *known == name) else {
        let known = BUILTIN.iter().map(|(known, _)| *known).collect();
        return Err(ScenarioError::Unknown { name: name.to_owned(), known });
    };
    parse(name, case, text, overrides)
}

fn read_file(path: &str) -> Result<String, ScenarioError> {
    let unreadable = |problem: String| ScenarioError::Unreadable { path: path.to_owned(), problem };
    let file = File::open(path).map_err(|error| unreadable(error.to_string()))?;
    let mut bytes = Vec::new();
    // One byte more than is allowed, so that a longer file is told from one that just fits.
    let read = file.take(MAX_TEXT as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| unreadable(error.to_string()))?;
    String::from_utf8(bytes).map_err(|_| unreadable("it is not UTF-8: save it as such".to_owned()))
}

/// The scenario, or the case of it, that `text` describes; `name` is what it is called.
///
/// # Errors
/// `text` is not TOML or not a scenario, there is no such case, or an override does not fit.
pub fn parse(
    name: &str,
    case: Option<&str>,
    text: &str,
    overrides: &[Override],
) -> Result<Scenario, ScenarioError> {
    let ScenarioFile { mut root, cases } = ScenarioFile::new(name, text)?;
    let full_name = match case {
        Some(case) => format!("{name}/{case}"),
        None => name.to_owned(),
    };
    let invalid = |problem| ScenarioError::Invalid { scenario: full_name.clone(), problem };
    let mut untitled = None;
    if let Some(case) = case {
        let known = || cases.iter().map(|case| case.name.clone()).collect();
        let found = cases.iter().find(|known| known.name == case).ok_or_else(|| {
            ScenarioError::UnknownCase {
                scenario: name.to_owned(),
                case: case.to_owned(),
                known: known(),
            }
        })?;
        found.apply(&mut root).map_err(invalid)?;
        // One with a title of its own has put it in place of the file's.
        untitled = found.title.is_none().then(|| found.title());
    }
    for over in overrides {
        over.apply(&mut root)?;
    }
    let mut scenario = build(root).map_err(invalid)?;
    scenario.name = name.to_owned();
    if let Some(title) = untitled {
        scenario.title = format!("{}: {title}", scenario.title);
    }
    scenario.case = case.map(str::to_owned);
    Ok(scenario)
}

/// A file of which only the cases are read.
#[derive(Debug)]
struct ScenarioFile {
    /// Without the cases.
    root: Table,
    cases: Vec<Case>,
}

#[derive(Debug)]
struct Case {
    /// Its place in the file.
    number: usize,
    name: String,
    title: Option<String>,
    set: Vec<Override>,
    expect: Option<Vec<String>>,
}

impl ScenarioFile {
    fn new(name: &str, text: &str) -> Result<Self, ScenarioError> {
        let mut root = syntax::parse(text).map_err(|(line, problem)| ScenarioError::Syntax {
            scenario: name.to_owned(),
            line,
            problem,
        })?;
        let cases = read_cases(root.remove("case"))
            .map_err(|problem| ScenarioError::Invalid { scenario: name.to_owned(), problem })?;
        Ok(Self { root, cases })
    }
}

fn read_cases(value: Option<Value>) -> Result<Vec<Case>, Problem> {
    let tables: Vec<Table> = match value {
        None => Vec::new(),
        Some(value) => value
            .try_into()
            .map_err(|_| Problem::new("case", "write each case as a table: [[case]]"))?,
    };
    let mut known = BTreeSet::new();
    let mut cases = Vec::new();
    for (number, table) in tables.into_iter().enumerate() {
        let key = format!("case.{number}");
        let RawCase { name, title, set, expect } = read(&key, table)?;
        let at = At(&key);
        if NodeId::new(&name).is_err() {
            return Err(at.problem("name", format!("found \"{name}\", give {NAME}")));
        }
        if !known.insert(name.clone()) {
            let problem = format!("there are two cases \"{name}\": rename one");
            return Err(at.problem("name", problem));
        }
        let set = set
            .into_iter()
            .map(|(key, value)| Override::new(&key, value))
            .collect::<Result<_, _>>()
            .map_err(|problem| at.problem("set", problem))?;
        cases.push(Case { number, name, title, set, expect });
    }
    Ok(cases)
}

pub(super) const NAME: &str = "1 to 64 characters of A-Z a-z 0-9 . _ -";

impl Case {
    /// Its own, or what it sets.
    fn title(&self) -> String {
        self.title.clone().unwrap_or_else(|| {
            self.set.iter().map(Override::leaves).collect::<Vec<_>>().concat().join(", ")
        })
    }

    fn apply(&self, root: &mut Table) -> Result<(), Problem> {
        for over in &self.set {
            put(root, over)
                .map_err(|problem| Problem::new(format!("case.{}.set", self.number), problem))?;
        }
        if let Some(expect) = &self.expect {
            let expect = expect.iter().cloned().map(Value::String).collect();
            root.insert("expect".to_owned(), Value::Array(expect));
        }
        if let Some(title) = &self.title {
            root.insert("title".to_owned(), Value::String(title.clone()));
        }
        Ok(())
    }
}

fn build(root: Table) -> Result<Scenario, Problem> {
    let raw: RawScenario = read("", root)?;
    let at = At("");
    if raw.title.trim().is_empty() || raw.title.contains(char::is_control) {
        return Err(at.problem("title", "give one line of text"));
    }
    if raw.about.trim().is_empty() {
        return Err(at.problem("about", "say what the scenario shows"));
    }
    let ends_at = at.seconds("seconds", raw.seconds, 1.0..=86_400.0)?;
    let quiet = at.seconds("quiet_s", raw.quiet_s, 0.0..=86_400.0)?;
    let mut pops = pops(
        match raw.pops {
            None => raw.pop,
            Some(count) if raw.pop.is_empty() => mesh::numbered(count)?,
            Some(_) => return Err(at.problem("pops", "give one of pops and [[pop]]")),
        },
        raw.connector.len(),
    )?;
    config(at, &raw.config)?;
    let named = match raw.mesh {
        None => raw.links,
        Some(mesh) => {
            let mut named = raw.links.unwrap_or_default();
            mesh::link_up(&pops, mesh, &mut named)?;
            Some(named)
        }
    };
    connectors::add(&mut pops, raw.connector)?;
    let links = links(&pops, raw.link, named)?;
    let specs = links.specs();
    connectors::check_links(&pops, &specs)?;
    let workloads = workloads(&pops, &specs, raw.workload)?;
    connectors::check_workloads(&pops, &workloads)?;
    let events = events(&pops, links, raw.event, ends_at)?;
    let mut scenario = Scenario {
        name: String::new(),
        case: None,
        title: raw.title,
        about: raw.about.trim().to_owned(),
        ends_at,
        quiet,
        pops,
        links: specs,
        config: raw.config,
        workloads,
        events,
        expect: Vec::new(),
    };
    for (n, text) in raw.expect.iter().enumerate() {
        let expectation = Expectation::parse(text, &scenario)
            .map_err(|problem| Problem::new(format!("expect.{n}"), problem))?;
        scenario.expect.push(expectation);
    }
    Ok(scenario)
}

/// Without connectors, which are counted.
fn pops(tables: Vec<Table>, connectors: usize) -> Result<Vec<Pop>, Problem> {
    let count = tables.len() + connectors;
    if !(2..=MAX_POPS).contains(&count) || tables.is_empty() {
        let with = if connectors > 0 { " and [[connector]] together" } else { "" };
        let problem = format!("found {count}, give 2 to {MAX_POPS} of [[pop]]{with}");
        return Err(Problem::new("pop", problem));
    }
    let mut pops: Vec<Pop> = Vec::new();
    for (n, table) in tables.into_iter().enumerate() {
        let key = format!("pop.{n}");
        let raw: RawPop = read(&key, table)?;
        let at = At(&key);
        let name = NodeId::new(&raw.name)
            .map_err(|_| at.problem("name", format!("found \"{}\", give {NAME}", raw.name)))?;
        if pops.iter().any(|pop| pop.name == name) {
            return Err(at.problem("name", format!("there are two PoPs \"{name}\": rename one")));
        }
        let clock_offset = ClockOffset::read(at, "clock_offset_s", raw.clock_offset_s)?;
        config(at, &raw.config)?;
        pops.push(Pop { name, nat: raw.nat, clock_offset, config: raw.config, connector: None });
    }
    Ok(pops)
}

fn config(at: At<'_>, config: &Table) -> Result<(), Problem> {
    match RESERVED_CONFIG.iter().find(|key| config.contains_key(**key)) {
        None => Ok(()),
        Some(key) => {
            Err(At(&at.key("config")).problem(key, "the simulator writes this one: leave it out"))
        }
    }
}
