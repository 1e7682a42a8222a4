//! The jars of a Kafka version, copied from Maven Central by artifact id.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command::{Scratch, cache, run};

/// The folder of a version's jars: in `$KAFKA_LIBS` if that is set, else in the cache.
pub(crate) fn folder(version: &str) -> Result<PathBuf> {
    let root = match std::env::var_os("KAFKA_LIBS") {
        Some(libs) => PathBuf::from(libs),
        None => cache()?.join("kafka"),
    };
    Ok(root.join(version))
}

/// Copies the jars of a version unless they are there. Needs Maven and a JDK.
pub(crate) fn fetch(version: &str) -> Result<PathBuf> {
    let pom = pom(version)?;
    let folder = folder(version)?;
    if count(&folder) > 0 {
        eprintln!("Kafka {version}: {} jars in {}", count(&folder), folder.display());
        return Ok(folder);
    }
    copy(&pom, &folder, &[])?;
    eprintln!("Kafka {version}: {} jars in {}", count(&folder), folder.display());
    Ok(folder)
}

/// The versions of Flink, of its Kafka connector, and of the last connector that has the classic consumer.
pub(crate) const FLINK: &str = "2.2.1";
pub(crate) const FLINK_CONNECTOR: &str = "5.0.0-2.2";
pub(crate) const FLINK_CLASSIC: &str = "3.4.0-1.20";

/// Copies the jars of Flink and its Kafka connector to the cache unless they are there. Needs Maven and a JDK.
pub(crate) fn fetch_flink() -> Result<PathBuf> {
    let flink = |artifact, version| dependency("org.apache.flink", artifact, version);
    let dependencies = [
        flink("flink-clients", FLINK),
        flink("flink-streaming-java", FLINK),
        flink("flink-connector-base", FLINK),
        flink("flink-connector-kafka", FLINK_CONNECTOR),
        dependency("org.slf4j", "slf4j-simple", "1.7.36"),
    ];
    let folder = cache()?.join("flink").join(format!("{FLINK}-{FLINK_CONNECTOR}"));
    fetch_into(folder, &project("flink-jars", &dependencies.concat()), &[])
}

/// The same with the connector that has the classic consumer, without what it depends on.
pub(crate) fn fetch_flink_classic() -> Result<PathBuf> {
    let pom =
        project("flink-classic-jar", &dependency("org.apache.flink", "flink-connector-kafka", FLINK_CLASSIC));
    let folder = cache()?.join("flink").join(format!("classic-{FLINK_CLASSIC}"));
    fetch_into(folder, &pom, &["-DexcludeTransitive=true"])
}

fn fetch_into(folder: PathBuf, pom: &str, options: &[&str]) -> Result<PathBuf> {
    if count(&folder) == 0 {
        copy(pom, &folder, options)?;
    }
    Ok(folder)
}

/// Copies the runtime dependencies of a Maven project into a folder that is not there yet.
fn copy(pom: &str, folder: &Path, options: &[&str]) -> Result<()> {
    let scratch = Scratch::new("jars")?;
    let file = scratch.path().join("pom.xml");
    std::fs::write(&file, pom).with_context(|| file.display().to_string())?;
    let parent = folder.parent().context("the jars' folder has no parent")?;
    std::fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
    // Copied beside the final place and renamed, so that an interrupted copy is never taken for a whole one.
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let part = parent.join(format!("{name}.part-{}", std::process::id()));
    let mut maven = Command::new("mvn");
    maven
        .args(["-q", "-B", "-f"])
        .arg(&file)
        .args(["dependency:copy-dependencies", "-DincludeScope=runtime"])
        .args(options);
    let copied = run(maven.arg(format!("-DoutputDirectory={}", part.display())));
    let moved = copied.and_then(|()| {
        std::fs::rename(&part, folder).with_context(|| format!("{} -> {}", part.display(), folder.display()))
    });
    let _ = std::fs::remove_dir_all(&part);
    moved
}

fn count(folder: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries.flatten().filter(|entry| entry.path().extension().is_some_and(|end| end == "jar")).count()
}

/// Major and minor number; for versions before 1.0 the second and third.
fn line_of(version: &str) -> Result<(bool, u16, u16)> {
    let numbers: Vec<u16> = version.split('.').map(str::parse).collect::<Result<_, _>>().unwrap_or_default();
    match numbers.as_slice() {
        [0, major, minor, _] => Ok((true, *major, *minor)),
        [major, minor, _] if *major > 0 => Ok((false, *major, *minor)),
        _ => bail!("{version:?} is not a Kafka version such as 4.3.1 or 0.11.0.3"),
    }
}

