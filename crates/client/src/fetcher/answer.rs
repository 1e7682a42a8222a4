//! A Fetch answer held against its question.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use milena_core::cluster::Cluster;
use milena_protocol::error_code::ErrorCode;
use milena_protocol::fetch::{FetchView, Partition, TOPIC_IDS_FROM, TopicKey};
use milena_protocol::records::{RecordBatch, batches};
use milena_protocol::types::{Isolation, Offset, PartitionId, TopicPartition};

use super::{FetchFrom, FetchOptions, Fetched};
use crate::error::{Error, ErrorKind, Result};

/// Reads an answer: one [`Fetched`] for each entry of the question, in its order.
pub(super) fn read(
    view: &FetchView,
    from: &[FetchFrom],
    options: &FetchOptions,
    cluster: &Cluster,
) -> Result<Vec<Fetched>> {
    let code = view.error_code();
    if !code.is_ok() {
        return Err(Error::broker_code(code, None));
    }
    let asked = Asked::new(from, cluster, view.version());
    let mut answers: Vec<Option<Fetched>> = from.iter().map(|_| None).collect();
    let mut topics = view.topics();
    let mut empty = true;
    while let Some(topic) = topics.next_topic() {
        empty = false;
        let name = asked.topic(topic.key())?;
        for partition in topic {
            let place = asked.place(name, partition.index);
            let place = place.and_then(|at| Some((from.get(at)?, answers.get_mut(at)?)));
            let named = || TopicPartition::new(Arc::clone(name), partition.index);
            let Some((from, slot)) = place else {
                return Err(Error::peer("the answer is about a partition that was not asked for")
                    .with_topic_partition(&named()));
            };
            if slot.is_some() {
                return Err(
                    Error::peer("the answer names the partition twice").with_topic_partition(&named())
                );
            }
            *slot = Some(read_partition(&partition, from, options));
        }
    }
    let throttled = Some(view.throttle()).filter(|delay| empty && !delay.is_zero());
    let missing = |from: &FetchFrom| {
        let error = match throttled {
            // A broker whose quota is used up answers at once, and with nothing (KIP-219).
            Some(delay) => Error::new(
                ErrorKind::Timeout,
                format!("fetches are held back by a quota for {} ms", delay.as_millis()),
            ),
            None => Error::peer("the answer does not name the partition"),
        };
        Fetched::failed(from, options.isolation, error.with_topic_partition(&from.tp))
    };
    Ok(from.iter().zip(answers).map(|(from, answer)| answer.unwrap_or_else(|| missing(from))).collect())
}

/// What was asked for, by what the answer calls it.
struct Asked<'a> {
    topics: HashMap<TopicKey<'a>, &'a Arc<str>>,
    places: HashMap<(&'a str, PartitionId), usize>,
}

impl<'a> Asked<'a> {
    fn new(from: &'a [FetchFrom], cluster: &Cluster, version: i16) -> Self {
        let mut asked = Self { topics: HashMap::new(), places: HashMap::with_capacity(from.len()) };
        let mut last: Option<&Arc<str>> = None;
        for (at, from) in from.iter().enumerate() {
            let name = &from.tp.topic;
            asked.places.insert((name, from.tp.partition), at);
            // Most often the partitions of a topic stand together.
            if last.replace(name).is_some_and(|last| Arc::ptr_eq(last, name)) {
                continue;
            }
            if version < TOPIC_IDS_FROM {
                asked.topics.insert(TopicKey::Name(name), name);
            } else if let Some(id) = cluster.topic(name).and_then(|topic| topic.id) {
                asked.topics.insert(TopicKey::Id(id), name);
            }
        }
        asked
    }

