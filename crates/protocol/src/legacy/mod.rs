//! Versions of known APIs that kafka-protocol cannot speak: those that Kafka 4 dropped, and those newer than the crate.
//!
//! Brokers from 0.8.2 to 3.9 speak what Kafka 4.0 dropped: Produce 0 to 2, Fetch 0 to 3, ListOffsets 0, OffsetCommit 0 and
//! 1, and a dozen others. Every version of an API uses the same struct here, kafka-protocol's. A body in a version that the
//! crate lacks is rewritten, along the guard's table, to or from the nearest version it has:
//!
//! ```text
//!   read:   frame -> guard -> rewrite (v1 -> v3) -> kafka-protocol decodes v3
//!   write:  kafka-protocol encodes v3 -> rewrite (v3 -> v1) -> guard -> frame
//! ```
//!
//! A field that the old version lacks reads as the default that Kafka's schema gives it, and null where the schema allows null.
//! A field that is set and that the old version lacks is an error when written, unless the schema calls it ignorable.
//! Four fields that only old versions have stand elsewhere in the struct, or nowhere:
//!
//! | old field | of | reads as | is written as |
//! |---|---|---|---|
//! | `old_style_offsets` | ListOffsets v0 response | `offset` is the first, or -1 | none if `offset` is -1, else that one |
//! | `max_num_offsets` | ListOffsets v0 request | nothing | 1 |
//! | `commit_timestamp` | OffsetCommit v1 request | nothing | -1: the broker takes its own time |
//! | `is_default` | DescribeConfigs v0 response | `config_source` as Java's client guesses it | whether that is 5 |
//!
//! # Newer versions
//! A field that only a newer version has is kept among the struct's unknown tagged fields, under a tag of our own: see
//! [`crate::newer`], which names them. Written in a version that lacks the field, it is left out.
//!
//! # Memory
//! A rewritten body is a copy, of at most four times the body's size and 64 bytes. Strings and records are slices of it. Fields
//! kept among the tags count towards [`crate::guard::limit`].

mod absent;
mod rewrite;
#[cfg(test)]
mod tests;

use bytes::{Bytes, BytesMut};
use kafka_protocol::protocol::{Decodable, Encodable};

use crate::error::{ErrorKind, ProtocolError, Result};
use crate::guard::cursor::Why;
use crate::guard::shape::Message;
use crate::guard::{self, Cost, Passed};
use crate::newer;
use crate::versions::VersionRange;
use rewrite::{Purpose, Trouble, rewrite};

/// The versions spoken of an API, given those that kafka-protocol has of its requests and its responses.
///
/// (The crate's `ApiKey::valid_versions` promises more for OffsetCommit, OffsetFetch and InitProducerId than their requests
/// keep.) Left out are previews, which Kafka may still change: InitProducerId 6, and version 0 of the share group APIs.
pub(crate) const fn spoken(api_key: i16, request: VersionRange, response: VersionRange) -> VersionRange {
    let min = if request.min > response.min { request.min } else { response.min };
    let max = if request.max < response.max { request.max } else { response.max };
    let min = match api_key {
        // Produce, Fetch, ListOffsets, OffsetCommit, OffsetFetch
        0..=2 | 8 | 9
        // CreateTopics, DeleteTopics, OffsetForLeaderEpoch, WriteTxnMarkers
        | 19 | 20 | 23 | 27
        // ACLs, DescribeConfigs, AlterReplicaLogDirs, DescribeLogDirs, delegation tokens
        | 29..=32 | 34 | 35 | 38..=41
        // AlterPartition
        | 56 => 0,
        _ => min,
    };
    let max = match newest(api_key) {
        Some(newest) => newest,
        None => max,
    };
    VersionRange { min, max }
}

/// The newest version of an API of which Kafka 4.3 has a newer one than kafka-protocol.
const fn newest(api_key: i16) -> Option<i16> {
    Some(match api_key {
        // ListOffsets
        2 => 11,
        // OffsetCommit, OffsetFetch
        8 | 9 => 10,
        // DescribeLogDirs
        35 => 5,
        // WriteTxnMarkers, BrokerHeartbeat, ShareFetch, ShareAcknowledge
        27 | 63 | 78 | 79 => 2,
        // AddRaftVoter, WriteShareGroupState, ReadShareGroupStateSummary, DescribeShareGroupOffsets
        80 | 85 | 87 | 90 => 1,
        _ => return None,
    })
}

