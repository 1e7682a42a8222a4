//! Creating, deleting and growing topics: changes go to the controller and are tried again while it moves.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use milena_protocol::error_code::ErrorCode;
use milena_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use milena_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use milena_protocol::messages::delete_topics_request::DeleteTopicState;
use milena_protocol::messages::{
    CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest, TopicName,
};
use tokio::time::Instant;

use super::{Admin, NewTopic, note, text};
use crate::call::{CallOptions, Target};
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::Want;

/// Outcomes by topic.
type Outcomes = Vec<(String, Result<()>)>;

/// What the controller said of a topic: name, code, its own words.
type Said = (String, ErrorCode, Option<String>);

/// A change of topics.
#[derive(Clone, Copy, Debug)]
enum Change<'a> {
    Create { topics: &'a [NewTopic], timeout: Duration },
    Delete { timeout: Duration },
    Grow { total: i32, timeout: Duration },
}

impl Change<'_> {
    fn api(self) -> &'static str {
        match self {
            Self::Create { .. } => "CreateTopics",
            Self::Delete { .. } => "DeleteTopics",
            Self::Grow { .. } => "CreatePartitions",
        }
    }

    /// The code that means "as wanted" when an earlier try may have been carried out.
    fn done_before(self) -> Option<ErrorCode> {
        match self {
            Self::Create { .. } => Some(ErrorCode::TOPIC_ALREADY_EXISTS),
            Self::Delete { .. } => Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
            Self::Grow { .. } => None,
        }
    }

    fn timeout(self) -> Duration {
        match self {
            Self::Create { timeout, .. } | Self::Delete { timeout } | Self::Grow { timeout, .. } => timeout,
        }
    }
}

impl Admin {
    /// Creates topics. The controller may take `timeout` to place them on brokers. Outcomes are by topic, in the order asked;
    /// a refusal keeps the broker's own text.
    ///
    /// # Errors
    /// What concerns the request as a whole, after retries until `api_timeout`. Unsupported on brokers before 0.10.1, which create topics when
    /// they are first asked for: see [`auto_create_topics`](crate::ClientConfig::auto_create_topics).
    ///
    /// # Cancellation
    /// The topics may be created all the same.
    pub async fn create_topics(&self, topics: &[NewTopic], timeout: Duration) -> Result<Outcomes> {
        let names: Vec<&str> = topics.iter().map(|topic| topic.name.as_str()).collect();
        self.change(&names, Change::Create { topics, timeout }).await
    }

    /// Deletes topics by name. Outcomes are by topic, in the order asked.
    ///
    /// # Errors
    /// What concerns the request as a whole, after retries until `api_timeout`.
    ///
    /// # Cancellation
    /// The topics may be deleted all the same.
    pub async fn delete_topics(&self, names: &[&str]) -> Result<Outcomes> {
        self.change(names, Change::Delete { timeout: self.client.config().request_timeout }).await
    }

    /// Raises a topic's number of partitions to `total`.
    ///
    /// # Errors
    /// INVALID_PARTITIONS when the topic has as many or more, and what concerns the request as a whole.
    ///
    /// # Cancellation
    /// The partitions may be added all the same.
    pub async fn add_partitions(&self, topic: &str, total: i32) -> Result<()> {
        let timeout = self.client.config().request_timeout;
        for (_, outcome) in self.change(&[topic], Change::Grow { total, timeout }).await? {
            outcome?;
        }
        self.client.refresh_topic_soon(topic);
        Ok(())
    }

