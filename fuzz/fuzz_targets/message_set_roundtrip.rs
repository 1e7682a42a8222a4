//! Records made from any bytes are built into a message set of format 0 or 1 and read back unchanged.
#![no_main]

use libfuzzer_sys::fuzz_target;
use milena_fuzz::field;
use milena_protocol::Offset;
use milena_protocol::compression::Compression;
use milena_protocol::records::{MessageFormat, MessageSetBuilder, batches};

fuzz_target!(|bytes: &[u8]| {
    let Some((&how, mut rest)) = bytes.split_first() else { return };
    let compression =
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4][usize::from(how & 3)];
    let format = if how & 4 == 0 { MessageFormat::V0 } else { MessageFormat::V1 };
    let mut builder = MessageSetBuilder::new(format, compression, None);
    let mut expected = Vec::new();
    while !rest.is_empty() {
        let time = field(&mut rest, 8).unwrap_or_default();
        let timestamp = time.iter().fold(0i64, |time, &byte| time << 8 | i64::from(byte));
        let (key, value) = (field(&mut rest, 254), field(&mut rest, 254));
        let before = (builder.record_count(), builder.size_bytes());
        match builder.push(timestamp, key, value) {
            Ok(index) => {
                assert_eq!(index as usize, expected.len());
                let timestamp = if format == MessageFormat::V0 { -1 } else { timestamp };
                expected.push((Offset(i64::from(index)), timestamp, key, value));
            }
            Err(_) => assert_eq!((builder.record_count(), builder.size_bytes()), before),
        }
    }
    if expected.is_empty() {
        return;
    }
    let set = builder.build().expect("builds");
    let mut expected = expected.into_iter();
    for batch in batches(set) {
        let batch = batch.expect("readable");
        assert_eq!((batch.magic(), batch.compression()), (format.magic(), compression));
        batch.verify_crc().expect("its checksum");
        for record in &batch.records().expect("decompresses") {
            let record = record.expect("readable");
            let read = (record.offset, record.timestamp, record.key, record.value);
            assert_eq!(Some(read), expected.next());
            assert!(record.headers.is_empty());
        }
    }
    assert_eq!(expected.next(), None, "nothing is lost");
});
