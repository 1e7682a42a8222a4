//! What stands for a field in a version that lacks it.

use crate::guard::shape::Field;

/// What a field is taken to be where a version lacks it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Absence {
    /// Its value on the wire; `None` for zero, null if it may be, else empty.
    pub(crate) value: Option<&'static [u8]>,
    /// Whether another value may be left out when the version lacks the field. If not, writing it is an error.
    pub(crate) ignorable: bool,
}

const MINUS_ONE: &[u8] = &[0xff; 8];
const MINUS_ONE_32: &[u8] = &[0xff; 4];
/// `PatternType.LITERAL`: before KIP-290 every pattern was one.
const LITERAL: &[u8] = &[3];

const fn ignored(value: &'static [u8]) -> Absence {
    Absence { value: Some(value), ignorable: true }
}

/// The `default` and `ignorable` of Kafka's schemas, for the fields that a version spoken here lacks and kafka-protocol's
/// nearest one has, or the reverse.
pub(crate) fn absence(field: &Field) -> Absence {
    match field.name {
        "generation_id_or_member_epoch"
        | "current_leader_epoch"
        | "leader_epoch"
        | "delivery_complete_count" => ignored(MINUS_ONE_32),
        "log_append_time_ms" | "last_stable_offset" | "retention_time_ms" | "commit_timestamp"
        | "timestamp" | "offset" | "lag" => ignored(MINUS_ONE),
        "max_bytes" => ignored(&[0x7f, 0xff, 0xff, 0xff]),
        // Version 0 of ListOffsets asks for so many offsets before a time; one is what later versions answer.
        "max_num_offsets" => ignored(&[0, 0, 0, 1]),
        "pattern_type_filter" | "pattern_type" | "resource_pattern_type" => {
            Absence { value: Some(LITERAL), ignorable: false }
        }
        "ack_when_committed" => Absence { value: Some(&[1]), ignorable: false },
        "transactional_id"
        | "validate_only"
        | "include_synonyms"
        | "is_renew_ack"
        | "cordoned_log_dirs"
        | "leader_recovery_state"
        | "enable2_pc"
        | "keep_prepared_txn" => Absence { value: None, ignorable: false },
        _ => Absence { value: None, ignorable: true },
    }
}

/// `ConfigSource` of a config entry in version 0 of DescribeConfigs, which says only whether it is the default. As Java's
/// client has it: what is set is set where the resource is.
pub(super) const fn config_source(is_default: bool, resource_type: u8) -> u8 {
    const TOPIC: u8 = 2;
    const BROKER: u8 = 4;
    match (is_default, resource_type) {
        (true, _) => DEFAULT_CONFIG,
        (false, TOPIC) => 1,
        (false, BROKER) => 4,
        (false, _) => 0,
    }
}

/// `ConfigSource.DEFAULT_CONFIG`.
pub(super) const DEFAULT_CONFIG: u8 = 5;

/// The first of the tags under which a decoded struct keeps fields that kafka-protocol has no place for: see
/// [`crate::newer`]. Kafka numbers tags from 0; these are far from all it will ever give out.
const FIRST: u32 = 0x4d69_0000;

/// Whether a tag is one of those.
pub(crate) const fn is_stow(tag: u32) -> bool {
    tag >> 16 == FIRST >> 16
}

/// The tag of a field that kafka-protocol has no place for.
pub(crate) const fn stow(name: &str) -> Option<u32> {
    Some(match name.as_bytes() {
        b"topic_id" => FIRST,
        b"topic_name" => FIRST + 1,
        b"lag" => FIRST + 2,
        b"share_acquire_mode" => FIRST + 3,
        b"is_renew_ack" => FIRST + 4,
        b"acquisition_lock_timeout_ms" => FIRST + 5,
        b"is_cordoned" => FIRST + 6,
        b"ack_when_committed" => FIRST + 7,
        b"delivery_complete_count" => FIRST + 8,
        b"transaction_version" => FIRST + 9,
        _ => return None,
    })
}
