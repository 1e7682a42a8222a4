//! Connections over TLS.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use super::{TlsConfig, load};
use crate::error::{Error, Result};
use crate::transport::{BoxFuture, BoxStream, Dial};

/// Makes connections with another dialer and runs TLS over them.
#[derive(Debug)]
pub(crate) struct TlsDialer {
    config: Arc<TlsConfig>,
    below: Arc<dyn Dial>,
    loaded: Mutex<Option<Loaded>>,
}

/// What was made of the settings and the files, and of which state of the files. The lock is held to look only.
#[derive(Clone, Debug)]
struct Loaded {
    tls: Arc<rustls::ClientConfig>,
    stamps: Vec<(PathBuf, Option<SystemTime>)>,
}

impl TlsDialer {
    pub(crate) fn new(config: TlsConfig, below: Arc<dyn Dial>) -> Self {
        if !config.verify_host_name {
            tracing::warn!(
                "the host names in brokers' certificates are NOT verified (ssl.endpoint.identification.algorithm is empty): \
                 whoever has a certificate of a trusted authority can stand in for a broker"
            );
        }
        Self { config: Arc::new(config), below, loaded: Mutex::default() }
    }

    /// What to use now: read once, and again when a file has changed.
    ///
    /// # Cancellation
    /// Nothing changes.
    async fn current(&self) -> Result<Arc<rustls::ClientConfig>> {
        let known = self.loaded.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let config = Arc::clone(&self.config);
        let run = tokio::task::spawn_blocking(move || refreshed(&config, known));
        let loaded = run.await.map_err(|_| Error::closed("the runtime is stopping"))??;
        let tls = Arc::clone(&loaded.tls);
        *self.loaded.lock().unwrap_or_else(PoisonError::into_inner) = Some(loaded);
        Ok(tls)
    }
}

fn refreshed(config: &TlsConfig, known: Option<Loaded>) -> Result<Loaded> {
    let stamps = load::stamps(config);
    match known {
        Some(known) if known.stamps == stamps => Ok(known),
        None => Ok(Loaded { tls: load::load(config)?, stamps }),
        Some(known) => match load::load(config) {
            Ok(tls) => {
                tracing::info!("the certificates for TLS have changed; new connections use the new ones");
                Ok(Loaded { tls, stamps })
            }
            // Half written, perhaps: the next connection looks again.
            Err(error) => {
                tracing::warn!(%error, "the changed certificates for TLS cannot be used; the old ones are kept");
                Ok(known)
            }
        },
    }
}

impl Dial for TlsDialer {
    fn dial<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<BoxStream>> {
        Box::pin(async move {
            let tls = self.current().await.map_err(io::Error::other)?;
            let name = self.config.server_name.as_deref().unwrap_or(host);
            let server_name = ServerName::try_from(name.to_owned()).map_err(|_| {
                io::Error::other(Error::misuse(format!("{name:?} is no host name that TLS can ask for")))
            })?;
            let stream = self.below.dial(host, port).await?;
            let stream = TlsConnector::from(tls).connect(server_name, stream).await?;
            Ok(Box::new(stream) as BoxStream)
        })
    }
}
