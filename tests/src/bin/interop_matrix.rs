//! Runs the interop matrix on a broker and prints its table: `cargo xtask interop` starts the broker and this.
//!
//! ```text
//! interop_matrix ADDRESS --kafka VERSION [--java VERSION] [--docs FILE] [--only NAME]...
//! ```
//!
//! `--java` names the jars of Kafka's client (the newest without it), `--docs` the file to write the table to, `--only` a shape, a codec
//! or an implementation: without one of a kind, all of that kind take part. Ends with 1 if anything is not equal.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use milena::Compression;
use milena_testkit::kafka::{KafkaVersion, NEWEST};
use milena_tests::interop::{self, Implementation, Kit, Matrix, Shape, Versions};

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, Default)]
struct Arguments {
    address: String,
    kafka: Option<String>,
    java: Option<String>,
    docs: Option<PathBuf>,
    only: Vec<String>,
}

impl Arguments {
    fn parse() -> Result<Self, Failure> {
        let mut parsed = Self::default();
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} needs a value"));
            match word.as_str() {
                "--kafka" => parsed.kafka = Some(value()?),
                "--java" => parsed.java = Some(value()?),
                "--docs" => parsed.docs = Some(value()?.into()),
                "--only" => parsed.only.push(value()?),
                _ => parsed.address = word,
            }
        }
        if parsed.address.is_empty() { Err("the broker's address is missing".into()) } else { Ok(parsed) }
    }

    /// Those that `--only` names, or all if it names none of these.
    fn chosen<T: Copy>(&self, all: &[T], name: impl Fn(T) -> &'static str) -> Vec<T> {
        let named: Vec<T> = all
            .iter()
            .copied()
            .filter(|item| self.only.iter().any(|only| only.eq_ignore_ascii_case(name(*item))))
            .collect();
        if named.is_empty() { all.to_vec() } else { named }
    }
}

#[tokio::main]
async fn main() -> Result<ExitCode, Failure> {
    let arguments = Arguments::parse()?;
    let kafka = arguments.kafka.as_deref().unwrap_or(NEWEST);
    let scratch = tempfile::tempdir()?;
    let others = [Implementation::Java, Implementation::Librdkafka];
    let mut kit = Kit::new(std::env::current_exe()?.with_file_name("interop_agent"), scratch.path());
    for implementation in arguments.chosen(&others, Implementation::name) {
        let program = match implementation {
            Implementation::Java => {
                let version: KafkaVersion = arguments.java.as_deref().unwrap_or(NEWEST).parse()?;
                interop::java_program("Agent", &version.jars()?).await?
            }
            _ => interop::librdkafka_program("agent").await?,
        };
        kit = kit.with(implementation, program);
    }
    let shapes = arguments.chosen(&Shape::ALL, Shape::name);
    let codecs = arguments.chosen(&Compression::ALL, Compression::name);
    let mut matrix = Matrix::new(&shapes, &codecs);
    if arguments.only.is_empty() {
        matrix = matrix.with_levels();
    }
    if kafka.parse::<KafkaVersion>()? < "0.11.0.0".parse()? {
        matrix = matrix.for_message_sets();
    }
    let began = Instant::now();
    let report = interop::run(&arguments.address, &kit, &matrix, scratch.path()).await?;
    let command = if kafka == NEWEST {
        "cargo xtask interop --write-docs".to_owned()
    } else {
        format!("cargo xtask interop --write-docs --kafka {kafka}")
    };
    let page = interop::markdown(&report, &Versions { kafka, command: &command });
    match &arguments.docs {
        Some(file) => std::fs::write(file, &page)?,
        None => print!("{page}"),
    }
    let failures = report.failures().count();
    eprintln!(
        "{} cells in {:.0} s, {failures} not equal; in compacted topics {:?} batches, emptied, with gaps",
        report.cells.len(),
        began.elapsed().as_secs_f32(),
        report.compacted
    );
    for cell in report.failures() {
        eprintln!("NOT EQUAL: {}, {} -> {}: {:?}", cell.case, cell.writer, cell.reader, cell.outcome);
    }
    Ok(if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
