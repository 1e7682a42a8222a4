//! The clients: how each is built and started, and its ways of doing things.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail, ensure};

use super::cases::{Case, DEFAULT, Role, TUNED};
use crate::NEWEST_KAFKA;
use crate::command::{cargo, output, root, run};
use crate::jars;
use crate::kafka::target_folder;

/// A client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Peer {
    Floor,
    Milena,
    Franz,
    Java,
    Krafka,
    Rdkafka,
    Rskafka,
}

impl Peer {
    pub(crate) const ALL: [Self; 7] =
        [Self::Floor, Self::Milena, Self::Franz, Self::Java, Self::Krafka, Self::Rdkafka, Self::Rskafka];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Milena => "milena",
            Self::Franz => "franz-go",
            Self::Java => "java",
            Self::Krafka => "krafka",
            Self::Rdkafka => "rdkafka",
            Self::Rskafka => "rskafka",
        }
    }

    pub(crate) fn named(name: &str) -> Result<Self> {
        match Self::ALL.into_iter().find(|peer| peer.name() == name) {
            Some(peer) => Ok(peer),
            None => bail!("no peer {name:?}; there are {}", Self::ALL.map(Self::name).join(", ")),
        }
    }

    /// Its ways of doing the case. The first is the main one; the others are measured where a case is detailed, or asked for.
    pub(crate) fn modes(self, case: &Case) -> Vec<&'static str> {
        if case.tls {
            return self.tls_modes(case.role).to_vec();
        }
        let all: &[&str] = match (self, case.role) {
            (Self::Floor, Role::Consume) => &["full", "raw", "crc", "full:524288"],
            (Self::Floor, Role::Produce) => &["full", "raw", "crc"],
            (Self::Floor, Role::Latency) => &["full"],
            (Self::Milena, Role::Consume) if case.profile == DEFAULT => return vec!["batches", TUNED],
            (Self::Milena, Role::Produce) if case.profile == DEFAULT => return vec!["ticket", TUNED],
            (Self::Milena, Role::Consume) => &["batches", "next", "recv", "batches-mt"],
            (Self::Milena, Role::Produce) if case.name.contains("threads") => &["ticket-mt"],
            (Self::Milena, Role::Produce) => &["ticket", "ticket-mt", "many", "awaited"],
            (Self::Milena, Role::Latency) => return vec!["ticket", "thread"],
            // With one handle, and with one for each side.
            (Self::Krafka, Role::Latency) => return vec!["best", "two"],
            // Its fetches would hold up everything on the one connection; see its source.
            (Self::Rskafka, Role::Latency) => &[],
            _ => &["best"],
        };
        if case.detailed { all.to_vec() } else { all.iter().copied().take(1).collect() }
    }

    /// Its ways of doing a case over TLS: by its own choice of cryptography, by others, and without TLS. Who has no figures here has none.
    fn tls_modes(self, role: Role) -> &'static [&'static str] {
        match (self, role) {
            (Self::Floor, _) => &["full"],
            (Self::Milena, Role::Consume) => &["batches", "batches+ring", "batches+aws-lc", "batches+plain"],
            (Self::Milena, Role::Produce) => &["ticket", "ticket+ring", "ticket+aws-lc", "ticket+plain"],
            (Self::Rdkafka, _) => &["best", "best+plain"],
            _ => &[],
        }
    }
}

/// The end of a mode's name for the same work without TLS.
pub(crate) const PLAIN: &str = "+plain";

/// A peer that can be run.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) peer: Peer,
    words: Vec<OsString>,
    /// What it is, for the report.
    pub(crate) version: String,
}

impl Program {
    /// Builds the peer.
    pub(crate) fn build(peer: Peer, is_optimised: bool) -> Result<Self> {
        let folder = target_folder()?.join("peers");
        match peer {
            Peer::Floor => rust(peer, "floor", &folder, is_optimised),
            Peer::Franz => go(peer, &folder),
            Peer::Java => java(peer, &folder),
            peer => rust(peer, &format!("peer-{}", peer.name()), &folder, is_optimised),
        }
    }

