//! What goes wrong when a real broker is looked for or driven.

use std::fmt;

/// Why a real broker is not there or didn't do what a test asked.
#[derive(Debug, Clone)]
pub struct KafkaError {
    kind: KafkaErrorKind,
    message: String,
}

/// What to do about a [`KafkaError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum KafkaErrorKind {
    /// No route to a real broker is open on this machine: a test may skip, CI must fail.
    Absent,
    /// A broker was started and did not come up: a failure everywhere.
    Start,
    /// The broker belongs to somebody else and can't be killed or restarted from here.
    NotOurs,
    /// An environment variable or an option makes no sense.
    Misuse,
    /// The operating system or the container engine refused an operation.
    System,
}

impl KafkaError {
    pub(crate) fn new(kind: KafkaErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    pub(crate) fn not_ours(operation: &str) -> Self {
        Self::new(
            KafkaErrorKind::NotOurs,
            format!(
                "{operation}: the broker at MILENA_BOOTSTRAP is not run by this test; unset the variable"
            ),
        )
    }

    pub(crate) fn system(operation: &str, error: impl fmt::Display) -> Self {
        Self::new(KafkaErrorKind::System, format!("{operation}: {error}"))
    }

    /// What to do about it.
    pub fn kind(&self) -> KafkaErrorKind {
        self.kind
    }
}

impl fmt::Display for KafkaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for KafkaError {}
