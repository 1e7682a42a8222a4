//! Whether a storage keeps checkpoints as [`CheckpointStorage`](crate::checkpoint::CheckpointStorage) says.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::stand::must;
use super::{Checked, Failure};
use crate::ErrorKind;
use crate::checkpoint::storage::{latest, load, write_savepoint};
use crate::checkpoint::{CheckpointId, Checkpoints, Storage};

/// How long a storage that is dropped or given back may be taken: longer than a lease.
const FREE_WITHIN: Duration = Duration::from_secs(60);
/// The largest body that is tried.
const LARGE: usize = 3 << 20;

type Opened = std::result::Result<Checkpoints, String>;

/// Tries a storage and returns the names of what held. `open` gives storages by the name of a place that nothing else uses: given one name
/// twice, they are of one place, as two processes see it.
///
/// ```
/// use milena_connector::checkpoint::Storage;
/// use milena_connector::conformance::check_storage;
///
/// # async fn example() -> Result<(), milena_connector::conformance::Failure> {
/// for case in check_storage(|place| Storage::directory(format!("/tmp/trial/{place}"))).await? {
///     println!("{case}");
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// The first case that does not hold, with what is wrong.
///
/// # Cancellation
/// Places may be left as they are.
pub async fn check_storage(
    open: impl Fn(&str) -> Storage,
) -> std::result::Result<Vec<&'static str>, Failure> {
    let mut passed = Vec::new();
    for case in [
        "what is written is read",
        "the newest counts and the oldest go",
        "one job at a time",
        "what is given back is free",
        "who looks sees whole checkpoints",
        "a write that is dropped",
        "a savepoint",
    ] {
        let place = case.replace(' ', "-");
        let two = [open(&place), open(&place)];
        let checked = match case {
            "what is written is read" => read_back(&two).await,
            "the newest counts and the oldest go" => retained(&two).await,
            "one job at a time" => exclusive(&two).await,
            "what is given back is free" => given_back(&two).await,
            "who looks sees whole checkpoints" => whole(&two).await,
            "a write that is dropped" => dropped(&two).await,
            _ => savepoint(&two).await,
        };
        checked.map_err(|what| Failure { case, what })?;
        passed.push(case);
    }
    Ok(passed)
}

fn said(error: impl std::fmt::Display) -> String {
    error.to_string()
}

async fn take(storage: &Storage, job: &str, retain: usize) -> Opened {
    Checkpoints::open(storage, retain, job).await.map_err(|error| format!("job {job} can't take it: {error}"))
}

/// A body that no other is equal to.
fn body(id: CheckpointId, length: usize) -> Vec<u8> {
    let mut word = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut body = id.to_be_bytes().to_vec();
    while body.len() < length {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        body.extend(word.to_le_bytes());
    }
    body
}

async fn read_back([own, other]: &[Storage; 2]) -> Checked {
    let job = take(own, "first", 9).await?;
    let (none, next) = (job.latest().await.map_err(said)?, job.next_id().await.map_err(said)?);
    must(none.is_none() && next == 1, || format!("a new place has {none:?}, and goes on with {next}"))?;
    for (id, length) in [(1, 0), (2, 8), (3, 1000), (4, LARGE)] {
        let body = if length == 0 { Vec::new() } else { body(id, length) };
        job.write(id, &body).await.map_err(said)?;
        for seen in [load(own, id).await, load(other, id).await] {
            let seen = seen.map_err(said)?;
            must(seen.body == body && seen.id == id, || {
                format!("of {} bytes, {} or others are read", body.len(), seen.body.len())
            })?;
        }
    }
    let missing = load(other, 77).await.map(|_| ()).map_err(|error| error.kind());
    must(missing == Err(ErrorKind::Io), || format!("a checkpoint that is not there gives {missing:?}"))?;
    job.release().await;
    Ok(())
}

async fn retained([own, other]: &[Storage; 2]) -> Checked {
    let job = take(own, "first", 3).await?;
    for id in [1, 2, 3, 4, 9] {
        job.write(id, &body(id, 100)).await.map_err(said)?;
        let newest = latest(other).await.map_err(said)?.map(|stored| stored.id);
        must(newest == Some(id), || format!("after {id} was written the newest is {newest:?}"))?;
    }
    job.release().await;
    let job = take(other, "second", 3).await?;
    let next = job.next_id().await.map_err(said)?;
    must(next == 10, || format!("after 9 it goes on with {next}"))?;
    for id in 1..=9 {
        let kept = load(own, id).await.is_ok();
        must(kept == [3, 4, 9].contains(&id), || format!("3 are to be kept: {id} is there: {kept}"))?;
    }
    job.write(10, &body(10, 100)).await.map_err(said)?;
    must(load(own, 3).await.is_err(), || String::from("what an earlier life wrote is kept for ever"))?;
    let next = job.next_id().await.map_err(said)?;
    must(next == 11, || format!("after 10 it goes on with {next}"))?;
    job.release().await;
    Ok(())
}

