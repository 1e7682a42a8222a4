//! Watermarks: how event time advances in one partition.
//!
//! # References
//! Flink: `BoundedOutOfOrdernessWatermarks`, `WatermarkStrategy` (FLIP-126).

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::idleness::Idleness;

/// Generates the watermarks of one partition.
pub trait WatermarkGenerator<T>: Send {
    /// Sees each element with its event time in milliseconds. A watermark returned here is given on right after the element.
    fn on_event(&mut self, event: &T, timestamp: i64) -> Option<i64>;

    /// Asked at each tick (every 200 ms by default) while the partition is not idle.
    fn on_periodic(&mut self, now: Instant) -> Option<i64>;

    /// Told the largest event time handed out before a restore. The default ignores it.
    fn on_restored(&mut self, max_timestamp: i64) {
        let _ = max_timestamp;
    }
}

/// What a partition that is found while others are already ahead does to the combined watermark.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NewSplits {
    /// It holds the combined watermark where it is until it has records or is idle: no record of it is late. The default, and
    /// Flink's rule.
    #[default]
    HoldBack,
    /// It counts as idle until its first record: an empty new partition stalls nothing.
    IdleUntilFirstRecord,
}

type Factory<T> = dyn Fn() -> Box<dyn WatermarkGenerator<T>> + Send + Sync;
type Timestamps<T> = dyn Fn(&T, i64) -> i64 + Send + Sync;

/// How a source makes watermarks: a generator per partition, where event times come from, and when a partition is idle.
///
/// ```
/// use milena_connector::progress::WatermarkStrategy;
/// use std::time::Duration;
/// let strategy = WatermarkStrategy::<String>::bounded_out_of_orderness(Duration::from_secs(5))
///     .with_idleness(Duration::from_secs(30))
///     .with_timestamps(|line, of_the_record| line.parse().unwrap_or(of_the_record));
/// # let _ = strategy;
/// ```
pub struct WatermarkStrategy<T> {
    generator: Option<Arc<Factory<T>>>,
    timestamps: Option<Arc<Timestamps<T>>>,
    idleness: Idleness,
    new_splits: NewSplits,
}

impl<T> Clone for WatermarkStrategy<T> {
    fn clone(&self) -> Self {
        Self {
            generator: self.generator.clone(),
            timestamps: self.timestamps.clone(),
            idleness: self.idleness,
            new_splits: self.new_splits,
        }
    }
}

impl<T> fmt::Debug for WatermarkStrategy<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatermarkStrategy")
            .field("generates", &self.generator.is_some())
            .field("own_timestamps", &self.timestamps.is_some())
            .field("idleness", &self.idleness)
            .field("new_splits", &self.new_splits)
            .finish()
    }
}

impl<T> Default for WatermarkStrategy<T> {
    fn default() -> Self {
        Self::none()
    }
}

impl<T> WatermarkStrategy<T> {
    /// No watermarks.
    #[must_use]
    pub fn none() -> Self {
        Self {
            generator: None,
            timestamps: None,
            idleness: Idleness::default(),
            new_splits: NewSplits::default(),
        }
    }

    /// For partitions whose event times never decrease.
    #[must_use]
    pub fn monotonous() -> Self {
        Self::bounded_out_of_orderness(Duration::ZERO)
    }

    /// For partitions whose event times lag the largest one seen by at most `bound`.
    #[must_use]
    pub fn bounded_out_of_orderness(bound: Duration) -> Self {
        let bound = i64::try_from(bound.as_millis()).unwrap_or(i64::MAX / 2);
        Self::custom(move || Box::new(BoundedOutOfOrderness { bound, largest: None }))
    }

