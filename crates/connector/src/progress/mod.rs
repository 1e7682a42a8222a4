//! Progress: event time (watermarks, idleness) and offsets to commit. Pure: `now` is an argument.

pub mod alignment;
pub mod combine;
pub mod idleness;
pub mod offsets;
pub mod tracker;
pub mod watermark;

pub use alignment::{Alignment, AlignmentGroup, AlignmentMember};
pub use combine::{Combiner, ProgressEvent};
pub use idleness::{IdleTimer, Idleness};
pub use offsets::{CommitMetrics, CommitQueue, CommitRequest, Position};
pub use tracker::{BatchProgress, Progress};
pub use watermark::{NewSplits, WatermarkGenerator, WatermarkStrategy};
