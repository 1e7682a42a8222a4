//! A body written again in another version of its message.
//!
//! Field by field along the guard's table: what both versions have is copied, what only the first has is left, what only
//! the second has is supplied with its default. The guard has accepted what is read here, but nothing depends on that:
//! every step takes bytes or fails, and no memory is reserved by a count.

use bytes::{BufMut, BytesMut};

use super::absent::{self, absence};
use crate::guard::cursor::{Cursor, Why};
use crate::guard::shape::{Field, Item, Kind, Message, Shape};

/// Why a body could not be written in the other version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Trouble {
    /// It is not a body of the version it should be in.
    Malformed(Why),
    /// A field is set, or null, and the other version has no way to say so.
    Lost(&'static str),
}

impl From<Why> for Trouble {
    fn from(why: Why) -> Self {
        Self::Malformed(why)
    }
}

type Step = Result<(), Trouble>;

/// What a body is rewritten for. It decides what becomes of a field that the second version lacks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    /// To be decoded here: the field is stowed, or left.
    Read,
    /// To be sent: the field must not be set, unless it may be ignored.
    Write,
}

/// Appends `body`, which is in version `from`, to `out` in version `to`. Returns how many fields were stowed: each takes the memory
/// of an unknown tag, which the guard did not know of.
pub(crate) fn rewrite(
    message: &Message,
    (from, to): (u8, u8),
    purpose: Purpose,
    body: &[u8],
    out: &mut BytesMut,
) -> Result<u64, Trouble> {
    let compact = (message.is_flexible(from), message.is_flexible(to));
    let cursor = Cursor::new(body);
    let mut rewriter = Rewriter { cursor, from, to, compact, purpose, out, kept: Kept::default(), stowed: 0 };
    rewriter.structure(message.root)?;
    if rewriter.cursor.is_empty() { Ok(rewriter.stowed) } else { Err(Why::Trailing.into()) }
}

struct Rewriter<'a, 'b> {
    cursor: Cursor<'a>,
    from: u8,
    to: u8,
    /// Whether the body read, and the body written, has compact lengths and tags.
    compact: (bool, bool),
    purpose: Purpose,
    out: &'b mut BytesMut,
    kept: Kept,
    stowed: u64,
}

/// What was read from one field and is written into another.
#[derive(Clone, Copy, Default)]
struct Kept {
    /// Of the resource whose configs are being read.
    resource_type: u8,
    config_source: Option<u8>,
    offset: Option<[u8; 8]>,
}

/// Fields that have no place but among the tags, by ascending tag.
type Stowed<'a> = Vec<(u32, &'a [u8])>;

