//! A checkpoint as a JSON document, to look at, to keep, to change, and to import.
//!
//! The document holds everything that a checkpoint holds, in words: exporting a checkpoint and importing the document gives the
//! same checkpoint. Fields may be left out where a default is stated, so that a document can be written by hand:
//!
//! ```
//! use milena_connector::checkpoint::StateDocument;
//!
//! let text = r#"{
//!     "splits": [
//!         {"topic": "orders", "partition": 0, "offset": 42},
//!         {"topic": "orders", "partition": 1, "start": "earliest"}
//!     ]
//! }"#;
//! let state = StateDocument::parse(text)?.into_state()?;
//! assert_eq!(state.job, "job");
//! # Ok::<(), milena_connector::Error>(())
//! ```

use std::time::Duration;

use milena::{
    LeaderEpoch, Offset, PartitionId, PreparedTransaction, ProducerEpoch, ProducerId, TopicPartition,
    TransactionVersion,
};
use serde::{Deserialize, Serialize};

use super::snapshot::{CheckpointState, FunctionState, Scope, WriterState};
use super::state::{Decoder, Encoder};
use crate::sink::Delivery;
use crate::sink::committable::Committable;
use crate::source::{EnumeratorState, Split, StoredStart, TopicId, UnresolvedSplit};
use crate::{Error, ErrorKind, Result};

/// The version of the document that this build writes.
const VERSION: u32 = 2;
/// The oldest version it reads: it had no functions.
const OLDEST: u32 = 1;

/// A checkpoint in words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateDocument {
    /// The version of the document. Default 2; 1, which had no functions, is read too.
    #[serde(default = "version")]
    pub version: u32,
    /// The name of the job. Default `job`.
    #[serde(default = "job")]
    pub job: String,
    /// The number of the checkpoint. Default 1.
    #[serde(default = "one_u64")]
    pub checkpoint: u64,
    /// How many subtasks the job had. Default 1.
    #[serde(default = "one_u32")]
    pub parallelism: u32,
    /// The sink's promise. Default none.
    #[serde(default)]
    pub delivery: DeliveryName,
    /// The prefix of the sink's transactional ids.
    #[serde(default)]
    pub prefix: Option<String>,
    /// The job's watermark in milliseconds.
    #[serde(default)]
    pub watermark: Option<i64>,
    /// The watermark of each subtask.
    #[serde(default)]
    pub subtask_watermarks: Vec<Option<i64>>,
    /// Whether partitions that are not named start at their first offset. Default true.
    #[serde(default = "yes")]
    pub initial_discovery_finished: bool,
    /// The start mode of the source, in words.
    #[serde(default)]
    pub start: String,
    /// The partitions.
    #[serde(default)]
    pub splits: Vec<SplitDocument>,
    /// The transactions that are to be committed.
    #[serde(default)]
    pub transactions: Vec<TransactionDocument>,
    /// The numbers of transactional ids that unfinished transactions held, by subtask.
    #[serde(default)]
    pub writers: Vec<WriterDocument>,
    /// What functions with state know.
    #[serde(default)]
    pub functions: Vec<FunctionDocument>,
}

/// What a function knows of one partition, or, without a topic, of the partitions of one number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FunctionDocument {
    /// The function's name.
    pub function: String,
    /// The topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// The partition's number.
    pub partition: i32,
    /// Its bytes, in hexadecimal digits.
    pub state: String,
}

/// The sink's promise, by its usual name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeliveryName {
    /// None.
    #[default]
    None,
    /// At least once.
    AtLeastOnce,
    /// Exactly once.
    ExactlyOnce,
}

/// Who holds a partition's position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Holder {
    /// A reader: its position is the newest.
    Reader,
    /// The enumerator: it was not assigned, is at its end, or was read by a reader since.
    #[default]
    Enumerator,
}

/// A partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitDocument {
    /// Its topic.
    pub topic: String,
    /// Its number.
    pub partition: i32,
    /// The next offset to read; or `start`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<i64>,
    /// Where it starts once the job does: `earliest`, `latest`, `committed` or `configured` (by the source's start mode).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    /// The leader epoch of the last record read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader_epoch: Option<i32>,
    /// The id of its topic, as 32 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_id: Option<String>,
    /// Where it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<i64>,
    /// The largest event time handed out, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_timestamp: Option<i64>,
    /// Who holds its position. Default the enumerator.
    #[serde(default)]
    pub holder: Holder,
}

