//! Fetch sessions: what a client asked for and has not taken back (KIP-227).

use std::collections::BTreeMap;

use milena_protocol::ErrorCode;
use milena_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use milena_protocol::messages::fetch_response::PartitionData;
use milena_protocol::messages::{FetchRequest, FetchResponse, TopicName};
use uuid::Uuid;

use super::rng::Rng;

/// `max.incremental.fetch.session.cache.slots`.
const SLOTS: usize = 1000;

type Key = (Uuid, TopicName, i32);

#[derive(Debug)]
struct Session {
    epoch: i32,
    /// In the order in which they are read: who brought records goes last.
    partitions: Vec<Held>,
}

#[derive(Debug)]
struct Held {
    key: Key,
    asked: FetchPartition,
    /// High watermark, last stable offset and log start as they were told last.
    told: Option<(i64, i64, i64)>,
}

/// The sessions of a broker.
#[derive(Debug)]
pub(super) struct Sessions {
    rng: Rng,
    by_id: BTreeMap<i32, Session>,
}

impl Sessions {
    pub(super) fn new(rng: Rng) -> Self {
        Self { rng, by_id: BTreeMap::new() }
    }

    pub(super) fn clear(&mut self) {
        self.by_id.clear();
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Turns a request into the one it stands for. Its session id is that of the answer, and its session epoch is above 0 if the answer
    /// tells only news.
    pub(super) fn open(&mut self, mut request: FetchRequest) -> Result<FetchRequest, ErrorCode> {
        if request.session_epoch <= 0 {
            self.by_id.remove(&request.session_id);
            request.session_id = 0;
            if request.session_epoch == 0 && self.by_id.len() < SLOTS && !request.topics.is_empty() {
                request.session_id = self.new_id();
                let session = Session { epoch: 1, partitions: held(&request.topics).collect() };
                self.by_id.insert(request.session_id, session);
            }
            request.session_epoch = 0;
            return Ok(request);
        }
        let session = self.by_id.get_mut(&request.session_id).ok_or(ErrorCode::FETCH_SESSION_ID_NOT_FOUND)?;
        if session.epoch != request.session_epoch {
            return Err(ErrorCode::INVALID_FETCH_SESSION_EPOCH);
        }
        session.epoch = if session.epoch == i32::MAX { 1 } else { session.epoch + 1 };
        for new in held(&request.topics) {
            match session.partitions.iter_mut().find(|held| held.key == new.key) {
                Some(old) => old.asked = new.asked,
                None => session.partitions.push(new),
            }
        }
        for topic in &request.forgotten_topics_data {
            let gone = |held: &Held| {
                let (id, name, partition) = &held.key;
                *id == topic.topic_id && *name == topic.topic && topic.partitions.contains(partition)
            };
            session.partitions.retain(|held| !gone(held));
        }
        request.forgotten_topics_data.clear();
        request.topics = session.partitions.iter().map(Held::asked).collect();
        Ok(request)
    }

    /// Takes what is no news out of the answer to a request that [`open`](Self::open) made.
    pub(super) fn close(&mut self, request: &FetchRequest, mut response: FetchResponse) -> FetchResponse {
        response.session_id = request.session_id;
        let Some(session) = self.by_id.get_mut(&request.session_id) else { return response };
        let incremental = request.session_epoch > 0;
        let mut last = Vec::new();
        for topic in &mut response.responses {
            let (id, name) = (topic.topic_id, topic.topic.clone());
            topic.partitions.retain(|data| {
                let key = (id, name.clone(), data.partition_index);
                let Some(at) = session.partitions.iter().position(|held| held.key == key) else {
                    return !incremental;
                };
                let told = (data.high_watermark, data.last_stable_offset, data.log_start_offset);
                let brought = data.records.as_ref().is_some_and(|records| !records.is_empty());
                let mut held = session.partitions.remove(at);
                let news = brought || is_trouble(data) || held.told != Some(told);
                held.told = Some(told);
                if brought {
                    last.push(held);
                } else {
                    session.partitions.insert(at, held);
                }
                news || !incremental
            });
        }
        session.partitions.extend(last);
        response.responses.retain(|topic| !topic.partitions.is_empty());
        response
    }

    fn new_id(&mut self) -> i32 {
        loop {
            // The sign bit is left out: ids are positive.
            let id = i32::try_from(self.rng.next() >> 33).unwrap_or(1);
            if id != 0 && !self.by_id.contains_key(&id) {
                return id;
            }
        }
    }
}

impl Held {
    fn asked(&self) -> FetchTopic {
        let (id, name, _) = &self.key;
        FetchTopic::default()
            .with_topic_id(*id)
            .with_topic(name.clone())
            .with_partitions(vec![self.asked.clone()])
    }
}

fn held(topics: &[FetchTopic]) -> impl Iterator<Item = Held> {
    topics.iter().flat_map(|topic| {
        topic.partitions.iter().map(|asked| Held {
            key: (topic.topic_id, topic.topic.clone(), asked.partition),
            asked: asked.clone(),
            told: None,
        })
    })
}

fn is_trouble(data: &PartitionData) -> bool {
    data.error_code != 0 || data.diverging_epoch.epoch >= 0
}
