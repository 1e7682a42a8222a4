//! A subtask of the model: the reader, a function that counts, and the transaction that is open. What it tells and is told are the
//! runtime's own messages.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt as _;
use milena::TopicPartition;

use crate::BoxError;
use crate::checkpoint::snapshot::{FunctionState, Scope};
use crate::checkpoint::state::{Decoder, Encoder, StateResult};
use crate::progress::CommitRequest;
use crate::runtime::functions::{Context, FunctionSpec, Process, Processing, Scoping, Stage};
use crate::runtime::pending::{Pace, Pending};
use crate::runtime::report::Gauges;
use crate::runtime::subtask::Command;
use crate::schema::Stamped;
use crate::sink::naming::TransactionName;
use crate::source::model::{Fetch, Reader};
use crate::source::{KafkaSource, Split, Unread};

pub(super) const FUNCTION: &str = "count";

pub(super) fn spec() -> FunctionSpec {
    FunctionSpec { name: Arc::from(FUNCTION), scoping: Scoping::Split }
}

/// What goes to the sink.
#[derive(Clone, Debug)]
pub(super) enum Output {
    /// A record, and how many of its partition there were with it.
    Value { value: u32, count: u32, late: bool },
    /// A partition is at its end.
    Total { count: u32, fired: u32 },
}

/// Counts the records of its partition, and the timers that each sets at its own time.
#[derive(Debug, Default)]
pub(super) struct Count {
    count: u32,
    fired: u32,
}

impl Process for Count {
    type In = u32;
    type Out = Output;

    fn on_record(&mut self, record: Stamped<u32>, context: &mut Context<'_, Output>) -> Result<(), BoxError> {
        self.count += 1;
        context.set_timer(record.timestamp);
        let late = context.is_late(record.timestamp);
        let output = Output::Value { value: record.value, count: self.count, late };
        context.emit(output, record.timestamp);
        Ok(())
    }

    fn on_timer(&mut self, _: i64, _: &mut Context<'_, Output>) -> Result<(), BoxError> {
        self.fired += 1;
        Ok(())
    }

    fn on_watermark(&mut self, context: &mut Context<'_, Output>) -> Result<(), BoxError> {
        if context.is_ended() {
            context.emit(Output::Total { count: self.count, fired: self.fired }, 0);
        }
        Ok(())
    }

    fn snapshot(&self, out: &mut Encoder) {
        out.put_u32(self.count);
        out.put_u32(self.fired);
    }

    fn restore(&mut self, from: &mut Decoder<'_>) -> StateResult<()> {
        self.count = from.take_u32()?;
        self.fired = from.take_u32()?;
        Ok(())
    }
}

/// What a checkpoint says of a partition's function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) watermark: Option<i64>,
    pub(super) count: u32,
}

pub(super) fn counted(state: &FunctionState) -> StateResult<Counted> {
    let mut from = Decoder::new(&state.state);
    from.take_i16()?;
    let watermark = from.take_opt(Decoder::take_i64)?;
    let timers = from.take_list(Decoder::take_i64)?.len();
    let (count, fired) = (from.take_u32()?, from.take_u32()?);
    from.finish()?;
    // Each record set one timer: it is there, or it has fired.
    assert!(timers + fired as usize >= count as usize, "a timer is lost");
    Ok(Counted { watermark, count })
}

pub(super) type Counting = Processing<fn(&Scope) -> Count, Count>;

/// The transaction that is being written.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) name: TransactionName,
    pub(super) pid: i64,
    pub(super) epoch: i16,
    pub(super) firsts: BTreeMap<usize, usize>,
}

pub(super) struct Subtask {
    pub(super) reader: Reader,
    pub(super) function: Counting,
    pub(super) gauges: Gauges,
    pub(super) inbox: VecDeque<Command>,
    /// What is being read, and the largest event time that the function has seen of it.
    pub(super) partitions: BTreeMap<TopicPartition, Option<i64>>,
    /// What was handed out and is not with the function yet.
    pub(super) pending: Option<Pending<u32>>,
    pub(super) pace: Pace,
    pub(super) ended: BTreeMap<TopicPartition, Split>,
    pub(super) reading: bool,
    pub(super) fetches: Vec<Fetch>,
    /// The commit of offsets under way.
    pub(super) committing: Option<CommitRequest>,
    pub(super) open: Option<Open>,
    pub(super) last_pair: Option<(TransactionName, i64, i16)>,
    pub(super) next_checkpoint: u64,
    pub(super) last_watermark: Option<i64>,
    /// It was told of splits before.
    pub(super) assigned: bool,
}

impl Subtask {
    pub(super) fn new(source: KafkaSource<u32>, first_checkpoint: u64) -> Self {
        let make: fn(&Scope) -> Count = |_| Count::default();
        Self {
            reader: Reader::new(source),
            function: Processing::new(Arc::from(FUNCTION), Scoping::Split, make),
            gauges: Gauges::new(),
            inbox: VecDeque::new(),
            partitions: BTreeMap::new(),
            pending: None,
            pace: Pace::new(1),
            ended: BTreeMap::new(),
            reading: true,
            fetches: Vec::new(),
            committing: None,
            open: None,
            last_pair: None,
            next_checkpoint: first_checkpoint,
            last_watermark: None,
            assigned: false,
        }
    }

    /// The reader failed: another one takes its place, and knows what this subtask read to its end. What was on its way is lost.
    pub(super) fn replace_reader(&mut self) {
        self.reader = self.reader.successor();
        let ended: Vec<Split> = self.ended.values().cloned().collect();
        self.reader.add_finished(&ended);
        self.pending = None;
        self.fetches.clear();
        self.last_watermark = None;
    }

    /// Puts elements through the function, which never waits.
    pub(super) fn process(
        &mut self,
        at: &TopicPartition,
        elements: Vec<Stamped<u32>>,
    ) -> crate::Result<Vec<Stamped<Output>>> {
        self.function.process(at, elements).now_or_never().unwrap()
    }

    /// Where a barrier stands in what was handed out.
    pub(super) fn unread(&self) -> Vec<Unread> {
        let pending = self.pending.as_ref();
        let largest = |at: &TopicPartition| self.partitions.get(at).copied().flatten();
        pending.and_then(|pending| pending.unread(largest(&pending.at))).into_iter().collect()
    }

    /// What time brings, if anything does.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.reader.next_deadline()
    }
}
