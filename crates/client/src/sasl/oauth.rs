//! OAUTHBEARER: tokens from a source, kept until they get old.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use milena_core::rng::Rng;
use milena_core::sasl::jwt::{self, Claims};
use milena_core::sasl::{self, BearerToken, Mechanism, Secret};
use tokio::sync::Mutex;

use super::{Credentials, Peer};
use crate::error::{Error, ErrorKind, Result};
use crate::transport::BoxFuture;

/// Gives tokens.
pub trait TokenSource: fmt::Debug + Send + Sync {
    /// A token, now. [`OAuthBearer`] keeps it and asks again before it expires.
    ///
    /// # Errors
    /// [`ErrorKind::Auth`](crate::ErrorKind::Auth) when trying again is useless.
    ///
    /// # Cancellation
    /// Dropping the future gives the attempt up.
    fn token(&self) -> BoxFuture<'_, Result<BearerToken>>;
}

/// When a token is replaced, in Java's terms (`sasl.login.refresh.*`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RefreshPolicy {
    /// After which part of its lifetime a new token is asked for. Default 0.8.
    pub window: f64,
    /// How much of its lifetime may be added to that at random. Default 0.05.
    pub jitter: f64,
    /// The least time between two tokens, where their lifetime allows it. Default 60 s.
    pub least: Duration,
    /// How long before its end a token is replaced at the latest, where its lifetime allows it. Default 300 s.
    pub buffer: Duration,
}

impl Default for RefreshPolicy {
    fn default() -> Self {
        Self { window: 0.8, jitter: 0.05, least: Duration::from_secs(60), buffer: Duration::from_secs(300) }
    }
}

/// What is left at least of a token that is used, where its lifetime allows it. A broker lets a connection live as long as its token, and one
/// that could not be authenticated anew in that time would have to be replaced.
const LEFT: Duration = Duration::from_millis(2500);

impl RefreshPolicy {
    /// When a token that came at `now` and expires at `expires` is replaced; `random` is in `[0, 1)`.
    fn refresh_at(&self, now: SystemTime, expires: SystemTime, random: f64) -> SystemTime {
        let lifetime = expires.duration_since(now).unwrap_or(Duration::ZERO);
        let latest = if lifetime < LEFT * 2 { lifetime } else { lifetime - LEFT };
        let window = lifetime.mul_f64((self.window + self.jitter * random).clamp(0.0, 1.0)).min(latest);
        // Both limits hold only where they fit into the lifetime.
        if self.least + self.buffer >= lifetime {
            return now + window;
        }
        now + window.clamp(self.least, lifetime - self.buffer)
    }
}

/// OAUTHBEARER with tokens of a [`TokenSource`]. Connections share the token; one that is due is replaced when a connection is made
/// or authenticates anew. If that fails, the old one is used until it expires, with a warning.
#[derive(Debug)]
pub struct OAuthBearer {
    source: Arc<dyn TokenSource>,
    refresh: RefreshPolicy,
    extensions: Vec<(String, String)>,
    /// Held by the exchange that asks for a token, so that one is asked for at a time.
    kept: Mutex<Option<Kept>>,
}

#[derive(Clone, Debug)]
struct Kept {
    token: BearerToken,
    refresh_at: SystemTime,
}

impl OAuthBearer {
    /// Tokens of this source.
    pub fn new(source: impl TokenSource + 'static) -> Self {
        Self::shared(Arc::new(source))
    }

    /// Tokens of a source that others use too.
    #[must_use]
    pub fn shared(source: Arc<dyn TokenSource>) -> Self {
        Self { source, refresh: RefreshPolicy::default(), extensions: Vec::new(), kept: Mutex::default() }
    }

    /// The same with another policy.
    #[must_use]
    pub fn with_refresh(mut self, refresh: RefreshPolicy) -> Self {
        self.refresh = refresh;
        self
    }

    /// The same with SASL extensions (KIP-342) in addition to the token's.
    #[must_use]
    pub fn with_extensions(mut self, extensions: impl IntoIterator<Item = (String, String)>) -> Self {
        self.extensions = extensions.into_iter().collect();
        self
    }

    async fn token(&self) -> Result<BearerToken> {
        let mut kept = self.kept.lock().await;
        let now = SystemTime::now();
        if let Some(kept) = kept.as_ref().filter(|kept| now < kept.refresh_at) {
            return Ok(kept.token.clone());
        }
        let mut token = match (self.source.token().await, kept.as_ref()) {
            (Ok(token), _) => token,
            (Err(error), Some(old)) if SystemTime::now() < old.token.expires => {
                tracing::warn!(%error, "no new token for OAUTHBEARER; the old one is used until it expires");
                return Ok(old.token.clone());
            }
            (Err(error), _) => return Err(error),
        };
        token.extensions.extend(self.extensions.iter().cloned());
        let random = Rng::new(RandomState::new().hash_one("token")).unit();
        let refresh_at = self.refresh.refresh_at(now, token.expires, random);
        *kept = Some(Kept { token: token.clone(), refresh_at });
        Ok(token)
    }
}

impl Credentials for OAuthBearer {
    fn mechanism(&self) -> &'static str {
        "OAUTHBEARER"
    }

    fn begin<'a>(&'a self, _peer: &'a Peer) -> BoxFuture<'a, Result<Box<dyn Mechanism>>> {
        Box::pin(async move {
            let token = self.token().await?;
            Ok(Box::new(sasl::OAuthBearer::new(token)) as Box<dyn Mechanism>)
        })
    }
}

