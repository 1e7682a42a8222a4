//! The messages between a client and its KDC.
//!
//! # References
//! RFC 4120, 5.4 (KDC-REQ, KDC-REP), 5.9 (KRB-ERROR), 5.2.7 (pre-authentication); RFC 6806 (names and referrals).

use std::sync::Arc;

use zeroize::Zeroizing;

use super::credential::Times;
use super::crypto::{Enctype, Key, Usage, describe};
use super::der::{self, Reader, tag};
use super::entropy::Entropy;
use super::error::{KerberosError, KerberosErrorKind, Result};
use super::principal::Principal;
use super::time::Timestamp;

/// The protocol's version, in every message.
const PVNO: i64 = 5;

/// Message types, which are the numbers of their application tags too.
pub(crate) const AS_REQ: u8 = 10;
pub(crate) const AS_REP: u8 = 11;
pub(crate) const TGS_REQ: u8 = 12;
pub(crate) const TGS_REP: u8 = 13;
pub(crate) const AP_REQ: u8 = 14;
pub(crate) const AP_REP: u8 = 15;
pub(crate) const KRB_ERROR: u8 = 30;

/// Kinds of pre-authentication data.
pub(crate) const PA_TGS_REQ: i32 = 1;
pub(crate) const PA_ENC_TIMESTAMP: i32 = 2;
pub(crate) const PA_ETYPE_INFO2: i32 = 19;

/// KDCOptions.
pub(crate) mod option {
    pub(crate) const FORWARDABLE: u32 = 0x4000_0000;
    pub(crate) const RENEWABLE: u32 = 0x0080_0000;
    pub(crate) const CANONICALIZE: u32 = 0x0001_0000;
    pub(crate) const RENEWABLE_OK: u32 = 0x0000_0010;
    pub(crate) const RENEW: u32 = 0x0000_0002;
}

/// What is asked of a KDC.
#[derive(Debug)]
pub(crate) struct Body<'a> {
    pub(crate) options: u32,
    /// Who asks; in a TGS-REQ the ticket says it.
    pub(crate) client: Option<&'a Principal>,
    /// The service, in the realm of the KDC.
    pub(crate) server: &'a Principal,
    pub(crate) till: Timestamp,
    pub(crate) renew_till: Option<Timestamp>,
    pub(crate) nonce: i32,
    /// The most wanted one first.
    pub(crate) enctypes: &'a [Enctype],
}

impl Body<'_> {
    pub(crate) fn to_der(&self) -> Vec<u8> {
        let enctypes: Vec<_> =
            self.enctypes.iter().map(|enctype| der::integer(enctype.number().into())).collect();
        let enctypes: Vec<&[u8]> = enctypes.iter().map(|enctype| enctype.as_slice()).collect();
        let body = der::sequence(&[
            &der::field(0, &der::flags(self.options)),
            &der::optional(1, self.client.map(Principal::name_to_der)),
            &der::field(2, &der::string(self.server.realm())),
            &der::field(3, &self.server.name_to_der()),
            &der::field(5, &self.till.to_der()),
            &der::optional(6, self.renew_till.map(Timestamp::to_der)),
            &der::field(7, &der::integer(self.nonce.into())),
            &der::field(8, &der::sequence(&enctypes)),
        ]);
        body.to_vec()
    }
}

/// An AS-REQ or a TGS-REQ with at most one piece of pre-authentication data.
pub(crate) fn kdc_request(kind: u8, padata: Option<(i32, &[u8])>, body: &[u8]) -> Vec<u8> {
    let padata = padata.map(|(kind, value)| {
        let pair =
            der::sequence(&[&der::field(1, &der::integer(kind.into())), &der::field(2, &der::octets(value))]);
        der::sequence(&[&pair])
    });
    let request = der::sequence(&[
        &der::field(1, &der::integer(PVNO)),
        &der::field(2, &der::integer(kind.into())),
        &der::optional(3, padata),
        &der::field(4, body),
    ]);
    der::element(tag::application(kind), &[&request]).to_vec()
}

/// EncryptedData of these bytes.
pub(crate) fn encrypted(key: &Key, usage: Usage, plain: &[u8], entropy: &mut Entropy) -> Result<Vec<u8>> {
    let cipher = key.encrypt(usage, plain, entropy)?;
    let data = der::sequence(&[
        &der::field(0, &der::integer(key.enctype().number().into())),
        &der::field(2, &der::octets(&cipher)),
    ]);
    Ok(data.to_vec())
}

/// PA-ENC-TIMESTAMP: the time, encrypted with the client's key.
pub(crate) fn encrypted_timestamp(key: &Key, now: Timestamp, entropy: &mut Entropy) -> Result<Vec<u8>> {
    let plain =
        der::sequence(&[&der::field(0, &now.to_der()), &der::field(1, &der::integer(now.subsec_micros()))]);
    encrypted(key, Usage::AS_REQ_TIMESTAMP, &plain, entropy)
}

