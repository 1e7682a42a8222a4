//! Functions with state: one instance for each scope, with event-time timers, in every checkpoint.
//!
//! # Invariants
//! * An instance's watermark never goes back, not over a restore or a rescale either: what was late stays late.
//! * Timers fire in order, each once, when the watermark reaches them, before the function is told the watermark.
//! * An instance lives where its split is read. When no partition of its scope will bring anything any more, it sees the
//!   largest watermark, fires what is left, and is gone, from checkpoints too.
//!
//! # References
//! Flink: `KeyedProcessFunction`, `TimerService`, `BoundedOneInput`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use milena::{Offset, TopicPartition};

use super::{Batch, Fired, FunctionSpec, Scoping, Stage, failed};
use crate::checkpoint::snapshot::{FunctionState, Scope};
use crate::checkpoint::state::{Decoder, Encoder, StateResult};
use crate::schema::Stamped;
use crate::{BoxError, Error, ErrorKind, Result};

/// The version of the frame around an instance's state. What is in it has the function's own.
const VERSION: i16 = 1;
/// The codec's lengths have four bytes.
const LARGEST_STATE: usize = u32::MAX as usize / 2;

/// A function with state. An instance sees the elements of one scope, in the order of each partition.
///
/// ```
/// use std::collections::BTreeSet;
/// use milena_connector::BoxError;
/// use milena_connector::checkpoint::state::{Decoder, Encoder, StateResult};
/// use milena_connector::runtime::{Context, Process};
/// use milena_connector::schema::Stamped;
///
/// /// Lets each id through once.
/// #[derive(Default)]
/// struct Deduplicate {
///     seen: BTreeSet<String>,
/// }
///
/// impl Process for Deduplicate {
///     type In = String;
///     type Out = String;
///
///     fn on_record(&mut self, record: Stamped<String>, context: &mut Context<'_, String>) -> Result<(), BoxError> {
///         if self.seen.insert(record.value.clone()) {
///             context.emit(record.value, record.timestamp);
///         }
///         Ok(())
///     }
///
///     fn snapshot(&self, out: &mut Encoder) {
///         out.put_list(&self.seen, |out, id| out.put_str(id));
///     }
///
///     fn restore(&mut self, from: &mut Decoder<'_>) -> StateResult<()> {
///         self.seen = from.take_list(|from| from.take_str().map(str::to_owned))?.into_iter().collect();
///         Ok(())
///     }
/// }
/// ```
pub trait Process: Send + 'static {
    /// What comes in.
    type In: Send + 'static;
    /// What goes out.
    type Out: Send + 'static;

    /// One element.
    ///
    /// # Errors
    /// Any: the job fails with it, and its place.
    fn on_record(
        &mut self,
        record: Stamped<Self::In>,
        context: &mut Context<'_, Self::Out>,
    ) -> std::result::Result<(), BoxError>;

    /// The watermark has reached a timer.
    ///
    /// # Errors
    /// Any: the job fails with it.
    fn on_timer(
        &mut self,
        at: i64,
        context: &mut Context<'_, Self::Out>,
    ) -> std::result::Result<(), BoxError> {
        let _ = (at, context);
        Ok(())
    }

    /// The watermark has risen to [`Context::watermark`], and the timers it reached have fired.
    ///
    /// # Errors
    /// Any: the job fails with it.
    fn on_watermark(&mut self, context: &mut Context<'_, Self::Out>) -> std::result::Result<(), BoxError> {
        let _ = context;
        Ok(())
    }

    /// Writes what it knows, with a version of its own if its layout may change. Timers are kept without its doing. At most 2 GiB.
    fn snapshot(&self, out: &mut Encoder);

    /// Reads what [`snapshot`](Process::snapshot) wrote, all of it. Called once, on a new instance.
    ///
    /// # Errors
    /// What the decoder says: the job does not start then.
    fn restore(&mut self, from: &mut Decoder<'_>) -> StateResult<()>;
}

/// What a function may do and ask while it is called.
#[derive(Debug)]
pub struct Context<'a, Out> {
    scope: &'a Scope,
    partition: &'a TopicPartition,
    watermark: Option<i64>,
    ended: bool,
    offset: Offset,
    timers: &'a mut BTreeSet<i64>,
    late: &'a mut u64,
    out: &'a mut Batch<Out>,
}

