//! The floor: the least that any client can do. Blocking sockets, one reused buffer, requests encoded by hand, one broker only; no
//! idempotence, no retries, no sessions. Its stages say where the time goes: `raw` moves the bytes, `crc` checks or computes the
//! checksums too, `full` walks or encodes every record as well.
#![forbid(unsafe_code)]

mod batch;
mod consume;
mod ends;
mod latency;
mod produce;
mod topics;
mod wire;

use anyhow::Result;
use contract::{Args, Role};

fn main() -> Result<()> {
    let args = Args::parse()?;
    match (args.role, args.mode.as_str()) {
        (Role::Produce, "create-topic") => topics::create(&args),
        (Role::Produce, "delete-topic") => topics::delete(&args),
        (Role::Consume, "ends") => ends::watch(&args),
        (Role::Consume, "committed") => ends::read_committed(&args),
        (Role::Consume, _) => consume::run(&args),
        (Role::Produce, _) => produce::run(&args),
        (Role::Latency, _) => latency::run(&args),
    }
}
