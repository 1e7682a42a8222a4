//! The syntax of `krb5.conf`: sections, settings, and groups of settings in braces.

use std::collections::HashSet;

use super::super::error::Result;
use super::wrong;

/// How deep groups may be nested.
const MAX_DEPTH: usize = 8;

/// One setting: where it stands and what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Setting {
    section: String,
    /// The groups around it, outermost first.
    groups: Vec<String>,
    name: String,
    value: String,
}

/// All settings of the files, in their order.
#[derive(Clone, Debug, Default)]
pub(super) struct Profile {
    settings: Vec<Setting>,
    /// Sections and groups that an earlier file marked as final.
    closed: Vec<String>,
    pub(super) warnings: Vec<String>,
}

impl Profile {
    /// Adds the settings of a file.
    pub(super) fn read(&mut self, text: &str) -> Result<()> {
        let before = self.closed.clone();
        let mut section: Option<String> = None;
        let mut groups: Vec<String> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let number = index + 1;
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            if let Some(ignored) = directive(line) {
                self.warnings
                    .push(format!("line {number}: `{ignored}` is not followed; what it names is not read"));
                continue;
            }
            if let Some(rest) = line.strip_prefix('[') {
                let (name, after) =
                    rest.split_once(']').ok_or_else(|| wrong(format!("line {number}: no ] after [")))?;
                if !groups.is_empty() {
                    return Err(wrong(format!("line {number}: a section begins inside of braces")));
                }
                let name = name.trim().to_owned();
                if after.trim() == "*" {
                    self.closed.push(name.clone());
                }
                section = Some(name);
                continue;
            }
            if line.trim_end_matches('*').trim() == "}" {
                groups.pop().ok_or_else(|| wrong(format!("line {number}: }} without {{")))?;
                continue;
            }
            let Some(section) = &section else {
                return Err(wrong(format!("line {number}: a setting stands before the first section")));
            };
            let (name, value) = line
                .split_once('=')
                .ok_or_else(|| wrong(format!("line {number}: neither a section nor a setting")))?;
            let (name, value) = (name.trim().trim_end_matches('*').trim_end(), value.trim());
            if name.is_empty() {
                return Err(wrong(format!("line {number}: a setting without a name")));
            }
            if value == "{" {
                if groups.len() == MAX_DEPTH {
                    return Err(wrong(format!("line {number}: more than {MAX_DEPTH} braces in each other")));
                }
                groups.push(name.to_owned());
                continue;
            }
            if before.contains(section) {
                continue;
            }
            self.settings.push(Setting {
                section: section.clone(),
                groups: groups.clone(),
                name: name.to_owned(),
                value: unquoted(value, number)?,
            });
        }
        if groups.is_empty() { Ok(()) } else { Err(wrong("its last brace is not closed")) }
    }

    /// The settings that stand right in a section, each name's first one.
    pub(super) fn section<'a>(&'a self, section: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let mut seen = HashSet::new();
        self.settings
            .iter()
            .filter(move |setting| setting.section == section && setting.groups.is_empty())
            .filter(move |setting| seen.insert(setting.name.as_str()))
            .map(|setting| (setting.name.as_str(), setting.value.as_str()))
    }

    /// The first value of a setting that stands right in a section.
    pub(super) fn value(&self, section: &str, name: &str) -> Option<&str> {
        let found = self
            .settings
            .iter()
            .find(|setting| setting.section == section && setting.groups.is_empty() && setting.name == name);
        found.map(|setting| setting.value.as_str())
    }

    /// The settings one group deep in a section: group, name, value.
    pub(super) fn nested<'a>(
        &'a self,
        section: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a str, &'a str)> {
        self.settings.iter().filter_map(move |setting| match setting.groups.as_slice() {
            [group] if setting.section == section => {
                Some((group.as_str(), setting.name.as_str(), setting.value.as_str()))
            }
            _ => None,
        })
    }
}

/// A line that names other files.
fn directive(line: &str) -> Option<&str> {
    let (word, rest) = line.split_once(char::is_whitespace)?;
    (matches!(word, "include" | "includedir" | "module") && !rest.trim_start().starts_with('='))
        .then_some(line)
}

/// A value without its quotes.
fn unquoted(value: &str, line: usize) -> Result<String> {
    let Some(rest) = value.strip_prefix('"') else { return Ok(value.to_owned()) };
    let mut text = String::new();
    let mut characters = rest.chars();
    loop {
        match characters.next() {
            Some('"') => return Ok(text),
            Some('\\') => match characters.next() {
                Some('n') => text.push('\n'),
                Some('t') => text.push('\t'),
                Some('b') => text.push('\u{8}'),
                Some(other) => text.push(other),
                None => break,
            },
            Some(other) => text.push(other),
            None => break,
        }
    }
    Err(wrong(format!("line {line}: a quote is not closed")))
}
