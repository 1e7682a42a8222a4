//! Asking the KDCs of a realm, over UDP and TCP.
//!
//! The first KDC is asked; each second without an answer the next one is asked beside it, and the first answer counts. Short
//! messages go over UDP, and over TCP when nothing comes back or the answer says that it is too big.
//!
//! # References
//! RFC 4120, 7.2.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use milena_core::sasl::gssapi::{
    KdcAddress, KerberosConfig, KerberosError, KerberosErrorKind, is_too_big_for_udp,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::dns::Resolver;

/// The largest answer over TCP.
const MAX_REPLY: u32 = 1 << 20;
/// The largest datagram.
const MAX_DATAGRAM: usize = 64 * 1024;
/// How long one KDC is waited for before the next one is asked too, and how long a datagram before TCP is tried.
const STAGGER: Duration = Duration::from_secs(1);

/// Sends a message to the KDCs of a realm, `preferred` first, and gives the answer and which of them gave it.
///
/// # Cancellation
/// The question may have been answered; its answer is lost.
pub(super) async fn ask(
    config: &KerberosConfig,
    realm: &str,
    message: &[u8],
    preferred: Option<&KdcAddress>,
    patience: Duration,
) -> Result<(Vec<u8>, KdcAddress), KerberosError> {
    let mut found = Vec::new();
    if config.kdcs(realm).is_empty() && config.dns_lookup_kdc {
        found = Resolver::of_system().await.kdcs(realm).await;
    }
    let mut kdcs: Vec<&KdcAddress> = config.kdcs(realm).iter().chain(&found).collect();
    if kdcs.is_empty() {
        let known = config.realms();
        let known = if known.is_empty() { "no realm at all".to_owned() } else { known.join(", ") };
        return Err(KerberosError::new(
            KerberosErrorKind::Config,
            format!(
                "krb5.conf names no KDC of the realm {realm}: it knows {known}{}",
                if config.dns_lookup_kdc { "; the DNS has no _kerberos records of it" } else { "" }
            ),
        ));
    }
    // The one that answered last time comes first; the others keep their order.
    kdcs.sort_by_key(|kdc| Some(*kdc) != preferred);
    let udp = message.len() <= config.udp_preference_limit;
    let mut waiting = kdcs.into_iter();
    let mut running = FuturesUnordered::new();
    let mut failures: Vec<String> = Vec::new();
    loop {
        if running.is_empty() {
            let Some(kdc) = waiting.next() else { break };
            running.push(ask_one(kdc, message, udp, patience));
        }
        match timeout(STAGGER, running.next()).await {
            Ok(Some((kdc, Ok(reply)))) => return Ok((reply, kdc.clone())),
            Ok(Some((kdc, Err(error)))) => failures.push(format!("{kdc} ({error})")),
            Ok(None) => {}
            Err(_) => {
                running.extend(waiting.next().map(|kdc| ask_one(kdc, message, udp, patience)));
            }
        }
    }
    Err(KerberosError::new(
        KerberosErrorKind::Unreachable,
        format!("no KDC of the realm {realm} answered: {}", failures.join(", ")),
    ))
}

async fn ask_one<'a>(
    kdc: &'a KdcAddress,
    message: &[u8],
    udp: bool,
    patience: Duration,
) -> (&'a KdcAddress, io::Result<Vec<u8>>) {
    let asked = timeout(patience, async {
        let addresses: Vec<SocketAddr> =
            tokio::net::lookup_host((kdc.host.as_str(), kdc.port)).await?.collect();
        if udp && !kdc.tcp_only {
            for address in &addresses {
                if let Ok(Ok(reply)) = timeout(STAGGER, over_udp(*address, message)).await
                    && !is_too_big_for_udp(&reply)
                {
                    return Ok(reply);
                }
            }
        }
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in addresses {
            match over_tcp(address, message).await {
                Ok(reply) => return Ok(reply),
                Err(error) => last = error,
            }
        }
        Err(last)
    });
    let silent = |_| {
        let text = format!("no answer within {patience:?}");
        Err(io::Error::new(io::ErrorKind::TimedOut, text))
    };
    (kdc, asked.await.unwrap_or_else(silent))
}

async fn over_udp(address: SocketAddr, message: &[u8]) -> io::Result<Vec<u8>> {
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    // Connected: datagrams of others do not arrive, and a closed port is an error.
    socket.connect(address).await?;
    socket.send(message).await?;
    let mut reply = vec![0; MAX_DATAGRAM];
    let length = socket.recv(&mut reply).await?;
    reply.truncate(length);
    Ok(reply)
}

async fn over_tcp(address: SocketAddr, message: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    let length = u32::try_from(message.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), message].concat()).await?;
    let length = stream.read_u32().await?;
    if length > MAX_REPLY {
        let text = format!("an answer of {length} bytes, more than {MAX_REPLY}: no KDC");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let mut reply = Vec::new();
    // Memory grows with what comes, not with what was announced.
    (&mut stream).take(length.into()).read_to_end(&mut reply).await?;
    if reply.len() as u64 == u64::from(length) {
        return Ok(reply);
    }
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed in the middle of the answer"))
}

#[cfg(test)]
mod tests;
