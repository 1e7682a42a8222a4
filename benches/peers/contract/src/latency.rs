//! Times from send to receipt, with the sender's clock in the value.

use std::time::Instant;

use anyhow::{Result, ensure};

use crate::args::Args;
use crate::meter::{Usage, report};

/// Collects times from send to receipt. The first eight bytes of a value are the nanoseconds of [`Latencies::stamp`].
#[derive(Debug)]
pub struct Latencies {
    epoch: Instant,
    warm: u64,
    seen: u64,
    begin: Option<Usage>,
    nanos: Vec<u64>,
}

impl Latencies {
    /// For the command line's window; `epoch` is what stamps count from.
    #[must_use]
    pub fn new(args: &Args, epoch: Instant) -> Self {
        Self {
            epoch,
            warm: args.warm,
            seen: 0,
            begin: None,
            nanos: Vec::with_capacity(args.records as usize),
        }
    }

    /// Writes the time into the value that is sent next.
    pub fn stamp(epoch: Instant, value: &mut [u8]) {
        let nanos = epoch.elapsed().as_nanos() as u64;
        value[..8].copy_from_slice(&nanos.to_le_bytes());
    }

    /// A value came.
    pub fn receive(&mut self, value: &[u8]) {
        self.seen += 1;
        if self.seen <= self.warm {
            return;
        }
        self.begin.get_or_insert_with(Usage::now);
        let now = self.epoch.elapsed().as_nanos() as u64;
        let sent = value.get(..8).and_then(|stamp| stamp.try_into().ok()).map_or(0, u64::from_le_bytes);
        self.nanos.push(now.saturating_sub(sent));
    }

    /// Records that came.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// Prints the line of result.
    pub fn finish(mut self, peer: &str, args: &Args) -> Result<()> {
        ensure!(self.seen == args.warm + args.records, "{} records came", self.seen);
        self.nanos.sort_unstable();
        let at = |permille: usize| {
            let index = (self.nanos.len() * permille / 1000).min(self.nanos.len() - 1);
            format!("{:.1}", self.nanos[index] as f64 / 1000.0)
        };
        let fields = [
            ("records", self.seen.to_string()),
            ("window_records", self.nanos.len().to_string()),
            ("p50_us", at(500)),
            ("p99_us", at(990)),
            ("p999_us", at(999)),
        ];
        report(peer, args, &fields)
    }
}