/// The Scala suffix of the core artifact.
fn scala(old: bool, major: u16, minor: u16) -> &'static str {
    match (old, major, minor) {
        (true, 8, 0 | 1) => "2.10",
        (true, 8 | 9, _) | (true, 10, 0) => "2.11",
        (true, ..) | (false, 1, _) | (false, 2, 0..=3) => "2.12",
        (false, ..) => "2.13",
    }
}

/// True if the command line tools have an artifact of their own; up to 0.10.0 they are part of the core's.
fn has_tools(old: bool, major: u16, minor: u16) -> bool {
    !old || (major, minor) >= (10, 1)
}

/// A Maven project whose runtime dependencies are the broker and its command line tools.
fn pom(version: &str) -> Result<String> {
    let (old, major, minor) = line_of(version)?;
    let mut dependencies =
        vec![dependency("org.apache.kafka", &format!("kafka_{}", scala(old, major, minor)), version)];
    if has_tools(old, major, minor) {
        dependencies.push(dependency("org.apache.kafka", "kafka-tools", version));
    }
    if old || major < 4 {
        // The broker calls log4j 1.x itself; reload4j is its maintained successor.
        dependencies.push(dependency("ch.qos.reload4j", "reload4j", "1.2.25"));
    }
    if old && matches!((major, minor), (10, 1..) | (11, _)) {
        dependencies.push(dependency("javax.xml.bind", "jaxb-api", "2.3.1"));
    }
    if !old && major == 2 && minor < 4 {
        // The ZooKeeper client that these versions name does not resolve addresses on newer Java.
        dependencies.push(dependency("org.apache.zookeeper", "zookeeper", "3.4.10"));
    }
    dependencies.push(dependency("org.slf4j", "slf4j-simple", "1.7.36"));
    Ok(project("kafka-jars", &dependencies.concat()))
}

fn project(artifact: &str, dependencies: &str) -> String {
    format!(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\"><modelVersion>4.0.0</modelVersion>\
         <groupId>milena</groupId><artifactId>{artifact}</artifactId><version>1</version>\
         <dependencies>{dependencies}</dependencies></project>\n"
    )
}

fn dependency(group: &str, artifact: &str, version: &str) -> String {
    // Other log back ends would compete; the com.sun and jms artifacts are in no public repository.
    let unwanted = [
        ("log4j", "*"),
        ("org.slf4j", "slf4j-log4j12"),
        ("org.slf4j", "slf4j-reload4j"),
        ("com.sun.jmx", "*"),
        ("com.sun.jdmk", "*"),
        ("javax.jms", "*"),
    ];
    let exclusions: String = unwanted
        .iter()
        .filter(|_| group == "org.apache.kafka")
        .map(|(group, artifact)| {
            format!("<exclusion><groupId>{group}</groupId><artifactId>{artifact}</artifactId></exclusion>")
        })
        .collect();
    format!(
        "<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version>\
         <exclusions>{exclusions}</exclusions></dependency>"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_of_kafka_gets_its_scala_and_logger() {
        let cases = [
            ("4.3.1", "kafka_2.13", false),
            ("3.9.1", "kafka_2.13", true),
            ("2.4.1", "kafka_2.13", true),
            ("2.0.1", "kafka_2.12", true),
            ("0.11.0.3", "kafka_2.12", true),
            ("0.10.0.1", "kafka_2.11", true),
            ("0.8.2.2", "kafka_2.11", true),
            ("0.8.1.1", "kafka_2.10", true),
        ];
        for (version, artifact, log4j) in cases {
            let tools = !["0.10.0.1", "0.8.2.2", "0.8.1.1"].contains(&version);
            let pom = pom(version).unwrap();
            assert!(
                pom.contains(&format!("<artifactId>{artifact}</artifactId><version>{version}</version>")),
                "{version}"
            );
            assert_eq!(pom.contains("<artifactId>reload4j</artifactId><version>"), log4j, "{version}");
            assert_eq!(pom.contains("<artifactId>kafka-tools</artifactId>"), tools, "{version}");
        }
    }

    #[test]
    fn what_is_no_version_is_refused() {
        for version in ["", "4.3", "latest", "0.11.0", "4.3.1.2", "../4.3.1"] {
            assert!(pom(version).is_err(), "{version:?}");
        }
    }
}
