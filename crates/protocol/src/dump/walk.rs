//! The walk: one step of the table at a time, with a stack instead of recursion, so that whoever asks sets the pace.

use std::fmt::Write as _;
use std::ops::Range;

use uuid::Uuid;

use super::{Event, Fault, Name, Node, Value, What};
use crate::guard::cursor::{Cursor, Why};
use crate::guard::shape::{Field, Fixed, Item, Kind, Message, Shape};
use crate::guard::{request_header, request_message, response_header, response_message};
use crate::header::API_VERSIONS;
use crate::request::response_version;

/// The fields that hold record data: of Produce, Fetch and ShareFetch, and of FetchSnapshot.
const RECORDS: [&str; 2] = ["records", "unaligned_records"];

/// The events of one frame. Ends after an error.
///
/// # Invariants
/// Each step takes bytes from the frame or shortens the stack, and the stack is as deep as the table nests, never as deep as
/// the bytes say: a dump ends, and its memory does not depend on the frame.
#[derive(Clone, Debug)]
pub struct Dump<'a> {
    frame: &'a [u8],
    cursor: Cursor<'a>,
    api_key: Option<i16>,
    version: Option<i16>,
    message: Option<&'static Message>,
    /// The version in the table's width.
    known: u8,
    /// What is still to be done, innermost last.
    steps: Vec<Step<'a>>,
    /// What encloses the place, outermost first.
    open: Vec<Name>,
    /// What is being read, and since which byte.
    reading: (Option<Name>, usize),
}

