//! Planted defects: would the proof notice a wrong table?
//!
//! Each field of each message in turn is dropped, moved to other versions, made null or not, an array or not, of another
//! kind, or given another tag. Frames made from the wrong table must then be refused by kafka-protocol, or not come out as
//! they went in; or the wrong table must refuse frames made from the right one.

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, RequestKind, ResponseKind};

use super::sample::Sampler;
use super::shape::{BYTES, EVER, Field, I8, I32, Item, Kind, Message, STR, Shape};
use super::{limit, request_message, response_message, walk};
use crate::request::{decode_any_response, decode_request, encode_request_frame, encode_response};
use crate::versions::supported;

/// What one defect makes of a field; `None` if it would change nothing.
type Defect = (&'static str, fn(&Field) -> Option<Vec<Field>>);

fn kind(field: &Field, kind: Kind) -> Option<Vec<Field>> {
    Some(vec![Field { kind: Kind { array: field.kind.array, ..kind }, ..*field }])
}

const DEFECTS: [Defect; 9] = [
    ("dropped", |_| Some(vec![])),
    ("since one later", |f| Some(vec![f.since(f.versions.0 + 1)])),
    ("since one earlier", |f| f.versions.0.checked_sub(1).map(|v| vec![f.since(v)])),
    ("until one earlier", |f| {
        (f.versions.1 != EVER && f.versions.1 > 0).then(|| vec![f.until(f.versions.1 - 1)])
    }),
    ("until one later", |f| (f.versions.1 != EVER).then(|| vec![f.until(f.versions.1 + 1)])),
    ("null or not", |f| {
        // What has a fixed width has no null, whatever the table says.
        let fixed = matches!(f.kind.item, Item::Fixed(_)) && !f.kind.array;
        (!fixed).then(|| vec![if f.null.0 == EVER { f.null() } else { f.null_in(EVER, 0) }])
    }),
    ("an array or not", |f| Some(vec![Field { kind: Kind { array: !f.kind.array, ..f.kind }, ..*f }])),
    ("of another kind", |f| match f.kind.item {
        Item::Fixed(_) if f.kind.width == 4 => kind(f, I8),
        Item::Fixed(_) => kind(f, I32),
        Item::Text => kind(f, I8),
        Item::Bytes => kind(f, I32),
        Item::Struct(_) => kind(f, if f.kind.array { STR } else { BYTES }),
    }),
    ("of another tag", |f| f.tag.map(|tag| vec![f.tag(tag + 1)])),
];

/// Whether a defect changes anything in a version that is spoken here and in which the struct occurs.
fn matters(field: &Field, instead: &[Field], versions: &[u8]) -> bool {
    let now = |version: u8| field.exists(version).then(|| field.is_nullable(version));
    let then = |version: u8| instead.first().filter(|f| f.exists(version)).map(|f| f.is_nullable(version));
    let moved = instead.first().is_none_or(|f| f.versions != field.versions || f.null != field.null);
    versions.iter().any(|&version| if moved { now(version) != then(version) } else { field.exists(version) })
}

/// A copy of a tree of shapes in which one shape is another.
fn replaced(shape: &'static Shape, old: &Shape, new: &'static Shape) -> &'static Shape {
    if std::ptr::eq(shape, old) {
        return new;
    }
    let fields = shape.fields.iter().map(|field| match field.kind.item {
        Item::Struct(inner) => {
            Field { kind: Kind { item: Item::Struct(replaced(inner, old, new)), ..field.kind }, ..*field }
        }
        _ => *field,
    });
    leaked(shape, fields.collect())
}

fn leaked(like: &Shape, fields: Vec<Field>) -> &'static Shape {
    let (fewest_bytes, memory) = (1, like.memory);
    Box::leak(Box::new(Shape { fewest_bytes, memory, fields: Box::leak(fields.into_boxed_slice()) }))
}

/// Every struct of a message, and the versions among `versions` in which it occurs.
fn shapes(shape: &'static Shape, versions: Vec<u8>, all: &mut Vec<(&'static Shape, Vec<u8>)>) {
    for field in shape.fields {
        if let Item::Struct(inner) = field.kind.item {
            shapes(inner, versions.iter().copied().filter(|version| field.exists(*version)).collect(), all);
        }
    }
    match all.iter_mut().find(|(known, _)| std::ptr::eq(*known, shape)) {
        Some((_, known)) => known.extend(versions),
        None => all.push((shape, versions)),
    }
}

