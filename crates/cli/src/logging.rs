//! What the libraries have to say, on standard error: all of it on request, else what the user can act on.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::{EnvFilter, FilterExt as _, dynamic_filter_fn};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

/// A warning of the client comes no more often than this.
const WARNING_EVERY: Duration = Duration::from_secs(10);
/// A cluster that does not answer is mentioned when it has not for this long; the command's own error tells it otherwise.
const FIRST_METADATA_WARNING: Duration = Duration::from_secs(4);

/// Starts logging: warnings, with -v information, with -vv everything; `RUST_LOG` comes first.
pub(crate) fn start(verbose: u8) {
    let default = match verbose {
        0 => "warn",
        1 => "info",
        _ => "debug",
    };
    let asked = EnvFilter::try_from_default_env().ok();
    let quiet = verbose == 0 && asked.is_none();
    let level = asked.unwrap_or_else(|| EnvFilter::new(default));
    let calm = Calm { began: Instant::now(), last: Mutex::default() };
    let filter =
        level.and(dynamic_filter_fn(move |metadata, _context| !quiet || calm.lets_through(metadata)));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    tracing_subscriber::registry().with(lines.with_filter(filter)).init();
}

/// Holds back what would be said again and again while the client tries again and again.
struct Calm {
    began: Instant,
    last: Mutex<HashMap<Identifier, Instant>>,
}

impl Calm {
    fn lets_through(&self, metadata: &Metadata<'_>) -> bool {
        if *metadata.level() != Level::WARN || !metadata.target().starts_with("milena::") {
            return true;
        }
        // The command ends with the same words.
        if metadata.target() == "milena::producer::engine" {
            return false;
        }
        let now = Instant::now();
        if metadata.target() == "milena::metadata" && now.duration_since(self.began) < FIRST_METADATA_WARNING
        {
            return false;
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let previous = last.get(&metadata.callsite());
        if previous.is_some_and(|previous| now.duration_since(*previous) < WARNING_EVERY) {
            return false;
        }
        last.insert(metadata.callsite(), now);
        true
    }
}
