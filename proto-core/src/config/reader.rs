//! Reads a TOML table key by key: each value with its line, each fault with its key.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, ConfigErrors};
use super::keys;
use super::text::{Lines, shown};

/// Collects the faults of one file.
#[derive(Debug)]
pub(super) struct Report {
    file: Arc<str>,
    lines: Lines,
    errors: Vec<ConfigError>,
}

impl Report {
    pub(super) fn new(file: &str, text: &[u8]) -> Self {
        // Each fault is to be one line, whatever the file is called.
        let file = file.chars().map(|c| if c.is_control() { '?' } else { c }).collect::<String>();
        Self { file: Arc::from(file), lines: Lines::new(text), errors: Vec::new() }
    }

    pub(super) fn line_at(&self, offset: usize) -> usize {
        self.lines.at(offset)
    }

    pub(super) fn add(&mut self, line: usize, key: impl Into<String>, problem: impl Into<String>) {
        let (key, problem) = (key.into(), problem.into());
        self.errors.push(ConfigError { file: Arc::clone(&self.file), line, key, problem });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    pub(super) fn into_errors(self) -> ConfigErrors {
        ConfigErrors::new(self.errors)
    }
}

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item<T> {
    pub(super) value: T,
    pub(super) line: usize,
}

/// The value of a key that takes a text or a section.
#[derive(Debug, Clone)]
pub(super) enum Entry<'a> {
    Text(Item<&'a str>),
    Section(Section<'a>),
}

/// A table of the file, or what stands for one that is absent: no keys.
#[derive(Clone)]
pub(super) struct Section<'a> {
    path: String,
    /// Where it begins.
    pub(super) line: usize,
    table: Option<&'a DeTable<'a>>,
}

impl fmt::Debug for Section<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Section").field("path", &self.path).finish_non_exhaustive()
    }
}

impl<'a> Section<'a> {
    /// The whole file.
    pub(super) fn root(report: &mut Report, table: &'a DeTable<'a>) -> Self {
        let root = Self { path: String::new(), line: 1, table: Some(table) };
        root.refuse_unknown(report, keys::ROOT);
        root
    }

    /// The full name of one of its keys.
    pub(super) fn key(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// Line of a key, or of the section if the key is absent.
    pub(super) fn line_of(&self, report: &Report, name: &str) -> usize {
        self.value(name).map_or(self.line, |value| report.line_at(value.span().start))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.value(name).is_some()
    }

    /// Whether one of its sections has that key.
    pub(super) fn has_in(&self, section: &str, name: &str) -> bool {
        let table = self.value(section).and_then(|value| value.get_ref().as_table());
        table.is_some_and(|table| table.contains_key(name))
    }

    fn value(&self, name: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.table?.get(name)
    }

    /// Reports that a key is absent.
    pub(super) fn missing(&self, report: &mut Report, name: &str, wanted: &str) {
        report.add(self.line, self.key(name), format!("found nothing, wanted {wanted}"));
    }

    /// All keys with a text, or a section of the `known` keys, as value, for a section whose keys are
    /// not fixed.
    pub(super) fn entries(
        &self,
        report: &mut Report,
        known: &'static [&'static str],
        wanted: &str,
    ) -> Vec<(Item<&'a str>, Entry<'a>)> {
        let mut found = Vec::new();
        let Some(table) = self.table else { return found };
        for (key, value) in table {
            let name: &str = key.get_ref();
            let line = report.line_at(key.span().start);
            let item = Item { value: name, line };
            let mut hint = "";
            match value.get_ref() {
                DeValue::String(text) => {
                    found.push((item, Entry::Text(Item { value: text, line })));
                    continue;
                }
                DeValue::Table(table) => {
                    if table.keys().any(|key| known.contains(&&**key.get_ref())) {
                        let path = self.safe_key(name);
                        let section = Section { path, line, table: Some(table) };
                        section.refuse_unknown(report, known);
                        found.push((item, Entry::Section(section)));
                        continue;
                    }
                    if !table.is_empty() {
                        hint = " (put a name that has dots into quotes)";
                    }
                }
                _ => {}
            }
            let problem = format!("found {}, wanted {wanted}{hint}", kind(value.get_ref()));
            report.add(line, self.safe_key(name), problem);
        }
        found
    }

    /// The full name of a key that the operator chose, or of the section if it is better not
    /// repeated.
    pub(super) fn safe_key(&self, name: &str) -> String {
        if is_plain(name) { self.key(name) } else { self.path.clone() }
    }