impl<Out> Context<'_, Out> {
    /// Whose instance this is.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        self.scope
    }

    /// The partition of the element at hand; for a timer or a watermark one of the scope's.
    #[must_use]
    pub fn partition(&self) -> &TopicPartition {
        self.partition
    }

    /// No element at or below this time (milliseconds) is expected any more; `None` before the first.
    #[must_use]
    pub fn watermark(&self) -> Option<i64> {
        self.watermark
    }

    /// Whether this is the end: no element will come any more, and a timer set now does not fire.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Whether an element of this time (milliseconds) comes after the watermark has passed it.
    #[must_use]
    pub fn is_late(&self, timestamp: i64) -> bool {
        self.watermark.is_some_and(|watermark| timestamp <= watermark)
    }

    /// Sends an element on, with its event time in milliseconds.
    pub fn emit(&mut self, value: Out, timestamp: i64) {
        self.out.push(Stamped { value, timestamp, offset: self.offset });
    }

    /// Counts an element that came too late, and sends on what stands for it, if anything does. The sink's serializer may give
    /// that a topic of its own: it is written in the same transaction as everything else.
    pub fn divert_late(&mut self, value: Option<Out>, timestamp: i64) {
        *self.late += 1;
        if let Some(value) = value {
            self.emit(value, timestamp);
        }
    }

    /// Asks for [`Process::on_timer`] when the watermark reaches `at` (milliseconds). One timer a time: a second one for the same time
    /// changes nothing. A time the watermark has passed fires with the next watermark.
    pub fn set_timer(&mut self, at: i64) {
        self.timers.insert(at);
    }

    /// Takes a timer back.
    pub fn delete_timer(&mut self, at: i64) {
        self.timers.remove(&at);
    }
}

/// A stateful function in a chain. Made by [`Stream::process`](crate::runtime::Stream::process).
pub struct Processing<F, P> {
    name: Arc<str>,
    scoping: Scoping,
    factory: F,
    instances: BTreeMap<Scope, Instance<P>>,
    late: u64,
}

struct Instance<P> {
    process: P,
    watermark: Option<i64>,
    timers: BTreeSet<i64>,
    /// The partitions of the scope that are being read.
    splits: BTreeSet<TopicPartition>,
    /// Where the last element came from: what a timer brings forth is named by it.
    offset: Offset,
}

impl<F, P> fmt::Debug for Processing<F, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Processing")
            .field("name", &self.name)
            .field("instances", &self.instances.len())
            .finish_non_exhaustive()
    }
}

/// A clone has the function and none of the state: it is for another subtask.
impl<F: Clone, P> Clone for Processing<F, P> {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.name), self.scoping, self.factory.clone())
    }
}

impl<F, P> Processing<F, P> {
    pub(crate) fn new(name: Arc<str>, scoping: Scoping, factory: F) -> Self {
        Self { name, scoping, factory, instances: BTreeMap::new(), late: 0 }
    }

    fn explain(&self, error: Error) -> Error {
        Error::new(error.kind(), format!("function {} failed", self.name)).with_source(error)
    }
}

