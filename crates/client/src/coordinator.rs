//! Which broker coordinates a group or a transactional id, remembered until it proves wrong.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use milena_protocol::StrBytes;
use milena_protocol::error_code::ErrorCode;
use milena_protocol::messages::{FindCoordinatorRequest, FindCoordinatorResponse};
use tokio::time::Instant;

use crate::call::{CallOptions, CoordinatorKind, Target};
use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::pool::Endpoint;

/// A coordinator's address.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) endpoint: Endpoint,
    pub(crate) name: Arc<str>,
}

/// The coordinators that were looked up. The lock is held for look-ups only.
#[derive(Debug, Default)]
pub(crate) struct Coordinators {
    nodes: Mutex<HashMap<(CoordinatorKind, String), Node>>,
}

/// More remembered coordinators than this are forgotten all at once: looking one up again is cheap.
const MAX_REMEMBERED: usize = 10_000;

impl Coordinators {
    fn find(&self, kind: CoordinatorKind, key: &str) -> Option<Node> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).get(&(kind, key.to_owned())).cloned()
    }

    fn remember(&self, kind: CoordinatorKind, key: &str, node: Node) {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        if nodes.len() >= MAX_REMEMBERED {
            nodes.clear();
        }
        nodes.insert((kind, key.to_owned()), node);
    }

    /// Forgets a coordinator that is not one any more.
    pub(crate) fn forget(&self, kind: CoordinatorKind, key: &str) {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).remove(&(kind, key.to_owned()));
    }
}

impl Client {
    /// The coordinator, looked up if it is not known; until `deadline` while brokers say "not now".
    pub(crate) async fn coordinator(
        &self,
        kind: CoordinatorKind,
        key: &str,
        deadline: Instant,
    ) -> Result<Node> {
        if let Some(node) = self.coordinators().find(kind, key) {
            return Ok(node);
        }
        let mut attempts = self.attempts_for(deadline.saturating_duration_since(Instant::now()));
        // Version 0 knows groups only.
        let min_version = match kind {
            CoordinatorKind::Group => None,
            CoordinatorKind::Transaction => Some(1),
        };
        loop {
            let options = CallOptions { min_version, ..CallOptions::until(deadline) };
            let answer = self
                .call_with::<FindCoordinatorRequest, _>(Target::Any, options, |version| {
                    build_request(kind, key, version)
                })
                .await;
            let found = answer.and_then(|answer| {
                read_answer(&answer.response, kind, key, answer.version)
                    .map_err(|error| error.with_broker(answer.broker))
            });
            match found {
                Ok(node) => {
                    self.coordinators().remember(kind, key, node.clone());
                    return Ok(node);
                }
                Err(error)
                    if error.kind() == ErrorKind::Unsupported && kind == CoordinatorKind::Transaction =>
                {
                    return Err(error.with_remedy(NO_TRANSACTIONS));
                }
                Err(error) => attempts.pause(error.with_api("FindCoordinator")).await?,
            }
        }
    }

    /// After an error of a call to a coordinator: forgets it when the error says that it may have moved.
    pub(crate) fn doubt_coordinator(&self, kind: CoordinatorKind, key: &str, error: &Error) {
        let doubtful = match error.code() {
            Some(code) => code.refreshes_coordinator(),
            None => error.is_retriable(),
        };
        if doubtful {
            self.coordinators().forget(kind, key);
        }
    }
}

/// What to do about a broker without transactions.
pub(crate) const NO_TRANSACTIONS: &str =
    "transactions need Kafka 0.11 or later (and not the KRaft mode of 2.8)";

fn build_request(kind: CoordinatorKind, key: &str, version: i16) -> FindCoordinatorRequest {
    let mut request = FindCoordinatorRequest::default();
    let key = StrBytes::from_string(key.to_owned());
    // Version 4 asks for several keys at once (KIP-699).
    if version >= 4 {
        request.coordinator_keys = vec![key];
    } else {
        request.key = key;
    }
    // Version 0 knows groups only, and has no field to say so.
    if version >= 1 {
        request.key_type = match kind {
            CoordinatorKind::Group => 0,
            CoordinatorKind::Transaction => 1,
        };
    }
    request
}

fn read_answer(
    response: &FindCoordinatorResponse,
    kind: CoordinatorKind,
    key: &str,
    version: i16,
) -> Result<Node> {
    let what = match kind {
        CoordinatorKind::Group => "group",
        CoordinatorKind::Transaction => "transactional id",
    };
    let (code, text, id, host, port) = if version >= 4 {
        let [answer] = response.coordinators.as_slice() else {
            return Err(Error::peer("FindCoordinator for one key was answered for another number of keys"));
        };
        if answer.key.as_str() != key {
            return Err(Error::peer(format!(
                "FindCoordinator for {key:?} was answered for {:?}",
                answer.key
            )));
        }
        (answer.error_code, &answer.error_message, answer.node_id.0, &answer.host, answer.port)
    } else {
        (response.error_code, &response.error_message, response.node_id.0, &response.host, response.port)
    };
    let code = ErrorCode(code);
    if !code.is_ok() {
        let text = text.as_ref().map_or("", |text| text.as_str());
        return Err(Error::broker_code(code, Some(&format!("no coordinator for {what} {key:?}: {text}"))));
    }
    let port = u16::try_from(port).map_err(|_| Error::peer(format!("the coordinator's port is {port}")))?;
    let endpoint = Endpoint { host: Arc::from(host.as_str()), port };
    let name = Arc::from(format!("broker {id} at {endpoint}"));
    Ok(Node { endpoint, name })
}

#[cfg(test)]
mod tests {
    use super::*;
    use milena_protocol::messages::find_coordinator_response::Coordinator;

    #[test]
    fn an_answer_for_another_key_is_refused() {
        let other = Coordinator::default().with_key(StrBytes::from_static_str("b")).with_port(9092);
        let response = FindCoordinatorResponse::default().with_coordinators(vec![other]);
        let error = read_answer(&response, CoordinatorKind::Group, "a", 4).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Peer);
        assert!(read_answer(&response, CoordinatorKind::Group, "b", 4).is_ok());
    }
}
