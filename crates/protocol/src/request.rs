//! Requests and responses as frames, on the client's side and on the broker's.
//!
//! Bytes from a peer pass the [guard] before kafka-protocol's decoders see them.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{self, RequestKind, ResponseKind};
use kafka_protocol::protocol::{Decodable, HeaderVersion, Message, Request};

use crate::apis::for_each_api;
use crate::error::{ErrorKind, ProtocolError, Result};
use crate::error_code::ErrorCode;
use crate::guard;
use crate::header::{API_VERSIONS, request_head};
use crate::versions::{api_name, supported};

/// Appends a whole request frame to `buf`: its length, its header, its body.
///
/// # Errors
/// Unsupported if kafka-protocol does not know the version in both directions, or if the request has a field set that
/// the version lacks; Guard if a field is null that the version does not allow to be; Malformed if the client id is longer than
/// 32,767 bytes; TooLarge above 2 GiB. `buf` is then as it was.
pub fn encode_request<R: Request>(
    buf: &mut BytesMut,
    correlation_id: i32,
    client_id: &str,
    version: i16,
    request: &R,
) -> Result<()> {
    let known = R::VERSIONS.intersect(&<R::Response as Message>::VERSIONS);
    if version < known.min || version > known.max {
        return Err(unknown_version(R::KEY, version));
    }
    let Ok(client_id_length) = i16::try_from(client_id.len()) else {
        return Err(
            ProtocolError::malformed("the client id is longer than 32767 bytes").with_field("client_id")
        );
    };
    framed(
        buf,
        |buf| {
            buf.put_i16(R::KEY);
            buf.put_i16(version);
            buf.put_i32(correlation_id);
            buf.put_i16(client_id_length);
            buf.put_slice(client_id.as_bytes());
            if R::header_version(version) >= 2 {
                buf.put_u8(0);
            }
            request.encode(buf, version).map_err(|error| unencodable(R::KEY, version, &error))
        },
        guard::check_request,
    )
}

/// Reads a response frame (the bytes after its length): its correlation id and its body.
///
/// `version` is the one the request was sent in. An ApiVersions answer with error 35 is in version 0 whatever was asked
/// (KIP-511), and read as such. Strings and records are slices of `frame`: they keep it alive.
///
/// # Errors
/// Guard if the frame is malformed or costs too much memory to decode, Unsupported for an unknown version, Malformed
/// for what the decoder refuses or leaves over.
pub fn decode_response<R: Request>(frame: Bytes, version: i16) -> Result<(i32, R::Response)> {
    let version = response_version(R::KEY, version, &frame);
    let known = <R::Response as Message>::VERSIONS;
    if version < known.min || version > known.max {
        return Err(unknown_version(R::KEY, version));
    }
    guard::check_response(R::KEY, version, &frame)?;
    let mut rest = frame;
    let failed = |error| undecodable(R::KEY, version, &error);
    let header_version = <R::Response as HeaderVersion>::header_version(version);
    let header = messages::ResponseHeader::decode(&mut rest, header_version).map_err(failed)?;
    let response = R::Response::decode(&mut rest, version).map_err(failed)?;
    end(R::KEY, version, &rest)?;
    Ok((header.correlation_id, response))
}

/// As [`decode_response`], for an API that is known at run time only.
///
/// # Errors
/// As [`decode_response`].
pub fn decode_any_response(frame: Bytes, api_key: i16, version: i16) -> Result<(i32, ResponseKind)> {
    let version = response_version(api_key, version, &frame);
    let known = supported(api_key).is_some_and(|range| range.contains(version));
    let Some(api) = messages::ApiKey::try_from(api_key).ok().filter(|_| known) else {
        return Err(unknown_version(api_key, version));
    };
    guard::check_response(api_key, version, &frame)?;
    let mut rest = frame;
    let failed = |error| undecodable(api_key, version, &error);
    let header_version = api.response_header_version(version);
    let header = messages::ResponseHeader::decode(&mut rest, header_version).map_err(failed)?;
    let response = ResponseKind::decode(api, &mut rest, version).map_err(failed)?;
    end(api_key, version, &rest)?;
    Ok((header.correlation_id, response))
}

/// The version a response frame is really in: an ApiVersions answer that refuses our version is in version 0.
pub(crate) fn response_version(api_key: i16, asked: i16, frame: &[u8]) -> i16 {
    let refused = ErrorCode::UNSUPPORTED_VERSION.0.to_be_bytes();
    if api_key == API_VERSIONS
        && frame.get(4..6) == Some(&refused)
        && guard::check_response(api_key, 0, frame).is_ok()
    {
        return 0;
    }
    asked
}

/// A request as a broker sees it.
#[derive(Clone, PartialEq, Debug)]
pub struct RequestFrame {
    /// Which API is asked.
    pub api_key: i16,
    /// In which version.
    pub version: i16,
    /// The number to repeat in the answer.
    pub correlation_id: i32,
    /// The name the client gave itself.
    pub client_id: Option<String>,
    /// What is asked.
    pub body: RequestBody,
}

