//! A frame in lines: a field each, indented as they nest.

use std::io::{self, Write};

use bytes::Bytes;
use milena::protocol::dump::{Dump, Event, Inside, Name, Node, Value, What, inside, pieces};
use milena::protocol::error_code::ErrorCode;
use milena::protocol::versions::api_name;

use super::show::{Hex, Quoted};
use super::{Found, Style, batch, excerpt};

/// What a level of nesting is indented by.
pub(super) const INDENT: &str = "  ";
/// Longer byte fields are cut unless the user says otherwise.
const MAX_BYTES: usize = 64;

impl Style {
    pub(super) fn max_in_text(&self) -> usize {
        self.max_bytes.unwrap_or(MAX_BYTES)
    }
}

/// Prints all of a frame, or what stands before its fault, and the fault.
pub(crate) fn print(out: &mut impl Write, dump: Dump<'_>, style: Style) -> io::Result<Found> {
    let frame = dump.frame();
    let api = dump.api_key();
    let mut text = Text { out, style, api, base: 0, open: Vec::new(), inline: None, found: Found::default() };
    for event in dump {
        match event {
            Ok(event) => text.event(&event)?,
            Err(fault) => {
                if text.inline.take().is_some() {
                    writeln!(text.out)?;
                }
                writeln!(text.out, "{INDENT}error: {fault}")?;
                excerpt::print(text.out, INDENT, frame, 0, fault.item.clone())?;
                text.found.fault = Some(fault);
            }
        }
    }
    Ok(text.found)
}

struct Text<'o, W> {
    out: &'o mut W,
    style: Style,
    api: Option<i16>,
    /// The place of what is being told, in the frame: not 0 inside of a byte field.
    base: usize,
    /// What is open; an array of values stands in one line.
    open: Vec<Node>,
    /// How many elements the line of an array has so far.
    inline: Option<u32>,
    found: Found,
}

impl<W: Write> Text<'_, W> {
    fn event(&mut self, event: &Event<'_>) -> io::Result<()> {
        match &event.what {
            What::Enter { name, node } => self.enter(event, name, *node),
            What::Leave => {
                self.open.pop();
                if self.inline.take().is_some() { writeln!(self.out) } else { Ok(()) }
            }
            What::Value { name, value } => self.value(event, name, value),
            What::Tags(count) if self.style.offsets => {
                self.begin(event)?;
                writeln!(self.out, "tagged fields: {count}")
            }
            What::Tags(_) => Ok(()),
            What::Opaque(bytes) => {
                self.begin(event)?;
                let max = self.style.max_in_text();
                writeln!(self.out, "{} bytes that are not known here: {}", bytes.len(), Hex { bytes, max })
            }
        }
    }

    /// The start of a line.
    fn begin(&mut self, event: &Event<'_>) -> io::Result<()> {
        if self.style.offsets {
            write!(self.out, "{:>8} {:>6}  ", self.base + event.at.start, event.at.len())?;
        }
        for _ in 0..=self.open.len() {
            self.out.write_all(INDENT.as_bytes())?;
        }
        Ok(())
    }

    fn enter(&mut self, event: &Event<'_>, name: &Name, node: Node) -> io::Result<()> {
        self.begin(event)?;
        write!(self.out, "{}", Label(name))?;
        match node {
            Node::Struct => writeln!(self.out)?,
            Node::Array { count, of_values: false } => writeln!(self.out, " [{count}]")?,
            Node::Array { count, of_values: true } => {
                write!(self.out, " [{count}]")?;
                self.inline = Some(0);
            }
        }
        self.open.push(node);
        Ok(())
    }

    fn value(&mut self, event: &Event<'_>, name: &Name, value: &Value<'_>) -> io::Result<()> {
        if let Some(count) = &mut self.inline {
            let separator = if *count == 0 { " = " } else { ", " };
            *count += 1;
            write!(self.out, "{separator}")?;
            return self.plain(value);
        }
        self.begin(event)?;
        if let Value::Records(bytes) = value {
            return self.records(name, bytes, event.at.end - bytes.len());
        }
        write!(self.out, "{} = ", Label(name))?;
        self.plain(value)?;
        if let (Value::Int(number), Name::Field(field) | Name::Tagged { name: field, .. }) = (value, name)
            && let Some(meaning) = meaning(field, *number)
        {
            write!(self.out, " ({meaning})")?;
        }
        writeln!(self.out)?;
        if let (Value::Bytes(bytes), Name::Field(field)) = (value, name)
            && let Some(inside) = self.api.and_then(|api| inside(api, field, bytes))
        {
            return self.inside(inside, event.at.end - bytes.len());
        }
        Ok(())
    }

    /// A message in a byte field, below it.
    fn inside(&mut self, inside: Inside<'_>, at: usize) -> io::Result<()> {
        let version = Event { at: at..at + 2, what: What::Leave };
        self.open.push(Node::Struct);
        self.begin(&version)?;
        writeln!(self.out, "version = {}", inside.version)?;
        let base = std::mem::replace(&mut self.base, at + 2);
        // It was read through before it was opened.
        inside.dump.filter_map(Result::ok).try_for_each(|event| self.event(&event))?;
        self.base = base;
        self.open.pop();
        Ok(())
    }

    fn plain(&mut self, value: &Value<'_>) -> io::Result<()> {
        let max = self.style.max_in_text();
        match value {
            Value::Null => write!(self.out, "null"),
            Value::Bool(flag) => write!(self.out, "{flag}"),
            Value::Int(number) => write!(self.out, "{number}"),
            Value::Float(number) => write!(self.out, "{number:?}"),
            Value::Uuid(id) => write!(self.out, "{id}"),
            Value::Text(text) => write!(self.out, "{}", Quoted { text, max }),
            Value::Bytes(bytes) | Value::Records(bytes) => {
                write!(self.out, "{} bytes {}", bytes.len(), Hex { bytes, max })
            }
        }
    }

    fn records(&mut self, name: &Name, bytes: &[u8], at: usize) -> io::Result<()> {
        writeln!(self.out, "{} = {} bytes", Label(name), bytes.len())?;
        if !self.style.records {
            return Ok(());
        }
        let indent = INDENT.repeat(self.open.len() + 2);
        for piece in pieces(Bytes::copy_from_slice(bytes)) {
            let view = batch::View { base: at as u64, indent: &indent, style: self.style, from: None };
            let tally = batch::print(self.out, &piece, view)?;
            self.found.tally.append(tally);
        }
        Ok(())
    }
}

/// A name with what stands before its value on the wire.
struct Label<'a>(&'a Name);

impl std::fmt::Display for Label<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Name::Tagged { name, tag, size } => write!(f, "{name} (tag {tag}, {size} bytes)"),
            Name::UnknownTag { tag, .. } => write!(f, "tag {tag} (unknown)"),
            name => write!(f, "{name}"),
        }
    }
}

/// What a number stands for.
fn meaning(field: &str, number: i64) -> Option<&'static str> {
    let number = i16::try_from(number).ok()?;
    match field {
        "request_api_key" | "api_key" => Some(api_name(number)),
        _ if field == "error_code" || field.ends_with("_error_code") => Some(ErrorCode(number).name()),
        _ => None,
    }
}
