//! A Fetch answer held against its question.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use milena_core::cluster::Cluster;
use milena_protocol::error_code::ErrorCode;
use milena_protocol::messages::fetch_response::{FetchResponse, FetchableTopicResponse, PartitionData};
use milena_protocol::records::{RecordBatch, batches};
use milena_protocol::types::{Isolation, Offset, ProducerId, TopicPartition};

use super::{FETCH_TOPIC_IDS, FetchFrom, FetchOptions, Fetched};
use crate::error::{Error, ErrorKind, Result};

/// Reads an answer: one [`Fetched`] for each entry of the question, in its order.
pub(super) fn read(
    response: FetchResponse,
    from: &[FetchFrom],
    options: &FetchOptions,
    cluster: &Cluster,
    version: i16,
) -> Result<Vec<Fetched>> {
    let code = ErrorCode(response.error_code);
    if !code.is_ok() {
        return Err(Error::broker_code(code, None));
    }
    let throttled =
        Some(response.throttle_time_ms).filter(|delay| *delay > 0 && response.responses.is_empty());
    let asked: HashMap<&TopicPartition, usize> =
        from.iter().enumerate().map(|(at, from)| (&from.tp, at)).collect();
    let mut answers: Vec<Option<Fetched>> = from.iter().map(|_| None).collect();
    for topic in response.responses {
        let name = topic_name(&topic, from, cluster, version)?;
        for partition in topic.partitions {
            let tp = TopicPartition::new(Arc::clone(&name), partition.partition_index);
            let place = asked.get(&tp).and_then(|&at| Some((from.get(at)?, answers.get_mut(at)?)));
            let Some((from, slot)) = place else {
                return Err(Error::peer("the answer is about a partition that was not asked for")
                    .with_topic_partition(&tp));
            };
            if slot.is_some() {
                return Err(Error::peer("the answer names the partition twice").with_topic_partition(&tp));
            }
            *slot = Some(read_partition(partition, from, options));
        }
    }
    let missing = |from: &FetchFrom| {
        let error = match throttled {
            // A broker whose quota is used up answers at once, and with nothing (KIP-219).
            Some(delay) => {
                Error::new(ErrorKind::Timeout, format!("fetches are held back by a quota for {delay} ms"))
            }
            None => Error::peer("the answer does not name the partition"),
        };
        Fetched::failed(from, options.isolation, error.with_topic_partition(&from.tp))
    };
    Ok(from.iter().zip(answers).map(|(from, answer)| answer.unwrap_or_else(|| missing(from))).collect())
}

fn topic_name(
    topic: &FetchableTopicResponse,
    from: &[FetchFrom],
    cluster: &Cluster,
    version: i16,
) -> Result<Arc<str>> {
    let found = if version >= FETCH_TOPIC_IDS {
        from.iter()
            .find(|from| cluster.topic(&from.tp.topic).is_some_and(|known| known.id == Some(topic.topic_id)))
    } else {
        from.iter().find(|from| *from.tp.topic == *topic.topic.as_str())
    };
    match found {
        Some(from) => Ok(Arc::clone(&from.tp.topic)),
        None if version >= FETCH_TOPIC_IDS => Err(Error::peer(format!(
            "the answer is about topic id {}, which was not asked for",
            topic.topic_id
        ))),
        None => {
            Err(Error::peer(format!("the answer is about topic {:?}, which was not asked for", topic.topic)))
        }
    }
}

fn read_partition(data: PartitionData, from: &FetchFrom, options: &FetchOptions) -> Fetched {
    let code = ErrorCode(data.error_code);
    let error = if !code.is_ok() {
        Some(Error::broker_code(code, out_of_range(code, &data, from).as_deref()))
    } else if data.diverging_epoch.end_offset >= 0 {
        let end = data.diverging_epoch.end_offset;
        let text = format!("the log took another way at offset {end}, before the position {}", from.offset);
        Some(
            Error::new(ErrorKind::DataLoss, text)
                .with_remedy(format!("records from {end} on were lost; read on from there")),
        )
    } else {
        None
    };
    let mut fetched = Fetched {
        tp: from.tp.clone(),
        error,
        high_watermark: Offset(data.high_watermark),
        last_stable_offset: (data.last_stable_offset >= 0).then_some(Offset(data.last_stable_offset)),
        log_start: (data.log_start_offset >= 0).then_some(Offset(data.log_start_offset)),
        diverged_at: (code.is_ok() && data.diverging_epoch.end_offset >= 0)
            .then_some(Offset(data.diverging_epoch.end_offset)),
        batches: Vec::new(),
        aborted: Vec::new(),
        requested: from.offset,
        isolation: options.isolation,
    };
    if fetched.error.is_none() {
        if options.isolation == Isolation::ReadCommitted {
            let aborted = data.aborted_transactions.unwrap_or_default();
            fetched.aborted = aborted
                .iter()
                .map(|transaction| (ProducerId(transaction.producer_id.0), Offset(transaction.first_offset)))
                .collect();
        }
        fetched.error =
            read_batches(&mut fetched.batches, data.records.unwrap_or_default(), from, options).err();
    }
    fetched.error = fetched.error.map(|error| error.with_api("Fetch").with_topic_partition(&from.tp));
    fetched
}

fn out_of_range(code: ErrorCode, data: &PartitionData, from: &FetchFrom) -> Option<String> {
    (code == ErrorCode::OFFSET_OUT_OF_RANGE).then(|| match (data.log_start_offset, data.high_watermark) {
        (start, end) if start >= 0 && end >= 0 => format!("offset {} is not in {start}..{end}", from.offset),
        _ => format!("offset {} is not in the log", from.offset),
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
        let checked = batch.map_err(Error::from).and_then(|batch| {
            check_batch(&batch, end, options)?;
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

fn check_batch(batch: &RecordBatch, end: Option<Offset>, options: &FetchOptions) -> Result<()> {
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
    if options.check_crcs {
        batch.verify_crc()?;
    }
    Ok(())
}
