//! Fetch responses read in place: no struct per partition, no copy of records.
//!
//! ```text
//! frame -> FetchView::read (checks all of it) -> topics -> partitions -> records: a slice of the frame
//! ```
//!
//! [`FetchView::read`] goes over the whole frame once and allocates nothing; an answer that is malformed anywhere is refused
//! before anything of it is seen. What is read afterwards is read from the same bytes again, which
//! cannot fail. It refuses what the [guard](crate::guard) refuses, for the same reasons,
//! except that there is no limit of memory to keep: nothing is decoded into any.
//!
//! Versions 0 to 18. What a version lacks is `None`, empty or zero.
//!
//! # References
//! Kafka protocol guide, "Fetch API"; KIP-98 (aborted transactions), KIP-227 (sessions), KIP-392 (preferred replica),
//! KIP-516 (topic ids), KIP-595 (diverging epochs), KIP-951 (current leaders and their addresses).

mod reader;

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

use crate::error::{ProtocolError, Result};
use crate::error_code::ErrorCode;
use crate::types::{BrokerId, LeaderEpoch, Offset, PartitionId, ProducerId};
use crate::versions::VersionRange;
use reader::{Checked, Reader};

/// The versions that [`FetchView`] reads.
pub const VERSIONS: VersionRange = VersionRange { min: 0, max: 18 };

/// The first version that names topics by id (KIP-516).
pub const TOPIC_IDS_FROM: i16 = 13;

/// A Fetch response: its frame, checked, and where in it the parts begin. Clones share the frame.
#[derive(Clone)]
pub struct FetchView {
    frame: Bytes,
    version: i16,
    correlation_id: i32,
    throttle_ms: i32,
    error_code: i16,
    session_id: i32,
    topics: Place,
    endpoints: Place,
}

/// The elements of an array: how many, and at which byte of the frame the first begins.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Place {
    at: usize,
    count: u32,
}

impl FetchView {
    /// Checks a whole response frame (the bytes after its length, header included). `version` is the one the request was
    /// sent in.
    ///
    /// # Errors
    /// Unsupported for a version that is not in [`VERSIONS`], else Guard with the byte and the field, as from
    /// [`guard::check_response`](crate::guard::check_response).
    pub fn read(frame: Bytes, version: i16) -> Result<Self> {
        if !VERSIONS.contains(version) {
            return Err(ProtocolError::unsupported(format!("FetchResponse has no version {version}")));
        }
        let mut reader = Reader::new(&frame, &frame, version);
        match reader.response() {
            Ok(read) => Ok(Self {
                version,
                correlation_id: read.correlation_id,
                throttle_ms: read.throttle_ms,
                error_code: read.error_code,
                session_id: read.session_id,
                topics: read.topics,
                endpoints: read.endpoints,
                frame,
            }),
            Err(stop) => Err(reader.refused(stop)),
        }
    }

    /// The version it was read in.
    #[must_use]
    pub const fn version(&self) -> i16 {
        self.version
    }

    /// The number of the request it answers.
    #[must_use]
    pub const fn correlation_id(&self) -> i32 {
        self.correlation_id
    }

    /// How long the broker wants to be left alone because of a quota (KIP-219), or held the answer back before
    /// Kafka 2.0; zero if not at all, and in version 0.
    #[must_use]
    pub fn throttle(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.throttle_ms).unwrap_or(0))
    }

    /// What is wrong with the request as a whole; [`ErrorCode::NONE`] before version 7.
    #[must_use]
    pub const fn error_code(&self) -> ErrorCode {
        ErrorCode(self.error_code)
    }

    /// The fetch session; 0 if there is none, and before version 7.
    #[must_use]
    pub const fn session_id(&self) -> i32 {
        self.session_id
    }

    /// The topics, in the order in which they came.
    #[must_use]
    pub fn topics(&self) -> Topics<'_> {
        Topics { reader: self.reader(self.topics), topics: self.topics.count, partitions: 0, open: false }
    }

    /// Where the brokers are that partitions name as their current leaders; from version 16 on.
    #[must_use]
    pub fn node_endpoints(&self) -> NodeEndpoints<'_> {
        NodeEndpoints { reader: self.reader(self.endpoints), left: self.endpoints.count }
    }

    fn reader(&self, place: Place) -> Reader<'_> {
        Reader::new(&self.frame, self.frame.get(place.at..).unwrap_or_default(), self.version)
    }
}

