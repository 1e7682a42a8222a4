//! The clients: how each is built and started, and its ways of doing things.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use super::cases::{Case, Role};
use crate::command::{cargo, output, root, run};
use crate::kafka::target_folder;

/// A client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Peer {
    Floor,
    Milena,
}

impl Peer {
    pub(crate) const ALL: [Self; 2] = [Self::Floor, Self::Milena];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Milena => "milena",
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
        let all: &[&str] = match (self, case.role) {
            (Self::Floor, Role::Consume) => &["full", "raw", "crc", "full:524288"],
            (Self::Floor, Role::Produce) => &["full", "raw", "crc"],
            (Self::Floor, Role::Latency) => &["full"],
            (Self::Milena, Role::Consume) => &["fetcher"],
            (Self::Milena, Role::Produce) if case.name.contains("threads") => &["ticket-mt"],
            (Self::Milena, Role::Produce) => &["ticket", "ticket-mt", "awaited"],
            (Self::Milena, Role::Latency) => &["ticket"],
        };
        if case.detailed { all.to_vec() } else { all.iter().copied().take(1).collect() }
    }
}

/// A peer that can be run.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) peer: Peer,
    words: Vec<PathBuf>,
    /// What it is, for the report.
    pub(crate) version: String,
}

impl Program {
    /// Builds the peer.
    pub(crate) fn build(peer: Peer, is_optimised: bool) -> Result<Self> {
        let folder = target_folder()?.join("peers");
        match peer {
            Peer::Floor => rust(peer, "floor", "floor", &folder, is_optimised),
            Peer::Milena => rust(peer, "peer-milena", "milena", &folder, is_optimised),
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
            None => Command::new(words.next().map_or(Path::new("true"), PathBuf::as_path)),
        };
        command.args(words);
        command
    }
}

/// The packages of the folder of peers.
fn manifest() -> PathBuf {
    root().join("benches/peers/Cargo.toml")
}

fn rust(peer: Peer, package: &str, shown: &str, folder: &Path, is_optimised: bool) -> Result<Program> {
    let mut command = cargo();
    command.args(["build", "--quiet", "--manifest-path"]).arg(manifest()).args(["--package", package]);
    if is_optimised {
        command.arg("--release");
    }
    run(command.env("CARGO_TARGET_DIR", folder))?;
    let built = if is_optimised { "release" } else { "debug" };
    let rustc = output(Command::new("rustc").arg("--version")).unwrap_or_default();
    let version = match peer {
        Peer::Floor => format!("in this repository, {}", rustc.trim()),
        Peer::Milena => {
            let commit =
                output(Command::new("git").args(["describe", "--always", "--dirty"]).current_dir(root()));
            format!("commit {}, {}", commit.unwrap_or_default().trim(), rustc.trim())
        }
    };
    Ok(Program {
        peer,
        words: vec![folder.join(built).join(if shown == "milena" { package } else { shown })],
        version,
    })
}
