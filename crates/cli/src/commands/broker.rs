//! `milena broker`.

use anyhow::Context as _;
use milena_testkit::broker::{BrokerConfig, TransactionVersion};
use milena_testkit::listen::EmbeddedBroker;

use crate::args::Broker;
use crate::output::Usage;
use crate::{output, signals};

/// Runs the command until a signal.
pub(crate) async fn run(args: &Broker) -> anyhow::Result<()> {
    let host = match &args.advertise {
        Some(host) => host.clone(),
        None if args.listen.ip().is_unspecified() => {
            let text = format!(
                "--listen {}: clients cannot be told to connect to that address; add --advertise HOST",
                args.listen
            );
            return Err(Usage(text).into());
        }
        None => args.listen.ip().to_string(),
    };
    let config = BrokerConfig {
        host,
        port: args.listen.port(),
        auto_create_topics: !args.no_auto_create,
        default_partitions: args.partitions,
        transaction_version: if args.transaction_version == 1 {
            TransactionVersion::V1
        } else {
            TransactionVersion::V2
        },
        ..BrokerConfig::default()
    };
    let broker = EmbeddedBroker::start_at(args.listen, config)
        .await
        .with_context(|| format!("cannot listen on {}; --listen takes another address", args.listen))?;
    output::print(
        format!("embedded broker on {}; records live in memory until it ends\n", broker.bootstrap())
            .as_bytes(),
    )?;
    signals::asked_to_end().await;
    broker.stop().await;
    Ok(())
}
