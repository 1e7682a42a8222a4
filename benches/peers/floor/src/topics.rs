//! Topics made and deleted, so that the harness needs no other client for it.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use contract::Args;

use crate::wire::{Connection, Reader, put_i32, put_i64, put_str};

const TOPIC_ALREADY_EXISTS: i16 = 36;
const UNKNOWN_TOPIC: i16 = 3;

/// Makes the topic and waits until every partition has a leader.
pub(crate) fn create(args: &Args) -> Result<()> {
    let mut connection = Connection::open(&args.bootstrap)?;
    let mut out = Vec::new();
    connection.begin(&mut out, 19, 2);
    put_i32(&mut out, 1);
    put_str(&mut out, &args.topic);
    put_i32(&mut out, args.partitions as i32);
    out.extend_from_slice(&1_i16.to_be_bytes());
    put_i32(&mut out, 0);
    put_i32(&mut out, 0);
    put_i32(&mut out, 30_000);
    out.push(0);
    connection.send(&mut out)?;
    let mut buffer = Vec::new();
    let mut answer = Reader(connection.receive(&mut buffer)?);
    answer.take(8)?;
    answer.string()?;
    let code = answer.i16()?;
    ensure!(code == 0 || code == TOPIC_ALREADY_EXISTS, "the topic can't be made: error {code}");
    let began = Instant::now();
    while leaders(&mut connection, &args.topic)? < args.partitions || !is_served(&mut connection, args)? {
        ensure!(began.elapsed() < Duration::from_secs(60), "a partition has no leader");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Whether the broker answers for every partition: it may still refuse what the metadata say it leads.
fn is_served(connection: &mut Connection, args: &Args) -> Result<bool> {
    let mut out = Vec::new();
    connection.begin(&mut out, 2, 1);
    put_i32(&mut out, -1);
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
    answer.string()?;
    for _ in 0..answer.i32()? {
        answer.take(4)?;
        if answer.i16()? != 0 {
            return Ok(false);
        }
        answer.take(16)?;
    }
    Ok(true)
}

fn leaders(connection: &mut Connection, topic: &str) -> Result<u32> {
    let mut out = Vec::new();
    connection.begin(&mut out, 3, 1);
    put_i32(&mut out, 1);
    put_str(&mut out, topic);
    connection.send(&mut out)?;
    let mut buffer = Vec::new();
    let mut answer = Reader(connection.receive(&mut buffer)?);
    for _ in 0..answer.i32()? {
        answer.take(4)?;
        answer.string()?;
        answer.take(4)?;
        answer.string()?;
    }
    answer.take(8)?;
    let code = answer.i16()?;
    if code == UNKNOWN_TOPIC {
        return Ok(0);
    }
    ensure!(code == 0, "metadata: error {code}");
    answer.string()?;
    answer.take(1)?;
    let mut led = 0;
    for _ in 0..answer.i32()? {
        let code = answer.i16()?;
        answer.take(4)?;
        let leader = answer.i32()?;
        for _ in 0..2 {
            let nodes = answer.i32()?;
            answer.take(4 * usize::try_from(nodes)?)?;
        }
        led += u32::from(code == 0 && leader >= 0);
    }
    Ok(led)
}

/// Deletes the topic.
pub(crate) fn delete(args: &Args) -> Result<()> {
    let mut connection = Connection::open(&args.bootstrap)?;
    let mut out = Vec::new();
    connection.begin(&mut out, 20, 1);
    put_i32(&mut out, 1);
    put_str(&mut out, &args.topic);
    put_i32(&mut out, 30_000);
    connection.send(&mut out)?;
    let mut buffer = Vec::new();
    let mut answer = Reader(connection.receive(&mut buffer)?);
    answer.take(8)?;
    answer.string()?;
    match answer.i16()? {
        0 | UNKNOWN_TOPIC => Ok(()),
        code => bail!("the topic can't be deleted: error {code}"),
    }
}
