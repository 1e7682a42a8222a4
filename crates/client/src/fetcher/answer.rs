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
            let place = asked.place(name, partition.index());
            let place = place.and_then(|at| Some((from.get(at)?, answers.get_mut(at)?)));
            let named = || TopicPartition::new(Arc::clone(name), partition.index());
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
                TopicKey::Id(id) => {
                    format!("the answer is about topic id {id}, which was not asked for")
                }
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

fn diverged(position: Offset, at: Option<Offset>) -> Error {
    let place = at.map_or("somewhere".to_owned(), |at| format!("at offset {at},"));
    let text = format!("the log took another way {place} before the position {position}");
    let remedy = match at {
        Some(at) => format!("records from {at} on were lost; read on from there"),
        None => "records were lost in more than one election; choose where to read on".to_owned(),
    };
    Error::new(ErrorKind::DataLoss, text).with_remedy(remedy)
}

fn read_partition(data: &Partition<'_>, from: &FetchFrom, options: &FetchOptions) -> Fetched {
    let code = data.error_code();
    let epoch_end = data.diverging_epoch().map(|end| end.end_offset).filter(|end| end.0 >= 0);
    // An end behind the position is that of an older epoch, which says nothing of where the two parted.
    let diverged_at = epoch_end.filter(|end| *end < from.offset);
    let error = if !code.is_ok() {
        Some(Error::broker_code(code, out_of_range(data, from).as_deref()))
    } else {
        epoch_end.map(|_| diverged(from.offset, diverged_at))
    };
    let mut fetched = Fetched {
        tp: from.tp.clone(),
        error,
        high_watermark: data.high_watermark().unwrap_or(Offset(-1)),
        last_stable_offset: data.last_stable_offset(),
        log_start: data.log_start_offset(),
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
    (data.error_code() == ErrorCode::OFFSET_OUT_OF_RANGE).then(|| {
        match (data.log_start_offset(), data.high_watermark()) {
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
            batch.set_max_decompressed(options.max_batch_bytes as usize);
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

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use milena_core::cluster::Scope;
    use milena_protocol::guard::sample::Sampler;
    use milena_protocol::messages::fetch_response::{
        AbortedTransaction, FetchResponse, FetchableTopicResponse, PartitionData,
    };
    use milena_protocol::messages::metadata_response::{MetadataResponse, MetadataResponseTopic};
    use milena_protocol::messages::{FetchRequest, TopicName};
    use milena_protocol::records::{
        BatchBuilder, BatchIdentity, BatchOptions, MessageFormat, MessageSetBuilder,
    };
    use milena_protocol::types::ProducerId;
    use milena_protocol::{Request, ResponseKind, StrBytes, encode_response, frame};
    use uuid::Uuid;

    const TOPICS: [&str; 2] = ["a", "b"];

    /// Both topics, with the ids 1 and 2.
    fn cluster() -> Cluster {
        let topics = TOPICS.iter().zip(1..).map(|(name, id)| {
            MetadataResponseTopic::default()
                .with_name(Some(TopicName(StrBytes::from_static_str(name))))
                .with_topic_id(Uuid::from_u128(id))
        });
        Cluster::new().merge(&MetadataResponse::default().with_topics(topics.collect()), Scope::All)
    }

    fn question() -> Vec<FetchFrom> {
        let one = |topic, partition| FetchFrom::new(TopicPartition::new(topic, partition), Offset(40));
        vec![one("b", 1), one("a", 0), one("a", 1)]
    }

    fn topic(name: &'static str, version: i16, partitions: Vec<PartitionData>) -> FetchableTopicResponse {
        let topic = FetchableTopicResponse::default().with_partitions(partitions);
        if version < TOPIC_IDS_FROM {
            return topic.with_topic(TopicName(StrBytes::from_static_str(name)));
        }
        let place = TOPICS.iter().position(|known| *known == name);
        topic.with_topic_id(Uuid::from_u128(place.map_or(99, |place| place as u128 + 1)))
    }

    fn partition(index: i32, version: i16) -> PartitionData {
        PartitionData::default()
            .with_partition_index(index)
            .with_high_watermark(44)
            .with_records(Some(records(version)))
    }

    /// The offsets 40 to 42, in the format of the brokers that have this version.
    fn records(version: i16) -> Bytes {
        let format = match version {
            0 | 1 => MessageFormat::V0,
            2 | 3 => MessageFormat::V1,
            _ => {
                let mut builder = BatchBuilder::new(BatchOptions::default());
                for value in [b"x", b"y", b"z"] {
                    builder.push(1, None, Some(value), []).unwrap();
                }
                let batch =
                    builder.build(BatchIdentity { base_offset: Offset(40), ..BatchIdentity::default() });
                return batch.unwrap();
            }
        };
        let mut builder =
            MessageSetBuilder::new(format, milena_protocol::compression::Compression::None, None)
                .base_offset(Offset(40));
        for value in [b"x", b"y", b"z"] {
            builder.push(1, None, Some(value)).unwrap();
        }
        builder.build().unwrap()
    }

    fn view(response: FetchResponse, version: i16) -> FetchView {
        let mut out = BytesMut::new();
        encode_response(&mut out, FetchRequest::KEY, version, 7, &ResponseKind::Fetch(response)).unwrap();
        FetchView::read(frame::split(&mut out, frame::DEFAULT_MAX).unwrap().unwrap(), version).unwrap()
    }

    fn answered(topics: Vec<FetchableTopicResponse>, version: i16) -> Result<Vec<Fetched>> {
        let view = view(FetchResponse::default().with_responses(topics), version);
        read(&view, &question(), &FetchOptions::default(), &cluster())
    }

    fn versions() -> std::ops::RangeInclusive<i16> {
        assert_eq!(<FetchRequest as Request>::VERSIONS.min, 0);
        0..=<FetchRequest as Request>::VERSIONS.max
    }

    #[test]
    fn an_answer_of_any_version_is_given_in_the_order_of_the_question() {
        for version in versions() {
            let broken = partition(1, version).with_error_code(ErrorCode::NOT_LEADER_OR_FOLLOWER.0);
            let answers = answered(
                vec![
                    topic("a", version, vec![broken, partition(0, version)]),
                    topic("b", version, vec![partition(1, version)]),
                ],
                version,
            );
            let answers = answers.unwrap();
            let names: Vec<String> = answers.iter().map(|fetched| fetched.tp.to_string()).collect();
            assert_eq!(names, ["b-1", "a-0", "a-1"], "v{version}");
            for fetched in answers.iter().take(2) {
                let records = fetched.owned_records().unwrap();
                let seen: Vec<(i64, &[u8])> = records
                    .iter()
                    .map(|record| (record.offset.0, record.value.as_deref().unwrap_or_default()))
                    .collect();
                assert_eq!(seen, [(40, &b"x"[..]), (41, b"y"), (42, b"z")], "v{version}");
                assert_eq!(fetched.next_offset(), Offset(43));
                assert_eq!(fetched.high_watermark, Offset(44));
            }
            let error = answers.last().and_then(|fetched| fetched.error.as_ref()).unwrap();
            assert_eq!(error.code(), Some(ErrorCode::NOT_LEADER_OR_FOLLOWER));
        }
    }

    #[test]
    fn an_answer_of_any_version_that_does_not_fit_the_question_is_refused() {
        let text = |result: Result<Vec<Fetched>>| result.unwrap_err().to_string();
        for version in versions() {
            let strange = topic("c", version, Vec::new());
            assert!(text(answered(vec![strange], version)).contains("not asked for"), "v{version}");
            let strange = topic("b", version, vec![partition(0, version)]);
            let refused = text(answered(vec![strange], version));
            assert!(refused.contains("not asked for") && refused.contains("b-0"), "v{version}: {refused}");
            let twice = topic("a", version, vec![partition(0, version), partition(0, version)]);
            assert!(text(answered(vec![twice], version)).contains("twice"), "v{version}");
            let twice = || topic("a", version, vec![partition(0, version)]);
            assert!(text(answered(vec![twice(), twice()], version)).contains("twice"), "v{version}");
            let rest = answered(vec![topic("a", version, vec![partition(0, version)])], version).unwrap();
            let missing: Vec<bool> = rest.iter().map(|fetched| fetched.error.is_some()).collect();
            assert_eq!(missing, [true, false, true], "v{version}");
        }
    }

    #[test]
    fn a_message_that_is_larger_than_the_limit_of_an_old_broker_names_the_limit() {
        for version in 0..3 {
            let cut = records(version).slice(..20);
            let one = partition(0, version).with_records(Some(cut));
            let answers = answered(vec![topic("a", version, vec![one])], version).unwrap();
            let error = answers.get(1).and_then(|fetched| fetched.error.as_ref()).unwrap().to_string();
            assert!(error.contains("partition_max_bytes"), "v{version}: {error}");
        }
    }

    #[test]
    fn aborted_transactions_are_kept_for_who_reads_committed() {
        let aborted = AbortedTransaction::default().with_producer_id(9.into()).with_first_offset(41);
        for version in versions().skip(4) {
            let one = partition(0, version).with_aborted_transactions(Some(vec![aborted.clone()]));
            let response = FetchResponse::default().with_responses(vec![topic("a", version, vec![one])]);
            let view = view(response, version);
            for (isolation, expected) in [
                (Isolation::ReadUncommitted, &[][..]),
                (Isolation::ReadCommitted, &[(ProducerId(9), Offset(41))]),
            ] {
                let options = FetchOptions { isolation, ..FetchOptions::default() };
                let answers = read(&view, &question(), &options, &cluster()).unwrap();
                assert_eq!(answers.get(1).unwrap().aborted, expected, "v{version}");
            }
        }
    }

    #[test]
    fn a_quota_that_is_used_up_is_no_lie_of_the_broker() {
        for version in versions().skip(1) {
            let response = FetchResponse::default().with_throttle_time_ms(250);
            let view = view(response, version);
            let answers = read(&view, &question(), &FetchOptions::default(), &cluster()).unwrap();
            let error = answers.first().and_then(|fetched| fetched.error.as_ref()).unwrap();
            assert_eq!(error.kind(), ErrorKind::Timeout, "v{version}");
            assert!(error.to_string().contains("250 ms"), "{error}");
        }
    }

    /// Whatever a broker says in good form: an error, or one answer for each entry of the question.
    #[test]
    fn any_answer_is_read_to_its_end() {
        for version in versions() {
            let mut sampler = Sampler::new(version as u64);
            for _ in 0..200 {
                let frame = sampler.response(FetchRequest::KEY, version).unwrap();
                let view = FetchView::read(frame.into(), version).unwrap();
                if let Ok(answers) = read(&view, &question(), &FetchOptions::default(), &cluster()) {
                    assert_eq!(answers.len(), 3);
                }
            }
        }
    }
}
