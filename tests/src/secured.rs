//! What tests of secured brokers share.

use std::time::{Duration, Instant};

use milena::sasl::KerberosOptions;
use milena::tls::{Identity, Store, TlsConfig, Trust};
use milena::{
    Client, ClientConfig, ErrorKind, FetchFrom, FetchOptions, NewTopic, Offset, Producer, ProducerConfig,
    ProducerRecord, TopicPartition,
};
use milena_testkit::kafka::{Listener, SecuredKafka};

use crate::kerberos::configured;
use crate::unique;

/// A broker with a listener of each kind, and how to reach it.
#[derive(Debug)]
pub struct Secured(pub SecuredKafka);

impl Secured {
    /// Whether the broker is of this version or a later one.
    pub fn is_at_least(&self, version: &str) -> bool {
        version.parse().is_ok_and(|version| self.0.version() >= version)
    }

    /// Alice by Kerberos, where this machine has one.
    pub fn kerberos(&self) -> Option<KerberosOptions> {
        let kdc = self.0.kdc()?;
        let keytab = KerberosOptions::with_keytab(kdc.folder().join("client.keytab").display().to_string());
        let alice = KerberosOptions { principal: Some("alice".to_owned()), ..keytab };
        Some(configured(kdc, alice))
    }

    /// A client of the listener with SASL over TLS, without credentials.
    pub fn over_tls(&self) -> ClientConfig {
        self.config(Listener::SaslSsl).with_tls(self.trusting())
    }

    /// A client of a listener.
    pub fn config(&self, listener: Listener) -> ClientConfig {
        ClientConfig::new([self.0.bootstrap(listener)])
    }

    /// TLS that trusts the broker.
    pub fn trusting(&self) -> TlsConfig {
        TlsConfig { trust: Trust::Store(Store::pem_file(self.0.file("ca.pem"))), ..TlsConfig::default() }
    }

    /// A client of the listener that wants certificates, with this one.
    pub fn showing(&self, identity: Identity) -> ClientConfig {
        let tls = TlsConfig { identity: Some(identity), ..self.trusting() };
        self.config(Listener::SslAuth).with_tls(tls)
    }

    /// A client of a listener by Java's names.
    ///
    /// # Panics
    /// If one is wrong or not known.
    pub fn properties(&self, listener: Listener, properties: &[(&str, &str)]) -> ClientConfig {
        let bootstrap = self.0.bootstrap(listener);
        let all = [("bootstrap.servers", bootstrap.as_str())].into_iter().chain(properties.iter().copied());
        let (config, unknown) = ClientConfig::from_properties(all).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(unknown, Vec::<String>::new());
        config
    }

    /// The path of one of the broker's files.
    pub fn path(&self, name: &str) -> String {
        self.0.file(name).display().to_string()
    }
}

/// Writes a record and reads it back.
///
/// # Panics
/// If that does not work.
pub async fn works(what: &str, config: ClientConfig) {
    let outcome = async {
        let client = Client::connect(config).await?;
        let topic = unique("secured");
        client.admin().create_topics(&[NewTopic::new(&topic, 1)], Duration::from_secs(20)).await?;
        let producer = Producer::new(&client, ProducerConfig::default())?;
        let written =
            producer.send(ProducerRecord::to(topic.as_str()).partition(0).value(b"it works")).await?.await?;
        let from =
            FetchFrom::new(TopicPartition::new(topic.as_str(), 0), written.offset.unwrap_or(Offset(0)));
        let mut read = Vec::new();
        for fetched in client.fetcher().fetch(&[from], &FetchOptions::default()).await? {
            fetched.for_each_record(|record| read.push(record.value.map(<[u8]>::to_vec)))?;
        }
        assert_eq!(read, [Some(b"it works".to_vec())], "{what}");
        producer.close(Duration::from_secs(10)).await?;
        client.close(Duration::from_secs(10)).await
    };
    outcome.await.unwrap_or_else(|error: milena::Error| panic!("{what}: {error}"));
}

/// Refused for good, with these words, sooner than anything times out.
///
/// # Panics
/// If it is not so.
pub async fn refused(what: &str, config: ClientConfig, words: &[&str]) {
    let began = Instant::now();
    let Err(error) = Client::connect(config).await else { panic!("{what}: let in") };
    let text = error.to_string();
    assert_eq!(error.kind(), ErrorKind::Auth, "{what}: {text}");
    for word in words {
        assert!(text.contains(word), "{what}: {word:?} is not in: {text}");
    }
    assert!(!text.contains("geheim"), "{what}: {text}");
    assert!(began.elapsed() < Duration::from_secs(9), "{what} was tried for {:?}", began.elapsed());
}
