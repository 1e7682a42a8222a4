//! Any messages of formats 0 and 1, with right checksums and, for half of the inputs, inside a compressed wrapper: every reader ends
//! without a panic, and its promises hold.

use milena_protocol::compression::{Compression, compress_v0};
use milena_protocol::records::batches;

use super::records::check_batches;

/// Where a message's checksum stands, behind offset and size.
const CRC: std::ops::Range<usize> = 12..16;

/// Writes the checksums of all messages that are whole.
fn seal(mut set: &mut [u8]) {
    while let Some(&[_, _, _, _, _, _, _, _, a, b, c, d]) = set.first_chunk() {
        let size = usize::try_from(i32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if size < 4 || size > set.len() - CRC.start {
            return;
        }
        let (message, rest) = set.split_at_mut(CRC.start + size);
        let crc = crc32fast::hash(&message[CRC.end..]);
        message[CRC].copy_from_slice(&crc.to_be_bytes());
        set = rest;
    }
}

fn wrapper(codec: Compression, format: u8, log_append_time: bool, offset: u8, inner: &[u8]) -> Vec<u8> {
    let mut value = Vec::new();
    compress_v0(codec, None, inner, &mut value).expect("compresses");
    let mut message = vec![0, 0, 0, 0, 0, 0, 0, offset, 0, 0, 0, 0, 0, 0, 0, 0, format];
    message.push(codec.code() as u8 | u8::from(log_append_time) << 3);
    if format == 1 {
        message.extend_from_slice(&1_700_000_000_000i64.to_be_bytes());
    }
    message.extend_from_slice(&(-1i32).to_be_bytes());
    message.extend_from_slice(&(value.len() as i32).to_be_bytes());
    message.extend_from_slice(&value);
    let size = (message.len() - CRC.start) as i32;
    message[8..12].copy_from_slice(&size.to_be_bytes());
    message
}

/// The target `message_set`: how, the wrapper's offset, the messages.
pub fn run(bytes: &[u8]) {
    let [how, offset, messages @ ..] = bytes else { return };
    let codec =
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4][usize::from(how & 3)];
    let mut set = messages.to_vec();
    seal(&mut set);
    if codec != Compression::None {
        set = wrapper(codec, how >> 2 & 1, how & 8 != 0, *offset, &set);
        seal(&mut set);
        let batch = batches(set.clone().into()).next().expect("a wrapper").expect("a right one");
        batch.verify_crc().expect("its checksum");
        assert_eq!((batch.compression(), batch.last_offset().0), (codec, i64::from(*offset)));
    }
    check_batches(set.into());
}