impl fmt::Debug for FetchView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FetchView")
            .field("version", &self.version)
            .field("correlation_id", &self.correlation_id)
            .field("throttle", &self.throttle())
            .field("error_code", &self.error_code())
            .field("session_id", &self.session_id)
            .field("topics", &self.topics.count)
            .field("bytes", &self.frame.len())
            .finish_non_exhaustive()
    }
}

/// What a topic of a response is named by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TopicKey<'a> {
    /// Its name; before version 13.
    Name(&'a str),
    /// Its id; from version 13 on.
    Id(Uuid),
}

/// The topics of a response; made by [`FetchView::topics`]. Not an `Iterator`: a topic and its partitions are read by the
/// same cursor, so that each byte is passed once.
#[derive(Clone, Debug)]
pub struct Topics<'a> {
    reader: Reader<'a>,
    /// Topics left, after the one that is open.
    topics: u32,
    /// Partitions left of the topic that is open.
    partitions: u32,
    /// Whether the end of a topic was not read yet.
    open: bool,
}

impl<'a> Topics<'a> {
    /// The next topic; `None` after the last. Partitions of the one before that were not read are passed over.
    pub fn next_topic(&mut self) -> Option<Topic<'a, '_>> {
        match self.advance() {
            Ok(Some(key)) => Some(Topic { key, topics: self }),
            Ok(None) => None,
            // Not after the check.
            Err(_) => {
                (self.topics, self.partitions, self.open) = (0, 0, false);
                None
            }
        }
    }

    fn advance(&mut self) -> Checked<Option<TopicKey<'a>>> {
        for _ in 0..std::mem::take(&mut self.partitions) {
            self.reader.partition()?;
        }
        if std::mem::take(&mut self.open) {
            self.reader.no_tags("responses")?;
        }
        let Some(left) = self.topics.checked_sub(1) else {
            return Ok(None);
        };
        let (key, partitions) = self.reader.topic()?;
        (self.topics, self.partitions, self.open) = (left, partitions, true);
        Ok(Some(key))
    }
}

/// A topic of a response, and an iterator over its partitions.
#[derive(Debug)]
pub struct Topic<'a, 't> {
    key: TopicKey<'a>,
    topics: &'t mut Topics<'a>,
}

impl<'a> Topic<'a, '_> {
    /// Its name or its id.
    #[must_use]
    pub const fn key(&self) -> TopicKey<'a> {
        self.key
    }
}

impl<'a> Iterator for Topic<'a, '_> {
    type Item = Partition<'a>;

    #[inline]
    fn next(&mut self) -> Option<Partition<'a>> {
        self.topics.partitions = self.topics.partitions.checked_sub(1)?;
        self.topics.reader.partition().ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        size(self.topics.partitions)
    }
}

/// What a response says about one partition. It is read from the frame when it is asked for.
#[derive(Clone, Debug)]
pub struct Partition<'a> {
    frame: &'a Bytes,
    version: i16,
    preferred: i32,
    /// Its number, error code and offsets.
    fixed: &'a [u8],
    aborted: Part<'a>,
    records: &'a [u8],
    tags: Part<'a>,
}

/// The elements of an array: how many, and the bytes that begin with the first.
#[derive(Clone, Copy, Default, Debug)]
struct Part<'a> {
    count: u32,
    bytes: &'a [u8],
}

/// The tagged fields of a partition.
#[derive(Clone, Copy, Default, Debug)]
struct Tagged {
    diverging_epoch: Option<EpochEnd>,
    current_leader: Option<CurrentLeader>,
    snapshot_id: Option<EpochEnd>,
}

impl<'a> Partition<'a> {
    /// Its number.
    #[must_use]
    pub fn index(&self) -> PartitionId {
        PartitionId(self.fixed.first_chunk().map_or(0, |bytes| i32::from_be_bytes(*bytes)))
    }

    /// Why it could not be read; [`ErrorCode::NONE`] if it was.
    #[must_use]
    pub fn error_code(&self) -> ErrorCode {
        let bytes = self.fixed.get(4..).and_then(<[u8]>::first_chunk);
        ErrorCode(bytes.map_or(0, |bytes| i16::from_be_bytes(*bytes)))
    }

    /// The end of what is replicated; `None` after an error.
    #[must_use]
    pub fn high_watermark(&self) -> Option<Offset> {
        self.offset(6)
    }

    /// Below it every transaction has ended; `None` if the broker does not say, and before version 4.
    #[must_use]
    pub fn last_stable_offset(&self) -> Option<Offset> {
        self.offset(14)
    }

