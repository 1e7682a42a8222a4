//! Event time of one reader: a generator and an idle timer for each of its splits, and the combined watermark.
//!
//! Call order: `add` / `remove` as splits come and go; `on_batch` for the elements of one split; `on_caught_up`, `on_behind`,
//! `on_unknown` for each fetch answer; `on_tick` every 200 ms; `poll_event` after each of them.

use std::collections::BTreeMap;
use std::time::Instant;

use super::combine::{Combiner, ProgressEvent};
use super::idleness::IdleTimer;
use super::watermark::{NewSplits, WatermarkGenerator, WatermarkStrategy};
use crate::schema::Stamped;

/// Follows the event time of a reader's splits, which are named by small numbers.
pub struct Progress<T> {
    strategy: WatermarkStrategy<T>,
    splits: BTreeMap<u32, SplitProgress<T>>,
    combiner: Combiner<u32>,
    assigned: bool,
}

struct SplitProgress<T> {
    generator: Option<Box<dyn WatermarkGenerator<T>>>,
    idle: IdleTimer,
    max_timestamp: Option<i64>,
    waits_for_first_record: bool,
    paused: bool,
}

/// What a batch of elements did to the event time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BatchProgress {
    /// Events to give on before the first element: an idle reader is active again.
    pub before: Vec<ProgressEvent>,
    /// Events to give on after the element of that index (0-based), in order.
    pub events: Vec<(usize, ProgressEvent)>,
}

impl<T> Progress<T> {
    /// Nothing is read yet. The whole is neither idle nor active until an assignment is known.
    #[must_use]
    pub fn new(strategy: WatermarkStrategy<T>) -> Self {
        Self { strategy, splits: BTreeMap::new(), combiner: Combiner::new(), assigned: false }
    }

    /// Adds a split; a restored one comes with the largest event time it had handed out.
    pub fn add(&mut self, split: u32, restored_max: Option<i64>, now: Instant) {
        let late = self.combiner.combined().is_some() && restored_max.is_none();
        let waits = late && self.strategy.new_splits() == NewSplits::IdleUntilFirstRecord;
        let mut generator = self.strategy.generator();
        if let (Some(generator), Some(max)) = (generator.as_mut(), restored_max) {
            generator.on_restored(max);
        }
        let progress = SplitProgress {
            generator,
            idle: IdleTimer::new(self.strategy.idleness(), now),
            max_timestamp: restored_max,
            waits_for_first_record: waits,
            paused: false,
        };
        self.splits.insert(split, progress);
        self.combiner.remove(&split);
        self.combiner.add(split, waits);
    }

    /// A split goes back to an earlier place, or to the start of another log: its event time begins anew, as that of a split that is added
    /// late. What was given on stays so; of what is read again, only that is late which is behind it.
    pub fn start_over(&mut self, split: u32, now: Instant) {
        if self.splits.contains_key(&split) {
            self.add(split, None, now);
        }
    }

    /// Removes a split that is finished or taken away: it holds nothing back any more.
    pub fn remove(&mut self, split: u32) {
        self.splits.remove(&split);
        self.combiner.remove(&split);
    }

    /// The assignment of this reader is known, be it empty: from here on a reader without splits is idle.
    pub fn on_assigned(&mut self) {
        self.assigned = true;
        self.combiner.recompute();
    }

