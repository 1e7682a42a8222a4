//! `sasl.*` and JAAS.

use std::sync::Arc;
use std::time::Duration;

use milena_core::sasl::{JaasEntry, ScramHash, ScramPassword, Secret};

use super::{SecurityProperties, names, ssl_properties};
use crate::error::{Error, ErrorKind, Result};
use crate::sasl::{
    Assertion, AwsKeySource, Credentials, FileToken, Kerberos, KerberosOptions, Krb5LoginModule, MskIam,
    OAuthBearer, Oidc, OidcGrant, Plain, RefreshPolicy, Scram, SignedAssertion, TokenSource, UnsecuredToken,
};
use crate::tls::TlsConfig;

/// The largest JAAS file read, in bytes.
const MAX_FILE: u64 = 1 << 20;

pub(super) fn credentials(properties: &SecurityProperties) -> Result<Arc<dyn Credentials>> {
    let mechanism = properties.text("sasl.mechanism").or_else(|| properties.text("sasl.mechanisms"));
    let mechanism = mechanism.unwrap_or("GSSAPI").to_ascii_uppercase();
    let entry = entry(properties)?;
    let entry = entry.as_ref();
    check_classes(properties)?;
    match mechanism.as_str() {
        "PLAIN" => {
            let (user, password) = user(properties, entry, "PlainLoginModule")?;
            Ok(Arc::new(Plain::new(user, password)))
        }
        "SCRAM-SHA-256" | "SCRAM-SHA-512" => {
            let hash = if mechanism.ends_with("256") { ScramHash::Sha256 } else { ScramHash::Sha512 };
            let (user, password) = user(properties, entry, "ScramLoginModule")?;
            let is_token = entry.and_then(|entry| entry.text("tokenauth")) == Some("true");
            let password = match is_token {
                true => ScramPassword::delegation_token(user, password),
                false => ScramPassword::new(user, password),
            };
            Ok(Arc::new(Scram::new(hash, password)))
        }
        "GSSAPI" => kerberos(properties, entry),
        "OAUTHBEARER" => oauth(properties, entry),
        "AWS_MSK_IAM" => {
            check_module(entry, "IAMLoginModule")?;
            Ok(Arc::new(MskIam::mechanism(AwsKeySource::Environment)))
        }
        other => Err(Error::new(
            ErrorKind::Unsupported,
            format!("the SASL mechanism {other} is not known here"),
        )
        .with_remedy(
            "use GSSAPI, PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER or AWS_MSK_IAM (sasl.mechanism)",
        )),
    }
}

/// The login module of the client, from `sasl.jaas.config` or from the file.
fn entry(properties: &SecurityProperties) -> Result<Option<JaasEntry>> {
    let wrong = |error: milena_core::sasl::SaslError| {
        let remedy = error.remedy.clone();
        let own = Error::misuse(format!("sasl.jaas.config: {}", error.message));
        match remedy {
            Some(remedy) => own.with_remedy(remedy),
            None => own,
        }
    };
    if let Some(text) = properties.get("sasl.jaas.config") {
        let text = text.expose_text().unwrap_or_default();
        return JaasEntry::parse(text).map(Some).map_err(wrong);
    }
    let Some(path) = properties.text("java.security.auth.login.config") else { return Ok(None) };
    let path = path.strip_prefix("file:").unwrap_or(path);
    let unreadable = |error: std::io::Error| Error::misuse(format!("cannot read {path}: {error}"));
    if std::fs::metadata(path).map_err(unreadable)?.len() > MAX_FILE {
        return Err(Error::misuse(format!("{path} is too large for a JAAS file")));
    }
    let text = zeroize::Zeroizing::new(std::fs::read_to_string(path).map_err(unreadable)?);
    let contexts = JaasEntry::parse_file(&text).map_err(wrong)?;
    let client = contexts.get("KafkaClient").and_then(|entries| entries.first());
    client.cloned().map(Some).ok_or_else(|| {
        let names: Vec<&str> = contexts.keys().map(String::as_str).collect();
        Error::misuse(format!("{path} has no KafkaClient context; it has {}", names.join(", ")))
    })
}

