//! What goes wrong between a client, its KDCs and a broker, in words that say what to do.

use std::fmt;

/// What kind of trouble it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KerberosErrorKind {
    /// A setting, `krb5.conf` or a name in it makes no sense or is missing.
    Config,
    /// A keytab cannot be read, or lacks the key that is needed.
    Keytab,
    /// A ticket cache cannot be read, or lacks the ticket that is needed.
    Cache,
    /// No KDC of a realm answered.
    Unreachable,
    /// The KDC does not know the client's principal.
    UnknownClient,
    /// The KDC does not know the service's principal.
    UnknownService,
    /// The key or the password is not the principal's.
    WrongKey,
    /// The clocks of the two sides are too far apart.
    ClockSkew,
    /// A ticket, a key or an account has expired.
    Expired,
    /// The two sides share no encryption type.
    NoCommonEnctype,
    /// The KDC or the service refused for another reason.
    Refused,
    /// The broker wants a protection that is not spoken here.
    Unsupported,
    /// The peer answered nonsense, or its answer was changed on the way.
    Peer,
}

/// A failed Kerberos exchange. Never holds a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct KerberosError {
    kind: KerberosErrorKind,
    code: Option<i32>,
    text: Box<str>,
}

impl KerberosError {
    /// An error of this kind.
    #[must_use]
    pub fn new(kind: KerberosErrorKind, text: impl Into<String>) -> Self {
        Self { kind, code: None, text: text.into().into_boxed_str() }
    }

    pub(crate) fn peer(text: impl Into<String>) -> Self {
        Self::new(KerberosErrorKind::Peer, text)
    }

    /// The same with the code of the KRB-ERROR that it comes from.
    pub(crate) fn with_code(mut self, code: i32) -> Self {
        self.code = Some(code);
        self
    }

    /// The same with words before it.
    #[must_use]
    pub fn within(mut self, context: &str) -> Self {
        self.text = format!("{context}: {}", self.text).into_boxed_str();
        self
    }

    /// What kind of trouble it was.
    #[must_use]
    pub fn kind(&self) -> KerberosErrorKind {
        self.kind
    }

    /// The code of the KRB-ERROR that said so (RFC 4120, 7.5.9), if one did.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.code
    }

    /// Whether another try may end differently without anybody changing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.kind == KerberosErrorKind::Unreachable
    }
}

impl fmt::Display for KerberosError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for KerberosError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KerberosError({:?}, {})", self.kind, self.text)
    }
}

impl std::error::Error for KerberosError {}

/// The outcome of a Kerberos step.
pub type Result<T> = std::result::Result<T, KerberosError>;
