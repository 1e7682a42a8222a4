//! Tumbling windows: elements folded by key and stretch of event time, each window sent on when the watermark has passed it.
//!
//! A window holds the times from `start` up to, and not with, `start + size`; windows begin at multiples of the size (plus the
//! offset), also before 1970. An element that comes when its window was sent on (and the allowed lateness is over) is late: it is
//! counted, and dropped or diverted. Within the allowed lateness the window is sent on again, with the element in it.
//!
//! # References
//! Flink: `TumblingEventTimeWindows`, `EventTimeTrigger`, `allowedLateness`, `sideOutputLateData`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::process::{Context, Process};
use crate::BoxError;
use crate::checkpoint::state::{Decoder, Encoder, StateResult};
use crate::schema::Stamped;

/// The version of the windows' state.
const VERSION: i16 = 1;

/// A stretch of event time, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Window {
    /// Its first millisecond.
    pub start: i64,
    /// The first millisecond after it.
    pub end: i64,
}

/// What becomes of an element that comes too late.
pub enum OnLate<In, Out> {
    /// It is dropped, and counted in [`SubtaskMetrics::late_records`](crate::runtime::SubtaskMetrics::late_records).
    Drop,
    /// It is counted, and goes on as this; the sink's serializer may give it a topic of its own.
    Divert(Arc<dyn Fn(In) -> Out + Send + Sync>),
}

impl<In, Out> Clone for OnLate<In, Out> {
    fn clone(&self) -> Self {
        match self {
            Self::Drop => Self::Drop,
            Self::Divert(to) => Self::Divert(Arc::clone(to)),
        }
    }
}

impl<In, Out> fmt::Debug for OnLate<In, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Drop => "Drop",
            Self::Divert(_) => "Divert",
        })
    }
}

type Key<In> = Arc<dyn Fn(&In) -> Vec<u8> + Send + Sync>;
type Fold<In> = Arc<dyn Fn(u64, &In) -> u64 + Send + Sync>;
type Finish<Out> = Arc<dyn Fn(&[u8], Window, u64) -> Out + Send + Sync>;

/// Tumbling windows over one scope. What is folded is a `u64`: a count, a sum, a maximum.
///
/// ```
/// use std::time::Duration;
/// use milena_connector::runtime::TumblingWindows;
///
/// let count = TumblingWindows::new(
///     Duration::from_secs(60),
///     |text: &String| text.as_bytes().to_vec(),
///     |count, _| count + 1,
///     |key, window, count| format!("{} {}: {count}", String::from_utf8_lossy(key), window.start),
/// );
/// # let _ = count;
/// ```
pub struct TumblingWindows<In, Out> {
    size: i64,
    offset: i64,
    lateness: i64,
    on_late: OnLate<In, Out>,
    key: Key<In>,
    fold: Fold<In>,
    finish: Finish<Out>,
    /// By the window's start, then by key.
    windows: BTreeMap<i64, BTreeMap<Vec<u8>, u64>>,
}

impl<In, Out> Clone for TumblingWindows<In, Out> {
    fn clone(&self) -> Self {
        Self {
            on_late: self.on_late.clone(),
            key: Arc::clone(&self.key),
            fold: Arc::clone(&self.fold),
            finish: Arc::clone(&self.finish),
            windows: self.windows.clone(),
            ..*self
        }
    }
}

impl<In, Out> fmt::Debug for TumblingWindows<In, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TumblingWindows")
            .field("size", &self.size)
            .field("open", &self.windows.len())
            .finish_non_exhaustive()
    }
}

impl<In, Out> TumblingWindows<In, Out> {
    /// Windows of this size, at least a millisecond: `key` tells elements apart, `fold` starts at 0 for each key and window, `finish`
    /// makes what goes on, with the window's last millisecond as its event time.
    pub fn new(
        size: Duration,
        key: impl Fn(&In) -> Vec<u8> + Send + Sync + 'static,
        fold: impl Fn(u64, &In) -> u64 + Send + Sync + 'static,
        finish: impl Fn(&[u8], Window, u64) -> Out + Send + Sync + 'static,
    ) -> Self {
        Self {
            size: milliseconds(size).max(1),
            offset: 0,
            lateness: 0,
            on_late: OnLate::Drop,
            key: Arc::new(key),
            fold: Arc::new(fold),
            finish: Arc::new(finish),
            windows: BTreeMap::new(),
        }
    }

