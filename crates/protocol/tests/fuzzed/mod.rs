//! What the fuzz targets check, as tests of the workspace see it: the same modules, with the allocations counted by a crate, as
//! counting them takes unsafe code.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "they belong to a library that is not of this workspace"
)]

#[path = "../../../../fuzz/src/again.rs"]
pub mod again;
#[path = "../../../../fuzz/src/fetched.rs"]
pub mod fetched;
#[path = "../../../../fuzz/src/guarded.rs"]
pub mod guarded;
#[path = "../../../../fuzz/src/members.rs"]
pub mod members;
#[path = "../../../../fuzz/src/records.rs"]
pub mod records;
#[path = "../../../../fuzz/src/roundtrip.rs"]
pub mod roundtrip;
#[path = "../../../../fuzz/src/sets.rs"]
pub mod sets;

pub mod memory {
    /// Runs something and says how much more heap it held at its peak, in bytes.
    pub fn peak_of<T>(run: impl FnOnce() -> T) -> (T, u64) {
        let mut result = None;
        let info = allocation_counter::measure(|| result = Some(run()));
        (result.expect("it ran"), info.bytes_max)
    }
}
