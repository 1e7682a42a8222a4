//! Asks an address whether a live broker answers there, by the bytes of one request.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Metadata v1 without topics; every broker since 0.10 answers it. Source: the protocol page, api key 3.
const METADATA_V1: [u8; 22] = [
    0, 0, 0, 18, // length of what follows
    0, 3, 0, 1, // api key, version
    0, 0, 0, 7, // correlation id
    0, 4, b't', b'e', b's', b't', // client id
    0, 0, 0, 0, // no topic
];

/// The number of live brokers that the broker at `address` lists: 0 while its own registration is not done.
///
/// Fails if nothing answers in 3 s. An open port alone proves nothing: Docker's proxy accepts connections for a
/// broker that isn't listening yet, and a starting broker accepts them before it knows the cluster.
pub(crate) async fn live_brokers(address: &str) -> io::Result<u32> {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(&METADATA_V1).await?;
        let _length = stream.read_u32().await?;
        let correlation = stream.read_u32().await?;
        if correlation != 7 {
            return Err(io::Error::other("the answer belongs to another request"));
        }
        stream.read_u32().await
    };
    tokio::time::timeout(Duration::from_secs(3), ask)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
