//! Runs the matrix: everybody writes, everybody reads everything.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use milena::{Client, Compression, Isolation, NewTopic};

use super::agent::{Agent, Implementation};
use super::broker::{self, Stored};
use super::compare::difference;
use super::programs::Kit;
use super::script::Log;
use super::shape::Shape;
use crate::unique;

/// What is written in one way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Case {
    /// The data.
    pub shape: Shape,
    /// The codec.
    pub codec: Compression,
    /// The codec's level; `None` is its default.
    pub level: Option<i32>,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.shape, self.codec)?;
        self.level.map_or(Ok(()), |level| write!(f, " at level {level}"))
    }
}

/// What is to be compared.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Matrix {
    /// The rows.
    pub cases: Vec<Case>,
    /// What the data follows from.
    pub seed: u64,
    /// Whether the broker is older than 0.11: it knows neither idempotent producers nor read_committed.
    pub message_sets: bool,
}

impl Matrix {
    /// These shapes with these codecs.
    pub fn new(shapes: &[Shape], codecs: &[Compression]) -> Self {
        let cases = shapes
            .iter()
            .flat_map(|shape| codecs.iter().map(|codec| Case { shape: *shape, codec: *codec, level: None }));
        Self { cases: cases.collect(), seed: 4, message_sets: false }
    }

    /// With the lowest and the highest level that all implementations have.
    #[must_use]
    pub fn with_levels(mut self) -> Self {
        let ends = [(Compression::Gzip, 1, 9), (Compression::Lz4, 1, 12), (Compression::Zstd, 1, 12)];
        for (codec, lowest, highest) in ends {
            for level in [lowest, highest] {
                self.cases.push(Case { shape: Shape::Keys, codec, level: Some(level) });
            }
        }
        self
    }

    /// What brokers before 0.11 can hold: no headers, no transactions, no zstd.
    #[must_use]
    pub fn for_message_sets(mut self) -> Self {
        self.cases.retain(|case| case.shape.fits_message_sets() && case.codec != Compression::Zstd);
        self.message_sets = true;
        self
    }
}

/// One writer, one reader, one case.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cell {
    /// What.
    pub case: Case,
    /// Who wrote it.
    pub writer: Implementation,
    /// Who read it.
    pub reader: Implementation,
    /// How many records were compared, or what is wrong.
    pub outcome: Result<usize, String>,
}

/// What came out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// The implementations and their versions.
    pub implementations: Vec<(Implementation, String)>,
    /// The rows.
    pub cases: Vec<Case>,
    /// One for each case, writer and reader.
    pub cells: Vec<Cell>,
    /// Batches in the compacted topics, and how many of them the cleaner emptied or thinned out.
    pub compacted: [usize; 3],
}

impl Report {
    /// The cells that are not as they must be.
    pub fn failures(&self) -> impl Iterator<Item = &Cell> {
        self.cells.iter().filter(|cell| cell.outcome.is_err())
    }
}

/// A topic that one implementation writes.
struct Topic {
    case: Case,
    writer: Implementation,
    name: String,
    /// Why it is of no use.
    failure: Option<String>,
}

/// A shape's script in files, and what comes of it.
struct Written {
    /// Each part, and where the partitions end after it.
    parts: Vec<(PathBuf, Vec<i64>)>,
    log: Log,
    /// What a reader must print.
    expected: Vec<(Isolation, Vec<Vec<String>>)>,
}

/// Runs a matrix with the agents of a kit on a broker. `scratch` is a folder for scripts.
///
/// # Errors
/// When the matrix can't be run at all: an agent does not start, topics can't be created. What goes wrong in a cell is in the
/// report.
pub async fn run(bootstrap: &str, kit: &Kit, matrix: &Matrix, scratch: &Path) -> Result<Report, String> {
    let began = Instant::now();
    let lap = |what: &str| eprintln!("{:6.1} s: {what}", began.elapsed().as_secs_f32());
    let lap: &(dyn Fn(&str) + Sync) = &lap;
    let client = Client::connect(bootstrap).await.map_err(|error| format!("{bootstrap}: {error}"))?;
    let scripts = scripts(matrix, scratch)?;
    let mut agents = kit.start(bootstrap).await?;
    let implementations: Vec<_> =
        agents.iter().map(|agent| (agent.implementation(), agent.version().to_owned())).collect();
    let prefix = unique("interop");
    let mut topics: Vec<Topic> = implementations
        .iter()
        .flat_map(|(writer, _)| matrix.cases.iter().map(|case| topic(&prefix, *case, *writer)))
        .collect();
    let new: Vec<NewTopic> = topics
        .iter()
        .filter_map(|topic| {
            let partitions = i32::try_from(scripts.get(&topic.case.shape)?.log.ends.len()).ok()?;
            let configs = topic.case.shape.configs();
            Some(NewTopic { name: topic.name.clone(), partitions, replication: 1, configs })
        })
        .collect();
    broker::create(&client, &new).await?;
    broker::hurry_cleaner(&client).await;
    lap("topics created");
    write_all(&client, lap, &mut agents, &mut topics, &scripts, !matrix.message_sets).await;
    let mut compacted = [0; 3];
    for topic in &mut topics {
        let Some(Written { log, .. }) = scripts.get(&topic.case.shape) else { continue };
        match inspect(&client, topic, log).await {
            Ok(Stored { batches, emptied, gaps }) => {
                for (sum, number) in compacted.iter_mut().zip([batches, emptied, gaps]) {
                    *sum += if topic.case.shape == Shape::Compacted { number } else { 0 };
                }
            }
            Err(failure) => topic.failure = Some(failure),
        }
    }
    lap("looked at the batches");
    let cells = read_all(lap, &mut agents, &topics, &scripts).await;
    // Brokers before 1.0 delete no topics unless they are told to. One that keeps them does not make the comparison wrong.
    if !matrix.message_sets {
        let names: Vec<&str> = topics.iter().map(|topic| topic.name.as_str()).collect();
        let _ = client.admin().delete_topics(&names).await;
    }
    Ok(Report { implementations, cases: matrix.cases.clone(), cells, compacted })
}