    /// A call of it, on this core if there is one to choose.
    pub(crate) fn command(&self, core: Option<usize>) -> Command {
        let mut words = self.words.iter();
        let mut command = match core {
            Some(core) => {
                let mut command = Command::new("taskset");
                command.args(["-c", &core.to_string()]);
                command
            }
            None => Command::new(words.next().map_or(OsStr::new("true"), OsString::as_os_str)),
        };
        command.args(words);
        command
    }
}

/// Where the peers' sources are.
fn sources() -> PathBuf {
    root().join("benches/peers")
}

fn rust(peer: Peer, package: &str, folder: &Path, is_optimised: bool) -> Result<Program> {
    let mut command = cargo();
    let manifest = sources().join("Cargo.toml");
    command.args(["build", "--quiet", "--manifest-path"]).arg(manifest).args(["--package", package]);
    if is_optimised {
        command.arg("--release");
    }
    run(command.env("CARGO_TARGET_DIR", folder))?;
    let program = folder.join(if is_optimised { "release" } else { "debug" }).join(package);
    let rustc = output(Command::new("rustc").arg("--version"))?;
    let what = match peer {
        Peer::Floor => "in this repository".to_owned(),
        Peer::Milena => {
            let describe = ["describe", "--always", "--dirty"];
            let commit = output(Command::new("git").args(describe).current_dir(root())).unwrap_or_default();
            format!("commit {}", commit.trim())
        }
        Peer::Rdkafka => {
            let openssl = output(Command::new("openssl").arg("version")).unwrap_or_default();
            let openssl = openssl.split(" (").next().unwrap_or_default().trim();
            format!("{}, {openssl}", locked(&["rdkafka", "rdkafka-sys"])?)
        }
        peer => locked(&[peer.name()])?,
    };
    Ok(Program { peer, words: vec![program.into()], version: format!("{what}; {}", rustc.trim()) })
}

/// The versions of crates in the peers' lock file; that of rdkafka-sys ends with librdkafka's.
fn locked(names: &[&str]) -> Result<String> {
    let text = std::fs::read_to_string(sources().join("Cargo.lock"))?;
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(name) = line.strip_prefix("name = ").map(|name| name.trim_matches('"')) else { continue };
        if names.contains(&name) {
            let version = lines.next().and_then(|line| line.strip_prefix("version = ")).unwrap_or_default();
            found.push(format!("{name} {}", version.trim_matches('"')));
        }
    }
    Ok(found.join(", "))
}

fn go(peer: Peer, folder: &Path) -> Result<Program> {
    let sources = sources().join("franz");
    let program = folder.join("franz");
    let version = output(Command::new("go").args(["version"]).current_dir(&sources))?;
    run(Command::new("go").args(["build", "-o"]).arg(&program).arg(".").current_dir(&sources))?;
    let list = ["list", "-m", "github.com/twmb/franz-go"];
    let module = output(Command::new("go").args(list).current_dir(&sources))?;
    let version = format!("{}; {}", module.trim(), version.trim());
    Ok(Program { peer, words: vec![program.into()], version })
}

fn java(peer: Peer, folder: &Path) -> Result<Program> {
    let jars = jars::fetch(NEWEST_KAFKA)?;
    let classes = folder.join("java");
    let mut path = OsString::from(&classes);
    path.push(":");
    path.push(jars.join("*"));
    let compiled = Command::new("javac").arg("-version").output();
    ensure!(compiled.is_ok_and(|output| output.status.success()), "javac does not run: install a JDK");
    let source = sources().join("java/Peer.java");
    run(Command::new("javac").arg("-d").arg(&classes).arg("-cp").arg(&path).arg(source))?;
    let java = Command::new("java").arg("-version").output()?;
    let runtime = String::from_utf8_lossy(&java.stderr).lines().next().unwrap_or_default().to_owned();
    let words = ["java", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp"]
        .map(OsString::from)
        .into_iter()
        .chain([path, "Peer".into()]);
    Ok(Program { peer, words: words.collect(), version: format!("kafka-clients {NEWEST_KAFKA}; {runtime}") })
}
