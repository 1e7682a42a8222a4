//! The consumer: partitions that the application assigns, fetched ahead of it by one loop for each broker.
//!
//! ```text
//! brokers --answers--> fetch loops --(checked, in order)--> queue --poll, recv--> application
//!              ^            |                                              |
//!              |            v                                              v
//!              +-- cursors (milena_core::fetch): what to ask next    assign, seek, pause
//! ```
//!
//! Answers are read into buffers of the consumer's own, which are used again when the last record that borrows from one is dropped. What
//! they take is bounded by [`ConsumerConfig::buffer_bytes`], whatever the number of brokers and partitions. While there is room the next
//! request to a broker goes out before the records of the last answer are looked at.
//!
//! Who is assigned what is the application's to say: a group's membership, where there is one, calls [`Consumer::assign`] and
//! [`Consumer::unassign`] like anybody else.

mod config;
mod decode;
mod driver;
mod fetch_loop;
mod memory;
mod metrics;
mod part;
mod read;
mod request;
mod shared;

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use milena_core::fetch::{CursorView, Cursors, Position, Settings, Start};
use milena_protocol::types::{Offset, TopicPartition};
use tokio::task::AbortHandle;
use tokio::time::timeout;

pub use config::{ConsumerConfig, OffsetReset, OnDataLoss};
#[cfg(test)]
pub(crate) use memory::Memory;
pub(crate) use memory::Room;
pub use metrics::ConsumerMetrics;
pub use part::{PartitionIter, PartitionRecords};

use crate::client::Client;
use crate::error::{Error, Result};
use shared::{Shared, State, now};

/// Reads the partitions it is assigned.
///
/// Dropping it ends its tasks; nothing blocks.
pub struct Consumer {
    shared: Arc<Shared>,
    driver: AbortHandle,
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("config", &self.shared.config)
            .field("partitions", &self.shared.state().cursors.len())
            .finish_non_exhaustive()
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// How long a partition that brokers do not know is looked for.
const UNKNOWN_PARTITION_WINDOW: Duration = Duration::from_secs(5);

impl Consumer {
    /// A consumer without partitions. Its tasks run on the runtime the client was made on.
    ///
    /// # Errors
    /// [`ErrorKind::Misuse`](crate::ErrorKind::Misuse) for a wrong configuration.
    pub fn new(client: &Client, config: ConsumerConfig) -> Result<Self> {
        config.validate()?;
        let settings = Settings {
            reset: config.reset_start(),
            loss: config.loss(),
            backoff: client.config().backoff,
            unknown_window: UNKNOWN_PARTITION_WINDOW,
            replica_window: client.config().metadata_max_age,
        };
        let cursors = Cursors::new(settings, client.seed());
        let shared = Arc::new(Shared::new(client.clone(), config, cursors));
        let driver = client.pool().runtime().spawn(driver::run(Arc::clone(&shared))).abort_handle();
        Ok(Self { shared, driver })
    }

    /// The client.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.shared.client
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &ConsumerConfig {
        &self.shared.config
    }

    /// Adds partitions, each from its start on. Partitions that are assigned already stay as they are.
    pub fn assign(&self, partitions: impl IntoIterator<Item = (TopicPartition, Start)>) {
        self.change(|state| {
            for (tp, start) in partitions {
                state.cursors.assign(now(), &tp, start);
            }
            state.cursors.handle_cluster(now(), &self.shared.client.cluster());
        });
    }

    /// Takes partitions away; what waits of them for [`Consumer::poll`] is dropped at once.
    pub fn unassign<'a>(&self, partitions: impl IntoIterator<Item = &'a TopicPartition>) {
        self.change(|state| {
            for tp in partitions {
                state.cursors.remove(tp);
            }
        });
    }

    /// Reads on from another place; what waits of the partition is dropped at once. Also takes a partition up again that failed.
    ///
    /// # Errors
    /// [`ErrorKind::Misuse`](crate::ErrorKind::Misuse) if the partition is not assigned.
    pub fn seek(&self, tp: &TopicPartition, to: Start) -> Result<()> {
        self.change_one(tp, |state| state.cursors.seek(now(), tp, to).is_some())
    }

    /// Stops reading a partition until [`Consumer::resume`]. What waits of it is dropped at once, so that it takes no room, and read again
    /// then.
    ///
    /// # Errors
    /// [`ErrorKind::Misuse`](crate::ErrorKind::Misuse) if the partition is not assigned.
    pub fn pause(&self, tp: &TopicPartition) -> Result<()> {
        self.change_one(tp, |state| state.cursors.pause(now(), tp).is_some())
    }

    /// Reads a paused partition on, from the application's position.
    ///
    /// # Errors
    /// [`ErrorKind::Misuse`](crate::ErrorKind::Misuse) if the partition is not assigned.
    pub fn resume(&self, tp: &TopicPartition) -> Result<()> {
        self.change_one(tp, |state| state.cursors.resume(now(), tp).is_some())
    }

    /// What each assigned partition is doing, and where it stands.
    #[must_use]
    pub fn partitions(&self) -> Vec<CursorView> {
        self.shared.state().cursors.views(now())
    }

    /// What one partition is doing, and where it stands; `None` if it is not assigned.
    #[must_use]
    pub fn partition(&self, tp: &TopicPartition) -> Option<CursorView> {
        self.shared.state().cursors.view(now(), tp)
    }

    /// Where the application stands in a partition: the offset after the records it took. `None` if the partition is not assigned, or
    /// its start is not known yet.
    #[must_use]
    pub fn position(&self, tp: &TopicPartition) -> Option<Position> {
        self.partition(tp)?.position
    }

    /// How many offsets lie between the application's position and the end of the partition, as the last answer said: the last stable
    /// offset under read_committed, else the high watermark. `None` before the first answer.
    #[must_use]
    pub fn lag(&self, tp: &TopicPartition) -> Option<u64> {
        let view = self.partition(tp)?;
        let end = match self.shared.config.isolation {
            crate::Isolation::ReadCommitted => view.last_stable_offset.or(view.high_watermark),
            crate::Isolation::ReadUncommitted => view.high_watermark,
        };
        let position: Offset = view.position?.offset;
        Some(u64::try_from(end? - position).unwrap_or(0))
    }

    /// The counters.
    #[must_use]
    pub fn metrics(&self) -> ConsumerMetrics {
        self.shared.counts.snapshot(self.shared.memory.held(), self.shared.memory.peak())
    }

    /// The next records: those of one partition that one answer brought. Empty when none come within `wait`. They count as taken: the
    /// position is behind them.
    ///
    /// # Errors
    /// A partition that is not read any more, or brokers that cannot be asked at all, told once each; the others are read on.
    ///
    /// # Cancellation
    /// Nothing is lost.
    pub async fn poll(&mut self, wait: Duration) -> Result<Option<PartitionRecords>> {
        match timeout(wait, poll_fn(|context| self.shared.poll_part(context))).await {
            Ok(part) => part.map(Some),
            Err(_) => Ok(None),
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.shared.state();
        let changed = change(&mut state);
        let dropped = state.purge();
        drop(state);
        metrics::add(&self.shared.counts.stale_parts, dropped);
        self.shared.changed.notify_waiters();
        changed
    }

    fn change_one(&self, tp: &TopicPartition, change: impl FnOnce(&mut State) -> bool) -> Result<()> {
        match self.change(change) {
            true => Ok(()),
            false => Err(Error::misuse("the partition is not assigned").with_topic_partition(tp)),
        }
    }
}
