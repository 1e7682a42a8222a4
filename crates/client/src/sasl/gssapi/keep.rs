//! The tickets that are kept, and how they come and are replaced.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use milena_core::rng::Rng;
use milena_core::sasl::gssapi::{
    AsExchange, Canonicalize, Credential, Entropy, KdcAddress, KerberosConfig, KerberosError,
    KerberosErrorKind, LoginKey, Outgoing, Principal, Progress, TgsExchange, Timestamp,
};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::dns::Resolver;
use super::{KerberosOptions, entropy, kdc, paths};

type Result<T> = std::result::Result<T, KerberosError>;

/// The most service tickets that are kept: one for each broker of a large cluster.
const MAX_SERVICES: usize = 4096;

/// How many messages one exchange may take: more than the most realms and corrections.
const MAX_MESSAGES: usize = 32;

/// The shortest wait of the renewal in the background.
const LEAST_WAIT: Duration = Duration::from_millis(200);

/// A ticket, and when it is to be replaced.
#[derive(Clone, Debug)]
struct Kept {
    credential: Credential,
    /// When it is to be replaced, by this machine's clock.
    replace_at: Timestamp,
}

impl Kept {
    fn holds(&self, now: Timestamp) -> bool {
        !self.credential.remaining(now).is_zero()
    }
}

#[derive(Debug, Default)]
struct State {
    config: Option<Arc<KerberosConfig>>,
    tgt: Option<Kept>,
    services: HashMap<Principal, Kept>,
    /// Which KDC of a realm answered last.
    answered: HashMap<String, KdcAddress>,
    /// When a log-in failed last, while an older ticket was there.
    failed_at: Option<Instant>,
    renewal: Option<AbortHandle>,
}

/// The tickets of one client. Two locks: `turn` is held through an exchange, by one task at a time; `state` guards plain data.
#[derive(Debug)]
pub(super) struct Keep {
    options: KerberosOptions,
    turn: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

impl Drop for Keep {
    fn drop(&mut self) {
        if let Some(renewal) = self.state().renewal.take() {
            renewal.abort();
        }
    }
}

fn now() -> Timestamp {
    Timestamp::from_system(SystemTime::now())
}

impl Keep {
    pub(super) fn new(options: KerberosOptions) -> Self {
        Self { options, turn: tokio::sync::Mutex::new(()), state: Mutex::default() }
    }

