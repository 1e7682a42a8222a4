//! The job runtime: the only module that spawns tasks, sleeps and does IO of its own accord.
//!
//! ```text
//!                 barriers, splits                        ┌─ subtask 0: reader ─ functions ─ writer
//!  coordinator ─────────────────────────────────────────▶ ├─ subtask 1: …
//!   enumerator, checkpoint schedule, store, committer ◀── └─ subtask n: …
//!                 snapshots, ends
//! ```
//!
//! [`Job::run`] is the coordinator; it owns every task it spawns, and none outlives it. Dropping its future anywhere is as safe
//! as killing the process: what a checkpoint holds is committed by the next run, what it does not is aborted and produced again.
//!
//! # Order of a checkpoint
//! barrier to all subtasks; each between two records: flush, prepare, snapshot to the coordinator, next transaction;
//! coordinator: write the checkpoint, commit its transactions, tell the subtasks, who commit offsets to the group.
//!
//! # Order of a stop
//! last barrier; subtasks stop reading; checkpoint; commits; offsets; subtasks end; connections close; the directory is unlocked.

mod commits;
mod config;
mod control;
mod cut;
mod driver;
mod functions;
mod hosting;
mod job;
#[cfg(test)]
mod model;
mod pending;
mod persist;
mod recovery;
mod registry;
mod report;
mod restart;
mod savepoint;
mod states;
mod subtask;
mod time_left;

pub use config::{CheckpointConfig, JobConfig, Restore};
pub use control::{JobControl, JobHooks, Step, Verdict};
pub use functions::{
    Batch, Chain, Context, Filter, Fired, FlatMap, FunctionSpec, Identity, Map, MapAsync, OnLate, Process,
    Processing, Scoping, Stage, Then, TryMap, TumblingWindows, Window,
};
pub use hosting::{Recovered, commit, names, recover};
pub use job::{Job, Stream};
pub use report::{JobMetrics, JobReport, SubtaskMetrics};
pub use restart::{ExponentialDelay, FixedDelay, Restart};
pub use savepoint::Savepoint;
