//! Small record sets in the format that a version of Produce takes.

use milena_protocol::compression::Compression;
use milena_protocol::records::{
    BatchBuilder, BatchIdentity, BatchOptions, Header, MessageFormat, MessageSetBuilder,
};
use milena_protocol::{ProducerEpoch, ProducerId, Sequence};

use crate::{Failure, wire};

/// 2023-11-14T22:13:20Z in milliseconds; the records are a second apart.
pub(crate) const FIRST_TIMESTAMP: i64 = 1_700_000_000_000;

const RECORDS: [(Option<&str>, Option<&str>); 3] = [
    (Some("first"), Some("value of the first, value of the first, value of the first")),
    (None, Some("")),
    (Some("third"), None),
];

/// Three records for Produce in this version, as hexadecimal digits; `None` if its format lacks the codec.
pub(crate) fn record_set(produce: i16, codec: Compression) -> Result<Option<String>, Failure> {
    if codec == Compression::Zstd && produce < 7 {
        return Ok(None);
    }
    if produce >= 3 {
        return batch(codec, BatchIdentity::default()).map(Some);
    }
    let format = if produce == 2 { MessageFormat::V1 } else { MessageFormat::V0 };
    let mut builder = MessageSetBuilder::new(format, codec, None);
    for (index, (key, value)) in (0..).zip(RECORDS) {
        let timestamp = FIRST_TIMESTAMP + 1000 * index;
        builder.push(timestamp, key.map(str::as_bytes), value.map(str::as_bytes))?;
    }
    Ok(Some(wire::to_hex(&builder.build()?)))
}

/// The first batch of a producer, within a transaction.
pub(crate) fn transactional(producer_id: i64, producer_epoch: i16) -> Result<String, Failure> {
    let identity = BatchIdentity {
        producer_id: ProducerId(producer_id),
        producer_epoch: ProducerEpoch(producer_epoch),
        base_sequence: Sequence(0),
        transactional: true,
        ..BatchIdentity::default()
    };
    batch(Compression::None, identity)
}

fn batch(compression: Compression, identity: BatchIdentity) -> Result<String, Failure> {
    let mut builder = BatchBuilder::new(BatchOptions { compression, ..BatchOptions::default() });
    for (index, (key, value)) in (0..).zip(RECORDS) {
        let headers =
            [Header::new("twice", Some(b"1")), Header::new("twice", Some(b"")), Header::new("null", None)];
        let timestamp = FIRST_TIMESTAMP + 1000 * index;
        let count = usize::try_from(index)? * 3 / 2;
        builder.push(
            timestamp,
            key.map(str::as_bytes),
            value.map(str::as_bytes),
            headers.into_iter().take(count),
        )?;
    }
    Ok(wire::to_hex(&builder.build(identity)?))
}
