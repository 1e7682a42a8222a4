//! The broker as an older release of Kafka: what it does not know, and the record formats of its clients.
//!
//! Logs hold batches of format 2 whatever the release. What producers before 0.11 send is made into batches, and what consumers
//! before 0.11 read is made into message sets, as newer brokers do for old clients.

use bytes::{Bytes, BytesMut};
use milena_protocol::compression::Compression;
use milena_protocol::messages::RequestKind;
use milena_protocol::records::{
    BatchBuilder, BatchOptions, MessageFormat, MessageSetBuilder, RecordBatch, TimestampType, batches,
};
use milena_protocol::versions::BrokerVersions;
use milena_protocol::{ErrorCode, StrBytes};

use super::config::{BrokerConfig, TransactionVersion};

const JOIN_GROUP: i16 = 11;
const API_VERSIONS: i16 = 18;
const INIT_PRODUCER_ID: i16 = 22;
const END_TXN: i16 = 26;

/// The first InitProducerId of brokers that accept any first sequence of a producer they do not know (KIP-360).
const LENIENT_FROM: i16 = 3;

/// The first EndTxn of brokers with transactions of the second generation (KIP-890).
const SECOND_GENERATION_FROM: i16 = 5;

/// The first ApiVersions of brokers that say what they speak when they refuse a version (KIP-511).
const TELLS_FROM: i16 = 3;

/// What a broker does with an API it does not know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum UnknownApi {
    /// It closes the connection: 0.8, and 0.10 and later but for ApiVersions.
    Close,
    /// It never answers: 0.9.
    Silence,
}

impl BrokerConfig {
    /// Looks like a broker of a release of Kafka, such as `"0.8.2"`, `"0.9.0"` or `"2.8"`; `None` for what is no release (see
    /// [`BrokerVersions::of_release`]).
    ///
    /// APIs and versions are limited to those of the release (and of this broker). 0.8 closes the connection on ApiVersions and 0.9
    /// leaves it unanswered. Before 0.11 records travel as message sets. Releases before 4.0 announce no transactions of the
    /// second generation, those before 2.5 are [strict](Self::strict_unknown_producer).
    #[must_use]
    pub fn as_release(mut self, release: &str) -> Option<Self> {
        let versions = BrokerVersions::of_release(release)?;
        let max = |key| versions.range(key).map_or(-1, |range| range.max);
        if max(END_TXN) < SECOND_GENERATION_FROM {
            self.transaction_version = TransactionVersion::V1;
        }
        self.strict_unknown_producer = max(INIT_PRODUCER_ID) < LENIENT_FROM;
        self.versions = Some(versions);
        Some(self)
    }

    pub(super) fn unknown_api(&self) -> UnknownApi {
        match &self.versions {
            Some(versions)
                if versions.range(API_VERSIONS).is_none() && versions.range(JOIN_GROUP).is_some() =>
            {
                UnknownApi::Silence
            }
            _ => UnknownApi::Close,
        }
    }

    /// Whether ApiVersions is answered at all.
    pub(super) fn knows_api_versions(&self) -> bool {
        self.versions.as_ref().is_none_or(|versions| versions.range(API_VERSIONS).is_some())
    }

    /// Whether the versions are told with the refusal of a version of ApiVersions.
    pub(super) fn tells_versions_in_refusal(&self) -> bool {
        let newest = self.versions.as_ref().map(|versions| versions.range(API_VERSIONS));
        newest.is_none_or(|range| range.is_some_and(|range| range.max >= TELLS_FROM))
    }

    /// Whether Metadata names no broker before there is a topic, as on 0.8.
    pub(super) fn knows_nobody_without_topics(&self) -> bool {
        self.versions.as_ref().is_some_and(|versions| versions.range(JOIN_GROUP).is_none())
    }
}

/// Version 0 of the group's offsets lies in ZooKeeper: they are kept apart by a group id that no client can have.
pub(super) fn in_zookeeper(version: i16, kind: &mut RequestKind) {
    let group = match kind {
        RequestKind::OffsetCommit(request) if version == 0 => &mut request.group_id,
        RequestKind::OffsetFetch(request) if version == 0 => &mut request.group_id,
        _ => return,
    };
    group.0 = StrBytes::from_string(format!("\0zookeeper\0{}", group.0));
}

/// What a producer of this version sent, as one batch of format 2.
pub(super) fn read_produced(version: i16, bytes: Bytes) -> Result<Bytes, ErrorCode> {
    let newest = match version {
        3.. => return Ok(bytes),
        2 => 1,
        _ => 0,
    };
    let mut builder: Option<BatchBuilder> = None;
    let mut whole = 0;
    for batch in batches(bytes.clone()) {
        let batch = batch.map_err(|_| ErrorCode::CORRUPT_MESSAGE)?;
        if batch.magic() > newest {
            return Err(ErrorCode::CORRUPT_MESSAGE);
        }
        batch.verify_crc().map_err(|_| ErrorCode::CORRUPT_MESSAGE)?;
        whole += batch.len_bytes();
        let builder = builder.get_or_insert_with(|| {
            BatchBuilder::new(BatchOptions {
                compression: batch.compression(),
                level: None,
                timestamp_type: TimestampType::CreateTime,
            })
        });
        for record in batch.records().map_err(|_| ErrorCode::CORRUPT_MESSAGE)?.iter() {
            let record = record.map_err(|_| ErrorCode::CORRUPT_MESSAGE)?;
            builder
                .push(record.timestamp, record.key, record.value, std::iter::empty())
                .map_err(|_| ErrorCode::CORRUPT_MESSAGE)?;
        }
    }
    // A set that ends inside of a message was cut on its way.
    if whole != bytes.len() {
        return Err(ErrorCode::CORRUPT_MESSAGE);
    }
    let frozen = builder.ok_or(ErrorCode::CORRUPT_MESSAGE)?.freeze_with(Vec::new());
    frozen.map(|(frozen, _)| frozen.as_bytes()).map_err(|_| ErrorCode::CORRUPT_MESSAGE)
}

/// Batches of the log as a consumer of this version reads them: from 0.11 on as they are, before as message sets without headers and
/// without control records. A cut batch at the end is left out.
pub(super) fn written_for(version: i16, log: Bytes) -> Bytes {
    let format = match version {
        4.. => return log,
        2 | 3 => MessageFormat::V1,
        _ => MessageFormat::V0,
    };
    let mut sets = BytesMut::new();
    for batch in batches(log).map_while(Result::ok).filter(|batch| !batch.is_control()) {
        if let Some(set) = as_message_set(&batch, format) {
            sets.extend_from_slice(&set);
        }
    }
    sets.freeze()
}

fn as_message_set(batch: &RecordBatch, format: MessageFormat) -> Option<Bytes> {
    // Kafka as well sends what it cannot say in the old format uncompressed.
    let compression = match batch.compression() {
        Compression::Zstd => Compression::None,
        codec => codec,
    };
    let mut set = MessageSetBuilder::new(format, compression, None);
    if batch.timestamp_type() == TimestampType::LogAppendTime {
        set = set.log_append_time(batch.max_timestamp());
    }
    for record in batch.records().ok()?.iter() {
        let record = record.ok()?;
        set.push_at(record.offset, record.timestamp, record.key, record.value).ok()?;
    }
    set.build().ok()
}
