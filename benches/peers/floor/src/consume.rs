//! Reads a topic: one connection, one buffer, the next request on its way before the answer is looked at.

use anyhow::{Result, ensure};
use contract::{Args, Meter};

use crate::batch::{Codecs, Stage};
use crate::wire::{Connection, Reader, put_i32, put_i64, put_str};

/// At most this many bytes of a partition, and of an answer.
pub(crate) const PARTITION_BYTES: i32 = 1 << 20;
const ANSWER_BYTES: i32 = 8 << 20;

/// So many answers in a row without a record mean that there are no more.
pub(crate) const IDLE_ANSWERS: u32 = 20;

/// What is asked for, and in which order.
pub(crate) struct Positions {
    offsets: Vec<i64>,
    order: Vec<u32>,
    limit: i32,
    isolation: u8,
}

/// Reads all records from the start.
pub(crate) fn run(args: &Args) -> Result<()> {
    // A stage may have a limit of bytes a partition behind it, as in full:524288.
    let (stage, limit) = args.mode.split_once(':').unwrap_or((&args.mode, ""));
    let stage = Stage::parse(stage)?;
    let limit = if limit.is_empty() { PARTITION_BYTES } else { limit.parse()? };
    let mut connection = Connection::open(&args.bootstrap)?;
    let mut codecs = Codecs::new(args.codec);
    let mut meter = Meter::new(args);
    let mut positions = Positions::new(args.partitions, limit);
    let (mut out, mut buffer) = (Vec::new(), Vec::new());
    let (mut batch_bytes, mut idle) = (0, 0);
    positions.ask(&mut connection, &mut out, &args.topic, 500)?;
    loop {
        let answer = connection.receive(&mut buffer)?;
        let (bytes, records) = positions.advance(answer)?;
        batch_bytes += bytes;
        idle = if records == 0 { idle + 1 } else { 0 };
        ensure!(idle < IDLE_ANSWERS, "only {} records came", meter.records);
        let complete = meter.records + records >= args.total();
        if !complete {
            positions.ask(&mut connection, &mut out, &args.topic, 500)?;
        }
        for_each_partition(answer, |_, records| {
            codecs.read(records, stage, args.shape, &mut meter)?;
            Ok(())
        })?;
        if complete {
            break;
        }
    }
    if stage != Stage::Full {
        (meter.bytes, meter.checksum) = (0, 0);
    }
    meter.finish("floor", args, &[("batch_bytes", batch_bytes.to_string())])
}

impl Positions {
    pub(crate) fn new(partitions: u32, limit: i32) -> Self {
        let isolation = crate::ends::UNCOMMITTED;
        Self { offsets: vec![0; partitions as usize], order: (0..partitions).collect(), limit, isolation }
    }

    /// The same with another isolation level.
    pub(crate) fn isolated(self, isolation: u8) -> Self {
        Self { isolation, ..self }
    }

    /// Whether nothing before these offsets is left.
    pub(crate) fn reached(&self, ends: &[i64]) -> bool {
        self.offsets.iter().zip(ends).all(|(offset, end)| offset >= end)
    }

    /// Sends a Fetch of version 10, the first that may bring zstd, without a session.
    pub(crate) fn ask(
        &self,
        connection: &mut Connection,
        out: &mut Vec<u8>,
        topic: &str,
        wait_ms: i32,
    ) -> Result<()> {
        connection.begin(out, 1, 10);
        put_i32(out, -1);
        put_i32(out, wait_ms);
        put_i32(out, 1);
        put_i32(out, ANSWER_BYTES);
        out.push(self.isolation);
        put_i32(out, 0);
        put_i32(out, -1);
        put_i32(out, 1);
        put_str(out, topic);
        put_i32(out, self.order.len() as i32);
        for partition in &self.order {
            put_i32(out, *partition as i32);
            put_i32(out, -1);
            put_i64(out, self.offsets[*partition as usize]);
            put_i64(out, -1);
            put_i32(out, self.limit);
        }
        put_i32(out, 0);
        connection.send(out)
    }

    /// Moves behind what came; partitions that brought something go to the end of the next request. Returns the bytes and
    /// the records of whole batches.
    pub(crate) fn advance(&mut self, answer: &[u8]) -> Result<(u64, u64)> {
        let (mut bytes, mut count) = (0, 0);
        let mut moved = Vec::new();
        for_each_partition(answer, |partition, records| {
            let mut rest = records;
            while let Some((head, _)) = rest.split_first_chunk::<61>() {
                let mut reader = Reader(head);
                let base = reader.i64()?;
                let length = usize::try_from(reader.i32()?)? + 12;
                let Some(behind) = rest.get(length..) else { break };
                reader.take(11)?;
                self.offsets[partition as usize] = base + i64::from(reader.i32()?) + 1;
                reader.take(30)?;
                count += u64::try_from(reader.i32()?)?;
                bytes += length as u64;
                rest = behind;
            }
            if !records.is_empty() {
                moved.push(partition);
            }
            Ok(())
        })?;
        if moved.len() < self.order.len() {
            self.order.retain(|partition| !moved.contains(partition));
            self.order.extend(moved);
        }
        Ok((bytes, count))
    }
}

/// Calls `f` with each partition of a Fetch answer of version 10 and its bytes of batches.
pub(crate) fn for_each_partition<'a>(
    answer: &'a [u8],
    mut f: impl FnMut(u32, &'a [u8]) -> Result<()>,
) -> Result<()> {
    let mut reader = Reader(answer);
    reader.take(4)?;
    let code = reader.i16()?;
    ensure!(code == 0, "fetch: error {code}");
    reader.take(4)?;
    for _ in 0..reader.i32()? {
        reader.string()?;
        for _ in 0..reader.i32()? {
            let partition = reader.i32()?;
            let code = reader.i16()?;
            ensure!(code == 0, "partition {partition}: error {code}");
            reader.take(24)?;
            ensure!(reader.i32()? <= 0, "partition {partition}: an aborted transaction");
            f(u32::try_from(partition)?, reader.bytes()?)?;
        }
    }
    Ok(())
}
