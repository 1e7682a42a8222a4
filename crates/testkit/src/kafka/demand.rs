//! What a test does when there is no real Kafka: it says so loudly, or it fails.

use std::io::Write;

use super::error::{KafkaError, KafkaErrorKind};

/// True if tests must not be skipped for want of a real Kafka: `CI=true` or `MILENA_REQUIRE_KAFKA=1`.
pub fn is_demanded() -> bool {
    let is = |name: &str, wanted: &str| std::env::var(name).is_ok_and(|value| value == wanted);
    is("CI", "true") || is("MILENA_REQUIRE_KAFKA", "1")
}

/// The broker that was obtained, or `None` if the calling test has to be skipped.
///
/// A skip is written to stderr past the test harness, which would swallow it, and added to the file that
/// `MILENA_SKIP_REPORT` names, one line a test; `cargo xtask test` prints their number at the end.
///
/// # Panics
/// If a broker was started and failed, or if [`is_demanded`]: such a test has failed, whatever it tests.
#[track_caller]
pub fn or_skip<T>(outcome: Result<T, KafkaError>) -> Option<T> {
    let error = match outcome {
        Ok(kafka) => return Some(kafka),
        Err(error) => error,
    };
    assert!(error.kind() == KafkaErrorKind::Absent && !is_demanded(), "{error}");
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    // Both are reports for people: a test that can't write them is skipped all the same.
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {error}");
    if let Some(path) = std::env::var_os("MILENA_SKIP_REPORT")
        && let Ok(mut file) = std::fs::File::options().create(true).append(true).open(path)
    {
        let _ = file.write_all(format!("{test}\n").as_bytes());
    }
    None
}
