//! Clients beside each other on one real broker: what a record costs whom, and whether the bars are met.
//!
//! The peers are programs of their own (`benches/peers/README.md` is what they have in common). A case is one kind of work; in each
//! round every peer does it once, one after the other, and its cost is divided by that of the floor's full stage in the same round.

pub(crate) mod backlog;
mod bars;
mod cases;
pub(crate) mod flink;
mod peers;
mod profile;
mod report;
mod results;
mod runs;
mod tls_report;
mod values;

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::NEWEST_KAFKA;
use crate::command::root;
use peers::Peer;
use results::Results;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The clients, separated by commas; floor is always there.
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// The cases, separated by commas: names, beginnings of names (`consume-6*`), `bars` (what the bars need, the default), `tls` or `all`.
    #[arg(long, value_delimiter = ',')]
    cases: Vec<String>,
    /// Only these ways of milena, such as ticket or recv, separated by commas.
    #[arg(long, value_delimiter = ',')]
    modes: Vec<String>,
    /// How often each client does each case.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Records of the measured window with 100-byte values and no codec; other cases take a stated part of it.
    #[arg(long, default_value_t = 3_000_000)]
    records: u64,
    /// The floor and milena, not optimised, a few records, checks only.
    #[arg(long)]
    smoke: bool,
    /// Keep the results in this file; cases that are there already are replaced, others stay.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Write docs/performance.md from the results, with those of the file, and docs/security-performance.md from those over TLS.
    #[arg(long)]
    write_docs: bool,
    /// Also sample where the floor and milena spend their time, with `perf`.
    #[arg(long)]
    breakdown: bool,
    /// Run nothing: show (and write) what the file holds.
    #[arg(long, requires = "json")]
    report: bool,
    /// Name the cases and end.
    #[arg(long)]
    list: bool,
    /// A broker that runs already, of that version; without it one is started, on a core of its own.
    #[arg(long)]
    bootstrap: Option<String>,
    /// The version of the broker.
    #[arg(long, default_value = NEWEST_KAFKA)]
    kafka: String,
}

/// Measures; fails if a peer miscounted or a checksum differs, not if a bar is missed.
pub(crate) fn peers(args: &Args) -> Result<()> {
    if args.list {
        for case in cases::all() {
            println!("{:28} {}", case.name, case.text());
        }
        return Ok(());
    }
    let mut results = match &args.json {
        Some(path) if path.exists() => Results::load(path)?,
        _ => Results::default(),
    };
    if !args.report {
        let selected = if args.smoke { cases::smoke() } else { cases::select(&args.cases)? };
        runs::run(&plan(args)?, &selected, &mut results)?;
        if let Some(path) = &args.json {
            results.save(path)?;
        }
    }
    if args.smoke {
        println!("{} cases: all counts and checksums agree", results.cases.len());
        return Ok(());
    }
    let (secured, plain) = results.split();
    let mut documents = Vec::new();
    if !plain.cases.is_empty() {
        let bars = bars::judge(&plain);
        println!("{}", report::tables(&plain));
        println!("{}", report::bars(&bars));
        documents.push(("docs/performance.md", report::document(&plain, &bars)));
    }
    if !secured.cases.is_empty() {
        println!("{}", tls_report::tables(&secured));
        documents.push(("docs/security-performance.md", tls_report::document(&secured)));
    }
    for (name, text) in documents.iter().filter(|_| args.write_docs) {
        let path = root().join(name);
        std::fs::write(&path, text)?;
        println!("wrote {}", path.display());
    }
    Ok(())
}

/// The smoke test: that the harness works, and that all agree.
pub(crate) fn smoke() -> Result<()> {
    peers(&Args {
        peers: Vec::new(),
        cases: Vec::new(),
        modes: Vec::new(),
        rounds: 1,
        records: 0,
        smoke: true,
        json: None,
        write_docs: false,
        breakdown: false,
        report: false,
        list: false,
        bootstrap: None,
        kafka: NEWEST_KAFKA.to_owned(),
    })
}

/// The peers, fewest records and rounds of the smoke test.
fn plan(args: &Args) -> Result<runs::Plan> {
    let mut wanted = if args.smoke {
        vec![Peer::Floor, Peer::Milena]
    } else if args.peers.is_empty() {
        Peer::ALL.to_vec()
    } else {
        args.peers.iter().map(|name| Peer::named(name)).collect::<Result<_>>()?
    };
    if !wanted.contains(&Peer::Floor) {
        wanted.insert(0, Peer::Floor);
    }
    let (rounds, records) = if args.smoke { (1, 6000) } else { (args.rounds, args.records) };
    if rounds == 0 || records < 1000 {
        bail!("at least one round, and a thousand records");
    }
    Ok(runs::Plan {
        peers: wanted,
        modes: args.modes.clone(),
        rounds,
        records,
        smoke: args.smoke,
        breakdown: args.breakdown,
        bootstrap: args.bootstrap.clone(),
        kafka: args.kafka.clone(),
    })
}
