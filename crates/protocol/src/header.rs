//! Request and response headers, as far as they are read without knowing the message.

use crate::error::{ProtocolError, Result};

/// The key of ApiVersions, whose answers keep the oldest header so that any client can read them (KIP-511).
pub(crate) const API_VERSIONS: i16 = 18;

/// What every request header begins with, in all of its versions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestHead<'a> {
    /// Which API is asked.
    pub api_key: i16,
    /// In which version.
    pub version: i16,
    /// The number that the answer will repeat.
    pub correlation_id: i32,
    /// The name the client gave itself, if any; `None` too if it is not UTF-8.
    pub client_id: Option<&'a str>,
}

/// Reads the beginning of a request frame (the bytes after its length).
///
/// It works for requests in versions that are not known here.
///
/// # Errors
/// Truncated if the frame ends inside of it; Malformed if the client id has a negative length other than -1.
pub fn request_head(frame: &[u8]) -> Result<RequestHead<'_>> {
    let short = || ProtocolError::truncated("the frame ends inside the request header").with_at(frame.len());
    let (api_key, rest) = frame.split_first_chunk().ok_or_else(short)?;
    let (version, rest) = rest.split_first_chunk().ok_or_else(short)?;
    let (correlation_id, rest) = rest.split_first_chunk().ok_or_else(short)?;
    let (length, rest) = rest.split_first_chunk().ok_or_else(short)?;
    let client_id = match i16::from_be_bytes(*length) {
        -1 => None,
        length => {
            let Ok(length) = usize::try_from(length) else {
                let error = ProtocolError::malformed("a string has a negative length");
                return Err(error.with_at(8).with_field("client_id"));
            };
            let (bytes, _) = rest.split_at_checked(length).ok_or_else(short)?;
            std::str::from_utf8(bytes).ok()
        }
    };
    Ok(RequestHead {
        api_key: i16::from_be_bytes(*api_key),
        version: i16::from_be_bytes(*version),
        correlation_id: i32::from_be_bytes(*correlation_id),
        client_id,
    })
}

/// The correlation id of a response frame (the bytes after its length).
///
/// # Errors
/// Truncated if there are fewer than four bytes.
pub fn correlation_id(frame: &[u8]) -> Result<i32> {
    match frame.first_chunk() {
        Some(id) => Ok(i32::from_be_bytes(*id)),
        None => Err(ProtocolError::truncated("the frame is too short for a response").with_at(frame.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn a_request_head_is_read_whole_or_not_at_all() {
        let frame = [0, 18, 0, 99, 0, 0, 0, 7, 0, 2, b'm', b'i', 9, 9];
        let head = request_head(&frame).unwrap();
        assert_eq!(head, RequestHead { api_key: 18, version: 99, correlation_id: 7, client_id: Some("mi") });
        for cut in 0..12 {
            assert_eq!(request_head(&frame[..cut]).unwrap_err().kind(), ErrorKind::Truncated, "{cut}");
        }
        assert_eq!(request_head(&[0, 18, 0, 3, 0, 0, 0, 7, 0xff, 0xff]).unwrap().client_id, None);
        assert!(request_head(&[0, 18, 0, 3, 0, 0, 0, 7, 0xff, 0xfe]).is_err());
    }

    #[test]
    fn a_correlation_id_needs_four_bytes() {
        assert_eq!(correlation_id(&[0xff, 0xff, 0xff, 0xfe, 1]).unwrap(), -2);
        assert!(correlation_id(&[0, 0, 0]).is_err());
    }
}