    /// Moves the beginnings of all windows, as for days of another time zone. Default 0.
    #[must_use]
    pub fn offset_by(mut self, offset: Duration) -> Self {
        self.offset = milliseconds(offset) % self.size;
        self
    }

    /// How long after its end a window still takes elements; each sends it on again. Default 0.
    #[must_use]
    pub fn allowed_lateness(mut self, lateness: Duration) -> Self {
        self.lateness = milliseconds(lateness);
        self
    }

    /// What becomes of elements that come too late. Default [`OnLate::Drop`].
    #[must_use]
    pub fn on_late(mut self, on_late: OnLate<In, Out>) -> Self {
        self.on_late = on_late;
        self
    }

    fn start_of(&self, timestamp: i64) -> i64 {
        let into = timestamp.wrapping_sub(self.offset).rem_euclid(self.size);
        timestamp.saturating_sub(into)
    }

    fn window(&self, start: i64) -> Window {
        Window { start, end: start.saturating_add(self.size) }
    }

    /// The last millisecond of a window: the watermark that sends it on.
    fn closes(&self, start: i64) -> i64 {
        self.window(start).end.saturating_sub(1)
    }

    fn send(&self, start: i64, key: &[u8], folded: u64, context: &mut Context<'_, Out>) {
        context.emit((self.finish)(key, self.window(start), folded), self.closes(start));
    }
}

impl<In: Send + 'static, Out: Send + 'static> Process for TumblingWindows<In, Out> {
    type In = In;
    type Out = Out;

    fn on_record(
        &mut self,
        record: Stamped<In>,
        context: &mut Context<'_, Out>,
    ) -> std::result::Result<(), BoxError> {
        let start = self.start_of(record.timestamp);
        let closes = self.closes(start);
        let over = closes.saturating_add(self.lateness);
        if context.is_late(over) {
            let diverted = match &self.on_late {
                OnLate::Drop => None,
                OnLate::Divert(to) => Some(to(record.value)),
            };
            context.divert_late(diverted, record.timestamp);
            return Ok(());
        }
        let key = (self.key)(&record.value);
        let keys = self.windows.entry(start).or_default();
        let sent_on = context.is_late(closes);
        if keys.is_empty() {
            context.set_timer(if sent_on { over } else { closes });
        }
        let folded = keys.entry(key.clone()).or_insert(0);
        *folded = (self.fold)(*folded, &record.value);
        let folded = *folded;
        if sent_on {
            self.send(start, &key, folded, context);
        }
        Ok(())
    }

    fn on_timer(&mut self, at: i64, context: &mut Context<'_, Out>) -> std::result::Result<(), BoxError> {
        let closing = self.start_of(at);
        if self.closes(closing) == at
            && let Some(keys) = self.windows.get(&closing)
        {
            for (key, folded) in keys {
                self.send(closing, key, *folded, context);
            }
            if self.lateness > 0 {
                context.set_timer(at.saturating_add(self.lateness));
            }
        }
        let over = self.start_of(at.saturating_sub(self.lateness));
        if self.closes(over).saturating_add(self.lateness) == at {
            self.windows.remove(&over);
        }
        Ok(())
    }

    fn snapshot(&self, out: &mut Encoder) {
        out.put_i16(VERSION);
        out.put_list(&self.windows, |out, (start, keys)| {
            out.put_i64(*start);
            out.put_list(keys, |out, (key, folded)| {
                out.put_bytes(key);
                out.put_u64(*folded);
            });
        });
    }

    fn restore(&mut self, from: &mut Decoder<'_>) -> StateResult<()> {
        let version = from.take_i16()?;
        if version != VERSION {
            return Err(from.error(format!("windows of version {version}")));
        }
        let windows = from.take_list(|from| {
            let start = from.take_i64()?;
            let keys = from.take_list(|from| Ok((from.take_bytes()?.to_vec(), from.take_u64()?)))?;
            Ok((start, keys.into_iter().collect()))
        })?;
        self.windows = windows.into_iter().collect();
        Ok(())
    }
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::snapshot::{FunctionState, Scope};
    use crate::runtime::functions::{Batch, Processing, Scoping, Stage};
    use milena::{Offset, TopicPartition};

