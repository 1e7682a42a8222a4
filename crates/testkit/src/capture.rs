//! A recording proxy: passes on what a client and a broker say to each other, unchanged, and keeps every frame in a file.
//!
//! Below the given folder each connection gets one of its own, numbered from `0001`. In it lie `requests` and `responses`,
//! a file a frame with its length: `requests/000001-Produce-v3.bin` was answered by `responses/000001-Produce-v3.bin`. A
//! request without an answer (Produce with `acks=0`) has no second file. Tokens of SASL before KIP-152 have no header, so
//! they are recorded under whatever name their bytes give.
//!
//! [`KafkaOptions::record_to`](crate::kafka::KafkaOptions::record_to) puts one before a broker, which then names the proxy
//! to clients as its own address.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use bytes::BytesMut;
use milena_protocol::{api_name, frame};

/// A proxy that records. It stops listening when it is dropped; connections end with their peers.
#[derive(Debug)]
pub struct Recorder {
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
    listener: Option<JoinHandle<()>>,
}

impl Recorder {
    /// Listens at a free port of 127.0.0.1 for clients of the broker at `upstream`, which need not run yet: a client whose
    /// broker can't be reached is disconnected.
    ///
    /// # Errors
    /// If no port or thread can be had, or the folder can't be made.
    pub fn start(upstream: SocketAddr, folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let stopped = Arc::new(AtomicBool::new(false));
        let (folder, stop) = (folder.to_owned(), Arc::clone(&stopped));
        let listener = thread::Builder::new().name("recorder".to_owned()).spawn(move || {
            let mut number = 0;
            for client in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                number += 1;
                let folder = folder.join(format!("{number:04}"));
                if let Ok(client) = client
                    && let Err(error) = connect(client, upstream, folder)
                {
                    tracing::debug!(%error, "a connection is not recorded");
                }
            }
        })?;
        Ok(Self { address, stopped, listener: Some(listener) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Wakes the listener, which then sees that it is to stop.
        if TcpStream::connect(self.address).is_ok()
            && let Some(listener) = self.listener.take()
        {
            let _ = listener.join();
        }
    }
}

/// What is known of a connection's requests that are not answered yet.
#[derive(Debug, Default)]
struct Asked {
    count: u32,
    names: HashMap<[u8; 4], String>,
}

/// Records one connection in threads of its own.
fn connect(client: TcpStream, upstream: SocketAddr, folder: PathBuf) -> io::Result<()> {
    let broker = TcpStream::connect(upstream)?;
    for stream in [&client, &broker] {
        stream.set_nodelay(true)?;
    }
    let (requests, responses) = (folder.join("requests"), folder.join("responses"));
    fs::create_dir_all(&requests)?;
    fs::create_dir_all(&responses)?;
    let asked = Arc::new(Mutex::new(Asked::default()));
    let (from, to, seen) = (client.try_clone()?, broker.try_clone()?, Arc::clone(&asked));
    thread::Builder::new().name("recorder".to_owned()).spawn(move || {
        pass_on(from, to, |frame| {
            let mut asked = seen.lock().unwrap_or_else(PoisonError::into_inner);
            asked.count += 1;
            let name = format!("{:06}-{}.bin", asked.count, request_name(frame));
            if let Some(id) = frame.get(4..).and_then(|rest| rest.first_chunk()) {
                asked.names.insert(*id, name.clone());
            }
            write(&requests.join(name), frame)
        });
    })?;
    thread::Builder::new().name("recorder".to_owned()).spawn(move || {
        pass_on(broker, client, |frame| {
            let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
            match frame.first_chunk().and_then(|id| asked.names.remove(id)) {
                Some(name) => write(&responses.join(name), frame),
                None => Ok(()),
            }
        });
    })?;
    Ok(())
}

/// `Metadata-v12`, by the key and the version with which a request begins.
fn request_name(frame: &[u8]) -> String {
    let number =
        |at: usize| frame.get(at..).and_then(|rest| rest.first_chunk()).map(|pair| i16::from_be_bytes(*pair));
    let (key, version) = (number(0).unwrap_or(-1), number(2).unwrap_or(-1));
    let name: String = api_name(key).to_string().chars().filter(char::is_ascii_alphanumeric).collect();
    format!("{name}-v{version}")
}

/// Passes bytes on as they come until either end closes, and every whole frame to `record` first.
fn pass_on(mut from: TcpStream, mut to: TcpStream, mut record: impl FnMut(&[u8]) -> io::Result<()>) {
    let mut chunk = vec![0; 64 * 1024];
    let mut waiting = Some(BytesMut::new());
    while let Ok(count @ 1..) = from.read(&mut chunk) {
        let bytes = chunk.get(..count).unwrap_or_default();
        if let Some(buffer) = &mut waiting {
            buffer.extend_from_slice(bytes);
            if let Err(error) = take_frames(buffer, &mut record) {
                // Not Kafka's frames (TLS), or no room on the disk: it goes on unrecorded.
                tracing::warn!(%error, "a connection is no longer recorded");
                waiting = None;
            }
        }
        if to.write_all(bytes).is_err() {
            break;
        }
    }
    // The other direction ends with it. Either may be closed already.
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

fn take_frames(buffer: &mut BytesMut, record: &mut impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    while let Some(frame) = frame::split(buffer, frame::DEFAULT_MAX).map_err(io::Error::other)? {
        record(&frame)?;
    }
    Ok(())
}

fn write(file: &Path, frame: &[u8]) -> io::Result<()> {
    let length = u32::try_from(frame.len()).map_err(io::Error::other)?;
    fs::write(file, [&length.to_be_bytes()[..], frame].concat())
}
