//! What fuzzing begins with: the frames that real brokers took and sent, and the record data in them, in the form in which
//! each target takes its input.
//!
//! They are derived from `crates/protocol/tests/data` before every run, so that a frame is kept once. What few frames hold is made
//! at random.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use milena_protocol::compression::Compression;
use milena_protocol::dump::{Dump, Piece, Value, What, inside, pieces};
use milena_protocol::fetch;
use milena_protocol::guard::sample::Sampler;
use milena_protocol::guard::{consumer_assignment, consumer_subscription};
use milena_protocol::messages::ApiKey;
use milena_protocol::records::{RecordBatch, Records};

use crate::command::root;

/// Larger inputs make every run of a target slow, and show it nothing that small ones don't.
const MAX_SEED: usize = 16 * 1024;
/// What the records of a seed may take, decompressed.
const MAX_RECORDS: usize = 1 << 20;
/// Bytes of a batch of format 2 before its records.
const RECORDS_AT: usize = milena_protocol::records::HEADER_LEN;

/// The folder with the seeds of a target.
pub(crate) fn folder(target: &str) -> PathBuf {
    root().join("fuzz/target/seeds").join(target)
}

/// Makes all seeds anew; returns how many there are.
pub(crate) fn make() -> Result<usize> {
    let data = root().join("crates/protocol/tests/data");
    let mut seeds = Seeds::default();
    for path in files(&data.join("golden"))? {
        let direction = match path.extension().and_then(|ending| ending.to_str()) {
            Some("requests") => Direction::Request,
            Some("responses") => Direction::Response,
            _ => continue,
        };
        let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
        let frames = split(&bytes).with_context(|| path.display().to_string())?;
        for three in frames.chunks(3) {
            seeds.stream(three);
        }
        for frame in frames {
            seeds.frame(direction, frame);
        }
    }
    for writer in files(&data)?.iter().filter(|folder| folder.is_dir()) {
        for path in files(writer)? {
            if matches!(path.extension().and_then(|ending| ending.to_str()), Some("batch" | "set")) {
                seeds.record_data(&fs::read(&path).with_context(|| path.display().to_string())?);
            }
        }
    }
    seeds.members();
    seeds.write(&root().join("fuzz/target/seeds"))?;
    Ok(seeds.0.len())
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Request,
    Response,
}

/// The frames of a file, without their lengths.
fn split(mut bytes: &[u8]) -> Result<Vec<&[u8]>> {
    let mut frames = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        let Some((frame, rest)) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length))?) else {
            bail!("ends within a frame");
        };
        frames.push(frame);
        bytes = rest;
    }
    Ok(frames)
}

