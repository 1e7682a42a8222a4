//! The interop matrix: what one implementation of Kafka's protocol writes, the others read, equal to the byte.
//!
//! ```text
//! shape -> Script -> agent of each implementation writes it -> broker
//!             |                                                  |
//!             +-> what each partition must hold <- compare <- agent of each implementation reads it
//! ```
//!
//! Nothing here trusts a reader: what a partition must hold follows from the script alone ([`Script::log`]), offsets of
//! transactions' markers and the work of the broker's cleaner included. The programs and their protocol are described in
//! `tests/interop/README.md`.

mod agent;
mod broker;
mod compare;
mod matrix;
mod programs;
mod script;
mod shape;
mod table;

pub use agent::{Agent, Implementation};
pub use compare::difference;
pub use matrix::{Case, Cell, Matrix, Report, run};
pub use programs::{Kit, java_program, librdkafka_program};
pub use script::{Entry, Log, Logged, Script, Step, hex, line, unhex};
pub use shape::Shape;
pub use table::{Versions, markdown};
