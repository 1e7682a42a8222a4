//! `milena records`.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use milena::protocol::dump::Piece;
use milena::protocol::records::RecordBatch;
use serde::Serialize;

use crate::args::{Format, Global, Records};
use crate::dump::segment::Segment;
use crate::dump::{Style, Tally, batch, entry};
use crate::output::stdout_error;

/// The ending of log files.
const LOG: &str = "log";

/// Runs the command.
pub(crate) fn run(global: &Global, args: &Records) -> anyhow::Result<()> {
    let style = Style { max_bytes: args.max_bytes, offsets: false, records: !args.headers_only };
    let mut reading = Reading {
        out: BufWriter::with_capacity(64 * 1024, io::stdout()),
        style,
        as_json: args.json || global.format == Format::Json,
        verify: args.verify,
        from: args.from_offset,
        all: Tally::default(),
    };
    let outcome = logs(&args.paths).and_then(|files| files.iter().try_for_each(|file| reading.file(file)));
    reading.out.flush().map_err(stdout_error)?;
    outcome?;
    match reading.all {
        Tally { first: None, .. } => Ok(()),
        Tally { first: Some(first), faults: 1, .. } => Err(anyhow::anyhow!("{first}")),
        Tally { first: Some(first), faults, .. } => {
            Err(anyhow::anyhow!("{faults} faults; the first: {first}"))
        }
    }
}

/// The files that were named, and the log files of the folders, by their names, which begin with their first offsets.
fn logs(paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let mut inside = Vec::new();
        for entry in std::fs::read_dir(path).with_context(|| path.display().to_string())? {
            let file = entry.with_context(|| path.display().to_string())?.path();
            if file.extension().is_some_and(|ending| ending == LOG) && file.is_file() {
                inside.push(file);
            }
        }
        anyhow::ensure!(!inside.is_empty(), "{}: there is no .log file in it", path.display());
        inside.sort();
        files.append(&mut inside);
    }
    Ok(files)
}

struct Reading<W: Write> {
    out: BufWriter<W>,
    style: Style,
    as_json: bool,
    verify: bool,
    from: Option<i64>,
    /// What was seen in all files.
    all: Tally,
}

/// What was seen of a file.
#[derive(Debug, Default, Serialize)]
struct Summary {
    file: String,
    bytes: u64,
    batches: u64,
    records: u64,
    first_offset: Option<i64>,
    last_offset: Option<i64>,
    /// What it ends in, if not in a whole batch.
    tail: Option<String>,
    faults: u64,
    first_fault: Option<String>,
}

impl<W: Write> Reading<W> {
    fn file(&mut self, path: &Path) -> anyhow::Result<()> {
        let name = path.display().to_string();
        let file = File::open(path).with_context(|| name.clone())?;
        let least = path.file_stem().and_then(|stem| stem.to_str()).and_then(first_offset);
        if !self.as_json && !self.verify {
            let bytes = file.metadata().with_context(|| name.clone())?.len();
            writeln!(self.out, "{name}, {bytes} bytes").map_err(stdout_error)?;
        }
        let mut segment = Segment::new(BufReader::with_capacity(64 * 1024, file));
        let mut summary = Summary { file: name.clone(), ..Summary::default() };
        let mut tally = Tally::default();
        while let Some((position, piece)) = segment.next().with_context(|| name.clone())? {
            if let Piece::Batch { batch, .. } = &piece {
                if self.from.is_some_and(|from| batch.last_offset().0 < from) {
                    continue;
                }
                summary.batches += 1;
                summary.first_offset.get_or_insert(batch.base_offset().0);
                let before = summary.last_offset.replace(batch.last_offset().0);
                if let Some(disorder) = disorder(batch, before, least) {
                    self.disorder(&name, position, &disorder)?;
                    tally.fault(|| format!("{disorder} (batch at byte {position})"));
                }
            }
            summary.tail = summary.tail.or_else(|| tail(&piece));
            tally.append(self.piece(&name, position, &piece).map_err(stdout_error)?);
        }
        summary.bytes = segment.position();
        summary.records = tally.records;
        // The first message in a wrapper lies before the offset of the wrapper.
        summary.first_offset =
            summary.first_offset.map(|first| tally.first_offset.unwrap_or(first).min(first));
        summary.faults = tally.faults;
        summary.first_fault.clone_from(&tally.first);
        self.summary(&summary).map_err(stdout_error)?;
        tally.first = tally.first.map(|first| format!("{name}: {first}"));
        self.all.append(tally);
        Ok(())
    }

