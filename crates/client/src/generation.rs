//! What is remembered of the broker at each address: whether it answers ApiVersions, and what it is taken to speak if not.
//!
//! Finding out that a broker is older than 0.10 takes time (0.9 leaves the question unanswered), so it is done once an
//! address: the first connection asks, the others wait for what it finds. What was assumed is forgotten after
//! [`ASSUMED_FOR`], and earlier when the broker does not behave that way, since it may have been upgraded.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use milena_protocol::versions::BrokerVersions;
use tokio::time::Instant;

use crate::pool::Endpoint;

/// How long a broker is taken for an old one before it is asked again on a new connection.
pub(crate) const ASSUMED_FOR: Duration = Duration::from_secs(20 * 60);

/// A call that needs more than what was assumed doubts an assumption of at least this age.
const DOUBTED_AFTER: Duration = Duration::from_secs(30);

/// The memory of a client. The lock is held for look-ups only.
#[derive(Debug, Default)]
pub(crate) struct Generations {
    by_address: Mutex<HashMap<Endpoint, Arc<Generation>>>,
}

/// What is known of one address.
#[derive(Debug, Default)]
pub(crate) struct Generation {
    known: Mutex<Known>,
    /// Held by the connection that finds out.
    pub(crate) turn: tokio::sync::Mutex<()>,
}

/// See [`Generation`].
#[derive(Clone, Debug, Default)]
pub(crate) enum Known {
    /// Nothing yet.
    #[default]
    Nothing,
    /// It answered ApiVersions, so it always will.
    Answers,
    /// It does not know ApiVersions, and answers what brokers of that age answer.
    Assumed { versions: BrokerVersions, since: Instant },
}

impl Generations {
    /// What is known of an address.
    pub(crate) fn of(&self, endpoint: &Endpoint) -> Arc<Generation> {
        let mut all = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(endpoint.clone()).or_default())
    }
}

impl Generation {
    /// What is known now; an assumption that is too old is not.
    pub(crate) fn known(&self) -> Known {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(&*known, Known::Assumed { since, .. } if since.elapsed() >= ASSUMED_FOR) {
            *known = Known::Nothing;
        }
        known.clone()
    }

    /// The broker answered ApiVersions.
    pub(crate) fn on_answer(&self) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Known::Answers;
    }

    /// The broker was found to be an old one.
    pub(crate) fn on_assumed(&self, versions: BrokerVersions) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) =
            Known::Assumed { versions, since: Instant::now() };
    }

    /// The broker does not behave as was assumed.
    pub(crate) fn on_contradiction(&self) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(&*known, Known::Assumed { .. }) {
            *known = Known::Nothing;
        }
    }

    /// More is wanted than what was assumed. Whether the assumption was given up for it, being old enough.
    pub(crate) fn doubt(&self) -> bool {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let old = matches!(&*known, Known::Assumed { since, .. } if since.elapsed() >= DOUBTED_AFTER);
        if old {
            *known = Known::Nothing;
        }
        old
    }
}

/// The release of a broker, as far as its versions tell old ones apart.
pub(crate) fn release_of(versions: &BrokerVersions) -> &'static str {
    let [produce, join_group, api_versions] = [0, 11, 18].map(|api_key| versions.range(api_key));
    match produce.map_or(0, |range| range.max) {
        _ if api_versions.is_none() && join_group.is_none() => "0.8",
        _ if api_versions.is_none() => "0.9",
        0..=2 => "0.10",
        3 => "0.11",
        4..=6 => "1.0 to 2.0",
        _ => "2.1 or later without transactions (as 2.8 in KRaft mode)",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_assumption_ages_and_an_answer_does_not() {
        let generation = Generation::default();
        generation.on_assumed(BrokerVersions::assumed_without_groups());
        assert!(!generation.doubt(), "a fresh assumption is not given up for one call");
        tokio::time::advance(DOUBTED_AFTER).await;
        assert!(matches!(generation.known(), Known::Assumed { .. }));
        assert!(generation.doubt() && matches!(generation.known(), Known::Nothing));
        generation.on_assumed(BrokerVersions::assumed_without_groups());
        tokio::time::advance(ASSUMED_FOR).await;
        assert!(matches!(generation.known(), Known::Nothing));
        generation.on_answer();
        generation.on_contradiction();
        tokio::time::advance(ASSUMED_FOR * 2).await;
        assert!(matches!(generation.known(), Known::Answers));
        assert!(!generation.doubt());
    }
}
