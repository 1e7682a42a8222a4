//! Records made from any bytes are built into a batch and read back unchanged.
#![no_main]

use libfuzzer_sys::fuzz_target;
use milena_fuzz::field;
use milena_protocol::compression::Compression;
use milena_protocol::records::{BatchBuilder, BatchIdentity, BatchOptions, Header, batches};

fuzz_target!(|bytes: &[u8]| {
    let Some((&codec, mut rest)) = bytes.split_first() else { return };
    let compression = Compression::ALL[usize::from(codec) % Compression::ALL.len()];
    let mut builder = BatchBuilder::new(BatchOptions { compression, ..BatchOptions::default() });
    let mut expected = Vec::new();
    while !rest.is_empty() {
        let time = field(&mut rest, 8).unwrap_or_default();
        let timestamp = time.iter().fold(0i64, |time, &byte| time << 8 | i64::from(byte));
        let (key, value) = (field(&mut rest, 254), field(&mut rest, 254));
        let mut headers = Vec::new();
        for _ in 0..field(&mut rest, 3).unwrap_or_default().len() {
            let name = field(&mut rest, 20).unwrap_or_default();
            headers.push(Header::new(name, field(&mut rest, 20)));
        }
        let before = builder.size_bytes();
        match builder.push(timestamp, key, value, headers.iter().copied()) {
            Ok(index) => {
                assert_eq!(index as usize, expected.len());
                expected.push((timestamp, key, value, headers));
            }
            Err(_) => assert_eq!(builder.size_bytes(), before),
        }
    }
    if expected.is_empty() {
        return;
    }
    let bytes = builder.build(BatchIdentity::default()).expect("builds");
    let batch = batches(bytes).next().expect("a batch").expect("readable");
    batch.verify_crc().expect("its checksum");
    let records = batch.records().expect("decompresses");
    assert_eq!(records.iter().count(), expected.len());
    for (record, (timestamp, key, value, headers)) in records.iter().zip(expected) {
        let record = record.expect("readable");
        assert_eq!((record.timestamp, record.key, record.value), (timestamp, key, value));
        assert!(record.headers.iter().eq(headers));
    }
});
