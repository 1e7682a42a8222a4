//! The Kafka wire protocol: frames, messages, versions, record batches, compression codecs.
//!
//! Bytes in, typed values out, and back. No IO, no clock, no policy. Messages are the structs of the crate
//! kafka-protocol, re-exported as [`messages`]; record batches and codecs are our own. No byte sequence makes this crate
//! panic or allocate more than a stated multiple of what was received: see [`guard`].
//!
//! - [`frame`]: where a frame begins and ends in a stream
//! - [`request`]: requests and responses as frames, on either side of a connection
//! - [`legacy`], [`newer`]: versions that kafka-protocol lacks
//! - [`versions`]: what is spoken here, what a broker speaks, and the best of both
//! - [`records`], [`compression`]: record batches, read without copying, and their codecs
//! - [`produce`], [`fetch`]: Produce requests as scatter lists, Fetch responses read in place
//! - [`dump`]: what a frame says, field by field, for people
//! - [`consumer_protocol`]: what members of a group tell each other
//! - [`error_code`], [`types`]: the numbers of the protocol, named
//!
//! ```
//! use bytes::BytesMut;
//! use milena_protocol::messages::{MetadataRequest, MetadataResponse};
//! use milena_protocol::{ResponseKind, decode_request, decode_response, encode_request, encode_response, frame};
//!
//! # fn main() -> milena_protocol::Result<()> {
//! let mut wire = BytesMut::new();
//! encode_request(&mut wire, 7, "example", 12, &MetadataRequest::default())?;
//!
//! // On the broker's side:
//! let question = frame::split(&mut wire, frame::DEFAULT_MAX)?.expect("a whole frame");
//! let question = decode_request(question)?;
//! let answer = ResponseKind::Metadata(MetadataResponse::default());
//! encode_response(&mut wire, question.api_key, question.version, question.correlation_id, &answer)?;
//!
//! // And back:
//! let answer = frame::split(&mut wire, frame::DEFAULT_MAX)?.expect("a whole frame");
//! let (correlation_id, answer) = decode_response::<MetadataRequest>(answer, 12)?;
//! assert_eq!((correlation_id, answer), (7, MetadataResponse::default()));
//! # Ok(())
//! # }
//! ```

mod api;
mod apis;
pub mod compression;
pub mod consumer_protocol;
pub mod dump;
pub mod error;
pub mod error_code;
pub mod fetch;
pub mod frame;
pub mod guard;
pub mod header;
pub mod legacy;
pub mod newer;
pub mod produce;
pub mod records;
mod releases;
pub mod request;
mod throttle;
pub mod types;
pub mod versions;

pub use api::Request;
pub use error::{ErrorKind, ProtocolError, Result};
pub use error_code::ErrorCode;
pub use header::correlation_id;
pub use kafka_protocol::messages;
pub use kafka_protocol::messages::{ApiKey, RequestKind, ResponseKind, TopicName};
pub use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Message, StrBytes};
pub use request::{
    RequestBody, RequestFrame, decode_any_response, decode_request, decode_response, encode_request,
    encode_request_frame, encode_response, request_key, response_key,
};
pub use types::{
    BrokerId, Isolation, LeaderEpoch, Offset, PartitionId, ProducerEpoch, ProducerId, Sequence,
    TopicPartition,
};
pub use versions::{BrokerVersions, Discovered, Discovery, VersionRange, api_name, supported};
