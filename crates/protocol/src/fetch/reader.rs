//! The layout of a Fetch response, step by step.

use bytes::Bytes;
use uuid::Uuid;

use super::{
    AbortedTransaction, CurrentLeader, EpochEnd, NodeEndpoint, Part, Partition, Place, TOPIC_IDS_FROM,
    Tagged, TopicKey,
};
use crate::error::{ErrorKind, ProtocolError};
use crate::guard::cursor::{Cursor, Why};
use crate::types::{BrokerId, LeaderEpoch, Offset, ProducerId};

/// From this version on, lengths are varints and there are tagged fields (KIP-482).
const FLEXIBLE_FROM: i16 = 12;

/// Bytes of a partition before its aborted transactions.
const fn fixed_bytes(version: i16) -> u32 {
    match version {
        ..4 => 14,
        4 => 22,
        _ => 30,
    }
}

/// Why a frame was refused, and in which field ("" if in none).
pub(super) type Stop = (Why, &'static str);
pub(super) type Checked<T> = std::result::Result<T, Stop>;

fn inside(field: &'static str) -> impl Fn(Why) -> Stop {
    move |why| (why, field)
}

/// What a response says before and after its topics.
pub(super) struct Response {
    pub(super) correlation_id: i32,
    pub(super) throttle_ms: i32,
    pub(super) error_code: i16,
    pub(super) session_id: i32,
    pub(super) topics: Place,
    pub(super) endpoints: Place,
}

/// The one place that knows the layout; checking and reading are the same steps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    cursor: Cursor<'a>,
    frame: &'a Bytes,
    version: i16,
}

impl<'a> Reader<'a> {
    /// A reader of these bytes of the frame.
    pub(super) const fn new(frame: &'a Bytes, bytes: &'a [u8], version: i16) -> Self {
        Self { cursor: Cursor::new(bytes), frame, version }
    }

    #[cold]
    pub(super) fn refused(&self, (why, field): Stop) -> ProtocolError {
        let text = format!("FetchResponse v{} refused: {}", self.version, why.text());
        let error = ProtocolError::new(ErrorKind::Guard, text).with_at(self.at());
        if field.is_empty() { error } else { error.with_field(field) }
    }

    const fn flexible(&self) -> bool {
        self.version >= FLEXIBLE_FROM
    }

    /// The byte of the frame that is next.
    fn at(&self) -> usize {
        self.frame.len().saturating_sub(self.cursor.left_of_frame())
    }

    pub(super) fn response(&mut self) -> Checked<Response> {
        let correlation_id = self.i32("correlation_id")?;
        self.no_tags("")?;
        let throttle_ms = if self.version >= 1 { self.i32("throttle_time_ms")? } else { 0 };
        let error_code = if self.version >= 7 { self.i16("error_code")? } else { 0 };
        let session_id = if self.version >= 7 { self.i32("session_id")? } else { 0 };
        let count = self.count("responses", 3)?;
        let topics = Place { at: self.at(), count };
        for _ in 0..count {
            let (_, partitions) = self.topic()?;
            for _ in 0..partitions {
                self.partition()?;
            }
            self.no_tags("responses")?;
        }
        let mut endpoints = Place::default();
        self.tags("", |reader, tag, size| {
            if tag != 0 {
                return Ok(false);
            }
            if reader.version < 16 {
                return Err((Why::Tag, ""));
            }
            let outer = reader.cursor.enter(size).map_err(inside(""))?;
            let count = reader.count("node_endpoints", 11)?;
            endpoints = Place { at: reader.at(), count };
            for _ in 0..count {
                reader.node_endpoint()?;
            }
            reader.cursor.leave(outer).map_err(inside("node_endpoints"))?;
            Ok(true)
        })?;
        if !self.cursor.is_empty() {
            return Err((Why::Trailing, ""));
        }
        Ok(Response { correlation_id, throttle_ms, error_code, session_id, topics, endpoints })
    }

