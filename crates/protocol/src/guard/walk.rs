//! The walk over a frame.

use super::Cost;
use super::shape::{Field, Item, Kind, Message, Shape};

/// Why a frame was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Why {
    /// The frame ends inside of a field.
    Short,
    /// A length below -1.
    Negative,
    /// Null where the version does not allow it.
    Null,
    /// More elements than the remaining bytes can hold.
    Count,
    /// A varint of more than 32 bits.
    Varint,
    /// A nullable struct that is neither absent (-1) nor present (1).
    Presence,
    /// Tags that do not ascend, are above `i32::MAX`, or belong to a field the version lacks.
    Tag,
    /// A tagged field that does not fill its stated size.
    TagSize,
    /// Text that is not UTF-8.
    Utf8,
    /// Bytes after the end.
    Trailing,
    /// Decoding could take more memory than allowed.
    Memory,
}

impl Why {
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Short => "the frame ends too early",
            Self::Negative => "a length is negative",
            Self::Null => "null where the version has none",
            Self::Count => "a count is larger than the frame can hold",
            Self::Varint => "a varint has more than 32 bits",
            Self::Presence => "a struct is neither present nor absent",
            Self::Tag => "a tag is out of order or not of this version",
            Self::TagSize => "a tagged field does not have its stated size",
            Self::Utf8 => "a string is not UTF-8",
            Self::Trailing => "bytes follow the end",
            Self::Memory => "decoding would take more memory than its size allows",
        }
    }
}

/// Why, at which byte, and in which field ("" if in none).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Refusal {
    pub(super) why: Why,
    pub(super) at: usize,
    pub(super) field: &'static str,
}

/// Bytes of a string's or a byte field's handle (`bytes::Bytes`). What it points to is the frame itself.
const HANDLE: u64 = 32;
/// What the first unknown tag of a struct costs: a leaf of the map they are kept in.
const FIRST_TAG: u64 = 480;
/// What each further one costs: its share of half-full leaves.
const NEXT_TAG: u64 = 96;

/// The walk. Total: every step takes bytes from `rest` or ends, and it recurses as deep as the table nests, never as
/// deep as the bytes say. Nothing is allocated.
struct Walk<'a> {
    /// What is left of the frame, or of the tagged field being read.
    rest: &'a [u8],
    /// Bytes of the frame after `rest`: none, except inside of a tagged field.
    after: usize,
    version: u8,
    compact: bool,
    limit: u64,
    cost: Cost,
    /// The innermost field that was refused; "" until then.
    refused: &'static str,
}

