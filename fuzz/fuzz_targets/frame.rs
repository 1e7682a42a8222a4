#![no_main]
//! A stream cut anywhere gives the same frames as the whole stream.

use bytes::{Bytes, BytesMut};
use milena_protocol::frame;

const MAX: usize = 1 << 16;

fn read(stream: &[u8], step: usize) -> (Vec<Bytes>, bool) {
    let (mut buf, mut frames) = (BytesMut::new(), Vec::new());
    for piece in stream.chunks(step) {
        buf.extend_from_slice(piece);
        loop {
            match frame::split(&mut buf, MAX) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(_) => return (frames, false),
            }
        }
    }
    (frames, true)
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let [step, stream @ ..] = input else { return };
    let whole = read(stream, stream.len().max(1));
    assert_eq!(read(stream, usize::from(*step) + 1), whole);
    let bytes: usize = whole.0.iter().map(|frame| frame.len() + frame::PREFIX).sum();
    assert!(bytes <= stream.len());
});
