//! What reading and writing records allocates, counted.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // a panic is how a check fails here

use allocation_counter::{AllocationInfo, measure};
use bytes::Bytes;
use milena_protocol::ErrorKind;
use milena_protocol::compression::{Compression, compress, decompress, decompress_into};
use milena_protocol::records::{
    BatchBuilder, BatchIdentity, BatchOptions, Header, HeaderName, MessageFormat, MessageSetBuilder,
    RecordBatch, batches,
};
use milena_protocol::{ProducerEpoch, ProducerId, Sequence};

const CODECS: [Compression; 4] =
    [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
const HEADERS: [Header<'static>; 2] = [
    Header { name: HeaderName::new(b"trace"), value: Some(b"0123456789abcdef") },
    Header { name: HeaderName::new(b"empty"), value: None },
];

fn counted<T>(run: impl FnOnce() -> T) -> (T, AllocationInfo) {
    let mut result = None;
    let info = measure(|| result = Some(run()));
    (result.unwrap(), info)
}

fn fill(builder: &mut BatchBuilder, records: usize) {
    for i in 0..records {
        let key = (i as u64).to_be_bytes();
        builder.push(1_700_000_000_000 + i as i64, Some(&key), Some(&[7; 100]), HEADERS).unwrap();
    }
}

fn batch(compression: Compression, records: usize) -> Bytes {
    let mut builder = BatchBuilder::new(BatchOptions { compression, ..BatchOptions::default() });
    fill(&mut builder, records);
    builder.build(BatchIdentity::default()).unwrap()
}

/// Reads all records and their headers of all batches in some bytes; says how many there were.
fn read(bytes: &Bytes) -> usize {
    let mut rest = bytes.clone();
    let mut count = 0;
    while let Some(batch) = RecordBatch::parse(&mut rest).unwrap() {
        batch.verify_crc().unwrap();
        for record in &batch.records().unwrap() {
            let record = record.unwrap();
            assert_eq!(record.headers.iter().count(), 2);
            count += record.value.map_or(0, |value| value.len() / 100);
        }
    }
    count
}

#[test]
fn the_counter_counts() {
    let (_, info) = counted(|| {
        drop(std::hint::black_box(vec![1u8; 70_000]));
        std::hint::black_box(vec![1u8; 50_000])
    });
    assert_eq!((info.count_total, info.bytes_max), (2, 70_000));
}

#[test]
fn reading_records_allocates_nothing() {
    for records in [1, 10, 10_000] {
        let bytes = batch(Compression::None, records);
        let (count, info) = counted(|| read(&bytes));
        assert_eq!((count, info.count_total), (records, 0), "{info:?}");
    }
}

#[test]
fn reading_a_compressed_batch_allocates_its_content_once() {
    for codec in CODECS {
        let bytes = batch(codec, 10_000);
        // The first batch of a thread makes the codec's state.
        assert_eq!(read(&bytes), 10_000);
        let (count, info) = counted(|| read(&bytes));
        assert_eq!(count, 10_000);
        // The content, what shares it, and a content cut to its size.
        assert!(info.count_total <= 4, "{codec}: {info:?}");
        let content = batch(Compression::None, 10_000).len() as u64;
        assert!(info.bytes_max < 2 * content + 200_000, "{codec}: {info:?} for {content}");
    }
}

#[test]
fn building_in_used_memory_allocates_nothing_per_record() {
    for codec in
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd]
    {
        let options = BatchOptions { compression: codec, ..BatchOptions::default() };
        let mut memory = (Vec::new(), Vec::new());
        let mut allocations = Vec::new();
        for records in [10_000, 10_000, 10_000, 10] {
            let ((), info) = counted(|| {
                let mut builder = BatchBuilder::with_buffer(options, std::mem::take(&mut memory.0));
                fill(&mut builder, records);
                let (mut frozen, left) = builder.freeze_with(std::mem::take(&mut memory.1)).unwrap();
                frozen.stamp(ProducerId(7), ProducerEpoch(0), Sequence(9), false);
                memory = match codec {
                    Compression::None => (frozen.reclaim().unwrap(), left),
                    _ => (left, frozen.reclaim().unwrap()),
                };
            });
            allocations.push(info.count_total);
        }
        // Headers are put together aside, in memory of a batch of its own, and `Bytes` keeps a count of its sharers.
        let last = *allocations.last().unwrap();
        assert!(last <= 8, "{codec}: {allocations:?}");
        // Some for each block of a codec, and there are eleven.
        assert!(allocations[2] <= last + 11, "{codec}: {allocations:?}");
    }
}

#[test]
fn building_from_nothing_allocates_as_the_buffer_doubles() {
    let (_, info) = counted(|| fill(&mut BatchBuilder::new(BatchOptions::default()), 10_000));
    assert!(info.count_total < 30, "{info:?}");
}

/// The state of the codec, the size of a block, what `Bytes` takes.
const STATE: u64 = 1 << 20;

