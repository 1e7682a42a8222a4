//! The vocabulary of the table: what a message looks like on the wire.
//!
//! A shape is not laid out per version: fields say in which versions they exist, and whoever walks skips the others. So a
//! new version of a message costs the table a line or none, and a change of the table reads like a change of Kafka's schema.

/// The last version of what has no last version; the first version of what never is.
pub const EVER: u8 = 255;

/// What a field, or an element of an array, is made of.
#[derive(Clone, Copy, Debug)]
pub enum Item {
    /// A number, a flag or a UUID: always as many bytes.
    Fixed(Fixed),
    /// UTF-8 with a length before it.
    Text,
    /// Bytes with a length before them; records too.
    Bytes,
    /// A struct.
    Struct(&'static Shape),
}

/// A value of fixed width.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fixed {
    /// One byte, 0 or 1.
    Bool,
    /// Signed, 1 byte.
    I8,
    /// Signed, 2 bytes.
    I16,
    /// Unsigned, 2 bytes.
    U16,
    /// Signed, 4 bytes.
    I32,
    /// Unsigned, 4 bytes.
    U32,
    /// Signed, 8 bytes.
    I64,
    /// IEEE 754, 8 bytes.
    F64,
    /// 16 bytes.
    Uuid,
}

impl Fixed {
    /// Bytes on the wire, and in memory.
    #[must_use]
    pub const fn width(self) -> u8 {
        match self {
            Self::Bool | Self::I8 => 1,
            Self::I16 | Self::U16 => 2,
            Self::I32 | Self::U32 => 4,
            Self::I64 | Self::F64 => 8,
            Self::Uuid => 16,
        }
    }
}

/// What a field is made of, and whether it is one or many of it.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// What it is, or its elements are.
    pub item: Item,
    /// Whether it is an array.
    pub array: bool,
    /// Bytes of one item if that is fixed, else 0.
    pub width: u8,
}

/// One field of a struct.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// As in Kafka's schema, but in snake case.
    pub name: &'static str,
    /// What it is made of.
    pub kind: Kind,
    /// The tag of a tagged field (KIP-482); others stand in the order of the table.
    pub tag: Option<u8>,
    pub(super) versions: (u8, u8),
    pub(super) null: (u8, u8),
    pub(super) rigid: bool,
}

/// A struct: its fields in wire order.
#[derive(Debug)]
pub struct Shape {
    /// The fewest bytes it takes on the wire, in any version it occurs in. Never 0 for an element of an array.
    pub fewest_bytes: u16,
    /// The most bytes it takes in memory once decoded, without what it points to.
    pub memory: u16,
    /// Its fields.
    pub fields: &'static [Field],
}

/// A request, a response, or a message inside of one.
#[derive(Debug)]
pub struct Message {
    /// The API; -1 for a message that is none.
    pub api_key: i16,
    /// As in Kafka's schema, as `MetadataResponse`.
    pub name: &'static str,
    /// Its body.
    pub root: &'static Shape,
    pub(super) versions: (u8, u8),
    pub(super) flexible: u8,
}

impl Field {
    /// Whether a version has it.
    #[must_use]
    pub const fn exists(&self, version: u8) -> bool {
        self.versions.0 <= version && version <= self.versions.1
    }

    /// Whether it may be null in a version.
    #[must_use]
    pub const fn is_nullable(&self, version: u8) -> bool {
        self.null.0 <= version && version <= self.null.1
    }

    /// Whether it keeps its old encoding where all others are compact.
    #[must_use]
    pub const fn is_rigid(&self) -> bool {
        self.rigid
    }

    pub(super) const fn since(mut self, version: u8) -> Self {
        self.versions.0 = version;
        self
    }

    pub(super) const fn until(mut self, version: u8) -> Self {
        self.versions.1 = version;
        self
    }

    pub(super) const fn null(self) -> Self {
        self.null_in(0, EVER)
    }

    pub(super) const fn null_in(mut self, first: u8, last: u8) -> Self {
        self.null = (first, last);
        self
    }

    pub(super) const fn tag(mut self, tag: u8) -> Self {
        self.tag = Some(tag);
        self
    }

    pub(super) const fn rigid(mut self) -> Self {
        self.rigid = true;
        self
    }
}

impl Message {
    /// The versions Kafka has, both ends included.
    #[must_use]
    pub const fn versions(&self) -> (i16, i16) {
        (self.versions.0 as i16, self.versions.1 as i16)
    }

    /// A version in the table's own width; `None` if the message does not have it.
    #[must_use]
    pub fn version(&self, version: i16) -> Option<u8> {
        u8::try_from(version).ok().filter(|v| self.versions.0 <= *v && *v <= self.versions.1)
    }

    /// Whether Kafka has a version, and it has compact lengths and tagged fields (KIP-482).
    #[must_use]
    pub fn has_tags(&self, version: i16) -> bool {
        self.version(version).is_some_and(|version| self.is_flexible(version))
    }

    /// Whether a version has compact lengths and tagged fields (KIP-482).
    #[must_use]
    pub const fn is_flexible(&self, version: u8) -> bool {
        version >= self.flexible
    }
}

const fn fixed(fixed: Fixed) -> Kind {
    Kind { item: Item::Fixed(fixed), array: false, width: fixed.width() }
}

const fn sized(item: Item, array: bool) -> Kind {
    Kind { item, array, width: 0 }
}

pub(super) const BOOL: Kind = fixed(Fixed::Bool);
pub(super) const I8: Kind = fixed(Fixed::I8);
pub(super) const I16: Kind = fixed(Fixed::I16);
pub(super) const U16: Kind = fixed(Fixed::U16);
pub(super) const I32: Kind = fixed(Fixed::I32);
#[allow(dead_code, reason = "a type of Kafka's schemas that no message of 4.3 uses")]
pub(super) const U32: Kind = fixed(Fixed::U32);
pub(super) const I64: Kind = fixed(Fixed::I64);
pub(super) const F64: Kind = fixed(Fixed::F64);
pub(super) const UUID: Kind = fixed(Fixed::Uuid);
pub(super) const STR: Kind = sized(Item::Text, false);
pub(super) const BYTES: Kind = sized(Item::Bytes, false);

pub(super) const fn one(shape: &'static Shape) -> Kind {
    sized(Item::Struct(shape), false)
}

pub(super) const fn many(shape: &'static Shape) -> Kind {
    sized(Item::Struct(shape), true)
}

pub(super) const fn list(element: Kind) -> Kind {
    Kind { array: true, ..element }
}

pub(super) const fn field(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, tag: None, versions: (0, EVER), null: (EVER, 0), rigid: false }
}

pub(super) const fn shape(fewest_bytes: u16, memory: u16, fields: &'static [Field]) -> Shape {
    Shape { fewest_bytes, memory, fields }
}

pub(super) const fn message(
    api_key: i16,
    name: &'static str,
    first: u8,
    last: u8,
    flexible: u8,
    root: &'static Shape,
) -> Message {
    Message { api_key, name, root, versions: (first, last), flexible }
}