    fn counts() -> TumblingWindows<i64, String> {
        TumblingWindows::new(
            Duration::from_millis(10),
            |value: &i64| vec![b'a' + u8::try_from(value.rem_euclid(2)).unwrap()],
            |count, _| count + 1,
            |key, window, count| format!("{}{}:{count}", char::from(key[0]), window.start),
        )
    }

    struct Stand<S> {
        stage: S,
        at: TopicPartition,
    }

    fn stand(windows: TumblingWindows<i64, String>) -> Stand<impl Stage<i64, Out = String>> {
        let stage = Processing::new("counts".into(), Scoping::Split, move |_: &Scope| windows.clone());
        let mut stand = Stand { stage, at: TopicPartition::new("t", 0) };
        stand.stage.add(&stand.at, &[]).unwrap();
        stand
    }

    impl<S: Stage<i64, Out = String>> Stand<S> {
        async fn see(&mut self, times: impl IntoIterator<Item = i64>) -> Vec<String> {
            let stamp = |time| Stamped { value: time, timestamp: time, offset: Offset(0) };
            let batch: Batch<i64> = times.into_iter().map(stamp).collect();
            let out = self.stage.process(&self.at, batch).await.unwrap();
            out.into_iter().map(|it| it.value).collect()
        }

        fn reach(&mut self, watermark: i64) -> Vec<String> {
            let fired = self.stage.advance(watermark).unwrap();
            fired.into_iter().flat_map(|(_, batch)| batch).map(|it| it.value).collect()
        }
    }

    #[tokio::test]
    async fn a_window_goes_on_when_the_watermark_has_passed_it() {
        let mut stand = stand(counts());
        assert!(stand.see([-1, 0, 1, 2, 9, 10, 25]).await.is_empty());
        assert_eq!(stand.reach(8), ["b-10:1"]);
        assert_eq!(stand.reach(9), ["a0:2", "b0:2"]);
        assert!(stand.see([9, 11]).await.is_empty());
        assert_eq!(stand.stage.late(), 1);
        assert_eq!(stand.stage.end(&stand.at).unwrap().len(), 3);
    }

    #[tokio::test]
    async fn late_elements_are_diverted_or_taken_in_as_allowed() {
        let windows = counts()
            .allowed_lateness(Duration::from_millis(5))
            .on_late(OnLate::Divert(Arc::new(|value: i64| format!("late {value}"))));
        let mut stand = stand(windows);
        stand.see([1]).await;
        assert_eq!(stand.reach(12), ["b0:1"]);
        assert_eq!(stand.see([3]).await, ["b0:2"], "within the allowed lateness it is sent on again");
        assert_eq!(stand.see([4]).await, ["a0:1"]);
        assert!(stand.reach(14).is_empty());
        assert_eq!(stand.see([5]).await, ["late 5"]);
        let mut states: Vec<FunctionState> = Vec::new();
        stand.stage.snapshot(&mut states).unwrap();
        assert!(states[0].state.ends_with(&[0, 0, 0, 0]), "the window is gone: {:?}", states[0].state);
    }

    #[tokio::test]
    async fn open_windows_survive_a_restore() {
        let mut first = stand(counts());
        first.see([1, 3, 12]).await;
        first.reach(5);
        let mut states = Vec::new();
        first.stage.snapshot(&mut states).unwrap();
        let mut second = Stand { stage: first.stage.clone(), at: first.at.clone() };
        second.stage.add(&second.at, &states).unwrap();
        second.see([7]).await;
        assert_eq!(second.reach(20), ["b0:3", "a10:1"]);
    }

    #[test]
    fn windows_begin_at_multiples_of_their_size_moved_by_the_offset() {
        let moved = counts().offset_by(Duration::from_millis(13));
        assert_eq!([-8, -7, 2, 3, 12, 13].map(|time| moved.start_of(time)), [-17, -7, -7, 3, 3, 13]);
    }
}