/// The body of a request, if it can be read.
#[derive(Clone, PartialEq, Debug)]
#[allow(clippy::large_enum_variant, reason = "made once a request and matched at once")]
pub enum RequestBody {
    /// A request in a version that is known here.
    Known(RequestKind),
    /// An API or a version that is not known here. ApiVersions must be answered with error 35 in version 0 (KIP-511); for
    /// any other a Kafka broker closes the connection.
    UnsupportedVersion,
}

/// Reads a request frame (the bytes after its length).
///
/// # Errors
/// As [`decode_response`]. A version that is not known is no error but [`RequestBody::UnsupportedVersion`].
pub fn decode_request(frame: Bytes) -> Result<RequestFrame> {
    let head = request_head(&frame)?;
    let (api_key, version, correlation_id) = (head.api_key, head.version, head.correlation_id);
    let client_id = head.client_id.map(str::to_owned);
    let known = supported(api_key).is_some_and(|range| range.contains(version));
    let body = match messages::ApiKey::try_from(api_key) {
        Ok(api) if known => {
            guard::check_request(&frame)?;
            let mut rest = frame;
            let failed = |error| undecodable(api_key, version, &error);
            let header_version = api.request_header_version(version);
            messages::RequestHeader::decode(&mut rest, header_version).map_err(failed)?;
            let request = RequestKind::decode(api, &mut rest, version).map_err(failed)?;
            end(api_key, version, &rest)?;
            RequestBody::Known(request)
        }
        _ => RequestBody::UnsupportedVersion,
    };
    Ok(RequestFrame { api_key, version, correlation_id, client_id, body })
}

/// Appends a whole response frame to `buf`: its length, its header, its body.
///
/// # Errors
/// Unsupported if kafka-protocol does not know the API or the version, or if the response has a field set that the
/// version lacks; Guard if a field is null that the version does not allow to be; Malformed if the response is one of
/// another API. `buf` is then as it was.
pub fn encode_response(
    buf: &mut BytesMut,
    api_key: i16,
    version: i16,
    correlation_id: i32,
    response: &ResponseKind,
) -> Result<()> {
    if response_key(response) != Some(api_key) {
        let text = format!("the response is not one to {}", api_name(api_key));
        return Err(ProtocolError::malformed(text));
    }
    framed(
        buf,
        |buf| {
            buf.put_i32(correlation_id);
            if response.header_version(version) >= 1 {
                buf.put_u8(0);
            }
            response.encode(buf, version).map_err(|error| unencodable(api_key, version, &error))
        },
        |frame| guard::check_response(api_key, version, frame),
    )
}

/// Which API a response belongs to; `None` for one that is newer than this list.
#[must_use]
pub fn response_key(response: &ResponseKind) -> Option<i16> {
    macro_rules! keys {
        ($(($name:ident, $request:ident, $response:ident))*) => {
            match response {
                $(ResponseKind::$name(_) => Some(<messages::$request as Request>::KEY),)*
                _ => None,
            }
        };
    }
    for_each_api!(keys)
}

/// Which API a request belongs to; `None` for one that is newer than this list.
#[must_use]
pub fn request_key(request: &RequestKind) -> Option<i16> {
    macro_rules! keys {
        ($(($name:ident, $request:ident, $response:ident))*) => {
            match request {
                $(RequestKind::$name(_) => Some(<messages::$request as Request>::KEY),)*
                _ => None,
            }
        };
    }
    for_each_api!(keys)
}

/// Writes a length before what `write` appends, and takes all of it back if that fails or if what was written is not what the
/// protocol allows: kafka-protocol writes a null in every version, and a peer would close the connection on it.
fn framed(
    buf: &mut BytesMut,
    write: impl FnOnce(&mut BytesMut) -> Result<()>,
    check: impl FnOnce(&[u8]) -> Result<guard::Cost>,
) -> Result<()> {
    let start = buf.len();
    buf.put_i32(0);
    let body = buf.len();
    let done = write(buf).and_then(|()| {
        let frame = buf.get(body..).unwrap_or_default();
        let Ok(length) = i32::try_from(frame.len()) else {
            return Err(ProtocolError::too_large("the frame is larger than 2 GiB"));
        };
        check(frame)?;
        if let Some(prefix) = buf.get_mut(start..body) {
            prefix.copy_from_slice(&length.to_be_bytes());
        }
        Ok(())
    });
    if done.is_err() {
        buf.truncate(start);
    }
    done
}

fn end(api_key: i16, version: i16, rest: &[u8]) -> Result<()> {
    if rest.is_empty() {
        return Ok(());
    }
    let text = format!("{} v{version}: {} bytes follow the end", api_name(api_key), rest.len());
    Err(ProtocolError::malformed(text))
}

fn unknown_version(api_key: i16, version: i16) -> ProtocolError {
    ProtocolError::unsupported(format!("{} v{version} is not spoken here", api_name(api_key)))
}

fn unencodable(api_key: i16, version: i16, error: &impl std::fmt::Display) -> ProtocolError {
    ProtocolError::unsupported(format!("{} v{version} can't be written: {error:#}", api_name(api_key)))
}

fn undecodable(api_key: i16, version: i16, error: &impl std::fmt::Display) -> ProtocolError {
    ProtocolError::new(
        ErrorKind::Malformed,
        format!("{} v{version} can't be read: {error:#}", api_name(api_key)),
    )
}
