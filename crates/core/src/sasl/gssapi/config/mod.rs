//! `krb5.conf`: realms, their KDCs, which host is in which realm, and what tickets are to be like.
//!
//! What is read: `[libdefaults]`, `[realms]` and `[domain_realm]`. Everything else is other programs' business and skipped. `include`,
//! `includedir` and `module` lines are not followed; each is a warning that the caller logs.
//!
//! # References
//! MIT Kerberos documentation, "krb5.conf".

mod durations;
mod profile;

use std::collections::HashMap;
use std::time::Duration;

use super::as_exchange::TicketOptions;
use super::crypto::Enctype;
use super::error::{KerberosError, KerberosErrorKind, Result};
use super::principal::Principal;
use profile::Profile;

/// The largest `krb5.conf` that is read, in bytes.
pub const MAX_CONFIG: usize = 1 << 20;

/// The port of a KDC that names none.
const KDC_PORT: u16 = 88;

/// Where a KDC listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KdcAddress {
    /// A name or an address.
    pub host: String,
    /// Default 88.
    pub port: u16,
    /// Whether it is asked over TCP only (`tcp/host`).
    pub tcp_only: bool,
}

impl std::fmt::Display for KdcAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            return write!(f, "[{}]:{}", self.host, self.port);
        }
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// How the host of a service is turned into the name that its principal has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Canonicalize {
    /// As the DNS has it, by the forward look-up's canonical name.
    Always,
    /// As it was given, and as the DNS has it if the KDC does not know that.
    Fallback,
    /// As it was given, in lower case.
    Never,
}

/// What `krb5.conf` says.
#[derive(Clone, Debug)]
pub struct KerberosConfig {
    /// The realm of names without one.
    pub default_realm: Option<String>,
    /// What tickets are to be like.
    pub tickets: TicketOptions,
    /// `dns_canonicalize_hostname`. Default here: [`Canonicalize::Never`], since Kafka's brokers advertise the names that their
    /// principals have; MIT's default is to ask the DNS.
    pub canonicalize_host: Canonicalize,
    /// Whether KDCs of a realm for which none are named are looked for in the DNS (`dns_lookup_kdc`). Default `true`.
    pub dns_lookup_kdc: bool,
    /// Messages above this many bytes go over TCP at once (`udp_preference_limit`). Default 1465.
    pub udp_preference_limit: usize,
    /// Where the keytab of clients is (`default_client_keytab_name`).
    pub client_keytab: Option<String>,
    /// Where the keytab of services is (`default_keytab_name`), which Java's clients use too.
    pub keytab: Option<String>,
    /// Where the ticket cache is (`default_ccache_name`).
    pub ticket_cache: Option<String>,
    /// The KDCs of realms, in the order of the file.
    realms: HashMap<String, Vec<KdcAddress>>,
    /// Realms of hosts (`host`) and of domains (`.domain`), in lower case.
    domains: HashMap<String, String>,
}

impl Default for KerberosConfig {
    fn default() -> Self {
        Self {
            default_realm: None,
            tickets: TicketOptions::default(),
            canonicalize_host: Canonicalize::Never,
            dns_lookup_kdc: true,
            udp_preference_limit: 1465,
            client_keytab: None,
            keytab: None,
            ticket_cache: None,
            realms: HashMap::new(),
            domains: HashMap::new(),
        }
    }
}

/// A configuration and what a person should know of it.
#[derive(Clone, Debug, Default)]
pub struct Parsed {
    /// What was read.
    pub config: KerberosConfig,
    /// Lines that were not followed, and settings that are ignored.
    pub warnings: Vec<String>,
}

