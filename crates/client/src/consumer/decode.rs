//! Checksums and decompression of what came, off the socket's task, and the hand-over to the application.

use std::thread::available_parallelism;

use milena_protocol::compression::Compression;

use super::part::PartitionRecords;
use super::read::{Damage, RawPart, Reading};
use super::shared::Shared;

type Checked = (PartitionRecords, Option<Damage>);

/// Makes parts ready and hands them over, each partition's in order. Large compressed answers are worked on by several threads.
pub(super) async fn deliver(shared: &Shared, parts: Vec<RawPart>) {
    if parts.is_empty() {
        return;
    }
    let reading = shared.reading();
    let compressed: usize = parts.iter().map(RawPart::compressed_bytes).sum();
    if compressed < WORTH_A_THREAD {
        shared.deliver(parts.into_iter().map(|part| decode(part, reading)).collect());
        return;
    }
    let threads = available_parallelism().map_or(1, usize::from).clamp(1, MAX_THREADS);
    let share = compressed / threads + 1;
    let mut shares = Vec::new();
    let (mut group, mut bytes) = (Vec::new(), 0);
    for part in parts {
        bytes += part.compressed_bytes();
        group.push(part);
        if bytes >= share {
            shares.push(std::mem::take(&mut group));
            bytes = 0;
        }
    }
    shares.push(group);
    let work = shares.into_iter().filter(|group| !group.is_empty()).map(|group| {
        tokio::task::spawn_blocking(move || -> Vec<Checked> {
            group.into_iter().map(|part| decode(part, reading)).collect()
        })
    });
    // All are started before the first is waited for.
    for done in work.collect::<Vec<_>>() {
        match done.await {
            Ok(parts) => shared.deliver(parts),
            // The runtime is going down.
            Err(_) => return,
        }
    }
}

/// Less than this is decompressed faster than a thread is woken.
const WORTH_A_THREAD: usize = 32 * 1024;

/// Threads that work on one answer.
const MAX_THREADS: usize = 4;

/// How much an answer may grow by decompression before the application takes it; what is beyond is decompressed as it is looked at.
const MAX_AHEAD: usize = 16;

fn decode(part: RawPart, reading: Reading) -> Checked {
    let room = part.compressed_bytes() * MAX_AHEAD;
    let (part, damage) = part.check(reading);
    let mut ahead = 0;
    for body in &part.bodies {
        if body.batch.compression() == Compression::None {
            continue;
        }
        if ahead > room {
            break;
        }
        // What cannot be decompressed is told when it is looked at.
        if let Ok(records) = body.records() {
            ahead += records.buffer().len();
        }
    }
    (part, damage)
}
