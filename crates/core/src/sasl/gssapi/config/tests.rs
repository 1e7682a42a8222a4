use super::*;
use proptest::prelude::*;

const FILE: &str = r#"
# A comment
includedir /etc/krb5.conf.d/
[libdefaults]
  default_realm = EXAMPLE.COM
  dns_lookup_kdc = false
  dns_canonicalize_hostname = fallback
  permitted_enctypes = aes256-sha1, aes128-cts rc4-hmac
  ticket_lifetime = 10h
  renew_lifetime = 7d
  forwardable = yes
  udp_preference_limit = 1
  default_ccache_name = "FILE:/tmp/krb5cc_%{uid}"
  default_realm = SECOND.COM
[realms]
  EXAMPLE.COM = {
    kdc = kdc1.example.com
    kdc = tcp/kdc2.example.com:8888
    kdc = [::1]:89
    admin_server = kdc1.example.com
    auth_to_local_names = {
      kdc = nobody
    }
  }
  OTHER.COM = {
    kdc = 10.0.0.1:750
  }
[domain_realm]
  .example.com = EXAMPLE.COM
  deep.example.com = OTHER.COM
  Host.Example.com = THIRD.COM
[appdefaults]
  x = y
"#;

fn parse(text: &str) -> Result<Parsed> {
    KerberosConfig::parse([text])
}

#[test]
fn a_whole_file_is_read() {
    let Parsed { config, warnings } = parse(FILE).unwrap();
    assert_eq!(config.default_realm.as_deref(), Some("EXAMPLE.COM"));
    assert_eq!(config.tickets.enctypes, [Enctype::Aes256Sha1, Enctype::Aes128Sha1]);
    assert_eq!(config.tickets.lifetime, Duration::from_secs(36_000));
    assert_eq!(config.tickets.renew_lifetime, Some(Duration::from_secs(604_800)));
    assert!(config.tickets.forwardable && config.tickets.follow_kdc_clock);
    assert_eq!(config.canonicalize_host, Canonicalize::Fallback);
    assert!(!config.dns_lookup_kdc);
    assert_eq!(config.udp_preference_limit, 1);
    assert_eq!(config.ticket_cache.as_deref(), Some("FILE:/tmp/krb5cc_%{uid}"));
    let kdcs: Vec<String> = config.kdcs("EXAMPLE.COM").iter().map(ToString::to_string).collect();
    assert_eq!(kdcs, ["kdc1.example.com:88", "kdc2.example.com:8888", "[::1]:89"]);
    assert!(config.kdcs("EXAMPLE.COM")[1].tcp_only);
    assert_eq!(config.realms(), ["EXAMPLE.COM", "OTHER.COM"]);
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains("includedir /etc/krb5.conf.d/"), "{warnings:?}");
}

#[test]
fn a_host_is_in_the_realm_of_its_line_or_of_the_nearest_domain() {
    let config = parse(FILE).unwrap().config;
    for (host, realm) in [
        ("broker.example.com", Some("EXAMPLE.COM")),
        ("BROKER.EXAMPLE.COM.", Some("EXAMPLE.COM")),
        ("host.example.com", Some("THIRD.COM")),
        ("deep.example.com", Some("OTHER.COM")),
        ("a.deep.example.com", Some("OTHER.COM")),
        ("example.com", None),
        ("example.org", None),
        ("", None),
    ] {
        assert_eq!(config.realm_of(host), realm, "{host}");
    }
    let (known, is_known) = config.service("kafka", "Broker.example.com", "X");
    assert_eq!((known.to_string().as_str(), is_known), ("kafka/broker.example.com@EXAMPLE.COM", true));
    let (guess, is_known) = config.service("kafka", "elsewhere.org", "X");
    assert_eq!((guess.to_string().as_str(), is_known), ("kafka/elsewhere.org@X", false));
}

#[test]
fn the_first_file_counts_and_may_be_final() {
    let first = "[libdefaults]*\ndefault_realm = A\n";
    let second = "[libdefaults]\ndefault_realm = B\nticket_lifetime = 1h\n[realms]\nB = {\nkdc = b\n}\n";
    let config = KerberosConfig::parse([first, second]).unwrap().config;
    assert_eq!(config.default_realm.as_deref(), Some("A"));
    assert_eq!(config.tickets.lifetime, TicketOptions::default().lifetime);
    assert_eq!(config.kdcs("B").len(), 1);
    let config = KerberosConfig::parse([&first.replace('*', ""), second]).unwrap().config;
    assert_eq!(config.tickets.lifetime, Duration::from_secs(3600));
}

#[test]
fn what_makes_no_sense_is_named_with_its_line() {
    for (text, reason) in [
        ("default_realm = A", "line 1"),
        ("[libdefaults\n", "line 1"),
        ("[libdefaults]\nnonsense", "line 2"),
        ("[realms]\nA = {\n", "brace"),
        ("[realms]\n}\n", "line 2"),
        ("[realms]\nA = {\nkdc = :88\n}\n", "address"),
        ("[realms]\nA = {\nkdc = a:99999\n}\n", "address"),
        ("[libdefaults]\nticket_lifetime = soon", "ticket_lifetime"),
        ("[libdefaults]\nforwardable = maybe", "forwardable"),
        ("[libdefaults]\npermitted_enctypes = rc4-hmac des3-hmac-sha1", "aes256-cts-hmac-sha1-96"),
        ("[libdefaults]\nx = \"y", "quote"),
    ] {
        let error = parse(text).unwrap_err();
        assert_eq!(error.kind(), KerberosErrorKind::Config);
        assert!(error.to_string().contains(reason), "{text}: {error}");
    }
    let deep = format!("[a]\n{}", "x = {\n".repeat(9));
    assert!(parse(&deep).unwrap_err().to_string().contains("in each other"));
    let large = "#".repeat(MAX_CONFIG + 1);
    assert!(parse(&large).is_err());
}

#[test]
fn every_cut_is_read_or_refused() {
    for cut in 0..FILE.len() {
        let _ = parse(&FILE[..cut]);
    }
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in r"([\[\]{}=*#;a-z./: \n\x22\\-]|kdc|realms|libdefaults|include ){0,60}") {
        let _ = parse(&text);
        let _ = parse(&format!("[realms]\n{text}"));
        let _ = durations::parse(&text);
    }
}
