//! A total walk over a frame before anything is decoded from it.
//!
//! kafka-protocol's decoders reserve memory by counts that stand in the bytes: nine bytes of a Metadata answer can ask for
//! 400 GB and end the process. So a frame is walked first, by a table of shapes made from Kafka's own schemas
//! (`cargo xtask parity`). The walk allocates nothing, takes time linear in the frame, and refuses it unless every length,
//! count, tag and string is sound, nothing is left over, and decoding would take no more memory than [`limit`] allows.
//! What it accepts, the decoder decodes.
//!
//! Strictness beyond safety, all of it kept by every Kafka broker: null only where the schema allows it, tags in
//! ascending order and of this version, presence bytes of 1 or -1.

pub(crate) mod cursor;
#[cfg(test)]
mod planted;
pub mod sample;
pub mod shape;
#[rustfmt::skip]
mod tables;
mod walk;

use shape::{Message, Shape};

use crate::error::{ErrorKind, ProtocolError, Result};
use crate::header::API_VERSIONS;
pub(crate) use walk::FIRST_TAG;
use walk::Refusal;

/// What decoding a frame costs at most.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Cost {
    /// Bytes of heap, on top of the frame itself.
    pub memory: u64,
    /// Elements of arrays.
    pub elements: u64,
}

/// The memory that decoding a frame of so many bytes may take: 64 times as many, and 64 KiB.
///
/// Honest answers take up to six times their size; a crafted one could take 138 times.
#[must_use]
pub const fn limit(frame: usize) -> u64 {
    (frame as u64).saturating_mul(64).saturating_add(64 * 1024)
}

/// Checks a whole response frame (the bytes after its length, header included).
///
/// # Errors
/// Unsupported if Kafka has no such API or version, else Guard with the byte and the field.
pub fn check_response(api_key: i16, version: i16, frame: &[u8]) -> Result<Cost> {
    let Some(message) = response_message(api_key) else { return Err(no_api(api_key)) };
    // An ApiVersions answer keeps the oldest header, so that any client can read it (KIP-511).
    check(message, version, frame, &tables::RESPONSE_HEADER, api_key != API_VERSIONS)
}

/// Checks a whole request frame (the bytes after its length, header included).
///
/// # Errors
/// Truncated if it is shorter than four bytes, Unsupported if Kafka has no such API or version, else Guard with the byte
/// and the field.
pub fn check_request(frame: &[u8]) -> Result<Cost> {
    let Some([a, b, c, d]) = frame.first_chunk() else {
        return Err(ProtocolError::truncated("the frame is too short for a request").with_at(frame.len()));
    };
    let (api_key, version) = (i16::from_be_bytes([*a, *b]), i16::from_be_bytes([*c, *d]));
    let Some(message) = request_message(api_key) else { return Err(no_api(api_key)) };
    check(message, version, frame, &tables::REQUEST_HEADER, true)
}

/// Proof that the guard accepted what is about to be decoded. Only the guard makes it.
#[derive(Debug)]
pub struct Passed {
    /// What decoding costs.
    pub(crate) cost: Cost,
}

/// Checks a whole body, without a header.
pub(crate) fn check_body(message: &Message, version: i16, body: &[u8]) -> Result<Passed> {
    let known = message.version(version).ok_or_else(|| no_version(message, version))?;
    walk::walk(message, known, None, body, limit(body.len()))
        .map(|cost| Passed { cost })
        .map_err(|refusal| refused(message, version, refusal))
}

/// As [`check_response`], for what is decoded next.
pub(crate) fn pass_response(api_key: i16, version: i16, frame: &[u8]) -> Result<Passed> {
    check_response(api_key, version, frame).map(|cost| Passed { cost })
}

/// As [`check_request`], for what is decoded next.
pub(crate) fn pass_request(frame: &[u8]) -> Result<Passed> {
    check_request(frame).map(|cost| Passed { cost })
}

/// Checks a message without a header, as found inside of other messages. Bytes after its end are not looked at.
///
/// # Errors
/// As [`check_response`].
pub fn check_prefix(message: &Message, version: i16, bytes: &[u8]) -> Result<Cost> {
    let known = message.version(version).ok_or_else(|| no_version(message, version))?;
    walk::walk_prefix(message, known, bytes, limit(bytes.len()))
        .map_err(|refusal| refused(message, version, refusal))
}

/// The shape of an API's requests; `None` if Kafka 4.3 has no such API.
#[must_use]
pub fn request_message(api_key: i16) -> Option<&'static Message> {
    find(&tables::REQUESTS, api_key)
}

/// The shape of an API's responses; `None` if Kafka 4.3 has no such API.
#[must_use]
pub fn response_message(api_key: i16) -> Option<&'static Message> {
    find(&tables::RESPONSES, api_key)
}

/// The shape of the header of requests. Versions differ in whether it is flexible only.
#[must_use]
pub fn request_header() -> &'static Shape {
    &tables::REQUEST_HEADER
}

/// The shape of the header of responses. Versions differ in whether it is flexible only.
#[must_use]
pub fn response_header() -> &'static Shape {
    &tables::RESPONSE_HEADER
}

/// The shape of what a member of a consumer group says it wants (the bytes after its version).
#[must_use]
pub fn consumer_subscription() -> &'static Message {
    &tables::CONSUMER_PROTOCOL_SUBSCRIPTION
}

/// The shape of what a member of a consumer group is given (the bytes after its version).
#[must_use]
pub fn consumer_assignment() -> &'static Message {
    &tables::CONSUMER_PROTOCOL_ASSIGNMENT
}

fn find(table: &'static [Message], api_key: i16) -> Option<&'static Message> {
    let index = table.binary_search_by_key(&api_key, |message| message.api_key).ok()?;
    table.get(index)
}

fn check(
    message: &Message,
    version: i16,
    frame: &[u8],
    header: &'static Shape,
    follows: bool,
) -> Result<Cost> {
    let known = message.version(version).ok_or_else(|| no_version(message, version))?;
    // Whether the header is flexible follows from the body, if it follows at all.
    let header = Some((header, follows && message.is_flexible(known)));
    walk::walk(message, known, header, frame, limit(frame.len()))
        .map_err(|refusal| refused(message, version, refusal))
}

#[cold]
fn no_version(message: &Message, version: i16) -> ProtocolError {
    ProtocolError::unsupported(format!("{} has no version {version}", message.name))
}

#[cold]
fn refused(message: &Message, version: i16, refusal: Refusal) -> ProtocolError {
    let text = format!("{} v{version} refused: {}", message.name, refusal.why.text());
    let error = ProtocolError::new(ErrorKind::Guard, text).with_at(refusal.at);
    if refusal.field.is_empty() { error } else { error.with_field(refusal.field) }
}

#[cold]
fn no_api(api_key: i16) -> ProtocolError {
    ProtocolError::unsupported(format!("there is no API of key {api_key}"))
}