    /// Sends a change until each topic has a final outcome or the time is up.
    async fn change(&self, names: &[&str], change: Change<'_>) -> Result<Outcomes> {
        let mut attempts = self.client.attempts();
        let mut finished: HashMap<String, Result<()>> = HashMap::new();
        let mut maybe_applied = false;
        loop {
            let pending: Vec<&str> =
                names.iter().copied().filter(|name| !finished.contains_key(*name)).collect();
            if pending.is_empty() {
                break;
            }
            let mut again: Vec<(String, Error)> = Vec::new();
            match self.send_change(change, &pending, attempts.deadline()).await {
                Ok((said, broker)) => {
                    for (name, code, note) in said {
                        let done = code.is_ok() || (maybe_applied && Some(code) == change.done_before());
                        let error = || {
                            let error = Error::broker_code(code, note.as_deref()).with_api(change.api());
                            error.with_broker(Arc::clone(&broker)).with_topic(name.as_str())
                        };
                        if done {
                            finished.insert(name, Ok(()));
                        } else if changes_again(code) {
                            again.push((name.clone(), error()));
                        } else {
                            let error = error();
                            finished.insert(name, Err(error));
                        }
                    }
                    let named = |name: &str| {
                        finished.contains_key(name) || again.iter().any(|(other, _)| other == name)
                    };
                    if let Some(missing) = pending.iter().find(|name| !named(name)) {
                        let error = Error::peer("the answer does not name the topic").with_api(change.api());
                        return Err(error.with_topic(*missing));
                    }
                }
                Err(error) if error.kind() == ErrorKind::Unsupported => {
                    return Err(match change {
                        Change::Create { .. } => error.with_remedy(AUTO_CREATION),
                        _ => error,
                    });
                }
                Err(error) => {
                    maybe_applied |= error.maybe_applied();
                    again.extend(pending.iter().map(|name| ((*name).to_owned(), error.clone())));
                }
            }
            let Some((_, error)) = again.first() else { continue };
            if let Err(error) = attempts.pause(error.clone()).await {
                if finished.is_empty() && error.code().is_none() {
                    return Err(error);
                }
                finished.extend(again.into_iter().map(|(name, error)| (name, Err(attempts.last(error)))));
                break;
            }
            // The controller may have moved.
            if let Err(error) = self.client.refresh(Want::Brokers, attempts.deadline()).await {
                tracing::debug!(%error, "the controller could not be looked up");
            }
        }
        let outcome = |name: &&str| finished.remove(*name).map(|result| ((*name).to_owned(), result));
        Ok(names.iter().filter_map(outcome).collect())
    }

    async fn send_change(
        &self,
        change: Change<'_>,
        pending: &[&str],
        deadline: Instant,
    ) -> Result<(Vec<Said>, Arc<str>)> {
        let timeout = self.client.config().request_timeout.max(change.timeout());
        let options = CallOptions { timeout: Some(timeout), ..CallOptions::until(deadline) };
        match change {
            Change::Create { topics, timeout } => {
                let build = |version| build_create(topics, pending, timeout, version);
                let answer = self
                    .client
                    .call_with::<CreateTopicsRequest, _>(Target::Controller, options, build)
                    .await?;
                let said = answer.response.topics.iter().map(|topic| {
                    (topic.name.to_string(), ErrorCode(topic.error_code), note(topic.error_message.as_ref()))
                });
                Ok((said.collect(), answer.broker))
            }
            Change::Delete { timeout } => {
                let build = |version| build_delete(pending, timeout, version);
                let answer = self
                    .client
                    .call_with::<DeleteTopicsRequest, _>(Target::Controller, options, build)
                    .await?;
                let said = answer.response.responses.iter().map(|topic| {
                    let name = topic.name.as_ref().map(|name| name.to_string()).unwrap_or_default();
                    (name, ErrorCode(topic.error_code), note(topic.error_message.as_ref()))
                });
                Ok((said.collect(), answer.broker))
            }
            Change::Grow { total, timeout } => {
                let build = |_| build_grow(pending, total, timeout);
                let answer = self
                    .client
                    .call_with::<CreatePartitionsRequest, _>(Target::Controller, options, build)
                    .await?;
                let said = answer.response.results.iter().map(|topic| {
                    (topic.name.to_string(), ErrorCode(topic.error_code), note(topic.error_message.as_ref()))
                });
                Ok((said.collect(), answer.broker))
            }
        }
    }
}

