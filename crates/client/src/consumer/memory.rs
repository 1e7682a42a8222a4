//! The bytes a consumer holds, and the buffers its answers are read into and decompressed to.
//!
//! A frame is a buffer and its charge: whoever drops the last reference to any part of it gives both back. A request reserves what its
//! answer may take before it goes out, so the answers of all brokers together stay within the limit; only a single batch that is larger
//! than a request's limit may exceed it. What a batch decompresses to is known when it is done, so it is charged then, and none is begun
//! while there is no room: each thread may exceed the limit by the batch at hand, which has a limit of its own. Buffers that wait to be used
//! again take what is left.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use milena_protocol::error::ProtocolError;
use milena_protocol::records::{RecordBatch, Records};
use tokio::sync::Notify;

/// Buffers of answers kept for reuse, at most.
const MAX_FREE: usize = 4;
/// The same for decompressed batches.
const MAX_UNPACKED: usize = 64;

/// The first piece of memory for an answer. Later ones double what came: a lie about the length costs little.
const FIRST: usize = 256 * 1024;

/// Answers up to here get memory of their exact size.
const SMALL: usize = 64 * 1024;

/// Smaller batches decompress to memory of their own: codecs want room for the most they may hold.
const SMALL_BATCH: usize = 8 * 1024;

/// The memory of one consumer.
#[derive(Debug)]
pub(crate) struct Memory {
    limit: usize,
    /// Bytes of frames and reservations.
    held: AtomicUsize,
    /// The most there ever were.
    peak: AtomicUsize,
    /// Those who wait for room.
    waiting: AtomicUsize,
    room: Notify,
    free: Mutex<Free>,
    /// The bytes of `free`. Together with `held` they stay within the limit.
    idle: AtomicUsize,
    /// Buffers above this are not kept.
    keep: usize,
}

/// Buffers that wait to be used again, the last one first: it is the one that a cache still knows.
#[derive(Debug, Default)]
struct Free {
    answers: Vec<Vec<u8>>,
    unpacked: Vec<Vec<u8>>,
}

impl Memory {
    /// Memory of `limit` bytes; buffers of up to `keep` bytes are used again.
    pub(crate) fn new(limit: usize, keep: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            held: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            room: Notify::new(),
            free: Mutex::default(),
            idle: AtomicUsize::new(0),
            keep,
        })
    }

    /// Reserves room, if there is any. Whatever its size, the first reservation always finds room.
    pub(crate) fn reserve(self: &Arc<Self>, bytes: usize) -> Option<Arc<Room>> {
        let taken = self.held.fetch_update(Ordering::AcqRel, Ordering::Acquire, |held| {
            (held == 0 || held + bytes <= self.limit).then_some(held + bytes)
        });
        let before = taken.ok()?;
        self.peak.fetch_max(before + bytes, Ordering::Relaxed);
        self.trim();
        Some(Arc::new(Room { memory: Arc::clone(self), bytes, left: AtomicUsize::new(bytes) }))
    }

    /// Reserves room, whether there is any or not.
    pub(super) fn reserve_beyond(self: &Arc<Self>, bytes: usize) -> Arc<Room> {
        self.charge(bytes);
        Arc::new(Room { memory: Arc::clone(self), bytes, left: AtomicUsize::new(bytes) })
    }

    /// The next time that room is made. It counts from the call on, not from the first poll on.
    pub(crate) fn waiter(&self) -> Waiter<'_> {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        Waiter { memory: self }
    }

    /// Bytes in use.
    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Acquire)
    }

    /// The most bytes there ever were in use.
    pub(crate) fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }

    /// Whether something more may be decompressed.
    pub(super) fn has_room(&self) -> bool {
        self.held() < self.limit
    }

    /// Decompresses a batch. What it takes is held until its records are dropped.
    pub(super) fn unpack(self: &Arc<Self>, batch: &RecordBatch) -> Result<Records, ProtocolError> {
        let used = match batch.len_bytes() {
            ..SMALL_BATCH => None,
            _ => self.free().unpacked.pop(),
        };
        let out = used.unwrap_or_default();
        self.idle.fetch_sub(out.capacity(), Ordering::AcqRel);
        batch.records_in(batch.max_decompressed(), out, |mut buffer| {
            // Records are kept for a while, so memory that was taken in vain goes back.
            if buffer.capacity() / 2 > buffer.len() {
                buffer.shrink_to_fit();
            }
            let charge = buffer.capacity();
            self.charge(charge);
            Bytes::from_owner(Frame { buffer, charge, memory: Arc::clone(self), unpacked: true })
        })
    }

    fn charge(&self, bytes: usize) {
        let before = self.held.fetch_add(bytes, Ordering::AcqRel);
        self.peak.fetch_max(before + bytes, Ordering::Relaxed);
        self.trim();
    }

    /// Lets go of free buffers where others need the room.
    fn trim(&self) {
        let over = || self.held() + self.idle.load(Ordering::Acquire) > self.limit;
        if !over() {
            return;
        }
        let mut free = self.free();
        while over() {
            let Some(buffer) = free.unpacked.pop().or_else(|| free.answers.pop()) else { return };
            self.idle.fetch_sub(buffer.capacity(), Ordering::AcqRel);
        }
    }

    /// Keeps a buffer that is not used any more, if there is room.
    fn give(&self, buffer: Vec<u8>, unpacked: bool) {
        let size = buffer.capacity();
        let least = if unpacked { SMALL_BATCH } else { SMALL };
        if size <= least
            || size > self.keep
            || self.held() + self.idle.load(Ordering::Acquire) + size > self.limit
        {
            return;
        }
        let mut free = self.free();
        let (list, most) = match unpacked {
            true => (&mut free.unpacked, MAX_UNPACKED),
            false => (&mut free.answers, MAX_FREE),
        };
        if list.len() < most {
            list.push(buffer);
            self.idle.fetch_add(size, Ordering::AcqRel);
        }
    }

    /// Somebody who waits for room shall look again.
    pub(super) fn nudge(&self) {
        if self.waiting.load(Ordering::Acquire) > 0 {
            self.room.notify_waiters();
        }
    }

    fn release(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.held.fetch_sub(bytes, Ordering::AcqRel);
        self.nudge();
    }

    fn free(&self) -> std::sync::MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who waits for room.
