//! The bytes a consumer holds, and the buffers its answers are read into.
//!
//! A frame is a buffer and its charge: whoever drops the last reference to any part of it gives both back. A request reserves what its
//! answer may take before it goes out, so the answers of all brokers together stay within the limit; only a single batch that is larger
//! than a request's limit may exceed it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

/// Buffers kept for reuse, at most.
const MAX_FREE: usize = 4;

/// The first piece of memory for an answer. Later ones double what came: a lie about the length costs little.
const FIRST: usize = 256 * 1024;

/// Answers up to here get memory of their exact size.
const SMALL: usize = 64 * 1024;

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
    free: Mutex<Vec<Vec<u8>>>,
    /// Buffers above this are not kept.
    keep: usize,
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
        Some(Arc::new(Room { memory: Arc::clone(self), bytes, left: AtomicUsize::new(bytes) }))
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

    fn give(&self, buffer: Vec<u8>) {
        if buffer.capacity() > SMALL && buffer.capacity() <= self.keep {
            let mut free = self.free();
            if free.len() < MAX_FREE {
                free.push(buffer);
            }
        }
    }

    fn release(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.held.fetch_sub(bytes, Ordering::AcqRel);
        if self.waiting.load(Ordering::Acquire) > 0 {
            self.room.notify_waiters();
        }
    }

    fn free(&self) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
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
            if let Some(at) = free.iter().position(fits) {
                let mut buffer = free.swap_remove(at);
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
            let before = memory.held.fetch_add(charge - reserved, Ordering::AcqRel);
            memory.peak.fetch_max(before + charge - reserved, Ordering::Relaxed);
        } else {
            memory.release(reserved - charge);
        }
        Bytes::from_owner(Frame { buffer, charge, memory })
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
}

impl AsRef<[u8]> for Frame {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        self.memory.give(std::mem::take(&mut self.buffer));
        self.memory.release(self.charge);
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

    #[test]
    fn a_buffer_for_a_lie_about_the_length_is_small() {
        let memory = Memory::new(1 << 30, 1 << 30);
        assert!(memory.reserve(1).unwrap().buffer(1 << 29).capacity() <= FIRST);
    }
}