/// The tag under which a struct keeps a field that kafka-protocol has no place for.
pub(crate) fn stow(field: &str) -> Option<i32> {
    absent::stow(field).and_then(|tag| i32::try_from(tag).ok())
}

/// As much as a rewritten body can take. Every element took bytes of the body, so this is below its fourfold, and 64.
fn room(body: usize, cost: Cost) -> usize {
    // What the widest element gains (ListOffsets v0 to v1), and more than any message gains besides.
    const AN_ELEMENT: u64 = 12;
    const ONCE: u64 = 64;
    let gained = cost.elements.saturating_mul(AN_ELEMENT).saturating_add(ONCE);
    body.saturating_add(usize::try_from(gained).unwrap_or(0))
}

/// Decodes a body that the guard accepted. `direct` is what kafka-protocol has of it.
pub(crate) fn decode<M: Decodable + 'static>(
    message: &Message,
    direct: VersionRange,
    passed: &Passed,
    body: Bytes,
    version: i16,
) -> Result<M> {
    let nearest = version.clamp(direct.min, direct.max);
    let mut rest = if nearest == version {
        body
    } else {
        let mut rewritten = BytesMut::with_capacity(room(body.len(), passed.cost));
        let stowed = between(message, (version, nearest), Purpose::Read, &body, &mut rewritten)?;
        let memory = passed.cost.memory.saturating_add(stowed.saturating_mul(guard::FIRST_TAG));
        if memory > guard::limit(body.len()) {
            let text = format!("{} v{version} refused: {}", message.name, Why::Memory.text());
            return Err(ProtocolError::new(ErrorKind::Guard, text));
        }
        rewritten.freeze()
    };
    let mut decoded = M::decode(&mut rest, nearest).map_err(|error| {
        ProtocolError::malformed(format!("{} v{version} can't be read: {error:#}", message.name))
    })?;
    if rest.is_empty() {
        if version > nearest {
            newer::unstow_ids(&mut decoded);
        }
        return Ok(decoded);
    }
    let text = format!("{} v{version}: {} bytes follow the end", message.name, rest.len());
    Err(ProtocolError::malformed(text))
}

/// Appends a body to `buf`. `direct` is what kafka-protocol has of it.
pub(crate) fn encode<M: Encodable + Clone + 'static>(
    message: &Message,
    direct: VersionRange,
    body: &M,
    version: i16,
    buf: &mut BytesMut,
) -> Result<()> {
    let unencodable = |error: &dyn std::fmt::Display| {
        ProtocolError::unsupported(format!("{} v{version} can't be written: {error:#}", message.name))
    };
    let nearest = version.clamp(direct.min, direct.max);
    // Where there are stowed fields, they are taken out even if nothing else changes.
    if nearest == version && newest(message.api_key).is_none() {
        return body.encode(buf, version).map_err(|error| unencodable(&error));
    }
    let mut written = BytesMut::new();
    if version > nearest {
        let mut stowed = body.clone();
        newer::stow_ids(&mut stowed);
        stowed.encode(&mut written, nearest)
    } else {
        body.encode(&mut written, nearest)
    }
    .map_err(|error| unencodable(&error))?;
    between(message, (nearest, version), Purpose::Write, &written, buf).map(drop)
}

fn between(
    message: &Message,
    (from, to): (i16, i16),
    purpose: Purpose,
    body: &[u8],
    out: &mut BytesMut,
) -> Result<u64> {
    let (Some(known), Some(wanted)) = (message.version(from), message.version(to)) else {
        return Err(ProtocolError::unsupported(format!("{} has no version {from} or {to}", message.name)));
    };
    rewrite(message, (known, wanted), purpose, body, out).map_err(|trouble| match trouble {
        Trouble::Lost(field) => {
            ProtocolError::unsupported(format!("{} v{to} has no place for what is set", message.name))
                .with_field(field)
        }
        Trouble::Malformed(why) => {
            ProtocolError::malformed(format!("{} v{from} can't be read: {}", message.name, why.text()))
        }
    })
}