fn topic(prefix: &str, case: Case, writer: Implementation) -> Topic {
    let level = case.level.map_or_else(|| "default".to_owned(), |level| level.to_string());
    let name = format!("{prefix}-{}-{}-{level}-{writer}", case.shape, case.codec);
    Topic { case, writer, name, failure: None }
}

fn scripts(matrix: &Matrix, scratch: &Path) -> Result<BTreeMap<Shape, Written>, String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis());
    let mut scripts = BTreeMap::new();
    for Case { shape, .. } in &matrix.cases {
        if scripts.contains_key(shape) {
            continue;
        }
        let script = shape.script(matrix.seed, i64::try_from(now).unwrap_or_default());
        let mut parts = Vec::new();
        for (number, (part, ends)) in script.parts().into_iter().enumerate() {
            let file = scratch.join(format!("{shape}-{number}.script"));
            std::fs::write(&file, part.lines()).map_err(|error| format!("{}: {error}", file.display()))?;
            parts.push((file, ends));
        }
        let log = if *shape == Shape::Compacted { script.log().compacted() } else { script.log() };
        let isolations = match matrix.message_sets {
            true => &[Isolation::ReadUncommitted],
            false => shape.isolations(),
        };
        let expected = isolations.iter().map(|isolation| (*isolation, log.expected(*isolation)));
        let expected = expected.collect();
        scripts.insert(*shape, Written { parts, log, expected });
    }
    Ok(scripts)
}

async fn write_all(
    client: &Client,
    lap: &(dyn Fn(&str) + Sync),
    agents: &mut [Agent],
    topics: &mut [Topic],
    scripts: &BTreeMap<Shape, Written>,
    idempotent: bool,
) {
    let mut rest = topics;
    let mut writers = Vec::new();
    // Topics are ordered by their writer.
    for agent in agents {
        let count = rest.iter().take_while(|topic| topic.writer == agent.implementation()).count();
        let (own, others) = rest.split_at_mut(count);
        rest = others;
        writers.push(async move {
            for topic in own {
                let Some(Written { parts, .. }) = scripts.get(&topic.case.shape) else { continue };
                for (script, ends) in parts {
                    let mut outcome = agent.write(&topic.name, &topic.case, idempotent, script).await;
                    if outcome.is_ok() {
                        outcome = broker::settled(client, &topic.name, ends).await;
                    }
                    topic.failure = outcome.err().map(|error| format!("writing: {error}"));
                    if topic.failure.is_some() {
                        break;
                    }
                }
            }
            lap(&format!("{} has written all", agent.implementation()));
        });
    }
    join_all(writers).await;
}

async fn inspect(client: &Client, topic: &Topic, log: &Log) -> Result<Stored, String> {
    if let Some(failure) = &topic.failure {
        return Err(failure.clone());
    }
    if topic.case.shape == Shape::Compacted {
        broker::cleaned(client, &topic.name, log).await?;
    }
    broker::stored(client, &topic.name, log, topic.case.codec).await
}

async fn read_all(
    lap: &(dyn Fn(&str) + Sync),
    agents: &mut [Agent],
    topics: &[Topic],
    scripts: &BTreeMap<Shape, Written>,
) -> Vec<Cell> {
    let readers = agents.iter_mut().map(|agent| async move {
        let mut cells = Vec::new();
        for topic in topics {
            let Some(written) = scripts.get(&topic.case.shape) else { continue };
            let outcome = match &topic.failure {
                Some(failure) => Err(failure.clone()),
                None => read(agent, topic, written).await,
            };
            let reader = agent.implementation();
            cells.push(Cell { case: topic.case, writer: topic.writer, reader, outcome });
        }
        lap(&format!("{} has read all", agent.implementation()));
        cells
    });
    join_all(readers).await.concat()
}

async fn read(agent: &mut Agent, topic: &Topic, written: &Written) -> Result<usize, String> {
    let mut records = 0;
    for (isolation, expected) in &written.expected {
        let found = agent.read(&topic.name, *isolation, &written.log).await;
        let found = found.map_err(|error| format!("reading: {error}"))?;
        if let Some(difference) = difference(expected, &found) {
            return Err(format!("{isolation:?}: {difference}"));
        }
        records += found.iter().map(Vec::len).sum::<usize>();
    }
    Ok(records)
}
