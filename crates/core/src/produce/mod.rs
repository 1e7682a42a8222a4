//! The producer's decisions: batches of a partition, sequences, what answers mean, one lane a broker.
//!
//! ```text
//! record -> Accumulator::push -> (full or lingered) -> Accumulator::take -> milena_protocol::produce::encode -> broker
//!                                                                                                                |
//!           Accumulator::handle_answer <---- outcome::of(code) <---- lane::process_response <--------------------+
//! ```

pub mod accumulator;
mod batch;
pub mod lane;
mod open;
pub mod outcome;
pub mod sequence;

pub use accumulator::{Accumulator, Failure, Limits, Refused, Settled};
pub use lane::{Answer, Lane, Part};
pub use outcome::{Outcome, Remedy, Scope};
pub use sequence::{Identity, Sequences, Stamp};