#[test]
fn a_bomb_takes_no_more_than_the_limit() {
    const LIMIT: usize = 1 << 20;
    // Compresses a thousandfold and more (lz4: 255-fold; snappy: 21-fold).
    let zeros = vec![0u8; 64 << 20];
    for codec in CODECS {
        let mut bomb = Vec::new();
        compress(codec, None, &zeros, &mut bomb).unwrap();
        for max in [0, 1, 1000, LIMIT, 8 * LIMIT] {
            // On a thread of its own, so that the codec's state is counted as well.
            let info = std::thread::scope(|scope| {
                let run = || {
                    let (outcome, info) = counted(|| decompress(codec, &bomb, max));
                    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::TooLarge, "{codec}, {max}");
                    info
                };
                scope.spawn(run).join().unwrap()
            });
            assert!(info.bytes_max <= max as u64 + STATE, "{codec}, {max}: {info:?}");
        }
        let (outcome, info) = counted(|| decompress(codec, &bomb, zeros.len()));
        assert!(outcome.unwrap() == zeros);
        assert!(info.bytes_max <= zeros.len() as u64 + STATE, "{codec}: {info:?}");
    }
}

#[test]
fn a_false_size_takes_no_more_than_the_bytes_can_hold() {
    // Each claims 100,000,000 bytes or more: an lz4 frame of no block, a snappy block of one literal, a zstd frame of one
    // empty block, a gzip member of one byte.
    let mut gzip = Vec::new();
    compress(Compression::Gzip, None, b"x", &mut gzip).unwrap();
    let size = gzip.len() - 4;
    gzip[size..].copy_from_slice(&100_000_000u32.to_le_bytes());
    let mut lz4 = vec![0x04, 0x22, 0x4d, 0x18, 0x68, 0x40];
    lz4.extend_from_slice(&100_000_000u64.to_le_bytes());
    lz4.push((twox_hash::XxHash32::oneshot(0, &lz4[4..]) >> 8) as u8);
    lz4.extend_from_slice(&[0; 4]);
    let claims: [(Compression, &[u8]); 4] = [
        (Compression::Gzip, &gzip),
        (Compression::Lz4, &lz4),
        (Compression::Snappy, b"\x80\x80\x80\x30\x00a"),
        (Compression::Zstd, b"\x28\xb5\x2f\xfd\xe0\x00\xe1\xf5\x05\0\0\0\0\x01\0\0"),
    ];
    for (codec, bytes) in claims {
        let (outcome, info) = counted(|| decompress(codec, bytes, 1 << 30));
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Codec, "{codec}");
        assert!(info.bytes_max <= STATE, "{codec}: {info:?}");
    }
}

#[test]
fn memory_used_again_is_not_taken_again() {
    let content: Vec<u8> = (0..200_000u32).flat_map(|i| (i / 3).to_le_bytes()).collect();
    for codec in CODECS {
        let mut packed = Vec::new();
        compress(codec, None, &content, &mut packed).unwrap();
        let mut out = Vec::new();
        for _ in 0..2 {
            decompress_into(codec, &packed, content.len(), &mut out).unwrap();
        }
        let (outcome, info) = counted(|| decompress_into(codec, &packed, content.len(), &mut out));
        outcome.unwrap();
        assert!(out == content);
        assert_eq!(info.count_total, 0, "{codec}: {info:?}");

        let mut again = Vec::with_capacity(packed.len() * 2);
        compress(codec, None, &content, &mut again).unwrap();
        again.clear();
        let (outcome, info) = counted(|| compress(codec, None, &content, &mut again));
        outcome.unwrap();
        // zstd makes small tables anew for each block.
        assert!(again == packed && info.bytes_total < 64 * 1024, "{codec}: {info:?}");
    }
}

#[test]
fn states_that_are_large_are_not_kept() {
    // What a thread that compressed and decompressed one batch still holds.
    for (codec, level) in [
        (Compression::Gzip, 9),
        (Compression::Lz4, 17),
        (Compression::Zstd, 3),
        (Compression::Zstd, 9),
        (Compression::Zstd, 19),
    ] {
        let content: Vec<u8> = (0..1_000_000u32).flat_map(|i| (i / 7).to_le_bytes()).collect();
        let held = std::thread::scope(|scope| {
            let run = || {
                let ((), info) = counted(|| {
                    let mut packed = Vec::new();
                    compress(codec, Some(level), &content, &mut packed).unwrap();
                    drop(decompress(codec, &packed, content.len()).unwrap());
                });
                info.bytes_current
            };
            scope.spawn(run).join().unwrap()
        });
        assert!(held <= 9 << 20, "{codec} level {level}: {held} bytes");
    }
}

#[test]
fn reading_message_sets_allocates_nothing_per_record() {
    for format in [MessageFormat::V0, MessageFormat::V1] {
        for codec in [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4] {
            let mut builder = MessageSetBuilder::new(format, codec, None);
            for i in 0..10_000i64 {
                builder.push(i, Some(&i.to_be_bytes()), Some(&[7; 100])).unwrap();
            }
            let bytes = builder.build().unwrap();
            let read = || {
                batches(bytes.clone()).fold(0, |count, batch| {
                    let batch = batch.unwrap();
                    batch.verify_crc().unwrap();
                    let records = batch.records().unwrap();
                    count
                        + records
                            .iter()
                            .map(|record| record.unwrap().value.unwrap().len() / 100)
                            .sum::<usize>()
                })
            };
            // The first set of a thread makes the codec's state.
            assert_eq!(read(), 10_000);
            let (count, info) = counted(read);
            assert_eq!(count, 10_000);
            assert!(info.count_total <= if codec == Compression::None { 1 } else { 5 }, "{codec}: {info:?}");
        }
    }
}
