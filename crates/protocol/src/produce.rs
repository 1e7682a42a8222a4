//! Produce requests as scatter lists: the small parts are written here, the batches go out as they lie.
//!
//! ```text
//! Head + [Part] -> encode -> [ length, header, topic, partition | batch | partition | batch | ... ] -> writev
//! ```
//!
//! The frame is what kafka-protocol would write, byte for byte, in versions 0 to 13. A batch is a record batch from
//! version 3 on, a message set of format 1 in version 2, and of format 0 before; which of them it is is not looked at here.
//!
//! # References
//! Kafka protocol guide, "Produce API"; the request header is version 1, from Produce 9 on version 2 (KIP-482); topics have ids
//! from version 13 on (KIP-516).

use std::collections::HashMap;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use uuid::Uuid;

use crate::error::{ProtocolError, Result};
use crate::types::PartitionId;
use crate::versions::VersionRange;

/// The versions that [`encode`] writes.
pub const VERSIONS: VersionRange = VersionRange { min: 0, max: 13 };

/// The first version with transactional ids, and with record batches instead of message sets (KIP-98).
const TRANSACTIONAL_IDS_FROM: i16 = 3;

/// From this version on, lengths are varints and there are tagged fields (KIP-482).
const FLEXIBLE_FROM: i16 = 9;

/// The first version that names topics by id (KIP-516).
pub const TOPIC_IDS_FROM: i16 = 13;

/// Batches up to this size are copied behind their head: a piece of its own costs more than the copy.
const COPY_BELOW: usize = 4096;

/// The key of Produce.
const KEY: i16 = 0;

/// The settings of a request that its batches share.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// The version; one of [`VERSIONS`].
    pub version: i16,
    /// The number that the answer repeats.
    pub correlation_id: i32,
    /// The name brokers log; at most 32,767 bytes.
    pub client_id: &'a str,
    /// 0, 1 or -1 (all in-sync replicas).
    pub acks: i16,
    /// How long the broker may wait for its followers; sent in whole milliseconds, at most `i32::MAX` of them.
    pub timeout: Duration,
    /// The transactional id, if the batches are part of a transaction; from version 3 on.
    pub transactional_id: Option<&'a str>,
}

/// One batch of a request, and where it goes.
pub trait Part {
    /// The topic's name; sent in versions before 13.
    fn topic(&self) -> &str;

    /// The topic's id; sent from version 13 on. Without one 16 zeros are sent, and the broker answers UNKNOWN_TOPIC_ID.
    fn topic_id(&self) -> Option<Uuid>;

    /// The partition.
    fn partition(&self) -> PartitionId;

    /// The encoded batch.
    fn batch(&self) -> &Bytes;
}

/// Writes a whole request frame with its length, in pieces that are to be sent one after the other. Each topic is named
/// once, in the order in which it first occurs; batches of 4 KiB and more are pieces of their own and not copied.
///
/// # Errors
/// Unsupported for a version that is not in [`VERSIONS`], or for a transactional id before version 3. Malformed for a name longer than
/// 32,767 bytes. TooLarge if the frame would be larger than `i32::MAX` bytes.
pub fn encode<P: Part>(head: &Head<'_>, parts: &[P]) -> Result<Vec<Bytes>> {
    if !VERSIONS.contains(head.version) {
        return Err(ProtocolError::unsupported(format!("Produce v{} is not spoken here", head.version)));
    }
    let mut out = Pieces::new(head.version >= FLEXIBLE_FROM, parts);
    out.head.put_i32(0);
    out.head.put_i16(KEY);
    out.head.put_i16(head.version);
    out.head.put_i32(head.correlation_id);
    out.rigid_string(head.client_id, "client_id")?;
    out.end_of_struct();
    match head.transactional_id {
        Some(id) if head.version >= TRANSACTIONAL_IDS_FROM => out.string(id, "transactional_id")?,
        Some(_) => {
            let text = format!("Produce v{} knows no transactions", head.version);
            return Err(ProtocolError::unsupported(text).with_field("transactional_id"));
        }
        None if out.flexible => out.head.put_u8(0),
        None if head.version >= TRANSACTIONAL_IDS_FROM => out.head.put_i16(-1),
        None => {}
    }
    out.head.put_i16(head.acks);
    out.head.put_i32(i32::try_from(head.timeout.as_millis()).unwrap_or(i32::MAX));
    out.topics(parts, head.version >= TOPIC_IDS_FROM)?;
    out.end_of_struct();
    out.seal()
}

/// The parts by topic, topics in the order in which they first occur, parts of one topic in theirs.
fn by_topic<P: Part>(parts: &[P]) -> (usize, Vec<(usize, &P)>) {
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut ordered = Vec::with_capacity(parts.len());
    let mut last: Option<(&str, usize)> = None;
    for part in parts {
        let topic = part.topic();
        let next = places.len();
        let place = match last {
            // Most often the parts of a topic stand together.
            Some((same, place)) if same == topic => place,
            _ => *places.entry(topic).or_insert(next),
        };
        last = Some((topic, place));
        ordered.push((place, part));
    }
    if !ordered.is_sorted_by_key(|(place, _)| *place) {
        ordered.sort_by_key(|(place, _)| *place);
    }
    (places.len(), ordered)
}