/// A prepared transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransactionDocument {
    /// Its transactional id.
    pub transactional_id: String,
    /// Its producer id.
    pub producer_id: i64,
    /// The epoch it was written with.
    pub producer_epoch: i16,
    /// Its generation, 1 or 2: Kafka's transaction version.
    pub generation: u8,
    /// The checkpoint that prepared it.
    pub checkpoint: u64,
    /// The subtask that wrote it.
    #[serde(default)]
    pub subtask: u32,
    /// When it began, in milliseconds since 1970.
    #[serde(default)]
    pub start_time_ms: Option<i64>,
    /// Its time-out in milliseconds.
    pub timeout_ms: u64,
    /// Its first record in each partition.
    #[serde(default)]
    pub first_offsets: Vec<FirstOffsetDocument>,
}

/// The first record of a transaction in a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirstOffsetDocument {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
}

/// The state of a writer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WriterDocument {
    /// The subtask.
    pub subtask: u32,
    /// The numbers held.
    pub held: Vec<u32>,
}

fn version() -> u32 {
    VERSION
}
fn job() -> String {
    String::from("job")
}
fn one_u64() -> u64 {
    1
}
fn one_u32() -> u32 {
    1
}
fn yes() -> bool {
    true
}

fn wrong(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::State, text)
}

impl StateDocument {
    /// Reads a document.
    ///
    /// # Errors
    /// `State` with the line and the column, for what is no JSON, for unknown fields and for a later version.
    pub fn parse(text: &str) -> Result<Self> {
        let document: Self = serde_json::from_str(text)
            .map_err(|error| wrong("the document can't be read").with_source(error))?;
        if !(OLDEST..=VERSION).contains(&document.version) {
            return Err(wrong(format!(
                "a document of version {}; this build reads {OLDEST} to {VERSION}",
                document.version
            )));
        }
        Ok(document)
    }

    /// The document of a checkpoint.
    ///
    /// # Errors
    /// `State` if the enumerator's part can't be read.
    pub fn of(state: &CheckpointState) -> Result<Self> {
        let mut from = Decoder::new(&state.enumerator);
        let enumerator = EnumeratorState::decode(&mut from)?;
        from.finish()?;
        let unresolved = enumerator.unresolved.iter().map(|split| SplitDocument {
            topic: split.topic_partition.topic.to_string(),
            partition: split.topic_partition.partition.0,
            start: Some(split.start.name().to_owned()),
            ..SplitDocument::default()
        });
        let held = enumerator.splits.iter().map(|split| of_split(split, Holder::Enumerator));
        let read = state.splits.iter().map(|split| of_split(split, Holder::Reader));
        let writers = state.writers.iter();
        Ok(Self {
            version: VERSION,
            job: state.job.clone(),
            checkpoint: state.id,
            parallelism: state.parallelism,
            delivery: match state.delivery {
                Delivery::None => DeliveryName::None,
                Delivery::AtLeastOnce => DeliveryName::AtLeastOnce,
                Delivery::ExactlyOnce => DeliveryName::ExactlyOnce,
            },
            prefix: state.prefix.clone(),
            watermark: state.watermark,
            subtask_watermarks: state.subtask_watermarks.clone(),
            initial_discovery_finished: enumerator.initial_discovery_finished,
            start: enumerator.start,
            splits: read.chain(held).chain(unresolved).collect(),
            transactions: state.committables.iter().map(of_committable).collect(),
            writers: writers
                .map(|writer| WriterDocument { subtask: writer.subtask, held: writer.held.clone() })
                .collect(),
            functions: state.functions.iter().map(of_function).collect(),
        })
    }

