//! Brokers for tests: an embedded one, hostile ones, real ones.
//!
//! - [`broker`]: a Kafka broker as a pure state machine, with faults to order. `NOT_SIMULATED.md` says what it leaves out.
//! - [`check`]: a judge of histories: lost, duplicated, reordered, torn.
//! - [`listen`]: the same, reachable over TCP or through in-memory streams.
//! - [`damage`]: batches that no honest writer leaves.
//! - [`hostile`]: listeners that answer lies, late, or never.
//! - [`capture`]: a proxy that keeps what a client and a broker say to each other.
//! - [`kafka`]: real brokers from a container or a JVM.
//! - `sim` (feature `simulation`): the embedded broker behind a network that breaks by a seed, in virtual time.

pub mod broker;
pub mod capture;
pub mod check;
pub mod damage;
pub mod hostile;
pub mod kafka;
pub mod listen;
#[cfg(feature = "simulation")]
pub mod sim;
