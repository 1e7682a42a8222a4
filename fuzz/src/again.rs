//! What was decoded is written again: kafka-protocol writes the same, the guard accepts it, and by Kafka's own schemas it says
//! what the first frame said.

use bytes::{Bytes, BytesMut};
use milena_protocol::dump::{Dump, Name, Value, What};
use milena_protocol::messages::{ApiKey, RequestHeader, ResponseHeader};
use milena_protocol::{
    Decodable, ErrorKind, ProtocolError, RequestFrame, RequestKind, ResponseKind, decode_any_response,
    decode_request, encode_request_frame, encode_response,
};

/// Whether a version is decoded by way of another one: kafka-protocol itself lacks it.
pub fn is_rewritten(api: ApiKey, version: i16) -> bool {
    let direct = api.valid_versions();
    // The crate's own list says 10 for these two, but its requests end at 9.
    let short = matches!(api, ApiKey::OffsetCommit | ApiKey::OffsetFetch) && version == 10;
    version < direct.min || version > direct.max || short
}

/// An API in a version, and which of its two messages.
#[derive(Clone, Copy, Debug)]
pub struct Of {
    /// The API.
    pub api: ApiKey,
    /// The version.
    pub version: i16,
    /// The request, else the response.
    pub request: bool,
}

/// Holds a response against what it was decoded from.
pub fn check_response(of: Of, frame: &[u8], id: i32, response: &ResponseKind) {
    let key = of.api as i16;
    // An answer that refuses the version of ApiVersions is in version 0.
    let version = Dump::response(key, of.version, frame).version().unwrap_or(of.version);
    let of = Of { version, ..of };
    let mut out = BytesMut::new();
    let written = encode_response(&mut out, key, version, id, response);
    let Some(again) = of.written(frame, written, out) else { return };
    let (same_id, same) = decode_any_response(again.clone(), key, version).expect("what was written is read");
    assert!(same_id == id && alike(&same, response), "{of:?}: {response:?}, then {same:?}");
    of.says_the_same(Dump::response(key, version, frame), Dump::response(key, version, &again));
}

/// Holds a request against what it was decoded from.
pub fn check_request(of: Of, frame: &[u8], request: &RequestFrame) {
    let mut out = BytesMut::new();
    let written = encode_request_frame(&mut out, request);
    let Some(again) = of.written(frame, written, out) else { return };
    let same = decode_request(again.clone()).expect("what was written is read");
    assert!(alike(&same, request), "{of:?}: {request:?}, then {same:?}");
    of.says_the_same(Dump::request(frame), Dump::request(&again));
}

/// Equal, or alike in words: no NaN equals itself.
fn alike<T: PartialEq + std::fmt::Debug>(one: &T, other: &T) -> bool {
    one == other || format!("{one:?}") == format!("{other:?}")
}

impl Of {
    /// The frame as it was written again; `None` where that cannot be. What kafka-protocol reads and writes of the same frame
    /// is the same.
    fn written(self, frame: &[u8], written: Result<(), ProtocolError>, mut out: BytesMut) -> Option<Bytes> {
        let again = match written {
            Ok(()) => out.split_off(4).freeze(),
            Err(error) => {
                self.may_fail(frame, &error);
                return None;
            }
        };
        if !is_rewritten(self.api, self.version) {
            // Of the header unknown tags are not kept.
            assert_eq!(Some(&self.body(&again)[..]), self.theirs(frame).as_deref(), "{self:?}: {frame:02x?}");
        }
        Some(again)
    }

    /// What cannot be written: fields that kafka-protocol defaults to what the version lacks, and unknown tags that by chance
    /// are those under which fields without a place are kept.
    fn may_fail(self, frame: &[u8], error: &ProtocolError) {
        let chance = error.to_string().contains("has no place for what is set");
        let unwritable = is_rewritten(self.api, self.version) || self.theirs(frame).is_none();
        assert!(
            error.kind() == ErrorKind::Unsupported && (chance || unwritable),
            "{self:?}: {error}: {frame:02x?}"
        );
    }