    pub(super) fn options(&self) -> &KerberosOptions {
        &self.options
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A ticket for the service on this host.
    ///
    /// # Cancellation
    /// An exchange with a KDC is given up; the next caller starts it again.
    pub(super) async fn service_ticket(self: &Arc<Self>, host: &str) -> Result<Credential> {
        if let Some(found) = self.fresh_service(host) {
            return Ok(found);
        }
        let _turn = self.turn.lock().await;
        if let Some(found) = self.fresh_service(host) {
            return Ok(found);
        }
        let tgt = self.ticket_granting().await?;
        self.renew_in_background();
        let config = self.config().await?;
        let (service, _) = config.service(&self.options.service_name, host, tgt.client.realm());
        let kept = self.state().services.get(&service).filter(|kept| kept.holds(now())).cloned();
        match self.fetch_by_name(&config, host, tgt).await {
            Ok(credential) => {
                let mut state = self.state();
                if state.services.len() >= MAX_SERVICES {
                    state.services.clear();
                }
                // Under the name that was asked for: a referral may have changed the realm.
                state.services.insert(service, self.kept(credential.clone()));
                Ok(credential)
            }
            Err(error) => match kept {
                Some(kept) => {
                    tracing::warn!(%error, %service, "no new ticket: the old one is used while it holds");
                    Ok(kept.credential)
                }
                None => Err(error),
            },
        }
    }

    fn fresh_service(&self, host: &str) -> Option<Credential> {
        let state = self.state();
        let (config, tgt) = (state.config.as_ref()?, state.tgt.as_ref()?);
        let realm = tgt.credential.client.realm();
        let (service, _) = config.service(&self.options.service_name, host, realm);
        let kept = state.services.get(&service)?;
        (now() < kept.replace_at).then(|| kept.credential.clone())
    }

    /// The ticket was refused: it is not used again.
    pub(super) fn forget(&self, service: &Principal) {
        self.state().services.retain(|_, kept| kept.credential.server != *service);
    }

    /// When a ticket is to be replaced: after a part of its life that differs a little from ticket to ticket.
    fn kept(&self, credential: Credential) -> Kept {
        let mut seed = [0; 8];
        // Without random numbers all clients renew at the same moment, which is no failure.
        let _ = getrandom::fill(&mut seed);
        let spread = self.options.renew_jitter.clamp(0.0, 0.25) * Rng::new(u64::from_le_bytes(seed)).unit();
        let part = (self.options.renew_window_factor.clamp(0.1, 1.0) + spread).min(1.0);
        let life = credential.remaining(now()).as_secs_f64();
        let micros = (life * part * 1e6) as i64;
        Kept { credential, replace_at: now().plus_micros(micros) }
    }

    async fn config(&self) -> Result<Arc<KerberosConfig>> {
        if let Some(config) = &self.state().config {
            return Ok(Arc::clone(config));
        }
        self.read_config().await
    }

    async fn read_config(&self) -> Result<Arc<KerberosConfig>> {
        let config = Arc::new(paths::config(&self.options).await?);
        self.state().config = Some(Arc::clone(&config));
        Ok(config)
    }

    /// The ticket-granting ticket, replaced if it is old. The caller holds `turn`.
    async fn ticket_granting(&self) -> Result<Credential> {
        let kept = self.state().tgt.clone();
        let Some(kept) = kept.filter(|kept| kept.holds(now())) else {
            return self.replace(None).await;
        };
        let resting =
            self.state().failed_at.is_some_and(|at| at.elapsed() < self.options.min_time_before_relogin);
        if now() < kept.replace_at || resting {
            return Ok(kept.credential);
        }
        match self.replace(Some(&kept.credential)).await {
            Ok(credential) => Ok(credential),
            Err(error) => {
                self.state().failed_at = Some(Instant::now());
                tracing::warn!(
                    %error, client = %kept.credential.client, until = %kept.credential.times.end,
                    "no new ticket-granting ticket: the old one is used while it holds"
                );
                Ok(kept.credential)
            }
        }
    }

    /// Gets a new ticket-granting ticket and keeps it.
    async fn replace(&self, old: Option<&Credential>) -> Result<Credential> {
        let config = self.read_config().await?;
        let credential = self.log_in(&config, old).await?;
        tracing::info!(
            client = %credential.client, until = %credential.times.end,
            "Kerberos: logged in"
        );
        let mut state = self.state();
        state.failed_at = None;
        state.tgt = Some(self.kept(credential.clone()));
        Ok(credential)
    }

    /// From the first source that has a ticket.
    async fn log_in(&self, config: &Arc<KerberosConfig>, old: Option<&Credential>) -> Result<Credential> {
        let options = &self.options;
        let mut first = None;
        if options.use_ticket_cache {
            match self.renewed_or_cached(config, old).await {
                Ok(credential) => return Ok(credential),
                Err(error) => first = Some(error),
            }
        }
        let named = match &options.principal {
            Some(name) => Some(Principal::parse(name, config.default_realm.as_deref())?),
            None => None,
        };
        let login = if options.use_keytab {
            let (path, keytab) = paths::keytab(options, config).await?;
            let client = named.or_else(|| keytab.first().cloned()).ok_or_else(|| {
                KerberosError::new(
                    KerberosErrorKind::Keytab,
                    format!("{path}: the keytab has no keys at all"),
                )
            })?;
            let keys: Vec<_> = keytab.keys(&client).into_iter().cloned().collect();
            if keys.is_empty() {
                return Err(keytab.missing(&client).within(&path));
            }
            (client, LoginKey::Keys(keys))
        } else if let Some(password) = &options.password {
            let client = named.ok_or_else(|| {
                KerberosError::new(KerberosErrorKind::Config, "a password without a principal: set principal")
            })?;
            (client, LoginKey::Password(password.clone()))
        } else {
            return Err(first.unwrap_or_else(|| {
                KerberosError::new(
                    KerberosErrorKind::Config,
                    "nothing to log in with: set a keytab, a ticket cache or a password",
                )
            }));
        };
        let (client, login) = login;
        let mut exchange = AsExchange::new(client, login, config.tickets.clone())?;
        let mut entropy = entropy()?;
        // Hashing a password takes milliseconds, and only once: it is not worth another thread.
        let sent = exchange.start(now(), &mut entropy)?;
        self.run(config, sent, entropy, |reply, entropy| exchange.handle_reply(reply, now(), entropy)).await
    }

    /// The cache's ticket if it is good for longer than the old one, else the old one renewed.
    async fn renewed_or_cached(
        &self,
        config: &Arc<KerberosConfig>,
        old: Option<&Credential>,
    ) -> Result<Credential> {
        let cached = self.cached(config).await;
        let fresher = match (&cached, old) {
            (Ok(cached), Some(old)) => cached.times.end > old.times.end,
            (Ok(_), None) => true,
            (Err(_), _) => false,
        };
        let renewable = match (&cached, old) {
            (Ok(cached), _) if fresher => return Ok(cached.clone()),
            (_, Some(old)) => old,
            (Ok(cached), None) => cached,
            (Err(error), None) => return Err(error.clone()),
        };
        if !renewable.is_renewable(now()) {
            return Err(KerberosError::new(
                KerberosErrorKind::Cache,
                format!(
                    "the ticket of {} cannot be renewed beyond {}, and the ticket cache has no newer one: run kinit",
                    renewable.client, renewable.times.end
                ),
            ));
        }
        let mut exchange = TgsExchange::renewal(renewable.clone(), config.tickets.clone())?;
        let mut entropy = entropy()?;
        let sent = exchange.start(now(), &mut entropy)?;
        self.run(config, sent, entropy, |reply, entropy| exchange.handle_reply(reply, now(), entropy)).await
    }

    async fn cached(&self, config: &Arc<KerberosConfig>) -> Result<Credential> {
        let (path, cache) = paths::ticket_cache(&self.options, config).await?;
        if let Some(name) = &self.options.principal {
            let wanted = Principal::parse(name, config.default_realm.as_deref())?;
            if *cache.client() != wanted {
                return Err(KerberosError::new(
                    KerberosErrorKind::Cache,
                    format!("{path}: the ticket cache is of {} and not of {wanted}", cache.client()),
                ));
            }
        }
        cache.ticket_granting(now()).cloned().map_err(|error| error.within(&path))
    }

    /// A ticket for the service on a host, by the name that the configuration wants.
    async fn fetch_by_name(
        &self,
        config: &Arc<KerberosConfig>,
        host: &str,
        tgt: Credential,
    ) -> Result<Credential> {
        match self.options.canonicalize_host.unwrap_or(config.canonicalize_host) {
            Canonicalize::Never => self.fetch_service(config, host, &tgt).await,
            Canonicalize::Always => {
                let canonical = Resolver::of_system().await.canonical(host).await;
                self.fetch_service(config, canonical.as_deref().unwrap_or(host), &tgt).await
            }
            Canonicalize::Fallback => match self.fetch_service(config, host, &tgt).await {
                Err(error) if error.kind() == KerberosErrorKind::UnknownService => {
                    match Resolver::of_system().await.canonical(host).await {
                        Some(canonical) if canonical != host => {
                            self.fetch_service(config, &canonical, &tgt).await
                        }
                        _ => Err(error),
                    }
                }
                other => other,
            },
        }
    }

    async fn fetch_service(
        &self,
        config: &Arc<KerberosConfig>,
        host: &str,
        tgt: &Credential,
    ) -> Result<Credential> {
        let (service, known) = config.service(&self.options.service_name, host, tgt.client.realm());
        let mut exchange = TgsExchange::service(service, known, tgt.clone(), config.tickets.clone())?;
        let mut entropy = entropy()?;
        let sent = exchange.start(now(), &mut entropy)?;
        self.run(config, sent, entropy, |reply, entropy| exchange.handle_reply(reply, now(), entropy)).await
    }

    /// Carries messages between an exchange and the KDCs until there is a ticket.
    async fn run(
        &self,
        config: &KerberosConfig,
        mut sent: Outgoing,
        mut entropy: Entropy,
        mut take: impl FnMut(&[u8], &mut Entropy) -> Result<Progress>,
    ) -> Result<Credential> {
        for _ in 0..MAX_MESSAGES {
            let preferred = self.state().answered.get(&sent.realm).cloned();
            let patience = self.options.kdc_timeout;
            let (reply, by) =
                kdc::ask(config, &sent.realm, &sent.message, preferred.as_ref(), patience).await?;
            self.state().answered.insert(sent.realm, by);
            match take(&reply, &mut entropy)? {
                Progress::Send(next) => sent = next,
                Progress::Done(credential) => return Ok(*credential),
            }
        }
        let text = format!("the KDCs of {} come to no end", sent.realm);
        Err(KerberosError::new(KerberosErrorKind::Peer, text))
    }

    /// Starts the task that replaces the ticket-granting ticket in time, unless it runs.
    fn renew_in_background(self: &Arc<Self>) {
        let mut state = self.state();
        if state.renewal.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        state.renewal = Some(tokio::spawn(renew(Arc::downgrade(self))).abort_handle());
    }
}

/// Replaces the ticket-granting ticket whenever it gets old. Ends with the last user of the tickets.
async fn renew(keep: Weak<Keep>) {
    loop {
        let wait = {
            let Some(keep) = keep.upgrade() else { return };
            let state = keep.state();
            let Some(tgt) = &state.tgt else { return };
            let rest = state.failed_at.map_or(Duration::ZERO, |at| {
                keep.options.min_time_before_relogin.saturating_sub(at.elapsed())
            });
            tgt.replace_at.since(now()).max(rest).max(LEAST_WAIT)
        };
        tokio::time::sleep(wait).await;
        let Some(keep) = keep.upgrade() else { return };
        let _turn = keep.turn.lock().await;
        // What went wrong is logged while the old ticket holds; after that, the next connection tells.
        if let Err(error) = keep.ticket_granting().await {
            tracing::warn!(%error, "Kerberos: the ticket has expired and there is no new one");
            return;
        }
    }
}
