//! milena as an agent of the interop matrix: the public client, and the protocol of `tests/interop/README.md`.

use std::io::{BufRead, BufWriter, StdoutLock, Write};
use std::time::Duration;

use milena::{
    Client, Error, FetchFrom, FetchOptions, Header, Idempotence, Isolation, Offset, Producer, ProducerConfig,
    ProducerRecord, Ticket, TopicPartition, TransactionConfig, TransactionalProducer,
};
use milena_tests::interop::{line, unhex};
use serde_json::Value;
use tokio::time::Instant;

type Failure = Box<dyn std::error::Error + Send + Sync>;

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let bootstrap = std::env::args().nth(1).ok_or("the broker's address is missing")?;
    let client = Client::connect(bootstrap.as_str()).await?;
    let mut out = BufWriter::with_capacity(1 << 16, std::io::stdout().lock());
    writeln!(out, "ready {{\"name\":\"milena\",\"version\":\"{}\"}}", env!("CARGO_PKG_VERSION"))?;
    out.flush()?;
    for command in std::io::stdin().lines() {
        let command = command?;
        let outcome = match command.split_once(' ') {
            Some(("write", command)) => write(&client, &serde_json::from_str(command)?).await,
            Some(("read", command)) => read(&client, &serde_json::from_str(command)?, &mut out).await,
            _ => Err(format!("unknown command {command:?}").into()),
        };
        match outcome {
            Ok(()) => writeln!(out, "done")?,
            Err(failure) => writeln!(out, "failed {}", failure.to_string().replace('\n', " "))?,
        }
        out.flush()?;
    }
    Ok(())
}

/// The producer at hand, of either kind.
enum Writer {
    Plain(Producer),
    Transactional(Box<TransactionalProducer>),
}

impl Writer {
    async fn open(client: &Client, config: &ProducerConfig, id: Option<String>) -> Result<Self, Error> {
        let Some(id) = id else { return Producer::new(client, config.clone()).map(Self::Plain) };
        let config = TransactionConfig { producer: config.clone(), ..TransactionConfig::new(id) };
        let mut producer = TransactionalProducer::new(client, config)?;
        producer.init().await?;
        Ok(Self::Transactional(Box::new(producer)))
    }

    async fn send(&self, record: ProducerRecord<'_>) -> Result<Ticket, Error> {
        match self {
            Self::Plain(producer) => producer.send(record).await,
            Self::Transactional(producer) => producer.send(record).await,
        }
    }

    async fn flush(&self) -> Result<(), Error> {
        match self {
            Self::Plain(producer) => producer.flush().await,
            Self::Transactional(producer) => producer.flush().await,
        }
    }

    async fn close(self) -> Result<(), Error> {
        match self {
            Self::Plain(producer) => producer.close(PATIENCE).await,
            Self::Transactional(producer) => producer.close(PATIENCE).await,
        }
    }

    fn transaction(&mut self) -> Result<&mut TransactionalProducer, Failure> {
        match self {
            Self::Plain(_) => Err("the producer is not transactional".into()),
            Self::Transactional(producer) => Ok(producer),
        }
    }
}

async fn write(client: &Client, command: &Value) -> Result<(), Failure> {
    let topic = text(command, "topic")?;
    let level = command.get("level").and_then(Value::as_i64);
    let config = ProducerConfig {
        compression: text(command, "codec")?.parse()?,
        compression_level: level.map(i32::try_from).transpose()?,
        idempotence: match command
            .get("idempotent")
            .and_then(Value::as_bool)
            .ok_or("idempotent is missing")?
        {
            true => Idempotence::Required,
            false => Idempotence::WhenPossible,
        },
        linger: Duration::from_millis(20),
        max_request_size: 8 << 20,
        ..ProducerConfig::default()
    };
    let script = std::io::BufReader::new(std::fs::File::open(text(command, "script")?)?);
    let mut writer: Option<Writer> = None;
    let (mut opened, mut tickets) = (0, Vec::new());
    for step in script.lines() {
        let step: Value = serde_json::from_str(&step?)?;
        let op = text(&step, "op")?;
        if op == "producer" {
            finish(writer.as_ref(), &mut tickets).await?;
            if let Some(writer) = writer.take() {
                writer.close().await?;
            }
            let transactional = step.get("transactional").and_then(Value::as_bool) == Some(true);
            let id = transactional.then(|| format!("{topic}-{opened}"));
            opened += 1;
            writer = Some(Writer::open(client, &config, id).await?);
            continue;
        }
        let current = writer.as_mut().ok_or("the script opens no producer")?;
        match op {
            "record" => tickets.push(send(current, topic, &step).await?),
            "flush" => finish(writer.as_ref(), &mut tickets).await?,
            "begin" => current.transaction()?.begin().await?,
            "commit" => current.transaction()?.commit().await?,
            "abort" => current.transaction()?.abort().await?,
            _ => return Err(format!("unknown step {op}").into()),
        }
    }
    finish(writer.as_ref(), &mut tickets).await?;
    match writer {
        Some(writer) => Ok(writer.close().await?),
        None => Ok(()),
    }
}

