//! Records: what Produce sends and Fetch brings, in Kafka's three formats.
//!
//! | format | brokers | here |
//! |---|---|---|
//! | 2, record batches (KIP-98) | since 0.11 | read, and written by [`BatchBuilder`] |
//! | 1, message sets with times (KIP-31, KIP-32) | 0.10 | read, and written by [`MessageSetBuilder`] |
//! | 0, message sets | before 0.10 | as 1 |
//!
//! Newer brokers still serve the older formats from segments of those times, and an answer may hold all three. They are
//! read in one way: a message of a set is a [`RecordBatch`] like any other.
//!
//! Reading is lazy. [`RecordBatch`] is a view over the bytes of one batch with its header parsed; [`Records`] are
//! its records, decompressed; [`RecordIter`] reads them one after another as borrowed [`Record`]s, and
//! [`Records::own`] turns one into an [`OwnedRecord`] that shares the batch's memory. Every step is checked: no
//! bytes make a reader panic, hang, or reserve memory by a number they contain.
//!
//! Writing is incremental. [`BatchBuilder`] encodes each record once, [`FrozenBatch`] is the finished batch with
//! an identity that can still be stamped. For a broker that does not know format 2, [`convert_to_message_set`] writes
//! a batch anew, and says no where that would lose something.
//!
//! ```
//! use milena_protocol::records::{BatchBuilder, BatchIdentity, BatchOptions, Header, batches};
//!
//! let mut builder = BatchBuilder::new(BatchOptions::default());
//! builder.push(1_700_000_000_000, Some(b"key"), Some(b"value"), [])?;
//! builder.push(1_700_000_000_001, None, None, [Header::new("trace", Some(b"7"))])?;
//! let bytes = builder.build(BatchIdentity::default())?;
//!
//! for batch in batches(bytes) {
//!     let batch = batch?;
//!     batch.verify_crc()?;
//!     for record in &batch.records()? {
//!         let record = record?;
//!         println!("{} {:?} {:?}", record.offset, record.key, record.headers);
//!     }
//! }
//! # Ok::<(), milena_protocol::ProtocolError>(())
//! ```

mod batch;
mod builder;
mod checksum;
mod control;
mod frozen;
mod header;
mod header_name;
mod iter;
mod layout;
mod message_set;
mod message_set_builder;
mod quick;
mod record;
mod varint;

pub use batch::{BatchRef, Batches, RecordBatch, batches};
pub use builder::{BatchBuilder, BatchIdentity, BatchOptions, MAX_BATCH_LEN, Run};
pub use control::{ControlKind, ControlRecord, build_control_batch};
pub use frozen::{FrozenBatch, set_base_offset, set_identity, set_log_append_time};
pub use header::{BatchExtent, BatchHeader, TimestampType};
pub use header_name::{HeaderName, OwnedHeaderName};
pub use iter::{RecordIter, RecordMark, Records};
pub use layout::{HEADER_LEN, attributes};
pub use message_set::MessageFormat;
pub use message_set_builder::{MessageSetBuilder, convert_to_message_set};
pub use record::{Header, HeaderIter, Headers, OwnedRecord, Record};