/// Something that is still to be done.
#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    /// Header or body begins.
    Part { name: Name, shape: &'static Shape, compact: bool },
    /// The fields of a struct from one on, then its tags.
    Fields { shape: &'static Shape, next: usize, compact: bool },
    /// The elements of an array from one on.
    Elements { kind: Kind, next: u32, count: u32, compact: bool },
    /// The tagged fields of a struct that are left, none of them below a tag.
    Tags { shape: &'static Shape, left: u32, lowest: u32 },
    /// A tagged field ends here; what follows it is given back to the cursor.
    TagEnd { name: Name, start: usize, outer: &'a [u8] },
    /// The innermost thing with parts ends here.
    Leave,
    /// Nothing may follow.
    End,
    /// Whatever follows is not known.
    Opaque,
}

impl<'a> Dump<'a> {
    /// The dump of a request frame (the bytes after its length).
    ///
    /// Of an API or version that is not known here only the header is told, which all versions share.
    #[must_use]
    pub fn request(frame: &'a [u8]) -> Self {
        let (api_key, version) = match frame.first_chunk() {
            Some([a, b, c, d]) => (Some(i16::from_be_bytes([*a, *b])), Some(i16::from_be_bytes([*c, *d]))),
            None => (None, None),
        };
        let message = api_key.and_then(request_message);
        Self::framed(frame, api_key, version, message, request_header(), true)
    }

    /// The dump of a response frame (the bytes after its length) to a request of an API and version.
    ///
    /// An answer to ApiVersions that refuses the version is read in version 0, as it is written (KIP-511).
    #[must_use]
    pub fn response(api_key: i16, version: i16, frame: &'a [u8]) -> Self {
        let version = response_version(api_key, version, frame);
        let message = response_message(api_key);
        let follows = api_key != API_VERSIONS;
        Self::framed(frame, Some(api_key), Some(version), message, response_header(), follows)
    }

    /// The dump of a response frame of which the question is not known: its correlation id, and bytes.
    #[must_use]
    pub fn response_to_unknown(frame: &'a [u8]) -> Self {
        Self::framed(frame, None, None, None, response_header(), false)
    }

    /// The dump of something that is no frame of the protocol, as a SASL token without a header: bytes.
    #[must_use]
    pub fn opaque(bytes: &'a [u8]) -> Self {
        Self::new(bytes, None, None, vec![Step::Opaque])
    }

    /// The dump of a message without a header, as found inside of others. `None` if it has no such version.
    #[must_use]
    pub fn data(message: &'static Message, version: i16, bytes: &'a [u8]) -> Option<Self> {
        let known = message.version(version)?;
        let body = Step::Part {
            name: Name::Body(message.name),
            shape: message.root,
            compact: message.is_flexible(known),
        };
        let dump = Self::new(bytes, None, Some(version), vec![Step::End, body]);
        Some(Self { message: Some(message), known, ..dump })
    }

    fn framed(
        frame: &'a [u8],
        api_key: Option<i16>,
        version: Option<i16>,
        message: Option<&'static Message>,
        header: &'static Shape,
        follows: bool,
    ) -> Self {
        let found = message.and_then(|message| Some((message, message.version(version?)?)));
        let header = |compact| Step::Part { name: Name::Header, shape: header, compact };
        let Some((message, known)) = found else {
            return Self::new(frame, api_key, version, vec![Step::Opaque, header(false)]);
        };
        let compact = message.is_flexible(known);
        let body = Step::Part { name: Name::Body(message.name), shape: message.root, compact };
        let dump = Self::new(frame, api_key, version, vec![Step::End, body, header(follows && compact)]);
        Self { message: Some(message), known, ..dump }
    }

    fn new(frame: &'a [u8], api_key: Option<i16>, version: Option<i16>, steps: Vec<Step<'a>>) -> Self {
        Self {
            frame,
            cursor: Cursor::new(frame),
            api_key,
            version,
            message: None,
            known: 0,
            steps,
            open: Vec::new(),
            reading: (None, 0),
        }
    }

    /// The bytes that are dumped.
    #[must_use]
    pub fn frame(&self) -> &'a [u8] {
        self.frame
    }

    /// The API; `None` for a message of none, and for a request shorter than four bytes.
    #[must_use]
    pub fn api_key(&self) -> Option<i16> {
        self.api_key
    }

    /// The version the frame is in; `None` as for [`api_key`](Self::api_key).
    #[must_use]
    pub fn version(&self) -> Option<i16> {
        self.version
    }

    /// What the frame holds; `None` if its API or version is not known.
    #[must_use]
    pub fn message(&self) -> Option<&'static Message> {
        self.message
    }

    fn place(&self) -> usize {
        self.frame.len() - self.cursor.left_of_frame()
    }

    /// Does what is next; `None` at the end.
    fn step(&mut self) -> Result<Option<Event<'a>>, Why> {
        while let Some(step) = self.steps.pop() {
            self.reading = (None, self.place());
            let what = match step {
                Step::Part { name, shape, compact } => self.structure(name, shape, compact),
                Step::Fields { shape, next, compact } => match self.fields(shape, next, compact)? {
                    Some(what) => what,
                    None => continue,
                },
                Step::Elements { next, count, .. } if next == count => continue,
                Step::Elements { kind, next, count, compact } => {
                    self.steps.push(Step::Elements { kind, next: next + 1, count, compact });
                    self.element(kind, Name::Element(next), compact)?
                }
                Step::Tags { left: 0, .. } => continue,
                Step::Tags { shape, left, lowest } => self.tag(shape, left, lowest)?,
                Step::TagEnd { name, start, outer } => {
                    self.reading = (Some(name), start);
                    self.cursor.leave(outer)?;
                    continue;
                }
                Step::Leave => {
                    self.open.pop();
                    What::Leave
                }
                Step::End if self.cursor.is_empty() => continue,
                Step::End => return Err(Why::Trailing),
                Step::Opaque => {
                    let rest = u32::try_from(self.cursor.left()).map_err(|_| Why::Short)?;
                    What::Opaque(self.cursor.skip(rest)?)
                }
            };
            return Ok(Some(Event { at: self.reading.1..self.place(), what }));
        }
        Ok(None)
    }

    fn structure(&mut self, name: Name, shape: &'static Shape, compact: bool) -> What<'a> {
        self.steps.extend([Step::Leave, Step::Fields { shape, next: 0, compact }]);
        self.open.push(name);
        What::Enter { name, node: Node::Struct }
    }

    fn fields(&mut self, shape: &'static Shape, next: usize, compact: bool) -> Result<Option<What<'a>>, Why> {
        let fields = shape.fields.iter().enumerate().skip(next);
        let mut due = fields.filter(|(_, field)| field.exists(self.known) && field.tag.is_none());
        if let Some((index, field)) = due.next() {
            self.steps.push(Step::Fields { shape, next: index + 1, compact });
            return self.field(field, Name::Field(field.name), compact).map(Some);
        }
        if !compact {
            return Ok(None);
        }
        let count = self.cursor.varint()?;
        // Each takes a byte of tag and a byte of size at least.
        if u64::from(count) * 2 > self.cursor.left() as u64 {
            return Err(Why::Count);
        }
        self.steps.push(Step::Tags { shape, left: count, lowest: 0 });
        Ok(Some(What::Tags(count)))
    }

    fn tag(&mut self, shape: &'static Shape, left: u32, lowest: u32) -> Result<What<'a>, Why> {
        let tag = self.cursor.varint()?;
        if tag < lowest || tag > i32::MAX as u32 {
            return Err(Why::Tag);
        }
        let size = self.cursor.varint()?;
        self.steps.push(Step::Tags { shape, left: left - 1, lowest: tag + 1 });
        match shape.fields.iter().find(|field| field.tag.is_some_and(|known| u32::from(known) == tag)) {
            Some(field) if field.exists(self.known) => {
                let name = Name::Tagged { name: field.name, tag, size };
                let start = self.reading.1;
                let outer = self.cursor.enter(size)?;
                self.steps.push(Step::TagEnd { name, start, outer });
                self.field(field, name, true)
            }
            Some(_) => Err(Why::Tag),
            None => {
                let value = Value::Bytes(self.cursor.skip(size)?);
                Ok(What::Value { name: Name::UnknownTag { tag, size }, value })
            }
        }
    }

    fn field(&mut self, field: &'static Field, name: Name, compact: bool) -> Result<What<'a>, Why> {
        self.reading.0 = Some(name);
        let compact = compact && !field.is_rigid();
        let null = field.is_nullable(self.known);
        match field.kind.item {
            Item::Fixed(fixed) if !field.kind.array => Ok(What::Value { name, value: self.fixed(fixed)? }),
            Item::Struct(shape) if !field.kind.array => match null {
                false => Ok(self.structure(name, shape, compact)),
                true => match self.cursor.take()? {
                    [1] => Ok(self.structure(name, shape, compact)),
                    [0xff] => Ok(What::Value { name, value: Value::Null }),
                    _ => Err(Why::Presence),
                },
            },
            item => {
                let text = matches!(item, Item::Text) && !field.kind.array;
                match self.cursor.length(compact, text)? {
                    Some(count) if field.kind.array => self.array(name, field.kind, count, compact),
                    Some(length) => Ok(What::Value { name, value: self.content(name, text, length)? }),
                    None if null => Ok(What::Value { name, value: Value::Null }),
                    None => Err(Why::Null),
                }
            }
        }
    }

    fn array(&mut self, name: Name, kind: Kind, count: u32, compact: bool) -> Result<What<'a>, Why> {
        let (fewest, of_values) = match kind.item {
            Item::Fixed(_) => (kind.width.into(), true),
            Item::Text => (if compact { 1 } else { 2 }, true),
            Item::Bytes => (if compact { 1 } else { 4 }, true),
            Item::Struct(shape) => (u64::from(shape.fewest_bytes).max(1), false),
        };
        if u64::from(count) * fewest > self.cursor.left() as u64 {
            return Err(Why::Count);
        }
        self.steps.extend([Step::Leave, Step::Elements { kind, next: 0, count, compact }]);
        self.open.push(name);
        Ok(What::Enter { name, node: Node::Array { count, of_values } })
    }

    fn element(&mut self, kind: Kind, name: Name, compact: bool) -> Result<What<'a>, Why> {
        self.reading.0 = Some(name);
        let value = match kind.item {
            Item::Struct(shape) => return Ok(self.structure(name, shape, compact)),
            Item::Fixed(fixed) => self.fixed(fixed)?,
            item => {
                let text = matches!(item, Item::Text);
                let length = self.cursor.length(compact, text)?.ok_or(Why::Null)?;
                self.content(name, text, length)?
            }
        };
        Ok(What::Value { name, value })
    }

    fn content(&mut self, name: Name, text: bool, length: u32) -> Result<Value<'a>, Why> {
        if text {
            let start = self.place();
            // What is wrong with text is wrong behind its length.
            return self.cursor.text(length).map(Value::Text).inspect_err(|_| self.reading.1 = start);
        }
        let bytes = self.cursor.skip(length)?;
        match name {
            Name::Field(field) if RECORDS.contains(&field) => Ok(Value::Records(bytes)),
            _ => Ok(Value::Bytes(bytes)),
        }
    }

    fn fixed(&mut self, fixed: Fixed) -> Result<Value<'a>, Why> {
        let cursor = &mut self.cursor;
        Ok(match fixed {
            Fixed::Bool => Value::Bool(cursor.take()? != [0]),
            Fixed::I8 => Value::Int(i8::from_be_bytes(cursor.take()?).into()),
            Fixed::I16 => Value::Int(i16::from_be_bytes(cursor.take()?).into()),
            Fixed::U16 => Value::Int(u16::from_be_bytes(cursor.take()?).into()),
            Fixed::I32 => Value::Int(i32::from_be_bytes(cursor.take()?).into()),
            Fixed::U32 => Value::Int(u32::from_be_bytes(cursor.take()?).into()),
            Fixed::I64 => Value::Int(i64::from_be_bytes(cursor.take()?)),
            Fixed::F64 => Value::Float(f64::from_be_bytes(cursor.take()?)),
            Fixed::Uuid => Value::Uuid(Uuid::from_bytes(cursor.take()?)),
        })
    }

    #[cold]
    fn fault(&self, why: Why) -> Fault {
        let at = self.place();
        let mut path = String::new();
        for name in self.open.iter().copied().chain(self.reading.0) {
            match name {
                Name::Header | Name::Body(_) => {}
                Name::Element(_) => _ = write!(path, "{name}"),
                _ if path.is_empty() => _ = write!(path, "{name}"),
                _ => _ = write!(path, ".{name}"),
            }
        }
        Fault { at, item: self.wrong_item(why, at), path, reason: why.text() }
    }

    /// The bytes to point at: all of the item, but of text its first byte that is not UTF-8.
    fn wrong_item(&self, why: Why, at: usize) -> Range<usize> {
        let start = self.reading.1.min(at);
        match why {
            Why::Short | Why::Trailing => at..self.frame.len(),
            Why::Utf8 => {
                let text = self.frame.get(start..at).unwrap_or_default();
                let valid = std::str::from_utf8(text).map_or_else(|error| error.valid_up_to(), str::len);
                start + valid..at
            }
            _ => start..at,
        }
    }
}

impl<'a> Iterator for Dump<'a> {
    type Item = Result<Event<'a>, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.step() {
            Ok(event) => event.map(Ok),
            Err(why) => {
                let fault = self.fault(why);
                self.steps.clear();
                Some(Err(fault))
            }
        }
    }
}

impl std::iter::FusedIterator for Dump<'_> {}
