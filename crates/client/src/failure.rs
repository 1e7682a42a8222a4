//! Why connections fail.

use std::sync::Arc;

/// Why a connection ended, or never began.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    pub(crate) text: Arc<str>,
    /// Whether the request it is told for had been written in whole, so that the broker may have acted on it.
    pub(crate) sent: bool,
    /// What the user can do, where that is known better than the kind tells.
    pub(crate) remedy: Option<Arc<str>>,
}

/// The kinds of [`Failure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// The socket: could not connect, was closed, was reset.
    Io,
    /// The peer sent what cannot be right.
    Peer,
    /// Who we are was refused, or who the peer is could not be verified. Trying again is useless.
    Auth,
    /// The peer was silent for too long.
    Timeout,
    /// We closed the connection though the client goes on: it was not used, or its authentication was over. Another one can be made.
    Retired,
    /// The client is closing, or its runtime is gone.
    Closed,
}

impl Failure {
    /// A failure of a request that was not sent.
    pub(crate) fn new(kind: FailureKind, text: impl Into<Arc<str>>) -> Self {
        Self { kind, text: text.into(), sent: false, remedy: None }
    }

    /// The same with what the user can do.
    pub(crate) fn with_remedy(self, remedy: impl Into<Arc<str>>) -> Self {
        Self { remedy: Some(remedy.into()), ..self }
    }

    /// Whether only this connection is over, or nothing can be sent at all: no broker had a part in it.
    pub(crate) fn is_of_the_connection(&self) -> bool {
        matches!(self.kind, FailureKind::Retired | FailureKind::Closed)
    }

    /// The same for one request: whether that had been sent.
    pub(crate) fn for_request(&self, sent: bool) -> Self {
        Self { sent, ..self.clone() }
    }
}
