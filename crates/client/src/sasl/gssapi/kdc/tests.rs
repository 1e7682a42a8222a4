use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::TcpListener;

use super::*;

/// A KDC that answers a datagram or a message over TCP with what it is told, or never.
struct Fake {
    port: u16,
    datagrams: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

impl Fake {
    async fn start(udp: Option<&'static [u8]>, tcp: Option<&'static [u8]>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let socket = UdpSocket::bind(("127.0.0.1", port)).await.unwrap();
        let datagrams = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&datagrams);
        let over_udp = tokio::spawn(async move {
            let mut buffer = [0; 2048];
            while let Ok((_, from)) = socket.recv_from(&mut buffer).await {
                count.fetch_add(1, Ordering::Relaxed);
                if let Some(answer) = udp {
                    let _ = socket.send_to(answer, from).await;
                }
            }
        });
        let over_tcp = tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                if let Some(answer) = tcp {
                    let length = stream.read_u32().await.unwrap();
                    let mut question = vec![0; length as usize];
                    stream.read_exact(&mut question).await.unwrap();
                    let _ = stream.write_all(answer).await;
                }
                // Silence is not a closed connection.
                open.push(stream);
            }
        });
        Self { port, datagrams, tasks: vec![over_udp, over_tcp] }
    }
}

/// A port where nobody listens.
async fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

fn config(ports: &[u16]) -> KerberosConfig {
    let addresses: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let mut config = KerberosConfig::default();
    config.dns_lookup_kdc = false;
    config.add_realm("A", &addresses.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    config
}

const PATIENCE: Duration = Duration::from_secs(20);

async fn asked(config: &KerberosConfig, message: &[u8]) -> Result<(Vec<u8>, KdcAddress), KerberosError> {
    ask(config, "A", message, None, PATIENCE).await
}

#[tokio::test]
async fn short_messages_go_over_udp_and_long_ones_over_tcp() {
    let kdc = Fake::start(Some(b"udp"), Some(b"\0\0\0\x03tcp")).await;
    let config = config(&[kdc.port]);
    assert_eq!(asked(&config, b"short").await.unwrap().0, b"udp");
    assert_eq!(asked(&config, &[0; 1466]).await.unwrap().0, b"tcp");
    let mut only_tcp = config;
    only_tcp.udp_preference_limit = 1;
    assert_eq!(asked(&only_tcp, b"short").await.unwrap().0, b"tcp");
    assert_eq!(kdc.datagrams.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_silent_port_of_udp_is_made_up_for_by_tcp() {
    let kdc = Fake::start(None, Some(b"\0\0\0\x03tcp")).await;
    assert_eq!(asked(&config(&[kdc.port]), b"short").await.unwrap().0, b"tcp");
}

#[tokio::test]
async fn a_kdc_that_is_down_or_silent_does_not_hide_the_next_one() {
    let silent = Fake::start(None, None).await;
    let kdc = Fake::start(Some(b"udp"), None).await;
    let config = config(&[closed_port().await, silent.port, kdc.port]);
    let (reply, by) = asked(&config, b"short").await.unwrap();
    assert_eq!((reply.as_slice(), by.port), (&b"udp"[..], kdc.port));
    // The one that answered is asked first from then on.
    let before = silent.datagrams.load(Ordering::Relaxed);
    ask(&config, "A", b"short", Some(&by), PATIENCE).await.unwrap();
    assert_eq!(silent.datagrams.load(Ordering::Relaxed), before);
}

#[tokio::test]
async fn when_no_kdc_answers_each_is_named_with_its_reason() {
    let silent = Fake::start(None, None).await;
    // Announces far more than it sends.
    let liar = Fake::start(None, Some(&[0xff, 0xff, 0xff, 0xff, 1])).await;
    let closed = closed_port().await;
    let config = config(&[closed, silent.port, liar.port]);
    let error = ask(&config, "A", b"short", None, Duration::from_millis(2500)).await.unwrap_err();
    assert_eq!(error.kind(), KerberosErrorKind::Unreachable);
    let text = error.to_string();
    for (port, reason) in [(closed, "refused"), (silent.port, "no answer within 2.5s"), (liar.port, "no KDC")]
    {
        let named =
            text.split("127.0.0.1:").any(|part| part.starts_with(&port.to_string()) && part.contains(reason));
        assert!(named, "{port} {reason}: {text}");
    }
}

#[tokio::test]
async fn a_realm_without_kdcs_is_a_matter_of_configuration() {
    let error = ask(&config(&[1]), "B", b"", None, PATIENCE).await.unwrap_err();
    assert_eq!(error.kind(), KerberosErrorKind::Config);
    assert!(error.to_string().contains("no KDC of the realm B: it knows A"), "{error}");
}
