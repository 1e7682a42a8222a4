//! The recording proxy: nothing changes on the way, and every frame is kept beside its answer.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails panics")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use milena_testkit::capture::Recorder;
use milena_testkit::kafka::{KafkaOptions, Route, or_skip};

fn framed(body: &[u8]) -> Vec<u8> {
    [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], body].concat()
}

fn files(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn read(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

#[test]
fn frames_pass_unchanged_and_lie_beside_their_answers() {
    let broker = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let recorder = Recorder::start(broker.local_addr().unwrap(), folder.path()).unwrap();
    let mut client = TcpStream::connect(recorder.address()).unwrap();
    let (mut server, _) = broker.accept().unwrap();

    // Metadata v12 and Produce v9 with correlation ids 7 and 8, in pieces; only the second is answered.
    let metadata = framed(&[0, 3, 0, 12, 0, 0, 0, 7, 0xff, 0xff, 0, 1]);
    let produce = framed(&[0, 0, 0, 9, 0, 0, 0, 8, 0xff, 0xff, 0]);
    let both = [&metadata[..], &produce].concat();
    for piece in both.chunks(5) {
        client.write_all(piece).unwrap();
    }
    assert_eq!(read(&mut server, both.len()), both);
    let answer = framed(&[0, 0, 0, 8, 1, 2, 3]);
    let stray = framed(&[0, 0, 0, 9, 1]);
    server.write_all(&[&answer[..], &stray].concat()).unwrap();
    assert_eq!(read(&mut client, answer.len() + stray.len()), [&answer[..], &stray].concat());

    let requests = folder.path().join("0001/requests");
    let responses = folder.path().join("0001/responses");
    assert_eq!(
        files(&requests),
        ["000001-Metadata-v12.bin", "000002-Produce-v9.bin"].map(str::to_owned).into()
    );
    assert_eq!(files(&responses), ["000002-Produce-v9.bin".to_owned()].into());
    assert_eq!(fs::read(requests.join("000001-Metadata-v12.bin")).unwrap(), metadata);
    assert_eq!(fs::read(requests.join("000002-Produce-v9.bin")).unwrap(), produce);
    assert_eq!(fs::read(responses.join("000002-Produce-v9.bin")).unwrap(), answer);

    // What is no frame goes through all the same.
    client.write_all(b"\x16\x03\x01 not Kafka").unwrap();
    client.write_all(&[0xff; 9]).unwrap();
    assert_eq!(read(&mut server, 22).len(), 22);
    drop(server);
    assert_eq!(client.read(&mut [0; 9]).unwrap_or(0), 0, "the client learns that the broker is gone");
    let address = recorder.address();
    drop(recorder);
    assert!(TcpStream::connect(address).is_err());
}

#[tokio::test]
async fn a_recorded_broker_names_the_proxy_as_its_address() {
    let folder = tempfile::tempdir().unwrap();
    let options = KafkaOptions::from_env().unwrap().route(Route::Jvm).record_to(folder.path());
    let Some(kafka) = or_skip(options.start().await) else { return };
    let port: u16 = kafka.bootstrap().rsplit(':').next().unwrap().parse().unwrap();
    let mut client = TcpStream::connect(kafka.bootstrap()).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    // Metadata v0 about everything.
    client.write_all(&framed(&[0, 3, 0, 0, 0, 0, 0, 7, 0xff, 0xff, 0, 0, 0, 0])).unwrap();
    let length = u32::from_be_bytes(read(&mut client, 4).try_into().unwrap());
    let answer = read(&mut client, usize::try_from(length).unwrap());
    let address = [b"\0\x09127.0.0.1\0\0", &port.to_be_bytes()[..]].concat();
    assert!(answer.windows(address.len()).any(|window| window == address), "{answer:?}");
    // Brokers that talk to themselves may have come first.
    let name = "000001-Metadata-v0.bin";
    let started = Instant::now();
    loop {
        let connections = files(folder.path());
        let found =
            connections.iter().map(|connection| folder.path().join(connection).join("responses").join(name));
        if found.filter_map(|file| fs::read(file).ok()).any(|kept| kept == framed(&answer)) {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(30), "{connections:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
