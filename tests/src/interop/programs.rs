//! The agents' programs: found, compiled, installed.

use std::ffi::OsString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::process::Command;

use super::agent::{Agent, Implementation};

/// The release of the Python binding, which brings librdkafka with it.
const CONFLUENT_KAFKA: &str = "2.16.1";

/// The programs of the agents that take part, and where they leave their standard error.
#[derive(Clone, Debug)]
pub struct Kit {
    programs: Vec<(Implementation, Vec<OsString>)>,
    logs: PathBuf,
}

impl Kit {
    /// A kit with milena's agent.
    pub fn new(milena: impl Into<PathBuf>, logs: impl Into<PathBuf>) -> Self {
        Self {
            programs: vec![(Implementation::Milena, vec![milena.into().into_os_string()])],
            logs: logs.into(),
        }
    }

    /// With another agent.
    #[must_use]
    pub fn with(mut self, implementation: Implementation, program: Vec<OsString>) -> Self {
        self.programs.push((implementation, program));
        self
    }

    /// Starts all agents.
    ///
    /// # Errors
    /// The first that does not start.
    pub(super) async fn start(&self, bootstrap: &str) -> Result<Vec<Agent>, String> {
        let starts = self.programs.iter().map(|(implementation, program)| {
            let mut words = program.iter();
            let mut command = Command::new(words.next().cloned().unwrap_or_default());
            command.args(words);
            let log = self.logs.join(format!("{implementation}.log"));
            async move { Agent::start(*implementation, command, bootstrap, &log).await }
        });
        futures_util::future::join_all(starts).await.into_iter().collect()
    }
}

/// A Java program of `tests/interop`, compiled against these jars unless that was done before: the command that runs it.
///
/// # Errors
/// Why there is none: no JDK, or it does not compile.
pub async fn java_program(class: &str, jars: &Path) -> Result<Vec<OsString>, String> {
    let source = folder().join(format!("{class}.java"));
    let text = std::fs::read(&source).map_err(|error| format!("{}: {error}", source.display()))?;
    let mut hasher = DefaultHasher::new();
    (jars, text).hash(&mut hasher);
    let classes = cache()?.join(format!("{class}-{:016x}", hasher.finish()));
    let class_path = format!("{}/*", jars.display());
    if !classes.is_dir() {
        install(&classes, async |part| {
            let mut javac = Command::new(tool("javac"));
            javac.args(["-Xlint:-options", "-cp", &class_path, "-d"]).arg(part).arg(&source);
            run(&mut javac).await
        })
        .await?;
    }
    let class_path = format!("{class_path}:{}", classes.display());
    let options = ["-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"];
    let mut program = vec![tool("java")];
    program.extend(options.map(OsString::from));
    program.extend(
        ["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", &class_path, class].map(OsString::from),
    );
    Ok(program)
}

/// A Python program of `tests/interop`, in a virtual environment with librdkafka that is made unless it is there: the command
/// that runs it.
///
/// # Errors
/// Why there is none: no Python with `venv`, or no package index.
pub async fn librdkafka_program(name: &str) -> Result<Vec<OsString>, String> {
    let environment = cache()?.join(format!("confluent-kafka-{CONFLUENT_KAFKA}"));
    if !environment.is_dir() {
        install(&environment, async |part| {
            run(Command::new("python3").args(["-m", "venv"]).arg(part)).await?;
            let package = format!("confluent-kafka=={CONFLUENT_KAFKA}");
            let arguments = ["-m", "pip", "install", "--quiet", "--only-binary", ":all:", &package];
            run(Command::new(part.join("bin/python")).args(arguments)).await
        })
        .await?;
    }
    let python = environment.join("bin/python").into_os_string();
    // Without a cache of compiled modules beside them.
    Ok(vec![python, "-B".into(), folder().join(format!("{name}.py")).into_os_string()])
}

/// Fills a folder under another name and moves it into its place when it is whole, so that neither an interrupted run nor one
/// at the same time leaves a half.
async fn install(place: &Path, fill: impl AsyncFnOnce(&Path) -> Result<(), String>) -> Result<(), String> {
    // The tests of one process are threads.
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let part = place.with_extension(format!("part-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&part).map_err(|error| format!("{}: {error}", part.display()))?;
    let outcome = fill(&part).await;
    if outcome.is_ok() {
        // Whoever came first has made the same.
        let _ = std::fs::rename(&part, place);
    }
    let _ = std::fs::remove_dir_all(&part);
    outcome
}

async fn run(command: &mut Command) -> Result<(), String> {
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    let output = command.kill_on_drop(true).output().await.map_err(|error| format!("{name}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{name} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()))
}

fn tool(name: &str) -> OsString {
    match std::env::var_os("JAVA_HOME") {
        Some(home) => Path::new(&home).join("bin").join(name).into_os_string(),
        None => name.into(),
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("interop")
}

fn cache() -> Result<PathBuf, String> {
    let home = std::env::var_os("HOME").ok_or("HOME is not set")?;
    let cache = Path::new(&home).join(".cache/milena/tools/interop");
    std::fs::create_dir_all(&cache).map_err(|error| format!("{}: {error}", cache.display()))?;
    Ok(cache)
}
