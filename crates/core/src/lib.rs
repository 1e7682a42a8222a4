//! State machines of a Kafka client without IO.
//!
//! Nothing in this crate reads a clock, draws a random number from the system, spawns or awaits:
//! time and seeds are arguments, so each decision can be tested and replayed.
//!
//! - [`cluster`]: the topology of a cluster as snapshots, merged from metadata answers
//! - [`fetch`]: cursors and fetch sessions: what the next Fetch asks, what its answer means, what of it may be shown
//! - [`partition`]: which partition a record goes to
//! - [`produce`]: batches of a partition, sequences, what answers mean, one lane a broker
//! - [`retry`]: exponential back-off with jitter
//! - [`rng`]: the small seeded generator behind jitter and shuffles
//! - [`sasl`]: authentication mechanisms
//! - [`transaction`]: the life of a transactional producer's transactions

pub mod cluster;
pub mod fetch;
pub mod partition;
pub mod produce;
pub mod retry;
pub mod rng;
pub mod sasl;
pub mod transaction;
