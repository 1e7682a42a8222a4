//! A token endpoint for OAUTHBEARER, on HTTPS, in Java: another implementation of HTTP, TLS and signatures than ours.

use std::fs;
use std::time::Duration;

use tokio::time::Instant;

use super::certificates::Certificates;
use super::error::{KafkaError, KafkaErrorKind};
use super::process::JavaProcess;
use super::{START_TIMEOUT, is_demanded};

const SOURCE: &str = include_str!("TokenEndpoint.java");

/// What a [`TokenEndpoint`] is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenOptions {
    /// How long its tokens last. Default 300 s; whole seconds count.
    pub lifetime: Duration,
}

impl Default for TokenOptions {
    fn default() -> Self {
        Self { lifetime: Duration::from_secs(300) }
    }
}

/// A server that answers `POST /token` on some ports of localhost:
///
/// | port | certificate | TLS |
/// |---|---|---|
/// | `rsa-1.2`, `rsa-1.3` | `broker` | 1.2, 1.3 |
/// | `ec-1.2`, `ec-1.3` | `broker-ec` | 1.2, 1.3 |
/// | `mutual` | `broker` | 1.3, with a client certificate of `ca` |
///
/// Tokens are those that a [`SecuredKafka`](super::SecuredKafka) with the same certificates takes. Who gets one: the client `service` with the
/// secret `s3cret`, and who shows an assertion by the key of `client` (RS256) or `client-ec` (ES256), as the grant or in the place of a secret,
/// with `service` as `iss` and `sub` and `https://localhost/token` as `aud`, each `jti` only once. It ends with this value.
#[derive(Debug)]
pub struct TokenEndpoint {
    process: JavaProcess,
}

impl TokenEndpoint {
    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// [`KafkaErrorKind::Absent`] without a JDK, [`KafkaErrorKind::Start`] when it does not come up.
    ///
    /// # Cancellation
    /// What was started is ended and removed.
    pub async fn start(certificates: &Certificates, options: TokenOptions) -> Result<Self, KafkaError> {
        let process = JavaProcess::create("the token endpoint".to_owned())?;
        let source = process.folder().join("TokenEndpoint.java");
        fs::write(&source, SOURCE).map_err(|error| KafkaError::system("TokenEndpoint.java", error))?;
        // A source file is compiled as it is run (JEP 330).
        let mut java = process.java(process.folder(), 128);
        java.arg(&source)
            .arg(certificates.folder())
            .args([Certificates::PASSWORD, &options.lifetime.as_secs().max(1).to_string()]);
        process.launch(java).await?;
        let endpoint = Self { process };
        let started = Instant::now();
        while !endpoint.log().lines().any(|line| line == "ready") {
            if let Err(error) = endpoint.process.check_alive().await {
                // A runtime without the compiler.
                let lacks = endpoint.log().contains("jdk.compiler") && !is_demanded();
                return Err(if lacks {
                    KafkaError::new(KafkaErrorKind::Absent, "no JDK: its compiler is missing")
                } else {
                    error
                });
            }
            if started.elapsed() > START_TIMEOUT {
                let message = format!("the token endpoint does not come up:\n{}", endpoint.log());
                return Err(KafkaError::new(KafkaErrorKind::Start, message));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(endpoint)
    }

    /// The URL at a port.
    ///
    /// # Panics
    /// If there is no port of that name.
    #[must_use]
    pub fn url(&self, port: &str) -> String {
        let log = self.log();
        let number = log.lines().find_map(|line| line.strip_prefix(&format!("port {port} ")));
        let Some(number) = number else { panic!("the token endpoint has no port {port}") };
        format!("https://localhost:{number}/token")
    }

    /// What became of the requests so far, a line each:
    /// `PORT PROTOCOL SUITE peer=SUBJECT resumed=BOOL by=WAY granted`, or `refused: WHY` at its end. The ways are `secret`, `assertion` with its
    /// algorithm, `client_assertion` and `client_assertion and id`.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.log().lines().filter_map(|line| line.strip_prefix("request ")).map(str::to_owned).collect()
    }

    fn log(&self) -> String {
        self.process.log()
    }
}