/// Inputs and the targets that take them, each once.
#[derive(Default)]
struct Seeds(BTreeSet<(&'static str, Vec<u8>)>);

impl Seeds {
    fn add(&mut self, target: &'static str, parts: &[&[u8]]) {
        let bytes = parts.concat();
        if !bytes.is_empty() && bytes.len() <= MAX_SEED {
            self.0.insert((target, bytes));
        }
    }

    /// Brings a folder to hold these inputs, each target's in a folder of its own, and no others. What is there already is left
    /// alone, since fuzzers of another run may be about to read it.
    fn write(&self, all: &Path) -> Result<()> {
        let mut paths = BTreeSet::new();
        let mut next = (&"", 0_usize);
        for (target, bytes) in &self.0 {
            next = (target, if *target == *next.0 { next.1 + 1 } else { 0 });
            let folder = all.join(target);
            let path = folder.join(format!("{:05}", next.1));
            if fs::read(&path).ok().as_ref() != Some(bytes) {
                fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
                fs::write(&path, bytes).with_context(|| path.display().to_string())?;
            }
            paths.insert(path);
        }
        for folder in files(all)? {
            for path in files(&folder)? {
                if !paths.contains(&path) {
                    fs::remove_file(&path).with_context(|| path.display().to_string())?;
                }
            }
        }
        Ok(())
    }

    /// Frames that follow each other on a connection; the first byte is in how large pieces they come.
    fn stream(&mut self, frames: &[&[u8]]) {
        let mut stream = vec![6];
        for frame in frames {
            stream.extend_from_slice(&u32::try_from(frame.len()).unwrap_or(u32::MAX).to_be_bytes());
            stream.extend_from_slice(frame);
        }
        self.add("frame", &[&stream]);
    }

    /// A frame as it was captured: a correlation id is API key x 100 + version.
    fn frame(&mut self, direction: Direction, frame: &[u8]) {
        let at = if direction == Direction::Request { 4 } else { 0 };
        let Some(id) = frame.get(at..).and_then(<[u8]>::first_chunk) else { return };
        let id = i32::from_be_bytes(*id);
        let (Ok(key), Ok(version)) = (i16::try_from(id / 100), u8::try_from(id % 100)) else { return };
        let Some(api) = ApiKey::iter().position(|api| api as i16 == key) else { return };
        let api = u8::try_from(api).unwrap_or(u8::MAX);
        let dump = if direction == Direction::Request {
            self.add("guard_request", &[&[api, version], frame.get(4..).unwrap_or_default()]);
            self.add("request_decode", &[frame]);
            self.add("dump", &[&[0], frame]);
            Dump::request(frame)
        } else {
            self.add("guard_response", &[&[api, version], frame]);
            self.add("dump", &[&[1, api, version], frame]);
            if key == ApiKey::Fetch as i16 && fetch::VERSIONS.contains(i16::from(version)) {
                self.add("fetch_view", &[&[version], frame]);
            }
            Dump::response(key, i16::from(version), frame)
        };
        for event in dump.flatten() {
            match event.what {
                What::Value { value: Value::Records(bytes), .. } => self.record_data(bytes),
                What::Value { name, value: Value::Bytes(bytes) } => {
                    self.of_a_member(key, &name.to_string(), bytes);
                }
                _ => {}
            }
        }
    }

    /// What a member of a consumer group wants or was given, if the field of the API holds that.
    fn of_a_member(&mut self, key: i16, field: &str, bytes: &[u8]) {
        if inside(key, field, bytes).is_some() {
            self.add("consumer_protocol", &[&[u8::from(field.ends_with("assignment"))], bytes]);
        }
    }

    /// Random valid words of members in every version: few were captured.
    fn members(&mut self) {
        let mut sampler = Sampler::new(1);
        for (which, message) in [(0, consumer_subscription()), (1, consumer_assignment())] {
            for version in (0..4_i16).flat_map(|version| [version; 5]) {
                if let Some(body) = sampler.body(message, version) {
                    self.add("consumer_protocol", &[&[which], &version.to_be_bytes(), &body]);
                }
            }
        }
    }

    /// Record batches or messages, as a producer sends them or a broker serves them.
    fn record_data(&mut self, bytes: &[u8]) {
        self.add("batch", &[bytes]);
        self.add("dump", &[&[2], bytes]);
        for piece in pieces(Bytes::copy_from_slice(bytes)) {
            if let Piece::Batch { batch, .. } = piece {
                self.batch(&batch);
            }
        }
    }

    fn batch(&mut self, batch: &RecordBatch) {
        let whole = batch.as_bytes();
        self.add("batch", &[whole]);
        let codec = batch.compression();
        let Ok(records) = batch.records_capped(MAX_RECORDS) else { return };
        let code = u8::try_from(codec.code()).unwrap_or_default();
        if batch.magic() == 2 {
            self.add("batch_roundtrip", &[&[code], &built(&records, true)]);
            self.compressed(codec, whole.get(RECORDS_AT..).unwrap_or_default());
            return;
        }
        let format = u8::try_from(batch.magic()).unwrap_or_default();
        self.add("message_set", &[&[0, 0], whole]);
        self.add("message_set_roundtrip", &[&[code & 3 | format << 2], &built(&records, false)]);
        if codec != Compression::None {
            // The target wraps what it is given, as its first byte says: codec, format, who set the time.
            let how = code & 3 | format << 2 | u8::from(whole.get(17).is_some_and(|byte| byte & 8 != 0)) << 3;
            let offset = u8::try_from(batch.last_offset().0.rem_euclid(256)).unwrap_or_default();
            self.add("message_set", &[&[how, offset], records.buffer()]);
            // A wrapper's value follows key and length; the key of a wrapper is null.
            let value = if format == 0 { 26 } else { 34 };
            self.compressed(codec, whole.get(value..).unwrap_or_default());
        }
    }

    fn compressed(&mut self, codec: Compression, bytes: &[u8]) {
        let target = match codec {
            Compression::None => return,
            Compression::Gzip => "decompress_gzip",
            Compression::Snappy => "decompress_snappy",
            Compression::Lz4 => "decompress_lz4",
            Compression::Zstd => "decompress_zstd",
        };
        self.add(target, &[bytes]);
    }
}

/// Records in the form from which the round-trip targets build them: fields with a length of one byte, 255 for null. What is
/// longer is cut.
fn built(records: &Records, with_headers: bool) -> Vec<u8> {
    let mut out = Vec::new();
    for record in records.iter().flatten() {
        field(&mut out, Some(&record.timestamp.to_be_bytes()), 8);
        field(&mut out, record.key, 254);
        field(&mut out, record.value, 254);
        if with_headers {
            let headers: Vec<_> = record.headers.iter().take(3).collect();
            field(&mut out, Some(&[0, 0, 0]), headers.len());
            for header in headers {
                field(&mut out, Some(header.name.as_bytes()), 20);
                field(&mut out, header.value, 20);
            }
        }
    }
    out
}

fn field(out: &mut Vec<u8>, bytes: Option<&[u8]>, most: usize) {
    match bytes {
        None => out.push(255),
        Some(bytes) => {
            let cut = bytes.get(..most).unwrap_or(bytes);
            out.push(u8::try_from(cut.len()).unwrap_or(254));
            out.extend_from_slice(cut);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_comes_to_hold_just_the_seeds() {
        let folder = tempfile::tempdir().unwrap();
        let all = folder.path();
        let mut seeds = Seeds::default();
        for (target, byte) in [("batch", 1), ("batch", 2), ("batch", 3), ("dump", 1)] {
            seeds.add(target, &[&[byte]]);
        }
        seeds.write(all).unwrap();
        let held = |path: &str| fs::read(all.join(path)).unwrap();
        assert_eq!([held("batch/00000"), held("batch/00002"), held("dump/00000")], [[1], [3], [1]]);
        seeds.0.remove(&("batch", vec![1]));
        for _ in 0..2 {
            seeds.write(all).unwrap();
            assert_eq!([held("batch/00000"), held("batch/00001")], [[2], [3]]);
            assert_eq!(files(&all.join("batch")).unwrap().len(), 2);
        }
    }
}
