//! A function that writes down what it is told: records, the time, its timers.

use milena::PartitionId;

use crate::BoxError;
use crate::checkpoint::snapshot::Scope;
use crate::checkpoint::state::{Decoder, Encoder, StateResult};
use crate::runtime::{Context, Process};
use crate::schema::{OwnedKafkaRecord, Stamped};

/// Event time between two timers, in milliseconds.
pub(super) const WINDOW: i64 = 1000;
/// An element's event time by its number, in milliseconds.
pub(super) const STEP: i64 = 10;
/// Each element of such a place in its partition comes late.
pub(super) const LATE_EVERY: i64 = 40;
/// By how much.
pub(super) const LATE_BY: i64 = 3 * WINDOW;

/// What a witness wrote of one thing that it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// A record, the how manyth it is, the watermark, and whether it was late.
    Record { number: u64, count: u64, watermark: Option<i64>, late: bool },
    /// A timer.
    Timer { at: i64 },
}

impl Line {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.split(' ').collect();
        match words.as_slice() {
            ["record", number, count, watermark, late] => Some(Self::Record {
                number: number.parse().ok()?,
                count: count.parse().ok()?,
                watermark: if *watermark == "-" { None } else { Some(watermark.parse().ok()?) },
                late: *late == "late",
            }),
            ["timer", at] => Some(Self::Timer { at: at.parse().ok()? }),
            _ => None,
        }
    }

    fn to_text(self) -> String {
        match self {
            Self::Record { number, count, watermark, late } => {
                let watermark =
                    watermark.map_or_else(|| String::from("-"), |watermark| watermark.to_string());
                format!("record {number} {count} {watermark} {}", if late { "late" } else { "timely" })
            }
            Self::Timer { at } => format!("timer {at}"),
        }
    }
}

/// The event time of the element of this number at this place in its partition.
pub(super) fn time_of(number: u64, place: i64) -> i64 {
    let time = i64::try_from(number).unwrap_or(0) * STEP;
    if place % LATE_EVERY == LATE_EVERY - 1 { (time - LATE_BY).max(0) } else { time }
}

/// The timer that an element of this time sets.
pub(super) fn timer_of(time: i64) -> i64 {
    (time.div_euclid(WINDOW) + 1) * WINDOW - 1
}

/// Counts the records of a partition, and sets a timer for the end of the window of each that is not late.
#[derive(Debug, Default)]
pub(super) struct Witness {
    count: u64,
}

impl Witness {
    pub(super) fn of(_: &Scope) -> Self {
        Self::default()
    }
}

/// A record that the sink writes to a partition.
fn written(partition: PartitionId, line: Line, timestamp: i64) -> OwnedKafkaRecord {
    OwnedKafkaRecord {
        topic: "witness".into(),
        partition,
        offset: milena::Offset(0),
        leader_epoch: None,
        timestamp,
        key: None,
        value: Some(line.to_text().into_bytes().into()),
        headers: Vec::new(),
    }
}

impl Process for Witness {
    type In = OwnedKafkaRecord;
    type Out = OwnedKafkaRecord;

    fn on_record(
        &mut self,
        record: Stamped<OwnedKafkaRecord>,
        context: &mut Context<'_, OwnedKafkaRecord>,
    ) -> Result<(), BoxError> {
        self.count += 1;
        let value = record.value.value.as_deref().unwrap_or_default();
        let number = std::str::from_utf8(value)?.parse()?;
        let late = context.is_late(record.timestamp);
        if !late {
            context.set_timer(timer_of(record.timestamp));
        }
        let line = Line::Record { number, count: self.count, watermark: context.watermark(), late };
        let partition = context.partition().partition;
        context.emit(written(partition, line, record.timestamp), record.timestamp);
        Ok(())
    }

    fn on_timer(&mut self, at: i64, context: &mut Context<'_, OwnedKafkaRecord>) -> Result<(), BoxError> {
        let partition = context.partition().partition;
        context.emit(written(partition, Line::Timer { at }, at), at);
        Ok(())
    }

    fn snapshot(&self, out: &mut Encoder) {
        out.put_u64(self.count);
    }

    fn restore(&mut self, from: &mut Decoder<'_>) -> StateResult<()> {
        self.count = from.take_u64()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_back() {
        for line in [
            Line::Record { number: 7, count: 2, watermark: None, late: false },
            Line::Record { number: 7, count: 2, watermark: Some(-1), late: true },
            Line::Timer { at: 999 },
        ] {
            assert_eq!(Line::parse(&line.to_text()), Some(line));
        }
        assert_eq!(Line::parse("record 7 2"), None);
        assert_eq!((timer_of(0), timer_of(999), timer_of(1000)), (999, 999, 1999));
    }
}
