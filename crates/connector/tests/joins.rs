//! A join of two topics that are partitioned alike: what waits for its other half is in the checkpoint, and goes where the partitions go.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use milena::{NewTopic, Producer, ProducerConfig, ProducerRecord};
use milena_connector::BoxError;
use milena_connector::checkpoint::state::{Decoder, Encoder, StateResult};
use milena_connector::checkpoint::{Scope, inspect};
use milena_connector::runtime::{Context, Job, JobControl, Process, Step};
use milena_connector::schema::{OwnedKafkaRecord, RecordDeserializer, Stamped};
use milena_connector::source::{Assigner, KafkaSource, StartFrom, StopAt};
use support::{GROUP, Stage, crash_at, job_config, key, run, timestamp};

const PARTITIONS: i32 = 4;
const RECORDS: u64 = 400;
const INTERVAL: Duration = Duration::from_millis(40);

/// Sends a number on when both topics have brought it.
struct Join {
    left: Arc<str>,
    /// Those that one topic has brought, and whether it was the left one.
    waiting: BTreeMap<u64, bool>,
}

impl Process for Join {
    type In = OwnedKafkaRecord;
    type Out = OwnedKafkaRecord;

    fn on_record(
        &mut self,
        record: Stamped<OwnedKafkaRecord>,
        context: &mut Context<'_, OwnedKafkaRecord>,
    ) -> Result<(), BoxError> {
        let is_left = record.value.topic == self.left;
        let number = std::str::from_utf8(record.value.value.as_deref().unwrap_or_default())?.parse()?;
        match self.waiting.remove(&number) {
            Some(was_left) if was_left == is_left => return Err(format!("{number} came twice").into()),
            Some(_) => context.emit(record.value, record.timestamp),
            None => drop(self.waiting.insert(number, is_left)),
        }
        Ok(())
    }

    fn snapshot(&self, out: &mut Encoder) {
        out.put_list(&self.waiting, |out, (&number, &is_left)| {
            out.put_u64(number);
            out.put_u8(u8::from(is_left));
        });
    }

    fn restore(&mut self, from: &mut Decoder<'_>) -> StateResult<()> {
        self.waiting =
            from.take_list(|from| Ok((from.take_u64()?, from.take_u8()? == 1)))?.into_iter().collect();
        Ok(())
    }
}

fn other<B>(stage: &Stage<B>) -> String {
    format!("{}.other", stage.input)
}

/// Equal keys go to equal partitions. The other topic has them in another order.
async fn fill<B>(stage: &Stage<B>) {
    let topic = [NewTopic::new(other(stage), PARTITIONS)];
    for (_, made) in stage.client.admin().create_topics(&topic, Duration::from_secs(20)).await.unwrap() {
        made.unwrap();
    }
    stage.produce(0..RECORDS).await;
    let producer = Producer::new(&stage.client, ProducerConfig::default()).unwrap();
    let topic = other(stage);
    for number in (0..RECORDS).rev() {
        let (key, value) = (key(number), number.to_string());
        let record = ProducerRecord::to(&topic).key(&key).value(&value).timestamp(timestamp(number));
        drop(producer.send(record).await.unwrap());
    }
    producer.close(Duration::from_secs(5)).await.unwrap();
}

fn job<B>(stage: &Stage<B>) -> Job {
    let (left, right): (Arc<str>, _) = (stage.input.as_str().into(), other(stage));
    let source = KafkaSource::builder()
        .client(stage.config())
        .topics([&*left, &right])
        .group_id(GROUP)
        .start(StartFrom::Earliest)
        .bounded(StopAt::Latest)
        .assigner(Assigner::CoPartitioned)
        .deserializer(RecordDeserializer::new())
        .build()
        .unwrap();
    let slow = |record| async move {
        tokio::time::sleep(Duration::from_millis(1)).await;
        Ok(record)
    };
    Job::from_source(source)
        .map_async(2, slow)
        .process_co_partitioned("join", move |_| Join { left: Arc::clone(&left), waiting: BTreeMap::new() })
        .to(stage.exactly_once())
}

async fn exact_over_lives<B>(stage: &Stage<B>) {
    fill(stage).await;
    let dir = tempfile::tempdir().unwrap();
    let (mut crashes, mut waited) = (0, 0);
    for (life, step) in Step::ALL.into_iter().enumerate() {
        let parallelism = [2, 3, 1, 4][life % 4];
        let config = job_config(dir.path(), parallelism, INTERVAL);
        if let Err(error) = run(job(stage), config, crash_at(step, 2)).await {
            assert!(error.to_string().contains("crashed by a hook"), "{step:?}: {error}");
            crashes += 1;
        }
        if let Ok(state) = inspect(dir.path(), None) {
            let scopes: Vec<_> = state.functions.iter().map(|state| &state.scope).collect();
            assert!(scopes.iter().all(|scope| matches!(scope, Scope::Partition(_))), "{scopes:?}");
            // An empty join has a watermark, no timers, and no numbers.
            waited += state.functions.iter().filter(|state| state.state.len() > 32).count();
        }
    }
    assert!(crashes > 2, "{crashes} crashes");
    assert!(waited > 2, "{waited} times something waited for its other half in a checkpoint");
    run(job(stage), job_config(dir.path(), 2, INTERVAL), JobControl::new()).await.unwrap();
    // In the order in which the second halves came: each once.
    let mut joined: Vec<_> = stage.output().await.into_iter().map(|(_, _, record)| record.number).collect();
    joined.sort_unstable();
    assert!(joined.iter().copied().eq(0..RECORDS), "{} of {RECORDS}: {joined:?}", joined.len());
    assert!(stage.open_transactions().await.iter().all(|id| !id.starts_with(&stage.prefix)));
    assert!(inspect(dir.path(), None).unwrap().functions.is_empty(), "nothing waits at the end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_of_co_partitioned_topics_is_exact_over_crashes_and_parallelisms() {
    exact_over_lives(&Stage::new(PARTITIONS).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_of_co_partitioned_topics_is_exact_on_a_real_broker() {
    let Some(stage) = Stage::real(PARTITIONS).await else { return };
    exact_over_lives(&stage).await;
}
