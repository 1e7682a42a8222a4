//! The reader's work on the network besides reading: each piece is a future that ends in one [`Arrived`].

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::BoxFuture;
use milena::{Client, CommittedOffset, Isolation, Offset, OffsetSpec, TopicPartition};

use crate::progress::{CommitRequest, Position};
use crate::{Error, ErrorKind, Result};

/// A piece of work in progress.
pub(super) type Work = BoxFuture<'static, Arrived>;

/// What came of a piece of work.
pub(super) enum Arrived {
    /// What the log of a partition holds: its first offset and its end.
    Range {
        /// The split.
        slot: u32,
        /// Why it was asked for.
        found: Found,
        /// The answer.
        answer: Result<(Offset, Offset)>,
    },
    /// A commit was answered.
    Commit {
        /// The answer.
        answer: std::result::Result<(), milena::Error>,
        /// Partitions whose committed offset was not the one that was committed last.
        foreign: Vec<TopicPartition>,
    },
    /// Refused records were written to the dead-letter topic, so many, or could not be.
    DeadLetters {
        /// The split they are of.
        slot: u32,
        /// The answer.
        answer: Result<u64>,
    },
}

/// Why the range of a log is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The position is not in it.
    OutOfRange,
    /// From this offset on it holds other records than were read; from somewhere on, if it is not known.
    Diverged(Option<Offset>),
    /// It is the log of another topic under the same name.
    NewTopic,
}

/// Asks what the log of a partition holds, with open transactions.
pub(super) fn range(client: &Client, slot: u32, at: TopicPartition, found: Found) -> Work {
    let client = client.clone();
    Box::pin(async move {
        let mut ends = [Offset(0), Offset(0)];
        for (end, spec) in ends.iter_mut().zip([OffsetSpec::Earliest, OffsetSpec::Latest]) {
            let listed = client.list_offsets(&[(at.clone(), spec)], Isolation::ReadUncommitted).await;
            let listed =
                listed.and_then(|listed| listed.into_iter().next().map(|(_, listed)| listed).transpose());
            match listed.map(|listed| listed.and_then(|listed| listed.offset)) {
                Ok(Some(offset)) => *end = offset,
                Ok(None) => {
                    let error =
                        Error::new(ErrorKind::Client, "the broker gave no offset").with_topic_partition(at);
                    return Arrived::Range { slot, found, answer: Err(error) };
                }
                Err(error) => return Arrived::Range { slot, found, answer: Err(error.into()) },
            }
        }
        let [first, end] = ends;
        Arrived::Range { slot, found, answer: Ok((first, end)) }
    })
}

/// The same after a pause: it could not be asked.
pub(super) fn range_later(client: &Client, slot: u32, at: TopicPartition, found: Found) -> Work {
    let asked = range(client, slot, at, found);
    Box::pin(async move {
        tokio::time::sleep(ASK_AGAIN).await;
        asked.await
    })
}

/// How long to wait before a range is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// Commits positions to a group; with `expected`, after a look at what it has.
pub(super) fn commit(
    client: &Client,
    group_id: &str,
    request: &CommitRequest,
    expected: Option<BTreeMap<TopicPartition, Position>>,
) -> Work {
    let group = client.group(group_id);
    let offsets: BTreeMap<_, _> = request
        .positions
        .iter()
        .map(|(at, position)| {
            let committed = CommittedOffset {
                offset: position.offset,
                leader_epoch: position.leader_epoch,
                metadata: None,
            };
            (at.clone(), committed)
        })
        .collect();
    Box::pin(async move {
        let mut foreign = Vec::new();
        if let Some(expected) = expected {
            let partitions: Vec<TopicPartition> = expected.keys().cloned().collect();
            // The look is a courtesy: a group that can't be read may still be written.
            for (at, there) in group.fetch(Some(&partitions), false).await.unwrap_or_default() {
                let there = there.ok().flatten().map(|there| there.offset);
                if there.is_some() && there != expected.get(&at).map(|position| position.offset) {
                    foreign.push(at);
                }
            }
        }
        let offsets: Vec<_> = offsets.into_iter().collect();
        Arrived::Commit { answer: group.commit(&offsets).await, foreign }
    })
}
