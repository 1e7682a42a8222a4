//! Records that are not what was written.

use bytes::{BufMut, Bytes};
use milena_protocol::compression::{Compression, compress};
use milena_protocol::error::Result;
use milena_protocol::records::{MessageFormat, MessageSetBuilder};
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
    wrapper.put_u32(crc32(&body));
    wrapper.put_slice(&body);
    Ok(wrapper.into())
}

/// Where the checksum of a message lies, behind its offset and its size.
const CRC: usize = 12;

/// The checksum of formats 0 and 1, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}
