//! Random valid frames, made from the same table that the walk reads.
//!
//! For tests: of the guard itself against kafka-protocol, and of whoever reads answers. Every length, null, tag and unknown
//! tag that a version allows occurs. Equal seeds give equal frames.

use super::shape::{Field, Fixed, Item, Message, Shape};
use super::{request_message, response_message, tables};
use crate::header::API_VERSIONS;

/// A source of random valid frames.
#[derive(Clone, Debug)]
pub struct Sampler {
    state: u64,
}

impl Sampler {
    /// A sampler whose frames depend on the seed alone.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { state: seed ^ 0x9e37_79b9_7f4a_7c15 }
    }

    /// A response frame, header included; `None` if Kafka has no such API or version.
    pub fn response(&mut self, api_key: i16, version: i16) -> Option<Vec<u8>> {
        let message = response_message(api_key)?;
        let known = message.version(version)?;
        let mut out = Vec::new();
        let flexible_header = message.is_flexible(known) && api_key != API_VERSIONS;
        self.structure(&tables::RESPONSE_HEADER, known, flexible_header, false, &mut out);
        self.structure(message.root, known, message.is_flexible(known), false, &mut out);
        Some(out)
    }

    /// A request frame, header included; `None` if Kafka has no such API or version.
    pub fn request(&mut self, api_key: i16, version: i16) -> Option<Vec<u8>> {
        let message = request_message(api_key)?;
        let known = message.version(version)?;
        let mut out = Vec::new();
        self.structure(&tables::REQUEST_HEADER, known, message.is_flexible(known), false, &mut out);
        if let Some(head) = out.first_chunk_mut() {
            let [a, b] = api_key.to_be_bytes();
            let [c, d] = version.to_be_bytes();
            *head = [a, b, c, d];
        }
        self.structure(message.root, known, message.is_flexible(known), false, &mut out);
        Some(out)
    }

    /// A body without a header; `None` if the message has no such version.
    pub fn body(&mut self, message: &Message, version: i16) -> Option<Vec<u8>> {
        let known = message.version(version)?;
        let mut out = Vec::new();
        self.structure(message.root, known, message.is_flexible(known), false, &mut out);
        Some(out)
    }

    /// A random number below `bound`; 0 if that is 0. (SplitMix64.)
    pub fn below(&mut self, bound: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).checked_rem(bound).unwrap_or(0)
    }

    fn structure(&mut self, shape: &Shape, version: u8, compact: bool, filled: bool, out: &mut Vec<u8>) {
        for field in shape.fields.iter().filter(|field| field.exists(version) && field.tag.is_none()) {
            self.field(field, version, compact, filled, out);
        }
        if compact {
            self.tags(shape, version, out);
        }
    }

    /// Known tagged fields and unknown ones, mixed in ascending order.
    fn tags(&mut self, shape: &Shape, version: u8, out: &mut Vec<u8>) {
        let known = |tag: u8| shape.fields.iter().find(|field| field.tag == Some(tag));
        let mut chosen = Vec::new();
        for tag in 0..8_u8 {
            let value = match known(tag) {
                Some(field) if field.exists(version) && self.below(2) == 0 => {
                    let mut value = Vec::new();
                    self.field(field, version, true, true, &mut value);
                    value
                }
                // Low numbers too: one that the table forgot must not pass for an unknown tag.
                None if self.below(24) == 0 => self.bytes(9),
                _ => continue,
            };
            chosen.push((u32::from(tag), value));
        }
        if self.below(12) == 0 {
            chosen.push((8 + self.below(100_000) as u32, self.bytes(200)));
        }
        put_varint(out, chosen.len() as u32);
        for (tag, value) in chosen {
            put_varint(out, tag);
            put_varint(out, value.len() as u32);
            out.extend_from_slice(&value);
        }
    }

    /// `filled`: not null, not empty and no default, because writers leave a tagged field out that has its default value.
    fn field(&mut self, field: &Field, version: u8, compact: bool, filled: bool, out: &mut Vec<u8>) {
        let null = field.is_nullable(version) && !filled && self.below(4) == 0;
        let compact_length = compact && !field.is_rigid();
        let floor = u64::from(filled);
        match (field.kind.item, field.kind.array) {
            (Item::Struct(shape), false) => {
                if field.is_nullable(version) {
                    out.push(if null { 0xff } else { 1 });
                }
                if !null {
                    self.structure(shape, version, compact, filled, out);
                }
            }
            (_, true) if null => put_length(out, None, compact_length, false),
            (item, true) => {
                let count = floor + self.below(3);
                put_length(out, Some(count as usize), compact_length, false);
                for _ in 0..count {
                    match item {
                        Item::Struct(shape) => self.structure(shape, version, compact, false, out),
                        item => self.single(item, compact_length, 0, out),
                    }
                }
            }
            (item, false) if null => put_length(out, None, compact_length, matches!(item, Item::Text)),
            (item, false) => self.single(item, compact_length, floor, out),
        }
    }

    fn single(&mut self, item: Item, compact: bool, floor: u64, out: &mut Vec<u8>) {
        match item {
            Item::Fixed(Fixed::Bool) => out.push(if floor > 0 { 1 } else { self.below(2) as u8 }),
            Item::Fixed(fixed) => {
                // Now and then a default or what lies beside it, else any value. Where a default would be left out, the first
                // byte is that of none: 0, -1 or the extremes.
                let (first, rest) = match if floor > 0 { 0 } else { self.below(8) } {
                    0..=3 => (1 + self.below(120) as u8, None),
                    4 => (self.below(256) as u8, None),
                    5 => (0, Some(0)),
                    6 => (0xff, Some(0xff)),
                    _ => (0xff, None),
                };
                out.push(first);
                out.extend((1..fixed.width()).map(|_| rest.unwrap_or_else(|| self.below(256) as u8)));
            }
            Item::Text => {
                // Now and then so long that a compact length takes two bytes.
                let letters = if self.below(16) == 0 { 90 } else { floor + self.below(6) };
                let text: String =
                    (0..letters).filter_map(|_| "aZ0.é☃𝄞".chars().nth(self.below(7) as usize)).collect();
                put_length(out, Some(text.len()), compact, true);
                out.extend_from_slice(text.as_bytes());
            }
            Item::Bytes | Item::Struct(_) => {
                let value = self.bytes(20);
                put_length(out, Some(value.len()), compact, false);
                out.extend_from_slice(&value);
            }
        }
    }

    /// At least one byte, at most `most`.
    fn bytes(&mut self, most: u64) -> Vec<u8> {
        (0..=self.below(most)).map(|_| self.below(256) as u8).collect()
    }
}

fn put_length(out: &mut Vec<u8>, length: Option<usize>, compact: bool, text: bool) {
    match (compact, text) {
        (true, _) => put_varint(out, length.map_or(0, |length| length as u32 + 1)),
        (false, true) => out.extend_from_slice(&length.map_or(-1, |length| length as i16).to_be_bytes()),
        (false, false) => out.extend_from_slice(&length.map_or(-1, |length| length as i32).to_be_bytes()),
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
