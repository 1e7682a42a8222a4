//! A frame as one JSON object in one line.
//!
//! Structs are objects and arrays are arrays, by the names of Kafka's schemas in snake case. UUIDs are strings, byte fields
//! are hexadecimal strings, and an unknown tagged field is called `tag_N`. Where places are asked for, each value stands in an
//! object `{"at":BYTE,"size":BYTES,"value":…}`.

use std::io::{self, Write};

use bytes::Bytes;
use milena::protocol::dump::{Dump, Event, Name, Node, Value, What, pieces};
use serde::Serialize;

use super::show::Hex;
use super::{Found, Style, entry};

/// What a frame is, before its fields are told.
#[derive(Debug, Serialize)]
pub(crate) struct Head<'a> {
    pub(crate) frame: u64,
    pub(crate) source: &'a str,
    pub(crate) kind: &'static str,
    pub(crate) api_key: Option<i16>,
    pub(crate) api: Option<&'static str>,
    pub(crate) version: Option<i16>,
    pub(crate) bytes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) remark: Option<&'a str>,
}

/// Prints all of a frame, or what stands before its fault, and the fault.
pub(crate) fn print(
    out: &mut impl Write,
    head: &Head<'_>,
    dump: Dump<'_>,
    style: Style,
) -> io::Result<Found> {
    let head = serde_json::to_vec(head)?;
    out.write_all(head.strip_suffix(b"}").unwrap_or_default())?;
    let top = Open { bracket: b'}', empty: false, start: 0 };
    let mut json = Json { out, style, place: 0, open: vec![top], found: Found::default() };
    for event in dump {
        match event {
            Ok(event) => json.event(&event)?,
            Err(fault) => {
                while json.open.len() > 1 {
                    json.leave()?;
                }
                write!(json.out, ",\"error\":{{\"reason\":")?;
                serde_json::to_writer(&mut *json.out, fault.reason)?;
                write!(json.out, ",\"field\":")?;
                serde_json::to_writer(&mut *json.out, &fault.path)?;
                write!(json.out, ",\"at\":{}}}", fault.at)?;
                json.found.fault = Some(fault);
            }
        }
    }
    json.out.write_all(b"}\n")?;
    Ok(json.found)
}

struct Open {
    bracket: u8,
    empty: bool,
    start: usize,
}

struct Json<'o, W> {
    out: &'o mut W,
    style: Style,
    /// The byte behind the last event.
    place: usize,
    open: Vec<Open>,
    found: Found,
}

impl<W: Write> Json<'_, W> {
    fn event(&mut self, event: &Event<'_>) -> io::Result<()> {
        self.place = event.at.end;
        match &event.what {
            What::Enter { name, node } => {
                self.key(name, event)?;
                let (open, bracket) = if matches!(node, Node::Struct) { (b"{", b'}') } else { (b"[", b']') };
                self.open.push(Open { bracket, empty: true, start: event.at.start });
                self.out.write_all(open)
            }
            What::Leave => self.leave(),
            What::Value { name, value } => {
                self.key(name, event)?;
                self.value(value, event)?;
                self.end(event.at.start)
            }
            What::Tags(_) => Ok(()),
            What::Opaque(bytes) => {
                write!(self.out, ",\"unknown\":")?;
                self.hex(bytes)
            }
        }
    }

    fn leave(&mut self) -> io::Result<()> {
        match self.open.pop() {
            Some(open) => {
                self.out.write_all(&[open.bracket])?;
                self.end(open.start)
            }
            None => Ok(()),
        }
    }

    /// What stands before a value.
    fn key(&mut self, name: &Name, event: &Event<'_>) -> io::Result<()> {
        if let Some(open) = self.open.last_mut()
            && !std::mem::replace(&mut open.empty, false)
        {
            self.out.write_all(b",")?;
        }
        match name {
            Name::Element(_) => {}
            Name::Header => self.out.write_all(b"\"header\":")?,
            Name::Body(_) => self.out.write_all(b"\"body\":")?,
            Name::Field(name) | Name::Tagged { name, .. } => write!(self.out, "\"{name}\":")?,
            Name::UnknownTag { tag, .. } => write!(self.out, "\"tag_{tag}\":")?,
        }
        if self.style.offsets { write!(self.out, "{{\"at\":{},\"value\":", event.at.start) } else { Ok(()) }
    }

    /// What stands behind a value.
    fn end(&mut self, start: usize) -> io::Result<()> {
        if self.style.offsets { write!(self.out, ",\"size\":{}}}", self.place - start) } else { Ok(()) }
    }

    fn value(&mut self, value: &Value<'_>, event: &Event<'_>) -> io::Result<()> {
        match value {
            Value::Null => self.out.write_all(b"null"),
            Value::Bool(flag) => write!(self.out, "{flag}"),
            Value::Int(number) => write!(self.out, "{number}"),
            Value::Float(number) => Ok(serde_json::to_writer(&mut *self.out, number)?),
            Value::Uuid(id) => write!(self.out, "\"{id}\""),
            Value::Text(text) => Ok(serde_json::to_writer(&mut *self.out, text)?),
            Value::Bytes(bytes) => self.hex(bytes),
            Value::Records(bytes) => self.records(bytes, event.at.end - bytes.len()),
        }
    }

    fn hex(&mut self, bytes: &[u8]) -> io::Result<()> {
        let hex = Hex { bytes, max: self.style.max_bytes.unwrap_or(usize::MAX) }.to_string();
        write!(self.out, "\"{}\"", hex.trim_start_matches("0x"))
    }

    fn records(&mut self, bytes: &[u8], at: usize) -> io::Result<()> {
        write!(self.out, "{{\"bytes\":{}", bytes.len())?;
        if self.style.records {
            write!(self.out, ",\"batches\":[")?;
            for (index, piece) in pieces(Bytes::copy_from_slice(bytes)).enumerate() {
                if index > 0 {
                    self.out.write_all(b",")?;
                }
                let view = entry::View { base: at as u64, style: self.style, from: None, source: None };
                let tally = entry::print(self.out, &piece, view)?;
                self.found.tally.append(tally);
            }
            self.out.write_all(b"]")?;
        }
        self.out.write_all(b"}")
    }
}
