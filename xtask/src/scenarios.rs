//! `docs/scenarios.md`: which test shows which scenario, from marks in the tests.
//!
//! A mark is a comment above a test's function, among its attributes and doc comments: `// scenario: 5.1.3, D30`. The list of
//! scenarios is `scenarios.txt` beside this file.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::command::root;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Write nothing; fail if the page is not what the tests say.
    #[arg(long)]
    check: bool,
}

const LIST: &str = include_str!("scenarios.txt");
const PAGE: &str = "docs/scenarios.md";
const MARK: &str = "// scenario:";
/// Folders with tests.
const FOLDERS: [&str; 3] = ["crates", "tests", "fuzz"];

#[derive(Debug, PartialEq, Eq)]
struct Section<'a> {
    title: &'a str,
    entries: Vec<Entry<'a>>,
}

#[derive(Debug, PartialEq, Eq)]
struct Entry<'a> {
    id: &'a str,
    text: &'a str,
    note: Option<&'a str>,
}

/// A test with the entries it shows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Shown {
    test: String,
    file: String,
    runs: &'static str,
}

/// Writes the page, or compares it.
pub(crate) fn run(args: &Args) -> Result<()> {
    let page = page(&sections(LIST)?, &marks()?);
    let path = root().join(PAGE);
    let there = fs::read_to_string(&path).unwrap_or_default();
    if args.check && there != page {
        bail!("{PAGE} is not what the tests say: run `cargo xtask scenarios`");
    }
    if there != page {
        fs::write(&path, page).with_context(|| path.display().to_string())?;
        println!("{PAGE} is written");
    }
    Ok(())
}

/// Every mark names entries of the list, and stands above a test.
pub(crate) fn check_marks() -> Result<()> {
    let count: usize = marks()?.values().map(Vec::len).sum();
    println!("scenarios: {count} marks in tests, all of entries of the list");
    Ok(())
}

fn sections(list: &str) -> Result<Vec<Section<'_>>> {
    let mut sections: Vec<Section<'_>> = Vec::new();
    for (number, line) in list.lines().enumerate() {
        let place = || format!("scenarios.txt:{}", number + 1);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(title) = line.strip_prefix("== ") {
            sections.push(Section { title, entries: Vec::new() });
            continue;
        }
        let section = sections.last_mut().with_context(place)?;
        if let Some(note) = line.strip_prefix("  > ") {
            section.entries.last_mut().with_context(place)?.note = Some(note);
            continue;
        }
        let (id, text) = line.split_once(' ').with_context(place)?;
        section.entries.push(Entry { id, text, note: None });
    }
    Ok(sections)
}

/// The tests of each entry.
fn marks() -> Result<BTreeMap<&'static str, Vec<Shown>>> {
    let known: Vec<&'static str> =
        sections(LIST)?.iter().flat_map(|section| &section.entries).map(|entry| entry.id).collect();
    let mut files = Vec::new();
    for folder in FOLDERS {
        rust_files(&root().join(folder), &mut files)?;
    }
    files.sort();
    let mut marks: BTreeMap<&'static str, Vec<Shown>> = BTreeMap::new();
    for file in files {
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let name = file.strip_prefix(root()).unwrap_or(&file).display().to_string();
        for (id, shown) in marks_in(&name, &text)? {
            let Some(id) = known.iter().find(|known| **known == id) else {
                bail!("{name}: {id} is no entry of xtask/src/scenarios.txt");
            };
            marks.entry(id).or_default().push(shown);
        }
    }
    for shown in marks.values_mut() {
        shown.sort();
        shown.dedup();
    }
    Ok(marks)
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                rust_files(&path, files)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// The marks of one file, with the function below each.
fn marks_in(file: &str, text: &str) -> Result<Vec<(String, Shown)>> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let Some(ids) = line.trim().strip_prefix(MARK) else { continue };
        let below = lines.iter().enumerate().skip(number + 1).take(20);
        let Some((start, test)) = below.filter_map(|(at, line)| Some((at, function(line)?))).next() else {
            bail!("{file}:{}: no test below this mark", number + 1);
        };
        let body = lines.iter().skip(start).take_while(|line| !is_end(line, lines.get(start)));
        let body: Vec<&str> = body.copied().collect();
        let shown =
            Shown { test: test.to_owned(), file: file.to_owned(), runs: runs(file, &body.join("\n")) };
        found.extend(ids.split(',').map(|id| (id.trim().to_owned(), shown.clone())));
    }
    Ok(found)
}

