//! APIs that look: FindCoordinator, DescribeTransactions, ListTransactions, DescribeProducers.

use std::collections::BTreeMap;
use std::time::Instant;

use milena_protocol::messages::describe_producers_response::{
    PartitionResponse, ProducerState, TopicResponse,
};
use milena_protocol::messages::describe_transactions_response::{TopicData, TransactionState};
use milena_protocol::messages::find_coordinator_response::Coordinator as FoundCoordinator;
use milena_protocol::messages::list_transactions_response::TransactionState as ListedTransaction;
use milena_protocol::messages::{
    DescribeProducersRequest, DescribeProducersResponse, DescribeTransactionsRequest,
    DescribeTransactionsResponse, FindCoordinatorRequest, FindCoordinatorResponse, ListTransactionsRequest,
    ListTransactionsResponse, TransactionalId,
};
use milena_protocol::{ErrorCode, StrBytes};
use regex::Regex;

use super::Broker;
use super::topics::topic_name;

/// Every name a transaction's state can have on Kafka.
const STATES: &[&str] = &[
    "Empty",
    "Ongoing",
    "PrepareCommit",
    "PrepareAbort",
    "CompleteCommit",
    "CompleteAbort",
    "Dead",
    "PrepareEpochFence",
];

impl Broker {
    pub(super) fn find_coordinator(
        &self,
        version: i16,
        request: &FindCoordinatorRequest,
    ) -> FindCoordinatorResponse {
        let error = match request.key_type {
            0 | 1 => ErrorCode::NONE,
            _ => ErrorCode::INVALID_REQUEST,
        };
        let (node, host, port) = if error.is_ok() {
            (self.config.node_id, self.config.host.clone(), i32::from(self.config.port))
        } else {
            (-1, String::new(), -1)
        };
        let host = StrBytes::from_string(host);
        if version <= 3 {
            return FindCoordinatorResponse::default()
                .with_error_code(error.0)
                .with_error_message(None)
                .with_node_id(node.into())
                .with_host(host)
                .with_port(port);
        }
        let found = request.coordinator_keys.iter().map(|key| {
            FoundCoordinator::default()
                .with_key(key.clone())
                .with_error_code(error.0)
                .with_error_message(None)
                .with_node_id(node.into())
                .with_host(host.clone())
                .with_port(port)
        });
        FindCoordinatorResponse::default().with_coordinators(found.collect())
    }

    pub(super) fn describe_transactions(
        &self,
        request: &DescribeTransactionsRequest,
    ) -> DescribeTransactionsResponse {
        let states = request.transactional_ids.iter().map(|id| self.describe_transaction(id));
        DescribeTransactionsResponse::default().with_transaction_states(states.collect())
    }

    fn describe_transaction(&self, id: &TransactionalId) -> TransactionState {
        let answer = TransactionState::default().with_transactional_id(id.clone());
        if id.0.is_empty() {
            return answer.with_error_code(ErrorCode::INVALID_REQUEST.0);
        }
        let Some(transaction) = self.coordinator.find(&id.0) else {
            return answer.with_error_code(ErrorCode::TRANSACTIONAL_ID_NOT_FOUND.0);
        };
        let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
        for (topic, index) in &transaction.partitions {
            topics.entry(topic).or_default().push(*index);
        }
        let topics = topics.into_iter().map(|(name, partitions)| {
            TopicData::default().with_topic(topic_name(name)).with_partitions(partitions)
        });
        answer
            .with_transaction_state(StrBytes::from_static_str(transaction.state.name()))
            .with_transaction_timeout_ms(transaction.timeout_ms)
            .with_transaction_start_time_ms(transaction.start_ms.unwrap_or(-1))
            .with_producer_id(transaction.identity.id.into())
            .with_producer_epoch(transaction.identity.epoch)
            .with_topics(topics.collect())
    }

