//! What a checkpoint holds: everything a job needs to go on as if it had never stopped.

use std::fmt;

use milena::{PartitionId, TopicPartition};

use super::state::{Decoder, Encoder, StateResult};
use super::store::CheckpointId;
use crate::sink::Delivery;
use crate::sink::committable::Committable;
use crate::source::split::Split;

/// The version of the body that [`CheckpointState::encode`] writes.
const VERSION: i16 = 2;

/// The state of one subtask's writer at a barrier.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriterState {
    /// The subtask.
    pub subtask: u32,
    /// The numbers of its names that unfinished transactions held.
    pub held: Vec<u32>,
}

/// What a piece of a function's state belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// One partition.
    Split(TopicPartition),
    /// The partitions of this number, of all topics.
    Partition(PartitionId),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Split(partition) => write!(f, "{partition}"),
            Self::Partition(partition) => write!(f, "partition {partition} of all topics"),
        }
    }
}

/// What a stateful function knows of one scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionState {
    /// The function's name.
    pub function: String,
    /// What it is about.
    pub scope: Scope,
    /// Timers, watermark and the function's own state, in their own encoding.
    pub state: Vec<u8>,
}

impl FunctionState {
    fn encode(&self, out: &mut Encoder) {
        out.put_str(&self.function);
        match &self.scope {
            Scope::Split(at) => {
                out.put_u8(0);
                out.put_str(&at.topic);
                out.put_i32(at.partition.0);
            }
            Scope::Partition(partition) => {
                out.put_u8(1);
                out.put_i32(partition.0);
            }
        }
        out.put_bytes(&self.state);
    }

    fn decode(from: &mut Decoder<'_>) -> StateResult<Self> {
        let function = from.take_str()?.to_owned();
        let scope = match from.take_u8()? {
            0 => {
                let topic = from.take_str()?;
                Scope::Split(TopicPartition::new(topic, PartitionId(from.take_i32()?)))
            }
            1 => Scope::Partition(PartitionId(from.take_i32()?)),
            other => return Err(from.error(format!("scope {other}"))),
        };
        Ok(Self { function, scope, state: from.take_bytes()?.to_vec() })
    }
}

/// The contents of a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckpointState {
    /// The name of the job that wrote it.
    pub job: String,
    /// Its number.
    pub id: CheckpointId,
    /// How many subtasks the job had.
    pub parallelism: u32,
    /// The sink's promise.
    pub delivery: Delivery,
    /// The sink's transactional id prefix, if it writes transactions.
    pub prefix: Option<String>,
    /// The enumerator's state in its own encoding.
    pub enumerator: Vec<u8>,
    /// The splits that readers hold, each at its next offset.
    pub splits: Vec<Split>,
    /// The job's watermark in milliseconds.
    pub watermark: Option<i64>,
    /// The watermark of each subtask.
    pub subtask_watermarks: Vec<Option<i64>>,
    /// The transactions that this checkpoint promises to commit, or that earlier ones promised and did not finish.
    pub committables: Vec<Committable>,
    /// The writers.
    pub writers: Vec<WriterState>,
    /// What the stateful functions know.
    pub functions: Vec<FunctionState>,
}

