//! Frames: a length of 4 bytes, then that many bytes.

use bytes::{Buf, Bytes, BytesMut};

use crate::error::{ProtocolError, Result};

/// The largest frame that is accepted by default, in bytes: 100 MiB, Kafka's `socket.request.max.bytes`.
pub const DEFAULT_MAX: usize = 104_857_600;

/// Bytes of the length before a frame.
pub const PREFIX: usize = 4;

/// The length that a buffer's first four bytes announce, without taking anything; `None` when there are fewer.
///
/// # Errors
/// Malformed if it is negative, TooLarge if it is above `max`. Nothing can follow on that connection.
pub fn announced(buf: &[u8], max: usize) -> Result<Option<usize>> {
    let Some(prefix) = buf.first_chunk::<PREFIX>() else { return Ok(None) };
    let length = i32::from_be_bytes(*prefix);
    let Ok(length) = usize::try_from(length) else {
        return Err(
            ProtocolError::malformed(format!("a frame announces a length of {length} bytes")).with_at(0)
        );
    };
    if length > max {
        let text = format!("a frame announces {length} bytes, above the limit of {max}");
        return Err(ProtocolError::too_large(text).with_at(0));
    }
    Ok(Some(length))
}

/// Splits the first complete frame off a buffer, without its length; `None` while it is incomplete.
///
/// Reserves nothing: how much room to make for the rest of a frame is up to whoever reads the socket.
///
/// # Errors
/// As [`announced`]; the buffer is left as it was.
pub fn split(buf: &mut BytesMut, max: usize) -> Result<Option<Bytes>> {
    let Some(length) = announced(buf, max)? else { return Ok(None) };
    if buf.len() - PREFIX < length {
        return Ok(None);
    }
    buf.advance(PREFIX);
    Ok(Some(buf.split_to(length).freeze()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn frames_come_out_whole_however_the_bytes_arrive() {
        let frames: [&[u8]; 4] = [b"", b"a", b"milena", &[0xff; 300]];
        let stream: Vec<u8> =
            frames.iter().flat_map(|f| [&(f.len() as i32).to_be_bytes(), *f].concat()).collect();
        for step in 1..=stream.len() {
            let (mut buf, mut seen) = (BytesMut::new(), Vec::new());
            for piece in stream.chunks(step) {
                buf.extend_from_slice(piece);
                while let Some(frame) = split(&mut buf, 300).unwrap() {
                    seen.push(frame);
                }
            }
            assert_eq!(seen, frames, "in steps of {step}");
            assert!(buf.is_empty());
        }
    }

    #[test]
    fn a_lie_about_the_length_is_an_error_at_once() {
        let mut huge = BytesMut::from(&[0x7f, 0xff, 0xff, 0xff][..]);
        assert_eq!(split(&mut huge, DEFAULT_MAX).unwrap_err().kind(), ErrorKind::TooLarge);
        let mut negative = BytesMut::from(&[0xff, 0xff, 0xff, 0xfe][..]);
        assert_eq!(split(&mut negative, DEFAULT_MAX).unwrap_err().kind(), ErrorKind::Malformed);
        assert_eq!(split(&mut BytesMut::from(&[0, 0, 1, 0x2c][..]), 300).unwrap(), None);
        assert_eq!(
            split(&mut BytesMut::from(&[0, 0, 1, 0x2d][..]), 300).unwrap_err().kind(),
            ErrorKind::TooLarge
        );
    }
}