    /// The checkpoint of a document.
    ///
    /// # Errors
    /// `State` for offsets, partitions, ids and generations that cannot be, for a split with neither offset nor start, and for two
    /// positions of one partition with the same holder.
    pub fn into_state(self) -> Result<CheckpointState> {
        let mut enumerator = EnumeratorState {
            initial_discovery_finished: self.initial_discovery_finished,
            start: self.start,
            ..EnumeratorState::default()
        };
        let mut splits = Vec::new();
        let mut seen = std::collections::BTreeSet::new();
        for document in self.splits {
            if document.topic.is_empty() || document.partition < 0 {
                return Err(wrong(format!("partition {} of topic {:?}", document.partition, document.topic)));
            }
            let at = TopicPartition::new(document.topic.as_str(), PartitionId(document.partition));
            let holder = document.holder;
            if !seen.insert((at.clone(), holder == Holder::Reader)) {
                return Err(wrong("the partition is there twice").with_topic_partition(at));
            }
            match (&document.start, document.offset) {
                (Some(start), None) => {
                    let start = StoredStart::parse(start).ok_or_else(|| {
                        wrong(format!("{start:?} is no start")).with_topic_partition(at.clone())
                    })?;
                    enumerator.unresolved.push(UnresolvedSplit { topic_partition: at, start });
                }
                (None, Some(offset)) => {
                    let split = into_split(&at, offset, &document)?;
                    match holder {
                        Holder::Reader => splits.push(split),
                        Holder::Enumerator => enumerator.splits.push(split),
                    }
                }
                _ => {
                    let text = "a split has either an offset or a start";
                    return Err(wrong(text).with_topic_partition(at));
                }
            }
        }
        let mut encoded = Encoder::new();
        enumerator.encode(&mut encoded);
        let committables: Result<Vec<_>> = self.transactions.into_iter().map(into_committable).collect();
        let functions: Result<Vec<_>> = self.functions.into_iter().map(into_function).collect();
        let writers = self.writers.into_iter();
        Ok(CheckpointState {
            job: self.job,
            id: self.checkpoint,
            parallelism: self.parallelism,
            delivery: match self.delivery {
                DeliveryName::None => Delivery::None,
                DeliveryName::AtLeastOnce => Delivery::AtLeastOnce,
                DeliveryName::ExactlyOnce => Delivery::ExactlyOnce,
            },
            prefix: self.prefix,
            enumerator: encoded.finish(),
            splits,
            watermark: self.watermark,
            subtask_watermarks: self.subtask_watermarks,
            committables: committables?,
            writers: writers
                .map(|writer| WriterState { subtask: writer.subtask, held: writer.held })
                .collect(),
            functions: functions?,
        })
    }
}

fn of_function(function: &FunctionState) -> FunctionDocument {
    let (topic, partition) = match &function.scope {
        Scope::Split(at) => (Some(at.topic.to_string()), at.partition),
        Scope::Partition(partition) => (None, *partition),
    };
    let state = function.state.iter().map(|byte| format!("{byte:02x}")).collect();
    FunctionDocument { function: function.function.clone(), topic, partition: partition.0, state }
}

fn into_function(document: FunctionDocument) -> Result<FunctionState> {
    let FunctionDocument { function, topic, partition, state } = document;
    if partition < 0 || topic.as_ref().is_some_and(String::is_empty) {
        return Err(wrong(format!("a state of function {function} for partition {partition}")));
    }
    let scope = match topic {
        Some(topic) => Scope::Split(TopicPartition::new(topic, PartitionId(partition))),
        None => Scope::Partition(PartitionId(partition)),
    };
    let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let bytes: Option<Vec<u8>> = state
        .as_bytes()
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        })
        .collect();
    let text =
        format!("the state of function {function} for {scope} has other than pairs of hexadecimal digits");
    Ok(FunctionState { state: bytes.ok_or_else(|| wrong(text))?, function, scope })
}

fn of_split(split: &Split, holder: Holder) -> SplitDocument {
    SplitDocument {
        topic: split.topic_partition.topic.to_string(),
        partition: split.topic_partition.partition.0,
        offset: Some(split.next_offset.0),
        start: None,
        leader_epoch: split.leader_epoch.map(|epoch| epoch.0),
        topic_id: split.topic_id.map(|id| id.iter().map(|byte| format!("{byte:02x}")).collect()),
        stop: split.stop.map(|stop| stop.0),
        max_timestamp: split.max_timestamp,
        holder,
    }
}

fn into_split(at: &TopicPartition, offset: i64, document: &SplitDocument) -> Result<Split> {
    if offset < 0 || document.stop.is_some_and(|stop| stop < 0) {
        return Err(wrong("an offset is negative").with_topic_partition(at.clone()));
    }
    let topic_id =
        match &document.topic_id {
            Some(text) => Some(parse_topic_id(text).ok_or_else(|| {
                wrong("a topic id has 32 hexadecimal digits").with_topic_partition(at.clone())
            })?),
            None => None,
        };
    Ok(Split {
        topic_id,
        leader_epoch: document.leader_epoch.map(LeaderEpoch),
        max_timestamp: document.max_timestamp,
        ..Split::new(at.clone(), Offset(offset)).with_stop(document.stop.map(Offset))
    })
}

