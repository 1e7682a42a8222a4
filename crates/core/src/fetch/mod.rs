//! What is fetched from where, what of it may be shown, and where to go on.
//!
//! [`Cursors`] is the consumer's side of every Fetch: a cursor for each assigned partition, a fetch session for each broker.
//! It says what the next request to a broker asks for and judges each part of its answer. [`visible`] judges batches.
//!
//! ```text
//! assign, seek, pause -> Cursors -- poll_request --> Fetch request --> broker
//!                           ^                                            |
//!                           +-- handle_session, expect, handle_partition, handle_end (or handle_failure)
//! ```

mod answers;
mod cursor;
mod cursors;
mod ends;
mod requests;
mod session;
mod starts;
mod validate;
pub mod visible;
mod waits;

pub use answers::{Expected, Outcome, PartitionAnswer, ReadTo};
pub use cursor::{Loss, Position, Reason, Start, Status};
pub use cursors::{CursorView, Cursors, Failure, Settings, SlotId, Ticket};
pub use requests::{ForgottenPartition, Plan, PlannedPartition, Wants};
pub use session::{Asked, Mismatch, SessionHead};
pub use starts::ResetWanted;
pub use validate::{EpochEnd, Validated, ValidationWanted};
pub use visible::{BatchHead, Marker, Verdict, VisibleFilter};
pub use waits::Stall;
