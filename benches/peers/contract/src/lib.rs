//! What every peer of the comparison does alike: its command line, its checks, its measuring, its line of result.
//!
//! `../README.md` is the contract; peers in other languages repeat it.
#![forbid(unsafe_code)]

mod args;
mod latency;
mod meter;
mod values;

pub use args::{Args, Codec, Profile, Role, Shape};
pub use latency::Latencies;
pub use meter::{Meter, Usage, report};
pub use values::{HEADER_NAMES, Values, word};
