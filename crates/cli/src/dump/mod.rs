//! Frames and record data, printed for people and for programs.
//!
//! ```text
//! input    where frames come from: hexadecimal, files, folders
//! text     a frame in lines            json     a frame as one object
//! batch    record data in lines        entry    record data as objects
//! segment  log files, batch by batch   excerpt  the bytes around a fault
//! ```

pub(crate) mod batch;
pub(crate) mod entry;
mod excerpt;
pub(crate) mod input;
pub(crate) mod json;
pub(crate) mod segment;
mod show;
pub(crate) mod text;

use milena::protocol::dump::Fault;

/// How much is printed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    /// Longer keys, values and byte fields are cut; `None` for no limit.
    pub(crate) max_bytes: Option<usize>,
    /// Where each field stands, too.
    pub(crate) offsets: bool,
    /// Record data is opened.
    pub(crate) records: bool,
}

/// What was seen of a frame.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// The fault that ended it.
    pub(crate) fault: Option<Fault>,
    /// What was seen of its record data.
    pub(crate) tally: Tally,
}

/// What was seen of record data.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Records; those that the headers promise if none were opened.
    pub(crate) records: u64,
    /// The offset of the first record that was opened.
    pub(crate) first_offset: Option<i64>,
    /// Faults.
    pub(crate) faults: u64,
    /// The first of them, in words.
    pub(crate) first: Option<String>,
}

impl Tally {
    pub(crate) fn fault(&mut self, text: impl FnOnce() -> String) {
        self.faults += 1;
        if self.first.is_none() {
            self.first = Some(text());
        }
    }

    pub(crate) fn append(&mut self, other: Self) {
        self.records += other.records;
        self.first_offset = self.first_offset.or(other.first_offset);
        self.faults += other.faults;
        if self.first.is_none() {
            self.first = other.first;
        }
    }
}
