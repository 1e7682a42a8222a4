//! Requests and responses as frames, on the client's side and on the broker's.
//!
//! Bytes from a peer pass the [guard] before kafka-protocol's decoders see them.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{self, RequestKind, ResponseKind};
use kafka_protocol::protocol::Decodable;

use crate::api::{Request, unknown_version};
use crate::apis::for_each_api;
use crate::error::{ErrorKind, ProtocolError, Result};
use crate::error_code::ErrorCode;
use crate::guard;
use crate::header::{API_VERSIONS, request_head};
use crate::versions::api_name;

/// Appends a whole request frame to `buf`: its length, its header, its body.
///
/// # Errors
/// Unsupported if the version is not one of [`Request::VERSIONS`], or if the request has a field set that
/// the version lacks; Guard if a field is null that the version does not allow to be; Malformed if the client id is longer than
/// 32,767 bytes; TooLarge above 2 GiB. `buf` is then as it was.
pub fn encode_request<R: Request>(
    buf: &mut BytesMut,
    correlation_id: i32,
    client_id: &str,
    version: i16,
    request: &R,
) -> Result<()> {
    write_request(buf, correlation_id, Some(client_id), version, request)
}

/// Appends a request as [`decode_request`] read it: what a proxy passes on, or a test compares.
///
/// # Errors
/// As [`encode_request`]; Unsupported too for [`RequestBody::UnsupportedVersion`] and for a body of another API than
/// `request.api_key`.
pub fn encode_request_frame(buf: &mut BytesMut, request: &RequestFrame) -> Result<()> {
    let RequestBody::Known(body) = &request.body else {
        return Err(unknown_version(request.api_key, request.version));
    };
    let (id, client_id, version) = (request.correlation_id, request.client_id.as_deref(), request.version);
    macro_rules! write {
        ($(($name:ident, $request:ident, $response:ident))*) => {
            match (request.api_key, body) {
                $((<messages::$request as Request>::KEY, RequestKind::$name(body)) => {
                    write_request(buf, id, client_id, version, body)
                })*
                _ => Err(unknown_version(request.api_key, version)),
            }
        };
    }
    for_each_api!(write)
}

fn write_request<R: Request>(
    buf: &mut BytesMut,
    correlation_id: i32,
    client_id: Option<&str>,
    version: i16,
    request: &R,
) -> Result<()> {
    let Ok(client_id_length) = client_id.map_or(Ok(-1), |client_id| i16::try_from(client_id.len())) else {
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
            buf.put_slice(client_id.unwrap_or_default().as_bytes());
            if R::request_header_version(version) >= 2 {
                buf.put_u8(0);
            }
            request.encode_body(version, buf)
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
    read_response::<R>(frame, version)
}

fn read_response<R: Request>(frame: Bytes, version: i16) -> Result<(i32, R::Response)> {
    if !R::VERSIONS.contains(version) {
        return Err(unknown_version(R::KEY, version));
    }
    let passed = guard::pass_response(R::KEY, version, &frame)?;
    let mut rest = frame;
    let header = messages::ResponseHeader::decode(&mut rest, R::response_header_version(version))
        .map_err(|error| undecodable(R::KEY, version, &error))?;
    Ok((header.correlation_id, R::read_response_body(passed, rest, version)?))
}

/// As [`decode_response`], for an API that is known at run time only.
///
/// # Errors
/// As [`decode_response`].
pub fn decode_any_response(frame: Bytes, api_key: i16, version: i16) -> Result<(i32, ResponseKind)> {
    let version = response_version(api_key, version, &frame);
    macro_rules! read {
        ($(($name:ident, $request:ident, $response:ident))*) => {
            match api_key {
                $(<messages::$request as Request>::KEY => {
                    let (id, response) = read_response::<messages::$request>(frame, version)?;
                    Ok((id, ResponseKind::$name(response)))
                })*
                _ => Err(unknown_version(api_key, version)),
            }
        };
    }
    for_each_api!(read)
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
    macro_rules! read {
        ($(($name:ident, $request:ident, $response:ident))*) => {
            match api_key {
                $(<messages::$request as Request>::KEY => {
                    read_request::<messages::$request>(frame, version)?.map(RequestKind::$name)
                })*
                _ => None,
            }
        };
    }
    let body = for_each_api!(read).map_or(RequestBody::UnsupportedVersion, RequestBody::Known);
    Ok(RequestFrame { api_key, version, correlation_id, client_id, body })
}

fn read_request<R: Request>(frame: Bytes, version: i16) -> Result<Option<R>> {
    if !R::VERSIONS.contains(version) {
        return Ok(None);
    }
    let passed = guard::pass_request(&frame)?;
    let mut rest = frame;
    messages::RequestHeader::decode(&mut rest, R::request_header_version(version))
        .map_err(|error| undecodable(R::KEY, version, &error))?;
    R::read_body(passed, rest, version).map(Some)
}

/// Appends a whole response frame to `buf`: its length, its header, its body.
///
/// # Errors
/// Unsupported if the version is not spoken here, or if the response has a field set that the
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
            write_response(response, version, buf)
        },
        |frame| guard::check_response(api_key, version, frame),
    )
}

/// What follows the correlation id: the tags of a flexible header, and the body.
fn write_response(response: &ResponseKind, version: i16, buf: &mut BytesMut) -> Result<()> {
    fn write<R: Request>(response: &R::Response, version: i16, buf: &mut BytesMut) -> Result<()> {
        if R::response_header_version(version) >= 1 {
            buf.put_u8(0);
        }
        R::encode_response_body(response, version, buf)
    }
    macro_rules! write {
        ($(($name:ident, $request:ident, $response:ident))*) => {
            match response {
                $(ResponseKind::$name(response) => write::<messages::$request>(response, version, buf),)*
                _ => Err(ProtocolError::unsupported("the response is of an API that is not spoken here")),
            }
        };
    }
    for_each_api!(write)
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

fn undecodable(api_key: i16, version: i16, error: &impl std::fmt::Display) -> ProtocolError {
    ProtocolError::new(
        ErrorKind::Malformed,
        format!("{} v{version} can't be read: {error:#}", api_name(api_key)),
    )
}
