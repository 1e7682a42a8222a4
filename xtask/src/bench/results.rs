//! What was measured, in a file.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::cases::Case;

/// One line of a peer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) records: u64,
    pub(crate) rss_kib: u64,
    #[serde(default)]
    pub(crate) bytes: u64,
    #[serde(default)]
    pub(crate) checksum: String,
    #[serde(default)]
    pub(crate) window_records: u64,
    #[serde(default)]
    pub(crate) cpu_ns: u64,
    #[serde(default)]
    pub(crate) wall_ns: u64,
    /// Bytes of batches in the answers, whole ones only; the floor tells.
    #[serde(default)]
    pub(crate) batch_bytes: Option<u64>,
    /// Bytes that came through the client's sockets, as the kernel counts them.
    #[serde(default)]
    pub(crate) received_bytes: Option<u64>,
    #[serde(default)]
    pub(crate) p50_us: Option<f64>,
    #[serde(default)]
    pub(crate) p99_us: Option<f64>,
    #[serde(default)]
    pub(crate) p999_us: Option<f64>,
}

impl Line {
    /// CPU time for a record, in nanoseconds.
    pub(crate) fn ns_per_record(&self) -> f64 {
        self.cpu_ns as f64 / self.window_records.max(1) as f64
    }

    /// Millions of records a second.
    pub(crate) fn rate(&self) -> f64 {
        self.window_records as f64 * 1000.0 / self.wall_ns.max(1) as f64
    }
}

/// A case and what every row came to in each round.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) case: Case,
    pub(crate) window: u64,
    /// By `peer/mode`; one line a round.
    pub(crate) rows: BTreeMap<String, Vec<Line>>,
    /// Bytes of batches in the topic that is read.
    pub(crate) topic_bytes: Option<u64>,
    /// Rows that came to no result, and why.
    #[serde(default)]
    pub(crate) failed: BTreeMap<String, String>,
    /// Where the time of some rows went: functions and their percentages of the samples, the largest first.
    #[serde(default)]
    pub(crate) profiles: BTreeMap<String, Vec<(String, f64)>>,
}

/// The row that all others are divided by.
pub(crate) const FLOOR: &str = "floor/full";

impl Measured {
    /// A figure of a row, one a round.
    pub(crate) fn figures(&self, row: &str, figure: impl Fn(&Line) -> f64) -> Vec<f64> {
        self.rows.get(row).map(|lines| lines.iter().map(figure).collect()).unwrap_or_default()
    }

    /// Cost by that of the floor in the same round, one a round.
    pub(crate) fn ratios(&self, row: &str) -> Vec<f64> {
        let floor = self.figures(FLOOR, Line::ns_per_record);
        self.figures(row, Line::ns_per_record).iter().zip(floor).map(|(own, floor)| own / floor).collect()
    }
}

/// All that was measured.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) machine: String,
    pub(crate) broker: String,
    /// Peers that were built, and what they are.
    pub(crate) versions: BTreeMap<String, String>,
    /// Peers that were not run, and why.
    pub(crate) not_run: BTreeMap<String, String>,
    pub(crate) cases: BTreeMap<String, Measured>,
}

impl Results {
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        serde_json::from_str(&text).with_context(|| path.display().to_string())
    }

    /// The cases over TLS, and the others.
    pub(crate) fn split(self) -> (Self, Self) {
        let (secured, plain) = self.cases.into_iter().partition(|(_, measured)| measured.case.tls);
        let with = |cases| Self {
            machine: self.machine.clone(),
            broker: self.broker.clone(),
            versions: self.versions.clone(),
            not_run: self.not_run.clone(),
            cases,
        };
        (with(secured), with(plain))
    }

    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        std::fs::write(path, text).with_context(|| path.display().to_string())
    }
}

/// The middle figure; the mean of the two middle ones if their number is even.
pub(crate) fn median(figures: &[f64]) -> Option<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    Some((upper + sorted.get(sorted.len() / 2 - 1)?) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
