//! A real KDC: every way of logging in with every encryption type, trust between realms, renewal, clocks that differ, and what
//! goes wrong.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use milena::sasl::{Credentials, Enctype, Kerberos, KerberosErrorKind, KerberosOptions, Peer};
use milena_core::sasl::gssapi::{
    AsExchange, Credential, Entropy, KerberosError, Keytab, LoginKey, Principal, Progress, TicketOptions,
    Timestamp,
};
use milena_testkit::kafka::{Kdc, KdcOptions};
use milena_tests::kerberos::{configured, kdc};

/// A KDC with alice and a service on localhost, and alice's keytab.
async fn simple(options: &KdcOptions) -> Option<(Kdc, PathBuf)> {
    let kdc = kdc(options).await?;
    kdc.add_principal("kafka/localhost", None).await.unwrap();
    kdc.add_principal("alice", Some("secret")).await.unwrap();
    let keytab = kdc.keytab("alice", "alice.keytab").await.unwrap();
    Some((kdc, keytab))
}

fn with_keytab(kdc: &Kdc, keytab: &Path) -> KerberosOptions {
    configured(kdc, KerberosOptions::with_keytab(keytab.display().to_string()))
}

/// Gets a ticket for the service on a host and makes the first token with it.
async fn begin(kerberos: &Kerberos, host: &str) -> Result<(), milena::Error> {
    let mut mechanism = kerberos.begin(&Peer { host: Arc::from(host), port: 1 }).await?;
    let token = mechanism.start(SystemTime::now()).unwrap();
    assert!(token.expose().len() > 200);
    Ok(())
}

async fn refusal(options: KerberosOptions, host: &str) -> (KerberosErrorKind, String) {
    let error = begin(&Kerberos::new(options), host).await.unwrap_err();
    let inner = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<KerberosError>());
    (inner.unwrap().kind(), error.to_string())
}

#[tokio::test]
async fn keys_of_every_type_log_in() {
    for enctype in Enctype::DEFAULT {
        let options = KdcOptions { enctypes: format!("{enctype}:normal"), ..KdcOptions::default() };
        let Some((kdc, keytab)) = simple(&options).await else { return };
        begin(&Kerberos::new(with_keytab(&kdc, &keytab)), "localhost").await.unwrap();
        let password = KerberosOptions::with_password("alice", "secret");
        begin(&Kerberos::new(configured(&kdc, password)), "localhost").await.unwrap();
        let cache = kdc.kinit(&keytab, "alice", &[], "cache").await.unwrap();
        let cache = KerberosOptions::with_ticket_cache(Some(cache.display().to_string()));
        begin(&Kerberos::new(configured(&kdc, cache)), "localhost").await.unwrap();
    }
}

#[tokio::test]
async fn what_goes_wrong_is_said_with_what_to_do() {
    use KerberosErrorKind as Kind;
    let Some((kdc, keytab)) = simple(&KdcOptions::default()).await else { return };
    let of = |principal: &str| KerberosOptions {
        principal: Some(principal.to_owned()),
        ..with_keytab(&kdc, &keytab)
    };
    let password = |principal: &str, password: &str| {
        configured(&kdc, KerberosOptions::with_password(principal, password))
    };
    let check = async |options: KerberosOptions, host: &str, kind: Kind, words: &[&str]| {
        let (found, text) = refusal(options, host).await;
        assert_eq!(found, kind, "{text}");
        for word in words {
            assert!(text.contains(word), "{word}: {text}");
        }
        assert!(!text.contains("secret"));
    };
    check(of("bob"), "localhost", Kind::Keytab, &["no key of bob@TEST.MILENA", "alice@TEST.MILENA (kvno 1"])
        .await;
    check(password("bob", "secret"), "localhost", Kind::UnknownClient, &["bob@TEST.MILENA"]).await;
    check(password("alice", "wrong"), "localhost", Kind::WrongKey, &["alice@TEST.MILENA is wrong"]).await;
    check(
        password("alice@ELSEWHERE", "x"),
        "localhost",
        Kind::Config,
        &["ELSEWHERE", "it knows TEST.MILENA"],
    )
    .await;
    check(of("alice"), "stranger", Kind::UnknownService, &["kafka/stranger@TEST.MILENA"]).await;

    let narrow = kdc.folder().join("narrow.conf");
    let text = std::fs::read_to_string(kdc.configuration()).unwrap();
    let text = text.replacen("[libdefaults]\n", "[libdefaults]\n  permitted_enctypes = aes128-sha2\n", 1);
    std::fs::write(&narrow, text).unwrap();
    kdc.add_principal("old", Some("secret")).await.unwrap();
    kdc.admin(kdc.realm(), "cpw -e aes256-cts-hmac-sha1-96:normal -pw secret old").await.unwrap();
    let old = KerberosOptions { config_files: Some(vec![narrow]), ..password("old", "secret") };
    check(old, "localhost", Kind::NoCommonEnctype, &["aes128-cts-hmac-sha256-128"]).await;

    // The password is changed: the keytab's key is the old one's.
    kdc.admin(kdc.realm(), "cpw -pw another alice").await.unwrap();
    check(of("alice"), "localhost", Kind::WrongKey, &["make the keytab anew"]).await;
    kdc.admin(kdc.realm(), "modprinc -allow_tix alice").await.unwrap();
    check(password("alice", "another"), "localhost", Kind::Refused, &["locked or disabled"]).await;

    kdc.stop().await;
    check(of("alice"), "localhost", Kind::Unreachable, &["no KDC of the realm TEST.MILENA", &kdc.address()])
        .await;
}