    /// The first offset of the log; `None` if the broker does not say, and before version 5.
    #[must_use]
    pub fn log_start_offset(&self) -> Option<Offset> {
        self.offset(22)
    }

    fn offset(&self, at: usize) -> Option<Offset> {
        let offset = i64::from_be_bytes(*self.fixed.get(at..)?.first_chunk()?);
        (offset >= 0).then_some(Offset(offset))
    }

    /// The replica that should be read instead; from version 11 on.
    #[must_use]
    pub fn preferred_read_replica(&self) -> Option<BrokerId> {
        (self.preferred >= 0).then_some(BrokerId(self.preferred))
    }

    /// Where the log took another way than the reader's; from version 12 on.
    #[must_use]
    pub fn diverging_epoch(&self) -> Option<EpochEnd> {
        self.tagged().diverging_epoch
    }

    /// Who leads the partition, if the reader asked somebody else; from version 12 on.
    #[must_use]
    pub fn current_leader(&self) -> Option<CurrentLeader> {
        self.tagged().current_leader
    }

    /// The snapshot to be read instead, in Raft's log; from version 12 on.
    #[must_use]
    pub fn snapshot_id(&self) -> Option<EpochEnd> {
        self.tagged().snapshot_id
    }

    fn tagged(&self) -> Tagged {
        match self.tags.count {
            0 => Tagged::default(),
            count => self.reader(self.tags).known_tags(count).unwrap_or_default(),
        }
    }

    /// The records, as a slice of the frame: record batches or message sets, of which the last may be cut. Empty if there
    /// are none. They keep the whole frame in memory.
    #[must_use]
    pub fn records(&self) -> Bytes {
        self.frame.slice_ref(self.records)
    }

    /// [`records`](Self::records), borrowed.
    #[must_use]
    pub fn record_bytes(&self) -> &'a [u8] {
        self.records
    }

    /// The transactions that were aborted and have records here, as the broker lists them; from version 4 on, and only for
    /// requests that read committed.
    #[must_use]
    pub fn aborted_transactions(&self) -> AbortedTransactions<'a> {
        AbortedTransactions { reader: self.reader(self.aborted), left: self.aborted.count }
    }

    fn reader(&self, part: Part<'a>) -> Reader<'a> {
        Reader::new(self.frame, part.bytes, self.version)
    }
}

/// Where a leader epoch ends, in the log of the broker that answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EpochEnd {
    /// The epoch; -1 if the broker knows none.
    pub epoch: LeaderEpoch,
    /// The offset after its last record; -1 if the broker knows none.
    pub end_offset: Offset,
}

/// Who leads a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CurrentLeader {
    /// The leader; -1 if there is none.
    pub id: BrokerId,
    /// Its epoch; -1 if it is not known.
    pub epoch: LeaderEpoch,
}

/// A transaction that was aborted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AbortedTransaction {
    /// Whose.
    pub producer_id: ProducerId,
    /// Its first offset in the partition.
    pub first_offset: Offset,
}

/// The aborted transactions of a partition; made by [`Partition::aborted_transactions`].
#[derive(Clone, Debug)]
pub struct AbortedTransactions<'a> {
    reader: Reader<'a>,
    left: u32,
}

impl Iterator for AbortedTransactions<'_> {
    type Item = AbortedTransaction;

    fn next(&mut self) -> Option<AbortedTransaction> {
        self.left = self.left.checked_sub(1)?;
        self.reader.aborted_transaction().ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        size(self.left)
    }
}

/// Where a broker is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NodeEndpoint<'a> {
    /// The broker.
    pub id: BrokerId,
    /// The host it is reached at.
    pub host: &'a str,
    /// The port it is reached at, as it came: not checked to be one.
    pub port: i32,
    /// Its rack, if it has one.
    pub rack: Option<&'a str>,
}

/// Addresses of brokers; made by [`FetchView::node_endpoints`].
#[derive(Clone, Debug)]
pub struct NodeEndpoints<'a> {
    reader: Reader<'a>,
    left: u32,
}

impl<'a> Iterator for NodeEndpoints<'a> {
    type Item = NodeEndpoint<'a>;

    fn next(&mut self) -> Option<NodeEndpoint<'a>> {
        self.left = self.left.checked_sub(1)?;
        self.reader.node_endpoint().ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        size(self.left)
    }
}

/// At most so many: a count is kept by the check, but nobody should reserve by it alone.
fn size(left: u32) -> (usize, Option<usize>) {
    (0, usize::try_from(left).ok())
}
