//! The jobs and the programs that run them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail, ensure};

use crate::command::{cargo, output, root, run};
use crate::jars;
use crate::kafka::target_folder;

/// Whose connector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Flink,
    Milena,
}

/// One job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) side: Side,
    /// `batch.size` 256 KiB and `linger.ms` 10, and for Flink object reuse; else as it comes.
    pub(super) tuned: bool,
    pub(super) parallelism: u32,
}

impl Job {
    pub(super) fn name(&self) -> String {
        let side = if self.side == Side::Flink { "flink" } else { "milena" };
        format!("{side}-{}-{}", if self.tuned { "tuned" } else { "default" }, self.parallelism)
    }

    /// Flink's job with the same settings.
    pub(super) fn beside(&self) -> Self {
        Self { side: Side::Flink, ..*self }
    }
}

/// All jobs, those of the same settings behind each other.
pub(super) fn all() -> Vec<Job> {
    let mut jobs = Vec::new();
    for tuned in [false, true] {
        for parallelism in [1, 2] {
            for side in [Side::Flink, Side::Milena] {
                jobs.push(Job { side, tuned, parallelism });
            }
        }
    }
    jobs
}

/// The jobs of these names; all if there are none.
pub(super) fn select(names: &[String]) -> Result<Vec<Job>> {
    let known: Vec<String> = all().iter().map(Job::name).collect();
    if let Some(name) = names.iter().find(|name| !known.contains(name)) {
        bail!("no job {name:?}; there are {}", known.join(", "));
    }
    Ok(all().into_iter().filter(|job| names.is_empty() || names.contains(&job.name())).collect())
}

/// What runs them.
pub(super) struct Programs {
    milena: PathBuf,
    /// The class path, if Flink takes part.
    flink: Option<OsString>,
    /// What they are, for the report.
    pub(super) versions: BTreeMap<String, String>,
}

impl Programs {
    pub(super) fn build(jobs: &[Job]) -> Result<Self> {
        let mut versions = BTreeMap::new();
        run(cargo().args(["build", "--quiet", "--release", "--package", "milena-cli"]))?;
        let describe = ["describe", "--always", "--dirty"];
        let commit = output(Command::new("git").args(describe).current_dir(root())).unwrap_or_default();
        let rustc = output(Command::new("rustc").arg("--version"))?;
        let commit = commit.trim();
        versions.insert("milena".to_owned(), format!("`milena copy`, commit {commit}; {}", rustc.trim()));
        let flink = match jobs.iter().any(|job| job.side == Side::Flink) {
            true => {
                versions.insert("flink".to_owned(), flink_version()?);
                Some(compiled("CopyJob")?)
            }
            false => None,
        };
        Ok(Self { milena: target_folder()?.join("release/milena"), flink, versions })
    }

    /// The job from one topic to another, its checkpoints and what it leaves behind in `folder`.
    pub(super) fn command(&self, job: &Job, broker: &str, from: &str, to: &str, folder: &Path) -> Command {
        let checkpoints = folder.join("checkpoints");
        let parallelism = job.parallelism.to_string();
        let mut command = match job.side {
            Side::Flink => java(self.flink.as_deref().unwrap_or_default(), "CopyJob"),
            Side::Milena => Command::new(&self.milena),
        };
        match job.side {
            Side::Flink => {
                command.args(["--bootstrap", broker, "--parallelism", &parallelism]);
                command.args(["--profile", if job.tuned { "tuned" } else { "default" }, "--checkpoints"]);
                command.arg(checkpoints);
            }
            Side::Milena => {
                command.args(["copy", "-b", broker, "--until-end", "--parallelism", &parallelism]);
                if job.tuned {
                    command.args(["-X", "batch.size=262144", "-X", "linger.ms=10"]);
                }
                command.args(["--checkpoint-interval", "1s", "--checkpoint-dir"]).arg(checkpoints);
            }
        }
        command.args(["--from", from, "--to", to]);
        command
    }
}

fn flink_version() -> Result<String> {
    let java = Command::new("java").arg("-version").output()?;
    let runtime = String::from_utf8_lossy(&java.stderr).lines().next().unwrap_or_default().to_owned();
    Ok(format!("flink {}, flink-connector-kafka {}; {runtime}", jars::FLINK, jars::FLINK_CONNECTOR))
}

/// Compiles a program of benches/peers/flink. Returns the class path that it runs with.
pub(crate) fn compiled(program: &str) -> Result<OsString> {
    let compiler = Command::new("javac").arg("-version").output();
    ensure!(compiler.is_ok_and(|output| output.status.success()), "javac does not run: install a JDK");
    let classes = target_folder()?.join("peers/flink");
    let mut path = OsString::from(&classes);
    path.push(":");
    path.push(jars::fetch_flink()?.join("*"));
    let source = root().join(format!("benches/peers/flink/{program}.java"));
    run(Command::new("javac").arg("-d").arg(&classes).arg("-cp").arg(&path).arg(source))?;
    Ok(path)
}

/// A Java program that logs errors only.
pub(crate) fn java(path: &std::ffi::OsStr, program: &str) -> Command {
    let mut command = Command::new("java");
    command.args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp"]).arg(path).arg(program);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_select_what_they_say() {
        let mut names: Vec<String> = all().iter().map(Job::name).collect();
        assert_eq!(select(&[]).unwrap(), all());
        for name in &names {
            let selected = select(std::slice::from_ref(name)).unwrap();
            assert!(selected.iter().map(Job::name).eq([name.clone()]));
        }
        names.dedup();
        assert_eq!(names.len(), 8);
        assert!(select(&["flink-tuned-3".to_owned()]).is_err());
    }
}