#[tokio::test]
async fn an_expired_ticket_cache_says_since_when() {
    let Some((kdc, keytab)) = simple(&KdcOptions::default()).await else { return };
    let cache = kdc.kinit(&keytab, "alice", &["-l", "2s"], "cache").await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let options = configured(&kdc, KerberosOptions::with_ticket_cache(Some(cache.display().to_string())));
    let (kind, text) = refusal(options.clone(), "localhost").await;
    assert_eq!(kind, KerberosErrorKind::Expired);
    assert!(text.contains("krbtgt/TEST.MILENA@TEST.MILENA expired at") && text.contains("ago"), "{text}");
    // With a keytab beside it, the keytab is taken.
    let both = KerberosOptions { use_keytab: true, keytab: Some(keytab.display().to_string()), ..options };
    begin(&Kerberos::new(both), "localhost").await.unwrap();
}

#[tokio::test]
async fn a_ticket_of_seconds_is_renewed_while_nobody_asks_for_it() {
    let Some((kdc, keytab)) = simple(&KdcOptions::default()).await else { return };
    let cache = kdc.kinit(&keytab, "alice", &["-l", "4s", "-r", "1h"], "cache").await.unwrap();
    let options = configured(&kdc, KerberosOptions::with_ticket_cache(Some(cache.display().to_string())));
    let kerberos = Kerberos::new(options.clone());
    begin(&kerberos, "localhost").await.unwrap();
    // Twice the ticket's life.
    tokio::time::sleep(Duration::from_secs(8)).await;
    begin(&kerberos, "localhost").await.unwrap();
    // The file still holds the first ticket only.
    assert_eq!(refusal(options, "localhost").await.0, KerberosErrorKind::Expired);
}

#[tokio::test]
async fn a_service_in_a_trusted_realm_is_found() {
    let realms = ["A.MILENA", "B.MILENA", "C.MILENA"].map(str::to_owned);
    let [a, b, c] = realms.clone();
    let options = KdcOptions {
        trusts: vec![(a.clone(), b.clone()), (b.clone(), c.clone())],
        hosts: vec![("localhost".to_owned(), b.clone()), ("far".to_owned(), c.clone())],
        realms: realms.to_vec(),
        ..KdcOptions::default()
    };
    let Some(kdc) = kdc(&options).await else { return };
    kdc.add_principal("alice@A.MILENA", None).await.unwrap();
    kdc.add_principal("kafka/localhost@B.MILENA", None).await.unwrap();
    let keytab = kdc.keytab("alice@A.MILENA", "alice.keytab").await.unwrap();
    let kerberos = Kerberos::new(with_keytab(&kdc, &keytab));
    begin(&kerberos, "localhost").await.unwrap();
    let error = begin(&kerberos, "far").await.unwrap_err();
    assert!(error.to_string().contains("krbtgt/C.MILENA"), "{error}");
}

/// One message to the KDC over TCP, as the driver sends it.
fn ask(kdc: &Kdc, message: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(kdc.address()).unwrap();
    stream.write_all(&[&(message.len() as u32).to_be_bytes(), message].concat()).unwrap();
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut reply = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut reply).unwrap();
    reply
}

/// Logs in with a clock that is wrong by these seconds.
fn log_in(
    kdc: &Kdc,
    keytab: &Path,
    wrong_by: i64,
    options: TicketOptions,
) -> Result<Credential, KerberosError> {
    let keytab = Keytab::parse(&std::fs::read(keytab).unwrap()).unwrap();
    let alice = Principal::parse("alice", Some(kdc.realm())).unwrap();
    let keys = keytab.keys(&alice).into_iter().cloned().collect();
    let mut entropy = Entropy::from_seed([u8::try_from(wrong_by.rem_euclid(200)).unwrap(); 32]);
    let now = || Timestamp::from_system(SystemTime::now()).plus_seconds(wrong_by);
    let mut exchange = AsExchange::new(alice, LoginKey::Keys(keys), options)?;
    let mut sent = exchange.start(now(), &mut entropy)?;
    loop {
        match exchange.handle_reply(&ask(kdc, &sent.message), now(), &mut entropy)? {
            Progress::Send(next) => sent = next,
            Progress::Done(credential) => return Ok(*credential),
        }
    }
}

#[tokio::test]
async fn a_clock_that_is_wrong_is_corrected_or_named() {
    let Some((kdc, keytab)) = simple(&KdcOptions::default()).await else { return };
    for wrong_by in [-7200, 1000] {
        let began = Instant::now();
        let credential = log_in(&kdc, &keytab, wrong_by, TicketOptions::default()).unwrap();
        let slack = i64::try_from(began.elapsed().as_secs()).unwrap() + 2;
        assert!((credential.offset + wrong_by).abs() <= slack, "{} {wrong_by}", credential.offset);
        let strict = TicketOptions { follow_kdc_clock: false, ..TicketOptions::default() };
        let error = log_in(&kdc, &keytab, wrong_by, strict).unwrap_err();
        assert_eq!(error.kind(), KerberosErrorKind::ClockSkew);
        let side = if wrong_by > 0 { "ahead of" } else { "behind" };
        assert!(
            error.to_string().contains(side) && error.to_string().contains("the KDC of TEST.MILENA"),
            "{error}"
        );
    }
    assert_eq!(log_in(&kdc, &keytab, 30, TicketOptions::default()).unwrap().offset, 0);
}
