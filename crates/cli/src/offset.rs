//! Positions as people write them: `beginning`, `-10`, `@2026-01-31T12:00:00Z`, `offsets:t/0=5`.

use std::str::FromStr;

use milena::{Offset, PartitionId, TopicPartition};

/// Where `consume` begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OffsetArg {
    /// The first record that is still there.
    Beginning,
    /// Behind the last record.
    End,
    /// This offset.
    At(Offset),
    /// This many records before the end.
    Last(i64),
    /// The first record at or after this time, in milliseconds since 1970.
    Timestamp(i64),
}

impl FromStr for OffsetArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "beginning" | "earliest" => return Ok(Self::Beginning),
            "end" | "latest" => return Ok(Self::End),
            _ => {}
        }
        if let Some(time) = text.strip_prefix("s@").or_else(|| text.strip_prefix('@')) {
            return timestamp(time).map(Self::Timestamp);
        }
        match text.parse::<i64>() {
            Ok(offset) if offset >= 0 => Ok(Self::At(Offset(offset))),
            Ok(back) => Ok(Self::Last(back.saturating_neg())),
            Err(_) => {
                Err(format!("`{text}` is no position; use beginning, end, N, -N (the last N) or @TIMESTAMP"))
            }
        }
    }
}

/// Where `copy` begins without a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StartArg {
    /// The first record that is still there.
    Earliest,
    /// Behind the last record.
    Latest,
    /// Where the group stands; a partition without a committed offset begins at the earliest.
    Committed,
    /// The first record at or after this time, in milliseconds since 1970.
    Timestamp(i64),
    /// These offsets.
    Offsets(Vec<(TopicPartition, Offset)>),
}

impl FromStr for StartArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None => match text {
                "earliest" => Ok(Self::Earliest),
                "latest" => Ok(Self::Latest),
                "committed" => Ok(Self::Committed),
                _ => Err(format!(
                    "`{text}` is no start; use earliest, latest, committed, timestamp:T or offsets:TOPIC/P=OFFSET,…"
                )),
            },
            Some(("timestamp", time)) => timestamp(time).map(Self::Timestamp),
            Some(("offsets", list)) => {
                list.split(',').map(partition_offset).collect::<Result<_, _>>().map(Self::Offsets)
            }
            Some((other, _)) => {
                Err(format!("`{other}:` is no start; use timestamp:T or offsets:TOPIC/P=OFFSET,…"))
            }
        }
    }
}

/// `TOPIC/PARTITION=OFFSET`.
pub(crate) fn partition_offset(text: &str) -> Result<(TopicPartition, Offset), String> {
    let wrong = || format!("`{text}` is not TOPIC/PARTITION=OFFSET");
    let (partition, offset) = text.split_once('=').ok_or_else(wrong)?;
    let (topic, partition) = partition.rsplit_once('/').ok_or_else(wrong)?;
    let partition = partition.parse::<i32>().ok().filter(|id| *id >= 0).ok_or_else(wrong)?;
    let offset = offset.parse::<i64>().ok().filter(|offset| *offset >= 0).ok_or_else(wrong)?;
    if topic.is_empty() {
        return Err(wrong());
    }
    Ok((TopicPartition::new(topic, PartitionId(partition)), Offset(offset)))
}

/// Milliseconds since 1970, or RFC 3339.
pub(crate) fn timestamp(text: &str) -> Result<i64, String> {
    if let Ok(millis) = text.parse::<i64>() {
        return if millis >= 0 { Ok(millis) } else { Err(format!("`{text}` is before 1970")) };
    }
    let time = humantime::parse_rfc3339_weak(text)
        .map_err(|_| format!("`{text}` is no time; use milliseconds since 1970 or 2026-01-31T12:00:00Z"))?;
    let since = time.duration_since(std::time::UNIX_EPOCH).map_err(|_| format!("`{text}` is before 1970"))?;
    i64::try_from(since.as_millis()).map_err(|_| format!("`{text}` is too far away"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_read_as_kcat_reads_them() {
        assert_eq!("beginning".parse(), Ok(OffsetArg::Beginning));
        assert_eq!("end".parse(), Ok(OffsetArg::End));
        assert_eq!("17".parse(), Ok(OffsetArg::At(Offset(17))));
        assert_eq!("-10".parse(), Ok(OffsetArg::Last(10)));
        assert_eq!("s@1000".parse(), Ok(OffsetArg::Timestamp(1000)));
        assert_eq!("@1970-01-01T00:00:01Z".parse(), Ok(OffsetArg::Timestamp(1000)));
        assert!("somewhere".parse::<OffsetArg>().is_err());
    }

    #[test]
    fn starts_name_partitions_of_topics_with_slashes_last() {
        let expected = StartArg::Offsets(vec![
            (TopicPartition::new("a", PartitionId(0)), Offset(5)),
            (TopicPartition::new("b", PartitionId(12)), Offset(0)),
        ]);
        assert_eq!("offsets:a/0=5,b/12=0".parse(), Ok(expected));
        for wrong in ["offsets:", "offsets:a=5", "offsets:a/x=5", "offsets:a/0=-1", "offsets:/0=1", "soon"] {
            assert!(wrong.parse::<StartArg>().is_err(), "{wrong}");
        }
    }
}
