//! Any bytes as gzip: no panic, no more memory than the limit, and what comes out compresses and comes back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use milena_protocol::compression::{Compression, compress, decompress};

const MAX: usize = 1 << 20;

fuzz_target!(|bytes: &[u8]| {
    let Ok(out) = decompress(Compression::Gzip, bytes, MAX) else { return };
    assert!(out.len() <= MAX && out.capacity() <= MAX);
    // What fits the limit exactly is the same; one byte less is refused.
    assert_eq!(decompress(Compression::Gzip, bytes, out.len()).as_ref().ok(), Some(&out));
    if let Some(below) = out.len().checked_sub(1) {
        assert!(decompress(Compression::Gzip, bytes, below).is_err());
    }
    let mut again = Vec::new();
    compress(Compression::Gzip, None, &out, &mut again).expect("compresses");
    assert_eq!(decompress(Compression::Gzip, &again, out.len()).expect("our own"), out);
});
