//! What members of a consumer group tell each other through the coordinator (`ConsumerProtocol`, KIP-429, KIP-792, KIP-881).
//!
//! The coordinator does not read these bytes: they come from other members as they wrote them, so they are guarded like
//! frames. As in Kafka's own client, bytes after the end are ignored, and a version newer than those known here is read as
//! the newest known one, of which it is an extension.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{ConsumerProtocolAssignment, ConsumerProtocolSubscription};
use kafka_protocol::protocol::{Decodable, Encodable, Message};

use crate::error::{ErrorKind, ProtocolError, Result};
use crate::guard;
use crate::guard::shape;

/// Reads what a member wants (`metadata` in JoinGroup and DescribeGroups).
///
/// # Errors
/// Truncated, Guard or Malformed for bytes that are no subscription.
pub fn decode_subscription(bytes: Bytes) -> Result<ConsumerProtocolSubscription> {
    decode(guard::consumer_subscription(), bytes)
}

/// Reads what a member is given (`assignment` in SyncGroup and DescribeGroups). No bytes at all mean no partitions.
///
/// # Errors
/// Truncated, Guard or Malformed for bytes that are no assignment.
pub fn decode_assignment(bytes: Bytes) -> Result<ConsumerProtocolAssignment> {
    if bytes.is_empty() {
        return Ok(ConsumerProtocolAssignment::default());
    }
    decode(guard::consumer_assignment(), bytes)
}

/// Writes what a member wants, in the newest version known here. Older readers ignore what they do not know.
///
/// # Errors
/// Malformed if a string or an array is too long.
pub fn encode_subscription(subscription: &ConsumerProtocolSubscription) -> Result<Bytes> {
    encode(subscription)
}

/// Writes what a member is given, in the newest version known here.
///
/// # Errors
/// Malformed if a string or an array is too long.
pub fn encode_assignment(assignment: &ConsumerProtocolAssignment) -> Result<Bytes> {
    encode(assignment)
}

fn decode<M: Message + Decodable>(message: &shape::Message, mut bytes: Bytes) -> Result<M> {
    if bytes.len() < 2 {
        return Err(ProtocolError::truncated(format!("{} has no version", message.name)).with_at(bytes.len()));
    }
    let version = bytes.get_i16();
    if version < 0 {
        return Err(ProtocolError::malformed(format!("{} has version {version}", message.name)).with_at(0));
    }
    let version = version.clamp(M::VERSIONS.min, M::VERSIONS.max);
    guard::check_prefix(message, version, &bytes)?;
    let failed = |error| ProtocolError::new(ErrorKind::Malformed, format!("{}: {error:#}", message.name));
    M::decode(&mut bytes, version).map_err(failed)
}

fn encode<M: Message + Encodable>(message: &M) -> Result<Bytes> {
    let mut out = BytesMut::new();
    out.put_i16(M::VERSIONS.max);
    message
        .encode(&mut out, M::VERSIONS.max)
        .map_err(|error| ProtocolError::malformed(format!("{error:#}")))?;
    Ok(out.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::sample::Sampler;
    use kafka_protocol::messages::TopicName;
    use kafka_protocol::messages::consumer_protocol_assignment::TopicPartition;
    use kafka_protocol::protocol::StrBytes;

    fn versioned(version: i16, body: &[u8]) -> Bytes {
        [&version.to_be_bytes(), body].concat().into()
    }

    #[test]
    fn what_is_written_is_read_and_what_is_cut_is_refused() {
        let partitions = TopicPartition::default()
            .with_topic(TopicName(StrBytes::from_static_str("orders")))
            .with_partitions(vec![0, 7]);
        let assignment = ConsumerProtocolAssignment::default().with_assigned_partitions(vec![partitions]);
        let bytes = encode_assignment(&assignment).unwrap();
        assert_eq!(decode_assignment(bytes.clone()).unwrap(), assignment);
        assert_eq!(decode_assignment(Bytes::new()).unwrap(), ConsumerProtocolAssignment::default());
        for cut in 1..bytes.len() {
            assert!(decode_assignment(bytes.slice(..cut)).is_err(), "{cut}");
        }
        let subscription = ConsumerProtocolSubscription::default()
            .with_topics(vec![StrBytes::from_static_str("orders")])
            .with_rack_id(Some(StrBytes::from_static_str("r1")));
        assert_eq!(decode_subscription(encode_subscription(&subscription).unwrap()).unwrap(), subscription);
    }

    #[test]
    fn a_newer_version_is_read_as_the_newest_known_and_its_additions_are_ignored() {
        for seed in 0..50 {
            let mut sampler = Sampler::new(seed);
            let mut body = sampler.body(guard::consumer_subscription(), 3).unwrap();
            let known = decode_subscription(versioned(3, &body)).unwrap();
            body.extend_from_slice(b"more");
            assert_eq!(decode_subscription(versioned(4, &body)).unwrap(), known);
            for version in 0..=3 {
                let body = sampler.body(guard::consumer_subscription(), version).unwrap();
                decode_subscription(versioned(version, &body)).unwrap();
                let body = sampler.body(guard::consumer_assignment(), version).unwrap();
                decode_assignment(versioned(version, &body)).unwrap();
            }
        }
    }

    #[test]
    fn a_hostile_member_cannot_end_the_process() {
        let error = decode_assignment(versioned(1, &[0x7f, 0xff, 0xff, 0xff])).unwrap_err();
        assert_eq!((error.kind(), error.field()), (ErrorKind::Guard, Some("assigned_partitions")));
        assert!(decode_subscription(versioned(-1, &[0; 20])).is_err());
    }
}