/// What an authenticator says besides who and when.
#[derive(Debug)]
pub(crate) struct Authenticator<'a> {
    pub(crate) client: &'a Principal,
    pub(crate) checksum: (i32, &'a [u8]),
    pub(crate) now: Timestamp,
    pub(crate) subkey: Option<&'a Key>,
    pub(crate) sequence: Option<u32>,
}

impl Authenticator<'_> {
    fn to_der(&self) -> Zeroizing<Vec<u8>> {
        let (kind, checksum) = self.checksum;
        let subkey = self.subkey.map(|key| {
            der::sequence(&[
                &der::field(0, &der::integer(key.enctype().number().into())),
                &der::field(1, &der::octets(key.bytes())),
            ])
        });
        let inside = der::sequence(&[
            &der::field(0, &der::integer(PVNO)),
            &der::field(1, &der::string(self.client.realm())),
            &der::field(2, &self.client.name_to_der()),
            &der::field(
                3,
                &der::sequence(&[
                    &der::field(0, &der::integer(kind.into())),
                    &der::field(1, &der::octets(checksum)),
                ]),
            ),
            &der::field(4, &der::integer(self.now.subsec_micros())),
            &der::field(5, &self.now.to_der()),
            &der::optional(6, subkey),
            &der::optional(7, self.sequence.map(|number| der::integer(number.into()))),
        ]);
        der::element(tag::application(2), &[&inside])
    }
}

/// An AP-REQ: the ticket, and the authenticator encrypted with its session key.
pub(crate) fn ap_request(
    options: u32,
    ticket: &[u8],
    key: &Key,
    usage: Usage,
    authenticator: &Authenticator<'_>,
    entropy: &mut Entropy,
) -> Result<Vec<u8>> {
    let request = der::sequence(&[
        &der::field(0, &der::integer(PVNO)),
        &der::field(1, &der::integer(AP_REQ.into())),
        &der::field(2, &der::flags(options)),
        &der::field(3, ticket),
        &der::field(4, &encrypted(key, usage, &authenticator.to_der(), entropy)?),
    ]);
    Ok(der::element(tag::application(AP_REQ), &[&request]).to_vec())
}

/// EncryptedData as it is read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Encrypted<'a> {
    pub(crate) enctype: i32,
    pub(crate) cipher: &'a [u8],
}

impl<'a> Encrypted<'a> {
    pub(crate) fn from_der(reader: &mut Reader<'a>) -> Result<Self> {
        let mut data = reader.enter(tag::SEQUENCE)?;
        let enctype = data.field(0)?.int32()?;
        data.optional(1)?;
        Ok(Self { enctype, cipher: data.field(2)?.octets()? })
    }

    /// Decrypts it with a key, which must be of its type.
    pub(crate) fn decrypt(&self, key: &Key, usage: Usage) -> Result<Zeroizing<Vec<u8>>> {
        if key.enctype().number() != self.enctype {
            return Err(KerberosError::peer(format!(
                "an answer is encrypted with {} where {} was agreed on",
                describe(self.enctype),
                key.enctype()
            )));
        }
        key.decrypt(usage, self.cipher)
    }
}

/// An EncryptionKey.
pub(crate) fn key_from_der(reader: &mut Reader<'_>) -> Result<Key> {
    let mut key = reader.enter(tag::SEQUENCE)?;
    let number = key.field(0)?.int32()?;
    let enctype = Enctype::from_number(number).ok_or_else(|| {
        KerberosError::new(
            KerberosErrorKind::NoCommonEnctype,
            format!("the session key is {}, which is not spoken here", describe(number)),
        )
    })?;
    Key::new(enctype, key.field(1)?.octets()?)
}

/// The application number of a message, to tell an answer from an error.
pub(crate) fn kind_of(message: &[u8]) -> Option<u8> {
    Reader::new(message).peek().filter(|tag| tag & 0xe0 == 0x60).map(|tag| tag & 0x1f)
}

/// An AS-REP or a TGS-REP.
#[derive(Debug)]
pub(crate) struct KdcReply<'a> {
    padata: Vec<(i32, &'a [u8])>,
    pub(crate) client: Principal,
    pub(crate) ticket: Arc<[u8]>,
    pub(crate) encrypted: Encrypted<'a>,
}

