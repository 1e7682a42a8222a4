//! A committable: a prepared transaction waiting for its commit, as a checkpoint stores it.

use std::fmt;
use std::time::Duration;

use milena::{
    Offset, PartitionId, PreparedTransaction, ProducerEpoch, ProducerId, TopicPartition, TransactionVersion,
};

use crate::checkpoint::CheckpointId;
use crate::checkpoint::state::{Decoder, Encoder, StateResult};

const VERSION: u8 = 1;

/// Which transaction it is: a name is used again, the three together never.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionIdentity {
    /// The transactional id.
    pub id: String,
    /// The producer id.
    pub producer_id: ProducerId,
    /// The epoch it was written with.
    pub producer_epoch: ProducerEpoch,
}

impl fmt::Display for TransactionIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (producer id {}, epoch {})", self.id, self.producer_id, self.producer_epoch)
    }
}

/// A prepared transaction with the checkpoint that covers it. It is committed when that checkpoint, or a later one, is
/// complete; by any process.
#[derive(Clone, Debug, PartialEq)]
pub struct Committable {
    /// The checkpoint at whose barrier it was prepared.
    pub checkpoint: CheckpointId,
    /// The subtask that wrote it.
    pub subtask: u32,
    /// The transaction. Never an empty one.
    pub transaction: PreparedTransaction,
}

impl Committable {
    /// Which transaction it is.
    #[must_use]
    pub fn identity(&self) -> TransactionIdentity {
        TransactionIdentity {
            id: self.transaction.transactional_id.clone(),
            producer_id: self.transaction.producer_id,
            producer_epoch: self.transaction.producer_epoch,
        }
    }

    /// Writes it into a checkpoint.
    pub fn encode(&self, out: &mut Encoder) {
        let transaction = &self.transaction;
        out.put_u8(VERSION);
        out.put_u64(self.checkpoint);
        out.put_u32(self.subtask);
        out.put_str(&transaction.transactional_id);
        out.put_i64(transaction.producer_id.0);
        out.put_i16(transaction.producer_epoch.0);
        out.put_u8(match transaction.version {
            TransactionVersion::V1 => 1,
            TransactionVersion::V2 => 2,
        });
        out.put_list(&transaction.first_offsets, |out, (at, offset)| {
            out.put_str(&at.topic);
            out.put_i32(at.partition.0);
            out.put_i64(offset.0);
        });
        out.put_opt(transaction.start_time_ms, Encoder::put_i64);
        out.put_u64(u64::try_from(transaction.timeout.as_millis()).unwrap_or(u64::MAX));
    }

    /// Reads one from a checkpoint.
    ///
    /// # Errors
    /// For bytes that no version of [`encode`](Self::encode) wrote.
    pub fn decode(from: &mut Decoder<'_>) -> StateResult<Self> {
        match from.take_u8()? {
            1 => Self::decode_v1(from),
            other => {
                Err(from.error(format!("a committable of version {other}, this build reads up to {VERSION}")))
            }
        }
    }

    fn decode_v1(from: &mut Decoder<'_>) -> StateResult<Self> {
        let checkpoint = from.take_u64()?;
        let subtask = from.take_u32()?;
        let transactional_id = from.take_str()?.to_owned();
        let producer_id = ProducerId(from.take_i64()?);
        let producer_epoch = ProducerEpoch(from.take_i16()?);
        let version = match from.take_u8()? {
            1 => TransactionVersion::V1,
            2 => TransactionVersion::V2,
            other => return Err(from.error(format!("a transaction of generation {other}"))),
        };
        let first_offsets = from.take_list(|from| {
            let topic = from.take_str()?;
            let partition = PartitionId(from.take_i32()?);
            Ok((TopicPartition::new(topic, partition), Offset(from.take_i64()?)))
        })?;
        let start_time_ms = from.take_opt(Decoder::take_i64)?;
        let timeout = Duration::from_millis(from.take_u64()?);
        let transaction = PreparedTransaction {
            transactional_id,
            producer_id,
            producer_epoch,
            version,
            first_offsets,
            start_time_ms,
            timeout,
        };
        Ok(Self { checkpoint, subtask, transaction })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        pub(crate) fn any_committable()(
            checkpoint: u64, subtask: u32, id in "[a-z]{0,4}-[0-9]-[0-9]", producer: i64, epoch: i16, new: bool,
            firsts in prop::collection::vec(("[a-z]{1,4}", any::<i32>(), any::<i64>()), 0..4),
            start_time_ms: Option<i64>, timeout: u32,
        ) -> Committable {
            Committable {
                checkpoint,
                subtask,
                transaction: PreparedTransaction {
                    transactional_id: id,
                    producer_id: ProducerId(producer),
                    producer_epoch: ProducerEpoch(epoch),
                    version: if new { TransactionVersion::V2 } else { TransactionVersion::V1 },
                    first_offsets: firsts.into_iter()
                        .map(|(topic, partition, offset)| (TopicPartition::new(topic, partition), Offset(offset)))
                        .collect(),
                    start_time_ms,
                    timeout: Duration::from_millis(u64::from(timeout)),
                },
            }
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(committable in any_committable()) {
            let mut out = Encoder::new();
            committable.encode(&mut out);
            let mut from = Decoder::new(out.as_bytes());
            prop_assert_eq!(Committable::decode(&mut from).unwrap(), committable);
            prop_assert!(from.finish().is_ok());
            for cut in 0..out.as_bytes().len() {
                prop_assert!(Committable::decode(&mut Decoder::new(&out.as_bytes()[..cut])).is_err());
            }
        }
    }
}
