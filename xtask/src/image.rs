//! The container image apache/kafka:VERSION, built from the jars and this machine's Java.
//!
//! It takes the same environment and has the same entry point as the published image, so that tests need not know
//! which of the two they got. It is for tests only.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::command::{Scratch, output, run, succeeds};
use crate::{engine, jars};

/// The label by which an image that was built here is known; the published one has none and is kept.
const LABEL: &str = "milena.image";
/// To be raised with every change of the image's contents: images of another revision are built anew.
const REVISION: &str = "2";

/// The Java modules that a broker and its command line tools use.
const MODULES: &str = "java.se,jdk.unsupported,jdk.management,jdk.security.auth,jdk.security.jgss,jdk.crypto.ec,\
                       jdk.crypto.cryptoki,jdk.zipfs";

/// What the start script and testcontainers run inside the container.
const PROGRAMS: [&str; 14] =
    ["bash", "env", "sleep", "chmod", "mkdir", "cat", "rm", "ls", "cp", "mv", "grep", "sed", "date", "id"];

/// Libraries that are opened at run time or needed by the codecs inside the jars, so that `ldd` does not name them.
const OPENED_LIBRARIES: [&str; 8] = [
    "libnss_files.so.2",
    "libnss_dns.so.2",
    "libdl.so.2",
    "libgcc_s.so.1",
    "libpthread.so.0",
    "librt.so.1",
    "libstdc++.so.6",
    "libz.so.1",
];

/// Files that the wrapper class expects in its folder of defaults.
const DEFAULTS: [&str; 5] =
    ["server.properties", "log4j.properties", "tools-log4j.properties", "log4j2.yaml", "tools-log4j2.yaml"];

/// The environment becomes the configuration, the data folder is formatted once, and the broker runs in the
/// foreground with its log on stdout.
const RUN: &str = r#"#!/bin/bash
set -e
export CLUSTER_ID=${CLUSTER_ID:-5L6g3nShT-eMCtK--X86sw}
said=$(/opt/java/bin/java -Xmx128m -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -cp '/opt/kafka/libs/*' \
  kafka.docker.KafkaDockerWrapper setup --default-configs-dir /etc/kafka/docker \
  --mounted-configs-dir /mnt/shared/config --final-configs-dir /opt/kafka/config 2>&1) \
  || grep -qi 'already formatted' <<< "$said" || { echo "$said"; exit 1; }
exec /opt/java/bin/java ${KAFKA_HEAP_OPTS:--Xms128m -Xmx512m} ${KAFKA_JVM_PERFORMANCE_OPTS:--XX:+UseSerialGC} ${KAFKA_OPTS:-} \
  -Dlog4j.configuration=file:/etc/kafka/docker/console.properties \
  -Dorg.slf4j.simpleLogger.logFile=System.out -cp '/opt/kafka/libs/*' \
  kafka.Kafka /opt/kafka/config/server.properties
"#;

/// Versions before 4.0 log through log4j 1.x and are silent without a configuration.
const CONSOLE: &str = "log4j.rootLogger=INFO,C\n\
    log4j.appender.C=org.apache.log4j.ConsoleAppender\n\
    log4j.appender.C.layout=org.apache.log4j.PatternLayout\n\
    log4j.appender.C.layout.ConversionPattern=[%d] %p %m (%c)%n\n";

/// Builds the image unless the engine has it.
pub(crate) fn build(version: &str, force: bool) -> Result<()> {
    let tag = format!("apache/kafka:{version}");
    if !succeeds(engine::docker().arg("version")) {
        bail!("no container engine answers: start Docker, or run `cargo xtask kafka engine-start` as root");
    }
    let label = format!("{{{{index .Config.Labels \"{LABEL}\"}}}}");
    if let Ok(revision) = output(engine::docker().args(["image", "inspect", "-f", &label, &tag]))
        && !force
        && ["", REVISION].contains(&revision.trim())
    {
        eprintln!("{tag} is there");
        return Ok(());
    }
    let jars = jars::fetch(version)?;
    let scratch = Scratch::new("image")?;
    let tree = scratch.path();
    for folder in [
        "bin",
        "usr",
        "lib",
        "lib64",
        "opt/kafka/libs",
        "opt/kafka/config",
        "tmp",
        "root",
        "proc",
        "sys",
        "dev",
    ] {
        make(&tree.join(folder))?;
    }
    for folder in ["etc/kafka/docker", "mnt/shared/config"] {
        make(&tree.join(folder))?;
    }
    java_runtime(&tree.join("opt/java"))?;
    programs(tree)?;
    for jar in fs::read_dir(&jars)?.flatten() {
        copy(&jar.path(), &tree.join("opt/kafka/libs").join(jar.file_name()))?;
    }
    configuration(tree)?;
    import(tree, &tag)?;
    eprintln!(
        "{tag}: {}",
        output(engine::docker().args(["image", "inspect", "-f", "{{.Size}} bytes", &tag]))?.trim()
    );
    Ok(())
}

