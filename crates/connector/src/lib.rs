//! milena-connector: sources, sinks, progress, checkpoints and the job runtime.
//!
//! A job reads topics through a [`source`], follows event time with [`progress`], writes topics through a [`sink`], and takes
//! [`checkpoint`]s, so that after a crash each record counts exactly once. Everything that decides is pure: `now` is an
//! argument and data comes back. Only [`runtime`] spawns tasks. An engine that brings its own runtime hosts source and sink by the
//! [`contract`], and shows by [`conformance`] that it does.

pub mod checkpoint;
pub mod conformance;
pub mod contract;
mod error;
pub mod pipeline;
pub mod progress;
pub mod runtime;
pub mod schema;
pub mod sink;
pub mod source;

pub use error::{BoxError, Error, ErrorKind, Result};
