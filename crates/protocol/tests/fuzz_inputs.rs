//! What the fuzz targets of this crate check, of the inputs that are kept beside them and of random ones: without a fuzzer, in a
//! second.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

mod fuzzed;

use std::path::Path;

use fuzzed::{fetched, guarded, members, records, roundtrip, sets};
use milena_protocol::guard;
use milena_protocol::guard::sample::Sampler;

fn run(target: &str) -> Option<fn(&[u8])> {
    Some(match target {
        "batch" => |input| records::check_batches(bytes::Bytes::copy_from_slice(input)),
        "batch_roundtrip" => roundtrip::run_batch,
        "consumer_protocol" => members::run,
        "fetch_view" => fetched::run,
        "guard_request" => guarded::run_request,
        "guard_response" => guarded::run_response,
        "message_set" => sets::run,
        "message_set_roundtrip" => roundtrip::run_message_set,
        _ => return None,
    })
}

#[test]
fn kept_inputs_pass() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds");
    let mut inputs = 0;
    for folder in std::fs::read_dir(seeds).unwrap() {
        let folder = folder.unwrap();
        let Some(run) = run(folder.file_name().to_str().unwrap()) else { continue };
        for file in std::fs::read_dir(folder.path()).unwrap() {
            run(&std::fs::read(file.unwrap().path()).unwrap());
            inputs += 1;
        }
    }
    assert!(inputs > 200, "{inputs}");
}

/// Records in the form from which the round-trip targets make them.
fn recipe(sampler: &mut Sampler) -> Vec<u8> {
    let mut out = vec![sampler.below(256) as u8];
    for _ in 0..sampler.below(120) {
        // Mostly lengths that follow on each other, now and then null.
        let length = if sampler.below(9) == 0 { 255 } else { sampler.below(9) as u8 };
        out.push(length);
        out.extend((0..length % 255).map(|_| sampler.below(256) as u8));
    }
    out
}

#[test]
fn random_records_come_back_by_the_oracles_too() {
    let mut sampler = Sampler::new(11);
    for _ in 0..2000 {
        let recipe = recipe(&mut sampler);
        roundtrip::run_batch(&recipe);
        roundtrip::run_message_set(&recipe);
    }
}

#[test]
fn random_and_injured_words_of_members_are_read_as_the_oracle_reads_them() {
    let mut sampler = Sampler::new(12);
    for round in 0..4000_u64 {
        let (which, version) = ((round & 1) as u8, (round >> 1 & 3) as i16);
        let message = if which == 0 { guard::consumer_subscription() } else { guard::consumer_assignment() };
        let body = sampler.body(message, version).unwrap();
        let mut input = [&[which][..], &version.to_be_bytes(), &body].concat();
        members::run(&input);
        let at = sampler.below(input.len() as u64) as usize;
        input[at] = sampler.below(256) as u8;
        members::run(&input);
    }
}
