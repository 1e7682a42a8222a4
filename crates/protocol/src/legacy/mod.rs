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
//! | `old_style_offsets` | ListOffsets v0 response | `offset` is the first, or -1 | none if `offset` is negative, else that one |
//! | `max_num_offsets` | ListOffsets v0 request | nothing | 1 |
//! | `commit_timestamp` | OffsetCommit v1 request | nothing | -1: the broker takes its own time |
//! | `is_default` | DescribeConfigs v0 response | `config_source` as Java's client guesses it | whether that is 5 |
//!
//! # Memory
//! A rewritten body is a copy, of at most four times the body's size and 64 bytes. Strings and records are slices of it.

mod absent;
mod rewrite;

use bytes::{Bytes, BytesMut};
use kafka_protocol::protocol::{Decodable, Encodable};

use crate::error::{ProtocolError, Result};
use crate::guard::shape::Message;
use crate::guard::{Cost, Passed};
use crate::versions::VersionRange;
use rewrite::{Purpose, Trouble, rewrite};

/// The versions spoken of an API of which kafka-protocol has `direct`.
pub(crate) const fn spoken(api_key: i16, direct: VersionRange) -> VersionRange {
    let min = match api_key {
        // Produce, Fetch, ListOffsets, OffsetCommit, OffsetFetch
        0..=2 | 8 | 9
        // CreateTopics, DeleteTopics, OffsetForLeaderEpoch, WriteTxnMarkers
        | 19 | 20 | 23 | 27
        // ACLs, DescribeConfigs, AlterReplicaLogDirs, DescribeLogDirs, delegation tokens
        | 29..=32 | 34 | 35 | 38..=41 => 0,
        _ => direct.min,
    };
    VersionRange { min, max: direct.max }
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
pub(crate) fn decode<M: Decodable>(
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
        between(message, (version, nearest), Purpose::Read, &body, &mut rewritten)?;
        rewritten.freeze()
    };
    let decoded = M::decode(&mut rest, nearest).map_err(|error| {
        ProtocolError::malformed(format!("{} v{version} can't be read: {error:#}", message.name))
    })?;
    if rest.is_empty() {
        return Ok(decoded);
    }
    let text = format!("{} v{version}: {} bytes follow the end", message.name, rest.len());
    Err(ProtocolError::malformed(text))
}

/// Appends a body to `buf`. `direct` is what kafka-protocol has of it.
pub(crate) fn encode<M: Encodable>(
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
    if nearest == version {
        return body.encode(buf, version).map_err(|error| unencodable(&error));
    }
    let mut written = BytesMut::new();
    body.encode(&mut written, nearest).map_err(|error| unencodable(&error))?;
    between(message, (nearest, version), Purpose::Write, &written, buf)
}

fn between(
    message: &Message,
    (from, to): (i16, i16),
    purpose: Purpose,
    body: &[u8],
    out: &mut BytesMut,
) -> Result<()> {
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
