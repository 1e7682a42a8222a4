//! What a client is told at its start.

use std::sync::Arc;
use std::time::Duration;

use milena_core::retry::Backoff;
use milena_protocol::frame;
use milena_protocol::versions::BrokerVersions;

use crate::error::{Error, Result};
use crate::sasl::Credentials;
use crate::security::SecurityProperties;
use crate::tls::{TlsConfig, TlsDialer};
use crate::transport::{Dial, TcpDialer};

/// The settings of a [`Client`](crate::Client). All fields have defaults but the bootstrap addresses.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Addresses to start from, `host:port` (`[::1]:9092` for IPv6). One live address of a cluster is enough.
    /// No default. Kafka: `bootstrap.servers`.
    pub bootstrap: Vec<String>,
    /// The name brokers log and apply quotas by. Default `milena`. Kafka: `client.id`.
    pub client_id: String,
    /// How long making one connection may take, name look-up and handshake included. Default 10 s.
    /// Kafka: `socket.connection.setup.timeout.ms`.
    pub connect_timeout: Duration,
    /// How long a broker may take to answer one request before its connection is closed. Default 30 s.
    /// Kafka: `request.timeout.ms`.
    pub request_timeout: Duration,
    /// How long a whole call may take, retries included. Default 60 s. Kafka: `default.api.timeout.ms`.
    pub api_timeout: Duration,
    /// How old cached topology may get before it is asked again without a reason. Default 5 min.
    /// Kafka: `metadata.max.age.ms`.
    pub metadata_max_age: Duration,
    /// The waits between tries and between reconnections. Default 100 ms doubling to 1 s, 20 % jitter.
    /// Kafka: `retry.backoff.ms`, `retry.backoff.max.ms`.
    pub backoff: Backoff,
    /// How many requests wait for their answers on one connection; more wait their turn. Default 16, at least 1.
    pub max_in_flight: usize,
    /// The largest answer taken, in bytes; a larger one closes the connection. Default 100 MiB.
    pub max_frame: usize,
    /// How long an unused connection stays open. Default 9 min, just under the broker's 10.
    /// Kafka: `connections.max.idle.ms`.
    pub idle: Duration,
    /// Whether asking for an absent topic by name may create it, when the broker allows that. Default `false`. Brokers before 0.11
    /// create every topic that is asked for by name: with `false` they are asked for all topics, which costs more on a cluster with
    /// many; with `true` topics can be made on brokers before 0.10.1, which have no other way. Kafka: `allow.auto.create.topics`.
    pub auto_create_topics: bool,
    /// Which Kafka the brokers are, such as `"0.9.0"`: then they are not asked (ApiVersions), and versions of requests are those of that
    /// release. `None`, the default, asks; brokers before 0.10 cannot answer, and what they are is then found out once an address,
    /// which takes up to a third of `connect_timeout` on 0.9. Needed only where that is too long. The brokers must be that release or a
    /// later one that still speaks its versions; what came after that release (idempotence, headers, read_committed) is then not used,
    /// whatever the brokers can. librdkafka: `api.version.request=false` with `broker.version.fallback`.
    pub broker_version: Option<String>,
    /// What a broker is taken for that does not know ApiVersions, such as `"0.8.2"`. `None`, the default, judges by how it fails: 0.8
    /// closes the connection, 0.9 does not answer. librdkafka: `broker.version.fallback`.
    pub broker_version_fallback: Option<String>,
    /// What jitter, the order of bootstrap addresses and the choice of partitions are drawn from. Default `None`: drawn at the start. For
    /// simulations that shall happen again.
    pub seed: Option<u64>,
    /// How connections are made; `None` is plain TCP. TLS runs over it.
    pub dialer: Option<Arc<dyn Dial>>,
    /// TLS to the brokers; `None`, the default, is none. Kafka: `security.protocol` of `SSL` or `SASL_SSL`, `ssl.*`.
    pub tls: Option<TlsConfig>,
    /// Who we are to the brokers; `None`, the default, is nobody in particular. Kafka: `security.protocol` of `SASL_PLAINTEXT` or
    /// `SASL_SSL`, `sasl.*`.
    pub sasl: Option<Arc<dyn Credentials>>,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            bootstrap: Vec::new(),
            client_id: "milena".to_owned(),
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            api_timeout: Duration::from_secs(60),
            metadata_max_age: Duration::from_secs(300),
            backoff: Backoff::default(),
            max_in_flight: 16,
            max_frame: frame::DEFAULT_MAX,
            idle: Duration::from_secs(540),
            auto_create_topics: false,
            broker_version: None,
            broker_version_fallback: None,
            seed: None,
            dialer: None,
            tls: None,
            sasl: None,
        }
    }
}

