//! Asking the DNS for KDCs and for the real names of hosts.
//!
//! The servers and the domains to search are those of `/etc/resolv.conf`, asked over UDP, one after the other.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use milena_core::sasl::gssapi::{
    DnsAnswer, DnsKind, KdcAddress, KerberosError, KerberosErrorKind, dns_query,
};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::paths;

/// How long one server may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// The servers that are asked at most, as of resolvers in C.
const MAX_SERVERS: usize = 3;
/// The largest answer over UDP that is taken.
const MAX_ANSWER: usize = 4096;

/// Where to ask, and in which domains.
#[derive(Clone, Debug, Default)]
pub(super) struct Resolver {
    servers: Vec<SocketAddr>,
    search: Vec<String>,
}

impl Resolver {
    /// What `/etc/resolv.conf` says; nothing without one.
    ///
    /// # Cancellation
    /// Nothing is left behind.
    pub(super) async fn of_system() -> Self {
        Self::parse(&paths::resolver_configuration().await)
    }

    fn parse(text: &str) -> Self {
        let mut resolver = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let address = words.next().and_then(|word| word.parse::<IpAddr>().ok());
                    resolver.servers.extend(address.map(|address| SocketAddr::new(address, 53)));
                }
                Some("search" | "domain") => resolver.search = words.map(str::to_owned).collect(),
                _ => {}
            }
        }
        resolver.servers.truncate(MAX_SERVERS);
        resolver
    }

    /// The KDCs of a realm by its SRV records; empty if there are none.
    ///
    /// # Cancellation
    /// Nothing is left behind.
    pub(super) async fn kdcs(&self, realm: &str) -> Vec<KdcAddress> {
        let mut kdcs: Vec<KdcAddress> = Vec::new();
        for (protocol, tcp_only) in [("_udp", false), ("_tcp", true)] {
            let name = format!("_kerberos.{protocol}.{realm}");
            let services = self.ask(&name, DnsKind::Service).await.map(|answer| answer.services());
            for service in services.unwrap_or_default() {
                if !kdcs.iter().any(|kdc| kdc.host == service.host && kdc.port == service.port) {
                    kdcs.push(KdcAddress { host: service.host, port: service.port, tcp_only });
                }
            }
        }
        kdcs
    }

    /// The name of a host at the end of its aliases; `None` if the DNS does not know the host.
    ///
    /// # Cancellation
    /// Nothing is left behind.
    pub(super) async fn canonical(&self, host: &str) -> Option<String> {
        if host.parse::<IpAddr>().is_ok() {
            return None;
        }
        let domains = self.search.iter().filter(|_| !host.contains('.'));
        let names = std::iter::once(host.to_owned()).chain(domains.map(|domain| format!("{host}.{domain}")));
        for name in names {
            let answer = self.ask(&name, DnsKind::Address).await;
            if let Some(canonical) = answer.ok().and_then(|answer| answer.canonical(&name)) {
                return Some(canonical);
            }
        }
        None
    }

    async fn ask(&self, name: &str, kind: DnsKind) -> Result<DnsAnswer, KerberosError> {
        let failed = |text: String| KerberosError::new(KerberosErrorKind::Unreachable, text);
        let mut last = failed("no name server is known".to_owned());
        for server in &self.servers {
            let mut id = [0; 2];
            getrandom::fill(&mut id).map_err(|error| failed(error.to_string()))?;
            let id = u16::from_be_bytes(id);
            let Some(query) = dns_query(id, name, kind) else {
                return Err(failed(format!("{name} cannot be asked for in the DNS")));
            };
            match timeout(PATIENCE, exchange(*server, &query)).await {
                Ok(Ok(bytes)) => match DnsAnswer::parse(id, &bytes) {
                    Ok(answer) => return Ok(answer),
                    Err(error) => last = error,
                },
                Ok(Err(error)) => last = failed(format!("name server {server}: {error}")),
                Err(_) => last = failed(format!("name server {server}: no answer within {PATIENCE:?}")),
            }
        }
        tracing::debug!(%name, error = %last, "no answer of the DNS");
        Err(last)
    }
}

async fn exchange(server: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut answer = vec![0; MAX_ANSWER];
    let length = socket.recv(&mut answer).await?;
    answer.truncate(length);
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name server that knows one alias and one KDC.
    async fn resolver() -> (Resolver, tokio::task::JoinHandle<()>) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let server = socket.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let mut answer = buffer[..length].to_vec();
                let wants_service = answer[length - 3] == 33;
                let known: &[u8] =
                    if wants_service { b"\x09_kerberos\x04_tcp\x01A\0" } else { b"\x05kafka\x01a\0" };
                answer[2] = 0x81;
                if answer[12..length - 4] == *known {
                    let (kind, data): (u8, &[u8]) = if wants_service {
                        (33, b"\0\0\0\0\0\x59\x03kdc\x01a\0")
                    } else {
                        (5, b"\x02b1\x01a\0")
                    };
                    answer[7] = 1;
                    answer.extend([0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 60, 0, data.len() as u8]);
                    answer.extend(data);
                } else {
                    answer[3] = 3;
                }
                socket.send_to(&answer, from).await.unwrap();
            }
        });
        (Resolver { servers: vec![server], search: vec!["x".to_owned(), "a".to_owned()] }, task)
    }

    #[tokio::test]
    async fn kdcs_and_names_are_found() {
        let (resolver, task) = resolver().await;
        let kdc = KdcAddress { host: "kdc.a".to_owned(), port: 89, tcp_only: true };
        assert_eq!(resolver.kdcs("A").await, [kdc]);
        assert_eq!(resolver.kdcs("B").await, []);
        assert_eq!(resolver.canonical("kafka.a").await.as_deref(), Some("b1.a"));
        assert_eq!(resolver.canonical("kafka").await.as_deref(), Some("b1.a"));
        assert_eq!(resolver.canonical("other.a").await, None);
        assert_eq!(resolver.canonical("127.0.0.1").await, None);
        task.abort();
    }

    #[test]
    fn the_systems_configuration_is_read() {
        let resolver =
            Resolver::parse("# x\nsearch a.com b.com\nnameserver 10.0.0.1\nnameserver ::1\noptions x\n");
        assert_eq!(resolver.servers, ["10.0.0.1:53".parse().unwrap(), "[::1]:53".parse().unwrap()]);
        assert_eq!(resolver.search, ["a.com", "b.com"]);
    }
}