/// A frame that is being written: one buffer of small parts, and the batches that stand between them.
struct Pieces {
    head: BytesMut,
    /// Batches that are pieces of their own, and the place in `head` before which each stands.
    batches: Vec<(usize, Bytes)>,
    flexible: bool,
}

impl Pieces {
    fn new<P: Part>(flexible: bool, parts: &[P]) -> Self {
        let (mut small, mut large) = (0, 0);
        for part in parts {
            match part.batch().len() {
                length if length < COPY_BELOW => small += length,
                _ => large += 1,
            }
        }
        // A partition takes at most 10 bytes beside its batch; a topic's name or id about 40.
        let head = BytesMut::with_capacity(256 + parts.len() * 12 + small);
        Self { head, batches: Vec::with_capacity(large), flexible }
    }

    fn topics<P: Part>(&mut self, parts: &[P], ids: bool) -> Result<()> {
        let (count, ordered) = by_topic(parts);
        self.count(count, "topic_data")?;
        for partitions in ordered.chunk_by(|(a, _), (b, _)| a == b) {
            let Some((_, first)) = partitions.first() else { continue };
            if ids {
                self.head.put_slice(first.topic_id().unwrap_or_default().as_bytes());
            } else {
                self.string(first.topic(), "name")?;
            }
            self.count(partitions.len(), "partition_data")?;
            for (_, part) in partitions {
                self.head.put_i32(part.partition().0);
                self.bytes(part.batch())?;
                self.end_of_struct();
            }
            self.end_of_struct();
        }
        Ok(())
    }

    fn end_of_struct(&mut self) {
        if self.flexible {
            self.head.put_u8(0);
        }
    }

    fn count(&mut self, count: usize, field: &'static str) -> Result<()> {
        let count = i32::try_from(count).map_err(|_| too_large().with_field(field))?;
        if self.flexible {
            put_varint(&mut self.head, count as u32 + 1);
        } else {
            self.head.put_i32(count);
        }
        Ok(())
    }

    fn string(&mut self, text: &str, field: &'static str) -> Result<()> {
        if !self.flexible {
            return self.rigid_string(text, field);
        }
        put_varint(&mut self.head, u32::from(length_of(text, field)?.unsigned_abs()) + 1);
        self.head.put_slice(text.as_bytes());
        Ok(())
    }

    /// A string whose length takes two bytes in every version.
    fn rigid_string(&mut self, text: &str, field: &'static str) -> Result<()> {
        self.head.put_i16(length_of(text, field)?);
        self.head.put_slice(text.as_bytes());
        Ok(())
    }

    fn bytes(&mut self, bytes: &Bytes) -> Result<()> {
        self.count(bytes.len(), "records")?;
        if bytes.len() < COPY_BELOW {
            self.head.put_slice(bytes);
        } else {
            self.batches.push((self.head.len(), bytes.clone()));
        }
        Ok(())
    }

    /// Writes the length in front, and cuts the buffer where batches stand.
    fn seal(mut self) -> Result<Vec<Bytes>> {
        let batches: usize = self.batches.iter().map(|(_, batch)| batch.len()).sum();
        let length = (self.head.len() + batches).saturating_sub(crate::frame::PREFIX);
        let length = i32::try_from(length).map_err(|_| too_large())?;
        if let Some(place) = self.head.first_chunk_mut() {
            *place = length.to_be_bytes();
        }
        let mut rest = self.head.freeze();
        let mut pieces = Vec::with_capacity(self.batches.len() * 2 + 1);
        let mut written = 0;
        for (place, batch) in self.batches {
            pieces.push(rest.split_to(place - written));
            pieces.push(batch);
            written = place;
        }
        if !rest.is_empty() {
            pieces.push(rest);
        }
        Ok(pieces)
    }
}

/// The length of a name: compact strings could be longer, but Kafka's own readers take no more in any version.
fn length_of(text: &str, field: &'static str) -> Result<i16> {
    i16::try_from(text.len())
        .map_err(|_| ProtocolError::malformed("a name is longer than 32767 bytes").with_field(field))
}

fn too_large() -> ProtocolError {
    ProtocolError::too_large("the request is larger than 2 GiB")
}

fn put_varint(out: &mut BytesMut, mut value: u32) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_are_those_of_kip_482() {
        let written = |value| {
            let mut out = BytesMut::new();
            put_varint(&mut out, value);
            out.to_vec()
        };
        assert_eq!(written(0), [0]);
        assert_eq!(written(127), [0x7f]);
        assert_eq!(written(128), [0x80, 1]);
        assert_eq!(written(u32::MAX), [0xff, 0xff, 0xff, 0xff, 0x0f]);
    }
}
