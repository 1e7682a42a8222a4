//! Kafka's own command line tools, to check against Java's producer and consumer.

use std::process::Stdio;
use std::time::Duration;

use milena_testkit::kafka::{KafkaVersion, NEWEST, is_demanded};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Writes lines with Java's console producer. Extra arguments follow its own.
///
/// # Panics
/// If it fails or takes longer than two minutes.
pub async fn produce(java: &Java, bootstrap: &str, topic: &str, arguments: &[&str], lines: &str) {
    let mut all = vec!["--bootstrap-server", bootstrap, "--topic", topic];
    all.extend(arguments);
    java.run("org.apache.kafka.tools.ConsoleProducer", &all, lines).await;
}

/// Reads `count` records from the beginning with Java's console consumer: what it prints, one line a record.
///
/// # Panics
/// As [`produce`].
pub async fn consume(java: &Java, bootstrap: &str, count: usize, arguments: &[&str]) -> Vec<String> {
    let count = count.to_string();
    let mut all = vec!["--bootstrap-server", bootstrap, "--from-beginning", "--max-messages", &count];
    all.extend(["--timeout-ms", "60000"]);
    all.extend(arguments);
    let printed = java.run("org.apache.kafka.tools.consumer.ConsoleConsumer", &all, "").await;
    printed.lines().map(str::to_owned).collect()
}

/// What kafka-dump-log prints of a log file, with its records.
///
/// # Panics
/// As [`produce`].
pub async fn dump_log(java: &Java, log: &str) -> String {
    java.run("org.apache.kafka.tools.DumpLogSegments", &["--print-data-log", "--files", log], "").await
}

/// Every setting of Java's producer, consumer and administrator, with its default if it has one.
///
/// # Panics
/// As [`produce`].
pub async fn settings(java: &Java) -> Vec<(String, Option<String>)> {
    const SOURCE: &str = r#"
        import org.apache.kafka.common.config.ConfigDef;
        public class Settings {
            public static void main(String[] classes) throws Exception {
                for (String name : classes) {
                    ConfigDef all = (ConfigDef) Class.forName(name).getMethod("configDef").invoke(null);
                    for (ConfigDef.ConfigKey key : all.configKeys().values()) {
                        boolean has = key.hasDefault() && key.defaultValue != null;
                        String value = has ? "=" + ConfigDef.convertToString(key.defaultValue, key.type) : "";
                        System.out.println(key.name + value);
                    }
                }
            }
        }"#;
    let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("a folder: {error}"));
    let file = folder.path().join("Settings.java");
    std::fs::write(&file, SOURCE).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let clients = "org.apache.kafka.clients";
    let classes = ["producer.ProducerConfig", "consumer.ConsumerConfig", "admin.AdminClientConfig"];
    let classes = classes.map(|class| format!("{clients}.{class}"));
    // A source file is compiled as it is run (JEP 330).
    let printed = java.run(&file.display().to_string(), &classes.each_ref().map(String::as_str), "").await;
    let lines = printed.lines().map(|line| match line.split_once('=') {
        Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
        None => (line.to_owned(), None),
    });
    lines.collect()
}

/// A Java with Kafka's jars.
#[derive(Debug)]
pub struct Java {
    class_path: String,
}

impl Java {
    /// The newest Kafka's tools; `None` if the test is to be skipped for want of a Java or the jars.
    ///
    /// # Panics
    /// If there are none and CI or `MILENA_REQUIRE_KAFKA=1` demands them.
    pub async fn find() -> Option<Self> {
        let version: KafkaVersion = NEWEST.parse().unwrap_or_else(|error| panic!("{NEWEST}: {error}"));
        let jars = version.jars().map_err(|error| error.to_string());
        let java = Command::new(program()).arg("-version").output().await.map_err(|error| error.to_string());
        match (jars, java) {
            (Ok(jars), Ok(_)) => Some(Self { class_path: format!("{}/*", jars.display()) }),
            (jars, java) => {
                let reasons: Vec<_> = jars.err().into_iter().chain(java.err()).collect();
                assert!(!is_demanded(), "no Java tools of Kafka {NEWEST}: {reasons:?}");
                eprintln!("SKIPPED: no Java tools of Kafka {NEWEST}: {reasons:?}");
                None
            }
        }
    }

    async fn run(&self, class: &str, arguments: &[&str], input: &str) -> String {
        let mut command = Command::new(program());
        command
            .args(["-Xmx128m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", &self.class_path, class])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{class}: {error}"));
        if let Some(mut stdin) = child.stdin.take() {
            // A tool that ends early closes its input; its output then says why.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        let output = tokio::time::timeout(Duration::from_secs(120), child.wait_with_output()).await;
        let output = output
            .unwrap_or_else(|_| panic!("{class} {arguments:?} takes too long"))
            .unwrap_or_else(|error| panic!("{class}: {error}"));
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{class} {arguments:?}: {}\n{errors}", output.status);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

fn program() -> String {
    std::env::var("JAVA_HOME").map_or_else(|_| "java".to_owned(), |home| format!("{home}/bin/java"))
}
