//! What the readers of records promise: owned, borrowed and in memory used again they read the same, and offsets rise.

use bytes::Bytes;
use milena_protocol::records::{BatchExtent, BatchRef, Record, RecordBatch, Records};
use milena_protocol::{ErrorKind, Result};

/// What the records of a batch may take, decompressed, in bytes.
const MAX_RECORDS: usize = 1 << 20;

/// Reads any bytes as batches or message sets: nothing panics, and what the readers promise holds.
pub fn check_batches(mut bytes: Bytes) {
    while let Some((batch, rest)) = check_head(&bytes) {
        assert!(batch.base_offset() <= batch.last_offset() && batch.last_offset() < batch.next_offset());
        let records = batch.records_capped(MAX_RECORDS);
        check_borrowed(&batch, &records);
        if let Ok(records) = records {
            check_records(&batch, &records);
        }
        bytes = rest;
    }
}

/// The batch that the bytes begin with, as every reader of heads sees it, and what follows it.
fn check_head(bytes: &Bytes) -> Option<(RecordBatch, Bytes)> {
    let (mut owned, mut borrowed) = (bytes.clone(), &bytes[..]);
    let (batch, head) = match (RecordBatch::parse(&mut owned), BatchRef::parse(&mut borrowed)) {
        (Ok(Some(batch)), Ok(Some(head))) => (batch, head),
        (Ok(None), Ok(None)) => {
            assert_eq!(BatchExtent::read(bytes).expect("no whole batch"), None);
            return None;
        }
        (Err(one), Err(other)) => {
            assert_eq!((one.kind(), one.to_string()), (other.kind(), other.to_string()));
            return None;
        }
        both => panic!("{both:?}"),
    };
    assert_eq!(owned, borrowed);
    assert_eq!(batch.as_bytes(), head.as_bytes());
    assert_eq!(
        format!("{batch:?}").strip_prefix("RecordBatch"),
        format!("{head:?}").strip_prefix("BatchRef")
    );
    let extent = BatchExtent::read(bytes).expect("a batch").expect("a whole one");
    assert_eq!(
        (extent.bytes, extent.base_offset, extent.last_offset, extent.leader_epoch),
        (batch.len_bytes(), batch.base_offset(), batch.last_offset(), batch.leader_epoch())
    );
    assert_eq!(kind(&batch.verify_crc()), kind(&head.verify_crc()));
    assert_eq!(format!("{:?}", batch.control()), format!("{:?}", head.control()));
    Some((batch, owned))
}

fn kind<T>(outcome: &Result<T>) -> Option<ErrorKind> {
    outcome.as_ref().err().map(|error| error.kind())
}

/// The same records are read where they lie, from there on, and into memory that was used before.
fn check_borrowed(batch: &RecordBatch, records: &Result<Records>) {
    let reused = batch.borrowed().share(batch.as_bytes()).records_in(MAX_RECORDS, vec![7; 999], Bytes::from);
    // A codec may find the same fault at another step.
    assert_eq!(kind(records), kind(&reused));
    let (Ok(records), Ok(reused)) = (records, &reused) else { return };
    assert_eq!(records.buffer(), reused.buffer());
    same(records.iter(), reused.iter());
    if let Some(plain) = batch.borrowed().plain_records() {
        same(plain.clone(), records.iter());
        let mut later = plain.clone();
        later.by_ref().take(records.count() as usize / 2).for_each(drop);
        same(plain.resume(&later.mark()), later);
    }
}

fn same<'a>(
    mut one: impl Iterator<Item = Result<Record<'a>>>,
    mut other: impl Iterator<Item = Result<Record<'a>>>,
) {
    loop {
        match (one.next(), other.next()) {
            (None, None) => return,
            (Some(Ok(one)), Some(Ok(other))) => assert_eq!(one, other),
            (Some(Err(one)), Some(Err(other))) => assert_eq!(one.to_string(), other.to_string()),
            both => panic!("{both:?}"),
        }
    }
}

/// Offsets rise within what the head says, nothing follows an error, and a record of its own says what a borrowed one says.
fn check_records(batch: &RecordBatch, records: &Records) {
    let mut last = None;
    let mut count = 0;
    let mut failed = false;
    // Formats 0 and 1: a wrapper's records lie before it. One at offset 0 may have any offsets: a producer left them
    // to the broker.
    let set = batch.magic() < 2;
    let loose = set && batch.last_offset().0 == 0;
    for record in records {
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
