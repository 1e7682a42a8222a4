//! A transactional writer in protocol requests, of either generation.

use milena_protocol::ErrorCode;
use milena_protocol::messages;
use milena_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;

use super::{Client, Writer, batch, topic_name, transactional_id};

/// The generation of a writer: old ones add partitions by a request, new ones by writing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Old,
    New,
}

impl Kind {
    /// The version of EndTxn that goes with it.
    pub fn end_version(self) -> i16 {
        match self {
            Self::Old => 4,
            Self::New => 5,
        }
    }
}

/// Producer id and epoch.
pub type Pair = (i64, i16);

/// Requests about transactions.
pub trait Transactions: Client {
    fn init_once(&mut self, id: &str, expected: Pair, timeout_ms: i32) -> (ErrorCode, Pair) {
        let request = messages::InitProducerIdRequest::default()
            .with_transactional_id(Some(transactional_id(id)))
            .with_transaction_timeout_ms(timeout_ms)
            .with_producer_id(expected.0.into())
            .with_producer_epoch(expected.1);
        let answer = self.ask(5, &request);
        (ErrorCode(answer.error_code), (answer.producer_id.0, answer.producer_epoch))
    }

    /// InitProducerId until it is no longer told to wait.
    fn init(&mut self, id: &str) -> Pair {
        for _ in 0..3 {
            match self.init_once(id, (-1, -1), 60_000) {
                (ErrorCode::NONE, pair) => return pair,
                (ErrorCode::CONCURRENT_TRANSACTIONS, _) => {}
                (error, _) => panic!("{error}"),
            }
        }
        panic!("InitProducerId never succeeds");
    }

    fn add(&mut self, id: &str, pair: Pair, topic: &str, partition: i32) -> ErrorCode {
        let topics = vec![
            AddPartitionsToTxnTopic::default().with_name(topic_name(topic)).with_partitions(vec![partition]),
        ];
        let request = messages::AddPartitionsToTxnRequest::default()
            .with_v3_and_below_transactional_id(transactional_id(id))
            .with_v3_and_below_producer_id(pair.0.into())
            .with_v3_and_below_producer_epoch(pair.1)
            .with_v3_and_below_topics(topics);
        let answer = self.ask(3, &request);
        ErrorCode(answer.results_by_topic_v3_and_below[0].results_by_partition[0].partition_error_code)
    }

    /// Writes `records` records in the transaction and gives the first offset.
    fn write(
        &mut self,
        kind: Kind,
        id: &str,
        pair: Pair,
        sequence: i32,
        partition: i32,
        records: usize,
    ) -> (ErrorCode, i64) {
        if kind == Kind::Old {
            let added = self.add(id, pair, "t", partition);
            if !added.is_ok() {
                return (added, -1);
            }
        }
        let writer = Writer { id: pair.0, epoch: pair.1, sequence, transactional: true };
        let version = match kind {
            Kind::Old => 11,
            Kind::New => 12,
        };
        let answer = self.produce(version, Some(id), "t", partition, batch(records, Some(writer)));
        (ErrorCode(answer.error_code), answer.base_offset)
    }

    fn end(&mut self, version: i16, id: &str, pair: Pair, commit: bool) -> (ErrorCode, Pair) {
        let request = messages::EndTxnRequest::default()
            .with_transactional_id(transactional_id(id))
            .with_producer_id(pair.0.into())
            .with_producer_epoch(pair.1)
            .with_committed(commit);
        let answer = self.ask(version, &request);
        (ErrorCode(answer.error_code), (answer.producer_id.0, answer.producer_epoch))
    }

    /// State, identity and start time, as DescribeTransactions tells them.
    fn describe(&mut self, id: &str) -> (String, Pair, i64) {
        let request = messages::DescribeTransactionsRequest::default()
            .with_transactional_ids(vec![transactional_id(id)]);
        let answer = self.ask(0, &request).transaction_states.remove(0);
        assert_eq!(answer.error_code, 0);
        let pair = (answer.producer_id.0, answer.producer_epoch);
        (answer.transaction_state.to_string(), pair, answer.transaction_start_time_ms)
    }
}

impl<T: Client> Transactions for T {}
