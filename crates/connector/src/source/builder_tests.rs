//! What a builder refuses and what it makes of its parts.

use super::*;
use crate::schema::StringDeserializer;

type Builder = KafkaSourceBuilder<String>;

fn base() -> Builder {
    KafkaSource::builder().client(ClientConfig::new(["localhost:9092"])).deserializer(StringDeserializer)
}

// scenario: 5.4.19
#[test]
fn mandatory_parts_are_asked_for() {
    assert!(base().topics(["t"]).build().is_ok());
    let refused = [
        base(),
        base().topics(["t"]).topic_pattern("t.*"),
        base().topics::<&str>([]),
        base().topic_pattern("("),
        Builder::default().topics(["t"]).deserializer(StringDeserializer),
        Builder::default().topics(["t"]).client(ClientConfig::new(["localhost:9092"])),
        base().topics(["t"]).group_id(""),
        base().topics(["t"]).start(StartFrom::Committed { or: OffsetReset::Earliest }),
        base().topics(["t"]).bounded(StopAt::Committed),
        base().topics(["t"]).bounded(StopAt::Never),
        base().topics(["t"]).commit_on_checkpoint(true),
        base().topics(["t"]).commit_mode(CommitMode::Periodic(Duration::from_secs(1))),
        base().topics(["t"]).group_id("g").commit_mode(CommitMode::Periodic(Duration::ZERO)),
        base().topics(["t"]).alignment(&AlignmentGroup::new(), Duration::from_secs(1)),
        base().topics(["t"]).start(StartFrom::Timestamp(-1)),
        base().topics(["t"]).discovery_interval(Some(Duration::ZERO)),
    ];
    for (index, builder) in refused.into_iter().enumerate() {
        let error = builder.build().expect_err(&format!("number {index} must be refused"));
        assert_eq!(error.kind(), ErrorKind::Misuse, "{error}");
    }
}

// scenario: 5.2.7, 5.4.19
#[test]
fn offsets_are_committed_when_there_is_a_group() {
    let mode = |builder: Builder| builder.topics(["t"]).build().unwrap().settings().commits;
    assert_eq!(mode(base()), CommitMode::Off);
    assert_eq!(mode(base().group_id("g")), CommitMode::OnCheckpoints);
    assert_eq!(mode(base().group_id("g").commit_on_checkpoint(false)), CommitMode::Off);
}

#[test]
fn a_bounded_source_looks_for_partitions_once() {
    let source = base().topics(["t"]).bounded(StopAt::Latest).build().unwrap();
    assert_eq!(source.enumerator_config().discovery, Discovery::Once);
}
