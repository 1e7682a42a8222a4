//! Where a peer's time goes, by sampling.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::command::{output, succeeds};

/// Functions below this part of the samples are left out.
pub(super) const LEAST_PERCENT: f64 = 1.5;

/// Whether `perf` can sample here.
pub(crate) fn is_possible() -> bool {
    succeeds(Command::new("perf").args(["record", "-o", "/dev/null", "-e", "cpu-clock", "true"]))
}

/// The same command with its samples kept in a file. The kernel's own time is sampled, too.
pub(crate) fn sampled(command: &Command, file: &Path) -> Command {
    let mut perf = Command::new("perf");
    perf.args(["record", "--quiet", "-e", "cpu-clock", "-F", "2000", "-o"]).arg(file).arg("--");
    perf.arg(command.get_program()).args(command.get_args());
    perf
}

/// The functions in a file of samples and their percentages, the largest first.
pub(crate) fn read(file: &Path) -> Result<Vec<(String, f64)>> {
    let mut command = Command::new("perf");
    command.args(["report", "--stdio", "--no-children", "--sort", "symbol", "-i"]).arg(file);
    let text = output(&mut command).context("perf report")?;
    let mut functions: Vec<(String, f64)> = text.lines().filter_map(function).collect();
    functions.retain(|(_, percent)| *percent >= LEAST_PERCENT);
    Ok(functions)
}

/// `    23.45%  [.] name`; `[k]` is the kernel.
fn function(line: &str) -> Option<(String, f64)> {
    let (percent, rest) = line.trim().split_once('%')?;
    let percent = percent.parse().ok()?;
    let (place, name) = rest.trim().split_once(' ')?;
    // Some versions add columns of dashes.
    let name = name.trim_end_matches([' ', '-']).trim();
    Some((if place == "[k]" { format!("kernel: {name}") } else { name.to_owned() }, percent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_perf_are_read() {
        let found = function("    23.45%  [k] copy_to_user").unwrap();
        assert_eq!(found, ("kernel: copy_to_user".to_owned(), 23.45));
        let found = function("     1.50%  [.] milena::consumer::poll").unwrap();
        assert_eq!(found, ("milena::consumer::poll".to_owned(), 1.5));
        let found = function("     2.00%  [.] milena::send      -      -").unwrap();
        assert_eq!(found, ("milena::send".to_owned(), 2.0));
        assert_eq!(function("# Overhead  Symbol"), None);
        assert_eq!(function(""), None);
    }
}
