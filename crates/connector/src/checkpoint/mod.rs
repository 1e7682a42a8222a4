//! Checkpoints: the codec of their contents, the directory they live in, and when they are taken.

pub mod coordinator;
pub mod document;
pub mod import;
mod inspect;
pub mod lock;
#[cfg(feature = "object-store")]
mod object_storage;
pub mod snapshot;
pub mod state;
pub mod storage;
pub mod store;

pub use document::StateDocument;
pub use inspect::inspect;
#[cfg(feature = "object-store")]
pub use object_storage::ObjectStorage;
pub use snapshot::{CheckpointState, FunctionState, Scope};
pub use storage::{CheckpointStorage, Checkpoints, Storage, StorageLock};
pub use store::{CheckpointId, CheckpointStore, Damaged, Stored};