/// Java's classes whose work is done here.
const CLASSES: [&str; 15] = [
    "BrokerJwtValidator",
    "ClientCredentialsJwtRetriever",
    "ClientJwtValidator",
    "DefaultJwtRetriever",
    "DefaultJwtValidator",
    "DefaultLogin",
    "FileJwtRetriever",
    "IAMClientCallbackHandler",
    "JwtBearerJwtRetriever",
    "KerberosLogin",
    "OAuthBearerLoginCallbackHandler",
    "OAuthBearerRefreshingLogin",
    "OAuthBearerSaslClientCallbackHandler",
    "OAuthBearerUnsecuredLoginCallbackHandler",
    "SaslClientCallbackHandler",
];

/// What is taken and changes nothing: tickets are renewed without a program, connections (and with them, tokens) are tried again by
/// `retry.backoff.ms`, and whether a token is good is the broker's to judge.
const MEANINGLESS: [&str; 12] = [
    "sasl.kerberos.kinit.cmd",
    "sasl.login.retry.backoff.max.ms",
    "sasl.login.retry.backoff.ms",
    "sasl.oauthbearer.clock.skew.seconds",
    "sasl.oauthbearer.expected.audience",
    "sasl.oauthbearer.expected.issuer",
    "sasl.oauthbearer.jwks.endpoint.refresh.ms",
    "sasl.oauthbearer.jwks.endpoint.retry.backoff.max.ms",
    "sasl.oauthbearer.jwks.endpoint.retry.backoff.ms",
    "sasl.oauthbearer.jwks.endpoint.url",
    "sasl.oauthbearer.scope.claim.name",
    "sasl.oauthbearer.sub.claim.name",
];

fn check_classes(properties: &SecurityProperties) -> Result<()> {
    let names = [
        "sasl.client.callback.handler.class",
        "sasl.login.callback.handler.class",
        "sasl.login.class",
        "sasl.oauthbearer.jwt.retriever.class",
        "sasl.oauthbearer.jwt.validator.class",
    ];
    for name in names {
        let Some(class) = properties.text(name).filter(|class| !class.is_empty()) else { continue };
        if !CLASSES.contains(&class.rsplit('.').next().unwrap_or(class)) {
            return Err(Error::misuse(format!("{name} names {class}, a class of Java that is not here"))
                .with_remedy("leave it out; a program passes Credentials or a TokenSource of its own"));
        }
    }
    for name in MEANINGLESS {
        if properties.get(name).is_some() {
            tracing::info!(name, "this setting means nothing here and is ignored");
        }
    }
    Ok(())
}

fn check_module(entry: Option<&JaasEntry>, module: &str) -> Result<()> {
    match entry {
        Some(entry) if entry.short_module() != module => Err(Error::misuse(format!(
            "sasl.jaas.config names {}, and sasl.mechanism wants a {module}",
            entry.module
        ))),
        _ => Ok(()),
    }
}

/// The user and the password of the module, or of librdkafka's names.
fn user(
    properties: &SecurityProperties,
    entry: Option<&JaasEntry>,
    module: &str,
) -> Result<(String, Secret)> {
    check_module(entry, module)?;
    let of = |option: &str, name: &str| {
        let value = entry.and_then(|entry| entry.options.get(option)).or_else(|| properties.get(name));
        value.cloned().ok_or_else(|| {
            Error::misuse(format!("there is no {option} for the authentication")).with_remedy(format!(
                "set sasl.jaas.config to: org.apache.kafka.common.security.{}.{module} required username=\"..\" password=\"..\";",
                if module.starts_with("Plain") { "plain" } else { "scram" }
            ))
        })
    };
    let user = of("username", "sasl.username")?;
    let user = user.expose_text().unwrap_or_default().to_owned();
    Ok((user, of("password", "sasl.password")?))
}

fn kerberos(properties: &SecurityProperties, entry: Option<&JaasEntry>) -> Result<Arc<dyn Credentials>> {
    const NAMES: [&str; 5] = [
        "sasl.kerberos.kinit.cmd",
        "sasl.kerberos.min.time.before.relogin",
        "sasl.kerberos.service.name",
        "sasl.kerberos.ticket.renew.jitter",
        "sasl.kerberos.ticket.renew.window.factor",
    ];
    check_module(entry, "Krb5LoginModule")?;
    let Some(entry) = entry else {
        return Err(Error::misuse("there is no login module for GSSAPI").with_remedy(
            "set sasl.jaas.config to: com.sun.security.auth.module.Krb5LoginModule required useKeyTab=true keyTab=\"..\" \
             principal=\"..\";",
        ));
    };
    let texts = entry.options.iter().filter_map(|(name, value)| Some((name.as_str(), value.expose_text()?)));
    let (module, unknown) = Krb5LoginModule::from_options(texts)?;
    for name in unknown {
        tracing::warn!(%name, "sasl.jaas.config: an option of Krb5LoginModule that is not known is ignored");
    }
    let settings = NAMES.iter().filter_map(|name| Some((*name, properties.text(name)?)));
    let (options, _) = KerberosOptions::from_properties(&module, settings)?;
    Ok(Arc::new(Kerberos::new(options)))
}

