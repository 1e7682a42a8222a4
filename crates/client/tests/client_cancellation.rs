//! Every future of the client and of what it hands out (admin, groups, transactions, fetcher), dropped at each point at which it waits: what
//! was only asked can be asked again, what was to be changed is changed as a whole or not, and nothing is left running. Producers and
//! consumers have tests of their own.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // in a test a panic is the report

mod stops;

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use milena::protocol::messages::MetadataRequest;
use milena::{
    CallOptions, Client, CommittedOffset, CoordinatorKind, ErrorCode, ErrorKind, FetchFrom, FetchOptions,
    ForcedMarker, Isolation, ListFilter, NewTopic, Offset, OffsetSpec, ProducerRecord, Result, Target,
    TopicPartition, TransactionConfig, TransactionalProducer,
};
use stops::{TOPIC, at_every_wait, connect, cut};

/// Only a hang takes so long, of a time that is stopped.
const LONG: Duration = Duration::from_secs(60);

fn tp() -> TopicPartition {
    TopicPartition::new(TOPIC, 0)
}

/// A question that can be asked again, and then has the expected answer.
fn asked_again<T: PartialEq + Debug, F: Future<Output = Result<T>>>(
    what: &str,
    expected: &T,
    ask: impl Fn(Client) -> F,
) {
    at_every_wait(what, |_, client, times| {
        let (first, second) = (ask(client.clone()), ask(client));
        async move {
            let first = cut(first, times).await.map(Result::unwrap);
            assert!(first.as_ref().is_none_or(|found| found == expected), "{what}: {first:?}");
            assert_eq!(&second.await.unwrap(), expected, "{what}");
            first.is_some()
        }
    });
}

#[test]
fn a_connect_and_a_close() {
    at_every_wait("connect", |world, _, times| async move {
        match cut(connect(&world), times).await {
            Some(other) => {
                other.unwrap().close(LONG).await.unwrap();
                true
            }
            None => false,
        }
    });
    at_every_wait("close", |world, _, times| async move {
        let client = connect(&world).await.unwrap();
        let asking = tokio::spawn({
            let client = client.clone();
            async move { client.call(Target::Any, &MetadataRequest::default()).await }
        });
        tokio::task::yield_now().await;
        let closed = cut(client.close(LONG), times).await.map(Result::unwrap);
        let refused = client.admin().list_topics().await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Closed, "{refused}");
        // What was asked before gets its answer all the same.
        asking.await.unwrap().unwrap();
        closed.is_some()
    });
}

#[test]
fn questions_about_the_cluster() {
    asked_again("metadata", &true, |client| async move {
        Ok(client.metadata(Some(&[TOPIC])).await?.topic(TOPIC).is_some())
    });
    asked_again("topic", &1, |client| async move { Ok(client.topic(TOPIC).await?.partition_count()) });
    asked_again("leader", &true, |client| async move {
        let leader = client.leader(&tp()).await?;
        Ok(client.cluster().broker(leader).is_some())
    });
    asked_again("list_offsets", &Some(Offset(0)), |client| async move {
        let wanted = [(tp(), OffsetSpec::Latest)];
        let mut found = client.list_offsets(&wanted, Isolation::ReadUncommitted).await?;
        Ok(found.remove(0).1?.offset)
    });
    asked_again("call", &true, |client| async move {
        let target = Target::Coordinator(CoordinatorKind::Group, "group".to_owned());
        Ok(!client.call(target, &MetadataRequest::default()).await?.brokers.is_empty())
    });
    asked_again("call_with", &true, |client| async move {
        let request = |_: i16| MetadataRequest::default();
        let options = CallOptions::default();
        Ok(!client.call_with(Target::Any, options, request).await?.response.brokers.is_empty())
    });
    asked_again("list_topics", &2, |client| async move {
        Ok(client.admin().list_topics().await?.iter().filter(|topic| !topic.internal).count())
    });
    asked_again("describe_topics", &1, |client| async move {
        Ok(client.admin().describe_topics(&[TOPIC]).await?.remove(0).1?.partitions.len())
    });
    asked_again("describe_broker_config", &false, |client| async move {
        let broker = client.cluster().brokers().next().unwrap().id;
        Ok(client.admin().describe_broker_config(broker, &["transaction.max.timeout.ms"]).await?.is_empty())
    });
    asked_again("describe_producers", &0, |client| async move {
        Ok(client.admin().describe_producers(&[tp()]).await?.remove(0).1?.len())
    });
}

#[test]
fn looks_into_a_log() {
    asked_again("fetch", &(Offset(0), true), |client| async move {
        let from = [FetchFrom::new(tp(), Offset(0))];
        let found = client.fetcher().fetch(&from, &FetchOptions::default()).await?.remove(0);
        Ok((found.next_offset(), found.error.is_none()))
    });
    asked_again("fetch_from_leader", &(Offset(0), true), |client| async move {
        let from = [FetchFrom::new(tp(), Offset(0))];
        let leader = client.leader(&tp()).await?;
        let found =
            client.fetcher().fetch_from_leader(leader, &from, &FetchOptions::default()).await?.remove(0);
        Ok((found.next_offset(), found.error.is_none()))
    });
}

