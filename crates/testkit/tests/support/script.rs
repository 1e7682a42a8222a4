//! A client that follows a script and writes down what it is told, the same whichever broker it talks to.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use milena_protocol::messages;
use milena_protocol::{ErrorCode, Request, decode_response, encode_request};

use super::txn::{Kind, Pair, Transactions};
use super::{Client, Writer, batch, topic_name};

/// How long anything may take before the script gives up.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A blocking client that writes down what it is told.
pub struct Script {
    stream: TcpStream,
    address: String,
    run: String,
    count: usize,
    producers: HashMap<i64, usize>,
    pub lines: Vec<String>,
}

impl Client for Script {
    fn ask<R: Request>(&mut self, version: i16, request: &R) -> R::Response {
        let mut frame = BytesMut::new();
        encode_request(&mut frame, 1, "parity", version, request).unwrap();
        self.stream.write_all(&frame).unwrap();
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).unwrap();
        let mut frame = vec![0; i32::from_be_bytes(length) as usize];
        self.stream.read_exact(&mut frame).unwrap();
        decode_response::<R>(frame.into(), version).unwrap().1
    }
}

impl Script {
    pub fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let run = format!("{:x}", std::process::id());
        Self {
            stream,
            address: address.to_owned(),
            run,
            count: 0,
            producers: HashMap::new(),
            lines: Vec::new(),
        }
    }

    /// Begins a part: a connection of its own, so that what one leaves unread is not another's, and producers counted anew.
    pub fn begin_part(&mut self) {
        self.producers.clear();
        self.stream = TcpStream::connect(&self.address).unwrap();
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    }

    pub fn say(&mut self, line: String) {
        self.lines.push(line);
    }

    pub fn name(&mut self, kind: &str) -> String {
        self.count += 1;
        format!("{kind}-{}-{}", self.run, self.count)
    }

    pub fn producer(&mut self, id: i64) -> String {
        if id < 0 {
            return id.to_string();
        }
        let next = self.producers.len();
        format!("p{}", self.producers.entry(id).or_insert(next))
    }

    pub fn topic(&mut self, partitions: i32) -> String {
        let name = self.name("t");
        let topic = messages::create_topics_request::CreatableTopic::default()
            .with_name(topic_name(&name))
            .with_num_partitions(partitions)
            .with_replication_factor(1);
        let request =
            messages::CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(10_000);
        assert_eq!(self.ask(5, &request).topics[0].error_code, 0);
        // A real broker leads the partitions a little later.
        let start = Instant::now();
        while self.fetch(12, &name, 0, 0, false).error_code != 0 {
            assert!(start.elapsed() < PATIENCE, "no leader");
            std::thread::sleep(Duration::from_millis(20));
        }
        name
    }

    /// InitProducerId for a new id, once the coordinator is there.
    pub fn writer(&mut self, timeout_ms: i32) -> (String, Pair) {
        let id = self.name("x");
        let start = Instant::now();
        loop {
            match self.init_once(&id, (-1, -1), timeout_ms) {
                (ErrorCode::NONE, pair) => return (id, pair),
                (error, _) => {
                    let wait = error.is_retriable() || error.refreshes_coordinator();
                    assert!(wait && start.elapsed() < PATIENCE, "{error}");
                    // Asking for it is what makes a fresh broker create the coordinator's topic.
                    let find = messages::FindCoordinatorRequest::default()
                        .with_coordinator_keys(vec![id.clone().into()])
                        .with_key_type(1);
                    self.ask(4, &find);
                }
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until the markers of the id are written.
    pub fn settle(&mut self, id: &str) {
        let start = Instant::now();
        while self.describe(id).0.starts_with("Prepare") {
            assert!(start.elapsed() < PATIENCE, "markers are missing");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// A request about a transaction that may come in the short time before the markers.
    pub fn patient(&mut self, mut ask: impl FnMut(&mut Self) -> (ErrorCode, Pair)) -> (ErrorCode, Pair) {
        let start = Instant::now();
        loop {
            let told = ask(self);
            if told.0 != ErrorCode::CONCURRENT_TRANSACTIONS || start.elapsed() > PATIENCE {
                return told;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn init_patiently(&mut self, id: &str) -> Pair {
        let (error, pair) = self.patient(|script| script.init_once(id, (-1, -1), 60_000));
        assert_eq!(error, ErrorCode::NONE);
        pair
    }

    pub fn write_in(
        &mut self,
        topic: &str,
        kind: Kind,
        id: &str,
        pair: Pair,
        sequence: i32,
    ) -> (ErrorCode, i64) {
        let start = Instant::now();
        loop {
            if kind == Kind::Old {
                let added = self.add(id, pair, topic, 0);
                if added == ErrorCode::CONCURRENT_TRANSACTIONS && start.elapsed() < PATIENCE {
                    std::thread::sleep(Duration::from_millis(10));
                    continue;
                }
                if !added.is_ok() {
                    return (added, -1);
                }
            }
            let writer = Writer { id: pair.0, epoch: pair.1, sequence, transactional: true };
            let version = if kind == Kind::Old { 11 } else { 12 };
            let answer = self.produce(version, Some(id), topic, 0, batch(2, Some(writer)));
            let error = ErrorCode(answer.error_code);
            if error != ErrorCode::CONCURRENT_TRANSACTIONS || start.elapsed() > PATIENCE {
                return (error, answer.base_offset);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// State and identity of an id, relative to the pair a case began with.
    pub fn tell_state(&mut self, id: &str) -> String {
        self.settle(id);
        let (state, pair, start) = self.describe(id);
        let producer = self.producer(pair.0);
        format!("{state} {producer}:{} {}", pair.1, if start < 0 { "-" } else { "started" })
    }
}