fn parse_topic_id(text: &str) -> Option<TopicId> {
    if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes)
}

fn of_committable(committable: &Committable) -> TransactionDocument {
    let transaction = &committable.transaction;
    TransactionDocument {
        transactional_id: transaction.transactional_id.clone(),
        producer_id: transaction.producer_id.0,
        producer_epoch: transaction.producer_epoch.0,
        generation: match transaction.version {
            TransactionVersion::V1 => 1,
            TransactionVersion::V2 => 2,
        },
        checkpoint: committable.checkpoint,
        subtask: committable.subtask,
        start_time_ms: transaction.start_time_ms,
        timeout_ms: u64::try_from(transaction.timeout.as_millis()).unwrap_or(u64::MAX),
        first_offsets: transaction
            .first_offsets
            .iter()
            .map(|(at, offset)| FirstOffsetDocument {
                topic: at.topic.to_string(),
                partition: at.partition.0,
                offset: offset.0,
            })
            .collect(),
    }
}

fn into_committable(document: TransactionDocument) -> Result<Committable> {
    let version = match document.generation {
        1 => TransactionVersion::V1,
        2 => TransactionVersion::V2,
        other => return Err(wrong(format!("a transaction of generation {other}"))),
    };
    let first_offsets = document.first_offsets.into_iter();
    let transaction = PreparedTransaction {
        transactional_id: document.transactional_id,
        producer_id: ProducerId(document.producer_id),
        producer_epoch: ProducerEpoch(document.producer_epoch),
        version,
        first_offsets: first_offsets
            .map(|first| {
                (TopicPartition::new(first.topic, PartitionId(first.partition)), Offset(first.offset))
            })
            .collect(),
        start_time_ms: document.start_time_ms,
        timeout: Duration::from_millis(document.timeout_ms),
    };
    Ok(Committable { checkpoint: document.checkpoint, subtask: document.subtask, transaction })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::snapshot::tests::any_state;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_document_gives_its_checkpoint_back(mut state in any_state()) {
            let mut enumerator = Encoder::new();
            let unresolved = UnresolvedSplit {
                topic_partition: TopicPartition::new("new", 0),
                start: StoredStart::Committed,
            };
            let splits = vec![Split::new(TopicPartition::new("waiting", 3), Offset(9)).with_topic_id(Some([0xab; 16]))];
            EnumeratorState { splits, unresolved: vec![unresolved], ..EnumeratorState::default() }.encode(&mut enumerator);
            state.enumerator = enumerator.finish();
            let text = serde_json::to_string(&StateDocument::of(&state).unwrap()).unwrap();
            prop_assert_eq!(StateDocument::parse(&text).unwrap().into_state().unwrap(), state);
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_place() {
        let refused = [
            (r#"{"splits": [{"topic": "t", "partition": 0}]}"#, "either an offset or a start"),
            (r#"{"splits": [{"topic": "t", "partition": 0, "offset": -2}]}"#, "negative"),
            (r#"{"splits": [{"topic": "t", "partition": -1, "offset": 2}]}"#, "partition -1"),
            (r#"{"splits": [{"topic": "t", "partition": 0, "start": "soon"}]}"#, "\"soon\""),
            (r#"{"splits": [{"topic": "t", "partition": 0, "offset": 1, "topic_id": "12"}]}"#, "32"),
            (
                r#"{"splits": [{"topic": "t", "partition": 0, "offset": 1}, {"topic": "t", "partition": 0, "offset": 2}]}"#,
                "twice",
            ),
            (r#"{"version": 3}"#, "version 3"),
            (r#"{"functions": [{"function": "f", "partition": 0, "state": "0g"}]}"#, "hexadecimal"),
            (r#"{"functions": [{"function": "f", "partition": -1, "state": ""}]}"#, "partition -1"),
            (r#"{"offsets": []}"#, "unknown field"),
            ("{", "line 1"),
        ];
        for (text, part) in refused {
            let error = StateDocument::parse(text).and_then(StateDocument::into_state).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::State);
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
