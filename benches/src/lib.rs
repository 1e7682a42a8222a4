//! Benchmarks of the codec, each with its alternatives: read the rows of a group against each other, not against another day's.
//!
//! | figure | command |
//! |---|---|
//! | one record read or built: ours, the crate kafka-protocol, and the bare checksum and copy of the same bytes | `cargo bench -p milena-benches --bench batch` |
//! | each codec: ours, and its crate alone on the same bytes | `cargo bench -p milena-benches --bench codecs` |
//! | all of these with the rows of a group in turns, and the least of each: for a machine that does other work | `cargo bench -p milena-benches --bench turns` |
//! | part of it | `cargo bench -p milena-benches --bench turns -- decompress/lz4` |
//! | a fetch answer read, a produce request written: ours and kafka-protocol | `cargo bench -p milena-benches --bench fetch_view` |
//! | allocations for a record, for a batch, and for a bomb: counted and tested | `cargo test -p milena-protocol --test allocations` |
//!
//! `cargo xtask bench --smoke` runs everything once.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // a panic is how a check fails here

pub mod bare;
pub mod codecs;
pub mod records;

/// One piece of work.
pub type Run = Box<dyn FnMut()>;

/// Things to be compared: each does the same work in its own way.
pub struct Case {
    /// What the work is.
    pub name: String,
    /// How much of it one run does.
    pub amount: Amount,
    /// Who does it, and how. The last does the least that is possible.
    pub rows: Vec<(&'static str, Run)>,
    /// What they are held to.
    pub bars: Vec<Bar>,
}

/// How dear a row may be.
#[derive(Clone, Copy, Debug)]
pub struct Bar {
    /// The row.
    pub row: &'static str,
    /// The row that it is held against.
    pub against: &'static str,
    /// By how much it may be dearer.
    pub most: Most,
}

/// What a row may cost beside another one.
#[derive(Clone, Copy, Debug)]
pub enum Most {
    /// So many times as much.
    Times(f64),
    /// So many nanoseconds more for each record.
    Beyond(f64),
    /// So many nanoseconds for each record, whatever the other one costs.
    Each(f64),
}

/// What a run's time is divided by.
#[derive(Clone, Copy, Debug)]
pub enum Amount {
    /// Records.
    Records(usize),
    /// Bytes, not compressed.
    Bytes(usize),
    /// The run itself.
    Once,
}

impl Case {
    /// A case without rows.
    #[must_use]
    pub fn new(name: impl Into<String>, amount: Amount) -> Self {
        Self { name: name.into(), amount, rows: Vec::new(), bars: Vec::new() }
    }

    /// Adds a row.
    pub fn row(&mut self, name: &'static str, run: impl FnMut() + 'static) {
        self.rows.push((name, Box::new(run)));
    }

    /// Holds a row against another.
    pub fn bar(&mut self, row: &'static str, against: &'static str, most: Most) {
        self.bars.push(Bar { row, against, most });
    }
}

/// Text like events of a shop in JSON: compresses about fivefold.
#[must_use]
pub fn text(size: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(size + 128);
    let mut state = 0x1234_5678u64;
    while out.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(
            format!(
                "{{\"user_id\":{},\"event\":\"{}\",\"page\":\"/product/{}\",\"session\":\"{state:016x}\"}}",
                state % 100_000,
                ["view", "click", "purchase", "add_to_cart"][(state >> 17) as usize % 4],
                (state >> 23) % 5000
            )
            .as_bytes(),
        );
    }
    out.truncate(size);
    out
}