pub(crate) struct Waiter<'a> {
    memory: &'a Memory,
}

impl Waiter<'_> {
    /// The next release. To be made before the try that may fail, so that none is missed.
    pub(crate) fn released(&self) -> tokio::sync::futures::Notified<'_> {
        self.memory.room.notified()
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.memory.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Room for an answer: bytes that count as held until it is dropped, or until the answer's frame counts in their stead.
#[derive(Debug)]
pub(crate) struct Room {
    memory: Arc<Memory>,
    bytes: usize,
    left: AtomicUsize,
}

impl Room {
    /// How many bytes were reserved.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// A buffer for a frame of so many bytes. It may have less capacity: memory grows with what comes.
    pub(crate) fn buffer(&self, length: usize) -> Vec<u8> {
        if length > SMALL {
            let mut free = self.memory.free();
            // One that is much too large would be charged for nothing.
            let fits =
                |buffer: &Vec<u8>| (length / 2..=length.saturating_mul(2)).contains(&buffer.capacity());
            if let Some(at) = free.answers.iter().rposition(fits) {
                let mut buffer = free.answers.remove(at);
                self.memory.idle.fetch_sub(buffer.capacity(), Ordering::AcqRel);
                buffer.clear();
                return buffer;
            }
        }
        Vec::with_capacity(length.min(FIRST))
    }

    /// Makes a frame of a full buffer. It counts in the reservation's stead.
    pub(crate) fn frame(&self, buffer: Vec<u8>) -> Bytes {
        if buffer.is_empty() {
            return Bytes::new();
        }
        let memory = Arc::clone(&self.memory);
        let (charge, reserved) = (buffer.capacity(), self.left.swap(0, Ordering::AcqRel));
        if charge > reserved {
            memory.charge(charge - reserved);
        } else {
            memory.release(reserved - charge);
        }
        Bytes::from_owner(Frame { buffer, charge, memory, unpacked: false })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.memory.release(*self.left.get_mut());
    }
}

/// A buffer and its charge.
struct Frame {
    buffer: Vec<u8>,
    charge: usize,
    memory: Arc<Memory>,
    unpacked: bool,
}