    /// What follows a frame's header.
    fn body(self, frame: &Bytes) -> Bytes {
        let mut rest = frame.clone();
        if self.request {
            RequestHeader::decode(&mut rest, self.api.request_header_version(self.version)).map(drop)
        } else {
            ResponseHeader::decode(&mut rest, self.api.response_header_version(self.version)).map(drop)
        }
        .expect("a header");
        rest
    }

    /// A frame's body read and written by kafka-protocol alone; `None` if it cannot write it.
    fn theirs(self, frame: &[u8]) -> Option<BytesMut> {
        let mut rest = self.body(&Bytes::copy_from_slice(frame));
        let mut out = BytesMut::new();
        let written = if self.request {
            let request =
                RequestKind::decode(self.api, &mut rest, self.version).expect("the guard accepted it");
            request.encode(&mut out, self.version)
        } else {
            let response =
                ResponseKind::decode(self.api, &mut rest, self.version).expect("the guard accepted it");
            response.encode(&mut out, self.version)
        };
        assert!(rest.is_empty(), "{self:?}: {frame:02x?}");
        written.ok().map(|()| out)
    }

    /// What is written again says, by Kafka's schemas, what the first frame said, in the same order. Missing are at most known
    /// tagged fields: those with the value that they have when they are absent are not written.
    fn says_the_same(self, first: Dump<'_>, again: Dump<'_>) {
        if matches!(
            (self.api, self.version, self.request),
            // A count and a time that have no place are written as constants; of several offsets the first is kept.
            (ApiKey::ListOffsets, 0, _) | (ApiKey::OffsetCommit, 1, true)
        ) {
            return;
        }
        let mut first = said(first);
        for other in said(again) {
            loop {
                let one = first.next().unwrap_or_else(|| panic!("{self:?}: {other:?} is new"));
                if same(&one, &other) {
                    break;
                }
                assert!(skipped(&one, &mut first), "{self:?}: {one:?}, then {other:?}");
            }
        }
        while let Some(one) = first.next() {
            assert!(skipped(&one, &mut first), "{self:?}: {one:?} is lost");
        }
    }
}

/// What a body says, but for how many tags there are.
fn said<'a>(dump: Dump<'a>) -> impl Iterator<Item = What<'a>> {
    let events = dump.map(|event| event.expect("the guard accepts it").what);
    events
        .skip_while(|what| !matches!(what, What::Enter { name: Name::Body(_), .. }))
        .filter(|what| !matches!(what, What::Tags(_)))
}

fn same(one: &What<'_>, other: &What<'_>) -> bool {
    match (one, other) {
        (What::Enter { name: one, node: a }, What::Enter { name: other, node: b }) => {
            same_name(*one, *other) && a == b
        }
        (What::Value { name: one, value: a }, What::Value { name: other, value: b }) => {
            same_name(*one, *other)
                && match (a, b) {
                    (Value::Float(a), Value::Float(b)) => a.to_bits() == b.to_bits(),
                    _ => a == b,
                }
        }
        _ => one == other,
    }
}

/// The size of a tagged field is less if one inside of it is left out.
fn same_name(one: Name, other: Name) -> bool {
    match (one, other) {
        (Name::Tagged { tag: one, .. }, Name::Tagged { tag: other, .. }) => one == other,
        _ => one == other,
    }
}

/// Passes over a known tagged field that begins here; whether one does.
fn skipped<'a>(begin: &What<'a>, rest: &mut impl Iterator<Item = What<'a>>) -> bool {
    let tagged = |name: &Name| matches!(name, Name::Tagged { .. });
    match begin {
        What::Value { name, .. } => tagged(name),
        What::Enter { name, .. } if tagged(name) => {
            let mut open = 1_u32;
            for what in rest {
                match what {
                    What::Enter { .. } => open += 1,
                    What::Leave => open -= 1,
                    _ => {}
                }
                if open == 0 {
                    return true;
                }
            }
            false
        }
        _ => false,
    }
}
