//! The classic connector: `FlinkKafkaConsumer` and `FlinkKafkaProducer`.

use milena::{Offset, PartitionId, ProducerEpoch, ProducerId, TopicPartition};

use super::java::{take_count, take_kryo_string, take_utf, take_varint};
use super::sink::ImportedTransaction;
use super::source::{ImportedSource, ImportedSplit, ImportedStart, ImportedStop};
use crate::checkpoint::state::{Decoder, StateResult};
use crate::source::assign::java_hash;

/// Marks in the place of the last processed offset.
const NOT_SET: i64 = -915_623_761_776;
const EARLIEST: i64 = -915_623_761_775;
const LATEST: i64 = -915_623_761_774;
const GROUP: i64 = -915_623_761_773;
/// The start at offset 0, stored as the offset before it.
const BEFORE_FIRST: i64 = -1;

/// The elements of the union list `topic-partition-offset-states`, one after another: each a partition, as Kryo writes a
/// `KafkaTopicPartition`, and the offset of the last record that was processed.
///
/// A restored list counts as restored even when it is empty: partitions that it does not name start at their first offset.
///
/// # Errors
/// For bytes that no `FlinkKafkaConsumer` writes, and for a partition that is there twice.
pub fn classic_source(bytes: &[u8]) -> StateResult<ImportedSource> {
    let mut from = Decoder::new(bytes);
    let mut splits: Vec<ImportedSplit> = Vec::new();
    while from.remaining() > 0 {
        let topic_partition = take_kryo_partition(&mut from)?;
        let start = match from.take_i64()? {
            BEFORE_FIRST => ImportedStart::At(Offset(0)),
            processed @ 0.. if processed < i64::MAX => ImportedStart::At(Offset(processed + 1)),
            EARLIEST => ImportedStart::Earliest,
            LATEST => ImportedStart::Latest,
            GROUP => ImportedStart::Committed,
            NOT_SET => ImportedStart::Configured,
            other => return Err(from.error(format!("offset {other}"))),
        };
        if splits.iter().any(|split| split.topic_partition == topic_partition) {
            return Err(from.error(format!("{topic_partition} for the second time")));
        }
        splits.push(ImportedSplit { topic_partition, start, stop: ImportedStop::Never });
    }
    Ok(ImportedSource { splits, initial_discovery_finished: true })
}

/// Kryo writes a class (a number, or a name), a mark that the object is new, and its fields by name: `cachedHash`, `partition`,
/// `topic`. The hash tells whether all of that was understood.
fn take_kryo_partition(from: &mut Decoder<'_>) -> StateResult<TopicPartition> {
    match take_varint(from)? {
        0 => return Err(from.error("no partition")),
        1 => {
            let _number = take_varint(from)?;
            let class = take_kryo_string(from)?;
            if !class.ends_with(".KafkaTopicPartition") {
                return Err(from.error(format!("a {class} in the place of a KafkaTopicPartition")));
            }
        }
        _registered => {}
    }
    take_new(from)?;
    let hash = take_zigzag(from)?;
    let partition = take_zigzag(from)?;
    take_new(from)?;
    let topic = take_kryo_string(from)?;
    if topic.is_empty() || partition < 0 {
        return Err(from.error(format!("partition {partition} of topic {topic:?}")));
    }
    if hash != java_hash(&topic).wrapping_mul(31).wrapping_add(partition) {
        return Err(from.error(format!("{topic}-{partition} does not have the hash {hash}")));
    }
    Ok(TopicPartition::new(topic, PartitionId(partition)))
}

/// The mark before an object that was not written before.
fn take_new(from: &mut Decoder<'_>) -> StateResult<()> {
    match take_varint(from)? {
        1 => Ok(()),
        other => Err(from.error(format!("a new object expected, found reference {other}"))),
    }
}

fn take_zigzag(from: &mut Decoder<'_>) -> StateResult<i32> {
    let value = take_varint(from)?;
    Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
}

/// The two-phase commit state of a `FlinkKafkaProducer`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportedClassicSink {
    /// The transaction that was open at the checkpoint: to be aborted.
    pub current: Option<ImportedTransaction>,
    /// Transactions that were pre-committed: to be committed.
    pub pending: Vec<ImportedTransaction>,
    /// The pool of transactional ids.
    pub ids: Vec<String>,
}

/// One element of the two-phase commit list state: the transaction that is open, those that are pre-committed, the ids.
///
/// # Errors
/// For bytes that no `FlinkKafkaProducer` writes.
pub fn classic_sink(bytes: &[u8]) -> StateResult<ImportedClassicSink> {
    let mut from = Decoder::new(bytes);
    let mut state = ImportedClassicSink::default();
    if from.take_bool()? {
        state.current = take_holder(&mut from)?;
    }
    for _ in 0..take_count(&mut from)? {
        state.pending.extend(take_holder(&mut from)?);
    }
    if from.take_bool()? {
        for _ in 0..take_count(&mut from)? {
            state.ids.push(take_utf(&mut from)?);
        }
    }
    from.finish()?;
    Ok(state)
}

/// A transaction with its start; `None` for one without an id, which needs no end.
fn take_holder(from: &mut Decoder<'_>) -> StateResult<Option<ImportedTransaction>> {
    let transactional_id = if from.take_bool()? { Some(take_utf(from)?) } else { None };
    let producer_id = ProducerId(from.take_i64()?);
    let producer_epoch = ProducerEpoch(from.take_i16()?);
    let start_time_ms = Some(from.take_i64()?);
    let Some(transactional_id) = transactional_id else { return Ok(None) };
    Ok(Some(ImportedTransaction { transactional_id, producer_id, producer_epoch, start_time_ms }))
}

/// The element of the union list `next-transactional-id-hint-v2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImportedHint {
    /// The next number of a transactional id that nobody has used.
    pub next_id: i64,
    /// How many subtasks there were.
    pub parallelism: i32,
}

/// The hint about numbers that are free.
///
/// # Errors
/// For other than twelve bytes.
pub fn classic_hint(bytes: &[u8]) -> StateResult<ImportedHint> {
    let mut from = Decoder::new(bytes);
    let hint = ImportedHint { next_id: from.take_i64()?, parallelism: from.take_i32()? };
    from.finish()?;
    Ok(hint)
}