fn oauth(properties: &SecurityProperties, entry: Option<&JaasEntry>) -> Result<Arc<dyn Credentials>> {
    check_module(entry, "OAuthBearerLoginModule")?;
    let option = |name: &str| entry.and_then(|entry| entry.options.get(name)).cloned();
    let option_text = |name: &str| entry.and_then(|entry| entry.text(name));
    let url = properties.text("sasl.oauthbearer.token.endpoint.url");
    let source: Arc<dyn TokenSource> = match url {
        Some(url) if url.starts_with("file:") => {
            let path = url.strip_prefix("file://").or_else(|| url.strip_prefix("file:")).unwrap_or(url);
            Arc::new(FileToken::new(path))
        }
        Some(url) => {
            // The endpoint's TLS is that of `ssl.*`, whatever the brokers speak; in Java the login module says it.
            let mut own = properties.clone();
            for (name, value) in entry.into_iter().flat_map(|entry| &entry.options) {
                if let Some(name) = name.starts_with("ssl.").then(|| names::security(name)).flatten() {
                    own.0.insert(name, value.clone());
                }
            }
            Arc::new(oidc(properties, url, option, ssl_properties::tls(&own)?)?)
        }
        None => {
            let subject = option_text("unsecuredLoginStringClaim_sub").ok_or_else(|| {
                Error::misuse("OAUTHBEARER has nowhere to get a token from").with_remedy(
                    "set sasl.oauthbearer.token.endpoint.url, or pass a TokenSource; for tests, \
                     unsecuredLoginStringClaim_sub in sasl.jaas.config",
                )
            })?;
            let lifetime = option_text("unsecuredLoginLifetimeSeconds").unwrap_or("3600");
            let lifetime = lifetime
                .parse()
                .map_err(|_| Error::misuse("unsecuredLoginLifetimeSeconds is no number of seconds"))?;
            Arc::new(UnsecuredToken::new(subject, Duration::from_secs(lifetime)))
        }
    };
    let extensions = entry.into_iter().flat_map(|entry| &entry.options).filter_map(|(name, value)| {
        Some((name.strip_prefix("extension_")?.to_owned(), value.expose_text()?.to_owned()))
    });
    Ok(Arc::new(OAuthBearer::shared(source).with_refresh(refresh(properties)?).with_extensions(extensions)))
}

fn refresh(properties: &SecurityProperties) -> Result<RefreshPolicy> {
    let default = RefreshPolicy::default();
    let seconds = |name, default: Duration| {
        properties.number(name, default.as_secs_f64()).map(|number| Duration::from_secs_f64(number.min(1e9)))
    };
    Ok(RefreshPolicy {
        window: properties.number("sasl.login.refresh.window.factor", default.window)?.clamp(0.5, 1.0),
        jitter: properties.number("sasl.login.refresh.window.jitter", default.jitter)?.clamp(0.0, 0.25),
        least: seconds("sasl.login.refresh.min.period.seconds", default.least)?,
        buffer: seconds("sasl.login.refresh.buffer.seconds", default.buffer)?,
    })
}

