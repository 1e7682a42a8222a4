//! Asks a real broker every API in every version it offers, checks each answer against the guard, and keeps it as a seed.
//!
//! `cargo run --no-default-features --example record_answers -- HOST:PORT [SEEDS]`, on a broker that may be thrown away: the
//! requests are empty, but every one of them is sent.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use milena_fuzz::guarded::check_response;
use milena_protocol::guard::shape::{Field, Item, Message, Shape};
use milena_protocol::messages::{ApiKey, ApiVersionsRequest};
use milena_protocol::{
    BrokerVersions, decode_any_response, decode_request, decode_response, encode_response, guard, supported,
};

type Failure = Box<dyn std::error::Error>;

/// The emptiest body: zeros, nulls where allowed, nothing in arrays.
fn empty(shape: &Shape, version: u8, compact: bool, out: &mut Vec<u8>) {
    for field in shape.fields.iter().filter(|field| field.exists(version) && field.tag.is_none()) {
        empty_field(field, version, compact, out);
    }
    if compact {
        out.push(0);
    }
}

fn empty_field(field: &Field, version: u8, compact: bool, out: &mut Vec<u8>) {
    let null = field.is_nullable(version);
    match (field.kind.item, field.kind.array) {
        (Item::Fixed(_), false) => out.resize(out.len() + usize::from(field.kind.width), 0),
        (Item::Struct(_), false) if null => out.push(0xff),
        (Item::Struct(shape), false) => empty(shape, version, compact, out),
        _ if compact => out.push(u8::from(!null)),
        (Item::Text, false) => out.extend_from_slice(&[if null { 0xff } else { 0 }; 2]),
        _ => out.extend_from_slice(&[if null { 0xff } else { 0 }; 4]),
    }
}

fn request(message: &Message, version: i16) -> Option<Vec<u8>> {
    let known = message.version(version)?;
    let mut frame = [message.api_key.to_be_bytes(), version.to_be_bytes()].concat();
    frame.extend_from_slice(&[0, 0, 0, 5, 0xff, 0xff]);
    if message.is_flexible(known) {
        frame.push(0);
    }
    if message.api_key == ApiKey::ApiVersions as i16 && version >= 3 {
        // Here empty strings are refused.
        frame.extend_from_slice(&[2, b'm', 2, b'1', 0]);
    } else {
        empty(message.root, known, message.is_flexible(known), &mut frame);
    }
    Some(frame)
}

fn ask(address: &str, frame: &[u8]) -> Result<Bytes, Failure> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    stream.write_all(&[&u32::try_from(frame.len())?.to_be_bytes()[..], frame].concat())?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; usize::try_from(u32::from_be_bytes(length))?.min(1 << 24)];
    stream.read_exact(&mut answer)?;
    Ok(answer.into())
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().ok_or("which broker? HOST:PORT")?;
    let seeds = arguments.next();
    let asked = request(guard::request_message(18).ok_or("no ApiVersions")?, 0).ok_or("no version 0")?;
    let (_, answer) = decode_response::<ApiVersionsRequest>(ask(&address, &asked)?, 0)?;
    let versions = BrokerVersions::from_response(&answer);
    let apis: Vec<ApiKey> = ApiKey::iter().collect();
    let (mut answers, mut silent) = (0, Vec::new());
    for (index, api) in apis.into_iter().enumerate() {
        let key = api as i16;
        let Some(range) = versions.range(key).and_then(|theirs| theirs.intersect(supported(key)?)) else {
            continue;
        };
        for version in range.min..=range.max {
            let frame =
                request(guard::request_message(key).ok_or("no request")?, version).ok_or("no version")?;
            decode_request(frame.clone().into())?;
            let Ok(answer) = ask(&address, &frame) else {
                silent.push(format!("{api:?} v{version}"));
                continue;
            };
            if !check_response(api, version, &answer) {
                return Err(format!(
                    "{api:?} v{version} is refused: {:?}",
                    guard::check_response(key, version, &answer)
                )
                .into());
            }
            let (id, response) = decode_any_response(answer.clone(), key, version)?;
            let mut again = BytesMut::new();
            encode_response(&mut again, key, version, id, &response)?;
            assert_eq!(again.get(4..), Some(&answer[..]), "{api:?} v{version}");
            answers += 1;
            if let Some(seeds) = &seeds {
                let picked = [u8::try_from(index)?, u8::try_from(version)?];
                let path = Path::new(seeds).join(format!("{api:?}_v{version}"));
                std::fs::write(path, [&picked[..], &answer].concat())?;
            }
        }
    }
    println!(
        "{answers} answers accepted, decoded and written again as they came; no answer to {}",
        silent.join(", ")
    );
    Ok(())
}
