//! A conversation with one broker of which every exchange is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use milena_protocol::messages::ApiKey;
use milena_protocol::{BrokerVersions, guard, supported};
use serde_json::{Value, json};

use crate::store::{Api, Exchange, correlation_id};
use crate::{Failure, wire};

/// How long a broker may take to answer. Some leave what they don't like unanswered.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a broker may take to be able to do what it is asked.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) struct Session {
    address: String,
    stream: Option<TcpStream>,
    versions: BrokerVersions,
    /// The last exchange of each API and version.
    pub(crate) kept: BTreeMap<Api, Exchange>,
    /// The error codes in the kept answers.
    pub(crate) errors: BTreeMap<Api, BTreeSet<i64>>,
    /// What was not answered.
    pub(crate) unanswered: Vec<Api>,
}

impl Session {
    /// `versions` is what the broker speaks, unless it says so itself.
    pub(crate) fn open(address: &str, versions: Option<BrokerVersions>) -> Result<Self, Failure> {
        let mut session = Self {
            address: address.to_owned(),
            stream: None,
            versions: versions.unwrap_or_default(),
            kept: BTreeMap::new(),
            errors: BTreeMap::new(),
            unanswered: Vec::new(),
        };
        if session.versions == BrokerVersions::default() {
            let key = ApiKey::ApiVersions as i16;
            session.say(key, 0, &json!({}))?.ok_or("no answer to ApiVersions")?;
            let answer = session.kept.get(&(key, 0)).ok_or("no answer to ApiVersions")?.response.clone();
            let answer = answer.get(4..).unwrap_or_default().to_vec();
            let (_, answer) = milena_protocol::decode_response::<
                milena_protocol::messages::ApiVersionsRequest,
            >(answer.into(), 0)?;
            session.versions = BrokerVersions::from_response(&answer);
        }
        Ok(session)
    }

    /// The versions of an API that the broker offers and that are known here, lowest first.
    pub(crate) fn versions(&self, key: ApiKey) -> Vec<i16> {
        let key = key as i16;
        let Some((first, last)) = guard::request_message(key).map(guard::shape::Message::versions) else {
            return Vec::new();
        };
        let range = self.versions.range(key).and_then(|range| range.intersect(supported(key)?));
        range.map_or_else(Vec::new, |range| (range.min.max(first)..=range.max.min(last)).collect())
    }

    /// The `turn`th of the versions of an API, or the last; `None` if there is none.
    pub(crate) fn version(&self, key: ApiKey, turn: usize) -> Option<i16> {
        let versions = self.versions(key);
        versions.get(turn).or(versions.last()).copied()
    }

    /// Whether an answer to that is kept.
    pub(crate) fn has(&self, key: ApiKey, version: i16) -> bool {
        self.kept.contains_key(&(key as i16, version)) || self.unanswered.contains(&(key as i16, version))
    }

    /// Asks the same in every version.
    pub(crate) fn ask_all(&mut self, key: ApiKey, mut body: impl FnMut(i16) -> Value) -> Result<(), Failure> {
        for version in self.versions(key) {
            self.say(key as i16, version, &body(version))?;
        }
        Ok(())
    }

    /// Asks in the `turn`th version of an API, if the broker has it; null if there is no answer.
    pub(crate) fn ask(&mut self, key: ApiKey, turn: usize, body: &Value) -> Result<Value, Failure> {
        let Some(version) = self.version(key, turn) else { return Ok(Value::Null) };
        Ok(self.say(key as i16, version, body)?.unwrap_or_default())
    }

    /// As [`ask`](Self::ask), again and again until the answer is as wanted.
    pub(crate) fn ask_until(
        &mut self,
        key: ApiKey,
        turn: usize,
        body: &Value,
        is_done: impl Fn(&Value) -> bool,
    ) -> Result<Value, Failure> {
        let started = Instant::now();
        loop {
            let answer = self.ask(key, turn, body)?;
            if answer.is_null() || is_done(&answer) {
                return Ok(answer);
            }
            if started.elapsed() > READY_TIMEOUT {
                return Err(format!("{key:?} is still answered with {answer}").into());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Sends one request; `None` if the broker closes the connection or says nothing.
    pub(crate) fn say(&mut self, key: i16, version: i16, body: &Value) -> Result<Option<Value>, Failure> {
        let id = correlation_id((key, version));
        let request = wire::request(key, version, id, body)
            .map_err(|error| format!("request {key} v{version}: {error}"))?;
        let Ok(response) = self.exchange(&request) else {
            self.stream = None;
            if !self.kept.contains_key(&(key, version)) {
                self.unanswered.push((key, version));
            }
            return Ok(None);
        };
        let answer = response.get(4..).unwrap_or_default();
        if answer.get(..4) != Some(&id.to_be_bytes()) {
            return Err(format!("the answer to {key} v{version} has another correlation id").into());
        }
        // An ApiVersions request in a version that the broker lacks is answered in version 0 (KIP-511).
        let is_refusal = key == ApiKey::ApiVersions as i16 && answer.get(4..6) == Some(&[0, 35]);
        let body = wire::response(key, if is_refusal { 0 } else { version }, answer)
            .map_err(|error| format!("response {key} v{version}: {error}"))?;
        let mut errors = BTreeSet::new();
        collect_errors(&body, &mut errors);
        self.errors.insert((key, version), errors);
        self.kept.insert((key, version), Exchange { request, response });
        Ok(Some(body))
    }

    fn exchange(&mut self, request: &[u8]) -> Result<Vec<u8>, Failure> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => TcpStream::connect(&self.address)?,
        };
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.write_all(request)?;
        let mut response = vec![0; 4];
        stream.read_exact(&mut response)?;
        let length = u32::from_be_bytes(response.as_slice().try_into()?);
        response.resize(4 + usize::try_from(length)?.min(1 << 24), 0);
        stream.read_exact(response.get_mut(4..).unwrap_or_default())?;
        self.stream = Some(stream);
        Ok(response)
    }
}

fn collect_errors(answer: &Value, errors: &mut BTreeSet<i64>) {
    match answer {
        Value::Object(fields) => {
            for (name, value) in fields {
                if name.ends_with("error_code") {
                    errors.extend(value.as_i64().filter(|code| *code != 0));
                }
                collect_errors(value, errors);
            }
        }
        Value::Array(elements) => elements.iter().for_each(|element| collect_errors(element, errors)),
        _ => {}
    }
}