async fn exclusive([own, other]: &[Storage; 2]) -> Checked {
    let job = take(own, "the-first-job", 3).await?;
    job.write(1, &body(1, 10)).await.map_err(said)?;
    for storage in [other, own] {
        match Checkpoints::open(storage, 3, "the-second-job").await {
            Err(error) if error.kind() == ErrorKind::Misuse => {
                let named = error.to_string().contains("the-first-job");
                must(named, || format!("who has it is not named: {error}"))?;
            }
            Err(error) => return Err(format!("a second job is refused by another error: {error}")),
            Ok(_) => return Err(String::from("two jobs have it")),
        }
    }
    job.write(2, &body(2, 10)).await.map_err(|error| format!("its own job lost it: {error}"))?;
    job.release().await;
    Ok(())
}

async fn given_back([own, other]: &[Storage; 2]) -> Checked {
    let job = take(own, "first", 3).await?;
    job.write(1, &body(1, 10)).await.map_err(said)?;
    job.release().await;
    let began = Instant::now();
    let job = take(other, "second", 3).await?;
    must(began.elapsed() < FREE_WITHIN, || String::from("what was given back is free late"))?;
    job.write(2, &body(2, 10)).await.map_err(said)?;
    drop(job);
    let job = loop {
        match take(own, "third", 3).await {
            Ok(job) => break job,
            Err(why) if began.elapsed() > FREE_WITHIN => {
                return Err(format!("what was dropped stays taken: {why}"));
            }
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
    };
    let newest = job.latest().await.map_err(said)?.map(|stored| stored.id);
    must(newest == Some(2), || format!("the newest is {newest:?} after 2 was written"))?;
    job.release().await;
    Ok(())
}

async fn whole([own, other]: &[Storage; 2]) -> Checked {
    const LAST: CheckpointId = 25;
    let job = take(own, "first", 2).await?;
    job.write(1, &body(1, 100_000)).await.map_err(said)?;
    let writing = async {
        for id in 2..=LAST {
            job.write(id, &body(id, 100_000)).await.map_err(said)?;
        }
        Ok::<(), String>(())
    };
    let looking = async {
        let mut highest = 0;
        while highest < LAST {
            // One that is listed may be removed before it is read, and then a newer one is there.
            let seen = latest(other).await.map_err(said)?;
            let seen = seen.ok_or_else(|| String::from("there is nothing while checkpoints are written"))?;
            must(seen.damaged.is_empty(), || format!("a part of a checkpoint is seen: {:?}", seen.damaged))?;
            must(seen.id >= highest, || format!("after {highest} the newest is {}", seen.id))?;
            must(seen.body == body(seen.id, 100_000), || format!("{} has the bytes of another", seen.id))?;
            highest = seen.id;
            tokio::task::yield_now().await;
        }
        Ok::<(), String>(())
    };
    tokio::try_join!(writing, looking)?;
    job.release().await;
    Ok(())
}

/// Dropped at any time, a write is whole or not there; what was there before stays.
async fn dropped([own, other]: &[Storage; 2]) -> Checked {
    let mut known = 0;
    for round in 0..20_u64 {
        let job = loop {
            match take(own, "first", 1).await {
                Ok(job) => break job,
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        };
        let newest = job.latest().await.map_err(said)?;
        let (id, damaged) = newest.map_or((0, false), |seen| (seen.id, !seen.damaged.is_empty()));
        must(id >= known && !damaged, || format!("after {known} was written {id} is left"))?;
        let next = job.next_id().await.map_err(said)?;
        let body = body(next, 200_000);
        // Each third is not dropped, so that there is something to lose.
        let within = if round % 3 == 0 { FREE_WITHIN } else { Duration::from_micros(round * round * 25) };
        match timeout(within, job.write(next, &body)).await {
            Ok(written) => {
                written.map_err(said)?;
                known = next;
            }
            Err(_) => known = id,
        }
        drop(job);
    }
    let newest = latest(other).await.map_err(said)?.map_or(0, |seen| seen.id);
    must(newest >= known, || format!("after {known} was written {newest} is left"))
}

async fn savepoint([own, other]: &[Storage; 2]) -> Checked {
    let written = body(7, 100);
    write_savepoint(own, "first", 7, &written).await.map_err(said)?;
    let seen = latest(other).await.map_err(said)?;
    must(seen.as_ref().is_some_and(|seen| seen.id == 7 && seen.body == written), || {
        format!("a savepoint is written and {:?} is read", seen.map(|seen| seen.id))
    })?;
    let job = take(other, "second", 1).await?;
    let refused = write_savepoint(own, "third", 8, &written).await.map_err(|error| error.kind());
    must(refused == Err(ErrorKind::Misuse), || {
        format!("a savepoint over another job's checkpoints gives {refused:?}")
    })?;
    job.release().await;
    Ok(())
}