impl<'a> Rewriter<'a, '_> {
    fn structure(&mut self, shape: &'static Shape) -> Step {
        let mut stowed = Stowed::new();
        if self.purpose == Purpose::Write && shape.fields.iter().any(|field| self.is_stowed(field)) {
            stowed = self.stowed(shape)?;
        }
        for field in shape.fields.iter().filter(|field| field.tag.is_none()) {
            match (field.exists(self.from), field.exists(self.to)) {
                (true, true) => self.copy(field)?,
                (true, false) => self.leave(field, &mut stowed)?,
                (false, true) => self.supply(field, &stowed)?,
                (false, false) => {}
            }
        }
        match self.compact {
            (true, true) => self.tags(shape, stowed),
            (true, false) => skim_tags(&mut self.cursor, |_, _| ()).map_err(Trouble::from),
            (false, true) => {
                self.out.put_u8(0);
                Ok(())
            }
            (false, false) => Ok(()),
        }
    }

    fn copy(&mut self, field: &'static Field) -> Step {
        let null = (field.is_nullable(self.from), field.is_nullable(self.to));
        if let (Item::Struct(shape), false) = (field.kind.item, field.kind.array) {
            let present = !null.0 || self.cursor.take()? == [1];
            match (present, null.1) {
                (true, true) => self.out.put_u8(1),
                (true, false) => {}
                (false, true) => self.out.put_i8(-1),
                (false, false) => return Err(Trouble::Lost(field.name)),
            }
            return if present { self.structure(shape) } else { Ok(()) };
        }
        if let (Item::Fixed(fixed), false) = (field.kind.item, field.kind.array) {
            let value = self.cursor.skip(fixed.width().into())?;
            if let ("resource_type", [byte]) = (field.name, value) {
                self.kept.resource_type = *byte;
            }
            self.out.put_slice(value);
            return Ok(());
        }
        let text = matches!(field.kind.item, Item::Text) && !field.kind.array;
        let length = self.cursor.length(self.compact.0, text)?;
        let unsayable = match length {
            None => !null.1,
            Some(length) => text && !self.compact.1 && length > i16::MAX as u32,
        };
        if unsayable {
            return Err(Trouble::Lost(field.name));
        }
        put_length(self.out, length, self.compact.1, text);
        match length {
            Some(count) if field.kind.array => (0..count).try_for_each(|_| self.element(field.kind)),
            Some(length) => self.slice(length),
            None => Ok(()),
        }
    }

    fn element(&mut self, kind: Kind) -> Step {
        match kind.item {
            Item::Fixed(fixed) => self.slice(fixed.width().into()),
            Item::Struct(shape) => {
                some_left(&self.cursor).map_err(Trouble::from).and_then(|()| self.structure(shape))
            }
            Item::Text | Item::Bytes => {
                let text = matches!(kind.item, Item::Text);
                let length = self.cursor.length(self.compact.0, text)?.ok_or(Why::Null)?;
                put_length(self.out, Some(length), self.compact.1, text);
                self.slice(length)
            }
        }
    }

    fn slice(&mut self, length: u32) -> Step {
        let bytes = self.cursor.skip(length)?;
        self.out.put_slice(bytes);
        Ok(())
    }

    /// A field that the version to write lacks.
    fn leave(&mut self, field: &'static Field, stowed: &mut Stowed<'a>) -> Step {
        match field.name {
            "is_default" => {
                let is_default = self.cursor.take()? != [0];
                self.kept.config_source = Some(absent::config_source(is_default, self.kept.resource_type));
                return Ok(());
            }
            "old_style_offsets" => {
                let count = self.cursor.length(self.compact.0, false)?.unwrap_or(0);
                for index in 0..count {
                    let offset = self.cursor.take()?;
                    if index == 0 {
                        self.kept.offset = Some(offset);
                    }
                }
                return Ok(());
            }
            _ => {}
        }
        let mut unset = BytesMut::new();
        put_default(field, self.from, self.compact.0, &mut unset);
        let value = skim(&mut self.cursor, field, self.from, self.compact.0)?;
        if value == unset {
            return Ok(());
        }
        match (self.purpose, absent::stow(field.name)) {
            (Purpose::Read, Some(tag)) if self.compact == (true, true) => {
                stowed.push((tag, value));
                self.stowed += 1;
            }
            (Purpose::Write, _) if !absence(field).ignorable => return Err(Trouble::Lost(field.name)),
            _ => {}
        }
        Ok(())
    }

    /// A field that the version to read lacks.
    fn supply(&mut self, field: &'static Field, stowed: &Stowed<'a>) -> Step {
        match field.name {
            "is_default" => {
                // What stands next is the config source.
                let mut next = self.cursor;
                let [source] = next.take()?;
                self.out.put_u8(u8::from(source == absent::DEFAULT_CONFIG));
                return Ok(());
            }
            "old_style_offsets" => {
                // What stands next is the timestamp, then the offset.
                let mut next = self.cursor;
                let [_, offset]: [[u8; 8]; 2] = [next.take()?, next.take()?];
                // Any other offset, if negative too, is written as it was read.
                let known = i64::from_be_bytes(offset) != -1;
                self.out.put_i32(known.into());
                if known {
                    self.out.put_slice(&offset);
                }
                return Ok(());
            }
            "config_source" => {
                if let Some(source) = self.kept.config_source.take() {
                    self.out.put_u8(source);
                    return Ok(());
                }
            }
            "offset" => {
                if let Some(offset) = self.kept.offset.take() {
                    self.out.put_slice(&offset);
                    return Ok(());
                }
            }
            _ => {}
        }
        let value = absent::stow(field.name).and_then(|tag| stowed.iter().find(|(known, _)| *known == tag));
        match value {
            Some((_, value)) => self.out.put_slice(value),
            None => put_default(field, self.to, self.compact.1, self.out),
        }
        Ok(())
    }

    /// Whether a field is looked for among the tags.
    fn is_stowed(&self, field: &Field) -> bool {
        field.tag.is_none()
            && !field.exists(self.from)
            && field.exists(self.to)
            && absent::stow(field.name).is_some()
            && self.compact == (true, true)
    }

    /// What was stowed in the struct that begins here.
    fn stowed(&self, shape: &'static Shape) -> Result<Stowed<'a>, Trouble> {
        let mut ahead = self.cursor;
        for field in shape.fields.iter().filter(|field| field.tag.is_none() && field.exists(self.from)) {
            skim(&mut ahead, field, self.from, self.compact.0)?;
        }
        let mut stowed = Stowed::new();
        skim_tags(&mut ahead, |tag, value| {
            if absent::is_stow(tag) {
                stowed.push((tag, value));
            }
        })?;
        Ok(stowed)
    }

    /// The tags at the end of a struct: those that are there, and when reading, those that are stowed.
    fn tags(&mut self, shape: &'static Shape, mut stowed: Stowed<'a>) -> Step {
        let (mut tags, mut taken_out) = (Stowed::new(), Stowed::new());
        skim_tags(&mut self.cursor, |tag, value| {
            // No Kafka has tags this high: what is written was stowed, and what is read would be taken for that.
            if absent::is_stow(tag) { taken_out.push((tag, value)) } else { tags.push((tag, value)) }
        })?;
        match self.purpose {
            Purpose::Read => tags.append(&mut stowed),
            Purpose::Write => self.nothing_lost(shape, &taken_out)?,
        }
        tags.sort_unstable_by_key(|(tag, _)| *tag);
        put_varint(self.out, count(tags.len()));
        for (tag, value) in tags {
            put_varint(self.out, tag);
            put_varint(self.out, count(value.len()));
            self.out.put_slice(value);
        }
        Ok(())
    }

    /// Of what was stowed, nothing may be lost that may not be ignored.
    fn nothing_lost(&self, shape: &'static Shape, stowed: &Stowed<'a>) -> Step {
        for field in shape.fields.iter().filter(|field| !field.exists(self.to) && !absence(field).ignorable) {
            let tag = absent::stow(field.name);
            if let Some((_, value)) = stowed.iter().find(|(stowed, _)| Some(*stowed) == tag) {
                let mut unset = BytesMut::new();
                put_default(field, self.to, self.compact.1, &mut unset);
                if *value != unset {
                    return Err(Trouble::Lost(field.name));
                }
            }
        }
        Ok(())
    }
}