    /// Sees the elements of one split in order: replaces their timestamps if the strategy has its own, and says after which
    /// element which event is due.
    pub fn on_batch(&mut self, split: u32, elements: &mut [Stamped<T>], now: Instant) -> BatchProgress {
        let mut outcome = BatchProgress::default();
        let Some(progress) = self.splits.get_mut(&split) else {
            return outcome;
        };
        if elements.is_empty() {
            return outcome;
        }
        progress.idle.on_activity(now);
        progress.waits_for_first_record = false;
        let was_idle = self.combiner.is_part_idle(&split) == Some(true);
        if was_idle {
            self.combiner.set_idle(&split, false);
            self.combiner.recompute();
            outcome.before.extend(std::iter::from_fn(|| self.combiner.poll_event()));
        }
        for (index, element) in elements.iter_mut().enumerate() {
            element.timestamp = self.strategy.timestamp(&element.value, element.timestamp);
            progress.max_timestamp = progress.max_timestamp.max(Some(element.timestamp));
            let mark = progress
                .generator
                .as_mut()
                .and_then(|generator| generator.on_event(&element.value, element.timestamp));
            if let Some(mark) = mark {
                self.combiner.set_watermark(&split, mark);
                self.combiner.recompute();
                while let Some(event) = self.combiner.poll_event() {
                    outcome.events.push((index, event));
                }
            }
        }
        outcome
    }

    /// A fetch answer said that nothing is left of a split.
    pub fn on_caught_up(&mut self, split: u32, now: Instant) {
        if let Some(progress) = self.splits.get_mut(&split) {
            progress.idle.on_caught_up(now);
        }
    }

    /// A fetch answer brought data, or said that there is more.
    pub fn on_behind(&mut self, split: u32) {
        if let Some(progress) = self.splits.get_mut(&split) {
            progress.idle.on_behind();
        }
    }

    /// A fetch failed.
    pub fn on_unknown(&mut self, split: u32) {
        if let Some(progress) = self.splits.get_mut(&split) {
            progress.idle.on_unknown();
        }
    }

    /// Time passes: partitions become idle or active, and periodic generators are asked. `is_busy` says whether a split has
    /// fetched data that was not handed out yet; such a split is active.
    pub fn on_tick(&mut self, now: Instant, is_busy: impl Fn(u32) -> bool) {
        for (split, progress) in &mut self.splits {
            if is_busy(*split) || progress.paused {
                progress.idle.on_activity(now);
            }
            let idle = progress.waits_for_first_record || progress.idle.is_idle(now);
            self.combiner.set_idle(split, idle);
            if idle {
                continue;
            }
            if let Some(mark) = progress.generator.as_mut().and_then(|generator| generator.on_periodic(now)) {
                self.combiner.set_watermark(split, mark);
            }
        }
        if self.assigned {
            self.combiner.recompute();
        }
    }

    /// A split waits for others of its alignment group, or goes on. While it waits it is not idle.
    pub fn set_paused(&mut self, split: u32, paused: bool) {
        if let Some(progress) = self.splits.get_mut(&split) {
            progress.paused = paused;
        }
    }

