//! Names of clients and services.

use std::fmt;

use zeroize::Zeroizing;

use super::der::{self, Reader, tag};
use super::error::{KerberosError, KerberosErrorKind, Result};

/// A user, or a service of no kind in particular (NT-PRINCIPAL).
pub(crate) const NT_PRINCIPAL: i32 = 1;
/// A service that belongs to a realm, such as a ticket-granting one (NT-SRV-INST).
pub(crate) const NT_SRV_INST: i32 = 2;
/// A service on a host (NT-SRV-HST).
pub(crate) const NT_SRV_HST: i32 = 3;

/// The most components that a name may have.
const MAX_COMPONENTS: usize = 32;

/// A principal: one or more components and a realm, written `a/b@REALM`.
///
/// Two are equal if components and realm are; the type is a hint only (RFC 4120, 6.2).
#[derive(Clone, Debug)]
pub struct Principal {
    name_type: i32,
    components: Vec<String>,
    realm: String,
}

impl PartialEq for Principal {
    fn eq(&self, other: &Self) -> bool {
        self.components == other.components && self.realm == other.realm
    }
}

impl Eq for Principal {}

impl std::hash::Hash for Principal {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.components.hash(state);
        self.realm.hash(state);
    }
}

impl Principal {
    pub(crate) fn new(name_type: i32, components: Vec<String>, realm: impl Into<String>) -> Self {
        Self { name_type, components, realm: realm.into() }
    }

    /// From `a/b@REALM`; `default_realm` is used without an `@`. A backslash takes the meaning from the character that follows.
    ///
    /// # Errors
    /// [`KerberosErrorKind::Config`] if a component or the realm is empty, or there is no realm at all.
    pub fn parse(text: &str, default_realm: Option<&str>) -> Result<Self> {
        let wrong =
            |why: &str| KerberosError::new(KerberosErrorKind::Config, format!("principal {text:?}: {why}"));
        let mut components = vec![String::new()];
        let mut realm: Option<String> = None;
        let mut characters = text.chars();
        while let Some(character) = characters.next() {
            let (literal, character) = match character {
                '\\' => match characters.next().ok_or_else(|| wrong("nothing follows the last backslash"))? {
                    'n' => (true, '\n'),
                    't' => (true, '\t'),
                    other => (true, other),
                },
                other => (false, other),
            };
            match (literal, character, &mut realm) {
                (false, '@', None) => realm = Some(String::new()),
                (false, '@', Some(_)) => return Err(wrong("two @")),
                (false, '/', None) => components.push(String::new()),
                (_, other, Some(realm)) => realm.push(other),
                (_, other, None) => components.last_mut().into_iter().for_each(|last| last.push(other)),
            }
        }
        if components.iter().any(String::is_empty) || components.len() > MAX_COMPONENTS {
            return Err(wrong("a part of the name is empty, or it has too many"));
        }
        let realm = match (realm, default_realm) {
            (Some(realm), _) if !realm.is_empty() => realm,
            (Some(_), _) => return Err(wrong("the realm is empty")),
            (None, Some(realm)) => realm.to_owned(),
            (None, None) => return Err(wrong("it names no realm, and krb5.conf has no default_realm")),
        };
        Ok(Self::new(NT_PRINCIPAL, components, realm))
    }

    /// The service on a host, such as `kafka/broker1.example.com@EXAMPLE.COM`.
    #[must_use]
    pub fn service(name: &str, host: &str, realm: &str) -> Self {
        Self::new(NT_SRV_HST, vec![name.to_owned(), host.to_owned()], realm)
    }

    /// The ticket-granting service of `of`, as `realm` knows it: `krbtgt/OF@REALM`.
    pub(crate) fn ticket_granting(of: &str, realm: &str) -> Self {
        Self::new(NT_SRV_INST, vec!["krbtgt".to_owned(), of.to_owned()], realm)
    }

    /// The realm for which this is the ticket-granting service, if it is one.
    pub(crate) fn grants_for(&self) -> Option<&str> {
        match self.components.as_slice() {
            [name, realm] if name == "krbtgt" => Some(realm),
            _ => None,
        }
    }