impl KerberosConfig {
    /// Reads the contents of configuration files; where two say the same thing, the first one counts.
    ///
    /// # Errors
    /// [`KerberosErrorKind::Config`] with the number of a line that makes no sense, or for more than [`MAX_CONFIG`] bytes.
    pub fn parse<'a>(files: impl IntoIterator<Item = &'a str>) -> Result<Parsed> {
        let mut profile = Profile::default();
        for text in files {
            if text.len() > MAX_CONFIG {
                return Err(wrong(format!("it has {} bytes, more than {MAX_CONFIG}", text.len())));
            }
            profile.read(text)?;
        }
        let mut parsed = Parsed::default();
        parsed.warnings.append(&mut profile.warnings);
        libdefaults(&profile, &mut parsed)?;
        let config = &mut parsed.config;
        for (realm, setting, value) in profile.nested("realms") {
            if setting == "kdc" {
                config.realms.entry(realm.to_owned()).or_default().push(kdc_address(value)?);
            }
        }
        for (domain, realm) in profile.section("domain_realm") {
            config.domains.entry(domain.to_ascii_lowercase()).or_insert_with(|| realm.to_owned());
        }
        Ok(parsed)
    }

    /// Adds a realm with these KDCs, `host` or `host:port` each, before what is known of it.
    ///
    /// # Errors
    /// [`KerberosErrorKind::Config`] for an address that is none.
    pub fn add_realm(&mut self, realm: &str, kdcs: &[&str]) -> Result<()> {
        let addresses = kdcs.iter().map(|kdc| kdc_address(kdc)).collect::<Result<Vec<_>>>()?;
        self.realms.entry(realm.to_owned()).or_default().splice(0..0, addresses);
        Ok(())
    }

    /// The KDCs of a realm, the first one to be asked first. Empty if none is known.
    #[must_use]
    pub fn kdcs(&self, realm: &str) -> &[KdcAddress] {
        self.realms.get(realm).map_or(&[], Vec::as_slice)
    }

    /// The realms of which KDCs are known, sorted.
    #[must_use]
    pub fn realms(&self) -> Vec<&str> {
        let mut realms: Vec<&str> = self.realms.keys().map(String::as_str).collect();
        realms.sort_unstable();
        realms
    }

    /// The realm of a host by `[domain_realm]`: its own line, then that of the nearest domain. `None` if no line fits.
    #[must_use]
    pub fn realm_of(&self, host: &str) -> Option<&str> {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        if let Some(realm) = self.domains.get(&host) {
            return Some(realm);
        }
        let dots = host.match_indices('.').map(|(at, _)| at);
        let mut domains = dots.filter_map(|at| host.get(at..));
        domains.find_map(|domain| {
            // `.example.com` is the domain's hosts, `example.com` the domain's own name and its hosts as well.
            let plain = domain.strip_prefix('.').unwrap_or(domain);
            self.domains.get(domain).or_else(|| self.domains.get(plain)).map(String::as_str)
        })
    }

    /// The principal of a service on a host, and whether its realm is known. If it is not, the client's realm stands in for it and
    /// the client's KDC may refer to another one.
    #[must_use]
    pub fn service(&self, name: &str, host: &str, client_realm: &str) -> (Principal, bool) {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        match self.realm_of(&host) {
            Some(realm) => (Principal::service(name, &host, realm), true),
            None => (Principal::service(name, &host, client_realm), false),
        }
    }
}

