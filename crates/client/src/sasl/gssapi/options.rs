//! What a client of Kerberos is told.

use std::path::PathBuf;
use std::time::Duration;

use milena_core::sasl::gssapi::{Canonicalize, KerberosConfig};

use crate::error::{Error, Result};
use crate::sasl::Secret;

/// The settings of [`Kerberos`](super::Kerberos).
///
/// Tickets come from the first of these that is set and has one: the ticket cache, the keytab, the password.
#[derive(Clone, Debug)]
pub struct KerberosOptions {
    /// The first part of the brokers' principals. Default `kafka`. Kafka: `sasl.kerberos.service.name`, JAAS `serviceName`.
    pub service_name: String,
    /// Who the client is, `name@REALM`; without a realm that of `krb5.conf`'s `default_realm`. Default: the first principal of the keytab,
    /// or the ticket cache's. Needed with a password. JAAS `principal`.
    pub principal: Option<String>,
    /// Whether to take tickets from a ticket cache (`kinit`). Default `false`. JAAS `useTicketCache`.
    pub use_ticket_cache: bool,
    /// The ticket cache, a file. Default: `KRB5CCNAME`, then `default_ccache_name`, then `/tmp/krb5cc_<uid>`. JAAS `ticketCache`.
    pub ticket_cache: Option<String>,
    /// Whether to log in with a keytab. Default `false`. JAAS `useKeyTab`.
    pub use_keytab: bool,
    /// The keytab, a file. Default: `KRB5_CLIENT_KTNAME`, `default_client_keytab_name`, `KRB5_KTNAME`, `default_keytab_name`,
    /// `/etc/krb5.keytab`, the first that is set. JAAS `keyTab`.
    pub keytab: Option<String>,
    /// A password to log in with. Default none.
    pub password: Option<Secret>,
    /// `krb5.conf`, read anew for each log-in. Default: the files that `KRB5_CONFIG` names, separated by colons, else
    /// `/etc/krb5.conf`. Java: `java.security.krb5.conf`.
    pub config_files: Option<Vec<PathBuf>>,
    /// The configuration itself, in place of `krb5.conf`. Default none.
    pub config: Option<KerberosConfig>,
    /// How a broker's host becomes the host in its principal. Default: as `dns_canonicalize_hostname` says, and without it as the broker
    /// advertises it.
    pub canonicalize_host: Option<Canonicalize>,
    /// Which part of its life a ticket may have behind it before it is replaced, from 0.1 to 1. Default 0.8.
    /// Kafka: `sasl.kerberos.ticket.renew.window.factor`.
    pub renew_window_factor: f64,
    /// How much is added to that at random, as a part of its life, from 0 to 0.25. Default 0.05. Kafka: `sasl.kerberos.ticket.renew.jitter`.
    pub renew_jitter: f64,
    /// How long a log-in is not tried again after one that failed, as long as the old ticket holds. Default 60 s.
    /// Kafka: `sasl.kerberos.min.time.before.relogin`.
    pub min_time_before_relogin: Duration,
    /// How long one KDC may take to answer; others are asked beside it after a second. Default 5 s.
    pub kdc_timeout: Duration,
}

impl Default for KerberosOptions {
    fn default() -> Self {
        Self {
            service_name: "kafka".to_owned(),
            principal: None,
            use_ticket_cache: false,
            ticket_cache: None,
            use_keytab: false,
            keytab: None,
            password: None,
            config_files: None,
            config: None,
            canonicalize_host: None,
            renew_window_factor: 0.8,
            renew_jitter: 0.05,
            min_time_before_relogin: Duration::from_secs(60),
            kdc_timeout: Duration::from_secs(5),
        }
    }
}

impl KerberosOptions {
    /// Logs in with this keytab.
    #[must_use]
    pub fn with_keytab(path: impl Into<String>) -> Self {
        Self { use_keytab: true, keytab: Some(path.into()), ..Self::default() }
    }

    /// Takes the tickets that `kinit` left in this file, or in the usual place.
    #[must_use]
    pub fn with_ticket_cache(path: Option<String>) -> Self {
        Self { use_ticket_cache: true, ticket_cache: path, ..Self::default() }
    }