    /// Watermarks that elements themselves carry: the function says, for an element and its event time, whether there is one.
    #[must_use]
    pub fn punctuated(mark: impl Fn(&T, i64) -> Option<i64> + Send + Sync + 'static) -> Self
    where
        T: 'static,
    {
        let mark: Arc<Mark<T>> = Arc::new(mark);
        Self::custom(move || Box::new(Punctuated { mark: Arc::clone(&mark) }))
    }

    /// A generator of your own; the function makes one for each partition.
    #[must_use]
    pub fn custom(generator: impl Fn() -> Box<dyn WatermarkGenerator<T>> + Send + Sync + 'static) -> Self {
        Self { generator: Some(Arc::new(generator)), ..Self::none() }
    }

    /// Makes a partition idle when no record came for this long, by the clock (Flink's `withIdleness`).
    #[must_use]
    pub fn with_idleness(mut self, quiet: Duration) -> Self {
        self.idleness.quiet = Some(quiet);
        self
    }

    /// Makes a partition idle when it has been read to the broker's end for this long; `None` for never. Default 60 s.
    #[must_use]
    pub fn with_caught_up_idleness(mut self, delay: Option<Duration>) -> Self {
        self.idleness.caught_up = delay;
        self
    }

    /// Takes event times from elements: the function gets the element and its record's timestamp (-1 for none), in
    /// milliseconds.
    #[must_use]
    pub fn with_timestamps(mut self, timestamp: impl Fn(&T, i64) -> i64 + Send + Sync + 'static) -> Self {
        self.timestamps = Some(Arc::new(timestamp));
        self
    }

    /// What partitions found later do to the combined watermark.
    #[must_use]
    pub fn with_new_splits(mut self, new_splits: NewSplits) -> Self {
        self.new_splits = new_splits;
        self
    }

    /// When a partition is idle.
    #[must_use]
    pub fn idleness(&self) -> Idleness {
        self.idleness
    }

    /// What partitions found later do to the combined watermark.
    #[must_use]
    pub fn new_splits(&self) -> NewSplits {
        self.new_splits
    }

    /// Whether there are watermarks at all.
    #[must_use]
    pub fn generates(&self) -> bool {
        self.generator.is_some()
    }

    /// A generator for one partition.
    #[must_use]
    pub fn generator(&self) -> Option<Box<dyn WatermarkGenerator<T>>> {
        self.generator.as_ref().map(|make| make())
    }

    /// The event time of an element.
    #[must_use]
    pub fn timestamp(&self, event: &T, of_the_record: i64) -> i64 {
        self.timestamps.as_ref().map_or(of_the_record, |timestamp| timestamp(event, of_the_record))
    }
}

struct BoundedOutOfOrderness {
    bound: i64,
    largest: Option<i64>,
}

impl<T> WatermarkGenerator<T> for BoundedOutOfOrderness {
    fn on_event(&mut self, _event: &T, timestamp: i64) -> Option<i64> {
        self.largest = self.largest.max(Some(timestamp));
        None
    }

    fn on_periodic(&mut self, _now: Instant) -> Option<i64> {
        self.largest.map(|largest| largest.saturating_sub(self.bound).saturating_sub(1))
    }

    fn on_restored(&mut self, max_timestamp: i64) {
        self.largest = self.largest.max(Some(max_timestamp));
    }
}

type Mark<T> = dyn Fn(&T, i64) -> Option<i64> + Send + Sync;

struct Punctuated<T> {
    mark: Arc<Mark<T>>,
}

impl<T> WatermarkGenerator<T> for Punctuated<T> {
    fn on_event(&mut self, event: &T, timestamp: i64) -> Option<i64> {
        (self.mark)(event, timestamp)
    }

    fn on_periodic(&mut self, _now: Instant) -> Option<i64> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounded_out_of_orderness_is_the_largest_less_bound_and_one() {
        let now = Instant::now();
        let mut generator =
            WatermarkStrategy::bounded_out_of_orderness(Duration::from_millis(5)).generator().unwrap();
        assert_eq!(generator.on_periodic(now), None, "no event, no watermark");
        for timestamp in [10, 30, 20] {
            assert_eq!(generator.on_event(&(), timestamp), None);
        }
        assert_eq!(generator.on_periodic(now), Some(24));
        let mut generator = WatermarkStrategy::monotonous().generator().unwrap();
        generator.on_event(&(), 7);
        assert_eq!(generator.on_periodic(now), Some(6));
        generator.on_event(&(), i64::MIN);
        generator.on_event(&(), i64::MAX);
        assert_eq!(generator.on_periodic(now), Some(i64::MAX - 1));
    }

    #[test]
    fn a_restored_generator_resumes_where_it_was() {
        let mut generator = WatermarkStrategy::<()>::monotonous().generator().unwrap();
        generator.on_restored(100);
        generator.on_event(&(), 50);
        assert_eq!(generator.on_periodic(Instant::now()), Some(99));
    }

    #[test]
    fn punctuated_marks_come_from_elements_only() {
        let strategy =
            WatermarkStrategy::punctuated(|event: &i64, timestamp| (event % 2 == 0).then_some(timestamp));
        let mut generator = strategy.generator().unwrap();
        assert_eq!(generator.on_event(&1, 10), None);
        assert_eq!(generator.on_event(&2, 11), Some(11));
        assert_eq!(generator.on_periodic(Instant::now()), None);
    }
}
