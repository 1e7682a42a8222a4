//! What a port speaks, found out after it did not speak what was expected.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::transport::Dial;

/// How long a port is tried.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether a port answers the beginning of a TLS handshake in TLS.
///
/// # Cancellation
/// The socket is closed.
pub(crate) async fn speaks_tls(dialer: &dyn Dial, host: &str, port: u16) -> bool {
    // Handshake, or alert; then the major version.
    matches!(first_bytes(dialer, host, port, &client_hello()).await, Some([21 | 22, 3, ..]))
}

/// Whether a port answers ApiVersions in plaintext.
///
/// # Cancellation
/// The socket is closed.
pub(crate) async fn speaks_plaintext_kafka(dialer: &dyn Dial, host: &str, port: u16) -> bool {
    // Length, ApiVersions v0, correlation id, no client id.
    const QUESTION: [u8; 14] = [0, 0, 0, 10, 0, 18, 0, 0, b'm', b'i', b'l', b'e', 0xff, 0xff];
    matches!(first_bytes(dialer, host, port, &QUESTION).await, Some([0, _, _, _, b'm', b'i', b'l']))
}

async fn first_bytes(dialer: &dyn Dial, host: &str, port: u16, question: &[u8]) -> Option<[u8; 7]> {
    let talk = async {
        let mut stream = dialer.dial(host, port).await.ok()?;
        stream.write_all(question).await.ok()?;
        stream.flush().await.ok()?;
        let mut answer = [0; 7];
        let mut filled = 0;
        while let Some(room) = answer.get_mut(filled..).filter(|room| !room.is_empty()) {
            match stream.read(room).await {
                Ok(0) | Err(_) => break,
                Ok(count) => filled += count,
            }
        }
        // What an alert has.
        (filled == answer.len()).then_some(answer)
    };
    timeout(PATIENCE, talk).await.ok().flatten()
}

/// A ClientHello of TLS 1.2 that every server answers: with its hello, or with an alert.
fn client_hello() -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend_from_slice(&[0x5a; 32]);
    body.push(0);
    let suites: [u16; 6] = [0xc02f, 0xc030, 0xc02b, 0xc02c, 0x009c, 0x009d];
    body.extend_from_slice(&(suites.len() as u16 * 2).to_be_bytes());
    suites.iter().for_each(|suite| body.extend_from_slice(&suite.to_be_bytes()));
    body.extend_from_slice(&[1, 0]);
    let mut extensions = Vec::new();
    // Groups x25519 and P-256; signatures by ECDSA and RSA with SHA-256.
    extensions.extend_from_slice(&[0, 10, 0, 6, 0, 4, 0, 29, 0, 23]);
    extensions.extend_from_slice(&[0, 13, 0, 8, 0, 6, 4, 3, 8, 4, 4, 1]);
    body.extend_from_slice(&(extensions.len() as u16).to_be_bytes());
    body.extend_from_slice(&extensions);
    let mut hello = vec![22, 3, 1];
    hello.extend_from_slice(&(body.len() as u16 + 4).to_be_bytes());
    hello.extend_from_slice(&[1, 0]);
    hello.extend_from_slice(&(body.len() as u16).to_be_bytes());
    hello.extend_from_slice(&body);
    hello
}