impl<'a> KdcReply<'a> {
    pub(crate) fn from_der(kind: u8, message: &'a [u8]) -> Result<Self> {
        let mut outer = Reader::new(message);
        let mut reply = outer.enter(tag::application(kind))?.enter(tag::SEQUENCE)?;
        outer.end()?;
        check_head(&mut reply, 0, kind)?;
        let padata = match reply.optional(2)? {
            Some(mut padata) => padata_from_der(&mut padata)?,
            None => Vec::new(),
        };
        let realm = reply.field(3)?.string()?;
        let client = Principal::from_der(&mut reply.field(4)?, realm)?;
        let ticket = reply.field(5)?.read_whole(tag::application(1))?;
        let encrypted = Encrypted::from_der(&mut reply.field(6)?)?;
        Ok(Self { padata, client, ticket: ticket.into(), encrypted })
    }

    pub(crate) fn padata(&self) -> &[(i32, &'a [u8])] {
        &self.padata
    }
}

/// `pvno` and `msg-type` from field `first` on.
pub(crate) fn check_head(reader: &mut Reader<'_>, first: u8, kind: u8) -> Result<()> {
    let version = reader.field(first)?.integer()?;
    let found = reader.field(first + 1)?.integer()?;
    if version == PVNO && found == i64::from(kind) {
        return Ok(());
    }
    Err(KerberosError::peer(format!(
        "a message of Kerberos version {version} and type {found} where type {kind} was expected"
    )))
}

/// The most pieces of pre-authentication data in one message.
const MAX_PADATA: usize = 64;

fn padata_from_der<'a>(reader: &mut Reader<'a>) -> Result<Vec<(i32, &'a [u8])>> {
    let mut list = reader.enter(tag::SEQUENCE)?;
    let mut padata = Vec::new();
    while !list.is_empty() {
        if padata.len() == MAX_PADATA {
            return Err(KerberosError::peer("a message has too much pre-authentication data"));
        }
        let mut one = list.enter(tag::SEQUENCE)?;
        padata.push((one.field(1)?.int32()?, one.field(2)?.octets()?));
    }
    Ok(padata)
}

/// The encrypted part of an answer.
#[derive(Debug)]
pub(crate) struct ReplyPart {
    pub(crate) key: Key,
    pub(crate) nonce: u32,
    pub(crate) flags: u32,
    pub(crate) times: Times,
    pub(crate) server: Principal,
}

impl ReplyPart {
    pub(crate) fn from_der(bytes: &[u8]) -> Result<Self> {
        let mut outer = Reader::new(bytes);
        // Some KDCs mark the part of an AS-REP as that of a TGS-REP.
        let wanted = match outer.peek() {
            Some(found) if found == tag::application(26) => found,
            _ => tag::application(25),
        };
        let mut part = outer.enter(wanted)?.enter(tag::SEQUENCE)?;
        let key = key_from_der(&mut part.field(0)?)?;
        part.field(1)?;
        let nonce = part.field(2)?.uint32()?;
        part.optional(3)?;
        let flags = part.field(4)?.flags()?;
        let authenticated = Timestamp::from_der(&mut part.field(5)?)?;
        let time =
            |field: Option<Reader<'_>>| field.map(|mut field| Timestamp::from_der(&mut field)).transpose();
        let start = time(part.optional(6)?)?.unwrap_or(authenticated);
        let end = Timestamp::from_der(&mut part.field(7)?)?;
        let renew_until = time(part.optional(8)?)?;
        let realm = part.field(9)?.string()?;
        let server = Principal::from_der(&mut part.field(10)?, realm)?;
        Ok(Self { key, nonce, flags, times: Times { start, end, renew_until }, server })
    }
}

/// One entry of ETYPE-INFO2: how the client's key of a type is made of a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EtypeInfo {
    pub(crate) enctype: i32,
    pub(crate) salt: Option<Vec<u8>>,
    pub(crate) params: Option<Vec<u8>>,
}

impl EtypeInfo {
    /// All entries, the KDC's favourite first. `None` if the data has no ETYPE-INFO2.
    pub(crate) fn find(padata: &[(i32, &[u8])]) -> Result<Option<Vec<Self>>> {
        let Some((_, value)) = padata.iter().find(|(kind, _)| *kind == PA_ETYPE_INFO2) else {
            return Ok(None);
        };
        let mut list = Reader::new(value).enter(tag::SEQUENCE)?;
        let mut entries = Vec::new();
        while !list.is_empty() {
            if entries.len() == MAX_PADATA {
                return Err(KerberosError::peer("the KDC lists too many encryption types"));
            }
            let mut one = list.enter(tag::SEQUENCE)?;
            let enctype = one.field(0)?.int32()?;
            // A salt is no name and may hold any bytes.
            let salt = match one.optional(1)? {
                Some(mut salt) => Some(salt.read(tag::GENERAL_STRING)?.to_vec()),
                None => None,
            };
            let params = match one.optional(2)? {
                Some(mut params) => Some(params.octets()?.to_vec()),
                None => None,
            };
            entries.push(Self { enctype, salt, params });
        }
        Ok(Some(entries))
    }
}

