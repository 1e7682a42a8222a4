//! Messages inside of messages: what members of a consumer group tell each other (KIP-429, KIP-881).

use super::Dump;
use crate::guard::shape::Message;
use crate::guard::{consumer_assignment, consumer_subscription};

/// What a byte field holds.
#[derive(Clone, Debug)]
pub struct Inside<'a> {
    /// The version that stands before the message, in two bytes.
    pub version: i16,
    /// The message; its places count from its first byte, behind the version.
    pub dump: Dump<'a>,
}

/// Bytes of the version before the message.
const VERSION: usize = 2;

/// Opens a byte field of an API's request or response: what consumers subscribe to and are given, in JoinGroup, SyncGroup
/// and DescribeGroups. `None` if it holds something else, as groups of other kinds do, or nothing.
#[must_use]
pub fn inside<'a>(api_key: i16, field: &str, bytes: &'a [u8]) -> Option<Inside<'a>> {
    let message: &'static Message = match (api_key, field) {
        (11, "metadata") | (15, "member_metadata") => consumer_subscription(),
        (14, "assignment") | (15, "member_assignment") => consumer_assignment(),
        _ => return None,
    };
    let version = i16::from_be_bytes(*bytes.first_chunk::<VERSION>()?);
    let dump = Dump::data(message, version, bytes.get(VERSION..)?)?;
    dump.clone().all(|event| event.is_ok()).then_some(Inside { version, dump })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_reads_whole_is_opened() {
        let subscription = [0, 0, 0, 0, 0, 1, 0, 1, b't', 0xff, 0xff, 0xff, 0xff];
        assert_eq!(inside(11, "metadata", &subscription).unwrap().version, 0);
        assert!(inside(11, "metadata", &subscription[..9]).is_none());
        assert!(inside(11, "metadata", &[&subscription[..], &[0]].concat()).is_none());
        assert!(inside(14, "metadata", &subscription).is_none());
        assert!(inside(11, "metadata", b"").is_none());
        assert!(inside(11, "metadata", &[0, 99, 0, 0, 0, 0, 0, 0, 0, 0]).is_none());
    }
}
