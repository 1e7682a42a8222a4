//! The guard's table of message shapes, from the schemas inside a kafka-clients jar.
//!
//! `cargo xtask parity --jar kafka-clients-4.3.1.jar` writes it, `--check` compares. Get the jar with
//! `mvn dependency:copy -Dartifact=org.apache.kafka:kafka-clients:4.3.1 -DoutputDirectory=.`

mod diff;
mod emit;
mod merge;
mod schema;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use milena_protocol::{VersionRange, supported};

use schema::Message;

/// Writes or checks the guard's table, and says what kafka-protocol lacks.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The kafka-clients jar to read the schemas from.
    #[arg(long)]
    jar: PathBuf,
    /// An older kafka-clients jar, for the versions that the newer one dropped.
    #[arg(long, value_name = "JAR")]
    older: Option<PathBuf>,
    /// Write nothing; fail if what is checked in differs.
    #[arg(long)]
    check: bool,
    /// Write nothing; say which versions have another shape in this older (or newer) jar.
    #[arg(long, value_name = "JAR")]
    diff: Option<PathBuf>,
    /// Where the table is.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/protocol/src/guard/tables"))]
    out: PathBuf,
}

/// Runs the chore.
pub(crate) fn run(args: Args) -> Result<()> {
    let messages = schema::messages(&args.jar)?;
    if let Some(other) = &args.diff {
        diff::report(&schema::messages(other)?, &messages);
        return Ok(());
    }
    let messages = match &args.older {
        Some(older) => merge::merge(schema::messages(older)?, messages)?,
        None => messages,
    };
    let files = emit::files(&messages)?;
    let mut stale = Vec::new();
    for (name, text) in &files {
        let path = args.out.join(name);
        if std::fs::read_to_string(&path).is_ok_and(|present| present == *text) {
            continue;
        }
        stale.push(name.as_str());
        if !args.check {
            std::fs::create_dir_all(&args.out)?;
            std::fs::write(&path, text).with_context(|| format!("can't write {}", path.display()))?;
        }
    }
    for entry in std::fs::read_dir(&args.out)? {
        let entry = entry?;
        let name = entry.file_name();
        if !files.iter().any(|(known, _)| name.to_str() == Some(known)) {
            stale.push("a file that is not part of the table");
            if !args.check {
                std::fs::remove_file(entry.path())?;
            }
        }
    }
    report(&messages);
    match (args.check, stale.is_empty()) {
        (true, false) => bail!("the guard's table is not the one of this jar: {}", stale.join(", ")),
        (_, true) => println!("the table is up to date"),
        (false, false) => println!("written: {}", stale.join(", ")),
    }
    Ok(())
}

/// What this Kafka speaks and kafka-protocol does not, or not yet.
fn report(messages: &[Message]) {
    let structs: usize = messages.iter().map(|message| message.structs.len()).sum();
    println!("{} messages, {structs} structs", messages.len());
    for message in messages.iter().filter(|message| message.kind == "request") {
        let name = message.name.trim_end_matches("Request");
        let (low, high) = message.versions;
        match supported(message.key) {
            None => println!("kafka-protocol lacks {name} ({}) {low}-{high}", message.key),
            Some(VersionRange { min, max })
                if i32::from(min) > low.into() || i32::from(max) < high.into() =>
            {
                println!("kafka-protocol has {name} ({}) {min}-{max}, Kafka {low}-{high}", message.key);
            }
            Some(_) => {}
        }
    }
}
