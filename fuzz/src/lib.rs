//! What the fuzz targets share: an allocator that counts, and the checks that decoding costs no more than the guard said and
//! that readers of records and dumps keep their promises.

pub mod der;
pub mod memory;
pub mod told;

use bytes::Bytes;
use milena_protocol::messages::ApiKey;
use milena_protocol::records::batches;
use milena_protocol::{ErrorKind, RequestBody, decode_any_response, decode_request, guard, supported};

/// What a decode may take beyond its cost: an error's text, a shared handle, the allocator's own rounding.
pub const SLACK: u64 = 2048;

/// What the records of a batch may take, decompressed, in bytes.
const MAX_RECORDS: usize = 1 << 20;

/// An API and a version from two bytes, so that every pair is equally near. Seeds name the version itself.
pub fn pick(api: u8, version: u8) -> (ApiKey, i16) {
    let apis: Vec<ApiKey> = ApiKey::iter().collect();
    let api = apis[usize::from(api) % apis.len()];
    let range = supported(api as i16).expect("kafka-protocol has it");
    let version = i16::from(version);
    if range.contains(version) {
        (api, version)
    } else {
        (api, range.min + version % (range.max - range.min + 1))
    }
}

/// What decoding may take: the guard's cost, or in a version that kafka-protocol lacks, all that the frame may take and a copy
/// of four times the frame.
fn most(cost: guard::Cost, api: ApiKey, version: i16, frame: &[u8]) -> u64 {
    if is_rewritten(api, version) {
        guard::limit(frame.len()) + 4 * frame.len() as u64 + SLACK
    } else {
        cost.memory + SLACK
    }
}

fn is_rewritten(api: ApiKey, version: i16) -> bool {
    let direct = api.valid_versions();
    // The crate's own list says 10 for these two, but its requests end at 9.
    let short = matches!(api, ApiKey::OffsetCommit | ApiKey::OffsetFetch) && version == 10;
    version < direct.min || version > direct.max || short
}

/// Whether the guard accepts a response frame. If so, all of it must be decoded within the stated cost.
pub fn check_response(api: ApiKey, version: i16, frame: &[u8]) -> bool {
    let Ok(cost) = guard::check_response(api as i16, version, frame) else { return false };
    let whole = Bytes::copy_from_slice(frame);
    let (decoded, peak) = memory::peak_of(|| decode_any_response(whole, api as i16, version));
    let most = most(cost, api, version, frame);
    assert!(peak <= most, "{api:?} v{version} took {peak} bytes, not {most}");
    decoded_or_dear(decoded, api, version).is_some()
}

/// Whether the guard accepts a request frame. If so, all of it must be decoded within the stated cost.
pub fn check_request(api: ApiKey, version: i16, frame: &[u8]) -> bool {
    let Ok(cost) = guard::check_request(frame) else { return false };
    let whole = Bytes::copy_from_slice(frame);
    let (decoded, peak) = memory::peak_of(|| decode_request(whole));
    let most = most(cost, api, version, frame);
    assert!(peak <= most, "{api:?} v{version} took {peak} bytes, not {most}");
    let Some(request) = decoded_or_dear(decoded, api, version) else { return false };
    assert!(matches!(request.body, RequestBody::Known(_)), "{api:?} v{version} is not spoken");
    true
}

/// What the guard accepted is decoded, unless rewriting it found that it would take too much memory.
fn decoded_or_dear<T>(decoded: milena_protocol::Result<T>, api: ApiKey, version: i16) -> Option<T> {
    match decoded {
        Ok(decoded) => Some(decoded),
        Err(error) if error.kind() == ErrorKind::Guard && is_rewritten(api, version) => None,
        Err(error) => panic!("{api:?} v{version}: {error}"),
    }
}

/// Reads any bytes as batches or message sets: nothing panics, and what the readers promise holds.
pub fn check_batches(bytes: Bytes) {
    for batch in batches(bytes) {
        let Ok(batch) = batch else { return };
        let _ = (batch.verify_crc(), batch.control(), format!("{batch:?}"));
        assert!(batch.base_offset() <= batch.last_offset() && batch.last_offset() < batch.next_offset());
        let Ok(records) = batch.records_capped(MAX_RECORDS) else { continue };
        let mut last = None;
        let mut count = 0;
        let mut failed = false;
        // Formats 0 and 1: a wrapper's records lie before it. One at offset 0 may have any offsets: a producer left them
        // to the broker.
        let set = batch.magic() < 2;
        let loose = set && batch.last_offset().0 == 0;
        for record in &records {
            assert!(!failed, "nothing follows an error");
            let Ok(record) = record else {
                failed = true;
                continue;
            };
            count += 1;
            assert!(record.offset.0 >= 0 && (set || record.offset >= batch.base_offset()));
            assert!(loose || (last < Some(record.offset) && record.offset <= batch.last_offset()));
            last = Some(record.offset);
            assert_eq!(record.headers.iter().count(), record.headers.len());
            let owned = records.own(&record);
            assert_eq!((owned.key.as_deref(), owned.value.as_deref()), (record.key, record.value));
            assert!(owned.headers().eq(record.headers.iter()));
        }
        assert!(failed || count == records.count());
        assert!(set || records.count() == batch.record_count());
    }
}

/// Takes up to `most` bytes, as many as the first one says; 255 stands for null.
pub fn field<'a>(rest: &mut &'a [u8], most: usize) -> Option<&'a [u8]> {
    let (&length, tail) = rest.split_first()?;
    if length == 255 {
        *rest = tail;
        return None;
    }
    let (field, tail) = tail.split_at(usize::from(length).min(most).min(tail.len()));
    *rest = tail;
    Some(field)
}
