//! Writes records: requests encoded into one buffer, five of them unanswered at most.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use contract::{Args, Meter, Usage, Values};

use crate::batch::{Codecs, Stage, stamp_crc};
use crate::wire::{Connection, Reader, put_i32, put_str};

const IN_FLIGHT: usize = 5;
/// About as large as a request may be.
const REQUEST_BYTES: u64 = 1 << 20;
/// No batch is larger, so that a batch stays in the cache.
const BATCH_BYTES: u64 = 512 << 10;

struct Writer<'a> {
    args: &'a Args,
    connection: Connection,
    stage: Stage,
    codecs: Codecs,
    values: Values,
    batch_records: u64,
    next_partition: u32,
    out: Vec<u8>,
    answer: Vec<u8>,
    unanswered: usize,
    /// Where the batches of the request lie, for the stages that make a request once.
    batches: Vec<(usize, usize)>,
    made: u64,
    made_checksum: u64,
    made_bytes: u64,
}

/// Writes the records before the window, then those of the window.
pub(crate) fn run(args: &Args) -> Result<()> {
    let record_bytes = args.value_size as u64 + 10;
    let most = (REQUEST_BYTES / u64::from(args.partitions)).min(BATCH_BYTES);
    let batch_records =
        if args.batch_records == 0 { (most / record_bytes).max(1) } else { args.batch_records };
    let mut writer = Writer {
        args,
        connection: Connection::open(&args.bootstrap)?,
        stage: Stage::parse(&args.mode)?,
        codecs: Codecs::new(args.codec),
        values: Values::load(args)?,
        batch_records,
        next_partition: 0,
        out: Vec::new(),
        answer: Vec::new(),
        unanswered: 0,
        batches: Vec::new(),
        made: 0,
        made_checksum: 0,
        made_bytes: 0,
    };
    let mut meter = Meter::new(args);
    writer.write(args.warm, &mut meter)?;
    let begin = Usage::now();
    writer.write(args.records, &mut meter)?;
    let end = Usage::now();
    writer.write(args.tail, &mut meter)?;
    meter.window(begin, end);
    meter.finish("floor", args, &[])
}

impl Writer<'_> {
    /// Writes this many records and waits for all answers.
    fn write(&mut self, records: u64, meter: &mut Meter) -> Result<()> {
        let mut left = records;
        while left > 0 {
            let whole = self.per_request();
            // The stages below full send a request again that was made once; only the last may be shorter.
            if self.stage == Stage::Full || self.made == 0 || self.made > left || self.made < whole.min(left)
            {
                self.make(left)?;
            } else {
                self.connection.begin_again(&mut self.out);
                if self.stage == Stage::Crc {
                    for (from, to) in &self.batches {
                        stamp_crc(&mut self.out[*from..*to]);
                    }
                }
            }
            self.connection.send(&mut self.out)?;
            self.unanswered += 1;
            meter.records += self.made;
            meter.checksum = meter.checksum.wrapping_add(self.made_checksum);
            meter.bytes += self.made_bytes;
            left -= self.made;
            if self.unanswered == IN_FLIGHT {
                self.confirm()?;
            }
        }
        while self.unanswered > 0 {
            self.confirm()?;
        }
        Ok(())
    }

    /// The records of a full request.
    fn per_request(&self) -> u64 {
        let batch_bytes = self.batch_records * (self.args.value_size as u64 + 10);
        let batches = (REQUEST_BYTES / batch_bytes).clamp(1, u64::from(self.args.partitions));
        batches * self.batch_records
    }

    /// Encodes a Produce request of version 7, the first that may hold zstd.
    fn make(&mut self, most: u64) -> Result<()> {
        let records = self.per_request().min(most);
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as i64;
        let before = (self.values.checksum, self.values.content_bytes());
        self.batches.clear();
        let out = &mut self.out;
        self.connection.begin(out, 0, 7);
        out.extend_from_slice(&(-1_i16).to_be_bytes());
        out.extend_from_slice(&(-1_i16).to_be_bytes());
        put_i32(out, 30_000);
        put_i32(out, 1);
        put_str(out, &self.args.topic);
        put_i32(out, records.div_ceil(self.batch_records) as i32);
        let mut left = records;
        while left > 0 {
            let count = left.min(self.batch_records);
            put_i32(out, self.next_partition as i32);
            put_i32(out, 0);
            let start = out.len();
            self.codecs.write(out, &mut self.values, count, self.args.shape, now)?;
            let length = (out.len() - start) as i32;
            out[start - 4..start].copy_from_slice(&length.to_be_bytes());
            self.batches.push((start, out.len()));
            self.next_partition = (self.next_partition + 1) % self.args.partitions;
            left -= count;
        }
        self.made = records;
        self.made_checksum = self.values.checksum.wrapping_sub(before.0);
        self.made_bytes = self.values.content_bytes() - before.1;
        Ok(())
    }

    /// Reads an answer and checks that every batch was written.
    fn confirm(&mut self) -> Result<()> {
        confirm(&mut self.connection, &mut self.answer)?;
        self.unanswered -= 1;
        Ok(())
    }
}

/// Reads the answer to a Produce request of version 7.
pub(crate) fn confirm(connection: &mut Connection, buffer: &mut Vec<u8>) -> Result<()> {
    let mut answer = Reader(connection.receive(buffer)?);
    for _ in 0..answer.i32()? {
        answer.string()?;
        for _ in 0..answer.i32()? {
            let partition = answer.i32()?;
            let code = answer.i16()?;
            ensure!(code == 0, "partition {partition}: error {code}");
            answer.take(24)?;
        }
    }
    Ok(())
}
