//! Importing the state of a Flink job, so that another can go on where it stood.
//!
//! Flink's connector stores its state as bytes of its own; this module reads each layout as a total decoder: any input gives a
//! value or a [`StateError`](super::state::StateError) that names the byte. What reads them from a savepoint is Flink's State
//! Processor API (`docs/migrating-from-flink.md` shows how); what becomes of them is an [`ImportedSource`], an
//! [`ImportedTransaction`] and so on, and with [`ImportedSource::into_state`] a state that a job restores from.
//!
//! | layout | read by |
//! |---|---|
//! | `KafkaPartitionSplitSerializer` 0 | [`split`] |
//! | `KafkaSourceEnumStateSerializer` 0 to 3 | [`enumerator`] |
//! | `topic-partition-offset-states` of `FlinkKafkaConsumerBase` | [`classic_source`] |
//! | `KafkaWriterStateSerializer` 1 and 2 | [`writer`] |
//! | `KafkaCommittableSerializer` 1 | [`committable`] |
//! | 2PC state and `next-transactional-id-hint-v2` of `FlinkKafkaProducer` | [`classic_sink`], [`classic_hint`] |
//!
//! # References
//! The classes named, in flink-connector-kafka 3.4 and 4.x; the golden bytes of the tests were written by those classes.

mod classic;
mod java;
mod sink;
mod source;

pub use classic::{ImportedClassicSink, ImportedHint, classic_hint, classic_sink, classic_source};
pub use java::versioned;
pub use sink::{ImportedTransaction, ImportedWriter, committable, writer};
pub use source::{
    ImportedSource, ImportedSplit, ImportedStart, ImportedStop, LatestMarker, enumerator, split,
};

#[cfg(test)]
mod tests;
