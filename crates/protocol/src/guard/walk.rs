//! The walk over a frame.

use super::Cost;
use super::cursor::{Cursor, Why};
use super::shape::{Field, Item, Kind, Message, Shape};

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
pub(crate) const FIRST_TAG: u64 = 480;
/// What each further one costs: its share of half-full leaves.
const NEXT_TAG: u64 = 96;

/// The walk. Total: every step takes bytes from the cursor or ends, and it recurses as deep as the table nests, never as
/// deep as the bytes say. Nothing is allocated.
struct Walk<'a> {
    cursor: Cursor<'a>,
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
        if walk.cursor.is_empty() { Ok(()) } else { Err(Why::Trailing) }
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
    let cursor = Cursor::new(bytes);
    let mut walk = Walk { cursor, version, compact, limit, cost: Cost::default(), refused: "" };
    match steps(&mut walk) {
        Ok(()) => Ok(walk.cost),
        Err(why) => Err(Refusal { why, at: bytes.len() - walk.cursor.left_of_frame(), field: walk.refused }),
    }
}

impl Walk<'_> {
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
            self.cursor.skip(kind.width.into()).map(drop)
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
                true => match self.cursor.take()? {
                    [1] => self.structure(shape),
                    [0xff] => Ok(()),
                    _ => Err(Why::Presence),
                },
            };
        }
        let text = matches!(field.kind.item, Item::Text) && !field.kind.array;
        match self.cursor.length(compact, text)? {
            Some(count) if field.kind.array => self.elements(field.kind, count, compact),
            Some(length) if text => self.cursor.text(length).map(drop),
            Some(length) => self.cursor.skip(length).map(drop),
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
        if all > self.cursor.left() as u64 {
            return Err(Why::Count);
        }
        self.cost.elements = self.cost.elements.saturating_add(count.into());
        self.spend(u64::from(count) * memory)?;
        match kind.item {
            // No larger than the rest, so it fits.
            Item::Fixed(_) => self.cursor.skip(all as u32).map(drop),
            Item::Struct(shape) => (0..count).try_for_each(|_| self.structure(shape)),
            Item::Text | Item::Bytes => (0..count).try_for_each(|_| {
                let text = matches!(kind.item, Item::Text);
                match self.cursor.length(compact, text)? {
                    Some(length) if text => self.cursor.text(length).map(drop),
                    Some(length) => self.cursor.skip(length).map(drop),
                    None => Err(Why::Null),
                }
            }),
        }
    }

    /// The tagged fields at the end of a struct.
    #[inline]
    fn tags(&mut self, shape: &'static Shape) -> Result<(), Why> {
        match self.cursor.varint()? {
            0 => Ok(()),
            count => self.some_tags(shape, count),
        }
    }

    fn some_tags(&mut self, shape: &'static Shape, count: u32) -> Result<(), Why> {
        // Each takes a byte of tag and a byte of size at least.
        if u64::from(count) * 2 > self.cursor.left() as u64 {
            return Err(Why::Count);
        }
        let (mut lowest, mut price) = (0, FIRST_TAG);
        for _ in 0..count {
            let tag = self.cursor.varint()?;
            if tag < lowest || tag > i32::MAX as u32 {
                return Err(Why::Tag);
            }
            lowest = tag + 1;
            let size = self.cursor.varint()?;
            match shape.fields.iter().find(|field| field.tag.is_some_and(|known| u32::from(known) == tag)) {
                Some(field) if field.exists(self.version) => self.tagged(field, size)?,
                Some(_) => return Err(Why::Tag),
                None => {
                    self.cursor.skip(size)?;
                    self.spend(price)?;
                    price = NEXT_TAG;
                }
            }
        }
        Ok(())
    }

    /// A known tagged field: it sees its own bytes alone, and must use them all.
    fn tagged(&mut self, field: &'static Field, size: u32) -> Result<(), Why> {
        let outer = self.cursor.enter(size)?;
        self.field(field)?;
        self.cursor.leave(outer).inspect_err(|_| self.refused = field.name)
    }

    #[inline]
    fn spend(&mut self, memory: u64) -> Result<(), Why> {
        self.cost.memory = self.cost.memory.saturating_add(memory);
        if self.cost.memory > self.limit { Err(Why::Memory) } else { Ok(()) }
    }
}
