//! Any bytes as record batches: every reader ends without a panic, and its promises hold.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use milena_protocol::records::batches;

const MAX: usize = 1 << 20;

fuzz_target!(|bytes: &[u8]| {
    for batch in batches(Bytes::copy_from_slice(bytes)) {
        let Ok(batch) = batch else { return };
        let _ = (batch.verify_crc(), batch.control(), format!("{batch:?}"));
        assert!(batch.base_offset() <= batch.last_offset() && batch.last_offset() < batch.next_offset());
        let Ok(records) = batch.records_capped(MAX) else { continue };
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
});