    pub(super) fn list_transactions(
        &self,
        now: Instant,
        version: i16,
        request: &ListTransactionsRequest,
    ) -> ListTransactionsResponse {
        let pattern = match request.transactional_id_pattern.as_ref().filter(|text| !text.is_empty()) {
            Some(text) => match Regex::new(&format!("^(?:{})$", without_quotes(text))) {
                Ok(pattern) => Some(pattern),
                Err(_) => {
                    let error = ErrorCode::INVALID_REGULAR_EXPRESSION;
                    return ListTransactionsResponse::default().with_error_code(error.0);
                }
            },
            None => None,
        };
        let now_ms = self.wall(now);
        let long_enough = |start: Option<i64>| {
            // A transaction that never began counts as one that began in 1969, as on Kafka.
            version < 1
                || request.duration_filter < 0
                || now_ms.saturating_sub(start.unwrap_or(-1)) > request.duration_filter
        };
        let wanted_state = |name: &str| {
            request.state_filters.is_empty() || request.state_filters.iter().any(|s| &**s == name)
        };
        let wanted_id = |id: i64| {
            request.producer_id_filters.is_empty() || request.producer_id_filters.iter().any(|p| p.0 == id)
        };
        let listed = self.coordinator.iter().filter(|(id, transaction)| {
            wanted_state(transaction.state.name())
                && wanted_id(transaction.identity.id)
                && long_enough(transaction.start_ms)
                && pattern.as_ref().is_none_or(|pattern| pattern.is_match(id))
        });
        let listed = listed.map(|(id, transaction)| {
            ListedTransaction::default()
                .with_transactional_id(TransactionalId(StrBytes::from_string(id.to_owned())))
                .with_producer_id(transaction.identity.id.into())
                .with_transaction_state(StrBytes::from_static_str(transaction.state.name()))
        });
        let unknown = request.state_filters.iter().filter(|name| !STATES.contains(&&***name));
        ListTransactionsResponse::default()
            .with_unknown_state_filters(unknown.cloned().collect())
            .with_transaction_states(listed.collect())
    }

    pub(super) fn describe_producers(&self, request: &DescribeProducersRequest) -> DescribeProducersResponse {
        let topics = request.topics.iter().map(|topic| {
            let partitions = topic.partition_indexes.iter().map(|&index| {
                let answer = PartitionResponse::default().with_partition_index(index);
                let Some(log) = self.topics.partition(&topic.name.0, index) else {
                    return answer.with_error_code(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.0);
                };
                let producers = log.producers().map(|(id, entry)| {
                    ProducerState::default()
                        .with_producer_id(id.into())
                        .with_producer_epoch(i32::from(entry.epoch))
                        .with_last_sequence(entry.last_sequence().unwrap_or(-1))
                        .with_last_timestamp(entry.last_timestamp)
                        .with_coordinator_epoch(entry.coordinator_epoch)
                        .with_current_txn_start_offset(entry.transaction_start.unwrap_or(-1))
                });
                answer.with_active_producers(producers.collect())
            });
            TopicResponse::default().with_name(topic.name.clone()).with_partitions(partitions.collect())
        });
        DescribeProducersResponse::default().with_topics(topics.collect())
    }
}

/// Java's `\Q...\E` (what stands between is literal) in the terms of Rust's regular expressions.
fn without_quotes(pattern: &str) -> String {
    let mut rest = pattern;
    let mut plain = String::new();
    while let Some((before, quoted)) = rest.split_once(r"\Q") {
        let (literal, after) = quoted.split_once(r"\E").unwrap_or((quoted, ""));
        plain.push_str(before);
        plain.push_str(&regex::escape(literal));
        rest = after;
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_of_java_patterns_are_literal() {
        assert_eq!(without_quotes(r"\Qa.b*\E-.*"), r"a\.b\*-.*");
        assert_eq!(without_quotes(r"x\Qa."), r"xa\.");
        assert_eq!(without_quotes("s11-.*"), "s11-.*");
    }
}
