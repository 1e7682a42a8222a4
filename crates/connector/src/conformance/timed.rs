//! Functions with state, and event time.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use super::stand::{LOOK_EVERY, PARTITIONS, Stand, must, partition_of, said};
use super::witness::{LATE_EVERY, Line, WINDOW, Witness, time_of, timer_of};
use super::{Checked, End, Host, Moment};
use crate::progress::WatermarkStrategy;
use crate::runtime::{Identity, Processing, Scoping, Then};
use crate::schema::OwnedKafkaRecord;
use crate::sink::Delivery;
use crate::source::{KafkaSourceBuilder, StopAt};

/// Cases that fill their input themselves.
pub(super) const CASES: [&str; 2] = ["functions with state", "event time"];
/// Records that come one after the other while time is to pass, at most.
const ONE_BY_ONE: u64 = 600;
/// The partition whose event time is slow.
const SLOW: i32 = 0;

type Witnesses =
    Then<Identity<OwnedKafkaRecord>, Processing<fn(&crate::checkpoint::Scope) -> Witness, Witness>>;

fn witnesses() -> Witnesses {
    let factory: fn(&crate::checkpoint::Scope) -> Witness = Witness::of;
    Then::of(Processing::new("witness".into(), Scoping::Split, factory))
}

/// Each record says how far time is.
fn marks() -> WatermarkStrategy<OwnedKafkaRecord> {
    WatermarkStrategy::punctuated(|_, timestamp| Some(timestamp))
}

/// The start of event time: brokers do not keep what is old.
fn base() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = i64::try_from(now.as_millis()).unwrap_or(0);
    now - now.rem_euclid(WINDOW) - 3600 * 1000
}

/// A record of the input.
#[derive(Clone, Copy, Debug)]
struct Input {
    partition: i32,
    number: u64,
    time: i64,
    /// It may come late; no other may.
    may_be_late: bool,
}

fn inputs(records: u64, base: i64) -> Vec<Input> {
    let mut places = [0_i64; PARTITIONS.unsigned_abs() as usize];
    let mut inputs = Vec::new();
    for number in 0..records {
        let partition = partition_of(number);
        let Some(place) = places.get_mut(partition.unsigned_abs() as usize) else { continue };
        let slower = if partition == SLOW { 4 } else { 1 };
        let time = base + time_of(number, *place) / slower;
        inputs.push(Input { partition, number, time, may_be_late: *place % LATE_EVERY == LATE_EVERY - 1 });
        *place += 1;
    }
    inputs
}

/// What functions know is in the checkpoint, moves with its partition, and time never goes back: a stop, two crashes, four parallelisms.
pub(super) async fn functions(stand: &Stand, host: &impl Host) -> Checked {
    let inputs = inputs(stand.records, base());
    stand.produce(inputs.iter().map(|input| (input.partition, input.number, Some(input.time)))).await?;
    let life = |source: KafkaSourceBuilder<OwnedKafkaRecord>, parallelism, end| {
        let source = source.watermarks(marks().with_caught_up_idleness(None)).build().map_err(said)?;
        let sink = stand.sink(Delivery::ExactlyOnce, None)?;
        Ok::<_, String>(stand.trial(source, witnesses(), sink, parallelism, end))
    };
    // No partition has an end yet, so the slow one counts wherever it is; and half of all records are more than it has.
    let first = End::StopAfter(stand.records / 2);
    stand.run(host, life(stand.source(), 1, first)?).await?;
    check_combined(stand, &inputs).await?;
    for (parallelism, end) in
        [(2, End::CrashAt(Moment::Prepared)), (3, End::CrashAt(Moment::Durable)), (2, End::Finished)]
    {
        stand.run(host, life(stand.source().bounded(StopAt::Latest), parallelism, end)?).await?;
    }
    stand.settled().await?;
    for (partition, lines) in stand.lines(Line::parse).await? {
        let expected: Vec<Input> =
            inputs.iter().filter(|input| input.partition == partition).copied().collect();
        check_lines(&expected, &lines).map_err(|what| format!("partition {partition}: {what}"))?;
    }
    Ok(())
}

