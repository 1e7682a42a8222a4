//! Record data as JSON objects: one of a batch, with its records as `entries`.
//!
//! Keys and values are called as in `milena consume -J`, and are base64 where they are not UTF-8.

use std::io::{self, Write};

use milena::protocol::dump::{LeaderChange, Piece};
use milena::protocol::records::{ControlRecord, Record, RecordBatch, TimestampType};
use serde::Serialize;

use super::batch::{Place, control_name};
use super::{Style, Tally};
use crate::render::Text;

/// How a piece is printed.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    /// What the places in the record data count from.
    pub(crate) base: u64,
    /// Records are printed if it says so, else the batch alone.
    pub(crate) style: Style,
    /// Records before this offset are not printed.
    pub(crate) from: Option<i64>,
    /// The file.
    pub(crate) source: Option<&'a str>,
}

#[derive(Serialize)]
struct Batch<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
    position: u64,
    size: usize,
    format: i8,
    base_offset: i64,
    last_offset: i64,
    records: u32,
    compression: &'static str,
    crc: String,
    crc_ok: bool,
    leader_epoch: Option<i32>,
    tstype: &'static str,
    base_ts: i64,
    max_ts: i64,
    delete_horizon: bool,
    producer_id: Option<i64>,
    producer_epoch: Option<i16>,
    base_sequence: Option<i32>,
    transactional: bool,
    control: bool,
}

#[derive(Serialize)]
struct NoBatch<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
    position: u64,
    size: usize,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    whole: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

#[derive(Serialize)]
struct Entry<'a> {
    offset: i64,
    ts: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    control: Option<Control>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    headers: Vec<Option<Text<'a>>>,
    key: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_encoding: Option<&'static str>,
    payload: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_encoding: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_size: Option<usize>,
}

#[derive(Serialize)]
struct Control {
    kind: &'static str,
    number: i16,
    #[serde(skip_serializing_if = "Option::is_none")]
    coordinator_epoch: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    leader: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    voters: Option<Vec<i32>>,
}

/// Prints a piece of record data as one object, without a line end.
pub(crate) fn print(out: &mut impl Write, piece: &Piece, view: View<'_>) -> io::Result<Tally> {
    let mut tally = Tally::default();
    let file = view.source;
    let place = |at: &usize| view.base + *at as u64;
    let no_batch = match piece {
        Piece::Batch { at, batch } => {
            batch_object(out, batch, place(at), view, &mut tally)?;
            return Ok(tally);
        }
        Piece::Damaged { at, bytes, error } => {
            tally.fault(|| Place::of_header(error, bytes, place(at)).text);
            let error = tally.first.as_deref();
            NoBatch { file, position: place(at), size: bytes.len(), kind: "damaged", whole: None, error }
        }
        Piece::Partial { at, bytes, whole } => {
            let (position, size) = (place(at), bytes.len());
            NoBatch { file, position, size, kind: "partial", whole: *whole, error: None }
        }
        Piece::Zeros { at, count } => {
            NoBatch { file, position: place(at), size: *count, kind: "zeros", whole: None, error: None }
        }
    };
    serde_json::to_writer(out, &no_batch)?;
    Ok(tally)
}

