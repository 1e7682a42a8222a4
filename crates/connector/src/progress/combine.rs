//! Combining the watermarks of several parts into one, by Flink's rules for multiplexed outputs.
//!
//! Each part has a watermark (at first the smallest possible) and may be idle. The combined watermark is the minimum over the
//! parts that are not idle; it is given on only when it is larger than what was given on before, so it never goes back. When
//! every part is idle, or there is none, the whole is idle and no watermark is given on.
//!
//! # References
//! Flink: `WatermarkOutputMultiplexer`, `IndexedCombinedWatermarkStatus`.

use std::collections::{BTreeMap, VecDeque};

/// What a change of the parts means for the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgressEvent {
    /// No element with a timestamp at or below this one, in milliseconds, is expected any more.
    Watermark(i64),
    /// There is nothing to wait for: this output must not hold back event time downstream.
    Idle,
    /// Data is expected again.
    Active,
}

/// Combines the watermarks of parts named by `K`.
#[derive(Clone, Debug)]
pub struct Combiner<K> {
    parts: BTreeMap<K, Part>,
    combined: i64,
    idle: bool,
    events: VecDeque<ProgressEvent>,
}

#[derive(Clone, Copy, Debug)]
struct Part {
    watermark: i64,
    idle: bool,
}

impl<K: Ord> Default for Combiner<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Ord> Combiner<K> {
    /// A combiner without parts. It is active and has given on nothing until [`Combiner::recompute`] is called.
    #[must_use]
    pub fn new() -> Self {
        Self { parts: BTreeMap::new(), combined: i64::MIN, idle: false, events: VecDeque::new() }
    }

    /// Adds a part at the smallest watermark: it holds the whole back until it has data, unless it starts idle. A part that is
    /// there already is left as it is.
    pub fn add(&mut self, key: K, idle: bool) {
        self.parts.entry(key).or_insert(Part { watermark: i64::MIN, idle });
    }

    /// Removes a part: it holds nothing back any more.
    pub fn remove(&mut self, key: &K) {
        self.parts.remove(key);
    }

    /// Raises a part's watermark and makes it active. A smaller watermark than it has changes only that.
    pub fn set_watermark(&mut self, key: &K, watermark: i64) {
        if let Some(part) = self.parts.get_mut(key) {
            part.idle = false;
            part.watermark = part.watermark.max(watermark);
        }
    }

    /// Takes a part out of the minimum, or puts it back.
    pub fn set_idle(&mut self, key: &K, idle: bool) {
        if let Some(part) = self.parts.get_mut(key) {
            part.idle = idle;
        }
    }

    /// Whether a part is idle; `None` for an unknown part.
    #[must_use]
    pub fn is_part_idle(&self, key: &K) -> Option<bool> {
        self.parts.get(key).map(|part| part.idle)
    }

    /// A part's own watermark; `None` for an unknown part, or before its first.
    #[must_use]
    pub fn part_watermark(&self, key: &K) -> Option<i64> {
        self.parts.get(key).map(|part| part.watermark).filter(|watermark| *watermark > i64::MIN)
    }

    /// The watermark given on last.
    #[must_use]
    pub fn combined(&self) -> Option<i64> {
        (self.combined > i64::MIN).then_some(self.combined)
    }

