//! What becomes of a prepared transaction in 21 situations, each on every broker there is, written both ways, committed by the process that
//! prepared it and by another one that only has the checkpoint: the verdict is what readers see, or that nobody can tell.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use milena::protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use milena::protocol::messages::{DeleteRecordsRequest, TopicName};
use milena::{
    Client, EndTxnAnswer, ForcedMarker, Isolation, PreparedTransaction, ProducerEpoch, ProducerRecord,
    Target, TopicPartition, TransactionConfig, TransactionVersion, TransactionalProducer,
};
use milena_connector::checkpoint::state::{Decoder, Encoder};
use milena_connector::sink::committable::Committable;
use milena_connector::sink::committer::{Committer, failure};
use milena_connector::sink::outcome::{Limits, Outcome};
use milena_tests::Env;
use milena_tests::records::{batches, eventually, values, within};

const SITUATIONS: u32 = 21;
/// Situations under way at once.
const AT_ONCE: usize = 6;
const LONG: Duration = Duration::from_secs(60);

/// Who commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// The process that prepared it.
    Live,
    /// Another one, with what a checkpoint holds.
    Recovered,
    /// Another one, and the start time was never learnt (as before Kafka 3.0).
    Bare,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Truth {
    Committed,
    Aborted,
    Partial,
    /// Its records are gone: nobody can tell but a coordinator that remembers.
    Gone,
}

struct Place {
    env: Env,
    client: Client,
    version: TransactionVersion,
}

/// A transaction over two partitions, and what else is going on.
struct Scene<'a> {
    place: &'a Place,
    topic: String,
    id: String,
    /// Transactions that stay open while ours is judged.
    open: Vec<TransactionalProducer>,
}