    /// The parts of the name.
    #[must_use]
    pub fn components(&self) -> &[String] {
        &self.components
    }

    /// The realm.
    #[must_use]
    pub fn realm(&self) -> &str {
        &self.realm
    }

    /// The same name in another realm.
    #[must_use]
    pub fn in_realm(&self, realm: &str) -> Self {
        Self { realm: realm.to_owned(), ..self.clone() }
    }

    /// A PrincipalName (RFC 4120, 5.2.2): without the realm.
    pub(crate) fn name_to_der(&self) -> Zeroizing<Vec<u8>> {
        let names: Vec<_> = self.components.iter().map(|component| der::string(component)).collect();
        let parts: Vec<&[u8]> = names.iter().map(|name| name.as_slice()).collect();
        der::sequence(&[
            &der::field(0, &der::integer(self.name_type.into())),
            &der::field(1, &der::sequence(&parts)),
        ])
    }

    /// A principal from the PrincipalName that comes next.
    pub(crate) fn from_der(reader: &mut Reader<'_>, realm: &str) -> Result<Self> {
        let mut name = reader.enter(tag::SEQUENCE)?;
        let name_type = name.field(0)?.int32()?;
        let mut list = name.field(1)?.enter(tag::SEQUENCE)?;
        let mut components = Vec::new();
        while !list.is_empty() {
            if components.len() == MAX_COMPONENTS {
                return Err(KerberosError::peer("a principal's name has too many parts"));
            }
            components.push(list.string()?.to_owned());
        }
        Ok(Self::new(name_type, components, realm))
    }

    /// The salt of its keys where the KDC names none: realm and components in a row (RFC 4120, 4).
    pub(crate) fn default_salt(&self) -> Vec<u8> {
        let mut salt = self.realm.clone().into_bytes();
        for component in &self.components {
            salt.extend_from_slice(component.as_bytes());
        }
        salt
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, component) in self.components.iter().enumerate() {
            if index > 0 {
                f.write_str("/")?;
            }
            escape(f, component)?;
        }
        f.write_str("@")?;
        escape(f, &self.realm)
    }
}

fn escape(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    for character in text.chars() {
        match character {
            '\n' => f.write_str("\\n")?,
            '\t' => f.write_str("\\t")?,
            '/' | '@' | '\\' => write!(f, "\\{character}")?,
            control if control.is_control() => write!(f, "{}", control.escape_default())?,
            other => write!(f, "{other}")?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_read_as_kerberos_writes_them() {
        let kafka = Principal::parse("kafka/broker.example.com@EXAMPLE.COM", None).unwrap();
        assert_eq!(kafka, Principal::service("kafka", "broker.example.com", "EXAMPLE.COM"));
        assert_eq!(Principal::parse("alice", Some("A.B")).unwrap().to_string(), "alice@A.B");
        let odd = Principal::parse(r"a\/b\@c@R", None).unwrap();
        assert_eq!((odd.components(), odd.to_string().as_str()), (&["a/b@c".to_owned()][..], r"a\/b\@c@R"));
        assert_eq!(Principal::ticket_granting("B", "A").grants_for(), Some("B"));
    }

    #[test]
    fn names_without_sense_are_refused() {
        for text in ["", "@R", "a@", "a//b@R", "/a@R", "a@b@c", "a\\"] {
            assert!(Principal::parse(text, Some("R")).is_err(), "{text}");
        }
        assert!(Principal::parse("alice", None).unwrap_err().to_string().contains("default_realm"));
    }

    proptest! {
        #[test]
        fn names_come_back(components in proptest::collection::vec("[a-z/@\\\\ \n\t]{1,8}", 1..4), realm in "[A-Z./@]{1,8}") {
            let principal = Principal::new(NT_PRINCIPAL, components, realm.clone());
            prop_assert_eq!(&Principal::parse(&principal.to_string(), None).unwrap(), &principal);
            let der = principal.name_to_der();
            prop_assert_eq!(&Principal::from_der(&mut Reader::new(&der), &realm).unwrap(), &principal);
            for cut in 0..der.len() {
                prop_assert!(Principal::from_der(&mut Reader::new(&der[..cut]), &realm).is_err());
            }
        }
    }
}
