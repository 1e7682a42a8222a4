//! Amazon MSK by IAM: signatures instead of passwords.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use milena_core::sasl::aws::{self, AwsKeys, AwsMskIam};
use milena_core::sasl::{BearerToken, Mechanism, Secret};

use super::{Credentials, Peer, TokenSource};
use crate::error::{Error, ErrorKind, Result};
use crate::transport::BoxFuture;

/// Gives AWS keys. Asked for each signature, so it may give temporary ones; what takes time is best kept.
pub trait AwsKeyProvider: fmt::Debug + Send + Sync {
    /// The keys, now.
    ///
    /// # Errors
    /// [`ErrorKind::Auth`](crate::ErrorKind::Auth) when trying again is useless.
    ///
    /// # Cancellation
    /// Dropping the future gives the attempt up.
    fn keys(&self) -> BoxFuture<'_, Result<AwsKeys>>;
}

/// Where AWS keys come from.
#[derive(Clone, Debug)]
pub enum AwsKeySource {
    /// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN` of the environment.
    Environment,
    /// These.
    Fixed(AwsKeys),
    /// Whoever gives them.
    Provider(Arc<dyn AwsKeyProvider>),
}

impl AwsKeySource {
    async fn keys(&self) -> Result<AwsKeys> {
        match self {
            Self::Fixed(keys) => Ok(keys.clone()),
            Self::Provider(provider) => provider.keys().await,
            Self::Environment => {
                let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
                let of = |name: &str| {
                    variable(name).ok_or_else(|| {
                        Error::new(ErrorKind::Auth, format!("{name} is not set in the environment"))
                            .with_remedy("set the AWS keys in the environment, or pass an AwsKeyProvider")
                    })
                };
                Ok(AwsKeys {
                    access_key_id: of("AWS_ACCESS_KEY_ID")?,
                    secret_access_key: of("AWS_SECRET_ACCESS_KEY")?.into(),
                    session_token: variable("AWS_SESSION_TOKEN").map(Secret::from),
                })
            }
        }
    }
}

/// AWS_MSK_IAM, or OAUTHBEARER with a signed URL as its token; MSK takes both.
#[derive(Clone, Debug)]
pub struct MskIam {
    keys: AwsKeySource,
    region: Option<String>,
}

impl MskIam {
    /// The mechanism AWS_MSK_IAM. The region is that of the environment (`AWS_REGION`), or else of the broker's host name.
    #[must_use]
    pub fn mechanism(keys: AwsKeySource) -> Self {
        Self { keys, region: None }
    }

    /// The same in this region.
    #[must_use]
    pub fn with_region(mut self, region: impl Into<String>) -> Self {
        self.region = Some(region.into());
        self
    }

    /// Tokens for [`OAuthBearer`](super::OAuthBearer), of this region.
    pub fn tokens(keys: AwsKeySource, region: impl Into<String>) -> impl TokenSource {
        MskToken { keys, region: region.into() }
    }
}

impl Credentials for MskIam {
    fn mechanism(&self) -> &'static str {
        "AWS_MSK_IAM"
    }

    fn begin<'a>(&'a self, peer: &'a Peer) -> BoxFuture<'a, Result<Box<dyn Mechanism>>> {
        Box::pin(async move {
            let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
            let region = self.region.clone().or_else(|| variable("AWS_REGION"));
            let region = region.or_else(|| variable("AWS_DEFAULT_REGION")).or_else(|| region_of(&peer.host));
            let Some(region) = region else {
                let text = format!("the AWS region of {} is not known", peer.host);
                return Err(Error::new(ErrorKind::Auth, text).with_remedy("set AWS_REGION"));
            };
            let mechanism = AwsMskIam::new(self.keys.keys().await?, region, &*peer.host, USER_AGENT);
            Ok(Box::new(mechanism) as Box<dyn Mechanism>)
        })
    }
}

const USER_AGENT: &str = concat!("milena/", env!("CARGO_PKG_VERSION"));

/// The region in `b-1.name.id.c2.kafka.eu-west-1.amazonaws.com`.
fn region_of(host: &str) -> Option<String> {
    let (before, _) = host.split_once(".amazonaws.")?;
    let mut labels = before.rsplit('.');
    let region = labels.next()?;
    matches!(labels.next()?, "kafka" | "kafka-serverless").then(|| region.to_owned())
}

#[derive(Debug)]
struct MskToken {
    keys: AwsKeySource,
    region: String,
}

impl TokenSource for MskToken {
    fn token(&self) -> BoxFuture<'_, Result<BearerToken>> {
        Box::pin(async move {
            let keys = self.keys.keys().await?;
            let now = SystemTime::now();
            Ok(BearerToken {
                value: aws::bearer_token(&keys, &self.region, USER_AGENT, now),
                expires: now + aws::LIFETIME,
                issued: Some(now),
                extensions: Vec::new(),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_region_is_in_the_name_of_an_msk_broker() {
        assert_eq!(region_of("b-1.a.b.c2.kafka.eu-west-1.amazonaws.com").as_deref(), Some("eu-west-1"));
        assert_eq!(
            region_of("boot-a.c1.kafka-serverless.us-east-2.amazonaws.com").as_deref(),
            Some("us-east-2")
        );
        assert_eq!(region_of("s3.us-east-2.amazonaws.com"), None);
        assert_eq!(region_of("localhost"), None);
    }
}
