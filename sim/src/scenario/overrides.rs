//! `--set KEY=VALUE`, and what a case sets.

use std::fmt;

use toml::{Table, Value};

use super::error::ScenarioError;
use super::syntax;

/// A key of a scenario with another value.
#[derive(Debug, Clone, PartialEq)]
pub struct Override {
    path: Vec<String>,
    value: Value,
}

/// Deeper than any key of the format.
const MAX_PATH: usize = 8;

/// Of each of these a table can have one; setting one takes the others away.
const EXCLUSIVE: [&[&str]; 5] = [
    &["queue_bdp", "queue_ms", "queue_kib"],
    &["burst", "burst_ms"],
    &["bytes", "for_s"],
    &["pops", "pop"],
    &[
        "set",
        "restore",
        "clog",
        "cut",
        "partition",
        "heal",
        "rebind_port",
        "rebind_addr",
        "crash",
        "restart",
        "drain",
        "origin_refuses",
        "origin_accepts",
        "origin_dies",
    ],
];

impl Override {
    /// Reads `KEY=VALUE`. The key is a path with dots (parts with other characters than
    /// `A-Z a-z 0-9 _ -` in quotes), in which an element of an array goes by its number from 0, and
    /// a PoP also by its name. The value is read as TOML, and taken as text if it is none.
    ///
    /// # Errors
    /// There is no `=`, or no such path.
    pub fn parse(text: &str) -> Result<Self, ScenarioError> {
        let error = |problem: &str| ScenarioError::Override {
            text: text.to_owned(),
            problem: problem.to_owned(),
        };
        let equals = unquoted(text, '=')
            .next()
            .ok_or_else(|| error("there is no \"=\": write KEY=VALUE, such as link.loss_pct=20"))?;
        let (key, value) = (text[..equals].trim(), text[equals + 1..].trim());
        Self::new(key, value_of(value)).map_err(|problem| error(&problem))
    }

    pub(super) fn new(key: &str, value: Value) -> Result<Self, String> {
        let path = path(key).ok_or_else(|| {
            format!("\"{key}\" is no key: join up to {MAX_PATH} names by dots, quote odd ones")
        })?;
        if path[0] == "case" {
            return Err("a case cannot be changed: set what it sets".to_owned());
        }
        Ok(Self { path, value })
    }

    pub(super) fn apply(&self, root: &mut Table) -> Result<(), ScenarioError> {
        put(root, self)
            .map_err(|problem| ScenarioError::Override { text: self.to_string(), problem })
    }
}

impl Override {
    /// As text, a line for each single value in it.
    pub(super) fn leaves(&self) -> Vec<String> {
        let Value::Table(table) = &self.value else { return vec![self.to_string()] };
        let inner = table.iter().map(|(key, value)| {
            let path = self.path.iter().chain([key]).cloned().collect();
            Self { path, value: value.clone() }
        });
        inner.flat_map(|over| over.leaves()).collect()
    }
}

impl fmt::Display for Override {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, part) in self.path.iter().enumerate() {
            let dot = if n == 0 { "" } else { "." };
            let quote = if part.chars().all(is_bare) { "" } else { "\"" };
            write!(f, "{dot}{quote}{part}{quote}")?;
        }
        write!(f, "={}", self.value)
    }
}

fn is_bare(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-')
}

/// Where `wanted` stands outside of quotes.
fn unquoted(text: &str, wanted: char) -> impl Iterator<Item = usize> {
    let mut open = None;
    text.char_indices().filter_map(move |(i, c)| match open {
        Some(quote) => {
            if c == quote {
                open = None;
            }
            None
        }
        None if c == '"' || c == '\'' => {
            open = Some(c);
            None
        }
        None => (c == wanted).then_some(i),
    })
}

fn path(key: &str) -> Option<Vec<String>> {
    let ends = unquoted(key, '.').chain([key.len()]);
    let mut start = 0;
    let mut path = Vec::new();
    for end in ends {
        let part = key[start..end].trim();
        let inner = ['"', '\''].iter().find_map(|quote| {
            part.strip_prefix(*quote)?.strip_suffix(*quote).filter(|part| !part.contains(*quote))
        });
        let part = match inner {
            Some(inner) => inner,
            None if !part.is_empty() && part.chars().all(is_bare) => part,
            None => return None,
        };
        path.push(part.to_owned());
        start = end + 1;
    }
    (path.len() <= MAX_PATH).then_some(path)
}

fn value_of(text: &str) -> Value {
    match syntax::parse(&format!("value = {text}")) {
        // A line break in `text` could begin another key.
        Ok(mut table) if table.len() == 1 => table.remove("value"),
        _ => None,
    }
    .unwrap_or_else(|| Value::String(text.to_owned()))
}

/// Sets a key; a table is merged into what is there.
pub(super) fn put(root: &mut Table, over: &Override) -> Result<(), String> {
    let [first, rest @ ..] = over.path.as_slice() else { return Ok(()) };
    // Keys of a PoP's own configuration mean nothing to us.
    let exclusive = first != "config";
    descend(root, first, rest, &over.value, exclusive)
}

fn descend(
    table: &mut Table,
    first: &str,
    rest: &[String],
    value: &Value,
    exclusive: bool,
) -> Result<(), String> {
    if exclusive && let Some(group) = EXCLUSIVE.iter().find(|group| group.contains(&first)) {
        table.retain(|key, _| key == first || group.iter().all(|other| key != *other));
    }
    let target = table.entry(first).or_insert_with(|| Value::Table(Table::new()));
    set(target, first, rest, value, exclusive && first != "config")
}

/// `name` is what `target` is called.
fn set(
    target: &mut Value,
    name: &str,
    path: &[String],
    value: &Value,
    exclusive: bool,
) -> Result<(), String> {
    match (target, path, value) {
        (target @ (Value::Table(_) | Value::Array(_)), [], Value::Table(inner)) => {
            inner.iter().try_for_each(|(key, value)| {
                set(target, name, std::slice::from_ref(key), value, exclusive)
            })
        }
        (target, [], value) => {
            *target = value.clone();
            Ok(())
        }
        (Value::Table(table), [first, rest @ ..], value) => {
            descend(table, first, rest, value, exclusive)
        }
        (Value::Array(items), [first, rest @ ..], value) => {
            let len = items.len();
            let item = element(items, first).ok_or_else(|| {
                format!("there is no {name} \"{first}\": there are {len}, counted from 0")
            })?;
            set(item, name, rest, value, exclusive)
        }
        (_, [first, ..], _) => {
            Err(format!("{name} is a single value, there is no \"{first}\" in it"))
        }
    }
}

fn element<'a>(items: &'a mut [Value], which: &str) -> Option<&'a mut Value> {
    let named = |item: &Value| item.get("name").and_then(Value::as_str) == Some(which);
    let index = items.iter().position(named).or_else(|| which.parse().ok())?;
    items.get_mut(index)
}
