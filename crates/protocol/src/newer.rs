//! Fields of Kafka 4.3 for which kafka-protocol's structs have no place.
//!
//! The crate lacks the newest version of a dozen APIs: `ShareFetch` 2, `DescribeShareGroupOffsets` 1, `OffsetCommit` 10 and so
//! on. They are spoken all the same. What those versions add is kept in the struct's `unknown_tagged_fields` under a tag that
//! Kafka does not have, and never goes over the wire as such; the traits here give those fields names. A field that was not in
//! the message, or is to be left at its default, is `None`.
//!
//! ```
//! use milena_protocol::messages::ShareFetchRequest;
//! use milena_protocol::newer::ShareAcquireMode;
//!
//! let request = ShareFetchRequest::default().with_share_acquire_mode(1);
//! assert_eq!(request.share_acquire_mode(), Some(1));
//! ```
//!
//! `OffsetCommit` 10 and `OffsetFetch` 10 need no such names: their structs have a `topic_id`, though the crate cannot write it.

use std::any::Any;
use std::collections::BTreeMap;

use bytes::{Buf, Bytes};
use kafka_protocol::messages;
use uuid::Uuid;

use crate::legacy::stow;

/// A value of fixed width, as it stands on the wire.
trait Wire: Sized {
    fn read(bytes: &[u8]) -> Option<Self>;
    fn wire(self) -> Bytes;
}

macro_rules! numbers {
    ($($number:ty)*) => {$(
        impl Wire for $number {
            fn read(bytes: &[u8]) -> Option<Self> {
                bytes.first_chunk().map(|bytes| Self::from_be_bytes(*bytes))
            }

            fn wire(self) -> Bytes {
                Bytes::copy_from_slice(&self.to_be_bytes())
            }
        }
    )*};
}

numbers!(i8 i32 i64);

impl Wire for bool {
    fn read(bytes: &[u8]) -> Option<Self> {
        i8::read(bytes).map(|byte| byte != 0)
    }

    fn wire(self) -> Bytes {
        i8::from(self).wire()
    }
}

impl Wire for Uuid {
    fn read(bytes: &[u8]) -> Option<Self> {
        bytes.first_chunk().map(|bytes| Self::from_bytes(*bytes))
    }

    fn wire(self) -> Bytes {
        Bytes::copy_from_slice(self.as_bytes())
    }
}

fn find<T: Wire>(tags: &BTreeMap<i32, Bytes>, name: &str) -> Option<T> {
    tags.get(&stow(name)?).and_then(|value| T::read(value.chunk()))
}

fn put<T: Wire>(tags: &mut BTreeMap<i32, Bytes>, name: &str, value: T) {
    if let Some(tag) = stow(name) {
        tags.insert(tag, value.wire());
    }
}

/// The topic ids of a request that names topics by id, and what it keeps beside each.
fn ids(request: &mut dyn Any) -> Vec<(&mut Uuid, &mut BTreeMap<i32, Bytes>)> {
    // Two downcasts of one borrow would be two borrows, hence the question first.
    if request.is::<messages::OffsetCommitRequest>() {
        let commit = request.downcast_mut::<messages::OffsetCommitRequest>();
        let topics = commit.into_iter().flat_map(|request| &mut request.topics);
        return topics.map(|topic| (&mut topic.topic_id, &mut topic.unknown_tagged_fields)).collect();
    }
    let fetch = request.downcast_mut::<messages::OffsetFetchRequest>();
    let groups = fetch.into_iter().flat_map(|request| &mut request.groups);
    let topics = groups.flat_map(|group| group.topics.iter_mut().flatten());
    topics.map(|topic| (&mut topic.topic_id, &mut topic.unknown_tagged_fields)).collect()
}

/// Puts topic ids where they are rewritten from, if the request has any.
pub(crate) fn stow_ids(request: &mut dyn Any) {
    for (id, tags) in ids(request).into_iter().filter(|(id, _)| !id.is_nil()) {
        put(tags, "topic_id", *id);
    }
}

/// Takes topic ids from where they were rewritten to.
pub(crate) fn unstow_ids(request: &mut dyn Any) {
    for (id, tags) in ids(request) {
        if let Some(stowed) = find(tags, "topic_id") {
            *id = stowed;
            stow("topic_id").map(|tag| tags.remove(&tag));
        }
    }
}

macro_rules! fields {
    ($($(#[$doc:meta])* $trait:ident: $name:ident, $with:ident($type:ty) of $($module:ident::$struct:ident)+;)*) => {$(
        $(#[$doc])*
        pub trait $trait: Sized {
            /// The field, if it was set.
            #[must_use]
            fn $name(&self) -> Option<$type>;
            /// Sets the field.
            #[must_use]
            fn $with(self, value: $type) -> Self;
        }

        $(impl $trait for messages::$module::$struct {
            fn $name(&self) -> Option<$type> {
                find(&self.unknown_tagged_fields, stringify!($name))
            }

            fn $with(mut self, value: $type) -> Self {
                put(&mut self.unknown_tagged_fields, stringify!($name), value);
                self
            }
        })+
    )*};
}

fields! {
    /// How many records the group has still to read, from version 1 on; -1 if unknown (KIP-1226).
    Lag: lag, with_lag(i64)
        of describe_share_group_offsets_response::DescribeShareGroupOffsetsResponsePartition;
    /// 0 for whole batches, 1 for no more records than asked for; from version 2 on (KIP-1206).
    ShareAcquireMode: share_acquire_mode, with_share_acquire_mode(i8) of share_fetch_request::ShareFetchRequest;
    /// Whether acknowledgements renew the locks of records instead of ending them, from version 2 on (KIP-1222).
    IsRenewAck: is_renew_ack, with_is_renew_ack(bool)
        of share_fetch_request::ShareFetchRequest share_acknowledge_request::ShareAcknowledgeRequest;
    /// How long records stay locked, in milliseconds, from version 2 on (KIP-1222).
    AcquisitionLockTimeoutMs: acquisition_lock_timeout_ms, with_acquisition_lock_timeout_ms(i32)
        of share_acknowledge_response::ShareAcknowledgeResponse;
    /// Whether a log directory takes no new replicas, from version 5 on (KIP-1066).
    IsCordoned: is_cordoned, with_is_cordoned(bool) of describe_log_dirs_response::DescribeLogDirsResult;
    /// The transaction version that the marker's transaction ran under, from version 2 on (KIP-1228).
    TransactionVersion: transaction_version, with_transaction_version(i8)
        of write_txn_markers_request::WritableTxnMarker;
    /// Whether to answer when the change is committed rather than when it is appended, from version 1 on. Default true.
    AckWhenCommitted: ack_when_committed, with_ack_when_committed(bool) of add_raft_voter_request::AddRaftVoterRequest;
    /// How many records beyond the start offset are done with, from version 1 on; -1 if unknown.
    DeliveryCompleteCount: delivery_complete_count, with_delivery_complete_count(i32)
        of write_share_group_state_request::PartitionData read_share_group_state_summary_response::PartitionResult;
}
