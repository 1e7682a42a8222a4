//! The interop matrix: milena, Java and librdkafka write and read on a real broker (`tests/interop/README.md`).

use std::process::Command;

use anyhow::{Result, bail};

use crate::command::{cargo, root, run};
use crate::kafka::{Broker, target_folder};
use crate::{NEWEST_KAFKA, jars};

/// The newest release whose Java client talks to brokers before 2.1.
const OLD_CLIENT: &str = "3.9.1";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The version of the broker.
    #[arg(long, default_value = NEWEST_KAFKA)]
    kafka: String,
    /// A broker that runs already, of that version; without it one is started.
    #[arg(long)]
    bootstrap: Option<String>,
    /// Write the table to docs/interop.md, or docs/interop-VERSION.md for another than the newest version.
    #[arg(long)]
    write_docs: bool,
    /// Only this shape, codec or implementation; can be repeated.
    #[arg(long)]
    only: Vec<String>,
}

/// Runs the matrix; fails if anything is not equal.
pub(crate) fn matrix(args: &Args) -> Result<()> {
    if args.write_docs && !args.only.is_empty() {
        bail!("a part of the matrix is no documentation");
    }
    let java = if is_before_2_1(&args.kafka) { OLD_CLIENT } else { NEWEST_KAFKA };
    jars::fetch(java)?;
    run(cargo().args(["build", "--quiet", "--package", "milena-tests", "--bins"]))?;
    // Held until the matrix has been run.
    let (_broker, address) = match &args.bootstrap {
        Some(address) => (None, address.clone()),
        None => {
            let broker = Broker::start(&args.kafka)?;
            let address = broker.address().to_owned();
            (Some(broker), address)
        }
    };
    let mut command = Command::new(target_folder()?.join("debug/interop_matrix"));
    command.arg(address).args(["--kafka", &args.kafka, "--java", java]);
    for only in &args.only {
        command.args(["--only", only]);
    }
    if args.write_docs {
        let name = match args.kafka.as_str() {
            NEWEST_KAFKA => "interop.md".to_owned(),
            version => format!("interop-{version}.md"),
        };
        std::fs::create_dir_all(root().join("docs"))?;
        command.arg("--docs").arg(root().join("docs").join(name));
    }
    run(&mut command)
}

fn is_before_2_1(version: &str) -> bool {
    let numbers: Vec<u32> = version.split('.').filter_map(|number| number.parse().ok()).collect();
    numbers < vec![2, 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_brokers_get_a_client_that_knows_them() {
        assert!(["0.10.2.2", "1.1.1", "2.0.1"].into_iter().all(is_before_2_1));
        assert!(!["2.1.0", "2.8.2", "4.3.1"].into_iter().any(is_before_2_1));
    }
}
