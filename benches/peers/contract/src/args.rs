//! The command line.

use std::str::FromStr;

use anyhow::{Context, Result, bail};

/// What the peer is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Reads the whole topic.
    Consume,
    /// Writes records and waits for all acknowledgements.
    Produce,
    /// Writes at a fixed rate and reads the same records, both in this process.
    Latency,
}

/// Whether the peer runs with its own defaults or at its best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// The settings that its author would choose for throughput, and linger 5 ms.
    Tuned,
    /// As it comes, but idempotent with acks=all where it can.
    Default,
}

/// What a record has beside its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Nothing.
    Plain,
    /// A key of 16 bytes and three headers with values of 8.
    Keys,
}

/// The codec of batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// Not compressed.
    None,
    /// lz4.
    Lz4,
    /// zstd.
    Zstd,
}

/// The parsed command line.
#[derive(Clone, Debug)]
pub struct Args {
    /// `host:port` of the broker.
    pub bootstrap: String,
    /// The topic; it exists.
    pub topic: String,
    /// How many partitions it has.
    pub partitions: u32,
    /// What to do.
    pub role: Role,
    /// Which of the peer's own ways of doing it; each peer has a default.
    pub mode: String,
    /// Records before the measured window.
    pub warm: u64,
    /// Records of the measured window.
    pub records: u64,
    /// Records behind the window: consumers read them too, so that what was fetched ahead is paid for.
    pub tail: u64,
    /// A file of values, each of `value_size` bytes; record `i` has value `i` modulo their number.
    pub values: String,
    /// The bytes of each value.
    pub value_size: usize,
    /// The codec.
    pub codec: Codec,
    /// The settings.
    pub profile: Profile,
    /// Keys and headers.
    pub shape: Shape,
    /// Threads that send.
    pub threads: usize,
    /// Records a second in the role latency.
    pub rate: u64,
    /// Records in a batch, for who makes batches by hand; 0 is the peer's choice.
    pub batch_records: u64,
    /// The file of the authority that signed the broker's certificate; plaintext without it.
    pub tls: Option<String>,
    /// Keep connections open after the result until standard input ends, so that they can be looked at.
    pub hold: bool,
}

impl Args {
    /// Reads the process's arguments: `--name value` pairs.
    pub fn parse() -> Result<Self> {
        let mut args = Self {
            bootstrap: String::new(),
            topic: String::new(),
            partitions: 1,
            role: Role::Consume,
            mode: String::new(),
            warm: 0,
            records: 0,
            tail: 0,
            values: String::new(),
            value_size: 100,
            codec: Codec::None,
            profile: Profile::Tuned,
            shape: Shape::Plain,
            threads: 1,
            rate: 1000,
            batch_records: 0,
            tls: None,
            hold: false,
        };
        let mut words = std::env::args().skip(1);
        while let Some(name) = words.next() {
            let value = words.next().with_context(|| format!("{name} has no value"))?;
            args.set(&name, &value).with_context(|| format!("{name} {value}"))?;
        }
        Ok(args)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        match name {
            "--bootstrap" => self.bootstrap = value.to_owned(),
            "--topic" => self.topic = value.to_owned(),
            "--partitions" => self.partitions = number(value)?,
            "--role" => {
                self.role = match value {
                    "consume" => Role::Consume,
                    "produce" => Role::Produce,
                    "latency" => Role::Latency,
                    _ => bail!("no such role"),
                }
            }
            "--mode" => self.mode = value.to_owned(),
            "--warm" => self.warm = number(value)?,
            "--records" => self.records = number(value)?,
            "--tail" => self.tail = number(value)?,
            "--values" => self.values = value.to_owned(),
            "--value-size" => self.value_size = number(value)?,
            "--codec" => {
                self.codec = match value {
                    "none" => Codec::None,
                    "lz4" => Codec::Lz4,
                    "zstd" => Codec::Zstd,
                    _ => bail!("no such codec"),
                }
            }
            "--profile" => {
                self.profile = match value {
                    "tuned" => Profile::Tuned,
                    "default" => Profile::Default,
                    _ => bail!("no such profile"),
                }
            }
            "--shape" => {
                self.shape = match value {
                    "plain" => Shape::Plain,
                    "keys" => Shape::Keys,
                    _ => bail!("no such shape"),
                }
            }
            "--threads" => self.threads = number(value)?,
            "--rate" => self.rate = number(value)?,
            "--batch-records" => self.batch_records = number(value)?,
            "--tls" => self.tls = Some(value.to_owned()),
            "--hold" => self.hold = value == "true",
            _ => bail!("no such option"),
        }
        Ok(())
    }

    /// All records: before, in and behind the window.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.warm + self.records + self.tail
    }
}

fn number<T: FromStr>(value: &str) -> Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    value.parse().context("not a number")
}
