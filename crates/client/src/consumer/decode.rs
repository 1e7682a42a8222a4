//! Checksums and decompression of what came, off the socket's task, and the hand-over to the application.

use std::thread::available_parallelism;

use super::part::PartitionRecords;
use super::read::{Damage, RawPart};
use super::shared::Shared;

/// Makes parts ready and hands them over, each partition's in order. Large compressed answers are worked on by several threads.
pub(super) async fn deliver(shared: &Shared, parts: Vec<RawPart>) {
    if parts.is_empty() {
        return;
    }
    let reading = shared.reading();
    let parts: Vec<Checked> = parts.into_iter().map(|part| part.check(reading)).collect();
    let compressed: usize = parts.iter().map(|(part, _)| compressed_bytes(part)).sum();
    if compressed < WORTH_A_THREAD {
        parts.iter().for_each(|(part, _)| decompress(part));
        shared.deliver(parts);
        return;
    }
    let threads = available_parallelism().map_or(1, usize::from).clamp(1, MAX_THREADS);
    let share = compressed / threads + 1;
    let mut shares = Vec::new();
    let (mut group, mut bytes) = (Vec::new(), 0);
    for part in parts {
        bytes += compressed_bytes(&part.0);
        group.push(part);
        if bytes >= share {
            shares.push(std::mem::take(&mut group));
            bytes = 0;
        }
    }
    shares.push(group);
    let work = shares.into_iter().filter(|group| !group.is_empty()).map(|group| {
        tokio::task::spawn_blocking(move || {
            group.iter().for_each(|(part, _)| decompress(part));
            group
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

type Checked = (PartitionRecords, Option<Damage>);

fn compressed_bytes(part: &PartitionRecords) -> usize {
    part.shown.packed().iter().map(|packed| packed.batch().len_bytes()).sum()
}

/// Less than this is decompressed faster than a thread is woken.
const WORTH_A_THREAD: usize = 32 * 1024;

/// Threads that work on one answer.
const MAX_THREADS: usize = 4;

/// How much an answer may grow by decompression before the application takes it; what is beyond is decompressed as it is looked at.
const MAX_AHEAD: usize = 16;

fn decompress(part: &PartitionRecords) {
    let room = compressed_bytes(part) * MAX_AHEAD;
    let mut ahead = 0;
    for packed in part.shown.packed() {
        if ahead > room {
            break;
        }
        // What cannot be decompressed is told when it is looked at.
        if let Ok(records) = packed.records() {
            ahead += records.buffer().len();
        }
    }
}