fn oidc(
    properties: &SecurityProperties,
    url: &str,
    option: impl Fn(&str) -> Option<Secret>,
    tls: TlsConfig,
) -> Result<Oidc> {
    let text = |secret: Secret| secret.expose_text().unwrap_or_default().to_owned();
    let named = |name: &str| properties.get(name).cloned();
    let scope = named("sasl.oauthbearer.scope").or_else(|| option("scope")).map(text);
    let id = || named("sasl.oauthbearer.client.credentials.client.id").or_else(|| option("clientId"));
    let has = |name: &str| properties.text(name).is_some_and(|value| !value.is_empty());
    let grant = match retriever(properties) {
        Some("FileJwtRetriever") => {
            return Err(Error::misuse(format!(
                "FileJwtRetriever reads a token from a file, and sasl.oauthbearer.token.endpoint.url is {url}"
            ))
            .with_remedy("set sasl.oauthbearer.token.endpoint.url to file: and its path"));
        }
        Some("JwtBearerJwtRetriever") => {
            OidcGrant::JwtBearer(assertion(properties, "JwtBearerJwtRetriever")?)
        }
        // As Java chooses: the issuer alone tells that assertions are signed here.
        _ if has("sasl.oauthbearer.assertion.file") || has("sasl.oauthbearer.assertion.claim.iss") => {
            OidcGrant::ClientAssertion {
                id: id().map(text),
                assertion: assertion(properties, "sasl.oauthbearer.assertion.claim.iss")?,
            }
        }
        _ => {
            let secret =
                named("sasl.oauthbearer.client.credentials.client.secret").or_else(|| option("clientSecret"));
            let (Some(id), Some(secret)) = (id(), secret) else {
                return Err(Error::misuse("there is no clientId and clientSecret for the token endpoint")
                    .with_remedy(
                        "put them into sasl.jaas.config (OAuthBearerLoginModule), or set sasl.oauthbearer.assertion.file, or \
                         sasl.oauthbearer.assertion.claim.iss and sasl.oauthbearer.assertion.private.key.file",
                    ));
            };
            let url_encode = properties.flag("sasl.oauthbearer.header.urlencode")?;
            OidcGrant::ClientCredentials { id: text(id), secret, url_encode }
        }
    };
    let millis = |name: &str| {
        properties
            .number(name, 10_000.0)
            .map(|millis| Duration::from_secs_f64(millis.clamp(1.0, 1e7) / 1000.0))
    };
    let connect = millis("sasl.login.connect.timeout.ms")?;
    let whole = connect + millis("sasl.login.read.timeout.ms")?;
    let source = Oidc::new(url, grant, scope, tls, whole).map_err(|error| {
        Error::misuse(format!("sasl.oauthbearer.token.endpoint.url: {}", error.message()))
    })?;
    Ok(source.with_connect_timeout(connect))
}

/// The short name of Java's class that gets tokens, if one is named.
fn retriever(properties: &SecurityProperties) -> Option<&str> {
    let class = properties.text("sasl.oauthbearer.jwt.retriever.class")?;
    Some(class.rsplit('.').next().unwrap_or(class))
}

/// `sasl.oauthbearer.assertion.*`, which `wanted_by` wants.
fn assertion(properties: &SecurityProperties, wanted_by: &str) -> Result<Assertion> {
    if let Some(file) = properties.text("sasl.oauthbearer.assertion.file") {
        return Ok(Assertion::File(file.into()));
    }
    let Some(key_file) = properties.text("sasl.oauthbearer.assertion.private.key.file") else {
        let text =
            format!("{wanted_by} wants an assertion, and there is neither one nor a key to sign it with");
        return Err(Error::misuse(text).with_remedy(
            "set sasl.oauthbearer.assertion.file or sasl.oauthbearer.assertion.private.key.file",
        ));
    };
    let default = SignedAssertion::new(key_file);
    let claim =
        |name: &str| properties.text(&format!("sasl.oauthbearer.assertion.claim.{name}")).map(str::to_owned);
    let seconds = |name: &str, default: Duration| {
        let number = properties.number(name, default.as_secs_f64())?;
        Ok::<_, Error>(Duration::from_secs_f64(number.min(1e6)))
    };
    let algorithm = properties.text("sasl.oauthbearer.assertion.algorithm").unwrap_or(&default.algorithm);
    if !["RS256", "ES256"].contains(&algorithm) {
        return Err(Error::misuse(format!("sasl.oauthbearer.assertion.algorithm is {algorithm:?}"))
            .with_remedy("use RS256 or ES256"));
    }
    Ok(Assertion::Signed(SignedAssertion {
        key_password: properties.get("sasl.oauthbearer.assertion.private.key.passphrase").cloned(),
        algorithm: algorithm.to_owned(),
        issuer: claim("iss"),
        subject: claim("sub"),
        audience: claim("aud"),
        lifetime: seconds("sasl.oauthbearer.assertion.claim.exp.seconds", default.lifetime)?,
        backdated: seconds("sasl.oauthbearer.assertion.claim.nbf.seconds", default.backdated)?,
        with_id: properties.flag("sasl.oauthbearer.assertion.claim.jti.include")?,
        template: properties.text("sasl.oauthbearer.assertion.template.file").map(Into::into),
        ..default
    }))
}