    /// Whether the whole was last reported idle.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.idle
    }

    /// Looks at all parts and queues what changed for the whole: call it after one change to forward it at once, or after
    /// several to forward them together.
    pub fn recompute(&mut self) {
        let least = self.parts.values().filter(|part| !part.idle).map(|part| part.watermark).min();
        let Some(least) = least else {
            if !self.idle {
                self.idle = true;
                self.events.push_back(ProgressEvent::Idle);
            }
            return;
        };
        if self.idle {
            self.idle = false;
            self.events.push_back(ProgressEvent::Active);
        }
        if least > self.combined {
            self.combined = least;
            self.events.push_back(ProgressEvent::Watermark(least));
        }
    }

    /// The next change for the whole.
    pub fn poll_event(&mut self) -> Option<ProgressEvent> {
        self.events.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn drain(combiner: &mut Combiner<u8>) -> Vec<ProgressEvent> {
        combiner.recompute();
        std::iter::from_fn(|| combiner.poll_event()).collect()
    }

    // scenario: 5.2.24
    #[test]
    fn the_slowest_active_part_decides() {
        let mut combiner = Combiner::new();
        combiner.add(1, false);
        combiner.add(2, false);
        combiner.set_watermark(&1, 10);
        assert_eq!(drain(&mut combiner), []);
        combiner.set_watermark(&2, 5);
        assert_eq!(drain(&mut combiner), [ProgressEvent::Watermark(5)]);
        combiner.set_idle(&2, true);
        assert_eq!(drain(&mut combiner), [ProgressEvent::Watermark(10)]);
    }

    #[test]
    fn a_part_that_comes_back_late_does_not_move_the_watermark_back() {
        let mut combiner = Combiner::new();
        combiner.add(1, false);
        combiner.set_watermark(&1, 10);
        assert_eq!(drain(&mut combiner), [ProgressEvent::Watermark(10)]);
        combiner.add(2, false);
        combiner.set_watermark(&2, 3);
        assert_eq!(drain(&mut combiner), []);
        combiner.set_watermark(&1, 20);
        combiner.set_watermark(&1, 15);
        combiner.set_watermark(&2, 18);
        assert_eq!(drain(&mut combiner), [ProgressEvent::Watermark(18)]);
    }

    // scenario: 5.2.27
    #[test]
    fn no_part_is_idle_and_never_the_largest_watermark() {
        let mut combiner = Combiner::new();
        assert_eq!(drain(&mut combiner), [ProgressEvent::Idle]);
        assert_eq!(drain(&mut combiner), []);
        combiner.add(1, false);
        assert_eq!(drain(&mut combiner), [ProgressEvent::Active]);
        combiner.set_watermark(&1, 4);
        combiner.set_idle(&1, true);
        assert_eq!(drain(&mut combiner), [ProgressEvent::Idle]);
        combiner.set_watermark(&1, 2);
        assert_eq!(drain(&mut combiner), [ProgressEvent::Active, ProgressEvent::Watermark(4)]);
    }

    #[test]
    fn a_removed_part_releases_the_watermark() {
        let mut combiner = Combiner::new();
        combiner.add(1, false);
        combiner.add(2, false);
        combiner.set_watermark(&1, 9);
        assert_eq!(drain(&mut combiner), []);
        combiner.remove(&2);
        assert_eq!(drain(&mut combiner), [ProgressEvent::Watermark(9)]);
        combiner.remove(&1);
        assert_eq!(drain(&mut combiner), [ProgressEvent::Idle]);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Add(u8, bool),
        Remove(u8),
        Raise(u8, i64),
        Idle(u8, bool),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let key = 0..4_u8;
        proptest::collection::vec(
            prop_oneof![
                (key.clone(), any::<bool>()).prop_map(|(key, idle)| Step::Add(key, idle)),
                key.clone().prop_map(Step::Remove),
                (key.clone(), -20..20_i64).prop_map(|(key, at)| Step::Raise(key, at)),
                (key, any::<bool>()).prop_map(|(key, idle)| Step::Idle(key, idle)),
            ],
            0..60,
        )
    }

    proptest! {
        /// The model keeps every part in a list and looks at all of them by the rules, one by one.
        #[test]
        fn it_does_what_the_naive_model_does(steps in steps()) {
            let mut combiner = Combiner::new();
            let mut model: Vec<(u8, i64, bool)> = Vec::new();
            let (mut last, mut idle) = (i64::MIN, false);
            for step in steps {
                match step {
                    Step::Add(key, idle) => {
                        combiner.add(key, idle);
                        if !model.iter().any(|part| part.0 == key) {
                            model.push((key, i64::MIN, idle));
                        }
                    }
                    Step::Remove(key) => {
                        combiner.remove(&key);
                        model.retain(|part| part.0 != key);
                    }
                    Step::Raise(key, at) => {
                        combiner.set_watermark(&key, at);
                        for part in model.iter_mut().filter(|part| part.0 == key) {
                            (part.1, part.2) = (part.1.max(at), false);
                        }
                    }
                    Step::Idle(key, now_idle) => {
                        combiner.set_idle(&key, now_idle);
                        model.iter_mut().filter(|part| part.0 == key).for_each(|part| part.2 = now_idle);
                    }
                }
                let mut expected = Vec::new();
                let active: Vec<i64> = model.iter().filter(|part| !part.2).map(|part| part.1).collect();
                if active.is_empty() {
                    if !idle {
                        expected.push(ProgressEvent::Idle);
                    }
                    idle = true;
                } else {
                    if idle {
                        expected.push(ProgressEvent::Active);
                    }
                    idle = false;
                    let least = active.iter().copied().fold(i64::MAX, i64::min);
                    if least > last {
                        expected.push(ProgressEvent::Watermark(least));
                        last = least;
                    }
                }
                prop_assert_eq!(drain(&mut combiner), expected);
            }
        }
    }
}