fn java_runtime(to: &Path) -> Result<()> {
    let java = fs::canonicalize(which("java")?).context("java")?;
    let home = java.ancestors().nth(2).context("java is in no folder bin")?;
    let mut jlink = Command::new(home.join("bin/jlink"));
    jlink
        .args(["--add-modules", MODULES, "--strip-debug", "--no-header-files", "--no-man-pages", "--output"])
        .arg(to);
    run(&mut jlink).context("jlink, of a JDK 17 with its modules (on Debian: openjdk-17-jdk-headless)")?;
    // Debian's runtime keeps its security settings outside its folder, behind links that jlink follows or not.
    for entry in fs::read_dir("/etc").context("/etc")?.flatten() {
        let name = entry.file_name();
        if name.to_string_lossy().starts_with("java-") {
            let etc = to.ancestors().nth(2).context("no root")?.join("etc");
            run(Command::new("cp").arg("-r").arg(entry.path()).arg(etc))?;
        }
    }
    Ok(())
}

/// Copies the programs and every library that they and the Java runtime name.
fn programs(tree: &Path) -> Result<()> {
    for program in PROGRAMS {
        copy(&fs::canonicalize(which(program)?)?, &tree.join("bin").join(program))?;
    }
    symlink("bash", tree.join("bin/sh")).context("bin/sh")?;
    symlink("../bin", tree.join("usr/bin")).context("usr/bin")?;
    let mut binaries: Vec<PathBuf> =
        fs::read_dir(tree.join("bin"))?.flatten().map(|entry| entry.path()).collect();
    binaries.push(tree.join("opt/java/bin/java"));
    shared_objects(&tree.join("opt/java/lib"), &mut binaries)?;
    let mut libraries = BTreeSet::new();
    for binary in &binaries {
        // ldd fails for what is no dynamic executable; nothing has to be copied for that.
        let Ok(listing) = output(Command::new("ldd").arg(binary)) else { continue };
        let inside = tree.display().to_string();
        let paths =
            listing.split_whitespace().filter(|word| word.starts_with('/') && !word.starts_with(&inside));
        libraries.extend(paths.map(PathBuf::from));
    }
    let opened: Vec<PathBuf> = libraries
        .iter()
        .filter(|library| library.ends_with("libc.so.6"))
        .flat_map(|libc| OPENED_LIBRARIES.map(|name| libc.with_file_name(name)))
        .filter(|library| library.exists())
        .collect();
    libraries.extend(opened);
    for library in libraries {
        let inside = tree.join(library.strip_prefix("/").unwrap_or(&library));
        make(inside.parent().context("a library in no folder")?)?;
        copy(&library, &inside)?;
    }
    Ok(())
}

fn shared_objects(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            shared_objects(&path, found)?;
        } else if path.extension().is_some_and(|end| end == "so") {
            found.push(path);
        }
    }
    Ok(())
}

fn configuration(tree: &Path) -> Result<()> {
    let docker = tree.join("etc/kafka/docker");
    for name in DEFAULTS {
        write(&docker.join(name), "")?;
    }
    write(&docker.join("console.properties"), CONSOLE)?;
    write(&docker.join("run"), RUN)?;
    fs::set_permissions(docker.join("run"), fs::Permissions::from_mode(0o755)).context("run")?;
    fs::set_permissions(tree.join("tmp"), fs::Permissions::from_mode(0o1777)).context("tmp")?;
    write(&tree.join("etc/passwd"), "root:x:0:0:root:/root:/bin/bash\n")?;
    write(&tree.join("etc/group"), "root:x:0:\n")?;
    write(&tree.join("etc/nsswitch.conf"), "hosts: files dns\n")
}

fn import(tree: &Path, tag: &str) -> Result<()> {
    let mut tar = Command::new("tar")
        .args(["--owner=0", "--group=0", "-C"])
        .arg(tree)
        .args(["-c", "."])
        .stdout(Stdio::piped())
        .spawn()
        .context("tar")?;
    let archive = tar.stdout.take().context("tar has no stdout")?;
    let changes = [
        "EXPOSE 9092",
        "CMD [\"/etc/kafka/docker/run\"]",
        "ENV PATH=/usr/bin:/bin:/opt/java/bin",
        &format!("LABEL {LABEL}={REVISION}"),
    ];
    let mut import = engine::docker();
    import.arg("import").args(changes.iter().flat_map(|change| ["-c", change])).args(["-", tag]);
    run(import.stdin(archive).stdout(Stdio::null()))?;
    if tar.wait().context("tar")?.success() { Ok(()) } else { bail!("tar failed") }
}

fn which(program: &str) -> Result<PathBuf> {
    if program == "java"
        && let Some(home) = std::env::var_os("JAVA_HOME")
    {
        return Ok(Path::new(&home).join("bin/java"));
    }
    let path = std::env::var_os("PATH").context("PATH is not set")?;
    let found = std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file());
    found.with_context(|| format!("{program} is not on PATH"))
}

fn make(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).map(drop).with_context(|| format!("{} -> {}", from.display(), to.display()))
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| file.display().to_string())
}
