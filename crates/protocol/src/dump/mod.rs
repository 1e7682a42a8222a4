//! What a frame says, field by field, for people who look at frames.
//!
//! [`Dump`] walks one request or response by the tables of the [guard](crate::guard) and hands out an [`Event`] for each
//! struct, array and value in wire order, borrowed from the frame. It holds no more than its place in the table, so a frame of
//! any size costs the same. [`pieces`] takes record data apart into batches, damaged ones and tails included.
//!
//! Nothing is decoded by kafka-protocol here, and nothing is trusted: a dump ends at the first byte that breaks the protocol, with
//! a [`Fault`] that names the byte and the path of fields to it. Up to there everything was handed out. It refuses what the guard
//! refuses, at the same byte, but for frames that would only cost too much memory once decoded: a dump decodes nothing.
//!
//! ```
//! use milena_protocol::dump::{Dump, Value, What};
//!
//! // ListGroups v0 has no fields behind its header.
//! let frame = [0, 16, 0, 0, 0, 0, 0, 7, 0, 2, b'm', b'i'];
//! let mut seen = Vec::new();
//! for event in Dump::request(&frame) {
//!     let event = event?;
//!     if let What::Value { name, value } = event.what {
//!         seen.push((event.at, name.to_string(), value));
//!     }
//! }
//! assert_eq!(seen[2], (4..8, "correlation_id".to_owned(), Value::Int(7)));
//! assert_eq!(seen[3], (8..12, "client_id".to_owned(), Value::Text("mi")));
//! # Ok::<(), milena_protocol::dump::Fault>(())
//! ```

mod inside;
mod leader_change;
mod pieces;
mod walk;

use std::fmt;
use std::ops::Range;

use uuid::Uuid;

pub use inside::{Inside, inside};
pub use leader_change::LeaderChange;
pub use pieces::{Announced, HEAD_LEN, Piece, Pieces, announced, pieces};
pub use walk::Dump;

/// One step of a dump: what stands at some bytes of a frame.
#[derive(Clone, PartialEq, Debug)]
pub struct Event<'a> {
    /// The bytes that belong to this step alone, counted from the first byte of the frame (after its length): of a value its
    /// length and content, of an array its count, of a tagged field its tag and size too. The ranges of all events follow each
    /// other without a gap.
    pub at: Range<usize>,
    /// What stands there.
    pub what: What<'a>,
}

/// What stands at some bytes of a frame.
#[derive(Clone, PartialEq, Debug)]
pub enum What<'a> {
    /// Something with parts begins; a [`What::Leave`] follows after them.
    Enter {
        /// What it is called.
        name: Name,
        /// What it is.
        node: Node,
    },
    /// The innermost thing with parts ends.
    Leave,
    /// A value.
    Value {
        /// What it is called.
        name: Name,
        /// What it is.
        value: Value<'a>,
    },
    /// How many tagged fields end a struct (KIP-482); they follow.
    Tags(u32),
    /// The rest of a frame, of an API or version that is not known.
    Opaque(&'a [u8]),
}

/// What a part is called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Name {
    /// The header of the frame.
    Header,
    /// The body of the frame, by the name of its message, as `MetadataResponse`.
    Body(&'static str),
    /// A field, as in Kafka's schema but in snake case.
    Field(&'static str),
    /// An element of an array, from 0.
    Element(u32),
    /// A tagged field.
    Tagged {
        /// As [`Name::Field`].
        name: &'static str,
        /// Its tag.
        tag: u32,
        /// The size that stands before it, in bytes.
        size: u32,
    },
    /// A tagged field that Kafka's schema does not have. Its value is [`Value::Bytes`].
    UnknownTag {
        /// Its tag.
        tag: u32,
        /// The size that stands before it, in bytes.
        size: u32,
    },
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => f.write_str("header"),
            Self::Body(name) | Self::Field(name) | Self::Tagged { name, .. } => f.write_str(name),
            Self::Element(index) => write!(f, "[{index}]"),
            Self::UnknownTag { tag, .. } => write!(f, "tag {tag}"),
        }
    }
}

/// What something with parts is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Node {
    /// A struct.
    Struct,
    /// An array.
    Array {
        /// How many elements follow.
        count: u32,
        /// Whether they are values, not structs.
        of_values: bool,
    },
}

/// A value in a frame.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Value<'a> {
    /// No value, where the version allows none.
    Null,
    /// A flag.
    Bool(bool),
    /// A whole number of any width.
    Int(i64),
    /// A number with a fraction.
    Float(f64),
    /// A UUID, as of topics.
    Uuid(Uuid),
    /// Text.
    Text(&'a str),
    /// Bytes that the protocol does not look into.
    Bytes(&'a [u8]),
    /// Record data: see [`pieces`].
    Records(&'a [u8]),
}

/// Where and why a frame breaks the protocol.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The byte at which reading stopped, counted from the first byte of the frame: the byte the guard names.
    pub at: usize,
    /// The bytes of the item that is wrong, as far as they are known; empty where the frame ends too early for any.
    pub item: Range<usize>,
    /// The fields that lead there, as `topics[0].partitions[2].records`; empty for the frame itself.
    pub path: String,
    /// What is wrong.
    pub reason: &'static str,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason)?;
        if self.path.is_empty() {
            write!(f, " (byte {})", self.at)
        } else {
            write!(f, " (field {}, byte {})", self.path, self.at)
        }
    }
}

impl std::error::Error for Fault {}
