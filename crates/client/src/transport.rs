//! How a connection to a broker is made: plain TCP by default, anything that reads and writes by [`from_fn`].

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A future in a box, as [`Dial`] returns it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a connection runs over.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A stream in a box.
pub type BoxStream = Box<dyn Stream>;

/// Makes connections.
pub trait Dial: Send + Sync + fmt::Debug {
    /// Connects to a broker. The caller bounds the time it may take
    /// ([`ClientConfig::connect_timeout`](crate::ClientConfig::connect_timeout)).
    ///
    /// # Cancellation
    /// Dropping the future gives up the attempt.
    fn dial<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<BoxStream>>;
}

/// Plain TCP without Nagle's delay. The default.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpDialer;

impl Dial for TcpDialer {
    fn dial<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<BoxStream>> {
        Box::pin(async move {
            let addresses: Vec<_> = tokio::net::lookup_host((host, port))
                .await
                .map_err(|error| io::Error::new(error.kind(), format!("cannot resolve {host}: {error}")))?
                .collect();
            if addresses.is_empty() {
                return Err(io::Error::new(
                    io::ErrorKind::NotFound,
                    format!("{host} resolves to no address"),
                ));
            }
            Ok(Box::new(connect_first(addresses).await?) as BoxStream)
        })
    }
}

/// How long one address may be silent before the next one is tried beside it (RFC 8305).
const STAGGER: Duration = Duration::from_millis(250);

/// Connects to the first address that answers: a name often has a dead IPv6 address before a live IPv4 one.
async fn connect_first(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut waiting = addresses.into_iter();
    let mut running = FuturesUnordered::new();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "no address");
    loop {
        if running.is_empty() {
            let Some(address) = waiting.next() else { return Err(last) };
            running.push(open(address));
        }
        match timeout(STAGGER, running.next()).await {
            Ok(Some(Ok(stream))) => return Ok(stream),
            Ok(Some(Err(error))) => last = error,
            Ok(None) => {}
            Err(_) => running.extend(waiting.next().map(open)),
        }
    }
}

/// A connection that sends what is written at once: requests are written whole, so there is nothing to gather (Nagle's algorithm), and to wait
/// for an acknowledgement would only delay the last part.
async fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A dialer made of a closure: takes host and port, returns a future of a stream.
///
/// ```
/// use milena::transport;
///
/// let dialer = transport::from_fn(|_host, _port| async {
///     let (ours, _theirs) = tokio::io::duplex(64 * 1024);
///     Ok(ours)
/// });
/// let config = milena::ClientConfig::new(["in-memory:1"]).with_dialer(dialer);
/// # assert!(config.validate().is_ok());
/// ```
pub fn from_fn<F, Fut, S>(dial: F) -> Arc<dyn Dial>
where
    F: Fn(String, u16) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = io::Result<S>> + Send + 'static,
    S: Stream + 'static,
{
    Arc::new(FnDialer(Box::new(move |host, port| {
        let dialed = dial(host, port);
        Box::pin(async move { Ok(Box::new(dialed.await?) as BoxStream) })
    })))
}

type DialFn = dyn Fn(String, u16) -> BoxFuture<'static, io::Result<BoxStream>> + Send + Sync;

struct FnDialer(Box<DialFn>);

impl fmt::Debug for FnDialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FnDialer")
    }
}

impl Dial for FnDialer {
    fn dial<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<BoxStream>> {
        (self.0)(host.to_owned(), port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_refusing_address_does_not_hide_a_live_one() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let live = listener.local_addr().unwrap();
        let dead = SocketAddr::from(([127, 0, 0, 1], 1));
        let stream = connect_first(vec![dead, live]).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), live);
        assert!(stream.nodelay().unwrap());
        assert_eq!(connect_first(vec![dead]).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert!(connect_first(Vec::new()).await.is_err());
    }

    /// An address that drops what is sent to it, as a firewall does: its queue of connections is full. `None` if this system refuses instead.
    async fn silent() -> Option<(tokio::net::TcpListener, Vec<TcpStream>)> {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queued = Vec::new();
        for _ in 0..64 {
            match timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
                Ok(Ok(stream)) => queued.push(stream),
                Ok(Err(_)) => return None,
                Err(_) => return Some((listener, queued)),
            }
        }
        None
    }

    #[tokio::test]
    async fn a_silent_address_does_not_hide_a_live_one() {
        let Some((dead, _queued)) = silent().await else {
            println!("skipped: a full queue refuses here");
            return;
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let live = listener.local_addr().unwrap();
        let connected = connect_first(vec![dead.local_addr().unwrap(), live]);
        // The system itself would try the silent one for two minutes.
        let stream = timeout(Duration::from_secs(30), connected).await.expect("it waits for the silent one");
        assert_eq!(stream.unwrap().peer_addr().unwrap(), live);
    }
}
