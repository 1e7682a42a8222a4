//! Brokers in the background, for people and for the chores.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::command::{cache, cargo, output, root, run, succeeds};
use crate::{engine, jars};

/// A broker that ends with this value.
#[derive(Debug)]
pub(crate) struct Broker {
    child: Child,
    address: String,
    how: String,
    tls: Option<TlsListener>,
}

/// A broker's listener with TLS.
#[derive(Debug, Clone)]
pub(crate) struct TlsListener {
    pub(crate) address: String,
    /// The file of the authority to trust.
    pub(crate) authority: PathBuf,
}

impl Broker {
    /// Starts a broker of this version by whatever route works and waits until it answers.
    pub(crate) fn start(version: &str) -> Result<Self> {
        Self::start_with(version, &[], Stdio::inherit(), None)
    }

    /// Starts a JVM as a broker to measure clients with: its compiler at its best, its data in this folder, itself on this core, with a
    /// listener for TLS if one is wanted.
    pub(crate) fn start_to_measure(
        version: &str,
        data: Option<&Path>,
        core: Option<usize>,
        tls: bool,
    ) -> Result<Self> {
        let mut variables = vec![
            ("MILENA_KAFKA_ROUTE", OsString::from("jvm")),
            ("MILENA_KAFKA_JVM_OPTS", OsString::from("-XX:TieredStopAtLevel=4 -Xms1g -Xmx1g")),
        ];
        variables.extend(data.map(|data| ("TMPDIR", data.into())));
        variables.extend(tls.then(|| ("MILENA_KAFKA_TLS", "1".into())));
        Self::start_with(version, &variables, Stdio::inherit(), core)
    }

    fn start_with(
        version: &str,
        variables: &[(&str, OsString)],
        errors: Stdio,
        core: Option<usize>,
    ) -> Result<Self> {
        if let Err(error) = jars::fetch(version) {
            eprintln!("warning: no jars of Kafka {version}: {error:#}");
        }
        let arguments =
            ["--package", "milena-testkit", "--features", "containers", "--example", "real_kafka"];
        run(cargo().args(["build", "--quiet"]).args(arguments))?;
        let program = target_folder()?.join("debug/examples/real_kafka");
        let mut command = match core {
            Some(_) => Command::new("taskset"),
            None => Command::new(&program),
        };
        if let Some(core) = core {
            command.args(["-c", &core.to_string()]).arg(&program);
        }
        if let Some(host) = engine::private_host() {
            command.env("DOCKER_HOST", host);
        }
        let mut child = command
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .env("MILENA_KAFKA_VERSION", version)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            .process_group(0)
            .spawn()
            .context("the example real_kafka")?;
        let mut lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
        let (Some(Ok(address)), Some(Ok(how))) = (lines.next(), lines.next()) else {
            bail!("no Kafka {version}: {}", child.wait().context("the example real_kafka")?);
        };
        let tls = match variables.iter().any(|(name, _)| *name == "MILENA_KAFKA_TLS") {
            true => Some(TlsListener {
                address: lines.next().context("no address of a listener with TLS")??,
                authority: lines.next().context("no authority")??.into(),
            }),
            false => None,
        };
        eprintln!("Kafka {version} at {address} ({how})");
        Ok(Self { child, address, how, tls })
    }

    /// Where clients connect.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Its listener with TLS, if one was wanted.
    pub(crate) fn tls(&self) -> Option<&TlsListener> {
        self.tls.as_ref()
    }

    /// How the broker was started.
    pub(crate) fn how(&self) -> &str {
        &self.how
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // The broker and its data are removed by the guard that waits for the end of this process.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a broker that outlives this command, and records what clients say and hear if a folder is given. Returns its
/// address.
pub(crate) fn start(version: &str, record: Option<&Path>) -> Result<String> {
    // Not this command's own stderr: whoever reads that through a pipe would wait for the broker's end.
    let log = cache()?.join("kafka-start.log");
    let errors = File::create(&log).with_context(|| log.display().to_string())?;
    // Only a JVM is recorded.
    let recorded = record.map(|folder| {
        [("MILENA_KAFKA_RECORD", folder.into()), ("MILENA_KAFKA_ROUTE", OsString::from("jvm"))]
    });
    let variables = recorded.as_ref().map_or(&[][..], |variables| &variables[..]);
    let broker = Broker::start_with(version, variables, errors.into(), None)
        .with_context(|| format!("see {}", log.display()))?;
    let address = broker.address().to_owned();
    let file = folder()?.join(broker.child.id().to_string());
    fs::write(&file, format!("{address}\n{}\n", broker.how())).with_context(|| file.display().to_string())?;
    std::mem::forget(broker);
    Ok(address)
}

/// Stops the broker at an address, or every broker that [`start`] left running and with them the containers of tests
/// that nobody owns any more.
pub(crate) fn stop(address: Option<&str>) -> Result<()> {
    let mut stopped = 0;
    for entry in fs::read_dir(folder()?).context("the list of brokers")?.flatten() {
        let about = fs::read_to_string(entry.path()).unwrap_or_default();
        if address.is_some_and(|address| about.lines().next() != Some(address)) {
            continue;
        }
        let pid = entry.file_name().to_string_lossy().into_owned();
        let command_line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let is_ours = String::from_utf8_lossy(&command_line).contains("real_kafka");
        if is_ours && succeeds(Command::new("kill").arg(&pid)) {
            eprintln!("stopped {}", about.trim().replace('\n', ": "));
            stopped += 1;
        }
        fs::remove_file(entry.path()).with_context(|| entry.path().display().to_string())?;
    }
    match address {
        Some(address) if stopped == 0 => {
            bail!("no broker at {address} was started by `cargo xtask kafka start`")
        }
        Some(_) => Ok(()),
        None => remove_containers(),
    }
}

fn remove_containers() -> Result<()> {
    let listed = engine::docker().args(["ps", "-aq", "--filter", "label=milena=testkit"]).output();
    let names = listed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    for name in names.split_whitespace() {
        // A test that ends at this moment may be removing it.
        if output(engine::docker().args(["rm", "-f", "-v", name])).is_ok() {
            eprintln!("removed the container {name}");
        }
    }
    Ok(())
}

fn folder() -> Result<PathBuf> {
    let folder = cache()?.join("brokers");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    Ok(folder)
}

/// The target folder that cargo uses.
pub(crate) fn target_folder() -> Result<PathBuf> {
    let metadata = output(cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata).context("cargo metadata")?;
    let folder = metadata.get("target_directory").and_then(|folder| folder.as_str());
    Ok(folder.map_or_else(|| root().join("target"), PathBuf::from))
}

/// An empty file for what a chore's children report.
pub(crate) fn report_file(name: &str) -> Result<PathBuf> {
    let path = target_folder()?.join(name);
    File::create(&path).with_context(|| path.display().to_string())?;
    Ok(path)
}
