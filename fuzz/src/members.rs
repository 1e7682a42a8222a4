//! What members of a consumer group tell each other: read within its stated cost, as kafka-protocol reads it, and the same after it
//! was written again.

use std::fmt::Debug;

use bytes::{Bytes, BytesMut};
use milena_protocol::consumer_protocol::{
    decode_assignment, decode_subscription, encode_assignment, encode_subscription,
};
use milena_protocol::guard::{self, shape};
use milena_protocol::{Encodable, Message, Result};

use super::guarded::SLACK;
use super::memory;

/// The target `consumer_protocol`: the first byte says whether the others are what a member wants, or what it was given.
pub fn run(input: &[u8]) {
    match input {
        [0, bytes @ ..] => {
            check(guard::consumer_subscription(), bytes, decode_subscription, encode_subscription);
        }
        [_, bytes @ ..] => check(guard::consumer_assignment(), bytes, decode_assignment, encode_assignment),
        [] => {}
    }
}

fn check<M: Message + Encodable + PartialEq + Debug>(
    message: &shape::Message,
    bytes: &[u8],
    decode: impl Fn(Bytes) -> Result<M>,
    encode: impl Fn(&M) -> Result<Bytes>,
) {
    let whole = Bytes::copy_from_slice(bytes);
    let (read, peak) = memory::peak_of(|| decode(whole));
    let Some((version, body)) = bytes.split_first_chunk() else {
        // No bytes at all may stand for something; one does for nothing.
        assert!(read.is_err() || bytes.is_empty());
        return;
    };
    let version = i16::from_be_bytes(*version);
    if version < 0 {
        assert!(read.is_err());
        return;
    }
    let version = version.min(M::VERSIONS.max);
    let Ok(cost) = guard::check_prefix(message, version, body) else {
        assert!(read.is_err(), "the guard refuses it");
        assert!(peak <= SLACK, "a refusal took {peak} bytes");
        return;
    };
    assert!(peak <= cost.memory + SLACK, "{peak} bytes, not {cost:?}");
    let read = read.expect("the guard accepts it");
    // These versions have no tags, so there is one way only to write a value. More may follow it.
    let mut same = BytesMut::new();
    read.encode(&mut same, version).expect("it was read in this version");
    assert!(body.starts_with(&same), "{read:?}");
    let newest = encode(&read).expect("writable");
    assert_eq!(decode(newest).expect("what was written is read"), read);
}
