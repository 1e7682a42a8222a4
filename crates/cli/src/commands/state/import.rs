//! `milena state import`.

use std::path::Path;

use anyhow::Context as _;
use milena::TransactionVersion;
use milena_connector::checkpoint::import::{self, ImportedSource, LatestMarker};
use milena_connector::checkpoint::state::{Encoder, StateResult};
use milena_connector::checkpoint::{CheckpointState, CheckpointStore, StateDocument};
use milena_connector::sink::Delivery;

use super::{Import, LatestArg, show};
use crate::args::Global;
use crate::output::Usage;

/// Runs the command.
pub(crate) fn run(global: &Global, args: &Import) -> anyhow::Result<()> {
    let mut state = match &args.json {
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
            let state = StateDocument::parse(&text).and_then(StateDocument::into_state);
            CheckpointState { job: args.job.clone(), ..state.with_context(|| path.display().to_string())? }
        }
        None => of_flink(args)?,
    };
    if args.dry_run {
        state.id = 1;
        return show::print(global, &state);
    }
    let store = CheckpointStore::open(&args.dir, usize::MAX, &args.job)?;
    if !args.force && !store.list()?.is_empty() {
        let text = format!("{} has checkpoints already; --force writes behind them", args.dir.display());
        return Err(Usage(text).into());
    }
    state.id = store.next_id()?;
    store.write(state.id, &state.encode())?;
    eprintln!("written as checkpoint {} of {}", state.id, args.dir.display());
    show::print(global, &state)
}

/// One state of all that was named.
fn of_flink(args: &Import) -> anyhow::Result<CheckpointState> {
    let mut source = ImportedSource::default();
    let mut any = false;
    for path in &args.enumerators {
        for part in states(args, path, import::enumerator)? {
            source.merge(part)?;
            any = true;
        }
    }
    for path in &args.splits {
        let splits = states(args, path, import::split)?;
        // Splits were found by a discovery, so what they do not name is new.
        source.merge(ImportedSource { splits, initial_discovery_finished: true })?;
        any = true;
    }
    for path in &args.classic_sources {
        source.merge(within(path, import::classic_source(&bytes(args, path)?))?)?;
        any = true;
    }
    let mut transactions = Vec::new();
    for path in &args.committables {
        transactions.extend(states(args, path, import::committable)?);
    }
    for path in &args.classic_sinks {
        let sink = within(path, import::classic_sink(&bytes(args, path)?))?;
        if let Some(open) = sink.current {
            eprintln!(
                "note: {} was open at the checkpoint; it is aborted by its time-out, or by `milena txn abort`",
                open.transactional_id
            );
        }
        transactions.extend(sink.pending);
    }
    if !any && transactions.is_empty() {
        return Err(Usage("say what to import: --json or one of the --flink options".to_owned()).into());
    }
    let latest = match args.latest {
        LatestArg::Refuse => LatestMarker::Refuse,
        LatestArg::Earliest => LatestMarker::Earliest,
        LatestArg::Latest => LatestMarker::Latest,
    };
    let mut enumerator = Encoder::new();
    source.into_state(latest)?.encode(&mut enumerator);
    let version = if args.generation == 2 { TransactionVersion::V2 } else { TransactionVersion::V1 };
    let timeout = args.transaction_timeout;
    let committables: Vec<_> = transactions
        .into_iter()
        .map(|transaction| transaction.into_committable(1, version, timeout))
        .collect();
    let exactly_once = !committables.is_empty() || args.prefix.is_some();
    Ok(CheckpointState {
        job: args.job.clone(),
        id: 1,
        parallelism: 1,
        delivery: if exactly_once { Delivery::ExactlyOnce } else { Delivery::None },
        prefix: args.prefix.clone(),
        enumerator: enumerator.finish(),
        splits: Vec::new(),
        watermark: None,
        subtask_watermarks: Vec::new(),
        committables,
        writers: Vec::new(),
        functions: Vec::new(),
    })
}

/// The states of a file: each behind its version and length, or one of the version that was given.
fn states<T>(
    args: &Import,
    path: &Path,
    read: impl Fn(i32, &[u8]) -> StateResult<T>,
) -> anyhow::Result<Vec<T>> {
    let bytes = bytes(args, path)?;
    match args.state_version {
        Some(version) => Ok(vec![within(path, read(version, &bytes))?]),
        None => within(path, import::versioned(&bytes))?
            .into_iter()
            .map(|(version, state)| within(path, read(version, state)))
            .collect(),
    }
}

fn within<T>(path: &Path, read: StateResult<T>) -> anyhow::Result<T> {
    read.with_context(|| path.display().to_string())
}

fn bytes(args: &Import, path: &Path) -> anyhow::Result<Vec<u8>> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    if !args.hex {
        return Ok(bytes);
    }
    let digits: Vec<u8> = bytes.into_iter().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let pairs = digits.chunks(2).map(|pair| {
        let text = std::str::from_utf8(pair).ok().filter(|text| text.len() == 2)?;
        u8::from_str_radix(text, 16).ok()
    });
    let bytes: Option<Vec<u8>> = pairs.collect();
    bytes.with_context(|| format!("{}: not hexadecimal digits", path.display()))
}
