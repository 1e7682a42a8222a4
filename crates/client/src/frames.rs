//! Frames off a socket and pieces onto it, without copies where bytes are many.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use milena_protocol::{Result, frame};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::consumer::Room;

/// Room for small answers, many to a read.
const SMALL: usize = 64 * 1024;

/// The first piece of memory for a large answer. Later ones double what came.
const FIRST_LARGE: usize = 256 * 1024;

/// Cuts a byte stream into frames.
///
/// Small frames share a buffer; one that does not fit gets memory of its own and is read straight into it, so that
/// records are never moved. That memory grows with what came: a lie about the length costs nothing.
#[derive(Debug)]
pub(crate) struct FrameReader {
    small: BytesMut,
    large: Option<Large>,
    max: usize,
}

#[derive(Debug)]
struct Large {
    bytes: Vec<u8>,
    length: usize,
    /// Whose memory it is in; `None` for its own.
    room: Option<Arc<Room>>,
}

impl Large {
    fn freeze(self) -> Bytes {
        match self.room {
            Some(room) => room.frame(self.bytes),
            None => Bytes::from(self.bytes),
        }
    }
}

/// How much is read at most before a frame that goes into a memory of its own: what is read with its beginning has to be moved.
const HEAD: usize = 4096;

impl FrameReader {
    /// A reader that refuses frames above `max` bytes.
    pub(crate) fn new(max: usize) -> Self {
        Self { small: BytesMut::new(), large: None, max }
    }

    /// Whether no part of a frame is waiting for its rest.
    pub(crate) fn is_between_frames(&self) -> bool {
        self.small.is_empty() && self.large.is_none()
    }

    /// Reads once. 0 is the end of the stream. `owned`: the next frame goes into a memory of its own, so that little is read before
    /// its length is known.
    ///
    /// # Cancellation
    /// Safe: either bytes were read and kept, or none were.
    pub(crate) async fn fill(
        &mut self,
        reader: &mut (impl AsyncRead + Unpin),
        owned: bool,
    ) -> io::Result<usize> {
        match &mut self.large {
            Some(large) => {
                let missing = large.length - large.bytes.len();
                if large.bytes.capacity() == large.bytes.len() {
                    large.bytes.reserve_exact(missing.min(large.bytes.len().max(FIRST_LARGE)));
                }
                reader.read_buf(&mut (&mut large.bytes).limit(missing)).await
            }
            None => {
                if self.small.capacity() - self.small.len() < SMALL / 8 {
                    self.small.reserve(SMALL);
                }
                if owned {
                    return reader.read_buf(&mut (&mut self.small).limit(HEAD)).await;
                }
                reader.read_buf(&mut self.small).await
            }
        }
    }

    /// The next complete frame without its length; it goes into the room, if there is one.
    pub(crate) fn take(&mut self, room: Option<&Arc<Room>>) -> Result<Option<Bytes>> {
        if let Some(large) = self.large.take() {
            if large.bytes.len() < large.length {
                self.large = Some(large);
                return Ok(None);
            }
            return Ok(Some(large.freeze()));
        }
        if let Some(room) = room {
            return self.take_into(room);
        }
        if let Some(frame) = frame::split(&mut self.small, self.max)? {
            return Ok(Some(frame));
        }
        if let Some(length) = frame::announced(&self.small, self.max)?
            && length + frame::PREFIX > SMALL
        {
            let mut bytes = Vec::with_capacity(length.min(FIRST_LARGE.max(self.small.len())));
            bytes.extend_from_slice(self.small.get(frame::PREFIX..).unwrap_or_default());
            self.small.clear();
            self.large = Some(Large { bytes, length, room: None });
        }
        Ok(None)
    }

    fn take_into(&mut self, room: &Arc<Room>) -> Result<Option<Bytes>> {
        let Some(length) = frame::announced(&self.small, self.max)? else { return Ok(None) };
        self.small.advance(frame::PREFIX);
        let here = self.small.split_to(length.min(self.small.len()));
        let mut bytes = room.buffer(length);
        bytes.extend_from_slice(&here);
        let large = Large { bytes, length, room: Some(Arc::clone(room)) };
        if large.bytes.len() == length {
            return Ok(Some(large.freeze()));
        }
        self.large = Some(large);
        Ok(None)
    }
}

