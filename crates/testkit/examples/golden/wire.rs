//! Frames from JSON and back, by the guard's table of shapes alone: no encoder or decoder of messages has a part in it.
//!
//! A body is an object of the schema's field names in snake case. Fields that a version lacks are passed over, missing ones
//! are written as zero, empty or, where that is allowed, null. Bytes and UUIDs are hexadecimal.

use milena_protocol::guard;
use milena_protocol::guard::shape::{Field, Fixed, Item, Shape};
use milena_protocol::messages::ApiKey;
use serde_json::{Map, Value};

use crate::Failure;

/// The name of the client in every request.
const CLIENT_ID: &str = "golden";

/// A request, from its length to its end.
pub(crate) fn request(
    api_key: i16,
    version: i16,
    correlation_id: i32,
    body: &Value,
) -> Result<Vec<u8>, Failure> {
    let message = guard::request_message(api_key).ok_or("no such API")?;
    let known = message.version(version).ok_or("no such version")?;
    let compact = message.is_flexible(known);
    let mut frame = vec![0; 4];
    frame.extend(api_key.to_be_bytes());
    frame.extend(version.to_be_bytes());
    frame.extend(correlation_id.to_be_bytes());
    frame.extend(u16::try_from(CLIENT_ID.len())?.to_be_bytes());
    frame.extend(CLIENT_ID.as_bytes());
    if compact {
        frame.push(0);
    }
    Writer { version: known, compact }.structure(message.root, body, &mut frame)?;
    let length = u32::try_from(frame.len() - 4)?;
    frame.splice(..4, length.to_be_bytes());
    Ok(frame)
}

struct Writer {
    version: u8,
    compact: bool,
}

impl Writer {
    fn structure(&self, shape: &Shape, value: &Value, out: &mut Vec<u8>) -> Result<(), Failure> {
        let here = |field: &&Field| field.exists(self.version);
        for field in shape.fields.iter().filter(here).filter(|field| field.tag.is_none()) {
            self.field(field, value.get(field.name), out)
                .map_err(|error| format!("{}: {error}", field.name))?;
        }
        if self.compact {
            let tagged: Vec<(u8, &Field, &Value)> = shape
                .fields
                .iter()
                .filter(here)
                .filter_map(|field| Some((field.tag?, field, value.get(field.name)?)))
                .collect();
            put_varint(tagged.len(), out);
            for (tag, field, value) in tagged {
                let mut inside = Vec::new();
                self.field(field, Some(value), &mut inside)?;
                put_varint(usize::from(tag), out);
                put_varint(inside.len(), out);
                out.extend(inside);
            }
        }
        Ok(())
    }

    fn field(&self, field: &Field, value: Option<&Value>, out: &mut Vec<u8>) -> Result<(), Failure> {
        let is_null = value.map_or_else(|| field.is_nullable(self.version), Value::is_null);
        if field.kind.array {
            let Some(length) =
                self.begin(is_null, value.and_then(Value::as_array).map_or(0, Vec::len), 4, out)
            else {
                return Ok(());
            };
            debug_assert_eq!(length, value.and_then(Value::as_array).map_or(0, Vec::len));
            for element in value.and_then(Value::as_array).into_iter().flatten() {
                self.item(field.kind.item, Some(element), out)?;
            }
            return Ok(());
        }
        match field.kind.item {
            Item::Text | Item::Bytes if is_null => {
                let width = if matches!(field.kind.item, Item::Text) { 2 } else { 4 };
                self.begin(true, 0, width, out);
                Ok(())
            }
            Item::Struct(_) if field.is_nullable(self.version) => {
                out.push(if is_null { 0xff } else { 1 });
                if is_null { Ok(()) } else { self.item(field.kind.item, value, out) }
            }
            item => self.item(item, value, out),
        }
    }

    fn item(&self, item: Item, value: Option<&Value>, out: &mut Vec<u8>) -> Result<(), Failure> {
        match item {
            Item::Struct(shape) => self.structure(shape, value.unwrap_or(&Value::Null), out),
            Item::Text => {
                let text = value.and_then(Value::as_str).unwrap_or_default();
                self.begin(false, text.len(), 2, out);
                out.extend(text.as_bytes());
                Ok(())
            }
            Item::Bytes => {
                let bytes = from_hex(value.and_then(Value::as_str).unwrap_or_default())?;
                self.begin(false, bytes.len(), 4, out);
                out.extend(bytes);
                Ok(())
            }
            Item::Fixed(Fixed::Uuid) => {
                let mut bytes = from_hex(value.and_then(Value::as_str).unwrap_or_default())?;
                bytes.resize(16, 0);
                out.extend(bytes);
                Ok(())
            }
            Item::Fixed(Fixed::F64) => {
                out.extend(value.and_then(Value::as_f64).unwrap_or_default().to_be_bytes());
                Ok(())
            }
            Item::Fixed(kind) => {
                let number = match value {
                    Some(Value::Bool(flag)) => i64::from(*flag),
                    other => other.and_then(Value::as_i64).unwrap_or_default(),
                };
                let bytes = number.to_be_bytes();
                out.extend(bytes.get(8 - usize::from(kind.width())..).unwrap_or_default());
                Ok(())
            }
        }
    }

