//! As much of the DNS as Kerberos asks for: where a realm's KDCs are (SRV), and which name a host really has (CNAME).
//!
//! Answers of the DNS prove nothing. A KDC that is not the realm's cannot make a ticket that opens with the client's key; a host name from
//! the DNS chooses the service, which is why that is off unless `dns_canonicalize_hostname` asks for it.
//!
//! # References
//! RFC 1035, 4 (messages), RFC 2782 (SRV), RFC 4120, 7.2.3.2 (KDCs by SRV).

use super::bytes::Bytes;
use super::error::{KerberosError, KerberosErrorKind, Result};

/// What is asked of the DNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsKind {
    /// An address, for the names on the way to it.
    Address,
    /// Where a service is.
    Service,
}

impl DnsKind {
    fn number(self) -> u16 {
        match self {
            Self::Address => 1,
            Self::Service => 33,
        }
    }
}

const CNAME: u16 = 5;
const SRV: u16 = 33;
const INTERNET: u16 = 1;
/// A name has 255 bytes at most, and labels 63.
const MAX_NAME: usize = 255;
const MAX_LABEL: usize = 63;
/// How many names may lead to each other.
const MAX_CHAIN: usize = 16;

/// Where a service is, in an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsService {
    /// The lowest is to be tried first.
    pub priority: u16,
    /// Among equal priorities, how much of the load it is to take.
    pub weight: u16,
    /// Its port.
    pub port: u16,
    /// Its host.
    pub host: String,
}

/// What an answer says, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsAnswer {
    services: Vec<DnsService>,
    /// Names and what they stand for, in lower case.
    aliases: Vec<(String, String)>,
    /// Whether there was any record at all.
    found: bool,
}

/// A question for a name, with recursion. `None` if the name cannot be asked for.
#[must_use]
pub fn dns_query(id: u16, name: &str, kind: DnsKind) -> Option<Vec<u8>> {
    let mut message = id.to_be_bytes().to_vec();
    // Recursion desired; one question.
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    let name = name.trim_end_matches('.');
    if name.is_empty() || name.len() > MAX_NAME - 2 {
        return None;
    }
    for label in name.split('.') {
        let length =
            u8::try_from(label.len()).ok().filter(|length| (1..=MAX_LABEL as u8).contains(length))?;
        message.push(length);
        message.extend_from_slice(label.as_bytes());
    }
    message.push(0);
    message.extend(kind.number().to_be_bytes());
    message.extend(INTERNET.to_be_bytes());
    Some(message)
}

impl DnsAnswer {
    /// Reads the answer to a question with this id. A name that does not exist has an empty one.
    ///
    /// # Errors
    /// [`KerberosErrorKind::Peer`] for bytes that are no answer to it, and for a server that cannot answer.
    pub fn parse(id: u16, bytes: &[u8]) -> Result<Self> {
        const NO_SUCH_NAME: u8 = 3;
        let wrong = |text: &str| KerberosError::new(KerberosErrorKind::Peer, format!("the DNS: {text}"));
        let cut = || wrong("an answer is cut short");
        let mut rest = Bytes::new(bytes);
        let (found, high, low) = (rest.u16(), rest.u8().ok_or_else(cut)?, rest.u8().ok_or_else(cut)?);
        if found != Some(id) || high & 0x80 == 0 {
            return Err(wrong("an answer to another question"));
        }
        match low & 0x0f {
            0 => {}
            NO_SUCH_NAME => return Ok(Self::default()),
            code => return Err(wrong(&format!("the server answers with code {code}"))),
        }
        let questions = rest.u16().ok_or_else(cut)?;
        let records = rest.u16().ok_or_else(cut)?;
        rest.take(4).ok_or_else(cut)?;
        for _ in 0..questions {
            name(bytes, &mut rest).ok_or_else(cut)?;
            rest.take(4).ok_or_else(cut)?;
        }
        let mut answer = Self::default();
        for _ in 0..records {
            answer.record(bytes, &mut rest).ok_or_else(cut)?;
        }
        Ok(answer)
    }

    fn record<'a>(&mut self, whole: &'a [u8], rest: &mut Bytes<'a>) -> Option<()> {
        let owner = name(whole, rest)?;
        let kind = rest.u16()?;
        let _class = rest.u16()?;
        let _seconds = rest.u32()?;
        // What a name points to may lie anywhere before it, so the data is read in place.
        let mut data = *rest;
        rest.counted16()?;
        let _length = data.u16()?;
        self.found = true;
        match kind {
            CNAME => self.aliases.push((owner, name(whole, &mut data)?)),
            SRV => {
                let (priority, weight, port) = (data.u16()?, data.u16()?, data.u16()?);
                let host = name(whole, &mut data)?;
                // A root as the host says that the service is decidedly not there.
                if !host.is_empty() && port != 0 {
                    self.services.push(DnsService { priority, weight, port, host });
                }
            }
            _ => {}
        }
        Some(())
    }

    /// Where the service is, the first to be tried first.
    #[must_use]
    pub fn services(&self) -> Vec<DnsService> {
        let mut services = self.services.clone();
        services.sort_by_key(|service| (service.priority, u16::MAX - service.weight));
        services
    }

    /// The name that a host has in the end; `None` if the answer has no records.
    #[must_use]
    pub fn canonical(&self, host: &str) -> Option<String> {
        let mut current = host.trim_end_matches('.').to_ascii_lowercase();
        for _ in 0..MAX_CHAIN {
            match self.aliases.iter().find(|(alias, _)| *alias == current) {
                Some((_, target)) => current.clone_from(target),
                None => return self.found.then_some(current),
            }
        }
        None
    }
}

