//! What a run cost, and whether it was right.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

use crate::args::Args;
use crate::values::word;

/// CPU time of the whole process, user and system, and the clock.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    cpu: Duration,
    at: Instant,
}

impl Usage {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        let usage = getrusage(UsageWho::RUSAGE_SELF).expect("getrusage of this process");
        let cpu = time(usage.user_time()) + time(usage.system_time());
        Self { cpu, at: Instant::now() }
    }
}

fn time(value: TimeVal) -> Duration {
    Duration::from_secs(value.tv_sec() as u64) + Duration::from_micros(value.tv_usec() as u64)
}

/// Counts and checks what a consumer reads, and notes the usage at both ends of the window.
#[derive(Debug)]
pub struct Meter {
    mark: u64,
    value_size: usize,
    /// Records so far.
    pub records: u64,
    /// Bytes of values, keys and headers so far.
    pub bytes: u64,
    /// The checksum so far.
    pub checksum: u64,
    wrong: u64,
    warm: u64,
    window: u64,
    begin: Option<Usage>,
    end: Option<Usage>,
}

impl Meter {
    /// For the command line's window.
    #[must_use]
    pub fn new(args: &Args) -> Self {
        let mut meter = Self {
            mark: args.warm,
            value_size: args.value_size,
            records: 0,
            bytes: 0,
            checksum: 0,
            wrong: 0,
            warm: args.warm,
            window: args.records,
            begin: None,
            end: None,
        };
        if args.warm == 0 {
            meter.reach();
        }
        meter
    }

    /// A record with nothing but a value.
    #[inline(always)]
    pub fn value(&mut self, value: &[u8]) {
        self.part(value);
        self.wrong += u64::from(value.len() != self.value_size);
        self.next();
    }

    /// Another part of the record: its key, or a header's value.
    #[inline(always)]
    pub fn part(&mut self, part: &[u8]) {
        self.bytes += part.len() as u64;
        self.checksum = self.checksum.wrapping_add(word(part));
    }

    /// The name of a header.
    #[inline(always)]
    pub fn name(&mut self, name: &[u8]) {
        self.bytes += name.len() as u64;
    }

    /// Records that were counted but not looked at.
    pub fn skip(&mut self, records: u64) {
        self.records += records;
        while self.records >= self.mark {
            self.reach();
        }
    }

    #[inline(always)]
    fn next(&mut self) {
        self.records += 1;
        if self.records >= self.mark {
            self.reach();
        }
    }

    #[cold]
    fn reach(&mut self) {
        let now = Some(Usage::now());
        if self.begin.is_none() {
            self.begin = now;
            self.mark = self.warm + self.window;
        } else {
            self.end = self.end.or(now);
            self.mark = u64::MAX;
        }
    }

    /// Sets both ends of the window, for who does not read records.
    pub fn window(&mut self, begin: Usage, end: Usage) {
        self.begin = Some(begin);
        self.end = Some(end);
    }

    /// Checks what can be checked here and prints the line of result.
    pub fn finish(&self, peer: &str, args: &Args, more: &[(&str, String)]) -> Result<()> {
        ensure!(self.wrong == 0, "{} values had another length than {}", self.wrong, self.value_size);
        ensure!(self.records == args.total(), "{} records instead of {}", self.records, args.total());
        let (Some(begin), Some(end)) = (self.begin, self.end) else {
            anyhow::bail!("the window was not reached: {} records", self.records);
        };
        let mut fields = vec![
            ("records", self.records.to_string()),
            ("bytes", self.bytes.to_string()),
            ("checksum", format!("\"{:016x}\"", self.checksum)),
            ("window_records", self.window.to_string()),
            ("cpu_ns", (end.cpu - begin.cpu).as_nanos().to_string()),
            ("wall_ns", (end.at - begin.at).as_nanos().to_string()),
        ];
        fields.extend(more.iter().cloned());
        report(peer, args, &fields)
    }
}

/// Prints the line of result; with `--hold true` waits until standard input ends.
pub fn report(peer: &str, args: &Args, fields: &[(&str, String)]) -> Result<()> {
    let mut line = format!("{{\"peer\":\"{peer}\",\"mode\":\"{}\",\"rss_kib\":{}", args.mode, peak_kib());
    for (name, value) in fields {
        line.push_str(&format!(",\"{name}\":{value}"));
    }
    line.push_str("}\n");
    let mut out = std::io::stdout().lock();
    out.write_all(line.as_bytes())?;
    out.flush()?;
    if args.hold {
        let _ = std::io::stdin().read(&mut [0]);
    }
    Ok(())
}

/// The peak of resident memory. (`getrusage` counts what the parent had before the program was started, too.)
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().unwrap_or_default()
}