    /// The length of what follows; `None` if it is null and nothing does.
    fn begin(&self, is_null: bool, length: usize, width: usize, out: &mut Vec<u8>) -> Option<usize> {
        if self.compact {
            put_varint(if is_null { 0 } else { length + 1 }, out);
        } else {
            let number = if is_null { -1 } else { i64::try_from(length).unwrap_or(i64::MAX) };
            out.extend(number.to_be_bytes().get(8 - width..).unwrap_or_default());
        }
        (!is_null).then_some(length)
    }
}

/// The body of a response, read from the bytes after its length.
pub(crate) fn response(api_key: i16, version: i16, frame: &[u8]) -> Result<Value, Failure> {
    let message = guard::response_message(api_key).ok_or("no such API")?;
    let known = message.version(version).ok_or("no such version")?;
    let compact = message.is_flexible(known);
    let mut reader = Reader { version: known, compact, rest: frame };
    reader.take(4)?;
    if compact && api_key != ApiKey::ApiVersions as i16 {
        reader.tags(&Shape { fewest_bytes: 0, memory: 0, fields: &[] }, &mut Map::new())?;
    }
    let body = reader.structure(message.root)?;
    if reader.rest.is_empty() {
        Ok(body)
    } else {
        Err(format!("{} bytes too many", reader.rest.len()).into())
    }
}

struct Reader<'a> {
    version: u8,
    compact: bool,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Failure> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or("the response ends early")?;
        self.rest = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<usize, Failure> {
        let mut number = 0;
        for shift in 0..5 {
            let &[byte] = self.take(1)? else { return Err("no byte".into()) };
            number |= usize::from(byte & 0x7f) << (7 * shift);
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err("a number that does not end".into())
    }

    fn number(&mut self, width: usize) -> Result<i64, Failure> {
        let bytes = self.take(width)?;
        let sign = if bytes.first().is_some_and(|byte| *byte >= 0x80) { -1 } else { 0 };
        Ok(bytes.iter().fold(sign, |number, byte| (number << 8) | i64::from(*byte)))
    }

    fn length(&mut self, width: usize) -> Result<Option<usize>, Failure> {
        if self.compact {
            Ok(self.varint()?.checked_sub(1))
        } else {
            Ok(usize::try_from(self.number(width)?).ok())
        }
    }

    fn structure(&mut self, shape: &Shape) -> Result<Value, Failure> {
        let mut object = Map::new();
        for field in shape.fields {
            if field.exists(self.version) && field.tag.is_none() {
                let value = self.field(field)?;
                object.insert(field.name.to_owned(), value);
            }
        }
        if self.compact {
            self.tags(shape, &mut object)?;
        }
        Ok(Value::Object(object))
    }

    fn tags(&mut self, shape: &Shape, object: &mut Map<String, Value>) -> Result<(), Failure> {
        for _ in 0..self.varint()? {
            let tag = self.varint()?;
            let length = self.varint()?;
            let inside = self.take(length)?;
            let field = shape.fields.iter().find(|field| {
                field.exists(self.version) && field.tag.is_some_and(|known| usize::from(known) == tag)
            });
            if let Some(field) = field {
                let mut reader = Reader { rest: inside, ..*self };
                object.insert(field.name.to_owned(), reader.field(field)?);
            }
        }
        Ok(())
    }

    fn field(&mut self, field: &Field) -> Result<Value, Failure> {
        if field.kind.array {
            let Some(count) = self.length(4)? else { return Ok(Value::Null) };
            return (0..count)
                .map(|_| self.item(field.kind.item))
                .collect::<Result<_, _>>()
                .map(Value::Array);
        }
        if matches!(field.kind.item, Item::Struct(_))
            && field.is_nullable(self.version)
            && self.number(1)? < 0
        {
            return Ok(Value::Null);
        }
        self.item(field.kind.item)
    }

    fn item(&mut self, item: Item) -> Result<Value, Failure> {
        Ok(match item {
            Item::Struct(shape) => self.structure(shape)?,
            Item::Text => match self.length(2)? {
                Some(length) => Value::from(String::from_utf8(self.take(length)?.to_vec())?),
                None => Value::Null,
            },
            Item::Bytes => match self.length(4)? {
                Some(length) => Value::from(to_hex(self.take(length)?)),
                None => Value::Null,
            },
            Item::Fixed(Fixed::Uuid) => Value::from(to_hex(self.take(16)?)),
            Item::Fixed(Fixed::F64) => Value::from(f64::from_bits(self.number(8)?.cast_unsigned())),
            Item::Fixed(kind) => Value::from(self.number(usize::from(kind.width()))?),
        })
    }
}

fn put_varint(number: usize, out: &mut Vec<u8>) {
    let mut rest = number;
    while rest >= 0x80 {
        out.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Bytes as hexadecimal digits.
pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Result<Vec<u8>, Failure> {
    text.as_bytes().chunks(2).map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?)).collect()
}
