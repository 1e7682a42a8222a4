//! Asks the brokers what an enumerator wants to know. No decisions here: those are in [`super::enumerator`] and [`super::start`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use milena::{Client, Isolation, OffsetSpec, TopicPartition};

use super::builder::KafkaSource;
use super::enumerator::{Discovered, DiscoveredPartition, ResolveRequest, Resolved, StartRule};
use super::enumerator_state::StoredStart;
use super::start::{Found, OffsetReset, StartFrom, StopAt, decide_start, decide_stop};
use super::subscription::Subscription;
use crate::progress::Position;
use crate::{Error, ErrorKind, Result};

/// Looks for the partitions of a subscription: the answer to [`super::Command::Discover`].
///
/// # Errors
/// When no broker answers within the client's `api_timeout`, or a topic may not be looked at.
///
/// # Cancellation
/// Nothing is lost.
pub async fn run_discovery(client: &Client, subscription: &Subscription) -> Result<Discovered> {
    if let Subscription::Custom(subscriber) = subscription {
        let wanted = subscriber.partitions(client).await.map_err(|error| {
            Error::new(ErrorKind::Client, "the subscriber could not say what to read").with_source(error)
        })?;
        if wanted.is_empty() {
            return Ok(Discovered::default());
        }
        return find(client, &Subscription::Partitions(wanted)).await;
    }
    find(client, subscription).await
}

async fn find(client: &Client, subscription: &Subscription) -> Result<Discovered> {
    let named = subscription.named_topics();
    let names: Option<Vec<&str>> = named.as_ref().map(|topics| topics.iter().map(|topic| &**topic).collect());
    let cluster = client.metadata(names.as_deref()).await?;
    let mut found = Discovered::default();
    let mut listed = BTreeSet::new();
    for topic in cluster.topics() {
        let wanted = match &named {
            Some(named) => named.contains(&topic.name),
            // Brokers before 0.10 don't say what is internal.
            None => !topic.internal && !INTERNAL.contains(&&*topic.name),
        };
        if !wanted {
            continue;
        }
        for partition in topic.partitions.keys() {
            let topic_partition = TopicPartition::new(Arc::clone(&topic.name), *partition);
            if subscription.contains(&topic_partition) {
                listed.insert(topic_partition.clone());
                let topic_id = topic.id.map(uuid_bytes);
                found.partitions.push(DiscoveredPartition { topic_partition, topic_id });
            }
        }
    }
    for topic in named.iter().flatten() {
        if let Some(code) = cluster.topic_error(topic).filter(|code| !is_unknown_topic(*code)) {
            return Err(milena::Error::broker_code(code, None).with_topic(Arc::clone(topic)).into());
        }
        if cluster.topic(topic).is_none() {
            found.missing.push(format!("topic {topic}"));
        }
    }
    if let Subscription::Partitions(partitions) = subscription {
        let absent =
            partitions.iter().filter(|at| !listed.contains(*at) && cluster.topic(&at.topic).is_some());
        found.missing.extend(absent.map(|at| format!("partition {at}")));
    }
    Ok(found)
}

/// Turns modes into numbers: the answer to [`super::Command::ResolveOffsets`]. Ends are asked for before times are looked up, so
/// records written in between are not skipped; the isolation level is the source's, so neither start nor stop lies beyond an open
/// transaction.
///
/// Partitions that are gone since they were found are left out of the answer.
///
/// # Errors
/// When brokers or the group's coordinator don't answer, or a rule of [`decide_start`] or [`decide_stop`] refuses.
///
/// # Cancellation
/// Nothing is lost.
pub async fn resolve_offsets<T: Send + 'static>(
    client: &Client,
    source: &KafkaSource<T>,
    requests: &[ResolveRequest],
) -> Result<Vec<Resolved>> {
    let config = source.enumerator_config();
    let mut resolved = Vec::new();
    let mut by_rule: BTreeMap<StartRule, Vec<TopicPartition>> = BTreeMap::new();
    for request in requests {
        by_rule.entry(request.start).or_default().push(request.topic_partition.clone());
    }
    for (rule, partitions) in by_rule {
        let start = &start_of(rule, &config.start, source.group_id())?;
        let lookup = Lookup { client, isolation: source.isolation(), group_id: source.group_id() };
        let found = lookup.run(&partitions, start, &config.stop).await?;
        for at in partitions {
            let Some(found) = found.get(&at).copied() else { continue };
            let start = decide_start(start, &at, &found)?;
            let stop = decide_stop(&config.stop, &at, &found)?;
            resolved.push(Resolved { topic_partition: at, start, stop });
        }
    }
    Ok(resolved)
}

/// The mode that a rule stands for.
fn start_of(rule: StartRule, configured: &StartFrom, group_id: Option<&str>) -> Result<StartFrom> {
    match rule {
        StartRule::Configured | StartRule::Stored(StoredStart::Configured) => Ok(configured.clone()),
        StartRule::Earliest | StartRule::Kept | StartRule::Stored(StoredStart::Earliest) => {
            Ok(StartFrom::Earliest)
        }
        StartRule::Stored(StoredStart::Latest) => Ok(StartFrom::Latest),
        StartRule::Stored(StoredStart::Committed) if group_id.is_some() => {
            Ok(StartFrom::Committed { or: OffsetReset::Fail })
        }
        StartRule::Stored(StoredStart::Committed) => {
            let text =
                "the imported state goes on at what the group has committed, and the source has no group_id";
            Err(Error::new(ErrorKind::Misuse, text))
        }
    }
}