/// A KRB-ERROR.
#[derive(Clone, Debug)]
pub(crate) struct KrbError {
    pub(crate) code: i32,
    /// The peer's clock when it wrote this.
    pub(crate) time: Timestamp,
    /// Where the client is to go, in a referral.
    pub(crate) client_realm: Option<String>,
    pub(crate) text: Option<String>,
    data: Vec<u8>,
}

impl KrbError {
    pub(crate) fn from_der(message: &[u8]) -> Result<Self> {
        let mut outer = Reader::new(message);
        let mut error = outer.enter(tag::application(KRB_ERROR))?.enter(tag::SEQUENCE)?;
        outer.end()?;
        check_head(&mut error, 0, KRB_ERROR)?;
        error.optional(2)?;
        error.optional(3)?;
        let time = Timestamp::from_der(&mut error.field(4)?)?;
        let micros = error.field(5)?.integer()?.clamp(0, 999_999);
        let code = error.field(6)?.int32()?;
        let client_realm = match error.optional(7)? {
            Some(mut realm) => Some(realm.string()?.to_owned()),
            None => None,
        };
        // Names and realms that only repeat the question.
        for number in [8, 9, 10] {
            error.optional(number)?;
        }
        let text = match error.optional(11)? {
            Some(mut text) => {
                let bytes = text.read(tag::GENERAL_STRING)?;
                Some(String::from_utf8_lossy(bytes).chars().filter(|c| !c.is_control()).take(200).collect())
            }
            None => None,
        };
        let data = match error.optional(12)? {
            Some(mut data) => data.octets()?.to_vec(),
            None => Vec::new(),
        };
        Ok(Self { code, time: time.plus_micros(micros), client_realm, text, data })
    }

    /// METHOD-DATA: what pre-authentication the KDC offers.
    pub(crate) fn padata(&self) -> Result<Vec<(i32, &[u8])>> {
        if self.data.is_empty() {
            return Ok(Vec::new());
        }
        padata_from_der(&mut Reader::new(&self.data))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A KRB-ERROR as a KDC writes it.
    pub(crate) fn krb_error(code: i32, time: Timestamp, realm: &str, data: Option<&[u8]>) -> Vec<u8> {
        let inside = der::sequence(&[
            &der::field(0, &der::integer(5)),
            &der::field(1, &der::integer(30)),
            &der::field(4, &time.to_der()),
            &der::field(5, &der::integer(time.subsec_micros())),
            &der::field(6, &der::integer(code.into())),
            &der::field(7, &der::string(realm)),
            &der::field(9, &der::string(realm)),
            &der::field(10, &Principal::ticket_granting(realm, realm).name_to_der()),
            &der::field(11, &der::string("why")),
            &der::optional(12, data.map(der::octets)),
        ]);
        der::element(tag::application(30), &[&inside]).to_vec()
    }

    #[test]
    fn errors_are_read_and_every_cut_is_refused() {
        let time = Timestamp::from_seconds(1_700_000_000).plus_micros(123_456);
        let bytes = krb_error(37, time, "A", Some(b"x"));
        let error = KrbError::from_der(&bytes).unwrap();
        assert_eq!((error.code, error.time, error.text.as_deref()), (37, time, Some("why")));
        assert_eq!(error.client_realm.as_deref(), Some("A"));
        assert_eq!(kind_of(&bytes), Some(KRB_ERROR));
        for cut in 0..bytes.len() {
            assert!(KrbError::from_der(&bytes[..cut]).is_err());
        }
    }

    #[test]
    fn fields_of_later_revisions_are_skipped() {
        let part = |extra: &[u8]| {
            let inside = der::sequence(&[
                &der::field(0, &der::integer(18)),
                &der::field(2, &der::octets(b"cipher")),
                extra,
            ]);
            Encrypted::from_der(&mut Reader::new(&inside)).map(|data| data.enctype)
        };
        assert_eq!(part(&der::field(9, &der::integer(1))).unwrap(), 18);
    }

    #[test]
    fn a_salt_may_be_absent() {
        let entry = |salt: Option<&[u8]>| {
            der::sequence(&[
                &der::field(0, &der::integer(18)),
                &der::optional(1, salt.map(|salt| der::element(tag::GENERAL_STRING, &[salt]))),
                &der::field(2, &der::octets(&[0, 0, 16, 0])),
            ])
        };
        let value = der::sequence(&[&entry(None), &entry(Some(&[0xff]))]);
        let found = EtypeInfo::find(&[(2, &[]), (PA_ETYPE_INFO2, &value)]).unwrap().unwrap();
        assert_eq!((found[0].salt.as_deref(), found[1].salt.as_deref()), (None, Some(&[0xff][..])));
        assert!(EtypeInfo::find(&[(2, &[])]).unwrap().is_none());
    }
}
