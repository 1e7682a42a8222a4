//! Record data in lines: a batch, then its records.

use std::io::{self, Write};

use bytes::Bytes;
use milena::protocol::ProtocolError;
use milena::protocol::compression::Compression;
use milena::protocol::dump::{LeaderChange, Piece};
use milena::protocol::records::{
    ControlRecord, HEADER_LEN, Header, Record, RecordBatch, Records, TimestampType,
};

use super::show::{Quoted, Shown};
use super::text::INDENT;
use super::{Style, Tally, excerpt};

/// How a piece is printed.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    /// What the places in the record data count from.
    pub(crate) base: u64,
    pub(crate) indent: &'a str,
    /// Records are printed if it says so, else the batch alone.
    pub(crate) style: Style,
    /// Records before this offset are not printed.
    pub(crate) from: Option<i64>,
}

/// Prints a piece of record data.
pub(crate) fn print(out: &mut impl Write, piece: &Piece, view: View<'_>) -> io::Result<Tally> {
    let indent = view.indent;
    let mut tally = Tally::default();
    match piece {
        Piece::Batch { at, batch } => {
            let position = view.base + *at as u64;
            let crc = batch.verify_crc();
            for (index, line) in describe(batch, position, crc.is_ok()).iter().enumerate() {
                writeln!(out, "{indent}{}{line}", if index == 0 { "" } else { INDENT })?;
            }
            if let Err(error) = crc {
                fault(out, &Place::of_header(&error, batch.as_bytes(), position), view, &mut tally)?;
            }
            if view.style.records {
                records(out, batch, position, view, &mut tally)?;
            } else {
                tally.records += u64::from(batch.record_count());
            }
        }
        Piece::Damaged { at, bytes, error } => {
            let position = view.base + *at as u64;
            writeln!(out, "{indent}damaged at {position}: {} bytes that are no batch", bytes.len())?;
            fault(out, &Place::of_header(error, bytes, position), view, &mut tally)?;
        }
        Piece::Partial { at, bytes, whole } => {
            let (position, length) = (view.base + *at as u64, bytes.len());
            match whole {
                Some(whole) => {
                    writeln!(out, "{indent}partial batch at {position}: {length} of {whole} bytes")?;
                }
                None => writeln!(out, "{indent}partial batch at {position}: {length} bytes")?,
            }
        }
        Piece::Zeros { at, count } => {
            writeln!(out, "{indent}{count} zero bytes at {}: room made in advance", view.base + *at as u64)?;
        }
    }
    Ok(tally)
}

/// What the header of a batch says.
fn describe(batch: &RecordBatch, position: u64, sound: bool) -> [String; 2] {
    let wrapper = batch.magic() < 2 && batch.compression() != Compression::None;
    let (first, last) = (batch.base_offset(), batch.last_offset());
    let what = match batch.magic() {
        2 if first == last => format!("batch at {position}: offset {first}, {}", count(batch.record_count())),
        2 => format!("batch at {position}: offsets {first} to {last}, {}", count(batch.record_count())),
        _ if wrapper => format!("messages at {position}: offsets up to {last}"),
        _ => format!("message at {position}: offset {last}"),
    };
    let verdict = if sound { "ok" } else { "WRONG" };
    let what = format!(
        "{what}, {} bytes, format {}, {}, crc {:08x} {verdict}",
        batch.len_bytes(),
        batch.magic(),
        batch.compression(),
        batch.stated_crc(),
    );
    let mut more = Vec::new();
    if let Some(epoch) = batch.leader_epoch() {
        more.push(format!("leader epoch {epoch}"));
    }
    if batch.max_timestamp() >= 0 {
        let who = match batch.timestamp_type() {
            TimestampType::CreateTime => "create",
            TimestampType::LogAppendTime => "append",
        };
        more.push(format!("{who} time up to {}", batch.max_timestamp()));
    }
    if batch.has_delete_horizon() {
        more.push(format!("delete horizon {}", batch.base_timestamp()));
    }
    if let Some(producer) = batch.producer_id() {
        more.push(format!("producer {producer}"));
        more.extend(batch.producer_epoch().map(|epoch| format!("epoch {epoch}")));
        more.extend(batch.base_sequence().map(|sequence| format!("sequence {sequence}")));
    }
    if batch.is_transactional() {
        more.push("transactional".into());
    }
    if batch.is_control() {
        more.push("control".into());
    }
    [what, if more.is_empty() { "no more in its header".into() } else { more.join(", ") }]
}

pub(crate) fn count(records: u32) -> String {
    if records == 1 { "1 record".into() } else { format!("{records} records") }
}

