//! The guard's table of message shapes, from the schemas inside a kafka-clients jar.
//!
//! `cargo xtask parity --jar kafka-clients-4.3.1.jar --older kafka-clients-3.9.1.jar` writes it, with the versions that the newer
//! release dropped as the older one has them; `--check` compares, and fails if a version is not spoken for no stated reason.
//! `--report` only says what is spoken of a release, whichever it is. Get a jar with
//! `mvn dependency:copy -Dartifact=org.apache.kafka:kafka-clients:4.3.1 -DoutputDirectory=.`

mod diff;
mod emit;
mod merge;
mod report;
mod schema;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
/// Writes or checks the guard's table, and says what is spoken of a release and what is not.
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
    /// Write nothing and check nothing; say what is spoken of the release, and where its fields differ from the table's.
    #[arg(long)]
    report: bool,
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
    let mut missing = report::report(&messages);
    report::fields(&messages);
    if args.report {
        return Ok(());
    }
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
    missing.extend(report::unknown(&messages));
    if args.check && !missing.is_empty() {
        bail!("neither spoken nor known to be left out: {}", missing.join(", "));
    }
    match (args.check, stale.is_empty()) {
        (true, false) => bail!("the guard's table is not the one of this jar: {}", stale.join(", ")),
        (_, true) => println!("the table is up to date"),
        (false, false) => println!("written: {}", stale.join(", ")),
    }
    Ok(())
}
