//! Standard output: tables for people, JSON for programs, and what to do when nobody reads any more.

use std::fmt;
use std::io::{self, Write};

use serde::Serialize;

/// An error in how the command was called: exit code 2.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// What the libraries call a setting, and what a user of the command calls it.
const NAMES: [(&str, &str); 6] = [
    ("max_request_size", "-X max.request.size"),
    ("buffer_memory", "-X buffer.memory"),
    ("`transaction_timeout` on the sink", "--transaction-timeout"),
    ("`transaction_timeout`", "--transaction-timeout"),
    ("(list_offsets)", "(`milena offsets` shows them)"),
    (
        "subscribe to it, or choose to drop or keep such partitions",
        "copy its topic too, or give this copy a --checkpoint-dir of its own",
    ),
];

/// An error with its causes in one line, nothing said twice, in the words of the command line.
pub(crate) fn describe(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    NAMES.iter().fold(text, |text, (library, command)| text.replace(library, command))
}

/// Whether the reader of our output went away, as `head` does: no failure of ours.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
            && cause
                .downcast_ref::<io::Error>()
                .is_some_and(|error| error.get_ref().is_some_and(|e| e.is::<Stdout>()))
    })
}

/// Marks an error as one of standard output, so that a broken socket is not taken for a closed pipe.
#[derive(Debug)]
struct Stdout(io::Error);

impl fmt::Display for Stdout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "standard output: {}", self.0)
    }
}

impl std::error::Error for Stdout {}

/// Names standard output in an error of it.
pub(crate) fn stdout_error(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), Stdout(error))
}

/// Prints one JSON document and a line end.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_vec(value)?;
    text.push(b'\n');
    print(&text)
}

/// Prints bytes.
pub(crate) fn print(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(stdout_error)?;
    Ok(())
}

/// Rows in columns as wide as their widest cell.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these column heads.
    pub(crate) fn new(heads: &[&str]) -> Self {
        Self { rows: vec![heads.iter().map(|head| (*head).to_owned()).collect()] }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Prints the table.
    pub(crate) fn print(&self) -> anyhow::Result<()> {
        print(self.to_string().as_bytes())
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                self.rows
                    .iter()
                    .filter_map(|row| row.get(column))
                    .map(|cell| cell.chars().count())
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:<width$}  "));
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["TOPIC", "N"]);
        table.row(["a-long-name".to_owned(), "1".to_owned()]);
        assert_eq!(table.to_string(), "TOPIC        N\na-long-name  1\n");
    }

    #[test]
    fn a_cause_that_is_told_already_is_not_told_again() {
        let error = anyhow::anyhow!("no space").context("storage: writing failed: no space").context("copy");
        assert_eq!(describe(&error), "copy: storage: writing failed: no space");
        let error = anyhow::anyhow!("a record is too large; raise max_request_size");
        assert_eq!(describe(&error), "a record is too large; raise -X max.request.size");
    }

    #[test]
    fn only_a_closed_standard_output_is_forgiven() {
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(is_broken_pipe(&anyhow::Error::from(stdout_error(broken()))));
        assert!(!is_broken_pipe(&anyhow::Error::from(broken())));
    }
}