fn records(
    out: &mut impl Write,
    batch: &RecordBatch,
    position: u64,
    view: View<'_>,
    tally: &mut Tally,
) -> io::Result<()> {
    let records = match batch.records() {
        Ok(records) => records,
        Err(error) => return fault(out, &Place::of_records(&error, batch, None, position), view, tally),
    };
    for record in &records {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                let place = Place::of_records(&error, batch, Some(&records), position);
                return fault(out, &place, view, tally);
            }
        };
        if view.from.is_some_and(|from| record.offset.0 < from) {
            continue;
        }
        tally.records += 1;
        tally.first_offset.get_or_insert(record.offset.0);
        write!(out, "{}{INDENT}offset {}", view.indent, record.offset)?;
        if record.timestamp >= 0 {
            write!(out, "  time {}", record.timestamp)?;
        }
        if batch.is_control() {
            match ControlRecord::parse(&record) {
                Ok(control) => writeln!(out, "  {}", control_in_words(&control, &record))?,
                Err(error) => {
                    plain(out, &record, view.style)?;
                    fault(out, &Place::nowhere(error.to_string()), view, tally)?;
                }
            }
        } else {
            plain(out, &record, view.style)?;
        }
    }
    Ok(())
}

fn plain(out: &mut impl Write, record: &Record<'_>, style: Style) -> io::Result<()> {
    let max = style.max_in_text();
    let shown = |bytes| Shown { bytes, max };
    write!(out, "  key {}  value {}", shown(record.key), shown(record.value))?;
    for (index, Header { name, value }) in record.headers.iter().enumerate() {
        let before = if index == 0 { "  headers " } else { ", " };
        write!(out, "{before}{}={}", Quoted { text: &name.to_string_lossy(), max }, shown(value))?;
    }
    writeln!(out)
}

fn control_in_words(control: &ControlRecord, record: &Record<'_>) -> String {
    match control {
        ControlRecord::Commit { coordinator_epoch } => {
            format!("commit, coordinator epoch {coordinator_epoch}")
        }
        ControlRecord::Abort { coordinator_epoch } => format!("abort, coordinator epoch {coordinator_epoch}"),
        ControlRecord::Other(kind) => match LeaderChange::read(record.value.unwrap_or_default()) {
            Some(LeaderChange { leader, voters, .. }) if *kind == LeaderChange::KIND => {
                format!("leader change to {leader}, voters {voters:?}")
            }
            _ => format!("{} (control record {kind})", control_name(*kind)),
        },
    }
}

/// What brokers call a kind of control record.
pub(super) fn control_name(kind: i16) -> &'static str {
    match kind {
        0 => "abort",
        1 => "commit",
        2 => "leader change",
        3 => "snapshot header",
        4 => "snapshot footer",
        5 => "KRaft version",
        6 => "KRaft voters",
        _ => "unknown",
    }
}

/// A fault in record data: in words, and the bytes to show.
pub(super) struct Place {
    pub(super) text: String,
    bytes: Bytes,
    base: u64,
    at: usize,
}

impl Place {
    /// A fault in what a record means: there is no byte to point at.
    pub(super) fn nowhere(text: String) -> Self {
        Self { text, bytes: Bytes::new(), base: 0, at: 0 }
    }

    /// A fault in the header of a batch.
    pub(super) fn of_header(error: &ProtocolError, batch: &Bytes, position: u64) -> Self {
        let text = in_words(error, position, "");
        Self { text, bytes: batch.clone(), base: position, at: error.at().unwrap_or(0) }
    }

    /// A fault in the records of a batch; its byte is one of the file or frame if they are not compressed.
    pub(super) fn of_records(
        error: &ProtocolError,
        batch: &RecordBatch,
        records: Option<&Records>,
        position: u64,
    ) -> Self {
        if batch.compression() == Compression::None {
            let header = if batch.magic() == 2 { HEADER_LEN } else { 0 };
            let text = in_words(error, position + header as u64, "");
            let at = header + error.at().unwrap_or(0);
            return Self { text, bytes: batch.as_bytes().clone(), base: position, at };
        }
        let text = in_words(error, 0, " of what was decompressed");
        let bytes = records.map(|records| records.buffer().clone()).unwrap_or_default();
        Self { text, bytes, base: 0, at: error.at().unwrap_or(0) }
    }
}

/// What is wrong, with its byte counted from `base`.
fn in_words(error: &ProtocolError, base: u64, of_what: &str) -> String {
    let mut text = error.reason().to_owned();
    let at = error.at().map(|at| format!("byte {}{of_what}", base + at as u64));
    let place: Vec<String> =
        error.field().map(|field| format!("field {field}")).into_iter().chain(at).collect();
    if !place.is_empty() {
        text.push_str(&format!(" ({})", place.join(", ")));
    }
    text
}

fn fault(out: &mut impl Write, place: &Place, view: View<'_>, tally: &mut Tally) -> io::Result<()> {
    let indent = format!("{}{INDENT}", view.indent);
    writeln!(out, "{indent}error: {}", place.text)?;
    if !place.bytes.is_empty() {
        excerpt::print(out, &indent, &place.bytes, place.base, place.at..place.at + 1)?;
    }
    tally.fault(|| place.text.clone());
    Ok(())
}
