//! One trait for every API, whatever speaks it: kafka-protocol, or [`legacy`](crate::legacy) for versions it lacks.

use std::fmt::Debug;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages;
use kafka_protocol::protocol::Message;

use crate::apis::for_each_api;
use crate::error::{ProtocolError, Result};
use crate::guard::shape::Message as Shape;
use crate::guard::{self, Passed};
use crate::header::API_VERSIONS;
use crate::legacy;
use crate::throttle::Throttled;
use crate::versions::{VersionRange, api_name};

/// A request of Kafka's protocol, and the response to it, in every version that is spoken here.
///
/// Implemented by all request structs of [`messages`]. One struct serves all versions of an API: a field that a version
/// lacks reads as its default, and if it is set, writing it is an error (unless Kafka's schema calls it ignorable). What
/// versions before those of Kafka 4 do with a few fields is said in [`legacy`](crate::legacy).
///
/// Whole frames are written and read by [`encode_request`](crate::encode_request) and its neighbours; the methods here
/// are for bodies alone.
pub trait Request: Clone + PartialEq + Debug + Send + Sync + Sized + 'static {
    /// The number of the API.
    const KEY: i16;
    /// The versions spoken here, of the request as well as of the response.
    const VERSIONS: VersionRange;
    /// What a broker answers.
    type Response: Clone + PartialEq + Debug + Default + Send + Sync + Sized + 'static;

    /// The version of the header before a request: 2 with tagged fields, 1 without.
    ///
    /// (Version 0, without a client id, only ControlledShutdown v0 has.)
    #[must_use]
    fn request_header_version(version: i16) -> i16 {
        let flexible = guard::request_message(Self::KEY).is_some_and(|message| message.has_tags(version));
        if flexible { 2 } else { 1 }
    }

    /// The version of the header before a response: 1 with tagged fields, 0 without; 0 always for ApiVersions (KIP-511).
    #[must_use]
    fn response_header_version(version: i16) -> i16 {
        let flexible = guard::response_message(Self::KEY).is_some_and(|message| message.has_tags(version));
        if flexible && Self::KEY != API_VERSIONS { 1 } else { 0 }
    }

    /// How long the broker wants no other request on the connection that this answer came by (KIP-219). Zero in versions whose brokers waited
    /// themselves before they answered.
    #[must_use]
    fn throttle_time(response: &Self::Response, version: i16) -> Duration;

    /// Appends the request's body to `buf`.
    ///
    /// Nulls are not checked: [`encode_request`](crate::encode_request) does.
    ///
    /// # Errors
    /// Unsupported for a version outside of [`VERSIONS`](Self::VERSIONS), or if a field is set that the version lacks and that
    /// may not be ignored. Part of the body may then have been appended.
    fn encode_body(&self, version: i16, buf: &mut BytesMut) -> Result<()>;

    /// Appends a response's body to `buf`.
    ///
    /// # Errors
    /// As [`encode_body`](Self::encode_body).
    fn encode_response_body(response: &Self::Response, version: i16, buf: &mut BytesMut) -> Result<()>;

    /// Reads a request's body, all of it. Strings and bytes are slices of `body`, or of a copy of it in a legacy version.
    ///
    /// # Errors
    /// Guard if it is malformed, longer than a request, or costs too much memory to decode; Unsupported for a version
    /// outside of [`VERSIONS`](Self::VERSIONS).
    fn decode_body(body: Bytes, version: i16) -> Result<Self> {
        let message = guard::request_message(Self::KEY).ok_or_else(|| unknown_version(Self::KEY, version))?;
        Self::read_body(guard::check_body(message, version, &body)?, body, version)
    }

    /// Reads a response's body, all of it. Strings and bytes are slices of `body`, or of a copy of it in a legacy version.
    ///
    /// # Errors
    /// As [`decode_body`](Self::decode_body).
    fn decode_response_body(body: Bytes, version: i16) -> Result<Self::Response> {
        let message =
            guard::response_message(Self::KEY).ok_or_else(|| unknown_version(Self::KEY, version))?;
        Self::read_response_body(guard::check_body(message, version, &body)?, body, version)
    }

    #[doc(hidden)]
    fn read_body(passed: Passed, body: Bytes, version: i16) -> Result<Self>;

    #[doc(hidden)]
    fn read_response_body(passed: Passed, body: Bytes, version: i16) -> Result<Self::Response>;
}

/// The versions that kafka-protocol has of a message, and so need no rewriting.
trait Direct {
    const DIRECT: VersionRange;
}

macro_rules! requests {
    ($(($name:ident, $request:ident, $response:ident))*) => {$(
        impl Direct for messages::$request {
            const DIRECT: VersionRange = ours(<Self as Message>::VERSIONS);
        }

        impl Direct for messages::$response {
            const DIRECT: VersionRange = ours(<Self as Message>::VERSIONS);
        }

        impl Request for messages::$request {
            const KEY: i16 = <Self as kafka_protocol::protocol::Request>::KEY;
            const VERSIONS: VersionRange = legacy::spoken(
                <Self as Request>::KEY,
                Self::DIRECT,
                <messages::$response as Direct>::DIRECT,
            );
            type Response = messages::$response;

            fn throttle_time(response: &Self::Response, version: i16) -> Duration {
                Throttled::throttle_time(response, version)
            }

            fn encode_body(&self, version: i16, buf: &mut BytesMut) -> Result<()> {
                let shape = spoken::<Self>(guard::request_message, version)?;
                legacy::encode(shape, Self::DIRECT, self, version, buf)
            }

            fn encode_response_body(response: &Self::Response, version: i16, buf: &mut BytesMut) -> Result<()> {
                let shape = spoken::<Self>(guard::response_message, version)?;
                legacy::encode(shape, Self::Response::DIRECT, response, version, buf)
            }

            fn read_body(passed: Passed, body: Bytes, version: i16) -> Result<Self> {
                let shape = spoken::<Self>(guard::request_message, version)?;
                legacy::decode(shape, Self::DIRECT, &passed, body, version)
            }

            fn read_response_body(passed: Passed, body: Bytes, version: i16) -> Result<Self::Response> {
                let shape = spoken::<Self>(guard::response_message, version)?;
                legacy::decode(shape, Self::Response::DIRECT, &passed, body, version)
            }
        }
    )*};
}

const fn ours(range: kafka_protocol::protocol::VersionRange) -> VersionRange {
    VersionRange { min: range.min, max: range.max }
}

for_each_api!(requests);

/// The shape of a request or a response, if the version is spoken here.
fn spoken<R: Request>(shape: fn(i16) -> Option<&'static Shape>, version: i16) -> Result<&'static Shape> {
    let spoken = <R as Request>::VERSIONS.contains(version);
    shape(R::KEY).filter(|_| spoken).ok_or_else(|| unknown_version(R::KEY, version))
}

pub(crate) fn unknown_version(api_key: i16, version: i16) -> ProtocolError {
    ProtocolError::unsupported(format!("{} v{version} is not spoken here", api_name(api_key)))
}
