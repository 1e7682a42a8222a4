//! The part of the interop matrix that fits into every run: all shapes and codecs, milena, Java and librdkafka. The whole is
//! `cargo xtask interop`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use milena::Compression;
use milena_testkit::kafka::{KafkaVersion, NEWEST, is_demanded};
use milena_tests::Env;
use milena_tests::interop::{
    Case, Implementation, Kit, Matrix, Shape, java_program, librdkafka_program, run,
};

/// milena, Java and librdkafka, the latter where a virtual environment with it can be made or if it is demanded; `None` if not
/// even Java is there.
async fn kit(logs: &std::path::Path) -> Option<Kit> {
    let kit = Kit::new(env!("CARGO_BIN_EXE_interop_agent"), logs);
    let jars = NEWEST.parse::<KafkaVersion>().unwrap().jars().map_err(|error| error.to_string());
    let java = match jars {
        Ok(jars) => java_program("Agent", &jars).await,
        Err(error) => Err(error),
    };
    let kit = match java {
        Ok(java) => kit.with(Implementation::Java, java),
        Err(error) => {
            assert!(!is_demanded(), "no Java client {NEWEST}: {error}");
            eprintln!("SKIPPED: no Java client {NEWEST}: {error}");
            return None;
        }
    };
    match librdkafka_program("agent").await {
        Ok(librdkafka) => Some(kit.with(Implementation::Librdkafka, librdkafka)),
        Err(error) => {
            assert!(!is_demanded(), "no librdkafka: {error}");
            eprintln!("SKIPPED: librdkafka takes no part: {error}");
            Some(kit)
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_reads_what_anybody_wrote() {
    let Some(env) = Env::real().await else { return };
    let scratch = tempfile::tempdir().unwrap();
    let Some(kit) = kit(scratch.path()).await else { return };
    let shapes = Shape::ALL.iter().copied().filter(|shape| *shape != Shape::Compacted).collect::<Vec<_>>();
    let mut matrix = Matrix::new(&shapes, &Compression::ALL);
    // One is enough to see gaps and emptied batches, and waiting for the broker's cleaner is slow.
    matrix.cases.push(Case { shape: Shape::Compacted, codec: Compression::Lz4, level: None });
    let report = run(&env.bootstrap(), &kit, &matrix, scratch.path()).await.unwrap();
    let participants = report.implementations.len();
    assert_eq!(report.cells.len(), matrix.cases.len() * participants * participants);
    let failures: Vec<_> = report.failures().collect();
    assert!(failures.is_empty(), "{}: {failures:#?}", env.describe());
    let [_, emptied, gaps] = report.compacted;
    assert!(emptied > 0 && gaps > 0, "the cleaner left no holes: {:?}", report.compacted);
}