/// A count or a length of what lies in a frame; those are below 2^31.
fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// An element must take bytes, or a count could loop for nothing. (No struct of the table is of no bytes.)
fn some_left(cursor: &Cursor<'_>) -> Result<(), Why> {
    if cursor.is_empty() { Err(Why::Count) } else { Ok(()) }
}

/// Steps over a field, and gives its bytes.
fn skim<'a>(cursor: &mut Cursor<'a>, field: &Field, version: u8, compact: bool) -> Result<&'a [u8], Why> {
    let mut start = *cursor;
    skim_field(cursor, field, version, compact)?;
    start.skip(count(start.left() - cursor.left()))
}

fn skim_field(cursor: &mut Cursor<'_>, field: &Field, version: u8, compact: bool) -> Result<(), Why> {
    if let (Item::Struct(shape), false) = (field.kind.item, field.kind.array) {
        let present = !field.is_nullable(version) || cursor.take()? == [1];
        return if present { skim_structure(cursor, shape, version, compact) } else { Ok(()) };
    }
    if let (Item::Fixed(fixed), false) = (field.kind.item, field.kind.array) {
        return cursor.skip(fixed.width().into()).map(drop);
    }
    let text = matches!(field.kind.item, Item::Text);
    let length = cursor.length(compact, text && !field.kind.array)?.unwrap_or(0);
    if !field.kind.array {
        return cursor.skip(length).map(drop);
    }
    (0..length).try_for_each(|_| match field.kind.item {
        Item::Fixed(fixed) => cursor.skip(fixed.width().into()).map(drop),
        Item::Struct(shape) => {
            some_left(cursor)?;
            skim_structure(cursor, shape, version, compact)
        }
        Item::Text | Item::Bytes => {
            let length = cursor.length(compact, text)?.ok_or(Why::Null)?;
            cursor.skip(length).map(drop)
        }
    })
}

fn skim_structure(cursor: &mut Cursor<'_>, shape: &Shape, version: u8, compact: bool) -> Result<(), Why> {
    for field in shape.fields.iter().filter(|field| field.tag.is_none() && field.exists(version)) {
        skim_field(cursor, field, version, compact)?;
    }
    if compact { skim_tags(cursor, |_, _| ()) } else { Ok(()) }
}

/// Steps over the tags at the end of a struct, and shows each.
fn skim_tags<'a>(cursor: &mut Cursor<'a>, mut see: impl FnMut(u32, &'a [u8])) -> Result<(), Why> {
    for _ in 0..cursor.varint()? {
        let (tag, size) = (cursor.varint()?, cursor.varint()?);
        see(tag, cursor.skip(size)?);
    }
    Ok(())
}

/// Writes what stands for a field where it is not known.
fn put_default(field: &Field, version: u8, compact: bool, out: &mut BytesMut) {
    let known = absence(field).value.unwrap_or_default();
    let null = field.is_nullable(version);
    match (field.kind.item, field.kind.array) {
        (Item::Fixed(fixed), false) => {
            let width = usize::from(fixed.width());
            match known.get(..width) {
                Some(value) => out.put_slice(value),
                None => out.put_bytes(0, width),
            }
        }
        (Item::Struct(_), false) if null => out.put_i8(-1),
        (Item::Struct(shape), false) => {
            for inner in shape.fields.iter().filter(|inner| inner.tag.is_none() && inner.exists(version)) {
                put_default(inner, version, compact, out);
            }
            if compact {
                out.put_u8(0);
            }
        }
        (item, array) => {
            let text = matches!(item, Item::Text) && !array;
            put_length(out, if null { None } else { Some(0) }, compact, text);
        }
    }
}

fn put_length(out: &mut BytesMut, length: Option<u32>, compact: bool, text: bool) {
    match (compact, text) {
        (true, _) => put_varint(out, length.map_or(0, |length| length.saturating_add(1))),
        // Whoever calls has seen to it that text is no longer, and nothing in a frame is.
        (false, true) => out.put_i16(length.map_or(-1, |length| i16::try_from(length).unwrap_or(i16::MAX))),
        (false, false) => out.put_i32(length.map_or(-1, |length| i32::try_from(length).unwrap_or(i32::MAX))),
    }
}

fn put_varint(out: &mut BytesMut, mut value: u32) {
    while value >= 0x80 {
        // The lowest seven bits, and that more follow.
        out.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}