impl AsRef<[u8]> for Frame {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        self.memory.release(self.charge);
        self.memory.give(buffer, self.unpacked);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_gives_its_buffer_and_its_charge_back_with_its_last_part() {
        let memory = Memory::new(1 << 20, 1 << 20);
        let room = memory.reserve(300_000).unwrap();
        let mut buffer = room.buffer(200_000);
        buffer.extend_from_slice(&[7; 200_000]);
        let place = buffer.as_ptr();
        let frame = room.frame(buffer);
        drop(room);
        let part = frame.slice(5..10);
        drop(frame);
        assert!((200_000..300_000).contains(&memory.held()) && memory.peak() == 300_000);
        assert!(memory.reserve(1 << 20).is_none());
        drop(part);
        assert_eq!(memory.held(), 0);
        let room = memory.reserve(1).unwrap();
        let (small, fitting) = (room.buffer(70_000), room.buffer(150_000));
        assert_ne!(small.as_ptr(), place);
        assert_eq!(fitting.as_ptr(), place);
    }

    #[test]
    fn the_first_reservation_finds_room_whatever_its_size() {
        let memory = Memory::new(10, 10);
        let large = memory.reserve(100).unwrap();
        assert!(memory.reserve(1).is_none());
        drop(large);
        let small = memory.reserve(4).unwrap();
        assert!(memory.reserve(7).is_none() && memory.reserve(6).is_some());
        drop(small);
        assert_eq!((memory.held(), memory.peak()), (0, 100));
    }

    #[tokio::test]
    async fn a_release_between_the_try_and_the_wait_is_not_missed() {
        let memory = Memory::new(10, 10);
        let held = memory.reserve(10).unwrap();
        let waiter = memory.waiter();
        let released = waiter.released();
        assert!(memory.reserve(1).is_none());
        drop(held);
        tokio::time::timeout(std::time::Duration::from_secs(5), released).await.unwrap();
    }

    fn batch(fill: usize) -> RecordBatch {
        use milena_protocol::compression::Compression::Zstd;
        use milena_protocol::records::{BatchBuilder, BatchIdentity, BatchOptions};
        let mut builder = BatchBuilder::new(BatchOptions { compression: Zstd, ..BatchOptions::default() });
        let noise = (0..fill as u32).map(|i| (i.wrapping_mul(i).wrapping_mul(2_654_435_761) >> 24) as u8);
        builder.push(0, None, Some(&noise.collect::<Vec<u8>>()), []).unwrap();
        let mut bytes = builder.build(BatchIdentity::default()).unwrap();
        RecordBatch::parse(&mut bytes).unwrap().unwrap()
    }

    #[test]
    fn decompressed_bytes_are_held_and_their_buffers_used_again_within_the_limit() {
        let memory = Memory::new(500_000, 500_000);
        let large = batch(150_000);
        let first = memory.unpack(&large).unwrap();
        let (place, size) = (first.buffer().as_ptr(), memory.held());
        assert!((150_000..250_000).contains(&size), "{size}");
        let part = first.buffer().slice(5..10);
        drop(first);
        assert_eq!(memory.held(), size);
        drop(part);
        assert_eq!((memory.held(), memory.idle.load(Ordering::Relaxed)), (0, size));
        let again = memory.unpack(&large).unwrap();
        assert_eq!((again.buffer().as_ptr(), memory.idle.load(Ordering::Relaxed)), (place, 0));
        drop(again);
        // What is reserved takes the place of free buffers.
        let room = memory.reserve(450_000).unwrap();
        assert_eq!((memory.held(), memory.idle.load(Ordering::Relaxed)), (450_000, 0));
        assert!(memory.has_room());
        let over = memory.unpack(&large).unwrap();
        assert!(!memory.has_room());
        drop((over, room));
        assert_eq!(memory.held(), 0);
        // A small one takes no more than it holds.
        let small = memory.unpack(&batch(100)).unwrap();
        assert!(memory.held() < 300, "{}", memory.held());
        drop(small);
    }

    #[test]
    fn a_buffer_for_a_lie_about_the_length_is_small() {
        let memory = Memory::new(1 << 30, 1 << 30);
        assert!(memory.reserve(1).unwrap().buffer(1 << 29).capacity() <= FIRST);
    }
}