fn function(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let rest = line.strip_prefix("fn ").or_else(|| line.strip_prefix("async fn "))?;
    rest.split_once('(').map(|(name, _)| name)
}

/// Whether a line closes the function that begins with `first`: a brace at the same depth.
fn is_end(line: &str, first: Option<&&str>) -> bool {
    let depth = first.map_or(0, |first| first.len() - first.trim_start().len());
    line.trim_end().len() == depth + 1 && line.trim() == "}"
}

/// Where a test runs, by what it uses.
fn runs(file: &str, body: &str) -> &'static str {
    let uses = |names: &[&str]| names.iter().any(|name| body.contains(name));
    if uses(&["::each(", "places().await"]) {
        "embedded and real Kafka"
    } else if uses(&["own_kafka", "KafkaCluster", "start_cluster", "Env::real", "on_a_real"])
        || file.ends_with("tests/kafka.rs")
    {
        "real Kafka"
    } else if file.contains("/src/") {
        "unit"
    } else {
        "embedded broker"
    }
}

fn page(sections: &[Section<'_>], marks: &BTreeMap<&'static str, Vec<Shown>>) -> String {
    let mut page = String::from(
        "# Scenarios\n\nWhat the connector is held to: the scenarios of Flink's own tests, more of our own, and the known defects of \
         Flink's connector, each with the tests that show it. Made by `cargo xtask scenarios` from marks in the tests; do not edit.\n",
    );
    let entries = sections.iter().flat_map(|section| &section.entries);
    let (mut shown, mut noted, mut open) = (0, 0, 0);
    for entry in entries {
        match (marks.contains_key(entry.id), entry.note) {
            (true, _) => shown += 1,
            (false, Some(_)) => noted += 1,
            (false, None) => open += 1,
        }
    }
    let _ = write!(page, "\n{shown} have tests, {noted} have a reason instead, {open} are open.\n");
    for section in sections {
        let _ = write!(page, "\n## {}\n\n| | scenario | tests | where |\n|---|---|---|---|\n", section.title);
        for Entry { id, text, note } in &section.entries {
            let text = text.replace('|', "\\|");
            let empty = Vec::new();
            let tests = marks.get(id).unwrap_or(&empty);
            let (names, places) = if tests.is_empty() {
                (note.unwrap_or("open").to_owned(), String::new())
            } else {
                let mut names: Vec<String> =
                    tests.iter().map(|shown| format!("`{}` ({})", shown.test, short(&shown.file))).collect();
                names.extend(note.map(str::to_owned));
                let mut places: Vec<&str> = tests.iter().map(|shown| shown.runs).collect();
                places.sort_unstable();
                places.dedup();
                (names.join("<br>"), places.join(", "))
            };
            let _ = writeln!(page, "| {id} | {text} | {names} | {places} |");
        }
    }
    page
}

/// A file without what all have in common.
fn short(file: &str) -> String {
    file.trim_start_matches("crates/").trim_end_matches(".rs").replace("/src/", "/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_has_each_id_once() {
        let sections = sections(LIST).unwrap();
        let mut ids: Vec<&str> = sections.iter().flat_map(|it| &it.entries).map(|entry| entry.id).collect();
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), count);
        assert!(count > 250);
    }

    #[test]
    fn a_mark_belongs_to_the_function_below_it() {
        let text = "/// About.\n// scenario: 5.1.1, D30\n#[tokio::test]\nasync fn first() {\n    for env in Env::each().await {\n    }\n}\n\
                    // scenario: 5.1.2\nfn second() {\n}\n";
        let found = marks_in("tests/tests/x.rs", text).unwrap();
        let shape: Vec<_> = found.iter().map(|(id, it)| (id.as_str(), it.test.as_str(), it.runs)).collect();
        assert_eq!(
            shape,
            [
                ("5.1.1", "first", "embedded and real Kafka"),
                ("D30", "first", "embedded and real Kafka"),
                ("5.1.2", "second", "embedded broker")
            ]
        );
        assert!(marks_in("x.rs", "// scenario: 5.1.1\nstruct NoTest;\n").is_err());
    }

    #[test]
    fn what_has_no_test_says_so() {
        let list = "== 1 One\n1.1 first: x\n1.2 second: y\n  > Not built: z.\n";
        let page = page(&sections(list).unwrap(), &BTreeMap::new());
        assert!(page.contains("| 1.1 | first: x | open |  |"), "{page}");
        assert!(page.contains("| 1.2 | second: y | Not built: z. |  |"), "{page}");
        assert!(page.contains("0 have tests, 1 have a reason instead, 1 are open."));
    }
}
