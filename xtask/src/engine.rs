//! A private container engine for tests, on a machine where none runs.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::command::{cache, output, succeeds};

fn folder() -> Result<PathBuf> {
    Ok(cache()?.join("engine"))
}

fn address() -> Result<String> {
    Ok(format!("unix://{}", folder()?.join("docker.sock").display()))
}

/// True if the engine at `DOCKER_HOST` (or the default one) answers.
fn default_answers() -> bool {
    succeeds(Command::new("docker").args(["version", "--format", "{{.Server.Version}}"]))
}

fn private_answers() -> Result<bool> {
    let address = address()?;
    Ok(succeeds(Command::new("docker").args([
        "--host",
        &address,
        "version",
        "--format",
        "{{.Server.Version}}",
    ])))
}

/// The `DOCKER_HOST` that reaches an engine, if one has to be set: none if the default one answers or there is none.
pub(crate) fn private_host() -> Option<String> {
    if default_answers() || !private_answers().ok()? {
        return None;
    }
    address().ok()
}

/// A docker command that reaches an engine.
pub(crate) fn docker() -> Command {
    let mut command = Command::new("docker");
    if let Some(host) = private_host() {
        command.env("DOCKER_HOST", host);
    }
    command
}

/// Starts dockerd with a socket and data of its own, and waits until it answers. Returns its address.
pub(crate) fn start() -> Result<String> {
    let address = address()?;
    if private_answers()? {
        return Ok(address);
    }
    let folder = folder()?;
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    for (file, program) in [("dockerd.pid", "dockerd"), ("exec/containerd/containerd.pid", "containerd")] {
        remove_stale(&folder.join(file), program);
    }
    let log = std::fs::File::create(folder.join("log")).context("the engine's log")?;
    let mut daemon = Command::new("dockerd");
    daemon
        .args(["--host", &address])
        .arg("--data-root")
        .arg(folder.join("data"))
        .arg("--exec-root")
        .arg(folder.join("exec"))
        .arg("--pidfile")
        .arg(folder.join("dockerd.pid"))
        .stdin(Stdio::null())
        // Out of the terminal's group: Ctrl-C ends the tests, not the engine.
        .process_group(0)
        .stdout(log.try_clone().context("the engine's log")?)
        .stderr(log);
    let mut child = daemon.spawn().context("dockerd (on Debian: apt-get install docker.io)")?;
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(60) {
        if private_answers()? {
            return Ok(address);
        }
        if let Some(status) = child.try_wait().context("dockerd")? {
            bail!("dockerd ended with {status}; see {}", folder.join("log").display());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    child.kill().context("dockerd")?;
    bail!("dockerd does not answer in 60 s; see {}", folder.join("log").display())
}

/// Removes the pid file of a program that was killed: its number may belong to another process by now, and then the
/// next engine would take that for its own and refuse to start.
fn remove_stale(file: &Path, program: &str) {
    let Ok(pid) = std::fs::read_to_string(file) else { return };
    let running = std::fs::read_to_string(format!("/proc/{}/comm", pid.trim())).unwrap_or_default();
    if running.trim() != program {
        let _ = std::fs::remove_file(file);
    }
}

/// Stops the engine that [`start`] started.
pub(crate) fn stop() -> Result<()> {
    let file = folder()?.join("dockerd.pid");
    let Ok(text) = std::fs::read_to_string(&file) else {
        eprintln!("no engine was started by this command");
        return Ok(());
    };
    let pid: u32 = text.trim().parse().with_context(|| file.display().to_string())?;
    output(Command::new("kill").arg(pid.to_string())).context("stopping dockerd")?;
    let started = Instant::now();
    while file.exists() && started.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
