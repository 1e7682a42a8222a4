//! Any bytes as what a broker says in SCRAM: no step panics, and none ends an exchange with success.
#![no_main]

use std::time::SystemTime;

use libfuzzer_sys::fuzz_target;
use milena_core::sasl::{Mechanism, Scram, ScramHash, ScramPassword, Step};

fuzz_target!(|bytes: &[u8]| {
    let mut scram = Scram::new(ScramHash::Sha256, ScramPassword::new("user", "pencil"), b"0123456789abcdef");
    let now = SystemTime::UNIX_EPOCH;
    scram.start(now).unwrap();
    for message in bytes.split(|byte| *byte == 0) {
        match scram.step(message, now) {
            Ok(Step::Respond(_)) => {}
            Ok(_) => panic!("a signature was guessed"),
            Err(_) => return,
        }
    }
});