impl From<&str> for ClientConfig {
    /// From `"a:9092,b:9092"`.
    fn from(bootstrap: &str) -> Self {
        Self::new(bootstrap.split(',').map(str::trim).filter(|address| !address.is_empty()))
    }
}

impl From<String> for ClientConfig {
    fn from(bootstrap: String) -> Self {
        Self::from(bootstrap.as_str())
    }
}

impl ClientConfig {
    /// The defaults with these bootstrap addresses.
    pub fn new(bootstrap: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { bootstrap: bootstrap.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// The same with another client id.
    #[must_use]
    pub fn with_client_id(mut self, client_id: impl Into<String>) -> Self {
        self.client_id = client_id.into();
        self
    }

    /// The same with another dialer.
    #[must_use]
    pub fn with_dialer(mut self, dialer: Arc<dyn Dial>) -> Self {
        self.dialer = Some(dialer);
        self
    }

    /// The same over TLS.
    #[must_use]
    pub fn with_tls(mut self, tls: TlsConfig) -> Self {
        self.tls = Some(tls);
        self
    }

    /// The same with credentials.
    #[must_use]
    pub fn with_sasl(mut self, credentials: impl Credentials + 'static) -> Self {
        self.sasl = Some(Arc::new(credentials));
        self
    }

    /// The same with another time for whole calls.
    #[must_use]
    pub fn with_api_timeout(mut self, timeout: Duration) -> Self {
        self.api_timeout = timeout;
        self
    }

    /// The same with another time for single requests.
    #[must_use]
    pub fn with_request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// The same with brokers of a known release, see [`broker_version`](Self::broker_version).
    #[must_use]
    pub fn with_broker_version(mut self, release: impl Into<String>) -> Self {
        self.broker_version = Some(release.into());
        self
    }

    /// Checks every setting; the error names the first that is wrong and its range.
    pub fn validate(&self) -> Result<()> {
        if self.bootstrap.is_empty() {
            return Err(
                Error::misuse("no bootstrap address").with_remedy("set bootstrap to host:port of a broker")
            );
        }
        for address in &self.bootstrap {
            parse_address(address)?;
        }
        let positive = [
            ("connect_timeout", self.connect_timeout),
            ("request_timeout", self.request_timeout),
            ("api_timeout", self.api_timeout),
            ("metadata_max_age", self.metadata_max_age),
            ("idle", self.idle),
            ("backoff.initial", self.backoff.initial),
        ];
        for (name, value) in positive {
            // Half an i32 of milliseconds: the wire's largest wait, with room to add to it.
            if value < Duration::from_millis(1) || value > Duration::from_millis(i32::MAX as u64 / 2) {
                return Err(Error::misuse(format!("{name} is {value:?}; it must be from 1 ms to 12 days")));
            }
        }
        if self.backoff.max < self.backoff.initial {
            return Err(Error::misuse("backoff.max is below backoff.initial"));
        }
        if self.backoff.multiplier.is_nan() || self.backoff.multiplier < 1.0 {
            return Err(Error::misuse("backoff.multiplier must be at least 1"));
        }
        if !(0.0..=1.0).contains(&self.backoff.jitter) {
            return Err(Error::misuse("backoff.jitter must be from 0 to 1"));
        }
        if self.max_in_flight == 0 {
            return Err(Error::misuse("max_in_flight must be at least 1"));
        }
        if self.max_frame < 1024 || self.max_frame > i32::MAX as usize {
            return Err(Error::misuse("max_frame must be from 1 KiB to 2 GiB"));
        }
        if self.client_id.len() > i16::MAX as usize {
            return Err(Error::misuse("client_id must be shorter than 32 KiB"));
        }
        for (name, release) in [
            ("broker_version", &self.broker_version),
            ("broker_version_fallback", &self.broker_version_fallback),
        ] {
            if let Some(release) =
                release.as_deref().filter(|release| BrokerVersions::of_release(release).is_none())
            {
                return Err(Error::misuse(format!("{name} is {release:?}, which is no release of Kafka"))
                    .with_remedy("use one such as 0.8.2, 0.9.0, 0.10.2 or 2.8"));
            }
        }
        Ok(())
    }

    /// The versions of brokers that are not to be asked.
    pub(crate) fn pinned_versions(&self) -> Option<BrokerVersions> {
        self.broker_version.as_deref().and_then(BrokerVersions::of_release)
    }

    /// The versions of brokers that do not know ApiVersions, if the user says which those are.
    pub(crate) fn fallback_versions(&self) -> Option<BrokerVersions> {
        self.broker_version_fallback.as_deref().and_then(BrokerVersions::of_release)
    }

    /// Reads settings by the names Kafka's Java clients use, and librdkafka's `api.version.request` and `broker.version.fallback`. Returns the configuration and the names it did not
    /// know, which may belong to a producer or a job.
    ///
    /// # Errors
    /// [`ErrorKind::Misuse`](crate::ErrorKind::Misuse) for a value that cannot be read.
    pub fn from_properties<K, V>(properties: impl IntoIterator<Item = (K, V)>) -> Result<(Self, Vec<String>)>
    where
        K: AsRef<str>,
        V: AsRef<str>,
    {
        let mut config = Self::default();
        let mut unknown = Vec::new();
        let mut asks = true;
        let mut security = SecurityProperties::default();
        for (name, value) in properties {
            let (name, value) = (name.as_ref(), value.as_ref().trim());
            match name {
                "bootstrap.servers" => config.bootstrap = Self::from(value).bootstrap,
                "client.id" => config.client_id = value.to_owned(),
                "request.timeout.ms" => config.request_timeout = millis(name, value)?,
                "default.api.timeout.ms" => config.api_timeout = millis(name, value)?,
                "socket.connection.setup.timeout.ms" => config.connect_timeout = millis(name, value)?,
                "metadata.max.age.ms" => config.metadata_max_age = millis(name, value)?,
                "retry.backoff.ms" => config.backoff.initial = millis(name, value)?,
                "retry.backoff.max.ms" => config.backoff.max = millis(name, value)?,
                "connections.max.idle.ms" => config.idle = millis(name, value)?,
                "allow.auto.create.topics" => {
                    config.auto_create_topics = value.parse().map_err(|_| {
                        Error::misuse(format!("{name} is {value:?}; it must be true or false"))
                    })?;
                }
                "api.version.request" => {
                    asks = value.parse().map_err(|_| {
                        Error::misuse(format!("{name} is {value:?}; it must be true or false"))
                    })?;
                }
                "config.providers" if !value.is_empty() => {
                    return Err(Error::misuse("config.providers names classes of Java that fill values in")
                        .with_remedy("leave it out, and write the values themselves"));
                }
                "broker.version.fallback" => config.broker_version_fallback = Some(value.to_owned()),
                _ if security.take(name, value) => {}
                _ => unknown.push(name.to_owned()),
            }
        }
        if !asks {
            config.broker_version = config.broker_version_fallback.take();
            if config.broker_version.is_none() {
                return Err(Error::misuse(
                    "api.version.request is false and broker.version.fallback is not set",
                )
                .with_remedy("set broker.version.fallback to the brokers' release, such as 0.9.0"));
            }
        }
        security.apply(&mut config)?;
        config.backoff.max = config.backoff.max.max(config.backoff.initial);
        config.validate()?;
        Ok((config, unknown))
    }

    /// How connections are made, TLS included.
    pub(crate) fn dialer(&self) -> Arc<dyn Dial> {
        match &self.tls {
            Some(tls) => Arc::new(TlsDialer::new(tls.clone(), self.plain_dialer())),
            None => self.plain_dialer(),
        }
    }

    /// What TLS runs over.
    pub(crate) fn plain_dialer(&self) -> Arc<dyn Dial> {
        self.dialer.clone().unwrap_or_else(|| Arc::new(TcpDialer))
    }
}

fn millis(name: &str, value: &str) -> Result<Duration> {
    let number: u64 = value
        .parse()
        .map_err(|_| Error::misuse(format!("{name} is {value:?}; it must be a number of milliseconds")))?;
    Ok(Duration::from_millis(number))
}

/// Splits `host:port`; the host may be an IPv6 address in brackets.
pub(crate) fn parse_address(address: &str) -> Result<(Arc<str>, u16)> {
    let wrong =
        || Error::misuse(format!("bootstrap address {address:?} is not host:port, such as localhost:9092"));
    // Java accepts PLAINTEXT://host:port as well.
    let plain = address.strip_prefix("PLAINTEXT://").unwrap_or(address);
    let (host, port) = plain.rsplit_once(':').ok_or_else(wrong)?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let port: u16 = port.parse().map_err(|_| wrong())?;
    if host.is_empty() || port == 0 || host.contains('/') {
        return Err(wrong());
    }
    Ok((Arc::from(host), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_with_ipv6_and_without_nonsense() {
        assert_eq!(parse_address("a:9092").unwrap(), (Arc::from("a"), 9092));
        assert_eq!(parse_address("[::1]:9092").unwrap(), (Arc::from("::1"), 9092));
        for wrong in ["a", ":9092", "a:", "a:0", "a:70000", "http://a:80/x", ""] {
            assert!(parse_address(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn java_names_are_read_and_unknown_ones_reported() {
        let (config, unknown) = ClientConfig::from_properties([
            ("bootstrap.servers", "a:1, b:2"),
            ("client.id", "me"),
            ("request.timeout.ms", "1500"),
            ("retry.backoff.ms", "5000"),
            ("security.protocol", "PLAINTEXT"),
            ("acks", "all"),
        ])
        .unwrap();
        assert_eq!(config.bootstrap, ["a:1", "b:2"]);
        assert_eq!(config.client_id, "me");
        assert_eq!(config.request_timeout, Duration::from_millis(1500));
        assert_eq!(config.backoff.max, Duration::from_secs(5));
        assert_eq!(unknown, ["acks"]);
    }

    #[test]
    fn a_pin_is_read_by_librdkafka_s_names_and_must_be_a_release() {
        let read = |properties: &[(&str, &str)]| {
            let all = [("bootstrap.servers", "a:1")].iter().chain(properties).copied().collect::<Vec<_>>();
            ClientConfig::from_properties(all).map(|(config, _)| config)
        };
        let config = read(&[("broker.version.fallback", "0.8.2.2")]).unwrap();
        assert_eq!((config.broker_version.as_deref(), config.pinned_versions()), (None, None));
        assert_eq!(config.fallback_versions(), Some(BrokerVersions::assumed_without_groups()));
        let config = read(&[("api.version.request", "false"), ("broker.version.fallback", "0.9.0")]).unwrap();
        assert_eq!(config.broker_version.as_deref(), Some("0.9.0"));
        assert_eq!(config.pinned_versions(), Some(BrokerVersions::assumed_pre_apiversions()));
        assert!(read(&[("api.version.request", "false")]).is_err());
        let error = read(&[("broker.version.fallback", "0.7")]).unwrap_err();
        assert!(error.to_string().contains("0.7"), "{error}");
    }

    #[test]
    fn security_by_property_is_read_and_its_mistakes_are_told() {
        let read = |properties: &[(&str, &str)]| {
            let all = [("bootstrap.servers", "a:1")].iter().chain(properties).copied().collect::<Vec<_>>();
            ClientConfig::from_properties(all).map(|(config, _)| config)
        };
        let jaas = "a.PlainLoginModule required username=\"u\" password=\"geheim\";";
        let config = read(&[
            ("security.protocol", "sasl_ssl"),
            ("sasl.mechanism", "PLAIN"),
            ("sasl.jaas.config", jaas),
            ("ssl.endpoint.identification.algorithm", ""),
        ])
        .unwrap();
        assert_eq!(config.sasl.as_ref().unwrap().mechanism(), "PLAIN");
        assert!(!config.tls.as_ref().unwrap().verify_host_name);
        assert!(!format!("{config:?}").contains("geheim"));
        for (properties, told) in [
            (&[("security.protocol", "TLS")][..], "security.protocol is \"TLS\""),
            (
                &[
                    ("security.protocol", "SASL_SSL"),
                    ("sasl.mechanism", "SCRAM-SHA-256"),
                    ("sasl.jaas.config", jaas),
                ],
                "wants a ScramLoginModule",
            ),
            (&[("security.protocol", "SASL_SSL"), ("sasl.mechanism", "PLAIN")], "no username"),
            (
                &[
                    ("security.protocol", "SASL_SSL"),
                    ("sasl.mechanism", "PLAIN"),
                    ("sasl.jaas.config", "geheim"),
                ],
                "expected",
            ),
            (
                &[("security.protocol", "SASL_SSL"), ("sasl.mechanism", "OAUTHBEARER")],
                "nowhere to get a token",
            ),
            (
                &[("security.protocol", "SASL_SSL"), ("sasl.mechanism", "DIGEST-MD5")],
                "DIGEST-MD5 is not known",
            ),
            (&[("security.protocol", "SSL"), ("ssl.enabled.protocols", "TLSv1.1")], "TLSv1.1"),
            (
                &[
                    ("security.protocol", "SSL"),
                    ("ssl.truststore.type", "BKS"),
                    ("ssl.truststore.location", "x"),
                ],
                "BKS",
            ),
            (&[("security.protocol", "SSL"), ("ssl.provider", "BC")], "ssl.provider"),
            (&[("security.protocol", "SSL"), ("ssl.keystore.key", "geheim")], "go together"),
        ] {
            let error = read(properties).unwrap_err().to_string();
            assert!(error.contains(told) && !error.contains("geheim"), "{error}");
        }
    }

    #[test]
    fn each_wrong_setting_is_refused() {
        let good = || ClientConfig::new(["a:1"]);
        assert!(good().validate().is_ok());
        assert!(ClientConfig::default().validate().is_err());
        assert!(ClientConfig { max_in_flight: 0, ..good() }.validate().is_err());
        assert!(ClientConfig { max_frame: 10, ..good() }.validate().is_err());
        assert!(ClientConfig { request_timeout: Duration::ZERO, ..good() }.validate().is_err());
        assert!(ClientConfig { api_timeout: Duration::from_secs(1 << 40), ..good() }.validate().is_err());
    }
}