/// How topics come to be on brokers that have no CreateTopics.
const AUTO_CREATION: &str = "brokers before 0.10.1 create a topic when it is first asked for, with their default number of partitions \
    (auto.create.topics.enable): set auto_create_topics and write to it, or use the tools that came with the broker";

/// Whether a change of a topic shall be tried again after this code. UNKNOWN_TOPIC_OR_PARTITION is retriable for
/// readers, but to a change the controller's word is final.
fn changes_again(code: ErrorCode) -> bool {
    code.is_retriable() && code != ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
}

fn build_create(
    topics: &[NewTopic],
    pending: &[&str],
    timeout: Duration,
    version: i16,
) -> CreateTopicsRequest {
    let wanted = topics.iter().filter(|topic| pending.contains(&topic.name.as_str()));
    CreateTopicsRequest::default()
        .with_topics(wanted.map(|topic| build_topic(topic, version)).collect())
        .with_timeout_ms(millis(timeout))
}

fn build_topic(topic: &NewTopic, version: i16) -> CreatableTopic {
    // The broker's own defaults came with version 4 (KIP-464).
    let or_one = |wanted: i32| if version < 4 && wanted < 0 { 1 } else { wanted };
    let config = |(name, value): &(String, String)| {
        CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value)))
    };
    CreatableTopic::default()
        .with_name(TopicName(text(&topic.name)))
        .with_num_partitions(or_one(topic.partitions))
        .with_replication_factor(if version < 4 && topic.replication < 0 { 1 } else { topic.replication })
        .with_configs(topic.configs.iter().map(config).collect())
}

fn build_delete(names: &[&str], timeout: Duration, version: i16) -> DeleteTopicsRequest {
    let request = DeleteTopicsRequest::default().with_timeout_ms(millis(timeout));
    // Version 6 names topics by name or by id, in another field.
    if version >= 6 {
        let topic = |name: &&str| DeleteTopicState::default().with_name(Some(TopicName(text(name))));
        request.with_topics(names.iter().map(topic).collect())
    } else {
        request.with_topic_names(names.iter().map(|name| TopicName(text(name))).collect())
    }
}

fn build_grow(names: &[&str], total: i32, timeout: Duration) -> CreatePartitionsRequest {
    let topic = |name: &&str| {
        CreatePartitionsTopic::default()
            .with_name(TopicName(text(name)))
            .with_count(total)
            .with_assignments(None)
    };
    CreatePartitionsRequest::default()
        .with_topics(names.iter().map(topic).collect())
        .with_timeout_ms(millis(timeout))
}

fn millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use milena_protocol::encode_request;

    #[test]
    fn broker_defaults_are_replaced_where_the_version_has_none() {
        let topic = NewTopic::new("t", -1);
        assert_eq!(build_topic(&topic, 2).num_partitions, 1);
        assert_eq!(build_topic(&topic, 7).num_partitions, -1);
        assert_eq!(build_topic(&topic, 7).replication_factor, -1);
    }

    #[test]
    fn changes_can_be_written_in_every_version() {
        let topic =
            NewTopic { configs: vec![("cleanup.policy".into(), "compact".into())], ..NewTopic::new("t", 3) };
        let second = Duration::from_secs(1);
        for version in 2..=7 {
            let request = build_create(std::slice::from_ref(&topic), &["t"], second, version);
            encode_request(&mut BytesMut::new(), 1, "c", version, &request).unwrap();
        }
        for version in 1..=6 {
            encode_request(&mut BytesMut::new(), 1, "c", version, &build_delete(&["t"], second, version))
                .unwrap();
        }
        for version in 0..=3 {
            encode_request(&mut BytesMut::new(), 1, "c", version, &build_grow(&["t"], 4, second)).unwrap();
        }
    }
}
