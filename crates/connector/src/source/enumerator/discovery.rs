//! What a discovery means: what is new, what is gone, what is another topic under the same name.

use std::collections::BTreeSet;
use std::time::Instant;

use milena::TopicPartition;

use super::{Command, Discovered, DiscoveredPartition, Enumerator, Phase, Place, ResolveRequest, StartRule};
use crate::source::policy::{RemovedAction, RemovedPartition, same_topic};
use crate::source::subscription::Subscription;
use crate::{Error, ErrorKind, Result};

impl Enumerator {
    /// What is named must exist before the first start, of the source or of the name in it; a partition that was there before
    /// and is missing is treated as a removed one.
    pub(super) fn check_missing(&self, found: Discovered) -> Result<Discovered> {
        if found.missing.is_empty() {
            return Ok(found);
        }
        let mut missing = found.missing.clone();
        if self.initial_discovery_finished {
            missing = self.never_seen(&found);
            if missing.is_empty() {
                return Ok(found);
            }
            // One that was dropped as chosen is not in the checkpoint either.
            if self.metrics.discoveries > 0 || self.config.removed.action == RemovedAction::Drop {
                tracing::warn!(missing = %missing.join(", "), "subscribed, and not there");
                return Ok(found);
            }
        }
        let text = format!("{} not found; create it, or correct the name", missing.join(", "));
        Err(Error::new(ErrorKind::Topic, text))
    }

    /// What is named, not there, and was not there before.
    fn never_seen(&self, found: &Discovered) -> Vec<String> {
        let found = found.partitions.iter().map(|found| &found.topic_partition);
        let seen: BTreeSet<&TopicPartition> = found
            .chain(self.known.keys())
            .chain(self.reopened.keys())
            .chain(self.unresolved.keys())
            .collect();
        match &self.config.subscription {
            Subscription::Topics(topics) => {
                let seen: BTreeSet<&str> = seen.into_iter().map(|at| &*at.topic).collect();
                let missing = topics.iter().filter(|topic| !seen.contains(&***topic));
                missing.map(|topic| format!("topic {topic}")).collect()
            }
            Subscription::Partitions(partitions) => {
                let missing = partitions.iter().filter(|at| !seen.contains(at));
                missing.map(|at| format!("partition {at}")).collect()
            }
            Subscription::Pattern(_) | Subscription::Custom(_) => Vec::new(),
        }
    }

    pub(super) fn discovered(&mut self, now: Instant, found: Discovered) {
        let mut listed = BTreeSet::new();
        let mut fresh = Vec::new();
        let start = if self.initial_discovery_finished { StartRule::Earliest } else { StartRule::Configured };
        for DiscoveredPartition { topic_partition, topic_id } in found.partitions {
            if !listed.insert(topic_partition.clone()) || !self.config.subscription.contains(&topic_partition)
            {
                continue;
            }
            match self.known.get_mut(&topic_partition) {
                None if self.reopened.contains_key(&topic_partition) => {
                    let split = self.reopened.get(&topic_partition);
                    let same =
                        split.map_or(Ok(true), |split| same_topic(split, topic_id, self.config.recreated));
                    match same {
                        Ok(same) => self.metrics.recreated += u64::from(!same),
                        Err(error) => return self.fail(error),
                    }
                    fresh.push(ResolveRequest { topic_partition, topic_id, start: StartRule::Kept });
                }
                None => {
                    let stored = self.unresolved.get(&topic_partition).copied().map(StartRule::Stored);
                    let start = stored.unwrap_or(start);
                    fresh.push(ResolveRequest { topic_partition, topic_id, start });
                }
                Some(known) => match known.confirm(topic_id, self.config.recreated) {
                    Ok(other) => self.metrics.recreated += u64::from(other),
                    Err(error) => return self.fail(error),
                },
            }
        }
        if let Err(error) = self.handle_absent(&listed) {
            return self.fail(error);
        }
        // Kept though not subscribed: no discovery lists them, but their stop, or their start, is wanted all the same.
        let kept = |at: &TopicPartition| !self.config.subscription.contains(at);
        let reopened = self.reopened.values().filter(|split| kept(&split.topic_partition));
        let reopened = reopened.map(|split| (split.topic_partition.clone(), split.topic_id, StartRule::Kept));
        let unresolved = self.unresolved.iter().filter(|(at, _)| kept(at));
        let unresolved = unresolved.map(|(at, start)| (at.clone(), None, StartRule::Stored(*start)));
        for (topic_partition, topic_id, start) in reopened.chain(unresolved) {
            listed.insert(topic_partition.clone());
            fresh.push(ResolveRequest { topic_partition, topic_id, start });
        }
        let restored = self.reopened.keys().chain(self.unresolved.keys());
        if let Some(at) = restored.into_iter().find(|at| !listed.contains(*at)).cloned() {
            let text = "the checkpoint has a partition that is not there; was its topic deleted?";
            let error = Error::new(ErrorKind::Topic, text).with_topic_partition(at);
            return self.discovery_failed(now, error, None);
        }
        if fresh.is_empty() {
            self.initial_discovery_finished = true;
            self.rest(now);
        } else {
            fresh.sort_by(|a, b| a.topic_partition.cmp(&b.topic_partition));
            self.commands.push_back(Command::ResolveOffsets(fresh.clone()));
            self.phase = Phase::Resolving { asked: fresh };
        }
        self.hand_out();
    }

    /// Counts how often each known partition was not listed; after enough answers that agree the policy decides.
    fn handle_absent(&mut self, listed: &BTreeSet<TopicPartition>) -> Result<()> {
        let RemovedPartition { confirmations, action } = self.config.removed;
        let mut gone = Vec::new();
        for (at, known) in &mut self.known {
            if known.is_finished() || listed.contains(at) || !self.config.subscription.contains(at) {
                continue;
            }
            known.absent = known.absent.saturating_add(1);
            if known.absent == confirmations.max(1) {
                gone.push(at.clone());
            }
        }
        for at in gone {
            match action {
                RemovedAction::Fail => {
                    let text = format!(
                        "gone: {confirmations} discoveries in a row did not list it; was its topic deleted?"
                    );
                    return Err(Error::new(ErrorKind::Topic, text).with_topic_partition(at));
                }
                RemovedAction::Wait => {
                    self.metrics.waited_for += 1;
                    tracing::warn!(partition = %at, "gone; waiting for it to come back");
                }
                RemovedAction::Drop => self.drop_partition(at),
            }
        }
        Ok(())
    }

    fn drop_partition(&mut self, at: TopicPartition) {
        tracing::warn!(partition = %at, "gone; it is not read any more, and starts at its first offset if it comes back");
        let Some(known) = self.known.remove(&at) else {
            return;
        };
        self.metrics.dropped += 1;
        self.metrics.partitions = self.known.len();
        if let Place::Assigned { owner: subtask } = known.place {
            self.commands.push_back(Command::Remove { subtask, partitions: vec![at] });
        }
    }
}