impl Scene<'_> {
    async fn begin(&self, id: &str, timeout: Duration, value: &str) -> TransactionalProducer {
        let version = Some(self.place.version);
        let config = TransactionConfig { version, timeout, ..TransactionConfig::new(id) };
        let mut producer = TransactionalProducer::new(&self.place.client, config).unwrap();
        within("init", producer.init()).await.unwrap();
        producer.begin().await.unwrap();
        for partition in 0..2 {
            let record = ProducerRecord::to(&self.topic).partition(partition).value(value);
            within("the write", producer.send(record)).await.unwrap().await.unwrap();
        }
        producer
    }

    async fn prepare(&self, timeout: Duration) -> PreparedTransaction {
        let mut producer = self.begin(&self.id, timeout, "ours").await;
        within("prepare", producer.prepare()).await.unwrap().unwrap()
    }

    async fn end(&self, transaction: &PreparedTransaction, commit: bool) {
        let ended = within("the end", self.place.client.transactions().end(transaction, commit)).await;
        assert!(matches!(ended.unwrap(), EndTxnAnswer::Done { .. }), "{} {commit}", self.id);
    }

    /// Another instance takes the id: whatever is open is aborted.
    async fn take_over(&self) {
        within("the fence", self.place.client.transactions().fence(&self.id, LONG)).await.unwrap();
    }

    /// A later transaction under the same id, left open or ended.
    async fn newer(&mut self, commit: Option<bool>) {
        let mut producer = self.begin(&self.id, LONG, "newer").await;
        match commit {
            None => self.open.push(producer),
            Some(true) => within("the commit", producer.commit()).await.unwrap(),
            Some(false) => within("the abort", producer.abort()).await.unwrap(),
        }
    }

    async fn force(&self, transaction: &PreparedTransaction, commit: bool, partitions: &[i32]) {
        let marker = ForcedMarker {
            producer_id: transaction.producer_id,
            producer_epoch: ProducerEpoch(transaction.producer_epoch.0),
            commit,
            partitions: partitions.iter().map(|&p| TopicPartition::new(self.topic.as_str(), p)).collect(),
        };
        let written = within("the marker", self.place.client.transactions().write_markers(&marker)).await;
        for (tp, written) in written.unwrap() {
            written.unwrap_or_else(|error| panic!("{tp}: {error}"));
        }
    }

    /// Waits until the markers are there, then deletes the records of these partitions.
    async fn delete_records(&self, partitions: &[i32]) {
        let client = &self.place.client;
        for &partition in partitions {
            let ours = [String::from("ours")].to_vec();
            let look = || values(client, &self.topic, partition, Isolation::ReadCommitted);
            eventually("the commit is seen", look, ours).await;
            let leader =
                client.topic(&self.topic).await.unwrap().partitions[&partition.into()].leader.unwrap();
            let wanted = DeleteRecordsPartition::default().with_partition_index(partition).with_offset(-1);
            let topic = DeleteRecordsTopic::default()
                .with_name(TopicName(self.topic.clone().into()))
                .with_partitions(vec![wanted]);
            let request = DeleteRecordsRequest::default().with_topics(vec![topic]).with_timeout_ms(10_000);
            let answer = within("the deletion", client.call(Target::Broker(leader), &request)).await.unwrap();
            assert_eq!(answer.topics[0].partitions[0].error_code, 0);
        }
    }

    async fn delete_topic(&self) {
        let deleted = within("the deletion", self.place.client.admin().delete_topics(&[&self.topic])).await;
        deleted.unwrap().remove(0).1.unwrap();
    }

    /// Sets the situation up.
    async fn stage(&mut self, situation: u32) -> (PreparedTransaction, Truth) {
        use Truth::{Aborted, Committed, Gone, Partial};
        if matches!(situation, 14 | 15) {
            let older = self.begin(&format!("{}-older", self.id), LONG, "older").await;
            self.open.push(older);
        }
        let timeout = if situation == 7 { Duration::from_secs(1) } else { LONG };
        let ours = self.prepare(timeout).await;
        let truth = match situation {
            1 | 3 | 14 => Committed,
            2 => {
                self.end(&ours, true).await;
                Committed
            }
            4 => {
                self.end(&ours, true).await;
                let refused = self.place.client.transactions().end(&ours, false).await.unwrap();
                assert!(matches!(refused, EndTxnAnswer::Refused(_)), "{refused:?}");
                Committed
            }
            5 | 15 => {
                self.end(&ours, false).await;
                Aborted
            }
            6 => {
                self.take_over().await;
                Aborted
            }
            7 => {
                // A broker looks for such transactions every 10 s (before 2.0 every minute); until then a commit succeeds.
                for _ in 0..500 {
                    if has_marker(&self.place.client, &self.topic).await {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                assert!(has_marker(&self.place.client, &self.topic).await, "the broker aborts it");
                Aborted
            }
            8 => {
                self.end(&ours, true).await;
                self.take_over().await;
                Committed
            }
            9..=11 => {
                self.end(&ours, true).await;
                self.newer(match situation {
                    9 => None,
                    10 => Some(true),
                    _ => Some(false),
                })
                .await;
                Committed
            }
            12 | 13 => {
                self.end(&ours, false).await;
                self.newer((situation == 13).then_some(true)).await;
                Aborted
            }
            16 => {
                self.force(&ours, false, &[0, 1]).await;
                Aborted
            }
            17 => {
                self.force(&ours, true, &[0, 1]).await;
                self.take_over().await;
                Committed
            }
            18 => {
                self.force(&ours, false, &[1]).await;
                Partial
            }
            19 => {
                self.end(&ours, true).await;
                self.delete_records(&[1]).await;
                Committed
            }
            20 => {
                self.end(&ours, true).await;
                self.delete_records(&[0, 1]).await;
                self.take_over().await;
                Gone
            }
            21 => {
                self.end(&ours, true).await;
                self.delete_topic().await;
                self.take_over().await;
                Gone
            }
            _ => panic!("no situation {situation}"),
        };
        (ours, truth)
    }
}

/// Whether a transaction has ended in partition 0.
async fn has_marker(client: &Client, topic: &str) -> bool {
    let tp = TopicPartition::new(topic, 0);
    let read = batches(client, &tp, Isolation::ReadUncommitted).await;
    read.iter().any(|batch| batch.is_control())
}

fn limits() -> Limits {
    Limits { decide: Some(LONG), visible: LONG, verify: true }
}

async fn commit(client: Client, committable: &Committable) -> Outcome {
    let committer = Committer::new(client, limits());
    let sent = || Ok::<_, std::convert::Infallible>(());
    match within("the commit", committer.commit(committable, sent)).await {
        Ok(outcome) => outcome,
        Err(never) => match never {},
    }
}

/// What the checkpoint gives to another process.
fn carried(committable: &Committable) -> Committable {
    let mut out = Encoder::new();
    committable.encode(&mut out);
    Committable::decode(&mut Decoder::new(out.as_bytes())).unwrap()
}

async fn judge(place: Arc<Place>, situation: u32, life: Life) {
    let what = format!("situation {situation}, {life:?}, {:?}, {}", place.version, place.env.describe());
    let topic = place.env.topic("situation", 2).await;
    let mut scene = Scene { place: &place, topic, id: place.env.name("txn"), open: Vec::new() };
    let (transaction, truth) = scene.stage(situation).await;
    let mut committable = Committable { checkpoint: 1, subtask: 0, transaction };
    let client = match life {
        Life::Live => place.client.clone(),
        Life::Recovered | Life::Bare => {
            committable = carried(&committable);
            place.env.client().await
        }
    };
    if life == Life::Bare {
        committable.transaction.start_time_ms = None;
    }
    if situation == 3 {
        let four = (0..4).map(|_| commit(client.clone(), &committable));
        for outcome in futures_util::future::join_all(four).await {
            assert_eq!(outcome, Outcome::Committed { verified: true }, "{what}");
        }
    }
    let outcome = commit(client, &committable).await;
    let right = match (&outcome, truth) {
        (Outcome::Committed { verified: true }, Truth::Committed)
        | (Outcome::Unknown { .. }, Truth::Gone) => true,
        (Outcome::Aborted { lost, .. }, Truth::Aborted) => lost.len() == 2,
        (Outcome::Partial { committed, lost }, Truth::Partial) => {
            committed[0].0.partition.0 == 0 && lost[0].0.partition.0 == 1
        }
        _ => false,
    };
    assert!(right, "{what}: {truth:?}, and {outcome:?}");
    let told = failure(&committable, &outcome).map(|error| error.to_string());
    if truth == Truth::Aborted {
        let told = told.unwrap();
        for (tp, first) in &committable.transaction.first_offsets {
            assert!(told.contains(&format!("{tp} from offset {first}")), "{what}: {told}");
        }
    }
    // Newer transactions are as they were, and readers see what was said.
    for producer in &mut scene.open {
        within("the end", producer.commit()).await.unwrap_or_else(|error| panic!("{what}: {error}"));
    }
    if truth == Truth::Gone || situation == 19 {
        return;
    }
    for partition in 0..2 {
        let visible = truth == Truth::Committed || (truth == Truth::Partial && partition == 0);
        let look = || async {
            let seen = values(&place.client, &scene.topic, partition, Isolation::ReadCommitted).await;
            seen.iter().any(|value| value == "ours")
        };
        eventually(&what, look, visible).await;
    }
}

// scenario: 5.6.27, 5.6.28, 5.8.6, 5.8.7, 5.8.8, D2, D6, D7
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_situation_ends_in_the_right_verdict() {
    let mut all = Vec::new();
    for version in [TransactionVersion::V1, TransactionVersion::V2] {
        for env in Env::each().await {
            let client = env.client().await;
            if version > client.transaction_version().await.unwrap() {
                continue;
            }
            let place = Arc::new(Place { env, client, version });
            for situation in 1..=SITUATIONS {
                for life in [Life::Live, Life::Recovered, Life::Bare] {
                    all.push((Arc::clone(&place), situation, life));
                }
            }
        }
    }
    // The slow one first: it only waits for the broker.
    all.sort_by_key(|&(_, situation, _)| situation != 7);
    let count = all.len();
    let (slow, quick): (Vec<_>, Vec<_>) = all.into_iter().partition(|&(_, situation, _)| situation == 7);
    let run = |(place, situation, life)| judge(place, situation, life);
    let slow = futures_util::future::join_all(slow.into_iter().map(run));
    let quick = stream::iter(quick).map(run).buffer_unordered(AT_ONCE).for_each(|()| async {});
    tokio::join!(slow, quick);
    println!("{count} cases");
}

/// Kafka 4: somebody ends our committed transaction once more, the other way and in the other generation, and is told that it is aborted.
// scenario: D7
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abort_in_the_other_generation_is_not_believed() {
    for env in Env::each().await {
        let client = env.client().await;
        if client.transaction_version().await.unwrap() < TransactionVersion::V2 {
            continue;
        }
        let place = Place { env, client, version: TransactionVersion::V1 };
        let topic = place.env.topic("mixed", 2).await;
        let scene = Scene { place: &place, topic, id: place.env.name("txn"), open: Vec::new() };
        let transaction = scene.prepare(LONG).await;
        scene.end(&transaction, true).await;
        let mixed = PreparedTransaction { version: TransactionVersion::V2, ..transaction.clone() };
        within("the other end", place.client.transactions().end(&mixed, false)).await.unwrap();
        let committable = Committable { checkpoint: 1, subtask: 0, transaction };
        let outcome = commit(place.env.client().await, &committable).await;
        assert_eq!(outcome, Outcome::Committed { verified: true }, "{}", place.env.describe());
    }
}
