//! The report as a page of the documentation.

use std::fmt::Write;

use super::agent::Implementation;
use super::matrix::{Case, Report};
use super::shape::Shape;

/// What the page names besides the report.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Versions<'a> {
    /// The version of the broker.
    pub kafka: &'a str,
    /// The command that made the page.
    pub command: &'a str,
}

/// The page, in Markdown. It is the same for every run with the same versions and outcomes.
pub fn markdown(report: &Report, versions: &Versions<'_>) -> String {
    let Versions { kafka, command } = versions;
    let mut page = String::from("# Who reads what whom wrote\n\n");
    let _ = write!(
        page,
        "Made by `{command}`; do not edit. Each cell is one writer, one reader, one shape of data and one codec on a real\n\
         Kafka {kafka} broker. `=` means that the reader returned every record that must be visible and no other, equal to the byte: partition,\n\
         offset, timestamp, key, value and headers, in order. What must be there follows from what was to be written, not from another reader.\n\n"
    );
    page.push_str("| | implementation | version |\n|---|---|---|\n");
    for (implementation, version) in &report.implementations {
        let _ = writeln!(page, "| {} | {implementation} | {version} |", letter(*implementation));
    }
    page.push_str("\nColumns are writer → reader.");
    if report.cases.iter().any(|case| case.shape.isolations().len() > 1) {
        page.push_str(
            " Transactional and compacted topics are read twice, read_committed and read_uncommitted.",
        );
    }
    page.push('\n');
    if report.cases.iter().any(|case| case.shape == Shape::Compacted) {
        let [_, emptied, gaps] = report.compacted;
        page.push_str("In the compacted topics, the cleaner has ");
        page.push_str(match (emptied, gaps) {
            (0, 0) => "not changed any batch.\n",
            (0, _) => "left batches with gaps.\n",
            (_, 0) => "emptied batches.\n",
            _ => "left batches with gaps and batches without any record.\n",
        });
    }
    rows(&mut page, report, "Codecs at their default levels", |case| case.level.is_none());
    if report.cases.iter().any(|case| case.level.is_some()) {
        rows(&mut page, report, "Levels", |case| case.level.is_some());
    }
    page.push_str("\n## The shapes\n\n");
    for shape in Shape::ALL.iter().filter(|shape| report.cases.iter().any(|case| case.shape == **shape)) {
        let _ = writeln!(page, "- **{shape}**: {}", about(*shape));
    }
    let failures: Vec<_> = report.failures().collect();
    if !failures.is_empty() {
        page.push_str("\n## What is not equal\n\n");
        for cell in failures {
            let reason = cell.outcome.as_ref().err().map_or("", String::as_str);
            let _ = writeln!(page, "- {}, {} → {}: {reason}", cell.case, cell.writer, cell.reader);
        }
    }
    page
}

fn rows(page: &mut String, report: &Report, title: &str, wanted: impl Fn(&Case) -> bool) {
    let names: Vec<_> = report.implementations.iter().map(|(implementation, _)| *implementation).collect();
    let pairs: Vec<_> =
        names.iter().flat_map(|writer| names.iter().map(|reader| (*writer, *reader))).collect();
    let _ = write!(page, "\n## {title}\n\n| shape | codec | records |");
    for (writer, reader) in &pairs {
        let _ = write!(page, " {} → {} |", letter(*writer), letter(*reader));
    }
    let _ = writeln!(page, "\n|---|---|---|{}", "---|".repeat(pairs.len()));
    for case in report.cases.iter().filter(|case| wanted(case)) {
        let level = case.level.map(|level| format!(" {level}")).unwrap_or_default();
        let records = report.cells.iter().find_map(|cell| match cell.outcome {
            Ok(records) if cell.case == *case => Some(records),
            _ => None,
        });
        let records = records.map_or_else(|| "?".to_owned(), |records| records.to_string());
        let _ = write!(page, "| {} | {}{level} | {records} |", case.shape, case.codec);
        for (writer, reader) in &pairs {
            let cell = report
                .cells
                .iter()
                .find(|cell| cell.case == *case && (cell.writer, cell.reader) == (*writer, *reader));
            let _ = write!(
                page,
                " {} |",
                cell.map_or("?", |cell| if cell.outcome.is_ok() { "=" } else { "**≠**" })
            );
        }
        page.push('\n');
    }
}

fn letter(implementation: Implementation) -> char {
    match implementation {
        Implementation::Milena => 'm',
        Implementation::Java => 'J',
        Implementation::Librdkafka => 'C',
    }
}

fn about(shape: Shape) -> &'static str {
    match shape {
        Shape::Keys => {
            "keys of 0 to 300 bytes, the partition chosen by the key (the same for all), times out of order in a batch"
        }
        Shape::Headers => {
            "from no header to 200 of them; names that repeat, empty and non-ASCII names (none with a NUL, where librdkafka's names end); \
             null, empty and long values"
        }
        Shape::Nulls => "null keys and null values, in all combinations",
        Shape::Empty => "empty keys and values, which are not null, in all combinations",
        Shape::Large => "values of 1 MiB: text, random bytes, half of each",
        Shape::Many => "6000 small records in three partitions",
        Shape::Transactions => {
            "committed and aborted transactions in turn over two partitions, plain records before and between them, an abort at the end"
        }
        Shape::Compacted => {
            "a topic with cleanup.policy=compact after the cleaner: overwritten keys, tombstones, committed and aborted transactions"
        }
    }
}