    fn topic(&self, key: TopicKey<'_>) -> Result<&'a Arc<str>> {
        self.topics.get(&key).copied().ok_or_else(|| {
            Error::peer(match key {
                TopicKey::Id(id) => format!("the answer is about topic id {id}, which was not asked for"),
                TopicKey::Name(name) => {
                    format!("the answer is about topic {name:?}, which was not asked for")
                }
            })
        })
    }

    fn place(&self, topic: &str, partition: PartitionId) -> Option<usize> {
        self.places.get(&(topic, partition)).copied()
    }
}

fn read_partition(data: &Partition<'_>, from: &FetchFrom, options: &FetchOptions) -> Fetched {
    let code = data.error_code;
    let diverged_at = data.diverging_epoch.map(|end| end.end_offset).filter(|end| end.0 >= 0);
    let error = if !code.is_ok() {
        Some(Error::broker_code(code, out_of_range(data, from).as_deref()))
    } else {
        diverged_at.map(|end| {
            let offset = from.offset;
            let text = format!("the log took another way at offset {end}, before the position {offset}");
            Error::new(ErrorKind::DataLoss, text)
                .with_remedy(format!("records from {end} on were lost; read on from there"))
        })
    };
    let mut fetched = Fetched {
        tp: from.tp.clone(),
        error,
        high_watermark: data.high_watermark.unwrap_or(Offset(-1)),
        last_stable_offset: data.last_stable_offset,
        log_start: data.log_start_offset,
        diverged_at: diverged_at.filter(|_| code.is_ok()),
        batches: Vec::new(),
        aborted: Vec::new(),
        requested: from.offset,
        isolation: options.isolation,
    };
    if fetched.error.is_none() {
        if options.isolation == Isolation::ReadCommitted {
            let aborted = data.aborted_transactions();
            fetched.aborted = aborted.map(|aborted| (aborted.producer_id, aborted.first_offset)).collect();
        }
        fetched.error = read_batches(&mut fetched.batches, data.records(), from, options).err();
    }
    fetched.error = fetched.error.map(|error| error.with_api("Fetch").with_topic_partition(&from.tp));
    fetched
}

fn out_of_range(data: &Partition<'_>, from: &FetchFrom) -> Option<String> {
    (data.error_code == ErrorCode::OFFSET_OUT_OF_RANGE).then(|| {
        match (data.log_start_offset, data.high_watermark) {
            (Some(start), Some(end)) => format!("offset {} is not in {start}..{end}", from.offset),
            _ => format!("offset {} is not in the log", from.offset),
        }
    })
}

/// Reads batches up to the first that is wrong. That one is an error only when nothing is before it: what came well is
/// delivered, and the next fetch begins at the wrong one.
fn read_batches(
    good: &mut Vec<RecordBatch>,
    records: Bytes,
    from: &FetchFrom,
    options: &FetchOptions,
) -> Result<()> {
    let size = records.len();
    let mut end = None;
    for batch in batches(records) {
        let checked = batch.map_err(Error::from).and_then(|mut batch| {
            check_batch(&batch, end)?;
            if options.check_crcs {
                batch.verify_crc()?;
            } else {
                batch.skip_inner_crcs();
            }
            Ok(batch)
        });
        match checked {
            Ok(batch) => {
                end = Some(batch.last_offset());
                // A broker may start a little early; what lies before the position is not news.
                if batch.last_offset() >= from.offset {
                    good.push(batch);
                }
            }
            Err(error) if good.is_empty() => return Err(error),
            Err(error) => {
                tracing::warn!(partition = %from.tp, %error, "a batch cannot be read; the next fetch stops there");
                return Ok(());
            }
        }
    }
    if size > 0 && end.is_none() {
        let text = format!("{size} bytes came, less than one batch");
        return Err(Error::peer(text).with_remedy("raise partition_max_bytes"));
    }
    if good.is_empty() && end.is_some() {
        return Err(Error::peer(format!("only batches before offset {} came", from.offset)));
    }
    Ok(())
}

fn check_batch(batch: &RecordBatch, end: Option<Offset>) -> Result<()> {
    if batch.base_offset().0 < 0 || batch.last_offset() < batch.base_offset() {
        let (base, last) = (batch.base_offset(), batch.last_offset());
        return Err(Error::peer(format!("a batch spans the offsets {base} to {last}")));
    }
    if let Some(end) = end
        && batch.base_offset() <= end
    {
        let base = batch.base_offset();
        return Err(Error::peer(format!("a batch begins at offset {base}, after one that ends at {end}")));
    }
    Ok(())
}
