//! `milena produce`.

use std::io::{self, BufRead};
use std::time::Duration;

use anyhow::Context as _;

use milena::protocol::records::Header;
use milena::{Client, PartitionId, Producer, ProducerRecord};
use tokio::sync::mpsc;

use crate::args::{Format, Global, Produce};
use crate::output::Usage;
use crate::render::unescape;
use crate::{connect, output, signals};

/// Most lines that were read and are not yet with the producer.
const READ_AHEAD: usize = 64;

/// How often the producer is asked whether a record has failed.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Runs the command until the end of standard input, or a signal.
pub(crate) async fn run(global: &Global, args: &Produce) -> anyhow::Result<()> {
    let (client, mut producer) = connect::producer_config(global, &args.cluster)?;
    producer.compression = args.compression.parse().map_err(|error| Usage(format!("-z: {error}")))?;
    let delimiter = delimiter(&args.delimiter)?;
    let separator = args.key_separator.as_deref().map(unescape).transpose().map_err(Usage)?;
    if separator.as_ref().is_some_and(Vec::is_empty) {
        return Err(Usage("-K: the separator is empty".into()).into());
    }

    let client = Client::connect(client).await.context("cannot connect")?;
    let producer = Producer::new(&client, producer)?;
    let mut lines = read_lines(delimiter);
    let mut read = 0u64;
    let outcome = feed(&producer, args, separator.as_deref(), &mut lines, &mut read).await;
    // What was read is delivered even if the end came by a signal, or by an error of a later line.
    let flushed = tokio::select! {
        flushed = producer.flush() => flushed.map_err(anyhow::Error::from),
        () = signals::asked_to_end() => Err(anyhow::anyhow!("interrupted before every record was acknowledged")),
    };
    let produced = producer.metrics().records;
    if global.format == Format::Json {
        output::json(&serde_json::json!({ "read": read, "produced": produced }))?;
    } else if outcome.is_ok() && flushed.is_ok() {
        eprintln!("{produced} records produced");
    }
    outcome.and(flushed).with_context(|| {
        format!("{produced} of the {read} records read were delivered, the others were not")
    })?;
    producer.close(global.timeout).await?;
    client.close(global.timeout).await?;
    Ok(())
}

/// Hands lines to the producer until there are no more, a signal comes, or one of them could not be delivered.
async fn feed(
    producer: &Producer,
    args: &Produce,
    separator: Option<&[u8]>,
    lines: &mut mpsc::Receiver<io::Result<Vec<u8>>>,
    read: &mut u64,
) -> anyhow::Result<()> {
    let mut look = tokio::time::interval(LOOK_EVERY);
    let mut end = Box::pin(signals::asked_to_end());
    let mut ending = false;
    loop {
        tokio::select! {
            // Lines that were read already come all the same.
            () = &mut end, if !ending => {
                ending = true;
                lines.close();
            }
            // The flush that follows tells what went wrong.
            _ = look.tick() => if producer.metrics().errors > 0 { return Ok(()) },
            line = lines.recv() => {
                let Some(line) = line else { return Ok(()) };
                let line = line.context("standard input")?;
                *read += 1;
                send(producer, args, separator, &line).await?;
            }
        }
    }
}

async fn send(
    producer: &Producer,
    args: &Produce,
    separator: Option<&[u8]>,
    line: &[u8],
) -> anyhow::Result<()> {
    let (key, value) = split(args.key.as_deref().map(str::as_bytes), separator, line);
    let nullable = |bytes: &'_ [u8]| !(args.null && bytes.is_empty());
    let headers: Vec<Header<'_>> = args
        .headers
        .iter()
        .map(|(name, value)| Header::new(name, value.as_deref().map(str::as_bytes)))
        .collect();
    let record = ProducerRecord {
        topic: &args.topic,
        partition: args.partition.map(PartitionId),
        key: key.filter(|key| nullable(key)),
        value: Some(value).filter(|value| nullable(value)),
        headers: &headers,
        timestamp: None,
    };
    // The outcome is seen by the flush at the end; waiting for each ticket would send one record a batch.
    let _ticket = producer.send(record).await?;
    Ok(())
}

/// Key and value of a line; a line without the separator is all value, as in kcat.
fn split<'a>(
    key: Option<&'a [u8]>,
    separator: Option<&[u8]>,
    line: &'a [u8],
) -> (Option<&'a [u8]>, &'a [u8]) {
    let Some(separator) = separator else { return (key, line) };
    match line.windows(separator.len()).position(|window| window == separator) {
        None => (None, line),
        Some(at) => {
            let (key, rest) = line.split_at(at);
            (Some(key), rest.get(separator.len()..).unwrap_or_default())
        }
    }
}

fn delimiter(text: &str) -> anyhow::Result<u8> {
    match unescape(text).map_err(Usage)?.as_slice() {
        [byte] => Ok(*byte),
        _ => Err(Usage(format!("-D: `{text}` is not one byte")).into()),
    }
}

/// Reads standard input on a thread of its own, since a read of it can block for ever.
fn read_lines(delimiter: u8) -> mpsc::Receiver<io::Result<Vec<u8>>> {
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    std::thread::spawn(move || {
        let mut input = io::stdin().lock();
        loop {
            let mut line = Vec::new();
            let read = input.read_until(delimiter, &mut line);
            let item = match read {
                Ok(0) => return,
                Ok(_) => {
                    if line.last() == Some(&delimiter) {
                        line.pop();
                    }
                    Ok(line)
                }
                Err(error) => Err(error),
            };
            let failed = item.is_err();
            if sender.blocking_send(item).is_err() || failed {
                return;
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_separator_divides_key_and_value() {
        assert_eq!(split(None, Some(b":"), b"k:v:w"), (Some(&b"k"[..]), &b"v:w"[..]));
        assert_eq!(split(None, Some(b"::"), b"k:v"), (None, &b"k:v"[..]));
        assert_eq!(split(None, Some(b":"), b":v"), (Some(&b""[..]), &b"v"[..]));
        assert_eq!(split(Some(b"all"), None, b"v"), (Some(&b"all"[..]), &b"v"[..]));
    }
}