    fn piece(&mut self, name: &str, position: u64, piece: &Piece) -> io::Result<Tally> {
        if self.as_json && !self.verify {
            let view = entry::View { base: position, style: self.style, from: self.from, source: Some(name) };
            let tally = entry::print(&mut self.out, piece, view)?;
            self.out.write_all(b"\n")?;
            return Ok(tally);
        }
        let view = batch::View { base: position, indent: "", style: self.style, from: self.from };
        if self.verify {
            batch::print(&mut io::sink(), piece, view)
        } else {
            batch::print(&mut self.out, piece, view)
        }
    }

    fn disorder(&mut self, name: &str, position: u64, disorder: &str) -> anyhow::Result<()> {
        let done = match (self.verify, self.as_json) {
            (true, _) => Ok(()),
            (false, false) => writeln!(self.out, "error: {disorder}"),
            (false, true) => {
                let line = serde_json::json!({
                    "file": name, "position": position, "kind": "disorder", "error": disorder
                });
                writeln!(self.out, "{line}")
            }
        };
        done.map_err(stdout_error)?;
        Ok(())
    }

    fn summary(&mut self, summary: &Summary) -> io::Result<()> {
        if self.as_json {
            if self.verify {
                serde_json::to_writer(&mut self.out, summary)?;
                self.out.write_all(b"\n")?;
            }
            return Ok(());
        }
        let Summary { file, bytes, batches, records, .. } = summary;
        let mut line = match batches {
            1 => format!("1 batch, {}", counted(*records)),
            _ => format!("{batches} batches, {}", counted(*records)),
        };
        if let Some((first, last)) = summary.first_offset.zip(summary.last_offset) {
            line.push_str(&format!(", offsets {first} to {last}"));
        }
        if let Some(tail) = &summary.tail {
            line.push_str(&format!(", {tail}"));
        }
        match (&summary.first_fault, summary.faults) {
            (None, _) if self.verify => line.push_str(": sound"),
            (None, _) => {}
            (Some(fault), 1) => line.push_str(&format!(": damaged: {fault}")),
            (Some(fault), faults) => line.push_str(&format!(": {faults} faults; the first: {fault}")),
        }
        if self.verify {
            writeln!(self.out, "{file}, {bytes} bytes: {line}")
        } else {
            writeln!(self.out, "{line}")
        }
    }
}

fn counted(records: u64) -> String {
    if records == 1 { "1 record".into() } else { format!("{records} records") }
}

/// The offset that stands in the name of a log file.
fn first_offset(stem: &str) -> Option<i64> {
    (stem.len() == 20).then(|| stem.parse().ok()).flatten()
}

/// What is wrong with the place of a batch: offsets only go up, and none is below the one in the file's name.
fn disorder(batch: &RecordBatch, before: Option<i64>, least: Option<i64>) -> Option<String> {
    let (first, last) = (batch.base_offset().0, batch.last_offset().0);
    match before {
        Some(before) if first <= before => Some(format!("offset {first} comes behind offset {before}")),
        None if least.is_some_and(|least| last < least) => {
            Some(format!("offset {last} is below the one in the name of the file"))
        }
        _ => None,
    }
}

fn tail(piece: &Piece) -> Option<String> {
    match piece {
        Piece::Partial { bytes, .. } => Some(format!("{} bytes of a partial batch at the end", bytes.len())),
        Piece::Zeros { count, .. } => Some(format!("{count} zero bytes at the end")),
        Piece::Batch { .. } | Piece::Damaged { .. } => None,
    }
}
