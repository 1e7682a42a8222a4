//! What a batch becomes in a Produce request of an older version, and what it cannot become.
//!
//! | Produce | brokers | records travel as |
//! |---|---|---|
//! | 0, 1 | 0.8, 0.9 | message sets of format 0: no times, no headers |
//! | 2 | 0.10 | message sets of format 1: no headers |
//! | 3 to 6 | 0.11 to 2.0 | batches, not with zstd |
//! | 7 and later | 2.1 and later | batches |
//!
//! # References
//! KIP-32 (format 1), KIP-98 (batches), KIP-110 (zstd).

use bytes::Bytes;
use milena_core::produce::outcome::{Outcome, Remedy, Scope};
use milena_protocol::compression::Compression;
use milena_protocol::error::ErrorKind as ProtocolErrorKind;
use milena_protocol::records::{FrozenBatch, MessageFormat, RecordBatch, convert_to_message_set};

use crate::error::{Error, ErrorKind};

/// The first version that carries batches.
const BATCHES_FROM: i16 = 3;

/// The first version that carries message sets with times.
const TIMES_FROM: i16 = 2;

/// The first version that takes batches compressed with zstd.
const ZSTD_FROM: i16 = 7;

/// Why a batch cannot be sent in a version, and what becomes of it.
#[derive(Debug)]
pub(super) struct Unsuited {
    pub(super) outcome: Outcome,
    pub(super) error: Error,
}

/// The bytes of a batch as Produce of this version carries them. Codec and level are those it was written with.
pub(super) fn for_version(
    frozen: &FrozenBatch,
    (compression, level): (Compression, Option<i32>),
    version: i16,
) -> Result<Bytes, Unsuited> {
    let batch = frozen.as_bytes();
    if compression == Compression::Zstd && version < ZSTD_FROM {
        let error =
            Error::new(ErrorKind::Unsupported, "the broker cannot store records compressed with zstd")
                .with_remedy("use lz4, gzip or snappy, or Kafka 2.1 or later");
        return Err(Unsuited { outcome: Outcome::Fatal(Scope::Batch), error });
    }
    let format = match version {
        BATCHES_FROM.. => return Ok(batch),
        TIMES_FROM => MessageFormat::V1,
        _ => MessageFormat::V0,
    };
    // Our own batch: it has a whole header.
    let parsed = RecordBatch::parse(&mut batch.clone());
    let Ok(Some(parsed)) = parsed else {
        let error = Error::misuse("the batch cannot be read back");
        return Err(Unsuited { outcome: Outcome::Fatal(Scope::Batch), error });
    };
    convert_to_message_set(&parsed, format, level).map_err(|error| {
        let headers = error.field() == Some("headers");
        let unsupported = error.kind() == ProtocolErrorKind::Unsupported;
        let (text, remedy) = if headers {
            (
                "the broker cannot store headers".to_owned(),
                "send the record without headers, or use Kafka 0.11 or later",
            )
        } else {
            (format!("the batch cannot be written for this broker: {error}"), "use Kafka 0.11 or later")
        };
        let kind = if unsupported { ErrorKind::Unsupported } else { ErrorKind::Misuse };
        // The records beside the one with headers are not to blame: the batch is cut until that one is alone.
        let outcome = if headers && frozen.record_count() > 1 {
            Outcome::Retry(Remedy::Split)
        } else {
            Outcome::Fatal(Scope::Batch)
        };
        Unsuited { outcome, error: Error::new(kind, text).with_remedy(remedy).with_source(error) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use milena_protocol::records::{BatchBuilder, BatchOptions, Header};

    fn batch(compression: Compression, headers: usize) -> FrozenBatch {
        let mut builder = BatchBuilder::new(BatchOptions { compression, ..BatchOptions::default() });
        for record in 0..3 {
            let header = Header::new("h", Some(b"x".as_slice()));
            let some = (record < headers).then_some(header);
            builder.push(1_000 + record as i64, Some(b"k"), None, some).unwrap();
        }
        builder.freeze_with(Vec::new()).unwrap().0
    }

    #[test]
    fn a_batch_travels_in_the_format_of_the_version() {
        for compression in [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4] {
            for (version, magic) in [(0, 0), (1, 0), (2, 1), (3, 2), (13, 2)] {
                let bytes = for_version(&batch(compression, 0), (compression, None), version).unwrap();
                let parsed = RecordBatch::parse(&mut bytes.clone()).unwrap().unwrap();
                assert_eq!(parsed.magic(), magic, "{compression:?} v{version}");
            }
        }
    }

    #[test]
    fn a_batch_that_is_compressed_anew_keeps_its_level() {
        let sizes = [1, 9].map(|level| {
            let (compression, level) = (Compression::Gzip, Some(level));
            let mut builder =
                BatchBuilder::new(BatchOptions { compression, level, ..BatchOptions::default() });
            for record in 0..500u32 {
                let value = format!("{record} {}", record * record);
                builder.push(0, None, Some(value.as_bytes()), []).unwrap();
            }
            let frozen = builder.freeze_with(Vec::new()).unwrap().0;
            for_version(&frozen, (compression, level), 2).unwrap().len()
        });
        assert!(sizes[0] > sizes[1], "{sizes:?}");
    }

    #[test]
    fn headers_cut_the_batch_until_the_record_that_has_some_is_alone() {
        for version in 0..3 {
            let unsuited =
                for_version(&batch(Compression::None, 1), (Compression::None, None), version).unwrap_err();
            assert_eq!(unsuited.outcome, Outcome::Retry(Remedy::Split));
            assert_eq!(unsuited.error.kind(), ErrorKind::Unsupported);
            assert!(unsuited.error.to_string().contains("headers"), "{}", unsuited.error);
        }
        assert!(for_version(&batch(Compression::None, 3), (Compression::None, None), 3).is_ok());
    }

    #[test]
    fn zstd_is_refused_before_version_7_and_the_error_names_the_remedy() {
        for version in 0..7 {
            let unsuited =
                for_version(&batch(Compression::Zstd, 0), (Compression::Zstd, None), version).unwrap_err();
            assert_eq!(unsuited.outcome, Outcome::Fatal(Scope::Batch));
            assert!(unsuited.error.to_string().contains("lz4"), "{}", unsuited.error);
        }
        assert!(for_version(&batch(Compression::Zstd, 0), (Compression::Zstd, None), 7).is_ok());
    }
}
