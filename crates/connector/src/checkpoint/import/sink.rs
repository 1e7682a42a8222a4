//! The modern sink: writers and committables.

use milena::{PreparedTransaction, ProducerEpoch, ProducerId, TransactionVersion};
use std::time::Duration;

use super::java::{take_count, take_utf};
use crate::checkpoint::state::{Decoder, StateResult};
use crate::sink::committable::Committable;

/// A transaction that a foreign state promises to commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedTransaction {
    /// The transactional id.
    pub transactional_id: String,
    /// The producer id.
    pub producer_id: ProducerId,
    /// The epoch it was written with.
    pub producer_epoch: ProducerEpoch,
    /// When it was begun by the writer's clock, in milliseconds since 1970, if the state says.
    pub start_time_ms: Option<i64>,
}

impl ImportedTransaction {
    /// The committable of a checkpoint. Flink stores neither the transaction's version, which depends on the brokers and Flink's
    /// client (V1 before Kafka 4.0), nor where its records begin: its outcome is told by the coordinator alone.
    #[must_use]
    pub fn into_committable(
        self,
        checkpoint: u64,
        version: TransactionVersion,
        timeout: Duration,
    ) -> Committable {
        let transaction = PreparedTransaction {
            transactional_id: self.transactional_id,
            producer_id: self.producer_id,
            producer_epoch: self.producer_epoch,
            version,
            first_offsets: Vec::new(),
            start_time_ms: self.start_time_ms,
            timeout,
        };
        Committable { checkpoint, subtask: 0, transaction }
    }
}

/// The state of a writer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedWriter {
    /// The prefix of its transactional ids.
    pub prefix: String,
    /// The subtask whose ids it owns; `None` before version 2.
    pub owned_subtask: Option<u32>,
    /// How many subtasks' ids are owned in all; `None` before version 2.
    pub total_owned: Option<u32>,
    /// Transactional ids of transactions that were pre-committed, with their checkpoints.
    pub precommitted: Vec<(String, i64)>,
}

/// A committable, as `KafkaCommittableSerializer` writes it: epoch, producer id, transactional id.
///
/// # Errors
/// For another version than 1, and for bytes that it does not write.
pub fn committable(version: i32, bytes: &[u8]) -> StateResult<ImportedTransaction> {
    let mut from = Decoder::new(bytes);
    if version != 1 {
        return Err(from.error(format!("a committable of version {version}; version 1 is read")));
    }
    let producer_epoch = ProducerEpoch(from.take_i16()?);
    let producer_id = ProducerId(from.take_i64()?);
    let transactional_id = take_utf(&mut from)?;
    if producer_epoch.0 < 0 || producer_id.0 < 0 || transactional_id.is_empty() {
        return Err(from.error(format!(
            "transaction {transactional_id:?} of producer {producer_id}, epoch {producer_epoch}"
        )));
    }
    from.finish()?;
    Ok(ImportedTransaction { transactional_id, producer_id, producer_epoch, start_time_ms: None })
}

/// A writer's state, as `KafkaWriterStateSerializer` writes it.
///
/// # Errors
/// For other versions than 1 and 2, and for bytes that it does not write.
pub fn writer(version: i32, bytes: &[u8]) -> StateResult<ImportedWriter> {
    let mut from = Decoder::new(bytes);
    if !(1..=2).contains(&version) {
        return Err(from.error(format!("writer state of version {version}; 1 and 2 are read")));
    }
    let mut state = ImportedWriter {
        prefix: take_utf(&mut from)?,
        owned_subtask: None,
        total_owned: None,
        precommitted: Vec::new(),
    };
    if version == 2 {
        state.owned_subtask = take_number(&mut from)?;
        state.total_owned = take_number(&mut from)?;
        // How the ids are owned: by each subtask for itself, or as listed in the state.
        match from.take_i32()? {
            0 | 1 => {}
            other => return Err(from.error(format!("ownership {other}"))),
        }
        for _ in 0..take_count(&mut from)? {
            state.precommitted.push((take_utf(&mut from)?, from.take_i64()?));
        }
    }
    from.finish()?;
    Ok(state)
}

/// A number, or -1 for none.
fn take_number(from: &mut Decoder<'_>) -> StateResult<Option<u32>> {
    let number = from.take_i32()?;
    match u32::try_from(number) {
        Ok(number) => Ok(Some(number)),
        Err(_) if number == -1 => Ok(None),
        Err(_) => Err(from.error(format!("subtask {number}"))),
    }
}