    /// Logs in with a password.
    #[must_use]
    pub fn with_password(principal: impl Into<String>, password: impl Into<Secret>) -> Self {
        Self { principal: Some(principal.into()), password: Some(password.into()), ..Self::default() }
    }

    /// From a login module and Kafka's properties `sasl.kerberos.*`, names and values. Returns the names that are unknown, too.
    ///
    /// # Errors
    /// [`ErrorKind::Misuse`](crate::ErrorKind::Misuse) for a value that makes no sense, for two service names that differ, and for a module
    /// that allows neither keytab nor ticket cache.
    pub fn from_properties<'a>(
        module: &Krb5LoginModule,
        properties: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<(Self, Vec<String>)> {
        let mut options = Self {
            principal: module.principal.clone(),
            use_keytab: module.use_key_tab,
            keytab: module.key_tab.clone(),
            use_ticket_cache: module.use_ticket_cache,
            ticket_cache: module.ticket_cache.clone(),
            ..Self::default()
        };
        if !module.use_key_tab && !module.use_ticket_cache {
            return Err(Error::misuse(
                "Krb5LoginModule: neither useKeyTab=true nor useTicketCache=true is set, and nobody can be asked for a password",
            ));
        }
        let mut service = module.service_name.clone();
        let mut unknown = Vec::new();
        for (name, value) in properties {
            match name {
                "sasl.kerberos.service.name" => {
                    if service.as_deref().is_some_and(|known| known != value) {
                        return Err(Error::misuse(format!(
                            "{name}={value} is not the serviceName of Krb5LoginModule"
                        )));
                    }
                    service = Some(value.to_owned());
                }
                "sasl.kerberos.ticket.renew.window.factor" => {
                    options.renew_window_factor = number(name, value, 0.1, 1.0)?;
                }
                "sasl.kerberos.ticket.renew.jitter" => options.renew_jitter = number(name, value, 0.0, 0.25)?,
                "sasl.kerberos.min.time.before.relogin" => {
                    let millis = value.trim().parse();
                    let millis =
                        millis.map_err(|_| Error::misuse(format!("{name}={value} is no number of ms")))?;
                    options.min_time_before_relogin = Duration::from_millis(millis);
                }
                // The program that Java calls to renew tickets; they are renewed here without one.
                "sasl.kerberos.kinit.cmd" => {}
                other => unknown.push(other.to_owned()),
            }
        }
        options.service_name = service.unwrap_or_else(|| "kafka".to_owned());
        Ok((options, unknown))
    }
}

fn number(name: &str, value: &str, least: f64, most: f64) -> Result<f64> {
    let number = value.trim().parse::<f64>().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| Error::misuse(format!("{name}={value} is not a number from {least} to {most}")))
}

/// The options of Java's `com.sun.security.auth.module.Krb5LoginModule` that a client needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Krb5LoginModule {
    /// `useKeyTab`. Default `false`.
    pub use_key_tab: bool,
    /// `keyTab`.
    pub key_tab: Option<String>,
    /// `principal`.
    pub principal: Option<String>,
    /// `useTicketCache`. Default `false`.
    pub use_ticket_cache: bool,
    /// `ticketCache`.
    pub ticket_cache: Option<String>,
    /// `serviceName`, an older place for `sasl.kerberos.service.name`.
    pub service_name: Option<String>,
}

impl Krb5LoginModule {
    /// From the module's options, names and values. Returns the names that are unknown, too; those that only concern Java are
    /// known and have no effect.
    ///
    /// # Errors
    /// [`ErrorKind::Misuse`](crate::ErrorKind::Misuse) for a value that is neither true nor false where it has to be, and for
    /// `isInitiator=false`.
    pub fn from_options<'a>(
        options: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<(Self, Vec<String>)> {
        let mut module = Self::default();
        let mut unknown = Vec::new();
        for (name, value) in options {
            let text = || Some(value.to_owned()).filter(|text| !text.is_empty());
            match name {
                "useKeyTab" => module.use_key_tab = boolean(name, value)?,
                "keyTab" => module.key_tab = text(),
                "principal" => module.principal = text(),
                "useTicketCache" => module.use_ticket_cache = boolean(name, value)?,
                "ticketCache" => module.ticket_cache = text(),
                "serviceName" => module.service_name = text(),
                "isInitiator" => {
                    if !boolean(name, value)? {
                        return Err(Error::misuse(
                            "Krb5LoginModule: isInitiator=false is for brokers, not for clients",
                        ));
                    }
                }
                "storeKey" | "doNotPrompt" | "renewTGT" | "refreshKrb5Config" | "debug" | "useFirstPass"
                | "tryFirstPass" | "storePass" | "clearPass" => {}
                other => unknown.push(other.to_owned()),
            }
        }
        Ok((module, unknown))
    }
}