fn libdefaults(profile: &Profile, parsed: &mut Parsed) -> Result<()> {
    let Parsed { config, warnings } = parsed;
    let has_permitted = profile.value("libdefaults", "permitted_enctypes").is_some();
    for (name, value) in profile.section("libdefaults") {
        let tickets = &mut config.tickets;
        match name {
            "default_realm" => config.default_realm = Some(value.to_owned()),
            "permitted_enctypes" => tickets.enctypes = enctypes(value)?,
            // Where all types are permitted, these still narrow what is asked for.
            "default_tkt_enctypes" | "default_tgs_enctypes" if !has_permitted => {
                tickets.enctypes = enctypes(value)?;
            }
            "ticket_lifetime" => tickets.lifetime = duration(name, value)?,
            "renew_lifetime" => {
                let lifetime = duration(name, value)?;
                tickets.renew_lifetime = (!lifetime.is_zero()).then_some(lifetime);
            }
            "forwardable" => tickets.forwardable = boolean(name, value)?,
            "canonicalize" => tickets.canonicalize = boolean(name, value)?,
            "kdc_timesync" => tickets.follow_kdc_clock = value != "0" && boolean(name, value).unwrap_or(true),
            "dns_canonicalize_hostname" => {
                config.canonicalize_host = match value {
                    "fallback" => Canonicalize::Fallback,
                    other if boolean(name, other)? => Canonicalize::Always,
                    _ => Canonicalize::Never,
                };
            }
            "udp_preference_limit" => {
                let limit = value.parse().map_err(|_| wrong(format!("{name}: {value:?} is no number")))?;
                config.udp_preference_limit = limit;
            }
            "default_client_keytab_name" => config.client_keytab = Some(value.to_owned()),
            "default_keytab_name" => config.keytab = Some(value.to_owned()),
            "default_ccache_name" => config.ticket_cache = Some(value.to_owned()),
            "rdns" if boolean(name, value)? => {
                warnings.push("rdns = true is ignored: host names are not looked up by address".to_owned());
            }
            "dns_lookup_kdc" => config.dns_lookup_kdc = boolean(name, value)?,
            "dns_lookup_realm" if boolean(name, value)? => {
                warnings.push(
                    "dns_lookup_realm = true is ignored: realms of hosts come from [domain_realm]".to_owned(),
                );
            }
            _ => {}
        }
    }
    Ok(())
}

fn wrong(text: impl std::fmt::Display) -> KerberosError {
    KerberosError::new(KerberosErrorKind::Config, format!("krb5.conf cannot be used: {text}"))
}

fn boolean(name: &str, value: &str) -> Result<bool> {
    match value.to_ascii_lowercase().as_str() {
        "y" | "yes" | "true" | "t" | "1" | "on" => Ok(true),
        "n" | "no" | "false" | "nil" | "0" | "off" => Ok(false),
        _ => Err(wrong(format!("{name}: {value:?} is neither true nor false"))),
    }
}

fn duration(name: &str, value: &str) -> Result<Duration> {
    durations::parse(value).ok_or_else(|| wrong(format!("{name}: {value:?} is no duration")))
}

/// The types that are spoken here out of a list of words; `-word` takes types away.
fn enctypes(value: &str) -> Result<Vec<Enctype>> {
    let mut found: Vec<Enctype> = Vec::new();
    for word in value.split(|character: char| character == ',' || character.is_whitespace()) {
        match word.strip_prefix('-') {
            Some(taken) => found.retain(|enctype| !Enctype::from_word(taken).contains(enctype)),
            None => {
                for enctype in Enctype::from_word(word.trim_start_matches('+')) {
                    if !found.contains(enctype) {
                        found.push(*enctype);
                    }
                }
            }
        }
    }
    if found.is_empty() {
        let all: Vec<&str> = Enctype::DEFAULT.iter().map(|enctype| enctype.name()).collect();
        return Err(wrong(format!(
            "none of the encryption types {value:?} is spoken here: those are {}",
            all.join(", ")
        )));
    }
    Ok(found)
}

/// `host`, `host:port`, `[v6]:port`, with `tcp/` or `udp/` in front.
fn kdc_address(value: &str) -> Result<KdcAddress> {
    let bad = || wrong(format!("{value:?} is no address of a KDC"));
    let (tcp_only, address) = match value.split_once('/') {
        Some(("tcp", address)) => (true, address),
        Some(("udp", address)) => (false, address),
        Some(_) => return Err(bad()),
        None => (false, value),
    };
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or_else(bad)?;
            (host, if after.is_empty() { None } else { Some(after.strip_prefix(':').ok_or_else(bad)?) })
        }
        None => match address.split_once(':') {
            // More than one colon: an address of IPv6 without a port.
            Some((_, rest)) if rest.contains(':') => (address, None),
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        },
    };
    let port = port.map_or(Ok(KDC_PORT), |port| port.parse().map_err(|_| bad()))?;
    if host.is_empty() || port == 0 {
        return Err(bad());
    }
    Ok(KdcAddress { host: host.to_owned(), port, tcp_only })
}

#[cfg(test)]
mod tests;
