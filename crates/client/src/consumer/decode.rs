//! Checksums and decompression of what came, off the socket's task, and the hand-over to the application.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::available_parallelism;

use futures_util::stream::{FuturesUnordered, StreamExt};

use super::memory::Memory;
use super::part::PartitionRecords;
use super::read::{Damage, RawPart};
use super::shared::Shared;

/// A part that was looked at, or what is left of it.
pub(super) struct Checked {
    pub(super) part: PartitionRecords,
    /// What of the answer is damaged behind it.
    pub(super) damage: Option<Damage>,
    /// Whether it is the end of what the answer brought.
    pub(super) last: bool,
}

/// Makes parts ready and hands them over, each partition's in order. Much that is compressed is worked on by several threads, a piece at a
/// time, so that the application finds it in the cache. While the buffer is full it waits until the application has taken some.
pub(super) async fn deliver(shared: &Shared, parts: Vec<RawPart>) {
    if parts.is_empty() {
        return;
    }
    let reading = shared.reading();
    let checked = parts.into_iter().map(|part| {
        let (part, damage) = part.check(reading);
        Checked { part, damage, last: true }
    });
    let (plain, packed): (Vec<_>, VecDeque<_>) = {
        let (mut plain, mut packed) = (Vec::new(), VecDeque::new());
        for checked in checked {
            match checked.part.shown.packed().is_empty() {
                true => plain.push(checked),
                false => packed.push_back(checked),
            }
        }
        (plain, packed)
    };
    if !plain.is_empty() {
        shared.deliver(plain);
    }
    if !packed.is_empty() {
        unpack(shared, packed).await;
    }
}

async fn unpack(shared: &Shared, mut queue: VecDeque<Checked>) {
    let memory = &shared.memory;
    let threads = available_parallelism().map_or(1, usize::from).clamp(1, MAX_THREADS);
    let mut jobs = FuturesUnordered::new();
    // The application waits for records and there is no room for any: one batch, whatever it takes.
    let mut hungry = false;
    loop {
        set_aside(shared, &mut queue);
        while jobs.len() < threads && (memory.has_room() || hungry) {
            let (group, bytes) = group(&mut queue);
            if group.is_empty() {
                break;
            }
            let first = std::mem::take(&mut hungry);
            if bytes < WORTH_A_THREAD {
                put_back(&mut queue, shared, unpack_group(memory, group, first));
                continue;
            }
            let memory = Arc::clone(memory);
            jobs.push(tokio::task::spawn_blocking(move || unpack_group(&memory, group, first)));
        }
        match jobs.next().await {
            Some(Ok(pieces)) => put_back(&mut queue, shared, pieces),
            // The runtime is going down.
            Some(Err(_)) => return,
            None if queue.is_empty() => return,
            None => hungry = room(shared, &mut queue).await,
        }
    }
}

/// What is held back goes aside as it is.
fn set_aside(shared: &Shared, queue: &mut VecDeque<Checked>) {
    let held = shared.set_aside(queue);
    if !held.is_empty() {
        shared.deliver(held);
    }
}

/// Takes parts for one piece of work, and how many bytes of them are compressed.
fn group(queue: &mut VecDeque<Checked>) -> (Vec<Checked>, usize) {
    let (mut group, mut bytes) = (Vec::new(), 0);
    while bytes < PIECE
        && let Some(checked) = queue.pop_front()
    {
        bytes += checked.part.shown.packed_bytes();
        group.push(checked);
    }
    (group, bytes)
}

/// What was unpacked, and what is left.
type Pieces = (Vec<Checked>, Vec<Checked>);

fn put_back(queue: &mut VecDeque<Checked>, shared: &Shared, (done, rest): Pieces) {
    rest.into_iter().rev().for_each(|checked| queue.push_front(checked));
    if !done.is_empty() {
        shared.deliver(done);
    }
}

/// Decompresses batch by batch, as long as there is room and the piece is not full; the first one whatever it takes, if `first` says so.
fn unpack_group(memory: &Arc<Memory>, group: Vec<Checked>, mut first: bool) -> Pieces {
    let (mut done, mut rest) = (Vec::new(), Vec::new());
    let mut unpacked = 0;
    for mut checked in group {
        let mut stopped = None;
        for (at, packed) in checked.part.shown.packed().iter().enumerate() {
            if !std::mem::take(&mut first) && (unpacked >= PIECE || !memory.has_room()) {
                stopped = Some(at);
                break;
            }
            unpacked += packed.unpack(memory);
        }
        let Some(at) = stopped else {
            done.push(checked);
            continue;
        };
        let left = checked.part.split_off(at);
        let Checked { part, damage, last } = checked;
        rest.push(Checked { part: left, damage, last });
        if !part.shown.is_empty() {
            done.push(Checked { part, damage: None, last: false });
        }
    }
    (done, rest)
}

/// Waits until something more may be decompressed; whether only because the application waits for it. What is not wanted any more goes at
/// once.
async fn room(shared: &Shared, queue: &mut VecDeque<Checked>) -> bool {
    loop {
        // Both count from here on, so nothing that happens during the look is missed.
        let waiter = shared.memory.waiter();
        let released = waiter.released();
        let changed = shared.changed.notified();
        shared.drop_stale(queue);
        set_aside(shared, queue);
        if queue.is_empty() || shared.memory.has_room() {
            return false;
        }
        if shared.is_hungry() {
            return true;
        }
        tokio::select! {
            () = released => {}
            () = changed => {}
        }
    }
}

/// Less than this is decompressed faster than a thread is woken.
const WORTH_A_THREAD: usize = 32 * 1024;

/// How much is decompressed before it is handed over, compressed or not.
const PIECE: usize = 512 * 1024;

/// Threads that work on one answer.
const MAX_THREADS: usize = 4;