impl CheckpointState {
    /// The body of a checkpoint file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        out.put_i16(VERSION);
        out.put_str(&self.job);
        out.put_u64(self.id);
        out.put_u32(self.parallelism);
        out.put_u8(match self.delivery {
            Delivery::None => 0,
            Delivery::AtLeastOnce => 1,
            Delivery::ExactlyOnce => 2,
        });
        out.put_opt(self.prefix.as_deref(), |out, prefix| out.put_str(prefix));
        out.put_bytes(&self.enumerator);
        out.put_list(&self.splits, |out, split| split.encode(out));
        out.put_opt(self.watermark, Encoder::put_i64);
        out.put_list(&self.subtask_watermarks, |out, &watermark| out.put_opt(watermark, Encoder::put_i64));
        out.put_list(&self.committables, |out, committable| committable.encode(out));
        out.put_list(&self.writers, |out, writer| {
            out.put_u32(writer.subtask);
            out.put_list(&writer.held, |out, &number| out.put_u32(number));
        });
        out.put_list(&self.functions, |out, function| function.encode(out));
        out.finish()
    }

    /// Reads a body.
    ///
    /// # Errors
    /// For bytes that no version of [`encode`](Self::encode) wrote; bytes left over are an error, too.
    pub fn decode(body: &[u8]) -> StateResult<Self> {
        let mut from = Decoder::new(body);
        let state = match from.take_i16()? {
            1 => Self::decode_v1(&mut from)?,
            2 => {
                let state = Self::decode_v1(&mut from)?;
                Self { functions: from.take_list(FunctionState::decode)?, ..state }
            }
            other => {
                let text = format!("a checkpoint of version {other}, this build reads up to {VERSION}");
                return Err(from.error(text));
            }
        };
        from.finish()?;
        Ok(state)
    }

    /// Version 1 knew no functions with state.
    fn decode_v1(from: &mut Decoder<'_>) -> StateResult<Self> {
        Ok(Self {
            job: from.take_str()?.to_owned(),
            id: from.take_u64()?,
            parallelism: from.take_u32()?,
            delivery: match from.take_u8()? {
                0 => Delivery::None,
                1 => Delivery::AtLeastOnce,
                2 => Delivery::ExactlyOnce,
                other => return Err(from.error(format!("delivery {other}"))),
            },
            prefix: from.take_opt(|from| from.take_str().map(str::to_owned))?,
            enumerator: from.take_bytes()?.to_vec(),
            splits: from.take_list(Split::decode)?,
            watermark: from.take_opt(Decoder::take_i64)?,
            subtask_watermarks: from.take_list(|from| from.take_opt(Decoder::take_i64))?,
            committables: from.take_list(Committable::decode)?,
            writers: from.take_list(|from| {
                let subtask = from.take_u32()?;
                Ok(WriterState { subtask, held: from.take_list(Decoder::take_u32)? })
            })?,
            functions: Vec::new(),
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::sink::committable::tests::any_committable;
    use milena::Offset;
    use proptest::prelude::*;

    prop_compose! {
        pub(crate) fn any_state()(
            job in "[a-z]{0,5}", id: u64, parallelism: u32, delivery in 0..3, prefix: Option<String>, enumerator: Vec<u8>,
            offsets in prop::collection::vec(0..i64::MAX, 0..3), watermark: Option<i64>, subtasks: Vec<Option<i64>>,
            committables in prop::collection::vec(any_committable(), 0..3), held: Vec<u32>, windows: Vec<u8>,
        ) -> CheckpointState {
            let split = |(partition, &offset): (i32, &i64)| Split::new(TopicPartition::new("in", partition), Offset(offset));
            CheckpointState {
                job,
                id,
                parallelism,
                delivery: [Delivery::None, Delivery::AtLeastOnce, Delivery::ExactlyOnce][usize::try_from(delivery).unwrap()],
                prefix,
                enumerator,
                splits: (0..).zip(&offsets).map(split).collect(),
                watermark,
                subtask_watermarks: subtasks,
                committables,
                writers: vec![WriterState { subtask: 1, held }],
                functions: [Scope::Split(TopicPartition::new("in", 3)), Scope::Partition(PartitionId(4))]
                    .map(|scope| FunctionState { function: String::from("windows"), scope, state: windows.clone() })
                    .to_vec(),
            }
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(state in any_state()) {
            prop_assert_eq!(CheckpointState::decode(&state.encode()).unwrap(), state);
        }

        #[test]
        fn every_cut_and_every_tail_is_an_error(state in any_state()) {
            let mut body = state.encode();
            for cut in 0..body.len() {
                prop_assert!(CheckpointState::decode(&body[..cut]).is_err());
            }
            body.push(0);
            prop_assert!(CheckpointState::decode(&body).is_err());
        }
    }

    #[test]
    fn golden_bytes() {
        let state = CheckpointState {
            job: String::from("j"),
            id: 2,
            parallelism: 1,
            delivery: Delivery::ExactlyOnce,
            prefix: Some(String::from("p")),
            enumerator: vec![9],
            splits: Vec::new(),
            watermark: Some(5),
            subtask_watermarks: vec![None],
            committables: Vec::new(),
            writers: vec![WriterState { subtask: 0, held: vec![1] }],
            functions: vec![
                FunctionState {
                    function: String::from("f"),
                    scope: Scope::Split(TopicPartition::new("t", 3)),
                    state: vec![7],
                },
                FunctionState {
                    function: String::from("f"),
                    scope: Scope::Partition(PartitionId(4)),
                    state: Vec::new(),
                },
            ],
        };
        let expected: &[u8] = &[
            0, 2, // version
            0, 0, 0, 1, b'j', // job
            0, 0, 0, 0, 0, 0, 0, 2, // id
            0, 0, 0, 1, // parallelism
            2, // delivery
            1, 0, 0, 0, 1, b'p', // prefix
            0, 0, 0, 1, 9, // enumerator
            0, 0, 0, 0, // splits
            1, 0, 0, 0, 0, 0, 0, 0, 5, // watermark
            0, 0, 0, 1, 0, // subtask watermarks
            0, 0, 0, 0, // committables
            0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, // writers
            0, 0, 0, 2, // functions
            0, 0, 0, 1, b'f', 0, 0, 0, 0, 1, b't', 0, 0, 0, 3, 0, 0, 0, 1, 7, // of a split
            0, 0, 0, 1, b'f', 1, 0, 0, 0, 4, 0, 0, 0, 0, // of a partition's number
        ];
        assert_eq!(state.encode(), expected, "the format may only change with its version");
        assert_eq!(CheckpointState::decode(expected).unwrap(), state);
        // What version 1 wrote is read for ever: the same without functions.
        let mut first = expected[..expected.len() - 38].to_vec();
        first[1] = 1;
        assert_eq!(
            CheckpointState::decode(&first).unwrap(),
            CheckpointState { functions: Vec::new(), ..state }
        );
    }
}