    /// Whether the whole was last reported idle.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.combiner.is_idle()
    }

    /// The next event for what is downstream.
    pub fn poll_event(&mut self) -> Option<ProgressEvent> {
        self.combiner.poll_event()
    }

    /// The largest event time a split has handed out.
    #[must_use]
    pub fn max_timestamp(&self, split: u32) -> Option<i64> {
        self.splits.get(&split).and_then(|progress| progress.max_timestamp)
    }

    /// A split's own watermark, for metrics.
    #[must_use]
    pub fn split_watermark(&self, split: u32) -> Option<i64> {
        self.combiner.part_watermark(&split)
    }

    /// Whether a split is idle, for metrics.
    #[must_use]
    pub fn is_split_idle(&self, split: u32) -> bool {
        self.combiner.is_part_idle(&split) == Some(true)
    }

    /// The combined watermark given on last.
    #[must_use]
    pub fn watermark(&self) -> Option<i64> {
        self.combiner.combined()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use milena::Offset;
    use std::time::Duration;

    const SECOND: Duration = Duration::from_secs(1);

    fn elements(timestamps: &[i64]) -> Vec<Stamped<i64>> {
        timestamps.iter().map(|at| Stamped { value: *at, timestamp: *at, offset: Offset(0) }).collect()
    }

    fn drain(progress: &mut Progress<i64>) -> Vec<ProgressEvent> {
        std::iter::from_fn(|| progress.poll_event()).collect()
    }

    fn tick(progress: &mut Progress<i64>, now: Instant) -> Vec<ProgressEvent> {
        progress.on_tick(now, |_| false);
        drain(progress)
    }

    /// D31: a subtask without splits must not hold back event time, but only once it is known to have none.
    // scenario: D31
    #[test]
    fn a_reader_without_splits_is_idle_only_when_that_is_known() {
        let now = Instant::now();
        let mut progress = Progress::new(WatermarkStrategy::monotonous());
        assert_eq!(tick(&mut progress, now), []);
        progress.on_assigned();
        assert_eq!(drain(&mut progress), [ProgressEvent::Idle]);
        progress.add(1, None, now);
        progress.on_assigned();
        assert_eq!(drain(&mut progress), [ProgressEvent::Active]);
    }

    /// D30 / FLINK-5479: without a rule for it, an idle partition holds the watermark for ever.
    // scenario: D30
    #[test]
    fn a_caught_up_partition_releases_the_watermark() {
        let now = Instant::now();
        let strategy = WatermarkStrategy::monotonous().with_caught_up_idleness(Some(SECOND * 2));
        let mut progress = Progress::new(strategy);
        progress.add(1, None, now);
        progress.add(2, None, now);
        progress.on_assigned();
        progress.on_batch(1, &mut elements(&[100]), now);
        assert_eq!(tick(&mut progress, now), []);
        progress.on_caught_up(2, now);
        progress.on_caught_up(2, now + SECOND * 2);
        assert_eq!(tick(&mut progress, now + SECOND * 2), [ProgressEvent::Watermark(99)]);
        progress.on_batch(2, &mut elements(&[50]), now + SECOND * 3);
        progress.on_batch(1, &mut elements(&[200]), now + SECOND * 3);
        assert_eq!(tick(&mut progress, now + SECOND * 3), [], "the late partition does not move it back");
    }

    /// FLINK-35886: a slow job must not make its own partitions idle.
    #[test]
    fn data_that_waits_to_be_handed_out_is_activity() {
        let now = Instant::now();
        let mut progress = Progress::new(WatermarkStrategy::<i64>::monotonous().with_idleness(SECOND));
        progress.add(1, None, now);
        progress.on_assigned();
        progress.on_tick(now + SECOND * 9, |_| true);
        assert_eq!(drain(&mut progress), []);
        assert_eq!(tick(&mut progress, now + SECOND * 9), []);
        assert_eq!(tick(&mut progress, now + SECOND * 10), [ProgressEvent::Idle]);
    }

    /// FLINK-40093: a split that waits for its group has more to say.
    // scenario: D50
    #[test]
    fn a_paused_split_is_not_idle_and_holds_the_watermark() {
        let now = Instant::now();
        let mut progress = Progress::new(WatermarkStrategy::<i64>::monotonous().with_idleness(SECOND));
        progress.add(1, None, now);
        progress.on_assigned();
        progress.on_batch(1, &mut elements(&[100]), now);
        progress.set_paused(1, true);
        assert_eq!(tick(&mut progress, now + SECOND * 9), [ProgressEvent::Watermark(99)]);
        progress.set_paused(1, false);
        assert_eq!(tick(&mut progress, now + SECOND * 9), []);
        assert_eq!(tick(&mut progress, now + SECOND * 10), [ProgressEvent::Idle]);
    }

    /// C31, D51: the option lets an empty new partition stall nothing; by default it holds the watermark.
    // scenario: D51
    #[test]
    fn a_partition_found_later_holds_back_or_not_as_chosen() {
        let now = Instant::now();
        for (choice, released) in [(NewSplits::HoldBack, false), (NewSplits::IdleUntilFirstRecord, true)] {
            let mut progress = Progress::new(WatermarkStrategy::monotonous().with_new_splits(choice));
            progress.add(1, None, now);
            progress.on_assigned();
            progress.on_batch(1, &mut elements(&[10]), now);
            assert_eq!(tick(&mut progress, now), [ProgressEvent::Watermark(9)]);
            progress.add(2, None, now);
            progress.on_batch(1, &mut elements(&[20]), now);
            assert_eq!(tick(&mut progress, now) == [ProgressEvent::Watermark(19)], released, "{choice:?}");
            progress.on_batch(2, &mut elements(&[15]), now);
            progress.on_batch(1, &mut elements(&[30]), now);
            tick(&mut progress, now);
            assert_eq!(progress.watermark(), Some(if released { 19 } else { 14 }), "{choice:?}");
        }
    }

    #[test]
    fn partitions_of_a_first_assignment_all_count_from_the_start() {
        let now = Instant::now();
        let strategy = WatermarkStrategy::monotonous().with_new_splits(NewSplits::IdleUntilFirstRecord);
        let mut progress = Progress::new(strategy);
        progress.add(1, None, now);
        progress.add(2, None, now);
        progress.on_assigned();
        progress.on_batch(1, &mut elements(&[1000]), now);
        assert_eq!(tick(&mut progress, now), [], "records of the second one would be late");
    }

    #[test]
    fn a_restored_split_resumes_with_its_watermark() {
        let now = Instant::now();
        let mut progress = Progress::new(WatermarkStrategy::monotonous());
        progress.add(1, Some(500), now);
        progress.on_assigned();
        assert_eq!(tick(&mut progress, now), [ProgressEvent::Watermark(499)]);
        assert_eq!(progress.max_timestamp(1), Some(500));
    }

    // scenario: 5.2.25
    #[test]
    fn a_punctuated_watermark_comes_right_after_its_element() {
        let now = Instant::now();
        let strategy =
            WatermarkStrategy::punctuated(|_: &i64, timestamp| (timestamp % 10 == 0).then_some(timestamp))
                .with_timestamps(|value, _| value * 2);
        let mut progress = Progress::new(strategy);
        progress.add(1, None, now);
        progress.on_assigned();
        let mut batch = elements(&[1, 5, 7, 10]);
        let outcome = progress.on_batch(1, &mut batch, now);
        assert_eq!(outcome.events, [(1, ProgressEvent::Watermark(10)), (3, ProgressEvent::Watermark(20))]);
        assert_eq!(batch.iter().map(|element| element.timestamp).collect::<Vec<_>>(), [2, 10, 14, 20]);
    }

    #[test]
    fn a_split_that_goes_back_holds_the_watermark_from_there_on() {
        let now = Instant::now();
        let mut progress = Progress::new(WatermarkStrategy::monotonous());
        progress.add(1, None, now);
        progress.add(2, None, now);
        progress.on_assigned();
        progress.on_batch(1, &mut elements(&[100]), now);
        progress.on_batch(2, &mut elements(&[31]), now);
        assert_eq!(tick(&mut progress, now), [ProgressEvent::Watermark(30)]);
        progress.start_over(1, now);
        progress.start_over(3, now);
        progress.on_batch(2, &mut elements(&[200]), now);
        assert_eq!(tick(&mut progress, now), [], "what it had said says nothing any more");
        assert_eq!((progress.max_timestamp(1), progress.watermark()), (None, Some(30)));
        progress.on_batch(1, &mut elements(&[50]), now);
        assert_eq!(tick(&mut progress, now), [ProgressEvent::Watermark(49)]);
    }

    #[test]
    fn a_finished_split_releases_the_others() {
        let now = Instant::now();
        let mut progress = Progress::new(WatermarkStrategy::monotonous());
        progress.add(1, None, now);
        progress.add(2, None, now);
        progress.on_assigned();
        progress.on_batch(1, &mut elements(&[8]), now);
        progress.remove(2);
        assert_eq!(tick(&mut progress, now), [ProgressEvent::Watermark(7)]);
        progress.remove(1);
        assert_eq!(tick(&mut progress, now), [ProgressEvent::Idle]);
    }
}
