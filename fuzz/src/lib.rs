//! What the fuzz targets check, and an allocator that counts. Tests of milena-protocol take most of these modules in as well, with a
//! counter of their own, and give them the kept inputs.

pub mod again;
pub mod der;
pub mod fetched;
pub mod guarded;
pub mod members;
pub mod memory;
pub mod records;
pub mod roundtrip;
pub mod sets;
pub mod told;