/// Walks a frame: a header, flexible or not, and a body. `limit` caps the memory that decoding it may take.
pub(super) fn walk(
    message: &Message,
    version: u8,
    header: Option<(&'static Shape, bool)>,
    frame: &[u8],
    limit: u64,
) -> Result<Cost, Refusal> {
    run(message, version, frame, limit, |walk| {
        let flexible = walk.compact;
        if let Some((shape, compact)) = header {
            walk.compact = compact;
            walk.structure(shape)?;
            walk.compact = flexible;
        }
        walk.structure(message.root)?;
        if walk.rest.is_empty() { Ok(()) } else { Err(Why::Trailing) }
    })
}

/// Walks a body that more may follow.
pub(super) fn walk_prefix(message: &Message, version: u8, bytes: &[u8], limit: u64) -> Result<Cost, Refusal> {
    run(message, version, bytes, limit, |walk| walk.structure(message.root))
}

fn run<'a>(
    message: &Message,
    version: u8,
    bytes: &'a [u8],
    limit: u64,
    steps: impl FnOnce(&mut Walk<'a>) -> Result<(), Why>,
) -> Result<Cost, Refusal> {
    let compact = message.is_flexible(version);
    let mut walk =
        Walk { rest: bytes, after: 0, version, compact, limit, cost: Cost::default(), refused: "" };
    match steps(&mut walk) {
        Ok(()) => Ok(walk.cost),
        Err(why) => Err(Refusal { why, at: bytes.len() - walk.after - walk.rest.len(), field: walk.refused }),
    }
}

impl<'a> Walk<'a> {
    fn structure(&mut self, shape: &'static Shape) -> Result<(), Why> {
        for field in shape.fields {
            if field.exists(self.version) && field.tag.is_none() {
                self.field(field)?;
            }
        }
        if self.compact { self.tags(shape) } else { Ok(()) }
    }

    #[inline]
    fn field(&mut self, field: &'static Field) -> Result<(), Why> {
        let kind = field.kind;
        let done = if kind.width > 0 && !kind.array {
            self.skip(kind.width.into()).map(drop)
        } else {
            self.sized(field)
        };
        done.inspect_err(|_| {
            if self.refused.is_empty() {
                self.refused = field.name;
            }
        })
    }

    /// A field that says its own size: text, bytes, an array, a struct.
    fn sized(&mut self, field: &'static Field) -> Result<(), Why> {
        let compact = self.compact && !field.is_rigid();
        let null = field.is_nullable(self.version);
        if let (Item::Struct(shape), false) = (field.kind.item, field.kind.array) {
            return match null {
                false => self.structure(shape),
                true => match self.take()? {
                    [1] => self.structure(shape),
                    [0xff] => Ok(()),
                    _ => Err(Why::Presence),
                },
            };
        }
        let text = matches!(field.kind.item, Item::Text) && !field.kind.array;
        match self.length(compact, text)? {
            Some(count) if field.kind.array => self.elements(field.kind, count, compact),
            Some(length) if text => self.text(length),
            Some(length) => self.skip(length).map(drop),
            None if null => Ok(()),
            None => Err(Why::Null),
        }
    }

    fn elements(&mut self, kind: Kind, count: u32, compact: bool) -> Result<(), Why> {
        let (fewest, memory) = match kind.item {
            Item::Fixed(_) => (kind.width.into(), kind.width.into()),
            Item::Text => (if compact { 1 } else { 2 }, HANDLE),
            Item::Bytes => (if compact { 1 } else { 4 }, HANDLE),
            // At least one byte, whatever the table says: a count must never be free.
            Item::Struct(shape) => (u64::from(shape.fewest_bytes).max(1), shape.memory.into()),
        };
        // The count is below 2^32 and the others below 2^16, so no product overflows.
        let all = u64::from(count) * fewest;
        if all > self.rest.len() as u64 {
            return Err(Why::Count);
        }
        self.cost.elements = self.cost.elements.saturating_add(count.into());
        self.spend(u64::from(count) * memory)?;
        match kind.item {
            // No larger than the rest, so it fits.
            Item::Fixed(_) => self.skip(all as u32).map(drop),
            Item::Struct(shape) => (0..count).try_for_each(|_| self.structure(shape)),
            Item::Text | Item::Bytes => (0..count).try_for_each(|_| {
                let text = matches!(kind.item, Item::Text);
                match self.length(compact, text)? {
                    Some(length) if text => self.text(length),
                    Some(length) => self.skip(length).map(drop),
                    None => Err(Why::Null),
                }
            }),
        }
    }

    /// The tagged fields at the end of a struct.
    #[inline]
    fn tags(&mut self, shape: &'static Shape) -> Result<(), Why> {
        match self.varint()? {
            0 => Ok(()),
            count => self.some_tags(shape, count),
        }
    }

    fn some_tags(&mut self, shape: &'static Shape, count: u32) -> Result<(), Why> {
        // Each takes a byte of tag and a byte of size at least.
        if u64::from(count) * 2 > self.rest.len() as u64 {
            return Err(Why::Count);
        }
        let (mut lowest, mut price) = (0, FIRST_TAG);
        for _ in 0..count {
            let tag = self.varint()?;
            if tag < lowest || tag > i32::MAX as u32 {
                return Err(Why::Tag);
            }
            lowest = tag + 1;
            let size = self.varint()?;
            match shape.fields.iter().find(|field| field.tag.is_some_and(|known| u32::from(known) == tag)) {
                Some(field) if field.exists(self.version) => self.tagged(field, size)?,
                Some(_) => return Err(Why::Tag),
                None => {
                    self.skip(size)?;
                    self.spend(price)?;
                    price = NEXT_TAG;
                }
            }
        }
        Ok(())
    }

    /// A known tagged field: it sees its own bytes alone, and must use them all.
    fn tagged(&mut self, field: &'static Field, size: u32) -> Result<(), Why> {
        let value = self.skip(size)?;
        let outer = std::mem::replace(&mut self.rest, value);
        self.after += outer.len();
        self.field(field)?;
        if !self.rest.is_empty() {
            self.refused = field.name;
            return Err(Why::TagSize);
        }
        self.after -= outer.len();
        self.rest = outer;
        Ok(())
    }

    /// A length or a count: a varint of one more when compact, else 16 bits for text or 32. `None` is null.
    #[inline]
    fn length(&mut self, compact: bool, text: bool) -> Result<Option<u32>, Why> {
        if compact {
            return Ok(self.varint()?.checked_sub(1));
        }
        let length =
            if text { i16::from_be_bytes(self.take()?).into() } else { i32::from_be_bytes(self.take()?) };
        match length {
            -1 => Ok(None),
            length => u32::try_from(length).map(Some).map_err(|_| Why::Negative),
        }
    }

    #[inline]
    fn text(&mut self, length: u32) -> Result<(), Why> {
        let text = self.skip(length)?;
        if std::str::from_utf8(text).is_ok() { Ok(()) } else { Err(Why::Utf8) }
    }

    #[inline]
    fn skip(&mut self, length: u32) -> Result<&'a [u8], Why> {
        let length = usize::try_from(length).map_err(|_| Why::Short)?;
        let (head, rest) = self.rest.split_at_checked(length).ok_or(Why::Short)?;
        self.rest = rest;
        Ok(head)
    }

    #[inline]
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Why> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(Why::Short)?;
        self.rest = rest;
        Ok(*head)
    }

    #[inline]
    fn varint(&mut self) -> Result<u32, Why> {
        let [first] = self.take()?;
        if first < 0x80 { Ok(first.into()) } else { self.long_varint(first) }
    }

    fn long_varint(&mut self, first: u8) -> Result<u32, Why> {
        let mut value = u32::from(first & 0x7f);
        for shift in [7, 14, 21, 28] {
            let [byte] = self.take()?;
            value |= u32::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return if shift == 28 && byte > 0x0f { Err(Why::Varint) } else { Ok(value) };
            }
        }
        Err(Why::Varint)
    }

    #[inline]
    fn spend(&mut self, memory: u64) -> Result<(), Why> {
        self.cost.memory = self.cost.memory.saturating_add(memory);
        if self.cost.memory > self.limit { Err(Why::Memory) } else { Ok(()) }
    }
}
