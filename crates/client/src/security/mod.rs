//! Security settings by the names of Kafka's Java clients.
//!
//! `security.protocol`, `ssl.*`, `sasl.*` and the JAAS configuration become [`ClientConfig::tls`](crate::ClientConfig::tls) and
//! [`ClientConfig::sasl`](crate::ClientConfig::sasl). What names a Java class that has no counterpart here is refused; what is known
//! and has no meaning here is accepted with a warning.

mod names;
mod properties_file;
mod sasl_properties;
mod ssl_properties;

use std::collections::BTreeMap;

use milena_core::sasl::Secret;

pub use names::{is_known_property, nearest_property};
pub use properties_file::parse_properties;

use crate::config::ClientConfig;
use crate::error::{Error, Result};

/// Security settings on their way from strings to a configuration.
#[derive(Clone, Debug, Default)]
pub(crate) struct SecurityProperties(BTreeMap<&'static str, Secret>);

impl SecurityProperties {
    /// Takes a setting, if it is one of security.
    pub(crate) fn take(&mut self, name: &str, value: &str) -> bool {
        match names::security(name) {
            Some(name) => {
                self.0.insert(name, Secret::from(value));
                true
            }
            None => false,
        }
    }

    /// Makes them part of a configuration. Reads the JAAS file if there is one, and no other file.
    pub(crate) fn apply(&self, config: &mut ClientConfig) -> Result<()> {
        let protocol = self.text("security.protocol").unwrap_or("PLAINTEXT").to_ascii_uppercase();
        let (tls, sasl) = match protocol.as_str() {
            "PLAINTEXT" => (false, false),
            "SSL" => (true, false),
            "SASL_PLAINTEXT" => (false, true),
            "SASL_SSL" => (true, true),
            other => {
                return Err(Error::misuse(format!("security.protocol is {other:?}"))
                    .with_remedy("use PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL"));
            }
        };
        // A token endpoint may be asked over TLS where brokers are not.
        let has_endpoint = sasl && self.get("sasl.oauthbearer.token.endpoint.url").is_some();
        for (prefix, used) in [("ssl.", tls || has_endpoint), ("sasl.", sasl)] {
            if !used && let Some(name) = self.0.keys().find(|name| name.starts_with(prefix)) {
                tracing::warn!(name, protocol, "this setting is not used with this security.protocol");
            }
        }
        if tls {
            config.tls = Some(ssl_properties::tls(self)?);
        }
        if sasl {
            config.sasl = Some(sasl_properties::credentials(self)?);
        }
        Ok(())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Secret> {
        self.0.get(name)
    }

    /// A value that may be shown.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(Secret::expose_text).map(str::trim)
    }

    /// The items of a list.
    fn list(&self, name: &str) -> Vec<String> {
        let text = self.text(name).unwrap_or_default();
        text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
    }

    /// Whether a setting is on; off is the default.
    fn flag(&self, name: &str) -> Result<bool> {
        match self.text(name).map(str::to_ascii_lowercase).as_deref() {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => Err(Error::misuse(format!("{name} is {other:?}; it must be true or false"))),
        }
    }

    /// A number, or its default.
    fn number(&self, name: &str, default: f64) -> Result<f64> {
        match self.text(name) {
            None => Ok(default),
            Some(text) => text
                .parse()
                .ok()
                .filter(|number: &f64| number.is_finite() && *number >= 0.0)
                .ok_or_else(|| Error::misuse(format!("{name} is {text:?}; it must be a number"))),
        }
    }
}
