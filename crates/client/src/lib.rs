//! A pure-Rust, C-free Kafka client.
//!
//! ```no_run
//! use milena::{Client, Consumer, ConsumerConfig, Start, TopicPartition};
//!
//! # async fn read() -> milena::Result<()> {
//! let client = Client::connect("localhost:9092").await?;
//! let mut consumer = Consumer::new(&client, ConsumerConfig::default())?;
//! consumer.assign([(TopicPartition::new("orders", 0), Start::Earliest)]);
//! loop {
//!     let record = consumer.recv().await?;
//!     println!("{} {:?}", record.offset(), record.value());
//! }
//! # }
//! ```
//!
//! [`Client`] is the start of everything: connections, topology, single requests ([`Client::call`]). [`Consumer`] reads records, [`Producer`]
//! writes them, [`Group`] commits offsets, [`Admin`] looks after topics, [`Transactions`] finishes transactions. All are cheap to clone
//! and share the client's connections. Every call ends within [`ClientConfig::api_timeout`].

mod admin;
mod attempts;
mod call;
mod client;
mod config;
mod connection;
mod consumer;
mod coordinator;
mod error;
mod failure;
mod fetcher;
mod frames;
mod generation;
mod group;
mod handshake;
mod metadata;
mod offsets;
mod pool;
mod producer;
pub mod sasl;
pub mod security;
pub mod tls;
mod transaction;
mod transactions;
pub mod transport;

pub use milena_core::cluster::{self, Cluster};
pub use milena_core::retry::Backoff;
pub use milena_protocol as protocol;
pub use milena_protocol::compression::Compression;
pub use milena_protocol::error_code::ErrorCode;
pub use milena_protocol::records::{
    Batches, ControlRecord, Header, HeaderName, Headers, OwnedHeaderName, OwnedRecord, Record, RecordBatch,
    Records, TimestampType,
};
pub use milena_protocol::types::*;
pub use milena_protocol::versions::BrokerVersions;

pub use admin::{
    ActiveProducer, Admin, ConfigEntry, NewTopic, PartitionDescription, TopicDescription, TopicListing,
};
pub use call::{Answer, CallOptions, CoordinatorKind, Target};
pub use client::Client;
pub use config::ClientConfig;
pub use consumer::{
    BatchRecords, CommitTicket, Consumer, ConsumerConfig, ConsumerMetrics, ConsumerRecord, OffsetReset,
    OnDataLoss, PartitionIter, PartitionRecords, RecordRef, RecordStream,
};
pub use error::{Error, ErrorKind, Result};
pub use fetcher::{FetchFrom, FetchOptions, Fetched, Fetcher, VisibleBatches};
pub use group::{CommittedOffset, Group, GroupMetadata};
pub use milena_core::fetch::{
    CursorView as PartitionState, Position, Reason as StatusReason, Start, Status as PartitionStatus,
};
pub use milena_core::transaction::State as ProducerState;
pub use offsets::{ListedOffset, OffsetSpec};
pub use pool::Purpose;
pub use producer::{
    Acks, Idempotence, Partitioner, Partitioning, Producer, ProducerConfig, ProducerMetrics, ProducerRecord,
    RecordMetadata, Ticket, Tickets,
};
pub use transaction::{TransactionConfig, TransactionalProducer};
pub use transactions::{
    EndTxnAnswer, ForcedMarker, ListFilter, MarkersWritten, PreparedTransaction, TransactionDescription,
    TransactionListing, TransactionState, TransactionVersion, Transactions,
};