impl<P: Process> Instance<P> {
    fn call(
        &mut self,
        scope: &Scope,
        partition: &TopicPartition,
        late: &mut u64,
        out: &mut Batch<P::Out>,
        call: impl FnOnce(&mut P, &mut Context<'_, P::Out>) -> std::result::Result<(), BoxError>,
    ) -> Result<()> {
        let mut context = Context {
            scope,
            partition,
            watermark: self.watermark,
            ended: self.watermark == Some(i64::MAX),
            offset: self.offset,
            timers: &mut self.timers,
            late,
            out,
        };
        call(&mut self.process, &mut context)
            .map_err(|error| failed(error).with_topic_partition(partition.clone()).with_offset(self.offset))
    }

    /// Raises the watermark and fires what it reaches. At the end, timers that are set meanwhile do not fire: one that
    /// sets itself again would do so for ever.
    fn advance(
        &mut self,
        scope: &Scope,
        at: &TopicPartition,
        watermark: i64,
        late: &mut u64,
        out: &mut Batch<P::Out>,
    ) -> Result<()> {
        if self.watermark.is_some_and(|before| watermark <= before) {
            return Ok(());
        }
        self.watermark = Some(watermark);
        let ended = watermark == i64::MAX;
        let mut left = if ended { std::mem::take(&mut self.timers) } else { BTreeSet::new() };
        loop {
            let timers = if ended { &mut left } else { &mut self.timers };
            let Some(&due) = timers.first().filter(|due| **due <= watermark) else { break };
            timers.remove(&due);
            self.call(scope, at, late, out, |process, context| process.on_timer(due, context))?;
        }
        self.call(scope, at, late, out, |process, context| process.on_watermark(context))
    }

    fn encode(&self) -> Vec<u8> {
        let mut inner = Encoder::new();
        self.process.snapshot(&mut inner);
        let mut out = Encoder::new();
        out.put_i16(VERSION);
        out.put_opt(self.watermark, Encoder::put_i64);
        out.put_list(&self.timers, |out, &at| out.put_i64(at));
        out.put_raw(inner.as_bytes());
        out.finish()
    }

    fn decode(&mut self, bytes: &[u8]) -> StateResult<()> {
        let mut from = Decoder::new(bytes);
        match from.take_i16()? {
            1 => {
                self.watermark = from.take_opt(Decoder::take_i64)?;
                self.timers = from.take_list(Decoder::take_i64)?.into_iter().collect();
                self.process.restore(&mut from)?;
            }
            other => return Err(from.error(format!("state of a function, version {other}"))),
        }
        from.finish()
    }
}

impl<In, P, F> Stage<In> for Processing<F, P>
where
    In: Send + 'static,
    P: Process<In = In>,
    F: Fn(&Scope) -> P + Clone + Send + 'static,
{
    type Out = P::Out;

    async fn process(&mut self, at: &TopicPartition, batch: Batch<In>) -> Result<Batch<P::Out>> {
        let mut out = Vec::new();
        if batch.is_empty() {
            return Ok(out);
        }
        let scope = self.scoping.scope(at);
        let Some(instance) = self.instances.get_mut(&scope) else {
            let text = format!("function {} got elements of a partition it does not know", self.name);
            return Err(Error::new(ErrorKind::Misuse, text).with_topic_partition(at.clone()));
        };
        for element in batch {
            instance.offset = element.offset;
            instance.call(&scope, at, &mut self.late, &mut out, |process, context| {
                process.on_record(element, context)
            })?;
        }
        Ok(out)
    }

    fn spec(&self) -> Option<FunctionSpec> {
        Some(FunctionSpec { name: Arc::clone(&self.name), scoping: self.scoping })
    }

    fn add(&mut self, at: &TopicPartition, states: &[FunctionState]) -> Result<()> {
        let scope = self.scoping.scope(at);
        if let Some(instance) = self.instances.get_mut(&scope) {
            instance.splits.insert(at.clone());
            return Ok(());
        }
        let mut instance = Instance {
            process: (self.factory)(&scope),
            watermark: None,
            timers: BTreeSet::new(),
            splits: BTreeSet::from([at.clone()]),
            offset: Offset(0),
        };
        let known = states.iter().find(|state| *state.function == *self.name && state.scope == scope);
        if let Some(known) = known {
            instance.decode(&known.state).map_err(|error| {
                let text = format!("the state of function {} for {scope} can't be read", self.name);
                Error::new(ErrorKind::State, text).with_topic_partition(at.clone()).with_source(error)
            })?;
        }
        self.instances.insert(scope, instance);
        Ok(())
    }

    fn advance(&mut self, watermark: i64) -> Result<Fired<P::Out>> {
        let mut fired = Vec::new();
        let mut failed = None;
        for (scope, instance) in &mut self.instances {
            let Some(at) = instance.splits.first().cloned() else { continue };
            let mut out = Vec::new();
            if let Err(error) = instance.advance(scope, &at, watermark, &mut self.late, &mut out) {
                failed = Some(error);
                break;
            }
            if !out.is_empty() {
                fired.push((at, out));
            }
        }
        match failed {
            Some(error) => Err(self.explain(error)),
            None => Ok(fired),
        }
    }

    fn end(&mut self, at: &TopicPartition) -> Result<Batch<P::Out>> {
        let scope = self.scoping.scope(at);
        let mut out = Vec::new();
        let Some(instance) = self.instances.get_mut(&scope) else { return Ok(out) };
        instance.splits.remove(at);
        if !instance.splits.is_empty() {
            return Ok(out);
        }
        let ended = instance.advance(&scope, at, i64::MAX, &mut self.late, &mut out);
        self.instances.remove(&scope);
        ended.map_err(|error| self.explain(error)).map(|()| out)
    }

    fn snapshot(&self, out: &mut Vec<FunctionState>) -> Result<()> {
        for (scope, instance) in &self.instances {
            let state = instance.encode();
            if state.len() > LARGEST_STATE {
                let text = format!("the state of function {} for {scope} is larger than 2 GiB", self.name);
                return Err(Error::new(ErrorKind::State, text));
            }
            out.push(FunctionState { function: self.name.to_string(), scope: scope.clone(), state });
        }
        Ok(())
    }

    fn late(&self) -> u64 {
        self.late
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::functions::{Chain, Identity, Then};
    use milena::PartitionId;

    /// Remembers numbers, sends a number on when the watermark reaches it, and everything it was told.
    #[derive(Default)]
    struct Alarm {
        told: Vec<i64>,
    }

    impl Process for Alarm {
        type In = i64;
        type Out = String;

        fn on_record(
            &mut self,
            record: Stamped<i64>,
            context: &mut Context<'_, String>,
        ) -> std::result::Result<(), BoxError> {
            if record.value < 0 {
                return Err("negative".into());
            }
            if context.is_late(record.timestamp) {
                context.divert_late(Some(format!("late {}", record.value)), record.timestamp);
                return Ok(());
            }
            self.told.push(record.value);
            context.set_timer(record.value);
            Ok(())
        }

        fn on_timer(
            &mut self,
            at: i64,
            context: &mut Context<'_, String>,
        ) -> std::result::Result<(), BoxError> {
            context.emit(format!("{} at {at}", context.partition()), at);
            // One that goes on for ever, were it not for the end.
            context.set_timer(at.saturating_add(1000));
            Ok(())
        }

        fn snapshot(&self, out: &mut Encoder) {
            out.put_list(&self.told, |out, &number| out.put_i64(number));
        }

        fn restore(&mut self, from: &mut Decoder<'_>) -> StateResult<()> {
            self.told = from.take_list(Decoder::take_i64)?;
            Ok(())
        }
    }

    type Alarms<F> = Then<Identity<i64>, Processing<F, Alarm>>;

    fn chain(scoping: Scoping) -> Alarms<impl Fn(&Scope) -> Alarm + Clone + Send + 'static> {
        let stage = Processing::new("alarm".into(), scoping, |_: &Scope| Alarm::default());
        Then { before: Identity::default(), stage }
    }

    fn at(topic: &str, partition: i32) -> TopicPartition {
        TopicPartition::new(topic, partition)
    }

    fn numbers(numbers: impl IntoIterator<Item = i64>) -> Batch<i64> {
        let stamp = |value| Stamped { value, timestamp: value, offset: Offset(value) };
        numbers.into_iter().map(stamp).collect()
    }

    fn texts(fired: Fired<String>) -> Vec<String> {
        fired.into_iter().flat_map(|(_, batch)| batch).map(|element| element.value).collect()
    }

    fn snapshot<F>(chain: &Alarms<F>) -> Vec<FunctionState>
    where
        F: Fn(&Scope) -> Alarm + Clone + Send + 'static,
    {
        let mut out = Vec::new();
        chain.snapshot(&mut out).unwrap();
        out
    }

    #[tokio::test]
    async fn timers_fire_in_order_each_once_and_per_partition() {
        let mut chain = chain(Scoping::Split);
        for partition in 0..2 {
            chain.add(&at("t", partition), &[]).unwrap();
            assert!(chain.process(&at("t", partition), numbers([30, 10, 20, 10])).await.unwrap().is_empty());
        }
        assert_eq!(
            texts(chain.advance(20).await.unwrap()),
            ["t-0 at 10", "t-0 at 20", "t-1 at 10", "t-1 at 20"]
        );
        assert!(chain.advance(20).await.unwrap().is_empty());
        assert!(chain.advance(15).await.unwrap().is_empty(), "time does not go back");
        let late = chain.process(&at("t", 0), numbers([20, 21])).await.unwrap();
        assert_eq!(late.iter().map(|it| it.value.as_str()).collect::<Vec<_>>(), ["late 20"]);
        assert_eq!(chain.late(), 1);
    }

    #[tokio::test]
    async fn a_restored_instance_goes_on_where_it_was_in_another_subtask() {
        let mut first = chain(Scoping::Split);
        first.add(&at("t", 0), &[]).unwrap();
        first.process(&at("t", 0), numbers([10, 25])).await.unwrap();
        first.advance(12).await.unwrap();
        let states = snapshot(&first);
        let mut second = first.clone();
        assert!(snapshot(&second).is_empty(), "a clone has no state");
        second.add(&at("t", 0), &states).unwrap();
        assert_eq!(snapshot(&second), states);
        let late = second.process(&at("t", 0), numbers([11, 13])).await.unwrap();
        assert_eq!(late[0].value, "late 11", "what was late stays late");
        assert!(second.advance(12).await.unwrap().is_empty());
        assert_eq!(texts(second.advance(26).await.unwrap()), ["t-0 at 13", "t-0 at 25"]);

        let broken = FunctionState { state: vec![0, 1, 0, 0, 0, 0, 0, 9], ..states[0].clone() };
        let error = first.clone().add(&at("t", 0), &[broken]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::State);
    }

    #[test]
    fn golden_bytes() {
        let instance = Instance {
            process: Alarm { told: vec![7] },
            watermark: Some(3),
            timers: BTreeSet::from([4, 5]),
            splits: BTreeSet::new(),
            offset: Offset(0),
        };
        let expected: &[u8] = &[
            0, 1, // version
            1, 0, 0, 0, 0, 0, 0, 0, 3, // watermark
            0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 5, // timers
            0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7, // the function's own
        ];
        assert_eq!(instance.encode(), expected, "the format may only change with its version");
    }

    #[tokio::test]
    async fn the_end_fires_what_is_left_and_takes_the_instance_away() {
        let mut chain = chain(Scoping::Split);
        chain.add(&at("t", 0), &[]).unwrap();
        chain.process(&at("t", 0), numbers([10, 5])).await.unwrap();
        let out: Vec<_> = chain.end(&at("t", 0)).await.unwrap().into_iter().map(|it| it.value).collect();
        assert_eq!(out, ["t-0 at 5", "t-0 at 10"]);
        assert!(snapshot(&chain).is_empty());
        assert!(chain.end(&at("t", 0)).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn partitions_of_one_number_share_an_instance_until_the_last_ends() {
        let mut chain = chain(Scoping::Partition);
        for topic in ["a", "b"] {
            chain.add(&at(topic, 3), &[]).unwrap();
            chain.process(&at(topic, 3), numbers([10])).await.unwrap();
        }
        assert_eq!(snapshot(&chain).len(), 1);
        assert_eq!(snapshot(&chain)[0].scope, Scope::Partition(PartitionId(3)));
        assert!(chain.end(&at("a", 3)).await.unwrap().is_empty());
        assert_eq!(chain.end(&at("b", 3)).await.unwrap().len(), 1, "one timer, for both");
    }

    #[tokio::test]
    async fn an_error_of_the_function_names_partition_and_offset() {
        let mut chain = chain(Scoping::Split);
        chain.add(&at("t", 4), &[]).unwrap();
        let error = chain.process(&at("t", 4), numbers([1, -8])).await.unwrap_err();
        assert_eq!((error.kind(), error.offset()), (ErrorKind::Schema, Some(Offset(-8))));
        assert_eq!(error.topic_partition(), Some(&at("t", 4)));
    }
}
