//! Any bytes as a frame or as a log segment, told for people: every byte once, as far as the guard goes. The first byte says
//! what they are.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use milena_fuzz::told;
use milena_protocol::dump::{Dump, Piece, pieces};
use segment::Segment;

// The reader of segments belongs to the command `milena records`. There the crate is a part of `milena`; here it has to be one
// of this program.
extern crate self as milena;
pub(crate) use milena_protocol as protocol;

#[path = "../../crates/cli/src/dump/segment.rs"]
mod segment;

fuzz_target!(|input: &[u8]| match input {
    [0, frame @ ..] => told::check_request(frame),
    [1, api, version, frame @ ..] => {
        let (api, version) = milena_fuzz::guarded::pick(*api, *version);
        told::check_response(api as i16, version, frame);
    }
    [3, frame @ ..] => {
        told::walk(Dump::response_to_unknown(frame));
        told::walk(Dump::opaque(frame));
    }
    [_, bytes @ ..] => check_segment(bytes),
    [] => {}
});

/// Record data in one piece, and read like a file of which one batch is in memory at a time.
fn check_segment(bytes: &[u8]) {
    let mut segment = Segment::new(bytes);
    let mut place = 0;
    for piece in pieces(Bytes::copy_from_slice(bytes)) {
        let (at, size) = match &piece {
            Piece::Batch { at, batch } => {
                let _ = (batch.verify_crc(), batch.control());
                (*at, batch.len_bytes())
            }
            Piece::Damaged { at, bytes, .. } | Piece::Partial { at, bytes, .. } => (*at, bytes.len()),
            Piece::Zeros { at, count } => (*at, *count),
        };
        assert_eq!(at, place);
        assert!(size > 0);
        place += size;
        // From where a file cannot be read on, it tells less: it has not seen the rest.
        let Some((position, read)) = segment.next().expect("memory is read") else { continue };
        if let (Piece::Batch { batch, .. }, Piece::Batch { batch: same, .. }) = (&piece, &read) {
            assert_eq!((position, batch.as_bytes()), (at as u64, same.as_bytes()));
        } else {
            assert!(!matches!(piece, Piece::Batch { .. }), "{piece:?}, but read as {read:?}");
        }
        assert_eq!(position, at as u64);
    }
    assert_eq!(place, bytes.len());
    assert!(segment.next().expect("memory is read").is_none());
    assert!(segment.position() <= bytes.len() as u64);
}