/// In one subtask, no partition is ahead of the slow one, and others have come to records that would be late there.
async fn check_combined(stand: &Stand, inputs: &[Input]) -> Checked {
    stand.settled().await?;
    let lines = stand.lines(Line::parse).await?;
    let numbers = |partition: i32| {
        let lines = lines.get(&partition).map(Vec::as_slice).unwrap_or_default();
        lines.iter().filter_map(|line| match line {
            Line::Record { number, watermark, .. } => Some((*number, *watermark)),
            Line::Timer { .. } => None,
        })
    };
    let time = |number: u64| inputs.iter().find(|input| input.number == number).map(|input| input.time);
    let reached = numbers(SLOW).filter_map(|(number, _)| time(number)).max();
    let mut ahead = false;
    for (number, watermark) in (0..PARTITIONS).flat_map(numbers) {
        ahead |= time(number) > reached;
        must(watermark <= reached, || {
            format!("record {number} saw time {watermark:?}, when the slowest partition was at {reached:?}")
        })?;
    }
    must(ahead, || String::from("the suite itself can't go on: no partition came farther than the slow one"))
}

fn check_lines(expected: &[Input], lines: &[Line]) -> Checked {
    let mut inputs = expected.iter();
    let (mut counted, mut time, mut fired) = (0, None, BTreeSet::new());
    for line in lines {
        match *line {
            Line::Record { number, count, watermark, late } => {
                let Some(input) = inputs.next() else {
                    return Err(format!("record {number} is one too many"));
                };
                must(input.number == number, || {
                    format!("record {} is expected, and {number} is there", input.number)
                })?;
                counted += 1;
                must(count == counted, || {
                    format!("record {number} is the {counted}th, and was counted as {count}")
                })?;
                must(watermark >= time, || {
                    format!("time went back from {time:?} to {watermark:?} at record {number}")
                })?;
                time = watermark;
                must(late == watermark.is_some_and(|watermark| input.time <= watermark), || {
                    format!("record {number} of {} is late: {late}, at {watermark:?}", input.time)
                })?;
                must(!late || input.may_be_late, || format!("record {number} is late, and came in order"))?;
            }
            Line::Timer { at } => {
                must(fired.insert(at), || format!("the timer at {at} fired twice"))?;
                time = time.max(Some(at));
            }
        }
    }
    must(inputs.next().is_none(), || format!("{counted} records of {} are there", expected.len()))?;
    let timely = expected.iter().filter(|input| !input.may_be_late);
    let set: BTreeSet<i64> = timely.map(|input| timer_of(input.time)).collect();
    must(fired == set, || format!("timers {fired:?} fired, and {set:?} were set"))
}

/// A partition that has nothing does not hold time back: a timer fires before the end, while others wait for more.
pub(super) async fn event_time(stand: &Stand, host: &impl Host) -> Checked {
    let base = base();
    let record = |number: u64| (1, number, Some(base + time_of(number, 0)));
    let mut next = 2 * WINDOW.unsigned_abs() / super::witness::STEP.unsigned_abs();
    let last = next + ONE_BY_ONE;
    stand.produce((0..next).map(record)).await?;
    let strategy = marks().with_caught_up_idleness(Some(std::time::Duration::ZERO));
    let source = stand.source().watermarks(strategy).build().map_err(said)?;
    let sink = stand.sink(Delivery::ExactlyOnce, None)?;
    let living = stand.run(host, stand.trial(source, witnesses(), sink, 1, End::StopAfter(last + 1)));
    let seeing = async {
        let give_up = tokio::time::Instant::now() + stand.patience;
        let timer = Line::Timer { at: timer_of(base) };
        while !stand.lines(Line::parse).await?.values().flatten().any(|line| *line == timer) {
            must(tokio::time::Instant::now() < give_up, || {
                format!(
                    "time passed {} in the only partition with records, and no timer fired",
                    timer_of(base)
                )
            })?;
            // A partition that is read to its end says nothing either: time goes on with a record that comes once the others are idle.
            if next < last {
                stand.produce([record(next)]).await?;
                next += 1;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        stand.produce((next..=last).map(record)).await
    };
    let (lived, ()) = tokio::try_join!(living, seeing)?;
    must(lived.records_in == last + 1, || format!("{} records were read", lived.records_in))
}