/// The name at the reader, in lower case and without the last dot. Pointers lead to earlier places only, so that it ends.
fn name<'a>(whole: &'a [u8], rest: &mut Bytes<'a>) -> Option<String> {
    let mut text = String::new();
    let mut reader = *rest;
    let mut jumped = false;
    let mut earliest = whole.len();
    loop {
        let length = reader.u8()?;
        match length {
            0 => break,
            1..=0x3f => {
                let label = std::str::from_utf8(reader.take(length.into())?).ok()?;
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(&label.to_ascii_lowercase());
                if text.len() > MAX_NAME {
                    return None;
                }
            }
            0xc0..=0xff => {
                let low = reader.u8()?;
                if !jumped {
                    *rest = reader;
                    jumped = true;
                }
                let target = usize::from(u16::from_be_bytes([length & 0x3f, low]));
                if target >= earliest {
                    return None;
                }
                earliest = target;
                reader = Bytes::new(whole.get(target..)?);
            }
            _ => return None,
        }
    }
    if !jumped {
        *rest = reader;
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An answer that repeats the question and has these records: name as bytes, type, data.
    fn answer(query: &[u8], records: &[(&[u8], u16, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = query.to_vec();
        bytes[2] = 0x81;
        bytes[3] = 0x80;
        bytes[7] = records.len() as u8;
        for (name, kind, data) in records {
            bytes.extend_from_slice(name);
            bytes.extend(kind.to_be_bytes());
            bytes.extend([0, 1, 0, 0, 0, 60]);
            bytes.extend((data.len() as u16).to_be_bytes());
            bytes.extend_from_slice(data);
        }
        bytes
    }

    fn written(name: &str) -> Vec<u8> {
        let labels = name.split('.').flat_map(|label| [&[label.len() as u8][..], label.as_bytes()].concat());
        labels.chain([0]).collect()
    }

    /// A pointer to the question's name.
    const ASKED: &[u8] = &[0xc0, 12];

    #[test]
    fn services_come_in_the_order_of_their_priority_and_weight() {
        let query = dns_query(7, "_kerberos._tcp.A.COM", DnsKind::Service).unwrap();
        let srv = |priority: u16, weight: u16, port: u16, host: &[u8]| {
            let numbers: Vec<u8> = [priority, weight, port].iter().flat_map(|n| n.to_be_bytes()).collect();
            [&numbers, host].concat()
        };
        // The second host's domain is a pointer into the question: "A.COM".
        let bytes = answer(
            &query,
            &[
                (ASKED, 33, srv(20, 0, 88, &written("last.a.com"))),
                (ASKED, 33, srv(10, 1, 89, &[b"\x05small".as_slice(), &[0xc0, 12 + 15]].concat())),
                (ASKED, 33, srv(10, 9, 88, &written("BIG.a.com"))),
                (ASKED, 33, srv(0, 0, 0, &[0])),
            ],
        );
        let hosts: Vec<String> =
            DnsAnswer::parse(7, &bytes).unwrap().services().into_iter().map(|service| service.host).collect();
        assert_eq!(hosts, ["big.a.com", "small.a.com", "last.a.com"]);
        for cut in 0..bytes.len() {
            assert!(DnsAnswer::parse(7, &bytes[..cut]).is_err(), "{cut}");
        }
        assert!(DnsAnswer::parse(8, &bytes).is_err());
    }

    #[test]
    fn aliases_are_followed_to_their_end() {
        let query = dns_query(7, "Kafka.a.com.", DnsKind::Address).unwrap();
        let records = [
            (&written("b1.a.com")[..], 1, vec![10, 0, 0, 1]),
            (ASKED, 5, written("lb.a.com")),
            (&written("lb.a.com")[..], 5, written("b1.a.com")),
        ];
        let parsed = DnsAnswer::parse(7, &answer(&query, &records)).unwrap();
        assert_eq!(parsed.canonical("KAFKA.a.com").as_deref(), Some("b1.a.com"));
        assert_eq!(parsed.canonical("b1.a.com").as_deref(), Some("b1.a.com"));
        let circle = [(ASKED, 5, written("lb.a.com")), (&written("lb.a.com")[..], 5, written("kafka.a.com"))];
        assert_eq!(DnsAnswer::parse(7, &answer(&query, &circle)).unwrap().canonical("kafka.a.com"), None);
        let mut absent = answer(&query, &[]);
        absent[3] = 0x83;
        assert_eq!(DnsAnswer::parse(7, &absent).unwrap().canonical("kafka.a.com"), None);
        absent[3] = 0x82;
        assert!(DnsAnswer::parse(7, &absent).is_err());
    }

    #[test]
    fn names_that_point_at_themselves_end() {
        let query = dns_query(7, "a", DnsKind::Address).unwrap();
        let at = (query.len() as u16) | 0xc000;
        let bytes = answer(&query, &[(&at.to_be_bytes()[..], 1, vec![])]);
        assert!(DnsAnswer::parse(7, &bytes).is_err());
        for name in ["", ".", "a..b", &"x".repeat(64), &"ab.".repeat(90)] {
            assert!(dns_query(1, name, DnsKind::Address).is_none(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>, records: u8) {
            let _ = DnsAnswer::parse(7, &bytes);
            let head = [0, 7, 0x80, 0, 0, 1, 0, records, 0, 0, 0, 0, 1, b'a', 0, 0, 1, 0, 1];
            if let Ok(answer) = DnsAnswer::parse(7, &[&head[..], &bytes].concat()) {
                let _ = (answer.canonical("a"), answer.services());
            }
        }
    }
}
