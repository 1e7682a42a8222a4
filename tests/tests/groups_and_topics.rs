//! Offsets of groups without members, and topics.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::time::Duration;

use milena::{CommittedOffset, ErrorCode, NewTopic, Offset, TopicPartition};
use milena_tests::records::{eventually, within, write_values};
use milena_tests::{Env, create_topic};

const WAIT: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn committed_offsets_come_back_from_any_client() {
    for env in Env::each().await {
        let client = env.client().await;
        let topic = env.topic("commit", 3).await;
        let id = env.name("group");
        let tp = |partition| TopicPartition::new(topic.as_str(), partition);
        let group = client.group(&id);
        let before = group.fetch(Some(&[tp(0), tp(2)]), true).await.unwrap();
        assert!(before.iter().all(|(_, found)| found.as_ref().unwrap().is_none()), "{before:?}");

        let noted =
            CommittedOffset { offset: Offset(5), leader_epoch: None, metadata: Some("a note".to_owned()) };
        group.commit(&[(tp(0), CommittedOffset::from(Offset(3))), (tp(1), noted)]).await.unwrap();
        group.commit(&[(tp(0), CommittedOffset::from(Offset(4)))]).await.unwrap();

        let other = env.client().await;
        let found = other.group(&id).fetch(Some(&[tp(2), tp(1), tp(0)]), true).await.unwrap();
        let found: Vec<_> = found
            .into_iter()
            .map(|(tp, found)| {
                let found = found.unwrap();
                (tp.partition.0, found.as_ref().map(|f| f.offset.0), found.and_then(|f| f.metadata))
            })
            .collect();
        let note = found[1].2.as_deref();
        assert_eq!(note, Some("a note"), "{}", env.describe());
        assert_eq!(
            found.iter().map(|(partition, offset, _)| (*partition, *offset)).collect::<Vec<_>>(),
            [(2, None), (1, Some(5)), (0, Some(4))]
        );
        let mut all: Vec<_> = other.group(&id).fetch(None, false).await.unwrap();
        all.sort_by_key(|(tp, _)| tp.partition.0);
        assert_eq!(all.iter().map(|(tp, _)| tp.partition.0).collect::<Vec<_>>(), [0, 1]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_of_absent_topics_are_refused_by_name() {
    for env in Env::each().await {
        let client = env.client().await;
        let absent = TopicPartition::new(env.name("absent"), 0);
        let group = client.group(&env.name("group"));
        let commit = [(absent.clone(), CommittedOffset::from(Offset(1)))];
        let error = within("the refusal", group.commit(&commit)).await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION), "{}: {error}", env.describe());
        assert!(error.to_string().contains(&*absent.topic), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_are_created_described_listed_and_deleted() {
    for env in Env::each().await {
        let client = env.client().await;
        let admin = client.admin();
        let (one, two) = (env.name("one"), env.name("two"));
        create_topic(&client, &one, 3).await;
        let again = NewTopic::new(&one, 3);
        let wrong = NewTopic::new("not a name!", 1);
        let mut with_config = NewTopic::new(&two, 1);
        with_config.configs.push(("max.message.bytes".to_owned(), "20000".to_owned()));
        let outcomes = admin.create_topics(&[again, wrong, with_config], WAIT).await.unwrap();
        let code = |place: usize| outcomes[place].1.as_ref().err().and_then(milena::Error::code);
        assert_eq!(code(0), Some(ErrorCode::TOPIC_ALREADY_EXISTS), "{outcomes:?}");
        assert_eq!(code(1), Some(ErrorCode::INVALID_TOPIC_EXCEPTION), "{outcomes:?}");
        assert_eq!(code(2), None, "{outcomes:?}");

        eventually(
            env.describe(),
            || async {
                let topics = admin.list_topics().await.unwrap();
                topics.iter().filter(|topic| topic.name == one || topic.name == two).count()
            },
            2,
        )
        .await;
        let described = admin.describe_topics(&[&one, "absent.really"]).await.unwrap();
        let partitions = &described[0].1.as_ref().unwrap().partitions;
        assert_eq!(partitions.iter().map(|partition| partition.id.0).collect::<Vec<_>>(), [0, 1, 2]);
        let brokers: Vec<_> = client.cluster().brokers().map(|broker| broker.id).collect();
        for partition in partitions {
            assert!(brokers.contains(&partition.leader.unwrap()), "{partition:?}");
            assert!(!partition.isr.is_empty() && partition.replicas.len() == 1, "{partition:?}");
        }
        let absent = described[1].1.as_ref().unwrap_err();
        assert_eq!(absent.code(), Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION), "{absent}");

        let deleted = admin.delete_topics(&[&one, "absent.really", &two]).await.unwrap();
        assert!(deleted[0].1.is_ok() && deleted[2].1.is_ok(), "{deleted:?}");
        assert_eq!(
            deleted[1].1.as_ref().unwrap_err().code(),
            Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
            "{deleted:?}"
        );
        eventually(
            env.describe(),
            || async {
                let topics = admin.list_topics().await.unwrap();
                topics.iter().filter(|topic| topic.name == one || topic.name == two).count()
            },
            0,
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn added_partitions_can_be_written_at_once() {
    for env in Env::each().await {
        let client = env.client().await;
        let topic = env.topic("grow", 1).await;
        let admin = client.admin();
        write_values(&client, &topic, 0, &["first"]).await;
        admin.add_partitions(&topic, 4).await.unwrap();
        let fewer = admin.add_partitions(&topic, 2).await.unwrap_err();
        assert_eq!(fewer.code(), Some(ErrorCode::INVALID_PARTITIONS), "{}: {fewer}", env.describe());
        eventually(
            env.describe(),
            || async {
                let cluster = client.metadata(Some(&[&topic])).await.unwrap();
                cluster.topic(&topic).map(|topic| topic.partition_count())
            },
            Some(4),
        )
        .await;
        write_values(&client, &topic, 3, &["last"]).await;
    }
}