fn batch_object(
    out: &mut impl Write,
    batch: &RecordBatch,
    position: u64,
    view: View<'_>,
    tally: &mut Tally,
) -> io::Result<()> {
    let crc = batch.verify_crc();
    let head = Batch {
        file: view.source,
        position,
        size: batch.len_bytes(),
        format: batch.magic(),
        base_offset: batch.base_offset().0,
        last_offset: batch.last_offset().0,
        records: batch.record_count(),
        compression: batch.compression().name(),
        crc: format!("{:08x}", batch.stated_crc()),
        crc_ok: crc.is_ok(),
        leader_epoch: batch.leader_epoch().map(|epoch| epoch.0),
        tstype: match batch.timestamp_type() {
            _ if batch.max_timestamp() < 0 => "unknown",
            TimestampType::CreateTime => "create",
            TimestampType::LogAppendTime => "logappend",
        },
        base_ts: batch.base_timestamp(),
        max_ts: batch.max_timestamp(),
        delete_horizon: batch.has_delete_horizon(),
        producer_id: batch.producer_id().map(|id| id.0),
        producer_epoch: batch.producer_epoch().map(|epoch| epoch.0),
        base_sequence: batch.base_sequence().map(|sequence| sequence.0),
        transactional: batch.is_transactional(),
        control: batch.is_control(),
    };
    let head = serde_json::to_vec(&head)?;
    out.write_all(head.strip_suffix(b"}").unwrap_or_default())?;
    let mut errors = Vec::new();
    if let Err(error) = crc {
        errors.push(Place::of_header(&error, batch.as_bytes(), position).text);
    }
    if view.style.records {
        out.write_all(b",\"entries\":[")?;
        entries(out, batch, position, view, tally, &mut errors)?;
        out.write_all(b"]")?;
    } else {
        tally.records += u64::from(batch.record_count());
    }
    if !errors.is_empty() {
        out.write_all(b",\"errors\":")?;
        serde_json::to_writer(&mut *out, &errors)?;
    }
    for error in errors {
        tally.fault(|| error);
    }
    out.write_all(b"}")
}

fn entries(
    out: &mut impl Write,
    batch: &RecordBatch,
    position: u64,
    view: View<'_>,
    tally: &mut Tally,
    errors: &mut Vec<String>,
) -> io::Result<()> {
    let records = match batch.records() {
        Ok(records) => records,
        Err(error) => {
            errors.push(Place::of_records(&error, batch, None, position).text);
            return Ok(());
        }
    };
    let mut first = true;
    for record in &records {
        match record {
            Ok(record) if view.from.is_some_and(|from| record.offset.0 < from) => {}
            Ok(record) => {
                if !std::mem::replace(&mut first, false) {
                    out.write_all(b",")?;
                }
                tally.records += 1;
                tally.first_offset.get_or_insert(record.offset.0);
                let control = batch.is_control().then(|| control(&record)).transpose();
                let control = control.unwrap_or_else(|error| {
                    errors.push(error.to_string());
                    None
                });
                serde_json::to_writer(&mut *out, &entry(&record, control, view.style))?;
            }
            Err(error) => errors.push(Place::of_records(&error, batch, Some(&records), position).text),
        }
    }
    Ok(())
}

fn entry<'a>(record: &Record<'a>, control: Option<Control>, style: Style) -> Entry<'a> {
    let cut = |bytes: &'a [u8]| Text::cut(bytes, style.max_bytes.unwrap_or(usize::MAX));
    let (key, payload) = (record.key.map(cut), record.value.map(cut));
    let was_cut = record.value.is_some_and(|value| style.max_bytes.is_some_and(|max| value.len() > max));
    let headers = record
        .headers
        .iter()
        .flat_map(|header| [Some(Text::of(header.name.as_bytes())), header.value.map(cut)]);
    Entry {
        offset: record.offset.0,
        ts: record.timestamp,
        control,
        headers: headers.collect(),
        key_encoding: key.as_ref().and_then(Text::encoding),
        key,
        payload_encoding: payload.as_ref().and_then(Text::encoding),
        payload,
        payload_size: was_cut.then(|| record.value.unwrap_or_default().len()),
    }
}

fn control(record: &Record<'_>) -> milena::protocol::Result<Control> {
    let none = |number| Control {
        kind: control_name(number),
        number,
        coordinator_epoch: None,
        leader: None,
        voters: None,
    };
    Ok(match ControlRecord::parse(record)? {
        ControlRecord::Abort { coordinator_epoch } => {
            Control { coordinator_epoch: Some(coordinator_epoch), ..none(0) }
        }
        ControlRecord::Commit { coordinator_epoch } => {
            Control { coordinator_epoch: Some(coordinator_epoch), ..none(1) }
        }
        ControlRecord::Other(number) => {
            let change = (number == LeaderChange::KIND)
                .then(|| LeaderChange::read(record.value.unwrap_or_default()))
                .flatten();
            match change {
                Some(change) => {
                    Control { leader: Some(change.leader), voters: Some(change.voters), ..none(number) }
                }
                None => none(number),
            }
        }
    })
}