struct Lookup<'a> {
    client: &'a Client,
    isolation: Isolation,
    group_id: Option<&'a str>,
}

impl Lookup<'_> {
    /// Asks only what the modes need, in the order they need it. What is not there any more is left out.
    async fn run(
        &self,
        partitions: &[TopicPartition],
        start: &StartFrom,
        stop: &StopAt,
    ) -> Result<BTreeMap<TopicPartition, Found>> {
        let mut found: BTreeMap<TopicPartition, Found> =
            partitions.iter().map(|at| (at.clone(), Found::default())).collect();
        let exact = matches!(start, StartFrom::Committed { .. } | StartFrom::Offsets { .. });
        let wants_first = exact || *start == StartFrom::Earliest;
        if *start != StartFrom::Earliest || !matches!(stop, StopAt::Never | StopAt::Committed) {
            for (at, position) in self.list(&mut found, OffsetSpec::Latest, self.isolation).await? {
                edit(&mut found, &at, |found| found.end = position);
            }
        }
        if wants_first {
            for (at, position) in self.list(&mut found, OffsetSpec::Earliest, self.isolation).await? {
                edit(&mut found, &at, |found| found.earliest = position);
            }
        }
        if exact {
            for (at, position) in
                self.list(&mut found, OffsetSpec::Latest, Isolation::ReadUncommitted).await?
            {
                edit(&mut found, &at, |found| found.high = position.map(|position| position.offset));
            }
        }
        if exact || *stop == StopAt::Committed {
            self.committed(partitions, &mut found).await?;
        }
        if let StartFrom::Timestamp(at_time) = start {
            for (at, position) in
                self.list(&mut found, OffsetSpec::Timestamp(*at_time), self.isolation).await?
            {
                edit(&mut found, &at, |found| found.at_start_time = position.map(|position| position.offset));
            }
        }
        if let StopAt::Timestamp(at_time) = stop {
            for (at, position) in
                self.list(&mut found, OffsetSpec::Timestamp(*at_time), self.isolation).await?
            {
                edit(&mut found, &at, |found| found.at_stop_time = position.map(|position| position.offset));
            }
        }
        Ok(found)
    }

    async fn list(
        &self,
        found: &mut BTreeMap<TopicPartition, Found>,
        spec: OffsetSpec,
        isolation: Isolation,
    ) -> Result<Vec<(TopicPartition, Option<Position>)>> {
        let asked: Vec<(TopicPartition, OffsetSpec)> = found.keys().map(|at| (at.clone(), spec)).collect();
        let listed = self.client.list_offsets(&asked, isolation).await?;
        let mut positions = Vec::new();
        for (at, answer) in listed {
            match answer {
                Ok(answer) => {
                    let position = answer.offset.map(|offset| Position { offset, leader_epoch: None });
                    positions.push((at, position));
                }
                Err(error) if error.code() == Some(milena::ErrorCode::UNKNOWN_TOPIC_OR_PARTITION) => {
                    tracing::warn!(partition = %at, %error, "found, and gone before its offsets were known");
                    found.remove(&at);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(positions)
    }

    async fn committed(
        &self,
        partitions: &[TopicPartition],
        found: &mut BTreeMap<TopicPartition, Found>,
    ) -> Result<()> {
        let Some(group_id) = self.group_id else {
            return Ok(());
        };
        let stable = self.isolation == Isolation::ReadCommitted;
        for (at, answer) in self.client.group(group_id).fetch(Some(partitions), stable).await? {
            let committed = answer.map_err(|error| {
                Error::new(ErrorKind::Client, format!("the offsets of group {group_id} can't be read"))
                    .with_source(error)
            })?;
            let position = committed
                .map(|committed| Position { offset: committed.offset, leader_epoch: committed.leader_epoch });
            edit(found, &at, |found| found.committed = position);
        }
        Ok(())
    }
}

fn edit(found: &mut BTreeMap<TopicPartition, Found>, at: &TopicPartition, edit: impl FnOnce(&mut Found)) {
    if let Some(found) = found.get_mut(at) {
        edit(found);
    }
}

fn is_unknown_topic(code: milena::ErrorCode) -> bool {
    [milena::ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, milena::ErrorCode::LEADER_NOT_AVAILABLE].contains(&code)
}

/// The topics that Kafka keeps for itself.
const INTERNAL: [&str; 3] = ["__consumer_offsets", "__transaction_state", "__share_group_state"];

/// The bytes of a topic id, as they stand in checkpoints.
pub(super) fn uuid_bytes(id: impl AsRef<[u8]>) -> super::split::TopicId {
    super::split::TopicId::try_from(id.as_ref()).unwrap_or_default()
}