fn boolean(name: &str, value: &str) -> Result<bool> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "yes" => Ok(true),
        "false" | "no" => Ok(false),
        _ => Err(Error::misuse(format!("Krb5LoginModule: {name} is neither true nor false"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_module_and_properties_are_read() {
        let (module, unknown) = Krb5LoginModule::from_options([
            ("useKeyTab", "true"),
            ("storeKey", "true"),
            ("keyTab", "/k"),
            ("principal", "alice@A"),
            ("odd", "1"),
        ])
        .unwrap();
        assert_eq!(unknown, ["odd"]);
        let (options, unknown) = KerberosOptions::from_properties(
            &module,
            [
                ("sasl.kerberos.service.name", "bus"),
                ("sasl.kerberos.ticket.renew.window.factor", "0.5"),
                ("sasl.kerberos.ticket.renew.jitter", "0.1"),
                ("sasl.kerberos.min.time.before.relogin", "1500"),
                ("sasl.kerberos.kinit.cmd", "/usr/bin/kinit"),
                ("sasl.kerberos.odd", "1"),
            ],
        )
        .unwrap();
        assert_eq!(unknown, ["sasl.kerberos.odd"]);
        assert_eq!((options.service_name.as_str(), options.keytab.as_deref()), ("bus", Some("/k")));
        assert!(options.use_keytab && !options.use_ticket_cache);
        assert_eq!(options.min_time_before_relogin, Duration::from_millis(1500));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert!(Krb5LoginModule::from_options([("useKeyTab", "maybe")]).is_err());
        assert!(Krb5LoginModule::from_options([("isInitiator", "false")]).is_err());
        let read =
            |module: &Krb5LoginModule, name, value| KerberosOptions::from_properties(module, [(name, value)]);
        assert!(read(&Krb5LoginModule::default(), "sasl.kerberos.service.name", "kafka").is_err());
        let module = Krb5LoginModule {
            use_ticket_cache: true,
            service_name: Some("kafka".to_owned()),
            ..Krb5LoginModule::default()
        };
        assert!(read(&module, "sasl.kerberos.service.name", "other").is_err());
        assert!(read(&module, "sasl.kerberos.service.name", "kafka").is_ok());
        assert!(read(&module, "sasl.kerberos.ticket.renew.jitter", "0.5").is_err());
        assert!(read(&module, "sasl.kerberos.min.time.before.relogin", "-1").is_err());
    }

    #[test]
    fn javas_properties_make_credentials_of_kerberos() {
        let read = |jaas: &str| {
            crate::ClientConfig::from_properties([
                ("bootstrap.servers", "a:1"),
                ("security.protocol", "SASL_PLAINTEXT"),
                ("sasl.kerberos.service.name", "bus"),
                ("sasl.jaas.config", jaas),
            ])
        };
        let module = "com.sun.security.auth.module.Krb5LoginModule required";
        let (config, unknown) =
            read(&format!("{module} useKeyTab=true keyTab=\"/k\" principal=\"a@A\";")).unwrap();
        let sasl = config.sasl.unwrap();
        let shown = format!("{sasl:?}");
        assert_eq!((sasl.mechanism(), unknown.len()), ("GSSAPI", 0));
        assert!(
            shown.contains("\"bus\"") && shown.contains("\"/k\"") && shown.contains("\"a@A\""),
            "{shown}"
        );
        let error = read(&format!("{module} useKeyTab=false;")).unwrap_err();
        assert!(error.to_string().contains("useTicketCache=true"), "{error}");
    }

    #[test]
    fn a_password_does_not_show() {
        let options = KerberosOptions::with_password("alice@A", "hunter2");
        assert!(!format!("{options:?}").contains("hunter2"));
    }
}
