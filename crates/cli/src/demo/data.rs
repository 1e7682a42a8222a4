//! The demo's records: all of them follow from a seed and a number, so that the output can be judged record by record.

/// How far a record's event time may lie behind that of an earlier record, in milliseconds.
pub(crate) const DISORDER_MS: i64 = 500;
/// Event time of the first record: an arbitrary round moment.
const FIRST_EVENT_MS: i64 = 1_700_000_000_000;
/// Event time between two records, before disorder.
const STEP_MS: i64 = 10;
/// What the job's function puts before each value; seeing it in the output shows that the function ran.
pub(crate) const MARK: &[u8] = b"seen ";

/// The input of a demo: `records` records over `keys` keys.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Data {
    pub(crate) seed: u64,
    pub(crate) records: u64,
    keys: u64,
}

/// One record of the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Datum {
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) event_ms: i64,
}

impl Data {
    /// `records` records that follow from `seed`.
    pub(crate) fn new(seed: u64, records: u64) -> Self {
        Self { seed, records, keys: records.clamp(1, 1000) }
    }

    /// Record number `number`.
    pub(crate) fn datum(&self, number: u64) -> Datum {
        let noise = mix(self.seed ^ mix(number));
        let key = format!("key-{:04}", noise % self.keys);
        let disorder = (noise >> 32) % (DISORDER_MS.unsigned_abs() + 1);
        let event_ms = FIRST_EVENT_MS
            .saturating_add(STEP_MS.saturating_mul(i64::try_from(number).unwrap_or(i64::MAX)))
            .saturating_sub(i64::try_from(disorder).unwrap_or(0));
        let value = format!(
            "{number:012} {noise:016x} {:016x} {:016x} of a demo that counts",
            mix(noise),
            mix(!noise)
        );
        Datum { key, value, event_ms }
    }

    /// The number of the record that a value of the output came from; `None` if it is none of ours.
    pub(crate) fn number_of(&self, output: &[u8]) -> Option<u64> {
        let value = output.strip_prefix(MARK)?;
        let number = std::str::from_utf8(value.get(..12)?).ok()?.parse().ok()?;
        (number < self.records && self.datum(number).value.as_bytes() == value).then_some(number)
    }
}

/// A well-mixed 64-bit value: the finaliser of `SplitMix64`.
pub(crate) fn mix(value: u64) -> u64 {
    let mut mixed = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_value_is_not_taken_for_a_record() {
        let data = Data::new(7, 100);
        let mut output = [MARK, data.datum(42).value.as_bytes()].concat();
        assert_eq!(data.number_of(&output), Some(42));
        let last = output.len() - 1;
        output[last] ^= 1;
        assert_eq!(data.number_of(&output), None);
        assert_eq!(data.number_of(data.datum(42).value.as_bytes()), None);
        assert_eq!(data.number_of(b"seen "), None);
    }

    #[test]
    fn event_times_are_out_of_order_by_no_more_than_the_bound() {
        let data = Data::new(1, 10_000);
        let mut latest = i64::MIN;
        for number in 0..10_000 {
            let event = data.datum(number).event_ms;
            assert!(event >= latest.saturating_sub(DISORDER_MS));
            latest = latest.max(event);
        }
    }
}
