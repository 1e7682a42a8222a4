//! The ends of a topic's logs, looked at from outside while others write, and all of the topic once they are done.

use std::io::Write;
use std::time::Duration;

use anyhow::{Result, ensure};
use contract::{Args, Meter};

use crate::batch::{Codecs, Stage};
use crate::consume::{PARTITION_BYTES, Positions, for_each_partition};
use crate::wire::{Connection, Reader, put_i32, put_i64, put_str};

/// The isolation levels of the protocol.
pub(crate) const UNCOMMITTED: u8 = 0;
pub(crate) const COMMITTED: u8 = 1;

const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Prints a line with the sum of the ends and the sum of the last stable offsets, again and again, until it is ended. Nobody needs what it
/// prints first: it says that the topic can be asked.
pub(crate) fn watch(args: &Args) -> Result<()> {
    let mut connection = Connection::open(&args.bootstrap)?;
    let mut out = std::io::stdout().lock();
    loop {
        let written: i64 = list(&mut connection, args, UNCOMMITTED)?.iter().sum();
        let visible: i64 = list(&mut connection, args, COMMITTED)?.iter().sum();
        writeln!(out, "{written} {visible}")?;
        out.flush()?;
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Reads what a reader of committed records sees, to the ends of the logs. Open and aborted transactions are errors: who wrote the topic
/// has ended, and well.
pub(crate) fn read_committed(args: &Args) -> Result<()> {
    let mut connection = Connection::open(&args.bootstrap)?;
    let ends = list(&mut connection, args, COMMITTED)?;
    ensure!(ends == list(&mut connection, args, UNCOMMITTED)?, "a transaction is open");
    let mut positions = Positions::new(args.partitions, PARTITION_BYTES).isolated(COMMITTED);
    let mut codecs = Codecs::new(args.codec);
    let mut meter = Meter::new(args);
    let (mut out, mut buffer) = (Vec::new(), Vec::new());
    let mut idle = 0;
    while !positions.reached(&ends) {
        positions.ask(&mut connection, &mut out, &args.topic, 500)?;
        let answer = connection.receive(&mut buffer)?;
        let (_, records) = positions.advance(answer)?;
        idle = if records == 0 { idle + 1 } else { 0 };
        ensure!(idle < crate::consume::IDLE_ANSWERS, "only {} records came", meter.records);
        for_each_partition(answer, |_, records| {
            codecs.read(records, Stage::Full, args.shape, &mut meter)?;
            Ok(())
        })?;
    }
    meter.finish("floor", args, &[])
}

/// The ends of all partitions, by ListOffsets of version 2.
fn list(connection: &mut Connection, args: &Args, isolation: u8) -> Result<Vec<i64>> {
    let mut out = Vec::new();
    connection.begin(&mut out, 2, 2);
    put_i32(&mut out, -1);
    out.push(isolation);
    put_i32(&mut out, 1);
    put_str(&mut out, &args.topic);
    put_i32(&mut out, args.partitions as i32);
    for partition in 0..args.partitions {
        put_i32(&mut out, partition as i32);
        put_i64(&mut out, -1);
    }
    connection.send(&mut out)?;
    let mut buffer = Vec::new();
    let mut answer = Reader(connection.receive(&mut buffer)?);
    answer.take(4)?;
    let mut ends = vec![0; args.partitions as usize];
    for _ in 0..answer.i32()? {
        answer.string()?;
        for _ in 0..answer.i32()? {
            let partition = usize::try_from(answer.i32()?)?;
            let code = answer.i16()?;
            ensure!(code == 0, "partition {partition}: error {code}");
            answer.take(8)?;
            ends[partition] = answer.i64()?;
        }
    }
    Ok(ends)
}