/// A token without a signature, which Kafka's default validator takes from everyone. For tests.
#[derive(Clone, Debug)]
pub struct UnsecuredToken {
    principal: String,
    lifetime: Duration,
}

impl UnsecuredToken {
    /// Tokens about this principal that live this long.
    pub fn new(principal: impl Into<String>, lifetime: Duration) -> Self {
        Self { principal: principal.into(), lifetime }
    }
}

impl TokenSource for UnsecuredToken {
    fn token(&self) -> BoxFuture<'_, Result<BearerToken>> {
        Box::pin(async move {
            let now = SystemTime::now();
            let value = jwt::unsecured(&self.principal, &[], now, self.lifetime);
            // It counts in whole seconds.
            token_of_text(value.expose_text().unwrap_or_default())
        })
    }
}

/// A token in a file, which someone else keeps fresh: read when one is needed. The token must be a JWT that says when it expires.
#[derive(Clone, Debug)]
pub struct FileToken {
    path: PathBuf,
}

/// The largest token file read, in bytes.
const MAX_FILE: u64 = 1 << 20;

impl FileToken {
    /// The file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }
}

impl TokenSource for FileToken {
    fn token(&self) -> BoxFuture<'_, Result<BearerToken>> {
        Box::pin(async move {
            let path = self.path.clone();
            let read = tokio::task::spawn_blocking(move || read_token(&path));
            let bytes = read.await.map_err(|_| Error::closed("the runtime is stopping"))??;
            let wrong = |why: &str| {
                Error::new(ErrorKind::Auth, format!("no token in {}: {why}", self.path.display()))
            };
            token_of_text(bytes.expose_text().unwrap_or_default()).map_err(|error| wrong(error.message()))
        })
    }
}

/// The content of a file with a token. Blocks.
pub(super) fn read_token(path: &Path) -> Result<Secret> {
    let read = match std::fs::metadata(path).map(|metadata| metadata.len()) {
        Ok(0..=MAX_FILE) => std::fs::read(path),
        Ok(_) => Err(std::io::Error::other("it is too large for a token")),
        Err(error) => Err(error),
    };
    let wrong = |error| Error::new(ErrorKind::Auth, format!("no token in {}: {error}", path.display()));
    read.map(Secret::new).map_err(wrong)
}

/// A JWT as a token.
pub(super) fn token_of_text(text: &str) -> Result<BearerToken> {
    let text = text.trim();
    let claims = Claims::read(text).map_err(|error| Error::new(ErrorKind::Auth, error.to_string()))?;
    let Some(expires) = claims.expires else {
        return Err(Error::new(ErrorKind::Auth, "the token does not say when it expires"));
    };
    Ok(BearerToken { value: text.into(), expires, issued: claims.issued, extensions: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn a_token_is_replaced_in_its_window_and_within_the_limits() {
        let policy = RefreshPolicy::default();
        let now = SystemTime::UNIX_EPOCH;
        let at = |lifetime, random| {
            let at = policy.refresh_at(now, now + Duration::from_secs(lifetime), random);
            at.duration_since(now).unwrap().as_secs()
        };
        assert_eq!((at(3600, 0.0), at(3600, 1.0)), (2880, 3060));
        assert_eq!(at(1000, 0.0), 700, "300 s are left");
        assert_eq!(at(100, 0.0), 80, "limits that do not fit are left out");
        assert_eq!(
            (at(10, 0.0), at(6, 1.0)),
            (7, 3),
            "enough is left for an authentication on the open connection"
        );
        assert_eq!((at(4, 0.0), at(0, 0.5)), (3, 0));
    }

    #[derive(Debug)]
    struct Counting(AtomicUsize, Duration);

    impl TokenSource for Counting {
        fn token(&self) -> BoxFuture<'_, Result<BearerToken>> {
            Box::pin(async move {
                if self.0.fetch_add(1, Ordering::SeqCst) > 0 {
                    return Err(Error::new(ErrorKind::Io, "down"));
                }
                UnsecuredToken::new("a", self.1).token().await
            })
        }
    }

    #[tokio::test]
    async fn a_token_that_cannot_be_replaced_is_used_until_its_end() {
        let source = Arc::new(Counting(AtomicUsize::new(0), Duration::from_secs(3)));
        let oauth = OAuthBearer::shared(Arc::clone(&source) as Arc<dyn TokenSource>);
        let first = oauth.token().await.unwrap();
        assert_eq!(oauth.token().await.unwrap(), first);
        assert_eq!(source.0.load(Ordering::SeqCst), 1, "a fresh token is kept");
        // The window is over and the token is not.
        oauth.kept.lock().await.as_mut().unwrap().refresh_at = SystemTime::UNIX_EPOCH;
        assert_eq!(oauth.token().await.unwrap(), first);
        assert_eq!(source.0.load(Ordering::SeqCst), 2, "an old one is to be replaced");
        oauth.kept.lock().await.as_mut().unwrap().token.expires = SystemTime::UNIX_EPOCH;
        assert_eq!(oauth.token().await.unwrap_err().message(), "down");
    }
}
