//! Batches that no honest writer leaves: damaged, or made to burst their reader.

use bytes::{BufMut, Bytes};
use milena_protocol::compression::{Compression, compress};
use milena_protocol::error::Result;
use milena_protocol::records::{
    BatchBuilder, BatchIdentity, BatchOptions, HEADER_LEN, MessageFormat, MessageSetBuilder,
};
use milena_protocol::types::Offset;

/// A wrapper of format 1 with a message for each of these values, which end at offset `last`. The checksum of the wrapper is right, and
/// that of the message at `wrong` is not: what a faulty compressor of a producer, or a broker that made wrappers anew, left behind.
///
/// # Errors
/// The values take too much room.
pub fn wrapper_of_a_damaged_message(last: Offset, values: &[&[u8]], wrong: usize) -> Result<Bytes> {
    let mut inner = MessageSetBuilder::new(MessageFormat::V1, Compression::None, None);
    let mut place = 0;
    for (number, value) in values.iter().enumerate() {
        if number == wrong {
            place = inner.size_bytes() + CRC;
        }
        inner.push(1, None, Some(value))?;
    }
    let mut inner = inner.build()?.to_vec();
    if let Some(byte) = inner.get_mut(place) {
        *byte ^= 1;
    }
    let mut packed = Vec::new();
    compress(Compression::Gzip, None, &inner, &mut packed)?;
    let mut body = vec![MessageFormat::V1.magic() as u8, Compression::Gzip.code() as u8];
    body.put_i64(1);
    body.put_i32(-1);
    body.put_i32(packed.len() as i32);
    body.put_slice(&packed);
    let mut wrapper = Vec::with_capacity(CRC + 4 + body.len());
    wrapper.put_i64(last.0);
    wrapper.put_i32(body.len() as i32 + 4);
    wrapper.put_u32(crc32fast::hash(&body));
    wrapper.put_slice(&body);
    Ok(wrapper.into())
}

/// Where the checksum of a message lies, behind its offset and its size.
const CRC: usize = 12;

/// A batch of format 2 with one record at this offset, whose value is so many zeros: a hundredth of a percent of them, as it lies in the log.
/// Its checksum is right, and whoever has the room can read it.
///
/// # Errors
/// None that is known of: the batch is small.
pub fn bomb(offset: Offset, zeros: u32) -> Result<Bytes> {
    // No attributes, no deltas of time and offset, no key.
    let mut record = vec![0, 0, 0, 1];
    put_varint(&mut record, i64::from(zeros));
    let mut start = Vec::new();
    // The number of headers is the last of the zeros.
    put_varint(&mut start, record.len() as i64 + i64::from(zeros) + 1);
    start.append(&mut record);

    // A frame of zstd: its number, no options, a window of 128 KiB. Then a block of plain bytes, and blocks of one byte that is repeated.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 7 << 3];
    frame.put_uint_le((start.len() as u64) << 3, 3);
    frame.put_slice(&start);
    let mut left = u64::from(zeros) + 1;
    while left > 0 {
        let size = left.min(128 * 1024);
        left -= size;
        frame.put_uint_le(size << 3 | 1 << 1 | u64::from(left == 0), 3);
        frame.put_u8(0);
    }

    let mut builder =
        BatchBuilder::new(BatchOptions { compression: Compression::Zstd, ..BatchOptions::default() });
    builder.push(1, None, None, [])?;
    let identity = BatchIdentity { base_offset: offset, ..BatchIdentity::default() };
    let mut batch = builder.build(identity)?.to_vec();
    batch.truncate(HEADER_LEN);
    batch.append(&mut frame);
    let length = (batch.len() - 12) as i32;
    put_at(&mut batch, 8, &length.to_be_bytes());
    let sum = crc32c::crc32c(batch.get(21..).unwrap_or_default());
    put_at(&mut batch, 17, &sum.to_be_bytes());
    Ok(batch.into())
}

fn put_at(bytes: &mut [u8], at: usize, part: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + part.len()) {
        place.copy_from_slice(part);
    }
}

fn put_varint(out: &mut Vec<u8>, value: i64) {
    let mut left = (value << 1 ^ value >> 63) as u64;
    while left >= 0x80 {
        out.push(left as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
}
