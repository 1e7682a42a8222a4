//! Writes at a fixed rate and reads the same records: a connection for each direction.

use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use contract::{Args, Codec, Latencies, Values};

use crate::batch::{Codecs, for_each_value};
use crate::consume::{Positions, for_each_partition};
use crate::produce::confirm;
use crate::wire::{Connection, put_i32, put_str};

pub(crate) fn run(args: &Args) -> Result<()> {
    let epoch = Instant::now();
    let total = args.warm + args.records;
    let (sender, mut confirmer) = Connection::open(&args.bootstrap)?.split()?;
    let writer = {
        let args = args.clone();
        let values = Values::load(&args)?;
        thread::spawn(move || write(&args, values, sender, epoch, total))
    };
    let confirmed = thread::spawn(move || -> Result<()> {
        let mut buffer = Vec::new();
        (0..total).try_for_each(|_| confirm(&mut confirmer, &mut buffer))
    });
    let mut latencies = Latencies::new(args, epoch);
    let mut connection = Connection::open(&args.bootstrap)?;
    let mut positions = Positions::new(args.partitions, 1 << 20);
    let (mut out, mut buffer) = (Vec::new(), Vec::new());
    while latencies.seen() < total {
        positions.ask(&mut connection, &mut out, &args.topic, 500)?;
        let answer = connection.receive(&mut buffer)?;
        positions.advance(answer)?;
        for_each_partition(answer, |_, records| for_each_value(records, |value| latencies.receive(value)))?;
    }
    for thread in [writer, confirmed] {
        thread.join().ok().context("a thread panicked")??;
    }
    latencies.finish("floor", args)
}

fn write(
    args: &Args,
    mut values: Values,
    mut connection: Connection,
    epoch: Instant,
    total: u64,
) -> Result<()> {
    let mut codecs = Codecs::new(Codec::None);
    let mut out = Vec::new();
    let step = Duration::from_secs(1) / u32::try_from(args.rate)?;
    let start = Instant::now();
    for index in 0..total {
        let due = start + step * u32::try_from(index)?;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let mut value = values.next_value().to_vec();
        Latencies::stamp(epoch, &mut value);
        connection.begin(&mut out, 0, 7);
        out.extend_from_slice(&(-1_i16).to_be_bytes());
        out.extend_from_slice(&(-1_i16).to_be_bytes());
        put_i32(&mut out, 30_000);
        put_i32(&mut out, 1);
        put_str(&mut out, &args.topic);
        put_i32(&mut out, 1);
        put_i32(&mut out, (index % u64::from(args.partitions)) as i32);
        put_i32(&mut out, 0);
        let at = out.len();
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as i64;
        codecs.write_one(&mut out, &value, now);
        let length = (out.len() - at) as i32;
        out[at - 4..at].copy_from_slice(&length.to_be_bytes());
        connection.send(&mut out)?;
    }
    Ok(())
}
