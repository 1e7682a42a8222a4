//! Writes one batch per codec into a folder, for another client to read: the same records as
//! `tests/data/java/WriteBatches.java`, which also reads such files and prints what Kafka finds in them.
//!
//! `cargo run -p milena-protocol --example batch_files -- FOLDER`

use milena_protocol::compression::Compression;
use milena_protocol::records::{BatchBuilder, BatchIdentity, BatchOptions, Header};
use milena_protocol::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args_os().nth(1).ok_or("which folder?")?;
    for (compression, count) in Compression::ALL.into_iter().zip([3u16, 400, 400, 700, 400]) {
        let mut builder = BatchBuilder::new(BatchOptions { compression, ..BatchOptions::default() });
        for i in 0..count {
            let key = format!("key-{i}");
            let value = [i as u8; 100];
            let number = i.to_string();
            let headers = [
                Header::new("h", Some(number.as_bytes())),
                Header::new("h", None),
                Header::new("é", Some(b"")),
            ];
            builder.push(
                1_700_000_000_000 + i64::from(i),
                (i % 5 != 4).then_some(key.as_bytes()),
                (i % 7 != 6).then_some(&value),
                headers.into_iter().take(if i % 3 == 0 { 3 } else { 0 }),
            )?;
        }
        let batch = builder.build(BatchIdentity {
            producer_id: ProducerId(77),
            producer_epoch: ProducerEpoch(3),
            base_sequence: Sequence(21),
            transactional: true,
            leader_epoch: LeaderEpoch(4),
            base_offset: Offset(500),
        })?;
        std::fs::write(std::path::Path::new(&folder).join(format!("{compression}.batch")), batch)?;
    }
    Ok(())
}
