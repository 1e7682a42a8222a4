//! What a consumer takes in memory while it reads a backlog of gigabytes: its buffer and a constant.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use super::cases::{self, Case};
use super::peers::{Peer, Program};
use super::results::Line;
use super::runs::finish;
use super::values;
use crate::NEWEST_KAFKA;
use crate::command::{Scratch, succeeds};
use crate::kafka::Broker;

/// The buffer of the peer's mode `backlog`.
const BUFFER_MIB: f64 = 64.0;
/// For the process itself, and what its allocator keeps of freed memory.
const CONSTANT_MIB: f64 = 16.0;
/// Written at a time.
const PORTION_MIB: u64 = 512;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// MiB of values. The log takes as much of a tmpfs, if there is one.
    #[arg(long, default_value_t = 5120)]
    mib: u64,
    /// How it is compressed: none, lz4 or zstd.
    #[arg(long, default_value = "none")]
    codec: String,
    /// A broker that runs already; without it one is started.
    #[arg(long)]
    bootstrap: Option<String>,
    /// The version of the broker.
    #[arg(long, default_value = NEWEST_KAFKA)]
    kafka: String,
}

/// Writes the backlog over 1,000 partitions, reads it with a buffer that was filled before the first record is taken, and fails if the
/// process took more than the buffer and a constant.
pub(crate) fn run(args: &Args) -> Result<()> {
    let end = if args.codec == "none" { String::new() } else { format!("-{}", args.codec) };
    let name = format!("consume-1000-1k{end}");
    let Some(case) = cases::all().into_iter().find(|case| case.name == name) else {
        bail!("no codec {:?}: it is none, lz4 or zstd", args.codec);
    };
    let (floor, milena) = (Program::build(Peer::Floor, true)?, Program::build(Peer::Milena, true)?);
    let memory = Path::new("/dev/shm");
    // Held until all was measured.
    let (address, _broker) = match &args.bootstrap {
        Some(address) => (address.clone(), None),
        None => {
            let broker =
                Broker::start_to_measure(&args.kafka, memory.is_dir().then_some(memory), None, false)?;
            (broker.address().to_owned(), Some(broker))
        }
    };
    let scratch = Scratch::new("backlog")?;
    let topic = format!("backlog-{}", std::process::id());
    let call = |program: &Program, role: &str, mode: &str, records: u64| -> Result<Line> {
        let mut command = program.command(None);
        command.args(["--bootstrap", &address, "--topic", &topic, "--role", role, "--mode", mode]);
        command.args(["--partitions", "1000", "--codec", &args.codec, "--batch-records", "64"]);
        command.args(["--value-size", &case.value_size.to_string(), "--records", &records.to_string()]);
        finish(command_with_values(command, scratch.path(), &case)?, false).context(mode.to_owned())
    };
    let change = |what: &str| {
        let mut command = floor.command(None);
        command.args(["--role", "produce", "--mode", what, "--bootstrap", &address, "--topic", &topic]);
        succeeds(command.args(["--partitions", "1000"]))
    };
    ensure!(change("create-topic"), "the topic cannot be created");
    let (mut left, mut records) = (args.mib, 0);
    while left > 0 {
        let portion = left.min(PORTION_MIB);
        left -= portion;
        records += call(&floor, "produce", "full", (portion << 20) / u64::from(case.value_size))?.records;
        println!("{} of {} MiB written", args.mib - left, args.mib);
    }
    let read = call(&milena, "consume", "backlog", records)?;
    change("delete-topic");
    ensure!(read.records == records, "{} of {records} records came", read.records);
    let peak = read.rss_kib as f64 / 1024.0;
    println!(
        "{records} records, {} MiB of values ({}), 1,000 partitions, buffer {BUFFER_MIB} MiB: peak memory of the process {peak:.1} MiB, \
         {:.2} M records/s",
        args.mib,
        args.codec,
        read.rate()
    );
    let most = BUFFER_MIB + CONSTANT_MIB;
    ensure!(peak <= most, "that is more than {most} MiB");
    Ok(())
}

fn command_with_values(
    mut command: std::process::Command,
    folder: &Path,
    case: &Case,
) -> Result<std::process::Command> {
    command.arg("--values").arg(values::file(folder, case)?);
    Ok(command)
}