async fn send(writer: &Writer, topic: &str, step: &Value) -> Result<Ticket, Failure> {
    let key = bytes(step.get("key"))?;
    let value = bytes(step.get("value"))?;
    let mut headers = Vec::new();
    for header in step.get("headers").and_then(Value::as_array).ok_or("a record without headers")? {
        let name = bytes(header.get(0))?.ok_or("a header without a name")?;
        headers.push((String::from_utf8(name)?, bytes(header.get(1))?));
    }
    let headers: Vec<_> = headers.iter().map(|(name, value)| Header::new(name, value.as_deref())).collect();
    let mut record = ProducerRecord::to(topic).headers(&headers);
    record.timestamp = Some(step.get("timestamp").and_then(Value::as_i64).ok_or("a record without time")?);
    record.key = key.as_deref();
    record.value = value.as_deref();
    if let Some(partition) = step.get("partition").and_then(Value::as_i64) {
        record = record.partition(i32::try_from(partition)?);
    }
    Ok(writer.send(record).await?)
}

async fn finish(writer: Option<&Writer>, tickets: &mut Vec<Ticket>) -> Result<(), Failure> {
    if let Some(writer) = writer {
        writer.flush().await?;
    }
    for ticket in tickets.drain(..) {
        ticket.await?;
    }
    Ok(())
}

async fn read(
    client: &Client,
    command: &Value,
    out: &mut BufWriter<StdoutLock<'static>>,
) -> Result<(), Failure> {
    let topic = text(command, "topic")?;
    let isolation = match text(command, "isolation")? {
        "read_committed" => Isolation::ReadCommitted,
        "read_uncommitted" => Isolation::ReadUncommitted,
        other => return Err(format!("unknown isolation {other}").into()),
    };
    let options = FetchOptions { isolation, max_wait: Duration::from_millis(100), ..FetchOptions::default() };
    let ends = command.get("ends").and_then(Value::as_array).ok_or("no ends")?;
    let mut open = Vec::new();
    for (partition, end) in ends.iter().enumerate() {
        let tp = TopicPartition::new(topic, i32::try_from(partition)?);
        open.push((FetchFrom::new(tp, Offset(0)), Offset(end.as_i64().ok_or("an end that is no offset")?)));
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        open.retain(|(from, end)| from.offset < *end);
        if open.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("the end of {open:?} is out of reach").into());
        }
        let from: Vec<_> = open.iter().map(|(from, _)| from.clone()).collect();
        for fetched in client.fetcher().fetch(&from, &options).await? {
            if let Some(error) = &fetched.error {
                if error.is_retriable() {
                    continue;
                }
                return Err(error.to_string().into());
            }
            for record in fetched.owned_records()? {
                let headers = record.headers().map(|header| (header.name.as_bytes(), header.value));
                let times = (record.offset.0, record.timestamp);
                let (key, value) = (record.key.as_deref(), record.value.as_deref());
                writeln!(out, "{}", line(fetched.tp.partition.0, times, key, value, headers))?;
            }
            for (from, _) in open.iter_mut().filter(|(from, _)| from.tp == fetched.tp) {
                from.offset = fetched.next_offset();
            }
        }
    }
}

fn text<'a>(command: &'a Value, name: &str) -> Result<&'a str, Failure> {
    command.get(name).and_then(Value::as_str).ok_or_else(|| format!("{name} is missing").into())
}

fn bytes(hex: Option<&Value>) -> Result<Option<Vec<u8>>, Failure> {
    match hex {
        Some(Value::Null) => Ok(None),
        Some(Value::String(hex)) => Ok(Some(unhex(hex).ok_or("no hex")?)),
        other => Err(format!("{other:?} is neither hex nor null").into()),
    }
}