/// Pieces waiting to be written, given to the socket many at a time (`writev`).
#[derive(Debug, Default)]
pub(crate) struct WriteQueue {
    pieces: VecDeque<Bytes>,
    bytes: usize,
}

impl WriteQueue {
    /// Appends a piece.
    pub(crate) fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.bytes += piece.len();
            self.pieces.push_back(piece);
        }
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// How many pieces wait.
    pub(crate) fn pieces(&self) -> usize {
        self.pieces.len()
    }
}

impl Buf for WriteQueue {
    fn remaining(&self) -> usize {
        self.bytes
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |piece| piece.as_ref())
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut count = 0;
        for (slot, piece) in slices.iter_mut().zip(&self.pieces) {
            *slot = IoSlice::new(piece);
            count += 1;
        }
        count
    }

    fn advance(&mut self, count: usize) {
        let mut left = count.min(self.bytes);
        self.bytes -= left;
        while let Some(front) = self.pieces.front_mut() {
            if front.len() > left {
                front.advance(left);
                return;
            }
            left -= front.len();
            self.pieces.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consumer::Memory;
    use proptest::prelude::*;

    fn framed(body: &[u8]) -> Vec<u8> {
        [&(body.len() as i32).to_be_bytes(), body].concat()
    }

    fn read_all(stream: &[u8], step: usize, max: usize, room: Option<&Arc<Room>>) -> (Vec<Bytes>, bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut reader = FrameReader::new(max);
            let mut frames = Vec::new();
            for mut piece in stream.chunks(step) {
                while !piece.is_empty() {
                    reader.fill(&mut piece, room.is_some()).await.unwrap();
                    while let Some(frame) = reader.take(room).unwrap() {
                        frames.push(frame);
                    }
                }
            }
            (frames, reader.is_between_frames())
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn frames_come_out_whole_whatever_their_size_and_the_reads(
            sizes in proptest::collection::vec(prop_oneof![0usize..200, 60_000usize..70_000, 200_000usize..900_000], 1..6),
            step in prop_oneof![1usize..5000, 50_000usize..500_000],
        ) {
            let bodies: Vec<Vec<u8>> =
                sizes.iter().enumerate().map(|(at, &size)| vec![at as u8 + 1; size]).collect();
            let stream: Vec<u8> = bodies.iter().flat_map(|body| framed(body)).collect();
            let memory = Memory::new(1 << 20, 1 << 20);
            let room = memory.reserve(1 << 20);
            for room in [None, room.as_ref()] {
                let (frames, between) = read_all(&stream, step.max(stream.len() / 2000), 1 << 20, room);
                prop_assert!(between);
                prop_assert_eq!(frames.len(), bodies.len());
                prop_assert!(frames.iter().zip(&bodies).all(|(frame, body)| frame == body));
            }
            drop(room);
            prop_assert_eq!(memory.held(), 0);
        }

        #[test]
        fn a_write_queue_gives_its_bytes_in_order(pieces in proptest::collection::vec(0usize..50, 0..20), step in 1usize..60) {
            let mut queue = WriteQueue::default();
            let mut expected = Vec::new();
            for (at, size) in pieces.into_iter().enumerate() {
                expected.extend(vec![at as u8; size]);
                queue.push(Bytes::from(vec![at as u8; size]));
            }
            let mut seen = Vec::new();
            while queue.has_remaining() {
                let mut slices = [IoSlice::new(&[]); 4];
                let filled = queue.chunks_vectored(&mut slices);
                let joined: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
                let count = step.min(joined.len());
                seen.extend_from_slice(&joined[..count]);
                queue.advance(count);
            }
            prop_assert!(queue.is_empty() && queue.pieces() == 0);
            prop_assert_eq!(seen, expected);
        }
    }

    #[test]
    fn a_lie_about_the_length_reserves_little() {
        let mut reader = FrameReader::new(100 << 20);
        reader.small.extend_from_slice(&(90i32 << 20).to_be_bytes());
        reader.small.extend_from_slice(b"little");
        assert!(reader.take(None).unwrap().is_none());
        let large = reader.large.as_ref().unwrap();
        assert!(large.bytes.capacity() <= 2 * FIRST_LARGE, "{}", large.bytes.capacity());
    }

    #[test]
    fn a_frame_above_the_limit_is_refused() {
        let mut reader = FrameReader::new(1000);
        reader.small.extend_from_slice(&1001i32.to_be_bytes());
        assert!(reader.take(None).is_err());
    }
}
