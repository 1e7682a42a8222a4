//! One job per transactional id prefix in this process. On the broker a second one is noticed by being fenced; here it is
//! refused before it does harm. Every task that may write under the prefix holds the claim, so that a run that was dropped
//! has it until its last task is gone.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::{Error, ErrorKind, Result};

type Key = (String, String);

static IN_USE: Mutex<BTreeSet<Key>> = Mutex::new(BTreeSet::new());

/// A prefix in use. Dropping it frees the prefix.
#[derive(Debug)]
pub(super) struct PrefixClaim(Key);

/// How long a prefix that is in use may take to become free: tasks of a dropped run end at their next await.
const FREE_WITHIN: Duration = Duration::from_secs(3);

impl PrefixClaim {
    /// Claims a prefix on a cluster, for as long as the last clone lives.
    pub(super) async fn wait(cluster: &str, prefix: &str) -> Result<Arc<Self>> {
        let give_up = Instant::now() + FREE_WITHIN;
        loop {
            match Self::take(cluster, prefix) {
                Err(_) if Instant::now() < give_up => tokio::time::sleep(Duration::from_millis(20)).await,
                claimed => return claimed.map(Arc::new),
            }
        }
    }

    fn take(cluster: &str, prefix: &str) -> Result<Self> {
        let key = (cluster.to_owned(), prefix.to_owned());
        let mut in_use = IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
        if in_use.insert(key.clone()) {
            return Ok(Self(key));
        }
        Err(Error::new(
            ErrorKind::Misuse,
            format!(
                "the transactional id prefix {prefix} is in use by another job of this process; give each job its own prefix"
            ),
        ))
    }
}

impl Drop for PrefixClaim {
    fn drop(&mut self) {
        IN_USE.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_one_jobs_until_it_ends() {
        let first = PrefixClaim::take("registry-test", "p").unwrap();
        assert_eq!(PrefixClaim::take("registry-test", "p").unwrap_err().kind(), ErrorKind::Misuse);
        PrefixClaim::take("another cluster", "p").unwrap();
        PrefixClaim::take("registry-test", "p-1").unwrap();
        drop(first);
        PrefixClaim::take("registry-test", "p").unwrap();
    }
}