    pub(super) fn text(
        &self,
        report: &mut Report,
        name: &str,
        wanted: &str,
    ) -> Option<Item<&'a str>> {
        let value = self.value(name)?;
        let line = report.line_at(value.span().start);
        let text = value.get_ref().as_str();
        if text.is_none() {
            let problem = format!("found {}, wanted {wanted}", kind(value.get_ref()));
            report.add(line, self.key(name), problem);
        }
        text.map(|value| Item { value, line })
    }

    /// A text that `read` understands. Not for secrets: what was found is shown.
    pub(super) fn parsed<T>(
        &self,
        report: &mut Report,
        name: &str,
        wanted: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Option<Item<T>> {
        let Item { value: text, line } = self.text(report, name, wanted)?;
        let read = read(text);
        if read.is_none() {
            let problem = format!("found {}, wanted {wanted}", shown(text));
            report.add(line, self.key(name), problem);
        }
        read.map(|value| Item { value, line })
    }

    /// A whole number within `range`, which `wanted` describes.
    pub(super) fn integer(
        &self,
        report: &mut Report,
        name: &str,
        wanted: &str,
        range: RangeInclusive<i64>,
    ) -> Option<Item<i64>> {
        let value = self.value(name)?;
        let line = report.line_at(value.span().start);
        let found = match value.get_ref() {
            DeValue::Integer(n) => match i64::from_str_radix(n.as_str(), n.radix()) {
                Ok(n) if range.contains(&n) => return Some(Item { value: n, line }),
                Ok(n) => n.to_string(),
                Err(_) => "a number that is too big".to_owned(),
            },
            other => kind(other).to_owned(),
        };
        report.add(line, self.key(name), format!("found {found}, wanted {wanted}"));
        None
    }

    pub(super) fn boolean(
        &self,
        report: &mut Report,
        name: &str,
        wanted: &str,
    ) -> Option<Item<bool>> {
        let value = self.value(name)?;
        let line = report.line_at(value.span().start);
        let boolean = value.get_ref().as_bool();
        if boolean.is_none() {
            let problem = format!("found {}, wanted {wanted}", kind(value.get_ref()));
            report.add(line, self.key(name), problem);
        }
        boolean.map(|value| Item { value, line })
    }

    /// A number above 0, whole or not, up to `max`.
    pub(super) fn positive(
        &self,
        report: &mut Report,
        name: &str,
        wanted: &str,
        max: f64,
    ) -> Option<Item<f64>> {
        let value = self.value(name)?;
        let line = report.line_at(value.span().start);
        let number = match value.get_ref() {
            DeValue::Integer(n) => {
                i64::from_str_radix(n.as_str(), n.radix()).map(|n| n as f64).ok()
            }
            DeValue::Float(n) => n.as_str().parse::<f64>().ok(),
            other => {
                let problem = format!("found {}, wanted {wanted}", kind(other));
                report.add(line, self.key(name), problem);
                return None;
            }
        };
        let found = match number {
            Some(n) if n > 0.0 && n <= max => return Some(Item { value: n, line }),
            Some(n) if n.abs() < 1e12 => n.to_string(),
            Some(n) if n.is_nan() => "nan".to_owned(),
            _ => "a number that is too big".to_owned(),
        };
        report.add(line, self.key(name), format!("found {found}, wanted {wanted}"));
        None
    }

    /// The table of that name; one without keys if it is absent or no table.
    pub(super) fn section(
        &self,
        report: &mut Report,
        name: &str,
        known: Option<&'static [&'static str]>,
    ) -> Section<'a> {
        let path = self.key(name);
        let absent = Section { path, line: self.line, table: None };
        let Some(value) = self.value(name) else { return absent };
        let line = report.line_at(value.span().start);
        let Some(table) = value.get_ref().as_table() else {
            let found = kind(value.get_ref());
            let problem = format!("found {found}, wanted a section: write [{name}]");
            report.add(line, absent.path.clone(), problem);
            return absent;
        };
        let section = Section { line, table: Some(table), ..absent };
        if let Some(known) = known {
            section.refuse_unknown(report, known);
        }
        section
    }

    /// The tables of that name, at most `max`, and whether these are all.
    pub(super) fn sections(
        &self,
        report: &mut Report,
        name: &str,
        known: &'static [&'static str],
        max: usize,
    ) -> (Vec<Section<'a>>, bool) {
        let mut sections = Vec::new();
        let Some(value) = self.value(name) else { return (sections, true) };
        let path = self.key(name);
        let Some(array) = value.get_ref().as_array() else {
            let line = report.line_at(value.span().start);
            let found = kind(value.get_ref());
            report.add(line, path, format!("found {found}, wanted a list: write [[{name}]]"));
            return (sections, false);
        };
        if let Some(beyond) = array.get(max) {
            let line = report.line_at(beyond.span().start);
            let found = array.len();
            report.add(line, path.clone(), format!("found {found} of them, wanted at most {max}"));
        }
        for (i, value) in array.iter().take(max).enumerate() {
            let line = report.line_at(value.span().start);
            let path = format!("{path}[{i}]");
            let Some(table) = value.get_ref().as_table() else {
                let found = kind(value.get_ref());
                report.add(
                    line,
                    path,
                    format!("found {found}, wanted a section: write [[{name}]]"),
                );
                continue;
            };
            let section = Section { path, line, table: Some(table) };
            section.refuse_unknown(report, known);
            sections.push(section);
        }
        let complete = sections.len() == array.len();
        (sections, complete)
    }

    fn refuse_unknown(&self, report: &mut Report, known: &[&'static str]) {
        let Some(table) = self.table else { return };
        for (key, _) in table {
            let name: &str = key.get_ref();
            if known.contains(&name) {
                continue;
            }
            let line = report.line_at(key.span().start);
            if !is_plain(name) {
                let len = name.chars().count();
                let problem =
                    format!("unknown key of {len} characters, wanted one of {}", known.join(", "));
                report.add(line, self.path.clone(), problem);
                continue;
            }
            let advice = if let Some(place) = keys::place_of(name) {
                format!("it belongs {place}")
            } else if let Some(near) = nearest(name, known) {
                format!("did you mean \"{near}\"?")
            } else {
                format!("wanted one of {}", known.join(", "))
            };
            report.add(line, self.key(name), format!("unknown key \"{name}\": {advice}"));
        }
    }
}

/// Short and made of what a key is made of: no secret that was pasted in the wrong place.
fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 31
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

/// The key that was probably meant.
fn nearest(name: &str, known: &[&'static str]) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    let likeness = |known: &str| strsim::normalized_damerau_levenshtein(&name, known);
    let best = known.iter().copied().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(best) >= 0.5).then_some(best)
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a section",
    }
}
