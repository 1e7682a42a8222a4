//! Asks an address whether a live broker answers there, by the bytes of one request.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The topic that [`Ask::Topic`] creates.
const TOPIC: &str = "milena-ready";

/// What to ask a broker in order to learn whether it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    /// About everything it knows.
    Everything,
    /// About a topic, which creates it. Brokers before 0.9 learn of any broker, themselves included, only together with
    /// the first partition of the cluster: until then they list none.
    Topic,
}

/// Metadata v0, the one version that every broker answers. Source: the protocol page, api key 3.
fn request(ask: Ask) -> Vec<u8> {
    // Api key, version, correlation id, client id.
    let mut frame = vec![0, 3, 0, 0, 0, 0, 0, 7, 0, 4, b't', b'e', b's', b't'];
    match ask {
        Ask::Everything => frame.extend([0, 0, 0, 0]),
        Ask::Topic => {
            frame.extend([0, 0, 0, 1, 0, 12]);
            frame.extend(TOPIC.as_bytes());
        }
    }
    frame
}

/// The number of live brokers that the broker at `address` lists: 0 while its own registration is not done.
///
/// Fails if nothing answers in 3 s. An open port alone proves nothing: Docker's proxy accepts connections for a
/// broker that isn't listening yet, and a starting broker accepts them before it knows the cluster.
pub(crate) async fn live_brokers(address: &str, ask: Ask) -> io::Result<u32> {
    let request = request(ask);
    let length = u32::try_from(request.len()).map_err(io::Error::other)?;
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(&[&length.to_be_bytes(), request.as_slice()].concat()).await?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topic_is_as_long_as_the_request_says() {
        let request = request(Ask::Topic);
        assert!(request.ends_with(TOPIC.as_bytes()));
        let length = [0, u8::try_from(TOPIC.len()).unwrap()];
        assert!(request[..request.len() - TOPIC.len()].ends_with(&length));
    }
}