#[test]
fn changes_of_topics() {
    at_every_wait("create_topics", |_, client, times| async move {
        let new = [NewTopic::new("new", 3)];
        let made = cut(client.admin().create_topics(&new, LONG), times).await.map(Result::unwrap);
        if let Some(made) = &made {
            made[0].1.as_ref().unwrap();
        }
        // It was made or not; never in part.
        let again = client.admin().create_topics(&new, LONG).await.unwrap().remove(0).1;
        let there = |error: milena::Error| assert_eq!(error.code(), Some(ErrorCode::TOPIC_ALREADY_EXISTS));
        let _ = again.map_err(there);
        assert_eq!(client.topic("new").await.unwrap().partition_count(), 3);
        made.is_some()
    });
    at_every_wait("add_partitions", |_, client, times| async move {
        let grown = cut(client.admin().add_partitions(TOPIC, 4), times).await.map(Result::unwrap);
        if client.admin().describe_topics(&[TOPIC]).await.unwrap().remove(0).1.unwrap().partitions.len() == 1
        {
            assert!(grown.is_none());
            client.admin().add_partitions(TOPIC, 4).await.unwrap();
        }
        let found = client.admin().describe_topics(&[TOPIC]).await.unwrap().remove(0).1.unwrap();
        assert_eq!(found.partitions.len(), 4);
        grown.is_some()
    });
    at_every_wait("delete_topics", |_, client, times| async move {
        let gone = cut(client.admin().delete_topics(&[TOPIC]), times).await.map(Result::unwrap);
        let again = client.admin().delete_topics(&[TOPIC]).await.unwrap().remove(0).1;
        let absent =
            |error: milena::Error| assert_eq!(error.code(), Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));
        let _ = again.map_err(absent);
        let left = client.admin().list_topics().await.unwrap();
        assert!(left.iter().all(|topic| topic.name != TOPIC));
        gone.is_some()
    });
}

#[test]
fn commits_of_a_group_and_looks_at_them() {
    at_every_wait("a group's commit", |_, client, times| async move {
        let group = client.group("group");
        let offsets = [(tp(), CommittedOffset::from(Offset(7)))];
        let done = cut(group.commit(&offsets), times).await.map(Result::unwrap).is_some();
        let found = group.fetch(Some(&[tp()]), true).await.unwrap().remove(0).1.unwrap();
        let found = found.map(|found| found.offset);
        assert!(found == Some(Offset(7)) || (!done && found.is_none()), "{found:?}");
        group.commit_each(&offsets).await.unwrap().remove(0).1.unwrap();
        done
    });
    asked_again("a group's commit_each", &true, |client| async move {
        let offsets = [(tp(), CommittedOffset::from(Offset(7)))];
        Ok(client.group("group").commit_each(&offsets).await?.remove(0).1.is_ok())
    });
    asked_again("a group's fetch", &None, |client| async move {
        let found = client.group("group").fetch(Some(&[tp()]), true).await?.remove(0).1?;
        Ok(found.map(|found| found.offset))
    });
}

/// A transaction that is open, of which one record is written.
async fn open(client: &Client) -> TransactionalProducer {
    let mut producer = TransactionalProducer::new(client, TransactionConfig::new("id")).unwrap();
    producer.init().await.unwrap();
    producer.begin().await.unwrap();
    producer.send(ProducerRecord::to(TOPIC).value("open")).await.unwrap().await.unwrap();
    producer
}

#[test]
fn looks_at_transactions_and_what_ends_them() {
    asked_again("describe", &1, |client| async move {
        Ok(client.transactions().describe(&["id".to_owned()]).await?.len())
    });
    asked_again("list", &0, |client| async move {
        Ok(client.transactions().list(&ListFilter::default()).await?.len())
    });
    let end = |client: Client| async move {
        let wanted = [(tp(), OffsetSpec::Latest)];
        let found = client.list_offsets(&wanted, Isolation::ReadCommitted).await.unwrap().remove(0).1;
        found.unwrap().offset.unwrap()
    };
    at_every_wait("fence", |_, client, times| async move {
        let producer = open(&client).await;
        let fenced = cut(client.transactions().fence("id", LONG), times).await.map(Result::unwrap);
        let (id, epoch) = client.transactions().fence("id", LONG).await.unwrap();
        assert!(fenced.is_none_or(|(first, before)| first == id && before < epoch), "{fenced:?}");
        assert_eq!(end(client).await, Offset(2), "what was open is aborted");
        let refused = producer.send(ProducerRecord::to(TOPIC).value("late")).await;
        let refused = match refused {
            Ok(ticket) => ticket.await.map(drop),
            Err(error) => Err(error),
        };
        assert!(refused.is_err(), "it writes under an epoch that is over");
        producer.close(LONG).await.unwrap_or_default();
        fenced.is_some()
    });
    at_every_wait("write_markers", |_, client, times| async move {
        let producer = open(&client).await;
        let active = client.admin().describe_producers(&[tp()]).await.unwrap().remove(0).1.unwrap();
        let marker = ForcedMarker {
            producer_id: active[0].producer_id,
            producer_epoch: active[0].producer_epoch,
            commit: false,
            partitions: vec![tp()],
        };
        let written = cut(client.transactions().write_markers(&marker), times).await.map(Result::unwrap);
        client.transactions().write_markers(&marker).await.unwrap().remove(0).1.unwrap();
        assert!(end(client).await >= Offset(2), "a marker is there");
        producer.close(LONG).await.unwrap_or_default();
        written.is_some()
    });
}
