//! What the broker keeps of a connection: requests not served yet, and the one that waits.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;
use milena_protocol::RequestFrame;
use milena_protocol::messages::{FetchRequest, ProduceResponse, RequestKind};

use super::nodes::Held;

/// Where and how an answer goes.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) api_key: i16,
    pub(super) version: i16,
    pub(super) correlation_id: i32,
    /// The node that was asked.
    pub(super) node: i32,
    /// A fault holds the answer back until then.
    pub(super) not_before: Option<Instant>,
    /// A fault closes the connection instead of answering.
    pub(super) drop: bool,
}

impl Reply {
    pub(super) fn to(frame: &RequestFrame, node: i32) -> Self {
        Self {
            api_key: frame.api_key,
            version: frame.version,
            correlation_id: frame.correlation_id,
            node,
            not_before: None,
            drop: false,
        }
    }
}

/// Why a connection's next request is not served yet.
#[derive(Debug)]
pub(super) enum Wait {
    /// A long poll.
    Fetch { reply: Reply, request: FetchRequest, deadline: Instant },
    /// A request that waits for the markers of the transaction before.
    Retry { reply: Reply, request: Box<RequestKind>, deadline: Instant },
    /// An answer to Produce that waits for the followers.
    Replicas { reply: Reply, response: Box<ProduceResponse>, held: Vec<Held> },
    /// An answer that a fault holds back.
    Answer { at: Instant, frame: Bytes },
    /// A request that a fault swallowed.
    Forever,
}

/// What to do about a wait now.
pub(super) enum Ready {
    Not(Wait),
    Answer(Bytes),
    Fetch { reply: Reply, request: FetchRequest, deadline: Instant },
    Retry { reply: Reply, request: Box<RequestKind>, deadline: Instant },
    Replicas { reply: Reply, response: Box<ProduceResponse>, held: Vec<Held> },
}

impl Wait {
    pub(super) fn poll(self, now: Instant) -> Ready {
        match self {
            Self::Fetch { reply, request, deadline } => Ready::Fetch { reply, request, deadline },
            Self::Retry { reply, request, deadline } => Ready::Retry { reply, request, deadline },
            Self::Replicas { reply, response, held } => Ready::Replicas { reply, response, held },
            Self::Answer { at, frame } if at <= now => Ready::Answer(frame),
            other => Ready::Not(other),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Connection {
    pub(super) queue: VecDeque<RequestFrame>,
    pub(super) wait: Option<Wait>,
}

impl Connection {
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.wait.as_ref()? {
            Wait::Fetch { deadline, .. } | Wait::Retry { deadline, .. } => Some(*deadline),
            Wait::Answer { at, .. } => Some(*at),
            // The followers have a time of their own.
            Wait::Forever | Wait::Replicas { .. } => None,
        }
    }
}
