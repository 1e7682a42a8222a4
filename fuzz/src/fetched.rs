//! A fetch answer read in place: accepted when the guard accepts it, without memory, and read to the same end as the struct.

use bytes::Bytes;
use milena_protocol::fetch::{FetchView, VERSIONS};
use milena_protocol::messages::FetchRequest;
use milena_protocol::{decode_response, guard};

use super::guarded::SLACK;
use super::memory;

/// The target `fetch_view`: a version, the frame.
pub fn run(input: &[u8]) {
    let [version, frame @ ..] = input else { return };
    let version = i16::from(*version) % (VERSIONS.max + 1);
    let whole = Bytes::copy_from_slice(frame);
    let shared = whole.clone();
    let (view, peak) = memory::peak_of(|| FetchView::read(whole, version));
    assert!(peak <= SLACK, "v{version} took {peak} bytes");
    let refused = match (&view, guard::check_response(1, version, frame)) {
        (Ok(_), Ok(_)) => None,
        (_, Err(refused)) => Some(refused),
        (Err(error), Ok(_)) => panic!("the guard accepts what the view does not: {error}"),
    };
    let Ok(view) = view else { return };
    if let Some(refused) = refused {
        // Nothing is decoded into memory, so there is no limit of it.
        assert!(refused.to_string().contains("more memory"), "the view accepts it: {refused}");
        return;
    }
    let (correlation_id, response) =
        decode_response::<FetchRequest>(shared, version).expect("the guard accepted it");
    assert_eq!(view.correlation_id(), correlation_id);
    let mut topics = view.topics();
    for expected in response.responses {
        let mut topic = topics.next_topic().expect("a topic more");
        for expected in expected.partitions {
            let partition = topic.next().expect("a partition more");
            assert_eq!(partition.index().0, expected.partition_index);
            assert_eq!(partition.error_code().0, expected.error_code);
            assert_eq!(partition.records(), expected.records.unwrap_or_default());
            let aborted = expected.aborted_transactions.unwrap_or_default();
            assert!(
                partition
                    .aborted_transactions()
                    .map(|one| one.first_offset.0)
                    .eq(aborted.iter().map(|one| one.first_offset))
            );
        }
        assert!(topic.next().is_none(), "a partition too many");
    }
    assert!(topics.next_topic().is_none(), "a topic too many");
    assert_eq!(view.node_endpoints().count(), response.node_endpoints.len());
}