    /// The beginning of a topic, and how many partitions follow.
    pub(super) fn topic(&mut self) -> Checked<(TopicKey<'a>, u32)> {
        let key = if self.version >= TOPIC_IDS_FROM {
            TopicKey::Id(Uuid::from_bytes(self.cursor.take().map_err(inside("topic_id"))?))
        } else {
            TopicKey::Name(self.text("topic")?.ok_or((Why::Null, "topic"))?)
        };
        // The fewest bytes of a partition are those of version 0.
        Ok((key, self.count("partitions", 18)?))
    }

    /// Passes over a partition, and keeps where its parts begin.
    #[inline]
    pub(super) fn partition(&mut self) -> Checked<Partition<'a>> {
        let Ok(fixed) = self.cursor.skip(fixed_bytes(self.version)) else {
            return Err(self.short_partition());
        };
        let aborted = self.aborted_transactions()?;
        let preferred = if self.version >= 11 { self.i32("preferred_read_replica")? } else { -1 };
        let records = self.records()?;
        let tags = if self.flexible() { self.partition_tags()? } else { Part::default() };
        Ok(Partition { frame: self.frame, version: self.version, preferred, fixed, aborted, records, tags })
    }

    /// In which of the fields of fixed width the frame ends.
    #[cold]
    fn short_partition(&mut self) -> Stop {
        let fields = [
            (4, "partition_index", 0),
            (2, "error_code", 0),
            (8, "high_watermark", 0),
            (8, "last_stable_offset", 4),
            (8, "log_start_offset", 5),
        ];
        for (size, field, since) in fields {
            if self.version >= since
                && let Err(why) = self.cursor.skip(size)
            {
                return (why, field);
            }
        }
        (Why::Short, "partitions")
    }

    #[inline]
    fn partition_tags(&mut self) -> Checked<Part<'a>> {
        let count = self.cursor.varint().map_err(inside("partitions"))?;
        let tags = Part { count, bytes: self.cursor.rest() };
        if count > 0 {
            self.known_tags(count)?;
        }
        Ok(tags)
    }

    /// What the tagged fields of a partition say.
    pub(super) fn known_tags(&mut self, count: u32) -> Checked<Tagged> {
        let mut found = Tagged::default();
        self.some_tags("partitions", count, |reader, tag, size| {
            let field = match tag {
                0 => "diverging_epoch",
                1 => "current_leader",
                2 => "snapshot_id",
                _ => return Ok(false),
            };
            let outer = reader.cursor.enter(size).map_err(inside("partitions"))?;
            match tag {
                0 => {
                    let epoch = LeaderEpoch(reader.i32("epoch")?);
                    let end_offset = Offset(reader.i64("end_offset")?);
                    found.diverging_epoch = Some(EpochEnd { epoch, end_offset });
                }
                1 => {
                    let id = BrokerId(reader.i32("leader_id")?);
                    let epoch = LeaderEpoch(reader.i32("leader_epoch")?);
                    found.current_leader = Some(CurrentLeader { id, epoch });
                }
                _ => {
                    let end_offset = Offset(reader.i64("end_offset")?);
                    let epoch = LeaderEpoch(reader.i32("epoch")?);
                    found.snapshot_id = Some(EpochEnd { epoch, end_offset });
                }
            }
            reader.no_tags(field)?;
            reader.cursor.leave(outer).map_err(inside(field))?;
            Ok(true)
        })?;
        Ok(found)
    }

    /// Passes over the aborted transactions, and keeps where they begin.
    #[inline]
    fn aborted_transactions(&mut self) -> Checked<Part<'a>> {
        if self.version < 4 {
            return Ok(Part::default());
        }
        let count = self.nullable_count("aborted_transactions", 16)?.unwrap_or(0);
        let aborted = Part { count, bytes: self.cursor.rest() };
        for _ in 0..count {
            self.aborted_transaction()?;
        }
        Ok(aborted)
    }

    #[inline]
    pub(super) fn aborted_transaction(&mut self) -> Checked<AbortedTransaction> {
        let producer_id = ProducerId(self.i64("producer_id")?);
        let first_offset = Offset(self.i64("first_offset")?);
        self.no_tags("aborted_transactions")?;
        Ok(AbortedTransaction { producer_id, first_offset })
    }

    pub(super) fn node_endpoint(&mut self) -> Checked<NodeEndpoint<'a>> {
        let id = BrokerId(self.i32("node_id")?);
        let host = self.text("host")?.ok_or((Why::Null, "host"))?;
        let port = self.i32("port")?;
        let rack = self.text("rack")?;
        self.no_tags("node_endpoints")?;
        Ok(NodeEndpoint { id, host, port, rack })
    }

    /// Null records are none.
    #[inline]
    fn records(&mut self) -> Checked<&'a [u8]> {
        let length = self.cursor.length(self.flexible(), false).map_err(inside("records"))?;
        self.cursor.skip(length.unwrap_or(0)).map_err(inside("records"))
    }

    #[inline]
    fn text(&mut self, field: &'static str) -> Checked<Option<&'a str>> {
        match self.cursor.length(self.flexible(), true).map_err(inside(field))? {
            Some(length) => self.cursor.text(length).map(Some).map_err(inside(field)),
            None => Ok(None),
        }
    }

    fn count(&mut self, field: &'static str, fewest_bytes: u64) -> Checked<u32> {
        self.nullable_count(field, fewest_bytes)?.ok_or((Why::Null, field))
    }

    /// The count of an array whose elements take at least so many bytes each.
    #[inline]
    fn nullable_count(&mut self, field: &'static str, fewest_bytes: u64) -> Checked<Option<u32>> {
        let count = self.cursor.length(self.flexible(), false).map_err(inside(field))?;
        match count {
            Some(count) if u64::from(count) * fewest_bytes > self.cursor.left() as u64 => {
                Err((Why::Count, field))
            }
            count => Ok(count),
        }
    }

    /// Tagged fields where the schema has none.
    #[inline]
    pub(super) fn no_tags(&mut self, field: &'static str) -> Checked<()> {
        self.tags(field, |_, _, _| Ok(false))
    }

    /// The tagged fields at the end of a struct. `known` reads one, or says that it is not known.
    #[inline]
    fn tags(
        &mut self,
        field: &'static str,
        known: impl FnMut(&mut Self, u32, u32) -> Checked<bool>,
    ) -> Checked<()> {
        if !self.flexible() {
            return Ok(());
        }
        match self.cursor.varint().map_err(inside(field))? {
            0 => Ok(()),
            count => self.some_tags(field, count, known),
        }
    }

    fn some_tags(
        &mut self,
        field: &'static str,
        count: u32,
        mut known: impl FnMut(&mut Self, u32, u32) -> Checked<bool>,
    ) -> Checked<()> {
        // Each takes a byte of tag and a byte of size at least.
        if u64::from(count) * 2 > self.cursor.left() as u64 {
            return Err((Why::Count, field));
        }
        let mut lowest = 0;
        for _ in 0..count {
            let tag = self.cursor.varint().map_err(inside(field))?;
            if tag < lowest || tag > i32::MAX as u32 {
                return Err((Why::Tag, field));
            }
            lowest = tag + 1;
            let size = self.cursor.varint().map_err(inside(field))?;
            if !known(self, tag, size)? {
                self.cursor.skip(size).map_err(inside(field))?;
            }
        }
        Ok(())
    }

    #[inline]
    fn i16(&mut self, field: &'static str) -> Checked<i16> {
        self.cursor.take().map(i16::from_be_bytes).map_err(inside(field))
    }

    #[inline]
    fn i32(&mut self, field: &'static str) -> Checked<i32> {
        self.cursor.take().map(i32::from_be_bytes).map_err(inside(field))
    }

    #[inline]
    fn i64(&mut self, field: &'static str) -> Checked<i64> {
        self.cursor.take().map(i64::from_be_bytes).map_err(inside(field))
    }
}