/// Whether a body is read whole and written again as it was: by kafka-protocol, or in a version it lacks, by us.
fn agrees(api: ApiKey, request: bool, version: i16, body: &[u8]) -> bool {
    let direct = api.valid_versions();
    // The crate's own list says 10 for OffsetCommit and OffsetFetch, but its requests end at 9.
    let short = matches!(api, ApiKey::OffsetCommit | ApiKey::OffsetFetch) && version == 10;
    if version < direct.min || version > direct.max || short {
        return agrees_rewritten(api, request, version, body);
    }
    let (mut rest, mut again) = (Bytes::copy_from_slice(body), BytesMut::new());
    let done = if request {
        RequestKind::decode(api, &mut rest, version).and_then(|body| body.encode(&mut again, version))
    } else {
        ResponseKind::decode(api, &mut rest, version).and_then(|body| body.encode(&mut again, version))
    };
    done.is_ok() && rest.is_empty() && again == body
}

fn agrees_rewritten(api: ApiKey, request: bool, version: i16, body: &[u8]) -> bool {
    let (key, mut again) = (api as i16, BytesMut::new());
    let mut frame = BytesMut::new();
    if request {
        frame.extend_from_slice(
            &[&key.to_be_bytes()[..], &version.to_be_bytes(), &[0, 0, 0, 7, 0xff, 0xff]].concat(),
        );
        if request_message(key).is_some_and(|message| message.has_tags(version)) {
            frame.extend_from_slice(&[0]);
        }
    } else {
        frame.extend_from_slice(&[0, 0, 0, 7]);
        if response_message(key).is_some_and(|message| message.has_tags(version)) {
            frame.extend_from_slice(&[0]);
        }
    }
    frame.extend_from_slice(body);
    let frame = frame.freeze();
    let done = if request {
        decode_request(frame.clone()).and_then(|request| encode_request_frame(&mut again, &request))
    } else {
        decode_any_response(frame.clone(), key, version)
            .and_then(|(id, response)| encode_response(&mut again, key, version, id, &response))
    };
    let again = again.get(4..).unwrap_or_default();
    done.is_ok()
        && match (key, version, request) {
            // Fields that no struct has a place for are written as constants.
            (2, 0, true) | (8, 1, true) => again.len() == frame.len(),
            (2, 0, false) => again.len() <= frame.len(),
            _ => again == frame,
        }
}

/// Whether the proof notices that `wrong` stands in the place of `right`.
fn noticed(api: ApiKey, request: bool, right: &'static Message, wrong: &Message) -> bool {
    let Some(range) = supported(api as i16) else { return false };
    (0..60).any(|round| {
        (range.min..=range.max).any(|version| {
            let Some(known) = right.version(version) else { return false };
            let mut sampler = Sampler::new(round * 1000 + version as u64);
            let good = sampler.body(right, version).unwrap();
            if walk::walk(wrong, known, None, &good, limit(good.len())).is_err() {
                return true;
            }
            let body = sampler.body(wrong, version).unwrap();
            // Nothing is decoded that the right table would not let through: a wrong count could end the process.
            walk::walk(right, known, None, &body, limit(body.len())).is_err()
                || !agrees(api, request, version, &body)
        })
    })
}

#[test]
fn a_wrong_table_is_noticed() {
    let (mut planted, mut missed) = (0, Vec::new());
    for api in ApiKey::iter() {
        let range = supported(api as i16).unwrap();
        for request in [true, false] {
            let right =
                if request { request_message(api as i16) } else { response_message(api as i16) }.unwrap();
            let mut all = Vec::new();
            shapes(right.root, (range.min..=range.max).filter_map(|v| right.version(v)).collect(), &mut all);
            for (shape, versions) in all {
                for (index, field) in shape.fields.iter().enumerate() {
                    for (name, defect) in DEFECTS {
                        let Some(instead) = defect(field) else { continue };
                        if !matters(field, &instead, &versions) {
                            continue;
                        }
                        let mut fields = shape.fields.to_vec();
                        fields.splice(index..=index, instead);
                        let root = replaced(right.root, shape, leaked(shape, fields));
                        let (versions, flexible) = (right.versions, right.flexible);
                        let wrong =
                            Message { api_key: right.api_key, name: right.name, root, versions, flexible };
                        planted += 1;
                        if !noticed(api, request, right, &wrong) {
                            missed.push(format!("{} {}: {name}", right.name, field.name));
                        }
                    }
                }
            }
        }
    }
    assert!(planted > 5000, "{planted}");
    // The rest are tagged fields: said to be there too early or to be null, which random frames seldom show.
    assert!(missed.len() * 200 < planted, "{} of {planted} missed: {missed:#?}", missed.len());
}
