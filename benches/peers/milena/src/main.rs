//! milena in the comparison. A mode that ends with `-mt` runs on the multi-thread runtime, any other on the current-thread one. Behind a `+`
//! stands another cryptography for TLS than the default.
#![forbid(unsafe_code)]

mod consume;
mod latency;
mod produce;

use std::sync::Arc;

use anyhow::{Result, bail};
use contract::{Args, Role};
use milena::tls::{Store, TlsConfig, Trust};
use milena::{Client, ClientConfig};

/// A client, over TLS if that is asked for.
pub(crate) async fn connect(args: &Args, cryptography: Option<&str>) -> Result<Client> {
    let config = ClientConfig::from(args.bootstrap.as_str());
    let Some(authority) = &args.tls else { return Ok(Client::connect(config).await?) };
    let provider = match cryptography {
        None => None,
        Some("ring") => Some(Arc::new(rustls::crypto::ring::default_provider())),
        Some("aws-lc") => Some(Arc::new(rustls::crypto::aws_lc_rs::default_provider())),
        Some(other) => bail!("no cryptography {other:?}"),
    };
    let trust = Trust::Store(Store::pem_file(authority));
    Ok(Client::connect(config.with_tls(TlsConfig { trust, provider, ..TlsConfig::default() })).await?)
}

/// A mode without its cryptography, and that.
pub(crate) fn mode(args: &Args) -> (&str, Option<&str>) {
    match args.mode.split_once('+') {
        Some((mode, cryptography)) => (mode, Some(cryptography)),
        None => (&args.mode, None),
    }
}

fn main() -> Result<()> {
    let args = Args::parse()?;
    let many = args.threads > 1 || args.mode.ends_with("-mt");
    let mut builder = if many {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    let runtime = builder.worker_threads(args.threads.max(2)).enable_all().build()?;
    runtime.block_on(async move {
        // On the multi-thread runtime the application is on a worker, too.
        let work = async move {
            match args.role {
                Role::Consume => consume::run(&args).await,
                Role::Produce => produce::run(&args).await,
                Role::Latency => latency::run(&args).await,
            }
        };
        if many { tokio::spawn(work).await? } else { work.await }
    })
}
