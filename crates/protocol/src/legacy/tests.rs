use super::*;
use crate::guard::sample::Sampler;
use crate::guard::shape::{Item, Message, Shape};
use crate::guard::{check_body, request_message, response_message};
use crate::messages::ApiKey;
use crate::supported;

/// Every rewriting there is: a message, the version on the wire, and the one kafka-protocol has.
fn rewritings() -> Vec<(&'static Message, i16, i16)> {
    let mut all = Vec::new();
    for api in ApiKey::iter() {
        let (ours, direct) = (supported(api as i16).unwrap(), api.valid_versions());
        for version in ours.min..=ours.max {
            let nearest = version.clamp(direct.min, direct.max);
            // The crate says it has version 10 of these two; its requests end at 9.
            let short = matches!(api, ApiKey::OffsetCommit | ApiKey::OffsetFetch) && version == 10;
            if nearest != version || short {
                all.push((
                    request_message(api as i16).unwrap(),
                    version,
                    nearest.min(if short { 9 } else { nearest }),
                ));
            }
            if nearest != version {
                all.push((response_message(api as i16).unwrap(), version, nearest));
            }
        }
    }
    assert!(all.len() > 70, "{}", all.len());
    all
}

fn known(message: &Message, version: i16) -> u8 {
    message.version(version).unwrap()
}

/// The tags of a struct are copied as they are, so what is inside of them must be the same in both versions. (One that the
/// decoder does not know is then an unknown one.)
#[test]
fn no_tagged_field_differs_between_two_versions_that_are_rewritten() {
    fn check(shape: &Shape, (from, to): (u8, u8), tagged: bool, name: &str) {
        for field in shape.fields {
            let differs = field.exists(from) != field.exists(to);
            assert!(!(differs && tagged), "{name} {}", field.name);
            let null = field.is_nullable(from) != field.is_nullable(to);
            assert!(differs || !null, "{name} {}", field.name);
            if let (Item::Struct(inner), true) = (field.kind.item, field.exists(from)) {
                check(inner, (from, to), tagged || field.tag.is_some(), name);
            }
        }
    }
    for (message, from, to) in rewritings() {
        check(message.root, (known(message, from), known(message, to)), false, message.name);
    }
}

#[test]
fn a_rewritten_body_fits_into_the_room_made_for_it() {
    let (mut most, mut rewritten) = (0.0_f64, 0);
    for (message, from, to) in rewritings() {
        let mut sampler = Sampler::new(9);
        for _ in 0..300 {
            let body = sampler.body(message, from).unwrap();
            let passed = check_body(message, from, &body).unwrap();
            let room = room(body.len(), passed.cost);
            assert!(room <= 4 * body.len() + 64, "{} v{from}: {room} for {}", message.name, body.len());
            let mut out = BytesMut::new();
            between(message, (from, to), Purpose::Read, &body, &mut out).unwrap();
            assert!(out.len() <= room, "{} v{from}: {} for {room}", message.name, out.len());
            // Its one new field is a tagged one, which version 1 does not allow.
            if message.name != "BrokerHeartbeatRequest" {
                check_body(message, to, &out).unwrap();
            }
            most = most.max(out.len() as f64 / body.len() as f64);
            rewritten += 1;
        }
    }
    assert!(rewritten > 20_000 && most > 1.5, "{rewritten}, {most}");
}

/// What the guard never lets through is refused all the same, and nothing panics.
#[test]
fn any_bytes_are_rewritten_or_refused() {
    let (mut done, mut refused) = (0, 0);
    for (message, from, to) in rewritings() {
        let mut sampler = Sampler::new(77);
        for _ in 0..300 {
            let mut body = sampler.body(message, from).unwrap();
            for _ in 0..=sampler.below(3) {
                if let Some(index) = (sampler.below(body.len() as u64 + 1) as usize).checked_sub(1) {
                    match sampler.below(3) {
                        0 => body[index] = sampler.below(256) as u8,
                        1 => body[index] = 0xff,
                        _ => body.truncate(index),
                    }
                }
            }
            for purpose in [Purpose::Read, Purpose::Write] {
                match between(message, (from, to), purpose, &body, &mut BytesMut::new()) {
                    Ok(_) => done += 1,
                    Err(_) => refused += 1,
                }
            }
        }
    }
    assert!(done > 1000 && refused > 1000, "{done} {refused}");
}

/// A log directory of DescribeLogDirs v5 is ten bytes on the wire, and one that is cordoned needs a map of tags.
#[test]
fn stowed_fields_count_towards_the_memory_that_a_frame_may_take() {
    let cordoned = |directories: usize| {
        // throttle time, no error, the count in two bytes
        let mut body = vec![0, 0, 0, 0, 0, 0, (directories + 1) as u8 | 0x80, ((directories + 1) >> 7) as u8];
        for _ in 0..directories {
            // no error, no name, no topics, sizes, cordoned, no tags
            body.extend_from_slice(&[0, 0, 1, 1]);
            body.extend_from_slice(&[0; 16]);
            body.extend_from_slice(&[1, 0]);
        }
        body.push(0);
        body
    };
    for directories in [0, 1, 100, 5000] {
        let body = cordoned(directories);
        let decoded =
            <crate::messages::DescribeLogDirsRequest as crate::Request>::decode_response_body(body.into(), 5);
        assert_eq!(decoded.unwrap().results.len(), directories);
    }
}
